"""Compare QINCo codes with faiss's PQ and RQ codes of the same size, on SIFT descriptors that come
with the package: same vectors, same centroids, same nprobe. Takes about a minute."""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from .codec.codec import QINCoCodec
from .codec.config import TrainingConfig
from .factory import index_factory
from .threads import get_num_threads
from .tools.evaluate import RANKS, format_table, measure, mse, set_threads
from .tools.plots import plot_recall

DATA = Path(__file__).parent / "data" / "sift_demo"
CODEC = DATA / "codec.safetensors"
TRAINED_BEFORE = "before, on the same: the shipped codec, two minutes of --train."
NLIST, M, NBITS, NPROBE = 32, 8, 8, 8
NORM_BYTES = 4  # beside the code: RQ's norm and QINCo's bias, both float32


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
        "--seconds", type=_positive(float), default=60.0, metavar="N",
        help="time budget of --train (default: 60)",
    )  # fmt: skip
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="write the codec that was used to a file"
    )
    parser.add_argument(
        "--threads", type=_positive(int), metavar="N", help="threads to use (default: all)"
    )


def run(args: argparse.Namespace) -> None:
    """Run the demo: the table and what was compared go to stdout, progress to stderr."""
    args.out.mkdir(parents=True, exist_ok=True)
    if args.threads is not None:
        set_threads(args.threads)
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
    training = TrainingConfig(max_seconds=args.seconds, epochs=10_000, n_validation=500, noise=0.25)
    qinco: Any = index_factory(d, f"IVF{nlist},QINCo{M}x{NBITS}_XS", training=training)
    results = []
    for name, index, extra_bytes in (
        (f"IVF{nlist},PQ{M}x{NBITS}", pq, 0),
        (f"IVF{nlist},RQ{M}x{NBITS}", rq, NORM_BYTES),
        (f"IVF{nlist},QINCo{M}x{NBITS}", qinco, NORM_BYTES),
    ):
        _say(f"{name}: training, adding {len(base)} vectors, searching {len(query)}")
        index.quantizer.add(centroids)  # k-means is then left out of `train`
        start = time.perf_counter()
        if index is qinco and codec is not None:
            qinco.train_from_codec(learn, codec)
        else:
            index.train(learn)
        seconds = time.perf_counter() - start
        index.add(base)
        index.nprobe = NPROBE
        results.append(
            measure(
                name,
                partial(index.search, k=max(RANKS)),
                query,
                groundtruth,
                mse=mse(index, base),
                code_bytes=M * NBITS // 8,
                extra_bytes=extra_bytes,
                train_seconds=None if index is qinco and codec is not None else seconds,
            )
        )

    print(format_table(results))
    print(
        f"\nSame {len(base)} base vectors (SIFT, d {d}), same {nlist} centroids, same nprobe "
        f"{NPROBE}, same code size.\n"
        f"Squared L2, {get_num_threads()} threads. QINCo re-ranks a shortlist of {qinco.nshort}.\n"
        f"PQ and RQ were trained now, on the {len(learn)} learn vectors; QINCo "
        + ("now, on the same." if codec is None else TRAINED_BEFORE)
    )
    if args.save is not None:
        qinco.codec.save(args.save)
    path = args.out / "faiss_qinco_demo.png"
    try:
        plot_recall(results, path, f"Codes of {M * NBITS // 8} bytes, {len(base)} SIFT descriptors")
        print(f"Plot: {os.fspath(path)}")
    except ImportError as error:
        _say(f"no plot: {error}")


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """learn, base and query, (n, 128) float32, and groundtruth (n, 100) ids."""
    learn, base, query = (
        np.load(DATA / f"{name}.npy").astype(np.float32) for name in ("learn", "base", "query")
    )
    return learn, base, query, np.load(DATA / "groundtruth.npy")


def _positive(kind: type[int] | type[float]) -> Any:
    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"expected more than 0, got {text}")
        return value

    parse.__name__ = kind.__name__  # argparse: "invalid int value"
    return parse


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
