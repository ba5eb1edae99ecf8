"""What the commands share: kinds of arguments, the vector files they name, threads."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ..pipeline.memory import parse_bytes
from ..storage.container import reading
from ..storage.vectors import read_vectors
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


def add_files(parser: argparse._ActionsContainer, name: str, help: str, **more: Any) -> None:
    """An option that takes one or several vector files, folders of them and patterns."""
    parser.add_argument(name, nargs="+", metavar="FILE", help=help, **more)


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=number(int), metavar="N", help="threads to use (default: all)"
    )


def add_memory(parser: argparse.ArgumentParser, help: str, default: int | None = None) -> None:
    parser.add_argument(
        "--memory", type=argument("bytes", parse_bytes), metavar="BYTES", default=default, help=help
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
    """Set nprobe, nshort and others of an index where they are not None; efSearch is its
    quantizer's.

    Raises ValueError where there is no such setting.
    """
    for name, value in values.items():
        if value is None:
            continue
        if name == "efSearch":
            quantizer = getattr(index, "quantizer", None)
            graph = faiss.downcast_index(quantizer) if quantizer is not None else None
            if not isinstance(graph, faiss.IndexHNSW):
                raise ValueError(f"{name}: expected none, the quantizer is no HNSW graph")
            graph.hnsw.efSearch = value
            continue
        if not hasattr(index, name):
            raise ValueError(f"{name}: expected none, {type(index).__name__} has no lists to visit")
        setattr(index, name, value)


def parameters_of(index: Any) -> dict[str, Any]:
    """nprobe, where the index has lists, and nshort, unless it is None and follows k."""
    found = {name: getattr(index, name, None) for name in ("nprobe", "nshort")}
    return {name: value for name, value in found.items() if value is not None}
