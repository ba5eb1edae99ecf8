"""Early exit: at which codes re-ranking may give a candidate up, and by what margin.

After some codes, x̂ plus additive codebooks of the other codes' contribution (the tail) ranks a
shortlist nearly as the whole decoding does. A search drops a candidate there that is further behind
the k-th best of its shortlist than a margin; a range search one that is further outside the radius.
Where the codec has a student, that one decodes up to the checkpoints, and has one more when all
codes are decoded; then the codec starts anew with what is left.

What is promised, of vectors and queries that are distributed as the training vectors, of queries of
any length: of the k best of a shortlist, as its whole decoding ranks them, a search loses at most
`LOSS`, all checkpoints together, for every k up to the last of `KS`; of what is inside a radius, by
the decoded distance, a range search misses at most `RANGE_LOSS`, for radii from that of the nearest
to that of 1500 results, and of copies of what is stored at most `COPY_LOSS`. These are fractions of
the results of many queries, not bounds for each. Where there is too little to calibrate a margin
with, it is infinite: nobody is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from .. import _core

LOSS = 5e-4  # fraction of the best k that a search may lose, all checkpoints together
RANGE_LOSS = 0.01  # fraction of what is inside a radius that a range search may miss,
COPY_LOSS = 2e-3  # where the radius holds copies alone: they have one code, all are in or none
KS = (1, 3, 10, 30, 100, 300)  # the numbers of results that margins are calibrated for
# The radii: distances to the result of this rank, among the calibration's candidates. These are at
# most a quarter of the training vectors: the last rank is that of 1500 among as many as all.
RANKS = (1, 10, 100, 400)
FAR = np.float32(5)  # queries so many times as long as the training vectors count as far away

SAFETY = 2.0  # calibrated to lose so many times less than promised: few samples, other data
DENSER = 1.1  # what is stored lies denser than the calibration's candidates: nearer competitors
TAIL = 25  # samples beyond a quantile that is taken as it is; rarer ones are extrapolated


@dataclass(frozen=True)
class Checkpoint:
    """After n_codes codes: a margin for each of `KS` results (of distances, not squared; of
    similarities per |q|), tail (M - n_codes, K, d) float32, and (a, b), the margin of a radius:
    max(a, b·√radius) of a squared distance, max(a, b·|q|) of a similarity. inf: not calibrated.
    After no codes the tables have ranked the shortlist: (0, K, d)."""

    n_codes: int
    margins: list[float]
    tail: np.ndarray
    range_margin: tuple[float, float] = (np.inf, np.inf)


def checkpoint_codes(M: int, ivf: bool, student: bool) -> list[int]:
    """Where checkpoints pay: 1, 2, 3, 4, 6, 8, 12 … codes, of a student M too; without an IVF the
    first code costs nothing yet."""
    often = {n for i in range(M.bit_length()) for n in (1 << i, 3 << i)}
    return sorted(n for n in often if (1 if ivf else 2) <= n < M) + [M] * student


def pack_checkpoints(checkpoints: list[Checkpoint], M: int, K: int, d: int) -> _core.EarlyExit:
    """The form that the extension takes."""
    packed = _core.EarlyExit(M, K, d, list(KS))
    for c in checkpoints:
        packed.add_checkpoint(c.n_codes, c.margins, c.tail, c.range_margin)
    return packed


def add_tail(x_hat: np.ndarray, codes: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """x_hat (n, d) of the first codes, codes (n, M) -> the approximation of the whole, (n, d)."""
    codes = codes[:, codes.shape[1] - len(tail) :]
    return np.asarray(x_hat + sum(codebook[codes[:, m]] for m, codebook in enumerate(tail)))


def nearest(queries: np.ndarray, x: np.ndarray, k: int, metric: int) -> np.ndarray:
    """The rows I (n, k) int64 of x (m, d), m >= k, that are best for queries (n, d)."""
    I: np.ndarray = faiss.knn(queries, x, k, metric=metric)[1]
    return I


def distances(queries: np.ndarray, x: np.ndarray, I: np.ndarray, metric: int) -> np.ndarray:
    """(n, k) distances, not squared, or negated similarities per |q|, of queries (n, d) and the
    rows I (n, k) of x (m, d); all float32."""
    out = np.empty(I.shape, np.float32)
    l2 = metric == faiss.METRIC_L2
    by_index = getattr(faiss, "fvec_L2sqr_by_idx" if l2 else "fvec_inner_products_by_idx")
    arrays = (out, *(np.ascontiguousarray(a) for a in (queries, x, I)))
    by_index(*(faiss.swig_ptr(a) for a in arrays), x.shape[1], *I.shape)
    if l2:
        return np.asarray(np.sqrt(out))
    return np.asarray(-out / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-30))


def margins(approximate: Sequence[np.ndarray], exact: np.ndarray) -> np.ndarray:
    """Of `distances` (n, candidates) at each checkpoint and in the end: (checkpoints, ks) margins
    with which all checkpoints together lose LOSS / SAFETY of the nearest k, times DENSER."""
    return np.stack([_margins(approximate, exact, k) for k in KS], axis=1)


def _margins(approximate: Sequence[np.ndarray], exact: np.ndarray, k: int) -> np.ndarray:
    best = np.argpartition(exact, k - 1, axis=1)[:, :k]
    behind = np.stack([
        (np.take_along_axis(a, best, axis=1) - np.partition(a, k - 1, axis=1)[:, k - 1 : k]).ravel()
        for a in approximate
    ])  # fmt: skip
    return np.asarray(DENSER * np.maximum(bounds(behind, len(exact), LOSS / SAFETY), 0))


def bounds(samples: np.ndarray, n_queries: int, loss: float) -> np.ndarray:
    """For samples (bounds, n) of n_queries: bounds of which a fraction `loss` of the samples is
    beyond one at least.

    All are exceeded equally often. What is too rare to be counted is extrapolated with the mean
    excess over a quantile that is not: exact for exponential tails, too much for those that fall
    faster, as those of sums of many errors do.
    """
    # Samples of one query are alike: TAIL of them are not enough if they are of few queries.
    seen = max(loss, TAIL / samples.shape[1], TAIL / 5 / n_queries)
    quantile = np.quantile(samples, 1 - seen, axis=1, method="higher", keepdims=True)
    beyond = samples > quantile
    together = max(float(beyond.any(axis=0).mean()) / seen, 1.0)
    excess = np.where(beyond, samples - quantile, 0).sum(axis=1)
    excess /= np.maximum(np.count_nonzero(beyond, axis=1), 1)
    return np.asarray(quantile[:, 0] + excess * np.log(seen * together / loss))


def range_pairs(
    queries: np.ndarray, approximate: Sequence[np.ndarray], x: np.ndarray, metric: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of queries (n, d), decoded vectors x (m, d) and their approximations at each checkpoint: for
    each radius of `RANKS` the pairs (queries · rank) inside: the radii, not squared, and how far
    the approximations are outside, (checkpoints, pairs), of squared distances or of similarities
    per |q|."""
    I = nearest(queries, x, RANKS[-1], metric)
    exact = distances(queries, x, I, metric)
    found = [distances(queries, a, I, metric) for a in approximate]
    if metric == faiss.METRIC_L2:
        found = [np.square(a) for a in found]
    pairs = []
    for rank in RANKS:
        radius = exact[:, rank - 1 : rank]
        limit = np.square(radius) if metric == faiss.METRIC_L2 else radius
        outside = np.stack([(a[:, :rank] - limit).ravel() for a in found])
        pairs.append((np.repeat(radius, rank), outside))
    return pairs


