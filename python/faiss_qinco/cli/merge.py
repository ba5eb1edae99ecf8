"""Join index files of one model, each with vectors of its own, to one. It is made in its file and
never whole in memory; killed anywhere and run again, it goes on. Files of different models are
refused, and damaged ones, before anything is written."""

from __future__ import annotations

import argparse
import os
import time

from ..pipeline.build import MEMORY
from ..pipeline.merge import merge_indexes
from ..tools.options import add_memory, add_threads, check_out, use_threads

EXAMPLE = "faiss-qinco merge monday.fqi tuesday.fqi --out photos.fqi"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco merge`."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="index files")
    parser.add_argument("--out", required=True, metavar="FILE", help="index file to write")
    parser.add_argument(
        "--shift-ids", action="store_true",
        help="add the vectors of the files before it to the ids of each (default: they stay)",
    )  # fmt: skip
    add_memory(
        parser, f"that the process may take, such as 8GB (default: {MEMORY >> 30}GiB)", MEMORY
    )
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Merge; how many vectors, and how fast, goes to stdout."""
    check_out(args.out)
    use_threads(args)
    start = time.perf_counter()
    made = merge_indexes(args.files, args.out, shift_ids=args.shift_ids, memory=args.memory)
    seconds = time.perf_counter() - start
    print(
        f"{args.out}: {made.n_stored} vectors of {len(args.files)} files in {seconds:.0f} s, "
        f"{os.path.getsize(args.out):,} bytes"
    )
