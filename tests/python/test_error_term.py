"""The error term (`index.error_weight`): what it is, that it is the same on every way into an
index, and that it finds more."""

from __future__ import annotations

import copy

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.engine import Engine
from faiss_qinco.ranking import error_term as room
from faiss_qinco.tools.evaluate import overlap_at

from .conftest import make_searchable, new_index
from .test_index import METRICS

L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT


def index_of(image: np.ndarray, weight: float) -> fq.IndexIVFQINCo:
    """A trained index with another weight; nothing is fitted anew, and nobody leaves early."""
    index = fq.deserialize_index(image)
    e = index._engine
    index._engine = Engine(
        e.codec, e.centroids, e.additive, [], e.metric, e.length_correction, 0.0, weight
    )
    index.nprobe = index.nlist
    return index


def errors(index: fq.IndexIVFQINCo, x: np.ndarray) -> np.ndarray:
    return np.square(index.reconstruct_n(0, len(x)) - x).sum(1)


def terms(index: fq.IndexIVFQINCo, queries: np.ndarray) -> np.ndarray:
    """What D has beyond the distance to what is decoded, by id."""
    index.nshort = index.ntotal
    index.make_direct_map()
    D, I = index.search(queries, index.ntotal)
    decoded = index.reconstruct_batch(I.ravel()).reshape(*I.shape, -1)
    found = np.full(index.ntotal, np.nan)
    found[I] = D - np.square(queries[:, None] - decoded).sum(2)
    return found


def test_the_distance_has_a_part_of_the_error(trained, base, queries):
    index, plain = (index_of(trained[L2], weight) for weight in (0.5, 0))
    for of in (index, plain):
        of.add(base[:2000])
    expected = 0.5 * errors(index, base[:2000])
    np.testing.assert_allclose(terms(index, queries[:2]), expected, rtol=0.1, atol=300)
    np.testing.assert_allclose(terms(plain, queries[:1]), 0, atol=1)
    # In the radius of a range search too,
    D, I = index.search(queries[:5], 50)
    radius = float(np.median(D))
    lims, D_range, I_range = index.range_search(queries[:5], radius)
    for i in range(5):
        part = slice(*lims[i : i + 2].astype(int))
        assert set(I[i][D[i] < radius]) <= set(I_range[part])
        assert D_range[part].max(initial=0) < radius
    # and in what the tables say.
    by_tables = np.empty((2, 2000), np.float32)
    for row, of in zip(by_tables, (index, plain), strict=True):
        of.nshort = 0
        D, I = of.search(queries[:1], 2000)
        row[I[0]] = D[0]
    assert np.corrcoef(by_tables[0] - by_tables[1], expected)[0, 1] > 0.95


def test_inner_product_shortens_what_is_decoded(trained, base):
    index, plain = (index_of(trained[IP], weight) for weight in (0.5, 0))
    x = np.ascontiguousarray(base[:2000])
    for of in (index, plain):
        of.add(x)
    square = np.square(x).sum(1)
    expected = np.sqrt(square) * (1 - 0.25 * errors(plain, x) / square)
    found = np.linalg.norm(index.reconstruct_n(0, 2000), axis=1)
    np.testing.assert_allclose(found, expected, rtol=0.01)


def test_it_is_the_same_on_every_way(trained, learn, base, queries, tmp_path):
    index = index_of(trained[L2], 0.5)
    empty = fq.serialize_index(index)
    x, q = base[:1500], queries[:1]
    index.add(x)
    expected = terms(index, q)
    fq.write_index(index, tmp_path / "i.fqi")
    copied, first, second, updated = (fq.deserialize_index(empty) for _ in range(4))
    index.copy_subset_to(copied, 0, 0, 1500)
    first.add(x[:700])
    second.add(x[700:])
    first.merge_from(second, 700)
    updated.add(learn[:1500])
    updated.make_direct_map()
    updated.update_vectors(np.arange(1500), x)
    for other in (fq.read_index(tmp_path / "i.fqi"), copied, first, updated):
        other.nprobe = other.nlist
        np.testing.assert_allclose(terms(other, q), expected, rtol=0.02, atol=300)
    # By codes alone there is the mean error; the first codes keep what the whole ones have.
    by_codes = fq.deserialize_index(empty)
    by_codes.nprobe = by_codes.nlist
    by_codes.add_sa_codes(by_codes.sa_encode(x))
    mean = 0.5 * by_codes.codec.statistics.mean
    np.testing.assert_allclose(terms(by_codes, q), mean, rtol=0.1, atol=300)
    cut = index.truncate(2)
    cut.nprobe = cut.nlist
    np.testing.assert_allclose(terms(cut, q), expected, rtol=0.1, atol=600)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_the_measured_weight_finds_more(trained, learn, base, queries, metric):
    truth = faiss.knn(queries, base[:3000], 10, metric)[1]
    assert fq.deserialize_index(trained[metric]).error_weight == 0  # too few were held out
    index = new_index(metric, n_validation=2000)
    make_searchable(index, learn)
    measured = index.error_weight
    assert measured in room.WEIGHTS
    found = []
    for weight in (0, measured):
        index = index_of(trained[metric], weight)
        index.add(base[:3000])
        found.append(overlap_at(index.search(queries, 10)[1], truth))
    if metric == L2:
        assert found[1] > found[0] + 0.01
    else:
        assert found[1] >= found[0]


def test_where_a_bias_says_little_of_it_the_weight_is_small(learn):
    """Far from the origin two bytes have no room for it."""
    x = learn[:3000]
    bases = np.broadcast_to(x.mean(0), x.shape)
    axes = np.linalg.svd(x - bases, full_matrices=False)[2][:16]
    x_hat = bases + (x - bases) @ axes.T @ axes
    assert room.error_weight(x, x_hat, x_hat, bases, L2) > 0.2
    far, far_hat, base = (a + np.float32(1e4) for a in (x, x_hat, bases))
    assert room.error_weight(far, far_hat, far_hat, base, L2) == 0


def test_settings(trained):
    index = fq.deserialize_index(trained[L2])
    index.error_weight = index.error_weight
    with pytest.raises(RuntimeError, match="error_weight"):
        index.error_weight = 0.05
    fresh = fq.IndexQINCo(128, 4)
    assert fresh.error_weight is None
    fresh.error_weight = 0.25
    assert fq.deserialize_index(fq.serialize_index(fresh)).error_weight == 0.25
    assert copy.deepcopy(fresh).error_weight == 0.25
    for bad, error in (("1", TypeError), (-1, ValueError), (np.nan, ValueError)):
        with pytest.raises(error, match="error_weight"):
            fresh.error_weight = bad
    one, two = (index_of(trained[L2], weight) for weight in (0.25, 0.5))
    with pytest.raises(RuntimeError, match="error_weight"):
        one.merge_from(two, 0)
    assert one._engine.fingerprint() != two._engine.fingerprint()
