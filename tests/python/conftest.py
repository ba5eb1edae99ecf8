"""Real vectors (those of the demo), and one index trained on them for the whole session."""

from __future__ import annotations

import signal
from pathlib import Path

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

DATA = Path(fq.__file__).parent / "data" / "sift_demo"
FAST = {  # modules that train nothing
    "test_additive", "test_container", "test_data", "test_evaluate", "test_factory", "test_golden",
    "test_index_model", "test_model", "test_plots", "test_structure", "test_vectors",
    "test_archive", "test_published",
}  # fmt: skip
TINY = fq.QINCoConfig(L=1, d_e=None, d_h=32, A=8, B=4, train_A=4, train_B=2)


def pytest_configure() -> None:
    """Ctrl-C works, also where the tests are a shell's background job, which ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in FAST:
            item.add_marker(pytest.mark.fast)


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


@pytest.fixture(scope="session")
def trained(learn) -> dict[int, bytes]:
    """The bytes of a trained, empty index for each metric: a test restores its own copy."""
    images = {}
    for metric in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
        index = new_index(metric)
        index.train(learn)
        images[metric] = fq.serialize_index(index)
    return images


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
