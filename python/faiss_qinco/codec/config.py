"""Sizes of the model and settings of its training. No torch here."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any


def _check_int(name: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}: expected an integer >= {low}, got {value!r}")


@dataclass(frozen=True)
class QINCoConfig:
    """Sizes of a QINCo codec (QINCo2, arXiv 2501.03078, section 3; QINCo, arXiv 2401.14732).

    Parameters
    ----------
    L : residual blocks per step.
    d_e : width of the network; None: d, without input and output projections.
    d_h : hidden width of a residual block (and the rank of the concat block with `low_rank`).
    A : codewords pre-selected per hypothesis when encoding; 0: all K. The A·B candidates of a
        vector are the best of all its hypotheses and codewords together, so that a small A with
        a large B takes less time for the same error than the papers' A = 16 for each.
    B : hypotheses of the beam search when encoding.
    train_A, train_B : the same inside the training loop; None: A and B. A narrow beam there sees
        more vectors in the same time, and trains for the wide one nearly as well.
    qinco1 : QINCo (2024): the network returns z, with d_e == d and no skip from the codeword.
    low_rank : QINCo-LR: the concat block is a product of two bias-free linears of rank d_h.

    Raises
    ------
    ValueError : a size out of range, or `qinco1` with d_e.
    """

    L: int = 2
    d_e: int | None = 128
    d_h: int = 256
    A: int = 16
    B: int = 32
    train_A: int | None = None
    train_B: int | None = None
    qinco1: bool = False
    low_rank: bool = False

    def __post_init__(self) -> None:
        for name, low in (("L", 0), ("d_h", 1), ("A", 0), ("B", 1)):
            _check_int(name, getattr(self, name), low)
        for name, low in (("d_e", 1), ("train_A", 0), ("train_B", 1)):
            if getattr(self, name) is not None:
                _check_int(name, getattr(self, name), low)
        if self.qinco1 and self.d_e is not None:
            raise ValueError("qinco1 needs d_e=None (QINCo has no projections)")
        if self.train_A == 0 and self.A > 0:
            raise ValueError("train_A=0 trains no pre-selection codebooks, which A > 0 needs")

    def width(self, d: int) -> int:
        """The network's width for vectors of dimension d."""
        return d if self.d_e is None else self.d_e

    def beam(self, K: int, training: bool = False) -> tuple[int, int]:
        """(A, B) with A resolved to K where it means all codewords."""
        A, B = self.A, self.B
        if training:
            A = A if self.train_A is None else self.train_A
            B = B if self.train_B is None else self.train_B
        return (K if A == 0 else min(A, K)), B

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> QINCoConfig:
        """Inverse of `to_dict`. Raises ValueError for an unknown or ill-typed entry."""
        known = {f.name for f in dataclasses.fields(QINCoConfig)}
        if not isinstance(values, dict) or not set(values) <= known:
            raise ValueError(f"config: expected a dict of {sorted(known)}, got {values!r}")
        for name in ("qinco1", "low_rank"):
            if not isinstance(values.get(name, False), bool):
                raise ValueError(f"config: {name} must be a bool, got {values[name]!r}")
        return QINCoConfig(**values)


PRESETS = {
    "XS": QINCoConfig(L=1, d_e=None, d_h=256, A=4, B=32, train_A=4, train_B=2),
    "S": QINCoConfig(L=2, d_e=128, d_h=256, A=16, B=32),
    "M": QINCoConfig(L=4, d_e=384, d_h=384, A=16, B=32),
    "L": QINCoConfig(L=16, d_e=384, d_h=384, A=16, B=32),
}


def network_costs(config: QINCoConfig, d: int) -> tuple[int, int]:
    """Multiply-adds of a network, for vectors of dimension d, as the extension compiles it: of the
    products with x̂, which candidates of one x̂ share in encoding, and of the others."""
    d_e, d_h, L = config.width(d), config.d_h, config.L
    narrow = min(d, d_e)  # linear maps are multiplied out where that is less work
    of_x = d * d_e + (narrow * d_h if L else 0)
    blocks = 2 * (L - 1) * d_e * d_h + narrow * d_h if L else 0
    return of_x, blocks + (d_e * d if d_e != d else 0)


STUDENT_PAYS = 4  # from this ratio of network costs on


