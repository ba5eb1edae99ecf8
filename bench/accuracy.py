r"""The accuracy benchmark: QINCo codes against faiss's PQ, OPQ, RQ and LSQ codes.

Every method uses the SAME centroids (one k-means on the learn vectors; OPQ rotates them), the same
nprobe, the same base vectors, and is trained on the same learn vectors. R@r: the fraction of
queries whose true nearest neighbour is among the first r results. MSE: mean squared L2 error of
the reconstructed base vectors (100,000 of them, spread evenly). RQ and LSQ keep a float32 norm
beside the code (faiss's `_Nfloat`), to search with exact distances to the reconstructed vectors;
QINCo keeps a float32 bias.

LSQ encodes slowly: it is trained on 100,000 learn vectors at most, and filled with the first
`--lsq-subset` base vectors. A second table compares it with RQ and QINCo there, by the exact
neighbours within that subset.

    python bench/accuracy.py --base base.npy --learn learn.npy --query query.npy \
        --groundtruth groundtruth.npy --out accuracy.json --plot accuracy.png
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from tqdm import tqdm

import faiss_qinco as fq
from faiss_qinco.codec.config import resolve_config
from faiss_qinco.storage.vectors import read_groundtruth, read_vectors
from faiss_qinco.tools.evaluate import (
    RANKS,
    Result,
    format_table,
    measure,
    mse,
    set_threads,
    write_json,
)
from faiss_qinco.tools.plots import plot_recall

METHODS = ("pq", "opq", "rq", "pq2x", "lsq", "qinco")
CHUNK = 10_000  # vectors converted to float32 and added at a time
LSQ_LEARN = 100_000  # learn vectors of LSQ
RQ_MEMORY = 1 << 30  # bytes of RQ's beam search in training; faiss: 5 << 30
BIAS_BYTES = 4  # beside a QINCo code


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    files = "npy, fvecs, bvecs, fbin, u8bin, i8bin or file.hdf5:dataset"
    add("--base", nargs="+", required=True, metavar="FILE", help=f"concatenated; {files}")
    add("--learn", nargs="+", required=True, metavar="FILE", help="concatenated")
    add("--query", required=True, metavar="FILE")
    add("--groundtruth", metavar="FILE", help="default, and with --n-base: computed")
    add("--metric", choices=("l2", "ip"), default="l2")
    add("--nlist", type=int, default=1024)
    add("--M", type=int, default=8, help="codes per vector (default: 8)")
    add("--nbits", type=int, default=8, help="bits per code (default: 8)")
    add("--nprobe", type=int, default=64)
    add(
        "--nshort",
        type=int,
        nargs="+",
        default=[1000],
        help=f"vectors re-ranked, at least {max(RANKS)} (default: 1000); 0 is measured as well",
    )
    add("--preset", default="XS", help="size of the QINCo codec (default: XS)")
    add("--max-seconds", type=float, default=1200, help="training time of the QINCo codec")
    add("--threads", type=int, help="default: all")
    add("--n-base", type=int, metavar="N", help="use the first N base vectors")
    add("--n-query", type=int, metavar="N", help="use the first N queries")
    add("--lsq-subset", type=int, default=100_000, metavar="N", help="0: no LSQ")
    methods = f"of {' '.join(METHODS)} (default: all); pq2x: PQ with codes of twice the size"
    add("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD", help=methods)
    add("--codec", type=Path, metavar="FILE", help="use this trained codec, or save it here")
    add("--index", type=Path, metavar="FILE", help="use this filled QINCo index, or save it here")
    add("--out", metavar="JSON", help="write the results")
    add("--plot", metavar="PNG", help="draw the recalls")
    args = parser.parse_args()
    if any(0 < nshort < max(RANKS) for nshort in args.nshort):
        parser.error(f"--nshort: expected at least {max(RANKS)}, the number of results, or 0")
    return args


class Bench:
    """The data and the centroids, and what builds and measures one index after another."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.metric = faiss.METRIC_L2 if args.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self.learn = concatenated(args.learn).astype(np.float32)
        self.base = concatenated(args.base)[: args.n_base]
        self.queries = read_vectors(args.query)[: args.n_query].astype(np.float32)
        self.d = self.base.shape[1]
        if args.groundtruth is None or args.n_base is not None:
            self.groundtruth = self.exact(self.base)
        else:
            self.groundtruth = read_groundtruth(args.groundtruth)[0][: args.n_query]
        if self.groundtruth.max() >= len(self.base):
            sys.exit("--groundtruth: has ids that are not in --base")

        self.index = fq.read_index(args.index) if exists(args.index) else None
        self.codec = fq.QINCoCodec.load(args.codec) if exists(args.codec) else None
        start = time.perf_counter()
        if self.index is not None:
            self.centroids = self.index.quantizer.reconstruct_n(0, self.index.nlist)
        elif self.codec is not None:
            self.centroids = self.codec.centroids()
        else:
            self.centroids = self.kmeans()
        self.kmeans_seconds = time.perf_counter() - start
        if self.centroids.shape != (args.nlist, self.d):
            sys.exit(f"centroids: expected {(args.nlist, self.d)}, got {self.centroids.shape}")

    def kmeans(self) -> np.ndarray:
        say(f"k-means: {self.args.nlist} centroids of {len(self.learn)} vectors")
        parameters = faiss.ClusteringParameters()
        parameters.spherical = self.metric == faiss.METRIC_INNER_PRODUCT
        clustering = faiss.Clustering(self.d, self.args.nlist, parameters)
        clustering.train(self.learn, faiss.IndexFlat(self.d, self.metric))
        return faiss.vector_to_array(clustering.centroids).reshape(-1, self.d)

    def exact(self, base: np.ndarray) -> np.ndarray:
        """The id of each query's nearest base vector, (n, 1)."""
        flat = faiss.IndexFlat(self.d, self.metric)
        fill(flat, base, "ground truth")
        return flat.search(self.queries, 1)[1]

    def faiss_index(
        self, description: str, learn: np.ndarray, base: np.ndarray
    ) -> tuple[Any, float]:
        """Train and fill the index of a factory string; with the seconds of training."""
        say(f"{description}: training on {len(learn)} vectors")
        start = time.perf_counter()
        index: Any = faiss.index_factory(self.d, description, self.metric)
        ivf: Any = faiss.downcast_index(faiss.extract_index_ivf(index))
        ivf.nprobe = self.args.nprobe
        if hasattr(ivf, "pq"):
            ivf.do_polysemous_training = False  # slow, for a kind of search not used here
        if hasattr(ivf, "rq"):
            ivf.rq.max_mem_distances = RQ_MEMORY
        centroids = self.centroids
        if isinstance(index, faiss.IndexPreTransform):
            chain: Any = index.chain
            rotation = faiss.downcast_VectorTransform(chain.at(0))
            rotation.train(learn)
            centroids = rotation.apply(centroids)
        ivf.quantizer.add(centroids)  # k-means is then left out of `train`
        index.train(learn)
        seconds = time.perf_counter() - start
        fill(index, base, description)
        return index, seconds

    def qinco_index(self) -> tuple[Any, float | None]:
        """From --index or --codec where they exist; with the seconds of training, if any."""
        args, index, seconds = self.args, self.index, None
        if index is None:
            name = f"IVF{args.nlist},QINCo{args.M}x{args.nbits}_{args.preset}"
            training = fq.TrainingConfig(max_seconds=args.max_seconds, epochs=1_000_000)
            index = fq.IndexIVFQINCo(
                faiss.IndexFlat(self.d, self.metric), self.d, args.nlist, args.M, args.nbits,
                self.metric, args.preset, training,
            )  # fmt: skip
            index.quantizer.add(self.centroids)
            if self.codec is not None:
                say(f"{name}: with the codec of {args.codec}")
                index.train_from_codec(self.learn, self.codec)
            else:
                say(f"{name}: training on {len(self.learn)} vectors")
                start = time.perf_counter()
                index.train(self.learn)
                seconds = time.perf_counter() - start
                if args.codec is not None and index.codec is not None:
                    index.codec.save(args.codec)
            fill(index, self.base, name)
            if args.index is not None:
                fq.write_index(index, args.index)
        found = (index.d, index.M, index.nbits, index.metric_type, index.ntotal)
        expected = (self.d, args.M, args.nbits, self.metric, len(self.base))
        if found != expected:
            sys.exit(f"--index: expected d, M, nbits, metric, ntotal {expected}, got {found}")
        return index, seconds

    def measure_faiss(
        self,
        name: str,
        M: int,
        built: tuple[Any, float | None],
        base: np.ndarray,
        groundtruth: np.ndarray,
    ) -> Result:
        index, seconds = built
        say(f"{name}: searching")
        code_bytes = (M * self.args.nbits + 7) // 8
        return measure(
            name,
            partial(index.search, k=max(RANKS)),
            self.queries,
            groundtruth,
            mse=mse(index, base),
            code_bytes=code_bytes,
            extra_bytes=faiss.extract_index_ivf(index).code_size - code_bytes,
            train_seconds=seconds,
        )

    def measure_qinco(
        self,
        name: str,
        built: tuple[Any, float | None],
        base: np.ndarray,
        groundtruth: np.ndarray,
        sel: faiss.IDSelector | None = None,
    ) -> list[Result]:
        """One result for each nshort, 0 last."""
        index, seconds = built
        error = mse(index, base)
        results = []
        for nshort in dict.fromkeys([*self.args.nshort, 0]):
            say(f"{name} nshort={nshort}: searching")
            params = fq.SearchParametersIVFQINCo(nprobe=self.args.nprobe, nshort=nshort, sel=sel)
            result = measure(
                f"{name} nshort={nshort}",
                partial(index.search, k=max(RANKS), params=params),
                self.queries,
                groundtruth,
                mse=error,
                code_bytes=index.code_size,
                extra_bytes=BIAS_BYTES,
                train_seconds=seconds,
            )
            results.append(result)
        return results


