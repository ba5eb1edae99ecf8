"""What an index is: sizes, settings of its searches, memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss

from .. import _core
from ..checks import integer, margin_factor, size
from ..coarse import NoLists, Quantizer
from ..codec.codec import QINCoCodec
from ..codec.config import QINCoConfig, check_bool, resolve_config
from ..engine import Engine
from ..operating_points import OperatingPoint, from_json, to_json
from ..params import MOST_CODES
from ..ranking.additive import DEFAULT_WEIGHT, MOST_WEIGHT
from ..threads import get_num_threads
from ..training.config import TrainingConfig, check_number
from .absent import ABSENT


class Settings:
    """What the parts of an index's surface, which are classes of methods alone, have in common."""

    __slots__ = (
        "M", "_M_search", "__weakref__", "_additive_weight", "_coarse", "_config", "_engine",
        "_error_weight", "_exit_margin", "_length_correction", "_min_codes", "_nshort",
        "_operating_points", "_rerank_device", "d",
        "metric_arg", "metric_type", "nbits", "nlist", "training", "verbose",
    )  # fmt: skip

    def __init__(
        self,
        coarse: NoLists | Quantizer,
        d: int,
        nlist: int,
        M: int,
        nbits: int,
        metric: int,
        config: str | QINCoConfig,
        training: TrainingConfig | None,
    ) -> None:
        self.d, self.nlist = integer("d", d, 1, 1 << 20), integer("nlist", nlist, 1, 1 << 40)
        self.M, self.nbits = integer("M", M, 1, MOST_CODES), integer("nbits", nbits, 4, 8)
        if metric not in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
            raise ValueError(f"metric: expected METRIC_L2 or METRIC_INNER_PRODUCT, got {metric!r}")
        self.metric_type, self.metric_arg, self.verbose = int(metric), 0.0, False
        self.training = training or TrainingConfig()
        auto = isinstance(config, str) and config.lower() == "auto"
        self._config = "auto" if auto else resolve_config(config, self.d)
        self._nshort: int | None = None
        self._M_search: int | None = None
        self._min_codes = 0
        self._operating_points: list[OperatingPoint] = []
        self._exit_margin, self._rerank_device = 1.0, "cpu"
        self._length_correction = metric == faiss.METRIC_INNER_PRODUCT
        self._additive_weight = DEFAULT_WEIGHT
        self._error_weight: float | None = None
        self._coarse = coarse
        self._engine: Engine | None = None

    def __getattr__(self, name: str) -> Any:
        """Only called for what is not there."""
        reason = f": {ABSENT[name]}" if name in ABSENT else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{reason}")

    def __repr__(self) -> str:
        metric = "L2" if self.metric_type == faiss.METRIC_L2 else "inner product"
        state = f"ntotal={self.ntotal}" if self.is_trained else "untrained"
        parts = (type(self).__name__, self._factory_string(), f"d={self.d}", metric, state)
        return f"<{' '.join(parts)}>"

    def _factory_string(self) -> str:
        return f"QINCo{self.M}x{self.nbits}"

    @property
    def is_trained(self) -> bool:
        return self._engine is not None

    @property
    def ntotal(self) -> int:
        """Vectors added and not removed; as in FAISS, also those that could not be stored."""
        return 0 if self._engine is None else self._engine.core.ntotal

    @property
    def codec(self) -> QINCoCodec | None:
        """The trained codec, None until trained."""
        return None if self._engine is None else self._engine.codec

    @property
    def config(self) -> str | QINCoConfig:
        """The codec's sizes, or "auto" until trained."""
        return self._config if self.codec is None else self.codec.config

    @property
    def lists(self) -> _core.Engine:
        """The extension's part of the index, for tools: `sizes()`, `get_ids(list_no)`,
        `get_codes(list_no)` (size, M), a byte per step, and more. `invlists` is what FAISS has."""
        return self._check_trained().core

    @property
    def nshort(self) -> int | None:
        """Vectors of the shortlist to re-rank with the neural codebooks, never less than k; 0:
        none. Default None: 100, or 4 k where that is more."""
        return self._nshort

    @nshort.setter
    def nshort(self, value: int | None) -> None:
        self._nshort = None if value is None else size("nshort", value)

    @property
    def operating_points(self) -> list[OperatingPoint]:
        """What `tune` has found, the fastest first, for `params="r@1>=.45"` in searches; kept in
        files and copies. To be set to other ones, or to none."""
        return list(self._operating_points)

    @operating_points.setter
    def operating_points(self, points: Sequence[OperatingPoint]) -> None:
        points = list(points)
        if not all(isinstance(point, OperatingPoint) for point in points):
            raise TypeError("operating_points: expected OperatingPoint objects")
        self._operating_points = from_json(to_json(points))  # which checks that names differ

    @property
    def exit_margin(self) -> float:
        """Early exit of re-ranking: candidates that are further from the k-th best than this times
        the margin calibrated in training, for so many results, are not decoded to the end. Default
        1.0; inf: all are, and the results are exact for the shortlist. Where the codec has a
        student, that one decodes until only few candidates are left. In `range_search`, the same
        for the margins around the radius.
        `faiss_qinco.search_stats` counts the work saved.
        """
        return self._exit_margin

    @exit_margin.setter
    def exit_margin(self, value: float) -> None:
        self._exit_margin = margin_factor(value)

    @property
    def M_search(self) -> int | None:
        """The codes of each vector that searches use: its first so many, as if the index had been
        cut to them by `truncate`, which gives the same results. Fewer are faster to scan and to
        decode, and say less of the vectors; what is stored and reconstructed stays whole. Default
        None: all M. To be set for one call too, in `SearchParametersIVFQINCo`.

        D is then the distance to what the first codes decode to. Whole shortlists are decoded, and
        what a `range_search` scans: student and margins of early exit are those of all codes.

        Each number of codes has tables of its own. The first search by so many fits them to a
        sample of the stored vectors, as `truncate` does, in seconds for a million; the first one
        with four times as many vectors to fit to does it again. They take 2 bytes a vector (none
        with inner product without `length_correction`), `memory_usage` has their sum, and are not
        kept by files, pickle and copy. In the filter of another search they are used if they are
        there, and RuntimeError is raised if not.

        Raises TypeError for what is no integer, ValueError outside 1..M.
        """
        return self._M_search

    @M_search.setter
    def M_search(self, value: int | None) -> None:
        self._M_search = None if value is None else integer("M_search", value, 1, self.M)

    @property
    def rerank_device(self) -> str:
        """Where `search` re-ranks: "cpu" (default), which is the extension; a torch device such as
        "cuda" or "cuda:1"; "auto": cuda where torch sees a GPU, else cpu. "cpu:0" is torch on CPU
        tensors, what a GPU runs.

        On a torch device the extension finds the shortlist and the whole of it is decoded: there
        is no early exit, and `faiss_qinco.search_stats` counts no networks. Results are the
        same within rounding; float32 products are as exact as
        `torch.set_float32_matmul_precision` says. `range_search`, and an nshort below k, are
        always the extension's. A property of the machine: kept by copy and pickle, not by files.

        Raises TypeError unless a str; `search` raises RuntimeError where torch cannot use it.
        """
        return self._rerank_device

    @rerank_device.setter
    def rerank_device(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"rerank_device: expected a str, got {value!r}")
        self._rerank_device = value

    @property
    def length_correction(self) -> bool:
        """With inner product: whether decoded vectors are stretched to the lengths of the vectors
        that were added, |x| / |x̂|, in `search`, `range_search` and `reconstruct` alike, at no
        further byte and hardly any time. Decoded vectors are shorter than the stored ones, the
        more so the less their codes say of them, and lose the places that are due to them. Their
        squared error is larger than without. Default True; False with L2, always.

        Set it before `train`. Raises RuntimeError once trained, TypeError unless a bool, ValueError
        for True with L2.
        """
        return self._length_correction

    @length_correction.setter
    def length_correction(self, value: bool) -> None:
        value = check_bool("length_correction", value)
        if self.is_trained and value != self._length_correction:
            raise RuntimeError("length_correction: to be set before the index is trained")
        if value and self.metric_type == faiss.METRIC_L2:
            raise ValueError("length_correction: expected False with L2, got True")
        self._length_correction = value

    @property
    def additive_weight(self) -> float:
        """What the squared error of the tables counts beside the codec's own where `add` and
        `sa_encode` choose among the last hypotheses of the beam. Tables then find more by
        themselves, and shorter shortlists do; `reconstruct` has a little more error. Default 0.1;
        0: the codes are those of `codec.encode`.

        Set it before `train`, whose tables and margins are fitted to such codes, or between calls
        of `add`. Raises TypeError for what is no number, ValueError below 0 or not finite.
        """
        return self._additive_weight

    @additive_weight.setter
    def additive_weight(self, value: float) -> None:
        self._additive_weight = check_number("additive_weight", value, 0.0, MOST_WEIGHT)
        if self._engine is not None:
            self._engine.additive_weight = self._additive_weight

    @property
    def error_weight(self) -> float | None:
        """What the squared error of a stored vector counts in its distance to a query.

        With L2, D is |q - x̂|² + error_weight · |x - x̂|², x̂ being what `reconstruct` gives: an
        estimate of the distance to x itself, which ranks better. The error is known when x is
        added, and its term is read out of the bias that stands beside the code, to within what its
        two bytes say; so it takes no memory. With inner product and `length_correction`, what is
        decoded is shortened by error_weight / 2 of its relative error, in `reconstruct` too, and D
        is the inner product with that; without `length_correction` it does nothing. Vectors that
        come as codes (`add_sa_codes`) count as of the training's mean error.

        Default None: `train` measures which is best (10@10 among vectors that nothing was fitted
        to), and it is that number from then on; 0 where little is gained, or with less than some
        4000 training vectors. 0: D is the distance to what `reconstruct` returns.

        Set it before `train`. Raises RuntimeError once trained, TypeError for what is no number,
        ValueError below 0 or not finite.
        """
        return self._error_weight if self._engine is None else self._engine.error_weight

    @error_weight.setter
    def error_weight(self, value: float | None) -> None:
        if value is not None:
            value = check_number("error_weight", value, 0.0, MOST_WEIGHT)
        if self._engine is not None and value != self._engine.error_weight:
            raise RuntimeError("error_weight: to be set before the index is trained")
        self._error_weight = value

    def precompute_table(self) -> None:
        """Compute what the first network returns for every list and code (without lists: for
        every two first codes), which `search` then looks up when it re-ranks: as FAISS's
        `IndexIVFPQ` does for its tables. Nothing where there is one already.

        Takes (nlist or K) * K * d * 4 bytes of memory, d rounded up to 16, and as long as one
        network for each of these vectors. It pays where `search` runs the codec's first networks
        for many more vectors than that, with long shortlists above all; with a student, hardly.
        Results are the same bit for bit; `faiss_qinco.search_stats.n_steps_saved` counts the
        look-ups as well. Not used on a torch `rerank_device`; where shortlists are ranked in
        bfloat16, not by the float32 decoding of the best. A property of the process: not kept by
        files, pickle and copy.

        Raises RuntimeError if untrained, or if the codec has no network (M 1 without lists).
        """
        self._check_trained().core.precompute_table(get_num_threads())

    @property
    def use_precomputed_table(self) -> int:
        """1 while there is a table of `precompute_table`, else 0 (default). Assigning 1 computes
        one, 0 or -1 drops it. Raises ValueError for anything else, and as `precompute_table`.
        """
        return int(self._engine is not None and self._engine.core.table_nbytes > 0)

    @use_precomputed_table.setter
    def use_precomputed_table(self, value: int) -> None:
        if value not in (-1, 0, 1):
            raise ValueError(f"use_precomputed_table: expected 1, 0 or -1, got {value!r}")
        if value == 1:
            self.precompute_table()
        elif self._engine is not None:
            self._engine.core.drop_table()

    @property
    def code_size(self) -> int:
        """Bytes per code: ceil(M * nbits / 8)."""
        return (self.M * self.nbits + 7) // 8

    def memory_usage(self) -> dict[str, float]:
        """Bytes in memory, by what holds them; room to grow included.

        codes : code_size per vector, in blocks of 64 vectors of a list.
        bias : 2 per vector; with inner product, what `length_correction` needs.
        ids : per vector none where the ids of a list are 0, 1, 2 … (a flat index that numbers
            by itself). Else a list is sorted by its ids, which takes some (2 + log2(r)) / 8 bytes,
            r being the distance of two ids: 1.6 for a million numbers in 1024 lists, 4.1 for random
            ones of 40 bits. Up to an eighth of a list, what has come since it was sorted, takes 4,
            5 (ids up to 2^40) or 8 bytes.
        lists : 112 for each list.
        direct_map : 8 per vector, where there is one; more where ids are not about 0 .. ntotal-1.
        centroids, tables, codec : float32 centroids (with inner product the means of the lists as
            well), additive codebooks with those of early exit, and their copies, weights of the
            networks. What a coarse quantizer holds itself is not counted.
        precomputed_table : that of `precompute_table`.
        rates : tables and biases of each `M_search` that there has been a search with.
        total : their sum; per_vector: total / ntotal, 0.0 for an empty index.
        """
        parts: dict[str, float] = dict.fromkeys(
            ("codes", "bias", "ids", "lists", "direct_map", "centroids", "tables", "codec",
             "precomputed_table", "rates"), 0,
        )  # fmt: skip
        if self._engine is not None:
            parts |= self._engine.memory()
        total = sum(parts.values())
        return parts | {"total": total, "per_vector": total / self.ntotal if self.ntotal else 0.0}

    def _check_trained(self) -> Engine:
        if self._engine is None:
            raise RuntimeError(f"{type(self).__name__} is not trained")
        return self._engine
