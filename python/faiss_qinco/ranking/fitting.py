"""What a search needs beside the codec, fitted to training vectors: the additive codebooks of the
tables, the checkpoints of early exit, and the student that these may want."""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np

from ..codec.codec import AdditiveTerm, QINCoCodec
from ..codec.config import student_pays
from ..codec.devices import require_torch
from ..progress import progress_bar
from ..training import TrainingConfig, TrainingSet, distill
from ..training.budget import Budget
from .additive import AdditiveFit
from .early_exit import (
    KS,
    Checkpoint,
    add_tail,
    checkpoint_codes,
    distances,
    margins,
    nearest,
    range_margins,
)
from .error_term import error_weight as measured_weight
from .error_term import shrinkage, with_term

POINTS_PER_CODEWORD = 50  # training vectors, per unknown codeword of the M·K,
FEW_POINTS = 4  # and with no time left; margins are then likely to be infinite
ENCODING_SHARE = 0.5  # of the time that is left; a student and the fits have the rest
FIRST_PART, FIRST_SHARE = 4, 0.15  # one vector in so many, and its time, for tables to choose by
ENCODED = 1 << 10  # vectors at a time: time is looked at in between
CANDIDATES_PART = 4  # one in so many is a candidate of the calibration,
CANDIDATES = 1 << 16  # of so many at most
QUERIES = 4096  # of the others, those of the margins,
RANGE_QUERIES = 1024  # and of the radii: each sees many vectors
FEWEST = 1000  # queries, or candidates: with less, nothing is calibrated
SHORTLIST = 1024  # candidates of a query
RUN = 1 << 16  # vectors decoded at a time
PROGRESS_VECTORS = 50_000  # a progress bar from here on
MOST_STRETCH = 16.0  # by the correction of length, as in core/extra.hpp


