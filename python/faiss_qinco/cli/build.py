"""Make an index of vectors. Of encoded ones (`faiss-qinco encode`), --codes, it is built in its
file and never whole in memory; killed anywhere and run again, it goes on. Or of vectors themselves,
--base, which are added to the index in memory, also to one that holds some already."""

from __future__ import annotations

import argparse
import os
import time

from ..index_file import read_index, write_index
from ..pipeline.build import MEMORY, build
from ..progress import progress_bar
from ..storage.source import open_vectors
from ..tools.options import (
    BLOCK,
    add_files,
    add_memory,
    add_threads,
    check_out,
    read_ids,
    use_threads,
)

EXAMPLE = "faiss-qinco build --index trained.fqi --codes codes --out photos.fqi --memory 8GB"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco build`."""
    parser.add_argument("--index", required=True, metavar="FILE", help="a trained index")
    source = parser.add_mutually_exclusive_group(required=True)
    add_files(source, "--base", "vectors to add")
    source.add_argument("--codes", metavar="FOLDER", help="what `encode` has made of vectors")
    parser.add_argument("--out", required=True, metavar="FILE", help="index file to write")
    parser.add_argument(
        "--ids", metavar="FILE",
        help="with --base: their ids, integers (default: on from those in the index)",
    )  # fmt: skip
    add_memory(
        parser,
        "with --codes: what the process may take, such as 8GB; the less, the more often the "
        f"codes are read (default: {MEMORY >> 30}GiB)",
    )
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Add and write; how many, and how fast, goes to stdout."""
    if args.codes is not None:
        _of_codes(args)
        return
    if args.memory is not None:
        raise ValueError("--memory: expected with --codes; with --base the index is in memory")
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
        raise ValueError("--ids: expected with --base; those of codes `encode` is told")
    use_threads(args)
    start = time.perf_counter()
    memory = MEMORY if args.memory is None else args.memory
    built = build(args.index, args.codes, args.out, memory=memory)
    rate = built.ntotal / (time.perf_counter() - start)
    n, size = built.n_stored, os.path.getsize(args.out)
    print(
        f"{args.out}: {n} vectors, {rate:.0f} a second; {built.nbytes / max(n, 1):.2f} bytes a "
        f"vector, and {(size - built.nbytes) / 1e6:.1f} MB for the model"
    )
