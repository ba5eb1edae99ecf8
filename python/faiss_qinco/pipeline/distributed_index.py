"""Search over segments on many machines: Ray actors that hold them mapped, and who asks them."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import faiss
import numpy as np

from ..checks import as_matrix, integer, number, result_buffers
from ..params import SearchParametersIVFQINCo
from ..pre_transform import IndexPreTransform
from ..storage.container import Path
from ..threads import part_of_threads
from .model import leaf_of
from .on_ray import LostWorkerError, Options, require_ray, result, threads_of
from .segment_manifest import open_segment, read_manifest
from .segments import SETTINGS, merged, probed, search_each

START_SECONDS = 300  # a cluster may have to start machines
RETRIES = 3  # of a part of a search whose replicas were all lost


class Found(tuple[np.ndarray, np.ndarray]):
    """D, I of a search, as a pair; with on_lost="partial" not of everything, perhaps.

    Attributes
    ----------
    missing : the files of segments that were not searched, in part or at all.
    missing_lists : (m,) int64, the only lists of theirs that were not; None: all.
    """

    missing: tuple[str, ...] = ()
    missing_lists: np.ndarray | None = None


class _Part(NamedTuple):
    """What one worker serves, and its replicas: segments (file, ntotal), and of them the lists with
    number % of == list_no; None: all."""

    segments: tuple[tuple[str, int], ...]
    lists: tuple[int, int] | None


class DistributedIndex:
    """An index of committed segments, searched by Ray actors; `DistributedIndex(folder)`.

    Parameters
    ----------
    folder : of `commit`, which this process and all workers see.
    n_workers : parts that the work is divided into; None: one for each segment, but no more than
        Ray has CPUs for.
    shard_by : "segments", each part is some segments (by id, that is), about equally many vectors;
        or "lists", each is some lists of all segments.
    replicas : workers for each part, default 1; searches take turns with them.
    on_lost : what a search does where all replicas of a part are lost (before, it goes to another
        replica). "retry": ask again those that come up in their place; LostWorkerError after
        three times. "raise": LostWorkerError at once. "partial": `search` returns what the others
        found, and says in `missing` what was not searched; LostWorkerError if that is all.
    timeout : seconds after which a worker that has not answered counts as lost, for this search;
        None: never. One that has died is known to be without it.
    options : of the actors, as of `ray.remote`: num_cpus (default 1, and so many threads), memory,
        resources, scheduling_strategy (default "SPREAD", over the machines), and so on.

    Attributes
    ----------
    nprobe, nshort, exit_margin, M_search, min_codes : as of `IndexIVFQINCo`; first those of the
        first segment. d, ntotal, metric_type, nlist, is_trained as in FAISS. on_lost, timeout : can
        be set, too.

    Each segment has a shortlist of its own, of nshort codes: by segments, D and I are those of one
    process that searches each and merges, and what one index of all vectors would have in its
    shortlist is in theirs, too. By lists, each worker has one in each segment, so that again none
    is missing that one process would have; where nshort and exit_margin leave nothing out, D and I
    are the same. All of them are decoded: many of them take more time, unless nshort is smaller.
    max_codes, max_lists_num and min_codes count in each segment; by lists they are refused.

    Raises ImportError without Ray, ValueError for other settings, as `read_manifest` and
    `read_index`, RuntimeError where a segment is not as its manifest says, and where Ray has not
    had the resources for all workers within five minutes.
    """

    is_trained = True

    def __init__(
        self,
        folder: Path,
        *,
        n_workers: int | None = None,
        shard_by: str = "segments",
        replicas: int = 1,
        on_lost: str = "retry",
        timeout: float | None = None,
        options: Options = None,
    ) -> None:
        self._workers: list[list[Any]] = []
        self._ray = require_ray()
        for name, value, known in (
            ("shard_by", shard_by, ("segments", "lists")), ("on_lost", on_lost, _ON_LOST),
        ):  # fmt: skip
            if value not in known:
                raise ValueError(f"{name}: expected one of {[*known]}, got {value!r}")
        self.on_lost, self.timeout = on_lost, timeout
        replicas = integer("replicas", replicas, 1, 1 << 10)
        fingerprint, found = read_manifest(folder)
        if not found:
            raise RuntimeError(f"{os.fspath(folder)!r}: no segments in the manifest")
        segments = [(os.fspath(file), ntotal) for file, ntotal in found]
        self._template = open_segment(segments[0][0], fingerprint)
        self._leaf: Any = leaf_of(self._template)
        self._ntotal = sum(ntotal for _, ntotal in segments)
        if not self._ray.is_initialized():
            self._ray.init()
        options = {
            "num_cpus": 1, "max_restarts": -1, "scheduling_strategy": "SPREAD", **(options or {}),
        }  # fmt: skip
        if n_workers is None:
            cpus = self._ray.cluster_resources().get("CPU", 1) / replicas
            n_workers = max(1, min(len(segments), int(cpus / (options["num_cpus"] or 1))))
        n_workers = integer("n_workers", n_workers, 1, 1 << 16)
        if shard_by == "lists":
            parts = [_Part(tuple(segments), (w, n_workers)) for w in range(n_workers)]
        elif n_workers > len(segments):
            raise ValueError(
                f"n_workers: expected at most {len(segments)}, a segment each, got {n_workers}"
            )
        else:
            parts = [_Part(part, None) for part in _divided(segments, n_workers)]
        self._parts = parts
        self._turn = itertools.count()
        actor = self._ray.remote(**options)(_Worker)
        self._new: Callable[[_Part], Any] = lambda part: actor.remote(
            part, fingerprint, threads_of(options)
        )
        try:
            self._workers = [[self._new(part) for _ in range(replicas)] for part in parts]
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        ray = self._ray
        opening = [worker.open.remote() for worker in itertools.chain(*self._workers)]
        started, waiting = ray.wait(opening, num_returns=len(opening), timeout=START_SECONDS)
        for ref in started:
            result(ray, ref)
        if waiting:
            raise RuntimeError(
                f"{len(waiting)} of {len(opening)} workers have not started in {START_SECONDS} s; "
                f"Ray has {ray.available_resources()} left for them"
            )

    def __repr__(self) -> str:
        return (
            f"<DistributedIndex {self._leaf._factory_string()}, ntotal={self.ntotal}, "
            f"{len(self._parts)} workers>"
        )

    @property
    def d(self) -> int:
        """Dimension of queries."""
        return int(self._template.d)

    @property
    def ntotal(self) -> int:
        """The vectors of all segments."""
        return self._ntotal

    @property
    def metric_type(self) -> int:
        return int(self._leaf.metric_type)

    @property
    def nlist(self) -> int:
        return int(self._leaf.nlist)

    def __getattr__(self, name: str) -> Any:
        if name in SETTINGS:
            return getattr(self._leaf, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SETTINGS:
            setattr(self._leaf, name, value)
            return
        if name == "on_lost" and value not in _ON_LOST:
            raise ValueError(f"on_lost: expected one of {[*_ON_LOST]}, got {value!r}")
        if name == "timeout" and value is not None and not (value := number(name, value)) > 0:
            raise ValueError(f"timeout: expected more than 0, got {value}")
        super().__setattr__(name, value)

    def search(
        self,
        x: np.ndarray,
        k: int,
        *,
        params: Any = None,
        D: np.ndarray | None = None,
        I: np.ndarray | None = None,
    ) -> Found:
        """The k nearest vectors of all segments, as `IndexIVFQINCo.search`: D (n, k) float32 and I
        (n, k) int64, by distance and then by id. Lists are chosen here, once.

        params : as there; of selectors, faiss.IDSelectorRange and IDSelectorArray.
        D, I : buffers to fill and return.

        Raises as that, TypeError for another selector, RuntimeError once closed, and for max_codes,
        min_codes and max_lists_num by lists; LostWorkerError (a RuntimeError) as `on_lost` says.
        """
        if not self._workers:
            raise RuntimeError("search: the index has been closed")
        x = as_matrix(x, self.d)
        if isinstance(self._template, IndexPreTransform):
            x = self._template.apply_chain(x)
        leaf = self._leaf
        k, D, I = result_buffers(k, len(x), D, I)
        resolved = leaf._resolve(params)
        given = resolved.given
        settings: dict[str, Any] = {
            name: getattr(given, name)
            for name in ("nprobe", "max_codes", "max_lists_num", "ensure_topk_full")
        }
        settings |= {
            "nshort": resolved.nshort(k), "exit_margin": resolved.exit_margin,
            "M_search": resolved.M_search, "min_codes": resolved.min_codes,
        }  # fmt: skip
        bounds = ("max_codes", "max_lists_num", "min_codes")
        if self._parts[0].lists and (bound := [name for name in bounds if settings[name]]):
            raise RuntimeError(f"{bound[0]}: expected 0 where workers have some lists each")
        if resolved.min_codes and given.quantizer_params is not None:
            raise RuntimeError("quantizer_params: expected none beside min_codes")
        lists = probed(leaf, x, resolved)
        if lists[0] is not None:
            settings["nprobe"] = lists[0].shape[1]
        sent = (*(self._ray.put(part) for part in (x, *lists)), k, settings, _sent(given.sel))
        found, lost = self._ask(sent)
        out = Found(merged(found, k, leaf.metric_type, D, I))
        if lost:
            names = (file for part in lost for file, _ in part.segments)
            out.missing = tuple(dict.fromkeys(names))
            if self._parts[0].lists:
                every = np.arange(leaf.nlist)
                numbers = [part.lists[0] for part in lost if part.lists]
                out.missing_lists = every[np.isin(every % len(self._parts), numbers)]
        return out

    def _ask(self, sent: tuple[Any, ...]) -> tuple[list[Any], list[_Part]]:
        """What the worker of each part found, and the parts that were lost."""
        ray, turn = self._ray, next(self._turn)
        pending: dict[Any, tuple[int, int, float]] = {}  # part, how often asked, until when
        found: list[Any] = []
        lost: list[_Part] = []

        def ask(p: int, tries: int) -> None:
            replicas = self._workers[p]
            ref = replicas[(turn + tries) % len(replicas)].search.remote(*sent)
            until = float("inf") if self.timeout is None else time.monotonic() + self.timeout
            pending[ref] = p, tries + 1, until

        for p in range(len(self._parts)):
            ask(p, 0)
        while pending:
            left = min(until for _, _, until in pending.values()) - time.monotonic()
            wait = None if left == float("inf") else max(left, 0)
            done = ray.wait(list(pending), num_returns=1, timeout=wait)[0]
            late = [ref for ref, (_, _, until) in pending.items() if until <= time.monotonic()]
            for ref in done or late:
                p, tries, _ = pending.pop(ref)
                try:
                    if ref not in done:
                        raise LostWorkerError(f"a worker has not answered for {self.timeout} s")
                    found.append(result(ray, ref))
                    continue
                except LostWorkerError as error:
                    replicas = self._workers[p]
                    if isinstance(error.__cause__, ray.exceptions.ActorDiedError):  # for good
                        replicas[(turn + tries - 1) % len(replicas)] = self._new(self._parts[p])
                    more = RETRIES if self.on_lost == "retry" else 0
                    if tries < len(replicas) + more:
                        ask(p, tries)
                    elif self.on_lost == "partial":
                        lost.append(self._parts[p])
                        if len(lost) == len(self._parts):
                            raise
                    else:
                        raise
        return found, lost

    def workers(self) -> list[dict[str, Any]]:
        """Of each worker: `part` and `replica`, its process `pid` and machine `node`, the
        `segments` (files) it has, and how many `vectors`. Raises LostWorkerError for one that is
        lost right now."""
        found = []
        for part, replicas in enumerate(self._workers):
            for replica, worker in enumerate(replicas):
                said = result(self._ray, worker.about.remote())
                found.append({"part": part, "replica": replica, **said})
        return found

    def close(self) -> None:
        """End the workers. The files stay as they are."""
        workers, self._workers = self._workers, []
        for worker in itertools.chain(*workers):
            self._ray.kill(worker)

    def __enter__(self) -> DistributedIndex:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


_ON_LOST = ("retry", "raise", "partial")


class _Worker:
    """The actor. It opens its segments when it is first asked, so that what goes wrong then is
    raised where somebody hears of it."""

    def __init__(self, part: _Part, fingerprint: str, n_threads: int) -> None:
        self.part, self.fingerprint, self.n_threads = part, fingerprint, n_threads
        self.segments: list[Any] | None = None

    def open(self) -> None:
        self._opened()

    def _opened(self) -> list[Any]:
        if self.segments is None:
            self.segments = [
                leaf_of(open_segment(file, self.fingerprint, ntotal))
                for file, ntotal in self.part.segments
            ]
        return self.segments

    def about(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "node": require_ray().get_runtime_context().get_node_id(),
            "segments": [file for file, _ in self.part.segments],
            "vectors": sum(ntotal for _, ntotal in self.part.segments),
        }

    def search(
        self, x: np.ndarray, list_no: np.ndarray | None, distance: np.ndarray | None, k: int,
        settings: dict[str, Any], sel: Any,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        params = SearchParametersIVFQINCo(**settings, sel=_received(sel))
        if self.part.lists is not None and list_no is not None:
            mine, of = self.part.lists
            list_no = np.where(list_no % of == mine, list_no, -1)
        D, I = np.empty((len(x), k), np.float32), np.empty((len(x), k), np.int64)
        with part_of_threads(self.n_threads):
            return search_each(self._opened(), x, k, (list_no, distance), params, D, I)


def _divided(segments: list[tuple[str, int]], n: int) -> Iterator[tuple[tuple[str, int], ...]]:
    """n groups of about equally many vectors: the largest segment first, to whom has least."""
    groups: list[list[tuple[str, int]]] = [[] for _ in range(n)]
    for segment in sorted(segments, key=lambda segment: -segment[1]):
        min(groups, key=lambda group: (sum(ntotal for _, ntotal in group), len(group))).append(
            segment
        )
    return map(tuple, groups)


def _sent(sel: Any) -> Any:
    """A selector as what can be sent. Raises TypeError for one of another kind."""
    if sel is None or type(sel) is faiss.IDSelectorAll:
        return None
    if type(sel) is faiss.IDSelectorRange:
        return "range", sel.imin, sel.imax
    if type(sel) is faiss.IDSelectorArray:
        array: Any = sel  # the attributes are swig's
        return "ids", faiss.rev_swig_ptr(array.ids, array.n).copy()
    raise TypeError(
        f"sel: expected a faiss.IDSelectorRange or IDSelectorArray, which can be sent, got "
        f"{type(sel)}"
    )


def _received(sent: Any) -> Any:
    if sent is None:
        return None
    kind, *values = sent
    if kind == "range":
        return faiss.IDSelectorRange(*values)
    return faiss.IDSelectorBatch(*values)
