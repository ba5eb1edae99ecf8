"""What a search needs beside the codec, fitted to training vectors: the additive codebooks of the
tables, the checkpoints of early exit, and the student that these may want."""

from __future__ import annotations

import faiss
import numpy as np

from .. import _core
from ..threads import get_num_threads
from .additive import AdditiveFit
from .codec import QINCoCodec
from .config import TrainingConfig, student_pays
from .early_exit import Checkpoint, add_tail, checkpoint_codes, distances, margins, table_distances

POINTS_PER_CODEWORD = 50  # training vectors, per unknown codeword of the M·K
CALIBRATION_PART = 4  # one in so many is a candidate of the calibration, and not fitted before it
QUERIES = 4096  # and so many more, at most a tenth of all, are its queries
SHORTLIST = 256  # candidates of a query
NPROBE = 32
PROGRESS_VECTORS = 50_000  # a progress bar from here on
RUN = 1 << 16  # vectors decoded at a time


def fit(
    codec: QINCoCodec,
    x: np.ndarray,
    centroids: np.ndarray,
    list_no: np.ndarray | None,
    metric: int,
    training: TrainingConfig,
) -> tuple[QINCoCodec, np.ndarray, list[Checkpoint]]:
    """The codec, with a student or without as `training` says, additive codebooks (M, K, d) float32
    and checkpoints, from training vectors x (n, d) float32. A student that the codec has is kept.

    centroids (nlist, d), and with an IVF list_no (n,) int64: what the codebooks' residuals are to.
    A margin has to hold for vectors that are stored later: the candidates that it is calibrated
    with are not among those that the codebooks and a student have been fitted to until then.
    """
    order = np.random.default_rng(training.seed).permutation(len(x))
    n_queries = min(QUERIES, len(x) // 10)
    queries, rows = x[order[:n_queries]], order[n_queries:]
    rows = rows[: POINTS_PER_CODEWORD * codec.M * codec.K]
    chosen = np.zeros(len(rows), np.int64) if list_no is None else list_no[rows]
    codes = codec.encode(
        x[rows], None if list_no is None else chosen, device=training.device,
        progress=training.progress and len(rows) >= PROGRESS_VECTORS,
    )[:, -codec.M :].astype(np.uint8)  # fmt: skip

    n_fitted = len(rows) - len(rows) // CALIBRATION_PART
    wanted = training.student
    if wanted is None:
        wanted = codec.student is not None or student_pays(codec.config, codec.d)
    if not wanted or (list_no is None and codec.M == 1):  # the latter: no network at all
        codec = codec.with_student(None)
    elif codec.student is None:
        known = codes if list_no is None else np.column_stack((chosen, codes))
        codec = codec.distill(known[:n_fitted], training=training)

    def decoded(by: QINCoCodec, part: slice, n_codes: int) -> np.ndarray:
        ivf = None if list_no is None else chosen[part]
        return by.decode_lists(ivf, np.ascontiguousarray(codes[part, :n_codes]))

    exits = checkpoint_codes(codec.M, list_no is not None, codec.student is not None)
    decoder = codec.student or codec
    equations = AdditiveFit(codec.M, codec.K, codec.d, [0, *exits])

    def update(begin: int, end: int) -> None:
        for i in range(begin, end, RUN):
            part = slice(i, min(i + RUN, end))
            xs = x[rows[part]]
            targets = {first: xs - decoded(decoder, part, first) for first in exits}
            equations.update(codes[part], {0: xs - centroids[chosen[part]], **targets})

    update(0, n_fitted)
    rest = slice(n_fitted, len(rows))
    D, I = shortlists(
        codec, equations.solve(), centroids, chosen[rest], codes[rest], queries, metric
    )
    exact = distances(queries, decoded(codec, rest, codec.M), I, metric)
    found = {0: margins(table_distances(queries, D, I, metric), exact)}
    for first in exits:
        x_hat = add_tail(decoded(decoder, rest, first), codes[rest], equations.solve(first))
        found[first] = margins(distances(queries, x_hat, I, metric), exact)

    update(n_fitted, len(rows))
    tails = {0: np.empty((0, codec.K, codec.d), np.float32)}
    tails |= {first: equations.solve(first) for first in exits}
    return codec, equations.solve(), [Checkpoint(n, m, tails[n]) for n, m in found.items()]


def shortlists(
    codec: QINCoCodec,
    additive: np.ndarray,
    centroids: np.ndarray,
    list_no: np.ndarray,
    codes: np.ndarray,
    queries: np.ndarray,
    metric: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What the tables find for queries (n, d) among codes (m, M): D and rows I, (n, SHORTLIST)."""
    tables = _core.AdditiveTables(additive)
    lists = _core.InvertedLists(len(centroids), codec.M, codec.nbits)
    lists.add(list_no, codes, stored_bias(tables, centroids, list_no, codes, metric),
              np.arange(len(codes)))  # fmt: skip
    nprobe = min(len(centroids), NPROBE)
    return _core.search(
        lists, centroids, None, None, tables, None, queries, SHORTLIST, nprobe, 0, metric,
        n_threads=get_num_threads(),
    )  # fmt: skip


def stored_bias(
    tables: _core.AdditiveTables,
    centroids: np.ndarray,
    list_no: np.ndarray,
    codes: np.ndarray,
    metric: int,
) -> np.ndarray:
    """The number (n,) float32 to store beside each code (n, M); inner products need none."""
    if metric != faiss.METRIC_L2:
        return np.zeros(len(codes), np.float32)
    return tables.bias(centroids, list_no, codes, get_num_threads())
