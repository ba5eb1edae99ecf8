"""What the two indexes share beside training, searches and codes: what is stored changes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_matrix, integer
from ..errors import KindError
from ..selectors import removal
from ..tensors import takes_tensors
from .codes import Codes
from .searching import Searching
from .training import Training

if TYPE_CHECKING:
    from typing_extensions import Self


class QINCoIndex(Training, Searching, Codes):
    """What the two indexes share: all but lists, quantizer and ids of one's own."""

    __slots__ = ()

    @takes_tensors
    def add(self, x: np.ndarray, numeric_type: Any = None) -> None:
        """Encode and store x (n, d), any real dtype; ids follow on from ntotal. numeric_type is
        FAISS's, and not needed.

        A row takes an id but is never found, and `reconstruct_n` gives NaN for it, where it holds
        NaN or inf, its squares overflow float32, or the quantizer has no list for it. All or
        nothing: on an error or Ctrl-C the index is as before. Other threads may search, save and
        add meanwhile. Shows progress where `verbose`. Beside x it takes M + 16 bytes a vector, and
        m + 4 for each `M_search` of m codes that there has been a search with.

        Raises RuntimeError if untrained, ValueError (also an AssertionError) for a wrong
        dimension.
        """
        engine = self._check_trained()
        check_matrix(x, self.d)
        engine.add(x, None, self._coarse, self.training.device, bool(self.verbose))

    def truncate(self, M: int) -> Self:
        """A new index of the first M codes of all that is stored, 1 <= M <= self.M: less memory and
        decoding for more error. This one stays as it is, and nothing that can change is shared.

        Every step of the codec is trained on its own error, so nothing is trained or encoded again
        (`QINCoCodec.truncate`); ids, direct map and settings are kept. The tables are fitted to a
        sample of the stored vectors as their first M codes decode them. With less than four for
        each of the M * K codewords, those of this index are cut instead; a shortlist is then worse.
        The margins of early exit are not those of the shorter code: without them whole shortlists
        are decoded, and what a range search scans; `distill` calibrates new ones. With M of this
        index, a copy.

        Takes the new index's memory, and that of 50 vectors for each codeword at most. Other
        threads may search meanwhile; what they add waits, and is not in it.

        Raises TypeError for an M that is no integer, ValueError outside 1..self.M, RuntimeError if
        untrained.
        """
        engine = self._check_trained()
        M = integer("M", M, 1, self.M)
        if self.M == M:
            return copy.copy(self)
        index = self._shell(M)
        index.verbose, index._nshort = self.verbose, self._nshort
        index._M_search = None if self._M_search is None else min(self._M_search, M)
        index._exit_margin, index._rerank_device = self._exit_margin, self._rerank_device
        index._length_correction = self._length_correction
        index._additive_weight, index._error_weight = self._additive_weight, self._error_weight
        index._engine = engine.truncate(M)
        return index

    def _shell(self, M: int) -> Self:
        """An untrained index with M codes and otherwise these sizes."""
        raise NotImplementedError  # each index has its own

    def reset(self) -> None:
        """Forget all vectors; the training stays."""
        if self._engine is not None:
            self._engine.reset()

    # -- remove and merge ---------------------------------------------------------------------

    def _remove(self, ids: Any, renumber: bool) -> int:
        if self._engine is None:
            removal(ids, 1)  # raises for what says no ids
            return 0
        return self._engine.remove(ids, renumber)

    def check_compatible_for_merge(self, other: Self) -> None:
        """Raises RuntimeError, with the reason, where `merge_from` cannot take what another index
        stores; one that is also a TypeError where that one is none of this package's."""
        if not isinstance(other, QINCoIndex):
            raise KindError(f"other: expected a {type(self).__name__}, got {type(other)}")
        engine, theirs = self._check_trained(), other._check_trained()
        if engine is theirs:
            raise RuntimeError("merge: an index cannot be merged into itself")
        for part in ("d", "metric_type", "M", "nbits", "nlist"):
            if (mine := getattr(self, part)) != (its := getattr(other, part)):
                raise RuntimeError(f"merge: {part} is {mine} here, and {its} in the other index")
        if type(self) is not type(other):
            raise RuntimeError(f"merge: expected {type(self).__name__}, got {type(other).__name__}")
        if (name := engine.difference(theirs)) is not None:
            raise RuntimeError(
                f"merge: {name} of the two indexes differ; those of one training can be merged: "
                "copies, made or read before anything is added"
            )

    def _merge_from(self, other: Self, add_id: int | None) -> None:
        self.check_compatible_for_merge(other)
        self._check_trained().merge_from(other._check_trained(), add_id)
