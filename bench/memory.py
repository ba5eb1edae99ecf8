r"""The memory benchmark: bytes of a stored vector by part, what calls take beside the index, and an
index that stays in its file, beside faiss's with the same bytes of code.

What is stored in --index is stored again, with numbers 0, 1, 2 … and with random ids of 40 bits.
"grown by" is what the process has more of (resident memory); peaks are
beside what the caller holds, and as a multiple of the index's own growth. Peers hold random codes.

    python bench/memory.py --index index.fqi --query query.npy

With --gigabytes, a file of about that size with the same codes again and again, and faiss's IVFPQ
of as many vectors: how long it takes to open it mapped, resident memory and queries a second after
it was opened with nothing of it in memory (cold), and again (warm); several processes at once.

    python bench/memory.py --index index.fqi --query query.npy --gigabytes 10 --folder /tmp
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from common import cpu_name

import faiss_qinco as fq
from faiss_qinco.storage.vectors import read_vectors
from faiss_qinco.tools.evaluate import set_threads

PARTS = ("codes", "bias", "ids", "lists")
MB = 1e6


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--index", required=True, metavar="FILE", help="a filled IVF index")
    add("--query", required=True, metavar="FILE")
    add("--nprobe", type=int, default=16)
    add("--nshort", type=int, default=100)
    add("--threads", type=int, default=2)
    add("--gigabytes", type=float, help="of the file to map")
    add("--n-query", type=int, default=10_000, metavar="N", help="of the mapped file's searches")
    add("--processes", type=int, default=4)
    add("--folder", default="/tmp", metavar="DIR", help="for files (default: /tmp)")
    return parser.parse_args()


def resident(peak: bool = False) -> int:
    """Bytes of this process's memory: now, or the most since `forget_peak`."""
    key = "VmHWM:" if peak else "VmRSS:"
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(key))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """The function's result, computed in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


class Grown:
    """In a `with`: by how many bytes the process has grown, and at most."""

    def __enter__(self) -> Grown:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before does not hide what is taken now
        forget_peak()
        self.before = resident()
        return self

    def __exit__(self, *error: object) -> None:
        self.peak = resident(peak=True) - self.before
        ctypes.CDLL(None).malloc_trim(0)
        self.by = resident() - self.before


# -- bytes of a vector -----------------------------------------------------------------------------


def entries(path: str) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray | None]:
    """The index, and list_no, codes and extra (`core/extra.hpp`) of what is in it."""
    index = fq.read_index(path, faiss.IO_FLAG_MMAP)
    core = index._engine.core
    sizes = core.sizes()
    codes = np.concatenate([core.get_codes(list_no) for list_no in range(len(sizes))])
    list_no = np.repeat(np.arange(len(sizes)), sizes)
    extra = index._engine.extras(list_no, codes, core.export_bias(0, len(codes)))
    index.reset()
    order = np.random.default_rng(0).permutation(len(codes))  # as they would come
    return index, list_no[order], codes[order], None if extra is None else extra[order]


def ids_of(kind: str, n: int) -> np.ndarray | None:
    if kind == "numbers":
        return None
    return np.random.default_rng(1).integers(0, 1 << 40, n)


def ours(path: str, kind: str, out: str) -> dict[str, float]:
    """What the vectors take, and a file of them. The arguments stay in memory."""
    index, list_no, codes, extra = entries(path)
    ids = ids_of(kind, len(codes))
    index._engine.core.add(list_no[:0], codes[:0], extra=None if extra is None else extra[:0])
    with Grown() as grown:
        index._engine.core.add(list_no, codes, extra=extra, ids=ids)
    memory, n = index.memory_usage(), len(codes)
    fq.write_index(index, out)
    size = os.path.getsize(out)
    index.reset()
    fq.write_index(index, out + ".empty")
    result = {part: memory[part] / n for part in PARTS}
    result["sum"] = sum(result.values())
    result |= {"grown by": grown.by / n, "peak": grown.peak / n}
    result["file"] = (size - os.path.getsize(out + ".empty")) / n
    os.unlink(out + ".empty")
    return result


def theirs(description: str, d: int, sizes: np.ndarray) -> dict[str, float]:
    """What a faiss index's lists take, of random codes."""
    index = faiss.index_factory(d, description)
    n, width = int(sizes.sum()), index.code_size
    rng = np.random.default_rng(0)
    lists = index.invlists
    for i in range(1000):  # the first calls of anything take memory of their own
        lists.add_entry(i % index.nlist, 0, faiss.swig_ptr(np.zeros(width, np.uint8)))
    lists.reset()
    with Grown() as grown:
        first = 0
        for list_no, size in enumerate(sizes):
            ids = np.arange(first, first + size)
            codes = rng.integers(0, 256, (size, width), np.uint8)
            lists.add_entries(list_no, int(size), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
            first += size
    return {"codes": float(width), "ids": 8.0, "sum": width + 8.0, "grown by": grown.by / n}


def bytes_of_a_vector(args: argparse.Namespace, folder: Path) -> None:
    index = fq.read_index(args.index, faiss.IO_FLAG_MMAP)
    sizes, M = index._engine.core.sizes(), index.M
    print(f"{args.index}: {index!r}\n")
    rows = {}
    for kind in ("numbers", "random40"):
        name = f"QINCo{M}x{index.nbits}, {kind}"
        rows[name] = alone(ours, args.index, kind, str(folder / f"{kind}.fqi"))
    for code in (f"PQ{M}x8", f"RQ{M}x8_Nfloat", f"PQ{2 * M}x4fs"):
        rows[code] = alone(theirs, f"IVF{index.nlist},{code}", index.d, sizes)
    columns = (*PARTS, "sum", "grown by", "peak", "file")
    print(f"{'bytes of a vector':24}" + "".join(f"{c:>10}" for c in columns))
    for name, row in rows.items():
        cells = (f"{row[c]:10.2f}" if c in row else f"{'-':>10}" for c in columns)
        print(f"{name:24}" + "".join(cells))


# -- what calls take -------------------------------------------------------------------------------


def call(path: str, what: str) -> tuple[float, float, float]:
    """Growth and peak of a call in MB, and its seconds."""
    fq.read_index(path, faiss.IO_FLAG_MMAP)  # what is loaded only once
    if what in ("read", "read mapped"):
        flags = faiss.IO_FLAG_MMAP if what == "read mapped" else 0
        start = time.perf_counter()
        with Grown() as grown:
            kept: Any = fq.read_index(path, flags)
        seconds = time.perf_counter() - start
    else:
        index = fq.read_index(path)
        calls: dict[str, Callable[[], Any]] = {
            "write": lambda: fq.write_index(index, path + ".again"),
            "serialize": lambda: fq.serialize_index(index),
            "copy": lambda: copy.copy(index),
            "pickle": lambda: pickle.dumps(index, protocol=5),
        }
        start = time.perf_counter()
        with Grown() as grown:
            kept = calls[what]()
        seconds = time.perf_counter() - start
    del kept
    return grown.by / MB, grown.peak / MB, seconds


def what_calls_take(folder: Path) -> None:
    path = str(folder / "numbers.fqi")
    whole = alone(call, path, "read")[0]
    print(f"\n{'call':12}{'MB kept':>10}{'MB peak':>10}{'of index':>10}{'seconds':>10}")
    for what in ("read", "read mapped", "write", "serialize", "copy", "pickle"):
        kept, peak, seconds = alone(call, path, what)
        print(f"{what:12}{kept:10.1f}{peak:10.1f}{peak / whole:10.2f}{seconds:10.3f}")


# -- a file to map ---------------------------------------------------------------------------------


def make_ours(path: str, gigabytes: float, out: str) -> int:
    """A file of about that size; how many vectors it has."""
    index, list_no, codes, extra = entries(path)
    core = index._engine.core
    each = index.code_size + 4
    n = int(gigabytes * 1e9 / each)
    order = np.argsort(list_no, kind="stable")
    ends = np.cumsum(np.bincount(list_no, minlength=index.nlist))
    rng = np.random.default_rng(0)
    ids = np.sort(rng.integers(0, index.nlist, n).astype(np.int32))  # the list of each number
    sizes = np.bincount(ids, minlength=index.nlist)
    del ids
    for i, size in enumerate(sizes):
        here = order[ends[i - 1] if i else 0 : ends[i]]
        rows = rng.choice(here if len(here) else order, size)
        numbers = np.sort(rng.integers(0, n, size))
        core.add(
            np.full(size, i), codes[rows], ids=numbers, n_threads=2,
            extra=None if extra is None else extra[rows],
        )  # fmt: skip
    fq.write_index(index, out)
    return int(sizes.sum())


def make_theirs(d: int, nlist: int, M: int, n: int, x: np.ndarray, out: str) -> None:
    """faiss's IVFPQ of n random codes."""
    index = faiss.index_factory(d, f"IVF{nlist},PQ{M}x8")
    index.cp.niter, index.cp.min_points_per_centroid = 1, 1
    index.train(x)
    rng = np.random.default_rng(0)
    sizes = rng.multinomial(n, np.full(nlist, 1 / nlist))
    for i, size in enumerate(sizes):
        codes = rng.integers(0, 256, (size, M), np.uint8)
        ids = np.sort(rng.integers(0, n, size))
        index.invlists.add_entries(i, int(size), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    index.ntotal = n
    faiss.write_index(index, out)


def forget(path: str) -> None:
    """Have nothing of the file in memory, as far as the system does so."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def search_mapped(
    path: str, is_ours: bool, q: np.ndarray, nprobe: int, nshort: int, threads: int, cold: bool,
    together: Any = None,
) -> dict[str, float]:  # fmt: skip
    """together: a barrier of the processes that have the file, all of which look at their memory
    before one of them ends."""
    set_threads(threads)
    if cold:
        forget(path)
    before, start = resident(), time.perf_counter()
    index = (fq if is_ours else faiss).read_index(path, faiss.IO_FLAG_MMAP)
    result = {"open ms": 1e3 * (time.perf_counter() - start)}
    index.nprobe = nprobe
    if is_ours:
        index.nshort = nshort
    for n in sorted({1, min(100, len(q)), len(q)}):
        start = time.perf_counter()
        index.search(q[:n], 10)
        result[f"{n} cold"] = n / (time.perf_counter() - start)
        result[f"MB after {n}"] = (resident() - before) / MB
    start = time.perf_counter()
    index.search(q, 10)
    result["warm"] = len(q) / (time.perf_counter() - start)
    if together is not None:
        together.wait()
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            result["MB, shared ones by parts"] = 1024 * int(line.split()[1]) / MB
    if together is not None:
        together.wait()
    return result


def mapped(args: argparse.Namespace, folder: Path) -> None:
    index = fq.read_index(args.index, faiss.IO_FLAG_MMAP)
    q = read_vectors(args.query).astype(np.float32)
    q = np.concatenate([q] * (args.n_query // len(q) + 1))[: args.n_query]
    files = {"QINCo": str(folder / "big.fqi"), "faiss PQ": str(folder / "big.faiss")}
    start = time.perf_counter()
    n = alone(make_ours, args.index, args.gigabytes, files["QINCo"])
    print(f"\n{n:,} vectors, made and written in {time.perf_counter() - start:.0f} s")
    alone(make_theirs, index.d, index.nlist, index.M, n, index._engine.centroids, files["faiss PQ"])
    for name, path in files.items():
        settings = name == "QINCo", q, args.nprobe, args.nshort, args.threads
        found = alone(search_mapped, path, *settings, True)
        print(f"\n{name}, {os.path.getsize(path) / 1e9:.2f} GB, nprobe {args.nprobe}")
        for key, value in found.items():
            print(f"  {key:28}{value:10.1f}")
        spawn = multiprocessing.get_context("spawn")
        with spawn.Manager() as manager, spawn.Pool(args.processes) as pool:
            given = path, *settings, False, manager.Barrier(args.processes)
            tasks = [pool.apply_async(search_mapped, given) for _ in range(args.processes)]
            total = sum(task.get()["MB, shared ones by parts"] for task in tasks)
        print(f"  {args.processes} processes, MB together     {total:8.1f}")
        os.unlink(path)


def main() -> None:
    args = arguments()
    set_threads(args.threads)
    folder = Path(args.folder)
    print(f"{cpu_name()}, {args.threads} threads, SIMD {fq.simd_level()}")
    bytes_of_a_vector(args, folder)
    what_calls_take(folder)
    if args.gigabytes:
        mapped(args, folder)
    for kind in ("numbers", "random40"):
        os.unlink(folder / f"{kind}.fqi")


if __name__ == "__main__":
    main()
