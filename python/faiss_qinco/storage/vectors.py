"""Vector files: fvecs bvecs ivecs, fbin u8bin i8bin ibin, npy, HDF5, Parquet, Arrow and Lance, told
apart by the suffix.

*vecs   per row an int32 d, then d values
*bin    uint32 n, uint32 d, then the rows. A cropped download leaves n too large: the size is
        believed, with a warning. The suffix of crops, `.crop_nb_<n>`, is looked through.
npy     a NumPy array (n, d)
HDF5    `file.hdf5:dataset`, as of ann-benchmarks; needs h5py
Parquet, Arrow IPC (.arrow, .feather), Lance    a column of lists, all of one length:
        `file.parquet:column`, or without its name where it is the only one (`columns.py`)
"""

from __future__ import annotations

import importlib
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import KINDS, open_column
from .container import Array, FileFormatError, Path, check_regular, reading, replacing

_VECS: dict[str, np.dtype[Any]] = {
    ".fvecs": np.dtype("<f4"), ".bvecs": np.dtype("u1"), ".ivecs": np.dtype("<i4"),
}  # fmt: skip
_BIN: dict[str, np.dtype[Any]] = {
    ".fbin": np.dtype("<f4"), ".u8bin": np.dtype("u1"),
    ".i8bin": np.dtype("i1"), ".ibin": np.dtype("<i4"),
}  # fmt: skip
SUFFIXES = {*_VECS, *_BIN, ".npy"}  # of files that are nothing but vectors
_KNOWN = " ".join([*_VECS, *_BIN, ".npy"])
_BLOCK = 1 << 24  # values cast and written at a time


def read_vectors(path: Path, start: int = 0, count: int | None = None) -> Array:
    """Rows start .. start + count - 1 of a vector file, (count, d) in the file's own dtype.

    Fewer rows come where the file ends earlier; all of them with count None. The result is a
    read-only view of the mapped file (not contiguous for *vecs), or an array in memory for HDF5,
    Parquet, Arrow and Lance.

    Raises ValueError for an unknown suffix or a negative start or count, MissingFileError and
    FileFormatError (both RuntimeError) for the file, ImportError where a package is missing.
    Warns (UserWarning) if a *bin file is cropped.
    """
    if start < 0:
        raise ValueError(f"start: expected at least 0, got {start}")
    if count is not None and count < 0:
        raise ValueError(f"count: expected at least 0, got {count}")
    rows = slice(start, None if count is None else start + count)
    file, dataset = split_name(path)
    suffix = suffix_of(file)
    if suffix in KINDS:
        with reading(file):
            column = open_column(file, KINDS[suffix], dataset)
            begin, end, _ = rows.indices(column.n)
            return column.read(begin, max(begin, end))
    if dataset is not None:
        h5py = _h5py()
        with _reading(file), h5py.File(file, "r") as hdf5:
            return _numeric(_dataset(hdf5, dataset)[rows])
    with _reading(file):
        if suffix in _VECS:
            return _read_vecs(file, _VECS[suffix], rows)
        if suffix in _BIN:
            return _read_bin(file, _BIN[suffix])[rows]
        if suffix == ".npy":
            return _read_npy(file)[rows]
    raise ValueError(
        f"path: expected {_KNOWN}, {' '.join(KINDS)} or file.hdf5:dataset, got {os.fspath(path)!r}"
    )


