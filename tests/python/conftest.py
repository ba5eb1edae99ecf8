"""Real vectors (those of the demo), and one index trained on them for the whole session."""

from __future__ import annotations

import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco import _core
from faiss_qinco.codec.config import resolve_config
from faiss_qinco.codec.weights import tensor_shapes
from faiss_qinco.errors import MissingTorchError

DATA = Path(fq.__file__).parent / "data" / "sift_demo"
FAST = {  # modules that train nothing
    "test_additive", "test_container", "test_data", "test_evaluate", "test_factory", "test_golden",
    "test_index_model", "test_light", "test_model", "test_plots", "test_structure", "test_stub",
    "test_vectors", "test_archive", "test_published",
}  # fmt: skip
collect_ignore = [] if find_spec("torch") else [  # of torch alone
    "interop/test_archive.py", "interop/test_convert.py", "interop/test_published.py",
    "ranking/test_rerank.py", "training/test_log.py", "training/test_processes.py",
    "training/test_student.py", "training/test_training.py",
]  # fmt: skip
TINY = fq.QINCoConfig(L=1, d_e=None, d_h=32, A=8, B=4, train_A=4, train_B=2)


def pytest_configure() -> None:
    """Ctrl-C works, also where the tests are a shell's background job, which ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in FAST:
            item.add_marker(pytest.mark.fast)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Any:
    return (yield from skipped_without_torch())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Any:
    return (yield from skipped_without_torch())


def skipped_without_torch() -> Any:
    """What trains, or has a torch device, is skipped where torch is missing; the rest passes."""
    try:
        return (yield)
    except MissingTorchError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def learn() -> np.ndarray:
    return np.load(DATA / "learn.npy").astype(np.float32)


@pytest.fixture(scope="session")
def base() -> np.ndarray:
    return np.load(DATA / "base.npy").astype(np.float32)


@pytest.fixture(scope="session")
def queries() -> np.ndarray:
    return np.load(DATA / "query.npy").astype(np.float32)


@pytest.fixture(scope="session")
def groundtruth() -> np.ndarray:
    return np.load(DATA / "groundtruth.npy")


def training(**kwargs) -> fq.TrainingConfig:
    """Without a clock, so that the same settings give the same codec."""
    settings = {"epochs": 2, "max_seconds": None, "progress": False, "n_validation": 512}
    return fq.TrainingConfig(**{**settings, **kwargs})


def new_index(metric: int = faiss.METRIC_L2, nbits: int = 8, **kwargs) -> fq.IndexIVFQINCo:
    quantizer = faiss.IndexFlat(128, metric)
    return fq.IndexIVFQINCo(quantizer, 128, 16, 4, nbits, metric, TINY, training(**kwargs))


def random_tensors(
    config: fq.QINCoConfig, d: int, M: int, nbits: int, nlist: int | None, scale: float
) -> dict[str, np.ndarray]:
    """Tensors of a codec, normally distributed; a codec has its mean apart."""
    rng = np.random.default_rng(1)
    shapes = tensor_shapes(config, d, M, nbits, nlist)
    del shapes["mean"]
    return {k: scale * rng.standard_normal(shape, np.float32) for k, shape in shapes.items()}


def untrained_codec(
    x: np.ndarray,
    config: fq.QINCoConfig,
    M: int,
    nbits: int,
    centroids: np.ndarray | None = None,
    metric: int = faiss.METRIC_L2,
) -> fq.QINCoCodec:
    """What a training starts from, codebooks of residual quantization; but for the networks, whose
    weights are small random ones, so that they count. Takes an instant, and no torch."""
    x = np.ascontiguousarray(x, np.float32)
    mean, std, d = x.mean(0), float(x.std()), x.shape[1]
    residuals, ivf, bases = (x - mean) / np.float32(std), centroids is not None, centroids
    if ivf:
        list_no = _core.assign(centroids, x, 1, metric, 1)[0][:, 0]
        if metric == faiss.METRIC_INNER_PRODUCT:
            bases = np.stack([x[list_no == i].mean(0) for i in range(len(centroids))])
        bases = (bases - mean) / np.float32(std)
        residuals -= bases[list_no]
    rq = faiss.ResidualQuantizer(d, M, nbits)
    rq.train_type, rq.max_beam_size, rq.cp.min_points_per_centroid = rq.Train_default, 1, 1
    rq.train(residuals[:4000])
    codebooks = list(faiss.vector_to_array(rq.codebooks).reshape(M, 1 << nbits, d))
    nlist = len(centroids) if ivf else None
    tensors = random_tensors(config, d, M, nbits, nlist, 0.5 / d)
    tensors["base"] = bases.astype(np.float32) if ivf else codebooks.pop(0)
    half = not config.qinco1 and config.width(d) == d
    for m, codewords in enumerate(codebooks):
        tensors[f"steps.{m}.codebook"] = codewords * np.float32(0.5 if half else 1)
        if config.A > 0:
            tensors[f"steps.{m}.preselect"] = codewords
    codec = fq.QINCoCodec(config, M, nbits, ivf, mean, std, tensors, metric=metric)
    if ivf and metric == faiss.METRIC_INNER_PRODUCT:
        codec.own_centroids = centroids
    return codec


def make_searchable(index: Any, x: np.ndarray) -> None:
    """In place of `train`, where training is not what is tested: see `untrained_codec`."""
    if isinstance(index, fq.IndexPreTransform):
        for transform in index.chain:
            transform.train(x)
            x = transform.apply(x)
        index = index.index
    centroids = None
    if isinstance(index, fq.IndexIVFQINCo):
        x = np.ascontiguousarray(x, np.float32)
        if index.quantizer.ntotal == 0:
            km = faiss.Clustering(index.d, index.nlist, index.cp)
            km.train(x, faiss.IndexFlat(index.d, index.metric_type))
            index.quantizer.add(faiss.vector_to_array(km.centroids).reshape(index.nlist, -1))
        centroids = index.quantizer.reconstruct_n(0, index.nlist)
    config = resolve_config(index.config, index.d)
    codec = untrained_codec(x, config, index.M, index.nbits, centroids, index.metric_type)
    index.train_from_codec(x, codec)


def images(prepare: Callable[[fq.IndexIVFQINCo], None]) -> dict[int, bytes]:
    """The bytes of an empty index for each metric, after `prepare`."""
    found = {}
    for metric in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
        index = new_index(metric)
        prepare(index)
        found[metric] = fq.serialize_index(index)
    return found


@pytest.fixture(scope="session")
def trained(learn) -> dict[int, bytes]:
    """Indexes that can be searched, by metric: a test restores its own copy."""
    return images(lambda index: make_searchable(index, learn))


@pytest.fixture(scope="session")
def fully_trained(learn) -> dict[int, bytes]:
    """The same, for tests of what only a training gives."""
    return images(lambda index: index.train(learn))


@pytest.fixture
def empty(trained) -> fq.IndexIVFQINCo:
    return fq.deserialize_index(trained[faiss.METRIC_L2])


@pytest.fixture(scope="session")
def filled_image(trained, base) -> np.ndarray:
    index = fq.deserialize_index(trained[faiss.METRIC_L2])
    index.add(base[:3000])
    return fq.serialize_index(index)


@pytest.fixture
def filled(filled_image) -> fq.IndexIVFQINCo:
    """3000 vectors, L2, 16 lists, 4 codes of 8 bits."""
    return fq.deserialize_index(filled_image)
