"""Add vectors to a trained index, and write the index with them. The files are read a block at a
time; an index that holds vectors already gets more."""

from __future__ import annotations

import argparse
import time

from ..index_file import read_index, write_index
from ..progress import progress_bar
from ..tools.options import (
    add_files,
    add_threads,
    blocks,
    check_out,
    read_ids,
    shape_of,
    use_threads,
)

EXAMPLE = "faiss-qinco build --index trained.fqi --base base.fvecs --out photos.fqi"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco build`."""
    parser.add_argument("--index", required=True, metavar="FILE", help="a trained index")
    add_files(parser, "--base", "vectors to add", required=True)
    parser.add_argument("--out", required=True, metavar="FILE", help="index file to write")
    parser.add_argument(
        "--ids", metavar="FILE", help="their ids, integers (default: on from those in the index)"
    )
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Add and write; how many, and how fast, goes to stdout."""
    check_out(args.out, [*args.base, *([args.ids] if args.ids else [])])
    use_threads(args)
    n, d = shape_of(args.base)
    ids = None if args.ids is None else read_ids(args.ids, n)
    index = read_index(args.index)
    if d != index.d:  # before the first block, and with the file's name
        raise ValueError(f"{args.base[0]}: expected d = {index.d} as in {args.index}, got {d}")
    start = time.perf_counter()
    done = 0
    with progress_bar("adding", n, "vector", True) as bar:
        for block in blocks(args.base):
            if ids is None:
                index.add(block)
            else:
                index.add_with_ids(block, ids[done : done + len(block)])
            done += len(block)
            bar.to(done)
    rate = n / (time.perf_counter() - start)
    write_index(index, args.out)
    print(f"{args.out}: {n} vectors added, {rate:.0f} a second; ntotal {index.ntotal}")