def write_vectors(path: Path, x: Array) -> None:
    """Write x, (n, d), as the suffix says, all or nothing; HDF5 is not written.

    A dtype that the format's own holds without loss is converted, npy keeps x's.

    Raises ValueError for an unknown suffix, for an x that is not 2-D with d >= 1, or for n = 0 in
    *vecs (which then could not say d); TypeError for a dtype that the format cannot hold; and
    OSError, MissingFileError among them, if the file cannot be written.
    """
    suffix = suffix_of(os.fspath(path))
    dtype = {**_VECS, **_BIN, ".npy": x.dtype}.get(suffix)
    if dtype is None:
        raise ValueError(f"path: expected {_KNOWN}, got {os.fspath(path)!r}")
    if x.ndim != 2 or x.shape[1] < 1 or (suffix in _VECS and len(x) < 1):
        raise ValueError(f"x: expected (n, d) for {suffix}, got {x.shape}")
    if x.dtype.kind not in "fiu" or not np.can_cast(x.dtype, dtype, "safe"):
        raise TypeError(f"x: expected {dtype} for {suffix}, got {x.dtype}")
    n, d = x.shape
    with replacing(path) as file:
        if suffix == ".npy":
            np.lib.format.write_array(file, x, allow_pickle=False)
            return
        if suffix in _BIN:
            file.write(np.array([n, d], "<u4").tobytes())
        step = max(1, _BLOCK // d)
        for i in range(0, n, step):
            block = np.asarray(x[i : i + step], dtype, order="C")
            if suffix in _VECS:
                heads = np.full((len(block), 1), d, "<i4").view(np.uint8)
                block = np.hstack([heads, block.view(np.uint8)])
            file.write(block.data)


def read_groundtruth(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """The true neighbours of a query set: ids (n, k) int64, and distances (n, k) float32 or None.

    From ivecs or npy: ids alone. From HDF5 (`file.hdf5`, ids in the dataset `neighbors` unless
    `file.hdf5:dataset` says another), and distances from the dataset `distances` if there is one of
    the same shape. From a file of any other name, the layout of the big-ann benchmarks: uint32 n,
    uint32 k, ids int32 (n, k), and distances float32 (n, k) if the size tells that they are there.

    Raises MissingFileError and FileFormatError (both RuntimeError), and ImportError without h5py.
    """
    file, dataset = split_name(path)
    suffix = suffix_of(file)
    distances = None
    if dataset is not None or suffix in {".hdf5", ".h5"}:
        h5py = _h5py()
        with _reading(file), h5py.File(file, "r") as hdf5:
            ids = _numeric(_dataset(hdf5, dataset or "neighbors")[:])
            if "distances" in hdf5 and hdf5["distances"].shape == ids.shape:
                distances = hdf5["distances"][:]
    elif suffix in {".ivecs", ".npy"}:
        ids = read_vectors(file)
    else:
        with _reading(file):
            ids, distances = _read_bigann_groundtruth(file)
    if ids.dtype.kind not in "iu":
        raise FileFormatError(f"{file}: expected integer ids, got {ids.dtype}")
    return ids.astype(np.int64), None if distances is None else distances.astype(np.float32)


@dataclass(frozen=True)
class VectorFile:
    """What a file of vectors holds: `kind` is "fvecs", "u8bin", "npy", "hdf5" and so on, or
    "groundtruth" for the layout of the big-ann benchmarks (d is then the neighbours of a query).
    n rows of d values of this dtype; nbytes, of the file (of the dataset in HDF5, of the numbers in
    a column)."""

    kind: str
    n: int
    d: int
    dtype: np.dtype[Any]
    nbytes: int


def describe_vectors(path: Path) -> VectorFile:
    """What a file holds that `read_vectors` or `read_groundtruth` reads, without reading it all.

    Raises and warns as they do; ValueError for an HDF5 file without a dataset: it says which there
    are.
    """
    file, dataset = split_name(path)
    suffix = suffix_of(file)
    if suffix in KINDS:
        with reading(file):
            found = open_column(file, KINDS[suffix], dataset)
            return VectorFile(KINDS[suffix], found.n, found.d, found.dtype, found.nbytes)
    if dataset is not None or suffix in {".hdf5", ".h5"}:
        h5py = _h5py()
        with _reading(file), h5py.File(file, "r") as hdf5:
            names = sorted(hdf5)
            if dataset is not None:
                x = _dataset(hdf5, dataset)
                n, d = x.shape
                return VectorFile("hdf5", n, d, x.dtype, x.nbytes)
        raise ValueError(f"path: expected {file}:dataset, the dataset being one of {names}")
    if suffix in {*_VECS, *_BIN, ".npy"}:
        mapped = read_vectors(file)
        n, d = mapped.shape
        return VectorFile(suffix[1:], n, d, mapped.dtype, os.path.getsize(file))
    with _reading(file):
        n, k, _ = _bigann_head(file)
        return VectorFile("groundtruth", n, k, np.dtype("<i4"), os.path.getsize(file))


def split_name(path: Path) -> tuple[str, str | None]:
    """(file, dataset) of `file.hdf5:dataset`, or column; (path, None) of anything else."""
    name = os.fspath(path)
    kinds = "|".join(kind[1:] for kind in (".hdf5", ".h5", *KINDS))
    match = re.fullmatch(rf"(.+\.(?:{kinds})):(.+)", name)
    return (match[1], match[2]) if match else (name, None)


@contextmanager
def _reading(file: str) -> Iterator[None]:
    with reading(file):
        check_regular(file)
        yield


def suffix_of(name: str) -> str:
    """Of a file's name, in small letters, without that of a crop."""
    return os.path.splitext(re.sub(r"\.crop_nb_\d+$", "", name))[1].lower()


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: pip install 'faiss-qinco[hdf5]'") from error


def _dataset(hdf5: Any, name: str) -> Any:
    if name not in hdf5 or not hasattr(hdf5[name], "shape"):
        raise FileFormatError(f"no dataset {name!r}, there are {sorted(hdf5)}")
    if len(hdf5[name].shape) != 2:
        raise FileFormatError(f"dataset {name!r}: expected (n, d), got {hdf5[name].shape}")
    return hdf5[name]


def _numeric(x: Array) -> Array:
    if x.ndim != 2 or x.dtype.kind not in "fiu":
        raise FileFormatError(f"expected a matrix of numbers, got {x.dtype} {x.shape}")
    return x


def _map(file: str, dtype: np.dtype[Any], shape: tuple[int, int], offset: int = 0) -> Array:
    return np.asarray(np.memmap(file, dtype, "r", offset, shape))


def _read_vecs(file: str, dtype: np.dtype[Any], rows: slice) -> Array:
    size = os.path.getsize(file)
    head = np.fromfile(file, "<i4", 1)
    d = int(head[0]) if head.size else 0
    width = 4 + d * dtype.itemsize
    if d < 1 or size % width:
        raise FileFormatError(f"truncated or damaged: {size} bytes are no rows of d = {d}")
    raw = _map(file, np.dtype(np.uint8), (size // width, width))[rows]
    # Rows of another d shift all that follow, so a sample finds them without reading the file.
    sample = np.append(np.arange(0, len(raw), 1 + len(raw) // 1000), len(raw) - 1)
    if len(raw) and (raw[sample, :4] != head.view(np.uint8)).any():
        raise FileFormatError(f"damaged: not all rows have d = {d}")
    return raw[:, 4:].view(dtype)


def _read_bin(file: str, dtype: np.dtype[Any]) -> Array:
    n, d = _head(file)
    size = os.path.getsize(file) - 8
    held = size // (d * dtype.itemsize) if d else 0
    if d < 1 or (n > 0 and held < 1) or size > n * d * dtype.itemsize:
        raise FileFormatError(f"truncated or damaged: {size} bytes for {n} rows of d = {d}")
    if held < n:
        warnings.warn(f"{file}: cropped, {held} of {n} rows are there", stacklevel=3)
    return _map(file, dtype, (held, d), 8)


def _read_npy(file: str) -> Array:
    try:
        return _numeric(np.asarray(np.lib.format.open_memmap(file, mode="r")))
    except (OSError, FileFormatError):
        raise
    except Exception as error:  # NumPy parses the header as Python: tokenize.TokenError and others
        raise FileFormatError(f"truncated, or not an npy file ({error})") from error


def _bigann_head(file: str) -> tuple[int, int, bool]:
    """n, k, and whether there are distances."""
    n, k = _head(file)
    size = os.path.getsize(file) - 8
    if size not in (4 * n * k, 8 * n * k) or not n * k:
        raise FileFormatError(
            f"expected {n} x {k} ids, and as many distances or none, got {size} bytes "
            "(a range ground truth is not read here)"
        )
    return n, k, size == 8 * n * k


def _read_bigann_groundtruth(file: str) -> tuple[Array, Array | None]:
    n, k, both = _bigann_head(file)
    ids = np.fromfile(file, "<i4", n * k, offset=8).reshape(n, k)
    if not both:
        return ids, None
    return ids, np.fromfile(file, "<f4", n * k, offset=8 + 4 * n * k).reshape(n, k)


def _head(file: str) -> tuple[int, int]:
    head = np.fromfile(file, "<u4", 2)
    if head.size < 2:
        raise FileFormatError("truncated: shorter than its 8 byte head")
    return int(head[0]), int(head[1])
