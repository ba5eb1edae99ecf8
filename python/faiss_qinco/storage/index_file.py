"""Index files: an index's state in the container of `container.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..index import IndexIVFQINCo, IndexQINCo
from .container import (
    FileFormatError,
    Path,
    from_bytes,
    read_tensors,
    reading,
    to_bytes,
    write_tensors,
)

_TYPES = {kind.__name__: kind for kind in (IndexIVFQINCo, IndexQINCo)}


def write_index(index: IndexIVFQINCo | IndexQINCo, path: Path) -> None:
    """Write an index to a file, atomically: a failed write leaves an old file whole.

    The coarse quantizer, nprobe, nshort, ids and direct map are kept; the settings of a training
    still to be done are not. Raises OSError where the file cannot be written, TypeError for an
    index of another kind.
    """
    write_tensors(path, "index", *_state(index))


def read_index(path: Path, io_flags: int = 0) -> Any:
    """Read an index written by `write_index`. torch is not imported.

    io_flags must be 0. Raises RuntimeError for a file that is missing, truncated, damaged, of
    another kind or of a newer version; ValueError for other io_flags.
    """
    if io_flags:
        raise ValueError(f"io_flags: only 0 is supported, got {io_flags}")
    return _from_state(path, *read_tensors(path, "index"))


def serialize_index(index: IndexIVFQINCo | IndexQINCo) -> np.ndarray:
    """The bytes that `write_index` would write, (n,) uint8."""
    return np.frombuffer(to_bytes("index", *_state(index)), np.uint8)


def deserialize_index(data: np.ndarray) -> Any:
    """Inverse of `serialize_index`, with the errors of `read_index`."""
    content = np.ascontiguousarray(data, np.uint8).tobytes()
    return _from_state("<bytes>", *from_bytes(content, "index"))


def _state(index: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if type(index) not in _TYPES.values():
        raise TypeError(f"index: expected one of {[*_TYPES]}, got {type(index)}")
    header, tensors = index.state()
    return header, tensors


def _from_state(name: Path, header: dict[str, Any], tensors: dict[str, np.ndarray]) -> Any:
    with reading(name):
        kind = header["type"]
        if kind not in _TYPES:
            raise FileFormatError(f"unknown index type {kind!r}")
        return _TYPES[kind].from_state(header, tensors)
