r"""The benchmark of size: --n vectors through the pipeline on one machine, within --memory.

A number of vectors are real (--base, for which the neighbours of --query are known) and encoded by
the index; all others are drawn: list and codes of a real one, in which about half of the codes are
those of another real one (so each step's codewords come as often as in real codes), with the bias
that belongs to them. All are written as shards, built by `build`, opened mapped, and searched, each
in a process of its own; beside it faiss's IVFPQ on disk with as many vectors of random codes.

    python bench/billion.py --index trained.fqi --base base.npy --query query.npy \
        --groundtruth groundtruth.npy --n 1e8 --folder /data --json 1e8.json
    python bench/billion.py --plot 1e6.json 1e7.json 1e8.json --out billion.png

Drawn vectors displace real ones, so R@1 is told three times: the true nearest real vector is first
of all results; first of those results, of --k, that are real; and first where the search selects
real ones. The last is what the codec and the probed lists allow, whatever else is stored.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from common import cpu_name
from faiss.contrib.ondisk import merge_ondisk
from memory import alone, forget, forget_peak, resident

import faiss_qinco as fq
from faiss_qinco.codec.config import EFFORTS
from faiss_qinco.pipeline.build import build
from faiss_qinco.pipeline.encode import encode_rows
from faiss_qinco.pipeline.memory import parse_bytes
from faiss_qinco.pipeline.model import fingerprint_of
from faiss_qinco.pipeline.shard import Rows, read_shard, write_shard
from faiss_qinco.storage.vectors import read_groundtruth, read_vectors
from faiss_qinco.tools.evaluate import set_threads
from faiss_qinco.tools.plots import figure_of

SHARD = 1 << 20  # rows
BLOCK = 1 << 15  # drawn at a time, so that they stay in the cache
PEER_SHARD = 20_000_000


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--index", metavar="FILE", help="trained and empty: IndexIVFQINCo, L2, codes of 8 bits")
    add("--base", nargs="+", metavar="FILE", help="the real vectors")
    add("--query", metavar="FILE")
    add("--groundtruth", metavar="FILE")
    add("--n", type=lambda text: int(float(text)), help="vectors in all, such as 1e8")
    add("--folder", type=Path, help="for shards and indexes, deleted at the end unless --keep")
    add("--threads", type=int, default=os.cpu_count())
    add("--effort", choices=EFFORTS, default="balanced", help="to encode the real vectors with")
    add("--memory", type=parse_bytes, default=6 * 10**9, help="of the build (default: 6GB)")
    add("--ids", choices=("numbers", "random40"), default="numbers")
    add("--nprobe", type=int, nargs="+", default=[16])
    add("--nshort", type=int, default=100)
    add("--k", type=int, default=100)
    add("--n-query", type=int, default=1000, metavar="N")
    add(
        "--peer", action="store_true", help="faiss's IVFPQ on disk as well: needs 35 bytes a vector"
    )
    add("--keep", action="store_true", help="do not delete the index")
    add("--json", metavar="FILE", help="write the figures here")
    add("--plot", nargs="+", metavar="JSON", help="only plot these against n, to --out")
    add("--out", default="billion.png", metavar="PNG")
    return parser.parse_args()


# -- the shards ------------------------------------------------------------------------------------


def write_real(index_file: str, base: Sequence[str], effort: str, out: Path) -> float:
    """Encode the real vectors, unless they are there; seconds."""
    if out.exists():
        return 0.0
    start = time.perf_counter()
    index = fq.read_index(index_file)
    x = np.concatenate([read_vectors(file) for file in base])
    rows = encode_rows(index, x, effort=effort)
    write_shard(out, fingerprint_of(index), 0, index.nlist, rows)
    return time.perf_counter() - start


class Bias:
    """The biases of codes, as the extension's `Engine.bias` adds them up in double precision, from
    tables of all pairs of codewords: a tenth of its time.

    |s|² + 2 <base, s> of a list's base and the sum s of the codewords.
    """

    def __init__(self, engine: Any) -> None:
        A, bases = engine.additive, engine.bases
        self.M, K, _ = A.shape
        norms = np.einsum("mkd,mkd->mk", A, A)
        self.own = [2 * bases @ A[m].T + norms[m] for m in range(self.M)]  # (nlist, K)
        self.pairs = {
            (m, n): (2 * A[m] @ A[n].T).reshape(K * K) for m in range(self.M) for n in range(m)
        }

    def __call__(
        self, list_no: np.ndarray, codes: np.ndarray, extra: np.ndarray | None = None
    ) -> np.ndarray:
        """list_no (n,), codes (n, M), and what the vectors' errors add (n,) float32 -> (n,) uint16,
        bfloat16 as they are stored."""
        first = list_no.astype(np.int64) << 8
        column = [np.ascontiguousarray(codes[:, m], np.int32) for m in range(self.M)]
        bias = np.zeros(len(codes), np.float32)
        for m in range(self.M):
            bias += self.own[m].reshape(-1).take(first + column[m])
            shifted = column[m] << 8
            for n in range(m):
                bias += self.pairs[m, n].take(shifted + column[n])
        if extra is not None:
            bias += extra
        bits = bias.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


MASKS = (np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * 255).view(np.uint64)[:, 0]


@functools.cache
def what_is_drawn_from(
    index_file: str, real_file: str
) -> tuple[str, int, Rows, np.ndarray | None, Bias]:
    """With what the errors of the real vectors add to their biases."""
    index = fq.read_index(index_file)
    rows, core, bias = read_shard(real_file)[1], index._engine.core, Bias(index._engine)
    list_no, stored = rows.list_no.astype(np.int64), floats(rows.beside)
    extra = core.extras(list_no, rows.codes, stored) if core.has_extra else None
    some = slice(0, 1000)
    of_some = None if extra is None else extra[some]
    ours = floats(bias(list_no[some], rows.codes[some], of_some))
    np.testing.assert_allclose(ours, stored[some], rtol=2**-7, atol=1)  # of the rounding
    return fingerprint_of(index), index.nlist, rows, extra, bias


def floats(beside: np.ndarray | None) -> np.ndarray:
    """Of bfloat16."""
    assert beside is not None  # with L2
    return (beside.astype(np.uint32) << 16).view(np.float32)


def write_drawn(task: tuple[str, str, str, int, int, str]) -> None:
    """One shard of drawn rows."""
    index_file, real_file, out, first, n, ids = task
    fingerprint, nlist, real, extra, bias = what_is_drawn_from(index_file, real_file)
    words = real.codes.view(np.uint64)[:, 0]
    rng = np.random.default_rng(first)
    made = Rows(np.empty(n, np.uint32), np.empty((n, 8), np.uint8), np.empty(n, np.uint16), None)
    for begin in range(0, n, BLOCK):
        part = slice(begin, min(begin + BLOCK, n))
        m = part.stop - begin
        one, two = rng.integers(0, len(words), (2, m), np.int32)
        mask = MASKS[rng.integers(0, 256, m, np.uint8)]
        made.list_no[part] = real.list_no[one]
        made.codes[part] = ((words[one] & mask) | (words[two] & ~mask)).view(np.uint8).reshape(m, 8)
        made.beside[part] = bias(
            made.list_no[part], made.codes[part], None if extra is None else extra[one]
        )
    numbers = None
    if ids == "random40":  # above those of the real ones
        numbers = rng.integers(1 << 30, 1 << 40, n)
    write_shard(
        out, fingerprint, first, nlist, Rows(made.list_no, made.codes, made.beside, numbers)
    )


def write_shards(args: argparse.Namespace, real: Path) -> tuple[list[str], float]:
    """All shards; the drawn ones by as many processes as there are threads."""
    n_real = read_shard(real)[0].n
    if args.n < n_real:
        raise SystemExit(f"--n: expected at least the {n_real} real vectors")
    start = time.perf_counter()
    tasks = [
        (args.index, str(real), str(args.folder / f"{first}.fqs"), first,
         min(SHARD, args.n - first), args.ids)
        for first in range(n_real, args.n, SHARD)
    ]  # fmt: skip
    with multiprocessing.get_context("spawn").Pool(args.threads) as pool:
        for i, _ in enumerate(pool.imap_unordered(write_drawn, tasks)):
            print(f"\rdrawn: {i + 1} of {len(tasks)} shards", end="", flush=True)
    print()
    return [str(real), *(task[2] for task in tasks)], time.perf_counter() - start


# -- build and search ------------------------------------------------------------------------------


def built(index_file: str, shards: list[str], out: str, memory: int, threads: int) -> Any:
    set_threads(threads)
    forget_peak()
    start = time.perf_counter()
    found = build(index_file, shards, out, memory=memory)
    seconds = time.perf_counter() - start
    return {
        "build s": seconds, "build ns/vector": 1e9 * seconds / max(found.ntotal, 1),
        "build peak GB": resident(peak=True) / 1e9, "file GB": os.path.getsize(out) / 1e9,
        "bytes/vector": found.nbytes / max(found.n_stored, 1),
    }  # fmt: skip


def opened(path: str, ours: bool) -> tuple[Any, float]:
    """The index, mapped and with nothing of its file in memory, and the seconds that took."""
    forget(path)
    start = time.perf_counter()
    # faiss maps lists on disk as they are; with the flag a search of them crashes.
    index = fq.read_index(path, faiss.IO_FLAG_MMAP) if ours else faiss.read_index(path)
    return index, time.perf_counter() - start


def one_by_one(index: Any, q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """I of each query, asked alone, and seconds."""
    seconds, found = [], []
    for row in q:
        start = time.perf_counter()
        found.append(index.search(row[None], k)[1][0])
        seconds.append(time.perf_counter() - start)
    return np.array(found), np.array(seconds)


def searched(
    path: str, ours: bool, q: np.ndarray, nearest: np.ndarray, n_real: int, nprobe: int,
    nshort: int, k: int, threads: int, data: str,
) -> dict[str, float]:  # fmt: skip
    """data: the file to have nothing of in memory before."""
    set_threads(threads)
    forget(data)
    before = resident()
    index, seconds = opened(path, ours)
    found = {"open s": seconds}
    index.nprobe = nprobe
    if ours:
        index.nshort = nshort
    for state in ("cold", "warm"):
        I, seconds = one_by_one(index, q, k)
        found[f"{state} q/s"] = len(q) / seconds.sum()
        found[f"{state} p50 ms"], found[f"{state} p99 ms"] = 1e3 * np.percentile(seconds, (50, 99))
    start = time.perf_counter()
    I = index.search(q, k)[1]
    found["batch q/s"] = len(q) / (time.perf_counter() - start)
    found["search GB"] = (resident() - before) / 1e9
    if ours:
        real = np.isin(I, np.arange(n_real))
        first_real = I[np.arange(len(I)), real.argmax(1)]
        found["R@1 of all"] = (I[:, 0] == nearest).mean()
        found["R@1 of real results"] = ((first_real == nearest) & real.any(1)).mean()
        found["with real results"] = real.any(1).mean()
        only = faiss.SearchParametersIVF(sel=faiss.IDSelectorRange(0, n_real), nprobe=nprobe)
        found["R@1 selected"] = (index.search(q, k, params=only)[1][:, 0] == nearest).mean()
    return {name: float(value) for name, value in found.items()}


# -- faiss -----------------------------------------------------------------------------------------


def built_peer(
    index_file: str, x: np.ndarray, n: int, sizes: np.ndarray, out: Path, threads: int
) -> dict[str, float]:
    """faiss's IVFPQ on disk, as its contrib has it: files of some vectors each, merged into lists
    on disk. The lists are as long as ours, the codes random, and the time is without these."""
    set_threads(threads)
    ours = fq.read_index(index_file)
    index = faiss.IndexIVFPQ(ours.quantizer, ours.d, ours.nlist, 8, 8)
    index.train(x)
    empty, rng, parts, seconds = str(out) + ".empty", np.random.default_rng(0), [], 0.0
    faiss.write_index(index, empty)
    forget_peak()
    ends = np.linspace(0, 1, -(-n // PEER_SHARD) + 1)
    first = 0
    for i in range(len(ends) - 1):
        part = faiss.read_index(empty)
        here = (sizes * ends[i + 1]).astype(np.int64) - (sizes * ends[i]).astype(np.int64)
        codes = rng.integers(0, 256, (int(here.sum()), 8), np.uint8)
        start, at = time.perf_counter(), 0
        for list_no, size in enumerate(here.tolist()):
            ids = np.arange(first + at, first + at + size)
            part.invlists.add_entries(
                list_no, size, faiss.swig_ptr(ids), faiss.swig_ptr(codes[at : at + size])
            )
            at += size
        first += at
        part.ntotal = at
        parts.append(f"{out}.{i}")
        faiss.write_index(part, parts[-1])
        seconds += time.perf_counter() - start
        del part, codes
    start = time.perf_counter()
    whole = faiss.read_index(empty)
    merge_ondisk(whole, parts, str(out) + ".data")
    faiss.write_index(whole, str(out))
    seconds += time.perf_counter() - start
    for file in (*parts, empty):
        os.unlink(file)
    size = os.path.getsize(str(out) + ".data") + os.path.getsize(out)
    return {
        "build s": seconds, "build ns/vector": 1e9 * seconds / n,
        "build peak GB": resident(peak=True) / 1e9, "file GB": size / 1e9,
        "bytes/vector": os.path.getsize(str(out) + ".data") / n,
    }  # fmt: skip


# -- all of it -------------------------------------------------------------------------------------


def sizes_of(path: str) -> np.ndarray:
    return np.array(fq.read_index(path, faiss.IO_FLAG_MMAP)._engine.core.sizes())


def rows_of(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    args.folder.mkdir(parents=True, exist_ok=True)
    real = args.folder / "real.fqs"
    seconds = alone(write_real, args.index, args.base, args.effort, real)
    print(f"real vectors encoded in {seconds:.0f} s")
    n_real = read_shard(real)[0].n
    shards, seconds = write_shards(args, real)
    common = {"n": args.n, "ids": args.ids, "memory GB": args.memory / 1e9, "draw s": seconds}
    print(f"{args.n:,} vectors in {len(shards)} shards, drawn in {seconds:.0f} s")
    q = read_vectors(args.query)[: args.n_query].astype(np.float32)
    nearest = read_groundtruth(args.groundtruth)[0][: args.n_query, 0]

    out = str(args.folder / "index.fqi")
    made = alone(built, args.index, shards, out, args.memory, args.threads)
    for shard in shards[1:]:
        os.unlink(shard)
    for nprobe in args.nprobe:
        found = alone(
            searched, out, True, q, nearest, n_real, nprobe, args.nshort, args.k, args.threads, out
        )
        yield {"name": "QINCo", **common, "nprobe": nprobe, **made, **found}
    sizes = alone(sizes_of, out)
    if not args.keep:
        os.unlink(out)
    if not args.peer:
        return
    x = read_vectors(args.base[0])[:100_000].astype(np.float32)
    peer = args.folder / "ivfpq"
    made = alone(built_peer, args.index, x, args.n, sizes, peer, args.threads)
    data = str(peer) + ".data"
    for nprobe in args.nprobe:
        found = alone(
            searched, str(peer), False, q, nearest, n_real, nprobe, 0, args.k, args.threads, data
        )
        yield {"name": "faiss IVFPQ on disk", **common, "nprobe": nprobe, **made, **found}
    os.unlink(peer)
    os.unlink(data)


def plot(files: Sequence[str], out: str) -> None:
    rows = [row for file in files for row in json.loads(Path(file).read_text())["rows"]]
    panels = {
        "build, seconds": ["build s"], "search, ms": ["cold p50 ms", "warm p50 ms"],
        "memory, GB": ["build peak GB", "search GB"], "bytes a vector": ["bytes/vector"],
    }  # fmt: skip
    figure, axes = figure_of(len(panels), sharey=False)
    lines = sorted({(row["name"], row["nprobe"], row["ids"]) for row in rows})
    for axis, (title, keys) in zip(axes, panels.items(), strict=True):
        for i, line in enumerate(lines):
            here = sorted(
                (row for row in rows if (row["name"], row["nprobe"], row["ids"]) == line),
                key=lambda row: row["n"],
            )
            for key, style in zip(keys, ("o-", "s--"), strict=False):
                name, nprobe, ids = line
                label = f"{name}, nprobe {nprobe}, {ids} {key.rpartition(' ')[0]}"
                x = [row["n"] for row in here]
                axis.plot(x, [row[key] for row in here], style, color=f"C{i}", label=label)
        axis.set(xscale="log", xlabel="vectors", title=title)
        if title != "bytes a vector":
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6)
    figure.savefig(out)


def main() -> None:
    args = arguments()
    if args.plot:
        plot(args.plot, args.out)
        return
    for name in ("index", "base", "query", "groundtruth", "n", "folder"):
        if getattr(args, name) is None:
            raise SystemExit(f"--{name}: missing")
    free = shutil.disk_usage(args.folder if args.folder.exists() else args.folder.parent).free
    if free < (need := args.n * (35 if args.peer else 28 if args.ids == "numbers" else 38)):
        raise SystemExit(
            f"{args.folder}: expected {need / 1e9:.0f} GB of room, got {free / 1e9:.0f}"
        )
    machine = f"{cpu_name()}, {args.threads} threads, SIMD {fq.simd_level()}"
    print(machine)
    start, rows = time.perf_counter(), []
    for row in rows_of(args):
        rows.append(row)
        for key, value in row.items():
            print(
                f"  {key:24}" + (f"{value:14.4g}" if isinstance(value, float) else f"{value:>14}")
            )
        print(flush=True)
        if args.json:
            Path(args.json).write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    print(f"all in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
