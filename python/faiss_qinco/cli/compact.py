"""Make one segment of all that are in a folder of segments. Readers that have them open go on with
those; a process that is killed leaves the folder as it was, and run again it goes on."""

from __future__ import annotations

import argparse

from ..pipeline.build import MEMORY
from ..pipeline.segments import compact
from ..tools.options import add_memory, add_threads, use_threads

EXAMPLE = "faiss-qinco compact photos --memory 8GB"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco compact`."""
    parser.add_argument("folder", metavar="FOLDER", help="of `append`")
    add_memory(
        parser, f"that the process may take, such as 8GB (default: {MEMORY >> 30}GiB)", MEMORY
    )
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Compact; the file goes to stdout."""
    use_threads(args)
    print(compact(args.folder, memory=args.memory))
