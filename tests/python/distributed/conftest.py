"""A Ray of four workers on this machine, whose processes kill themselves where a test wants it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.pipeline.build import build
from faiss_qinco.pipeline.encode import encode, shards_of

from ..conftest import make_searchable, new_index

SHARD = 250  # rows
PER_SEGMENT = 3
N = 3000


@pytest.fixture(scope="session")
def orders(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("orders")


@pytest.fixture(scope="session")
def cluster(orders) -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="pip install 'faiss-qinco[ray]'")
    folder = str(orders)

    def armed() -> None:  # in each worker, once; sent by value, so that it imports for itself
        import importlib
        import os
        import signal

        def deadly(module: str, name: str, owner: str | None = None) -> None:
            place = importlib.import_module(module)
            place = getattr(place, owner) if owner else place
            whole = getattr(place, name)

            def call(*args: Any, **kwargs: Any) -> Any:
                found = whole(*args, **kwargs)
                try:
                    os.unlink(os.path.join(folder, name))
                except FileNotFoundError:
                    return found
                os.kill(os.getpid(), signal.SIGKILL)

            setattr(place, name, call)

        deadly("faiss_qinco.pipeline.encode", "encode_rows")
        deadly("faiss_qinco.pipeline.build", "_write", "_Build")
        deadly("faiss_qinco.index.ivf", "search_preassigned", "IndexIVFQINCo")

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=4, include_dashboard=False, object_store_memory=128 << 20, log_to_driver=False,
        runtime_env={"worker_process_setup_hook": armed},
    )  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.fixture
def kill(orders) -> Iterator[Callable[[str], Path]]:
    """kill(name): the next worker that has called this function is killed, by SIGKILL. The file
    that is returned is gone once it has been."""

    def order(name: str) -> Path:
        (orders / name).touch()
        return orders / name

    yield order
    for left in orders.iterdir():
        left.unlink()


@pytest.fixture(scope="session")
def model(learn) -> fq.IndexIVFQINCo:
    index = new_index()
    make_searchable(index, learn)
    return index


@pytest.fixture(scope="session")
def codes(model, base, tmp_path_factory) -> Path:
    """A folder of shards, encoded without Ray."""
    folder = tmp_path_factory.mktemp("one") / "codes"
    encode(model, base[:N], folder, rows_per_shard=SHARD, progress=False)
    return folder


@pytest.fixture(scope="session")
def segments(model, codes, tmp_path_factory) -> list[Path]:
    """Files of segments, built without Ray."""
    folder, files = tmp_path_factory.mktemp("segments"), shards_of(codes)
    made = []
    for first in range(0, len(files), PER_SEGMENT):
        made.append(folder / f"{first}.fqi")
        part = files[first : first + PER_SEGMENT]
        build(model, part, made[-1], first=first * SHARD, progress=False)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def merged(parts: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """By distance (L2) and then by id, one query after the other."""
    found = []
    for q in range(len(parts[0][0])):
        rows = [(d, i) for D, I in parts for d, i in zip(D[q].tolist(), I[q].tolist(), strict=True)]
        found.append(sorted(rows)[:k])
    both = np.array(found)
    return both[:, :, 0].astype(np.float32), both[:, :, 1].astype(np.int64)
