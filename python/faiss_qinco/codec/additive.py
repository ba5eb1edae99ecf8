"""Additive codebooks: r ≈ Σ_m C_m[i_m], fitted to given codes by least squares (DESIGN section 1;
the approximate decoder of QINCo2, arXiv 2501.03078, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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

    def update(self, codes: np.ndarray, targets: dict[int, np.ndarray]) -> None:
        """codes (n, M) integers in 0..K-1; targets[first] (n, d) float, what the codewords of the
        codes from `first` on should add up to."""
        K = self.K
        for m in range(self.M):
            code = codes[:, m].astype(np.int64)
            order = np.argsort(code, kind="stable")
            present, start = np.unique(code[order], return_index=True)
            for first, sums in self.sums.items():
                if m >= first and len(present):
                    rows = targets[first][order].astype(np.float64)
                    sums[m, present] += np.add.reduceat(rows, start, axis=0)
            for m2 in range(m, self.M):
                pairs = np.bincount(code * K + codes[:, m2], minlength=K * K).reshape(K, K)
                self.counts[m, :, m2] += pairs
                if m2 > m:
                    self.counts[m2, :, m] += pairs.T

    def solve(self, first: int = 0) -> np.ndarray:
        """The codebooks (M - first, K, d) float32. Codewords never seen are zero."""
        n = (self.M - first) * self.K
        gram = self.counts[first:, :, first:].reshape(n, n) + RIDGE * np.eye(n)
        solution = np.linalg.solve(gram, self.sums[first][first:].reshape(n, self.d))
        return solution.reshape(-1, self.K, self.d).astype(np.float32)
