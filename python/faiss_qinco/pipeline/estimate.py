"""What a pipeline will take, before anything is started: time, memory and disk of each stage."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from .. import _core
from ..checks import check_matrix
from ..clustering import points_per_centroid
from ..codec.codec import QINCoCodec
from ..codec.config import EFFORTS, resolve_config
from ..codec.weights import tensor_shapes
from ..index import IndexIVFQINCo
from ..pre_transform import IndexPreTransform
from ..threads import get_num_threads, library_threads
from ..training.plan import plan as plan_training
from ..training.plan import time_of
from .coarse import memory_of as memory_of_kmeans
from .encode import ROWS, memory_of
from .memory import resident, total_memory
from .model import has_beside

TRIAL_SECONDS = 1.0  # of each thing that is tried
_CENTROIDS = 1 << 12  # that the trial of an assignment has
_READING = 300e6  # bytes a second of an ordinary disk


@dataclass(frozen=True)
class Stage:
    """What a stage of the pipeline takes.

    Attributes
    ----------
    name : the command. seconds : on this machine, with the threads set; to within a factor of two.
    memory : bytes of the process, at most. disk : bytes that are written. note : what else to know.
    """

    name: str
    seconds: float
    memory: int
    disk: int
    note: str


def estimate(
    index: Any,
    x: Any,
    *,
    n: int | None = None,
    n_learn: int | None = None,
    memory: int | None = None,
    effort: str = "balanced",
) -> list[Stage]:
    """What it takes to make an index of vectors, stage by stage.

    Parameters
    ----------
    index : IndexIVFQINCo, IndexQINCo, or IndexPreTransform around one; what is trained already is
        not trained again. An untrained one is tried with networks of its sizes.
    x : (n, d), or a `VectorSource`: some rows are encoded, for a few seconds.
    n : vectors to encode; None: those of x. n_learn: to train on; None: those of x, too.
    memory : bytes that a stage may take; None: a third of the machine's.
    effort : as of `encode`.

    The times are of this machine with the threads that are set, and nothing else running. Raises
    as `encode`.
    """
    check_matrix(x, index.d)
    n = int(x.shape[0]) if n is None else n
    if effort not in EFFORTS:
        raise ValueError(f"effort: expected one of {[*EFFORTS]}, got {effort!r}")
    leaf = index.index if isinstance(index, IndexPreTransform) else index
    n_learn = n if n_learn is None else n_learn
    memory = total_memory() // 3 if memory is None else memory
    rows = np.ascontiguousarray(x[: min(int(x.shape[0]), 1 << 12)], np.float32)
    stages = []
    if not leaf.is_trained:
        stages += _of_training(leaf, n_learn)
    rates = {name: _encoding_rate(index, leaf, rows, name) for name in EFFORTS}
    assigning = _assignment_seconds(leaf, rows)
    others = ", ".join(
        f"{name} {time_of(n * (1 / rate + assigning))}"
        for name, rate in rates.items() if name != effort
    )  # fmt: skip
    reading = n * x.shape[1] * x.dtype.itemsize / _READING
    of_shards = n * (leaf.code_size + 4 + (2 if has_beside(leaf) else 0))
    stages.append(
        Stage(
            "encode", max(n * (1 / rates[effort] + assigning), reading),
            resident() + model_memory(leaf) + memory_of(leaf, x, ROWS), of_shards,
            note=f"effort {effort}; {others}",
        )
    )  # fmt: skip
    of_index = index_bytes(leaf, n)
    passes = math.ceil(of_index / memory)
    stages.append(
        Stage(
            "build", passes * of_shards / _READING + 2 * of_index / _READING,
            min(memory, resident() + model_memory(leaf) + 2 * of_index), of_index,
            note=f"{of_index / max(n, 1):.1f} bytes a vector",
        )
    )  # fmt: skip
    return stages


def index_bytes(leaf: Any, n: int) -> int:
    """Bytes of an index of n vectors in a file, ids being numbers."""
    nlist = leaf.nlist
    of_id = (2 + math.log2(nlist)) / 8 + 1 / 16 if isinstance(leaf, IndexIVFQINCo) else 0
    of_vector = leaf.code_size + (2 if has_beside(leaf) else 0) + of_id
    # The last block of a list is filled by half.
    blocks = min(nlist, n) * 32 * (leaf.code_size + 2)
    return int(n * of_vector + blocks + nlist * (4 * leaf.d + 30))


def model_memory(leaf: Any) -> int:
    """Bytes of a trained index that holds nothing, roughly: its centroids, once more for the
    quantizer and three times for the first network, and the codec's networks twice."""
    config = resolve_config(leaf.config, leaf.d)
    ivf = isinstance(leaf, IndexIVFQINCo)
    shapes = tensor_shapes(config, leaf.d, leaf.M, leaf.nbits, leaf.nlist if ivf else None)
    sizes = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
    base = sizes.pop("base")
    return (5 * base if ivf else base) + 2 * sum(sizes.values())


