r"""The student benchmark: what re-ranking costs with a student of the codec, and what it loses.

Same queries, lists and shortlists, k 1, one thread. Full decoding: of the whole shortlist, by the
first index (exit_margin inf). Early exit: of each index given, by its student or, where it has
none, by the codec itself, without and with a precomputed table in place of its first network; they
hold the same vectors and codes.

R@1: the fraction of queries whose true nearest neighbour is the first result, of all queries; that
of full decoding comes from the shortlist and the vectors that `reconstruct_n` returns, which is the
same and faster. Time is measured with the first queries, as many as have --decoded candidates, the
best of --repeats searches that take turns; that of re-ranking is what a search takes more than one
with nshort 0, here as a fraction of full decoding's. Networks: of the codec and of the student, run
for a query.

    python bench/student.py --index with_student.fqi without.fqi --query query.npy \
        --groundtruth groundtruth.npy

An index gets a student by `index.distill(x)`, with training vectors.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial
from typing import Any

import faiss
import numpy as np
from common import cpu_name, fastest

import faiss_qinco as fq
from faiss_qinco.codec.config import network_costs
from faiss_qinco.storage.vectors import read_groundtruth, read_vectors
from faiss_qinco.tools.evaluate import recall_at, set_threads


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--index", nargs="+", required=True, metavar="FILE", help="filled indexes")
    add("--query", required=True, metavar="FILE")
    add("--groundtruth", required=True, metavar="FILE")
    add("--n-query", type=int, metavar="N", help="use the first N queries")
    add("--nprobe", type=int, default=64)
    add("--nshort", type=int, nargs="+", default=[100, 1000])
    add("--decoded", type=int, default=50_000, metavar="N", help="default: 50000")
    add("--repeats", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    indexes = [fq.read_index(file) for file in args.index]
    queries = read_vectors(args.query)[: args.n_query].astype(np.float32)
    groundtruth = read_groundtruth(args.groundtruth)[0][: args.n_query]
    ways: dict[str, tuple[Any, float]] = {"full decoding": (indexes[0], np.inf)}
    for index in indexes:
        name, codec = "early exit, codec", index.codec
        if codec.student is not None:
            costs = (sum(network_costs(c.config, index.d)) for c in (codec.student, codec))
            name = f"early exit, 1/{1 / np.divide(*costs):.1f} student"
        ways[name] = (index, index.exit_margin)
        if codec.student is None:
            twin = copy.copy(index)
            twin.precompute_table()
            ways[f"{name}, table"] = (twin, index.exit_margin)
            memory = twin.memory_usage()
            table, rest = memory["precomputed_table"], memory["total"]
            print(f"table: {table / 1e6:.1f} MB beside {(rest - table) / 1e6:.1f} MB of its index")
    all_threads = fq.get_num_threads()
    vectors = indexes[0].reconstruct_n()
    print(
        f"{len(vectors)} vectors, d {index.d}, {index.config}, nprobe {args.nprobe}; "
        f"{len(queries)} queries\n{cpu_name()}, one thread, SIMD {fq.simd_level()}\n"
    )
    print(f"{'nshort':>6} {'re-ranked by':28} {'R@1':>6} {'queries/s':>9} {'time':>6}  networks")
    for nshort in args.nshort:
        set_threads(all_threads)
        shortlist = run(indexes[0], queries, nshort, 0, 0, args.nprobe)
        recall = {"full decoding": best(index.metric_type, queries, vectors, shortlist)}
        for name, (index, margin) in list(ways.items())[1:]:
            recall[name] = run(index, queries, 1, nshort, margin, args.nprobe)
        set_threads(1)
        timed = queries[: max(1, args.decoded // nshort)]
        calls = {
            name: partial(run, index, timed, 1, nshort, margin, args.nprobe)
            for name, (index, margin) in ways.items()
        }
        tables = partial(run, indexes[0], timed, 1, 0, 0, args.nprobe)
        seconds = fastest({"tables": tables, **calls}, args.repeats)
        for name in ways:
            fq.search_stats.reset()
            calls[name]()
            stats = fq.search_stats
            of_codec, of_student = (n / stats.nq for n in (stats.n_steps, stats.n_student_steps))
            share = (seconds[name] - seconds["tables"]) / (
                seconds["full decoding"] - seconds["tables"]
            )
            print(
                f"{nshort:6} {name:28} {recall_at(recall[name], groundtruth, (1,))[1]:6.4f} "
                f"{len(timed) / seconds[name]:9.1f} {share:6.3f}  {of_codec:.0f} + {of_student:.0f}"
            )


def run(
    index: Any, queries: np.ndarray, k: int, nshort: int, margin: float, nprobe: int
) -> np.ndarray:
    """The ids found, (n, k)."""
    params = fq.SearchParametersIVFQINCo(nprobe=nprobe, nshort=nshort, exit_margin=margin)
    return index.search(queries, k, params=params)[1]


def best(metric: int, queries: np.ndarray, vectors: np.ndarray, I: np.ndarray) -> np.ndarray:
    """Of the ids I (n, nshort), -1 for none, the one whose vector is the best, (n, 1)."""
    found = np.empty((len(I), 1), np.int64)
    for i, (q, ids) in enumerate(zip(queries, I, strict=True)):
        x = vectors[ids[ids >= 0]]
        score = np.square(x - q).sum(1) if metric == faiss.METRIC_L2 else -x @ q
        found[i] = ids[score.argmin()] if len(x) else -1
    return found


if __name__ == "__main__":
    main()
