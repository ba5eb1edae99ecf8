"""Where a training starts: the codebooks of residual quantization (RQ), by faiss.

What `faiss.ResidualQuantizer.train` does in one call is done here step by step, with the same
result, so that there is progress to show and that it ends within its time.
"""

from __future__ import annotations

import time

import faiss
import numpy as np

from ..progress import Bar
from .budget import Budget

POINTS_PER_CODEWORD = 256  # training vectors, as faiss's k-means takes
BEAM = 5  # faiss's default
NOISE = 0.01  # of the codewords' standard deviation
MEMORY = 1 << 30  # bytes of residuals, two beams at a time
FEW = 40  # vectors for each codeword, under which k-means had better take fewer iterations
FEWEST = 10  # and under which the codebooks are poor
PROBE = 1024


def residual_codebooks(
    x: np.ndarray, M: int, nbits: int, rng: np.random.Generator, budget: Budget, bar: Bar
) -> tuple[np.ndarray, int]:
    """RQ codebooks (M, K, d) float32 of x (n, d) float32, with a little noise; and the number of
    vectors that the last of them has seen.

    The first of the vectors are used, `most_points` or as few as the budget asks for; where there
    are fewer than codewords, some count twice.
    """
    K, d = 1 << nbits, x.shape[1]
    x = x[: most_points(K, d)]
    n_given = len(x)
    x = np.resize(x, (max(len(x), K), d))
    n, iterations, beam = affordable(x, M, K, budget)
    residuals, codebooks = x[:n, None], []
    for m in range(M):
        began = time.monotonic()
        rq = faiss.ResidualQuantizer(d, 1, nbits)
        rq.train_type = rq.Train_default | rq.Skip_codebook_tables
        rq.cp.niter, rq.cp.min_points_per_centroid = iterations, 1
        rq.train(residuals.reshape(-1, d))
        codebooks.append(faiss.vector_to_array(rq.codebooks).reshape(K, d))
        bar.to(m + 1)
        if m + 1 < M:
            residuals = refined(rq, residuals, min(residuals.shape[1] * K, beam))
            late = (time.monotonic() - began) * (M - m - 1) * (1.5 if m == 0 else 1.0)
            if late > budget.left():
                residuals = residuals[: max(K, int(len(residuals) * budget.left() / late))]
    found = np.stack(codebooks).astype(np.float32)
    noise = rng.standard_normal(found.shape, dtype=np.float32)
    found += NOISE * found.std(axis=(1, 2), keepdims=True) * noise
    return found, min(len(residuals), n_given)


def most_points(K: int, d: int) -> int:
    """How many vectors are used at most: 256 for each codeword, within `MEMORY`."""
    return min(POINTS_PER_CODEWORD * K, max(K, MEMORY // (8 * BEAM * d)))


def affordable(x: np.ndarray, M: int, K: int, budget: Budget) -> tuple[int, int, int]:
    """Vectors, iterations of k-means, and beam, for which the time is likely to suffice."""
    iterations = int(faiss.ResidualQuantizer(1, 1, 1).cp.niter)
    if budget.left() == np.inf:
        return len(x), iterations, BEAM
    some = x[:PROBE]
    faiss.knn(some, x[:K], 1)
    began = time.monotonic()
    faiss.knn(some, x[:K], 1)
    each = (time.monotonic() - began) / len(some)

    def fitting(iterations: int, beam: int) -> int:
        # A step compares the beams of all vectors, and iterates on 256 K residuals at most.
        comparisons, most = budget.left() / (M * each), POINTS_PER_CODEWORD * K
        n = comparisons / (beam * (iterations + 3))
        return int(n if n * beam < most else (comparisons - iterations * most) / (3 * beam))

    n = fitting(iterations, BEAM)
    if n >= min(FEW * K, len(x)):
        return min(n, len(x)), iterations, BEAM
    iterations, beam = iterations // 2, 2
    return min(max(K, fitting(iterations, beam)), len(x)), iterations, beam


def refined(rq: faiss.ResidualQuantizer, residuals: np.ndarray, beam: int) -> np.ndarray:
    """Residuals (n, beam before, d) -> (n, beam, d), the best after one more step."""
    n, before, d = residuals.shape
    residuals = np.ascontiguousarray(residuals)
    found = np.empty((n, beam, d), np.float32)
    codes, distances = np.empty((n, beam), np.int32), np.empty((n, beam), np.float32)
    pointers = [faiss.swig_ptr(a) for a in (residuals, codes, found, distances)]
    rq.refine_beam(n, before, pointers[0], beam, *pointers[1:])
    return found


def residual_quantizer(codebooks: np.ndarray) -> faiss.ResidualQuantizer:
    """RQ with these codebooks (M, K, d)."""
    M, K, d = codebooks.shape
    rq = faiss.ResidualQuantizer(d, M, K.bit_length() - 1)
    faiss.copy_array_to_vector(np.ascontiguousarray(codebooks).ravel(), rq.codebooks)
    rq.is_trained = True
    return rq


def rq_errors(codebooks: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Squared errors (n,) of x (n, d) by RQ with these codebooks (M, K, d)."""
    rq = residual_quantizer(codebooks)
    return np.asarray(np.square(rq.decode(rq.compute_codes(x)) - x).sum(1))
