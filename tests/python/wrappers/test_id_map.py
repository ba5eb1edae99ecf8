"""`IndexIDMap` and `IndexIDMap2`, beside faiss's around an IndexIVFPQ."""

from __future__ import annotations

import threading
import weakref

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from ..test_selectors import Even
from .conftest import KINDS, D, equal, same_verdict

IDS = np.arange(400) * 7 + 4


CALLS = {
    "add": lambda m, x: m.add(x),
    "few ids": lambda m, x: m.add_with_ids(x, IDS[:3]),
    "ids of two dimensions": lambda m, x: m.add_with_ids(x[:4], IDS[:4].reshape(2, 2)),
    "wrong d": lambda m, x: m.add_with_ids(x[:, :3], IDS),
    "k 0": lambda m, x: m.search(x, 0),
    "k float": lambda m, x: m.search(x, 3.0),
    "other params": lambda m, x: m.search(x, 3, params=faiss.SearchParametersHNSW()),
    "plain params": lambda m, x: m.search(
        x, 3, params=faiss.SearchParameters(sel=faiss.IDSelectorAll())
    ),
    "D of a wrong shape": lambda m, x: m.search(x, 3, D=np.empty((1, 1), "f4")),
    "reconstruct": lambda m, x: m.reconstruct(4).shape,
    "reconstruct what is not there": lambda m, x: m.reconstruct(5),
    "reconstruct_batch": lambda m, x: m.reconstruct_batch([4, 11]).shape,
    "reconstruct_n": lambda m, x: m.reconstruct_n(4, 1).shape,
    "search_and_reconstruct": lambda m, x: m.search_and_reconstruct(x, 2)[2].shape,
    "sa_encode": lambda m, x: m.sa_encode(x),
    "update_vectors": lambda m, x: m.update_vectors(IDS[:2], x[:2]),
    "merge another kind": lambda m, x: m.merge_from(3),
    "remove a number": lambda m, x: m.remove_ids(3),
    "remove": lambda m, x: m.remove_ids(np.array([4, 5, 11])),
    "remove by selector": lambda m, x: m.remove_ids(faiss.IDSelectorRange(0, 10)),
    "numbers": lambda m, x: (m.ntotal, m.d, m.is_trained, m.metric_type, m.verbose, m.own_fields),
    "id_map": lambda m, x: (type(m.id_map), faiss.vector_to_array(m.id_map).tolist()),
    "assign": lambda m, x: m.assign(x, 3).shape,
    "range": lambda m, x: m.range_search(x, 0.0)[0].tolist(),
    "reset": lambda m, x: m.reset() or (m.ntotal, m.id_map.size(), m.search(x, 1)[1].tolist()),
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("name", ["IndexIDMap", "IndexIDMap2"])
def test_as_faiss(control, new, x, name, what):
    """Whether it works, and what is counted; `reconstruct_n` of ids that are not there, and without
    a rev_map, ends a process in faiss."""
    if what == "reconstruct_n" and name == "IndexIDMap":
        with pytest.raises(RuntimeError, match="not implemented"):
            fq.IndexIDMap(new("ivf")).reconstruct_n(4, 1)
        return
    theirs, ours = getattr(faiss, name)(control()), getattr(fq, name)(new("ivf"))
    for index in (theirs, ours):
        index.add_with_ids(x, IDS)
        if "reconstruct" in what:
            inside = index.index if index is ours else faiss.downcast_index(index.index)
            inside.make_direct_map()
    found = same_verdict(theirs, ours, lambda index: CALLS[what](index, x))
    if found is not None:
        assert found[0] == found[1]


@pytest.mark.parametrize("kind", KINDS)
def test_search_is_that_of_the_inside(new, x, q, kind):
    inside = new(kind)
    inside.add(x)
    index = fq.IndexIDMap(new(kind))
    index.add_with_ids(x[:100], IDS[:100].astype(np.int32))
    index.add_with_ids(x[100:], IDS[100:].astype(float))
    distance, number = inside.search(q, 9)
    D_out, I_out = np.empty((30, 9), "f4"), np.empty((30, 9), np.int64)
    found = index.search(q, 9, D=D_out, I=I_out)
    assert found[0] is D_out and found[1] is I_out
    equal(found, (distance, IDS[number]))
    np.testing.assert_array_equal(index.assign(q, 9), IDS[number])
    radius = float(np.median(distance))
    lims, dist, ids = index.range_search(q, radius)
    expected = inside.range_search(q, radius)
    equal((lims, dist, ids), (*expected[:2], IDS[expected[2]]))
    assert (index.search(q, 500)[1] == -1).sum() == 100 * len(q)  # more than there are


ACCEPTED = IDS[::5]


@pytest.mark.parametrize(
    "sel",
    [
        faiss.IDSelectorBatch(ACCEPTED),
        faiss.IDSelectorArray(ACCEPTED),
        faiss.IDSelectorRange(100, 900),
        faiss.IDSelectorNot(faiss.IDSelectorRange(100, 900)),
        faiss.PyCallbackIDSelector(lambda i: i % 3 == 0),
        Even(),
    ],
    ids=["batch", "array", "range", "not", "callback", "subclass"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_selectors_are_asked_of_the_ids(new, x, q, kind, sel):
    index = fq.IndexIDMap(new(kind))
    index.add_with_ids(x, IDS)
    D_all, I_all = index.search(q, 400)
    accepted = np.array([bool(sel.is_member(int(i))) for i in IDS])
    ok = np.isin(I_all, IDS[accepted])
    ours = fq.SearchParametersIVFQINCo(nprobe=4, sel=sel)
    given = [ours, faiss.SearchParametersIVF(nprobe=4, sel=sel)]
    if kind == "pca":
        inner = faiss.SearchParametersIVF(nprobe=4, sel=sel)
        given.append(faiss.SearchParametersPreTransform(index_params=inner))
    for params in given:
        found, ids = index.search(q, 20, params=params)
        for row in range(len(q)):
            n = min(20, int(ok[row].sum()))
            np.testing.assert_array_equal(ids[row, :n], I_all[row][ok[row]][:n])
            np.testing.assert_array_equal(found[row, :n], D_all[row][ok[row]][:n])
            assert (ids[row, n:] == -1).all()
        lims, _, ids = index.range_search(q, 1e9, params=params)
        assert np.isin(ids, IDS[accepted]).all() and lims[-1] == len(q) * accepted.sum()
    assert ours.sel is sel  # never changed, another thread may be using it


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mapped", [False, True])
def test_removal(new, x, q, kind, mapped):
    """Around an IVF faiss's gives wrong ids afterwards."""
    index = fq.IndexIDMap2(new(kind))
    index.add_with_ids(x, IDS)
    if mapped and kind == "ivf":
        index.index.make_direct_map()
    assert index.remove_ids(np.array([IDS[3], 10**9, IDS[399], IDS[3]])) == 2
    assert index.remove_ids(faiss.IDSelectorRange(100, 300)) == ((IDS >= 100) & (IDS < 300)).sum()
    assert index.remove_ids(faiss.IDSelectorRange(100, 300)) == 0
    index.add_with_ids(x[:7], IDS[:7] + 10**6)
    kept = ((IDS < 100) | (IDS >= 300)) & ~np.isin(IDS, IDS[[3, 399]])
    ids = np.concatenate([IDS[kept], IDS[:7] + 10**6])
    rest = fq.IndexIDMap2(new(kind))
    rest.add_with_ids(np.concatenate([x[kept], x[:7]]), ids)
    equal(index.search(q, 20), rest.search(q, 20))
    np.testing.assert_array_equal(faiss.vector_to_array(index.id_map), ids)
    if mapped or kind == "flat":
        for key in (IDS[5], IDS[0] + 10**6, ids[-1]):
            if kind == "pca":
                index.index.index.make_direct_map()
            number = int(np.flatnonzero(ids == key)[-1])
            np.testing.assert_array_equal(
                index.reconstruct(key), rest.index.reconstruct_n(number, 1)[0]
            )
    assert index.remove_ids(faiss.IDSelectorAll()) == len(ids) and index.ntotal == 0


@pytest.mark.parametrize("kind", KINDS)
def test_merge(new, x, q, kind):
    one, two, both = (fq.IndexIDMap2(new(kind)) for _ in range(3))
    one.add_with_ids(x[:250], IDS[:250])
    two.add_with_ids(x[250:], IDS[250:])
    both.add_with_ids(x, np.concatenate([IDS[:250], IDS[250:] + 5]))
    with pytest.raises(RuntimeError):
        one.merge_from(one)
    with pytest.raises(ValueError):
        one.merge_from(two, (1 << 63) - 5)
    with pytest.raises(TypeError):
        one.merge_from(new(kind))
    assert (one.ntotal, two.ntotal) == (250, 150)
    one.merge_from(two, 5)
    equal(one.search(q, 9), both.search(q, 9))
    assert two.ntotal == 0 and two.id_map.size() == 0
    two.add_with_ids(x[:1], IDS[:1])
    assert two.search(x[:1], 1)[1].tolist() == [[IDS[0]]]


def test_reconstruction_by_ids(new, x, q, monkeypatch):
    """Also when some ids have been sorted and others have come since; the last of equal ones."""
    monkeypatch.setattr("faiss_qinco.wrappers.id_map._UNSORTED", 10)
    index = fq.IndexIDMap2(new("flat"))
    ids = np.concatenate([IDS[:200], IDS[:5], [-(1 << 63), (1 << 63) - 1, -1], IDS[205:397]])
    for part in np.split(np.arange(400), [200, 203, 206, 390]):
        index.add_with_ids(x[part], ids[part])
        everything = index.index.reconstruct_n()
        for key in ids[: part[-1] + 1][::17].tolist() + ids[part].tolist():
            last = np.flatnonzero(ids[: part[-1] + 1] == key)[-1]
            np.testing.assert_array_equal(index.reconstruct(key), everything[last])
    with pytest.raises(RuntimeError, match="several"):
        index.check_consistency()
    D_, I, R = index.search_and_reconstruct(q[:3], 402)
    assert np.isnan(R[:, 400:]).all() and I.shape == D_.shape == (3, 402)
    np.testing.assert_array_equal(R[1, 0], index.reconstruct(I[1, 0]))
    faiss.copy_array_to_vector(np.arange(400), index.id_map)
    index.construct_rev_map()
    np.testing.assert_array_equal(index.reconstruct_n(3, 4), everything[3:7])
    for bad in (-5, 400, 10**12):
        with pytest.raises(RuntimeError, match="not found"):
            index.reconstruct(bad)


def test_what_it_cannot_be_around(new, x):
    filled = new("ivf")
    filled.add(x[:1])
    for index, error in (
        (filled, RuntimeError), (faiss.IndexFlat(D), TypeError), (None, TypeError), (3, TypeError),
        (fq.IndexIDMap(new("ivf")), TypeError),
    ):  # fmt: skip
        with pytest.raises(error):
            fq.IndexIDMap(index)


def test_vectors_that_came_past_it_are_an_error(new, x, q):
    index = fq.IndexIDMap2(new("ivf"))
    index.add_with_ids(x[:10], IDS[:10])
    index.index.add(x[10:20])
    with pytest.raises(RuntimeError, match="through"):
        index.add_with_ids(x[:1], IDS[:1])
    with pytest.raises(RuntimeError, match="through"):
        fq.serialize_index(index)
    with pytest.raises(RuntimeError, match="added"):
        index.search(q, 20)
    sel = faiss.IDSelectorRange(-10, 1000)  # C++ must not look behind the end of id_map
    params = fq.SearchParametersIVFQINCo(nprobe=4, sel=sel)
    assert np.isin(index.search(q, 20, params=params)[1], [-1, *IDS[:10]]).all()


def test_a_failed_add_leaves_it_as_it_was(new, x, q, monkeypatch):
    index = fq.IndexIDMap(new("ivf"))
    index.add_with_ids(x[:10], IDS[:10])

    def interrupted(self, x):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fq.IndexIVFQINCo, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.add_with_ids(x, IDS)
    assert index.id_map.size() == index.ntotal == 10
    index.add_with_ids(x[10:12], IDS[10:12])
    assert np.isin(index.search(q, 12)[1], IDS[:12]).all()


def test_changes_inside_a_search_of_its_own(new, x, q):
    index = fq.IndexIDMap(new("flat"))
    index.add_with_ids(x, IDS)
    seen = []

    def ask(i):
        if not seen:
            seen.append(index.search(q[:1], 1)[1])  # is allowed, while a change waits
            for change in (lambda: index.remove_ids(IDS[:1]), index.reset):
                with pytest.raises(RuntimeError, match="inside a search"):
                    change()
        return True

    params = fq.SearchParametersIVFQINCo(sel=faiss.PyCallbackIDSelector(ask))
    index.search(q, 3, params=params)
    assert seen and index.ntotal == 400


@pytest.mark.parametrize("kind", ["ivf", "flat"])
def test_searches_while_it_changes(new, x, q, kind):
    """An id never comes with another vector's distance, whatever moves meanwhile."""
    index = fq.IndexIDMap(new(kind))
    index.add_with_ids(x, IDS)
    distance, ids = index.search(q[:1], 400)
    right = dict(zip(ids[0].tolist(), distance[0].tolist(), strict=True))
    wrong, done = [], threading.Event()

    def search(params):
        while not done.is_set():
            found, ids = index.search(q[:1], 50, params=params)
            for i, value in zip(ids[0].tolist(), found[0].tolist(), strict=True):
                if i != -1 and right.get(i) != value:
                    wrong.append((i, value))

    sel = fq.SearchParametersIVFQINCo(nprobe=4, nshort=400, exit_margin=np.inf,
                                      sel=faiss.IDSelectorBatch(IDS[::2]))  # fmt: skip
    threads = [threading.Thread(target=search, args=(params,)) for params in (None, sel)]
    for thread in threads:
        thread.start()
    try:
        for i in range(60):
            some = np.arange(i, 400, 7)
            assert index.remove_ids(IDS[some]) == len(some)
            index.add_with_ids(x[some], IDS[some])
            if i % 20 == 0:
                fq.serialize_index(index)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong and index.ntotal == 400


def test_settings_and_names(new):
    index = fq.IndexIDMap2(fq.IndexRefineFlat(new("pca")))
    index.nprobe, index.nshort, index.verbose = 2, 7, True
    inside = index.index.base_index.index
    assert (inside.nprobe, inside.nshort, inside.verbose) == (2, 7, True)
    assert (index.M, index.nbits, index.nlist, index.codec) == (2, 4, 4, inside.codec)
    assert index.code_size == inside.code_size + 4 * D
    assert repr(index).startswith("<IndexIDMap2 <IndexRefineFlat <IndexPreTransform PCA")
    assert weakref.ref(index)() is index
    usage = index.memory_usage()
    assert usage["total"] == sum(v for k, v in usage.items() if k not in ("total", "per_vector"))
    for attribute in ("nprob", "d", "ntotal", "is_trained"):
        with pytest.raises(AttributeError):
            setattr(index, attribute, 3)
