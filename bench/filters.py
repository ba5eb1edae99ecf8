r"""What a selector costs in recall, and what `min_codes` gives back.

Selectors: random ids, a share of them each, and the ids of the lists around one place (`lists`),
which most queries are far from. Recall is against the exact neighbours among the ids accepted. Each
is searched in nprobe lists, and on from there until so many accepted codes were scanned; beside it
what one can do without, nprobe as large as the mean of the lists visited then, and faiss's IVFPQ
of as many bytes with the same selector and centroids, both ways.

lists, codes: visited and scanned for a query, with what is accepted. Times are the process's own,
one thread, the best of --repeats in turns; `x` is the time over that of the first line.

    D=/data/sift
    python bench/filters.py --base $D/base.npy --learn $D/learn.npy --query $D/query.npy \
        --n-base 200000 --n-query 1000 --max-seconds 60
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import faiss
import numpy as np

import faiss_qinco as fq
from faiss_qinco.tools.evaluate import set_threads

from common import Bench, add_index_arguments, cpu_name  # isort: skip

K = 10


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_index_arguments(parser)
    add = parser.add_argument
    add("--nprobe", type=int, default=16, help="lists to visit at least (default: 16)")
    add("--share", type=float, nargs="+", default=[0.1, 0.01, 0.001], help="of ids accepted")
    add("--lists", type=float, default=0.01, help="share of the lists for the last selector")
    add("--min-codes", type=int, default=300, help="accepted codes to scan (default: 300)")
    add("--repeats", type=int, default=3)
    return parser.parse_args()


def selections(bench: Bench, index: Any) -> dict[str, np.ndarray]:
    """The ids (m,) that each selector accepts."""
    args, n, rng = bench.args, len(bench.base), np.random.default_rng(0)
    found = {
        f"random {share:.1%}": np.flatnonzero(rng.random(n) < share)
        for share in sorted(args.share, reverse=True)
    }
    centroids = bench.centroids
    near = faiss.knn(centroids[:1], centroids, max(1, round(args.lists * args.nlist)))[1][0]
    ids = [index.lists.get_ids(int(list_no)) for list_no in near]
    return found | {f"lists {args.lists:.1%}": np.sort(np.concatenate(ids))}


def exact(bench: Bench, ids: np.ndarray) -> np.ndarray:
    """The id of each query's nearest vector among those with these ids, (n, 1)."""
    x = np.asarray(bench.base[:], np.float32)[ids]
    return ids[faiss.knn(bench.queries, x, 1, metric=bench.metric)[1]]


def main() -> None:
    args = arguments()
    bench = Bench(args)
    ours, _ = bench.qinco_index()
    pq, _ = bench.faiss_index(f"IVF{args.nlist},PQ{args.M}x{args.nbits}", bench.learn, bench.base)
    set_threads(1)
    queries, n = bench.queries, len(bench.queries)
    stats = faiss.cvar.indexIVF_stats  # of both
    print(
        f"{cpu_name()}, one thread, SIMD {fq.simd_level()}; {ours!r}, {n} queries, k {K}, nprobe "
        f"{args.nprobe}\n\n{'selector':14} {'search':26} {'lists':>7} {'codes':>7} {'R@1':>6} "
        f"{'R@10':>6} {'q/s':>8} {'x':>6}"
    )
    for name, ids in selections(bench, ours).items():
        nearest = exact(bench, ids)
        sel = faiss.IDSelectorBatch(ids)

        def our(sel: Any = sel, **kwargs: Any) -> Any:
            params = fq.SearchParametersIVFQINCo(sel=sel, **kwargs)
            return partial(ours.search, queries, K, params=params)

        def their(nprobe: int, sel: Any = sel) -> Any:
            params = faiss.SearchParametersIVF(sel=sel, nprobe=nprobe)
            return partial(pq.search, queries, K, params=params)

        on = our(nprobe=args.nprobe, min_codes=args.min_codes)
        stats.reset()
        on()
        mean = round(stats.nlist / n)
        calls = {
            f"nprobe {args.nprobe}": our(nprobe=args.nprobe),
            f"min_codes {args.min_codes}": on,
            f"nprobe {mean}": our(nprobe=mean),
            f"PQ, nprobe {args.nprobe}": their(args.nprobe),
            f"PQ, nprobe {mean}": their(mean),
        }
        best, lines = dict.fromkeys(calls, float("inf")), {}
        for _ in range(args.repeats):
            for way, call in calls.items():
                stats.reset()
                start = time.process_time()
                I = call()[1]
                best[way] = min(best[way], time.process_time() - start)
                hits = nearest == I
                lines[way] = (
                    f"{name:14} {way:26} {stats.nlist / n:7.1f} {stats.ndis / n:7.0f} "
                    f"{hits[:, 0].mean():6.3f} {hits.any(axis=1).mean():6.3f}"
                )
        first = next(iter(best.values()))
        for way, line in lines.items():
            print(f"{line} {n / best[way]:8.0f} {best[way] / first:6.2f}", flush=True)
        print()


if __name__ == "__main__":
    main()
