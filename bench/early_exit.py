r"""The early exit benchmark: what it saves, and whether what it promises holds.

Searches: of an index, with its early exit and without (exit_margin inf), by k and nshort. Loss: the
fraction of the k best of the whole decoding of the shortlist that early exit does not return; that
promised is `ranking.early_exit.LOSS`. Networks: run of all that the shortlists need. Speed:
queries per second beside those without early exit, one thread, the best of --repeats that take
turns.

Range searches, for radii that hold so many results in the median: the fraction of what is inside,
by the decoded distance, that is not returned (promised: `RANGE_LOSS`), the vectors decoded for a
query (of those that the probed lists hold), and the speed beside exit_margin inf, which decodes all
of these, and nshort 0, which decodes nothing.

    python bench/early_exit.py --index index.fqi --query query.npy --length 1 5

The queries, and what is stored, should be none of the training vectors. --length: the queries
times this.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
from common import cpu_name, fastest

import faiss_qinco as fq
from faiss_qinco.ranking.early_exit import KS, LOSS, RANGE_LOSS
from faiss_qinco.storage.vectors import read_vectors
from faiss_qinco.tools.evaluate import set_threads


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--index", required=True, metavar="FILE", help="a filled index")
    add("--query", required=True, metavar="FILE")
    add("--n-query", type=int, default=1000, metavar="N", help="the first N (default: 1000)")
    add("--n-range", type=int, default=100, metavar="N", help="of range searches (default: 100)")
    add("--length", type=float, nargs="+", default=[1.0])
    add("--nprobe", type=int, default=64)
    add("--nshort", type=int, nargs="+", default=[100, 1000])
    add("--k", type=int, nargs="+", default=[1, 10, 50, 100, 300])
    add("--repeats", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    index = fq.read_index(args.index)
    queries = read_vectors(args.query)[: args.n_query].astype(np.float32)
    set_threads(1)
    print(
        f"{index.ntotal} vectors, d {index.d}, {index.config}, nprobe {args.nprobe}; "
        f"{len(queries)} queries\n{cpu_name()}, one thread, SIMD {fq.simd_level()}\n"
        f"promised: loss {LOSS} for k up to {KS[-1]}, missed {RANGE_LOSS}\n"
    )
    print(f"{'length':>6} {'nshort':>6} {'k':>4} {'loss':>8} {'networks':>8} {'speed':>6}")
    for length in args.length:
        for nshort in args.nshort:
            for k in (k for k in args.k if k < nshort):
                print(
                    f"{length:6g} {nshort:6} {k:4}",
                    search(index, length * queries, k, nshort, args),
                )
    print(
        f"\n{'length':>6} {'results':>7} {'missed':>8} {'decoded':>8} {'share':>6} "
        f"{'/ all':>6} {'/ none':>6}"
    )
    for length in args.length:
        for rank in (10, 100, 500, 1500):
            q = length * queries[: args.n_range]
            print(f"{length:6g} {rank:7}", range_search(index, q, rank, args))


def params(args: argparse.Namespace, nshort: int, margin: float) -> Any:
    return fq.SearchParametersIVFQINCo(nprobe=args.nprobe, nshort=nshort, exit_margin=margin)


def search(index: Any, q: np.ndarray, k: int, nshort: int, args: argparse.Namespace) -> str:
    calls = {m: partial(index.search, q, k, params=params(args, nshort, m)) for m in (1.0, np.inf)}
    fq.search_stats.reset()
    found = calls[1.0]()[1]
    stats = fq.search_stats
    networks = stats.n_steps / (stats.n_steps + stats.n_steps_saved)
    best = calls[np.inf]()[1]
    lost = sum(len(np.setdiff1d(a, b)) for a, b in zip(best, found, strict=True))
    seconds = fastest(calls, args.repeats)
    speed = seconds[np.inf] / seconds[1.0]
    return f"{lost / (best >= 0).sum():8.5f} {networks:8.3f} {speed:6.2f}"


def range_search(index: Any, q: np.ndarray, rank: int, args: argparse.Namespace) -> str:
    D = index.search(q, rank, params=params(args, 4 * rank, np.inf))[0]
    radius = float(np.median(D[:, -1]))
    calls = {
        name: partial(index.range_search, q, radius, params=params(args, nshort, margin))
        for name, nshort, margin in (("ours", 1, 1.0), ("all", 1, np.inf), ("none", 0, 1.0))
    }
    fq.search_stats.reset()
    found = calls["ours"]()
    decoded = fq.search_stats.n_reranked
    fq.search_stats.reset()
    everything = calls["all"]()
    missed = len(everything[2]) - len(found[2])  # what is returned is inside
    seconds = fastest(calls, args.repeats)
    return (
        f"{missed / max(len(everything[2]), 1):8.5f} {decoded / len(q):8.1f} "
        f"{decoded / fq.search_stats.n_reranked:6.4f} "
        f"{seconds['all'] / seconds['ours']:6.1f} {seconds['none'] / seconds['ours']:6.2f}"
    )


if __name__ == "__main__":
    main()
