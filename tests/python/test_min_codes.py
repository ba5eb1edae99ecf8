"""Searches that go on for `min_codes`, the bound `max_lists_num`, and what is counted of them."""

from __future__ import annotations

import copy
import os
import signal
import threading
import time

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from .conftest import TINY, training

METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
NLIST, NPROBE = 16, 2
FEW = faiss.IDSelectorBatch(np.arange(0, 3000, 30))
PYTHON = faiss.PyCallbackIDSelector(lambda i: i % 30 == 0)


def params(**kwargs):
    return fq.SearchParametersIVFQINCo(**{"nprobe": NPROBE, **kwargs})


def lists_needed(index, q, accepted, min_codes):
    """How many lists a search of each query has to visit, by the order of all their centroids."""
    n_accepted = np.array([accepted(index.lists.get_ids(l)).sum() for l in range(NLIST)])
    order = faiss.knn(q, index.quantizer.reconstruct_n(0, NLIST), NLIST, index.metric_type)[1]
    found = n_accepted[order].cumsum(1)
    enough = np.where(found >= min_codes, np.arange(1, NLIST + 1), NLIST).min(1)
    return np.maximum(enough, NPROBE)


@pytest.mark.parametrize("quantizer", ["flat", "hnsw"])
@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("kind", ["all", "range", "batch", "python", "none"])
def test_it_goes_on_for_as_many_lists_as_it_takes(trained, base, queries, metric, quantizer, kind):
    """As a search of each query by itself, with the nprobe that it needs."""
    index = fq.deserialize_index(trained[metric])
    index.add(base[:3000])
    if quantizer == "hnsw":
        hnsw = faiss.IndexHNSWFlat(128, 16, metric)
        hnsw.add(index.quantizer.reconstruct_n(0, NLIST))
        index.quantizer = hnsw
    sel, accepted = {
        "all": (None, lambda ids: ids >= 0),
        "range": (faiss.IDSelectorRange(10, 400), lambda ids: (ids >= 10) & (ids < 400)),
        "batch": (FEW, lambda ids: ids % 30 == 0),
        "python": (PYTHON, lambda ids: ids % 30 == 0),
        "none": (faiss.IDSelectorBatch(np.array([-7])), lambda ids: ids < 0),
    }[kind]
    q = queries[:12]
    radius = float(np.median(index.search(q, 200, params=params(nprobe=NLIST, nshort=0))[0]))
    for min_codes in (1, 25, 700, 2**70):
        needed = lists_needed(index, q, accepted, min_codes)
        for nshort in (0, 40):
            given = params(sel=sel, nshort=nshort, min_codes=min_codes)
            D, I = index.search(q, 9, params=given)
            lims, D_in, I_in = index.range_search(q, radius, params=given)
            for i, nprobe in enumerate(needed.tolist()):
                alone = params(sel=sel, nshort=nshort, nprobe=nprobe)
                expected = index.search(q[i : i + 1], 9, params=alone)
                np.testing.assert_array_equal(I[i], expected[1][0])
                inside = index.range_search(q[i : i + 1], radius, params=alone)
                found = slice(int(lims[i]), int(lims[i + 1]))
                assert sorted(I_in[found]) == sorted(inside[2])
                if quantizer == "flat":  # the distances of HNSW are rounded in another way
                    np.testing.assert_array_equal(D[i], expected[0][0])
                    assert sorted(D_in[found]) == sorted(inside[1])
    if kind == "batch":
        assert (needed == NLIST).all() and (index.search(q, 9, params=given)[1] >= 0).all()


def test_torch_and_fewer_codes_and_threads(filled, queries):
    given = {"sel": FEW, "min_codes": 30}
    expected = filled.search(queries[:60], 5, params=params(**given, exit_margin=np.inf))[1]
    filled.rerank_device = "cpu:0"
    found = filled.search(queries[:60], 5, params=params(**given))[1]
    assert (found == expected).mean() > 0.99
    filled.rerank_device = "cpu"
    whole = params(**given, M_search=2, nshort=0)
    expected = filled.search(queries[:60], 5, params=whole)
    try:
        fq.set_num_threads(3)
        for n in (60, 1):
            got = [filled.search(queries[i : i + n], 5, params=whole) for i in range(0, 60, n)]
            np.testing.assert_array_equal(np.concatenate([I for _, I in got]), expected[1])
    finally:
        fq.set_num_threads(None)


