"""`IndexIVFQINCo`: an inverted file of codes; which lists there are is `coarse`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

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
    number,
    result_buffers,
    size,
)
from ..coarse import Quantizer
from ..codec.config import QINCoConfig
from ..errors import ArgumentError
from ..params import Defaults
from ..tensors import takes_tensors
from ..training.config import TrainingConfig
from .common import QINCoIndex
from .views import DirectMap, InvertedLists

if TYPE_CHECKING:
    from typing_extensions import Self


class IndexIVFQINCo(QINCoIndex):
    """Inverted-file index of QINCo codes.

    Parameters
    ----------
    quantizer : any faiss index for vectors of dimension d; finds the lists to visit.
    d, nlist : dimension, number of inverted lists.
    M, nbits : codes per vector (1..64), bits per code (4..8).
    metric : faiss.METRIC_L2 or METRIC_INNER_PRODUCT.
    config : "auto" (default), a preset name ("XS", "S", "M", "L") or QINCoConfig.
    training : TrainingConfig.

    Attributes
    ----------
    nprobe : lists to visit per query, default 1. nshort : vectors to re-rank, default None: 100, or
        4 k where that is more. min_codes : codes to scan that a selector accepts, in further lists
        too; default 0: those of nprobe lists.
    exit_margin : early exit of re-ranking, default 1.0; inf: none. rerank_device : where it runs,
        default "cpu"; a torch device, or "auto". use_precomputed_table : whether it looks the
        first network up, default 0; `precompute_table` makes it 1. M_search : codes of each vector
        to search by, default None: all.
    cp : faiss.ClusteringParameters of the coarse clustering. codec : QINCoCodec once trained.
    d, ntotal, is_trained, metric_type, nlist, M, nbits, code_size, quantizer, verbose as in FAISS.

    Raises ValueError for a size out of range, an unknown metric or preset, or a quantizer of
    another dimension; TypeError if `quantizer` is not a faiss index.
    """

    __slots__ = ("_direct_map_type", "_max_codes", "_nprobe", "own_fields", "parallel_mode")

    PARALLEL_MODE_NO_HEAP_INIT = 1024  # FAISS's, to be or-ed with parallel_mode
    by_residual = True  # always
    own_invlists = True
    quantizer_trains_alone = 0  # k-means finds the centroids, the quantizer is then given them

    _coarse: Quantizer

    def __init__(
        self,
        quantizer: faiss.Index,
        d: int,
        nlist: int,
        M: int,
        nbits: int = 8,
        metric: int = faiss.METRIC_L2,
        config: str | QINCoConfig = "auto",
        training: TrainingConfig | None = None,
    ) -> None:
        d, nlist = integer("d", d, 1, 1 << 20), integer("nlist", nlist, 1, 1 << 40)
        coarse = Quantizer(_checked_quantizer(quantizer, d), d, nlist, metric)
        super().__init__(coarse, d, nlist, M, nbits, metric, config, training)
        self._nprobe, self._max_codes, self._direct_map_type = 1, 0, DirectMap.NoMap
        self.own_fields, self.parallel_mode = True, 0

    def _factory_string(self) -> str:
        return f"IVF{self.nlist},{super()._factory_string()}"

    def _shell(self, M: int) -> Self:
        quantizer = faiss.deserialize_index(faiss.serialize_index(self.quantizer))
        index = type(self)(
            quantizer, self.d, self.nlist, M, self.nbits, self.metric_type, self._config,
            self.training,
        )  # fmt: skip
        index._nprobe, index._max_codes = self._nprobe, self._max_codes
        index._min_codes = self._min_codes
        index._direct_map_type = self._direct_map_type
        index.parallel_mode = self.parallel_mode
        for name, field in vars(faiss.ClusteringParameters).items():
            if isinstance(field, property) and name != "thisown":
                setattr(index.cp, name, getattr(self.cp, name))
        return index

    @property
    def nprobe(self) -> int:
        """Lists to visit per query; more than nlist means all."""
        return self._nprobe

    @nprobe.setter
    def nprobe(self, value: int) -> None:
        self._nprobe = size("nprobe", value)

    @property
    def max_codes(self) -> int:
        """End the scan of a query after so many codes, default 0: never. As in FAISS, only for
        searches without parameters of their own."""
        return self._max_codes

    @max_codes.setter
    def max_codes(self, value: int) -> None:
        self._max_codes = size("max_codes", value)

    @property
    def min_codes(self) -> int:
        """Codes to scan for a query at least: those that a selector accepts, where there is one. A
        search goes on after the nprobe lists, to the next ones in order of their centroids'
        distance, until so many were scanned; `max_lists_num` bounds the lists. So a selector of
        few ids does not cost the recall of those it leaves. Default 0: nprobe lists alone, as in
        FAISS. To be set for one call too, in `SearchParametersIVFQINCo`.

        The order is that of the index's metric, by the centroids that `train` found in the
        quantizer: a query that goes on is compared to all of them, once. What else ends a scan
        (max_codes, max_empty_result_buckets) ends it. Not for `search_preassigned`, whose lists are
        all there are.

        Raises TypeError or OverflowError for what is no size; a search raises RuntimeError where
        `quantizer_params` has a selector of lists.
        """
        return self._min_codes

    @min_codes.setter
    def min_codes(self, value: int) -> None:
        self._min_codes = size("min_codes", value)

    def _defaults(self) -> Defaults:
        return dataclasses.replace(
            super()._defaults(), nprobe=self._nprobe, max_codes=self._max_codes
        )

    @property
    def quantizer(self) -> faiss.Index:
        """The faiss index of the centroids."""
        return self._coarse.index

    @quantizer.setter
    def quantizer(self, value: faiss.Index) -> None:
        self._coarse.index = _checked_quantizer(value, self.d)

    @property
    def cp(self) -> faiss.ClusteringParameters:
        """Parameters of the coarse clustering; those of FAISS's IVF indexes, niter 10."""
        return self._coarse.cp

    @cp.setter
    def cp(self, value: faiss.ClusteringParameters) -> None:
        self._coarse.cp = value

    @property
    def clustering_index(self) -> faiss.Index | None:
        """The index that k-means assigns vectors with, one on a GPU for example; None: a flat one
        on CPUs. Kept neither by files nor by copies."""
        return self._coarse.clustering_index

    @clustering_index.setter
    def clustering_index(self, value: faiss.Index | None) -> None:
        self._coarse.clustering_index = None if value is None else _checked_quantizer(value, self.d)

    # -- lists --------------------------------------------------------------------------------

    @property
    def invlists(self) -> InvertedLists:
        """The inverted lists, to be read: `list_size`, `get_ids`, `get_codes`, `print_stats`, …"""
        return InvertedLists(self)

    def get_list_size(self, list_no: int) -> int:
        """Vectors in a list. Raises ValueError for a list that does not exist."""
        return self.invlists.list_size(list_no)

    def check_ids_sorted(self) -> bool:
        """Whether the ids of each list ascend."""
        invlists = self.invlists
        lists = np.flatnonzero(invlists.sizes()).tolist()
        return all((np.diff(invlists.get_ids(list_no)) >= 0).all() for list_no in lists)

    @takes_tensors
    def search_preassigned(
        self,
        x: np.ndarray,
        k: int,
        Iq: np.ndarray,
        Dq: np.ndarray | None,
        *,
        params: Any = None,
        D: np.ndarray | None = None,
        I: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """`search` in lists that are chosen already.

        Iq : (n, nprobe) numbers of the lists, negative: none. nprobe is that of params, or of the
            index.
        Dq : (n, nprobe) their distances to the queries (or inner products), as `quantizer.search`
            gives them; None: computed here. With inner product they are not used, since codes add
            to the means of the lists.

        Raises as `search`; ValueError (also an AssertionError) for a wrong shape of Iq or Dq,
        RuntimeError for a list number that does not exist.
        """
        engine, x = self._check_trained(), as_matrix(x, self.d)
        resolved = self._resolve(params)
        k, D, I = result_buffers(k, len(x), D, I)
        probed = self._preassigned(len(x), resolved.given.nprobe, Iq, Dq)
        resolved = dataclasses.replace(resolved, min_codes=0)  # there are no other lists
        engine.search(x, k, resolved, probed, D, I, self._rerank_device)
        return D, I

    @takes_tensors
    def range_search_preassigned(
        self,
        x: np.ndarray,
        thresh: float,
        Iq: np.ndarray,
        Dq: np.ndarray | None,
        *,
        params: Any = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`range_search` in lists that are chosen already; Iq and Dq as of `search_preassigned`,
        the rest, and what is raised, as of both."""
        engine, x = self._check_trained(), as_matrix(x, self.d)
        resolved = self._resolve(params)
        probed = self._preassigned(len(x), resolved.given.nprobe, Iq, Dq)
        resolved = dataclasses.replace(resolved, min_codes=0)  # there are no other lists
        return engine.range_search(x, number("thresh", thresh), resolved, probed)

    def _preassigned(
        self, n: int, nprobe: int, Iq: np.ndarray, Dq: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        list_no = np.ascontiguousarray(Iq, np.int64)
        distance = None if Dq is None else np.ascontiguousarray(Dq, np.float32)
        for name, array in (("Iq", list_no), ("Dq", distance)):
            if array is not None and array.shape != (n, nprobe):
                raise ArgumentError(f"{name}: expected shape {(n, nprobe)}, got {array.shape}")
        if list_no.max(initial=-1) >= self.nlist:
            raise RuntimeError(f"Iq: expected list numbers below {self.nlist}")
        return np.maximum(list_no, -1), distance

    @takes_tensors
    def search_and_return_codes(
        self,
        x: np.ndarray,
        k: int,
        *,
        include_listnos: bool = False,
        params: Any = None,
        D: np.ndarray | None = None,
        I: np.ndarray | None = None,
        codes: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`search`, and what is stored for the results: D and I (n, k), codes (n, k, code_size)
        uint8, bytes of 255 where one is missing. Re-ranks on CPUs.

        include_listnos : have the list number in front, in `coarse_code_size()` bytes: codes as
            `sa_decode` takes them.
        D, I, codes : buffers to fill and return. Raises as `search`.
        """
        check_matrix(x, self.d)
        k, D, I = result_buffers(k, len(x), D, I)
        width = self.code_size + (self.coarse_code_size() if include_listnos else 0)
        check_buffer("codes", codes, (len(x), k, width), np.uint8)
        with self._found(x, k, params, D, I) as (list_no, offset):
            stored = self._check_trained().core.codes_at(list_no, offset)
        stored[list_no < 0] = 0  # any code of nbits
        packed = self._packed(list_no, stored)[:, -width:]
        packed[list_no < 0] = 255
        return D, I, filled(codes, packed.reshape(len(x), k, width))

    # -- ids ----------------------------------------------------------------------------------

    @takes_tensors
    def add_with_ids(self, x: np.ndarray, xids: np.ndarray, numeric_type: Any = None) -> None:
        """As `add`, with ids xids (n,), cast to int64; any values, duplicates kept.

        With a direct map as well, where FAISS's sequential ones refuse it.

        Raises as `add`, TypeError (also an AttributeError) where xids is no array, ValueError (also
        an AssertionError) for a wrong shape.
        """
        engine = self._check_trained()
        check_matrix(x, self.d)
        ids = as_ids(xids, x.shape[0])
        engine.add(x, ids, self._coarse, self.training.device, bool(self.verbose))

    @property
    def next_id(self) -> int:
        """An id that nothing has had since the last `reset`, nor any larger one, whatever was
        removed: `add` numbers from `ntotal`, as in FAISS, and so gives ids again that are in use or
        were, once something has been removed. Where they must not come back,

            index.add_with_ids(x, np.arange(index.next_id, index.next_id + len(x)))

        with one thread at a time. Kept by files, copies and `merge_from`.

        Raises RuntimeError once the largest int64 has been an id.
        """
        next_id = 0 if self._engine is None else self._engine.next_id
        if next_id > INT64[1]:
            raise RuntimeError(f"next_id: {INT64[1]}, the largest id, has been given out")
        return next_id

    def remove_ids(self, ids: Any) -> int:
        """Remove vectors by their ids, all that have one of them.

        Parameters
        ----------
        ids : (m,) ids, of any integer dtype, in any order and not all of them stored; or a
            `faiss.IDSelector`, of any kind, which is asked for each id that is stored.

        Returns
        -------
        How many vectors went, by which `ntotal` is less. The others keep their ids, and `add` goes
        on from ntotal, as in FAISS: it may give ids that are in use. `next_id` says some that never
        were.

        A direct map, of whatever ids, stays right. With one, and ids that no two vectors share, an
        array costs what the lists do that its vectors are in; else all ids that are stored are
        read. Memory is given back. All or nothing: on an error or Ctrl-C, which are possible while
        vectors are looked for, the index is as before. Other threads may search meanwhile.

        Raises TypeError (also an AttributeError) for what is neither, TypeError for an array that
        does not hold integers, ValueError (also an AssertionError) for a wrong shape, ValueError
        for what is no int64; RuntimeError inside a search of this index, and what a selector
        raises. An untrained index has nothing to remove: 0.
        """
        return self._remove(ids, False)

    def merge_from(self, other: Self, add_id: int = 0) -> None:
        """Move all that another index stores into this one, without encoding anything again.

        Parameters
        ----------
        other : of the same training: codec, centroids and tables are the same, as those of a copy,
            or of a file read twice. Its settings do not matter. It is empty then.
        add_id : is added to its ids; `index.ntotal` where both have been numbered by `add`. Ids
            that are in both are then those of two vectors.

        `ntotal` grows by that of the other one. A direct map, of whatever ids, stays right. All or
        nothing. Takes the memory of what moves a second time, but for lists that were empty here.
        Other threads may search both, and wait while it moves.

        Raises RuntimeError, with the reason, where the two do not fit together
        (`check_compatible_for_merge`), for an index itself, inside a search of either, and if
        untrained; ValueError for an id that would become negative or more than int64 holds;
        TypeError for another kind of index, or an add_id that is no integer.
        """
        self._merge_from(other, integer("add_id", add_id, *INT64))

    @takes_tensors
    def update_vectors(self, keys: np.ndarray, x: np.ndarray) -> None:
        """Other vectors x (n, d) for the ids keys (n,), which are stored: they are encoded, and may
        change their list. Of an id that is given several times, the last.

        `ntotal` and the ids stay. Needs a direct map, of any kind. All or nothing, as `add`; other
        threads may search meanwhile, and find either the old vectors or the new ones.

        Raises RuntimeError without a direct map, for an id that is not stored, or a vector that
        cannot be stored (FAISS crashes); else as `add_with_ids`.
        """
        engine = self._check_trained()
        check_matrix(x, self.d)
        ids = as_ids(keys, x.shape[0])
        if not engine.core.has_direct_map:
            raise RuntimeError("direct map not initialized: call make_direct_map first")
        last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
        if len(last) < len(ids):
            ids, x = ids[last], x[last]
        engine.update(ids, x, self._coarse, self.training.device, bool(self.verbose))

    def copy_subset_to(self, other: Self, subset_type: int, a1: int, a2: int) -> None:
        """Store part of this index, with its ids, in another one of the same training too.

        subset_type : as in FAISS, 0: ids from a1 up to a2, which is not among them; 1: ids of which
            id % a1 is a2; 2: of the entries a1 up to a2 of all, the same part of each list; 3: of
            a1 parts of each list the one with number a2; 4: the lists a1 up to a2.

        `other.ntotal` grows by what is copied. A direct map of the other one stays right. Parts of
        2 and 3 together are the whole. Takes M + 28 bytes for each vector that is copied.

        Raises RuntimeError for another subset_type, or where the two do not fit together, as
        `merge_from`; ValueError for an a1 below 1 with 1 and 3, or an a2 that is no part's.
        """
        self.check_compatible_for_merge(other)
        subset_type = integer("subset_type", subset_type, *INT64)
        a1, a2 = integer("a1", a1, *INT64), integer("a2", a2, *INT64)
        if not 0 <= subset_type <= 4:
            raise RuntimeError(f"subset_type: expected 0 to 4, got {subset_type}")
        if subset_type in (1, 3) and not (a1 >= 1 and 0 <= a2 < a1):
            raise ArgumentError(f"a1, a2: expected 0 <= a2 < a1, got {a1}, {a2}")
        engine, theirs = self._check_trained(), other._check_trained()
        n = engine.core.n_stored

        def between(ids: np.ndarray, first: int, end: int) -> np.ndarray:
            i = np.arange(len(ids))
            return np.asarray((i >= first) & (i < end))

        def chosen(list_no: int, ids: np.ndarray, n_before: int) -> np.ndarray:
            size, n_after = len(ids), n_before + len(ids)
            if subset_type == 0:
                return np.asarray((ids >= a1) & (ids < a2))
            if subset_type == 1:
                return np.asarray(ids % a1 == a2)
            if subset_type == 2:
                first, end = (n_after * a // n - n_before * a // n for a in (a1, a2))
                return between(ids, first, end)
            if subset_type == 3:
                return between(ids, size * a2 // a1, size * (a2 + 1) // a1)
            return np.full(size, a1 <= list_no < a2)

        engine.copy_subset_to(theirs, chosen)

    def to_faiss(
        self, search_type: int = faiss.AdditiveQuantizer.ST_norm_qint8
    ) -> faiss.IndexIVFResidualQuantizer:
        """What is stored as a plain faiss index, `IVF<nlist>,RQ<M>x<nbits>_Nqint8`, whose `search`
        finds what this one's does with nshort 0, but for the rounding of its norms: for faiss's
        wrappers and servers. With the codec beside it, `faiss_qinco.from_faiss` makes it an index
        again. Not to be added to: faiss would store codes that mean something else.

        search_type : how faiss keeps norms: ST_norm_qint8, a byte, which the published files have,
            ST_norm_qint4, ST_norm_float (four bytes, and nearly this index's distances), or none
            (ST_decompress).

        A copy; quantizer, ids and nprobe are kept, a direct map is not. Other threads may search
        meanwhile.

        Raises RuntimeError if untrained, ValueError with inner product, where codes add to the
        means of lists, which faiss does not know, and for another search_type.
        """
        from ..interop.ivf_rq import ivf_rq

        engine = self._check_trained()
        if self.metric_type != faiss.METRIC_L2 or engine.bases is not engine.centroids:
            raise ValueError("to_faiss: expected an index of L2")
        with engine.core.reading():
            index = ivf_rq(self.quantizer, engine.additive, engine.core, search_type)
        index.nprobe = self.nprobe
        return index

    def make_direct_map(self, new_maintain_direct_map: bool = True) -> None:
        """`set_direct_map_type` of Array, or of NoMap for False."""
        self.set_direct_map_type(DirectMap.Array if new_maintain_direct_map else DirectMap.NoMap)

    def set_direct_map_type(self, type: int) -> None:
        """Keep a table from id to position, for `reconstruct`, and for `remove_ids` to find its
        vectors; or drop it. Of duplicates the last in list order.

        type : `faiss.DirectMap.NoMap`, `Array` or `Hashtable`. The last two are the same here but
            for the name: any ids, which may be added and removed, in 8 bytes a vector where they
            are about 0 .. ntotal-1, up to 43 where not.

        Before `train` as well. Raises RuntimeError for another type, TypeError for no integer.
        """
        if (type := integer("type", type, *INT64)) not in (0, 1, 2):
            raise RuntimeError(f"type: expected NoMap, Array or Hashtable, got {type}")
        if self._engine is not None:
            with self._engine.changing():
                if type == DirectMap.NoMap:
                    self._engine.core.clear_direct_map()
                else:
                    self._engine.core.make_direct_map()
        self._direct_map_type = type

    @property
    def direct_map(self) -> DirectMap:
        """The direct map, to be read: `type`, `no()`, `get(id)`."""
        return DirectMap(self)

    def _wants_direct_map(self) -> bool:
        return self._direct_map_type != DirectMap.NoMap

    def _located(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self._check_trained().core.has_direct_map:
            raise RuntimeError("direct map not initialized: call make_direct_map first")
        return super()._located(ids)

    @takes_tensors
    def reconstruct(self, key: int, x: np.ndarray | None = None) -> np.ndarray:
        """The decoded vector (d,) float32 of an id.

        Raises RuntimeError without a direct map, or where no vector has the id.
        """
        check_buffer("x", x, (self.d,), np.float32)
        return filled(x, self._check_trained().core.reconstruct(integer("key", key, *INT64)))

    @takes_tensors
    def reconstruct_from_offset(
        self, list_no: int, offset: int, recons: np.ndarray | None = None
    ) -> np.ndarray:
        """The decoded vector (d,) float32 of an entry of a list. recons: buffer to fill and return.

        Raises ValueError for an entry that does not exist, RuntimeError if untrained.
        """
        core = self._check_trained().core
        list_no = integer("list_no", list_no, 0, self.nlist - 1)
        place = np.array([list_no]), np.array([integer("offset", offset, *INT64)])
        check_buffer("recons", recons, (self.d,), np.float32)
        return filled(recons, core.reconstruct_at(*place)[0])

    # -- codes --------------------------------------------------------------------------------

    @takes_tensors
    def add_sa_codes(self, codes: np.ndarray, ids: np.ndarray | None = None) -> None:
        """Store codes of `sa_encode`, (n, sa_code_size()) uint8, with ids (n,), None: from ntotal
        on. With `length_correction` their vectors count as long as what they decode to.

        Raises as `sa_decode`, and as `add_with_ids`.
        """
        engine = self._check_trained()
        list_no, unpacked = self._unpacked(codes, self.coarse_code_size())
        engine.add_codes(list_no, unpacked, None if ids is None else as_ids(ids, len(list_no)))

    @takes_tensors
    def encode_vectors(
        self,
        x: np.ndarray,
        list_nos: np.ndarray,
        include_listnos: bool = False,
        codes: np.ndarray | None = None,
    ) -> np.ndarray:
        """x (n, d) and the lists (n,) they are to be in -> (n, code_size) uint8; include_listnos:
        with the list number in front, as of `sa_encode`.

        codes : buffer to fill and return. Raises RuntimeError if untrained, for a list that does
        not exist, or a row that cannot be stored; ValueError (also an AssertionError) for a wrong
        shape.
        """
        engine, x = self._check_trained(), as_matrix(x, self.d)
        width = self.code_size + (self.coarse_code_size() if include_listnos else 0)
        check_buffer("codes", codes, (len(x), width), np.uint8)
        lists = self._checked_lists(list_nos, len(x))
        return filled(codes, self._packed(*self._encoded(engine, x, lists))[:, -width:])

    @takes_tensors
    def decode_vectors(
        self, codes: np.ndarray, list_nos: np.ndarray, x: np.ndarray | None = None
    ) -> np.ndarray:
        """Codes (n, code_size) uint8 in lists (n,) -> (n, d) float32, as `sa_decode`, and raises as
        that. x: buffer to fill and return."""
        engine = self._check_trained()
        _, unpacked = self._unpacked(codes, 0)
        check_buffer("x", x, (len(unpacked), self.d), np.float32)
        return filled(x, engine.decode(self._checked_lists(list_nos, len(unpacked)), unpacked))

    def _checked_lists(self, list_nos: np.ndarray, n: int) -> np.ndarray:
        list_no = np.ascontiguousarray(list_nos, np.int64)
        if list_no.shape != (n,):
            raise ArgumentError(f"list_nos: expected shape ({n},), got {list_no.shape}")
        if n and not 0 <= list_no.min() <= list_no.max() < self.nlist:
            raise RuntimeError(f"list_nos: a list number is not in 0..{self.nlist - 1}")
        return list_no

    def coarse_code_size(self) -> int:
        """Bytes of a list number in `sa_encode`."""
        return ((self.nlist - 1).bit_length() + 7) // 8

    _coarse_bytes = coarse_code_size


def _checked_quantizer(quantizer: Any, d: int) -> Any:
    if not issubclass(type(quantizer), faiss.Index):  # isinstance: see stood_for
        raise TypeError(f"quantizer: expected a faiss.Index, got {type(quantizer)}")
    if quantizer.d != d:
        raise ArgumentError(f"quantizer: expected d={d}, got d={quantizer.d}")
    return quantizer
