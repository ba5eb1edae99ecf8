"""Codes and what they decode to."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from ..checks import INT64, as_matrix, check_buffer, filled, integer
from ..engine import Engine
from ..errors import ArgumentError
from ..tensors import takes_tensors
from ..threads import get_num_threads
from .settings import Settings


class Codes(Settings):
    """Methods from vectors to codes and back."""

    __slots__ = ()

    @takes_tensors
    def reconstruct_n(self, n0: int = 0, ni: int = -1, x: np.ndarray | None = None) -> np.ndarray:
        """The decoded vectors of ids n0 .. n0+ni-1, (ni, d) float32; ni = -1: all from n0.

        NaN where no vector has the id. Raises RuntimeError out of bounds or untrained.
        """
        ntotal = self.ntotal
        n0, ni = integer("n0", n0, *INT64), integer("ni", ni, *INT64)
        ni = ntotal - n0 if ni == -1 else ni
        if ni < 0 or n0 < 0 or n0 + ni > ntotal:
            raise RuntimeError(f"ids {n0}..{n0 + ni - 1} are not all in 0..{ntotal - 1}")
        check_buffer("x", x, (ni, self.d), np.float32)
        if ni == 0:
            return filled(x, np.empty((0, self.d), np.float32))
        core = self._check_trained().core
        return filled(x, core.reconstruct_n(n0, ni, n_threads=get_num_threads()))

    # -- codes --------------------------------------------------------------------------------

    @takes_tensors
    def reconstruct_batch(self, key: np.ndarray, x: np.ndarray | None = None) -> np.ndarray:
        """The decoded vectors (n, d) float32 of ids key (n,), a list or an array, cast to int64.

        x : buffer to fill and return. Raises RuntimeError for an id that no vector has, if
        untrained and, of an inverted file, without a direct map; ValueError for a wrong shape.
        """
        core, ids = self._check_trained().core, np.ascontiguousarray(key, np.int64)
        if ids.ndim != 1:
            raise ValueError(f"key: expected shape (n,), got {ids.shape}")
        check_buffer("x", x, (len(ids), self.d), np.float32)
        with core.reading():
            decoded = core.reconstruct_at(*self._located(ids), n_threads=get_num_threads())
        return filled(x, decoded)

    def _located(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where ids (n,) int64 are: list_no and offset (n,). RuntimeError for one that is not."""
        list_no, offset = self._check_trained().core.locate(ids)
        if len(missing := np.flatnonzero(list_no < 0)):
            raise RuntimeError(f"no vector has the id {ids[missing[0]]}")
        return list_no, offset

    def sa_code_size(self) -> int:
        """Bytes per vector of `sa_encode`."""
        return self.code_size + self._coarse_bytes()

    def _coarse_bytes(self) -> int:
        return 0

    @takes_tensors
    def sa_encode(self, x: np.ndarray, codes: np.ndarray | None = None) -> np.ndarray:
        """x (n, d) -> (n, sa_code_size()) uint8: the list number, little-endian, then the code.

        codes : buffer to fill and return. Raises RuntimeError if untrained or for a row that cannot
        be stored (see `add`).
        """
        engine, x = self._check_trained(), as_matrix(x, self.d)
        check_buffer("codes", codes, (len(x), self.sa_code_size()), np.uint8)
        return filled(codes, self._packed(*self._encoded(engine, x, self._coarse.assign(x))))

    @takes_tensors
    def sa_decode(self, codes: np.ndarray, x: np.ndarray | None = None) -> np.ndarray:
        """Codes of `sa_encode` -> (n, d) float32, what `reconstruct` gives for such vectors, but
        for their length where there is `length_correction`: these codes do not say it.

        x : buffer to fill and return. Raises TypeError unless uint8, ValueError (also an
        AssertionError) for a wrong width, RuntimeError if untrained or for a list number out of
        range.
        """
        engine = self._check_trained()
        list_no, codes = self._unpacked(codes, self._coarse_bytes())
        check_buffer("x", x, (len(codes), self.d), np.float32)
        return filled(x, engine.decode(list_no, codes))

    def _encoded(
        self, engine: Engine, x: np.ndarray, list_no: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lists (n,) and codes (n, M), all of which there are."""
        list_no, codes = engine.encode(x, list_no, self.training.device)
        if (list_no < 0).any():
            row = int(np.flatnonzero(list_no < 0)[0])
            raise RuntimeError(f"x: row {row} (NaN, inf, too large, or without a list) has no code")
        return list_no, codes

    def _packed(self, list_no: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """With the list number in front."""
        coarse = np.ascontiguousarray(list_no, "<i8")[:, None].view(np.uint8)
        packed = _core.pack_codes(codes, self.nbits)
        return np.hstack((coarse[:, : self._coarse_bytes()], packed))

    def _unpacked(self, codes: Any, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Checked lists (n,), of the first `width` bytes, and codes (n, M)."""
        expected = width + self.code_size
        if getattr(codes, "dtype", None) != np.uint8:
            raise TypeError(f"codes: expected a uint8 array, got {getattr(codes, 'dtype', codes)}")
        if codes.ndim != 2 or codes.shape[1] != expected:
            raise ArgumentError(f"codes: expected shape (n, {expected}), got {codes.shape}")
        coarse = np.zeros((len(codes), 8), np.uint8)
        coarse[:, :width] = codes[:, :width]
        list_no = coarse.view("<i8")[:, 0].astype(np.int64)
        if len(list_no) and not 0 <= list_no.min() <= list_no.max() < self.nlist:
            raise RuntimeError(f"codes: a list number is not in 0..{self.nlist - 1}")
        packed = np.ascontiguousarray(codes[:, width:])
        return list_no, _core.unpack_codes(packed, self.M, self.nbits)
