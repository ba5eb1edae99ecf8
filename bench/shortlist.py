r"""The shortlist benchmark: QINCo's table scan against faiss's RQ and PQ, no neural re-ranking.

faiss's `IVF…,RQ…_Nqint8` gets the SAME centroids, codes and additive codebooks as the QINCo index,
so that both rank by the same approximate distance; faiss's `IVF…,PQ…` is trained and filled with
the vectors that those codes stand for. Every search runs with the same nprobe, k and number of
threads, best of several repeats. R@k: the fraction of queries whose true nearest neighbour is in
the shortlist of k.

Then single queries, median and 99th percentile; and what selectors cost: the time of the batch with
one, relative to the time without.

    python bench/shortlist.py --index filled.fqi --query query.npy --groundtruth groundtruth.npy
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import faiss
import numpy as np

import faiss_qinco as fq
from faiss_qinco.index_file import index_state
from faiss_qinco.storage.container import in_memory
from faiss_qinco.storage.vectors import read_groundtruth, read_vectors
from faiss_qinco.tools.evaluate import recall_at, set_threads

CHUNK = 20_000  # vectors decoded at a time
PQ_LEARN = 100_000


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--index", required=True, metavar="FILE", help="a filled IndexIVFQINCo, L2, nbits 8")
    add("--query", required=True, metavar="FILE")
    add("--groundtruth", required=True, metavar="FILE")
    add("--n-query", type=int, metavar="N", help="use the first N queries")
    add("--nprobe", type=int, default=64)
    add("--k", type=int, default=100)
    add("--threads", type=int, nargs="+", default=[1, 2])
    add("--repeats", type=int, default=3)
    add("--latency-nprobe", type=int, default=16, help="for single queries (default: 16)")
    add("--slow-queries", type=int, default=1000, help="queries to time RQ with (default: 1000)")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    index: Any = fq.read_index(args.index)
    queries = read_vectors(args.query)[: args.n_query].astype(np.float32)
    groundtruth = read_groundtruth(args.groundtruth)[0][: args.n_query]
    with index_state(index) as (header, tensors):
        state = in_memory("index", header, tensors).all()
    index.nprobe, index.nshort = args.nprobe, 0
    methods: dict[str, Any] = {"QINCo": index}
    code = f"{index.M}x{index.nbits}"
    rq_name, pq_name = f"IVF{index.nlist},RQ{code}_Nqint8", f"IVF{index.nlist},PQ{code}"
    for name, build in ((rq_name, same_codes), (pq_name, same_vectors)):
        theirs = build(name, index.d, state)
        theirs.nprobe = args.nprobe
        methods[name] = theirs

    print(
        f"{index.ntotal} vectors, d {index.d}, nprobe {args.nprobe}, k {args.k}, "
        f"SIMD {fq.simd_level()}, faiss {faiss.__version__}\n"
    )
    print(f"{'threads':>7} {'method':24} {'queries/s':>10} {'QINCo is':>9} {f'R@{args.k}':>7}")
    for threads in args.threads:
        set_threads(threads)
        ours = 0.0
        for name, method in methods.items():
            search = method.search
            rows = queries[: args.slow_queries] if name == rq_name else queries
            qps, I = measure(partial(search, rows, args.k), len(rows), args.repeats)
            if len(I) < len(queries):
                I = search(queries, args.k)[1]
            recall = recall_at(I, groundtruth, (args.k,))[args.k]
            ours = ours or qps
            print(f"{threads:7} {name:24} {qps:10.0f} {ours / qps:8.1f}x {recall:7.4f}")
    set_threads(1)
    latency(methods, queries, args)
    selectors(index, queries, args)


def latency(methods: dict[str, Any], queries: np.ndarray, args: argparse.Namespace) -> None:
    print(f"\n{f'one query, nprobe {args.latency_nprobe}':32} {'median':>9} {'99 %':>9}  QINCo is")
    ours = 0.0
    for name, method in methods.items():
        method.nprobe = args.latency_nprobe
        times = []
        for q in queries[:1000, None]:
            start = time.perf_counter()
            method.search(q, 10)
            times.append(time.perf_counter() - start)
        median, worst = np.percentile(times, (50, 99)) * 1e6
        ours = ours or median
        print(f"{name:32} {median:6.0f} µs {worst:6.0f} µs {median / ours:8.1f}x")
        method.nprobe = args.nprobe


def selectors(index: Any, queries: np.ndarray, args: argparse.Namespace) -> None:
    n, rng = index.ntotal, np.random.default_rng(0)

    def bitmap(share: float) -> Any:
        return faiss.IDSelectorBitmap(np.packbits(rng.random(n) < share, bitorder="little"))

    batches = (len(queries), 100, 1)
    print(f"\n{'time with a selector, without: 1':32}" + "".join(f"{b:7}q" for b in batches))
    chosen = {
        "range, everything": faiss.IDSelectorRange(0, n),
        "bitmap, everything": bitmap(1),
        "bitmap, 10 %": bitmap(0.1),
        "bitmap, 1 %": bitmap(0.01),
        "batch, 1 %": faiss.IDSelectorBatch(np.flatnonzero(rng.random(n) < 0.01)),
    }
    base: list[float] = []
    for name, sel in {"none": None, **chosen}.items():
        params = fq.SearchParametersIVFQINCo(nprobe=args.nprobe, nshort=0, sel=sel)
        qps = [
            measure(
                partial(index.search, queries[:batch], args.k, params=params),
                batch,
                args.repeats if batch > 1 else 100,
            )[0]
            for batch in batches
        ]
        base = base or qps
        print(f"{name:32}" + "".join(f"{b / q:8.2f}" for b, q in zip(base, qps, strict=True)))


def measure(search: Any, n: int, repeats: int) -> tuple[float, np.ndarray]:
    """Queries per second, best of `repeats`, and the ids."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        I = search()[1]
        best = min(best, time.perf_counter() - start)
    return n / best, I


