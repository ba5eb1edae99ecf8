"""Real vectors (those of the demo), and one index trained on them for the whole session."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

DATA = Path(fq.__file__).parent / "data" / "sift_demo"
TINY = fq.QINCoConfig(L=1, d_e=None, d_h=32, A=8, B=4, train_A=4, train_B=2)


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
    return fq.TrainingConfig(**{"epochs": 2, "progress": False, "n_validation": 512, **kwargs})


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
