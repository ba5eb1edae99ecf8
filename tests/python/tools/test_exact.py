"""Exact neighbours, block by block."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from faiss_qinco.tools import exact
from faiss_qinco.tools.evaluate import ndcg_at, overlap_at
from faiss_qinco.tools.exact import exact_neighbours


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
def test_of_real_vectors(base, queries, groundtruth, metric, monkeypatch) -> None:
    monkeypatch.setattr(exact, "_VALUES", 128 * 700)
    D, I = exact_neighbours(queries[:50], base.astype(np.uint8), 20, metric)
    expected = faiss.knn(queries[:50], base, 20, metric)
    np.testing.assert_array_equal(D, expected[0])
    assert (expected[1] == I).mean() > 0.99  # but for ties
    if metric == faiss.METRIC_L2:
        np.testing.assert_array_equal(I[:, 0], groundtruth[:50, 0])


def test_of_equal_ones_the_first(monkeypatch) -> None:
    monkeypatch.setattr(exact, "_VALUES", 4)
    x = np.tile(np.eye(2, dtype=np.float32), (6, 1))
    _, I = exact_neighbours(x[:2], x, 3)
    np.testing.assert_array_equal(I, [[0, 2, 4], [1, 3, 5]])


def test_wrong_arguments(base) -> None:
    for k in (0, 11):
        with pytest.raises(ValueError, match="k: expected 1 to 10"):
            exact_neighbours(base[:1], base[:10], k)
    with pytest.raises(ValueError):
        exact_neighbours(base[:1, :4], base[:10], 1)


def test_ndcg_weighs_what_comes_first() -> None:
    truth = np.array([[1, 2, 3]])
    for I, expected in (
        ([[1, 2, 3]], 1.0), ([[3, 1, 2]], 1.0), ([[7, 8, 9]], 0.0), ([[-1, -1, -1]], 0.0),
        ([[1, 8, 9]], 1 / (1 + 1 / np.log2(3) + 0.5)), ([[8, 9, 1]], 0.5 / (1.5 + 1 / np.log2(3))),
    ):  # fmt: skip
        assert ndcg_at(np.array(I), truth, 3) == pytest.approx(expected)
    assert overlap_at(np.array([[8, 9, 1]]), truth, 3) == pytest.approx(1 / 3)
