"""The same calls on a FAISS index and on ours: the same verdicts.

A verdict is what a call returns, arrays by shape and dtype, or the exception it raises: ours has to
be of FAISS's type as well. Where ours differs on purpose, `python/faiss_qinco/index/README.md` says
so, and a test elsewhere.
"""

from __future__ import annotations

import copy
import functools
import pickle
import weakref

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from .conftest import DATA

X = np.load(DATA / "base.npy").astype(np.float32)[:600]
Q = np.load(DATA / "query.npy").astype(np.float32)[:5]
N, NLIST, FLT_MAX = len(X), 16, np.finfo(np.float32).max
RANGE = 60_000.0  # squared distance, of which some vectors are inside
IDS = np.arange(N) * 7 - 50
SEL, IVF = faiss.SearchParametersIVF, faiss.DirectMap


def nan_queries():
    q = Q.copy()
    q[1, 3], q[3, 0] = np.nan, np.inf
    return q


def sequence(*calls):
    """A check that does all calls and returns what the last one gives."""

    def check(index):
        for call in calls[:-1]:
            call(index)
        return calls[-1](index)

    return check


def with_ids(index):
    index.reset()
    index.add_with_ids(X, IDS)


def values(*names):
    return lambda index: tuple(getattr(index, name) for name in names)


def put(name, value):
    return sequence(lambda index: setattr(index, name, value), lambda index: getattr(index, name))


def found(index, k=3, **kwargs):
    return (index.search(Q, k, **kwargs)[1] >= 0).sum(1).tolist()


def hits(index, **kwargs):
    """Which of all ids a search through all lists finds."""
    I = index.search(Q[:1], N, **kwargs)[1]
    return np.sort(I[I >= 0]).tolist()


def through(sel):
    return lambda index: hits(index, params=SEL(nprobe=NLIST, sel=sel))


def given_buffers(index):
    D, I = np.empty((5, 3), np.float32), np.empty((5, 3), np.int64)
    returned = index.search(Q, 3, D=D, I=I)
    return returned[0] is D, returned[1] is I, (index.search(Q, 3)[1] == I).all()


MASK = np.packbits(np.arange(N) % 3 == 0, bitorder="little")
SELECTORS = {
    "range": lambda: faiss.IDSelectorRange(10, 50),
    "range of nothing": lambda: faiss.IDSelectorRange(50, 10),
    "batch": lambda: faiss.IDSelectorBatch([1, 5, 5, 599, 10_000]),
    "array": lambda: faiss.IDSelectorArray([1, 5, 599, 10_000]),
    "bitmap": lambda: faiss.IDSelectorBitmap(MASK),
    "not": lambda: faiss.IDSelectorNot(faiss.IDSelectorRange(10, 590)),
    "and": lambda: faiss.IDSelectorAnd(
        faiss.IDSelectorRange(0, 40), faiss.IDSelectorNot(faiss.IDSelectorRange(5, 30))
    ),
    "or": lambda: faiss.IDSelectorOr(faiss.IDSelectorRange(0, 4), faiss.IDSelectorRange(9, 12)),
    "xor": lambda: faiss.IDSelectorXOr(faiss.IDSelectorRange(0, 9), faiss.IDSelectorRange(4, 20)),
    "all": faiss.IDSelectorAll,
}

EMPTY = {  # trained, nothing added
    "empty: counts": values("ntotal", "is_trained", "d", "nlist", "metric_type"),
    "empty: search": lambda i: [a.tolist() for a in i.search(Q, 2)],
    "empty: range_search": lambda i: i.range_search(Q, RANGE),
    "empty: reconstruct": lambda i: i.reconstruct(0),
    "empty: reconstruct_n": lambda i: i.reconstruct_n(0, 0),
    "empty: reconstruct_n of one": lambda i: i.reconstruct_n(0, 1),
    "empty: search_and_reconstruct": lambda i: np.isnan(i.search_and_reconstruct(Q, 2)[2]).all(),
    "empty: search_and_return_codes": lambda i: (i.search_and_return_codes(Q, 2)[2] == 255).all(),
    "empty: remove_ids": lambda i: i.remove_ids(np.arange(5)),
    "empty: reset": sequence(lambda i: i.reset(), values("ntotal", "is_trained")),
    "empty: lists": lambda i: [i.get_list_size(l) for l in range(NLIST)],
    "empty: invlists": lambda i: (i.invlists.compute_ntotal(), i.invlists.is_empty(3)),
    "empty: add nothing": sequence(lambda i: i.add(X[:0]), values("ntotal")),
    "empty: add_with_ids of nothing": sequence(
        lambda i: i.add_with_ids(X[:0], IDS[:0]), values("ntotal")
    ),
    "empty: make_direct_map": sequence(
        lambda i: i.make_direct_map(), lambda i: i.add(X), lambda i: i.reconstruct(N - 1)
    ),
    "empty: sa_encode": lambda i: i.sa_encode(X),
    "empty: add_sa_codes": sequence(lambda i: i.add_sa_codes(i.sa_encode(X)), values("ntotal")),
    "empty: check_ids_sorted": lambda i: i.check_ids_sorted(),
    "empty: pickle": lambda i: pickle.loads(pickle.dumps(i)).ntotal,
}

