"""faiss's codecs as peers of QINCo: each built on the same lists, searched in the same of them.

The base that residuals are taken to is the peer's to choose: for inner product, faiss's spherical
k-means has centroids of unit length, and residuals to them are longer than to the mean of the
list's vectors. `Lists` holds both; which vector is in which list, and which lists a query probes,
is by the centroids in either case. Where all vectors have one length, the most similar are also
the nearest, and to search by L2 is the better choice for most peers: what is decoded is shorter
than what was stored, by more the less its code says. That is the third kind: means and L2.
"""

from __future__ import annotations

import time
from typing import Any

import faiss
import numpy as np
from common import CHUNK, RQ_MEMORY, Rows
from tqdm import tqdm

NORM_BYTES = 4  # what `_Nfloat` keeps beside an additive code
RABITQ_BYTES = 8  # two float32 factors beside a bit for each dimension
SAME_CODES = ("pq", "opq", "rq", "lsq")  # methods of M codes
METHODS = (*SAME_CODES, "rq+", "pq2x", "rabitq")


class Lists:
    """Centroids (nlist, d), the means of the learn vectors in their lists, and the probed lists."""

    def __init__(
        self,
        centroids: np.ndarray,
        learn: np.ndarray,
        queries: np.ndarray,
        nprobe: int,
        metric: int,
    ) -> None:
        self.metric, self.nlist = metric, len(centroids)
        self.coarse = faiss.IndexFlat(centroids.shape[1], metric)
        self.coarse.add(centroids)
        self.learn_lists = self.assign(learn)
        self.probes = self.coarse.search(queries, nprobe)[1]
        self.bases = {"means": centroids}  # with L2, k-means made them the means
        if metric == faiss.METRIC_INNER_PRODUCT:
            sums, means = np.zeros_like(centroids), centroids.copy()
            np.add.at(sums, self.learn_lists, learn)
            n = np.bincount(self.learn_lists, minlength=self.nlist)
            means[n > 0] = sums[n > 0] / n[n > 0, None]
            self.bases = {"centroids": centroids, "means": means}
            norms = np.linalg.norm(learn, axis=1)
            if np.allclose(norms, norms.mean(), rtol=1e-3):
                self.bases["l2"] = means

    def assign(self, x: np.ndarray) -> np.ndarray:
        """The list of each vector, (n,) int64."""
        return self.coarse.search(x, 1)[1][:, 0]


