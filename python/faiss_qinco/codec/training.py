"""Training of a QINCo model (QINCo2, arXiv 2501.03078, sections 3.2 and 4.1).

Start from residual quantization, then repeat: encode a batch with the model as it is, without
gradient; decode it; descend on the error of every step. Nothing here knows of an index.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding

from .. import _core
from ..storage.container import read_tensors, write_tensors
from ..threads import get_num_threads
from .codec import pack_weights, with_prefix
from .config import QINCoConfig, TrainingConfig, resolve_device
from .encoding import beam_encode, chunks, compile_steps
from .model import QINCo, check_device
from .muon import Muon

RQ_POINTS_PER_CODEWORD = 256  # training vectors of the RQ start, as faiss's k-means takes
VALIDATE_STEPS = (50, 200)  # between two validations: one epoch, within these bounds


@dataclass
class TrainingReport:
    """What a training run did. Errors are mean squared L2 errors of the held-out vectors, in
    the units of the input: mse with the beam of the config, those of the history with that of the
    training loop."""

    rq_mse: float
    mse: float
    history: list[tuple[float, int, float]]  # (seconds, vectors seen, validation error)
    seconds: float
    vectors_seen: int


def normalisation(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Of the rows of x (n, d): mean (d,) float32 and ONE standard deviation over all entries."""
    total = np.zeros(x.shape[1])
    square = 0.0
    for part in chunks(len(rows), 65536):
        values = x[rows[part]].astype(np.float64)
        total += values.sum(0)
        square += float(np.square(values).sum())
    mean = total / len(rows)
    variance = square / (len(rows) * x.shape[1]) - float(np.square(mean).mean())
    return mean.astype(np.float32), math.sqrt(variance) if variance > 1e-20 else 1.0


def use_bf16(setting: bool | None, device: str) -> bool:
    """Whether matrix products in bfloat16 pay: where the device has them in hardware."""
    if setting is not None:
        return setting
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())


def train_model(
    x: np.ndarray,
    M: int,
    K: int,
    config: QINCoConfig,
    training: TrainingConfig,
    centroids: np.ndarray | None = None,
    lists: np.ndarray | None = None,
) -> tuple[QINCo, np.ndarray, float, TrainingReport]:
    """Train a codec of M steps.

    x (n, d) any real dtype; with an IVF, centroids (nlist, d) float32 and lists (n,) int64.
    Returns the model on the CPU, the mean (d,), the standard deviation and a report.
    """
    run = _Run(x, M, K, config, training, centroids, lists)
    try:
        run.loop()
    finally:
        run.bar.close()
    return run.finish()


def make_optimizers(
    model: QINCo, training: TrainingConfig, dtype: torch.dtype
) -> list[torch.optim.Optimizer]:
    """Muon, in `dtype`, for the networks' matrices, AdamW for codebooks and biases."""
    parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in parameters if n.endswith("weight")]
    others = [p for n, p in parameters if not n.endswith("weight")]
    adamw = torch.optim.AdamW(
        others, lr=training.lr, weight_decay=training.weight_decay, fused=True
    )
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if matrices:
        optimizers.append(Muon(matrices, training.muon_lr, dtype))
    for group in (group for o in optimizers for group in o.param_groups):
        group["initial_lr"] = group["lr"]
    return optimizers


def position(step: int, total: int, started: float, max_seconds: float | None) -> float:
    """Where in the schedule `step` of `total` is, 0 to 1: by the clock, where that is ahead."""
    done = step / total
    if max_seconds is not None:
        done = max(done, (time.monotonic() - started) / max_seconds)
    return min(done, 1.0)


def descend(
    model: QINCo,
    optimizers: list[torch.optim.Optimizer],
    loss: Tensor,
    t: float,
    training: TrainingConfig,
) -> None:
    """One step. Learning rates by the position t in the schedule: a linear ramp, then half a cosine
    to zero."""
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_value_(model.parameters(), training.clip_value)
    ramp = min(1.0, (t + 0.002) / training.warmup) if training.warmup > 0 else 1.0
    factor = ramp * 0.5 * (1 + math.cos(math.pi * t))
    for group in (group for o in optimizers for group in o.param_groups):
        group["lr"] = group["initial_lr"] * factor
    for optimizer in optimizers:
        optimizer.step()


