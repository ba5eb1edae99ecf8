"""Say what time, memory and disk an index of these vectors will take, stage by stage, before
anything is started. Some vectors are encoded for that, for a few seconds; times are of this machine
with these threads, and good to a factor of two."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from ..codec.config import EFFORTS
from ..factory import index_factory
from ..index_file import read_index
from ..pipeline.estimate import describe_stages, estimate
from ..storage.source import open_vectors
from ..tools.evaluate import columns
from ..tools.options import add_files, add_memory, add_threads, number, use_threads
from ..training.config import TrainingConfig
from .train import METRICS

EXAMPLE = "faiss-qinco plan IVF65536_HNSW32,QINCo8x8 --base base.u8bin --memory 8GB"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco plan`."""
    parser.add_argument("factory", nargs="?", metavar="FACTORY", help="as of index_factory")
    parser.add_argument("--index", metavar="FILE", help="or an index that is trained already")
    add_files(parser, "--base", "the vectors, or some of them", required=True)
    add_files(parser, "--learn", "training vectors (default: those of --base)")
    parser.add_argument("--n", type=number(int), metavar="N", help="vectors (default: --base's)")
    parser.add_argument("--metric", choices=METRICS, default="l2", help="default: l2")
    parser.add_argument("--seconds", type=number(float), metavar="N", help="to train for")
    parser.add_argument("--effort", choices=EFFORTS, default="balanced", help="of encoding")
    add_memory(parser, "that a stage may take (default: a third of the machine's)")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Estimate; to stdout."""
    use_threads(args)
    if (args.factory is None) == (args.index is None):
        raise ValueError("expected a factory string, or --index, and not both")
    x = open_vectors(args.base)
    if args.index is not None:
        index = read_index(args.index)
    else:
        more = {} if args.seconds is None else {"max_seconds": args.seconds}
        index = index_factory(
            x.shape[1], args.factory, METRICS[args.metric], TrainingConfig(**more)
        )
    n_learn = None if args.learn is None else len(open_vectors(args.learn))
    stages = estimate(
        index, x, n=args.n, n_learn=n_learn, memory=args.memory, effort=args.effort
    )  # fmt: skip
    if args.json:
        print(json.dumps([asdict(stage) for stage in stages], indent=2))
    else:
        print(columns(describe_stages(stages)))
