"""The walk of a training (QINCo2, arXiv 2501.03078, sections 3.2 and 4.1).

Start from residual quantization, then repeat: encode a batch with the model as it is, without
gradient; decode it; descend on the error of every step. Nothing here knows of an index.

Of several processes (`processes`) the first decides: it has the clock, the validations and the
checkpoint; the others follow with their shares of its batches.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..codec.codec import QINCoCodec, TrainingReport
from ..codec.config import QINCoConfig, student_pays
from ..codec.devices import check_device, resolve_device, use_bf16
from ..codec.encoding import chunks
from ..codec.model import QINCo
from ..codec.statistics import Statistics
from ..codec.weights import with_prefix
from ..progress import progress_bar
from ..storage.container import reading
from ..threads import library_threads
from . import checkpoint
from .budget import Budget
from .config import TrainingConfig
from .data import TrainingSet
from .descent import Descent, Encoder, encoder, pace
from .log import COLUMNS, Log, open_log
from .processes import from_first, is_first, local_device, number_of_first, share
from .start import FEWEST, most_points, residual_codebooks, rq_errors

START_SHARE = 0.4  # of the time, for residual quantization
VALIDATE_STEPS = (50, 200)  # between two validations: one epoch, within these bounds
VALIDATION_SHARE = 0.1  # of the time, for all validations together
FEWEST_HELD_OUT = 64  # vectors, however little time there is
PROBES = 8, 256  # vectors that the time for one is measured with: first some, then, where
PROBE_SHARE = 0.01  # this part of the time that is left allows, as many as a block has
SAVE_SECONDS = 60.0  # between two checkpoints, at most
OVERFIT = 1.2  # times the error of the batches since: a held-out error above that begins mixing
LATER = 1.6  # times the time of encoding them
LATER_SHARES = 0.1, 0.3  # of the time that is left, at least and at most
PERCENT = 100


def train_model(
    data: TrainingSet,
    M: int,
    nbits: int,
    config: QINCoConfig,
    training: TrainingConfig,
    centroids: np.ndarray | None,
    metric: int,
    budget: Budget,
    n_later: int,
) -> QINCoCodec:
    """Train a codec of M steps on `data`; with an IVF, on centroids (nlist, d) float32 and the
    data's list_no. See `train_codec`."""
    K = 1 << nbits
    if len(data) + len(data.left_out) < K:
        raise RuntimeError(f"training: {len(data)} vectors are too few for K={K}")
    device = local_device(resolve_device(training.device))
    check_device(device)
    with library_threads():
        run = Run(data, M, nbits, config, training, centroids, metric, budget, device, n_later)
        try:
            run.begin()
            run.descend()
            return from_first(run.finish)
        finally:
            run.log.close()