def fit(
    codec: QINCoCodec,
    x: np.ndarray | TrainingSet,
    bases: np.ndarray,
    list_no: np.ndarray | None,
    metric: int,
    training: TrainingConfig,
    length_correction: bool,
    additive_weight: float,
    budget: Budget | None = None,
    additive: np.ndarray | None = None,
    error_weight: float | None = None,
) -> tuple[QINCoCodec, np.ndarray, list[Checkpoint], float]:
    """The codec, with a student or without as `training` says, additive codebooks (M, K, d)
    float32, checkpoints and the weight of the error term, from training vectors x: (n, d) float32,
    or what gives such rows for a slice or integers. A student that the codec has is kept.

    bases (nlist, d), and with an IVF list_no (n,) int64: what the codebooks' residuals are to.
    length_correction: whether searches stretch what is decoded to the stored vectors' lengths.
    additive_weight: of the tables' error in the choice of codes; by codebooks that are known
    already, `additive`, or else by some that are fitted first.
    error_weight: of the error term; None: measured, with too few vectors or no time left 0.
    budget: with little time left fewer vectors are encoded (`POINTS_PER_CODEWORD` for each of the
    M·K codewords, `FEW_POINTS` at least), and with none left then there are no checkpoints; None:
    no limit.

    A margin has to hold for vectors that are stored later: those that it is calibrated with are
    not among those that codebooks and student have been fitted to until then, nor its queries
    among them. Each query sees all of them, whatever list they are in: with the probes of a search
    it would see the fewer, the more lists there are. Margins with too few of them are infinite.

    Raises MissingTorchError where a student is to be trained and there is no torch.
    """
    check_fit(codec, training)
    order = np.random.default_rng(training.seed).permutation(len(x))
    lists = np.zeros(len(x), np.int64) if list_no is None else np.asarray(list_no)
    order = order[lists[order] >= 0]
    rows = order[: POINTS_PER_CODEWORD * codec.M * codec.K]
    of_rows = None if list_no is None else lists
    if additive is None and additive_weight > 0:
        some = rows[: max(FEW_POINTS * codec.M * codec.K, len(rows) // FIRST_PART)]
        additive = first_tables(codec, x, some, of_rows, bases, training, budget)
    term = None if additive is None else AdditiveTerm(additive, bases, additive_weight)
    codes = _encode(
        codec, x, rows, of_rows, training, budget, ENCODING_SHARE, FEW_POINTS * codec.M * codec.K,
        term,
    )  # fmt: skip
    rows = rows[: len(codes)]
    chosen = lists[rows]
    n_fitted = len(rows) - min(len(rows) // CANDIDATES_PART, CANDIDATES)
    known = codes if list_no is None else np.column_stack((chosen, codes))
    codec = _with_student(codec, known[:n_fitted], training, budget)

    in_time = budget is None or budget.left() > 0
    exits = checkpoint_codes(codec.M, list_no is not None, codec.student is not None)
    exits = exits if in_time else []
    decoder = codec.student or codec
    equations = AdditiveFit(codec.M, codec.K, codec.d, [0, *exits])

    def decoded(by: QINCoCodec, part: slice, n_codes: int) -> np.ndarray:
        ivf = None if list_no is None else chosen[part]
        return by.decode_lists(ivf, np.ascontiguousarray(codes[part, :n_codes]))

    def update(begin: int, end: int) -> None:
        for part in parts(begin, end):
            xs = x[rows[part]]
            targets = {first: xs - decoded(decoder, part, first) for first in exits}
            equations.update(codes[part], {0: xs - bases[chosen[part]], **targets})

    def measured() -> float:
        # What the codec was trained on it says too well: only vectors that it held out will do.
        held_out = slice(training.n_held_out(len(order)))
        x_held, x_hat = x[rows[held_out]], decoded(codec, held_out, codec.M)
        if len(x_hat) < FEWEST:
            return 0.0
        if length_correction:
            x_hat = stretched(x_hat, norms(x_held))
        base = bases[chosen[held_out]]
        tables = add_tail(base, codes[held_out], equations.solve())
        return measured_weight(x_held, x_hat, tables, base, metric)

    if not in_time:
        update(0, len(rows))
        return codec, equations.solve(), [], error_weight or 0.0
    show = training.progress and len(rows) >= PROGRESS_VECTORS
    with progress_bar("early exit", 3, "step", show) as bar:
        update(0, n_fitted)
        bar.to(1)
        rest = slice(n_fitted, len(rows))
        stored, exact = x[rows[rest]], decoded(codec, rest, codec.M)
        others = np.concatenate((order[len(codes) :], rows[:n_fitted]))[:QUERIES]
        queries, copies = x[others], stored[:QUERIES]
        approximations = [add_tail(bases[chosen[rest]], codes[rest], equations.solve())]
        approximations += [
            add_tail(decoded(decoder, rest, first), codes[rest], equations.solve(first))
            for first in exits
        ]
        if length_correction:
            lengths = norms(stored)
            exact, *approximations = (stretched(a, lengths) for a in (exact, *approximations))
        takes_term = length_correction or metric == faiss.METRIC_L2
        if error_weight is None:
            error_weight = measured() if takes_term else 0.0
        if takes_term and error_weight > 0:
            errors = np.square(stored - exact).sum(axis=1)
            if length_correction:
                factors = shrinkage(errors, np.square(lengths), error_weight)[:, None]
                exact, *approximations = (a * factors for a in (exact, *approximations))
            else:
                term = error_weight * errors
                exact, *approximations = (with_term(a, term) for a in (exact, *approximations))
                queries, copies = with_term(queries, 0), with_term(copies, 0)
        found, ranges = calibrate(queries, copies, approximations, exact, metric)
        bar.to(2)
        update(n_fitted, len(rows))
        tails = [np.empty((0, codec.K, codec.d), np.float32), *map(equations.solve, exits)]
        bar.to(3)
    checkpoints = map(Checkpoint, [0, *exits], found.tolist(), tails, ranges)
    return codec, equations.solve(), list(checkpoints), error_weight


def parts(begin: int, end: int) -> list[slice]:
    """begin..end, `RUN` at a time."""
    return [slice(i, min(i + RUN, end)) for i in range(begin, end, RUN)]


def norms(x: np.ndarray) -> np.ndarray:
    """|x| (n,) float32 of x (n, d) float32."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", x, x)))


def stretched(x_hat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Decoded vectors (n, d) stretched to these lengths (n,), as the extension does."""
    found = norms(x_hat)
    factors = np.minimum(lengths / np.maximum(found, 1e-30), MOST_STRETCH)
    return np.asarray(x_hat * factors[:, None], np.float32)


def calibrate(
    queries: np.ndarray,
    copies: np.ndarray,
    approximations: Sequence[np.ndarray],
    exact: np.ndarray,
    metric: int,
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The margins of each checkpoint, (checkpoints, ks) and (a, b) for a range search.

    queries (n, d); candidates exact (m, d), decoded, and approximations, (m, d) for each
    checkpoint, the tables' first; copies: what the first of them were coded from. All infinite
    with less than `FEWEST` queries or candidates.
    """
    if min(len(queries), len(exact)) < FEWEST:
        none = np.full((len(approximations), len(KS)), np.inf)
        return none, [(np.inf, np.inf)] * len(approximations)
    n_short = min(SHORTLIST, len(exact))
    I = nearest(queries, approximations[0], n_short, metric)
    found = margins(
        [distances(queries, a, I, metric) for a in approximations],
        distances(queries, exact, I, metric),
    )
    return found, range_margins(queries[:RANGE_QUERIES], copies, approximations, exact, metric)


def first_tables(
    codec: QINCoCodec,
    x: np.ndarray | TrainingSet,
    rows: np.ndarray,
    lists: np.ndarray | None,
    bases: np.ndarray,
    training: TrainingConfig,
    budget: Budget | None,
) -> np.ndarray | None:
    """Additive codebooks to choose codes by, fitted to codes of these rows of x that were chosen
    without; None where there is no time for enough of them. Other arguments as of `fit`, lists as
    list_no."""
    codes = _encode(codec, x, rows, lists, training, budget, FIRST_SHARE, 0, None)
    if len(codes) < min(len(rows), FEW_POINTS * codec.M * codec.K):
        return None
    fit = AdditiveFit(codec.M, codec.K, codec.d)
    for part in parts(0, len(codes)):
        chosen = rows[part]
        base = bases[0] if lists is None else bases[lists[chosen]]
        fit.update(codes[part], {0: x[chosen] - base})
    return fit.solve()


def _encode(
    codec: QINCoCodec,
    x: np.ndarray | TrainingSet,
    rows: np.ndarray,
    lists: np.ndarray | None,
    training: TrainingConfig,
    budget: Budget | None,
    time_share: float,
    fewest: int,
    additive: AdditiveTerm | None,
) -> np.ndarray:
    """The codes (n, M) uint8 of as many of the first rows of x as there is time for, but `fewest`
    at least."""
    time_left = (budget or Budget()).share(time_share)
    few = min(len(rows), fewest)
    codes = [np.empty((0, codec.M), np.uint8)]
    n_done, show = 0, training.progress and len(rows) >= PROGRESS_VECTORS
    with progress_bar("encoding training vectors", len(rows), "vector", show) as bar:
        while n_done < len(rows) and (n_done < few or time_left.left() > 0):
            part = rows[n_done : n_done + ENCODED]
            of_part = None if lists is None else lists[part]
            found = codec.encode(x[part], of_part, additive=additive, device=training.device)
            codes.append(found[:, -codec.M :].astype(np.uint8))
            n_done += len(part)
            bar.to(n_done)
    return np.concatenate(codes)


def _with_student(
    codec: QINCoCodec, codes: np.ndarray, training: TrainingConfig, budget: Budget | None
) -> QINCoCodec:
    if not _student_wanted(codec, training):
        return codec.with_student(None)
    return codec if codec.student else distill(codec, codes, training=training, budget=budget)


def _student_wanted(codec: QINCoCodec, training: TrainingConfig) -> bool:
    if codec.nlist is None and codec.M == 1:  # no network at all
        return False
    if training.student is not None:
        return training.student
    return codec.student is not None or student_pays(codec.config, codec.d)


def check_fit(codec: QINCoCodec, training: TrainingConfig) -> None:
    """Raises MissingTorchError where `fit` would have a student to train and there is no torch."""
    if codec.student is None and _student_wanted(codec, training):
        require_torch("training a student (TrainingConfig.student=False: none)")
