"""Promises are of codecs as a training leaves them."""

from __future__ import annotations

import faiss
import pytest

import faiss_qinco as fq

from ..conftest import new_index


@pytest.fixture(scope="package")
def trained(learn) -> dict[int, bytes]:
    """As that of all tests, and trained."""
    images = {}
    for metric in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
        index = new_index(metric)
        index.train(learn)
        images[metric] = fq.serialize_index(index)
    return images
