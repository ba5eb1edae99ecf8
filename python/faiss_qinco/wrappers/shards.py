"""`IndexShards`, whose vectors lie in several indexes, and `IndexReplicas`, whose queries do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import faiss
import numpy as np

from ..checks import (
    INT64,
    as_ids,
    as_matrix,
    check_buffer,
    check_matrix,
    filled,
    integer,
    result_buffers,
)
from ..threads import get_num_threads, part_of_threads
from .base import Wrapper, check_inside, inside
from .lock import Lock
from .search_params import selecting, shifted
from .training import alike, copy_training


class _OfAll:
    """An attribute of each index: that of the first, set in all of them."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, outer: Any, owner: type | None = None) -> Any:
        if outer is None:
            return self
        if not outer._indexes:
            raise AttributeError(f"{self.name}: no indexes in {type(outer).__name__}")
        return getattr(outer._indexes[0], self.name)

    def __set__(self, outer: Any, value: Any) -> None:
        for index in outer._some():
            setattr(index, self.name, value)


class _Threaded(Wrapper):
    """Several indexes of the same kind of vectors."""

    _attributes: tuple[str, ...] = (
        "_d", "_indexes", "_lock", "own_indices", "threaded", "verbose",
    )  # fmt: skip

    nprobe, nshort, exit_margin, M_search = _OfAll(), _OfAll(), _OfAll(), _OfAll()
    rerank_device, training, min_codes = _OfAll(), _OfAll(), _OfAll()

    def __init__(self, *args: Any) -> None:
        d, flags = 0, args
        if args and not isinstance(args[0], (bool, np.bool_)):
            d, flags = integer("d", args[0], 0, 1 << 20), args[1:]
        if len(flags) > 1 or not all(isinstance(flag, (bool, np.bool_)) for flag in flags):
            raise TypeError(f"expected ([d,] [threaded,]), got {args}")
        self._d, self.threaded = d, bool(flags and flags[0])
        self.own_indices = self.verbose = False
        self._indexes: tuple[Any, ...] = ()
        self._lock = Lock()

    def _inside(self) -> Sequence[Any]:
        return self._indexes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(map(repr, self._indexes))}>"

    def _some(self) -> Sequence[Any]:
        if not (indexes := self._indexes):
            raise RuntimeError(f"no indexes in {type(self).__name__}")
        return indexes

    @property
    def d(self) -> int:
        """Dimension, that of the first index unless given before; 0: neither."""
        return int(self._indexes[0].d) if self._indexes else self._d

    @property
    def is_trained(self) -> bool:
        return all(index.is_trained for index in self._indexes)

    @property
    def metric_type(self) -> int:
        return int(self._indexes[0].metric_type) if self._indexes else faiss.METRIC_L2

    def count(self) -> int:
        """How many indexes there are."""
        return len(self._indexes)

    def at(self, i: int) -> Any:
        """The index with number i. Raises IndexError (FAISS: undefined)."""
        if not 0 <= (i := integer("i", i, *INT64)) < len(self._indexes):
            raise IndexError(f"i: expected 0..{len(self._indexes) - 1}, got {i}")
        return self._indexes[i]

    def addIndex(self, index: Any) -> None:
        """Add an index, which is kept, not copied. Raises TypeError for none of this package,
        RuntimeError for one that is here already, or differs from the others."""
        check_inside("index", index)
        with self._lock.changing(), self._lock.alone():
            if any(one is index for one in self._indexes):
                raise RuntimeError("index: it is in the collection already")
            if self is index or any(one is self for one in _all_inside(index)):
                raise RuntimeError("index: it is around this one")
            if self.d not in (0, index.d):
                raise RuntimeError(f"index: expected d={self.d}, got {index.d}")
            self._check_alike((*self._indexes, index))
            self._indexes = (*self._indexes, index)

    def removeIndex(self, index: Any) -> None:
        """Take an index out. Raises RuntimeError where it is none of these."""
        with self._lock.changing(), self._lock.alone():
            left = tuple(one for one in self._indexes if one is not index)
            if len(left) == len(self._indexes):
                raise RuntimeError("index not found")
            self._d, self._indexes = self.d, left

    def syncWithSubIndexes(self) -> None:
        """Raises RuntimeError where the indexes do not fit together any more."""
        self._check_alike(self._indexes)

    def _check_alike(self, indexes: Sequence[Any], *more: str) -> None:
        for part in ("d", "metric_type", "is_trained", *more):
            if len(found := {getattr(index, part) for index in indexes}) > 1:
                raise RuntimeError(f"index: {part} is not the same in all, but {sorted(found)}")

    def reset(self) -> None:
        """Forget all vectors; the training stays."""
        with self._lock.changing(), self._lock.alone():
            for index in self._indexes:
                index.reset()

    def train(self, x: np.ndarray) -> None:
        """Train the first index on x (n, d), and give its training to those that are alike, which
        most are: their codes are then of one codec, and one training's time is enough. (FAISS
        trains each.) The others are trained as well.

        Raises as the `train` of the indexes, and where one that holds vectors would be trained.
        """
        with self._lock.changing():
            first, *others = self._some()
            if self.ntotal:
                raise RuntimeError(f"train: it holds {self.ntotal} vectors; reset() it first")
            first.train(x)
            for index in others:
                if alike(first, index):
                    copy_training(first, index)
                else:
                    index.train(x)

    def memory_usage(self) -> dict[str, float]:
        """The sum of what the indexes take."""
        usages = [index.memory_usage() for index in self._indexes]
        names = dict.fromkeys(name for usage in usages for name in usage)
        found = {name: sum(usage.get(name, 0) for usage in usages) for name in names}
        n = self.ntotal
        return found | {"per_vector": found.get("total", 0) / n if n else 0.0}

    def _run(self, call: Callable[[int, Any], Any]) -> list[Any]:
        """call(number, index) of each; with `threaded` at the same time, each with its part of the
        threads."""
        indexes = self._some()
        if not self.threaded or len(indexes) == 1:
            return [call(i, index) for i, index in enumerate(indexes)]
        share = max(1, get_num_threads() // len(indexes))

        def one(i: int) -> Any:
            with part_of_threads(share):
                return call(i, indexes[i])

        with ThreadPoolExecutor(len(indexes), "faiss_qinco") as pool:
            futures = [pool.submit(copy_context().run, one, i) for i in range(len(indexes))]
            return [future.result() for future in futures]


class IndexShards(_Threaded):
    """Vectors in several indexes, as in `faiss.IndexShards`: `IndexShards(d=0, threaded=False,
    successive_ids=True)`, or without d; then `add_shard`.

    Parameters
    ----------
    d : dimension, default that of the first shard.
    threaded : search and add in all shards at the same time, each with its part of the threads.
        Results are the same; Ctrl-C waits for the shards.
    successive_ids : whether the ids of a shard follow on from those of the one before, so that the
        shards need none of their own; vectors are then added in one call. False: `add` numbers
        them, and the shards store ids: IndexIVFQINCo, IndexIDMap.

    A search takes each shard's best k, and the best of these, by distance and then by id: with
    shards of one training, what one index with all vectors would find where as many are re-ranked
    (`nshort` counts for each shard). The selector of `params` is asked of the caller's ids, where
    FAISS asks it of those that a shard has; with `successive_ids`, others than IDSelectorRange then
    take 8 bytes for each vector of a shard while it is searched, and the time to write them.
    `range_search` and `reconstruct`, which FAISS's has not, work as well.

    nprobe, min_codes, nshort, exit_margin, M_search, rerank_device and training are those of the
    first shard, and are set in all. Attributes d, ntotal, is_trained, metric_type as in FAISS.

    Raises TypeError for other arguments.
    """

    _attributes = (*_Threaded._attributes, "successive_ids")

    def __init__(self, *args: Any) -> None:
        first = 0 if not args or isinstance(args[0], (bool, np.bool_)) else 1
        flags = args[first + 1 :]
        if len(flags) > 1 or not all(isinstance(flag, (bool, np.bool_)) for flag in flags):
            raise TypeError(f"expected ([d,] [threaded, [successive_ids]]), got {args}")
        super().__init__(*args[: first + 1])
        self.successive_ids = bool(flags[0]) if flags else True

    @property
    def ntotal(self) -> int:
        """The vectors of all shards."""
        return sum(index.ntotal for index in self._indexes)

    def add_shard(self, index: Any) -> None:
        """`addIndex`."""
        self.addIndex(index)

    def remove_shard(self, index: Any) -> None:
        """`removeIndex`."""
        self.removeIndex(index)

    def add(self, x: np.ndarray) -> None:
        """Add x (n, d), an equal share to each shard, in order. With `successive_ids` only to empty
        ones, all or nothing. Raises RuntimeError for another `add`, and as that of the shards."""
        self._add(x, None)

    def add_with_ids(self, x: np.ndarray, xids: np.ndarray) -> None:
        """As `add`, with ids xids (n,). Raises RuntimeError with `successive_ids`."""
        check_matrix(x, self.d)
        self._add(x, as_ids(xids, x.shape[0]))

    def _add(self, x: Any, ids: np.ndarray | None) -> None:
        self._some()
        check_matrix(x, self.d)
        n = x.shape[0]
        if self.successive_ids and ids is not None:
            raise RuntimeError("it makes no sense to pass in ids and request them to be shifted")

        def one(i: int, index: Any) -> None:
            count = len(self._indexes)
            rows = slice(i * n // count, (i + 1) * n // count)
            if ids is None:
                index.add(x[rows])
            else:
                index.add_with_ids(x[rows], ids[rows])

        with self._lock.changing():
            if not self.successive_ids:
                if ids is None:
                    ids = np.arange(self.ntotal, self.ntotal + n)
                self._run(one)
                return
            if self.ntotal:
                raise RuntimeError("with successive_ids, only add() in a single pass is supported")
            with self._lock.alone():  # ids follow from how many each has; there is nothing to find
                try:
                    self._run(one)
                except BaseException:
                    for index in self._indexes:
                        index.reset()
                    raise

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
        """The k nearest of all shards: `search` of each, merged. Raises as that."""
        x = as_matrix(x, self.d)
        k, D, I = result_buffers(k, len(x), D, I)

        def one(i: int, index: Any) -> tuple[np.ndarray, np.ndarray]:
            found, ids = index.search(x, k, params=self._params(params, firsts[i], index.ntotal))
            ids[ids >= 0] += firsts[i]
            return found, ids

        with self._lock.reading():
            firsts = self._firsts()
            parts = self._run(one)
        both, ids = np.hstack([part[0] for part in parts]), np.hstack([part[1] for part in parts])
        score = -both if self.metric_type == faiss.METRIC_INNER_PRODUCT else both
        best = np.lexsort((ids, score), axis=1)[:, :k]
        D[...], I[...] = np.take_along_axis(both, best, 1), np.take_along_axis(ids, best, 1)
        return D, I

    def range_search(
        self, x: np.ndarray, thresh: float, *, params: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All of the shards that is nearer than a threshold: `range_search` of each, shard after
        shard. Raises as that."""
        x = as_matrix(x, self.d)

        def one(i: int, index: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            given = self._params(params, firsts[i], index.ntotal)
            lims, D, I = index.range_search(x, thresh, params=given)
            I[I >= 0] += firsts[i]
            return lims, D, I

        with self._lock.reading():
            firsts = self._firsts()
            parts = self._run(one)
        counts = np.stack([np.diff(lims.astype(np.int64)) for lims, _, _ in parts])  # (shards, n)
        query = np.concatenate([np.repeat(np.arange(len(x)), row) for row in counts])
        order = np.argsort(query, kind="stable")
        lims = np.concatenate([[0], counts.sum(0).cumsum()]).astype(np.uint64)
        D, I = (np.concatenate([part[j] for part in parts])[order] for j in (1, 2))
        return lims, D, I

    def reconstruct(self, key: int, x: np.ndarray | None = None) -> np.ndarray:
        """The decoded vector (d,) float32 of an id: `reconstruct` of its shard. Raises RuntimeError
        without `successive_ids`, for an id out of range, and as that."""
        key = integer("key", key, *INT64)
        if not self.successive_ids:
            raise RuntimeError("reconstruct: only with successive_ids is the shard of an id known")
        check_buffer("x", x, (self.d,), np.float32)
        with self._lock.reading():
            for first, index in zip(self._firsts(), self._indexes, strict=True):
                if 0 <= key - first < index.ntotal:
                    return filled(x, index.reconstruct(key - first))
        raise RuntimeError(f"key: expected 0..{self.ntotal - 1}, got {key}")

    def _firsts(self) -> list[int]:
        """What the ids of each shard are raised by."""
        firsts = [0]
        for index in self._some():
            firsts.append(firsts[-1] + (index.ntotal if self.successive_ids else 0))
        return firsts[:-1]

    def _params(self, params: Any, first: int, n: int) -> Any:
        return selecting(params, lambda sel: shifted(sel, first, n)) if first else params


class IndexReplicas(_Threaded):
    """Several copies of an index that share the queries, as in `faiss.IndexReplicas`:
    `IndexReplicas(d=0, threaded=False)`, or without d; then `add_replica`.

    What is added is added to all. `search` and `range_search` give each an equal part of the
    queries, with `params`, which FAISS's refuses. An index of this package searches with several
    threads by itself: replicas pay where their parts wait for something else.

    Attributes, threads and errors as of `IndexShards`.
    """

    @property
    def ntotal(self) -> int:
        """The vectors of each replica."""
        return int(self._indexes[0].ntotal) if self._indexes else 0

    def _check_alike(self, indexes: Sequence[Any], *more: str) -> None:
        super()._check_alike(indexes, "ntotal", *more)

    def add_replica(self, index: Any) -> None:
        """`addIndex`."""
        self.addIndex(index)

    def remove_replica(self, index: Any) -> None:
        """`removeIndex`."""
        self.removeIndex(index)

    def add(self, x: np.ndarray) -> None:
        """Add x (n, d) to each. Raises as their `add`."""
        self._some()
        check_matrix(x, self.d)
        with self._lock.changing():
            self._run(lambda i, index: index.add(x))

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
        """`search` of the replicas, each with a part of the queries. Raises as that."""
        x = as_matrix(x, self.d)
        k, D, I = result_buffers(k, len(x), D, I)
        with self._lock.reading():
            parts = self._parts(len(x))
            self._run(lambda i, index: index.search(
                x[parts[i]], k, params=params, D=D[parts[i]], I=I[parts[i]]
            ))  # fmt: skip
        return D, I

    def range_search(
        self, x: np.ndarray, thresh: float, *, params: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`range_search` of the replicas, each with a part of the queries. Raises as that."""
        x = as_matrix(x, self.d)
        with self._lock.reading():
            parts = self._parts(len(x))
            found = self._run(
                lambda i, index: index.range_search(x[parts[i]], thresh, params=params)
            )
        counts = np.concatenate([np.diff(lims.astype(np.int64)) for lims, _, _ in found])
        lims = np.concatenate([[0], counts.cumsum()]).astype(np.uint64)
        D, I = (np.concatenate([part[j] for part in found]) for j in (1, 2))
        return lims, D, I

    def reconstruct(self, key: int, x: np.ndarray | None = None) -> np.ndarray:
        """That of the first replica."""
        found: np.ndarray = self._some()[0].reconstruct(key, x)
        return found

    def _parts(self, n: int) -> list[slice]:
        each = -(-n // len(self._some()))
        return [slice(min(i * each, n), min((i + 1) * each, n)) for i in range(len(self._indexes))]


def _all_inside(index: Any) -> list[Any]:
    within = inside(index)
    return [*within, *(one for part in within for one in _all_inside(part))]
