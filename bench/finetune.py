r"""Fine-tuning across a real shift: how much of what a training on everything would gain for new
vectors `finetune` gains from few of them, and what the old ones pay.

Three codecs, behind lists, are told by the mean squared error of vectors that none of them saw:

- old: trained on all old vectors, --epochs times.
- tuned: the old one, fine-tuned with --tune-points of the new vectors and --keep of the old, once
  for each of --choices (fields of `TrainingConfig`, max_loss, keep; "" is the default).
- retrained: trained anew, k-means of the lists included, on all old and all new vectors there are;
  it sees as many as the training of the old codec did.

The gap is what retrained has on old for new vectors; recovered is the share of it that tuned has.

New vectors are other files, or, of one set, k-means clusters kept apart: one of --split-clusters,
the farthest from the mean, with its nearest ones, until they hold a quarter of the vectors.

    python bench/finetune.py --old learn.npy base.npy --split-clusters 8 --metric ip
    python bench/finetune.py --old learn.npy --old-unseen query.npy \
        --new demo/learn.npy --new-unseen demo/base.npy
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import math
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from common import Rows, cpu_name, kmeans, say

import faiss_qinco as fq
from faiss_qinco.codec.codec import TuningReport
from faiss_qinco.tools.evaluate import set_threads
from faiss_qinco.training import TUNING, TrainingSet, train_codec

NEW_PART = 0.25  # of the vectors are in the clusters kept apart


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--old", nargs="+", required=True, metavar="FILE", help="concatenated")
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--new", nargs="+", metavar="FILE", help="concatenated")
    kinds.add_argument("--split-clusters", type=int, metavar="N", help="of --old, some are new")
    add("--old-unseen", nargs="+", metavar="FILE", help="default: some of --old, held out")
    add("--new-unseen", nargs="+", metavar="FILE", help="default: some of the new, held out")
    add("--n-unseen", type=int, default=2000, metavar="N", help="of each kind (default: 2000)")
    add("--max-points", type=int, metavar="N", help="to learn from, of each kind, at most")
    add("--tune-points", type=int, default=5000, metavar="N")
    add("--keep", type=int, default=5000, metavar="N")
    add("--choices", nargs="+", default=[""], metavar="FIELD=VALUE,…")
    add("--metric", choices=("l2", "ip"), default="l2")
    add("--nlist", type=int, default=64)
    add("--M", type=int, default=8)
    add("--preset", default="auto")
    add("--epochs", type=int, default=5)
    add("--noise", type=float, default=0.0, help="of the trainings, not of fine-tuning")
    add("--threads", type=int, default=1)
    add("--codecs", type=Path, metavar="FOLDER", help="old and retrained, read or saved here")
    args = parser.parse_args()
    if args.split_clusters is not None and (args.old_unseen or args.new_unseen):
        parser.error("--old-unseen, --new-unseen: not with --split-clusters")
    return args


class Kind:
    """Vectors of one kind, (n, d) float32: to learn from, and unseen."""

    def __init__(self, x: np.ndarray, unseen: np.ndarray | None, args: argparse.Namespace) -> None:
        rng = np.random.default_rng(0)
        x = x[rng.permutation(len(x))]
        if unseen is None:
            unseen, x = x[: args.n_unseen], x[args.n_unseen :]
        else:
            unseen = unseen[rng.permutation(len(unseen))[: args.n_unseen]]
        self.learn = x[: args.max_points].astype(np.float32)
        self.unseen = unseen.astype(np.float32)

    def error(self, codec: fq.QINCoCodec) -> float:
        x_hat = codec.decode(codec.encode(self.unseen))
        return float(np.square(x_hat - self.unseen).sum(1).mean(dtype=np.float64))


def read(files: list[str] | None) -> np.ndarray | None:
    return None if files is None else Rows(files)[:]


def kinds_of(args: argparse.Namespace, metric: int) -> tuple[Kind, Kind]:
    x, new = read(args.old), read(args.new)
    assert x is not None
    if new is None:
        apart = clusters_apart(x.astype(np.float32), args.split_clusters, metric)
        x, new = x[~apart], x[apart]
    return Kind(x, read(args.old_unseen), args), Kind(new, read(args.new_unseen), args)


def clusters_apart(x: np.ndarray, n: int, metric: int) -> np.ndarray:
    """(len(x),) bool: which vectors are of the new kind."""
    centroids = kmeans(TrainingSet(x, x.shape[1], max_points=n * 2000)[:], n, metric)
    quantizer = faiss.IndexFlat(x.shape[1], metric)
    quantizer.add(centroids)
    cluster = quantizer.search(x, 1)[1][:, 0]
    sizes = np.bincount(cluster, minlength=n)
    first = np.square(centroids - x.mean(0)).sum(1).argmax()
    order = np.square(centroids - centroids[first]).sum(1).argsort()
    n_new = 1 + int(np.searchsorted(sizes[order].cumsum(), NEW_PART * len(x)))
    return np.isin(cluster, order[:n_new])


def trained(x: np.ndarray, epochs: int, args: argparse.Namespace, metric: int) -> fq.QINCoCodec:
    d = x.shape[1]
    centroids = kmeans(TrainingSet(x, d, max_points=args.nlist * 256)[:], args.nlist, metric)
    quantizer = faiss.IndexFlat(d, metric)
    quantizer.add(centroids)
    training = fq.TrainingConfig(
        epochs=epochs, max_seconds=None, noise=args.noise, progress=False, n_validation=512
    )
    data = TrainingSet(x, d)
    list_no = quantizer.search(x, 1)[1][:, 0]
    return train_codec(data, args.M, 8, args.preset, training, centroids, list_no, metric=metric)


def codec_of(name: str, x: np.ndarray, epochs: int, args: argparse.Namespace, metric: int) -> Any:
    path = None if args.codecs is None else args.codecs / f"{name}.safetensors"
    if path is not None and path.exists():
        return fq.QINCoCodec.load(path)
    say(f"{name}: {epochs} epochs of {len(x)} vectors")
    codec = trained(x, epochs, args, metric)
    if path is not None:
        codec.save(path)
    return codec


def main() -> None:
    args = arguments()
    set_threads(args.threads)
    metric = faiss.METRIC_L2 if args.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    old, new = kinds_of(args, metric)
    both = np.concatenate((old.learn, new.learn))
    codec = codec_of("old", old.learn, args.epochs, args, metric)
    epochs = max(1, round(args.epochs * len(old.learn) / len(both)))
    retrained = codec_of("retrained", both, epochs, args, metric)
    print(f"{cpu_name()}, {args.threads} threads, SIMD {fq.simd_level()}; {codec!r}")
    print(f"to learn from: {len(old.learn)} old, {len(new.learn)} new vectors")
    print(f"{'codec':32} {'new':>9} {'recovered':>9} {'old':>9} {'rise':>7} {'blend':>5} {'s':>5}")
    before, after = ((old.error(c), new.error(c)) for c in (codec, retrained))

    def row(name: str, errors: tuple[float, float], last: str = "") -> None:
        gap = before[1] - after[1]
        share = (before[1] - errors[1]) / gap if gap > 0 else math.nan
        rise = 100 * (errors[0] / before[0] - 1)
        print(
            f"{name:32} {errors[1]:9.5g} {share:9.2f} {errors[0]:9.5g} {rise:+5.1f} % {last}",
            flush=True,
        )

    row("old", before)
    row("retrained", after)
    x = new.learn[: args.tune_points]
    for choice in args.choices:
        fields = {k: ast.literal_eval(v) for k, v in (f.split("=") for f in choice.split(",") if f)}
        keep = old.learn[: fields.pop("keep", args.keep)]
        max_loss = fields.pop("max_loss", 0.03)
        training = dataclasses.replace(TUNING, progress=False, **fields)
        tuned = fq.finetune(
            codec, x, keep if len(keep) else None, max_loss=max_loss, training=training
        )
        report = tuned.report
        assert isinstance(report, TuningReport)
        errors = (old.error(tuned), new.error(tuned))
        row(f"tuned {choice}", errors, f"{report.blend:5.2f} {report.seconds:5.0f}")


if __name__ == "__main__":
    main()
