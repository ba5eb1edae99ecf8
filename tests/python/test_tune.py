"""Operating points that are found, kept and asked for."""

from __future__ import annotations

import copy
import json
import math
import pickle

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.cli import main
from faiss_qinco.explore import predict
from faiss_qinco.storage.container import FileFormatError, from_bytes, to_bytes

from .conftest import make_searchable

GRID = {"nprobe": [1, 4, 8], "nshort": [0, 10, 30, 100], "progress": False}


@pytest.fixture
def truth(base, queries) -> np.ndarray:
    return faiss.knn(queries, base[:3000], 1)[1]


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("rank", [1, 5])
def test_two_searches_say_what_every_nshort_finds(filled, queries, truth, k, rank) -> None:
    if rank > k:
        return
    for nprobe in (1, 8):
        shorts = [0, 2, 10, 20, 50, 200]

        def params(nshort, nprobe=nprobe):
            return fq.SearchParametersIVFQINCo(nprobe=nprobe, nshort=nshort, exit_margin=math.inf)

        found = predict(filled, queries, truth[:, 0], rank, params, shorts, k)
        for nshort, recall in zip(shorts, found, strict=True):
            I = filled.search(queries, k, params=params(nshort))[1]
            measured = (I[:, :rank] == truth).any(1).mean()
            assert recall == pytest.approx(measured, abs=1e-9)


def test_points_are_a_front_and_come_true(filled, queries, truth) -> None:
    points = filled.tune(queries, truth, **GRID)
    assert points == filled.operating_points
    recalls, seconds = [p.recall[1] for p in points], [p.seconds for p in points]
    assert points and recalls == sorted(recalls) and seconds == sorted(seconds)
    best = points[-1]
    everything = fq.SearchParametersIVFQINCo(nprobe=8, nshort=100)
    most = (filled.search(queries, 10, params=everything)[1][:, :1] == truth).mean()
    assert best.recall[1] >= most - 0.01
    for point in points:
        given = fq.SearchParametersIVFQINCo(**point.parameters)
        for wanted in (point.name, f"r@1>={point.recall[1]}"):
            D, I = filled.search(queries, 10, params=wanted)
            expected = filled.search(queries, 10, params=given)
            np.testing.assert_array_equal(I, expected[1])
            np.testing.assert_array_equal(D, expected[0])
        assert (I[:, :1] == truth).mean() == pytest.approx(point.recall[1])
        assert {*point.recall} == {1, 10}
    filled.search(queries, 10, params="latency<=100s")
    with pytest.raises(ValueError, match=r"no operating point has 'r@1>=1\.0'; there are: nprobe"):
        filled.search(queries, 10, params="r@1>=1.0")
    with pytest.raises(ValueError, match="expected a name"):
        filled.search(queries, 10, params="fast")


def test_kept_in_files_and_copies(filled, queries, truth, tmp_path) -> None:
    plain = fq.serialize_index(filled)
    points = filled.tune(queries, truth, **GRID)
    fq.write_index(filled, tmp_path / "a.fqi")
    for found in (
        fq.read_index(tmp_path / "a.fqi"), fq.read_index(tmp_path / "a.fqi", faiss.IO_FLAG_MMAP),
        copy.deepcopy(filled), pickle.loads(pickle.dumps(filled)),
    ):  # fmt: skip
        assert found.operating_points == points
    filled.operating_points = []
    np.testing.assert_array_equal(fq.serialize_index(filled), plain)
    with pytest.raises(ValueError, match="none: see tune"):
        filled.search(queries, 1, params="r@1>=.1")
    with pytest.raises(TypeError):
        filled.operating_points = ["nprobe=1"]


def test_of_another_training_they_are_gone(filled, learn, queries, truth) -> None:
    filled.tune(queries, truth, **GRID)
    filled.reset()
    assert filled.operating_points
    make_searchable(filled, learn[:2000])
    assert filled.operating_points == []


