"""Measure an index: R@1, R@10 and R@100 (the fraction of queries whose nearest vector is among so
many results), and queries per second, for every combination of the nprobe and nshort given. With
--base in place of --groundtruth the nearest vectors are searched for first, exactly, by faiss."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np

from ..index_file import read_index
from ..progress import progress_bar
from ..storage.vectors import read_groundtruth
from ..threads import get_num_threads
from ..tools.evaluate import Measured, Point, columns, measure_search, write_json
from ..tools.options import (
    add_files,
    add_threads,
    blocks,
    check_out,
    number,
    parameters_of,
    read_all,
    read_ids,
    set_parameters,
    shape_of,
    use_threads,
)
from ..tools.plots import plot_ranks

EXAMPLE = (
    "faiss-qinco eval --index photos.fqi --query query.fvecs --groundtruth truth.ivecs "
    "--nprobe 4 16 --nshort 0 10 100"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco eval`."""
    parser.add_argument("--index", required=True, metavar="FILE", help="the index")
    add_files(parser, "--query", "queries", required=True)
    truth = parser.add_mutually_exclusive_group(required=True)
    truth.add_argument("--groundtruth", metavar="FILE", help="ids of the nearest, (n, 1 or more)")
    truth.add_argument("--base", nargs="+", metavar="FILE", help="what was added to the index")
    parser.add_argument("--ids", metavar="FILE", help="the ids with which --base was added")
    for name, what in (("--nprobe", "lists to visit"), ("--nshort", "vectors to re-rank")):
        parser.add_argument(
            name, nargs="+", type=number(int, above=False), metavar="N",
            help=f"{what} per query, one or several (default: what the index holds)",
        )  # fmt: skip
    parser.add_argument(
        "-k", type=number(int), default=100, help="results per query (default: 100)"
    )
    parser.add_argument(
        "--repeats", type=number(int), default=3, metavar="N",
        help="searches of which the median time counts (default: 3)",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    parser.add_argument("--plot", metavar="FILE", help="draw recall and speed, a PNG file")
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Measure; the table goes to stdout."""
    for path in filter(None, (args.json, args.plot)):
        check_out(path, args.query)
    use_threads(args)
    query = np.ascontiguousarray(read_all(args.query), np.float32)
    index = read_index(args.index)
    if args.groundtruth is not None:
        groundtruth = read_groundtruth(args.groundtruth)[0]
    else:
        groundtruth = nearest(query, args.base, index.metric_type)
        if args.ids is not None:
            groundtruth = read_ids(args.ids, shape_of(args.base)[0])[groundtruth]

    found = []
    settings = [*itertools.product(args.nprobe or [None], args.nshort or [None])]
    with progress_bar("measuring", len(settings), "setting", True) as bar:
        for nprobe, nshort in settings:
            set_parameters(index, nprobe=nprobe, nshort=nshort)
            found.append(
                measure_search(
                    index, query, groundtruth, args.k, parameters_of(index), args.repeats
                )
            )
            bar.to(len(found))
    print(_table(found))
    name = os.path.basename(args.index)
    if args.json is not None:
        write_json(args.json, found, index=name, n=len(query), threads=get_num_threads())
    if args.plot is not None:
        plot_ranks(
            {
                rank: [
                    Point(name, m.parameters, index.code_size, m.recall[rank], m.qps) for m in found
                ]
                for rank in found[0].recall
            },
            args.plot,
            f"{index.ntotal} vectors, k {args.k}, {get_num_threads()} threads",
        )


def nearest(query: np.ndarray, base: Sequence[str], metric: int) -> np.ndarray:
    """The row of the nearest vector of the base files for each query, (n, 1), exactly; of equally
    near ones the first. The files are read a block at a time.

    Raises ValueError for files of another d, and as `read_vectors`.
    """
    n, d = shape_of(base)
    if d != query.shape[1]:
        raise ValueError(f"{base[0]}: expected d = {query.shape[1]} as of the queries, got {d}")
    sign = 1 if metric == faiss.METRIC_L2 else -1
    best = np.full(len(query), np.inf)
    row, start = np.zeros((len(query), 1), np.int64), 0
    with progress_bar("exact neighbours", n, "vector", True) as bar:
        for block in blocks(base):
            D, I = faiss.knn(query, np.ascontiguousarray(block, np.float32), 1, metric)
            closer = sign * D[:, 0] < best
            best[closer], row[closer] = sign * D[closer, 0], start + I[closer]
            start += len(block)
            bar.to(start)
    return row


def _table(found: Sequence[Measured]) -> str:
    names: list[Any] = [*found[0].parameters]
    rows = [[*names, *(f"R@{r}" for r in found[0].recall), "QPS"]]
    for m in found:
        recall = [f"{value:.3f}" for value in m.recall.values()]
        rows.append([*(str(m.parameters[name]) for name in names), *recall, f"{m.qps:.0f}"])
    return columns(rows)
