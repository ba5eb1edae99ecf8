"""Index files joined on disk: what one build of everything makes, or a clear refusal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import faiss_qinco as fq
from faiss_qinco.cli import main
from faiss_qinco.pipeline.build import build
from faiss_qinco.pipeline.encode import encode
from faiss_qinco.pipeline.merge import merge_indexes
from faiss_qinco.storage.container import FileFormatError

from ..conftest import make_searchable, new_index


def merge(files: list[Path], out: Path, **more: Any) -> bytes:
    merge_indexes(files, out, progress=False, **more)
    return out.read_bytes()


def whole(index: Any, x: np.ndarray, ids: np.ndarray | None, folder: Path) -> bytes:
    """One index of everything, built at once."""
    encode(index, x, folder / "codes", ids=ids, progress=False)
    build(index, folder / "codes", folder / "whole.fqi", progress=False)
    return (folder / "whole.fqi").read_bytes()


def parts(index: Any, x: np.ndarray, ids: np.ndarray, folder: Path, cuts: list[int]) -> list[Path]:
    """Index files of some rows each, made by `add_with_ids`; the index is empty again."""
    files = []
    for i, rows in enumerate(np.split(np.arange(len(x)), cuts)):
        index.add_with_ids(x[rows], ids[rows])
        files.append(folder / f"{i}.fqi")
        fq.write_index(index, files[-1])
        index.reset()
    return files


@pytest.mark.parametrize(
    ("metric", "length_correction"),
    [(faiss.METRIC_L2, False), (faiss.METRIC_INNER_PRODUCT, False),
     (faiss.METRIC_INNER_PRODUCT, True)],
)  # fmt: skip
def test_as_one_built_at_once(learn, base, queries, tmp_path, metric, length_correction) -> None:
    index = new_index(metric)
    index.length_correction = length_correction
    make_searchable(index, learn[:2000])
    x = base[:1500].copy()
    x[[3, 900]] = np.nan
    ids = np.random.default_rng(0).integers(0, 1 << 40, len(x))
    expected = whole(index, x, ids, tmp_path)
    files = parts(index, x, ids, tmp_path, [400, 400, 401, 1100])
    assert merge(files, tmp_path / "all.fqi") == expected
    # However they are grouped.
    merge(files[:2], tmp_path / "ab.fqi")
    merge(files[2:], tmp_path / "cde.fqi")
    assert merge([tmp_path / "ab.fqi", tmp_path / "cde.fqi"], tmp_path / "all.fqi") == expected
    found, direct = fq.read_index(tmp_path / "all.fqi"), index
    direct.add_with_ids(x, ids)
    found.nprobe = direct.nprobe = 8
    for one, two in zip(found.search(queries, 10), direct.search(queries, 10), strict=True):
        np.testing.assert_array_equal(one, two)
    fq.verify_index(tmp_path / "all.fqi")


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_grouping(data, trained, tmp_path_factory) -> None:
    """Files of any sizes, merged in any tree, are one file; small lists and equal ids included."""
    folder = tmp_path_factory.mktemp("any")
    index = fq.deserialize_index(trained[faiss.METRIC_L2])
    n = data.draw(st.integers(1, 60))
    x = np.random.default_rng(n).normal(100, 50, (n, 128)).astype(np.float32)
    ids = np.array(data.draw(st.lists(st.integers(0, 99), min_size=n, max_size=n, unique=True)))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    files = parts(index, x, ids, folder, cuts)
    expected = whole(index, x, ids, folder)
    number = 0
    while len(files) > 1:
        i = data.draw(st.integers(0, len(files) - 2))
        number += 1
        merge(files[i : i + 2], folder / f"m{number}.fqi")
        files[i : i + 2] = [folder / f"m{number}.fqi"]
    assert merge(files, folder / "out.fqi") == expected


def test_ids_shifted_and_numbers_that_follow(empty, base, tmp_path) -> None:
    expected = whole(empty, base[:900], None, tmp_path)
    files = []
    for i, rows in enumerate(np.split(np.arange(900), [300, 350])):
        empty.add(base[rows])
        files.append(tmp_path / f"{i}.fqi")
        fq.write_index(empty, files[-1])
        empty.reset()
    assert merge(files, tmp_path / "all.fqi", shift_ids=True) == expected
    merge(files, tmp_path / "same.fqi")  # the same ids three times, as in FAISS
    index = fq.read_index(tmp_path / "same.fqi")
    assert index.ntotal == 900 and index._engine.core.n_stored == 900
    index.add(base[:1])
    assert index._engine.core.export_ids(0, 901).max() == 900


def test_behind_a_transform(learn, base, tmp_path) -> None:
    index = fq.index_factory(128, "PCA32,IVF16,QINCo4x8")
    make_searchable(index, learn[:2000])
    ids = np.arange(600)
    expected = whole(index, base[:600], ids, tmp_path)
    assert merge(parts(index, base[:600], ids, tmp_path, [250]), tmp_path / "out.fqi") == expected


def test_other_models_and_kinds_are_refused(empty, learn, base, tmp_path) -> None:
    def written(index: Any, name: str) -> Path:
        fq.write_index(index, tmp_path / name)
        return tmp_path / name

    empty.add(base[:100])
    one = written(empty, "one.fqi")
    other = new_index()
    other.cp.seed += 1
    make_searchable(other, learn[:2000])
    other.add(base[:100])
    flat = fq.index_factory(128, "QINCo4x8")
    make_searchable(flat, learn[:2000])
    for wrong, error, match in (
        (
            written(other, "other.fqi"),
            ValueError,
            "than .*; they differ in centroids",
        ),
        (written(flat, "flat.fqi"), TypeError, "expected an index with lists"),
        (written(new_index(), "untrained.fqi"), RuntimeError, "not trained"),
        (tmp_path / "missing.fqi", RuntimeError, "missing"),
    ):
        with pytest.raises(error, match=match):
            merge([one, wrong], tmp_path / "out.fqi")
    with pytest.raises(ValueError, match="at least one"):
        merge([], tmp_path / "out.fqi")
    assert not [*tmp_path.glob("out*")]


def test_a_damaged_file_is_refused_wherever_it_is_damaged(empty, base, tmp_path) -> None:
    files = parts(empty, base[:400], np.arange(400), tmp_path, [200])
    content = files[1].read_bytes()
    rng = np.random.default_rng(0)
    for at in (len(content) - 1, *rng.integers(0, len(content), 30)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        files[1].write_bytes(damaged)
        with pytest.raises((FileFormatError, ValueError)):
            merge(files, tmp_path / "out.fqi")
    files[1].write_bytes(content[:-9])
    with pytest.raises(FileFormatError):
        merge(files, tmp_path / "out.fqi")
    assert not [*tmp_path.glob("out*")]


def test_not_onto_one_of_them(empty, base, tmp_path) -> None:
    """Killed behind the last step and called again, it would store the others twice."""
    files = parts(empty, base[:400], np.arange(400), tmp_path, [200])
    (tmp_path / "link.fqi").symlink_to(files[1])
    for out in (files[0], tmp_path / "link.fqi"):
        with pytest.raises(ValueError, match="another file than those that are merged"):
            merge(files, out)


def test_killed_at_any_moment(empty, base, tmp_path) -> None:
    x = np.tile(base, (4, 1))
    files = parts(empty, x, np.arange(len(x)), tmp_path, [9000, 20000])
    expected = merge(files, tmp_path / "whole.fqi")
    out, rng = tmp_path / "out.fqi", np.random.default_rng(0)
    start = time.perf_counter()
    merge(files, tmp_path / "again.fqi")
    seconds = time.perf_counter() - start
    for i in range(21):
        if (process := os.fork()) == 0:
            fq.set_num_threads(1)
            merge_indexes(files, out, progress=False)
            os._exit(0)
        if i < 20:
            time.sleep(rng.uniform(0, seconds))
            os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
    assert status == 0 and out.read_bytes() == expected
    assert {f.name for f in tmp_path.glob("out*")} == {"out.fqi"}


MEASURED = """
import sys
from pathlib import Path
from faiss_qinco.pipeline.merge import merge_indexes
from faiss_qinco.pipeline.memory import resident
import faiss_qinco as fq
fq.read_index(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")
before = resident()
merge_indexes(sys.argv[1:3], "out.fqi", memory=before + 45_000_000, progress=False)
peak = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
print(1024 * int(peak.split()[1]) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_is_kept(empty, tmp_path) -> None:
    rng, n = np.random.default_rng(0), 2_000_000
    for name in ("a", "b"):
        list_no = rng.integers(0, 16, n)
        codes = rng.integers(0, 256, (n, 4), np.uint8)
        empty._engine.store(list_no, codes, None, rng.permutation(n))
        fq.write_index(empty, tmp_path / name)
        empty.reset()
    command = [sys.executable, "-c", MEASURED, "a", "b"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert os.path.getsize(tmp_path / "out.fqi") > 25_000_000
    assert int(found.stdout) < 45_000_000 + 2 * os.path.getsize(tmp_path / "a")  # mapped ones


def test_the_command(empty, base, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = parts(empty, base[:400], np.arange(400), tmp_path, [200])
    assert main(["merge", "0.fqi", "1.fqi", "--out", "out.fqi", "--memory", "1GB"]) == 0
    assert "out.fqi: 400 vectors of 2 files" in capsys.readouterr().out
    assert (tmp_path / "out.fqi").read_bytes() == merge(files, tmp_path / "b.fqi")
    assert main(["merge", "0.fqi", "none.fqi", "--out", "out.fqi"]) == 1
    assert "none.fqi" in capsys.readouterr().err
