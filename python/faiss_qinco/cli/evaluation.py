"""Measure an index, for every combination of the settings given. R@r: the fraction of queries whose
nearest vector is among the first r results; k@k: the fraction of the k nearest vectors among the
first k results; nDCG: the same with more weight in front; QPS: queries per second, all at once;
p50, p99: milliseconds of single queries, one after the other. With --base in place of --groundtruth
the nearest vectors are searched for first, exactly, by faiss."""

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
from ..storage.source import open_vectors
from ..storage.vectors import read_groundtruth
from ..threads import get_num_threads
from ..tools.evaluate import Measured, Point, columns, measure_search, write_json
from ..tools.exact import exact_neighbours
from ..tools.options import (
    add_files,
    add_threads,
    check_out,
    number,
    parameters_of,
    read_ids,
    set_parameters,
    use_threads,
)
from ..tools.plots import plot_ranks

SETTINGS = ("nprobe", "nshort", "efSearch", "exit_margin")
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
    for name, what in (
        ("--nprobe", "lists to visit"), ("--nshort", "vectors to re-rank"),
        ("--efSearch", "breadth of the search in a graph of centroids (HNSW)"),
    ):  # fmt: skip
        parser.add_argument(
            name, nargs="+", type=number(int, above=False), metavar="N",
            help=f"{what} per query, one or several (default: what the index holds)",
        )  # fmt: skip
    parser.add_argument(
        "--exit-margin", dest="exit_margin", nargs="+", type=number(float, above=False),
        metavar="F", help="of early exit, one or several (default: what the index holds)",
    )  # fmt: skip
    parser.add_argument(
        "--single", type=number(int, above=False), default=1000, metavar="N",
        help="queries that are searched for one by one, for p50 and p99 (default: 1000)",
    )  # fmt: skip
    parser.add_argument(
        "--mmap", action="store_true", help="leave the lists in the file, and map it"
    )
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
    query = np.ascontiguousarray(open_vectors(args.query)[:], np.float32)
    index = read_index(args.index, faiss.IO_FLAG_MMAP if args.mmap else 0)
    if args.groundtruth is not None:
        groundtruth = read_groundtruth(args.groundtruth)[0]
    else:
        base, d = open_vectors(args.base), query.shape[1]
        if base.shape[1] != d:
            raise ValueError(f"{base.names[0]}: expected d = {d} as of the queries")
        n_true = min(args.k, len(base))
        groundtruth = exact_neighbours(query, base, n_true, index.metric_type, True)[1]
        if args.ids is not None:
            groundtruth = read_ids(args.ids, len(base))[groundtruth]

    found = []
    lists = [getattr(args, name) or [None] for name in SETTINGS]
    settings = [dict(zip(SETTINGS, values, strict=True)) for values in itertools.product(*lists)]
    with progress_bar("measuring", len(settings), "setting", True) as bar:
        for setting in settings:
            set_parameters(index, **setting)
            given = {name: value for name, value in setting.items() if value is not None}
            found.append(
                measure_search(
                    index, query, groundtruth, args.k, parameters_of(index) | given,
                    args.repeats, args.single,
                )
            )  # fmt: skip
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


def _table(found: Sequence[Measured]) -> str:
    names: list[Any] = [*found[0].parameters]
    k = found[0].k_true
    rows = [[*names, *(f"R@{r}" for r in found[0].recall), f"{k}@{k}", "nDCG", "QPS"]]
    rows[0] += ["p50 ms", "p99 ms"] * (found[0].p50 is not None)
    for m in found:
        figures = [f"{value:.3f}" for value in (*m.recall.values(), m.overlap, m.ndcg)]
        row = [*(str(m.parameters[name]) for name in names), *figures, f"{m.qps:.0f}"]
        row += [f"{1000 * s:.3g}" for s in (m.p50, m.p99) if s is not None]
        rows.append(row)
    return columns(rows)
