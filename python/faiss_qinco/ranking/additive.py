"""Additive codebooks: r ≈ Σ_m C_m[i_m], fitted to given codes by least squares (DESIGN section 1;
the approximate decoder of QINCo2, arXiv 2501.03078, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Of the tables' error in the choice of codes. SIFT, 8 codes, 50,000 stored: the tables' R@10 rises
# from .814 to .836 and their error falls by 4 %, at .5 % more error of the codec and the same R@1
# of re-ranking (`bench/weights.py`).
DEFAULT_WEIGHT, MOST_WEIGHT = 0.1, 1e6
RIDGE = 1.0  # in vectors: pulls codewords that hardly occur towards zero


class AdditiveFit:
    """Accumulates the normal equations of the M·K codewords over batches of vectors.

    For each `first` of `firsts` one fit, of the codes first .. M-1 to targets of its own. Memory
    is that of the (M·K, M·K) co-occurrence counts, whatever the number of vectors.
    """

    def __init__(self, M: int, K: int, d: int, firsts: Sequence[int] = (0,)) -> None:
        self.M, self.K, self.d = M, K, d
        self.counts = np.zeros((M, K, M, K))
        self.sums = {first: np.zeros((M, K, d)) for first in firsts}
        self._factor: tuple[np.ndarray, np.ndarray] | None = None

    def update(self, codes: np.ndarray, targets: dict[int, np.ndarray]) -> None:
        """codes (n, M) integers in 0..K-1; targets[first] (n, d) float, what the codewords of the
        codes from `first` on should add up to."""
        K, self._factor = self.K, None
        for m in range(self.M):
            code = codes[:, m].astype(np.int64)
            order = np.argsort(code, kind="stable")
            present, start = np.unique(code[order], return_index=True)
            for first, sums in self.sums.items():
                if m >= first and len(present):
                    # A sum each: np.add.reduceat takes nine times as long.
                    parts = np.split(targets[first][order], start[1:])
                    sums[m, present] += [part.sum(0, dtype=np.float64) for part in parts]
            for m2 in range(m, self.M):  # the others are these transposed
                pairs = np.bincount(code * K + codes[:, m2], minlength=K * K).reshape(K, K)
                self.counts[m, :, m2] += pairs

    def solve(self, first: int = 0) -> np.ndarray:
        """The codebooks (M - first, K, d) float32. Codewords never seen are zero."""
        # The codes in reverse order: the equations of those from `first` on are the leading ones,
        # and so is their Cholesky factor: one factorisation serves all.
        if self._factor is None:
            self._factor = self._factorise()
        (factor, inverse), n = self._factor, self.M - first
        y = self.sums[first][first:][::-1].copy()
        for i in range(n):
            for j in range(i):
                y[i] -= factor[i, :, j] @ y[j]
            y[i] = inverse[i] @ y[i]
        for i in reversed(range(n)):
            for j in range(i + 1, n):
                y[i] -= factor[j, :, i].T @ y[j]
            y[i] = inverse[i].T @ y[i]
        return np.asarray(y[::-1], np.float32)

    def _factorise(self) -> tuple[np.ndarray, np.ndarray]:
        """(M, K, M, K), lower triangular (what is above is not set), of the equations of the codes
        in reverse order; and the inverses of its diagonal blocks, (M, K, K)."""
        # Block by block: LAPACK's threads have crashed on whole matrices of 16384 rows. What is
        # left of a column of blocks is one product, for which BLAS has its threads.
        M, K = self.M, self.K
        factor = np.ascontiguousarray(self.counts[::-1, :, ::-1])
        rows = factor.reshape(M * K, M * K)
        inverse = np.empty((M, K, K))
        for i in range(M):
            block, done, after = slice(i * K, (i + 1) * K), slice(i * K), slice((i + 1) * K, None)
            column = rows[i * K :, block] - rows[i * K :, done] @ rows[block, done].T
            rows[block, block] = np.linalg.cholesky(column[:K] + RIDGE * np.eye(K))
            inverse[i] = np.linalg.inv(rows[block, block])
            rows[after, block] = column[K:] @ inverse[i].T
        return factor, inverse
