r"""The rate benchmark: an index searched by its first codes (`M_search`), beside what `truncate`
cuts to them and indexes trained with so many.

Of each index, for each of --M that it has, both ways: the seconds until it can be searched so (for
`M_search` the first search, which fits its tables), its memory, R@1, R@10 and µs a query, one
thread, with whole shortlists decoded. Times are the process's own, the best of --repeat in turns.

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
    add("--repeat", type=int, default=3, metavar="N")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    queries = read_vectors(args.query)[: args.n_query].astype(np.float32)
    nearest = read_groundtruth(args.groundtruth)[0][: args.n_query, :1]
    set_threads(1)
    print(f"{cpu_name()}, one thread, SIMD {fq.simd_level()}, nprobe {args.nprobe}")
    for path in args.index:
        whole = fq.read_index(path)
        print(f"\n{path}: {whole!r}\n M by        first s     MiB nshort   R@1  R@10 us/query")
        for M in (M for M in args.M if M <= whole.M):
            ways, lines = {}, {}
            for way in ("M_search", "truncate"):
                start = time.process_time()
                index = whole.truncate(M) if way == "truncate" else whole
                params = fq.SearchParametersIVFQINCo(M_search=M)
                index.search(queries[:1], 1, params=params)
                seconds = time.process_time() - start
                mib = index.memory_usage()["total"] / 2**20
                ways[way], lines[way] = index, f"{M:2} {way:8} {seconds:9.1f} {mib:7.0f}"
            for nshort in args.nshort:
                params = fq.SearchParametersIVFQINCo(
                    nprobe=args.nprobe, nshort=nshort, exit_margin=np.inf, M_search=M
                )
                best, found = dict.fromkeys(ways, np.inf), {}
                for _ in range(args.repeat):
                    for way, index in ways.items():
                        start = time.process_time()
                        found[way] = index.search(queries, 10, params=params)[1]
                        best[way] = min(best[way], time.process_time() - start)
                for way, line in lines.items():
                    hits = nearest == found[way]
                    print(
                        f"{line} {nshort:6} {hits[:, 0].mean():5.3f} "
                        f"{hits.any(axis=1).mean():5.3f} {best[way] / len(queries) * 1e6:8.1f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
