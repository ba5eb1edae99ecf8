r"""The rate benchmark: an index cut to its first codes, beside those trained with so many.

Of each index, cut by `truncate` to each of --M that it has: the seconds that took, its memory,
R@1, R@10 and queries per second, one thread, with whole shortlists decoded.

    python bench/rate.py --index m16.fqi m8.fqi --query query.npy --groundtruth groundtruth.npy
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from common import cpu_name

import faiss_qinco as fq
from faiss_qinco.storage.vectors import read_groundtruth, read_vectors
from faiss_qinco.tools.evaluate import set_threads


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--index", required=True, nargs="+", metavar="FILE", help="filled indexes")
    add("--query", required=True, metavar="FILE")
    add("--groundtruth", required=True, metavar="FILE")
    add("--n-query", type=int, default=1000, metavar="N", help="the first N (default: 1000)")
    add("--M", type=int, nargs="+", default=[2, 4, 8, 16])
    add("--nprobe", type=int, default=64)
    add("--nshort", type=int, nargs="+", default=[0, 100])
    return parser.parse_args()


def main() -> None:
    args = arguments()
    queries = read_vectors(args.query)[: args.n_query].astype(np.float32)
    nearest = read_groundtruth(args.groundtruth)[0][: args.n_query, :1]
    print(f"{cpu_name()}, one thread, SIMD {fq.simd_level()}, nprobe {args.nprobe}")
    for path in args.index:
        whole = fq.read_index(path)
        print(f"\n{path}: {whole!r}\n M nshort    cut s     MiB   R@1  R@10     q/s")
        for M in (M for M in args.M if M <= whole.M):
            start = time.perf_counter()
            index = whole.truncate(M)
            seconds = time.perf_counter() - start
            set_threads(1)
            for nshort in args.nshort:
                params = fq.SearchParametersIVFQINCo(
                    nprobe=args.nprobe, nshort=nshort, exit_margin=np.inf
                )
                start = time.perf_counter()
                I = index.search(queries, 10, params=params)[1]
                rate = len(queries) / (time.perf_counter() - start)
                found = nearest == I
                print(
                    f"{M:2} {nshort:6} {seconds:8.1f} {index.memory_usage()['total'] / 2**20:7.0f}"
                    f" {found[:, 0].mean():5.3f} {found.any(axis=1).mean():5.3f} {rate:7.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
