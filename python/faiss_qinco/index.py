"""`IndexQINCo` and `IndexIVFQINCo`: what each adds to what `index_base` does for both."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from . import _core
from .arrays import as_matrix, check_buffer, check_k, filled
from .codec.codec import QINCoCodec
from .codec.config import QINCoConfig, TrainingConfig
from .errors import ArgumentError
from .index_base import QINCoIndex, config_of
from .params import SearchParametersIVFQINCo, size
from .threads import get_num_threads


class IndexQINCo(QINCoIndex):
    """Flat index of QINCo codes: the shortlist is found by tables over all vectors.

    Parameters
    ----------
    d, M, nbits : dimension, codes per vector (1..64), bits per code (4..8).
    metric : faiss.METRIC_L2 or METRIC_INNER_PRODUCT.
    config : preset name ("XS", "S", "M", "L"), "auto" or QINCoConfig.
    training : TrainingConfig.

    Attributes
    ----------
    As of `IndexIVFQINCo`, but for those of lists and quantizer.

    Raises ValueError for a size out of range, an unknown metric or preset.
    """

    __slots__ = ()
    _ivf = False

    def __init__(
        self,
        d: int,
        M: int,
        nbits: int = 8,
        metric: int = faiss.METRIC_L2,
        config: str | QINCoConfig = "S",
        training: TrainingConfig | None = None,
    ) -> None:
        super().__init__(d, 1, M, nbits, metric, config, training)

    def _coarse_train(self, x: np.ndarray, codec: QINCoCodec | None = None) -> None:
        return None

    def _list_numbers(self, x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
        return np.zeros(len(x), np.int64)

    def _probed(self, x: np.ndarray, params: SearchParametersIVFQINCo) -> tuple[None, None]:
        return None, None

    def reconstruct(self, key: int, x: np.ndarray | None = None) -> np.ndarray:
        """The decoded vector (d,) float32 of an id. Raises RuntimeError for an id out of range."""
        check_buffer("x", x, (self.d,), np.float32)
        return filled(x, self.reconstruct_n(key, 1)[0])

    @classmethod
    def from_state(cls, header: dict[str, Any], tensors: dict[str, np.ndarray]) -> IndexQINCo:
        """Inverse of `state`. Raises KeyError, TypeError or ValueError where they do not fit."""
        index = cls(header["d"], header["M"], header["nbits"], header["metric"], config_of(header))
        index._restore(header, tensors)
        return index


class IndexIVFQINCo(QINCoIndex):
    """Inverted-file index of QINCo codes.

    Parameters
    ----------
    quantizer : any faiss index for vectors of dimension d; finds the lists to visit.
    d, nlist : dimension, number of inverted lists.
    M, nbits : codes per vector (1..64), bits per code (4..8).
    metric : faiss.METRIC_L2 or METRIC_INNER_PRODUCT.
    config : preset name ("XS", "S", "M", "L"), "auto" or QINCoConfig.
    training : TrainingConfig.

    Attributes
    ----------
    nprobe : lists to visit per query, default 1. nshort : vectors to re-rank, default 100.
    exit_margin : early exit of re-ranking, default 1.0; inf: none. rerank_device : where it runs,
        default "cpu"; a torch device, or "auto". use_precomputed_table : whether it looks the
        first network up, default 0; `precompute_table` makes it 1.
    cp : faiss.ClusteringParameters of the coarse clustering. codec : QINCoCodec once trained.
    d, ntotal, is_trained, metric_type, nlist, M, nbits, code_size, quantizer as in FAISS.

    Raises ValueError for a size out of range, an unknown metric or preset, or a quantizer of
    another dimension; TypeError if `quantizer` is not a faiss index.
    """

    __slots__ = ("_map", "_nprobe", "cp", "own_fields", "parallel_mode", "quantizer")
    _ivf = True

    def __init__(
        self,
        quantizer: faiss.Index,
        d: int,
        nlist: int,
        M: int,
        nbits: int = 8,
        metric: int = faiss.METRIC_L2,
        config: str | QINCoConfig = "S",
        training: TrainingConfig | None = None,
    ) -> None:
        super().__init__(d, nlist, M, nbits, metric, config, training)
        if not isinstance(quantizer, faiss.Index):
            raise TypeError(f"quantizer: expected a faiss.Index, got {type(quantizer)}")
        if quantizer.d != d:
            raise ArgumentError(f"quantizer: expected d={d}, got d={quantizer.d}")
        self.quantizer = quantizer
        self._nprobe, self.own_fields, self.parallel_mode = 1, True, 0
        self.cp = faiss.ClusteringParameters()
        self.cp.niter = 10
        self.cp.spherical = metric == faiss.METRIC_INNER_PRODUCT
        self._map: np.ndarray | None = None  # id -> list_no << 32 | offset

    @property
    def nprobe(self) -> int:
        """Lists to visit per query; more than nlist means all."""
        return self._nprobe

    @nprobe.setter
    def nprobe(self, value: int) -> None:
        self._nprobe = size("nprobe", value)

    def _nprobe_default(self) -> int:
        return self._nprobe

    # -- coarse -------------------------------------------------------------------------------

    def _coarse_train(self, x: np.ndarray, codec: QINCoCodec | None = None) -> np.ndarray:
        if not (self.quantizer.is_trained and self.quantizer.ntotal == self.nlist):
            centroids = self._cluster(x) if codec is None else codec.centroids()
            self.quantizer.reset()
            if not self.quantizer.is_trained:
                self.quantizer.train(centroids)
            self.quantizer.add(centroids)
        centroids = np.ascontiguousarray(self.quantizer.reconstruct_n(0, self.nlist), np.float32)
        if codec is not None and not np.allclose(
            centroids, codec.centroids(), rtol=1e-3, atol=1e-3 * codec.std
        ):
            raise ValueError("quantizer: its centroids are not the codec's")
        return centroids

    def _cluster(self, x: np.ndarray) -> np.ndarray:
        self.cp.verbose = self.verbose
        clustering = faiss.Clustering(self.d, self.nlist, self.cp)
        clustering.train(x, faiss.IndexFlat(self.d, self.metric_type))
        return faiss.vector_to_array(clustering.centroids).reshape(self.nlist, self.d)

    def _flat(self) -> bool:
        """Whether the extension can take the quantizer's place."""
        quantizer = self.quantizer
        kinds = (faiss.IndexFlat, faiss.IndexFlatL2, faiss.IndexFlatIP)
        if type(quantizer) not in kinds:  # a pointer from C++, perhaps
            quantizer = faiss.downcast_index(quantizer)
        return type(quantizer) in kinds and quantizer.metric_type == self.metric_type

    def _list_numbers(self, x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
        if not self._flat():
            return np.ascontiguousarray(self.quantizer.search(x, 1)[1][:, 0])
        return _core.assign(centroids, x, 1, self.metric_type, get_num_threads())[0][:, 0]

    def _probed(
        self, x: np.ndarray, params: SearchParametersIVFQINCo
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        if self._flat() and params.quantizer_params is None:
            return None, None
        nprobe = min(params.nprobe, self.nlist)
        distance, list_no = self.quantizer.search(x, nprobe, params=params.quantizer_params)
        same = self.quantizer.metric_type == self.metric_type
        return list_no, distance if same else None

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
            gives them; None: computed here.

        Raises as `search`; ValueError (also an AssertionError) for a wrong shape of Iq or Dq,
        RuntimeError for a list number that does not exist.
        """
        trained, x = self._check_trained(), as_matrix(x, self.d)
        params = self._resolve(params)
        k = check_k(k, len(x), D, I)
        shape = (len(x), params.nprobe)
        list_no = np.ascontiguousarray(Iq, np.int64)
        distance = None if Dq is None else np.ascontiguousarray(Dq, np.float32)
        for name, array in (("Iq", list_no), ("Dq", distance)):
            if array is not None and array.shape != shape:
                raise ArgumentError(f"{name}: expected shape {shape}, got {array.shape}")
        if list_no.max(initial=-1) >= self.nlist:
            raise RuntimeError(f"Iq: expected list numbers below {self.nlist}")
        list_no = np.maximum(list_no, -1)
        return self._search(trained, x, k, params, list_no, distance, D, I)

    # -- ids ----------------------------------------------------------------------------------

    def add(self, x: np.ndarray) -> None:
        position = self._add(x)
        if self._map is not None:
            self._map = np.append(self._map, position)

    add.__doc__ = QINCoIndex.add.__doc__

    def add_with_ids(self, x: np.ndarray, xids: np.ndarray) -> None:
        """As `add`, with ids xids (n,), cast to int64; any values, duplicates kept.

        Raises as `add`, ValueError (also an AssertionError) for a wrong shape of xids, and
        RuntimeError with a direct map.
        """
        if self._map is not None:
            raise RuntimeError("add_with_ids does not work with a direct map; clear it first")
        self._add(x, xids)

    def reset(self) -> None:
        super().reset()
        if self._map is not None:
            self._map = np.empty(0, np.int64)

    def make_direct_map(self, new_maintain_direct_map: bool = True) -> None:
        """Keep a table from id to position, for `reconstruct`; False: drop it.

        Raises RuntimeError unless the ids are 0 .. ntotal-1.
        """
        if not new_maintain_direct_map:
            self._map = None
            return
        list_no, offset = self.lists.locate(0, self.ntotal)
        found = list_no >= 0
        if int(found.sum()) != self.lists.ntotal:
            raise RuntimeError("a direct map needs the sequential ids that `add` gives")
        self._map = np.where(found, list_no << 32 | offset, -1)

    def reconstruct(self, key: int, x: np.ndarray | None = None) -> np.ndarray:
        """The decoded vector (d,) float32 of an id.

        Raises RuntimeError without a direct map, or where no vector has the id.
        """
        check_buffer("x", x, (self.d,), np.float32)
        if self._map is None:
            raise RuntimeError("direct map not initialized: call make_direct_map first")
        if not 0 <= key < len(self._map) or self._map[key] < 0:
            raise RuntimeError(f"key: no vector with id {key}")
        position = self._map[key : key + 1]
        return filled(x, self._decode_at(position >> 32, position & 0xFFFFFFFF)[0])

    # -- codes --------------------------------------------------------------------------------

    def coarse_code_size(self) -> int:
        """Bytes of a list number in `sa_encode`."""
        return ((self.nlist - 1).bit_length() + 7) // 8

    _coarse_bytes = coarse_code_size

    # -- state --------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        header, tensors = super().state()
        header |= {"nprobe": self.nprobe, "direct_map": self._map is not None}
        header["cp"] = {
            name: getattr(self.cp, name)
            for name in ("niter", "nredo", "spherical", "seed", "min_points_per_centroid",
                         "max_points_per_centroid", "int_centroids", "frozen_centroids")
        }  # fmt: skip
        tensors["quantizer"] = faiss.serialize_index(self.quantizer)
        return header, tensors

    @classmethod
    def from_state(cls, header: dict[str, Any], tensors: dict[str, np.ndarray]) -> IndexIVFQINCo:
        """Inverse of `state`. Raises KeyError, TypeError or ValueError where they do not fit."""
        if tensors["sizes"].shape != (header["nlist"],):
            raise ValueError("the list sizes do not fit nlist")
        quantizer = faiss.deserialize_index(np.array(tensors["quantizer"]))
        index = cls(
            quantizer, header["d"], header["nlist"], header["M"], header["nbits"],
            header["metric"], config_of(header),
        )  # fmt: skip
        index._restore(header, tensors)
        if index.is_trained and quantizer.ntotal != index.nlist:
            raise ValueError("the quantizer does not hold nlist centroids")
        index.nprobe = header["nprobe"]
        for name, value in header["cp"].items():
            setattr(index.cp, name, type(getattr(index.cp, name))(value))
        if header["direct_map"]:
            index.make_direct_map()
        return index
