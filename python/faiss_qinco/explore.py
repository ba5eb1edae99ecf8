"""Operating points of an index, found in minutes: shortlists nest, so that two searches for each
nprobe say what every nshort finds, and only what no faster setting excels is timed."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np

from .checks import integer
from .errors import ArgumentError
from .operating_points import OperatingPoint
from .params import SearchParametersIVFQINCo
from .progress import progress_bar
from .threads import get_num_threads

NSHORT = (0, 2, 5, 10, 20, 50, 100, 200, 500)
MOST_LISTS = 256  # that are tried where the caller says nothing
EF_SEARCH = (16, 64)
RANKS = (1, 10, 100)
SINGLE = 200  # queries that are searched for one by one
_BLOCK = 1 << 22  # of shortlists compared at a time


def explore(
    index: Any,
    queries: np.ndarray,
    groundtruth: np.ndarray,
    k: int,
    nprobe: Sequence[int] | None,
    nshort: Sequence[int] | None,
    efSearch: Sequence[int] | None,
    single: bool,
    progress: bool,
) -> list[OperatingPoint]:
    """See `tune` of the indexes."""
    k = integer("k", k, 1, 1 << 20)
    n = len(queries)
    if groundtruth.ndim != 2 or len(groundtruth) != n or not groundtruth.size:
        raise ArgumentError(
            f"groundtruth: expected ({n}, 1 or more) ids with {n} > 0, got {groundtruth.shape}"
        )
    true = groundtruth[:, 0].astype(np.int64)
    has_lists = index._coarse.nlist is not None
    probes = _sorted("nprobe", nprobe or _powers(index.nlist), 1) if has_lists else [1]
    shorts = _sorted("nshort", NSHORT if nshort is None else nshort, 0)
    graphs: list[int | None] = [None]
    if has_lists and isinstance(faiss.downcast_index(index.quantizer), faiss.IndexHNSW):
        graphs = [*_sorted("efSearch", efSearch or EF_SEARCH, 1)]
    elif efSearch is not None:
        raise ArgumentError("efSearch: expected none, the quantizer is no HNSW graph")
    ranks = [rank for rank in RANKS if rank <= k]

    points: list[OperatingPoint] = []
    total = len(graphs) * len(probes)
    with progress_bar("tuning", total * (len(shorts) + 1), "setting", progress) as bar:
        done = 0
        for ef in graphs:
            for p in probes:
                predicted = predict(index, queries, true, ranks[0], _params(p, ef), shorts, k)
                bar.to(done := done + 1)
                for s, recall in zip(shorts, predicted, strict=True):
                    # Fewer lists and fewer to re-rank are never slower.
                    if not any(
                        o.recall[ranks[0]] >= recall and _within(o.parameters, p, s, ef)
                        for o in points
                    ):
                        points.append(_measured(index, queries, true, k, ranks, p, s, ef, single))
                    bar.to(done := done + 1)
    return _front(points, ranks[0])


def predict(
    index: Any,
    queries: np.ndarray,
    true: np.ndarray,
    rank: int,
    params: Callable[[int], SearchParametersIVFQINCo],
    shorts: Sequence[int],
    k: int,
) -> list[float]:
    """R@rank for each nshort, without early exit, from two searches: the shortlist in the order of
    the tables, and the same in that of the networks.

    true (n,): the nearest ids. params: of an nshort, but for the margin."""
    size = max(*shorts, k)
    found = np.zeros(len(shorts))
    step = max(1, _BLOCK // size)
    for begin in range(0, len(queries), step):
        part = slice(begin, begin + step)
        additive = index.search(queries[part], size, params=params(0))[1]
        exact = index.search(queries[part], size, params=params(size))[1]
        of_additive, of_exact = np.argsort(additive, 1), np.argsort(exact, 1)
        place = np.empty_like(of_additive)  # in the order of the networks
        np.put_along_axis(place, of_additive, of_exact, 1)
        is_true = additive == true[part, None]
        there = is_true.any(1)
        at = is_true.argmax(1)  # in that of the tables
        mine = np.take_along_axis(place, at[:, None], 1)
        for i, s in enumerate(shorts):
            better = (place[:, :s] < mine).sum(1)
            found[i] += (there & np.where(at < s, better < rank, at < rank)).sum()
    return [float(f / len(queries)) for f in found]


def _params(nprobe: int, ef: int | None) -> Callable[[int], SearchParametersIVFQINCo]:
    def params(nshort: int) -> SearchParametersIVFQINCo:
        return SearchParametersIVFQINCo(
            nprobe=nprobe, nshort=nshort, exit_margin=float("inf"), quantizer_params=_graph(ef)
        )

    return params


def _graph(ef: int | None) -> Any:
    library: Any = faiss  # whose types do not know all that is in it
    return None if ef is None else library.SearchParametersHNSW(efSearch=ef)


def params_of(point: OperatingPoint) -> SearchParametersIVFQINCo:
    """The parameters of a search with that setting."""
    given: dict[str, Any] = dict(point.parameters)
    ef = given.pop("efSearch", None)
    return SearchParametersIVFQINCo(**{"nprobe": 1, **given}, quantizer_params=_graph(ef))


def _measured(
    index: Any,
    queries: np.ndarray,
    true: np.ndarray,
    k: int,
    ranks: Sequence[int],
    nprobe: int,
    nshort: int,
    ef: int | None,
    single: bool,
) -> OperatingPoint:
    parameters: dict[str, float] = {"nprobe": nprobe, "nshort": nshort}
    if ef is not None:
        parameters["efSearch"] = ef
    name = ",".join(f"{name}={value}" for name, value in parameters.items())
    machine = platform.machine()
    point = OperatingPoint(name, parameters, {ranks[0]: 0.0}, 1.0, get_num_threads(), machine)
    params, seconds = params_of(point), []
    start = time.perf_counter()
    I = index.search(queries, k, params=params)[1]
    seconds.append((time.perf_counter() - start) / len(queries))
    if single:
        seconds = []
        for query in queries[:SINGLE]:
            start = time.perf_counter()
            index.search(query[None], k, params=params)
            seconds.append(time.perf_counter() - start)
    recall = {rank: float((I[:, :rank] == true[:, None]).any(1).mean()) for rank in ranks}
    return OperatingPoint(
        name, parameters, recall, float(np.median(seconds)), get_num_threads(), machine
    )


def _within(parameters: dict[str, float], nprobe: int, nshort: int, ef: int | None) -> bool:
    return (
        parameters["nprobe"] <= nprobe
        and parameters["nshort"] <= nshort
        and (ef is None or parameters["efSearch"] <= ef)
    )


def _front(points: Sequence[OperatingPoint], rank: int) -> list[OperatingPoint]:
    """Those that no other excels, the fastest first."""
    front: list[OperatingPoint] = []
    for point in sorted(points, key=lambda p: (p.seconds, -p.recall[rank])):
        if not front or point.recall[rank] > front[-1].recall[rank]:
            front.append(point)
    return front


def _powers(nlist: int) -> list[int]:
    return [1 << i for i in range(min(nlist, MOST_LISTS).bit_length())]


def _sorted(name: str, values: Sequence[int], low: int) -> list[int]:
    if not len(values):
        raise ArgumentError(f"{name}: expected some")
    return sorted({integer(name, value, low, 1 << 30) for value in values})
