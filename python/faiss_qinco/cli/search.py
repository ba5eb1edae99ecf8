"""Find the nearest stored vectors of each query, and write their ids, and with .npz their distances
as well (arrays I and D, n x k)."""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from ..index_file import read_index
from ..progress import progress_bar
from ..storage.container import replacing
from ..storage.source import open_vectors
from ..storage.vectors import write_vectors
from ..threads import get_num_threads
from ..tools.options import (
    BLOCK,
    add_threads,
    check_out,
    number,
    parameters_of,
    set_parameters,
    use_threads,
)

EXAMPLE = (
    "faiss-qinco search --index photos.fqi --query query.fvecs -k 10 --nprobe 16 --out found.npz"
)
KINDS = (".npz", ".npy", ".ivecs", ".ibin")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco search`."""
    parser.add_argument("--index", required=True, metavar="FILE", help="the index")
    parser.add_argument("--query", nargs="+", required=True, metavar="FILE", help="queries")
    parser.add_argument("-k", type=number(int), default=10, help="results per query (default: 10)")
    parser.add_argument(
        "--out", type=_out, required=True, metavar="FILE", help=f"results: {' '.join(KINDS)}"
    )
    for name, what in (("--nprobe", "lists to visit"), ("--nshort", "vectors to re-rank")):
        parser.add_argument(
            name, type=number(int, above=False), metavar="N",
            help=f"{what} per query (default: what the index holds)",
        )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="what is printed as JSON")
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Search and write; queries per second go to stdout."""
    check_out(args.out, args.query)
    use_threads(args)
    queries = open_vectors(args.query)
    n = len(queries)
    index = read_index(args.index)
    set_parameters(index, nprobe=args.nprobe, nshort=args.nshort)
    D, I = np.empty((n, args.k), np.float32), np.empty((n, args.k), np.int64)
    seconds, done = 0.0, 0
    with progress_bar("searching", n, "query", True) as bar:
        for block in queries.blocks(BLOCK):
            rows = slice(done, done := done + len(block))
            start = time.perf_counter()
            index.search(block, args.k, D=D[rows], I=I[rows])
            seconds += time.perf_counter() - start
            bar.to(done)
    _write(args.out, D, I)
    found = {
        "out": args.out, "n": n, "k": args.k, **parameters_of(index),
        "threads": get_num_threads(), "queries_per_second": round(n / seconds, 1),
    }  # fmt: skip
    if args.json:
        print(json.dumps(found))
    else:
        print(", ".join(f"{name} {value}" for name, value in found.items()))


def _out(name: str) -> str:
    if not name.lower().endswith(KINDS):
        raise argparse.ArgumentTypeError(f"expected a name in {' '.join(KINDS)}, got {name!r}")
    return name


def _write(path: str, D: np.ndarray, I: np.ndarray) -> None:
    suffix = path.lower().rsplit(".", 1)[1]
    if suffix == "npz":
        with replacing(path) as file:
            np.savez(file, D=D, I=I)
        return
    if suffix != "npy":
        if I.max(initial=-1) > np.iinfo(np.int32).max or I.min(initial=-1) < -(2**31):
            raise ValueError(f"{path}: holds ids of 32 bits, and these need more: write .npz, .npy")
        I = I.astype(np.int32)
    write_vectors(path, I)