def describe_stages(stages: list[Stage]) -> list[list[str]]:
    """A table, the head first."""

    def size(n: int) -> str:
        return f"{n / 1e9:,.1f} GB" if n >= 1e9 else f"{n / 1e6:,.0f} MB"

    rows = [["stage", "time", "memory", "disk", "note"]]
    for s in stages:
        rows.append([s.name, time_of(s.seconds), size(s.memory), size(s.disk), s.note])
    seconds, disk = sum(s.seconds for s in stages), sum(s.disk for s in stages)
    return [*rows, ["all", time_of(seconds), size(max(s.memory for s in stages)), size(disk), ""]]


def _of_training(leaf: Any, n_learn: int) -> list[Stage]:
    nlist = leaf.nlist if isinstance(leaf, IndexIVFQINCo) else None
    expected = plan_training(leaf.d, n_learn, leaf.M, leaf.nbits, nlist, leaf.config, leaf.training)
    seconds = expected.seconds
    if seconds is None:
        seconds = expected.epochs * (expected.epoch_seconds or 0)
    of_kmeans = 0
    if nlist is not None:
        n_points = min(expected.points, nlist * points_per_centroid(nlist))
        of_kmeans = memory_of_kmeans(n_points, leaf.d, nlist)
    disk = index_bytes(leaf, 0) + model_memory(leaf) // 2
    note = f"{expected.points:,} vectors, config {expected.name}"
    return [Stage("train", seconds, resident() + max(expected.memory, of_kmeans), disk, note)]


def _encoding_rate(index: Any, leaf: Any, rows: np.ndarray, effort: str) -> float:
    """Vectors a second, without their assignment to lists."""
    if leaf.is_trained:
        codec = leaf.codec
        x = index.apply_chain(rows) if leaf is not index else rows
    else:
        codec, x = _codec_of(leaf), _drawn(len(rows), leaf.d)
    list_no = None if codec.nlist is None else np.zeros(len(x), np.int64)
    A, B = codec.config.beam(codec.K, effort=effort)
    n = min(16, len(x))
    codec.encode(x[:n], None if list_no is None else list_no[:n], A=A, B=B, device="cpu")
    while True:
        start = time.perf_counter()
        part = None if list_no is None else list_no[:n]
        codec.encode(x[:n], part, A=A, B=B, device="cpu")
        seconds = time.perf_counter() - start
        if seconds > TRIAL_SECONDS / 4 or n >= len(x):
            return n / seconds
        n = min(len(x), max(2 * n, int(n * TRIAL_SECONDS / 2 / max(seconds, 1e-6))))


def _codec_of(leaf: Any) -> QINCoCodec:
    """A codec of these sizes that has learned nothing: it encodes as fast as another."""
    config = resolve_config(leaf.config, leaf.d)
    ivf = isinstance(leaf, IndexIVFQINCo)
    nlist = min(leaf.nlist, _CENTROIDS) if ivf else None
    rng = np.random.default_rng(0)
    shapes = tensor_shapes(config, leaf.d, leaf.M, leaf.nbits, nlist)
    tensors = {
        name: rng.standard_normal(shape, np.float32) / math.sqrt(shape[-1])
        for name, shape in shapes.items()
    }  # fmt: skip
    mean = tensors.pop("mean")
    metric = leaf.metric_type
    codec = QINCoCodec(config, leaf.M, leaf.nbits, ivf, mean, 1.0, tensors, metric=metric)
    if ivf and metric == faiss.METRIC_INNER_PRODUCT:
        codec.own_centroids = tensors["base"]
    return codec


def _assignment_seconds(leaf: Any, rows: np.ndarray) -> float:
    """Seconds of finding the list of a vector."""
    if not isinstance(leaf, IndexIVFQINCo):
        return 0.0
    coarse, nlist = leaf._coarse, leaf.nlist
    x = _drawn(len(rows), leaf.d)
    flat = coarse.is_flat()
    if flat:
        tried = min(nlist, _CENTROIDS)
        centroids = _drawn(tried, leaf.d)
        start = time.perf_counter()
        _core.assign(centroids, x, 1, leaf.metric_type, get_num_threads())
        return (time.perf_counter() - start) / len(x) * nlist / tried
    # A graph takes longer by the logarithm of its size, which a small one tells.
    quantizer = faiss.clone_index(leaf.quantizer)
    if not (leaf.is_trained or (quantizer.is_trained and quantizer.ntotal)):
        if not quantizer.is_trained:
            quantizer.train(_drawn(_CENTROIDS, leaf.d))
        quantizer.add(_drawn(_CENTROIDS, leaf.d))
    with library_threads(torch_too=False):
        start = time.perf_counter()
        quantizer.search(x, 1)
        seconds = (time.perf_counter() - start) / len(x)
    return seconds * max(1.0, math.log(nlist) / math.log(quantizer.ntotal))


def _drawn(n: int, d: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, d), np.float32)
