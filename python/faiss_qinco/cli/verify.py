"""Whether an index or a codec is whole: reads all of the file, compares its checksums, and looks
whether it holds what it should. Exit status 0, or 1 with the reason."""

from __future__ import annotations

import argparse
import os

from ..codec.codec import QINCoCodec
from ..index_file import verify_index
from ..storage.container import describe_container, open_mapped

EXAMPLE = "faiss-qinco verify photos.fqi"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco verify`."""
    parser.add_argument("files", nargs="+", metavar="FILE")


def run(args: argparse.Namespace) -> None:
    """Verify; to stdout."""
    for file in args.files:
        kind = describe_container(file).kind
        if kind == "index":
            verify_index(file, True)
        else:
            with open_mapped(file) as reader:
                reader.verify(True)
            if kind == "codec":
                QINCoCodec.load(file)
        print(f"{file}: a whole {kind}, {os.path.getsize(file):,} bytes")
