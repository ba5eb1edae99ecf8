"""What range_search promises, on vectors and queries that calibrated nothing."""

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.ranking.early_exit import RANGE_LOSS

METRICS = [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT]


def found(index, queries, radius):
    """(query, id) pairs of a range search with default parameters, all lists probed."""
    index.nprobe = index.nlist
    lims, _, I = index.range_search(queries, radius)
    return set(zip(np.repeat(np.arange(len(queries)), np.diff(lims.astype(int))), I, strict=True))


@pytest.mark.parametrize("metric", METRICS)
def test_misses_no_more_than_promised(fully_trained, base, queries, metric):
    index = fq.deserialize_index(fully_trained[metric])
    index.add(base)
    x, l2 = index.reconstruct_n(), metric == faiss.METRIC_L2
    for length in (1, 5):
        q = length * queries[:100]
        score = faiss.pairwise_distances(q, x, metric)
        ordered = np.sort(score if l2 else -score, axis=1)
        for rank in (10, 100, 500, 1500):
            radius = float(np.median(ordered[:, rank - 1])) * (1 if l2 else -1)
            inside = score < radius if l2 else score > radius
            expected = set(zip(*np.nonzero(inside), strict=True))
            missed = expected - found(index, q, radius)
            assert len(missed) <= RANGE_LOSS * len(expected), (length, rank)


def test_finds_all_copies(empty, base, queries):
    rng = np.random.default_rng(0)
    near = np.repeat(queries[:5], 200, axis=0)
    near += 0.01 * rng.standard_normal(near.shape, np.float32)
    empty.add(near)
    empty.add(np.repeat(base[:1], 3000, axis=0))
    empty.add(base[:3000])
    x = empty.reconstruct_n()
    for i, q in enumerate(queries[:5]):
        ids = np.arange(200 * i, 200 * (i + 1))
        radius = 1.02 * float(np.square(q - x[ids]).sum(1).max())
        assert set(ids) <= {j for _, j in found(empty, q[None], radius)}
    radius = 1.0 + float(np.square(base[0] - x[1000]).sum())
    assert set(range(1000, 4000)) <= {j for _, j in found(empty, base[:1], radius)}
