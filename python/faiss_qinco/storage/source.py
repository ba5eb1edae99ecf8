"""Vectors of files that follow on from one another, read where they are used."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any

import numpy as np

from .columns import KINDS as COLUMNS
from .columns import Column, open_column
from .container import Array, MissingFileError, Path, reading
from .vectors import SUFFIXES, describe_vectors, read_vectors, split_name, suffix_of

_VALUES = 1 << 22  # read at a time where rows are picked out
_DENSE = 1024  # of a run: from one row in so many on, it is read whole


class VectorSource:
    """Vectors of one or several files, as an array (n, d) of which only what is asked for is read.

    Attributes
    ----------
    names : of the files, in order, with the data set or column of each where it was given.
    shape : (n, d). dtype : what holds the numbers of all files.

    Several threads may read at once.
    """

    def __init__(self, names: Sequence[str]) -> None:
        found = [describe_vectors(name) for name in names]
        for name, one in zip(names, found, strict=True):
            if one.kind == "groundtruth":
                raise ValueError(f"{name}: expected vectors, its name is not that of a vector file")
            if one.d != found[0].d:
                raise ValueError(f"{name}: expected d = {found[0].d} as in {names[0]}, got {one.d}")
        sizes = [one.n for one in found]
        if sum(sizes) == 0:
            raise ValueError(f"{' '.join(names)}: expected at least one vector")
        self.names = tuple(names)
        self.shape = (sum(sizes), found[0].d)
        self.dtype: np.dtype[Any] = np.result_type(*(one.dtype for one in found))
        self._files = found
        self._ends = np.cumsum(sizes)
        self._lock = Lock()
        self._column: tuple[int, Column] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Array) -> Array:
        """The rows, (m, d) of `dtype`, of a slice or of int64 numbers (m,) in any order."""
        if isinstance(rows, slice):
            begin, end, step = rows.indices(len(self))
            if step != 1:
                return self[np.arange(begin, end, step)]
            out = np.empty((max(end - begin, 0), self.shape[1]), self.dtype)
            for i, first, n, at in self._parts(begin, end):
                out[at : at + n] = self._read(i, first, n)
            return out
        rows = np.asarray(rows)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows: expected 0 to {len(self) - 1}")
        order = np.argsort(rows, kind="stable")
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        step = max(1, _VALUES // self.shape[1])
        ascending, done = rows[order], 0
        while done < len(ascending):
            first = int(ascending[done])
            upto = int(np.searchsorted(ascending, first + step))
            last = int(ascending[upto - 1]) + 1
            if last - first > _DENSE * (upto - done):  # far apart: one by one
                upto, last = done + 1, first + 1
            out[order[done:upto]] = self[first:last][ascending[done:upto] - first]
            done = upto
        return out

    def blocks(self, size: int) -> Iterator[Array]:
        """All vectors in order, (size or fewer, d) at a time."""
        for begin in range(0, len(self), size):
            yield self[begin : begin + size]

    def _parts(self, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Of the rows begin .. end - 1: number of a file, its first row, how many, and where they
        are among those."""
        at = begin
        while at < end:
            i = int(np.searchsorted(self._ends, at, side="right"))
            start = int(self._ends[i - 1]) if i else 0
            n = min(end, int(self._ends[i])) - at
            yield i, at - start, n, at - begin
            at += n

    def _read(self, i: int, first: int, n: int) -> Array:
        if self._files[i].kind not in COLUMNS.values():
            return read_vectors(self.names[i], first, n)
        path, name = split_name(self.names[i])
        with self._lock, reading(path):
            # One file alone is open, with the part of it that was decoded last.
            if self._column is None or self._column[0] != i:
                self._column = i, open_column(path, self._files[i].kind, name)
            return self._column[1].read(first, first + n)


def open_vectors(names: Path | Sequence[Path]) -> VectorSource:
    """Vectors of files, folders and patterns, which follow on from one another.

    names : one name or several. Each is a vector file of any kind that `read_vectors` reads; a
        folder, of which all vector files are taken, sorted by name (a Lance dataset is a folder
        that is one file); or a pattern such as `part-*.parquet`. `:dataset` or `:column` behind it
        belongs to all its files.

    Raises MissingFileError where a name is no file, or a folder or pattern has none; ValueError for
    files of another d, or without any vector; and as `read_vectors`.
    """
    if isinstance(names, (str, bytes, os.PathLike)):
        names = [names]
    found: list[str] = []
    for name in names:
        found += _files_of(os.fsdecode(name))
    return VectorSource(found)


def _files_of(name: str) -> list[str]:
    path, column = split_name(name)
    if suffix_of(path) == ".lance" or os.path.isfile(path):
        return [name]
    if os.path.isdir(path):
        inside = [os.path.join(path, file) for file in sorted(os.listdir(path))]
        files = [file for file in inside if suffix_of(file) in SUFFIXES | COLUMNS.keys()]
    elif glob.has_magic(path):
        files = sorted(glob.glob(path))
    else:
        return [name]  # whoever opens it says what is wrong
    if not files:
        raise MissingFileError(2, "no vector files", path)
    return files if column is None else [f"{file}:{column}" for file in files]
