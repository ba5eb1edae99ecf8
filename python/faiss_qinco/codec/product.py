"""PQ-QINCo: codecs of parts of the vectors, side by side (QINCo, arXiv 2401.14732, section 5)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError
from ..storage.container import FileFormatError, finite, write_tensors


class PQQINCoCodec:
    """Codecs of the parts of a vector: codes (n, M) are those of the first, of the second, …

    There are published ones, which `QINCoCodec.load` reads; none is trained here, and there is no
    index of one.

    Attributes
    ----------
    parts : the QINCoCodecs, without an IVF; their dimensions and M add up to d and M.
    matrix : (d, d) float32, orthonormal, a rotation (OPQ) of x before it is cut: x @ matrix.T; None
        for none.
    d, M : dimension, codes per vector.
    """

    def __init__(self, parts: Sequence[Any], matrix: np.ndarray | None = None) -> None:
        self.parts, self.matrix = list(parts), matrix
        self.d: int = sum(part.d for part in parts)
        self.M: int = sum(part.M for part in parts)
        if not self.parts or any(part.nlist is not None for part in parts):
            raise ValueError("parts: expected at least one codec, without an IVF")
        if matrix is not None and matrix.shape != (self.d, self.d):
            raise ValueError(f"matrix: expected shape ({self.d}, {self.d}), got {matrix.shape}")

    def __repr__(self) -> str:
        rotated = "" if self.matrix is None else " rotated"
        return f"<PQQINCoCodec d={self.d}{rotated} {self.parts}>"

    def encode(self, x: np.ndarray, **kwargs: Any) -> np.ndarray:
        """x (n, d), any real dtype -> codes (n, M) uint8. The keywords, and what is raised, are
        those of `QINCoCodec.encode`, but for list_no and additive."""
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.d:
            raise ArgumentError(f"x: expected shape (n, {self.d}), got {x.shape}")
        if self.matrix is not None:
            with np.errstate(over="ignore", invalid="ignore"):  # found by `encode`
                x = np.asarray(x, np.float32) @ self.matrix.T
        ends = np.cumsum([part.d for part in self.parts])
        vectors = np.split(x, ends[:-1], axis=1)
        codes = [p.encode(v, **kwargs) for p, v in zip(self.parts, vectors, strict=True)]
        return np.hstack(codes)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """codes (n, M) integers -> (n, d) float32. Raises as `QINCoCodec.decode`."""
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.shape[1] != self.M:
            raise ArgumentError(f"codes: expected shape (n, {self.M}), got {codes.shape}")
        ends = np.cumsum([part.M for part in self.parts])
        columns = np.split(codes, ends[:-1], axis=1)
        x = np.hstack([p.decode(c) for p, c in zip(self.parts, columns, strict=True)])
        return x if self.matrix is None else np.asarray(x @ self.matrix)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a file holds: a JSON header and the tensors."""
        headers: list[dict[str, Any]] = []
        tensors: dict[str, np.ndarray] = {}
        for i, part in enumerate(self.parts):
            header, own = part.state()
            headers.append(header)
            tensors |= {f"parts.{i}.{name}": tensor for name, tensor in own.items()}
        if self.matrix is not None:
            tensors["matrix"] = self.matrix
        return {"parts": headers}, tensors

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file, as `QINCoCodec.save`; `QINCoCodec.load` reads it."""
        write_tensors(path, "codec", *self.state())


def checked_rotation(matrix: np.ndarray, d: int) -> np.ndarray:
    """The matrix of a file, once it is known to be one of a rotation, to rounding."""
    if matrix.dtype != np.float32 or matrix.shape != (d, d):
        raise FileFormatError(f"matrix: expected float32 ({d}, {d}), got {matrix.shape}")
    product = finite("matrix", matrix) @ matrix.T
    if not np.allclose(product, np.eye(d, dtype=np.float32), atol=1e-3):
        raise FileFormatError("matrix: expected orthonormal rows")
    return matrix
