"""What FAISS has objects for that hang on an index: its inverted lists and its direct map."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from ..checks import INT64, integer
from .settings import Settings


class InvertedLists:
    """The inverted lists of an index, by the names of `faiss.InvertedLists`, to be read. Ids and
    codes are arrays, copied, where FAISS gives pointers; an untrained index has empty lists.

    Attributes: nlist; code_size, bytes of a code. A list_no is 0 .. nlist-1, an offset below
    `list_size(list_no)`: ValueError for others, TypeError for what is no integer. The order in a
    list is by id, but for what has come last, and changes when that is sorted in.
    """

    __slots__ = ("_index",)

    def __init__(self, index: Settings) -> None:
        self._index = index

    def __repr__(self) -> str:
        return f"<InvertedLists of {self._index!r}>"

    @property
    def nlist(self) -> int:
        return self._index.nlist

    @property
    def code_size(self) -> int:
        return self._index.code_size

    def sizes(self) -> np.ndarray:
        """Those of all lists, (nlist,) int64."""
        engine = self._index._engine
        return np.zeros(self.nlist, np.int64) if engine is None else engine.core.sizes()

    def list_size(self, list_no: int) -> int:
        list_no = integer("list_no", list_no, 0, self.nlist - 1)
        engine = self._index._engine
        return 0 if engine is None else engine.core.list_size(list_no)

    def is_empty(self, list_no: int) -> bool:
        return self.list_size(list_no) == 0

    def get_ids(self, list_no: int) -> np.ndarray:
        """(list_size,) int64."""
        if self.list_size(list_no) == 0:
            return np.empty(0, np.int64)
        return self._index.lists.get_ids(list_no)

    def get_codes(self, list_no: int) -> np.ndarray:
        """(list_size, code_size) uint8."""
        if self.list_size(list_no) == 0:
            return np.empty((0, self.code_size), np.uint8)
        return _core.pack_codes(self._index.lists.get_codes(list_no), self._index.nbits)

    def get_single_id(self, list_no: int, offset: int) -> int:
        ids = self.get_ids(list_no)
        return int(ids[integer("offset", offset, 0, len(ids) - 1)])

    def get_single_code(self, list_no: int, offset: int) -> np.ndarray:
        """(code_size,) uint8."""
        offset = integer("offset", offset, 0, self.list_size(list_no) - 1)
        code = self._index.lists.codes_at(np.array([list_no]), np.array([offset]))
        return np.ravel(_core.pack_codes(code, self._index.nbits))

    def compute_ntotal(self) -> int:
        """Vectors in the lists: without those that could not be stored."""
        engine = self._index._engine
        return 0 if engine is None else engine.core.n_stored

    def imbalance_factor(self) -> float:
        """1.0 for lists of one size, nlist if all is in one; NaN for an empty index."""
        sizes = self.sizes().astype(np.float64)
        total = float(sizes.sum())
        return float(np.square(sizes).sum()) * self.nlist / total**2 if total else float("nan")

    def print_stats(self) -> None:
        """Print how many lists are smaller than each power of two, and not than the one before."""
        bits = np.frexp(self.sizes().astype(np.float64))[1]
        for b, count in enumerate(np.bincount(bits).tolist()):
            if count:
                print(f"list size in < {1 << b}: {count} instances")

    def prefetch_lists(self, list_nos: np.ndarray) -> None:
        """Nothing, as in FAISS where lists are in memory."""

    def release_ids(self, list_no: int, ids: np.ndarray) -> None:
        """Nothing: they are a copy."""

    def release_codes(self, list_no: int, codes: np.ndarray) -> None:
        """Nothing: they are a copy."""


class DirectMap:
    """The direct map of an index, by the names of `faiss.DirectMap`, to be read."""

    NoMap, Array, Hashtable = 0, 1, 2

    __slots__ = ("_index",)

    def __init__(self, index: Any) -> None:
        self._index = index

    def __repr__(self) -> str:
        return f"<DirectMap of type {('NoMap', 'Array', 'Hashtable')[self.type]}>"

    @property
    def type(self) -> int:
        """NoMap, Array or Hashtable: what was asked for. Ours takes any ids in both."""
        return int(self._index._direct_map_type)

    def no(self) -> bool:
        """Whether there is none."""
        return self.type == self.NoMap

    def get(self, id: int) -> int:
        """list_no << 32 | offset of an id. Raises RuntimeError without a map, or where no vector
        has the id."""
        list_no, offset = self._index._located(np.array([integer("id", id, *INT64)]))
        return int(list_no[0]) << 32 | int(offset[0])