UNTRAINED = {
    "untrained: counts": values("ntotal", "is_trained", "nprobe", "nlist", "max_codes"),
    "untrained: add": lambda i: i.add(X),
    "untrained: add_with_ids": lambda i: i.add_with_ids(X, IDS),
    "untrained: search": lambda i: i.search(Q, 2),
    "untrained: sa_encode": lambda i: i.sa_encode(X),
    "untrained: reconstruct": lambda i: i.reconstruct(0),
    "untrained: reconstruct_batch": lambda i: i.reconstruct_batch([0]),
    "untrained: search_and_reconstruct": lambda i: i.search_and_reconstruct(Q, 2),
    "untrained: remove_ids": lambda i: i.remove_ids(np.arange(3)),
    "untrained: reset": lambda i: i.reset(),
    "untrained: train on nothing": lambda i: i.train(X[:0]),
    "untrained: train on NaN": lambda i: i.train(np.full((300, 128), np.nan, np.float32)),
    "untrained: train on too few": lambda i: i.train(X[:5]),
    "untrained: train on 1-D": lambda i: i.train(X[0]),
    "untrained: train on another d": lambda i: i.train(X[:, :64]),
    "untrained: a list to train on": lambda i: i.train(X.tolist()),
    "untrained: get_list_size": lambda i: i.get_list_size(0),
    "untrained: direct map": lambda i: (i.direct_map.type, i.direct_map.no()),
    "untrained: set_direct_map_type": sequence(
        lambda i: i.set_direct_map_type(IVF.Hashtable), lambda i: i.direct_map.type
    ),
    "untrained: make_direct_map": lambda i: i.make_direct_map(),
}

