r"""What the correction of length is worth: inner product, with and without it, and lengths of one's
own.

The vectors are searched as they are, and again each scaled by a factor of its own from 0.5 to 2
(`--scale LOW HIGH`): then a long one is found more often than a short one, and its length matters.
One codec is trained for each kind; the two indexes of it have the same codes and take the same
memory. R@1, 10@10: as in `accuracy.py`. Peers: faiss's RQ of as many codes in as many lists.

    python bench/length_correction.py --base base.npy --learn learn.npy --query query.npy
"""

from __future__ import annotations

import argparse

import faiss
import numpy as np

import faiss_qinco as fq
from faiss_qinco.storage.vectors import read_vectors
from faiss_qinco.tools.evaluate import set_threads

from common import cpu_name, say  # isort: skip

K = 10


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    for name in ("base", "learn", "query"):
        add(f"--{name}", required=True, metavar="FILE")
    add("--nlist", type=int, default=64)
    add("--M", type=int, default=8)
    add("--seconds", type=float, default=240, help="of each training (default: 240)")
    add("--scale", type=float, nargs=2, default=(0.5, 2.0), metavar=("LOW", "HIGH"))
    add("--threads", type=int, default=1)
    return parser.parse_args()


def figures(I: np.ndarray, truth: np.ndarray) -> str:
    same = np.mean([len(np.intersect1d(a, b)) for a, b in zip(I, truth, strict=True)]) / K
    first, any10 = (I[:, 0] == truth[:, 0]).mean(), (truth[:, :1] == I).any(1).mean()
    return f"{first:7.3f} {any10:7.3f} {same:7.3f}"


def main() -> None:
    args = arguments()
    set_threads(args.threads)
    base, learn, queries = (
        read_vectors(path)[:].astype(np.float32) for path in (args.base, args.learn, args.query)
    )
    d, ip = base.shape[1], faiss.METRIC_INNER_PRODUCT
    rng = np.random.default_rng(0)
    print(f"{cpu_name()}, {args.threads} threads, SIMD {fq.simd_level()}; {len(base)} vectors")
    print(f"{'vectors':8} {'method':34} {'R@1':>7} {'R@10':>7} {'10@10':>7}")
    for kind in ("given", "scaled"):
        if kind == "scaled":
            low, high = args.scale
            base, learn = (
                x * rng.uniform(low, high, (len(x), 1)).astype(np.float32) for x in (base, learn)
            )
        truth = faiss.knn(queries, base, K, metric=ip)[1]
        rq = faiss.index_factory(d, f"IVF{args.nlist},RQ{args.M}x8_Nnone", ip)
        rq.train(learn)
        rq.add(base)
        rq.nprobe = args.nlist
        print(
            f"{kind:8} {'faiss IVF, RQ':34} {figures(rq.search(queries, K)[1], truth)}", flush=True
        )
        codec = None
        for corrected in (False, True):
            training = fq.TrainingConfig(max_seconds=args.seconds, progress=False)
            index = fq.IndexIVFQINCo(
                faiss.IndexFlatIP(d), d, args.nlist, args.M, 8, ip, training=training
            )
            index.length_correction = corrected
            if codec is None:
                index.train(learn)
                codec = index.codec
            else:
                index.train_from_codec(learn, codec)
            say(f"{kind}: adding")
            index.add(base)
            index.nprobe = args.nlist
            for nshort in (0, 100):
                index.nshort = nshort
                name = f"QINCo nshort {nshort}, {'corrected' if corrected else 'as decoded'}"
                print(
                    f"{kind:8} {name:34} {figures(index.search(queries, K)[1], truth)}", flush=True
                )


if __name__ == "__main__":
    main()
