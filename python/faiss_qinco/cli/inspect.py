"""Look inside a codec or an index: one HTML page, and its pictures as PNG files beside it: the
error per step beside RQ's, use of the codewords, what the networks do to the codebooks, the
worst-coded vectors, tables, early exit, and warnings that one can act on. Needs matplotlib."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..codec.codec import QINCoCodec
from ..index_file import read_index
from ..storage.source import open_vectors
from ..tools.describe import describe
from ..tools.inspect import SAMPLE, inspect
from ..tools.inspect.page import write_page
from ..tools.options import add_files, add_threads, number, use_threads
from ..tools.plots import figure_of

EXAMPLE = "faiss-qinco inspect photos.fqi --vectors base.fvecs --query query.fvecs --out photos"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco inspect`."""
    parser.add_argument("file", metavar="MODEL_OR_INDEX", help="a codec or an index")
    add_files(parser, "--vectors", "vectors as they are coded; best those not trained with")
    add_files(parser, "--query", "queries, for an index (default: some of the vectors)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the page goes")
    parser.add_argument(
        "--nprobe", type=number(int), metavar="N",
        help="lists to visit (default: the index's; the root of nlist where that is 1)",
    )  # fmt: skip
    parser.add_argument(
        "--sample", type=number(int), default=SAMPLE, metavar="N",
        help=f"vectors to measure (default: {SAMPLE})",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=number(int, above=False), default=0, help="of samples (default: 0)"
    )
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Inspect; the page's path and the warnings go to stdout."""
    use_threads(args)
    figure_of()  # what is missing is said before the work
    folder = Path(args.out)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(20, "expected a folder to write to", args.out)
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, "no permission to write to this folder", args.out)
    kind = describe(args.file)["kind"]
    if kind not in ("codec", "index"):
        raise ValueError(f"{args.file}: expected a codec or an index of ours, got: {kind}")
    vectors, query = (None if f is None else open_vectors(f) for f in (args.vectors, args.query))
    target = QINCoCodec.load(args.file) if kind == "codec" else read_index(args.file)
    d = target.d
    for files in filter(None, (vectors, query)):
        if files.shape[1] != d:
            raise ValueError(
                f"{files.names[0]}: expected d = {d} as in {args.file}, got {files.shape[1]}"
            )
    found = inspect(
        target, vectors, query, nprobe=args.nprobe, sample=args.sample, seed=args.seed,
        progress=True,
    )  # fmt: skip
    page = write_page(found, folder, os.path.basename(args.file))
    print(page)
    for warning in found.warnings:
        print(f"{'warning' if warning.severe else 'note'}: {warning.what} {warning.advice}")
