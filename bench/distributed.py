"""Encoding and search on Ray with 1, 2 and 4 workers of one thread each, on this machine.

    python bench/distributed.py --index index.fqi --base base.npy --query query.npy

--index is filled; what it holds is cut into four segments. Prints vectors encoded and queries
searched a second, and the ratio to one worker; and, beside these, the same without Ray.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import ray
from common import cpu_name

import faiss_qinco as fq
from faiss_qinco.pipeline.distributed import commit, encode_shards
from faiss_qinco.pipeline.distributed_index import DistributedIndex
from faiss_qinco.pipeline.encode import encode
from faiss_qinco.storage.source import open_vectors
from faiss_qinco.threads import set_num_threads

SEGMENTS = 4


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--index", required=True, metavar="FILE", help="a filled IVF index")
    add("--base", required=True, metavar="FILE", help="vectors to encode")
    add("--query", required=True, metavar="FILE")
    add("--n-base", type=int, default=20_000, metavar="N", help="vectors to encode")
    add("--n-query", type=int, default=4000, metavar="N")
    add("--nprobe", type=int, default=16)
    add("--workers", type=int, nargs="+", default=[1, 2, 4])
    return parser.parse_args()


def seconds(call: Callable[[], object], times: int = 3) -> float:
    """The least of some runs."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def cut(index: fq.IndexIVFQINCo, folder: Path) -> list[Path]:
    """Segments with the ids of a quarter each."""
    files, empty = [], fq.deserialize_index(fq.serialize_index(index))
    empty.reset()
    for i in range(SEGMENTS):
        part = fq.deserialize_index(fq.serialize_index(empty))
        ids = [index.ntotal * j // SEGMENTS for j in (i, i + 1)]
        index.copy_subset_to(part, 0, *ids)
        files.append(folder / f"{i}.fqi")
        fq.write_index(part, files[-1])
    return files


def main() -> None:
    args = arguments()
    index = fq.read_index(args.index)
    x = np.asarray(open_vectors(args.base)[: args.n_base])
    queries = np.asarray(open_vectors(args.query)[: args.n_query], np.float32)
    print(f"{cpu_name()}, {index!r}, nprobe {args.nprobe}")
    folder = Path(tempfile.mkdtemp())
    try:
        measure(args, index, x, queries, folder)
    finally:
        shutil.rmtree(folder)


def measure(
    args: argparse.Namespace,
    index: fq.IndexIVFQINCo,
    x: np.ndarray,
    queries: np.ndarray,
    folder: Path,
) -> None:
    files = cut(index, folder)
    commit(folder, files)
    rows = -(-len(x) // 16)
    set_num_threads(1)
    params = fq.SearchParametersIVFQINCo(nprobe=args.nprobe)
    segments = [fq.read_index(file, faiss.IO_FLAG_MMAP) for file in files]
    plain = {
        "encode": len(x) / seconds(lambda: fresh(folder, lambda f: encode(
            index, x, f, rows_per_shard=rows, progress=False)), 1),
        "segments": len(queries) / seconds(
            lambda: [s.search(queries, 10, params=params) for s in segments]),
    }  # fmt: skip
    print("without Ray, one thread:", *(f"{k} {v:,.0f}/s" for k, v in plain.items()))
    one: dict[str, float] = {}
    for n in args.workers:
        ray.init(
            num_cpus=n, include_dashboard=False, object_store_memory=256 << 20, log_to_driver=False
        )
        found = {}

        def on_ray(to: Path, n: int, rows: int) -> object:
            return encode_shards(index, x[:n], to, rows_per_shard=rows, progress=False)

        fresh(folder, partial(on_ray, n=100 * n, rows=50))  # starts the workers
        whole = partial(on_ray, n=len(x), rows=rows)
        took = seconds(partial(fresh, folder, whole), 1)
        found["encode"] = len(x) / took
        for by in ("segments", "lists"):
            with DistributedIndex(folder, n_workers=n, shard_by=by) as searched:
                searched.search(queries[:10], 10, params=params)
                found[by] = len(queries) / seconds(
                    lambda s=searched: s.search(queries, 10, params=params)
                )
        for name, rate in found.items():
            ratio = rate / one.setdefault(name, rate)
            print(f"{n} workers, {name}: {rate:,.0f} a second, {ratio:.2f} times one worker")
        ray.shutdown()


def fresh(folder: Path, call: Callable[[Path], object]) -> None:
    """call(an empty folder)."""
    codes = folder / "codes"
    call(codes)
    shutil.rmtree(codes)


if __name__ == "__main__":
    main()
