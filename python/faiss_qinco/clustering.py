"""k-means: faiss's own, and of so many centroids that it would take days, in two levels.

Vectors are split into √nlist clusters, and each of these into centroids in proportion to its
vectors, all by faiss's k-means; full iterations over all centroids follow, in which a vector looks
among those of the nearest clusters alone. Vectors are read where they are used, a group of clusters
at a time. All of it goes on from a checkpoint to the same centroids, bit for bit.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from .progress import progress_bar
from .storage.container import FileFormatError, finite, open_tensors, take_number, write_tensors
from .threads import library_threads
from .training.data import TrainingSet, spread

DIRECT = 1 << 12  # so many centroids, or fewer: faiss's k-means as it is
# More: so many vectors a centroid, from the most that faiss takes down as there are more of them.
LEAST_POINTS, MOST_POINTS, VECTORS = 64, 256, 1 << 24
FIRST_POINTS = 256  # vectors for each of the √nlist clusters of the first level
REFINEMENTS = 1  # iterations over all centroids
NPROBE = 8  # clusters in which a vector then looks for its centroid
LEVELS = [FIRST_POINTS, REFINEMENTS, NPROBE]  # what tells a checkpoint from another's
PARTS = 16  # of a pass over all, with a checkpoint after each
ROOM = 1 << 32  # bytes of vectors in memory, where nothing else is asked for
EPS = np.float32(1 / 1024)  # by which faiss moves the two halves of a cluster apart

Path = str | os.PathLike[str]


class Checkpoint:
    """What is done of a clustering, in a file; none without a path.

    Raises RuntimeError for a file of other vectors or arguments, or a damaged one.
    """

    def __init__(self, path: Path | None, fingerprint: dict[str, Any]) -> None:
        self.path, self.fingerprint = path, fingerprint
        self.stage, self.done = "", 0
        self._tensors: dict[str, np.ndarray] = {}
        if path is None or not os.path.exists(path):
            return
        with open_tensors(path, "coarse") as reader:
            if reader.header.get("fingerprint") != fingerprint:
                raise RuntimeError(
                    f"checkpoint {os.fspath(path)!r} is of other vectors or arguments; remove it "
                    "or name another"
                )
            self.stage = str(reader.header.get("stage"))
            self.done = take_number(reader.header, "done", int, 0, 1 << 62)
            self._tensors = reader.all()
            for name, tensor in self._tensors.items():
                if tensor.dtype.kind == "f":
                    finite(name, tensor)

    def take(self, name: str, dtype: Any, shape: tuple[int | None, ...]) -> np.ndarray:
        """A tensor, which is then no longer here. Raises FileFormatError for another kind of it."""
        found = self._tensors.pop(name, np.empty(()))
        same = len(found.shape) == len(shape) and all(
            want in (None, size) for want, size in zip(shape, found.shape, strict=True)
        )
        if found.dtype != dtype or not same:
            raise FileFormatError(f"{os.fspath(self.path or '')}: bad content ({name})")
        return found

    def check(self, right: bool) -> None:
        """Raise FileFormatError unless what was taken is right."""
        if not right:
            raise FileFormatError(f"{os.fspath(self.path or '')}: bad content")

    def save(self, stage: str, done: int, **tensors: np.ndarray) -> None:
        if self.path is not None:
            header = {"fingerprint": self.fingerprint, "stage": stage, "done": done}
            write_tensors(self.path, "coarse", header, tensors)


@dataclass
class TwoLevels:
    """One clustering of that kind: `run` gives the centroids.

    data : the vectors. nlist : centroids. metric, cp : as of faiss; cp's iterations, seed,
    `spherical` and `max_points_per_centroid` count on both levels. room : bytes for vectors in
    memory at a time. checkpoint, progress : as of `train_coarse`.
    """

    data: TrainingSet
    nlist: int
    metric: int
    cp: Any
    room: int
    checkpoint: Checkpoint
    progress: bool

    def run(self) -> np.ndarray:
        """(nlist, d) float32."""
        data, nlist = self.data, self.nlist
        if len(data) < 39 * nlist:  # faiss's least
            warnings.warn(
                f"clustering {len(data)} points to {nlist} centroids: please provide at least "
                f"{39 * nlist} training points",
                RuntimeWarning, stacklevel=2,
            )  # fmt: skip
        with library_threads(torch_too=False):
            if self.checkpoint.stage in ("second", "refining"):
                first = self.checkpoint.take("first", np.float32, (None, data.d))
            else:
                first = self._first()
            centroids = None if self.checkpoint.stage == "refining" else self._second(first)
            return self._refined(first, centroids)

    def _first(self) -> np.ndarray:
        """The centroids of the first level."""
        data = self.data
        k = min(round(math.sqrt(self.nlist)), 1 << 16)
        n = min(len(data), max(k, min(k * FIRST_POINTS, self.room // (8 * data.d))))
        x = data[spread(len(data), n, self.cp.seed)]
        return kmeans(x, k, self._cp(), self.metric, None, self.checkpoint, self.progress)

    def _assigned(self, first: np.ndarray) -> np.ndarray:
        """The cluster of each vector."""
        index = faiss.IndexFlat(self.data.d, self.metric)
        index.add(first)
        found = np.empty(len(self.data), np.uint16)
        with progress_bar("assigning", len(found), "vector", self.progress) as bar:
            for part in self.data.blocks():
                found[part] = index.search(self.data[part], 1)[1][:, 0]
                bar.to(part.stop)
        return found

    def _second(self, first: np.ndarray) -> np.ndarray:
        """All centroids, by cluster, the largest cluster first."""
        data, nlist, checkpoint = self.data, self.nlist, self.checkpoint
        centroids, found, begin = np.empty((nlist, data.d), np.float32), 0, 0
        if checkpoint.stage == "second":
            list_no = checkpoint.take("list_no", np.uint16, (len(data),))
            some = checkpoint.take("centroids", np.float32, (None, data.d))
            found, begin = len(some), checkpoint.done
            checkpoint.check(found <= nlist and list_no.max() < len(first))
            centroids[:found] = some
        else:
            list_no = self._assigned(first)
            checkpoint.save("second", 0, first=first, list_no=list_no, centroids=centroids[:0])
        sizes = np.bincount(list_no, minlength=len(first))
        order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
        sizes = sizes[order]
        checkpoint.check(begin <= len(order))
        cp = self._cp()
        most = max(DIRECT, 8 * nlist // len(first))  # whatever the vectors, it does not take days
        with progress_bar("clusters", nlist, "centroid", self.progress, found) as bar:
            for end in self._groups(sizes, begin):
                for i, x in self._vectors(list_no, order, begin, end):
                    # In proportion; what these have no vectors for, smaller clusters get.
                    left, others = nlist - found, int(sizes[i + 1 :].sum())
                    k = round(left * int(sizes[i]) / (int(sizes[i]) + others))
                    k = max(min(k, left - np.count_nonzero(sizes[i + 1 :])), left - others, 0)
                    x = distinct(x, min(k, most))
                    k = min(k, most, len(x))
                    centroids[found : found + k] = kmeans(x, k, cp, self.metric)
                    found += k
                    bar.to(found)
                begin = end
                checkpoint.save(
                    "second", end, first=first, list_no=list_no, centroids=centroids[:found]
                )
        if found < nlist:
            centroids[found:] = self._spare(nlist - found)
        return centroids

    def _groups(self, sizes: np.ndarray, begin: int) -> Iterator[int]:
        """Where groups of clusters of these sizes end, from this one on."""
        most = max(1, min(len(self.data) // PARTS, self.room // (2 * self.data.row_bytes)))
        while begin < len(sizes):
            total = np.cumsum(sizes[begin:])
            begin += max(1, int(np.searchsorted(total, most, side="right")))
            yield begin

    def _vectors(
        self, list_no: np.ndarray, order: np.ndarray, begin: int, end: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The clusters order[begin:end], and the vectors of each."""
        place = np.zeros(1 << 16, np.uint16)
        place[order[begin:end]] = np.arange(1, end - begin + 1)
        rows = np.flatnonzero(place[list_no])
        most = max(1, self.room // (8 * self.data.d))  # in float32; of a larger cluster a sample
        if most < len(rows) and end - begin == 1:
            rows = rows[spread(len(rows), most, self.cp.seed)]
        cluster = place[list_no[rows]]
        x = self.data.stored(rows)
        by_cluster = np.argsort(cluster, kind="stable")
        ends = np.cumsum(np.bincount(cluster, minlength=end - begin + 1))
        for i in range(begin, end):
            some = by_cluster[ends[i - begin] : ends[i - begin + 1]]
            if most < len(some):
                some = some[spread(len(some), most, self.cp.seed)]
            yield i, np.ascontiguousarray(x[some], np.float32)

    def _spare(self, n: int) -> np.ndarray:
        """Centroids that no cluster has vectors for: training vectors, each a little apart."""
        warnings.warn(
            f"{n} of {self.nlist} centroids are near copies of training vectors, of which too few "
            "differ",
            RuntimeWarning,
            stacklevel=4,
        )
        rng = np.random.default_rng(self.cp.seed)
        chosen = self.data[np.arange(n) * len(self.data) // n]
        chosen *= 1 + EPS * rng.uniform(-1, 1, (n, 1)).astype(np.float32)
        return self._normalised(chosen)

    def _refined(self, first: np.ndarray, centroids: np.ndarray | None) -> np.ndarray:
        """The centroids after iterations over all of them; None: those of the checkpoint."""
        data, nlist, checkpoint, done = self.data, self.nlist, self.checkpoint, 0
        total, counts = np.zeros((nlist, data.d), np.float32), np.zeros(nlist, np.int64)
        if centroids is None:
            centroids = checkpoint.take("centroids", np.float32, (nlist, data.d))
            total = checkpoint.take("total", np.float32, (nlist, data.d))
            counts = checkpoint.take("counts", np.int64, (nlist,))
            done = checkpoint.done
        index = None
        with progress_bar(
            "refining", REFINEMENTS * len(data), "vector", self.progress, done * len(data) // PARTS
        ) as bar:
            for step in range(done, REFINEMENTS * PARTS):
                if index is None:
                    index = two_level(first, centroids, self.metric)
                begin, end = (len(data) * (step % PARTS + i) // PARTS for i in (0, 1))
                for part in data.blocks(begin, end):
                    x = data[part]
                    add_up(total, counts, x, index.search(x, 1)[1][:, 0])
                    bar.to(step // PARTS * len(data) + part.stop)
                if step % PARTS == PARTS - 1:
                    index = None
                    centroids = self._moved(centroids, total, counts)
                    total[:], counts[:] = 0, 0
                checkpoint.save(
                    "refining", step + 1, first=first, centroids=centroids, total=total,
                    counts=counts,
                )  # fmt: skip
        return centroids

    def _moved(self, centroids: np.ndarray, total: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The centroids at the means of their vectors; those without any take half of another's,
        the largest first."""
        has = counts > 0
        centroids[has] = total[has] / counts[has, None].astype(np.float32)
        empty = np.flatnonzero(~has)
        largest = np.argsort(-counts, kind="stable")[: len(empty)]
        signs = np.where(np.arange(self.data.d) % 2, 1 - EPS, 1 + EPS).astype(np.float32)
        centroids[empty[: len(largest)]] = centroids[largest] * signs
        centroids[largest] *= 2 - signs
        return self._normalised(centroids)

    def _normalised(self, centroids: np.ndarray) -> np.ndarray:
        if self.cp.spherical:
            faiss.normalize_L2(centroids)
        return centroids

    def _cp(self) -> Any:
        """What counts on both levels."""
        cp = faiss.ClusteringParameters()
        for name in ("niter", "nredo", "spherical", "int_centroids", "seed"):
            setattr(cp, name, getattr(self.cp, name))
        cp.min_points_per_centroid, cp.max_points_per_centroid = 1, 1 << 30
        return cp


def points_per_centroid(nlist: int) -> int:
    """Vectors a centroid, where nothing else is asked for."""
    if nlist <= DIRECT:
        return MOST_POINTS
    return max(LEAST_POINTS, min(MOST_POINTS, VECTORS // nlist))


def kmeans(
    x: np.ndarray,
    k: int,
    cp: Any,
    metric: int,
    index: Any = None,
    checkpoint: Checkpoint | None = None,
    progress: bool = False,
) -> np.ndarray:
    """faiss's k-means of x (n, d) float32: (k, d) float32. index : for the assignment, None: a flat
    one. With a checkpoint one iteration at a time, for the bar and to go on from there."""
    d = x.shape[1]
    if k == 0:
        return np.empty((0, d), np.float32)
    clustering = faiss.Clustering(d, k, cp)
    if index is None:
        index = faiss.IndexFlat(d, metric)
    if checkpoint is None:
        clustering.train(x, index)
        return faiss.vector_to_array(clustering.centroids).reshape(k, d)
    n_calls = cp.niter if cp.nredo == 1 else 1
    if n_calls > 1:
        clustering.niter = 1
    done = 0
    if checkpoint.stage == "first":
        done = checkpoint.done
        faiss.copy_array_to_vector(
            checkpoint.take("centroids", np.float32, (k, d)).reshape(-1), clustering.centroids
        )
    with progress_bar("k-means", n_calls, "iteration", progress, done) as bar:
        for i in range(done, n_calls):
            clustering.train(x, index)
            clustering.min_points_per_centroid = 1  # its warning has been given
            centroids = faiss.vector_to_array(clustering.centroids).reshape(k, d)
            checkpoint.save("first", i + 1, centroids=centroids)
            bar.to(i + 1)
    return faiss.vector_to_array(clustering.centroids).reshape(k, d)


def two_level(first: np.ndarray, centroids: np.ndarray, metric: int) -> Any:
    """An index of the centroids (nlist, d), by the nearest of `first` (k, d)."""
    quantizer = faiss.IndexFlat(first.shape[1], metric)
    quantizer.add(first)
    index = faiss.IndexIVFFlat(quantizer, first.shape[1], len(first), metric)
    index.is_trained, index.nprobe = True, NPROBE
    index.add(centroids)
    return index


def add_up(total: np.ndarray, counts: np.ndarray, x: np.ndarray, list_no: np.ndarray) -> None:
    """Add vectors x (n, d) to the sums (nlist, d) and counts (nlist,) of lists (n,), -1: none."""
    order = np.argsort(list_no, kind="stable")
    order = order[np.searchsorted(list_no[order], 0) :]
    present, start, n = np.unique(list_no[order], return_index=True, return_counts=True)
    if len(present):
        total[present] += np.add.reduceat(x[order], start, axis=0)
        counts[present] += n


def distinct(x: np.ndarray, k: int) -> np.ndarray:
    """x (n, d) float32, or if fewer than k of them differ one of each."""
    words = np.random.default_rng(0).integers(1 << 63, size=x.shape[1], dtype=np.uint64) | 1
    keys = np.einsum("ij,j->i", x.view(np.uint32), words, dtype=np.uint64, casting="unsafe")
    found = np.unique(keys, return_index=True)[1]
    return x if len(found) >= k else x[np.sort(found)]
