"""What the benchmark scripts share: the data, the indexes, random codecs, clocks."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from tqdm import tqdm

import faiss_qinco as fq
from faiss_qinco.codec.config import resolve_config
from faiss_qinco.storage.vectors import read_groundtruth, read_vectors

CHUNK = 10_000  # vectors converted to float32 and added at a time
RQ_MEMORY = 1 << 30  # bytes of RQ's beam search in training; faiss: 5 << 30
BIAS_BYTES = 2  # beside a QINCo code
PRODUCT = (2048, 128, 256)  # rows, inner and columns of the matrix product that gives the rate


def add_index_arguments(parser: argparse.ArgumentParser, many_M: bool = False) -> None:
    """The options that `Bench` reads. many_M: --M takes several, and args.M is a list."""
    add = parser.add_argument
    files = "npy, fvecs, bvecs, fbin, u8bin, i8bin or file.hdf5:dataset"
    add("--base", nargs="+", required=True, metavar="FILE", help=f"concatenated; {files}")
    add("--learn", nargs="+", required=True, metavar="FILE", help="concatenated")
    add("--query", required=True, metavar="FILE")
    add("--groundtruth", metavar="FILE", help="default, and with --n-base: computed")
    add("--metric", choices=("l2", "ip"), default="l2")
    add("--nlist", type=int, default=1024)
    M: dict[str, Any] = {"nargs": "+", "default": [8]} if many_M else {"default": 8}
    add("--M", type=int, help="codes per vector (default: 8)", **M)
    add("--nbits", type=int, default=8, help="bits per code (default: 8)")
    add("--preset", default="XS", help="size of the QINCo codec (default: XS)")
    add("--max-seconds", type=float, default=1200, help="training time of the QINCo codec")
    add("--n-base", type=int, metavar="N", help="use the first N base vectors")
    add("--n-query", type=int, metavar="N", help="use the first N queries")
    add("--codec", type=Path, metavar="FILE", help="use this trained codec, or save it here")
    add("--index", type=Path, metavar="FILE", help="use this filled QINCo index, or save it here")


class Rows:
    """The rows of several mapped files one after the other: a slice is read where it is used."""

    def __init__(self, files: Sequence[str]) -> None:
        self.parts = [read_vectors(file) for file in files]
        self.starts = np.cumsum([0, *map(len, self.parts)])
        self.shape = (int(self.starts[-1]), self.parts[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows of a slice without step, in the dtype of the files."""
        start, stop, _ = rows.indices(len(self))
        pieces = [
            part[max(start - first, 0) : max(stop - first, 0)]
            for part, first in zip(self.parts, self.starts, strict=False)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


class Bench:
    """The data and the centroids, and what builds one index after another.

    --index and --codec are paths for one M; where --M takes several, "{M}" in them is its place.
    """

    def __init__(self, args: argparse.Namespace, centroids: np.ndarray | None = None) -> None:
        """centroids (nlist, d): default those of --index or --codec, else of k-means."""
        self.args = args
        self.metric = faiss.METRIC_L2 if args.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self.learn = Rows(args.learn)[:].astype(np.float32)
        self.base = Rows(args.base)
        if args.n_base is not None:
            self.base = self.base[: args.n_base]
        self.queries = read_vectors(args.query)[: args.n_query].astype(np.float32)
        self.d = self.base.shape[1]
        if args.groundtruth is None or args.n_base is not None:
            self.groundtruth = self.exact(self.base)
        else:
            self.groundtruth = read_groundtruth(args.groundtruth)[0][: args.n_query]
        if self.groundtruth.max() >= len(self.base):
            sys.exit("--groundtruth: has ids that are not in --base")
        start = time.perf_counter()
        self.centroids = self._centroids() if centroids is None else centroids
        self.kmeans_seconds = time.perf_counter() - start
        if self.centroids.shape != (args.nlist, self.d):
            sys.exit(f"centroids: expected {(args.nlist, self.d)}, got {self.centroids.shape}")

    def _centroids(self) -> np.ndarray:
        for M in np.atleast_1d(self.args.M):
            if exists(path := at_M(self.args.index, M)):
                index = fq.read_index(path)
                return index.quantizer.reconstruct_n(0, index.nlist)
            if exists(path := at_M(self.args.codec, M)):
                return fq.QINCoCodec.load(path).centroids()
        return kmeans(self.learn, self.args.nlist, self.metric)

    def exact(self, base: np.ndarray | Rows, k: int = 100) -> np.ndarray:
        """The ids of each query's k nearest base vectors, the nearest first, (n, k)."""
        say(f"ground truth of {len(base)} vectors")
        heap = faiss.ResultHeap(len(self.queries), k, self.metric == faiss.METRIC_INNER_PRODUCT)
        for i in range(0, len(base), CHUNK):
            x = np.asarray(base[i : i + CHUNK], np.float32)
            D, I = faiss.knn(self.queries, x, min(k, len(x)), metric=self.metric)
            heap.add_result(D, I + i)
        heap.finalize()
        return heap.I

    def faiss_index(
        self, description: str, learn: np.ndarray, base: np.ndarray
    ) -> tuple[Any, float]:
        """Train and fill the index of a factory string; with the seconds of training."""
        say(f"{description}: training on {len(learn)} vectors")
        start = time.perf_counter()
        index: Any = faiss.index_factory(self.d, description, self.metric)
        ivf: Any = faiss.downcast_index(faiss.extract_index_ivf(index))
        if hasattr(ivf, "do_polysemous_training"):
            ivf.do_polysemous_training = False  # slow, for a kind of search not used here
        if hasattr(ivf, "rq"):
            ivf.rq.max_mem_distances = RQ_MEMORY
        centroids = self.centroids
        if isinstance(index, faiss.IndexPreTransform):
            chain: Any = index.chain
            rotation = faiss.downcast_VectorTransform(chain.at(0))
            rotation.train(learn)
            centroids = rotation.apply(centroids)
        ivf.quantizer.add(centroids)  # k-means is then left out of `train`
        index.train(learn)
        seconds = time.perf_counter() - start
        fill(index, base, description)
        return index, seconds

    def qinco_index(self, M: int | None = None) -> tuple[Any, float | None]:
        """From --index or --codec where they exist; with the seconds of training, if any.

        M: default --M.
        """
        args, M, seconds = self.args, M or self.args.M, None
        index_path, codec_path = at_M(args.index, M), at_M(args.codec, M)
        if exists(index_path):
            index = fq.read_index(index_path)
        else:
            name = f"IVF{args.nlist},QINCo{M}x{args.nbits}_{args.preset}"
            training = fq.TrainingConfig(max_seconds=args.max_seconds, epochs=1_000_000)
            index = fq.IndexIVFQINCo(
                faiss.IndexFlat(self.d, self.metric), self.d, args.nlist, M, args.nbits,
                self.metric, args.preset, training,
            )  # fmt: skip
            index.quantizer.add(self.centroids)
            if exists(codec_path):
                say(f"{name}: with the codec of {codec_path}")
                index.train_from_codec(self.learn, fq.QINCoCodec.load(codec_path))
            else:
                say(f"{name}: training on {len(self.learn)} vectors")
                start = time.perf_counter()
                index.train(self.learn)
                seconds = time.perf_counter() - start
                if codec_path is not None and index.codec is not None:
                    index.codec.save(codec_path)
            fill(index, self.base, name)
            if index_path is not None:
                fq.write_index(index, index_path)
        found = (index.d, index.M, index.nbits, index.metric_type, index.ntotal)
        expected = (self.d, M, args.nbits, self.metric, len(self.base))
        if found != expected:
            sys.exit(f"--index: expected d, M, nbits, metric, ntotal {expected}, got {found}")
        if not np.array_equal(index.quantizer.reconstruct_n(0, index.nlist), self.centroids):
            sys.exit(f"{index_path or codec_path}: trained with other centroids than the others'")
        return index, seconds


def kmeans(x: np.ndarray, nlist: int, metric: int = faiss.METRIC_L2) -> np.ndarray:
    """Centroids (nlist, d) of x (n, d) float32."""
    say(f"k-means: {nlist} centroids of {len(x)} vectors")
    parameters = faiss.ClusteringParameters()
    parameters.spherical = metric == faiss.METRIC_INNER_PRODUCT
    clustering = faiss.Clustering(x.shape[1], nlist, parameters)
    clustering.train(x, faiss.IndexFlat(x.shape[1], metric))
    return faiss.vector_to_array(clustering.centroids).reshape(nlist, -1)


def random_codec(
    preset: str, x: np.ndarray, M: int = 8, centroids: np.ndarray | None = None
) -> fq.QINCoCodec:
    """A codec that has the size of a trained one and its arithmetic, not its accuracy.

    Codebooks are normal, of a scale that falls from step to step; the networks keep the initial
    values of training, but for the matrices that start at zero: these are small and normal. x
    (n, d) gives mean and standard deviation; behind an IVF, centroids (nlist, d).
    """
    import torch

    from faiss_qinco.codec.model import QINCo
    from faiss_qinco.training import TrainingSet

    d, nbits = x.shape[1], 8
    config = resolve_config(preset, d)
    mean, std = TrainingSet(x, d).normalisation()
    torch.manual_seed(0)
    model = QINCo(d, M, 1 << nbits, config, None if centroids is None else len(centroids))
    with torch.no_grad():
        if centroids is None:
            model.base.normal_(std=0.5)
        else:
            model.base.copy_(torch.from_numpy((centroids - mean) / np.float32(std)))
        for m, step in enumerate(model.steps):
            step.set_codebook(torch.randn(step.codebook.shape) * 0.4 * 0.85**m)
            W = step.concat.mlp.weight
            W.normal_(std=0.05 * W.shape[1] ** -0.5)
            for matrix in [block.down.weight for block in step.blocks]:
                matrix.normal_(std=0.1 * config.d_h**-0.5)
            if step.out_proj is not None:
                step.out_proj.weight.normal_(std=0.1 * config.width(d) ** -0.5)
    tensors = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    return fq.QINCoCodec(config, M, nbits, centroids is not None, mean, std, tensors)


def fastest(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of each call, the best of `repeats` after one that is not timed.

    The calls take turns, so that what else the machine does meanwhile falls on all alike.
    """
    best = dict.fromkeys(calls, float("inf"))
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat > 0:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def matrix_products() -> dict[str, Callable[[], Any]]:
    """torch's product of `PRODUCT` in float32 and, where the CPU has it, in bfloat16."""
    import torch

    from faiss_qinco.codec.devices import use_bf16

    rows, inner, columns = PRODUCT
    calls = {}
    for dtype in [torch.float32] + [torch.bfloat16] * use_bf16(None, "cpu"):
        a, b = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
        out = torch.empty(rows, columns, dtype=dtype)
        name = f"torch {str(dtype).removeprefix('torch.')} product"
        calls[name] = partial(torch.mm, a, b, out=out)
    return calls


def product_flops() -> int:
    """Operations of one of `matrix_products`."""
    rows, inner, columns = PRODUCT
    return 2 * rows * inner * columns


def environment() -> dict[str, Any]:
    """What a figure depends on besides the arguments."""
    import torch

    versions = {"faiss": faiss.__version__, "faiss_qinco": fq.__version__}
    return {
        "threads": fq.get_num_threads(),
        "simd_level": fq.simd_level(),
        "cpu": cpu_name(),
        "versions": {**versions, "torch": torch.__version__},
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def plain_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments as JSON can hold them."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}


def at_M(path: Path | None, M: int) -> Path | None:
    """The path for that M, which has the place "{M}" there."""
    return None if path is None else Path(str(path).replace("{M}", str(M)))


def exists(path: Path | None) -> bool:
    return path is not None and path.exists()


def fill(index: Any, x: np.ndarray | Rows, name: str) -> None:
    """Add x in chunks, each converted to float32."""
    for i in tqdm(range(0, len(x), CHUNK), desc=f"{name}: adding", unit=f"x{CHUNK}"):
        index.add(x[i : i + CHUNK].astype(np.float32))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
