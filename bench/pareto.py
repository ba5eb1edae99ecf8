r"""The Pareto benchmark: recall against queries per second, beside faiss's indexes.

Every method gets the SAME centroids (rotated where it rotates the vectors), hence the same lists,
the same learn and base vectors and the same threads; nprobe runs over powers of two, and QINCo's
nshort over --nshort. The table states the bytes of a vector: its code and what stands beside it for
the scan, without the id. RaBitQ has no form of 8 bytes at d 128: a bit for each dimension and two
floats are 24. It comes behind the random rotation that its estimate assumes. PQ with 4-bit codes
comes with codes of the vectors, as faiss's factory has it, and of the residuals (`fsr`).

k is --rank. R@rank: the fraction of queries whose true nearest neighbour is among the first `rank`
results, over all queries. Queries per second: the best of one search of all queries and of
--repeats searches of as many of the first queries as take about --seconds: fewer queries where a
method is slow, the table says how many. The methods take turns at each nprobe.

`*` marks the points that no other of the same method excels. `ours is`: how fast QINCo's fastest
point with at least that recall is beside it; a measured point, nothing is interpolated.

    python bench/pareto.py --base base.npy --learn learn.npy --query query.npy \
        --groundtruth groundtruth.npy --index qinco.fqi --out pareto.json --plot pareto.png
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import faiss
import numpy as np
from common import BIAS_BYTES, Bench, add_index_arguments, environment, plain_arguments, say

import faiss_qinco as fq
from faiss_qinco.codec.config import resolve_config
from faiss_qinco.tools.evaluate import (
    Point,
    fastest_with,
    pareto_front,
    recall_at,
    set_threads,
    write_json,
)
from faiss_qinco.tools.plots import plot_pareto

NPROBE = (1, 2, 4, 8, 16, 32, 64, 128)
NSHORT = (0, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
METHODS = ("qinco", "pq", "opq", "pq4fs", "pq4fsr", "rq", "rabitq", "rabitqfs")

Search = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_index_arguments(parser)
    add = parser.add_argument
    add("--nprobe", type=int, nargs="+", default=NPROBE)
    add(
        "--nshort",
        type=int,
        nargs="+",
        default=NSHORT,
        help="below --rank: left out, they change nothing",
    )
    add("--exit-margin", type=float, help="of QINCo's early exit (default: the index's)")
    add("--rank", type=int, default=1, help="results per query (default: 1)")
    add("--threads", type=int, default=2, help="default: 2")
    add("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD",
        help=f"of {' '.join(METHODS)} (default: all)")  # fmt: skip
    add("--seconds", type=float, default=1, help="of one timed search, about (default: 1)")
    add("--repeats", type=int, default=5, help="timed searches (default: 5)")
    add("--out", metavar="JSON", help="write the points")
    add("--plot", metavar="PNG", help="draw the curves")
    args = parser.parse_args()
    args.nshort = [nshort for nshort in args.nshort if nshort == 0 or nshort >= args.rank]
    args.nprobe = [nprobe for nprobe in args.nprobe if nprobe <= args.nlist]
    return args


def main() -> None:
    args = arguments()
    set_threads(args.threads)
    bench = Bench(args)
    ivf, code = f"IVF{args.nlist}", f"{args.M}x{args.nbits}"
    norm = "_Nfloat" if bench.metric == faiss.METRIC_L2 else ""
    nibbles = args.M * args.nbits // 4
    names = {
        "qinco": "QINCo",
        "pq": f"{ivf},PQ{code}",
        "opq": f"OPQ{args.M},{ivf},PQ{code}",
        "pq4fs": f"{ivf},PQ{nibbles}x4fs",
        "pq4fsr": f"{ivf},PQ{nibbles}x4fsr",
        "rq": f"{ivf},RQ{code}{norm}",
        "rabitq": f"RR{bench.d},{ivf},RaBitQ",
        "rabitqfs": f"RR{bench.d},{ivf},RaBitQfs",
    }
    indexes, ours = {}, None
    for method in dict.fromkeys(args.methods):
        if method == "qinco":
            index = bench.qinco_index()[0]
            preset = (
                args.preset if index.config == resolve_config(args.preset, index.d) else "custom"
            )
            ours = f"{ivf},QINCo{code}_{preset}"
            indexes[ours] = index
        else:
            name = names[method]
            indexes[name] = bench.faiss_index(name, bench.learn, bench.base)[0]

    points, timed = [], []
    for nprobe in args.nprobe:
        for name, index in indexes.items():
            say(f"nprobe {nprobe}: {name}")
            searches = qinco_searches if name == ours else faiss_search
            stored = stored_bytes(index)
            for parameters, search in searches(index, nprobe, args):
                recall, qps, n = measure(search, bench.queries, bench.groundtruth, args)
                points.append(Point(name, parameters, stored, recall, qps))
                timed.append(n)

    print(
        f"{len(bench.base)} base vectors, d {bench.d}, {args.metric}; {len(bench.learn)} learn "
        f"vectors; {len(bench.queries)} queries;\n"
        f"{environment()['cpu']}, {args.threads} threads, SIMD {fq.simd_level()}, faiss "
        f"{faiss.__version__}; nlist {args.nlist}\n"
    )
    print(format_points(points, timed, ours, args.rank))
    if ours is not None:
        print("\n" + verdict(points, ours, args.rank))
    if args.out is not None:
        write_json(
            args.out,
            points,
            timed_queries=timed,
            arguments=plain_arguments(args),
            n_base=len(bench.base),
            n_learn=len(bench.learn),
            n_query=len(bench.queries),
            d=bench.d,
            **environment(),
        )
    if args.plot is not None:
        title = f"{len(bench.base)} vectors, {args.nlist} lists, {args.threads} threads"
        plot_pareto(points, args.plot, title, args.rank)


def qinco_searches(
    index: Any, nprobe: int, args: argparse.Namespace
) -> list[tuple[dict[str, float], Search]]:
    """The parameters and the search of each nshort."""
    margin = {} if args.exit_margin is None else {"exit_margin": args.exit_margin}
    searches = []
    for nshort in args.nshort:
        parameters = {"nprobe": nprobe, "nshort": nshort}
        params = fq.SearchParametersIVFQINCo(**parameters, **margin)
        searches.append((parameters, partial(index.search, k=args.rank, params=params)))
    return searches


def faiss_search(
    index: Any, nprobe: int, args: argparse.Namespace
) -> list[tuple[dict[str, float], Search]]:
    faiss.extract_index_ivf(index).nprobe = nprobe
    return [({"nprobe": nprobe}, partial(index.search, k=args.rank))]


def stored_bytes(index: Any) -> int:
    """Per vector: the code and what stands beside it, without the id."""
    if isinstance(index, fq.IndexIVFQINCo):
        return index.code_size + BIAS_BYTES
    return int(faiss.extract_index_ivf(index).code_size)


def measure(
    search: Search, queries: np.ndarray, groundtruth: np.ndarray, args: argparse.Namespace
) -> tuple[float, float, int]:
    """R@rank over all queries, queries per second, and how many queries a repeat searches."""
    start = time.perf_counter()
    I = search(queries)[1]
    first = time.perf_counter() - start
    n = max(1, min(len(queries), round(len(queries) * args.seconds / first)))
    qps = len(queries) / first
    for _ in range(args.repeats):
        start = time.perf_counter()
        search(queries[:n])
        qps = max(qps, n / (time.perf_counter() - start))
    return recall_at(I, groundtruth, (args.rank,))[args.rank], qps, n


def speed(point: Point, curve: list[Point]) -> float | None:
    """How fast the curve's fastest point with that recall is beside it; None where it has none."""
    best = fastest_with(curve, point.recall)
    return None if best is None else best.qps / point.qps


