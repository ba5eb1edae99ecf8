"""Coarse training: the centroids of an index's lists, of vectors that need not fit into memory, and
the file they go to.

The file is faiss's: an IndexFlat of the centroids, which `faiss.read_index` reads and any IVF index
of faiss's takes as its quantizer. How they are searched, flat, by HNSW or in two levels, says the
factory string of the index that gets them: one file serves them all.
"""

from __future__ import annotations

import os
from typing import Any

import faiss
import numpy as np

from .. import clustering
from ..checks import integer
from ..clustering import (
    LEVELS,
    ROOM,
    Checkpoint,
    TwoLevels,
    kmeans,
    points_per_centroid,
)
from ..index import IndexIVFQINCo
from ..quantizer_file import quantizer_of
from ..storage.container import Path, check_regular, finite, reading, replacing
from ..threads import library_threads
from ..training.checkpoint import check_writable
from ..training.data import TrainingSet
from ..wrappers.id_map import IndexIDMap
from ..wrappers.refine import IndexRefine
from .memory import check_memory

LARGEST = 1 << 26
BESIDE = 3 << 26  # bytes that blocks under way and faiss's threads take
LEAST = 1 << 25  # bytes of vectors in memory at a time, however little memory there is


def train_coarse(
    x: Any,
    nlist: int,
    *,
    metric: int = faiss.METRIC_L2,
    memory: int | None = None,
    checkpoint: Path | None = None,
    seed: int = 1234,
    niter: int = 10,
    max_points_per_centroid: int | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Centroids (nlist, d) float32 of vectors x (n, d), by k-means.

    Up to 4096 of them by faiss's k-means. More in two levels: √nlist clusters, each split into
    centroids in proportion to its vectors, by faiss's k-means as well; then one iteration over all
    centroids, for which a vector looks at those of the 8 nearest clusters. Of 16,384 centroids of
    a million SIFT vectors the mean squared distance to the nearest, of vectors that were not among
    these, is that of faiss's k-means (bench/coarse.py), in a fiftieth of the time.

    Parameters
    ----------
    x : any real dtype, a memory map too, or a `VectorSource`; the rows that are used are read where
        they are, once to look at them and then several times.
    metric : faiss.METRIC_L2, or METRIC_INNER_PRODUCT: centroids then have length 1 (spherical
        k-means), as in FAISS.
    memory : bytes that the process may take in all, the interpreter included; None: as it comes, up
        to 4 GiB of vectors at a time. Counts what is allocated: what a memory map has read, the
        system takes back as it needs.
    checkpoint : path of a file, written after each iteration of the first level and each sixteenth,
        or less, of what follows. A later call with the same vectors and arguments goes on from it
        to the same centroids, bit for bit with the same memory and number of threads. It stays at
        the end: remove it once the centroids are where they are to be.
    seed, niter : of faiss's k-means.
    max_points_per_centroid : vectors used, evenly spread over x; None: 256, as in FAISS, down to
        64 from 65,536 to 262,144 centroids and more. Twice as many cost twice the time, and lower
        the squared distances by 1 %. With fewer vectors than 39 to a centroid, FAISS's warning.
    progress : shows bars.

    No cluster stays empty where there are as many different vectors; else a warning, and near
    copies of vectors, as FAISS makes them. Rows far from all others are left out (`TrainingSet`).

    Raises RuntimeError for fewer vectors than nlist, or NaN and inf, and for a checkpoint of other
    vectors or arguments; ValueError for a memory that cannot suffice, saying how much would; errors
    of x as `TrainingSet`.
    """
    nlist = integer("nlist", nlist, 1, LARGEST)
    direct = nlist <= clustering.DIRECT
    cp = faiss.ClusteringParameters()
    cp.niter, cp.seed = integer("niter", niter, 1, 1 << 20), integer("seed", seed, 0, (1 << 31) - 1)
    cp.spherical = metric == faiss.METRIC_INNER_PRODUCT
    if metric not in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
        raise ValueError(f"metric: expected L2 or inner product, got {metric!r}")
    points = max_points_per_centroid
    if points is None:
        points = points_per_centroid(nlist)
    cp.max_points_per_centroid = integer("max_points_per_centroid", points, 1, 1 << 20)
    if checkpoint is not None:
        check_writable(checkpoint)
    n, d = getattr(x, "shape", (nlist, 1))  # TrainingSet complains of what has none
    n = min(n, nlist * points)
    room = ROOM
    if memory is not None:
        needed = memory_of(n, d, nlist)
        check_memory(memory, needed, f"training {nlist} centroids")
        room = min(room, max(LEAST, (memory - needed) // 2))  # whatever the process has already
    data = TrainingSet(x, d, max_points=n, seed=seed)
    if len(data) < nlist:
        raise RuntimeError(
            f"x: {len(data)} training vectors are fewer than nlist={nlist} centroids"
        )
    state = Checkpoint(
        checkpoint,
        {
            "data": data.fingerprint(), "nlist": nlist, "metric": metric, "seed": seed,
            "niter": niter, "levels": [] if direct else LEVELS,
        },
    )  # fmt: skip
    if not direct:
        return TwoLevels(data, nlist, metric, cp, room, state, progress).run()
    with library_threads(torch_too=False):
        return kmeans(data[:], nlist, cp, metric, None, state, progress)


def memory_of(n: int, d: int, nlist: int) -> int:
    """Bytes that `train_coarse` takes at least, with n vectors of dimension d."""
    looking = 34 * n  # numbers and distances of the rows
    if nlist <= clustering.DIRECT:
        return BESIDE + max(looking, n * (8 * d + 24) + 12 * nlist * d)
    # The centroids, those in the two-level index, which doubles its lists, sums of vectors.
    return BESIDE + max(looking, 12 * n + 20 * nlist * d + 2 * LEAST)


def write_coarse(path: Path, centroids: np.ndarray, metric: int) -> None:
    """Write centroids (nlist, d) float32 as a faiss index, atomically. Raises as `replacing`."""
    library: Any = faiss  # whose types do not know all that is in it
    index = faiss.IndexFlat(centroids.shape[1], metric)
    index.add(centroids)
    with replacing(path) as file:
        faiss.write_index(index, library.PyCallbackIOWriter(file.write))


def read_coarse(path: Path, nlist: int, d: int, metric: int) -> np.ndarray:
    """The centroids (nlist, d) float32 of a faiss index file, of whatever kind of index.

    Raises MissingFileError and FileFormatError (both RuntimeError) for the file, ValueError where
    it has others than nlist of dimension d, or another metric."""
    with reading(path):
        check_regular(path)
        index = quantizer_of(np.fromfile(path, np.uint8))
        found = (index.ntotal, index.d, index.metric_type)
        centroids = np.ascontiguousarray(index.reconstruct_n(0, index.ntotal), np.float32)
        finite("centroids", centroids)
    if found != (nlist, d, metric):
        raise ValueError(
            f"{os.fspath(path)}: expected {nlist} centroids, d = {d}, metric {metric}, got "
            f"{found[0]}, d = {found[1]}, metric {found[2]}"
        )
    return centroids


def use_coarse(index: Any, path: Path) -> None:
    """Give an index that is to be trained the centroids of a file of `write_coarse`, or of any
    faiss index: its quantizer, HNSW or whatever it is, is built of them.

    Raises ValueError for an index without lists, or with transforms in front, which change between
    them and the centroids; and as `read_coarse`.
    """
    while isinstance(index, (IndexIDMap, IndexRefine)):
        index = index.index if isinstance(index, IndexIDMap) else index.base_index
    if not isinstance(index, IndexIVFQINCo):
        raise ValueError(
            f"coarse: expected an index with lists and without transforms, got {type(index)}"
        )
    centroids = read_coarse(path, index.nlist, index.d, index.metric_type)
    with library_threads(torch_too=False):
        index.quantizer.reset()
        if not index.quantizer.is_trained:
            index.quantizer.train(centroids)
        index.quantizer.add(centroids)
