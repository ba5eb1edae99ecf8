"""Encoding and building on Ray: the files of one process, whoever is killed."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.pipeline import distributed
from faiss_qinco.pipeline.encode import shard_path
from faiss_qinco.pipeline.on_ray import LostWorkerError
from faiss_qinco.storage.container import FileFormatError
from faiss_qinco.storage.vectors import write_vectors

from ..conftest import make_searchable, new_index
from .conftest import PER_SEGMENT, SHARD, N, contents

pytest.importorskip("ray", reason="pip install 'faiss-qinco[ray]'")


def encoded(model: Any, x: Any, folder: Any, **kwargs: Any) -> int:
    return distributed.encode_shards(
        model, x, folder, rows_per_shard=SHARD, progress=False, **kwargs
    )


def built(model: Any, codes: Any, folder: Any, **kwargs: Any) -> list[Any]:
    return distributed.build_segments(
        model, codes, folder, shards_per_segment=PER_SEGMENT, progress=False, **kwargs
    )


def test_a_worker_that_is_killed_while_it_encodes_costs_nothing(
    cluster, kill, model, base, codes, tmp_path
) -> None:
    write_vectors(tmp_path / "base.fvecs", base[:N])
    order = kill("encode_rows")
    assert encoded(model, tmp_path / "base.fvecs", tmp_path / "codes") == N
    assert not order.exists()
    assert contents(tmp_path / "codes") == contents(codes)


def test_what_was_begun_is_gone_on_with(cluster, kill, model, base, codes, tmp_path) -> None:
    filled = fq.deserialize_index(fq.serialize_index(model))
    filled.add(base[:10])  # what is in it does not matter
    order = kill("encode_rows")
    with pytest.raises(LostWorkerError, match="lost"):
        encoded(filled, base[:N], tmp_path / "codes", options={"max_retries": 0})
    assert not order.exists()
    for number in (0, 1):
        shard_path(tmp_path / "codes", number).unlink(missing_ok=True)
    assert 0 < encoded(filled, base[:N], tmp_path / "codes") <= N
    assert contents(tmp_path / "codes") == contents(codes)
    assert encoded(filled, base[:N], tmp_path / "codes") == 0
    assert filled.ntotal == 10


def test_what_encode_refuses_is_refused(cluster, model, base, tmp_path) -> None:
    for error, x, kwargs in (
        (ValueError, base[:N], {"effort": "some"}),
        (ValueError, base[:N, :5], {}),
        (ValueError, base[:N], {"ids": np.arange(3)}),
        (AttributeError, None, {}),
        (RuntimeError, tmp_path / "missing.fvecs", {}),
    ):
        with pytest.raises(error):
            encoded(model, x, tmp_path / "codes", **kwargs)
    with pytest.raises(RuntimeError, match="train"):
        encoded(new_index(), base[:N], tmp_path / "codes")
    assert not (tmp_path / "codes").exists()


def test_a_worker_that_is_killed_while_it_builds_costs_nothing(
    cluster, kill, model, codes, segments, tmp_path
) -> None:
    order = kill("_write")
    made = built(model, codes, tmp_path / "index")
    assert not order.exists()
    assert [file.read_bytes() for file in made] == [file.read_bytes() for file in segments]
    assert {*(tmp_path / "index").iterdir()} == {*made}  # no journal is left

    times = [os.stat(file).st_mtime_ns for file in made]
    made[1].unlink()
    assert built(model, codes, tmp_path / "index") == made
    again = [os.stat(file).st_mtime_ns for file in made]
    assert [a == b for a, b in zip(times, again, strict=True)] == [True, False, True, True]


def test_errors_of_workers_are_those_of_one_process(
    cluster, model, learn, codes, base, tmp_path
) -> None:
    other = new_index()
    make_searchable(other, learn[::-1])
    with pytest.raises(ValueError, match="fingerprint"):
        built(other, codes, tmp_path / "other")
    with pytest.raises(ValueError, match="empty"):
        filled = fq.deserialize_index(fq.serialize_index(model))
        filled.add(base[:10])
        built(filled, codes, tmp_path / "index")
    with pytest.raises(ValueError, match="memory"):
        built(model, codes, tmp_path / "small", memory=1000, options={"memory": 0})
    bad = tmp_path / "codes"
    bad.mkdir()
    for name, data in contents(codes).items():
        (bad / name).write_bytes(data)
    data = bytearray(shard_path(bad, 4).read_bytes())
    data[-1] ^= 1
    shard_path(bad, 4).write_bytes(data)
    with pytest.raises(FileFormatError):
        built(model, bad, tmp_path / "damaged")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data's own
def test_a_dataset_gives_the_shards_of_its_rows(cluster, model, base, codes, tmp_path) -> None:
    data = pytest.importorskip("ray.data", reason="pip install 'faiss-qinco[ray]'")
    x = base[:N]
    rows = data.from_items(
        [{"v": row, "key": i + 7} for i, row in enumerate(x)], override_num_blocks=5
    )
    n = distributed.encode_dataset(
        model, rows, tmp_path / "codes", column="v", rows_per_shard=SHARD, concurrency=2
    )
    assert n == N
    for number in range(N // SHARD):
        assert shard_path(tmp_path / "codes", number).read_bytes() == (
            shard_path(codes, number).read_bytes()
        )
    assert len(built(model, tmp_path / "codes", tmp_path / "index")) == N // SHARD // PER_SEGMENT
    with pytest.raises(ValueError, match="empty"):
        distributed.encode_dataset(model, rows, tmp_path / "codes", column="v")
    distributed.encode_dataset(
        model, rows, tmp_path / "ids", column="v", id_column="key", rows_per_shard=N
    )
    index = fq.read_index(
        distributed.build_segments(model, tmp_path / "ids", tmp_path / "index", progress=False)[0]
    )
    index.nprobe = 16
    assert set(index.search(x[:5], 5)[1].ravel()) <= set(range(7, N + 7))
    assert index.ntotal == N
