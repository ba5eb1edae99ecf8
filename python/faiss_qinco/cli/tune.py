"""Find settings of an index's searches of which no other is both faster and better, print them, and
keep them in the index, for `index.search(x, k, params="r@1>=.45")`. Times are of this machine."""

from __future__ import annotations

import argparse
import json
import os
import re

import numpy as np

from ..index_file import read_index, write_index
from ..operating_points import OperatingPoint, choose, to_json
from ..storage.source import open_vectors
from ..storage.vectors import read_groundtruth
from ..tools.evaluate import Point, columns
from ..tools.exact import exact_neighbours
from ..tools.options import add_files, add_threads, argument, check_out, number, use_threads
from ..tools.plots import plot_ranks

EXAMPLE = (
    "faiss-qinco tune --index photos.fqi --query query.fvecs --groundtruth truth.ivecs "
    "--target-recall 0.45@1"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco tune`."""
    parser.add_argument("--index", required=True, metavar="FILE", help="the index")
    add_files(parser, "--query", "queries", required=True)
    truth = parser.add_mutually_exclusive_group(required=True)
    truth.add_argument("--groundtruth", metavar="FILE", help="ids of the nearest, (n, 1 or more)")
    add_files(truth, "--base", "what was added to the index, with numbers for ids")
    parser.add_argument("-k", type=number(int), default=10, help="results (default: 10)")
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument(
        "--target-recall", type=argument("recall", _recall), metavar="F@R",
        help="say which is the fastest with this recall, such as 0.45@1",
    )  # fmt: skip
    wanted.add_argument(
        "--max-latency", type=argument("latency", _latency), metavar="TIME",
        help="time single queries, and say which is the best in this time, such as 2ms",
    )  # fmt: skip
    for name, what in (
        ("--nprobe", "lists to visit (default: powers of 2 up to 256)"),
        ("--nshort", "vectors to re-rank (default: 0 to 500)"),
        ("--efSearch", "of a graph of centroids (default: 16 and 64)"),
    ):
        parser.add_argument(
            name, nargs="+", type=number(int, above=False), metavar="N", help=f"{what}"
        )
    parser.add_argument(
        "--out", metavar="FILE", help="index with the points (default: --index itself)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the points")
    parser.add_argument("--plot", metavar="FILE", help="draw recall and speed, a PNG file")
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Tune; the table, and the point that was asked for, go to stdout."""
    out = args.out or args.index
    for path in filter(None, (args.json, args.plot, out)):
        check_out(path, args.query)
    use_threads(args)
    query = np.ascontiguousarray(open_vectors(args.query)[:], np.float32)
    index = read_index(args.index)
    if args.groundtruth is not None:
        groundtruth = read_groundtruth(args.groundtruth)[0]
    else:
        base = open_vectors(args.base)
        groundtruth = exact_neighbours(query, base, 1, index.metric_type, True)[1]
    points = index.tune(
        query, groundtruth, k=args.k, nprobe=args.nprobe, nshort=args.nshort,
        efSearch=args.efSearch, single=args.max_latency is not None,
    )  # fmt: skip
    write_index(index, out)
    print(_table(points))
    if args.json is not None:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(to_json(points), file, indent=2)
    if args.plot is not None:
        name, size = os.path.basename(args.index), index.code_size
        curves = {
            rank: [Point(name, p.parameters, size, p.recall[rank], 1 / p.seconds) for p in points]
            for rank in points[0].recall
        }
        about = f"{index.ntotal} vectors, k {args.k}, {points[0].n_threads} threads"
        plot_ranks(curves, args.plot, about)
    if wanted := args.target_recall or args.max_latency:
        print(f"\n{wanted}: {choose(points, wanted)}")


def _table(points: list[OperatingPoint]) -> str:
    names = [*points[0].parameters]
    rows = [[*names, *(f"R@{rank}" for rank in points[0].recall), "ms", "QPS"]]
    for p in points:
        recall = [f"{value:.3f}" for value in p.recall.values()]
        speed = [f"{1000 * p.seconds:.3g}", f"{1 / p.seconds:.0f}"]
        rows.append([*(str(p.parameters[name]) for name in names), *recall, *speed])
    return columns(rows)


def _recall(text: str) -> str:
    match = re.fullmatch(r"(0?\.\d+|1(?:\.0*)?)@(\d+)", text)
    if match is None or not float(match[1]) > 0:
        raise ValueError(f"expected a recall and its rank, such as 0.45@1, got {text!r}")
    return f"r@{match[2]}>={match[1]}"


def _latency(text: str) -> str:
    if re.fullmatch(r"\d+(\.\d+)?(us|ms|s)", text) is None:
        raise ValueError(f"expected a time such as 2ms or 500us, got {text!r}")
    return f"latency<={text}"
