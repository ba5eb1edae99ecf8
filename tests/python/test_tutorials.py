"""Programs written for faiss, with the line that makes the index changed."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from .conftest import TINY, training
from .frameworks.conftest import brief, example


@pytest.fixture
def _registered():
    fq.register()
    yield
    fq.unregister()


def ivf(quantizer, xb, xq, nlist, k, new):
    """faiss's tutorial on IVFPQ, as far as it can go wrong."""
    index = new(quantizer, xb.shape[1])
    assert not index.is_trained
    index.train(xb)
    assert index.is_trained
    index.add(xb)
    assert index.ntotal == len(xb)
    D, I = index.search(xb[:5], k)  # sanity check
    assert D.shape == I.shape == (5, k) and (np.diff(D) >= 0).all()
    _, one_list = index.search(xq, k)
    index.nprobe = 10
    _, ten_lists = index.search(xq, k)
    return np.mean(I[:, 0] == np.arange(5)), one_list, ten_lists


def test_ivf(learn, queries):
    """Of a vector itself and of the true neighbours it finds what IndexIVFPQ finds, and more."""
    xb, xq, nlist, k = learn[:3000], queries[:200], 16, 4
    exact = faiss.IndexFlatL2(128)
    assert exact.is_trained
    exact.add(xb)
    true = exact.search(xq, 1)[1]

    def found(new):
        itself, *results = ivf(faiss.IndexFlatL2(128), xb, xq, nlist, k, new)
        return [itself, *(np.mean((true == I).any(axis=1)) for I in results)]

    theirs = found(lambda quantizer, d: faiss.IndexIVFPQ(quantizer, d, nlist, 4, 8))
    ours = found(
        lambda quantizer, d: fq.IndexIVFQINCo(
            quantizer, d, nlist, 4, 8, config=TINY, training=training(epochs=1)
        )
    )
    assert ours[0] >= theirs[0] and ours[2] > theirs[2] and ours[2] > ours[1]


def test_refinement(_registered, filled, base, queries):
    """The one that compares refinements: vectors of the caller's memory, parameters of a search."""
    xb, k = base[:3000], 4
    refined = faiss.IndexRefineFlat(filled, faiss.swig_ptr(xb))
    exact = faiss.IndexFlatL2(128)
    exact.add(xb)
    true = exact.search(queries, k)[1]
    filled.nprobe = 16
    found = []
    for k_factor in (1, 3, 20):
        params = faiss.IndexRefineSearchParameters(k_factor=k_factor)
        I = refined.search(queries, k, params=params)[1]
        found.append((I[:, :, None] == true[:, None]).sum())
    assert found[0] < found[1] < found[2] and found[2] > 0.95 * true.size


def test_from_ivfpq(_registered, tmp_path):
    recall = example("from_ivfpq").main(str(tmp_path / "index"), brief(), 4)
    assert recall["IndexIVFQINCo"] > recall["IndexIVFPQ"] > 0.1
