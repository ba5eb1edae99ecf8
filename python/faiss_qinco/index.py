"""`IndexQINCo` and `IndexIVFQINCo`: FAISS's surface, ids and errors. What they run on is `engine`;
which lists there are is `coarse`.

All distances are squared L2, or inner products. Where FAISS has a behaviour, it is FAISS's.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from . import _core
from .checks import (
    as_ids,
    as_matrix,
    check_buffer,
    check_matrix,
    filled,
    integer,
    margin_factor,
    number,
    result_buffers,
    size,
)
from .coarse import NoLists, Quantizer
from .codec.codec import QINCoCodec
from .codec.config import QINCoConfig, check_bool, resolve_config
from .codec.devices import require_torch
from .codec.statistics import Drift, Statistics, drift
from .engine import BLOCK, Engine, residual_bases
from .errors import ArgumentError
from .params import MOST_CODES, Resolved, resolve_params
from .ranking.additive import DEFAULT_WEIGHT, MOST_WEIGHT
from .ranking.fitting import POINTS_PER_CODEWORD, fit
from .reencode import reencoded
from .selectors import removal
from .threads import get_num_threads
from .training import check_files, plan, remove_checkpoint, train_codec
from .training.budget import Budget
from .training.config import TrainingConfig, check_number
from .training.data import TrainingSet
from .training.processes import from_first, is_first

if TYPE_CHECKING:
    from typing_extensions import Self


class _QINCoIndex:
    """What the two indexes share: all but lists, quantizer and ids of one's own."""

    __slots__ = (
        "M", "_M_search", "__weakref__", "_additive_weight", "_coarse", "_config", "_engine",
        "_exit_margin", "_length_correction", "_nshort", "_rerank_device", "d", "metric_arg",
        "metric_type", "nbits", "nlist", "training", "verbose",
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
        self._exit_margin, self._rerank_device = 1.0, "cpu"
        self._length_correction = metric == faiss.METRIC_INNER_PRODUCT
        self._additive_weight = DEFAULT_WEIGHT
        self._coarse = coarse
        self._engine: Engine | None = None

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
        """The inverted lists: `sizes()`, `get_ids(list_no)`, `get_codes(list_no)`."""
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

    # -- build --------------------------------------------------------------------------------

    def train(self, x: np.ndarray) -> None:
        """Train on x (n, d), any real dtype, a mapped file too: coarse quantizer, codec, tables,
        margins of early exit. Says beforehand how long it will take, and shows progress;
        `TrainingConfig` has the time budget (minutes by default), checkpoint and resume.

        A second `train` trains anew, with the centroids that the quantizer has by then, as in
        FAISS. All or nothing: on an error or Ctrl-C the index is as before, but for a quantizer
        that was empty.

        Raises RuntimeError for NaN, inf or squares that overflow float32, for fewer vectors than
        lists or codewords, when the error diverges, and for an index that is not empty, whose
        codes would lose their meaning: `reset` it first. Warns (RuntimeWarning) where the codec has
        become no better than a residual quantizer. Without torch it raises an ImportError, which is
        a RuntimeError as well and says what to install.
        """
        self._train(*self._start_training(x, self.d))

    def _train(self, budget: Budget, data: TrainingSet) -> None:
        require_torch("training")
        progress = self.training.progress and is_first()
        if progress:
            expected = plan(
                self.d, len(data), self.M, self.nbits, self._coarse.nlist, self._config,
                self.training,
            )  # fmt: skip
            print(expected, file=sys.stderr)
        centroids = self._coarse.train(data, None, progress, bool(self.verbose))
        data, list_no = self._assigned(data, centroids)
        codec = train_codec(
            data, self.M, self.nbits, self._config, self.training, centroids, list_no,
            metric=self.metric_type, budget=budget,
            n_later=min(len(data), POINTS_PER_CODEWORD * self.M << self.nbits),
        )  # fmt: skip
        self._engine = self._searchable(codec, data, centroids, list_no, budget)
        remove_checkpoint(self.training)

    def train_from_codec(self, x: np.ndarray, codec: QINCoCodec) -> None:
        """Become trained with a codec that is trained already: only what makes it searchable is
        fitted, to x (n, d).

        The coarse quantizer must hold the codec's centroids, or be empty; it then gets them.
        Raises ValueError where codec and index do not fit together, RuntimeError as `train`.
        """
        self._check_codec(codec)
        budget, data = self._start_training(x, self.d)
        centroids = self._coarse.train(data, codec)
        data, list_no = self._assigned(data, centroids)
        if codec.statistics is None:  # better these than none, for `drift`
            rows = np.random.default_rng(self.training.seed).permutation(len(data))
            rows = np.sort(rows[: self.training.n_validation])
            lists = None if list_no is None else list_no[rows]
            found = codec.measure(data[rows], lists, device=self.training.device)
            codec = codec.with_statistics(found)
        self._engine = self._searchable(codec, data, centroids, list_no, budget)

    def distill(self, x: np.ndarray) -> None:
        """Give a trained index a student of its codec, or a new one, with margins calibrated anew:
        for one trained without. x (n, d): training vectors. Nothing that is stored changes.

        `codec` is then another object. Raises RuntimeError as `train`, and if untrained.
        """
        engine = self._check_trained()
        data = self._training_set(x, self.d)
        data, list_no = self._assigned(data, engine.centroids)
        training = dataclasses.replace(self.training, student=True)
        codec, _, checkpoints = fit(
            engine.codec.with_student(None), data, engine.bases, list_no, self.metric_type,
            training, self.length_correction, self.additive_weight,
            Budget(training.seconds(len(data))), engine.additive,
        )  # fmt: skip
        # The tables stay: the biases that are stored belong to them.
        with engine.changing():
            engine.set_ranking(codec, checkpoints)

    def reencode(self, codec: QINCoCodec, x: Any = None) -> None:
        """Store the same vectors in the codes of another codec, one of `finetune` above all.

        Parameters
        ----------
        codec : QINCoCodec of the same d, M, nbits, metric and centroids.
        x : the vectors that were added: an array (n, d), mapped or not, whose row i is that of id
            i; or a function from ids (m,) int64 to vectors (m, d). It is read in blocks, by
            ascending id. None: the vectors are not there any more; each then gets the code that
            decodes nearest to what `reconstruct` gives, its old one where that is it. Errors then
            add up: little with a codec that has been fine-tuned (its report's `old_codes_mse`),
            much with any other.

        Tables, margins of early exit and a student, where there was one or one pays, are made anew
        of these vectors. Lists, ids, direct map, nprobe and all other settings stay; what is
        computed by `precompute_table` is computed again. All or nothing: on an error or Ctrl-C the
        index is as before. Other threads may search and save meanwhile; `add`, `reset`, `distill`
        and `make_direct_map` raise RuntimeError. Takes the index a second time in memory, and
        M + 16 bytes a vector. Shows progress where `verbose`.

        Raises TypeError for what is no codec, ValueError where it does not fit, or x has no row for
        an id or one that cannot be encoded; RuntimeError if untrained or with fewer stored vectors
        than codewords.
        """
        engine = self._check_trained()
        self._check_codec(codec)
        with engine.replacing():
            self._engine = reencoded(engine, codec, x, self.training, bool(self.verbose))

    def drift(self, x: np.ndarray) -> Drift:
        """Whether vectors x (n, d), any real dtype, look like those that the codec was trained on.

        Compares their error, and the use of lists and codewords, with those of vectors that the
        training had held out (`codec.statistics`), each within what sampling and vectors of the
        same kind give: `drift(x).alarm` says whether one is beyond, `score` how far. Of more than
        16,384 vectors so many are looked at, evenly spaced. A few hundred tell a shift of the
        kind; with fewer, only a gross one is beyond what sampling alone gives.

        Raises RuntimeError if untrained, for a codec without statistics (of a file of an earlier
        version, published or cut) and where none of the vectors can be stored; ValueError for no
        vectors, and (also an AssertionError) for a wrong dimension.
        """
        engine = self._check_trained()
        check_matrix(x, self.d)
        codec, reference = engine.codec, engine.codec.statistics
        if reference is None:
            raise RuntimeError(
                "drift: the codec has no statistics of its training, being of an earlier version, "
                "published or cut (truncate); train_from_codec(x, codec) of a new index takes them "
                "of its x"
            )
        if (n := x.shape[0]) == 0:
            raise ValueError("x: expected some vectors, got none")
        chosen = np.unique(np.linspace(0, n - 1, min(n, DRIFT_ROWS)).astype(np.int64))
        errors, codes, lists = [], [], []
        for begin in range(0, len(chosen), BLOCK):
            rows = as_matrix(x[chosen[begin : begin + BLOCK]], self.d)
            # Without the tables, as the training's were encoded.
            list_no, found = engine.encode(rows, self._coarse.assign(rows), self.training.device, 0)
            good = list_no >= 0
            list_no, found = list_no[good], found[good]
            errors.append(np.square(engine.decode(list_no, found) - rows[good]).sum(1))
            codes.append(found)
            lists.append(list_no)
        usable = sum(map(len, lists))
        if usable == 0:
            raise RuntimeError(f"drift: none of {len(chosen)} vectors can be stored (see add)")
        of_lists = None if codec.nlist is None else np.concatenate(lists)
        found_all = Statistics.of(
            np.concatenate(errors), np.concatenate(codes), codec.K, of_lists, codec.nlist
        )
        return drift(reference, found_all, len(chosen) - usable, codec.rounding)

    def _start_training(self, x: np.ndarray, d: int) -> tuple[Budget, TrainingSet]:
        """The time, and the vectors to use of x (n, d): d is another than the index's where they
        are still to be transformed."""
        if self.ntotal:
            raise RuntimeError(
                f"train: the index holds {self.ntotal} vectors in the code that it has; reset() "
                "it first"
            )
        check_files(self.training)
        data = self._training_set(x, d)
        return Budget(self.training.seconds(len(data))), data

    def _training_set(self, x: np.ndarray, d: int) -> TrainingSet:
        data = TrainingSet(x, d, max_points=self.training.max_points, seed=self.training.seed)
        if (n := len(data) + len(data.left_out)) < max(self.nlist, 1 << self.nbits):
            raise RuntimeError(
                f"x: {n} training vectors are fewer than nlist={self.nlist} or "
                f"{1 << self.nbits} codewords"
            )
        return data

    def _assigned(
        self, data: TrainingSet, centroids: np.ndarray | None
    ) -> tuple[TrainingSet, np.ndarray | None]:
        """Training vectors with their lists, without those that the quantizer has no list for."""
        list_no = self._coarse.assign_training(data, centroids)
        if list_no is None or list_no.min() >= 0:
            return data, list_no
        found = np.flatnonzero(list_no >= 0)
        if len(found) < 1 << self.nbits:
            raise RuntimeError(f"quantizer: it finds lists for {len(found)} training vectors alone")
        return data.subset(found), list_no[found]

    def _searchable(
        self,
        codec: QINCoCodec,
        data: TrainingSet,
        centroids: np.ndarray | None,
        list_no: np.ndarray | None,
        budget: Budget,
    ) -> Engine:
        """The engine of a codec: tables, a student and early exit fitted to training vectors."""
        bases = residual_bases(codec, centroids)
        codec, additive, checkpoints = from_first(
            lambda: fit(
                codec, data, bases, list_no, self.metric_type, self.training,
                self.length_correction, self.additive_weight, budget,
            )
        )  # fmt: skip
        if centroids is None:
            centroids = bases
        return Engine(
            codec, centroids, additive, checkpoints, self.metric_type, self.length_correction,
            self.additive_weight,
        )  # fmt: skip

    def _check_codec(self, codec: QINCoCodec) -> None:
        if not isinstance(codec, QINCoCodec):
            raise TypeError(f"codec: expected a QINCoCodec, got {type(codec)}")
        expected = (self.d, self.M, self.nbits, self._coarse.nlist)
        found = (codec.d, codec.M, codec.nbits, codec.nlist)
        if found != expected:
            raise ValueError(f"codec: expected (d, M, nbits, nlist) {expected}, got {found}")
        if codec.nlist is not None and codec.metric != self.metric_type:
            raise ValueError(
                f"codec: its lists are chosen by metric {codec.metric}, the index's by "
                f"{self.metric_type}"
            )

    def add(self, x: np.ndarray) -> None:
        """Encode and store x (n, d); ids follow on from ntotal.

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
        index._additive_weight = self._additive_weight
        index._engine = engine.truncate(M)
        return index

    def _shell(self, M: int) -> Self:
        """An untrained index with M codes and otherwise these sizes."""
        raise NotImplementedError

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
        stores; TypeError where that one is none of this package's."""
        if not isinstance(other, _QINCoIndex):
            raise TypeError(f"other: expected a {type(self).__name__}, got {type(other)}")
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
        `reconstruct` returns (with `M_search`, what the first codes decode to), best first; with
        nshort 0 the additive distance, a part of it being rounded to two bytes. I (n, k) int64.
        Missing results, and queries with NaN or inf, have id -1 and D = ±FLT_MAX.

        Raises
        ------
        RuntimeError if untrained, nprobe is 0 or params are another index's; ValueError for an
        M_search above M, and (also an AssertionError) for a wrong dimension, k < 1 or buffers of a
        wrong shape; TypeError for k or buffers of a wrong type.
        """
        engine, x = self._check_trained(), as_matrix(x, self.d)
        resolved = self._resolve(params)
        k, D, I = result_buffers(k, len(x), D, I)
        engine.search(x, k, resolved, self._probe(x, resolved), D, I, self._rerank_device)
        return D, I

    def _resolve(self, params: Any) -> Resolved:
        return resolve_params(
            params, self._default_nprobe(), self._nshort, self._exit_margin, self._M_search, self.M
        )

    def _default_nprobe(self) -> int:
        return 1

    def _probe(self, x: np.ndarray, params: Resolved) -> tuple[Any, Any]:
        given = params.given
        return self._coarse.probe(x, min(given.nprobe, self.nlist), given.quantizer_params)

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

        With nshort 0, D is the additive distance, which also decides. Else the exact one: decoded
        are the vectors whose additive distance is inside by a margin that is calibrated in training
        so that at most 1 % of what is inside is missed; `exit_margin` scales it, inf decodes all.

        Raises as `search`, TypeError for a thresh that is no number.
        """
        engine, x = self._check_trained(), as_matrix(x, self.d)
        resolved = self._resolve(params)
        return engine.range_search(x, number("thresh", thresh), resolved, self._probe(x, resolved))

    def assign(self, x: np.ndarray, k: int, labels: np.ndarray | None = None) -> np.ndarray:
        """The ids (n, k) of `search`."""
        return self.search(x, k, I=labels)[1]

    # -- reconstruction -----------------------------------------------------------------------

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

    def _check_trained(self) -> Engine:
        if self._engine is None:
            raise RuntimeError(f"{type(self).__name__} is not trained")
        return self._engine


class IndexQINCo(_QINCoIndex):
    """Flat index of QINCo codes: the shortlist is found by tables over all vectors.

    Parameters
    ----------
    d, M, nbits : dimension, codes per vector (1..64), bits per code (4..8).
    metric : faiss.METRIC_L2 or METRIC_INNER_PRODUCT.
    config : "auto" (default), a preset name ("XS", "S", "M", "L") or QINCoConfig.
    training : TrainingConfig.

    Attributes
    ----------
    As of `IndexIVFQINCo`, but for those of lists and quantizer.

    Raises ValueError for a size out of range, an unknown metric or preset.
    """

    __slots__ = ()

    def __init__(
        self,
        d: int,
        M: int,
        nbits: int = 8,
        metric: int = faiss.METRIC_L2,
        config: str | QINCoConfig = "auto",
        training: TrainingConfig | None = None,
    ) -> None:
        super().__init__(NoLists(), d, 1, M, nbits, metric, config, training)

    def _shell(self, M: int) -> Self:
        return type(self)(self.d, M, self.nbits, self.metric_type, self._config, self.training)

    def remove_ids(self, ids: Any) -> int:
        """Remove vectors by their ids; those of the vectors that follow move up, so that they are
        0 .. ntotal-1 again, as in `faiss.IndexFlat`.

        A vector that could not be stored (see `add`) has a number that can be removed like others.
        Otherwise as `IndexIVFQINCo.remove_ids`.
        """
        return self._remove(ids, True)

    def merge_from(self, other: Self, add_id: int = 0) -> None:
        """Move all that another index stores into this one; its ids then follow on from ntotal.

        Otherwise as `IndexIVFQINCo.merge_from`. Raises RuntimeError for an add_id that is not 0.
        """
        if integer("add_id", add_id, *INT64) != 0:
            raise RuntimeError(f"add_id: expected 0, for this index numbers itself, got {add_id}")
        self._merge_from(other, None)

    def reconstruct(self, key: int, x: np.ndarray | None = None) -> np.ndarray:
        """The decoded vector (d,) float32 of an id. Raises RuntimeError for an id out of range."""
        check_buffer("x", x, (self.d,), np.float32)
        return filled(x, self.reconstruct_n(key, 1)[0])


class IndexIVFQINCo(_QINCoIndex):
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
        4 k where that is more.
    exit_margin : early exit of re-ranking, default 1.0; inf: none. rerank_device : where it runs,
        default "cpu"; a torch device, or "auto". use_precomputed_table : whether it looks the
        first network up, default 0; `precompute_table` makes it 1. M_search : codes of each vector
        to search by, default None: all.
    cp : faiss.ClusteringParameters of the coarse clustering. codec : QINCoCodec once trained.
    d, ntotal, is_trained, metric_type, nlist, M, nbits, code_size, quantizer, verbose as in FAISS.

    Raises ValueError for a size out of range, an unknown metric or preset, or a quantizer of
    another dimension; TypeError if `quantizer` is not a faiss index.
    """

    __slots__ = ("_nprobe", "own_fields", "parallel_mode")

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
        self._nprobe, self.own_fields, self.parallel_mode = 1, True, 0

    def _factory_string(self) -> str:
        return f"IVF{self.nlist},{super()._factory_string()}"

    def _shell(self, M: int) -> Self:
        quantizer = faiss.deserialize_index(faiss.serialize_index(self.quantizer))
        index = type(self)(
            quantizer, self.d, self.nlist, M, self.nbits, self.metric_type, self._config,
            self.training,
        )  # fmt: skip
        index._nprobe, index.parallel_mode = self._nprobe, self.parallel_mode
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

    def _default_nprobe(self) -> int:
        return self._nprobe

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
        shape = (len(x), resolved.given.nprobe)
        list_no = np.ascontiguousarray(Iq, np.int64)
        distance = None if Dq is None else np.ascontiguousarray(Dq, np.float32)
        for name, array in (("Iq", list_no), ("Dq", distance)):
            if array is not None and array.shape != shape:
                raise ArgumentError(f"{name}: expected shape {shape}, got {array.shape}")
        if list_no.max(initial=-1) >= self.nlist:
            raise RuntimeError(f"Iq: expected list numbers below {self.nlist}")
        probed = np.maximum(list_no, -1), distance
        engine.search(x, k, resolved, probed, D, I, self._rerank_device)
        return D, I

    # -- ids ----------------------------------------------------------------------------------

    def add_with_ids(self, x: np.ndarray, xids: np.ndarray) -> None:
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

    def make_direct_map(self, new_maintain_direct_map: bool = True) -> None:
        """Keep a table from id to position, for `reconstruct`, and for `remove_ids` to find its
        vectors; False: drop it. Of any ids, of duplicates the last in list order: 8 bytes a vector
        where they are about 0 .. ntotal-1, up to 43 where not.

        Raises RuntimeError if untrained.
        """
        engine = self._check_trained()
        with engine.changing():
            if new_maintain_direct_map:
                engine.core.make_direct_map()
            else:
                engine.core.clear_direct_map()

    def reconstruct(self, key: int, x: np.ndarray | None = None) -> np.ndarray:
        """The decoded vector (d,) float32 of an id.

        Raises RuntimeError without a direct map, or where no vector has the id.
        """
        check_buffer("x", x, (self.d,), np.float32)
        return filled(x, self._check_trained().core.reconstruct(integer("key", key, *INT64)))

    # -- codes --------------------------------------------------------------------------------

    def coarse_code_size(self) -> int:
        """Bytes of a list number in `sa_encode`."""
        return ((self.nlist - 1).bit_length() + 7) // 8

    _coarse_bytes = coarse_code_size


DRIFT_ROWS = 1 << 14
INT64 = (-(1 << 63), (1 << 63) - 1)


def _checked_quantizer(quantizer: Any, d: int) -> faiss.Index:
    if not isinstance(quantizer, faiss.Index):
        raise TypeError(f"quantizer: expected a faiss.Index, got {type(quantizer)}")
    if quantizer.d != d:
        raise ArgumentError(f"quantizer: expected d={d}, got d={quantizer.d}")
    return quantizer
