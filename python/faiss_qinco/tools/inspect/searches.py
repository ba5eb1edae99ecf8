"""What the tables find, and whether early exit keeps its promise."""

from __future__ import annotations

import math
from typing import Any

import faiss
import numpy as np

from ... import _core
from ...checks import usable
from ...engine import Engine
from ...params import DEFAULT_K_FACTOR, DEFAULT_NSHORT, SearchParametersIVFQINCo
from ...progress import progress_bar
from .findings import Exit, Inspection, Searches

QUERY_BLOCK = 32
LONGEST = 1000  # shortlist: what is beyond, the tables are not asked
NSHORTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, LONGEST)
KS = (1, 10, 100)
EXIT_NSHORTS = (100, LONGEST)


def search(
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
        params = SearchParametersIVFQINCo(
            nprobe=nprobe, nshort=nshort, exit_margin=margin, M_search=index.M
        )
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