FILLED = {
    # -- arguments of search
    "search": lambda i: i.search(Q, 3),
    "search finds": found,
    "search: k of ntotal": lambda i: i.search(Q, N),
    "search: k above ntotal": lambda i: i.search(Q, N + 10),
    "search: padding": lambda i: i.search(Q, N + 10)[1][:, -10:].tolist(),
    "search: distance of padding": lambda i: i.search(Q, N + 10)[0][:, -10:].tolist(),
    "search: all lists": sequence(lambda i: setattr(i, "nprobe", NLIST), hits),
    "search: k 0": lambda i: i.search(Q, 0),
    "search: k -1": lambda i: i.search(Q, -1),
    "search: k 3.0": lambda i: i.search(Q, 3.0),
    "search: no queries": lambda i: i.search(Q[:0], 3),
    "search: float64": lambda i: i.search(Q.astype(np.float64), 3),
    "search: float16": lambda i: i.search(Q.astype(np.float16), 3),
    "search: int32": lambda i: i.search(Q.astype(np.int32), 3),
    "search: uint8": lambda i: i.search(Q.astype(np.uint8), 3),
    "search: Fortran": lambda i: i.search(np.asfortranarray(Q), 3),
    "search: strided": lambda i: i.search(np.repeat(Q, 2, axis=0)[::2], 3),
    "search: reversed": lambda i: i.search(Q[::-1], 3),
    "search: a list": lambda i: i.search(Q.tolist(), 3),
    "search: 1-D": lambda i: i.search(Q[0], 3),
    "search: 3-D": lambda i: i.search(Q[None], 3),
    "search: another d": lambda i: i.search(Q[:, :100], 3),
    "search: None": lambda i: i.search(None, 3),
    "search: k positional alone": lambda i: i.search(Q, 3, None),
    "search: unknown keyword": lambda i: i.search(Q, 3, params_=1),
    "search: NaN rows": lambda i: (i.search(nan_queries(), 3)[1] >= 0).tolist(),
    "search: NaN rows' distance": lambda i: i.search(nan_queries(), 3)[0][[1, 3]].tolist(),
    "search: given D, I": given_buffers,
    "search: D of a wrong shape": lambda i: i.search(Q, 3, D=np.empty((5, 4), np.float32)),
    "search: I of a wrong dtype": lambda i: i.search(Q, 3, I=np.empty((5, 3), np.int32)),
    "search: D not contiguous": lambda i: i.search(Q, 3, D=np.empty((5, 6), np.float32)[:, ::2]),
    "search: order": lambda i: (np.diff(i.search(Q, 9)[0], axis=1) >= 0).all(),
    "search twice": lambda i: (i.search(Q, 9)[0] == i.search(Q, 9)[0]).all(),
    "search: one by one": lambda i: (
        i.search(Q, 9)[1] == np.concatenate([i.search(q[None], 9)[1] for q in Q])
    ).all(),
    "assign": lambda i: i.assign(Q, 3),
    "assign is search": lambda i: (i.assign(Q, 3) == i.search(Q, 3)[1]).all(),
    "assign: labels": lambda i: i.assign(Q, 3, np.empty((5, 3), np.int64)),
    "assign: labels of a wrong shape": lambda i: i.assign(Q, 3, np.empty((5, 2), np.int64)),
    # -- parameters
    "nprobe 4": sequence(put("nprobe", 4), found),
    "nprobe 0": sequence(put("nprobe", 0), found),
    "nprobe -1": put("nprobe", -1),
    "nprobe 2.5": put("nprobe", 2.5),
    "nprobe of text": put("nprobe", "4"),
    "nprobe 10^6": sequence(put("nprobe", 10**6), hits),
    "max_codes": sequence(put("nprobe", NLIST), put("max_codes", 20), hits, found),
    "max_codes ends": sequence(put("nprobe", NLIST), put("max_codes", 20), lambda i: len(hits(i))),
    "max_codes -1": put("max_codes", -1),
    "max_codes 2.5": put("max_codes", 2.5),
    "max_codes and parameters": sequence(
        put("max_codes", 20), lambda i: len(hits(i, params=SEL(nprobe=NLIST)))
    ),
    "an unknown attribute": put("n_probe", 4),
    "an unknown attribute read": lambda i: i.n_probe,
    "verbose": put("verbose", False),
    "cp": lambda i: (i.cp.niter, i.cp.nredo, i.cp.max_points_per_centroid),
    "cp.niter": sequence(lambda i: setattr(i.cp, "niter", 3), lambda i: i.cp.niter),
    "constants": values(
        "by_residual",
        "own_invlists",
        "clustering_index",
        "parallel_mode",
        "own_fields",
        "PARALLEL_MODE_NO_HEAP_INIT",
        "metric_arg",
    ),
    "sizes": values("d", "ntotal", "nlist", "is_trained", "metric_type", "code_size"),
    "sa_code_size": lambda i: (i.sa_code_size(), i.coarse_code_size()),
    "quantizer": lambda i: (i.quantizer.ntotal, i.quantizer.d, i.quantizer.is_trained),
    "truth": bool,
    "length": len,
    "iteration": iter,
    "weak references": lambda i: weakref.ref(i)() is i,
    "params: bare": lambda i: found(i, params=SEL()),
    "params: nprobe": lambda i: len(hits(i, params=SEL(nprobe=NLIST))),
    "params: nprobe 0": lambda i: found(i, params=SEL(nprobe=0)),
    "params: max_codes": lambda i: len(hits(i, params=SEL(nprobe=NLIST, max_codes=30))),
    "params: of another family": lambda i: found(i, params=faiss.SearchParametersHNSW()),
    "params: a dict": lambda i: found(i, params={"nprobe": 4}),
    "params: an unknown one": lambda i: found(i, params=SEL(n_probe=4)),
    "params: None": lambda i: found(i, params=None),
    "params of range_search": lambda i: int(
        i.range_search(Q, 1e9, params=SEL(nprobe=NLIST))[0][-1]
    ),
    **{f"sel: {name}": lambda i, s=sel: through(s())(i) for name, sel in SELECTORS.items()},
    **{
        f"sel, range_search: {name}": lambda i, s=sel: np.sort(
            i.range_search(Q[:1], 1e9, params=SEL(nprobe=NLIST, sel=s()))[2]
        ).tolist()
        for name, sel in SELECTORS.items()
    },
    "sel: k of it": lambda i: found(i, params=SEL(nprobe=NLIST, sel=faiss.IDSelectorRange(0, 2))),
    # -- range search
    "range_search of all": lambda i: int(i.range_search(Q, 1e12)[0][-1]) > 0,
    "range_search: dtypes": lambda i: [a.dtype.str for a in i.range_search(Q, RANGE)],
    "range_search: lims": lambda i: len(i.range_search(Q, RANGE)[0]),
    "range_search: radius 0": lambda i: i.range_search(Q, 0),
    "range_search: radius -1": lambda i: i.range_search(Q, -1),
    "range_search: NaN": lambda i: i.range_search(Q, np.nan),
    "range_search: inf": lambda i: int(i.range_search(Q, np.inf)[0][-1]) > 0,
    "range_search: inside": lambda i: (i.range_search(Q, RANGE)[1] < RANGE).all(),
    "range_search: NaN rows": lambda i: np.diff(i.range_search(nan_queries(), 1e12)[0])[
        [1, 3]
    ].tolist(),
    "range_search: another d": lambda i: i.range_search(Q[:, :3], RANGE),
    "range_search: no queries": lambda i: i.range_search(Q[:0], RANGE),
    # -- preassigned
    **{
        f"search_preassigned: {name}": functools.partial(
            lambda i, Iq, Dq: (i.search_preassigned(Q, 3, Iq, Dq)[1] >= 0).sum(1).tolist(),
            Iq=Iq,
            Dq=Dq,
        )
        for name, Iq, Dq in (
            ("one list", np.zeros((5, 1), np.int64), None),
            ("with distances", np.zeros((5, 1), np.int64), np.zeros((5, 1), np.float32)),
            ("int32", np.zeros((5, 1), np.int32), None),
            ("none", np.full((5, 1), -1), None),
            ("two lists for nprobe 1", np.zeros((5, 2), np.int64), None),
            ("1-D", np.zeros(5, np.int64), None),
            ("no such list", np.full((5, 1), NLIST), None),
            ("distances of another shape", np.zeros((5, 1), np.int64), np.zeros(5, np.float32)),
        )
    },
    **{
        f"range_search_preassigned: {name}": functools.partial(
            lambda i, Iq, r: (
                np.diff(i.range_search_preassigned(Q, r, Iq, None)[0]) == i.get_list_size(0)
            ).tolist(),
            Iq=Iq,
            r=r,
        )
        for name, Iq, r in (
            ("one list", np.zeros((5, 1), np.int64), 1e12),
            ("none", np.full((5, 1), -1), 1e12),
            ("NaN", np.zeros((5, 1), np.int64), np.nan),
            ("two lists for nprobe 1", np.zeros((5, 2), np.int64), 1e12),
            ("no such list", np.full((5, 1), NLIST), 1e12),
        )
    },
    # -- reconstruction
    "reconstruct without a map": lambda i: i.reconstruct(0),
    "reconstruct": sequence(lambda i: i.make_direct_map(), lambda i: i.reconstruct(3)),
    "reconstruct of numpy's integer": sequence(
        lambda i: i.make_direct_map(), lambda i: i.reconstruct(int(np.int64(3)))
    ),
    "reconstruct: no such id": sequence(lambda i: i.make_direct_map(), lambda i: i.reconstruct(N)),
    "reconstruct: -1": sequence(lambda i: i.make_direct_map(), lambda i: i.reconstruct(-1)),
    "reconstruct: text": sequence(lambda i: i.make_direct_map(), lambda i: i.reconstruct("a")),
    "reconstruct: x": sequence(
        lambda i: i.make_direct_map(), lambda i: i.reconstruct(3, np.empty(128, np.float32))
    ),
    "reconstruct: x of a wrong shape": sequence(
        lambda i: i.make_direct_map(), lambda i: i.reconstruct(3, np.empty(12, np.float32))
    ),
    "reconstruct_n": lambda i: i.reconstruct_n(),
    "reconstruct_n: some": lambda i: i.reconstruct_n(10, 20),
    "reconstruct_n: from": lambda i: i.reconstruct_n(590),
    "reconstruct_n: too many": lambda i: i.reconstruct_n(590, 20),
    "reconstruct_n: of nothing": lambda i: i.reconstruct_n(10, 0),
    "reconstruct_n is reconstruct": sequence(
        lambda i: i.make_direct_map(),
        lambda i: (i.reconstruct_n(3, 2)[1] == i.reconstruct(4)).all(),
    ),
    "reconstruct_batch without a map": lambda i: i.reconstruct_batch([0, 1]),
    "reconstruct_batch": sequence(
        lambda i: i.make_direct_map(), lambda i: i.reconstruct_batch([3, 1, 3])
    ),
    "reconstruct_batch is reconstruct": sequence(
        lambda i: i.make_direct_map(),
        lambda i: (i.reconstruct_batch(np.array([3, 1], np.int32))[1] == i.reconstruct(1)).all(),
    ),
    "reconstruct_batch: nothing": sequence(
        lambda i: i.make_direct_map(), lambda i: i.reconstruct_batch([])
    ),
    "reconstruct_batch: no such id": sequence(
        lambda i: i.make_direct_map(), lambda i: i.reconstruct_batch([1, N])
    ),
    "reconstruct_batch: 2-D": sequence(
        lambda i: i.make_direct_map(), lambda i: i.reconstruct_batch(np.zeros((2, 2), np.int64))
    ),
    "reconstruct_batch: x of a wrong shape": sequence(
        lambda i: i.make_direct_map(),
        lambda i: i.reconstruct_batch([1], np.empty((2, 128), np.float32)),
    ),
    "search_and_reconstruct": lambda i: i.search_and_reconstruct(Q, 3),
    "search_and_reconstruct is both": lambda i: (
        i.search_and_reconstruct(Q, 3)[2][2, 1] == i.reconstruct_n()[i.search(Q, 3)[1][2, 1]]
    ).all(),
    "search_and_reconstruct: missing": lambda i: np.isnan(
        i.search_and_reconstruct(Q, N)[2][:, -1]
    ).all(),
    "search_and_reconstruct: R of a wrong shape": lambda i: i.search_and_reconstruct(
        Q, 3, R=np.empty((5, 2, 128), np.float32)
    ),
    "search_and_reconstruct: None": lambda i: i.search_and_reconstruct(None, 3),
    "search_and_return_codes: None": lambda i: i.search_and_return_codes(None, 3),
    "search_and_reconstruct: k 0": lambda i: i.search_and_reconstruct(Q, 0),
    "search_and_reconstruct: another d": lambda i: i.search_and_reconstruct(Q[:, :5], 3),
    "search_and_return_codes": lambda i: i.search_and_return_codes(Q, 3),
    "search_and_return_codes: lists": lambda i: i.search_and_return_codes(
        Q, 3, include_listnos=True
    ),
    "search_and_return_codes: missing": lambda i: (
        i.search_and_return_codes(Q, N, include_listnos=True)[2][:, -1] == 255
    ).all(),
    "search_and_return_codes: they decode": lambda i: (
        i.sa_decode(i.search_and_return_codes(Q, 1, include_listnos=True)[2][:, 0])
        == i.search_and_reconstruct(Q, 1)[2][:, 0]
    ).all(),
    "search_and_return_codes: codes of a wrong shape": lambda i: i.search_and_return_codes(
        Q, 3, codes=np.empty((5, 3, 1), np.uint8)
    ),
    # -- codes
    "sa_encode": lambda i: i.sa_encode(X),
    "sa_encode: codes": lambda i: i.sa_encode(X[:2], np.empty((2, i.sa_code_size()), np.uint8)),
    "sa_encode: codes of a wrong shape": lambda i: i.sa_encode(X[:2], np.empty((2, 1), np.uint8)),
    "sa_encode: another d": lambda i: i.sa_encode(X[:, :5]),
    "sa_encode: nothing": lambda i: i.sa_encode(X[:0]),
    "sa_decode": lambda i: i.sa_decode(i.sa_encode(X[:4])),
    "sa_decode is reconstruct": lambda i: (
        i.sa_decode(i.sa_encode(X[:4])) == i.reconstruct_n(0, 4)
    ).all(),
    "sa_decode: int32": lambda i: i.sa_decode(i.sa_encode(X[:4]).astype(np.int32)),
    "sa_decode: a wrong width": lambda i: i.sa_decode(i.sa_encode(X[:4])[:, 1:]),
    "sa_decode: x of a wrong shape": lambda i: i.sa_decode(
        i.sa_encode(X[:4]), np.empty((3, 128), np.float32)
    ),
    "add_sa_codes": sequence(lambda i: i.add_sa_codes(i.sa_encode(X[:4])), values("ntotal")),
    "add_sa_codes: found like others": lambda i: (
        i.search(Q, 3)[0] == (i.reset(), i.add_sa_codes(i.sa_encode(X)), i.search(Q, 3)[0])[-1]
    ).all(),
    "add_sa_codes: ids": sequence(
        lambda i: i.reset(),
        lambda i: i.add_sa_codes(i.sa_encode(X[:4]), np.array([9, 8, 7, -6])),
        lambda i: sorted(set(i.search(Q, 9, params=SEL(nprobe=NLIST))[1].ravel().tolist())),
    ),
    "add_sa_codes: int32": lambda i: i.add_sa_codes(i.sa_encode(X[:4]).astype(np.int32)),
    "add_sa_codes: a wrong width": lambda i: i.add_sa_codes(i.sa_encode(X[:4])[:, 1:]),
    "add_sa_codes: ids of a wrong shape": lambda i: i.add_sa_codes(i.sa_encode(X[:4]), IDS[:3]),
    # -- add, ids
    "add": sequence(lambda i: i.add(X[:4]), values("ntotal")),
    "add: float16": sequence(lambda i: i.add(X[:4].astype(np.float16)), values("ntotal")),
    "add: numeric_type": sequence(lambda i: i.add(X[:4], faiss.Float32), values("ntotal")),
    "add: another d": lambda i: i.add(X[:, :5]),
    "add: 1-D": lambda i: i.add(X[0]),
    "add: a list": lambda i: i.add(X.tolist()),
    "add: NaN": sequence(lambda i: i.add(nan_queries()), values("ntotal")),
    "add: NaN is not found": sequence(
        lambda i: i.reset(), lambda i: i.add(nan_queries()), put("nprobe", NLIST), hits
    ),
    "add_with_ids": sequence(with_ids, put("nprobe", NLIST), hits),
    "add_with_ids: int32": sequence(
        lambda i: i.add_with_ids(X, IDS.astype(np.int32)), values("ntotal")
    ),
    "add_with_ids: floats": sequence(
        lambda i: i.add_with_ids(X, IDS.astype(np.float64)), values("ntotal")
    ),
    "add_with_ids: large ones": sequence(
        lambda i: i.reset(),
        lambda i: i.add_with_ids(X[:3], np.array([2**62, -(2**62), 0])),
        put("nprobe", NLIST),
        hits,
    ),
    "add_with_ids: duplicates": sequence(
        lambda i: i.reset(),
        lambda i: i.add_with_ids(X[:3], np.array([5, 5, 6])),
        put("nprobe", NLIST),
        hits,
    ),
    "add_with_ids: too few": lambda i: i.add_with_ids(X, IDS[:-1]),
    "add_with_ids: 2-D ids": lambda i: i.add_with_ids(X, IDS[:, None]),
    "add_with_ids: a list": lambda i: i.add_with_ids(X, IDS.tolist()),
    "add after add_with_ids": sequence(
        with_ids, lambda i: i.add(X[:1]), put("nprobe", NLIST), lambda i: N in hits(i)
    ),
    "remove_ids": lambda i: i.remove_ids(np.array([3, 4, 4, 10_000])),
    "remove_ids: counts": sequence(lambda i: i.remove_ids(np.array([3, 4])), values("ntotal")),
    "remove_ids: they are gone": sequence(
        lambda i: i.remove_ids(np.arange(590)), put("nprobe", NLIST), hits
    ),
    "remove_ids: a selector": lambda i: i.remove_ids(faiss.IDSelectorRange(5, 15)),
    "remove_ids: all": sequence(
        lambda i: i.remove_ids(faiss.IDSelectorAll()), values("ntotal", "is_trained")
    ),
    "remove_ids: nothing": lambda i: i.remove_ids(np.array([], np.int64)),
    "remove_ids: int32": lambda i: i.remove_ids(np.array([3], np.int32)),
    "remove_ids: 2-D": lambda i: i.remove_ids(np.array([[3]])),
    "remove_ids: a list": lambda i: i.remove_ids([3]),
    "remove_ids: duplicates": sequence(
        lambda i: i.add_with_ids(X[:2], np.array([3, 3])), lambda i: i.remove_ids(np.array([3]))
    ),
    "remove_ids, then add": sequence(
        lambda i: i.remove_ids(np.arange(10)),
        lambda i: i.add(X[:1]),
        put("nprobe", NLIST),
        lambda i: hits(i).count(N - 10),
    ),
    "reset": sequence(lambda i: i.reset(), values("ntotal", "is_trained")),
    "update_vectors": sequence(
        lambda i: i.make_direct_map(),
        lambda i: i.update_vectors(np.array([3, 9]), X[20:22]),
        lambda i: (i.ntotal, (i.reconstruct(3) == i.reconstruct(20)).all()),
    ),
    "update_vectors: a wrong shape": sequence(
        lambda i: i.make_direct_map(), lambda i: i.update_vectors(np.array([3, 9]), X[:3])
    ),
    # -- lists, direct map
    "get_list_size": lambda i: sum(i.get_list_size(l) for l in range(NLIST)),
    "the lists of vectors": lambda i: (
        [i.get_list_size(l) for l in range(NLIST)]
        == np.bincount(i.quantizer.assign(X, 1)[:, 0], minlength=NLIST).tolist()
    ),
    "invlists": lambda i: (i.invlists.nlist, i.invlists.code_size, i.invlists.compute_ntotal()),
    "invlists.list_size": lambda i: i.invlists.list_size(3) == i.get_list_size(3),
    "invlists.list_size of text": lambda i: i.invlists.list_size("3"),
    "invlists.is_empty": lambda i: [i.invlists.is_empty(l) for l in range(NLIST)],
    "invlists.imbalance_factor": lambda i: i.invlists.imbalance_factor() > 1,
    "invlists.get_single_id": lambda i: i.quantizer.assign(
        X[[i.invlists.get_single_id(3, 1)]], 1
    ).tolist(),
    "check_ids_sorted": lambda i: i.check_ids_sorted(),
    "direct_map": lambda i: (i.direct_map.type, i.direct_map.no()),
    "direct_map.get without one": lambda i: i.direct_map.get(3),
    "make_direct_map": sequence(
        lambda i: i.make_direct_map(), lambda i: (i.direct_map.type, i.direct_map.no())
    ),
    "make_direct_map(False)": sequence(
        lambda i: i.make_direct_map(),
        lambda i: i.make_direct_map(False),
        lambda i: (i.direct_map.type, i.direct_map.no()),
    ),
    "direct_map.get": sequence(
        lambda i: i.make_direct_map(),
        lambda i: (
            [i.direct_map.get(int(id)) >> 32 for id in (3, 9)]
            == i.quantizer.assign(X[[3, 9]], 1)[:, 0].tolist()
        ),
    ),
    "direct_map.get: no such id": sequence(
        lambda i: i.set_direct_map_type(IVF.Hashtable), lambda i: i.direct_map.get(N)
    ),
    **{
        f"set_direct_map_type({t})": sequence(
            lambda i, t=t: i.set_direct_map_type(t),
            lambda i: (i.direct_map.type, i.reconstruct(3).shape),
        )
        for t in (0, 1, 2, 3, -1)
    },
    "set_direct_map_type: text": lambda i: i.set_direct_map_type("Array"),
    "a map stays through reset": sequence(
        lambda i: i.set_direct_map_type(IVF.Hashtable),
        lambda i: i.reset(),
        lambda i: i.add_with_ids(X, IDS),
        lambda i: (i.direct_map.type, i.reconstruct(-50).shape),
    ),
    "a map of ids of one's own": sequence(
        with_ids,
        lambda i: i.set_direct_map_type(IVF.Hashtable),
        lambda i: (i.reconstruct(-43) == i.reconstruct_batch([-43])[0]).all(),
    ),
    "a hash table and remove_ids": sequence(
        lambda i: i.set_direct_map_type(IVF.Hashtable),
        lambda i: i.remove_ids(np.array([3, 4])),
        lambda i: i.reconstruct(5),
    ),
    "a hash table, what was removed": sequence(
        lambda i: i.set_direct_map_type(IVF.Hashtable),
        lambda i: i.remove_ids(np.array([3, 4])),
        lambda i: i.reconstruct(4),
    ),
    # -- copies
    **{
        f"pickle {protocol}": lambda i, p=protocol: (
            i.search(Q, 3)[1] == pickle.loads(pickle.dumps(i, p)).search(Q, 3)[1]
        ).all()
        for protocol in (2, 3, 4, 5)
    },
    "copy": lambda i: (copy.copy(i).search(Q, 3)[1] == i.search(Q, 3)[1]).all(),
    "deepcopy": lambda i: (copy.deepcopy(i).search(Q, 3)[1] == i.search(Q, 3)[1]).all(),
    "a copy is another": lambda i: (copy.copy(i).reset(), i.ntotal)[1],
    "a copy's nprobe": sequence(put("nprobe", 5), lambda i: copy.copy(i).nprobe),
    "a copy's map": sequence(
        lambda i: i.set_direct_map_type(IVF.Hashtable), lambda i: copy.copy(i).direct_map.type
    ),
    "a copy's map of arrays": sequence(
        lambda i: i.make_direct_map(), lambda i: copy.copy(i).direct_map.type
    ),
    # -- merge
    "merge_from": lambda i: ((o := copy.copy(i)), i.merge_from(o, N), i.ntotal, o.ntotal)[2:],
    "merge_from finds": lambda i: (
        i.merge_from(copy.copy(i), N),
        [(i.search(Q, 2 * N, params=SEL(nprobe=NLIST))[1] == id).sum() for id in (0, N, 2 * N)],
    )[1],
    "merge_from: another kind": lambda i: i.merge_from(faiss.IndexFlatL2(128), 0),
    "check_compatible_for_merge": lambda i: i.check_compatible_for_merge(copy.copy(i)),
    "check_compatible_for_merge of another kind": lambda i: i.check_compatible_for_merge(
        faiss.IndexFlatL2(128)
    ),
}


