r"""The nearest centroids of queries, by the extension beside faiss's IndexFlat.

For each number of centroids (the first vectors of --base), one query after the other and all in a
call: microseconds a query, the best of several runs, how many times as fast as faiss, and the
fraction of the centroids found that are the same. One thread.

    python bench/assign.py --base base.npy --query query.npy --nlist 1024 16384 65536
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import faiss
import numpy as np
from common import Rows, cpu_name

import faiss_qinco as fq
from faiss_qinco import _core
from faiss_qinco.storage.vectors import read_vectors
from faiss_qinco.tools.evaluate import columns, set_threads


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--base", nargs="+", required=True, metavar="FILE", help="concatenated")
    add("--query", required=True, metavar="FILE")
    add("--n-query", type=int, default=1024, metavar="N", help="the first (default: 1024)")
    add("--nlist", type=int, nargs="+", default=[1024, 16384, 65536])
    add("--nprobe", type=int, default=16)
    add("--metric", choices=("l2", "ip"), default="l2")
    return parser.parse_args()


def of_extension(centroids: np.ndarray, nprobe: int, metric: int, q: np.ndarray) -> np.ndarray:
    found: np.ndarray = _core.assign(centroids, q, nprobe, metric)[0]
    return found


def of_faiss_index(flat: Any, nprobe: int, q: np.ndarray) -> np.ndarray:
    found: np.ndarray = flat.search(q, nprobe)[1]
    return found


def best(
    search: Callable[[np.ndarray], np.ndarray], blocks: list[np.ndarray], runs: int = 5
) -> tuple[float, np.ndarray]:
    """The least seconds of `runs` searches of all blocks, and what they find."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        found = [search(q) for q in blocks]
        times.append(time.perf_counter() - start)
    return min(times), np.vstack(found)


def main() -> None:
    args = arguments()
    set_threads(1)
    queries = read_vectors(args.query)[: args.n_query].astype(np.float32)
    base = Rows(args.base)
    metric = faiss.METRIC_L2 if args.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    print(f"{cpu_name()}, {fq.simd_level()}, one thread, d {base.shape[1]}, nprobe {args.nprobe}")
    rows = [["centroids", "queries", "µs a query", "faiss", "ratio", "the same"]]
    for nlist in args.nlist:
        centroids = base[:nlist].astype(np.float32)
        flat = faiss.IndexFlat(base.shape[1], metric)
        flat.add(centroids)
        for n, size in ((64, 1), (len(queries), len(queries))):
            blocks = np.split(queries[:n], range(size, n, size))
            seconds, found = best(partial(of_extension, centroids, args.nprobe, metric), blocks)
            of_faiss, expected = best(partial(of_faiss_index, flat, args.nprobe), blocks)
            rows.append(
                [str(len(centroids)), "one by one" if size == 1 else f"{n} together"]
                + [f"{s / n * 1e6:.1f}" for s in (seconds, of_faiss)]
                + [f"{of_faiss / seconds:.2f}", f"{np.mean(found == expected):.4f}"]
            )
    print(columns(rows, "  "))


if __name__ == "__main__":
    main()
