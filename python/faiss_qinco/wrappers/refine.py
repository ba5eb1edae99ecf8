"""`IndexRefine` and `IndexRefineFlat`: what an index finds, ranked again by an index of faiss."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from ..checks import (
    as_matrix,
    check_buffer,
    check_matrix,
    filled,
    integer,
    number,
    result_buffers,
)
from ..threads import library_threads
from .base import Wrapper, check_inside
from .id_map import IndexIDMap
from .lock import Lock
from .of_index import OfIndex
from .search_params import refine_params

_BLOCK = 1 << 16  # vectors that are converted for faiss at a time
_TRAINING = 1 << 20  # vectors that a refine index is trained on, at most


class _OfBase(OfIndex):
    def __init__(self) -> None:
        super().__init__("base_index")


class IndexRefine(Wrapper):
    """An index whose best k * k_factor results are ranked by another one, as `faiss.IndexRefine`.

    Parameters
    ----------
    base_index : IndexIVFQINCo, IndexQINCo, IndexPreTransform, or IndexShards of successive ids: its
        ids are those that `add` gives.
    refine_index : any faiss index of the same dimension, metric and number of vectors that knows
        distances by number: IndexFlat, IndexScalarQuantizer, IndexPQ and their like.

    D is the distance by `refine_index`, and so is what `reconstruct` gives; with `range_search`
    the base index decides what is inside. The base index ranks its shortlist by itself:
    `base_index.nshort = 0` saves that.

    Attributes
    ----------
    base_index, refine_index : as given. k_factor : float, default 1.0.
    nprobe, min_codes, nshort, exit_margin, M_search, rerank_device, training, verbose : of the base
        index.
    d, ntotal, is_trained, metric_type : as in FAISS. codec, config, nlist, M, nbits : of the base
        index. code_size : bytes of both codes. own_fields, own_refine_index : of no effect.

    Searches, changes and saves may come from several threads at once. Distances of other kinds than
    IndexFlat are asked for one after the other, about a microsecond each.

    Raises TypeError for another base index or refine index, RuntimeError where the two do not fit.
    """

    _attributes: tuple[str, ...] = (
        "_k_factor", "_lock", "base_index", "own_fields", "own_refine_index", "refine_index",
    )  # fmt: skip

    nprobe, nshort, exit_margin, M_search = _OfBase(), _OfBase(), _OfBase(), _OfBase()
    rerank_device, training, verbose, min_codes = _OfBase(), _OfBase(), _OfBase(), _OfBase()
    d, ntotal, metric_type, metric_arg = _OfBase(), _OfBase(), _OfBase(), _OfBase()
    codec, config, nlist, M, nbits = _OfBase(), _OfBase(), _OfBase(), _OfBase(), _OfBase()

    def __init__(self, base_index: Any, refine_index: Any) -> None:
        self._start(base_index, refine_index)

    def _start(self, base_index: Any, refine_index: Any) -> None:
        check_inside("base_index", base_index)
        if isinstance(base_index, (IndexIDMap, IndexRefine)):
            raise TypeError(f"base_index: expected none that is {type(base_index)}")
        if not getattr(base_index, "successive_ids", True):  # where a failed `add` is not undone
            raise RuntimeError("base_index: expected IndexShards of successive_ids")
        self.base_index: Any = base_index
        self._lock = Lock()
        self._k_factor, self.own_fields, self.own_refine_index = 1.0, False, False
        self._set_refinement(refine_index)

    @classmethod
    def _of(cls, base_index: Any, refine_index: Any) -> Any:
        """What was read from a file."""
        made = cls.__new__(cls)
        made._start(base_index, refine_index)
        return made

    def _set_refinement(self, index: Any) -> None:
        if not issubclass(type(index), faiss.Index):  # isinstance: see stood_for
            raise TypeError(f"refine_index: expected a faiss.Index, got {type(index)}")
        for part in ("d", "metric_type", "ntotal"):
            if (mine := getattr(self.base_index, part)) != (its := getattr(index, part)):
                raise RuntimeError(f"refine_index: expected {part}={mine}, got {its}")
        self.refine_index: Any = index

    def _inside(self) -> list[Any]:
        return [self.base_index]

    def __repr__(self) -> str:
        refinement = type(faiss.downcast_index(self.refine_index)).__name__
        return f"<{type(self).__name__} {self.base_index!r}, {refinement}>"

    @property
    def k_factor(self) -> float:
        """How many times k results the base index is asked for."""
        return self._k_factor

    @k_factor.setter
    def k_factor(self, value: float) -> None:
        self._k_factor = float(np.float32(number("k_factor", value)))

    @property
    def is_trained(self) -> bool:
        return bool(self.base_index.is_trained and self.refine_index.is_trained)

    @property
    def code_size(self) -> int:
        return int(self.base_index.code_size + self.refine_index.sa_code_size())

    def memory_usage(self) -> dict[str, float]:
        """As of the base index, and `refine`, the codes of the refine index."""
        usage = dict(self.base_index.memory_usage())
        extra = self.refine_index.ntotal * self.refine_index.sa_code_size()
        total = usage.pop("total") + extra
        per_vector = total / self.ntotal if self.ntotal else 0.0
        return usage | {"refine": extra, "total": total, "per_vector": per_vector}

    # -- build --------------------------------------------------------------------------------

    def train(self, x: np.ndarray) -> None:
        """Train both on x (n, d); the refine index on evenly spaced ones of more than 2^20, and not
        where there is nothing to train (IndexFlat). Raises as the two."""
        self.base_index.train(x)
        if not is_flat(self.refine_index):
            some = as_matrix(x[:: -(-x.shape[0] // _TRAINING)], self.d)
            with library_threads(torch_too=False):
                self.refine_index.train(some)

    def add(self, x: np.ndarray) -> None:
        """Add x (n, d) to both, all or nothing. Other threads may search meanwhile. Raises
        RuntimeError if untrained, and as the `add` of the base index."""
        if not self.is_trained:
            raise RuntimeError(f"{type(self).__name__} is not trained")
        check_matrix(x, self.d)
        with self._lock.changing():
            before = self._synced()
            try:
                for begin in range(0, x.shape[0], _BLOCK):
                    some = as_matrix(x[begin : begin + _BLOCK], self.d)
                    with self._lock.alone(), library_threads(torch_too=False):
                        self.refine_index.add(some)
                self.base_index.add(x)  # all or nothing by itself
            except BaseException:
                late = np.arange(before, self.refine_index.ntotal)
                with self._lock.alone():
                    if len(late):
                        self.refine_index.remove_ids(late)
                raise

    def _synced(self) -> int:
        n: int = self.base_index.ntotal
        if self.refine_index.ntotal != n:
            raise RuntimeError(
                f"{type(self).__name__}: {self.refine_index.ntotal} vectors to refine {n}; add to "
                "it, not to its indexes"
            )
        return n

    def reset(self) -> None:
        """Forget all vectors; the training stays."""
        with self._lock.changing(), self._lock.alone():
            self.base_index.reset()
            self.refine_index.reset()

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
        """The k nearest by `refine_index`, of the k * k_factor that the base index finds.

        params : `IndexRefineSearchParameters`, of this package or faiss's; None: `k_factor` and the
            settings of the base index.

        Raises RuntimeError if untrained, for params of another index and where k_factor is below 1;
        else as the `search` of the base index.
        """
        if not self.is_trained:
            raise RuntimeError(f"{type(self).__name__} is not trained")
        x = as_matrix(x, self.d)
        k, D, I = result_buffers(k, len(x), D, I)
        own = refine_params(params)
        factor = np.float32(self.k_factor if own is None else own.k_factor)
        with np.errstate(over="ignore"):
            wanted = np.float32(k) * factor
        if not k <= wanted < 1 << 62:  # NaN too
            raise RuntimeError(
                f"k_factor: expected at least 1, {k} * {factor} results are asked for"
            )
        best_is_large = self.metric_type == faiss.METRIC_INNER_PRODUCT
        with self._lock.reading():
            n = min(int(wanted), max(k, self.base_index.ntotal))  # there are no more
            ids = self.base_index.search(x, n, params=self._base_params(own))[1]
            found = self._distances(x, self._known(ids))
        with library_threads(torch_too=False):
            heap = faiss.ResultHeap(len(x), k, keep_max=best_is_large)
            heap.add_result(found, ids)
            heap.finalize()
        D[...], I[...] = heap.D, heap.I
        return D, I

    def range_search(
        self, x: np.ndarray, thresh: float, *, params: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`range_search` of the base index, with the distances of `refine_index`, as in FAISS:
        none is taken out, or in, by these. Raises as `search`."""
        if not self.is_trained:
            raise RuntimeError(f"{type(self).__name__} is not trained")
        x = as_matrix(x, self.d)
        own = refine_params(params)
        with self._lock.reading():
            lims, D, I = self.base_index.range_search(x, thresh, params=self._base_params(own))
            self._known(I)
            ends = lims.tolist()
            for row, begin, end in zip(x, ends[:-1], ends[1:], strict=True):
                if begin < end:
                    D[begin:end] = self._distances(row[None], I[None, begin:end])[0]
        return lims, D, I

    def _base_params(self, own: Any) -> Any:
        return None if own is None else own.of_base(getattr(self.base_index, "nprobe", 1))

    def _known(self, ids: np.ndarray) -> np.ndarray:
        """The same array. Raises RuntimeError for ids that the refine index has not."""
        if ids.max(initial=-1) >= self.refine_index.ntotal:
            raise RuntimeError("base_index: holds ids that `add` has not given")
        return ids

    def _distances(self, x: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """D (n, m) float32 by the refine index of ids (n, m); the worst there is for those below
        0."""
        refinement: Any = faiss.downcast_index(self.refine_index)
        sign = -1 if self.metric_type == faiss.METRIC_INNER_PRODUCT else 1
        D = np.empty(ids.shape, np.float32)
        with library_threads(torch_too=False):
            if is_flat(refinement):
                pointers = (faiss.swig_ptr(array) for array in (x, D, ids))
                of_x, of_D, of_ids = pointers
                refinement.compute_distance_subset(len(x), of_x, ids.shape[1], of_D, of_ids)
            else:
                distance = refinement.get_distance_computer()
                for query, out, row in zip(x, D, ids, strict=True):
                    distance.set_query(faiss.swig_ptr(query))
                    out[:] = [distance(i) if i >= 0 else 0.0 for i in row.tolist()]
        D[ids < 0] = sign * np.finfo(np.float32).max
        return D

    # -- reconstruction, codes ----------------------------------------------------------------

    def reconstruct(self, key: int, x: np.ndarray | None = None) -> np.ndarray:
        """The vector (d,) float32 of an id as the refine index has it. Raises RuntimeError for an
        id out of range."""
        check_buffer("x", x, (self.d,), np.float32)
        with self._lock.reading():
            n = self.base_index.ntotal
            if not 0 <= (key := integer("key", key, -(1 << 63), (1 << 63) - 1)) < n:
                raise RuntimeError(f"key: expected 0..{n - 1}, got {key}")
            return filled(x, np.asarray(self.refine_index.reconstruct(key)))

    def sa_code_size(self) -> int:
        """Bytes per vector of `sa_encode`: those of both."""
        size: int = self.base_index.sa_code_size() + self.refine_index.sa_code_size()
        return size

    def sa_encode(self, x: np.ndarray) -> np.ndarray:
        """x (n, d) -> (n, sa_code_size()) uint8, the code of the base index and then that of the
        refine index. Raises as the two."""
        x = as_matrix(x, self.d)
        return np.hstack([self.base_index.sa_encode(x), self.refine_index.sa_encode(x)])

    def sa_decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes of `sa_encode` -> (n, d) float32, as the refine index decodes them."""
        if codes.ndim != 2 or codes.shape[1] != self.sa_code_size():
            raise ValueError(f"codes: expected (n, {self.sa_code_size()}), got {codes.shape}")
        tail = np.ascontiguousarray(codes[:, self.base_index.sa_code_size() :])
        return np.asarray(self.refine_index.sa_decode(tail))


class IndexRefineFlat(IndexRefine):
    """`IndexRefine` by the vectors themselves, which it keeps: 4 d bytes each.

    Parameters
    ----------
    base_index : as of `IndexRefine`; empty, unless xb is given.
    xb : (base_index.ntotal, d), the vectors that it holds, in the order of their ids.
    """

    def __init__(self, base_index: Any, xb: Any = None) -> None:
        check_inside("base_index", base_index)
        flat = new_flat(base_index.d, base_index.metric_type)
        if xb is not None and hasattr(xb, "shape"):
            check_matrix(xb, base_index.d)
            for begin in range(0, xb.shape[0], _BLOCK):
                flat.add(as_matrix(xb[begin : begin + _BLOCK], base_index.d))
        elif xb is not None:  # a pointer, as faiss takes it
            flat.add_c(base_index.ntotal, xb)
        self._start(base_index, flat)

    def _start(self, base_index: Any, refine_index: Any) -> None:
        super()._start(base_index, refine_index)
        if not is_flat(refine_index):
            raise TypeError(f"refine_index: expected an IndexFlat, got {type(refine_index)}")
        self.own_refine_index = True


def new_flat(d: int, metric: int) -> Any:
    """An empty index for vectors as they are, of the class that faiss reads from a file."""
    kind = faiss.IndexFlatIP if metric == faiss.METRIC_INNER_PRODUCT else faiss.IndexFlatL2
    return kind(d)


def is_flat(index: Any) -> bool:
    """Whether it holds vectors as they are."""
    return type(faiss.downcast_index(index)) in (
        faiss.IndexFlat, faiss.IndexFlatL2, faiss.IndexFlatIP
    )  # fmt: skip
