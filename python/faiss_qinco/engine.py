"""What a trained index runs on: the codec and what makes it searchable, as one engine object of the
extension, which also owns vectors, ids and the lock.

Build:  x -> coarse assignment -> beam encoding -> bias -> inverted lists (`add`)
Search: queries -> coarse -> tables -> scan -> shortlist -> neural re-ranking -> D, I,
        one call of the extension; on a GPU, encoding and re-ranking are torch's.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from . import _core
from .coarse import NoLists, Quantizer
from .codec.codec import AdditiveTerm, QINCoCodec
from .codec.devices import resolve_device
from .params import Resolved
from .progress import Bar, progress_bar
from .ranking.additive import AdditiveFit
from .ranking.early_exit import Checkpoint, pack_checkpoints
from .ranking.error_term import shrinkage
from .ranking.fitting import FEW_POINTS, POINTS_PER_CODEWORD, norms, parts, stretched
from .selectors import id_filter, removal
from .threads import get_num_threads

BLOCK = 1 << 16  # vectors encoded at a time: what `add` holds beside x is their codes
BLOCK_VALUES = 1 << 24  # or, where they are wide, as many as have so many values
LARGEST = (1 << 62) - 1  # what the extension's sizes take


def residual_bases(codec: QINCoCodec, centroids: np.ndarray | None) -> np.ndarray:
    """What the residuals of a list are to, (nlist, d) float32: the codec's own bases where it has
    them apart from the centroids, else these; without lists (None) the mean."""
    if centroids is None:
        return codec.mean[None]
    return centroids if codec.own_centroids is None else codec.bases()


def _weights(codec: QINCoCodec) -> dict[str, np.ndarray]:
    """What decodes its codes."""
    tensors = codec.with_student(None).state()[1]
    return {k: v for k, v in tensors.items() if not k.startswith("statistics.")}


def _equal(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


class Engine:
    """A trained index without its surface.

    Attributes
    ----------
    codec : QINCoCodec, with a student or without.
    centroids : (nlist, d) float32, by which lists are chosen.
    bases : (nlist, d) float32, what the additive codebooks' residuals are to; may be the centroids.
        Both are views of what the core has.
    additive : (M, K, d) float32, the codebooks of the tables.
    checkpoints : of early exit. length_correction, additive_weight, error_weight : as of
        `IndexIVFQINCo`.
    next_id : above every id that was ever stored or given out, since the last `reset`.
    core : `_core.Engine`: lists, ids and the calls on them. Searches run together; nothing overlaps
        with a change.
    """

    def __init__(
        self,
        codec: QINCoCodec,
        centroids: np.ndarray,
        additive: np.ndarray,
        checkpoints: list[Checkpoint],
        metric: int,
        length_correction: bool,
        additive_weight: float,
        error_weight: float,
    ) -> None:
        self.codec, self.additive = codec, additive
        bases = residual_bases(codec, centroids)
        self.checkpoints, self.metric = checkpoints, metric
        self.length_correction, self.additive_weight = length_correction, additive_weight
        self.error_weight = error_weight
        self._lock, self._frozen = threading.Lock(), False
        self._preparing = threading.Lock()
        self.next_id = 0
        self.core = _core.Engine(
            nlist=len(centroids),
            M=codec.M,
            nbits=codec.nbits,
            metric=metric,
            centroids=centroids,
            tables=_core.AdditiveTables(additive),
            weights=codec.weights,
            early_exit=pack_checkpoints(checkpoints, codec.M, codec.K, codec.d),
            student=None if codec.student is None else codec.student.weights,
            bases=None if bases is centroids else bases,
            has_extra=length_correction or (metric == faiss.METRIC_L2 and error_weight > 0),
        )
        self.centroids = self.core.centroids
        self.bases = self.centroids if bases is centroids else self.core.bases

    @contextmanager
    def changing(self) -> Iterator[None]:
        """To change what is stored. RuntimeError while, and after, another takes its place, and
        inside a search, in its filter: who holds the lock may be waiting for that search."""
        if not self.core.may_change:
            raise RuntimeError("an index cannot be changed inside a search of its own")
        with self._lock:
            if self._frozen:
                raise RuntimeError("the index is, or has meanwhile been, re-encoded: try again")
            yield

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """In the block nothing that is stored changes, nor after it, unless it raises."""
        with self.changing():
            self._frozen = True
        try:
            yield
        except BaseException:
            self._frozen = False
            raise

    def set_ranking(self, codec: QINCoCodec, checkpoints: list[Checkpoint]) -> None:
        """Another student of the same codec, or none, and its checkpoints."""
        self.core.set_ranking(
            pack_checkpoints(checkpoints, codec.M, codec.K, codec.d),
            None if codec.student is None else codec.student.weights,
        )
        self.codec, self.checkpoints = codec, checkpoints

    def truncate(self, M: int) -> Engine:
        """Another engine, of the first M < codec.M codes of all that is stored; see
        `IndexIVFQINCo.truncate`."""
        core, codec = self.core, self.codec.truncate(M)
        with core.reading():
            n, ntotal, has_map = core.n_stored, core.ntotal, core.has_direct_map
            sizes = core.sizes()
            ends = sizes.cumsum()
            additive = self._fitted(*self._sample(M))
            made = Engine(
                codec, self.centroids, additive, [], self.metric, self.length_correction,
                self.additive_weight, self.error_weight,
            )  # fmt: skip

            def rows(first: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
                list_no, codes = self._entries(ends, first, m)
                cut = np.ascontiguousarray(codes[:, :M])
                extra = self.extras(list_no, codes, core.export_bias(first, m))
                bias = made.core.bias(list_no, cut, extra=extra)
                return _core.pack_codes(cut, codec.nbits), bias, core.export_ids(first, m)

            made.core.import_(sizes, rows, n, ntotal)
            made.next_id = self.next_id
        if has_map:
            made.core.make_direct_map()
        return made

    def prepare(self, M: int) -> None:
        """Have the tables for searches by the first M codes, 1 <= M <= codec.M: fitted by the first
        search that wants them, and again by one that finds four times as many vectors to fit them
        to. Others may search and add meanwhile; who wants the same tables waits for them.

        Raises RuntimeError inside a search or reading of this thread where there are none yet."""
        if M == self.codec.M or not self._lacks(M):
            return
        has_some = self.core.rate(M)[0] >= 0
        if not self.core.may_change:
            if not has_some:
                raise RuntimeError(
                    f"M_search: the tables for {M} codes cannot be fitted inside another search "
                    "(in its filter); search once by so many before"
                )
            return
        if not self._preparing.acquire(blocking=not has_some):
            return  # better ones are being made
        try:
            if self._lacks(M):
                with self.core.reading():
                    sample = self._sample(M)
                tables = _core.AdditiveTables(self._fitted(*sample))
                self.core.set_rate(tables, len(sample[0]), get_num_threads())
        finally:
            self._preparing.release()

    def _lacks(self, M: int) -> bool:
        n_fitted, n = self.core.rate(M)
        return n_fitted < 0 or self._n_to_fit(M, n) >= max(4 * n_fitted, 1)

    def _n_to_fit(self, M: int, n: int) -> int:
        """How many of n stored vectors the tables of M codes are fitted to; 0: too few."""
        n_words = M * self.codec.K
        return min(n, POINTS_PER_CODEWORD * n_words) if n >= FEW_POINTS * n_words else 0

    def _entries(self, ends: np.ndarray, first: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """list_no (n,) and codes (n, codec.M) of what is stored as number `first`, list after list,
        and after it; ends: the sizes of the lists added up, in the reading of this call."""
        packed = self.core.export_codes(first, n)
        list_no = np.searchsorted(ends, np.arange(first, first + n), side="right")
        return list_no, _core.unpack_codes(packed, self.codec.M, self.codec.nbits)

    def _sample(self, M: int) -> tuple[np.ndarray, np.ndarray]:
        """list_no (m,) and the first M codes (m, M) of as many stored vectors as tables are fitted
        to; to be called inside a reading."""
        n, ends = self.core.n_stored, self.core.sizes().cumsum()
        chosen = np.sort(np.random.default_rng(0).choice(n, self._n_to_fit(M, n), replace=False))
        lists, codes = [np.empty(0, np.int64)], [np.empty((0, M), np.uint8)]
        for first in range(0, n if len(chosen) else 0, BLOCK):
            m = min(BLOCK, n - first)
            begin, end = np.searchsorted(chosen, (first, first + m))
            found = self._entries(ends, first, m)
            lists.append(found[0][chosen[begin:end] - first])
            codes.append(found[1][chosen[begin:end] - first, :M])
        return np.concatenate(lists), np.concatenate(codes)

    def _fitted(self, list_no: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """The additive codebooks (M, K, d) of the first codes, fitted to what a sample of them,
        list_no (m,) and codes (m, M), decodes to: that is about the mean of the vectors with such
        codes."""
        n, M = codes.shape
        if n == 0:
            # Those of all codes, where the others are anything: the mean of their codewords.
            additive = np.array(self.additive[:M])
            additive[0] += self.additive[M:].mean(axis=1).sum(axis=0)
            return additive
        fit = AdditiveFit(M, self.codec.K, self.codec.d)
        for part in parts(0, n):
            decoded = self.decode(list_no[part], codes[part])
            fit.update(codes[part], {0: decoded - self.bases[list_no[part]]})
        return fit.solve()

    # -- build --------------------------------------------------------------------------------

    def encode(
        self,
        x: np.ndarray,
        list_no: np.ndarray | None,
        device: str,
        additive_weight: float | None = None,
        effort: str = "balanced",
    ) -> tuple[np.ndarray, np.ndarray]:
        """x (n, d) float32 and its lists (n,) int64 (None: the nearest centroids) -> list_no, -1
        for rows that are not stored, and codes (n, M) uint8. Not stored are those that no list was
        found for, that hold NaN or inf, or whose squares overflow. additive_weight: None: its own.
        effort: of `codec.config.EFFORTS`.
        """
        A, B = self.codec.config.beam(self.codec.K, effort=effort)
        n_threads = get_num_threads()
        device = resolve_device(device)
        weight = self.additive_weight if additive_weight is None else additive_weight
        if device == "cpu":
            return self.core.encode(
                x, list_no=list_no, A=A, B=B, additive_weight=weight, n_threads=n_threads
            )
        if list_no is None and self.codec.nlist is not None:
            list_no = _core.assign(self.centroids, x, 1, self.metric, n_threads)[0][:, 0]
        found = np.zeros(len(x), np.int64) if list_no is None else list_no
        found = np.where(self.codec.encodable(x), found, -1)
        codes = np.zeros((len(x), self.codec.M), np.uint8)
        rows = np.flatnonzero(found >= 0)
        if len(rows):
            lists = None if self.codec.nlist is None else found[rows]
            term = AdditiveTerm(self.additive, self.bases, weight) if weight > 0 else None
            encoded = self.codec.encode(x[rows], lists, A=A, B=B, additive=term, device=device)
            codes[rows] = encoded[:, -self.codec.M :]
        return found, codes

    def encode_all(
        self,
        x: Any,
        coarse: NoLists | Quantizer,
        device: str,
        bar: Bar,
        effort: str = "balanced",
        done: int = 0,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """As `encode`, x of any real dtype, block by block, with what `extra_of` says of them. bar:
        shows how many, and `done` before."""
        n = x.shape[0]
        list_no = np.empty(n, np.int64)
        codes = np.empty((n, self.codec.M), np.uint8)
        extra = np.zeros(n, np.float32) if self.core.has_extra else None
        step = max(1, min(BLOCK, BLOCK_VALUES // self.codec.d))
        for begin in range(0, n, step):
            part = slice(begin, min(begin + step, n))
            rows = np.ascontiguousarray(x[part], np.float32)
            assigned = coarse.assign(rows)
            list_no[part], codes[part] = self.encode(rows, assigned, device, effort=effort)
            if extra is not None:
                extra[part] = self.extra_of(rows, list_no[part], codes[part])
            bar.to(done + begin + len(rows))
        return list_no, codes, extra

    def extra_of(self, x: np.ndarray, list_no: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """What vectors x (n, d) float32 say of themselves beside their codes (n, M) in lists (n,),
        (n,) float32, 0 where the list is -1: see core/extra.hpp and `ranking.error_term`. For an
        engine whose vectors have something to say."""
        extra = np.zeros(len(x), np.float32)
        rows = np.flatnonzero(list_no >= 0)
        if len(rows) == 0:
            return extra
        x, list_no, codes = (a if len(rows) == len(a) else a[rows] for a in (x, list_no, codes))
        lengths = norms(x) if self.length_correction else None
        if self.error_weight > 0:
            x_hat = self.decode(list_no, codes)
            if lengths is not None:
                x_hat = stretched(x_hat, lengths)
            x_hat -= x
            with np.errstate(over="ignore"):
                errors = np.einsum("ij,ij->i", x_hat, x_hat)
            if lengths is None:
                found = np.minimum(self.error_weight * errors, np.finfo(np.float32).max)
            else:
                found = lengths * shrinkage(errors, np.square(lengths), self.error_weight)
        else:
            assert lengths is not None
            found = lengths
        extra[rows] = found
        return extra

    def extras(self, list_no: np.ndarray, codes: np.ndarray, bias: np.ndarray) -> np.ndarray | None:
        """What `extra_of` said of vectors that are stored, with such a bias (n,); None: nothing."""
        return self.core.extras(list_no, codes, bias) if self.core.has_extra else None

    def add(
        self,
        x: Any,
        ids: np.ndarray | None,
        coarse: NoLists | Quantizer,
        device: str,
        progress: bool,
    ) -> None:
        """Encode and store x (n, d), any real dtype, all or nothing; ids (n,) int64, None: the next
        numbers."""
        with progress_bar("adding", x.shape[0], "vector", progress) as bar:
            encoded = self.encode_all(x, coarse, device, bar)
        self.store(*encoded, ids)

    def store(
        self,
        list_no: np.ndarray,
        codes: np.ndarray,
        extra: np.ndarray | None,
        ids: np.ndarray | None,
    ) -> None:
        """Store codes (n, M) in lists (n,), -1: they take a number only, all or nothing; extra
        (n,) float32 or None as of `extra_of`; ids as for `add`."""
        with self.changing():
            self.core.add(list_no, codes, extra=extra, ids=ids, n_threads=get_num_threads())
            if ids is not None:
                self.next_id = max(self.next_id, int(ids.max(initial=-1)) + 1)
            elif len(list_no):
                self.next_id = max(self.next_id, self.core.ntotal)

    def update(
        self,
        ids: np.ndarray,
        x: Any,
        coarse: NoLists | Quantizer,
        device: str,
        progress: bool,
    ) -> None:
        """See `IndexIVFQINCo.update_vectors`; no two of ids (n,) int64 are the same."""
        with progress_bar("updating", x.shape[0], "vector", progress) as bar:
            list_no, codes, extra = self.encode_all(x, coarse, device, bar)
        if len(left_out := np.flatnonzero(list_no == -1)):
            raise RuntimeError(
                f"x[{left_out[0]}] cannot be stored: it holds NaN or inf, or is too long"
            )
        with self.changing():
            self.core.update(ids, list_no, codes, extra=extra, n_threads=get_num_threads())

    def remove(self, ids: Any, renumber: bool) -> int:
        """See `IndexIVFQINCo.remove_ids`; renumber: as that of `IndexQINCo`."""
        array, filter, n_threads = removal(ids, get_num_threads())
        with self.changing():
            if array is None or renumber:
                filter = filter if array is None else _core.IdFilter.set(array)
                return self.core.remove(filter, renumber=renumber, n_threads=n_threads)
            return self.core.remove_ids(array, n_threads)

    def reset(self) -> None:
        with self.changing():
            self.core.reset()
            self.next_id = 0

    def merge_from(self, other: Engine, add_id: int | None) -> None:
        """See `IndexIVFQINCo.merge_from`; add_id None: other's numbers follow on ntotal."""
        first, second = sorted((self, other), key=id)  # everywhere in one order
        with first.changing(), second.changing():
            add_id = self.core.ntotal if add_id is None else add_id
            self.core.merge_from(other.core, add_id)
            self.next_id = max(self.next_id, other.next_id + add_id)
            other.next_id = 0

    def copy_subset_to(self, other: Engine, chosen: Callable[..., np.ndarray]) -> None:
        """Store in another engine, of the same parts, what is chosen(list_no, ids, n_before) here:
        a mask of a list's entries, n_before being in the lists before it."""
        core = self.core
        with core.reading():
            sizes = core.sizes()
            found: list[tuple[np.ndarray, ...]] = [
                (np.empty(0, np.int64), np.empty((0, self.codec.M), np.uint8),
                 np.empty(0, np.float32), np.empty(0, np.int64))
            ]  # fmt: skip
            n_before = 0
            for list_no in np.flatnonzero(sizes).tolist():
                ids = core.get_ids(list_no)
                mask = chosen(list_no, ids, n_before)
                n_before += len(ids)
                if mask.any():
                    codes, bias = core.get_codes(list_no)[mask], core.get_bias(list_no)[mask]
                    found.append((np.full(len(codes), list_no), codes, bias, ids[mask]))
        list_no, codes, bias, ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
        extra = self.extras(list_no, codes, bias)
        with other.changing():
            other.core.add(list_no, codes, extra=extra, ids=ids, n_threads=get_num_threads())
            other.next_id = max(other.next_id, int(ids.max(initial=-1)) + 1)

    def difference(self, other: Engine) -> str | None:
        """What makes codes of another engine, of the same sizes, mean something else here; None:
        nothing."""
        codec, theirs = self.codec, other.codec
        pairs: dict[str, tuple[Any, Any]] = {
            "length_correction": (self.length_correction, other.length_correction),
            "error_weight": (self.error_weight, other.error_weight),
            "centroids": (self.centroids, other.centroids),
            "codec": (codec.std, theirs.std),
            "bases": (self.bases, other.bases),
            "tables": (self.additive, other.additive),
        }
        for name, (one, two) in pairs.items():
            if not np.array_equal(one, two):
                return name
            if name == "codec" and not _equal(_weights(codec), _weights(theirs)):
                return name
        return None

    def fingerprint(self) -> str:
        """What tells this engine from all by which codes would mean something else, as `difference`
        does: 32 hex digits."""
        codec = self.codec
        said = [codec.M, codec.nbits, self.metric, self.length_correction, float(codec.std)]
        said += [self.error_weight] * (self.error_weight > 0)
        digest = hashlib.sha256(repr(said).encode())
        parts = {"centroids": self.centroids, "bases": self.bases, "tables": self.additive}
        for name, tensor in sorted((parts | _weights(codec)).items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            digest.update(np.ascontiguousarray(tensor).data)
        return digest.hexdigest()[:32]

    # -- search -------------------------------------------------------------------------------

    def _scan(
        self, params: Resolved, probed: tuple[np.ndarray | None, np.ndarray | None]
    ) -> dict[str, Any]:
        """Where and how to scan, once all is there: what all calls have in common."""
        self.prepare(params.M_search)
        given, (list_no, distance) = params.given, probed
        filter, n_threads = id_filter(given.sel, get_num_threads())
        nprobe = min(given.nprobe, len(self.centroids)) if list_no is None else list_no.shape[1]
        return {
            "n_codes": params.M_search,
            "nprobe": nprobe,
            "coarse_list_no": list_no,
            "coarse_score": distance,
            "filter": filter,
            "max_codes": min(given.max_codes, LARGEST),
            "min_codes": min(params.min_codes, LARGEST),
            "max_lists": min(given.max_lists_num, LARGEST),
            "n_threads": n_threads,
        }

    def search(
        self,
        x: np.ndarray,
        k: int,
        params: Resolved,
        probed: tuple[np.ndarray | None, np.ndarray | None],
        D: np.ndarray,
        I: np.ndarray,
        device: str,
        entries: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """The k nearest of each query x (n, d) float32, into D and I (n, k); on CPUs also where
        they are stored, into entries: list_no and offset (n, k) int64."""
        scan, nshort = self._scan(params, probed), min(params.nshort(k), LARGEST)
        if params.given.ensure_topk_full:
            for name in ("max_codes", "max_lists"):
                scan[name] = max(scan[name], k) if scan[name] else 0
            scan["whole_lists"] = scan["max_codes"] > 0
        device = resolve_device(device) if nshort >= k else "cpu"
        if device == "cpu":
            list_no, offset = (None, None) if entries is None else entries
            self.core.search(
                x, k, nshort=nshort, exit_margin=params.exit_margin, D=D, I=I, list_no=list_no,
                offset=offset, **scan,
            )  # fmt: skip
            return

        from .ranking.rerank import Shortlist, rerank

        n_short = min(nshort, max(self.core.n_stored, 1))

        def shortlist(part: slice) -> Shortlist:
            chosen = {
                name: None if scan[name] is None else scan[name][part]
                for name in ("coarse_list_no", "coarse_score")
            }
            return self.core.shortlist(x[part], n_short, **(scan | chosen))

        D[...], I[...] = rerank(self.codec, x, shortlist, n_short, k, self.metric, device)

    def range_search(
        self,
        x: np.ndarray,
        radius: float,
        params: Resolved,
        probed: tuple[np.ndarray | None, np.ndarray | None],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(lims, D, I) of what is nearer than the radius, or more similar."""
        return self.core.range_search(
            x,
            radius,
            nshort=min(params.nshort(1), LARGEST),
            exit_margin=params.exit_margin,
            max_empty_lists=min(params.given.max_empty_result_buckets, LARGEST),
            **self._scan(params, probed),
        )

    # -- reconstruction -----------------------------------------------------------------------

    def add_codes(self, list_no: np.ndarray, codes: np.ndarray, ids: np.ndarray | None) -> None:
        """`store`, of codes whose vectors are not known: with the lengths of what they decode to,
        and the mean error of the training."""
        extra = None
        if self.length_correction:
            extra = np.empty(len(codes), np.float32)
            for part in parts(0, len(codes)):
                extra[part] = norms(self.decode(list_no[part], codes[part]))
        elif self.core.has_extra:
            statistics = self.codec.statistics
            mean = 0.0 if statistics is None else statistics.mean
            extra = np.full(len(codes), self.error_weight * mean, np.float32)
        self.store(list_no, codes, extra, ids)

    def decode(self, list_no: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """list_no (n,) int64 and the first of their codes (n, m) uint8 -> (n, d) float32."""
        return self.codec.decode_lists(list_no if self.codec.nlist is not None else None, codes)

    def memory(self) -> dict[str, int]:
        """Bytes by what holds them; see `IndexIVFQINCo.memory_usage`."""
        tails = sum(c.tail.nbytes for c in self.checkpoints)
        return dict(self.core.memory()) | {
            "centroids": self.centroids.nbytes * (1 if self.bases is self.centroids else 2),
            "tables": 3 * self.additive.nbytes + 2 * tails,
            "codec": sum(t.nbytes for t in self.codec.state()[1].values()),
            "precomputed_table": self.core.table_nbytes,
        }
