"""Which inverted lists a vector belongs to, and which ones a query visits: no lists at all, or the
answer of any faiss quantizer. The extension takes the place of a flat one."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from . import _core, clustering
from .checks import usable
from .clustering import ROOM, Checkpoint, TwoLevels, kmeans, points_per_centroid
from .codec.codec import QINCoCodec
from .threads import get_num_threads, library_threads
from .training.data import TrainingSet, spread
from .training.processes import from_first

Probed = tuple[np.ndarray | None, np.ndarray | None]


class NoLists:
    """The coarse part of an index without inverted lists: it has one, for all vectors."""

    nlist = None

    def train(
        self,
        data: TrainingSet,
        codec: QINCoCodec | None = None,
        progress: bool = False,
        verbose: bool = False,
    ) -> None:
        """Nothing to train, and no centroids."""

    def assign(self, x: np.ndarray) -> None:
        """The engine knows the only list."""

    def assign_training(self, data: TrainingSet, centroids: np.ndarray | None) -> None:
        """Nor do codes have a list in front."""

    def probe(self, x: np.ndarray, nprobe: int, quantizer_params: Any) -> Probed:
        return None, None


class Quantizer:
    """The coarse part of an IVF index: a faiss index of the nlist centroids."""

    def __init__(self, index: faiss.Index, d: int, nlist: int, metric: int) -> None:
        self.index, self.d, self.nlist, self.metric = index, d, nlist, metric
        self.clustering_index: faiss.Index | None = None  # k-means'; None: a flat one
        self.cp = faiss.ClusteringParameters()
        self.cp.niter = 10
        self.cp.spherical = metric == faiss.METRIC_INNER_PRODUCT

    def is_flat(self) -> bool:
        """Whether the extension can take its place."""
        index = self.index
        kinds = (faiss.IndexFlat, faiss.IndexFlatL2, faiss.IndexFlatIP)
        if type(index) is faiss.Index:  # a pointer from C++; a subclass in Python is none of these
            index = faiss.downcast_index(index)
        return type(index) in kinds and index.metric_type == self.metric

    def centroids(self) -> np.ndarray:
        """(nlist, d) float32."""
        with library_threads(torch_too=False):
            return np.ascontiguousarray(self.index.reconstruct_n(0, self.nlist), np.float32)

    def train(
        self,
        data: TrainingSet,
        codec: QINCoCodec | None = None,
        progress: bool = False,
        verbose: bool = False,
    ) -> np.ndarray:
        """Centroids (nlist, d) float32 by k-means, or the codec's where it has been given; those of
        the quantizer are kept where it holds nlist already, as in FAISS.

        Raises ValueError where these are not the codec's.
        """
        if not (self.index.is_trained and self.index.ntotal == self.nlist):
            centroids = (
                from_first(lambda: self._cluster(data, progress, verbose))
                if codec is None
                else codec.centroids()
            )
            with library_threads(torch_too=False):
                self.index.reset()
                if not self.index.is_trained:
                    self.index.train(centroids)
                self.index.add(centroids)
        centroids = self.centroids()
        if codec is not None and not np.allclose(
            centroids, codec.centroids(), rtol=1e-3, atol=1e-3 * codec.std
        ):
            raise ValueError("quantizer: its centroids are not the codec's")
        return centroids

    def _cluster(self, data: TrainingSet, progress: bool, verbose: bool) -> np.ndarray:
        """By faiss's k-means, or in two levels where that would take too long."""
        cp = self.cp
        cp.verbose = verbose
        nowhere = Checkpoint(None, {})
        if self.nlist > clustering.DIRECT and self.clustering_index is None:
            points = min(points_per_centroid(self.nlist), cp.max_points_per_centroid)
            n = min(len(data), self.nlist * points)
            sample = data.subset(spread(len(data), n, cp.seed))
            return TwoLevels(sample, self.nlist, self.metric, cp, ROOM, nowhere, progress).run()
        x = data.sample(self.nlist * cp.max_points_per_centroid, cp.seed)
        with library_threads(torch_too=False):
            return kmeans(x, self.nlist, cp, self.metric, self.clustering_index, nowhere, progress)

    def assign(self, x: np.ndarray) -> np.ndarray | None:
        """List numbers (n,) int64 of x (n, d) float32, -1 where the quantizer has no answer; None:
        the nearest centroid's, which the engine finds."""
        return None if self.is_flat() else self._search(x, 1, None)[1][:, 0]

    def assign_training(self, data: TrainingSet, centroids: np.ndarray | None) -> np.ndarray:
        """List numbers (n,) int64 of training vectors, -1 where the quantizer has no answer."""
        assert centroids is not None  # it has been trained
        out = np.empty(len(data), np.int64)
        for part in data.blocks():
            x = data[part]
            found = self.assign(x)
            if found is None:
                found = _core.assign(centroids, x, 1, self.metric, get_num_threads())[0][:, 0]
            out[part] = found
        return out

    def probe(self, x: np.ndarray, nprobe: int, quantizer_params: Any) -> Probed:
        """List numbers and distances (n, nprobe) as faiss's `search` gives them; Nones where the
        engine finds them. Distances in another metric than the index's are None: the engine
        computes its own."""
        if quantizer_params is None and self.is_flat():
            return None, None
        distance, list_no = self._search(x, nprobe, quantizer_params)
        return list_no, distance if self.index.metric_type == self.metric else None

    def _search(self, x: np.ndarray, k: int, params: Any) -> tuple[np.ndarray, np.ndarray]:
        # faiss.contrib.torch_utils replaces `search` by one that knows no params, and keeps this.
        search = getattr(self.index, "search_numpy", self.index.search)
        x = _placeable(x)
        with library_threads(torch_too=False):
            found = search(x, k) if params is None else search(x, k, params=params)
        distance, list_no = (np.ascontiguousarray(a) for a in found[:2])
        return distance, np.maximum(list_no, -1)


def _placeable(x: np.ndarray) -> np.ndarray:
    """x with zeros in place of rows that are not usable, on which some quantizers crash. Whoever
    asks does not use the answer for these."""
    good = usable(x)
    return x if good.all() else np.where(good[:, None], x, np.float32(0))