@pytest.fixture(scope="module")
def images(trained):
    """Bytes of untrained, empty and filled indexes: FAISS's and ours, and how to read them."""
    ours = fq.deserialize_index(trained[faiss.METRIC_L2])
    quantizer = faiss.IndexFlatL2(128)
    control = faiss.IndexIVFPQ(quantizer, 128, NLIST, 4, 8)
    plain = fq.IndexIVFQINCo(faiss.IndexFlatL2(128), 128, NLIST, 4)
    made = {
        ("control", "untrained"): faiss.serialize_index(control),
        ("ours", "untrained"): fq.serialize_index(plain),
    }
    control.train(np.load(DATA / "learn.npy").astype(np.float32)[:5000])
    for state in ("empty", "filled"):
        made["control", state] = faiss.serialize_index(control)
        made["ours", state] = fq.serialize_index(ours)
        control.add(X)
        ours.add(X)
    return made


def verdict(check, index, of_array=lambda array: (array.shape, array.dtype.str)):
    try:
        return plain(check(index), of_array)
    except BaseException as error:
        return error


def plain(value, of_array):
    if isinstance(value, np.ndarray):
        return of_array(value)
    if isinstance(value, (tuple, list)):
        return [plain(one, of_array) for one in value]
    return value.item() if isinstance(value, np.generic) else value


