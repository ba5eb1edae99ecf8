"""`IndexIDMap` and `IndexIDMap2`: ids of the caller's own in front of an index of ours that numbers
its vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import faiss
import numpy as np

from ..checks import INT64, as_id_array, as_ids, check_buffer, check_matrix, filled, integer
from ..index import IndexIVFQINCo
from ..pre_transform import IndexPreTransform
from ..selectors import id_filter
from ..threads import get_num_threads
from .base import Wrapper, check_inside, leaves
from .lock import Lock
from .of_index import OfIndex
from .search_params import selecting, translated

_UNSORTED = 1 << 16  # ids added since they were sorted, at most: one look-up goes through them


class IndexIDMap(Wrapper):
    """Ids of one's own for an index that numbers its vectors, as `faiss.IndexIDMap`.

    Parameters
    ----------
    index : IndexIVFQINCo, IndexQINCo, IndexPreTransform, or another one around these; empty.

    Around an IndexIVFQINCo, which has ids of its own, it works as FAISS's does; but after
    `remove_ids`, where FAISS's then gives wrong ids, the vectors inside are numbered anew.

    Attributes
    ----------
    index : the index inside, in which nothing may be added or removed past this one.
    id_map : faiss.Int64Vector, the id of each vector by its number in `index`.
    nprobe, min_codes, nshort, exit_margin, M_search, rerank_device, training, verbose : of the
        index inside.
    d, ntotal, is_trained, metric_type, codec, config, nlist, M, nbits, code_size : as of the index
        inside. own_fields : of no effect.

    Searches, changes and saves may come from several threads at once, as of an IndexIVFQINCo.

    Raises TypeError for another index, RuntimeError for one that is not empty.
    """

    _attributes: tuple[str, ...] = ("_lock", "id_map", "index", "own_fields")

    nprobe, nshort, exit_margin, M_search = OfIndex(), OfIndex(), OfIndex(), OfIndex()
    rerank_device, training, verbose, min_codes = OfIndex(), OfIndex(), OfIndex(), OfIndex()
    d, ntotal, is_trained = OfIndex(), OfIndex(), OfIndex()
    metric_type, metric_arg = OfIndex(), OfIndex()
    codec, config, nlist, M, nbits = OfIndex(), OfIndex(), OfIndex(), OfIndex(), OfIndex()
    code_size = OfIndex()

    def __init__(self, index: Any) -> None:
        check_inside("index", index)
        if index.ntotal:
            raise RuntimeError(f"index must be empty on input, and holds {index.ntotal} vectors")
        self._start(index, np.empty(0, np.int64))

    @classmethod
    def _of(cls, index: Any, ids: np.ndarray) -> Any:
        """What was read from a file."""
        made = cls.__new__(cls)
        made._start(index, ids)
        return made

    def _start(self, index: Any, ids: np.ndarray) -> None:
        check_inside("index", index)
        if isinstance(index, IndexIDMap):
            raise TypeError("index: expected one that numbers its vectors, got an IndexIDMap")
        self.index, self.own_fields, self._lock = index, False, Lock()
        self.id_map = faiss.Int64Vector()
        faiss.copy_array_to_vector(ids, self.id_map)

    def _inside(self) -> list[Any]:
        return [self.index]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.index!r}>"

    def _ids(self) -> np.ndarray:
        """id_map as an array, which is a view of it."""
        n = self.id_map.size()
        found: np.ndarray = (
            faiss.rev_swig_ptr(self.id_map.data(), n) if n else np.empty(0, np.int64)
        )
        return found

    def memory_usage(self) -> dict[str, float]:
        """As of the index inside, and `id_map`."""
        usage = dict(self.index.memory_usage())
        extra = 8 * self.id_map.size()
        total = usage.pop("total") + extra
        per_vector = total / self.ntotal if self.ntotal else 0.0
        return usage | {"id_map": extra, "total": total, "per_vector": per_vector}

    # -- build --------------------------------------------------------------------------------

    def train(self, x: np.ndarray) -> None:
        """`train` of the index inside."""
        self.index.train(x)

    def add(self, x: np.ndarray) -> None:
        """Raises RuntimeError: `add_with_ids` is meant."""
        raise RuntimeError("add does not make sense with IndexIDMap, use add_with_ids")

    def add_with_ids(self, x: np.ndarray, xids: np.ndarray) -> None:
        """Add x (n, d), with ids xids (n,), cast to int64; any values, duplicates kept. All or
        nothing. Raises as the `add` of the index inside, and for ids as that of an IndexIVFQINCo.
        """
        check_matrix(x, self.d)
        ids = as_ids(xids, x.shape[0])
        with self._growing(ids):
            self.index.add(x)

    @contextmanager
    def _growing(self, ids: np.ndarray) -> Iterator[None]:
        """With ids for the vectors that the block adds. Searches may go on in it."""
        with self._lock.changing():
            n = self._synced()
            with self._lock.alone():
                self.id_map.resize(n + len(ids))
                self._ids()[n:] = ids
            try:
                yield
            except BaseException:
                with self._lock.alone():
                    self.id_map.resize(n)
                raise

    def _synced(self) -> int:
        n: int = self.index.ntotal
        if self.id_map.size() != n:
            raise RuntimeError(
                f"id_map: {self.id_map.size()} ids for {n} vectors; add and remove through the "
                f"{type(self).__name__}, not through its index"
            )
        return n

    def reset(self) -> None:
        """Forget all vectors; the training stays."""
        with self._lock.changing(), self._lock.alone():
            self.index.reset()
            self._replace(np.empty(0, np.int64))

    def _replace(self, ids: np.ndarray) -> None:
        faiss.copy_array_to_vector(np.ascontiguousarray(ids), self.id_map)

    def remove_ids(self, ids: Any) -> int:
        """Remove all vectors that have one of some ids (m,), or that a `faiss.IDSelector` accepts;
        how many it were. Raises as `IndexIVFQINCo.remove_ids`."""
        with self._lock.changing():
            self._synced()
            mine = self._ids().copy()  # a selector may search, so this is not done alone
            if isinstance(ids, faiss.IDSelector):
                filter, _ = id_filter(ids, get_num_threads())
                gone = np.ones(len(mine), bool) if filter is None else filter.accept(mine)
            else:
                gone = np.isin(mine, as_id_array(ids))
            gone = np.asarray(gone, bool)
            kept = mine[~gone]
            if n := len(mine) - len(kept):
                with self._lock.alone():
                    _remove_numbers(self.index, np.flatnonzero(gone))
                    self._replace(kept)
            return n

    def check_compatible_for_merge(self, other: Any) -> None:
        """Raises as that of the index inside, and TypeError for no IndexIDMap."""
        check_inside("other", other, (IndexIDMap,))
        self.index.check_compatible_for_merge(other.index)

    def merge_from(self, other: Any, add_id: int = 0) -> None:
        """Move all that another IndexIDMap of the same training stores into this one: `merge_from`
        of the index inside. Its ids are raised by add_id. Raises as that, and ValueError for an id
        that int64 does not hold."""
        self.check_compatible_for_merge(other)
        if other is self:
            raise RuntimeError("merge: an index cannot be merged into itself")
        add_id = integer("add_id", add_id, *INT64)
        with ExitStack() as stack:
            for one in sorted((self, other), key=id):
                stack.enter_context(one._lock.changing())
                stack.enter_context(one._lock.alone())
            n, theirs = self._synced(), other._ids()
            other._synced()
            if len(theirs) and not (
                INT64[0] <= int(theirs.min()) + add_id and int(theirs.max()) + add_id <= INT64[1]
            ):
                raise ValueError(f"add_id: {add_id} makes an id that is no int64")
            both = np.concatenate([self._ids(), theirs + add_id])
            has_ids = all(isinstance(leaf, IndexIVFQINCo) for leaf in leaves(self.index))
            self.index.merge_from(other.index, n if has_ids else 0)
            self._replace(both)
            other._replace(both[:0])

    # -- search -------------------------------------------------------------------------------

    def search(
        self,
        x: np.ndarray,
        k: int,
        *,
        params: Any = None,
        D: np.ndarray | None = None,
        I: np.ndarray | None = None,
        numeric_type: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """`search` of the index inside, with ids from `id_map`; the selector of `params` is asked
        of these too. Raises as that."""
        with self._lock.reading():
            D, I = self.index.search(x, k, params=self._translated(params), D=D, I=I)
            self._to_ids(I)
        assert D is not None and I is not None
        return D, I

    def range_search(
        self, x: np.ndarray, thresh: float, *, params: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`range_search` of the index inside, as `search`."""
        with self._lock.reading():
            lims, D, I = self.index.range_search(x, thresh, params=self._translated(params))
            self._to_ids(I)
        return lims, D, I

    def _translated(self, params: Any) -> Any:
        return selecting(params, lambda sel: translated(sel, self.id_map))

    def _to_ids(self, I: Any) -> None:
        numbers, ids = np.asarray(I), self._ids()
        if numbers.max(initial=-1) >= len(ids):
            raise RuntimeError("index: holds vectors that have not been added through id_map")
        found = numbers >= 0
        numbers[found] = ids[numbers[found]]


