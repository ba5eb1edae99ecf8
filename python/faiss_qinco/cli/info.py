"""What a file holds: vectors, an index or codec of ours, or a faiss index. Without a file, what
runs here: versions, SIMD level and threads."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from typing import Any

import faiss

from .. import __version__
from .._core import simd_level, simd_levels
from ..threads import get_num_threads
from ..tools.describe import describe

EXAMPLE = "faiss-qinco info photos.fqi"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco info`."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="default: what runs here")
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(args: argparse.Namespace) -> None:
    """Describe; to stdout."""
    found = _here() if args.file is None else describe(args.file)
    if args.json:
        print(json.dumps(found, indent=2))
        return
    rows = [(name, _text(value)) for name, value in found.items() if value is not None]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}")


def _here() -> dict[str, Any]:
    try:
        torch = importlib.metadata.version("torch")  # not imported: that takes seconds
    except importlib.metadata.PackageNotFoundError:
        torch = "not installed (training and GPUs need it: pip install 'faiss-qinco[train]')"
    return {
        "faiss_qinco": __version__,
        "faiss": faiss.__version__,
        "torch": torch,
        "SIMD level": f"{simd_level()} (of {', '.join(simd_levels())})",
        "threads": get_num_threads(),
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items() if v is not None)
    return f"{value:,}" if type(value) is int else str(value)