CHECKS = {
    **{name: ("empty", check) for name, check in EMPTY.items()},
    **{name: ("untrained", check) for name, check in UNTRAINED.items()},
    **{name: ("filled", check) for name, check in FILLED.items()},
}


@pytest.mark.filterwarnings("ignore")  # of few training points, and of casts of NaN
@pytest.mark.parametrize("name", CHECKS)
def test_ours_does_what_faiss_does(images, name):
    state, check = CHECKS[name]
    expected = verdict(check, faiss.deserialize_index(images["control", state]))
    got = verdict(check, fq.deserialize_index(images["ours", state]))
    if isinstance(expected, BaseException):
        assert isinstance(got, type(expected)), f"{expected!r} of FAISS, {got!r} here"
    else:
        assert got == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(CHECKS)[::4])
def test_register_changes_nothing_of_faiss(images, name):
    state, check = CHECKS[name]
    image = images["control", state]

    def once():
        index = faiss.deserialize_index(image)
        found = verdict(check, index, lambda array: (array.dtype.str, array.tobytes()))
        return repr(found), faiss.serialize_index(index).tobytes()

    before = once()
    fq.register()
    try:
        assert once() == before
    finally:
        fq.unregister()


def test_there_are_enough_checks():
    assert len(CHECKS) >= 200
