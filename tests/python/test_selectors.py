"""Selectors: every one of faiss's, in the scan, with exceptions and Ctrl-C from Python ones."""

from __future__ import annotations

import os
import signal
import threading
import time

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco import selectors

ACCEPTED = np.arange(0, 3000, 30)


class Even(faiss.IDSelectorAll):
    """C++ does not see this is_member."""

    def is_member(self, i):
        return i % 2 == 0


def every_selector():
    """(name, selector, the ids below 3000 that it accepts)."""
    everything = np.arange(3000)
    bits = np.isin(everything, ACCEPTED)
    low, batch = faiss.IDSelectorRange(0, 100), faiss.IDSelectorBatch(ACCEPTED)
    callback = faiss.PyCallbackIDSelector(lambda i: i % 30 == 0)
    shifted = faiss.IndexIDMap(faiss.IndexFlat(1))
    shifted.add_with_ids(np.zeros((3000, 1), "f4"), everything + 1)
    pairs = [
        ("all", faiss.IDSelectorAll(), everything),
        ("range", low, everything[:100]),
        ("empty range", faiss.IDSelectorRange(5, 5), everything[:0]),
        ("batch", batch, ACCEPTED),
        ("array", faiss.IDSelectorArray(ACCEPTED), ACCEPTED),
        ("bitmap", faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little")), ACCEPTED),
        ("not", faiss.IDSelectorNot(batch), everything[~bits]),
        ("and", faiss.IDSelectorAnd(low, batch), ACCEPTED[:4]),
        ("or", faiss.IDSelectorOr(low, batch), np.union1d(everything[:100], ACCEPTED)),
        ("xor", faiss.IDSelectorXOr(low, batch), np.setxor1d(everything[:100], ACCEPTED)),
        ("translated", faiss.IDSelectorTranslated(shifted, batch), ACCEPTED[1:] - 1),
        ("callback", callback, ACCEPTED),
        ("not callback", faiss.IDSelectorNot(callback), everything[~bits]),
        ("subclass", Even(), everything[::2]),
    ]
    return [pytest.param(sel, ids, id=name) for name, sel, ids in pairs]


@pytest.mark.parametrize(("sel", "accepted"), every_selector())
def test_selectors_filter_the_scan(filled, queries, sel, accepted):
    """As brute force among the accepted: never a filter after the shortlist."""
    params = fq.SearchParametersIVFQINCo(nprobe=16, nshort=0, sel=sel)
    everything = filled.search(
        queries[:30], 3000, params=fq.SearchParametersIVFQINCo(nprobe=16, nshort=0)
    )[1]
    for n_threads in (1, 2):
        fq.set_num_threads(n_threads)
        try:
            I = filled.search(queries[:30], 50, params=params)[1]
        finally:
            fq.set_num_threads(None)
        for row, full in zip(I, everything, strict=True):
            expected = full[np.isin(full, accepted)][:50]
            np.testing.assert_array_equal(row[: len(expected)], expected)
            assert (row[len(expected) :] == -1).all()


@pytest.mark.parametrize("sel", [faiss.IDSelectorBatch(ACCEPTED), Even()], ids=["batch", "python"])
def test_selector_in_faiss_parameters(filled, queries, sel):
    """Their `sel` comes back without its type, Python subclasses included."""
    ours = fq.SearchParametersIVFQINCo(nprobe=4, sel=sel)
    theirs = faiss.SearchParametersIVF(nprobe=4, sel=sel)
    expected = filled.search(queries, 5, params=ours)[1]
    assert (expected % 2 == 0).all()
    np.testing.assert_array_equal(filled.search(queries, 5, params=theirs)[1], expected)


def test_extreme_ids(empty, base):
    ids = np.array([-(1 << 63), -1, 0, 1 << 40, (1 << 63) - 1], np.int64)
    empty.add_with_ids(base[:5], ids)
    for sel in (faiss.IDSelectorRange(-1, 1 << 41), faiss.IDSelectorBatch(ids[1:4])):
        params = fq.SearchParametersIVFQINCo(nprobe=16, sel=sel)
        I = empty.search(base[:1], 5, params=params)[1][0]
        assert sorted(I[I != -1].tolist() + [-1] * (3 - (I != -1).sum())) == [-1, 0, 1 << 40]


@pytest.mark.parametrize("wrap", [lambda s: s, faiss.IDSelectorNot], ids=["itself", "inside"])
def test_exception_of_a_callback(filled, queries, wrap):
    def refuse(i):
        if i > 100:
            raise LookupError(f"no {i}")
        return True

    sel = wrap(faiss.PyCallbackIDSelector(refuse))
    with pytest.raises(LookupError, match="no "):
        filled.search(queries, 5, params=fq.SearchParametersIVFQINCo(nprobe=16, sel=sel))
    assert (filled.search(queries, 1)[1] >= 0).all()


def test_exception_of_a_subclass(filled, queries):
    class Broken(faiss.IDSelectorAll):
        def is_member(self, i):
            raise LookupError(f"no {i}")

    with pytest.raises(LookupError, match="no "):
        filled.search(queries, 5, params=fq.SearchParametersIVFQINCo(sel=Broken()))


def test_interrupt_of_a_callback(filled, queries):
    def slow(i):
        time.sleep(0.01)  # 3000 ids: 30 s without the interrupt
        return True

    params = fq.SearchParametersIVFQINCo(nprobe=16, sel=faiss.PyCallbackIDSelector(slow))
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        filled.search(queries, 5, params=params)
    timer.join()


def test_an_unknown_layout_falls_back_to_python(filled, queries, monkeypatch):
    sel = faiss.IDSelectorBatch(ACCEPTED)
    params = fq.SearchParametersIVFQINCo(nprobe=4, sel=sel)
    expected = filled.search(queries[:5], 5, params=params)[1]
    monkeypatch.setattr(selectors, "_layout_is_known", lambda: False)
    monkeypatch.setattr(
        selectors._core.IdFilter, "faiss", lambda address: pytest.fail("used all the same")
    )
    np.testing.assert_array_equal(filled.search(queries[:5], 5, params=params)[1], expected)
