"""Arguments: what the calls of an index accept, and what they say of the rest.

NumPy's integers are integers everywhere. The errors are Python's usual ones and FAISS's at once
(see `errors`).
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .errors import ArgumentError, ArgumentTypeError

INT64 = (-(1 << 63), (1 << 63) - 1)


def integer(name: str, value: Any, low: int, high: int) -> int:
    """An integer in low..high. Raises TypeError for anything else than one, ValueError outside."""
    number = _index(name, value)
    if not low <= number <= high:
        raise ValueError(f"{name}: expected {low}..{high}, got {value!r}")
    return number


def size(name: str, value: Any) -> int:
    """An integer >= 0, with the errors of FAISS's size_t attributes: TypeError, OverflowError."""
    number = _index(name, value)
    if number < 0:
        raise OverflowError(f"{name}: expected an integer >= 0, got {number}")
    return number


def number(name: str, value: Any) -> float:
    """A real number. Raises TypeError for anything else, text included."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected a number, got {type(value)}") from error


def margin_factor(value: Any) -> float:
    """A factor >= 0, inf included. Raises TypeError or ValueError for anything else."""
    factor = number("exit_margin", value)
    if not factor >= 0:
        raise ValueError(f"exit_margin: expected a number >= 0, got {value!r}")
    return factor


def as_matrix(x: Any, d: int) -> np.ndarray:
    """x as (n, d) float32, C-contiguous; cast as FAISS does, from any real dtype and order.

    Raises AttributeError (also a TypeError) without a shape, ValueError unless two-dimensional,
    AssertionError (also a ValueError) for another d.
    """
    check_matrix(x, d)
    return np.ascontiguousarray(x, dtype=np.float32)


def check_matrix(x: Any, d: int) -> None:
    """Raises as `as_matrix`, and converts nothing."""
    if not hasattr(x, "shape"):
        raise ArgumentTypeError(f"x: expected an array (n, {d}), got {type(x)}")
    if len(x.shape) != 2:
        raise ValueError(f"x: expected shape (n, {d}), got {tuple(x.shape)}")
    if x.shape[1] != d:
        raise ArgumentError(f"x: expected d={d} columns, got shape {tuple(x.shape)}")


MAX_NORM = float(np.finfo(np.float32).max) / 4  # squared: that of a difference is four times it


def usable(x: np.ndarray) -> np.ndarray:
    """Which rows of x (n, d) float32 are finite, and short enough for squared distances in float32:
    (n,) bool."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.einsum("ij,ij->i", x, x)
    return np.asarray(norms <= MAX_NORM)  # False for NaN


def complaint(row: np.ndarray) -> str:
    """What is wrong with a row (d,) that is not `usable`."""
    if np.isfinite(row).all():
        return "is so long that its squared norm overflows float32"
    return "contains NaN or inf"


def as_ids(xids: Any, n: int) -> np.ndarray:
    """xids as (n,) int64. Raises as `as_matrix`."""
    if not hasattr(xids, "shape"):
        raise ArgumentTypeError(f"xids: expected an array ({n},), got {type(xids)}")
    if tuple(xids.shape) != (n,):
        raise ArgumentError(f"xids: expected shape ({n},), got {tuple(xids.shape)}")
    return np.ascontiguousarray(xids, dtype=np.int64)


def as_id_array(ids: Any) -> np.ndarray:
    """ids (m,), of any integer dtype, as int64; floats that are whole numbers as well, as in FAISS.

    Raises AttributeError (also a TypeError) without a shape, AssertionError (also a ValueError)
    unless one-dimensional, TypeError for another dtype, ValueError for what int64 does not hold.
    """
    if not hasattr(ids, "shape"):
        raise ArgumentTypeError(f"ids: expected an array (m,) or a faiss.IDSelector, got {ids!r}")
    array = np.asarray(ids)
    if array.ndim != 1:
        raise ArgumentError(f"ids: expected shape (m,), got {array.shape}")
    if array.dtype.kind not in "iuf":  # bool: a mask, which ids 0 and 1 would be made of
        raise TypeError(f"ids: expected integers, got {array.dtype}")
    with np.errstate(invalid="ignore"):
        cast = np.ascontiguousarray(array, np.int64)
    bad = cast != array
    if bad.any():
        raise ValueError(f"ids: expected integers below 2^63, got {array[bad][0]}")
    return cast


def check_buffer(name: str, buffer: np.ndarray | None, shape: tuple[int, ...], dtype: type) -> None:
    """An output buffer that a caller may give.

    Raises AssertionError (also a ValueError) for a wrong shape, TypeError for a wrong dtype,
    ValueError unless C-contiguous and writable.
    """
    if buffer is None:
        return
    if tuple(buffer.shape) != shape:
        raise ArgumentError(f"{name}: expected shape {shape}, got {tuple(buffer.shape)}")
    if buffer.dtype != dtype:
        raise TypeError(f"{name}: expected {np.dtype(dtype)}, got {buffer.dtype}")
    if not (buffer.flags.c_contiguous and buffer.flags.writeable):
        raise ValueError(f"{name}: expected a C-contiguous array that can be written to")


def result_buffers(
    k: Any, n: int, D: np.ndarray | None, I: np.ndarray | None
) -> tuple[int, np.ndarray, np.ndarray]:
    """k as an integer; D (n, k) float32 and I (n, k) int64, the caller's where they are given.

    Raises TypeError for a k that is no integer, AssertionError (also a ValueError) below 1,
    MemoryError or ValueError for one that no memory could hold, and as `check_buffer`.
    """
    k = _index("k", k)
    if k <= 0:
        raise ArgumentError(f"k: expected at least 1, got {k}")
    check_buffer("D", D, (n, k), np.float32)
    check_buffer("I", I, (n, k), np.int64)
    if max(n, 1) * k * 12 > 1 << 47:  # more than any address space; NumPy's error would say less
        raise ArgumentError(f"k: {n} queries with {k} results each do not fit into memory")
    return (
        k,
        np.empty((n, k), np.float32) if D is None else D,
        np.empty((n, k), np.int64) if I is None else I,
    )


def filled(buffer: np.ndarray | None, value: np.ndarray) -> np.ndarray:
    """`value`, in the caller's buffer where one was given."""
    if buffer is None:
        return value
    buffer[...] = value
    return buffer


def _index(name: str, value: Any) -> int:
    try:
        return int(operator.index(value))
    except TypeError as error:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from error
