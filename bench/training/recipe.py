r"""What a choice of the training recipe is worth: one training for each, of the same vectors, lists
and seed, for the same time or the same number of vectors seen.

A choice is a comma-separated list of fields of `QINCoConfig` and `TrainingConfig`; "" is what the
package does by itself. With inner product, codes add to the means of the lists, as in an index.

    python bench/training/recipe.py --learn learn.npy --unseen base.npy --nlist 1024 \
        --epochs 2 "" lr=0.003 lr=0.003,batch_size=128 d_h=512
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

import faiss_qinco as fq
from faiss_qinco.codec.codec import TrainingReport
from faiss_qinco.codec.config import resolve_config
from faiss_qinco.tools.evaluate import set_threads
from faiss_qinco.training import TrainingSet, train_codec

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import Rows, cpu_name, kmeans

SIZES = {field.name for field in dataclasses.fields(fq.QINCoConfig)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("choices", nargs="+", metavar="FIELD=VALUE,…")
    add("--learn", nargs="+", required=True, metavar="FILE", help="concatenated")
    add("--unseen", required=True, metavar="FILE", help="vectors that the error is of")
    add("--n-unseen", type=int, default=4000, metavar="N", help="the first (default: 4000)")
    add("--metric", choices=("l2", "ip"), default="l2")
    add("--nlist", type=int, default=64)
    add("--M", type=int, default=8)
    add("--seconds", type=float, help="of each training; default: --epochs")
    add("--epochs", type=int, default=4)
    add("--max-points", type=int, metavar="N")
    add("--threads", type=int, default=1)
    add("--cpu-clock", action="store_true", help="seconds of the process, where others compute too")
    return parser.parse_args()


def fields_of(choice: str) -> dict[str, Any]:
    pairs = [pair.split("=") for pair in choice.split(",") if pair]
    return {name: ast.literal_eval(value) for name, value in pairs}


def main() -> None:
    args = arguments()
    set_threads(args.threads)
    if args.cpu_clock:
        time.monotonic = time.process_time
    metric = faiss.METRIC_L2 if args.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    learn = Rows(args.learn)[:]
    d = learn.shape[1]
    unseen = Rows([args.unseen])[: args.n_unseen].astype(np.float32)
    centroids = kmeans(TrainingSet(learn, d, max_points=args.nlist * 256)[:], args.nlist, metric)
    quantizer = faiss.IndexFlat(d, metric)
    quantizer.add(centroids)
    budget = {"epochs": args.epochs, "max_seconds": None}
    if args.seconds is not None:
        budget = {"epochs": 1_000_000, "max_seconds": args.seconds}
    print(f"{cpu_name()}, {args.threads} threads, SIMD {fq.simd_level()}")
    print(f"{'choice':40} {'seconds':>8} {'vectors seen':>13} {'error':>9} {'RQ':>9} {'ratio':>7}")
    for choice in args.choices:
        fields = fields_of(choice)
        sizes = {name: fields.pop(name) for name in SIZES & fields.keys()}
        config = dataclasses.replace(resolve_config("auto", d, "cpu"), **sizes)
        settings = {"progress": False, "max_points": args.max_points, **budget, **fields}
        training = fq.TrainingConfig(**settings)
        data = TrainingSet(learn, d, max_points=training.max_points, seed=training.seed)
        data.list_no = quantizer.search(data[:], 1)[1][:, 0]
        codec = train_codec(data, args.M, 8, config, training, centroids, metric=metric)
        report = codec.report
        assert isinstance(report, TrainingReport)
        error = float(np.square(codec.decode(codec.encode(unseen)) - unseen).sum(1).mean())
        print(
            f"{choice or 'as it is':40} {report.seconds:8.0f} {report.vectors_seen:13,} "
            f"{error:9.5g} {report.rq_mse:9.5g} {error / report.rq_mse:7.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
