"""The examples, and what is trained for them in an instant."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

import faiss_qinco as fq

from ..conftest import training
from ..wrappers.conftest import D, control, images, learnt, new, q, x

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # no test needs a network
EXAMPLES = Path(__file__).parents[3] / "bench" / "examples"
REASON = "pip install 'faiss-qinco[frameworks]'"
__all__ = ["D", "control", "example", "images", "learnt", "new", "q", "registered", "x"]


def example(name: str) -> Any:
    """A module of bench/examples."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def brief() -> fq.TrainingConfig:
    return training(epochs=1, max_points=1500, n_validation=256)


@pytest.fixture(autouse=True)
def registered():
    fq.register()
    yield
    fq.unregister()
