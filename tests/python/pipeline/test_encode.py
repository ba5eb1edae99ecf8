"""Encoded shards: the codes that `add` would store, whoever encodes them and however often it is
killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco import _core
from faiss_qinco.cli import main
from faiss_qinco.pipeline.encode import MANIFEST, encode, shards_of
from faiss_qinco.pipeline.memory import parse_bytes
from faiss_qinco.pipeline.model import fingerprint_of
from faiss_qinco.pipeline.shard import NOT_STORED, Rows, read_shard

from ..conftest import make_searchable, new_index

SIZE = 300  # of a shard


def contents(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir() if not f.name.endswith(".tmp")}


def run(index: Any, x: np.ndarray, folder: Path, **kwargs: Any) -> list[Rows]:
    encode(index, x, folder, rows_per_shard=SIZE, progress=False, **kwargs)
    return [read_shard(file)[1] for file in shards_of(folder)]


def stored(index: fq.IndexIVFQINCo) -> tuple[np.ndarray, ...]:
    """list_no, packed codes and biases by ascending id."""
    core = index._engine.core
    n = core.n_stored
    order = np.argsort(core.export_ids(0, n))
    list_no = np.repeat(np.arange(index.nlist), core.sizes())
    return list_no[order], core.export_codes(0, n)[order], core.export_bias(0, n)[order]


@pytest.mark.parametrize(
    ("metric", "length_correction"),
    [(faiss.METRIC_L2, False), (faiss.METRIC_INNER_PRODUCT, False),
     (faiss.METRIC_INNER_PRODUCT, True)],
)  # fmt: skip
def test_the_codes_that_add_stores(learn, base, tmp_path, metric, length_correction) -> None:
    index = new_index(metric)
    index.length_correction = length_correction
    make_searchable(index, learn[:2000])
    x = base[:1000].copy()
    x[[0, 500, 999]] = np.nan
    shards = run(index, x, tmp_path / "codes")
    index.add(x)
    list_no, codes, bias = stored(index)

    assert [len(rows.codes) for rows in shards] == [300, 300, 300, 100]
    found = np.concatenate([rows.list_no for rows in shards])
    there = found != NOT_STORED
    assert np.flatnonzero(~there).tolist() == [0, 500, 999]
    np.testing.assert_array_equal(found[there], list_no)
    np.testing.assert_array_equal(np.concatenate([rows.codes for rows in shards])[there], codes)
    if metric == faiss.METRIC_INNER_PRODUCT and not length_correction:
        assert all(rows.beside is None for rows in shards)
        return
    beside = np.concatenate([rows.beside for rows in shards])[there]
    offset = 1 if length_correction else 0
    np.testing.assert_array_equal((beside.astype(np.uint32) << 16).view(np.float32) + offset, bias)


def test_an_index_behind_a_transform_and_one_without_lists(learn, base, tmp_path) -> None:
    behind = fq.index_factory(128, "PCA32,IVF16,QINCo4x8")
    flat = fq.index_factory(128, "QINCo4x8")
    for name, index in (("behind", behind), ("flat", flat)):
        make_searchable(index, learn[:2000])
        shards = run(index, base[:700], tmp_path / name)
        index.add(base[:700])
        leaf = getattr(index, "index", index)
        np.testing.assert_array_equal(
            np.concatenate([rows.codes for rows in shards]), stored(leaf)[1]
        )
    other = fq.deserialize_index(fq.serialize_index(behind))
    other.chain.at(0)  # the same engine behind another transform is another model
    assert fingerprint_of(other) == fingerprint_of(behind)
    other.prepend_transform(faiss.RandomRotationMatrix(128, 128))
    assert fingerprint_of(other) != fingerprint_of(behind)


def test_parts_are_the_whole(empty, base, tmp_path) -> None:
    ids = np.random.default_rng(0).permutation(1000).astype(np.int64)
    whole = run(empty, base[:1000], tmp_path / "whole", ids=ids)
    np.testing.assert_array_equal(np.concatenate([rows.ids for rows in whole]), ids)
    for i in (3, 1, 2):
        with pytest.raises(RuntimeError, match="of 4 shards are still to be encoded"):
            run(empty, base[:1000], tmp_path / "parts", ids=ids, part=(i, 4))
    run(empty, base[:1000], tmp_path / "parts", ids=ids, part=(4, 4))
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


def test_what_is_there_is_not_done_again(empty, base, tmp_path) -> None:
    run(empty, base[:1000], tmp_path)
    before = contents(tmp_path)
    made = {f.name: f.stat().st_ino for f in tmp_path.iterdir()}
    (tmp_path / "000002.fqs").unlink()
    assert encode(empty, base[:1000], tmp_path, rows_per_shard=SIZE, progress=False) == 300
    assert contents(tmp_path) == before
    now = {f.name: f.stat().st_ino for f in tmp_path.iterdir()}
    assert {name for name in made if made[name] != now[name]} <= {"000002.fqs"}


def test_a_folder_of_something_else(empty, learn, base, tmp_path) -> None:
    x = base[:400]
    run(empty, x, tmp_path)
    before = contents(tmp_path)
    other = new_index()
    other.cp.seed += 1
    make_searchable(other, learn[:2000])
    moved = x.copy()
    moved[-1, 0] += 1
    for what, args, more in (
        ("fingerprint", (other, x), {}),
        ("vectors", (empty, moved), {}),
        ("n", (empty, base[:500]), {}),
        ("ids", (empty, x), {"ids": np.arange(400)}),
        ("effort", (empty, x), {"effort": "fast"}),
    ):
        with pytest.raises(ValueError, match=f"codes of another kind; {what}"):
            run(args[0], args[1], tmp_path, **more)
    with pytest.raises(ValueError, match="rows_per_shard"):
        encode(empty, x, tmp_path, progress=False)
    assert contents(tmp_path) == before
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(ValueError, match=f"has shards and no {MANIFEST}"):
        run(empty, x, tmp_path)
    (tmp_path / MANIFEST).write_bytes(b"x" * 100)
    with pytest.raises(fq.storage.container.FileFormatError, match=MANIFEST):
        run(empty, x, tmp_path)


def test_wrong_arguments(empty, base, tmp_path) -> None:
    x = base[:10]
    for error, match, more in (
        (ValueError, "effort", {"effort": "more"}),
        (ValueError, "part", {"part": (0, 2)}),
        (ValueError, "part", {"part": (3, 2)}),
        (ValueError, "ids", {"ids": np.arange(9)}),
        (ValueError, "ids", {"ids": np.arange(10.0)}),
        (ValueError, "memory: encoding takes", {"memory": 1000}),
    ):
        with pytest.raises(error, match=match):
            encode(empty, x, tmp_path / "none", progress=False, **more)
    with pytest.raises(ValueError, match="expected"):
        encode(empty, base[:, :64], tmp_path / "none", progress=False)
    with pytest.raises(TypeError, match="IndexFlatL2"):
        encode(faiss.IndexFlatL2(128), x, tmp_path / "none", progress=False)
    with pytest.raises(RuntimeError):
        encode(new_index(), x, tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()
    assert encode(empty, base[:0], tmp_path / "nothing", progress=False) == 0
    assert shards_of(tmp_path / "nothing") == []


def test_efforts_differ_in_error(empty, base, tmp_path) -> None:
    errors = []
    for effort in ("fast", "balanced", "best"):
        rows = run(empty, base[:2000], tmp_path / effort, effort=effort)
        list_no = np.concatenate([r.list_no for r in rows]).astype(np.int64)
        codes = _core.unpack_codes(np.concatenate([r.codes for r in rows]), empty.M, empty.nbits)
        decoded = empty._engine.decode(list_no, codes)
        errors.append(float(np.square(decoded - base[:2000]).sum(1).mean()))
    assert errors[0] > errors[1] > errors[2]


def test_killed_at_any_moment(filled, base, tmp_path) -> None:
    """With SIGKILL, at twenty random moments; what was finished before is never done again."""
    x = np.tile(base, (2, 1))
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    start = time.perf_counter()
    run(filled, x, whole)
    seconds = time.perf_counter() - start
    rng, made = np.random.default_rng(0), {}
    for i in range(21):
        if (process := os.fork()) == 0:
            fq.set_num_threads(1)
            encode(filled, x, folder, rows_per_shard=SIZE, progress=False)
            os._exit(0)
        if i < 20:
            time.sleep(rng.uniform(0, seconds / 10))
            os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        found = {f.name: f.stat().st_ino for f in folder.glob("*.fqs")} if folder.exists() else {}
        assert made.items() <= found.items()
        made = found
    assert status == 0
    assert contents(folder) == contents(whole)


def test_the_command(filled_image, base, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    fq.write_index(fq.deserialize_index(filled_image), "index.fqi")
    np.save("x.npy", base[:500])
    command = ["encode", "--index", "index.fqi", "--base", "x.npy", "--out", "codes"]
    assert main([*command, "--memory", "1MB"]) == 1
    assert "memory: encoding takes" in capsys.readouterr().err
    assert main(command) == 0
    assert "codes: 500 of 500 vectors encoded" in capsys.readouterr().out
    assert main(command) == 0
    assert "codes: 0 of 500 vectors encoded" in capsys.readouterr().out
    for wrong in ("0/3", "4/3", "x", "1/3/3"):
        with pytest.raises(SystemExit):
            main([*command, "--shard", wrong])


def test_bytes() -> None:
    for text, n in {"8GB": 8 * 10**9, "1.5 MB": 1_500_000, "2GiB": 2 << 30, "7": 7}.items():
        assert parse_bytes(text) == n
    for text in ("", "GB", "0", "-1", "1e9x", "1.2.3GB", "8 XB"):
        with pytest.raises(ValueError, match="expected bytes"):
            parse_bytes(text)


def test_a_full_disk(empty, base, tmp_path, monkeypatch) -> None:
    run(empty, base[:300], tmp_path / "one")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            run(empty, base[:300], tmp_path / "two")
    assert run(empty, base[:300], tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
