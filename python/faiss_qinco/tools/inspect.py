"""What goes on inside a codec or an index, in figures: `inspect`. `inspect_page` draws them.

Nothing here is a sum over all of a large set: vectors and stored codes are sampled, by one seed, so
that memory and time are bounded whatever the size of the files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import faiss
import numpy as np

from .. import _core
from ..checks import usable
from ..codec.codec import QINCoCodec
from ..engine import Engine
from ..errors import ArgumentError
from ..params import DEFAULT_K_FACTOR, DEFAULT_NSHORT, SearchParametersIVFQINCo
from ..pre_transform import IndexPreTransform
from ..progress import progress_bar
from ..ranking.early_exit import LOSS
from ..threads import get_num_threads, library_threads
from ..training.budget import Budget
from ..training.start import FEW, FEWEST, residual_codebooks, residual_quantizer
from ..transform_file import kind_of

SAMPLE = 10_000  # vectors whose errors are measured
RQ_POINTS = 100  # other vectors for each codeword, that RQ is trained with, at most
ENCODED = 512  # vectors encoded at a time: the bar moves in between
STORED_RUNS, STORED_RUN = 256, 4096  # stored codes that are counted: runs spread over all
PREFIXES, FLOATS = 128, 1 << 24  # x̂ that codebooks are generated for, and what these may take
SHOWN_PREFIXES = 3  # of which are drawn
WORST = 12
QUERIES = 500
QUERY_BLOCK = 32
LONGEST = 1000  # shortlist: what is beyond, the tables are not asked
NSHORTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, LONGEST)
KS = (1, 10, 100)
EXIT_NSHORTS = (100, LONGEST)

# What is worth a warning.
FULL_USE = 20  # codes for each codeword, from which on one that is not used is dead
LOW_ENTROPY = 0.9  # of nbits
LITTLE_GAIN = 1.005  # a step that divides the error by less than this
RQ_CLOSE = 0.95
TABLES_FAR = 0.9  # of the results, that the index's own nshort finds
UNBALANCED = 2.0  # FAISS's imbalance factor
HEAVY = 0.2  # of the squared error, borne by the worst 1 %
STIFF = 0.01  # squared movement with x̂, over the spread of the codewords


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


def inspect(
    target: Any,
    vectors: Any = None,
    queries: Any = None,
    *,
    nprobe: int | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    progress: bool = False,
) -> Inspection:
    """Look inside a codec or an index.

    Parameters
    ----------
    target : a QINCoCodec, or a trained IndexIVFQINCo, IndexQINCo or IndexPreTransform around one,
        which stays as it is. Behind transforms, all figures are of what these make of vectors.
    vectors : (n, d), any real dtype, best ones that nothing was trained with: errors are measured
        on `sample` of them, at most half, and a residual quantizer is trained on some of the
        others. Only their shape is read, and the rows that are used: a mapped file stays on disk.
        None: what can be known without.
    queries : (n, d), for an index with vectors in it; None: of the vectors given those that are not
        measured.
    nprobe : lists to visit; None: the index's, or the root of nlist where that is still 1.
    seed : of all samples.

    Raises ValueError (also an AssertionError) for another d or no rows, TypeError for another
    target, RuntimeError where it is not trained, or where none of the sampled vectors can be
    encoded.
    """
    engine, transforms = None, target if isinstance(target, IndexPreTransform) else None
    if transforms is not None:
        transforms._check_trained()
        target = transforms.index
    if not isinstance(target, QINCoCodec):
        if not hasattr(target, "is_trained") or not hasattr(target, "codec"):
            raise TypeError(
                f"target: expected a QINCoCodec or an index of ours, got {type(target)}"
            )
        engine = target._check_trained()
    codec = target if engine is None else engine.codec
    d = codec.d if transforms is None else transforms.d
    for name, x in (("vectors", vectors), ("queries", queries)):
        if x is not None and (len(x.shape) != 2 or x.shape[1] != d or not x.shape[0]):
            raise ArgumentError(f"{name}: expected shape (1 or more, {d}), got {tuple(x.shape)}")
    if transforms is not None:
        vectors, queries = (None if x is None else transforms._view(x) for x in (vectors, queries))
    if sample < 1:
        raise ArgumentError(f"sample: expected at least 1, got {sample}")
    rng = np.random.default_rng(seed)
    found = Inspection(
        "codec" if engine is None else "index", _about(target, codec), _lengths(codec)
    )
    codes: _Codes | None = None
    spare: np.ndarray | None = None
    with library_threads():
        if vectors is not None:
            codes, spare = _measure(found, target, codec, engine, vectors, sample, rng, progress)
        else:
            found.missing.append(
                "The error per step, the comparison with RQ and the worst-coded vectors need "
                "vectors (--vectors)."
            )
        if engine is not None:
            stored = _stored(engine)
            found.lists = stored.sizes if codec.nlist is not None else None
            if len(stored.codes):
                found.use = CodeUse(_count(stored.codes, codec.K), len(stored.codes), True)
                codes = codes or _Codes(stored.list_no, stored.codes, None)
        if codes is None:
            found.missing.append(
                "Codeword use and generated codebooks need vectors (--vectors) or stored codes."
            )
        else:
            if found.use is None:
                found.use = CodeUse(_count(codes.codes, codec.K), len(codes.codes), False)
            found.movement = _movement(codec, codes, progress)
            if found.movement is None:
                found.missing.append(
                    "A codec of one code without inverted lists has no network: its one codebook "
                    "is plain, and does not move."
                )
        if engine is not None:
            if queries is not None:
                spare = _rows(queries, _choice(len_of(queries), QUERIES, rng))
            elif spare is not None:
                spare, found.queries_held_out = spare[:QUERIES], True
            _search(found, target, engine, spare, nprobe, progress)
    if transforms is not None:
        chain = [f"{kind_of(t)} {t.d_in} -> {t.d_out}" for t in transforms.chain]
        found.about = {"transforms": ", ".join(chain) or "none"} | found.about
    found.warnings = _warnings(found, target, engine)
    return found


def len_of(x: Any) -> int:
    """Rows of something with a shape."""
    return int(x.shape[0])


# -- what is read ----------------------------------------------------------------------------------


class _Codes(NamedTuple):
    """list_no (n,) int64 or None, codes (n, M) uint8, and the vectors (n, d) or None."""

    list_no: np.ndarray | None
    codes: np.ndarray
    x: np.ndarray | None


class _Stored(NamedTuple):
    sizes: np.ndarray
    list_no: np.ndarray | None
    codes: np.ndarray


def _choice(n: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Rows, in random order; in memory of their own number, however large n is."""
    return rng.choice(n, min(n, most), replace=False)


