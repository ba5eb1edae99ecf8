"""Store vectors in a new segment of a folder of segments, which are searched as one index
(`faiss_qinco.pipeline.segments.IndexSegments`). Nothing that is there is written to; readers have
the new vectors once all of them are there. `compact` makes one segment of all."""

from __future__ import annotations

import argparse
import time

from ..codec.config import EFFORTS
from ..index_file import read_index
from ..pipeline.build import MEMORY
from ..pipeline.segments import append
from ..storage.source import open_vectors
from ..tools.options import add_files, add_memory, add_threads, read_ids, use_threads

EXAMPLE = "faiss-qinco append --segments photos --base today.npy --index trained.fqi"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco append`."""
    parser.add_argument("--segments", required=True, metavar="FOLDER", help="where they are")
    add_files(parser, "--base", "vectors to store", required=True)
    parser.add_argument(
        "--index", metavar="FILE", help="the trained index, for the first segment of a folder"
    )
    parser.add_argument(
        "--ids", metavar="FILE", help="their ids, integers (default: on from those that are there)"
    )
    parser.add_argument("--effort", choices=EFFORTS, default="balanced", help="as of encode")
    add_memory(
        parser, f"that the process may take, such as 8GB (default: {MEMORY >> 30}GiB)", MEMORY
    )
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Append; the segment's file, and how fast, goes to stdout."""
    use_threads(args)
    x = open_vectors(args.base)
    ids = None if args.ids is None else read_ids(args.ids, len(x))
    index = None if args.index is None else read_index(args.index)
    start = time.perf_counter()
    made = append(args.segments, x, ids, index=index, effort=args.effort, memory=args.memory)
    print(f"{made}: {len(x)} vectors, {len(x) / (time.perf_counter() - start):.0f} a second")
