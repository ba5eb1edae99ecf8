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
from functools import partial
from typing import Any

import faiss
import numpy as np
from common import (
    BIAS_BYTES,
    Bench,
    add_index_arguments,
    environment,
    fill,
    plain_arguments,
    say,
)

import faiss_qinco as fq
from faiss_qinco.codec.config import resolve_config
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
LSQ_LEARN = 100_000  # learn vectors of LSQ


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_index_arguments(parser)
    add = parser.add_argument
    add("--nprobe", type=int, default=64)
    add(
        "--nshort",
        type=int,
        nargs="+",
        default=[1000],
        help=f"vectors re-ranked, at least {max(RANKS)} (default: 1000); 0 is measured as well",
    )
    add("--threads", type=int, help="default: all")
    add("--lsq-subset", type=int, default=100_000, metavar="N", help="0: no LSQ")
    methods = f"of {' '.join(METHODS)} (default: all); pq2x: PQ with codes of twice the size"
    add("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD", help=methods)
    add("--out", metavar="JSON", help="write the results")
    add("--plot", metavar="PNG", help="draw the recalls")
    args = parser.parse_args()
    if any(0 < nshort < max(RANKS) for nshort in args.nshort):
        parser.error(f"--nshort: expected at least {max(RANKS)}, the number of results, or 0")
    return args


def measure_faiss(
    bench: Bench,
    name: str,
    M: int,
    built: tuple[Any, float | None],
    base: np.ndarray,
    groundtruth: np.ndarray,
) -> Result:
    index, seconds = built
    faiss.extract_index_ivf(index).nprobe = bench.args.nprobe
    say(f"{name}: searching")
    code_bytes = (M * bench.args.nbits + 7) // 8
    return measure(
        name,
        partial(index.search, k=max(RANKS)),
        bench.queries,
        groundtruth,
        mse=mse(index, base),
        code_bytes=code_bytes,
        extra_bytes=faiss.extract_index_ivf(index).code_size - code_bytes,
        train_seconds=seconds,
    )


def measure_qinco(
    bench: Bench,
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
    for nshort in dict.fromkeys([*bench.args.nshort, 0]):
        say(f"{name} nshort={nshort}: searching")
        params = fq.SearchParametersIVFQINCo(nprobe=bench.args.nprobe, nshort=nshort, sel=sel)
        result = measure(
            f"{name} nshort={nshort}",
            partial(index.search, k=max(RANKS), params=params),
            bench.queries,
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
            table.append(measure_faiss(bench, name, M, built, base, groundtruth))
    rq = built if "rq" in args.methods else None  # the last of the loop
    qinco = bench.qinco_index() if "qinco" in args.methods else None
    if qinco is not None:
        config, report = qinco[0].config, qinco[0].codec.report
        preset = args.preset if config == resolve_config(args.preset) else "custom"
        qinco_name = f"{ivf},QINCo{code}_{preset}"
        table += measure_qinco(bench, qinco_name, qinco, base, groundtruth)

    subset = base[: args.lsq_subset]
    if "lsq" in args.methods and len(subset):
        truth = bench.exact(subset)
        rows = np.random.default_rng(0).permutation(len(learn))[:LSQ_LEARN]
        name = f"{ivf},LSQ{code}{norm}"
        built = bench.faiss_index(name, learn[rows], subset)
        subset_table.append(measure_faiss(bench, name, args.M, built, subset, truth))
        if rq is not None:
            rq[0].reset()
            fill(rq[0], subset, rq_name)
            subset_table.append(measure_faiss(bench, rq_name, args.M, rq, subset, truth))
        if qinco is not None:
            sel = faiss.IDSelectorRange(0, len(subset))
            subset_table += measure_qinco(bench, qinco_name, qinco, subset, truth, sel)

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
            arguments=plain_arguments(args),
            n_base=len(base),
            n_learn=len(learn),
            n_query=len(bench.queries),
            d=bench.d,
            kmeans_seconds=bench.kmeans_seconds,
            config=qinco and config.to_dict(),
            training=qinco and report and dataclasses.asdict(report),
            **environment(),
        )
    if args.plot is not None:
        plot_recall(table, args.plot, f"{len(base)} vectors, nprobe {args.nprobe} of {args.nlist}")


if __name__ == "__main__":
    main()