def format_points(points: list[Point], timed: list[int], ours: str | None, rank: int) -> str:
    """The points, method by method."""
    curve = [p for p in points if p.name == ours]
    width = max(len(p.name) for p in points)
    lines = [
        f"{'method':{width}} {'B':>3} {'nprobe':>6} {'nshort':>6} {f'R@{rank}':>7} {'QPS':>8}   "
        f"{'timed on':>8} {'ours is':>8}"
    ]
    for name in dict.fromkeys(p.name for p in points):
        front = pareto_front([p for p in points if p.name == name])
        for point, n in zip(points, timed, strict=True):
            if point.name != name:
                continue
            mark = "*" if point in front else " "
            line = (
                f"{name:{width}} {point.stored_bytes:3} {point.parameters['nprobe']:6} "
                f"{point.parameters.get('nshort', ''):>6} {point.recall:7.4f} {point.qps:8.0f} "
                f"{mark} {n:8}"
            )
            if name != ours and curve:
                ratio = speed(point, curve)
                line += f" {'-' if ratio is None else f'{ratio:.2f}x':>8}"
            lines.append(line)
    return "\n".join(lines)


def verdict(points: list[Point], ours: str, rank: int) -> str:
    """At which points of the others ours is not at least as fast with as much recall."""
    curve = [p for p in points if p.name == ours]
    others = sorted((p for p in points if p.name != ours), key=lambda p: p.name)
    slower, missing = [], []
    for point in others:
        ratio = speed(point, curve)
        text = f"  {point.name} nprobe {point.parameters['nprobe']}: R@{rank} {point.recall:.4f}"
        if ratio is None:
            missing.append(f"{text}, which ours does not reach")
        elif ratio < 1:
            slower.append(f"{text}, {point.qps:.0f} queries/s, ours {ratio * point.qps:.0f}")
    good = len(others) - len(slower) - len(missing)
    best = max(curve, key=lambda p: p.recall)
    lines = [
        f"With at least the same R@{rank}, {ours} is at least as fast at {good} of the "
        f"{len(others)} points of the others" + (", not at:" if good < len(others) else ".")
    ]
    lines += [*slower, *missing, f"Its highest R@{rank}: {best.recall:.4f}"]
    if others:
        top = max(others, key=lambda p: p.recall)
        lines[-1] += f"; of the others: {top.recall:.4f} ({top.name})"
    return "\n".join(lines)


if __name__ == "__main__":
    main()
