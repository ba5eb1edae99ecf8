"""Encode vectors for a trained index into a folder of shards, for `build --codes`. Killed anywhere
and run again, it goes on; several processes share the work with --shard, on machines that see the
folder."""

from __future__ import annotations

import argparse
import time

from ..codec.config import EFFORTS
from ..index_file import read_index
from ..pipeline.encode import encode
from ..storage.source import open_vectors
from ..tools.options import add_files, add_memory, add_threads, argument, read_ids, use_threads

EXAMPLE = "faiss-qinco encode --index trained.fqi --base base.u8bin --out codes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco encode`."""
    parser.add_argument("--index", required=True, metavar="FILE", help="a trained index")
    add_files(parser, "--base", "vectors to encode", required=True)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the shards go")
    parser.add_argument(
        "--shard", type=argument("shard", _part), default=(1, 1), metavar="I/M",
        help="encode the I-th of M equal parts, from 1/M to M/M (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--effort", choices=EFFORTS, default="balanced",
        help="fast: about a quarter of the time for 2 %% more error (SIFT, size XS); best: twice "
        "the time for .5 %% less (default: balanced)",
    )  # fmt: skip
    parser.add_argument(
        "--ids", metavar="FILE", help="their ids, integers (default: numbers from 0)"
    )
    add_memory(parser, "refuse to start if it would take more, such as 8GB")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or a torch device")
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Encode; how many, and how fast, goes to stdout."""
    use_threads(args)
    x = open_vectors(args.base)
    ids = None if args.ids is None else read_ids(args.ids, len(x))
    index = read_index(args.index)
    start = time.perf_counter()
    n = encode(
        index, x, args.out, effort=args.effort, part=args.shard, ids=ids, memory=args.memory,
        device=args.device,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    print(f"{args.out}: {n} of {len(x)} vectors encoded, {n / seconds:.0f} a second")


def _part(text: str) -> tuple[int, int]:
    i, m = map(int, text.split("/"))
    if not 1 <= i <= m:
        raise ValueError(f"expected I/M with I from 1 to M, got {text}")
    return i, m
