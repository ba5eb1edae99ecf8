"""Compare QINCo codes with faiss's PQ and RQ codes of the same size, on SIFT descriptors that come
with the package: same vectors, same centroids, same nprobe. Takes about a minute."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from .codec.codec import QINCoCodec
from .codec.devices import require_torch
from .factory import index_factory
from .threads import get_num_threads
from .tools.evaluate import RANKS, Point, columns, measure_search, mse
from .tools.options import add_threads, check_out, number, use_threads
from .tools.plots import plot_ranks
from .training.config import TrainingConfig

DATA = Path(__file__).parent / "data" / "sift_demo"
CODEC = DATA / "codec.safetensors"
TRAINED_BEFORE = "before, on the same: the shipped codec, 90 seconds of --train."
NLIST, M, NBITS, NPROBE = 32, 8, 8, 8
EXAMPLE = "faiss-qinco demo"
NORM_BYTES, BIAS_BYTES = 4, 2  # beside the code: of RQ and of QINCo
# Operating points: what the table says of nshort, and what is set.
PLAIN: list[tuple[str, dict[str, Any]]] = [("-", {})]
SHORTLISTS: list[tuple[str, dict[str, Any]]] = [
    ("0", {"nshort": 0}),
    ("10", {"nshort": 10}),
    ("100", {"nshort": 100}),
    ("max(100, 4k)", {"nshort": None}),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `faiss-qinco demo`."""
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR",
        help="folder for the plot (default: the current one)",
    )  # fmt: skip
    parser.add_argument(
        "--train", action="store_true", help="train a codec instead of using the one that is here"
    )
    parser.add_argument(
        "--seconds", type=number(float), default=60.0, metavar="N",
        help="time budget of --train (default: 60)",
    )  # fmt: skip
    parser.add_argument("--save", metavar="FILE", help="write the codec that was used to a file")
    add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Run the demo: the table and what was compared go to stdout, progress to stderr."""
    if args.train:
        require_torch("training")  # before faiss's codes are trained
    args.out.mkdir(parents=True, exist_ok=True)
    if args.save is not None:
        check_out(args.save)
    use_threads(args)
    learn, base, query, groundtruth = load()
    d, nlist, codec = base.shape[1], NLIST, None
    if not args.train and CODEC.exists():
        codec = QINCoCodec.load(CODEC)
        centroids = codec.centroids()
        nlist = len(centroids)
    else:
        if not args.train:
            _say(f"no trained codec is here: training one for {args.seconds:g} s")
        _say(f"k-means: {nlist} centroids")
        clustering = faiss.Clustering(d, nlist)
        clustering.train(learn, faiss.IndexFlatL2(d))
        centroids = faiss.vector_to_array(clustering.centroids).reshape(nlist, d)

    pq: Any = faiss.index_factory(d, f"IVF{nlist},PQ{M}x{NBITS}")
    pq.do_polysemous_training = False  # ten seconds, for a kind of search that is not used here
    rq: Any = faiss.index_factory(d, f"IVF{nlist},RQ{M}x{NBITS}_Nfloat")
    # n_validation: leaves enough training vectors for faiss's k-means not to warn.
    training = TrainingConfig(max_seconds=args.seconds, epochs=10_000, n_validation=500)
    qinco: Any = index_factory(d, f"IVF{nlist},QINCo{M}x{NBITS}_XS", training=training)
    code_bytes = M * NBITS // 8
    rows = [["method", "nshort", "bytes", "MSE", *(c for r in RANKS for c in (f"R@{r}", "QPS"))]]
    points: dict[int, list[Point]] = {rank: [] for rank in RANKS}
    for name, index, stored, settings in (
        (f"IVF{nlist},PQ{M}x{NBITS}", pq, code_bytes, PLAIN),
        (f"IVF{nlist},RQ{M}x{NBITS}", rq, code_bytes + NORM_BYTES, PLAIN),
        (f"IVF{nlist},QINCo{M}x{NBITS}", qinco, code_bytes + BIAS_BYTES, SHORTLISTS),
    ):
        _say(f"{name}: training, adding {len(base)} vectors, searching {len(query)}")
        index.quantizer.add(centroids)  # k-means is then left out of `train`
        if index is qinco and codec is not None:
            qinco.train_from_codec(learn, codec)
        else:
            with contextlib.redirect_stdout(sys.stderr):  # what it says beforehand is no result
                index.train(learn)
        index.add(base)
        index.nprobe = NPROBE
        error = mse(index, base)
        for label, parameters in settings:
            row: list[str] = [name, label, str(stored), f"{error:.0f}"]
            for k in RANKS:
                found = measure_search(index, query, groundtruth, k, parameters)
                shown = dict.fromkeys(parameters, label)
                points[k].append(Point(name, shown, stored, found.recall[k], found.qps))
                row += [f"{found.recall[k]:.3f}", f"{found.qps:.0f}"]
            rows.append(row)

    print(columns(rows))
    reachable = _in_probed_lists(centroids, base, query, groundtruth[:, 0])
    print(
        f"\nSame {len(base)} base vectors (SIFT, d {d}), same {nlist} centroids, same nprobe "
        f"{NPROBE}, codes of {code_bytes} bytes.\n"
        f"Squared L2, {get_num_threads()} threads. R@k and the queries per second beside it are of "
        "searches for k results.\n"
        f"The lists visited hold the nearest neighbour of {reachable:.3f} of the queries: more no "
        "code can reach.\n"
        "QINCo's networks re-rank nshort vectors; 0: none, tables only; max(100, 4k): the "
        "default.\n"
        f"PQ and RQ were trained now, on the {len(learn)} learn vectors; QINCo "
        + ("now, on the same." if codec is None else TRAINED_BEFORE)
    )
    if args.save is not None:
        qinco.codec.save(args.save)
    path = args.out / "faiss_qinco_demo.png"
    try:
        plot_ranks(points, path, f"Codes of {code_bytes} bytes, {len(base)} SIFT descriptors")
        print(f"Plot: {os.fspath(path)}")
    except ImportError as error:
        _say(f"no plot: {error}")


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """learn, base and query, (n, 128) float32, and groundtruth (n, 100) ids."""
    learn, base, query = (
        np.load(DATA / f"{name}.npy").astype(np.float32) for name in ("learn", "base", "query")
    )
    return learn, base, query, np.load(DATA / "groundtruth.npy")


def _in_probed_lists(
    centroids: np.ndarray, base: np.ndarray, query: np.ndarray, nearest: np.ndarray
) -> float:
    """The fraction of queries whose nearest base vector is in the lists that they visit."""
    visited = faiss.knn(query, centroids, NPROBE)[1]
    return float((visited == faiss.knn(base[nearest], centroids, 1)[1]).any(axis=1).mean())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
