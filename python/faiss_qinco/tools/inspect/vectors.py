"""Vectors and their codes: what is sampled, and the errors, beside residual quantization's."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ... import _core
from ...codec.codec import QINCoCodec
from ...engine import Engine
from ...progress import progress_bar
from ...threads import get_num_threads
from ...training.budget import Budget
from ...training.start import FEWEST, residual_codebooks, residual_quantizer
from .findings import Inspection, Steps, Worst

RQ_POINTS = 100  # other vectors for each codeword, that RQ is trained with, at most
ENCODED = 512  # vectors encoded at a time: the bar moves in between
STORED_RUNS, STORED_RUN = 256, 4096  # stored codes that are counted: runs spread over all
WORST = 12


def len_of(x: Any) -> int:
    """Rows of something with a shape."""
    return int(x.shape[0])


class Codes(NamedTuple):
    """list_no (n,) int64 or None, codes (n, M) uint8, and the vectors (n, d) or None."""

    list_no: np.ndarray | None
    codes: np.ndarray
    x: np.ndarray | None


class Stored(NamedTuple):
    sizes: np.ndarray
    list_no: np.ndarray | None
    codes: np.ndarray


def choice(n: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Rows, in random order; in memory of their own number, however large n is."""
    return rng.choice(n, min(n, most), replace=False)


def rows_of(x: Any, rows: np.ndarray) -> np.ndarray:
    """Those rows of x as float32, read in the order of the file."""
    order = np.argsort(rows)
    found = np.empty((len(rows), x.shape[1]), np.float32)
    found[order] = x[rows[order]]
    return found


