"""What searches count, and faiss's statistics of them."""

from __future__ import annotations

import ctypes
import threading

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.stats import count_for_faiss

FEW = faiss.IDSelectorBatch(np.arange(0, 3000, 30))


@pytest.fixture
def stats():
    """Ours and faiss's, both at zero."""
    theirs = faiss.cvar.indexIVF_stats
    fq.search_stats.reset()
    theirs.reset()
    return fq.search_stats, theirs


def counts(of):
    return of.nq, of.nlist, of.ndis


def test_statistics_are_those_of_faiss(filled, base, queries, stats):
    """nq, nlist and ndis of an IVFFlat with the same lists, NaN and all."""
    theirs = faiss.IndexIVFFlat(filled.quantizer, 128, 16)
    theirs.is_trained = True
    theirs.add(base[:3000])
    q = queries[:150].copy()
    q[3, 5], q[4, 0] = np.nan, np.inf
    some = faiss.IDSelectorRange(100, 900)
    for given in (
        {}, {"sel": some}, {"sel": FEW}, {"max_codes": 300},
        {"sel": some, "max_codes": 20, "ensure_topk_full": True}, {"nprobe": 99},
    ):  # fmt: skip
        found = []
        for index in (filled, theirs):
            for of in stats:
                of.reset()
            index.search(q, 5, params=faiss.SearchParametersIVF(**{"nprobe": 4, **given}))
            found.append(counts(stats[1]))
            if index is filled:
                assert counts(stats[0]) == counts(stats[1])
        assert found[0] == found[1], given


def test_either_statistics_can_be_reset(filled, queries, stats):
    ours, theirs = stats
    filled.search(queries[:10], 3)
    ours.reset()
    assert counts(ours) == (0, 0, 0)
    assert theirs.nq == 10
    filled.range_search(queries[:5], 1e4)
    assert (ours.nq, theirs.nq) == (5, 15)
    theirs.reset()
    filled.rerank_device = "cpu:0"
    filled.search(queries[:7], 3)
    assert (ours.nq, theirs.nq) == (12, 7)
    assert theirs.ndis > theirs.nlist == 7


def test_statistics_of_threads_add_up(filled, queries, stats):
    threads = [
        threading.Thread(target=lambda: [filled.search(queries[:20], 3) for _ in range(25)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(stats[0]) == counts(stats[1])
    assert stats[1].nq == 4 * 25 * 20


def test_a_faiss_that_counts_otherwise(filled, queries, stats, monkeypatch):
    assert count_for_faiss()
    with monkeypatch.context() as patch:
        patch.setattr(faiss, "cvar", object())
        assert not count_for_faiss()
    memory = (ctypes.c_size_t * 3)()

    class Otherwise:
        this = ctypes.addressof(memory)

    monkeypatch.setattr(faiss, "IndexIVFStats", Otherwise)
    assert not count_for_faiss()
