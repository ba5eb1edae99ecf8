r"""The accuracy benchmark: QINCo codes against faiss's PQ, OPQ, RQ, LSQ and RaBitQ codes.

Every method uses the SAME lists and probes the same of them (one k-means on the learn vectors), the
same base vectors, and is trained on the same learn vectors. For inner product, peers come with
residuals to faiss's centroids and to the means of the lists' vectors, and, for vectors of one
length, searched by L2 as well (`bench/peers.py`); with `--bases flat`, without lists, all base
vectors scanned. R@r: the fraction of queries whose true nearest neighbour is among the first r
results. 10@10: the fraction of the 10 true nearest among the first 10 results. MSE: mean squared L2
error of the reconstructed base vectors (100,000 of them, spread evenly).

`bytes` is what is stored for a vector besides its id: the code, and what stands beside it (the
float32 norm of RQ and LSQ with L2, the factors of RaBitQ, QINCo's bias or ratio of lengths). For
each M, QINCo is compared with the best of the peers that have M codes, and with the best of all
that store at most as many bytes as it does; RQ comes with 4 bytes more of codes too, and no norm
(`rq+`). RaBitQ is compared where its bit for each dimension fits, factors and all; it is measured
where the bits do.

LSQ encodes slowly: it is trained on 100,000 learn vectors at most, filled with the first
`--lsq-subset` base vectors, and left out above `--lsq-max-M`. Where the base is larger, a second
table compares it with RQ and QINCo there, by the exact neighbours within that subset.

With --peers-cache, what was measured of the peers and the centroids are kept for the next run on
the same data: then only QINCo is measured.

    python bench/accuracy.py --base base.npy --learn learn.npy --query query.npy \
        --groundtruth groundtruth.npy --M 8 16 --out accuracy.json --plot accuracy.png
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from common import (
    BIAS_BYTES,
    Bench,
    Rows,
    add_index_arguments,
    environment,
    exists,
    plain_arguments,
    say,
)
from peers import METHODS, SAME_CODES, Lists, Peer, encoding

import faiss_qinco as fq
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

LSQ_LEARN = 100_000  # learn vectors of LSQ


@dataclass(frozen=True)
class Measured:
    """A result, and what it is one of: method (`qinco` or a peer's), its lists and its M."""

    method: str
    lists: str
    M: int
    result: Result

    @property
    def curve(self) -> str:
        """What it has in common with the results of other M."""
        nshort = self.result.name.partition(" ")[2] if self.method == "qinco" else ""
        return " ".join(filter(None, [self.method, self.lists, nshort]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_index_arguments(parser, many_M=True)
    add = parser.add_argument
    add("--nprobe", type=int, default=64)
    add(
        "--nshort",
        type=int,
        nargs="+",
        default=[1000],
        help="vectors re-ranked (default: 1000); 0 is measured as well",
    )
    add("--threads", type=int, help="default: all")
    add("--lsq-subset", type=int, default=100_000, metavar="N", help="0: no LSQ")
    add("--lsq-max-M", type=int, default=16, metavar="M", help="no LSQ above (default: 16)")
    kinds = ("centroids", "means", "l2", "flat")
    add("--bases", nargs="+", choices=kinds, default=kinds[:3], metavar="BASE",
        help="what peers take residuals to: centroids (with l2, they are the means), means, l2 "
        "(means, and searched by L2, for inner product of vectors of one length), or flat: "
        "nothing, there are no lists (default: centroids means l2)")  # fmt: skip
    every = (*METHODS, "qinco")
    usual = [method for method in every if method != "pq2x"]
    add("--methods", nargs="+", choices=every, default=usual, metavar="METHOD",
        help=f"of {' '.join(every)} (default: all but pq2x, PQ with twice the codes)")  # fmt: skip
    add("--peers-cache", type=Path, metavar="FOLDER", help="keep what is measured of peers here")
    add("--repeats", type=int, default=0, help="timed searches of each method (default: none)")
    add("--out", metavar="JSON", help="write the results")
    add("--plot", metavar="PNG", help="draw the recalls")
    args = parser.parse_args()
    for option in (args.index, args.codec):
        if len(args.M) > 1 and option is not None and "{M}" not in str(option):
            parser.error(f"{option}: expected a path with {{M}}, for each of --M {args.M}")
    return args


class Accuracy:
    """The data, and what measures one method after another on it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        cache: Path | None = args.peers_cache
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
        # The file of the centroids is named after the files and arguments that they depend on.
        of_lists = (args.learn, args.metric, args.nlist)
        kept = cache and cache / f"centroids-{zlib.crc32(repr(of_lists).encode()):08x}.npy"
        self.bench = bench = Bench(args, np.load(kept) if exists(kept) else None)
        if kept is not None:
            np.save(kept, bench.centroids)
        self.lists = Lists(bench.centroids, bench.learn, bench.queries, args.nprobe, bench.metric)
        self.subset = bench.base[: args.lsq_subset]
        self.lsq_everywhere = len(self.subset) == len(bench.base)
        self._opq: dict[int, tuple[Any, float]] = {}
        self._subset_truth: np.ndarray | None = None
        data = (len(bench.base), args.nlist, args.nprobe, args.nbits, args.metric)
        self._data = zlib.crc32(repr((data, faiss.__version__)).encode())
        for array in (bench.learn, bench.queries, bench.groundtruth, bench.centroids):
            self._data = zlib.crc32(np.ascontiguousarray(array), self._data)

    def subset_truth(self) -> np.ndarray:
        if self._subset_truth is None:
            self._subset_truth = self.bench.exact(self.subset)
        return self._subset_truth

    def peers(self, method: str, M: int) -> tuple[list[Measured], list[Measured]]:
        """The results on all of base and, where LSQ needs it, on the subset."""
        d, nbits = self.bench.d, self.args.nbits
        with_lsq = self.args.lsq_max_M >= M and len(self.subset) > 0
        if (method == "lsq" and not with_lsq) or (
            method == "rabitq" and -(-d // 8) > M * nbits / 8
        ):
            return [], []
        on_all: list[Measured] = []
        on_subset: list[Measured] = []
        for lists in [b for b in self.args.bases if b in (*self.lists.bases, "flat")]:
            peer: Peer | None = None
            whole = method != "lsq" or self.lsq_everywhere
            part = with_lsq and not self.lsq_everywhere and method in ("lsq", "rq")
            for wanted, of_subset, results in ((whole, False, on_all), (part, True, on_subset)):
                if not wanted:
                    continue
                part_name = f"-first{len(self.subset)}" if of_subset else ""
                file = f"{self._data:08x}-{method}-{M}-{lists}{part_name}.json"
                kept = self.args.peers_cache and self.args.peers_cache / file
                if exists(kept):
                    result = from_json(kept)
                else:
                    peer = peer or self._peer(method, M, lists)
                    result = self._measure(peer, method, M, lists, of_subset)
                    if kept is not None:
                        kept.write_text(json.dumps(dataclasses.asdict(result)))
                results.append(Measured(method, self._label(lists), M, result))
        return on_all, on_subset

    def _label(self, lists: str) -> str:
        """What tells the variants of a method apart."""
        return lists if len(self.lists.bases) > 1 or lists == "flat" else ""

    def _peer(self, method: str, M: int, lists: str) -> Peer:
        bench, learn = self.bench, self.bench.learn
        metric = faiss.METRIC_L2 if lists == "l2" else bench.metric
        code = encoding(method, M, self.args.nbits, metric)[0]
        rows = np.arange(len(learn))
        if method == "lsq":
            rows = np.random.default_rng(0).permutation(rows)[:LSQ_LEARN]
        of_lists = None if lists == "flat" else self.lists
        say(f"{code}, {lists}: training on {len(rows)} vectors")
        return Peer(
            method, M, self.args.nbits, learn, rows, of_lists, lists, bench.metric, self._opq
        )

    def _measure(self, peer: Peer, method: str, M: int, lists: str, of_subset: bool) -> Result:
        base: np.ndarray | Rows = self.subset if of_subset else self.bench.base
        peer.fill(base)
        say(f"{peer.name}, {lists}: searching")
        return measure(
            " ".join(filter(None, [peer.name, self._label(lists)])),
            partial(peer.search, k=max(RANKS)),
            self.bench.queries,
            self.subset_truth() if of_subset else self.bench.groundtruth,
            mse=mse(peer, base),
            code_bytes=peer.code_bytes,
            extra_bytes=peer.extra_bytes,
            train_seconds=peer.seconds,
            repeats=self.args.repeats,
        )

    def qinco(self, M: int, with_subset: bool) -> tuple[list[Measured], list[Measured], Any]:
        """One result for each nshort, 0 last; those on the subset; the configuration."""
        index, seconds = self.bench.qinco_index(M)
        name = f"QINCo{M}x{self.args.nbits}"
        beside = BIAS_BYTES if index.memory_usage()["bias"] else 0
        tables: tuple[list[Measured], list[Measured]] = ([], [])
        for of_subset in (False, True)[: 1 + with_subset]:
            base = self.subset if of_subset else self.bench.base
            sel = faiss.IDSelectorRange(0, len(base)) if of_subset else None
            error = mse(index, base)
            for nshort in dict.fromkeys([*self.args.nshort, 0]):
                say(f"{name} nshort={nshort}: searching")
                params = fq.SearchParametersIVFQINCo(
                    nprobe=self.args.nprobe, nshort=nshort, sel=sel
                )
                result = measure(
                    f"{name} nshort={nshort}",
                    partial(index.search, k=max(RANKS), params=params),
                    self.bench.queries,
                    self.subset_truth() if of_subset else self.bench.groundtruth,
                    mse=error,
                    code_bytes=index.code_size,
                    extra_bytes=beside,
                    train_seconds=seconds,
                    repeats=self.args.repeats,
                )
                tables[of_subset].append(Measured("qinco", "", M, result))
        report = index.codec.report
        config = {
            "config": index.config.to_dict(),
            "training": report and dataclasses.asdict(report),
        }
        return *tables, config


def from_json(file: Path) -> Result:
    content = json.loads(file.read_text())
    recall = {int(r): fraction for r, fraction in content.pop("recall").items()}
    return Result(recall=recall, **content)


def verdict(table: list[Measured], M: int) -> list[str]:
    """How QINCo's best stands to the best peer in R@1 and to the best in MSE."""
    ours = [m.result for m in table if m.method == "qinco" and m.M == M]
    if not ours:
        return []
    best = max(ours, key=lambda r: r.recall[1])
    peers = [m for m in table if m.method != "qinco"]
    lines = []
    for what, results in (
        (
            f"peers of {M} codes",
            [m.result for m in peers if m.M == M and m.method in SAME_CODES],
        ),
        (
            f"peers of at most {best.stored_bytes} bytes",
            [m.result for m in peers if m.result.stored_bytes <= best.stored_bytes],
        ),
    ):
        if results:
            found = max(results, key=lambda r: r.recall[1])
            close = min(results, key=lambda r: r.mse)
            lines.append(
                f"M {M}, {best.stored_bytes} bytes, beside the best of the {what}: "
                f"R@1 {best.recall[1] / found.recall[1]:.3f} ({found.name}), "
                f"MSE {best.mse / close.mse:.3f} ({close.name})"
            )
    return lines


def main() -> None:
    args = arguments()
    if args.threads is not None:
        set_threads(args.threads)
    accuracy = Accuracy(args)
    bench = accuracy.bench
    table: list[Measured] = []
    subset_table: list[Measured] = []
    configs = {}
    for M in args.M:
        subset_before = len(subset_table)
        for method in METHODS:
            if method in args.methods:
                on_all, on_subset = accuracy.peers(method, M)
                table += on_all
                subset_table += on_subset
        if "qinco" in args.methods:
            with_subset = len(subset_table) > subset_before
            on_all, on_subset, configs[M] = accuracy.qinco(M, with_subset)
            table += on_all
            subset_table += on_subset

    threads = fq.get_num_threads()
    print(
        f"{len(bench.base)} base vectors, d {bench.d}, {args.metric}; {len(bench.learn)} learn "
        f"vectors; {len(bench.queries)} queries;\n"
        f"nlist {args.nlist}, nprobe {args.nprobe}, {threads} threads, SIMD {fq.simd_level()}\n"
    )
    print(format_table([m.result for m in table]))
    verdicts = [line for M in args.M for line in verdict(table, M)]
    print("\n" + "\n".join(verdicts))
    if subset_table:
        print(f"\nOn the first {len(accuracy.subset)} base vectors only:\n")
        print(format_table([m.result for m in subset_table]))

    if args.out is not None:
        write_json(
            args.out,
            [m.result for m in table],
            subset_results=[dataclasses.asdict(m.result) for m in subset_table],
            verdicts=verdicts,
            arguments=plain_arguments(args),
            n_base=len(bench.base),
            n_learn=len(bench.learn),
            n_query=len(bench.queries),
            d=bench.d,
            kmeans_seconds=bench.kmeans_seconds,
            qinco=configs,
            **environment(),
        )
    if args.plot is not None:
        curves: dict[str, list[Result]] = {}
        for m in table:
            curves.setdefault(m.curve, []).append(m.result)
        title = f"{len(bench.base)} vectors, nprobe {args.nprobe} of {args.nlist}"
        plot_recall(curves, args.plot, title)


if __name__ == "__main__":
    main()
