"""What `inspect` finds, by topic."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...ranking.early_exit import LOSS


@dataclass(frozen=True)
class Steps:
    """The mean squared error after each step, in the units of the input.

    mse (M + 1,): after 0 .. M codes; after none it is that of what the codes of a list add to
    (without lists, of the mean). rq (M + 1,), or None: of a residual quantizer with as many codes
    of as many bits, on the same vectors, trained on n_rq others (behind lists, on residuals to the
    same bases);
    its shorter codes are cut off the long one, as the codec's. tables: of what the additive
    codebooks of an index make of the codes, or None.
    """

    nbits: int
    mse: np.ndarray
    rq: np.ndarray | None
    n_rq: int
    tables: float | None

    @property
    def bytes(self) -> np.ndarray:
        """(M + 1,) bytes of so many codes."""
        return np.asarray(np.arange(len(self.mse)) * self.nbits / 8)


def slopes(mse: np.ndarray, nbits: int) -> np.ndarray:
    """Of errors (M + 1,): by how many dB each code lowers it, per byte, (M,). NaN where there is no
    error left to lower."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 10 * np.log10(mse[:-1] / mse[1:]) * 8 / nbits
    return np.where(np.isfinite(found), found, np.nan)


@dataclass(frozen=True)
class CodeUse:
    """counts (M, K) int64: how often each codeword is used among n codes, `stored` in the index or
    of the vectors that were encoded."""

    counts: np.ndarray
    n: int
    stored: bool

    @property
    def entropy(self) -> np.ndarray:
        """(M,) bits of the codes' distribution; nbits where all are used equally often."""
        p = self.counts / max(self.n, 1)
        return np.asarray(-np.sum(p * np.log2(np.where(p > 0, p, 1)), axis=1))

    @property
    def unused(self) -> np.ndarray:
        """(M,) codewords that no code uses."""
        return np.asarray(np.count_nonzero(self.counts == 0, axis=1))


@dataclass(frozen=True)
class Picture:
    """A step's codebooks in the plane of the first two principal components of those generated,
    relative to what is already reconstructed, in the units of the input: base (K, 2), generated
    (prefixes, K, 2), and where the vectors themselves are (prefixes, 2), or None. share: of the
    variance, in the plane."""

    step: int
    base: np.ndarray
    generated: np.ndarray
    targets: np.ndarray | None
    share: float


@dataclass(frozen=True)
class Movement:
    """How far the codebooks f_m(c, x̂) that the networks generate are from the base codebooks (what
    f_m returns while its layers are silent: see `codec.model.Step.set_codebook`).

    Each (networks,): mean squares over the codewords and over the x̂ of n vectors, as fractions of
    the spread of their mean's codewords around one another. They add up to that of f - base.
    learned: of the codebook's mean over x̂ from the base, which a plain codebook could have learnt
    as well; shifted:
    what then moves all codewords together; reshaped: what moves each in its own way.
    steps (networks,): the codes that they belong to, from 1.
    """

    steps: np.ndarray
    learned: np.ndarray
    shifted: np.ndarray
    reshaped: np.ndarray
    n: int
    pictures: list[Picture]


@dataclass(frozen=True)
class Worst:
    """errors, rq_errors (n,), the latter or None: squared errors of each measured vector. The worst
    of them, the worst first: their row in the set, list or -1, and the vectors x and x_hat
    (t, d)."""

    errors: np.ndarray
    rq_errors: np.ndarray | None
    order: np.ndarray
    rows: np.ndarray
    list_no: np.ndarray
    x: np.ndarray
    x_hat: np.ndarray


@dataclass(frozen=True)
class Exit:
    """Early exit, for k results of a shortlist of nshort: of n results of the whole decoding of the
    shortlist, how many it lost, and the share of the networks that it ran."""

    k: int
    nshort: int
    n: int
    lost: int
    networks: float


@dataclass(frozen=True)
class Searches:
    """What the tables find: of the k best of a shortlist of nshorts[-1] vectors, wholly decoded,
    recall[k] (nshorts,) is the part that is among the first nshort (at least k: else NaN) as the
    tables rank them. own: the same of k 1, 10 and 100 with the nshort that the index has."""

    nprobe: int
    n_queries: int
    probed: float  # vectors in the lists that a query visits, on average
    nshorts: np.ndarray
    recall: dict[int, np.ndarray]
    own: dict[int, float]
    exits: list[Exit]


class Warning_(NamedTuple):
    """severe, or worth knowing; what is so; what to do about it."""

    severe: bool
    what: str
    advice: str


@dataclass
class Inspection:
    """What `inspect` found; parts that could not be had are None, and `missing` says why.

    about : facts by name. n_measured: vectors whose errors are measured, of n_vectors given;
    n_bad: sampled ones that cannot be encoded. queries_held_out: no queries were given, and vectors
    serve as such. lists: sizes (nlist,) of the inverted lists.
    codebooks : lengths (steps,), the root of the mean square of the base codewords' norms.
    """

    kind: str
    about: dict[str, Any]
    codebooks: np.ndarray
    n_vectors: int = 0
    n_measured: int = 0
    n_bad: int = 0
    queries_held_out: bool = False
    steps: Steps | None = None
    use: CodeUse | None = None
    movement: Movement | None = None
    worst: Worst | None = None
    lists: np.ndarray | None = None
    searches: Searches | None = None
    missing: list[str] = field(default_factory=list)
    warnings: list[Warning_] = field(default_factory=list)


def promised(exit: Exit) -> float:
    """The most results that early exit can lose by chance if it keeps its promise: three standard
    deviations more, where the losses of a query come together."""
    mean = LOSS * exit.n
    return mean + 3 * math.sqrt(mean * min(exit.k, 10)) + 1


def imbalance(sizes: np.ndarray) -> float:
    """FAISS's imbalance factor of lists: how many times as many vectors a search scans as with
    lists of equal size."""
    n = int(sizes.sum())
    return len(sizes) * float(np.square(sizes.astype(np.float64)).sum()) / n**2 if n else 1.0
