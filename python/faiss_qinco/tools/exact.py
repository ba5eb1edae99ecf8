"""Exact neighbours of vectors larger than memory."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from ..checks import check_matrix
from ..progress import progress_bar

_VALUES = 1 << 24  # of vectors that are in memory at a time


def exact_neighbours(
    query: np.ndarray,
    x: Any,
    k: int,
    metric: int = faiss.METRIC_L2,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of x for each query, by faiss, a block of x at a time.

    query : (n, d) float32. x : (m, d), any real dtype, mapped, or a `VectorSource`. k : 1 .. m.
    metric : faiss.METRIC_L2 or METRIC_INNER_PRODUCT.

    Returns D (n, k) float32, squared distances or inner products, the best first, and I (n, k)
    int64, rows of x; of equally near ones those of the lower row first. Holds, beside the result,
    some 64 MB and what x converts.

    Raises ValueError for another d or k.
    """
    check_matrix(x, query.shape[1])
    m, d = x.shape
    if not 1 <= k <= m:
        raise ValueError(f"k: expected 1 to {m}, the vectors there are, got {k}")
    sign = np.float32(1 if metric == faiss.METRIC_L2 else -1)
    D = np.full((len(query), k), np.inf, np.float32)
    I = np.full((len(query), k), -1, np.int64)
    step = max(k, _VALUES // d)
    with progress_bar("exact neighbours", m, "vector", progress) as bar:
        for begin in range(0, m, step):
            block = np.ascontiguousarray(x[begin : begin + step], np.float32)
            found, rows = faiss.knn(query, block, min(k, len(block)), metric)
            both = np.concatenate((D, sign * found), 1), np.concatenate((I, begin + rows), 1)
            order = np.lexsort((both[1], both[0]), axis=1)[:, :k]
            D, I = (np.take_along_axis(part, order, 1) for part in both)
            bar.to(begin + len(block))
    return sign * D, I