class Run:
    """One training: `begin`, `descend`, `finish`."""

    def __init__(
        self,
        data: TrainingSet,
        M: int,
        nbits: int,
        config: QINCoConfig,
        training: TrainingConfig,
        centroids: np.ndarray | None,
        metric: int,
        budget: Budget,
        device: str,
        n_later: int = 0,
    ) -> None:
        self.first = is_first()
        if not self.first:
            training = replace(training, progress=False, checkpoint=None)
        self.data, self.M, self.nbits, self.K = data, M, nbits, 1 << nbits
        self.config, self.training, self.metric = config, training, metric
        self.budget, self.device, self.n_later = budget, device, n_later
        self.dtype = torch.bfloat16 if use_bf16(training.bf16, device) else torch.float32
        self.rng = np.random.default_rng(training.seed)
        self.held_out, self.rows = split(len(data), training, self.K, self.rng)
        self.mean, self.std = data.normalisation()
        with torch.random.fork_rng(devices=[]):  # the caller's generator goes on as it was
            torch.default_generator.manual_seed(training.seed)
            model = QINCo(data.d, M, self.K, config, None if centroids is None else len(centroids))
        if centroids is not None:
            model.base.data.copy_(torch.from_numpy((centroids - self.mean) / np.float32(self.std)))
        self.model = model.to(device)
        per_epoch = max(1, math.ceil(len(self.rows) / training.batch_size))
        self.per_epoch, self.total = per_epoch, per_epoch * training.epochs
        self.interval = min(max(per_epoch, VALIDATE_STEPS[0]), VALIDATE_STEPS[1])
        self.fingerprint = checkpoint.fingerprint(
            data, M, self.K, config, training, centroids, metric
        )
        self.paces: list[float] = []
        self.step = 0
        self.mixing = False  # whether the vectors of batches are mixed, see `mixed`
        self.log = Log()
        self.rq_mse = math.nan
        self.best = (math.inf, 0)  # error, number of the validation
        self.best_state: dict[str, Tensor] = {}
        self.history: list[tuple[float, int, float]] = []
        self.report: TrainingReport | None = None
        self.each: tuple[float, float] | None = None  # see `seconds_each`
        self.start_rows = 0  # vectors of the RQ start
        self.validation_seconds = 0.0  # of the last one
        self.validated = -math.inf  # when the last one ended

    # -- the beginning ------------------------------------------------------------------------

    def begin(self) -> None:
        """From the checkpoint, or from residual quantization; after the first process from what
        it has."""
        found = from_first(self.begin_first)
        if self.first:
            return
        if found["fingerprint"] != self.fingerprint:
            raise RuntimeError("training: the processes have different data or settings")
        self.report, self.step, self.paces = found["report"], found["step"], found["paces"]
        self.mixing = found["mixing"]
        if self.report is None:
            self.descent = self.new_descent()
            self.descent.restore(found["descent"])
            self.descent.used.zero_()  # are counted once

    def begin_first(self) -> dict[str, Any]:
        past = self.resume()
        if past is None:
            self.start_from_rq()
            past = 0.0
        state = {"fingerprint": self.fingerprint, "report": self.report, "mixing": self.mixing}
        if self.report is not None:
            return state | {"step": self.step, "paces": self.paces}
        self.log = open_log(self.training.log, self.history[-1][1] if self.history else -1)
        reserved = self.seconds_to_finish() + self.seconds_later()
        self.clock = Budget(max(0.0, self.budget.left() - reserved) + past)
        self.clock.charge(past)
        if not self.history:
            self.validate()
            self.save()
        tensors = {k: v.cpu() for k, v in self.descent.state().items()}
        return state | {"step": self.step, "paces": self.paces, "descent": tensors}

    def start_from_rq(self) -> None:
        rows = self.rows[: most_points(self.K, self.data.d)]
        in_file = np.argsort(rows)
        x = np.empty((len(rows), self.data.d), np.float32)
        x[in_file] = self.residual(rows[in_file])  # a start cut short sees all parts of the file
        budget = self.budget.share(START_SHARE)
        show = self.training.progress
        with progress_bar("residual quantization", self.M, "code", show) as bar:
            codebooks, self.start_rows = residual_codebooks(
                x, self.M, self.nbits, self.rng, budget, bar
            )
        tensors = list(torch.from_numpy(codebooks))
        if self.model.base.requires_grad:
            self.model.base.data.copy_(tensors.pop(0))
        for step, codebook in zip(self.model.steps, tensors, strict=True):
            step.set_codebook(codebook)
        self.paces = [pace(c.numpy()) for c in tensors]
        self.descent = self.new_descent()
        if self.budget.left() < math.inf:
            self.held_out = self.held_out[: self.affordable()]
        errors = rq_errors(codebooks, self.residual(self.held_out))
        self.rq_mse = float(errors.mean(dtype=np.float64)) * self.std**2

    def new_descent(self) -> Descent:
        return Descent(self.model, self.training, self.device, self.dtype, self.paces, True)

    def residual(self, rows: np.ndarray) -> np.ndarray:
        """What the codes have to say of vectors, (n, d) float32: with an IVF, beyond the list."""
        x, lists = self.batch(rows)
        return (x if lists is None else x - self.model.base.data[lists]).cpu().numpy()

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Normalised vectors and their lists, on the device."""
        x = torch.from_numpy((self.data[rows] - self.mean) / np.float32(self.std))
        if self.data.list_no is None:
            return x.to(self.device), None
        return x.to(self.device), torch.from_numpy(self.data.list_no[rows]).to(self.device)

    # -- the descent --------------------------------------------------------------------------

    def descend(self) -> None:
        """Batch after batch, until the epochs or the time are over."""
        if self.report is not None:
            return
        by_time = self.first and self.clock.seconds < math.inf
        total, unit = (PERCENT, "%") if by_time else (self.total, "batch")
        saved = time.monotonic()
        order = np.empty(0, np.int64)
        size = self.training.batch_size
        with progress_bar("training", total, unit, self.training.progress) as bar:
            while (t := number_of_first(self.position(), self.device)) < 1.0:
                epoch, i = divmod(self.step, self.per_epoch)
                if i == 0 or len(order) == 0:
                    rng = np.random.default_rng((self.training.seed, epoch))
                    order = rng.permutation(self.rows)
                self.train_batch(order[i * size : (i + 1) * size], t)
                self.step += 1
                bar.to(total * t if by_time else self.step)
                due = self.step % self.interval == 0
                if due:
                    self.descent.reseed(np.random.default_rng((self.training.seed, self.step, 1)))
                if due and self.first and self.can_validate():
                    self.validate()
                    bar.say(mse=f"{self.history[-1][2]:.5g}", rq=f"{self.rq_mse:.5g}")
                if due:
                    self.mixing = bool(number_of_first(self.mixing, self.device))
                if due or time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
            bar.to(total)
        if self.first and self.history[-1][1] != self.step * size:
            self.validate()

    def position(self) -> float:
        """Where the schedule is, 0.0 to 1.0; of the first process, which decides."""
        if not self.first:
            return 0.0
        patience = self.training.patience
        if patience is not None and len(self.history) - 1 - self.best[1] >= patience:
            return 1.0
        return self.clock.position(self.step / self.total)

    def train_batch(self, rows: np.ndarray, t: float) -> None:
        part, fraction = share(len(rows))
        x, lists = self.batch(np.sort(rows)[part])
        if self.training.noise > 0:
            rng = np.random.default_rng((self.training.seed, self.step, 2))
            noise = rng.standard_normal((len(rows), self.data.d), dtype=np.float32)
            x = x + self.training.noise * torch.from_numpy(noise[part]).to(x)
        if self.mixing:
            x = self.mixed(x, lists)
        codes = self.encoder(training=True)(x, lists)
        self.descent.step(self.descent.loss(x, codes) * fraction, t)
        self.descent.count(codes)

    def mixed(self, x: Tensor, lists: Tensor | None) -> Tensor:
        """Vectors that no training vector is, against over-fitting: of two of them what the codes
        have to say, a r_i + sqrt(1 - a²) r_j, as long as either on average, a = max(λ, 1 - λ),
        λ from Beta(mixing, mixing) (after mixup, arXiv 1710.09412, which keeps a + b = 1)."""
        alpha = self.training.mixing
        rng = np.random.default_rng((self.training.seed, self.step, 3))
        portion = rng.beta(alpha, alpha, (len(x), 1))
        a = torch.from_numpy(np.maximum(portion, 1 - portion)).to(x)
        base = 0.0 if lists is None else self.model.base.data[lists]
        residual = x - base
        other = residual[torch.from_numpy(rng.permutation(len(x))).to(x.device)]
        return base + a * residual + (1 - a.square()).sqrt() * other

    def encoder(self, training: bool) -> Encoder:
        """By the model as it is now, with the beam of training or that of the codec."""
        beam = self.config.beam(self.K, training)
        bf16 = self.training.bf16
        return encoder(self.model, self.config, beam, self.device, self.dtype, bf16)

    # -- validation ---------------------------------------------------------------------------

    @torch.no_grad()
    def error(self, training: bool, rows: np.ndarray, show: bool = False) -> float:
        """Mean squared error of vectors, encoded with the beam of training or of the codec."""
        encode = self.encoder(training)
        total = 0.0
        show = show and self.training.progress
        with progress_bar("held-out vectors", len(rows), "vector", show) as bar:
            for part in chunks(len(rows), 256):
                x, lists = self.batch(rows[part])
                codes = encode(x, lists)
                total += float((self.model.decode(codes)[-1] - x).double().square().sum())
                bar.to(part.stop)
        return total / len(rows) * self.std**2

    def validate(self) -> None:
        began = time.monotonic()
        mse = self.error(True, self.held_out, show=not self.history)  # later there is a bar
        if not math.isfinite(mse):
            raise RuntimeError("training diverged: the validation error is not finite; lower lr")
        self.history.append((self.budget.spent, self.step * self.training.batch_size, mse))
        loss, error, factor = self.descent.since()
        error *= self.std**2
        self.mixing = self.mixing or (self.training.mixing > 0 and mse > OVERFIT * error)
        row = (*self.history[-1], self.rq_mse, error, loss, factor)
        self.log.add(dict(zip(COLUMNS, row, strict=True)))
        if mse < self.best[0]:
            self.best = (mse, len(self.history) - 1)
            self.best_state = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.validated = time.monotonic()
        self.validation_seconds = self.validated - began

    def can_validate(self) -> bool:
        """Without a limit always; else when that takes a small part of the time."""
        since = time.monotonic() - self.validated
        return self.clock.seconds == math.inf or since * VALIDATION_SHARE > self.validation_seconds

    def seconds_each(self) -> tuple[float, float]:
        """For a held-out vector, with the beam of training and that of the codec."""

        def measure(training: bool, n: int) -> float:
            began = time.monotonic()
            self.error(training, self.held_out[:n])
            return (time.monotonic() - began) / min(n, len(self.held_out))

        if self.each is None:
            few, block = PROBES
            measure(True, few)  # the first time takes longer
            narrow, wide = measure(True, few), measure(False, few)
            if (narrow + wide) * block < PROBE_SHARE * self.budget.left():
                narrow, wide = measure(True, block), measure(False, block)
            self.each = narrow, wide
        return self.each

    def affordable(self) -> int:
        """How many vectors to hold out, of those that there are."""
        narrow, wide = self.seconds_each()
        affordable = VALIDATION_SHARE * self.budget.left() / (2 * narrow + wide)
        return max(FEWEST_HELD_OUT, int(affordable))

    def seconds_to_finish(self) -> float:
        """To be left for when the descent is over: two errors of the held-out vectors."""
        if self.budget.left() == math.inf:
            return 0.0
        return 1.2 * len(self.held_out) * sum(self.seconds_each())

    def seconds_later(self) -> float:
        """To be left for what follows the codec: `n_later` vectors are encoded, some twice, and
        tables and margins fitted to them, or a student."""
        left = self.budget.left()
        if self.n_later == 0 or left == math.inf:
            return 0.0
        least, most = LATER_SHARES
        student = self.training.student
        if student or (student is None and student_pays(self.config, self.data.d)):
            return most * left
        return min(max(LATER * self.n_later * self.seconds_each()[1], least * left), most * left)

    # -- the end ------------------------------------------------------------------------------

    def finish(self) -> QINCoCodec:
        """The codec of the best validation."""
        self.model.load_state_dict(self.best_state)
        ivf = not self.model.base.requires_grad
        tensors = {k: v.cpu().numpy().copy() for k, v in self.model.state_dict().items()}
        codec = QINCoCodec(
            self.config, self.M, self.nbits, ivf, self.mean, self.std, tensors, metric=self.metric
        )
        codec.statistics = self.statistics(codec)
        if self.report is None:
            self.report = TrainingReport(
                rq_mse=self.rq_mse,
                mse=float(codec.statistics.mean),
                history=self.history,
                seconds=self.budget.spent,
                vectors_seen=self.step * self.training.batch_size,
            )
            self.save()
        codec.report = self.report
        self.warn()
        return codec

    def statistics(self, codec: QINCoCodec) -> Statistics:
        """Of held-out vectors, which nothing was fitted to."""
        rows, lists = self.held_out, self.data.list_no
        lists = None if lists is None else lists[rows]
        return codec.measure(self.data[rows], lists, device=self.device)

    def warn(self) -> None:
        """Where residual quantization, with time enough, would have done as well."""
        assert self.report is not None
        mse, rq_mse = self.report.mse, self.report.rq_mse
        advice = "more time (max_seconds), a smaller config, or more vectors"
        if rq_mse <= 1e-6 * self.data.d * self.std**2 or len(self.model.steps) == 0:
            return  # nothing to gain
        if mse >= rq_mse:
            warnings.warn(
                f"the codec's error on held-out vectors, {mse:.5g}, is not below that of residual "
                f"quantization, {rq_mse:.5g}, after {self.step} batches in "
                f"{self.report.seconds:.0f} s on {len(self.data)} vectors: training needs {advice}",
                RuntimeWarning,
                stacklevel=5,
            )
        elif self.start_rows < min(FEWEST * self.K, len(self.rows)):
            warnings.warn(
                f"residual quantization, from which the codec starts, had time for "
                f"{self.start_rows} of {len(self.rows)} vectors: training needs {advice}",
                RuntimeWarning,
                stacklevel=5,
            )

    # -- checkpoint ---------------------------------------------------------------------------

    def save(self) -> None:
        """The checkpoint, if one is wanted: where the descent is, or, at the end, the codec."""
        if self.training.checkpoint is None:
            return
        tensors = {f"best.{k}": v for k, v in self.best_state.items()}
        header: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "complete": self.report is not None,
            "step": self.step,
            "best": self.best,
            "history": self.history,
            "rq_mse": self.rq_mse,
            "start_rows": self.start_rows,
            "n_held_out": len(self.held_out),
            "mixing": self.mixing,
            "seconds": self.budget.spent,
        }
        if self.report is None:
            tensors |= self.descent.state()
            header |= {"descent_seconds": self.clock.spent, "paces": self.paces}
        else:
            header |= {"mse": self.report.mse, "seconds": self.report.seconds}
        arrays = {k: v.detach().cpu().numpy() for k, v in tensors.items()}
        checkpoint.save(self.training.checkpoint, header, arrays)

    def resume(self) -> float | None:
        """Go on from the checkpoint: the seconds that its descent had taken, None without one."""
        path = self.training.checkpoint
        found = checkpoint.load(path, self.fingerprint)
        if path is None or found is None:
            return None
        header, arrays = found
        with reading(path):
            tensors = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
            self.best_state = with_prefix(tensors, "best.")
            self.step, self.rq_mse = header["step"], header["rq_mse"]
            self.start_rows, self.mixing = header["start_rows"], header["mixing"]
            self.best = tuple(header["best"])
            self.history = [tuple(entry) for entry in header["history"]]
            self.held_out = self.held_out[: header["n_held_out"]]
            if header["complete"]:
                self.report = TrainingReport(
                    self.rq_mse, header["mse"], self.history, header["seconds"],
                    self.step * self.training.batch_size,
                )  # fmt: skip
                return 0.0
            self.budget.charge(header["seconds"])
            self.paces = header["paces"]
            self.descent = self.new_descent()
            self.descent.restore(tensors)
            return float(header["descent_seconds"])


def split(
    n: int, training: TrainingConfig, K: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the vectors held out and of those to train on; where they are too few for both,
    those held out are trained on as well."""
    rows, n_held_out = rng.permutation(n), training.n_held_out(n)
    few = n - n_held_out < K
    return rows[:n_held_out], rows if few else rows[n_held_out:]
