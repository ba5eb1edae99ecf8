"""The command `faiss-qinco`."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence

import faiss

from . import __version__, demo
from ._core import simd_level, simd_levels
from .storage.container import FileFormatError
from .threads import get_num_threads


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; argv: as of sys.argv[1:]. Returns the exit status: 0, 1 for a file that
    cannot be read or written, 130 after Ctrl-C. Raises SystemExit (2) for wrong arguments."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (OSError, FileFormatError) as error:
        print(f"faiss-qinco: error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "faiss-qinco", description="FAISS indexes with QINCo neural codes."
    )
    parser.add_argument("--version", action="version", version=f"faiss-qinco {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser(
        "demo", help="compare with faiss's PQ and RQ on real vectors", description=demo.__doc__
    )
    demo.add_arguments(command)
    command.set_defaults(run=demo.run)

    command = commands.add_parser(
        "info", help="versions, SIMD level and threads", description="What runs here."
    )
    command.set_defaults(run=_info)
    return parser


def _info(args: argparse.Namespace) -> None:
    try:
        torch = importlib.metadata.version("torch")  # not imported: that takes seconds
    except importlib.metadata.PackageNotFoundError:
        torch = "not installed (needed to train and to encode)"
    for name, value in (
        ("faiss_qinco", __version__),
        ("faiss", faiss.__version__),
        ("torch", torch),
        ("SIMD level", f"{simd_level()} (of {', '.join(simd_levels())})"),
        ("threads", get_num_threads()),
    ):
        print(f"{name:<12} {value}")
