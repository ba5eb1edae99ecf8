"""Training: from vectors to an engine, and from there to other codes."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np

from ..checks import as_matrix, check_matrix
from ..codec.codec import QINCoCodec
from ..codec.devices import require_torch
from ..codec.statistics import Drift, Statistics, drift
from ..engine import BLOCK, Engine, residual_bases
from ..ranking.fitting import POINTS_PER_CODEWORD, fit
from ..reencode import reencoded
from ..tensors import takes_tensors
from ..training import check_files, plan, remove_checkpoint, train_codec
from ..training.budget import Budget
from ..training.data import TrainingSet
from ..training.processes import from_first, is_first
from .settings import Settings

DRIFT_ROWS = 1 << 14


class Training(Settings):
    """Methods that make an index trained, or its codes those of another codec."""

    __slots__ = ()

    @takes_tensors
    def train(
        self, x: np.ndarray, *, numeric_type: Any = None, xq_train: np.ndarray | None = None
    ) -> None:
        """Train on x (n, d), any real dtype, a mapped file too: coarse quantizer, codec, tables,
        margins of early exit. Says beforehand how long it will take, and shows progress;
        `TrainingConfig` has the time budget (minutes by default), checkpoint and resume.
        numeric_type and xq_train are FAISS's, and not used, as its IVF indexes do not.

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
        self._operating_points = []
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
        self._operating_points = []

    def distill(self, x: np.ndarray) -> None:
        """Give a trained index a student of its codec, or a new one, with margins calibrated anew:
        for one trained without. x (n, d): training vectors. Nothing that is stored changes.

        `codec` is then another object. Raises RuntimeError as `train`, and if untrained.
        """
        engine = self._check_trained()
        data = self._training_set(x, self.d)
        data, list_no = self._assigned(data, engine.centroids)
        training = dataclasses.replace(self.training, student=True)
        codec, _, checkpoints, _ = fit(
            engine.codec.with_student(None), data, engine.bases, list_no, self.metric_type,
            training, self.length_correction, self.additive_weight,
            Budget(training.seconds(len(data))), engine.additive, engine.error_weight,
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
        codec, additive, checkpoints, error_weight = from_first(
            lambda: fit(
                codec, data, bases, list_no, self.metric_type, self.training,
                self.length_correction, self.additive_weight, budget, None, self._error_weight,
            )
        )  # fmt: skip
        if centroids is None:
            centroids = bases
        engine = Engine(
            codec, centroids, additive, checkpoints, self.metric_type, self.length_correction,
            self.additive_weight, error_weight,
        )  # fmt: skip
        if self._wants_direct_map():
            engine.core.make_direct_map()
        return engine

    def _wants_direct_map(self) -> bool:
        return False

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
