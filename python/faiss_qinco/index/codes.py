"""Codes and what they decode to."""

from __future__ import annotations

import numpy as np

from .. import _core
from ..checks import as_matrix, check_buffer, filled, integer
from ..errors import ArgumentError
from ..threads import get_num_threads
from .settings import INT64, Settings


class Codes(Settings):
    """Methods from vectors to codes and back."""

    __slots__ = ()

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

    def sa_code_size(self) -> int:
        """Bytes per vector of `sa_encode`."""
        return self.code_size + self._coarse_bytes()

    def _coarse_bytes(self) -> int:
        return 0

    def sa_encode(self, x: np.ndarray) -> np.ndarray:
        """x (n, d) -> (n, sa_code_size()) uint8: the list number, little-endian, then the code.

        Raises RuntimeError if untrained or for a row that cannot be stored (see `add`).
        """
        engine, x = self._check_trained(), as_matrix(x, self.d)
        list_no, codes = engine.encode(x, self._coarse.assign(x), self.training.device)
        if (list_no < 0).any():
            row = int(np.flatnonzero(list_no < 0)[0])
            raise RuntimeError(f"x: row {row} (NaN, inf, too large, or without a list) has no code")
        coarse = np.ascontiguousarray(list_no, "<i8")[:, None].view(np.uint8)
        packed = _core.pack_codes(codes, self.nbits)
        return np.hstack((coarse[:, : self._coarse_bytes()], packed))

    def sa_decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes of `sa_encode` -> (n, d) float32, what `reconstruct` gives for such vectors, but
        for their length where there is `length_correction`: these codes do not say it.

        Raises TypeError unless uint8, ValueError (also an AssertionError) for a wrong width,
        RuntimeError if untrained or for a list number out of range.
        """
        engine = self._check_trained()
        if codes.dtype != np.uint8:
            raise TypeError(f"codes: expected uint8, got {codes.dtype}")
        if codes.ndim != 2 or codes.shape[1] != self.sa_code_size():
            raise ArgumentError(
                f"codes: expected shape (n, {self.sa_code_size()}), got {codes.shape}"
            )
        width = self._coarse_bytes()
        coarse = np.zeros((len(codes), 8), np.uint8)
        coarse[:, :width] = codes[:, :width]
        list_no = coarse.view("<i8")[:, 0].astype(np.int64)
        if len(list_no) and not 0 <= list_no.min() <= list_no.max() < self.nlist:
            raise RuntimeError(f"codes: a list number is not in 0..{self.nlist - 1}")
        packed = np.ascontiguousarray(codes[:, width:])
        return engine.decode(list_no, _core.unpack_codes(packed, self.M, self.nbits))