def range_margins(
    queries: np.ndarray,
    copies: np.ndarray,
    approximate: Sequence[np.ndarray],
    x: np.ndarray,
    metric: int,
) -> list[tuple[float, float]]:
    """(a, b) of each checkpoint: all checkpoints together miss RANGE_LOSS / SAFETY of what is
    inside each of the radii, at most.

    Arguments as of `range_pairs`; copies (n, d): what the first rows of x were coded from. Squared
    distances: a is what the error of the approximation takes near by, b what its projection on the
    way to the query takes far away, seen from queries `FAR` times as long.
    """
    n, loss = len(queries), RANGE_LOSS / SAFETY
    near = [outside for _, outside in range_pairs(queries, approximate, x, metric)]
    needs = [bounds(outside, n, loss) for outside in near]
    if metric != faiss.METRIC_L2:
        return [(0.0, b) for b in _most(needs)]
    decoded = x[: len(copies)]
    for query in (copies, decoded):  # the vector itself, and its own decoding: the radius is 0
        limit = np.square(query - decoded).sum(axis=1)
        outside = [np.square(query - a[: len(query)]).sum(axis=1) - limit for a in approximate]
        needs.append(bounds(np.stack(outside), len(query), COPY_LOSS / SAFETY))
    far = range_pairs(FAR * queries, approximate, x, metric)
    slopes = [bounds(outside / np.maximum(r, 1e-30), n, loss) for r, outside in far]
    return list(zip(_most(needs), _most(slopes), strict=True))


def _most(needs: list[np.ndarray]) -> list[float]:
    found: list[float] = np.maximum(np.max(needs, axis=0), 0).tolist()
    return found
