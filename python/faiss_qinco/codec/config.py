"""Sizes of the model. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from .devices import resolve_device


def check_int(name: str, value: object, low: int) -> int:
    """The value, where it is an integer (NumPy's too) of at least `low`; else ValueError."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}: expected an integer >= {low}, got {value!r}")
    return int(value)


def check_bool(name: str, value: object) -> bool:
    """The value, where it is a bool (NumPy's too); else TypeError."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {value!r}")
    return bool(value)


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
    ValueError : a size out of range, or `qinco1` with d_e. TypeError : a flag that is no bool.
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
        optional = ("d_e", "train_A", "train_B")
        for name, low in {
            "L": 0,
            "d_e": 1,
            "d_h": 1,
            "A": 0,
            "B": 1,
            "train_A": 0,
            "train_B": 1,
        }.items():
            value = getattr(self, name)
            if value is not None or name not in optional:
                object.__setattr__(self, name, check_int(name, value, low))
        for name in ("qinco1", "low_rank"):
            object.__setattr__(self, name, check_bool(name, getattr(self, name)))
        if self.qinco1 and self.d_e is not None:
            raise ValueError("qinco1 needs d_e=None (QINCo has no projections)")
        if self.train_A == 0 and self.A > 0:
            raise ValueError("train_A=0 trains no pre-selection codebooks, which A > 0 needs")

    def width(self, d: int) -> int:
        """The network's width for vectors of dimension d."""
        return d if self.d_e is None else self.d_e

    def beam(self, K: int, training: bool = False, effort: str = "balanced") -> tuple[int, int]:
        """(A, B) with A resolved to K where it means all codewords. effort: one of `EFFORTS`.
        Raises ValueError for another."""
        if effort not in EFFORTS:
            raise ValueError(f"effort: expected one of {[*EFFORTS]}, got {effort!r}")
        A, B = self.A, max(1, int(self.B * EFFORTS[effort]))
        if training:
            A = A if self.train_A is None else self.train_A
            B = B if self.train_B is None else self.train_B
        return (K if A == 0 else min(A, K)), B

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> QINCoConfig:
        """Inverse of `to_dict`. Raises ValueError for an unknown entry or a size out of
        range, TypeError for a flag that is no bool."""
        known = {f.name for f in dataclasses.fields(QINCoConfig)}
        if not isinstance(values, dict) or not set(values) <= known:
            raise ValueError(f"config: expected a dict of {sorted(known)}, got {values!r}")
        return QINCoConfig(**values)


# Hypotheses when encoding, as a multiple of B. XS behind 1024 lists, trained for 20 minutes, 8
# codes of SIFT vectors, one thread of an AMD Zen 4: 175, 631 and 1260 µs a vector, errors of 1.05,
# 1 and .985. The less a codec is trained, the less they differ.
EFFORTS = {"fast": 0.25, "balanced": 1.0, "best": 2.0}

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


def auto_config(d: int, device: str = "auto") -> QINCoConfig:
    """What the machine at hand can train for vectors of dimension d: S where torch sees a GPU, else
    XS, with networks narrower than d above 128 dimensions. Their cost then grows with d, not with
    d²: in the same time they see several times as many vectors. There, half the candidates encode
    as well (text, 384-d: error .3504 with A 2 and with A 4, .3509 with A 1)."""
    if not resolve_device(device).startswith("cpu"):
        return PRESETS["S"]
    if d <= 128:
        return PRESETS["XS"]
    return dataclasses.replace(PRESETS["XS"], d_e=128 if d <= 512 else 96, A=2)


def resolve_config(config: str | QINCoConfig, d: int, device: str = "auto") -> QINCoConfig:
    """A preset's name or "auto" (see `auto_config`), in any case, or a config -> a config for
    vectors of dimension d.

    Raises ValueError for an unknown name, TypeError for anything else.
    """
    if isinstance(config, QINCoConfig):
        return config
    if not isinstance(config, str):
        raise TypeError(f"config: expected a preset name or a QINCoConfig, got {type(config)}")
    if (name := config.upper()) == "AUTO":
        return auto_config(d, device)
    if name not in PRESETS:
        raise ValueError(f"config: expected one of {[*PRESETS, 'auto']}, got {config!r}")
    return PRESETS[name]
