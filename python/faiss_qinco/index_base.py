"""`QINCoIndex`, what the indexes of `index` share: state, and the order of the rooms.

Build:  x -> coarse clustering -> codec training -> student, additive codebooks (train)
        x -> coarse assignment -> beam encoding -> bias -> inverted lists (add)
Search: queries -> coarse -> tables -> scan -> shortlist -> neural re-ranking -> D, I,
        one call of the extension; on a GPU, the re-ranking is torch's.

All distances are squared L2, or inner products. Where FAISS has a behaviour, it is FAISS's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import faiss
import numpy as np

from . import _core
from .arrays import as_ids, as_matrix, check_buffer, check_k, filled
from .codec.codec import QINCoCodec, with_prefix
from .codec.config import QINCoConfig, TrainingConfig, resolve_config, resolve_device
from .codec.early_exit import Checkpoint, pack_checkpoints
from .codec.fitting import PROGRESS_VECTORS, fit, stored_bias
from .errors import ArgumentError
from .params import SearchParametersIVFQINCo, margin_factor, resolve_params, size
from .selectors import id_filter
from .threads import get_num_threads


@dataclass(frozen=True)
class _Trained:
    """What training gives."""

    codec: QINCoCodec
    centroids: np.ndarray  # (nlist, d) float32, what the additive codebooks' residuals are to
    additive: np.ndarray  # (M, K, d) float32
    checkpoints: list[Checkpoint]  # of early exit
    tables: _core.AdditiveTables  # the additive codebooks, packed
    early_exit: _core.EarlyExit | None  # the checkpoints, packed
    table: _core.FirstStepTable | None = None  # of the codec's weights, where asked for

    @staticmethod
    def of(
        codec: QINCoCodec,
        centroids: np.ndarray,
        additive: np.ndarray,
        checkpoints: list[Checkpoint],
    ) -> _Trained:
        packed = pack_checkpoints(checkpoints, codec.M, codec.K, codec.d) if checkpoints else None
        tables = _core.AdditiveTables(additive)
        return _Trained(codec, centroids, additive, checkpoints, tables, packed)


class QINCoIndex(ABC):
    """What the two indexes share: inverted lists of QINCo codes, tables, codec and search."""

    __slots__ = (
        "M", "_config", "_exit_margin", "_nshort", "_rerank_device", "_trained", "d", "lists",
        "metric_arg", "metric_type", "nbits", "nlist", "ntotal", "training", "verbose",
    )  # fmt: skip

    _ivf: ClassVar[bool]

    def __init__(
        self,
        d: int,
        nlist: int,
        M: int,
        nbits: int,
        metric: int,
        config: str | QINCoConfig,
        training: TrainingConfig | None,
    ) -> None:
        for name, value, low, high in (
            ("d", d, 1, 1 << 20), ("nlist", nlist, 1, 1 << 40), ("M", M, 1, 64),
            ("nbits", nbits, 4, 8),
        ):  # fmt: skip
            if not low <= size(name, value) <= high:
                raise ValueError(f"{name}: expected {low}..{high}, got {value!r}")
        if metric not in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
            raise ValueError(f"metric: expected METRIC_L2 or METRIC_INNER_PRODUCT, got {metric!r}")
        self.d, self.nlist, self.M, self.nbits = int(d), int(nlist), int(M), int(nbits)
        self.metric_type, self.metric_arg, self.verbose = int(metric), 0.0, False
        self.training = training or TrainingConfig()
        self._config = config if config == "auto" else resolve_config(config)
        self._nshort, self._exit_margin, self._rerank_device = 100, 1.0, "cpu"
        self.ntotal = 0
        self._trained: _Trained | None = None
        self.lists = _core.InvertedLists(self.nlist, self.M, self.nbits)

    @property
    def is_trained(self) -> bool:
        return self._trained is not None

    @property
    def codec(self) -> QINCoCodec | None:
        """The trained codec, None until trained."""
        return None if self._trained is None else self._trained.codec

    @property
    def config(self) -> str | QINCoConfig:
        """The codec's sizes, or "auto" until trained."""
        return self._config if self.codec is None else self.codec.config

    @property
    def nshort(self) -> int:
        """Vectors of the shortlist to re-rank with the neural codebooks; 0: none. Default 100."""
        return self._nshort

    @nshort.setter
    def nshort(self, value: int) -> None:
        self._nshort = size("nshort", value)

    @property
    def exit_margin(self) -> float:
        """Early exit of re-ranking: candidates that are further from the k-th best than this times
        the margin calibrated in training, for so many results, are not decoded to the end. Default
        1.0; inf: all are, and the results are exact for the shortlist. Where the codec has a
        student, that one decodes until only few candidates are left.
        `faiss_qinco.search_stats` counts the work saved.
        """
        return self._exit_margin

    @exit_margin.setter
    def exit_margin(self, value: float) -> None:
        self._exit_margin = margin_factor(value)

    @property
    def rerank_device(self) -> str:
        """Where `search` re-ranks: "cpu" (default), which is the extension; a torch device such as
        "cuda" or "cuda:1"; "auto": cuda where torch sees a GPU, else cpu. "cpu:0" is torch on CPU
        tensors, what a GPU runs.

        On a torch device the extension finds the shortlist and the whole of it is decoded: there
        is no early exit, and `faiss_qinco.search_stats` counts the queries alone. Results are the
        same within rounding; float32 products are as exact as
        `torch.set_float32_matmul_precision` says. `range_search`, and nshort 0, are always the
        extension's. A property of the machine: kept by copy and pickle, not by files.

        Raises TypeError unless a str; `search` raises RuntimeError where torch cannot use it.
        """
        return self._rerank_device

    @rerank_device.setter
    def rerank_device(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"rerank_device: expected a str, got {value!r}")
        self._rerank_device = value

    def precompute_table(self) -> None:
        """Compute what the first network returns for every list and code (without lists: for
        every two first codes), which `search` then looks up when it re-ranks: as FAISS's
        `IndexIVFPQ` does for its tables. Nothing where there is one already.

        Takes (nlist or K) * K * d * 4 bytes of memory, d rounded up to 16, and as long as one
        network for each of these vectors. It pays where `search` runs the codec's first networks
        for many more vectors than that, with long shortlists above all; with a student, hardly.
        Results are the same bit for bit; `faiss_qinco.search_stats.n_steps_saved` counts the
        look-ups as well. Not used by `range_search`, nor on a torch
        `rerank_device`; where shortlists are ranked in bfloat16, not by the float32 decoding of
        the best. A property of the process: not kept by files, pickle and copy.

        Raises RuntimeError if untrained, or if the codec has no network (M 1 without lists).
        """
        trained = self._check_trained()
        if trained.table is None:
            table = _core.FirstStepTable(trained.codec.weights, get_num_threads())
            self._trained = replace(trained, table=table)

    @property
    def use_precomputed_table(self) -> int:
        """1 while there is a table of `precompute_table`, else 0 (default). Assigning 1 computes
        one, 0 or -1 drops it. Raises ValueError for anything else, and as `precompute_table`.
        """
        return int(self._trained is not None and self._trained.table is not None)

    @use_precomputed_table.setter
    def use_precomputed_table(self, value: int) -> None:
        if value not in (-1, 0, 1):
            raise ValueError(f"use_precomputed_table: expected 1, 0 or -1, got {value!r}")
        if value == 1:
            self.precompute_table()
        elif self._trained is not None:
            self._trained = replace(self._trained, table=None)

    @property
    def code_size(self) -> int:
        """Bytes per code: ceil(M * nbits / 8)."""
        return int(self.lists.code_size)

    def memory_usage(self) -> dict[str, float]:
        """Bytes in memory, by what holds them; room to grow included.

        codes : code_size per vector, in blocks of 64 vectors of a list.
        bias : 4 per vector.
        ids : per vector none where the ids of a list are 0, 1, 2 … (a flat index that numbers
            by itself), else 4, 5 (ids up to 2^40) or 8, each list what its widest id needs.
        centroids, tables, codec : float32 centroids, additive codebooks with those of early exit
            and their copies, weights of the networks. What a coarse quantizer holds itself is not
            counted.
        precomputed_table : that of `precompute_table`.
        total : their sum; per_vector: total / ntotal, 0.0 for an empty index.
        """
        parts: dict[str, float] = dict(self.lists.memory())
        parts |= dict.fromkeys(("centroids", "tables", "codec", "precomputed_table"), 0)
        if self._trained is not None:
            parts["centroids"] = self._trained.centroids.nbytes
            tails = sum(c.tail.nbytes for c in self._trained.checkpoints)
            parts["tables"] = 3 * self._trained.additive.nbytes + 2 * tails
            parts["codec"] = sum(t.nbytes for t in self._trained.codec.state()[1].values())
            if self._trained.table is not None:
                parts["precomputed_table"] = self._trained.table.nbytes
        total = sum(parts.values())
        return parts | {"total": total, "per_vector": total / self.ntotal if self.ntotal else 0.0}

    # -- what the two indexes do differently --------------------------------------------------

    @abstractmethod
    def _coarse_train(self, x: np.ndarray, codec: QINCoCodec | None = None) -> np.ndarray | None:
        """Train the coarse quantizer, or give it the codec's centroids; returns them (nlist, d),
        or None for a flat index."""

    @abstractmethod
    def _list_numbers(self, x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
        """(n, d) finite float32, (nlist, d) -> (n,) int64."""

    @abstractmethod
    def _probed(
        self, x: np.ndarray, params: SearchParametersIVFQINCo
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Coarse result (n, nprobe) list numbers and distances, or Nones: from the centroids."""

    # -- build --------------------------------------------------------------------------------

    def train(self, x: np.ndarray) -> None:
        """Train on x (n, d), any real dtype: coarse quantizer, codec, additive codebooks.

        Shows progress; see `TrainingConfig` for time budget, checkpoint and resume.

        Raises RuntimeError for NaN or inf, for fewer vectors than lists or codewords, and when
        the error diverges; the index then stays untrained.
        """
        x = self._check_training(x)
        if self.is_trained:
            return
        centroids = self._coarse_train(x)
        list_no = None if centroids is None else self._list_numbers(x, centroids)
        codec = QINCoCodec.train(
            x, self.M, self.nbits, self._config, self.training, centroids, list_no
        )
        self._trained = self._fit(x, codec, centroids, list_no)

    def train_from_codec(self, x: np.ndarray, codec: QINCoCodec) -> None:
        """Become trained with a codec that is trained already: only the additive codebooks are
        fitted, to x (n, d).

        The coarse quantizer must hold the codec's centroids, or be empty; it then gets them.
        Raises ValueError where codec and index do not fit together, RuntimeError as `train`.
        """
        x = self._check_training(x)
        self._check_codec(codec)
        centroids = self._coarse_train(x, codec)
        list_no = None if centroids is None else self._list_numbers(x, centroids)
        self._trained = self._fit(x, codec, centroids, list_no)

    def distill(self, x: np.ndarray) -> None:
        """Give a trained index a student of its codec, or a new one, with margins calibrated anew:
        for one trained without. x (n, d): training vectors. Nothing that is stored changes.

        `codec` is then another object. Raises RuntimeError as `train`, and if untrained.
        """
        trained, x = self._check_trained(), self._check_training(x)
        list_no = self._list_numbers(x, trained.centroids) if self._ivf else None
        found = self._fit(
            x, trained.codec.with_student(None), trained.centroids, list_no,
            replace(self.training, student=True),
        )  # fmt: skip
        # The tables stay: the biases that are stored belong to them.
        distilled = _Trained.of(found.codec, trained.centroids, trained.additive, found.checkpoints)
        self._trained = replace(distilled, table=trained.table)  # of the same weights

    def _check_codec(self, codec: QINCoCodec) -> None:
        expected = (self.d, self.M, self.nbits, self.nlist if self._ivf else None)
        found = (codec.d, codec.M, codec.nbits, codec.nlist)
        if found != expected:
            raise ValueError(f"codec: expected (d, M, nbits, nlist) {expected}, got {found}")

    def _check_training(self, x: np.ndarray) -> np.ndarray:
        x = as_matrix(x, self.d)
        if len(x) < max(self.nlist, 1 << self.nbits):
            raise RuntimeError(
                f"x: {len(x)} training vectors are fewer than nlist={self.nlist} or "
                f"{1 << self.nbits} codewords"
            )
        if not np.isfinite(x).all():
            raise RuntimeError("x: training vectors contain NaN or inf")
        return x

    def _fit(
        self,
        x: np.ndarray,
        codec: QINCoCodec,
        centroids: np.ndarray | None,
        list_no: np.ndarray | None,
        training: TrainingConfig | None = None,
    ) -> _Trained:
        """The tables, a student and early exit, fitted to the codes of training vectors."""
        if centroids is None:
            centroids = codec.mean[None]
        fitted, additive, checkpoints = fit(
            codec, x, centroids, list_no, self.metric_type, training or self.training
        )
        return _Trained.of(fitted, centroids, additive, checkpoints)

    def add(self, x: np.ndarray) -> None:
        """Encode and store x (n, d); ids follow on from ntotal.

        A row with NaN or inf takes an id but is never found; `reconstruct_n` gives NaN for it.
        All or nothing: on an error or Ctrl-C the index is as before. Raises RuntimeError if
        untrained, ValueError (also an AssertionError) for a wrong dimension.
        """
        self._add(x)

    def _add(self, x: np.ndarray, xids: np.ndarray | None = None) -> np.ndarray:
        """Returns the position of each vector, list_no << 32 | offset, or -1."""
        trained, x = self._check_trained(), as_matrix(x, self.d)
        ids = np.arange(self.ntotal, self.ntotal + len(x), dtype=np.int64)
        if xids is not None:
            ids = as_ids(xids, len(x))
        list_no, codes = self._encode(x, self.training.progress and len(x) >= PROGRESS_VECTORS)
        bias = stored_bias(trained.tables, trained.centroids, list_no, codes, self.metric_type)
        offset = self.lists.add(list_no, codes, bias, ids)
        self.ntotal += len(x)
        return np.where(offset < 0, -1, list_no << 32 | offset)

    def _encode(self, x: np.ndarray, progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) -> list_no (n,) int64, -1 for rows that are not finite, and codes (n, M) uint8."""
        trained = self._check_trained()
        list_no = np.full(len(x), -1, np.int64)
        codes = np.zeros((len(x), self.M), np.uint8)
        finite = np.isfinite(x).all(axis=1)
        rows = x if finite.all() else x[finite]
        if len(rows):
            found = self._list_numbers(rows, trained.centroids)
            encoded = trained.codec.encode(
                rows, found if self._ivf else None,
                device=self.training.device, progress=progress,
            )  # fmt: skip
            list_no[finite], codes[finite] = found, encoded[:, -self.M :]
        return list_no, codes

    def reset(self) -> None:
        """Forget all vectors; the training stays."""
        self.lists.reset()
        self.ntotal = 0

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
        """The k nearest stored vectors of each query.

        Parameters
        ----------
        x : (n, d) queries, any real dtype.
        k : results per query.
        params : `SearchParametersIVFQINCo` (or `faiss.SearchParametersIVF`); None: the index's
            nprobe and nshort.
        D, I : buffers (n, k) float32 and int64 to fill and return.

        Returns
        -------
        D (n, k) float32: squared L2 distance (or inner product) between the query and what
        `reconstruct` returns, best first; with nshort 0 the additive distance. I (n, k) int64.
        Missing results, and queries with NaN or inf, have id -1 and D = ±FLT_MAX.

        Raises
        ------
        RuntimeError if untrained, nprobe is 0 or params are another index's; ValueError (also
        an AssertionError) for a wrong dimension, k < 1 or buffers of a wrong shape; TypeError for
        k or buffers of a wrong type.
        """
        trained, x = self._check_trained(), as_matrix(x, self.d)
        params = self._resolve(params)
        k = check_k(k, len(x), D, I)
        return self._search(trained, x, k, params, *self._probed(x, params), D, I)

    def _resolve(self, params: Any) -> SearchParametersIVFQINCo:
        resolved = resolve_params(params, self._nprobe_default(), self._nshort, self._exit_margin)
        if resolved.nprobe == 0:
            raise RuntimeError("nprobe: expected at least 1, got 0")
        return resolved

    def _search(
        self,
        trained: _Trained,
        x: np.ndarray,
        k: int,
        params: SearchParametersIVFQINCo,
        list_no: np.ndarray | None,
        distance: np.ndarray | None,
        D: np.ndarray | None,
        I: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        filter, n_threads = id_filter(params.sel, get_num_threads())
        nprobe = min(params.nprobe, self.nlist) if list_no is None else list_no.shape[1]
        full = params.ensure_topk_full and params.max_codes > 0
        max_codes = max(params.max_codes, k) if full else params.max_codes
        device = resolve_device(self._rerank_device) if params.nshort else "cpu"
        if device != "cpu":
            from .codec.reranking import rerank

            n_short = min(max(params.nshort or 0, k), max(self.lists.ntotal, 1))

            def shortlist(part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
                return _core.shortlist(
                    self.lists,
                    trained.centroids,
                    None if list_no is None else list_no[part],
                    None if distance is None else distance[part],
                    trained.tables,
                    x[part],
                    n_short,
                    nprobe,
                    self.metric_type,
                    filter,
                    max_codes,
                    full,
                    n_threads,
                )

            new_D, new_I = rerank(trained.codec, x, shortlist, n_short, k, self.metric_type, device)
            return filled(D, new_D), filled(I, new_I)
        exit_margin, student = params.exit_margin or 0.0, trained.codec.student
        new_D, new_I = _core.search(
            self.lists,
            trained.centroids,
            list_no,
            distance,
            trained.tables,
            trained.codec.weights if params.nshort else None,
            x,
            k,
            nprobe,
            params.nshort or 0,
            self.metric_type,
            filter,
            max_codes,
            full,
            n_threads,
            trained.early_exit if np.isfinite(exit_margin) else None,
            exit_margin,
            None if student is None else student.weights,
            trained.table,
        )
        return filled(D, new_D), filled(I, new_I)

    def range_search(
        self, x: np.ndarray, thresh: float, *, params: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All stored vectors of the probed lists that are nearer than a threshold.

        Parameters
        ----------
        x : (n, d) queries, any real dtype.
        thresh : squared L2 distance that results are below, or inner product that they are above;
            nothing is below or above NaN.
        params : as for `search`.

        Returns
        -------
        lims (n + 1,) uint64; D and I (lims[n],) float32 and int64, as `search` gives them: those of
        query i are lims[i] to lims[i + 1], in no particular order.

        With nshort 0, D is the additive distance. Else the exact one: decoded are all vectors
        inside by their additive distance, and where these are fewer than nshort, the next best up
        to that number. What is inside, but neither, is missed.

        Raises as `search`, TypeError or ValueError for a thresh that is no number.
        """
        trained, x = self._check_trained(), as_matrix(x, self.d)
        params = self._resolve(params)
        list_no, distance = self._probed(x, params)
        filter, n_threads = id_filter(params.sel, get_num_threads())
        return _core.range_search(
            self.lists,
            trained.centroids,
            list_no,
            distance,
            trained.tables,
            trained.codec.weights if params.nshort else None,
            x,
            float(thresh),
            min(params.nprobe, self.nlist),
            params.nshort or 0,
            self.metric_type,
            filter,
            params.max_empty_result_buckets,
            n_threads,
        )

    def assign(self, x: np.ndarray, k: int, labels: np.ndarray | None = None) -> np.ndarray:
        """The ids (n, k) of `search`."""
        return self.search(x, k, I=labels)[1]

    def _nprobe_default(self) -> int:
        return 1

    # -- reconstruction -----------------------------------------------------------------------

    def reconstruct_n(self, n0: int = 0, ni: int = -1, x: np.ndarray | None = None) -> np.ndarray:
        """The decoded vectors of ids n0 .. n0+ni-1, (ni, d) float32; ni = -1: all from n0.

        NaN where no vector has the id. Raises RuntimeError out of bounds or untrained.
        """
        ni = self.ntotal - n0 if ni == -1 else ni
        if ni < 0 or n0 < 0 or n0 + ni > self.ntotal:
            raise RuntimeError(f"ids {n0}..{n0 + ni - 1} are not all in 0..{self.ntotal - 1}")
        check_buffer("x", x, (ni, self.d), np.float32)
        if ni == 0:
            return filled(x, np.empty((0, self.d), np.float32))
        return filled(x, self._decode_at(*self.lists.locate(n0, ni)))

    def _decode_at(self, list_no: np.ndarray, offset: np.ndarray) -> np.ndarray:
        out = np.full((len(list_no), self.d), np.nan, np.float32)
        found = list_no >= 0
        if found.any():
            codes = self.lists.gather(list_no[found], offset[found])
            out[found] = self._decode(list_no[found], codes)
        return out

    def _decode(self, list_no: np.ndarray, codes: np.ndarray) -> np.ndarray:
        codec = self._check_trained().codec
        return codec.decode_lists(list_no if self._ivf else None, codes)

    # -- codes --------------------------------------------------------------------------------

    def sa_code_size(self) -> int:
        """Bytes per vector of `sa_encode`."""
        return self.code_size + self._coarse_bytes()

    def _coarse_bytes(self) -> int:
        return 0

    def sa_encode(self, x: np.ndarray) -> np.ndarray:
        """x (n, d) -> (n, sa_code_size()) uint8: the list number, little-endian, then the code.

        Raises RuntimeError if untrained or for NaN or inf.
        """
        list_no, codes = self._encode(as_matrix(x, self.d))
        if (list_no < 0).any():
            raise RuntimeError("x: vectors with NaN or inf have no code")
        coarse = np.ascontiguousarray(list_no, "<i8")[:, None].view(np.uint8)
        packed = _core.pack_codes(codes, self.nbits)
        return np.hstack((coarse[:, : self._coarse_bytes()], packed))

    def sa_decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes of `sa_encode` -> (n, d) float32, what `reconstruct` gives for such vectors.

        Raises TypeError unless uint8, ValueError (also an AssertionError) for a wrong width,
        RuntimeError if untrained or for a list number out of range.
        """
        self._check_trained()
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
        return self._decode(list_no, _core.unpack_codes(packed, self.M, self.nbits))

    def _check_trained(self) -> _Trained:
        if self._trained is None:
            raise RuntimeError(f"{type(self).__name__} is not trained")
        return self._trained

    # -- state --------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a file holds: a JSON header and tensors."""
        header: dict[str, Any] = {
            "type": type(self).__name__,
            **{k: getattr(self, k) for k in ("d", "nlist", "M", "nbits", "ntotal", "nshort")},
            "exit_margin": self.exit_margin if np.isfinite(self.exit_margin) else None,
            "metric": self.metric_type,
            "is_trained": self.is_trained,
            "config": self._config if isinstance(self._config, str) else self._config.to_dict(),
        }
        codes, bias, ids = self.lists.export()
        tensors: dict[str, np.ndarray] = {
            "sizes": self.lists.sizes(),
            "codes": codes,
            "bias": bias,
            "ids": ids,
        }
        if self._trained is not None:
            header["codec"], codec = self._trained.codec.state()
            tensors |= {f"codec.{k}": v for k, v in codec.items()}
            tensors["centroids"] = self._trained.centroids
            tensors["additive"] = self._trained.additive
            checkpoints = self._trained.checkpoints
            header["exits"] = [{"n_codes": c.n_codes, "margins": c.margins} for c in checkpoints]
            tensors |= {f"tail.{c.n_codes}": c.tail for c in checkpoints}
        return header, tensors

    def _restore(self, header: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        """The rest of `from_state`: everything but what the constructor took."""
        self.nshort, self.ntotal = header["nshort"], size("ntotal", header["ntotal"])
        self.exit_margin = np.inf if header["exit_margin"] is None else header["exit_margin"]
        if header["is_trained"]:
            codec = QINCoCodec.from_state(header["codec"], with_prefix(tensors, "codec."))
            centroids, additive = tensors["centroids"], tensors["additive"]
            self._check_codec(codec)
            if centroids.shape != (self.nlist, self.d) or centroids.dtype != np.float32:
                raise ValueError("centroids do not fit the index")
            if additive.shape != (self.M, codec.K, self.d) or additive.dtype != np.float32:
                raise ValueError("additive codebooks do not fit the index")
            checkpoints = [
                Checkpoint(c["n_codes"], c["margins"], tensors[f"tail.{c['n_codes']}"])
                for c in header["exits"]
            ]
            self._trained = _Trained.of(codec, centroids, additive, checkpoints)
        self.lists.import_(tensors["sizes"], tensors["codes"], tensors["bias"], tensors["ids"])
        if self.lists.ntotal > self.ntotal:
            raise ValueError("more vectors in the lists than ntotal")

    @classmethod
    @abstractmethod
    def from_state(cls, header: dict[str, Any], tensors: dict[str, np.ndarray]) -> Any:
        """Inverse of `state`. Raises KeyError, TypeError or ValueError where they do not fit."""

    def __reduce__(self) -> tuple[Any, ...]:
        return self._copied, (*self.state(), self.training, self._rerank_device)

    @classmethod
    def _copied(
        cls,
        header: dict[str, Any],
        tensors: dict[str, np.ndarray],
        training: TrainingConfig,
        rerank_device: str,
    ) -> Any:
        """What pickle and copy call."""
        index = cls.from_state(header, tensors)
        index.training, index.rerank_device = training, rerank_device
        return index


def config_of(header: dict[str, Any]) -> str | QINCoConfig:
    """What `state` put there."""
    config = header["config"]
    return config if isinstance(config, str) else QINCoConfig.from_dict(config)
