"""What the calls of an index accept as arrays."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .errors import ArgumentError, ArgumentTypeError


def as_matrix(x: Any, d: int) -> np.ndarray:
    """x as (n, d) float32, C-contiguous; cast as FAISS does, from any real dtype and order.

    Raises AttributeError (also a TypeError) without a shape, ValueError unless two-dimensional,
    AssertionError (also a ValueError) for another d.
    """
    if not hasattr(x, "shape"):
        raise ArgumentTypeError(f"x: expected an array (n, {d}), got {type(x)}")
    if len(x.shape) != 2:
        raise ValueError(f"x: expected shape (n, {d}), got {tuple(x.shape)}")
    if x.shape[1] != d:
        raise ArgumentError(f"x: expected d={d} columns, got shape {tuple(x.shape)}")
    return np.ascontiguousarray(x, dtype=np.float32)


def as_ids(xids: Any, n: int) -> np.ndarray:
    """xids as (n,) int64. Raises as `as_matrix`."""
    if not hasattr(xids, "shape"):
        raise ArgumentTypeError(f"xids: expected an array ({n},), got {type(xids)}")
    if tuple(xids.shape) != (n,):
        raise ArgumentError(f"xids: expected shape ({n},), got {tuple(xids.shape)}")
    return np.ascontiguousarray(xids, dtype=np.int64)


def check_buffer(name: str, buffer: np.ndarray | None, shape: tuple[int, ...], dtype: type) -> None:
    """An output buffer that a caller may give.

    Raises AssertionError (also a ValueError) for a wrong shape, TypeError for a wrong dtype,
    ValueError unless C-contiguous.
    """
    if buffer is None:
        return
    if tuple(buffer.shape) != shape:
        raise ArgumentError(f"{name}: expected shape {shape}, got {tuple(buffer.shape)}")
    if buffer.dtype != dtype:
        raise TypeError(f"{name}: expected {np.dtype(dtype)}, got {buffer.dtype}")
    if not buffer.flags.c_contiguous:
        raise ValueError(f"{name}: expected a C-contiguous array")


def check_k(k: Any, n: int, D: np.ndarray | None, I: np.ndarray | None) -> int:
    """k as an integer, where it and the buffers (n, k) are right."""
    k = operator.index(k)
    if k <= 0:
        raise ArgumentError(f"k: expected at least 1, got {k}")
    check_buffer("D", D, (n, k), np.float32)
    check_buffer("I", I, (n, k), np.int64)
    return int(k)


def filled(buffer: np.ndarray | None, value: np.ndarray) -> np.ndarray:
    """`value`, in the caller's buffer where one was given."""
    if buffer is None:
        return value
    buffer[...] = value
    return buffer
