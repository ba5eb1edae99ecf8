"""The command `faiss-qinco`: a module for each of its commands."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from .. import __version__, demo
from ..errors import FactoryError
from . import (
    append,
    build,
    compact,
    convert,
    encode,
    evaluation,
    info,
    inspect,
    merge,
    plan,
    search,
    train,
    train_coarse,
    tune,
    verify,
)

COMMANDS = {
    "demo": (demo, "compare with faiss's PQ and RQ on real vectors"),
    "plan": (plan, "what time, memory and disk an index will take, before anything is started"),
    "train-coarse": (train_coarse, "vectors to the centroids of many lists"),
    "train": (train, "vectors to a trained, empty index"),
    "encode": (encode, "vectors to shards of codes, which can be ended and gone on with"),
    "build": (build, "add vectors to an index"),
    "append": (append, "vectors to a new segment of an index of segments"),
    "compact": (compact, "the segments of such an index to one"),
    "merge": (merge, "index files of one model to one"),
    "search": (search, "the nearest stored vectors of queries"),
    "eval": (evaluation, "recall and speed of an index, for several settings of its search"),
    "tune": (tune, "settings of searches that are worth it, kept in the index"),
    "inspect": (inspect, "a page that shows what goes on inside a codec or an index"),
    "convert": (convert, "published models and faiss indexes of QINCo codes, from and to"),
    "info": (info, "what a file holds, or what runs here"),
    "verify": (verify, "whether an index or a codec is whole"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; argv: as of sys.argv[1:].

    Results go to stdout; progress, warnings and errors (one line) to stderr. Returns the exit
    status: 0; 1 for a file that cannot be read, written or used; 2 for a factory string that is not
    understood; 130 after Ctrl-C. Raises SystemExit (2) for other wrong arguments.
    """
    args = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            args.run(args)
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            return 130
        except (OSError, RuntimeError, ValueError, TypeError, ImportError, MemoryError) as error:
            print(f"faiss-qinco: error: {_one_line(error)}", file=sys.stderr)
            return 2 if isinstance(error, FactoryError) else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "faiss-qinco",
        description="FAISS indexes with QINCo neural codes: train, build, search, eval.",
        epilog="example: faiss-qinco demo",
    )
    parser.add_argument("--version", action="version", version=f"faiss-qinco {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module, help) in COMMANDS.items():
        command = commands.add_parser(
            name, help=help, description=module.__doc__, epilog=f"example: {module.EXAMPLE}"
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"faiss-qinco: warning: {_one_line(Warning(message))}", file=sys.stderr)
