"""What an index stores, in the codes of another codec."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _core
from .checks import check_matrix, complaint
from .codec.codec import AdditiveTerm, QINCoCodec
from .engine import BLOCK, Engine, residual_bases
from .errors import ArgumentError
from .progress import progress_bar
from .ranking.fitting import FIRST_PART, POINTS_PER_CODEWORD, check_fit, first_tables, fit
from .threads import get_num_threads
from .training import Budget, TrainingConfig


class Stored:
    """The vectors that an engine stores, list after list, as they were or as it decodes them.

    ids, list_no : (n,) int64. codes : (n, M) uint8.
    """

    def __init__(self, engine: Engine, x: Any, target: QINCoCodec) -> None:
        core, self.codec, self.x, self.target = engine.core, engine.codec, x, target
        n = core.n_stored
        self.list_no = np.repeat(np.arange(core.nlist), core.sizes())
        self.ids = core.export_ids(0, n)
        self.codes = _core.unpack_codes(core.export_codes(0, n), core.M, core.nbits)
        if x is None or callable(x):
            return
        check_matrix(x, core.d)
        if n and not 0 <= self.ids.min() <= self.ids.max() < len(x):
            raise ArgumentError(
                f"x: expected a row for each id, {self.ids.min()} to {self.ids.max()}, got "
                f"{len(x)} rows; of other ids, a function from ids (m,) to vectors (m, d)"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """(m, d) float32, of int64 numbers in 0..n-1. Raises ValueError, naming the id, for what
        the target cannot encode."""
        if self.x is None:
            return self.decoded(self.codec, rows)
        ids = self.ids[rows]
        if callable(self.x):
            found = self.x(ids)
            check_matrix(found, self.codec.d)
            if len(found) != len(ids):
                raise ArgumentError(
                    f"x: expected {len(ids)} vectors for so many ids, got {len(found)}"
                )
        else:
            found = self.x[ids]
        found = np.ascontiguousarray(found, np.float32)
        bad = np.flatnonzero(~self.target.encodable(found))
        if len(bad):
            raise ArgumentError(f"x: the vector of id {ids[bad[0]]} {complaint(found[bad[0]])}")
        return found

    def lists_of(self, rows: np.ndarray) -> np.ndarray | None:
        return None if self.codec.nlist is None else self.list_no[rows]

    def decoded(self, codec: QINCoCodec, rows: np.ndarray) -> np.ndarray:
        """As a codec decodes the codes that are stored."""
        return codec.decode_lists(self.lists_of(rows), self.codes[rows])


def reencoded(
    engine: Engine, codec: QINCoCodec, x: Any, training: TrainingConfig, progress: bool
) -> Engine:
    """A new engine of what this one stores. See `IndexIVFQINCo.reencode`."""
    check_fit(codec, training)  # before the work of hours
    centroids = codec.mean[None] if codec.nlist is None else codec.centroids()
    if codec.nlist is not None and not np.allclose(
        centroids, engine.codec.centroids(), rtol=1e-3, atol=1e-3 * codec.std
    ):
        raise ValueError(
            "codec: its centroids are not the index's; train_from_codec makes an index of it"
        )
    if codec.nlist is not None:
        centroids = engine.centroids
    stored, core = Stored(engine, x, codec), engine.core
    n, fewest = len(stored), codec.K
    if n < fewest:
        raise RuntimeError(
            f"reencode: {n} stored vectors are too few to fit tables to, expected {fewest}; "
            "make another index with train_from_codec"
        )
    lists = None if codec.nlist is None else stored.list_no
    bases = residual_bases(codec, None if codec.nlist is None else centroids)
    corrected, weight = engine.length_correction, engine.additive_weight
    error_weight = engine.error_weight
    order = np.argsort(stored.ids, kind="stable")  # a mapped file is read as it lies
    # For `first_tables` and `fit` it is as a TrainingSet: it gives the rows of int64 numbers.
    term = None
    if weight > 0:
        n_some = min(n, POINTS_PER_CODEWORD * codec.M * codec.K // FIRST_PART)
        some = order[np.sort(np.random.default_rng(training.seed).choice(n, n_some, replace=False))]
        tables = first_tables(codec, stored, some, lists, bases, training, None)  # type: ignore[arg-type]
        assert tables is not None  # there is time
        term = AdditiveTerm(tables, bases, weight)
    codes = np.empty((n, codec.M), np.uint8)
    with progress_bar("re-encoding", n, "vector", progress) as bar:
        for begin in range(0, n, BLOCK):
            rows = order[begin : begin + BLOCK]
            vectors = stored[rows]
            codes[rows] = _encode(codec, stored, rows, vectors, term, training.device)
            bar.to(begin + len(rows))
    fitted = fit(
        codec, stored, bases, lists, engine.metric, training, corrected, weight,  # type: ignore[arg-type]
        Budget(training.seconds(n)), None if term is None else term.codebooks, error_weight,
    )  # fmt: skip
    new = Engine(
        fitted[0], centroids, fitted[1], fitted[2], engine.metric, corrected, weight, error_weight
    )
    extra = None
    if new.core.has_extra and x is None:
        extra = core.extras(stored.list_no, stored.codes, core.export_bias(0, n))
    elif new.core.has_extra:
        extra = np.empty(n, np.float32)
        for begin in range(0, n, BLOCK):
            rows = order[begin : begin + BLOCK]
            extra[rows] = new.extra_of(stored[rows], stored.list_no[rows], codes[rows])
    without = np.full(core.ntotal - n, -1)  # they have numbers and no code
    new.core.add(
        np.concatenate((stored.list_no, without)),
        np.concatenate((codes, np.zeros((len(without), codec.M), np.uint8))),
        extra=None
        if extra is None
        else np.concatenate((extra, np.zeros(len(without), np.float32))),
        ids=np.concatenate((stored.ids, without)),
        n_threads=get_num_threads(),
    )
    new.next_id = engine.next_id
    if core.has_direct_map:
        new.core.make_direct_map()
    if core.table_nbytes:
        new.core.precompute_table(get_num_threads())
    return new


def _encode(
    codec: QINCoCodec,
    stored: Stored,
    rows: np.ndarray,
    x: np.ndarray,
    additive: AdditiveTerm | None,
    device: str,
) -> np.ndarray:
    lists = stored.lists_of(rows)
    codes = codec.encode(x, lists, additive=additive, device=device)[:, -codec.M :].astype(np.uint8)
    if stored.x is None:
        # The codes that there are may say it better: a codec that has been fine-tuned decodes them
        # nearly as before, and what is encoded twice loses twice.
        apart = [
            _errors(codec.decode_lists(lists, codes), x),
            _errors(stored.decoded(codec, rows), x),
        ]
        codes = np.where((apart[1] <= apart[0])[:, None], stored.codes[rows], codes)
    return codes


def _errors(x_hat: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(x_hat - x).sum(1))
