"""Early exit: at which codes re-ranking may give a candidate up, and by what margin.

After some codes, x̂ plus additive codebooks of the other codes' contribution (the tail) ranks a
shortlist nearly as the whole decoding does. The margin of such a checkpoint is what the candidate
that wins in the end was behind the best of its shortlist, for all but few of the queries that it is
calibrated with. Where the codec has a student, that one decodes up to the checkpoints, and has one
more when all codes are decoded; then the codec starts anew with what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np

from .. import _core

LOSS = 5e-4  # fraction of calibration queries that a checkpoint may change the first result of
DENSER = 1.25  # what is stored lies denser than the calibration's candidates: nearer competitors
QUERIES_AT_A_TIME = 64


@dataclass(frozen=True)
class Checkpoint:
    """After n_codes codes: margin (of distances, not squared; of similarities per |q|) and tail
    (M - n_codes, K, d) float32. After none the tables have ranked the shortlist: (0, K, d)."""

    n_codes: int
    margin: float
    tail: np.ndarray


def checkpoint_codes(M: int, ivf: bool, student: bool) -> list[int]:
    """Where checkpoints pay: 1, 2, 4 … codes, of a student M too; without an IVF the first code
    costs nothing yet."""
    powers = [n for n in (1 << i for i in range(M.bit_length())) if (1 if ivf else 2) <= n < M]
    return powers + [M] * student


def pack_checkpoints(checkpoints: list[Checkpoint], M: int, K: int, d: int) -> _core.EarlyExit:
    """The form that the extension takes."""
    packed = _core.EarlyExit(M, K, d)
    for checkpoint in checkpoints:
        packed.add_checkpoint(checkpoint.n_codes, checkpoint.margin, checkpoint.tail)
    return packed


def add_tail(x_hat: np.ndarray, codes: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """x_hat (n, d) of the first codes, codes (n, M) -> the approximation of the whole, (n, d)."""
    codes = codes[:, codes.shape[1] - len(tail) :]
    return np.asarray(x_hat + sum(codebook[codes[:, m]] for m, codebook in enumerate(tail)))


def distances(queries: np.ndarray, x: np.ndarray, I: np.ndarray, metric: int) -> np.ndarray:
    """(n, k) distances, not squared, or negated similarities per |q|, of queries (n, d) and the
    rows I (n, k) of x (…, d); inf where I is -1."""
    out = np.empty(I.shape, np.float32)
    for i in range(0, len(I), QUERIES_AT_A_TIME):
        part = slice(i, i + QUERIES_AT_A_TIME)
        q, rows = queries[part], x[I[part]]
        if metric == faiss.METRIC_L2:
            out[part] = np.linalg.norm(rows - q[:, None], axis=2)
        else:
            norm = np.maximum(np.linalg.norm(q, axis=1, keepdims=True), 1e-30)
            out[part] = -np.einsum("nkd,nd->nk", rows, q) / norm
    out[I < 0] = np.inf
    return out


def table_distances(queries: np.ndarray, D: np.ndarray, I: np.ndarray, metric: int) -> np.ndarray:
    """As `distances`, from what a search by the tables alone has returned."""
    if metric == faiss.METRIC_L2:
        out: np.ndarray = np.sqrt(np.maximum(D, 0))
    else:
        out = -D / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-30)
    out[I < 0] = np.inf
    return out


def margin(approximate: np.ndarray, exact: np.ndarray) -> float:
    """Of `distances` (n, k) at a checkpoint and in the end: DENSER times the smallest margin that
    loses the nearest candidate of at most LOSS of the queries."""
    nearest = exact.argmin(axis=1)[:, None]
    behind = np.take_along_axis(approximate, nearest, axis=1)[:, 0] - approximate.min(axis=1)
    behind = behind[np.isfinite(behind)]
    if len(behind) == 0:
        return 0.0
    return DENSER * float(np.quantile(behind, 1 - LOSS, method="higher"))