class IndexIDMap2(IndexIDMap):
    """`IndexIDMap` that finds vectors by their ids, as `faiss.IndexIDMap2`: `reconstruct`,
    `reconstruct_batch`, `reconstruct_n` (of ids n0 …) and `search_and_reconstruct`. An
    IndexIVFQINCo inside needs a direct map for them, as in FAISS.

    It takes 16 bytes a vector more, from the first such call on.
    """

    _attributes = (*IndexIDMap._attributes, "_sorted")

    def _start(self, index: Any, ids: np.ndarray) -> None:
        super()._start(index, ids)
        self.construct_rev_map()

    def _replace(self, ids: np.ndarray) -> None:
        super()._replace(ids)
        self.construct_rev_map()

    def construct_rev_map(self) -> None:
        """Look at `id_map` anew, after it has been written to from outside."""
        # The first ids, in order, and their numbers; of equal ids the last number is the last.
        self._sorted = np.empty(0, np.int64), np.empty(0, np.int64)

    def check_consistency(self) -> None:
        """Raises RuntimeError where an id is that of two vectors, or `id_map` has not one for
        each."""
        with self._lock.reading():
            self._synced()
            if len(np.unique(self._ids())) < self.id_map.size():
                raise RuntimeError("id_map: several vectors have the same id")

    def reconstruct(self, key: int, x: np.ndarray | None = None) -> np.ndarray:
        """The decoded vector (d,) float32 of an id; of one that several vectors have, the last.
        Raises RuntimeError where there is none, and as the `reconstruct` of the index inside."""
        check_buffer("x", x, (self.d,), np.float32)
        with self._lock.reading():
            number = self._number(integer("key", key, *INT64))
            return filled(x, self.index.reconstruct(number))

    def _number(self, key: int) -> int:
        ids = self._ids()[: self.index.ntotal]  # not those of what is being added
        in_order, numbers = self._sorted
        if len(ids) - len(numbers) > _UNSORTED:
            numbers = np.argsort(ids, kind="stable")
            in_order = ids[numbers]
            self._sorted = in_order, numbers
        if len(late := np.flatnonzero(ids[len(numbers) :] == key)):
            return len(numbers) + int(late[-1])
        place = int(np.searchsorted(in_order, key, side="right")) - 1
        if place < 0 or in_order[place] != key:
            raise RuntimeError(f"key {key} not found")
        return int(numbers[place])


def _remove_numbers(index: Any, numbers: np.ndarray) -> None:
    """Remove vectors by their numbers, from 0 on; those that follow move up."""
    if isinstance(index, IndexPreTransform):
        index = index.index
    if isinstance(index, IndexIVFQINCo) and index.lists.has_direct_map:  # of the old numbers
        kind = index.direct_map.type
        index.make_direct_map(False)
        try:
            index._remove(numbers, True)
        finally:
            index.set_direct_map_type(kind)
    elif isinstance(index, IndexIVFQINCo):
        index._remove(numbers, True)
    else:  # an IndexQINCo does so by itself
        index.remove_ids(numbers)