def same_codes(name: str, d: int, state: dict[str, np.ndarray]) -> Any:
    """faiss's residual quantizer with the additive codebooks and the codes of the state."""
    theirs: Any = faiss.index_factory(d, name)
    theirs.quantizer.add(state["centroids"])
    faiss.copy_array_to_vector(state["additive"].ravel(), theirs.rq.codebooks)
    theirs.rq.is_trained = theirs.is_trained = True
    norms = np.concatenate([(r**2).sum(1) for r in residuals(state)])
    theirs.rq.train_norm(len(norms), faiss.swig_ptr(norms))
    begin = 0
    for list_no, size in enumerate(state["sizes"]):
        rows = slice(begin, begin := begin + int(size))
        codes, ids = state["codes"][rows].astype(np.int32), state["ids"][rows]
        packed = np.empty((len(codes), theirs.code_size), np.uint8)
        theirs.rq.pack_codes(len(codes), faiss.swig_ptr(codes), faiss.swig_ptr(packed))
        theirs.invlists.add_entries(list_no, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(packed))
    theirs.ntotal = begin
    return theirs


def same_vectors(name: str, d: int, state: dict[str, np.ndarray]) -> Any:
    """faiss's product quantizer, trained and filled with what the codes of the state stand for."""
    theirs: Any = faiss.index_factory(d, name)
    theirs.quantizer.add(state["centroids"])
    theirs.do_polysemous_training = False  # slow, for a kind of search not used here
    x = np.concatenate(list(residuals(state)))
    list_no = np.repeat(np.arange(theirs.nlist), state["sizes"])
    for i in range(0, len(x), CHUNK):
        x[i : i + CHUNK] += state["centroids"][list_no[i : i + CHUNK]]
    theirs.train(x[np.random.default_rng(0).permutation(len(x))[:PQ_LEARN]])
    for i in range(0, len(x), CHUNK):
        rows = x[i : i + CHUNK]
        theirs.add_core(
            len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(state["ids"][i : i + CHUNK]),
            faiss.swig_ptr(list_no[i : i + CHUNK]),
        )  # fmt: skip
    return theirs


def residuals(state: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    """The additive approximation of x - centroid, in runs of the order of storing."""
    codebooks = state["additive"]
    for i in range(0, len(state["codes"]), CHUNK):
        codes = state["codes"][i : i + CHUNK]
        yield sum(codebook[codes[:, m]] for m, codebook in enumerate(codebooks))


if __name__ == "__main__":
    main()
