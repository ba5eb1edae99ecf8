"""Search by actors: bit for bit what one process finds, and never less without saying so."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.pipeline import distributed_index
from faiss_qinco.pipeline.distributed import commit, segments_of
from faiss_qinco.pipeline.on_ray import LostWorkerError
from faiss_qinco.storage.container import FileFormatError, MissingFileError

from ..conftest import make_searchable, new_index
from .conftest import N, merged

pytest.importorskip("ray", reason="pip install 'faiss-qinco[ray]'")

K = 10
DistributedIndex = partial(distributed_index.DistributedIndex, options={"num_cpus": 0.25})
PARAMS: list[dict[str, Any]] = [
    {"nprobe": 1},
    {"nprobe": 5, "nshort": 20},
    {"nprobe": 16, "nshort": 0},
    {"nprobe": 100, "nshort": 400, "exit_margin": float("inf"), "M_search": 3},
    {"nprobe": 8, "sel": faiss.IDSelectorRange(200, 1200)},
    {"nprobe": 8, "sel": faiss.IDSelectorArray(np.arange(0, N, 7))},
]


@pytest.fixture(scope="module")
def committed(segments) -> Path:
    return commit(segments[0].parent, segments).parent


@pytest.fixture(scope="module")
def four(cluster, committed) -> Any:
    with DistributedIndex(committed, n_workers=4) as index:
        yield index


def one_process(segments: list[Path], x: np.ndarray, **params: Any) -> Any:
    given = fq.SearchParametersIVFQINCo(**params)
    return merged([fq.read_index(file).search(x, K, params=given) for file in segments], K)


def equal(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize("params", PARAMS)
def test_four_workers_find_what_one_process_does(four, segments, queries, params) -> None:
    x = queries[:50].copy()
    x[3] = np.nan
    D, I = found = four.search(x, K, params=fq.SearchParametersIVFQINCo(**params))
    assert found.missing == () and (I[3] == -1).all() and len(four.workers()) == 4
    equal((D, I), one_process(segments, x, **params))


def test_settings_and_bounds_are_those_of_each_segment(four, segments, queries) -> None:
    x = queries[:20]
    assert (four.d, four.nlist, four.ntotal, four.is_trained) == (128, 16, N, True)
    assert four.metric_type == faiss.METRIC_L2
    for params in ({"max_codes": 40, "nprobe": 9}, {"min_codes": 300, "nprobe": 2}):
        given = fq.SearchParametersIVFQINCo(**params)
        equal(
            four.search(x, K, params=given),
            one_process(segments, x, **params),
        )
    four.nprobe, four.nshort = 7, 30
    try:
        equal(four.search(x, K), one_process(segments, x, nprobe=7, nshort=30))
    finally:
        four.nprobe, four.nshort = 1, None


def test_by_lists(cluster, committed, segments, queries) -> None:
    x = queries[:50]
    indexes = [fq.read_index(file) for file in segments]
    params: dict[str, Any] = {"nprobe": 6, "nshort": 15}
    with DistributedIndex(committed, n_workers=3, shard_by="lists", replicas=1) as index:
        found = index.search(x, K, params=fq.SearchParametersIVFQINCo(**params))
        Dq, Iq = indexes[0].quantizer.search(x, 6)
        parts = []
        for worker in range(3):
            mine = np.where(Iq % 3 == worker, Iq, -1)
            given = fq.SearchParametersIVFQINCo(**params)
            parts += [i.search_preassigned(x, K, mine, Dq, params=given) for i in indexes]
        equal(found, merged(parts, K))
        # With shortlists that end nothing, it does not matter who has which list.
        params = {"nprobe": 6, "nshort": N, "exit_margin": float("inf")}
        whole = index.search(x, K, params=fq.SearchParametersIVFQINCo(**params))
        equal(whole, one_process(segments, x, **params))
        with pytest.raises(RuntimeError, match="max_codes"):
            index.search(x, K, params=fq.SearchParametersIVFQINCo(max_codes=5))
        with pytest.raises(RuntimeError, match="min_codes"):
            index.search(x, K, params=fq.SearchParametersIVFQINCo(min_codes=5))


def test_never_worse_than_one_index_of_all(four, model, base, queries) -> None:
    whole = fq.deserialize_index(fq.serialize_index(model))
    whole.add(base[:N])
    given = fq.SearchParametersIVFQINCo(nprobe=8, nshort=20, exit_margin=float("inf"))
    D, _ = whole.search(queries, K, params=given)
    ours, _ = four.search(queries, K, params=given)
    assert (ours <= D).all() and (ours < D).any()


def test_inner_product_and_a_transform(cluster, learn, base, queries, tmp_path) -> None:
    ip = new_index(faiss.METRIC_INNER_PRODUCT)
    behind = fq.index_factory(128, "PCA32,IVF16,QINCo4x8")
    for name, index in (("ip", ip), ("behind", behind)):
        make_searchable(index, learn)
        folder = tmp_path / name
        folder.mkdir()
        files = []
        for i in range(2):
            part = fq.deserialize_index(fq.serialize_index(index))
            part.add_with_ids(base[i * 500 : i * 500 + 500], np.arange(i * 500, i * 500 + 500))
            files.append(folder / f"{i}.fqi")
            fq.write_index(part, files[-1])
        commit(folder, files)
        with DistributedIndex(folder) as searched:
            searched.nprobe = 5
            D, I = searched.search(queries[:20], K)
        parts = []
        for file in files:
            part = fq.read_index(file)
            leaf = part.index if name == "behind" else part
            leaf.nprobe = 5
            D1, I1 = part.search(queries[:20], K)
            parts.append((-D1 if name == "ip" else D1, I1))
        expected = merged(parts, K)
        equal((D, I), (-expected[0] if name == "ip" else expected[0], expected[1]))


def test_a_worker_that_is_killed_in_a_search(cluster, kill, four, segments, queries) -> None:
    expected = one_process(segments, queries, nprobe=4)
    given = fq.SearchParametersIVFQINCo(nprobe=4)
    order = kill("search_preassigned")
    found = four.search(queries, K, params=given)
    assert not order.exists() and found.missing == ()
    equal(found, expected)

    four.on_lost = "raise"
    order = kill("search_preassigned")
    with pytest.raises(LostWorkerError, match="lost"):
        four.search(queries, K, params=given)
    assert not order.exists()

    four.on_lost = "retry"
    equal(four.search(queries, K, params=given), expected)
    four.on_lost = "partial"
    order = kill("search_preassigned")
    try:
        found = four.search(queries, K, params=given)
        assert not order.exists()
        assert len(found.missing) == 1
        left = [file for file in segments if os.fspath(file) not in found.missing]
        assert len(left) == 3 and found.missing_lists is None
        equal(found, one_process(left, queries, nprobe=4))
    finally:
        four.on_lost = "retry"
    equal(four.search(queries, K, params=given), expected)


def test_replicas_take_turns_and_stand_in(cluster, kill, committed, segments, queries) -> None:
    with DistributedIndex(
        committed, n_workers=2, replicas=2, shard_by="lists", on_lost="raise"
    ) as index:
        index.nprobe = 8
        expected = index.search(queries, K)
        for _ in range(2):  # whoever's turn it is
            order = kill("search_preassigned")
            equal(index.search(queries, K), expected)
            assert not order.exists()
        for worker in index.workers():
            if worker["part"] == 1:
                os.kill(worker["pid"], signal.SIGSTOP)
        index.timeout, index.on_lost = 1, "partial"
        began = time.monotonic()
        found = index.search(queries, K)
        assert 2 <= time.monotonic() - began < 20
        assert [*found.missing] == [os.fspath(file) for file in segments]
        np.testing.assert_array_equal(found.missing_lists, np.arange(1, 16, 2))
        assert (found[0] >= expected[0]).all() and (found[0] > expected[0]).any()
        index.on_lost = "retry"
        with pytest.raises(LostWorkerError, match="not answered"):
            index.search(queries, K)


def test_errors_are_those_of_one_process(cluster, four, segments, queries) -> None:
    one = fq.read_index(segments[0])
    for args, kwargs in (
        ((queries[:, :5], K), {}),
        ((queries, 0), {}),
        ((queries, "a"), {}),
        ((None, K), {}),
        ((queries, K), {"params": faiss.SearchParameters()}),
        ((queries, K), {"params": fq.SearchParametersIVFQINCo(M_search=9)}),
        ((queries, K), {"D": np.empty((3, 3), np.float32)}),
    ):
        with pytest.raises(Exception) as theirs:
            one.search(*args, **kwargs)
        with pytest.raises(type(theirs.value)) as ours:
            four.search(*args, **kwargs)
        assert str(ours.value) == str(theirs.value)
    D, I = four.search(queries[:0], K)
    assert D.shape == I.shape == (0, K)
    with pytest.raises(TypeError, match="sel"):
        sel = faiss.IDSelectorNot(faiss.IDSelectorRange(0, 5))
        four.search(queries, K, params=fq.SearchParametersIVFQINCo(sel=sel))


def test_segments_that_are_not_as_committed(
    cluster, committed, segments, learn, queries, tmp_path
) -> None:
    assert segments_of(committed) == segments
    for kwargs in (
        {"n_workers": 5}, {"n_workers": 0}, {"replicas": 0}, {"shard_by": "ids"},
        {"on_lost": "?"}, {"timeout": 0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            DistributedIndex(committed, **kwargs)
    with pytest.raises(MissingFileError):
        DistributedIndex(tmp_path)
    other = new_index()
    make_searchable(other, learn[::-1])
    fq.write_index(other, tmp_path / "other.fqi")
    with pytest.raises(ValueError, match="another model"):
        commit(tmp_path, [*segments, tmp_path / "other.fqi"])
    for files in ([], [segments[0]] * 2):
        with pytest.raises(ValueError, match="differ"):
            commit(tmp_path, files)
    flat = fq.index_factory(128, "QINCo4x8")
    make_searchable(flat, learn)
    fq.write_index(flat, tmp_path / "flat.fqi")
    with pytest.raises(TypeError, match="lists"):
        commit(tmp_path, [tmp_path / "flat.fqi"])

    first, second = tmp_path / "1.fqi", tmp_path / "2.fqi"
    for file, source in ((first, segments[0]), (second, segments[1])):
        file.write_bytes(source.read_bytes())
    commit(tmp_path, [first, second])
    second.write_bytes((tmp_path / "other.fqi").read_bytes())
    with pytest.raises(RuntimeError, match="another model"):
        DistributedIndex(tmp_path)
    second.unlink()
    with pytest.raises(MissingFileError):
        DistributedIndex(tmp_path)
    commit(tmp_path, [first])  # from now on, the one
    with DistributedIndex(tmp_path) as index:
        assert index.ntotal == fq.read_index(first).ntotal
    with pytest.raises(RuntimeError, match="closed"):
        index.search(queries, K)
    manifest = tmp_path / "segments.fqm"
    data = manifest.read_bytes()
    manifest.write_bytes(data[: len(data) // 2])
    with pytest.raises(FileFormatError):
        segments_of(tmp_path)