def test_forged_ones_are_refused(filled, queries, truth) -> None:
    filled.tune(queries, truth, **GRID)
    header, tensors = from_bytes(fq.serialize_index(filled), "index")
    for change in (
        lambda p: p.update(seconds=0), lambda p: p["parameters"].update(nprobe=0),
        lambda p: p["parameters"].update(sel=1), lambda p: p.update(name="r@1>=.5"),
        lambda p: p["recall"].update({"x": 1}), lambda p: p["recall"].update({"1": 2.0}),
        lambda p: p.pop("machine"), lambda p: p.update(n_threads=True),
    ):  # fmt: skip
        forged = json.loads(json.dumps(header))
        change(forged["operating_points"][0])
        with pytest.raises(FileFormatError):
            fq.deserialize_index(bytes(to_bytes("index", forged, tensors)))
    forged = header | {"operating_points": header["operating_points"] * 2}
    with pytest.raises(FileFormatError, match="two of one name"):
        fq.deserialize_index(bytes(to_bytes("index", forged, tensors)))


def test_other_indexes(learn, base, queries, truth) -> None:
    for factory, more in (
        ("PCA32,IVF16_HNSW8,QINCo4x8", {"nprobe": [1, 8], "efSearch": [4, 32]}),
        ("QINCo4x8", {}),
    ):
        index = fq.index_factory(128, factory)
        make_searchable(index, learn[:2000])
        index.add(base[:3000])
        points = index.tune(queries[:100], truth[:100], nshort=[0, 50], progress=False, **more)
        assert points == index.operating_points and points[-1].recall[1] > 0.1
        found = index.search(queries[:100], 10, params=points[-1].name)[1]
        assert (found[:, :1] == truth[:100]).mean() == pytest.approx(points[-1].recall[1])


def test_wrong_arguments(filled, empty, queries, truth) -> None:
    for match, args, more in (
        ("groundtruth", (queries, truth[:5]), {}),
        ("groundtruth", (queries, truth[:, 0]), {}),
        ("nprobe", (queries, truth), {"nprobe": [0]}),
        ("nshort", (queries, truth), {"nshort": []}),
        ("efSearch", (queries, truth), {"efSearch": [4]}),
        ("k", (queries, truth), {"k": 0}),
    ):
        with pytest.raises(ValueError, match=match):
            filled.tune(*args, progress=False, **more)
    with pytest.raises(AssertionError):
        filled.tune(queries[:, :5], truth)
    with pytest.raises(RuntimeError):
        fq.IndexIVFQINCo(faiss.IndexFlatL2(128), 128, 16, 4).tune(queries, truth)
    assert filled.operating_points == []
    assert filled.tune(queries[:50], truth[:50], single=True, **GRID)
    assert empty.tune(queries, truth, **GRID)[0].recall[1] == 0  # nothing is in it


def test_the_command(filled, base, queries, truth, tmp_path, capsys, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    fq.write_index(filled, "a.fqi")
    np.save("q.npy", queries)
    np.save("t.npy", truth)
    np.save("b.npy", base[:3000])
    command = [
        "tune",
        "--index",
        "a.fqi",
        "--query",
        "q.npy",
        "--nprobe",
        "1",
        "8",
        "--nshort",
        "0",
        "50",
    ]
    more = [
        "--groundtruth",
        "t.npy",
        "--target-recall",
        "0.2@1",
        "--json",
        "p.json",
        "--plot",
        "p.png",
    ]
    assert main([*command, *more]) == 0
    said = capsys.readouterr().out
    assert said.split()[:5] == ["nprobe", "nshort", "R@1", "R@10", "ms"]
    assert "r@1>=0.2: nprobe=" in said
    points = fq.read_index("a.fqi").operating_points
    assert points and [p["name"] for p in json.loads((tmp_path / "p.json").read_text())] == [
        p.name for p in points
    ]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert main([*command, "--base", "b.npy", "--out", "b.fqi", "--max-latency", "10s"]) == 0
    assert [p.recall for p in fq.read_index("b.fqi").operating_points][-1] == points[-1].recall
    for wrong in (["--target-recall", "1"], ["--max-latency", "2"], ["--target-recall", "0@1"]):
        with pytest.raises(SystemExit):
            main([*command, "--base", "b.npy", *wrong])
