r"""Coarse training in two levels beside faiss's k-means, and what then finds the nearest centroid.

For each number of lists, by `train_coarse` and, up to --plain, by faiss's k-means on the same
vectors: seconds, peak memory of the process, the mean squared distance of queries to the nearest
centroid, and the fraction of queries whose true neighbour is in one of the lists probed, for nprobe
a part of nlist. Then, for centroids of `train_coarse`, how often HNSW and an index in two levels
find the nearest one for a query, and the microseconds a vector that they and a flat index take.
Queries have to be of other vectors than those that are learnt.

    python bench/coarse.py --learn base.npy base_more.npy learn.npy learn_more.npy \
        --base base.npy base_more.npy --query query.npy --groundtruth groundtruth.npy \
        --nlist 4096 16384 65536 262144 --out coarse.json
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from common import environment, plain_arguments, say

from faiss_qinco import clustering as two_levels
from faiss_qinco.pipeline.coarse import read_coarse, train_coarse, write_coarse
from faiss_qinco.storage.source import open_vectors
from faiss_qinco.storage.vectors import read_groundtruth, read_vectors
from faiss_qinco.training.data import TrainingSet

PARTS = (1024, 256, 64)  # nlist by nprobe
NPROBE, EF = (4, 8, 16, 32), (16, 32, 64)


def main() -> None:
    args = arguments()
    if args.train is not None:
        train(args)
        return
    queries = read_vectors(args.query).astype(np.float32)
    base = open_vectors(args.base)
    nearest = read_groundtruth(args.groundtruth)[0][:, 0]
    neighbours = base[nearest].astype(np.float32)
    rows, searches = [], []
    with tempfile.TemporaryDirectory() as folder:
        for nlist in args.nlist:
            for way in ("two levels", "faiss")[: 1 + (nlist <= args.plain)]:
                say(f"{nlist} centroids: {way}")
                file = str(Path(folder) / "coarse.faissindex")
                row = {"nlist": nlist, "way": way} | trained(way, nlist, file)
                centroids = read_coarse(file, nlist, queries.shape[1], faiss.METRIC_L2)
                row |= quality(centroids, queries, neighbours)
                rows.append(row)
                if way == "two levels":
                    searches += [{"nlist": nlist} | s for s in assignments(centroids, queries)]
    for table in (rows, searches):
        print("\n" + "  ".join(table[0]))
        for row in table:
            print("  ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    if args.out is not None:
        found = {"arguments": plain_arguments(args), "environment": environment()}
        args.out.write_text(json.dumps(found | {"training": rows, "searches": searches}, indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    add = parser.add_argument
    add("--learn", nargs="+", required=True, metavar="FILE", help="concatenated")
    add("--base", nargs="+", required=True, metavar="FILE", help="concatenated")
    add("--query", required=True, metavar="FILE")
    add("--groundtruth", required=True, metavar="FILE")
    add("--nlist", type=int, nargs="+", default=[1 << 12, 1 << 14])
    add("--points", type=int, default=64, help="vectors a centroid, at most (default: 64)")
    add("--plain", type=int, default=1 << 14, help="faiss's k-means up to so many lists")
    add("--memory", type=int, metavar="BYTES", help="of train_coarse")
    add("--out", type=Path, metavar="FILE", help="the same as JSON")
    add("--train", nargs=3, metavar=("WAY", "NLIST", "FILE"), help="train, and say the seconds")
    return parser.parse_args()


def trained(way: str, nlist: int, file: str) -> dict[str, Any]:
    """What a process of its own says that trains."""
    command = [sys.executable, *sys.argv, "--train", way, str(nlist), file]
    return dict(json.loads(subprocess.run(command, stdout=-1, check=True).stdout))


def train(args: argparse.Namespace) -> None:
    way, nlist, file = args.train[0], int(args.train[1]), args.train[2]
    x: Any = open_vectors(args.learn)
    start = time.perf_counter()
    if way == "faiss":
        d = x.shape[1]
        cp = faiss.ClusteringParameters()
        cp.niter, cp.max_points_per_centroid = 10, args.points
        clustering = faiss.Clustering(d, nlist, cp)
        data = TrainingSet(x, d, max_points=nlist * args.points, seed=1234)
        clustering.train(data[:], faiss.IndexFlatL2(d))
        centroids = faiss.vector_to_array(clustering.centroids).reshape(nlist, d)
    else:
        two_levels.DIRECT = 1  # fewer as well
        centroids = train_coarse(x, nlist, max_points_per_centroid=args.points, memory=args.memory)
    seconds = time.perf_counter() - start
    write_coarse(file, centroids, faiss.METRIC_L2)
    status = Path("/proc/self/status").read_text()
    peak = int(re.findall(r"VmHWM:\s*(\d+)", status)[0]) / 1024
    points = min(len(x), nlist * args.points) / nlist
    print(json.dumps({"points": points, "seconds": seconds, "MB": peak}))


def quality(centroids: np.ndarray, queries: np.ndarray, neighbours: np.ndarray) -> dict[str, Any]:
    """Of queries (n, d) and their true neighbours (n, d)."""
    nlist, d = centroids.shape
    flat = faiss.IndexFlatL2(d)
    flat.add(centroids)
    D, I = flat.search(queries, nlist // PARTS[-1])
    found = flat.search(neighbours, 1)[1] == I
    recalls = {f"nlist/{part}": float(found[:, : nlist // part].any(1).mean()) for part in PARTS}
    return {"distance": float(D[:, 0].mean())} | recalls


def assignments(centroids: np.ndarray, queries: np.ndarray) -> list[dict[str, Any]]:
    """How well, and how fast, indexes of the centroids find the nearest one."""
    nlist, d = centroids.shape
    flat: Any = faiss.IndexFlatL2(d)
    flat.add(centroids)
    rows = [search("flat", flat, queries, None, 0.0)]
    truth = flat.search(queries, 1)[1]
    k = 1 << round(math.log2(2 * math.sqrt(nlist)))
    for name in (f"IVF{k},Flat", "HNSW32,Flat"):
        index = faiss.index_factory(d, name)
        start = time.perf_counter()
        index.train(centroids)
        index.add(centroids)
        built = time.perf_counter() - start
        for value in NPROBE if name[0] == "I" else EF:
            if name[0] == "I":
                index.nprobe = value
            else:
                index.hnsw.efSearch = value
            rows.append(search(f"{name} {value}", index, queries, truth, built))
    return rows


def search(
    name: str, index: Any, queries: np.ndarray, truth: np.ndarray | None, built: float
) -> dict[str, Any]:
    start = time.perf_counter()
    found = index.search(queries, 1)[1]
    seconds = time.perf_counter() - start
    right = 1.0 if truth is None else float((found == truth).mean())
    return {"index": name, "built": built, "nearest": right, "us": 1e6 * seconds / len(queries)}


if __name__ == "__main__":
    main()