class _Run:
    def __init__(
        self,
        x: np.ndarray,
        M: int,
        K: int,
        config: QINCoConfig,
        training: TrainingConfig,
        centroids: np.ndarray | None,
        lists: np.ndarray | None,
    ) -> None:
        self.started = time.monotonic()
        self.training, self.config, self.K = training, config, K
        self.beam = config.beam(K, training=True)
        self.device = resolve_device(training.device)
        check_device(self.device)
        self.dtype = torch.bfloat16 if use_bf16(training.bf16, self.device) else torch.float32
        rng = np.random.default_rng(training.seed)
        rows = rng.permutation(len(x))[: training.max_points]
        n_validation = min(training.n_validation, max(1, len(rows) // 10))
        self.x, self.lists = x, lists
        self.validation, self.rows = rows[:n_validation], rows[n_validation:]
        if len(self.rows) == 0:
            raise RuntimeError(f"training: {len(x)} vectors are too few")
        self.mean, self.std = normalisation(x, np.sort(rows))
        torch.manual_seed(training.seed)
        n_lists = None if centroids is None else len(centroids)
        self.model = QINCo(x.shape[1], M, K, config, n_lists)
        self.step = 0
        self.best = (math.inf, 0)  # error, number of the validation
        self.history: list[tuple[float, int, float]] = []
        per_epoch = max(1, math.ceil(len(self.rows) / training.batch_size))
        self.per_epoch, self.total = per_epoch, per_epoch * training.epochs
        self.interval = min(max(per_epoch, VALIDATE_STEPS[0]), VALIDATE_STEPS[1])
        self.used = torch.zeros(len(self.model.steps), K)
        self.bar = Progress("training", self.total, training)
        if centroids is not None:
            base = (centroids - self.mean) / np.float32(self.std)
            self.model.base.data.copy_(torch.from_numpy(base))
        resumed = self.load_checkpoint()
        if not resumed:
            self.start_from_rq(M, rng)
        self.model.to(self.device)
        self.optimizers = make_optimizers(self.model, training, self.dtype)
        if resumed:
            self.restore_optimizers()

    # -- data ---------------------------------------------------------------------------------

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        x = (self.x[rows].astype(np.float32) - self.mean) / np.float32(self.std)
        lists = None if self.lists is None else torch.from_numpy(self.lists[rows])
        return torch.from_numpy(x).to(self.device), (
            None if lists is None else lists.to(self.device)
        )

    def start_from_rq(self, M: int, rng: np.random.Generator) -> None:
        """Codebooks from `faiss.ResidualQuantizer`, with a little noise; its validation error."""
        rows = np.sort(self.rows[: RQ_POINTS_PER_CODEWORD * self.K])
        residual, check = self.rq_input(rows), self.rq_input(self.validation)
        rq = faiss.ResidualQuantizer(residual.shape[1], M, int(self.K).bit_length() - 1)
        rq.train_type = rq.Train_default  # a quarter of the time of progressive dimensions
        if len(residual) < self.K:
            raise RuntimeError(f"training: {len(residual)} vectors are too few for K={self.K}")
        rq.train(residual)
        error = rq.decode(rq.compute_codes(check)) - check
        self.rq_mse = float(np.square(error).sum(1).mean()) * self.std**2
        codebooks = faiss.vector_to_array(rq.codebooks).reshape(M, self.K, -1).astype(np.float32)
        for codebook in codebooks:
            noise = rng.standard_normal(codebook.shape, dtype=np.float32)
            codebook += 0.01 * codebook.std() * noise
        if self.lists is None:
            self.model.base.data.copy_(torch.from_numpy(codebooks[0]))
            codebooks = codebooks[1:]
        for step, codebook in zip(self.model.steps, codebooks, strict=True):
            step.set_codebook(torch.from_numpy(codebook))

    def rq_input(self, rows: np.ndarray) -> np.ndarray:
        x, lists = self.batch(rows)
        return (x.cpu() if lists is None else x.cpu() - self.model.base.data[lists.cpu()]).numpy()

    # -- the loop -----------------------------------------------------------------------------

    def progress(self) -> float:
        return position(self.step, self.total, self.started, self.training.max_seconds)

    def loop(self) -> None:
        if not self.history:
            self.validate()
        validations = len(self.history)
        while self.progress() < 1.0:
            epoch, i = divmod(self.step, self.per_epoch)
            if i == 0 or not hasattr(self, "order"):
                self.order = self.epoch_order(epoch)
            size = self.training.batch_size
            self.train_batch(self.order[i * size : (i + 1) * size])
            self.step += 1
            self.bar.update(self.step, self.progress())
            if self.step % self.interval == 0:
                self.reseed()
                self.validate()
                self.save_checkpoint()
                validations += 1
                patience = self.training.patience
                if patience is not None and validations - self.best[1] > patience:
                    break
        if self.step % self.interval:
            self.validate()

    def epoch_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.training.seed, epoch)).permutation(self.rows)

    def train_batch(self, rows: np.ndarray) -> None:
        x, lists = self.batch(np.sort(rows))
        if self.training.noise > 0:
            rng = np.random.default_rng((self.training.seed, self.step, 2))
            noise = rng.standard_normal(x.shape, dtype=np.float32)
            x = x + self.training.noise * torch.from_numpy(noise).to(x)
        codes = self.encoder(self.beam)(x, lists)
        descend(self.model, self.optimizers, self.loss(x, codes), self.progress(), self.training)
        self.used.scatter_add_(1, codes[:, 1:].T.cpu(), torch.ones(codes[:, 1:].T.shape))

    def encoder(self, beam: tuple[int, int]) -> Callable[[Tensor, Tensor | None], Tensor]:
        """x (n, d), lists (n,) or None -> codes (n, 1 + n_steps) int64, the base first, with the
        model as it is now and `beam` (A, B): in the extension on a CPU, else in torch."""
        A, B = beam
        if self.device != "cpu":
            steps = compile_steps(self.model, self.dtype)
            return lambda x, lists: beam_encode(self.model, steps, x, lists, A, B)[0]
        d, nbits, ivf = self.x.shape[1], self.K.bit_length() - 1, self.lists is not None
        tensors = {k: v.detach().numpy() for k, v in self.model.state_dict().items()}
        weights = pack_weights(self.config, nbits, ivf, np.zeros(d, np.float32), 1.0, tensors)

        def encode(x: Tensor, lists: Tensor | None) -> Tensor:
            list_no = None if lists is None else lists.numpy()
            found = _core.encode(weights, x.numpy(), list_no, A, B, get_num_threads())
            codes = torch.from_numpy(found).long()
            return codes if lists is None else torch.column_stack((lists, codes))

        return encode

    def loss(self, x: Tensor, codes: Tensor) -> Tensor:
        """Sum over the steps of |x̂_m - x|², and of the pre-selection codebooks' errors."""
        half = self.device != "cpu" and self.dtype != torch.float32
        with torch.autocast(x.device.type, self.dtype) if half else nullcontext():
            x_hats = self.model.decode(codes)
        loss = x.new_zeros(())
        if self.lists is None:
            loss = loss + (x_hats[0] - x).square().sum(1).mean()
        for m, step in enumerate(self.model.steps):
            loss = loss + (x_hats[m + 1] - x).square().sum(1).mean()
            if step.preselect is not None:
                target = x - x_hats[m].detach()
                error = embedding(codes[:, m + 1], step.preselect) - target
                loss = loss + error.square().sum(1).mean()
        return loss / x.shape[1]

    @torch.no_grad()
    def reseed(self) -> None:
        """Unused codewords become noisy copies of often used ones."""
        seed = (self.training.seed, self.step, 1)
        rng = np.random.default_rng(seed)
        for m, step in enumerate(self.model.steps):
            used = self.used[m].numpy()
            dead = np.flatnonzero(used == 0)
            if len(dead) == 0 or used.sum() == 0:
                continue
            source = rng.choice(self.K, size=len(dead), p=used / used.sum(dtype=np.float64))
            for table in (step.codebook, step.preselect):
                if table is None:
                    continue
                noise = rng.standard_normal((len(dead), table.shape[1]), dtype=np.float32)
                scale = 0.1 * float(table.std())
                table[dead] = table[source] + scale * torch.from_numpy(noise).to(table)
                for moment in self.optimizers[0].state.get(table, {}).values():
                    if moment.shape == table.shape:
                        moment[dead] = 0
        self.used.zero_()

    @torch.no_grad()
    def error(self, beam: tuple[int, int]) -> float:
        """Of the held-out vectors, encoded with `beam`."""
        encode = self.encoder(beam)
        total = 0.0
        for part in chunks(len(self.validation), 1024):
            x, lists = self.batch(self.validation[part])
            codes = encode(x, lists)
            total += float((self.model.decode(codes)[-1] - x).double().square().sum())
        return total / len(self.validation) * self.std**2

    def validate(self) -> None:
        mse = self.error(self.beam)
        if not math.isfinite(mse):
            raise RuntimeError("training diverged: the validation error is not finite; lower lr")
        seconds = time.monotonic() - self.started
        self.history.append((seconds, self.step * self.training.batch_size, mse))
        if mse < self.best[0]:
            self.best = (mse, len(self.history) - 1)
            self.best_state = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.bar.set_error(mse, self.rq_mse)

    def finish(self) -> tuple[QINCo, np.ndarray, float, TrainingReport]:
        self.model.load_state_dict(self.best_state)
        if self.training.checkpoint is not None and os.path.exists(self.training.checkpoint):
            os.remove(self.training.checkpoint)
        beam = self.config.beam(self.K)
        report = TrainingReport(
            rq_mse=self.rq_mse,
            mse=self.best[0] if beam == self.beam else self.error(beam),
            history=self.history,
            seconds=time.monotonic() - self.started,
            vectors_seen=self.step * self.training.batch_size,
        )
        return self.model.cpu().eval(), self.mean, self.std, report

    # -- checkpoint ---------------------------------------------------------------------------

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be continued."""
        settings = asdict(self.training)
        for name in ("checkpoint", "progress", "device", "max_seconds", "patience", "student"):
            del settings[name]
        return {
            "config": self.config.to_dict(),
            "training": settings,
            "data": [len(self.x), self.mean.sum().item(), self.std],
        }

    def save_checkpoint(self) -> None:
        path = self.training.checkpoint
        if path is None:
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best_state.items()}
        for o, optimizer in enumerate(self.optimizers):
            for i, moments in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{o}.{i}.{k}": v for k, v in moments.items()}
        tensors["used"] = self.used
        header = {
            "fingerprint": self.fingerprint(),
            "step": self.step,
            "best": self.best,
            "history": self.history,
            "rq_mse": self.rq_mse,
            "seconds": time.monotonic() - self.started,
        }
        arrays = {k: v.detach().cpu().numpy() for k, v in tensors.items()}
        write_tensors(path, "checkpoint", header, arrays)

    def load_checkpoint(self) -> bool:
        path = self.training.checkpoint
        if path is None or not os.path.exists(path):
            return False
        header, arrays = read_tensors(path, "checkpoint")
        expected = json.loads(json.dumps(self.fingerprint()))
        if header["fingerprint"] != expected:
            raise RuntimeError(
                f"checkpoint {os.fspath(path)!r} is of other data or settings; "
                "remove it or name another"
            )
        tensors = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
        self.model.load_state_dict(with_prefix(tensors, "model."))
        self.best_state = with_prefix(tensors, "best.")
        self.moments = with_prefix(tensors, "optimizer.")
        self.used = tensors["used"]
        self.step, self.rq_mse = header["step"], header["rq_mse"]
        self.best = tuple(header["best"])
        self.history = [tuple(entry) for entry in header["history"]]
        self.started -= header["seconds"]
        return True

    def restore_optimizers(self) -> None:
        for o, optimizer in enumerate(self.optimizers):
            state = optimizer.state_dict()
            for name, value in with_prefix(self.moments, f"{o}.").items():
                i, key = name.split(".")
                state["state"].setdefault(int(i), {})[key] = value
            optimizer.load_state_dict(state)


class Progress:
    """tqdm over the schedule, with the validation error beside that of the RQ start."""

    def __init__(self, what: str, total: int, training: TrainingConfig) -> None:
        from tqdm import tqdm

        self.by_time = training.max_seconds is not None
        self.bar = tqdm(
            total=100 if self.by_time else total,
            desc=what,
            unit="%" if self.by_time else "batch",
            disable=not training.progress,
        )

    def update(self, step: int, progress: float) -> None:
        self.bar.update((int(100 * progress) if self.by_time else step) - self.bar.n)

    def set_error(self, mse: float, rq_mse: float) -> None:
        self.bar.set_postfix(mse=f"{mse:.5g}", rq=f"{rq_mse:.5g}")

    def close(self) -> None:
        self.bar.close()