class Peer:
    """A faiss index of codes: flat, or in the lists with residuals to one kind of base.

    Its vectors are padded with zeros to as many dimensions as PQ can divide by its codes, and
    rotated where the method does so.
    """

    def __init__(
        self,
        method: str,
        M: int,
        nbits: int,
        learn: np.ndarray,
        rows: np.ndarray,
        lists: Lists | None,
        kind: str,
        metric: int,
        opq: dict[int, tuple[Any, float]],
    ) -> None:
        """rows: of learn, to train on; lists: None for a flat index; kind: of `lists.bases`; opq:
        by M, the rotations that others have trained already, and the seconds that took."""
        self.lists, self.d = lists, learn.shape[1]
        self.metric = metric = faiss.METRIC_L2 if kind == "l2" else metric
        self.rotation: Any = None
        code, beside = encoding(method, M, nbits, metric)
        parts = {"pq": M, "opq": M, "pq2x": 2 * M}.get(method, 1)
        self.padded_d = -(-self.d // parts) * parts
        # rq+ could do without the norm (`ST_decompress`): the distances are the same, and slower.
        no_norm = method == "rq+" or beside == 0
        self.name = code.partition("_")[0] if no_norm else code
        if method == "opq":
            self.name = f"OPQ{M},{code}"
        if method == "rabitq":
            self.rotation = faiss.RandomRotationMatrix(self.d, self.d)
            self.rotation.init(0)
        elif method == "opq":
            if M not in opq:
                start = time.perf_counter()
                rotation = faiss.OPQMatrix(self.padded_d, M)
                rotation.train(self.pad(learn))
                opq[M] = rotation, time.perf_counter() - start
            self.rotation = opq[M][0]
        start = time.perf_counter()
        x = self.transformed(learn[rows])
        ivf = "" if lists is None else f"IVF{lists.nlist},"
        self.index: Any = faiss.index_factory(self.padded_d, ivf + code, metric)
        if hasattr(self.index, "do_polysemous_training"):
            self.index.do_polysemous_training = False  # slow, for a search not used here
        if hasattr(self.index, "rq"):
            self.index.rq.max_mem_distances = RQ_MEMORY
        if lists is None:
            self.index.train(x)
        else:
            self._bases = lists.bases[kind]
            self.index.nprobe = lists.probes.shape[1]
            self._train_encoder(x, lists.learn_lists[rows], self._bases)
        self.seconds = time.perf_counter() - start + (opq[M][1] if method == "opq" else 0)
        self.code_bytes = self.index.code_size - beside
        self.extra_bytes = 0 if no_norm else beside

    def _train_encoder(self, x: np.ndarray, list_no: np.ndarray, bases: np.ndarray) -> None:
        """What `IndexIVF.train` does, with these lists and residuals to these bases."""
        rotated = self.transformed(bases)
        self.index.quantizer.add(rotated)
        residuals = x - rotated[list_no]
        most = self.index.train_encoder_num_vectors()
        if len(x) > most > 0:
            rows = np.random.default_rng(0).permutation(len(x))[:most]
            residuals, list_no = residuals[rows], list_no[rows]
        self.index.train_encoder(len(residuals), faiss.swig_ptr(residuals), faiss.swig_ptr(list_no))
        self.index.is_trained = True

    def pad(self, x: np.ndarray) -> np.ndarray:
        return np.pad(x, ((0, 0), (0, self.padded_d - self.d)))

    def transformed(self, x: np.ndarray) -> np.ndarray:
        x = self.pad(x)
        return x if self.rotation is None else self.rotation.apply(x)

    def fill(self, base: np.ndarray | Rows) -> None:
        """Hold these vectors and no others."""
        self.index.reset()
        for i in tqdm(range(0, len(base), CHUNK), desc=f"{self.name}: adding", unit=f"x{CHUNK}"):
            x = np.asarray(base[i : i + CHUNK], np.float32)
            if self.lists is None:
                self.index.add(self.transformed(x))
                continue
            list_no, ids = self.lists.assign(x), np.arange(i, i + len(x))
            x = self.transformed(x)
            pointers = map(faiss.swig_ptr, (x, ids, list_no))
            self.index.add_core(len(x), *pointers)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Of all queries that `lists` has the probes of: D and I, (n, k)."""
        x = self.transformed(queries)
        if self.lists is None:
            return self.index.search(x, k)
        if self.metric == faiss.METRIC_INNER_PRODUCT:
            to_bases = queries @ self._bases.T
        else:
            to_bases = faiss.pairwise_distances(queries, self._bases)
        to_probed = np.take_along_axis(to_bases, self.lists.probes, axis=1)
        return self.index.search_preassigned(x, k, self.lists.probes, to_probed)

    def reconstruct_n(self, first: int, n: int) -> np.ndarray:
        x = self.index.reconstruct_n(first, n)
        return (x if self.rotation is None else self.rotation.reverse_transform(x))[:, : self.d]


def encoding(method: str, M: int, nbits: int, metric: int) -> tuple[str, int]:
    """faiss's name of the code, and the bytes that the index has beside it.

    Additive codes come with the norm that makes the search exact; inner product needs none.
    """
    if method in ("pq", "opq", "pq2x"):
        return f"PQ{2 * M if method == 'pq2x' else M}x{nbits}", 0
    if method == "rabitq":
        return "RaBitQ", RABITQ_BYTES
    if method == "rq+":
        M += NORM_BYTES * 8 // nbits
    family = "LSQ" if method == "lsq" else "RQ"
    if metric == faiss.METRIC_L2:
        return f"{family}{M}x{nbits}_Nfloat", NORM_BYTES
    return f"{family}{M}x{nbits}_Nnone", 0