def student_config(d: int) -> QINCoConfig:
    """Sizes of a student for vectors of dimension d. It encodes nothing: no pre-selection."""
    return QINCoConfig(L=1, d_e=None if d <= 128 else 128, d_h=256, A=0, B=1)


def student_pays(config: QINCoConfig, d: int) -> bool:
    """Whether re-ranking with a codec of these sizes gains from a student: M and L, not XS, S."""
    return sum(network_costs(config, d)) >= STUDENT_PAYS * sum(network_costs(student_config(d), d))


GPU_NODES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # CUDA on Linux and in WSL, ROCm


def resolve_config(config: str | QINCoConfig, device: str = "auto") -> QINCoConfig:
    """A preset's name, "auto" or a config -> a config.

    "auto" is what the machine at hand can train: S where torch sees a GPU, else XS.

    Raises ValueError for an unknown name, TypeError for anything else.
    """
    if isinstance(config, QINCoConfig):
        return config
    if not isinstance(config, str):
        raise TypeError(f"config: expected a preset name or a QINCoConfig, got {type(config)}")
    if config == "auto":
        return PRESETS["XS" if resolve_device(device).startswith("cpu") else "S"]
    if config not in PRESETS:
        raise ValueError(f"config: expected one of {[*PRESETS, 'auto']}, got {config!r}")
    return PRESETS[config]


def resolve_device(device: str) -> str:
    """ "auto" -> "cuda" where torch sees a GPU, else "cpu"; other names are kept."""
    if device != "auto":
        return device
    if not any(os.path.exists(node) for node in GPU_NODES):
        return "cpu"  # known without torch, whose import takes seconds
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one training run (defaults: QINCo2, section 4.1, except where noted).

    Parameters
    ----------
    epochs : passes over the training vectors; the cosine schedule ends with the last one.
    max_seconds : wall-clock budget for the whole codec training, RQ start included. When given,
        the schedule follows the clock and `epochs` is only an upper bound.
    batch_size : vectors per step.
    lr, weight_decay : AdamW's, for codebooks and biases.
    muon_lr : Muon's, for the networks' matrices (see `codec/muon.py`). In a short training it takes
        less than half the vectors that AdamW needs for all.
    clip_value : bound on each gradient entry.
    noise : standard deviation of Gaussian noise added to the vectors of each batch, as a fraction
        of theirs. Some (0.25) keeps a codec trained on ten thousand vectors from over-fitting.
    warmup : fraction of the schedule in which the learning rate rises linearly.
    patience : stop after so many validations without a new best error; None: never.
    n_validation : training vectors held out to measure the error.
    max_points : training vectors used at most (sampled); None: all.
    device : "auto", "cpu", "cuda" or any torch device. On "cpu" the extension encodes; "cpu:0" is
        torch on CPU tensors, as on a GPU.
    bf16 : matrix products in bfloat16 (on "cpu": in Muon alone); None: where the device has them.
    seed : the one seed of everything random.
    checkpoint : path of a checkpoint, written at each validation (every 50 to 200 batches). A
        later training with the same data and settings goes on from it exactly, whatever ended
        the first; it is removed on success.
    progress : show a progress bar with the validation error beside that of the RQ start.
    student : whether an index also trains a student of its codec, a small model of the same codes
        from which early exit of re-ranking tells what is out of reach. It takes up to a tenth of
        `max_seconds` in addition. None: where the codec's networks cost at least four times as
        much, as those of M and L do.

    Raises
    ------
    ValueError : a value out of range.
    """

    epochs: int = 60
    max_seconds: float | None = None
    batch_size: int = 256
    lr: float = 3e-3
    muon_lr: float = 0.015
    weight_decay: float = 0.1
    clip_value: float = 0.1
    noise: float = 0.0
    warmup: float = 0.05
    patience: int | None = None
    n_validation: int = 2048
    max_points: int | None = None
    device: str = "auto"
    bf16: bool | None = None
    seed: int = 0
    checkpoint: str | os.PathLike[str] | None = None
    progress: bool = True
    student: bool | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "n_validation"):
            _check_int(name, getattr(self, name), 1)
        for name in ("patience", "max_points"):
            if getattr(self, name) is not None:
                _check_int(name, getattr(self, name), 1)
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise: expected a number >= 0, got {self.noise!r}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup: expected a fraction in [0, 1), got {self.warmup!r}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds: expected a positive time, got {self.max_seconds!r}")
