"""Settings of a training run. No torch here."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass

import numpy as np

from ..codec.config import check_bool, check_int

SECONDS_PER_VECTOR, LEAST_SECONDS, MOST_SECONDS = 0.006, 10.0, 600.0  # of max_seconds="auto"
INTEGERS = {
    "epochs": 1, "batch_size": 1, "n_validation": 1, "patience": 1, "max_points": 1, "seed": 0,
}  # fmt: skip
BIG = sys.float_info.max
NUMBERS = {
    "lr": (0.0, BIG), "muon_lr": (0.0, BIG), "weight_decay": (0.0, BIG), "noise": (0.0, BIG),
    "mixing": (0.0, BIG),
    "clip_value": (0.0, math.inf), "warmup": (0.0, math.nextafter(1.0, 0.0)),
}  # fmt: skip


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one training run (defaults: QINCo2, section 4.1, except where noted).

    Several processes that `torchrun` has started train together, each on its share of every batch,
    where all of them call `train` with the same data and settings (`training/processes.py`).

    Parameters
    ----------
    epochs : passes over the training vectors; the cosine schedule ends with the last one.
    max_seconds : wall-clock budget of the whole `train`, from the coarse clustering to the tables.
        The schedule follows the clock where that is ahead of `epochs`. "auto" (default): by the
        number of vectors, 6 seconds for each thousand, from 10 seconds up to 10 minutes; None: no
        limit.
    batch_size : vectors per step.
    lr, weight_decay : AdamW's, for codebooks and biases. The papers' 8e-4 is for trainings of 600
        million vectors; in those of a million or less, codebooks gain from far larger steps.
    muon_lr : Muon's, for the networks' matrices (see `training/muon.py`). In a short training it
        takes less than half the vectors that AdamW needs for all.
    clip_value : bound on each gradient entry.
    noise : standard deviation of Gaussian noise added to the vectors of each batch, as a fraction
        of theirs.
    mixing : against over-fitting: once vectors held out have an error 1.2 times that of the
        batches, pairs of a batch's vectors are mixed, in proportions from Beta(mixing, mixing).
        0: never. What it is worth: `bench/training/README.md`.
    warmup : fraction of the schedule in which the learning rate rises linearly.
    patience : stop after so many validations without a new best error; None: never.
    n_validation : training vectors held out to measure the error.
    max_points : training vectors used at most (sampled); None: all.
    device : "auto", "cpu", "cuda" or any torch device. On "cpu" the extension encodes; "cpu:0" is
        torch on CPU tensors, as on a GPU.
    bf16 : matrix products in bfloat16 (on "cpu": in encoding and in Muon; in the gradients they
        save 3 to 5 % of a batch there, which is not worth it); None: where the device has them.
    seed : the one seed of everything random.
    checkpoint : path of a checkpoint, written after the RQ start, at validations and once a minute.
        A later training of the same data, sizes and settings goes on from it exactly, whatever
        ended the first. When the codec is trained it stays, with the codec, until the index has
        all the rest as well.
    log : path of a log, written at each validation: seconds and vectors seen, the error of vectors
        held out and RQ's (mse, rq_mse: squared L2, in the units of the input, by the beam of
        training), that of the batches since the row before (batch_mse; of mixed vectors, where
        they are mixed), their mean loss (squared errors of all steps and of the pre-selection
        together, per entry of the normalised vectors) and the factor of
        the learning rates. *.csv: a file of a row each, readable at any time; anything else: a
        folder for TensorBoard (`pip install 'faiss-qinco[tensorboard]'`). A training that goes on
        from its checkpoint goes on with its log; else a log that is there already is replaced.
    progress : show progress, and beforehand what the training takes (`training.plan`).
    student : whether an index also trains a student of its codec, a small model of the same codes
        from which early exit of re-ranking tells what is out of reach. None: where the codec's
        networks cost at least four times as much, as those of M and L do.

    Raises
    ------
    ValueError : a value out of range. TypeError : a value of another kind.
    """

    epochs: int = 60
    max_seconds: float | str | None = "auto"
    batch_size: int = 512
    lr: float = 0.024
    muon_lr: float = 0.015
    weight_decay: float = 0.1
    clip_value: float = 0.1
    noise: float = 0.0
    mixing: float = 0.2
    warmup: float = 0.05
    patience: int | None = None
    n_validation: int = 2048
    max_points: int | None = None
    device: str = "auto"
    bf16: bool | None = None
    seed: int = 0
    checkpoint: str | os.PathLike[str] | None = None
    log: str | os.PathLike[str] | None = None
    progress: bool = True
    student: bool | None = None

    def __post_init__(self) -> None:
        for name, low in INTEGERS.items():
            value = getattr(self, name)
            if value is not None or name not in ("patience", "max_points"):
                object.__setattr__(self, name, check_int(name, value, low))
        for name, (least, most) in NUMBERS.items():
            value = getattr(self, name)
            object.__setattr__(self, name, check_number(name, value, least, most))
        if self.clip_value == 0:
            raise ValueError("clip_value: expected a number > 0, got 0")
        if self.max_seconds is not None and self.max_seconds != "auto":
            seconds = check_number("max_seconds", self.max_seconds, 0, math.inf)
            if seconds == 0:
                raise ValueError('max_seconds: expected a positive time, "auto" or None, got 0')
            object.__setattr__(self, "max_seconds", seconds)
        for name in ("progress", "bf16", "student"):
            value = getattr(self, name)
            if value is not None or name == "progress":
                object.__setattr__(self, name, check_bool(name, value))
        if not isinstance(self.device, str):
            raise TypeError(f"device: expected a str, got {self.device!r}")
        for name in ("checkpoint", "log"):
            path = getattr(self, name)
            if path is not None and not isinstance(path, (str, os.PathLike)):
                raise TypeError(f"{name}: expected a path, got {path!r}")

    def seconds(self, n: int) -> float | None:
        """The time for a whole training on n vectors: `max_seconds`, "auto" worked out."""
        if self.max_seconds != "auto":
            return self.max_seconds  # type: ignore[return-value]  # no other str passes the check
        return min(max(LEAST_SECONDS, SECONDS_PER_VECTOR * n), MOST_SECONDS)

    def n_held_out(self, n: int) -> int:
        """How many of n training vectors are held out: the first of a permutation of n by `seed`,
        the first that `numpy.random.default_rng` makes."""
        return min(self.n_validation, max(1, n // 10))


def check_number(name: str, value: object, low: float, high: float) -> float:
    """The value, where it is a number (NumPy's too) in low <= value <= high, NaN being in none;
    else TypeError or ValueError."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not low <= float(value) <= high:
        raise ValueError(f"{name}: expected a number in {low:g}..{high:g}, got {value!r}")
    return float(value)
