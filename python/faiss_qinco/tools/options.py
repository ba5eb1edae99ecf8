"""What the commands share: kinds of arguments, the vector files they name, threads."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ..storage.container import reading
from ..storage.vectors import describe_vectors, read_vectors
from ..threads import set_num_threads

BLOCK = 8192  # vectors read, and added or searched for, at a time


def number(kind: type[int] | type[float], low: float = 0, above: bool = True) -> Any:
    """For `type=` of an argument: a finite number of this kind, above low (or at least low)."""

    def parse(text: str) -> float:
        value = kind(text)
        if not (low < value if above else low <= value) or value == float("inf"):
            more = "more than" if above else "at least"
            raise argparse.ArgumentTypeError(f"expected {more} {low}, got {text}")
        return value

    parse.__name__ = kind.__name__  # argparse: "invalid int value"
    return parse


def argument(name: str, parse: Callable[[str], Any]) -> Any:
    """For `type=` of an argument: what parse makes of its text; its ValueError is what is said."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    parsed.__name__ = name
    return parsed


def add_files(parser: argparse.ArgumentParser, name: str, help: str, **more: Any) -> None:
    """An option that takes one or several vector files."""
    parser.add_argument(name, nargs="+", metavar="FILE", help=help, **more)


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=number(int), metavar="N", help="threads to use (default: all)"
    )


def use_threads(args: argparse.Namespace) -> None:
    """What `add_threads` asks for, in faiss and here; torch, which is not imported, follows."""
    if args.threads is not None:
        faiss.omp_set_num_threads(args.threads)
        set_num_threads(args.threads)


def check_out(path: str | os.PathLike[str], inputs: Sequence[str] = ()) -> None:
    """Refuse a name that could not be written to, or is that of a vector file that is read, before
    the work is done rather than after it.

    Raises FileNotFoundError, IsADirectoryError, PermissionError or FileExistsError.
    """
    for file in inputs:
        if os.path.exists(file) and os.path.exists(path) and os.path.samefile(path, file):
            raise FileExistsError(17, "this file is read, and would be lost", os.fspath(path))
    folder = Path(path).resolve().parent
    if not folder.is_dir():
        raise FileNotFoundError(2, "no such folder to write to", os.fspath(folder))
    if Path(path).is_dir():
        raise IsADirectoryError(21, "expected a file to write, got a folder", os.fspath(path))
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, "no permission to write to this folder", os.fspath(folder))


def shape_of(files: Sequence[str]) -> tuple[int, int]:
    """(n, d) of vector files that follow on from one another.

    Raises ValueError where they are not all of one d or hold nothing, and as `read_vectors`.
    """
    shapes = [_shape(file) for file in files]
    for file, (_, d) in zip(files, shapes, strict=True):
        if d != shapes[0][1]:
            raise ValueError(f"{file}: expected d = {shapes[0][1]} as in {files[0]}, got {d}")
    n = sum(n for n, _ in shapes)
    if n == 0:
        raise ValueError(f"{' '.join(files)}: expected at least one vector")
    return n, shapes[0][1]


def _shape(file: str) -> tuple[int, int]:
    found = describe_vectors(file)
    return found.n, found.d


def read_all(files: Sequence[str]) -> np.ndarray:
    """The vectors of all files, (n, d); one file alone stays mapped. Raises as `shape_of`."""
    shape_of(files)
    parts = [read_vectors(file) for file in files]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class MappedRows:
    """The vectors of files that follow on from one another, read where they are used: what
    `TrainingSet` needs of an array (n, d). Raises as `shape_of`."""

    def __init__(self, files: Sequence[str]) -> None:
        self.shape = shape_of(files)
        self.parts = [read_vectors(file) for file in files]
        self.dtype = np.result_type(*self.parts)
        self.starts = np.cumsum([0, *map(len, self.parts)])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """The rows, (m, d), of a slice or of int64 numbers (m,)."""
        rows = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        for part, start in zip(self.parts, self.starts, strict=False):
            here = (start <= rows) & (rows < start + len(part))
            found[here] = part[rows[here] - start]
        return found


def blocks(files: Sequence[str], size: int = BLOCK) -> Iterator[np.ndarray]:
    """The vectors of all files in order, (size or fewer, d) at a time, in the files' dtypes."""
    for file in files:
        for start in range(0, _shape(file)[0], size):
            yield read_vectors(file, start, size)


class VectorFiles:
    """Vector files that follow on from one another, as something with a shape whose rows are read
    when they are asked for. Raises as `shape_of`."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.shape = names, shape_of(names)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """The rows (n,), in ascending order, as (n, d) float32."""
        found = np.empty((len(rows), self.shape[1]), np.float32)
        start = 0
        for block in blocks(self.names, 1 << 16):
            first, last = np.searchsorted(rows, (start, start + len(block)))
            found[first:last] = block[rows[first:last] - start]
            start += len(block)
        return found


def read_ids(file: str, n: int) -> np.ndarray:
    """n integer ids (n,): a column or a row of a vector file, or an npy array (n,).

    Raises ValueError for other shapes or dtypes, and as `read_vectors`.
    """
    if file.lower().endswith(".npy"):
        with reading(file):
            ids = np.load(file, mmap_mode="r", allow_pickle=False)
    else:
        ids = read_vectors(file)
    if ids.dtype.kind not in "iu" or ids.size != n or max(ids.shape) != n:
        raise ValueError(f"{file}: expected {n} integer ids, got {ids.dtype} {ids.shape}")
    return np.asarray(ids.reshape(-1), np.int64)


def set_parameters(index: Any, **values: Any) -> None:
    """Set nprobe and nshort of an index where they are not None.

    Raises ValueError for an index without lists that is asked for nprobe.
    """
    for name, value in values.items():
        if value is None:
            continue
        if not hasattr(index, name):
            raise ValueError(f"{name}: expected none, {type(index).__name__} has no lists to visit")
        setattr(index, name, value)


def parameters_of(index: Any) -> dict[str, Any]:
    """nprobe, where the index has lists, and nshort, unless it is None and follows k."""
    found = {name: getattr(index, name, None) for name in ("nprobe", "nshort")}
    return {name: value for name, value in found.items() if value is not None}
