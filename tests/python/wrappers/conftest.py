"""Small indexes to go around, ours and, as a control, faiss's."""

from __future__ import annotations

import copy

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from ..conftest import TINY, training

D = 32  # the first of each descriptor
INNER = 16  # behind a PCA
KINDS = ("ivf", "flat", "pca")


def same_verdict(theirs, ours, what):
    """Both raise, ours what theirs does, or neither; the two results then."""
    try:
        expected = what(theirs)
    except Exception as error:
        with pytest.raises(type(error)):
            what(ours)
        return None
    return expected, what(ours)


@pytest.fixture(scope="session")
def learnt(learn):
    return np.ascontiguousarray(learn[:800, :D])


@pytest.fixture(scope="session")
def x(base):
    return np.ascontiguousarray(base[:400, :D])


@pytest.fixture(scope="session")
def q(queries):
    return np.ascontiguousarray(queries[:30, :D])


@pytest.fixture(scope="session")
def images(learnt):
    """The bytes of trained, empty indexes whose searches look at all there is."""
    found = {}
    for name, d, metric in (("ivf", D, 1), ("pca", INNER, 1), ("ip", D, 0)):
        quantizer = faiss.IndexFlat(d, metric)
        index = fq.IndexIVFQINCo(
            quantizer, d, 4, 2, 4, metric, config=TINY, training=training(epochs=1)
        )
        index.train(learnt[:, :d])
        index.nprobe, index.nshort, index.exit_margin = 4, 10**6, np.inf
        found[name] = index
    flat = fq.IndexQINCo(D, 2, 4, config=TINY, training=training(epochs=1))
    flat.train(learnt)
    flat.nshort, flat.exit_margin = 10**6, np.inf
    pca = faiss.PCAMatrix(D, INNER)
    pca.train(learnt)
    found |= {"flat": flat, "pca": fq.IndexPreTransform(pca, found["pca"])}
    return {name: fq.serialize_index(index) for name, index in found.items()}


@pytest.fixture
def new(images):
    """kind -> a trained, empty index."""
    return lambda kind: fq.deserialize_index(images[kind])


@pytest.fixture(scope="session")
def control(learnt):
    """-> a trained, empty index of faiss, which its wrappers need someone to keep."""
    index = faiss.index_factory(D, "IVF4,PQ4x4")
    index.train(learnt)
    index.nprobe = 4
    data, kept = faiss.serialize_index(index), []

    def another():
        kept.append(faiss.deserialize_index(data))
        return kept[-1]

    return another


def equal(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def in_order(lims, D, I):
    """What `range_search` gives, a query's results by their ids."""
    order = np.lexsort((I, np.repeat(np.arange(len(lims) - 1), np.diff(lims.astype(int)))))
    return lims, D[order], I[order]


def copies(index, tmp_path):
    """What should be the same index."""
    path = tmp_path / "copy.fqi"
    fq.write_index(index, path)
    fq.verify_index(path)
    return [
        copy.copy(index),
        copy.deepcopy(index),
        fq.deserialize_index(fq.serialize_index(index)),
        fq.read_index(path),
        fq.read_index(path, faiss.IO_FLAG_MMAP),
    ]
