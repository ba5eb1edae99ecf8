"""The vectors that a training uses. No torch here."""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..checks import check_matrix, complaint, usable

BLOCK = 1 << 22  # entries converted at a time
CENTER_ROWS = 4096  # of which the median is the centre
FAR, QUANTILE = 16.0, 0.99  # far: times the quantile of squared distances to the centre
SPREAD = 1024  # rows of a fingerprint


def spread(n: int, m: int, seed: int) -> np.ndarray:
    """m of n >= m row numbers, ascending int64: one at random of each of m equal parts."""
    edges = np.arange(m + 1) * n // max(m, 1)
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


class TrainingSet:
    """The vectors that one training uses: a sample of x, converted where it is read.

    x : (n, d), of any real dtype, a memory map too; kept, not copied. Not only arrays: what has
        shape, dtype and a length, and gives the rows of a slice or of int64 numbers.
    d : dimension.
    max_points : rows used at most, drawn by `seed`; None: all.

    Rows far from all others (a unit mix-up, a sentinel) are left out: those whose squared distance
    to the median is more than 16 times the 99 % quantile of it, so at most one in a hundred.
    One such row would spoil the normalisation, the codebooks and every mean.

    Attributes
    ----------
    d : dimension. rows : (len,) int64, ascending: the rows of x that are used.
    left_out : (m,) int64, the sampled rows that are far from all others.
    list_no : (len,) int64 inverted lists, None (default) until the caller has set it.

    Raises AttributeError (also a TypeError) without a shape, ValueError unless two-dimensional,
    AssertionError (also a ValueError) for another d; TypeError for a dtype that is not real;
    RuntimeError, naming the row, for one that is used and has NaN, inf or a squared norm beyond
    float32.
    """

    def __init__(self, x: Any, d: int, *, max_points: int | None = None, seed: int = 0) -> None:
        check_matrix(x, d)
        self._x: Any = np.asarray(x) if hasattr(x, "__array__") else x
        self.d = int(d)
        self._transform: Callable[[np.ndarray], np.ndarray] | None = None
        if self._x.dtype.kind not in "biuf":
            raise TypeError(f"x: expected real numbers, got {self._x.dtype}")
        n = len(self._x)
        few = max_points is not None and max_points < n
        self.rows = spread(n, int(max_points or 0), seed) if few else np.arange(n)
        self.list_no: np.ndarray | None = None
        far = self._far()
        self.left_out, self.rows = self.rows[far], self.rows[~far]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        """(m, d) float32, C-contiguous, of a slice of 0..len-1 or int64 numbers."""
        return np.ascontiguousarray(self.stored(key), np.float32)

    def stored(self, key: slice | np.ndarray) -> Any:
        """(m, d), as x has them: in its dtype, and transformed if they are to be."""
        if self._transform is None:
            if isinstance(key, slice) and len(self.rows) == len(self._x):
                return self._x[key]
            return self._x[self.rows[key]]
        rows = self.rows[key]
        out, step = np.empty((len(rows), self.d), np.float32), self._block()
        for i in range(0, len(rows), step):  # what is not transformed yet is wider
            x = np.ascontiguousarray(self._x[rows[i : i + step]], np.float32)
            out[i : i + step] = self._transform(x)
        return out

    def subset(self, chosen: np.ndarray) -> TrainingSet:
        """Those of the vectors, ascending int64 numbers in 0..len-1."""
        part = copy.copy(self)
        part.rows = self.rows[chosen]
        part.list_no = None if self.list_no is None else self.list_no[chosen]
        return part

    def through(self, transform: Callable[[np.ndarray], np.ndarray], d: int) -> TrainingSet:
        """These vectors, which are not transformed yet, as transform makes them of (m, self.d)
        float32: (m, d) float32, wherever they are read. Those that are then far from all others are
        left out as well. Raises RuntimeError as for x."""
        part = copy.copy(self)
        part._transform, part.d = transform, d
        far = part._far()
        part.left_out = np.concatenate((self.left_out, self.rows[far]))
        part.rows = self.rows[~far]
        return part

    @property
    def row_bytes(self) -> int:
        """Of a vector of `stored`."""
        return self.d * (self._x.dtype.itemsize if self._transform is None else 4)

    def blocks(self, begin: int = 0, end: int | None = None) -> list[slice]:
        """begin..end-1, None: all, in slices that are each converted within bounded memory."""
        size, end = self._block(), len(self) if end is None else end
        return [slice(i, min(i + size, end)) for i in range(begin, end, size)]

    def _block(self) -> int:
        return max(1, BLOCK // max(self.d, int(self._x.shape[1])))

    def sample(self, n: int, seed: int) -> np.ndarray:
        """At most n of the vectors, drawn by the seed, in ascending order: float32."""
        if n >= len(self):
            return self[:]
        chosen = np.random.default_rng(seed).permutation(len(self))[:n]
        return self[np.sort(chosen)]

    def fingerprint(self) -> list[int]:
        """What tells these vectors from others, or from the same in another order."""
        spread = np.unique(np.linspace(0, len(self) - 1, SPREAD).astype(np.int64))
        content = zlib.crc32(self.rows.data, zlib.crc32(self[spread].tobytes()))
        return [len(self), self.d, content]

    def normalisation(self) -> tuple[np.ndarray, float]:
        """Mean (d,) float32 and ONE standard deviation over all entries; 1.0 for equal vectors."""
        center = self._center.astype(np.float64)
        total, square = np.zeros(self.d), 0.0
        for part in self.blocks():
            values = self[part] - center
            total += values.sum(0)
            square += float(np.einsum("ij,ij->", values, values))
        mean = total / max(1, len(self))
        variance = square / max(1, len(self)) - float(np.square(mean).sum())
        std = math.sqrt(variance / self.d) if variance > 0 else 1.0
        return (center + mean).astype(np.float32), std

    def list_means(self, centroids: np.ndarray) -> np.ndarray:
        """The mean of the vectors of each list, (nlist, d) float32, in which the list's centroid,
        (nlist, d), of the length that fits them best, counts as one more."""
        assert self.list_no is not None
        n_lists = len(centroids)
        total = np.zeros((n_lists, self.d))
        for part in self.blocks():
            x, list_no = self[part].astype(np.float64), self.list_no[part]
            order = np.argsort(list_no, kind="stable")
            present, start = np.unique(list_no[order], return_index=True)
            total[present] += np.add.reduceat(x[order], start, axis=0)
        counts = np.bincount(self.list_no, minlength=n_lists)
        centroids = centroids.astype(np.float64)
        dots = float(np.einsum("ij,ij->", total, centroids))
        norms = float(counts @ np.einsum("ij,ij->i", centroids, centroids))
        scaled = centroids * (dots / norms if norms > 0 else 0.0)
        return ((total + scaled) / (counts[:, None] + 1)).astype(np.float32)

    def _far(self) -> np.ndarray:
        """Which rows are far from all others, once all are known to be usable: (len,) bool."""
        distance = np.empty(len(self))
        for part in self.blocks():
            x = self[part]
            bad = np.flatnonzero(~usable(x))
            if len(bad):
                row = self.rows[part][bad[0]]
                raise RuntimeError(f"x: training vector {row} {complaint(x[bad[0]])}")
            if part.start == 0:
                some = np.unique(np.linspace(0, len(self) - 1, CENTER_ROWS).astype(np.int64))
                with np.errstate(over="ignore", invalid="ignore"):  # checked in their blocks
                    self._center = np.median(self[some], axis=0)
            values = x.astype(np.float64) - self._center
            distance[part] = np.einsum("ij,ij->i", values, values)
        if len(self) == 0:
            self._center = np.zeros(self.d)
            return np.zeros(0, bool)
        at = int(QUANTILE * (len(self) - 1))
        limit = FAR * np.partition(distance, at)[at]
        return distance > limit if limit > 0 else np.zeros(len(self), bool)
