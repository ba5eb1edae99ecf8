"""Margins of early exit: what they may lose, by their definition."""

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.engine import Engine
from faiss_qinco.ranking import early_exit as room
from faiss_qinco.ranking.early_exit import KS, LOSS
from faiss_qinco.ranking.fitting import FEWEST, calibrate, fit
from faiss_qinco.training.budget import Budget

from ..conftest import training


def approximations(exact: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Ever better ones, as checkpoints have, whose errors are alike."""
    error = rng.standard_normal(exact.shape, np.float32)
    more = rng.standard_normal(exact.shape, np.float32)
    return [exact + scale * (error + more / 2) for scale in (0.02, 0.01)]


def lost(approximate, exact, margins, k):
    """Fraction of the best k that the checkpoints drop, one after another."""
    best = np.argpartition(exact, k - 1, axis=1)[:, :k]
    stays = np.ones(best.shape, bool)
    for a, margin in zip(approximate, margins, strict=True):
        kth = np.partition(a, k - 1, axis=1)[:, k - 1 : k]
        stays &= np.take_along_axis(a, best, axis=1) <= kth + margin
    return 1 - stays.mean()


def test_all_checkpoints_together_lose_no_more_than_they_may_of_what_they_have_not_seen():
    rng = np.random.default_rng(0)

    def sample(n):
        exact = rng.random((n, 900), np.float32) ** 0.2
        return approximations(exact, rng), exact

    found = room.margins(*sample(3000))
    assert found.shape == (2, len(KS))
    unseen, exact = sample(6000)
    for j, k in enumerate(KS):
        assert lost(unseen, exact, found[:, j], k) <= LOSS
        assert lost(unseen, exact, found[:, j] / 2, k) > LOSS  # and not for being wide
    between = np.exp(np.log(KS[3:5]).mean())  # linear in log k, as the extension does
    assert lost(unseen, exact, found[:, 3:5].mean(axis=1), round(between)) <= LOSS


def test_what_is_not_calibrated_is_infinite():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((FEWEST, 4), np.float32)
    for n_queries, n in ((FEWEST, FEWEST), (FEWEST - 1, FEWEST), (FEWEST, FEWEST - 1), (0, 9)):
        found, ranges = calibrate(x[:n_queries], x[:50], [x[:n] + 0.01], x[:n], faiss.METRIC_L2)
        assert found.shape == (1, len(KS))
        assert np.isfinite(found).all() == np.isfinite(ranges).all() == (n_queries == n)


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
def test_distances(metric):
    rng = np.random.default_rng(0)
    q, x = (rng.standard_normal((n, 8), np.float32) for n in (5, 30))
    I = room.nearest(q, x, 7, metric)
    rows = x[I].astype(np.float64)
    expected = np.linalg.norm(rows - q[:, None], axis=2)
    if metric == faiss.METRIC_INNER_PRODUCT:
        expected = -np.einsum("nkd,nd->nk", rows, q) / np.linalg.norm(q, axis=1)[:, None]
    np.testing.assert_allclose(room.distances(q, x, I, metric), expected, rtol=1e-4, atol=1e-5)
    assert (np.diff(expected, axis=1) >= 0).all()


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
def test_range_margins_miss_no_more_than_they_may_of_what_they_have_not_seen(metric):
    rng = np.random.default_rng(0)
    d = 12

    def sample(n):
        x = rng.standard_normal((n, d), np.float32)
        error = 0.3 * rng.standard_normal((n, d), np.float32)
        return x, [x + error, x + error / 2]

    l2 = metric == faiss.METRIC_L2
    queries = rng.standard_normal((300, d), np.float32)
    x, near = sample(6000)
    copies = x + 0.2 * rng.standard_normal(x.shape, np.float32)
    margins = room.range_margins(queries, copies, near, x, metric)

    x, near = sample(6000)
    for rank, length in ((1, 1), (10, 1), (100, 1), (500, 1), (1500, 1), (10, 3), (500, 5)):
        q = length * rng.standard_normal((100, d), np.float32)
        norm = np.linalg.norm(q, axis=1, keepdims=True)
        score = [np.square(q[:, None] - a).sum(2) if l2 else -q @ a.T for a in (x, *near)]
        radius = np.partition(score[0], rank, axis=1)[:, rank : rank + 1]
        inside = score[0] < radius
        stays = inside.copy()
        for approximate, (a, b) in zip(score[1:], margins, strict=True):
            unit = np.sqrt(radius) if l2 else norm
            stays &= approximate <= radius + np.maximum(a, b * unit)
        assert stays.sum() >= (1 - room.RANGE_LOSS) * inside.sum()
    if l2:  # copies: a radius that is small beside the additive error
        q = x + 0.01
        stays = np.ones(len(x), bool)
        radius = np.square(q - x).sum(1)
        for approximate, (a, b) in zip(near, margins, strict=True):
            stays &= np.square(q - approximate).sum(1) <= radius + np.maximum(
                a, b * np.sqrt(radius)
            )
        assert stays.mean() >= 1 - room.COPY_LOSS


def test_checkpoints():
    assert room.checkpoint_codes(8, True, False) == [1, 2, 3, 4, 6]
    assert room.checkpoint_codes(8, True, True) == [1, 2, 3, 4, 6, 8]
    assert room.checkpoint_codes(5, False, False) == [2, 3, 4]
    assert room.checkpoint_codes(1, True, False) == []


def test_without_time_there_are_tables_and_nothing_more(trained, learn, queries):
    codec = fq.deserialize_index(trained[faiss.METRIC_L2]).codec
    lists = codec.encode(learn[:6000])[:, 0].astype(np.int64)
    args = codec, learn[:6000], codec.centroids(), lists, faiss.METRIC_L2, training(), False, 0.1
    _, additive, checkpoints, _ = fit(*args, Budget(1e-9))
    assert checkpoints == []
    index = fq.deserialize_index(trained[faiss.METRIC_L2])
    index._engine = Engine(
        codec, codec.centroids(), additive, checkpoints, faiss.METRIC_L2, False, 0.1, 0.0
    )
    index.add(learn[6000:8000])
    index.nprobe, index.nshort = 16, 50
    nearest = faiss.knn(queries, learn[6000:8000], 1)[1]
    assert (index.search(queries, 10)[1] == nearest).any(axis=1).mean() > 0.8
    _, _, calibrated, _ = fit(*args, Budget(None))
    assert [c.n_codes for c in calibrated] == [0, 1, 2, 3]
