"""Train the centroids of an index's lists, up to millions of them, within a limit of memory. What
is written is a faiss index of them, for `train --coarse` and for faiss. Killed anywhere and run
again, it goes on."""

from __future__ import annotations

import argparse
import os
import time
from contextlib import suppress

from ..pipeline.coarse import train_coarse, write_coarse
from ..storage.source import open_vectors
from ..tools.options import add_files, add_memory, add_threads, check_out, number, use_threads
from .train import METRICS

EXAMPLE = (
    "faiss-qinco train-coarse --learn learn.u8bin --nlist 262144 --memory 8GB "
    "--out coarse.faissindex"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco train-coarse`."""
    add_files(parser, "--learn", "training vectors", required=True)
    parser.add_argument(
        "--nlist", required=True, type=number(int), metavar="N", help="centroids to train"
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="faiss index file to write: an IndexFlat"
    )
    parser.add_argument("--metric", choices=METRICS, default="l2", help="default: l2")
    add_memory(
        parser, "memory to use at most, such as 8GB; more vectors are then read several times"
    )
    parser.add_argument(
        "--max-points-per-centroid", type=number(int), metavar="N",
        help="vectors to use for each centroid, at most (default: 256, and down to 64 "
        "for 262,144 lists and more)",
    )  # fmt: skip
    parser.add_argument(
        "--niter", type=number(int), default=10, metavar="N", help="iterations (default: 10)"
    )
    parser.add_argument("--seed", type=number(int, above=False), default=1234, metavar="N",
                        help="default: 1234")  # fmt: skip
    parser.add_argument(
        "--checkpoint", metavar="FILE",
        help="where the same command goes on after an end (default: the name of --out and "
        ".checkpoint); removed at the end",
    )  # fmt: skip
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Train and write; what was trained goes to stdout."""
    checkpoint = args.checkpoint or f"{args.out}.checkpoint"
    for path in (args.out, checkpoint):
        check_out(path, args.learn)
    use_threads(args)
    x = open_vectors(args.learn)
    metric = METRICS[args.metric]
    start = time.perf_counter()
    centroids = train_coarse(
        x, args.nlist, metric=metric, memory=args.memory, checkpoint=checkpoint, seed=args.seed,
        niter=args.niter, max_points_per_centroid=args.max_points_per_centroid,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    write_coarse(args.out, centroids, metric)
    with suppress(FileNotFoundError):
        os.remove(checkpoint)
    print(f"{args.out}: {args.nlist} centroids, d {x.shape[1]}, {seconds:.0f} s")