def main() -> None:
    args = arguments()
    if args.threads is not None:
        set_threads(args.threads)
    bench = Bench(args)
    base, learn, groundtruth = bench.base, bench.learn, bench.groundtruth
    ivf, code = f"IVF{args.nlist}", f"{args.M}x{args.nbits}"
    norm = "_Nfloat" if args.metric == "l2" else ""
    rq_name = f"{ivf},RQ{code}{norm}"
    table, subset_table = [], []

    for method, M, name in (
        ("pq", args.M, f"{ivf},PQ{code}"),
        ("opq", args.M, f"OPQ{args.M},{ivf},PQ{code}"),
        ("pq2x", 2 * args.M, f"{ivf},PQ{2 * args.M}x{args.nbits}"),
        ("rq", args.M, rq_name),
    ):
        if method in args.methods:
            built = bench.faiss_index(name, learn, base)
            table.append(bench.measure_faiss(name, M, built, base, groundtruth))
    rq = built if "rq" in args.methods else None  # the last of the loop
    qinco = bench.qinco_index() if "qinco" in args.methods else None
    if qinco is not None:
        config, report = qinco[0].config, qinco[0].codec.report
        preset = args.preset if config == resolve_config(args.preset) else "custom"
        qinco_name = f"{ivf},QINCo{code}_{preset}"
        table += bench.measure_qinco(qinco_name, qinco, base, groundtruth)

    subset = base[: args.lsq_subset]
    if "lsq" in args.methods and len(subset):
        truth = bench.exact(subset)
        rows = np.random.default_rng(0).permutation(len(learn))[:LSQ_LEARN]
        name = f"{ivf},LSQ{code}{norm}"
        built = bench.faiss_index(name, learn[rows], subset)
        subset_table.append(bench.measure_faiss(name, args.M, built, subset, truth))
        if rq is not None:
            rq[0].reset()
            fill(rq[0], subset, rq_name)
            subset_table.append(bench.measure_faiss(rq_name, args.M, rq, subset, truth))
        if qinco is not None:
            sel = faiss.IDSelectorRange(0, len(subset))
            subset_table += bench.measure_qinco(qinco_name, qinco, subset, truth, sel)

    threads = fq.get_num_threads()
    print(
        f"{len(base)} base vectors, d {bench.d}, {args.metric}; {len(learn)} learn vectors; "
        f"{len(bench.queries)} queries;\n"
        f"nlist {args.nlist} (k-means {bench.kmeans_seconds:.0f} s), "
        f"nprobe {args.nprobe}, {threads} threads, SIMD {fq.simd_level()}\n"
    )
    print(format_table(table, rq_name))
    if rq is not None and qinco is not None:
        ours = next(r for r in table if r.name.startswith(qinco_name))
        theirs = next(r for r in table if r.name == rq_name)
        print(f"\n{ours.name} / {rq_name}:")
        print(f"MSE {ours.mse / theirs.mse:.3f}, R@1 {ours.recall[1] / theirs.recall[1]:.3f}")
    if subset_table:
        print(f"\nOn the first {len(subset)} base vectors only, LSQ trained on {len(rows)}:\n")
        print(format_table(subset_table, rq_name))

    if args.out is not None:
        write_json(
            args.out,
            table,
            subset_results=[dataclasses.asdict(result) for result in subset_table],
            arguments={k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
            n_base=len(base),
            n_learn=len(learn),
            n_query=len(bench.queries),
            d=bench.d,
            kmeans_seconds=bench.kmeans_seconds,
            threads=threads,
            simd_level=fq.simd_level(),
            config=qinco and config.to_dict(),
            training=qinco and report and dataclasses.asdict(report),
            versions={"faiss": faiss.__version__, "faiss_qinco": fq.__version__},
        )
    if args.plot is not None:
        plot_recall(table, args.plot, f"{len(base)} vectors, nprobe {args.nprobe} of {args.nlist}")


def concatenated(files: Sequence[str]) -> np.ndarray:
    return np.concatenate([read_vectors(file) for file in files])


def exists(path: Path | None) -> bool:
    return path is not None and path.exists()


def fill(index: Any, x: np.ndarray, name: str) -> None:
    """Add x in chunks, each converted to float32."""
    for i in tqdm(range(0, len(x), CHUNK), desc=f"{name}: adding", unit=f"x{CHUNK}"):
        index.add(x[i : i + CHUNK].astype(np.float32))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
