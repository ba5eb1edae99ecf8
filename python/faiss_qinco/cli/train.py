"""Train an index on the vectors of one or several files: coarse centroids, codec and tables. What
is written is empty; `build` fills it."""

from __future__ import annotations

import argparse
import time
from typing import Any

import faiss

from ..factory import index_factory
from ..index_file import write_index
from ..pipeline.coarse import use_coarse
from ..storage.source import open_vectors
from ..tools.options import add_files, add_threads, check_out, number, use_threads
from ..training.config import TrainingConfig
from ..training.processes import is_first

EXAMPLE = "faiss-qinco train --learn learn.fvecs --out trained.fqi IVF1024,QINCo8x8 --seconds 600"
METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
TRAINING = ("max_seconds", "epochs", "max_points", "checkpoint", "log", "seed", "device")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco train`."""
    parser.add_argument("factory", metavar="FACTORY", help="as of index_factory: IVF1024,QINCo8x8")
    add_files(parser, "--learn", "training vectors", required=True)
    parser.add_argument("--out", required=True, metavar="FILE", help="index file to write")
    parser.add_argument("--metric", choices=METRICS, default="l2", help="default: l2")
    parser.add_argument(
        "--coarse", metavar="FILE",
        help="centroids of the lists, as train-coarse writes them, in place of k-means",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", dest="max_seconds", type=number(float), metavar="N", help="time budget"
    )
    parser.add_argument("--epochs", type=number(int), metavar="N", help="passes over the vectors")
    parser.add_argument(
        "--max-points", type=number(int), metavar="N", help="training vectors to use, at most"
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE",
        help="written as training goes on, and where the same command goes on after an end",
    )  # fmt: skip
    parser.add_argument(
        "--log", metavar="PATH",
        help="of the errors as training goes on: a .csv file, or a folder for TensorBoard",
    )  # fmt: skip
    parser.add_argument("--seed", type=number(int, above=False), metavar="N", help="default: 0")
    parser.add_argument("--device", help="auto, cpu, cuda or a torch device (default: auto)")
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Train and write; what was trained goes to stdout."""
    check_out(args.out, args.learn)
    if args.checkpoint is not None:
        check_out(args.checkpoint, args.learn)
    use_threads(args)
    given = {k: getattr(args, k) for k in TRAINING if getattr(args, k) is not None}
    x: Any = open_vectors(args.learn)
    index = index_factory(
        x.shape[1], args.factory, METRICS[args.metric], training=TrainingConfig(**given)
    )
    if args.coarse is not None:
        use_coarse(index, args.coarse)
    start = time.perf_counter()
    index.train(x)
    seconds = time.perf_counter() - start
    if not is_first():  # of several processes
        return
    write_index(index, args.out)
    print(f"{args.out}: {args.factory}, d {index.d}, trained on {len(x)} vectors, {seconds:.0f} s")