def _rows(x: Any, rows: np.ndarray) -> np.ndarray:
    """Those rows of x as float32, read in the order of the file."""
    order = np.argsort(rows)
    found = np.empty((len(rows), x.shape[1]), np.float32)
    found[order] = x[rows[order]]
    return found


def _stored(engine: Engine) -> _Stored:
    """The sizes of all lists, and stored codes: all, or runs spread evenly over them."""
    core = engine.core
    with core.reading():
        sizes, n = core.sizes(), core.n_stored
        step = max(STORED_RUN, -(-n // STORED_RUNS))
        starts = range(0, n, step)
        runs = [core.export_codes(i, min(STORED_RUN, n - i)) for i in starts]
    if not runs:
        return _Stored(sizes, None, np.empty((0, engine.codec.M), np.uint8))
    codes = _core.unpack_codes(np.concatenate(runs), engine.codec.M, engine.codec.nbits)
    at = np.concatenate([np.arange(i, min(i + STORED_RUN, n)) for i in starts])
    lists = np.searchsorted(np.cumsum(sizes), at, side="right")
    return _Stored(sizes, None if engine.codec.nlist is None else lists, codes)


def _count(codes: np.ndarray, K: int) -> np.ndarray:
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


def _measure(
    found: Inspection,
    target: Any,
    codec: QINCoCodec,
    engine: Engine | None,
    vectors: Any,
    sample: int,
    rng: np.random.Generator,
    progress: bool,
) -> tuple[_Codes, np.ndarray]:
    """Steps and worst vectors of `found`; the codes of the measured vectors, and others."""
    n = len_of(vectors)
    most = RQ_POINTS * codec.K
    rows = _choice(n, min(n, sample + most), rng)
    n_measured = min(sample, max(1, len(rows) // 2))
    x = _rows(vectors, rows[:n_measured])
    list_no, codes = _encode(target, codec, engine, x, progress)
    good = list_no >= 0
    spare = _rows(vectors, rows[n_measured : n_measured + most])
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

    mse, decoded = [], _start(codec, lists, len(x))
    mse.append(_mean_square(x - decoded))
    for m in range(1, codec.M + 1):
        decoded = codec.decode_lists(lists, np.ascontiguousarray(codes[:, :m]))
        mse.append(_mean_square(x - decoded))
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
        tables = _mean_square(x - approximate)
    found.steps = Steps(codec.nbits, np.array(mse), rq_mse, len(spare), tables)
    order = np.argsort(-errors, kind="stable")[:WORST]
    shown = np.full(len(order), -1) if lists is None else lists[order]
    found.worst = Worst(errors, rq_errors, order, rows[order], shown, x[order], decoded[order])
    return _Codes(lists, codes, x), spare


def _start(codec: QINCoCodec, lists: np.ndarray | None, n: int) -> np.ndarray:
    """What is known of n vectors before the first code, (n, d)."""
    return np.broadcast_to(codec.mean, (n, codec.d)) if lists is None else codec.bases()[lists]


def _mean_square(error: np.ndarray) -> float:
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
        learn = spare - _start(codec, chosen, len(spare))
    else:
        learn = spare - codec.mean
    with progress_bar("RQ to compare with", codec.M, "codebook", progress) as bar:
        codebooks, _ = residual_codebooks(learn, codec.M, codec.nbits, rng, Budget(), bar)
    error = x - _start(codec, lists, len(x))
    rq = residual_quantizer(codebooks)
    codes = _core.unpack_codes(rq.compute_codes(error), codec.M, codec.nbits)
    mse = [_mean_square(error)]
    for m, codebook in enumerate(codebooks):
        error = error - codebook[codes[:, m]]
        mse.append(_mean_square(error))
    return np.array(mse), np.square(error, dtype=np.float64).sum(axis=1)


# -- codebooks -------------------------------------------------------------------------------------


def _base_codebooks(codec: QINCoCodec) -> list[np.ndarray]:
    """The base codebooks (K, d) of the networks, as codewords in the units of the input."""
    c = codec.config
    # Without projections QINCo2's f is c + z with z = c at the start: c is half a codeword.
    scale = codec.std * (1 if c.qinco1 or c.width(codec.d) != codec.d else 2)
    n = codec.M - (codec.nlist is None)
    return [codec.tensors[f"steps.{m}.codebook"] * np.float32(scale) for m in range(n)]


def _lengths(codec: QINCoCodec) -> np.ndarray:
    books = _base_codebooks(codec)
    if codec.nlist is None:
        books.insert(0, codec.tensors["base"] * np.float32(codec.std))
    return np.array([math.sqrt(_mean_square(book)) for book in books])


def _movement(codec: QINCoCodec, known: _Codes, progress: bool) -> Movement | None:
    books = _base_codebooks(codec)
    if not books:
        return None
    import torch

    K, d, std = codec.K, codec.d, np.float32(codec.std)
    n = min(len(known.codes), max(SHOWN_PREFIXES, min(PREFIXES, FLOATS // (K * d))))
    some = np.linspace(0, len(known.codes) - 1, n).astype(np.int64)
    codes = known.codes[some]
    lists = None if known.list_no is None else known.list_no[some]
    x = None if known.x is None else known.x[some]
    first = int(codec.nlist is None)  # the code that has no network
    drawn = sorted({0, (len(books) - 1) // 2, len(books) - 1})
    shares, pictures = [], []
    k = torch.arange(K)
    with (
        torch.no_grad(),
        progress_bar("generated codebooks", len(books), "step", progress) as bar,
    ):
        for m, (step, base) in enumerate(
            zip(codec._steps("cpu", torch.float32), books, strict=True)
        ):
            x_hat = (
                _start(codec, lists, n)
                if m + first == 0
                else codec.decode_lists(lists, np.ascontiguousarray(codes[:, : m + first]))
            )
            f = np.empty((n, K, d), np.float32)
            for i, prefix in enumerate(torch.from_numpy((x_hat - codec.mean) / std)):
                f[i] = step.f(k, (prefix @ step.W_x).expand(K, -1)).numpy() * std
            shares.append(_shares(f, base))
            if m in drawn:
                some_f = f[np.linspace(0, n - 1, min(n, SHOWN_PREFIXES)).astype(int)]
                targets = None
                if x is not None:
                    targets = (x - x_hat)[np.linspace(0, n - 1, len(some_f)).astype(int)]
                pictures.append(_picture(m + first + 1, base, some_f, targets))
            bar.to(m + 1)
    learned, shifted, reshaped = np.array(shares).T
    steps = np.arange(first, codec.M) + 1
    return Movement(steps, learned, shifted, reshaped, n, pictures)


def _shares(f: np.ndarray, base: np.ndarray) -> tuple[float, float, float]:
    """`Movement`'s learned, shifted, reshaped, of f (n, K, d) and base (K, d)."""
    mean = f.mean(axis=0, dtype=np.float64).astype(np.float32)
    moved = f - mean
    shift = moved.mean(axis=1, dtype=np.float64).astype(np.float32)
    moved -= shift[:, None]
    spread = _mean_square(mean - mean.mean(axis=0)) or np.inf
    squares = mean - base, shift, moved.reshape(-1, moved.shape[2])
    learned, shifted, reshaped = (_mean_square(a) / spread for a in squares)
    return learned, shifted, reshaped


def _picture(step: int, base: np.ndarray, f: np.ndarray, targets: np.ndarray | None) -> Picture:
    """In the plane in which the generated codewords spread most."""
    points = f.reshape(-1, f.shape[2]).astype(np.float64)
    centre = points.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(points.T, bias=True).reshape(2 * (f.shape[2],)))
    plane = vectors[:, ::-1][:, :2]
    if plane.shape[1] < 2:  # d 1
        plane = np.hstack((plane, np.zeros_like(plane)))
    share = float(values[-2:].sum() / values.sum()) if values.sum() > 0 else 1.0
    flat = [(a - centre) @ plane for a in (base, f)]
    at = None if targets is None else (targets - centre) @ plane
    return Picture(step, flat[0], flat[1], at, share)


# -- searches --------------------------------------------------------------------------------------


def _search(
    found: Inspection,
    index: Any,
    engine: Engine,
    queries: np.ndarray | None,
    nprobe: int | None,
    progress: bool,
) -> None:
    n_stored = engine.core.n_stored
    if queries is not None:
        queries = queries[usable(queries)]
    if n_stored == 0:
        found.missing.append("Searches need an index with vectors in it: this one is empty.")
        return
    if queries is None or not len(queries):
        found.missing.append(
            "Recall of the tables and early exit need queries (--query), or vectors that can serve "
            "as such (--vectors)."
        )
        return
    nlist = len(engine.centroids)
    if nprobe is None:
        nprobe = getattr(index, "nprobe", 1)
        nprobe = nprobe if nprobe > 1 else math.isqrt(nlist)
    nprobe = min(nprobe, nlist)
    longest = min(LONGEST, n_stored)
    nshorts = np.array(sorted({*(n for n in NSHORTS if n < longest), longest}))
    ks = [k for k in KS if k <= longest]
    exits = [(k, n) for n in sorted({min(n, longest) for n in EXIT_NSHORTS}) for k in ks if k < n]
    ranks, lost, results = [], dict.fromkeys(exits, 0), dict.fromkeys(exits, 0)
    run, saved = dict.fromkeys(exits, 0), dict.fromkeys(exits, 0)
    probed = 0
    sizes = engine.core.sizes()

    def search(q: np.ndarray, k: int, nshort: int, margin: float) -> tuple[np.ndarray, np.ndarray]:
        params = SearchParametersIVFQINCo(nprobe=nprobe, nshort=nshort, exit_margin=margin)
        D, I = index.search(q, k, params=params)
        return (D if engine.metric == faiss.METRIC_L2 else -D), I

    with progress_bar("searching", len(queries), "query", progress) as bar:
        for i in range(0, len(queries), QUERY_BLOCK):
            q = np.ascontiguousarray(queries[i : i + QUERY_BLOCK])
            probed += _n_probed(index, q, nprobe, sizes)
            by_tables = search(q, longest, 0, 1.0)[1]
            whole = {
                n: search(q, min(ks[-1], n), n, np.inf) for n in {longest, *(n for _, n in exits)}
            }
            ranks.append(_ranks(whole[longest][1], by_tables))
            for k, n in exits:
                D, I = (a[:, :k] for a in whole[n])
                before = _counts()
                D_exit = search(q, k, n, 1.0)[0]
                after = _counts()
                # Copies are at one distance: any of them will do.
                lost[k, n] += int(np.count_nonzero((I >= 0) & (D_exit > D[:, -1:])))
                results[k, n] += int(np.count_nonzero(I >= 0))
                run[k, n] += after[0] - before[0]
                saved[k, n] += after[1] - before[1]
            bar.to(i + len(q))
    rank = np.concatenate(ranks)
    recall = {k: _recall(rank[:, :k], nshorts, k) for k in ks}
    own = {}
    for k in ks:
        default = max(DEFAULT_NSHORT, DEFAULT_K_FACTOR * k)
        nshort = default if index.nshort is None else index.nshort
        own[k] = float(_recall(rank[:, :k], np.array([max(nshort, k)]), k)[0])
    found.searches = Searches(
        nprobe,
        len(queries),
        probed / len(queries),
        nshorts,
        recall,
        own,
        [
            Exit(k, n, results[k, n], lost[k, n], run[k, n] / max(run[k, n] + saved[k, n], 1))
            for k, n in exits
        ],
    )


def _counts() -> tuple[int, int]:
    stats = _core.search_stats
    return stats.n_steps, stats.n_steps_saved


def _n_probed(index: Any, q: np.ndarray, nprobe: int, sizes: np.ndarray) -> int:
    """Vectors in the lists that the queries visit, all together."""
    if not hasattr(index, "quantizer"):
        return len(q) * int(sizes.sum())
    list_no = index.quantizer.search(q, nprobe)[1]
    return int(np.where(list_no >= 0, sizes[list_no], 0).sum())


def _ranks(best: np.ndarray, by_tables: np.ndarray) -> np.ndarray:
    """Where ids (n, k) stand among ids (n, m): (n, k), m or more: not at all; -1 for padding."""
    found = np.full(best.shape, by_tables.shape[1])
    for row, ids, ranked in zip(found, best, by_tables, strict=True):
        order = np.argsort(ranked, kind="stable")
        at = order[np.minimum(np.searchsorted(ranked, ids, sorter=order), len(order) - 1)]
        row[:] = np.where(ranked[at] == ids, at, len(order))
        row[ids < 0] = -1
    return found


def _recall(ranks: np.ndarray, nshorts: np.ndarray, k: int) -> np.ndarray:
    """The part of the ranks below each nshort, NaN below k."""
    there = ranks >= 0
    n = max(int(there.sum()), 1)
    found = [float((there & (ranks < nshort)).sum() / n) for nshort in nshorts]
    return np.where(nshorts < k, np.nan, found)


# -- words -----------------------------------------------------------------------------------------


def _about(target: Any, codec: QINCoCodec) -> dict[str, Any]:
    c = codec.config
    about: dict[str, Any] = {}
    if target is not codec:
        metric = "squared L2" if target.metric_type == faiss.METRIC_L2 else "inner product"
        about |= {"index": type(target).__name__, "metric": metric, "vectors": target.ntotal}
    about |= {"dimension d": codec.d, "inverted lists": codec.nlist or "none"}
    about["code"] = f"{codec.M} codes of {codec.nbits} bits: {codec.M * codec.nbits / 8:g} bytes"
    about["networks"] = f"L {c.L}, d_e {c.width(codec.d)}, d_h {c.d_h}"
    about["weights"] = sum(t.size for name, t in codec.tensors.items() if name != "base")
    about["encoding"] = f"A {c.A or codec.K}, B {c.B}"
    about["student"] = "yes" if codec.student is not None else "no"
    return about


def _warnings(found: Inspection, target: Any, engine: Engine | None) -> list[Warning_]:
    warnings = [
        *_of_vectors(found),
        *_of_codes(found, target),
        *([] if engine is None else _of_index(found, target, engine)),
    ]
    return sorted(warnings, key=lambda warning: not warning.severe)


def _of_vectors(found: Inspection) -> list[Warning_]:
    said: list[Warning_] = []
    if found.n_bad:
        said.append(Warning_(
            True,
            f"{found.n_bad} of the sampled vectors cannot be encoded (NaN, inf, too large, or "
            "without a list), and are left out here.",
            "An index would take an id for each of them and never find it: clean the data.",
        ))  # fmt: skip
    steps, worst = found.steps, found.worst
    if steps is None or worst is None:
        return said
    if steps.mse[0] == 0:
        said.append(Warning_(
            True,
            "All measured vectors are at their starting point already: there is nothing to code.",
            "Give vectors that differ from one another (and from the centroids).",
        ))  # fmt: skip
        return said
    if steps.rq is not None and steps.rq[-1] > 0:
        ratio = steps.mse[-1] / steps.rq[-1]
        if ratio >= RQ_CLOSE:
            said.append(Warning_(
                bool(ratio >= 1),
                f"The error is {ratio:.2f} of that of a plain residual quantizer of the same size, "
                "trained on these vectors.",
                "Train longer or on more vectors, take a larger preset; and if the codec was "
                "trained on other data than this, train it on this.",
            ))  # fmt: skip
    if 0 < steps.n_rq < FEW * (1 << steps.nbits) and steps.rq is not None:
        said.append(Warning_(
            False,
            f"RQ had {steps.n_rq} vectors to learn from: with more it would do better.",
            f"Give {4 * FEW * (1 << steps.nbits)} vectors or more for a fair comparison.",
        ))  # fmt: skip
    little = 1 + np.flatnonzero(steps.mse[:-1] < LITTLE_GAIN * steps.mse[1:])
    if len(little):
        said.append(Warning_(
            True,
            f"Code {_numbers(little)} lowers the error by less than "
            f"{100 * (LITTLE_GAIN - 1):.1f} %: bytes that buy nothing.",
            "Use a smaller M, or train longer: late codes learn last.",
        ))  # fmt: skip
    heavy = -np.sort(-worst.errors)[: max(1, len(worst.errors) // 100)].sum()
    if len(worst.errors) >= 100 and heavy > HEAVY * worst.errors.sum():
        said.append(Warning_(
            False,
            f"The worst-coded 1 % of the vectors bear {100 * heavy / worst.errors.sum():.0f} % of "
            "the error.",
            "Look at them below: outliers, another kind of data, or vectors of another length. "
            "They are found badly, the others as well as ever.",
        ))  # fmt: skip
    return said


def _of_codes(found: Inspection, target: Any) -> list[Warning_]:
    said: list[Warning_] = []
    if (use := found.use) is not None:
        K = use.counts.shape[1]
        nbits = K.bit_length() - 1
        if use.n >= FULL_USE * K and use.unused.any():
            at = 1 + np.flatnonzero(use.unused)
            said.append(Warning_(
                bool(use.unused.max() > K // 20),
                f"{int(use.unused.sum())} codewords of code {_numbers(at)} are dead: none of "
                f"{use.n:,} codes uses them.",
                "Train on more vectors, or on vectors that are distributed as these.",
            ))  # fmt: skip
        low = 1 + np.flatnonzero(use.entropy < LOW_ENTROPY * nbits)
        if use.n >= FULL_USE * K and len(low):
            said.append(Warning_(
                False,
                f"Code {_numbers(low)} carries fewer than {LOW_ENTROPY * nbits:.1f} of its {nbits} "
                "bits.",
                "These vectors may be of another distribution than those of the training, or many "
                "of them alike.",
            ))  # fmt: skip
    if (movement := found.movement) is not None:
        moved = movement.shifted + movement.reshaped
        if found.n_measured != 1 and movement.n > 1 and moved.max() < STIFF:
            said.append(Warning_(
                False,
                "The codebooks hardly follow what is already reconstructed: the networks do next "
                "to nothing.",
                "Train longer; as it is, a residual quantizer would do as well.",
            ))  # fmt: skip
    return said


def _of_index(found: Inspection, index: Any, engine: Engine) -> list[Warning_]:
    said: list[Warning_] = []
    ntotal, n_stored = engine.core.ntotal, engine.core.n_stored
    if n_stored == 0:
        said.append(Warning_(True, "The index holds no vectors.", "Add some: build, or index.add."))
    if ntotal > n_stored:
        said.append(Warning_(
            True,
            f"{ntotal - n_stored:,} of {ntotal:,} vectors could not be stored (NaN, inf, too "
            "large, or without a list): no search finds them.",
            "Clean the data and build again.",
        ))  # fmt: skip
    if (lists := found.lists) is not None and len(lists) > 1 and n_stored:
        factor, empty = imbalance(lists), int(np.count_nonzero(lists == 0))
        if factor > UNBALANCED:
            said.append(Warning_(
                False,
                f"The lists are unbalanced: a search scans {factor:.1f} times as many vectors as "
                "with equal lists.",
                "Train the coarse quantizer on vectors distributed as those stored, or look for "
                "many near copies.",
            ))  # fmt: skip
        if empty > len(lists) // 10 and n_stored >= 10 * len(lists):
            said.append(Warning_(
                False,
                f"{empty:,} of {len(lists):,} lists are empty.",
                "The coarse quantizer was trained on other data than what is stored.",
            ))  # fmt: skip
        if n_stored < 10 * len(lists):
            said.append(Warning_(
                False,
                f"There are {n_stored / len(lists):.1f} vectors to a list.",
                "Fewer lists would make searches faster, or more vectors are still to come.",
            ))  # fmt: skip
    has_network = engine.codec.nlist is not None or engine.codec.M > 1
    margins = np.array([c.margins for c in engine.checkpoints])
    if has_network and not len(margins):
        said.append(Warning_(
            True,
            "Early exit has no checkpoints: every candidate is decoded to the end.",
            "The training ran out of time: train with a larger max_seconds.",
        ))  # fmt: skip
    elif len(margins) and not np.isfinite(margins).all():
        share = 100 * float(np.mean(~np.isfinite(margins)))
        said.append(Warning_(
            share > 50,
            f"{share:.0f} % of the margins of early exit are not calibrated: there nobody leaves "
            "early.",
            "Train with more vectors (and time): thousands are set aside for this.",
        ))  # fmt: skip
    if index.exit_margin < 1:
        said.append(Warning_(
            False,
            f"exit_margin is {index.exit_margin:g}: early exit loses more than it promises.",
            "Set it to 1.",
        ))  # fmt: skip
    if (searches := found.searches) is None:
        return said
    for k, recall in searches.own.items():
        if recall < TABLES_FAR and index.nshort != 0:
            enough = searches.nshorts[searches.recall[k] >= TABLES_FAR]
            said.append(Warning_(
                False,
                f"Of the {k} best, the shortlist of nshort "
                f"{'(default)' if index.nshort is None else index.nshort} holds "
                f"{100 * recall:.0f} %: the tables are far behind the codec.",
                f"nshort {enough[0]} holds {100 * TABLES_FAR:.0f} %."
                if len(enough)
                else "Even the longest shortlist measured here holds too few: more training "
                "vectors make better tables.",
            ))  # fmt: skip
    broken = [e for e in searches.exits if e.lost > promised(e)]
    if broken:
        worst = max(broken, key=lambda e: e.lost / max(e.n, 1))
        said.append(Warning_(
            True,
            f"Early exit loses {100 * worst.lost / worst.n:.2f} % of the {worst.k} best of "
            f"{worst.nshort} where it promises {100 * LOSS:g} %.",
            "These queries are unlike the training vectors: set exit_margin to 1.5 or 2, or to inf "
            "for no early exit at all.",
        ))  # fmt: skip
    return said


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


def _numbers(values: np.ndarray) -> str:
    return ", ".join(str(value) for value in values.tolist())
