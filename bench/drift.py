r"""The alarms of `index.drift`: how often vectors of the training's kind, unseen, raise one, and
how often those of another kind do, alone and mixed with the first.

Samples of each of --sizes are drawn, --repeat times, from the vectors of --same and --shifted, each
encoded once. The reference are the codec's own statistics, or, with --reference, those of
--n-reference unseen vectors.

    python bench/drift.py --codec codec.safetensors --same base.npy query.npy --shifted other.npy
"""

from __future__ import annotations

import argparse

import numpy as np
from common import Rows, say

import faiss_qinco as fq
from faiss_qinco.codec.statistics import Drift, Statistics, drift
from faiss_qinco.tools.evaluate import set_threads


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--codec", required=True, metavar="FILE")
    add("--reference", metavar="FILE", help="unseen vectors (default: the codec's statistics)")
    add("--n-reference", type=int, default=2048, metavar="N")
    add("--same", nargs="+", required=True, metavar="FILE", help="each a set of its own")
    add("--shifted", nargs="+", default=[], metavar="FILE", help="each a set of its own")
    add("--parts", type=float, nargs="+", default=[1.0, 0.2], help="that are of the shifted ones")
    add("--n", type=int, default=20_000, metavar="N", help="vectors of each set, at most")
    add("--sizes", type=int, nargs="+", default=[50, 200, 1000, 16384])
    add("--repeat", type=int, default=100, metavar="N")
    add("--threads", type=int, default=1)
    return parser.parse_args()


class Encoded:
    """What a codec made of vectors: errors (n,), codes (n, M), lists (n,) or None."""

    def __init__(self, codec: fq.QINCoCodec, file: str, most: int, skip: int = 0) -> None:
        x, rng = Rows([file])[:], np.random.default_rng(0)
        x = x[rng.permutation(len(x))[skip : skip + most]].astype(np.float32)
        say(f"{file}: {len(x)} vectors")
        self.codec, found = codec, codec.encode(x)
        self.lists, self.codes = codec.split(found)
        self.errors = np.square(codec.decode(found) - x).sum(1)

    def __len__(self) -> int:
        return len(self.errors)

    def sample(self, n: int, other: Encoded, part: float, rng: np.random.Generator) -> Statistics:
        """Of n vectors, so many of which are of the other set."""
        n_other = round(part * n)
        ours = rng.choice(len(self), n - n_other, replace=False)
        theirs = rng.choice(len(other), n_other, replace=False)
        return Statistics.of(
            np.concatenate((self.errors[ours], other.errors[theirs])),
            np.concatenate((self.codes[ours], other.codes[theirs])),
            self.codec.K,
            None if self.lists is None or other.lists is None
            else np.concatenate((self.lists[ours], other.lists[theirs])),
            self.codec.nlist,
        )  # fmt: skip


def main() -> None:
    args = arguments()
    set_threads(args.threads)
    codec = fq.QINCoCodec.load(args.codec)
    reference, skip = codec.statistics, 0
    if args.reference is not None:
        known = Encoded(codec, args.reference, args.n_reference)
        reference = known.sample(len(known), known, 0.0, np.random.default_rng(0))
        skip = args.n_reference
    if reference is None:
        raise SystemExit("--codec: it has no statistics; give --reference")
    print(f"{codec!r}; reference: {reference.n} vectors")
    same = {f: Encoded(codec, f, args.n, skip * (f == args.reference)) for f in args.same}
    shifted = {f: Encoded(codec, f, args.n) for f in args.shifted}
    first = same[args.same[0]]
    trials = [(name, found, found, 0.0) for name, found in same.items()]
    trials += [(f, first, found, p) for f, found in shifted.items() for p in args.parts]
    print(f"{'set':40} {'part':>5} {'n':>6} {'alarms':>7} {'score 5 % 50 % 95 %':>20}  the largest")
    for name, base, other, part in trials:
        for n in args.sizes:
            if n - round(part * n) > len(base) or round(part * n) > len(other):
                continue
            rng = np.random.default_rng(1)
            found: list[Drift] = [
                drift(reference, base.sample(n, other, part, rng)) for _ in range(args.repeat)
            ]
            scores = np.quantile([one.score for one in found], [0.05, 0.5, 0.95])
            parts = {k: float(np.median([one.parts[k] for one in found])) for k in found[0].parts}
            print(
                f"{name[-40:]:40} {part:5.2f} {n:6} {np.mean([one.alarm for one in found]):7.2f} "
                f"{scores[0]:6.2f} {scores[1]:6.2f} {scores[2]:6.2f}  "
                + ", ".join(f"{k} {v:.2f}" for k, v in parts.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
