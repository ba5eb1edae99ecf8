"""Make an index of vectors. Of encoded ones (`faiss-qinco encode`), --codes, it is built in its
file and never whole in memory; killed anywhere and run again, it goes on. Or of vectors themselves,
--base, which are added to the index in memory, also to one that holds some already."""

from __future__ import annotations

import argparse
import os
import time

import faiss

from ..index_file import read_index, write_index
from ..pipeline.build import build
from ..pipeline.memory import parse_bytes
from ..progress import progress_bar
from ..storage.source import open_vectors
from ..tools.options import (
    BLOCK,
    add_files,
    add_threads,
    argument,
    check_out,
    read_ids,
    use_threads,
)

EXAMPLE = "faiss-qinco build --index trained.fqi --codes codes --out photos.fqi --memory 8GB"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco build`."""
    parser.add_argument("--index", required=True, metavar="FILE", help="a trained index")
    parser.add_argument("--codes", metavar="FOLDER", help="encoded vectors")
    add_files(parser, "--base", "or vectors to add")
    parser.add_argument("--out", required=True, metavar="FILE", help="index file to write")
    parser.add_argument(
        "--ids", metavar="FILE",
        help="with --base: their ids, integers (default: on from those in the index)",
    )  # fmt: skip
    parser.add_argument(
        "--memory", type=argument("bytes", parse_bytes), metavar="BYTES",
        help="with --codes: that the process may take, such as 8GB (default: a third of all)",
    )  # fmt: skip
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Make and write; how many vectors, and how fast, goes to stdout."""
    if (args.codes is None) == (args.base is None):
        raise ValueError("expected --codes or --base, and not both")
    if args.codes is not None:
        _of_codes(args)
        return
    check_out(args.out, [*args.base, *([args.ids] if args.ids else [])])
    use_threads(args)
    base = open_vectors(args.base)
    n, d = base.shape
    ids = None if args.ids is None else read_ids(args.ids, n)
    index = read_index(args.index)
    if d != index.d:  # before the first block, and with the file's name
        raise ValueError(f"{base.names[0]}: expected d = {index.d} as in {args.index}, got {d}")
    start = time.perf_counter()
    done = 0
    with progress_bar("adding", n, "vector", True) as bar:
        for block in base.blocks(BLOCK):
            if ids is None:
                index.add(block)
            else:
                index.add_with_ids(block, ids[done : done + len(block)])
            done += len(block)
            bar.to(done)
    rate = n / (time.perf_counter() - start)
    write_index(index, args.out)
    print(f"{args.out}: {n} vectors added, {rate:.0f} a second; ntotal {index.ntotal}")


def _of_codes(args: argparse.Namespace) -> None:
    if args.ids is not None:
        raise ValueError("--ids: encode takes them, and codes have them")
    check_out(args.out)
    use_threads(args)
    start = time.perf_counter()
    build(read_index(args.index), args.codes, args.out, memory=args.memory)
    seconds = time.perf_counter() - start
    index = read_index(args.out, faiss.IO_FLAG_MMAP)
    size, empty = os.path.getsize(args.out), os.path.getsize(args.index)
    each = (size - empty) / max(index.ntotal, 1)
    print(f"{args.out}: {index.ntotal} vectors in {seconds:.0f} s, {each:.2f} bytes a vector")