def stored_codes(engine: Engine) -> Stored:
    """The sizes of all lists, and stored codes: all, or runs spread evenly over them."""
    core = engine.core
    with core.reading():
        sizes, n = core.sizes(), core.n_stored
        step = max(STORED_RUN, -(-n // STORED_RUNS))
        starts = range(0, n, step)
        runs = [core.export_codes(i, min(STORED_RUN, n - i)) for i in starts]
    if not runs:
        return Stored(sizes, None, np.empty((0, engine.codec.M), np.uint8))
    codes = _core.unpack_codes(np.concatenate(runs), engine.codec.M, engine.codec.nbits)
    at = np.concatenate([np.arange(i, min(i + STORED_RUN, n)) for i in starts])
    lists = np.searchsorted(np.cumsum(sizes), at, side="right")
    return Stored(sizes, None if engine.codec.nlist is None else lists, codes)


def codeword_counts(codes: np.ndarray, K: int) -> np.ndarray:
    return np.stack([np.bincount(column, minlength=K) for column in codes.T]).astype(np.int64)


def _encode(
    target: Any, codec: QINCoCodec, engine: Engine | None, x: np.ndarray, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Lists (n,), -1 for what cannot be encoded (0 without lists), and codes (n, M), as they would
    be stored."""
    list_no = np.full(len(x), -1, np.int64)
    codes = np.zeros((len(x), codec.M), np.uint8)
    with progress_bar("encoding", len(x), "vector", progress) as bar:
        for i in range(0, len(x), ENCODED):
            part = slice(i, min(i + ENCODED, len(x)))
            if engine is not None:
                lists, found = engine.encode(
                    x[part], target._coarse.assign(x[part]), target.training.device
                )
                list_no[part], codes[part] = lists, found
            else:
                good = i + np.flatnonzero(codec.encodable(x[part]))
                none_or_lists, codes[good] = codec.split(codec.encode(x[good]))
                list_no[good] = 0 if none_or_lists is None else none_or_lists
            bar.to(part.stop)
    return list_no, codes


def _lists(target: Any, codec: QINCoCodec, engine: Engine | None, x: np.ndarray) -> np.ndarray:
    """The lists (n,) that x would go to, -1: none; by the narrowest of beams."""
    A, n_threads = 1 if codec.config.A else codec.K, get_num_threads()
    if engine is None:
        return codec.encode(x, A=A, B=1)[:, 0].astype(np.int64)
    return engine.core.encode(x, list_no=target._coarse.assign(x), A=A, B=1, n_threads=n_threads)[0]


# -- errors ----------------------------------------------------------------------------------------


def measure(
    found: Inspection,
    target: Any,
    codec: QINCoCodec,
    engine: Engine | None,
    vectors: Any,
    sample: int,
    rng: np.random.Generator,
    progress: bool,
) -> tuple[Codes, np.ndarray]:
    """Steps and worst vectors of `found`; the codes of the measured vectors, and others."""
    n = len_of(vectors)
    most = RQ_POINTS * codec.K
    rows = choice(n, min(n, sample + most), rng)
    n_measured = min(sample, max(1, len(rows) // 2))
    x = rows_of(vectors, rows[:n_measured])
    list_no, codes = _encode(target, codec, engine, x, progress)
    good = list_no >= 0
    spare = rows_of(vectors, rows[n_measured : n_measured + most])
    spare_good = codec.encodable(spare)
    found.n_bad = int(np.count_nonzero(~good) + np.count_nonzero(~spare_good))
    found.n_vectors, found.n_measured = n, int(np.count_nonzero(good))
    if not good.any():
        raise RuntimeError(
            f"vectors: none of the {len(x)} that were sampled can be encoded (NaN, inf, too large, "
            "or without a list)"
        )
    x, codes, rows, spare = x[good], codes[good], rows[:n_measured][good], spare[spare_good]
    lists = None if codec.nlist is None else list_no[good]

    mse, decoded = [], before_codes(codec, lists, len(x))
    mse.append(mean_square(x - decoded))
    for m in range(1, codec.M + 1):
        decoded = codec.decode_lists(lists, np.ascontiguousarray(codes[:, :m]))
        mse.append(mean_square(x - decoded))
    errors = np.square(x - decoded, dtype=np.float64).sum(axis=1)

    rq_mse, rq_errors = None, None
    if len(spare) >= max(codec.K, FEWEST * codec.K):
        rq_mse, rq_errors = _rq(target, codec, engine, x, lists, spare, rng, progress)
    else:
        found.missing.append(
            f"RQ needs at least {FEWEST * codec.K} vectors beside those that are measured; "
            f"there are {len(spare)}."
        )
    tables = None
    if engine is not None:
        own = np.zeros(len(x), np.int64) if lists is None else lists
        approximate = engine.bases[own].astype(np.float32)
        for m, codebook in enumerate(engine.additive):
            approximate += codebook[codes[:, m]]
        tables = mean_square(x - approximate)
    found.steps = Steps(codec.nbits, np.array(mse), rq_mse, len(spare), tables)
    order = np.argsort(-errors, kind="stable")[:WORST]
    shown = np.full(len(order), -1) if lists is None else lists[order]
    found.worst = Worst(errors, rq_errors, order, rows[order], shown, x[order], decoded[order])
    return Codes(lists, codes, x), spare


def before_codes(codec: QINCoCodec, lists: np.ndarray | None, n: int) -> np.ndarray:
    """What is known of n vectors before the first code, (n, d)."""
    return np.broadcast_to(codec.mean, (n, codec.d)) if lists is None else codec.bases()[lists]


def mean_square(error: np.ndarray) -> float:
    return float(np.einsum("ij,ij->", error, error, dtype=np.float64)) / len(error)


def _rq(
    target: Any,
    codec: QINCoCodec,
    engine: Engine | None,
    x: np.ndarray,
    lists: np.ndarray | None,
    spare: np.ndarray,
    rng: np.random.Generator,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """RQ's errors of x after 0 .. M codes, (M + 1,), and after M of each, (n,)."""
    if codec.nlist is not None:
        chosen = _lists(target, codec, engine, spare)
        spare, chosen = spare[chosen >= 0], chosen[chosen >= 0]
        learn = spare - before_codes(codec, chosen, len(spare))
    else:
        learn = spare - codec.mean
    with progress_bar("RQ to compare with", codec.M, "codebook", progress) as bar:
        codebooks, _ = residual_codebooks(learn, codec.M, codec.nbits, rng, Budget(), bar)
    error = x - before_codes(codec, lists, len(x))
    rq = residual_quantizer(codebooks)
    codes = _core.unpack_codes(rq.compute_codes(error), codec.M, codec.nbits)
    mse = [mean_square(error)]
    for m, codebook in enumerate(codebooks):
        error = error - codebook[codes[:, m]]
        mse.append(mean_square(error))
    return np.array(mse), np.square(error, dtype=np.float64).sum(axis=1)
