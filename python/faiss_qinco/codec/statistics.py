"""What the vectors of a training looked like to its codec, and whether others look the same.

Three things tell a shift: the error, by its quantiles; how often each list, and how often each
codeword of each step, is used. The last two are compared by Jensen-Shannon divergences (Lin, 1991).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..storage.container import FileFormatError, finite

N_QUANTILES = 33
MOST_COUNT = 1 << 40
# How far a batch may be from the training beyond what sampling alone gives, before it counts:
# others of the same kind get about half as far. bench/drift.py, --sizes 50 to 16,384: of 284
# samples of SIFT (other photographs, 8 bytes, 1,024 lists), 201 coded by a codec over-fitted to
# 1,000 vectors and 300 of texts (8 bytes, 64 lists) none alarmed; all 300 of other clusters of
# texts did, by scores of 2 to 4. All but 242 of these were measured with ERROR_RATIO 1.15, to which
# samples of 1,000 texts, a fifth of them of the other clusters, came as near as 0.79.
ERROR_RATIO, DIVERGENCE = 1.1, 0.1
SIGMAS = 4.0  # of sampling noise: a batch of the training's distribution seldom goes beyond


@dataclass(frozen=True)
class Statistics:
    """What a codec makes of vectors that it was not trained on.

    errors : (33,) float64, equally spaced quantiles of |x̂ - x|², least and largest included;
        mean, variance: of |x̂ - x|². n: vectors counted.
    codewords : (M, K) int64, how often each codeword was used.
    lists : (nlist,) int64, how often each list was; None without an IVF.
    """

    n: int
    mean: float
    variance: float
    errors: np.ndarray
    codewords: np.ndarray
    lists: np.ndarray | None

    @staticmethod
    def of(
        errors: np.ndarray, codes: np.ndarray, K: int, list_no: np.ndarray | None, nlist: int | None
    ) -> Statistics:
        """errors (n,), n > 0: |x̂ - x|²; codes (n, M) in 0..K-1; list_no (n,) in 0..nlist-1."""
        errors = errors.astype(np.float64)
        return Statistics(
            len(errors),
            float(errors.mean()),
            float(errors.var()),
            np.quantile(errors, np.linspace(0, 1, N_QUANTILES)),
            np.stack([np.bincount(k, minlength=K) for k in codes.T]),
            None if list_no is None else np.bincount(list_no, minlength=nlist or 0),
        )

    def state(self) -> dict[str, np.ndarray]:
        """What a file holds."""
        moments = np.array([self.n, self.mean, self.variance], np.float64)
        found = {"errors": self.errors, "moments": moments, "codewords": self.codewords}
        return found if self.lists is None else found | {"lists": self.lists}

    @staticmethod
    def from_state(
        tensors: Mapping[str, np.ndarray], M: int, K: int, nlist: int | None
    ) -> Statistics:
        """Inverse of `state`. Raises FileFormatError where it is no such thing."""
        expected: dict[str, tuple[type, tuple[int, ...]]] = {
            "errors": (np.float64, (N_QUANTILES,)),
            "moments": (np.float64, (3,)),
            "codewords": (np.int64, (M, K)),
        }
        if nlist is not None:
            expected["lists"] = (np.int64, (nlist,))
        found = {k: (v.dtype.type, v.shape) for k, v in tensors.items()}
        if found != expected:
            raise FileFormatError("statistics: tensors do not fit the header")
        errors = finite("statistics.errors", tensors["errors"])
        n, mean, variance = (float(v) for v in finite("statistics.moments", tensors["moments"]))
        counts = [tensors[k] for k in ("codewords", "lists") if k in tensors]
        right = (
            1 <= n <= MOST_COUNT
            and n == int(n)
            and variance >= 0
            and errors[0] >= 0
            and (np.diff(errors) >= 0).all()
            and errors[0] <= mean * (1 + 1e-9)
            and mean <= errors[-1] * (1 + 1e-9)
            and all(c.min() >= 0 and c.max() <= n and (c.sum(-1) == n).all() for c in counts)
        )
        if not right:
            raise FileFormatError("statistics: impossible values")
        lists = tensors.get("lists")
        return Statistics(int(n), mean, variance, errors, tensors["codewords"], lists)


@dataclass(frozen=True)
class Drift:
    """Whether vectors look like those of the training: `index.drift(x)`.

    score : how far they are from them, 1.0 being as far as vectors of the same distribution hardly
        get: the largest of the three parts, each by its own limit.
    alarm : whether score is above 1.0, or `unusable` rows are among the vectors.
    n : vectors looked at; unusable: those that cannot be stored (NaN, inf, too long, no list).
    error, expected_error : mean |x̂ - x|², of these vectors and in the training, of vectors that it
        had held out.
    error_quantiles : (33,) float64, equally spaced, of these; expected_quantiles: the training's.
    lists, codewords : how far the use of lists, and of codewords (of the step where it is most),
        has moved: Jensen-Shannon divergence in bits, 0 to 1, less what sampling alone gives on
        average. lists is 0.0 without an IVF.
    step : the step of that codeword use, 0 the first.
    parts : each part of the score: "error", "lists", "codewords".
    """

    score: float
    alarm: bool
    n: int
    unusable: int
    error: float
    expected_error: float
    error_quantiles: np.ndarray
    expected_quantiles: np.ndarray
    lists: float
    codewords: float
    step: int
    parts: dict[str, float]

    def __repr__(self) -> str:
        word = "DRIFT" if self.alarm else "no drift"
        ratio = self.error / self.expected_error if self.expected_error > 0 else np.nan
        unusable = f", {self.unusable} unusable" if self.unusable else ""
        return (
            f"<{word}: score {self.score:.2f} (alarm above 1) of {self.n} vectors{unusable}; error "
            f"{self.error:.5g}, {ratio:.2f} of the training's; use of lists moved by "
            f"{self.lists:.3f} bits, of codewords by {self.codewords:.3f} (step {self.step})>"
        )


def drift(
    reference: Statistics, found: Statistics, unusable: int = 0, rounding: float = 0.0
) -> Drift:
    """How far what was `found` is from the reference. rounding: squared errors so large are none,
    in float32: those of vectors that a codec tells exactly."""
    noise = np.sqrt(found.variance / found.n + reference.variance / reference.n)
    noise = max(noise, np.sqrt(reference.variance * (1 / found.n + 1 / reference.n)))
    limit = (ERROR_RATIO - 1) * reference.mean + SIGMAS * noise + rounding
    excess = abs(found.mean - reference.mean)
    parts = {"error": float(excess / limit) if limit > 0 else np.inf if excess > 0 else 0.0}
    moved = [divergence(a, b) for a, b in zip(reference.codewords, found.codewords, strict=True)]
    step = max(range(len(moved)), key=lambda m: moved[m][1])
    parts["codewords"] = moved[step][1]
    lists = 0.0
    if reference.lists is not None and found.lists is not None:
        lists, parts["lists"] = divergence(reference.lists, found.lists)
    score = max(parts.values())
    return Drift(
        score, score > 1.0 or unusable > 0, found.n, unusable, found.mean, reference.mean,
        found.errors, reference.errors, lists, moved[step][0], step, parts,
    )  # fmt: skip


def divergence(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Jensen-Shannon divergence (bits) of the distributions that two counts (K,) are samples of,
    less the mean that it has where these are the same; and that by its limit.

    2 ln2 n_a n_b / (n_a + n_b) times the divergence, weighted by the sample sizes, is a likelihood
    ratio, whose mean and variance where both are samples of one distribution are found by drawing:
    chi-square's (K - 1 and twice that) hold only where every count is large.
    """
    n, m = int(a.sum()), int(b.sum())
    observed = _js(a / n, b / m)
    pooled = (a + b) / (n + m)
    rng = np.random.default_rng(0)
    drawn = [_js(rng.multinomial(n, pooled) / n, rng.multinomial(m, pooled) / m) for _ in range(16)]
    mean, std = float(np.mean(drawn)), float(np.std(drawn))
    moved = observed - mean
    return max(0.0, moved), moved / (DIVERGENCE + SIGMAS * std)


def _js(p: np.ndarray, q: np.ndarray) -> float:
    middle = 0.5 * (p + q)
    return _entropy(middle) - 0.5 * (_entropy(p) + _entropy(q))


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())
