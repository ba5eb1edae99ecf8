"""Additive codebooks: r ≈ Σ_m C_m[i_m], fitted to given codes by least squares (DESIGN section 1;
the approximate decoder of QINCo2, arXiv 2501.03078, section 3.3)."""

from __future__ import annotations

import numpy as np

RIDGE = 1.0  # in vectors: pulls codewords that hardly occur towards zero


class AdditiveFit:
    """Accumulates the normal equations of the M·K codewords over batches of vectors.

    Memory is that of the (M·K, M·K) co-occurrence counts, whatever the number of vectors.
    """

    def __init__(self, M: int, K: int, d: int) -> None:
        self.M, self.K, self.d = M, K, d
        self.counts = np.zeros((M, K, M, K))
        self.sums = np.zeros((M, K, d))

    def update(self, codes: np.ndarray, residuals: np.ndarray) -> None:
        """codes (n, M) integers in 0..K-1; residuals (n, d) float, what the sum should be."""
        K = self.K
        for m in range(self.M):
            code = codes[:, m].astype(np.int64)
            order = np.argsort(code, kind="stable")
            present, first = np.unique(code[order], return_index=True)
            if len(present):
                rows = residuals[order].astype(np.float64)
                self.sums[m, present] += np.add.reduceat(rows, first, axis=0)
            for m2 in range(m, self.M):
                pairs = np.bincount(code * K + codes[:, m2], minlength=K * K).reshape(K, K)
                self.counts[m, :, m2] += pairs
                if m2 > m:
                    self.counts[m2, :, m] += pairs.T

    def solve(self) -> np.ndarray:
        """The codebooks, (M, K, d) float32. Codewords never seen are zero."""
        n = self.M * self.K
        gram = self.counts.reshape(n, n) + RIDGE * np.eye(n)
        solution = np.linalg.solve(gram, self.sums.reshape(n, self.d))
        return solution.reshape(self.M, self.K, self.d).astype(np.float32)