def test_what_else_ends_a_scan(filled, queries):
    """max_codes and max_empty_result_buckets as well; lists that are given are all there are."""
    ours = fq.search_stats
    ours.reset()
    filled.search(queries[:50], 5, params=params(sel=FEW, min_codes=60, max_codes=10))
    assert ours.ndis == 50 * 10
    ours.reset()
    filled.range_search(
        queries[:50], 0.0, params=params(nprobe=1, min_codes=3000, max_empty_result_buckets=3)
    )
    assert ours.nlist == 50 * 3
    Dq, Iq = filled.quantizer.search(queries[:50], NPROBE)
    expected = filled.search(queries[:50], 5, params=params(sel=FEW))
    filled.min_codes = 50
    got = filled.search_preassigned(queries[:50], 5, Iq, Dq, params=params(sel=FEW))
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("n", [3000, 14])
def test_max_lists_num_is_that_of_faiss(empty, base, queries, n):
    """Of its fast-scan codes: how much is found, in how many lists; empty ones do not count."""
    empty.add(base[:n])
    theirs = faiss.IndexIVFPQFastScan(empty.quantizer, 128, NLIST, 16, 4)
    theirs.train(base[:1000])
    theirs.add(base[:n])
    assert (n < 100) == (empty.lists.sizes() == 0).any()
    q = queries[:20]
    for max_lists_num in (0, 1, 3, 7, 16, 99):
        for k in (3, 10, n):
            for given in ({}, {"ensure_topk_full": True}):
                p = faiss.SearchParametersIVF(nprobe=9, max_lists_num=max_lists_num, **given)
                fq.search_stats.reset()
                mine, n_mine = empty.search(q, k, params=p)[1], fq.search_stats.nlist
                faiss.cvar.indexIVF_stats.reset()
                its, n_its = theirs.search(q, k, params=p)[1], faiss.cvar.indexIVF_stats.nlist
                np.testing.assert_array_equal((mine >= 0).sum(1), (its >= 0).sum(1))
                assert n_mine == n_its or max_lists_num == 0  # it then counts in another way


def test_max_lists_num_bounds_min_codes(filled, queries):
    q = queries[:50]
    for nprobe, most in ((2, 1), (2, 5), (5, 16), (20, 3)):
        fq.search_stats.reset()
        D, I = filled.search(
            q, 5, params=params(nprobe=nprobe, sel=FEW, min_codes=200, max_lists_num=most)
        )
        assert fq.search_stats.nlist == 50 * most
        alone = filled.search(q, 5, params=params(nprobe=most, sel=FEW))
        np.testing.assert_array_equal(I, alone[1])
        np.testing.assert_array_equal(D, alone[0])


@pytest.mark.parametrize("min_codes", [0, 1, 2**64])
def test_edges(empty, filled, queries, min_codes):
    """An empty index, every id refused, queries that are not finite, nprobe above nlist."""
    q = queries[:6].copy()
    assert (empty.search(q, 3, params=params(min_codes=min_codes))[1] == -1).all()
    nothing = faiss.IDSelectorRange(5, 5)
    given = params(sel=nothing, min_codes=min_codes, nprobe=40)
    assert (filled.search(q, 3, params=given)[1] == -1).all()
    q[2, 0] = np.nan
    I = filled.search(q, 3, params=params(sel=FEW, min_codes=min_codes, nprobe=40))[1]
    assert (I[2] == -1).all() and (I[[0, 1, 3, 4, 5]] >= 0).all()
    assert filled.search(q[:0], 3, params=params(min_codes=min_codes))[1].shape == (0, 3)


def test_a_flat_index_has_nothing_to_go_on_to(learn, base, queries):
    index = fq.IndexQINCo(128, 2, 5, config=TINY, training=training(epochs=1))
    index.train(learn[:1000])
    index.add(base[:200])
    expected = index.search(queries[:5], 3)[1]
    np.testing.assert_array_equal(
        index.search(queries[:5], 3, params=params(min_codes=999))[1], expected
    )
    assert not hasattr(index, "min_codes")


def test_the_attribute_is_for_calls_that_say_nothing(filled, queries, tmp_path):
    q = queries[:40]
    expected = filled.search(q, 5, params=params(sel=FEW, min_codes=40))[1]
    without = filled.search(q, 5, params=params(sel=FEW))[1]
    assert (expected != without).any()
    filled.min_codes = 40
    for index in (filled, copy.copy(filled), fq.deserialize_index(fq.serialize_index(filled))):
        assert index.min_codes == 40
        theirs = faiss.SearchParametersIVF(nprobe=NPROBE, sel=FEW)
        for given in (theirs, params(sel=FEW), params(sel=FEW, min_codes=40)):
            np.testing.assert_array_equal(index.search(q, 5, params=given)[1], expected)
        np.testing.assert_array_equal(
            index.search(q, 5, params=params(sel=FEW, min_codes=0))[1], without
        )
    assert filled.truncate(2).min_codes == 40
    for bad, error in ((-1, OverflowError), (2.5, TypeError), (None, TypeError), ("3", TypeError)):
        with pytest.raises(error, match="min_codes"):
            filled.min_codes = bad
        if bad is not None:
            with pytest.raises(error, match="min_codes"):
                params(min_codes=bad)
        with pytest.raises(error, match="max_lists_num"):
            params(max_lists_num=bad)


def test_a_selector_of_lists_is_not_passed_over(filled, queries):
    lists = faiss.SearchParameters(sel=faiss.IDSelectorRange(0, 8))
    given = {"quantizer_params": lists, "nprobe": 4}
    assert (filled.search(queries[:5], 3, params=params(**given))[1] >= 0).all()
    with pytest.raises(RuntimeError, match="min_codes"):
        filled.search(queries[:5], 3, params=params(**given, min_codes=5))


def test_interrupt_while_it_goes_on(filled, queries):
    def slow(i):
        time.sleep(0.01)  # 3000 ids: 30 s without the interrupt
        return False

    given = params(nprobe=1, min_codes=5, sel=faiss.PyCallbackIDSelector(slow))
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        filled.search(queries[:5], 5, params=given)
    timer.join()
    assert time.monotonic() - start < 10
    assert (filled.search(queries[:5], 5, params=params(min_codes=5))[1] >= 0).all()
