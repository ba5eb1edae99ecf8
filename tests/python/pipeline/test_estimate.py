"""What is said beforehand is what comes."""

from __future__ import annotations

import json
import os

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.cli import main
from faiss_qinco.pipeline.build import build
from faiss_qinco.pipeline.encode import encode
from faiss_qinco.pipeline.estimate import describe_stages, estimate

from ..conftest import new_index, training


def test_bytes_are_those_of_the_files(empty, base, tmp_path) -> None:
    stages = {stage.name: stage for stage in estimate(empty, base)}
    assert list(stages) == ["encode", "build"]  # it is trained
    encode(empty, base, tmp_path / "codes", progress=False)
    build(empty, tmp_path / "codes", tmp_path / "index.fqi", progress=False)
    shards = sum(f.stat().st_size for f in (tmp_path / "codes").glob("*.fqs"))
    fq.write_index(empty, tmp_path / "empty.fqi")
    codec = os.path.getsize(tmp_path / "empty.fqi") - 4 * empty.nlist * empty.d
    index = os.path.getsize(tmp_path / "index.fqi") - codec
    assert shards == pytest.approx(stages["encode"].disk, rel=0.05)
    assert index == pytest.approx(stages["build"].disk, rel=0.1)


def test_more_work_takes_more(base) -> None:
    def seconds(n: int, effort: str = "balanced", factory: str = "IVF64,QINCo4x8") -> float:
        index = fq.index_factory(128, factory, training=training())
        return {s.name: s for s in estimate(index, base[:200], n=n, effort=effort)}[
            "encode"
        ].seconds

    assert seconds(10**9) > 5 * seconds(10**8) > 0
    assert seconds(10**6, "best") > seconds(10**6, "fast")
    # Ten billion distances a vector cannot take nothing.
    assert seconds(10**6, factory="IVF1048576,QINCo4x8") > 2 * seconds(10**6)


@pytest.mark.parametrize(
    "factory", ["IVF64_HNSW8,QINCo4x8", "PCA32,IVF64,QINCo4x8", "QINCo4x8", "IVF300,QINCo4x4_S"]
)
@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
def test_all_kinds_of_indexes(base, factory, metric) -> None:
    index = fq.index_factory(128, factory, metric, training=training())
    stages = estimate(index, base[:100], n=10**8, n_learn=10**6, memory=10**9)
    assert [stage.name for stage in stages] == ["train", "encode", "build"]
    assert all(stage.seconds > 0 and stage.memory > 0 and stage.disk > 0 for stage in stages)
    assert stages[-1].memory <= 10**9
    table = describe_stages(stages)
    assert len(table) == 5 and len({len(row) for row in table}) == 1


def test_wrong_arguments(base) -> None:
    with pytest.raises(ValueError, match="effort"):
        estimate(new_index(), base[:100], effort="none")
    with pytest.raises(ValueError):
        estimate(new_index(), base[:100, :5])


def test_the_command(filled_image, base, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", base[:300])
    fq.write_index(fq.deserialize_index(filled_image), "index.fqi")
    assert main(["plan", "--index", "index.fqi", "--base", "x.npy", "--n", "1000000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "encode", "build", "all"]
    assert main(["plan", "IVF64,QINCo8x8", "--base", "x.npy", "--json"]) == 0
    assert [s["name"] for s in json.loads(capsys.readouterr().out)] == ["train", "encode", "build"]
    for wrong in ([], ["IVF64,QINCo8x8", "--index", "index.fqi"]):
        assert main(["plan", *wrong, "--base", "x.npy"]) == 1
        assert "expected a factory string, or --index" in capsys.readouterr().err
    assert main(["plan", "IVF64,Nothing", "--base", "x.npy"]) == 2
