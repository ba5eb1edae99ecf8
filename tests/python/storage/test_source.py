"""Vectors of many files and kinds, of which only what is asked for is read."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from faiss_qinco.storage import columns
from faiss_qinco.storage.container import FileFormatError, MissingFileError
from faiss_qinco.storage.source import open_vectors
from faiss_qinco.storage.vectors import describe_vectors, read_vectors, write_vectors
from faiss_qinco.training.data import TrainingSet


def drawn(n: int, d: int = 6) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, d)).astype(np.float32)


def equal(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found, expected)
    assert found.shape == expected.shape


def check(source, x: np.ndarray) -> None:
    """All ways to read it."""
    assert source.shape == x.shape and len(source) == len(x)
    for rows in (slice(None), slice(0, 0), slice(3, 9), slice(-4, None), slice(2, 30, 5)):
        equal(source[rows], x[rows])
    for i in range(0, len(x), 7):  # across every seam
        equal(source[i : i + 10], x[i : i + 10])
    rng = np.random.default_rng(0)
    for rows in (rng.permutation(len(x)), rng.integers(0, len(x), 9), np.empty(0, np.int64)):
        equal(source[rows], x[rows])
    equal(np.concatenate([*source.blocks(7)]), x)
    with pytest.raises(IndexError):
        source[np.array([len(x)])]


def write_parquet(path: Path, x: np.ndarray, fixed: bool = True, groups: int = 8) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    values = pa.array(x.reshape(-1))
    if fixed:
        column = pa.FixedSizeListArray.from_arrays(values, x.shape[1])
    else:
        column = pa.ListArray.from_arrays(
            np.arange(len(x) + 1, dtype=np.int32) * x.shape[1], values
        )
    table = pa.table({"id": np.arange(len(x)), "vector": column})
    parquet.write_table(table, path, row_group_size=groups)


def test_files_folders_and_patterns(tmp_path) -> None:
    x = drawn(50)
    folder = tmp_path / "shards"
    folder.mkdir()
    write_vectors(folder / "a.fbin", x[:20])
    write_vectors(folder / "b.fvecs", x[20:21])
    np.save(folder / "c.npy", x[21:])
    (folder / "notes.txt").write_text("no vectors")
    check(open_vectors(folder), x)
    check(open_vectors(str(folder / "*.*[nys]")), x)
    check(open_vectors([folder / "a.fbin", folder / "b.fvecs", folder / "c.npy"]), x)
    mixed = tmp_path / "d.u8bin"
    write_vectors(mixed, np.ones((2, 6), np.uint8))
    source = open_vectors([mixed, folder / "a.fbin"])
    assert source.dtype == np.float32 and open_vectors(mixed).dtype == np.uint8
    check(source, np.concatenate([np.ones((2, 6), np.float32), x[:20]]))


def test_what_is_wrong_with_names(tmp_path) -> None:
    np.save(tmp_path / "a.npy", drawn(4))
    np.save(tmp_path / "b.npy", drawn(4, 5))
    np.save(tmp_path / "none.npy", drawn(0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"b\.npy: expected d = 6 as in .*a\.npy, got 5"):
        open_vectors([tmp_path / "a.npy", tmp_path / "b.npy"])
    with pytest.raises(ValueError, match="at least one vector"):
        open_vectors(tmp_path / "none.npy")
    for missing in ("x.npy", "x*.npy", "empty", "x*.parquet"):
        with pytest.raises(MissingFileError):
            open_vectors(tmp_path / missing)
    (tmp_path / "ids").write_bytes(np.array([1, 1, 7], "<u4").tobytes())
    with pytest.raises(ValueError, match="ids: expected vectors"):
        open_vectors(tmp_path / "ids")


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8", "int8"])
@pytest.mark.parametrize("fixed", [True, False])
def test_parquet(tmp_path, dtype, fixed) -> None:
    x = (10 * drawn(43)).astype(dtype)
    path = tmp_path / "a.parquet"
    write_parquet(path, x, fixed)
    for name in (path, f"{path}:vector"):
        source = open_vectors(name)
        check(source, x)
        assert source.dtype == x.dtype
    found = describe_vectors(path)
    assert (found.kind, found.n, found.d, found.dtype) == ("parquet", 43, 6, x.dtype)
    equal(read_vectors(path, 40, 9), x[40:])
    equal(read_vectors(path, 99), x[:0])


def test_arrow_and_feather(tmp_path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.feather as feather

    x = drawn(33)
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 6)
    table = pa.table({"vector": column, "name": [str(i) for i in range(33)]})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        for batch in table.to_batches(max_chunksize=10):
            writer.write_batch(batch)
    feather.write_feather(table, tmp_path / "b.feather", compression="lz4", chunksize=12)
    feather.write_feather(table.slice(5), tmp_path / "c.feather", compression="uncompressed")
    check(open_vectors(tmp_path / "a.arrow"), x)
    check(open_vectors(tmp_path / "b.feather"), x)
    check(open_vectors([tmp_path / "a.arrow", tmp_path / "c.feather"]), np.concatenate([x, x[5:]]))


def test_lance(tmp_path) -> None:
    lance = pytest.importorskip("lance", reason="pylance is not in the extra test")
    pa = pytest.importorskip("pyarrow")
    x = drawn(50)
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 6)
    lance.write_dataset(
        pa.table({"vector": column, "id": np.arange(50)}), tmp_path / "a.lance",
        max_rows_per_file=20,
    )  # fmt: skip
    check(open_vectors(tmp_path / "a.lance"), x)
    check(open_vectors(f"{tmp_path / 'a.lance'}:vector"), x)


def test_columns_that_are_no_vectors(tmp_path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    for missing in ("x.parquet", "x.arrow"):
        with pytest.raises(MissingFileError):
            open_vectors(tmp_path / missing)

    def write(**more) -> str:
        parquet.write_table(pa.table(more), tmp_path / "a.parquet", row_group_size=2)
        return str(tmp_path / "a.parquet")

    rows = [[1.0, 2.0]] * 5
    name = write(a=rows, b=rows)
    with pytest.raises(FileFormatError, match=r"one column of vectors, there are \['a', 'b'\]"):
        open_vectors(name)
    assert open_vectors(f"{name}:b").shape == (5, 2)
    with pytest.raises(FileFormatError, match="a column 'c' of vectors"):
        open_vectors(f"{name}:c")
    with pytest.raises(FileFormatError, match="one column of vectors, there are"):
        open_vectors(write(a=["x", "y"]))
    for rows, match in (
        ([[1.0, 2.0]] * 3 + [[1.0]], "row 3 has 1 values, expected 2"),
        ([[1.0, 2.0]] * 3 + [None], "row 3 is null"),
        ([[1.0, 2.0]] * 3 + [[None, 1.0]], "row 3 has a null"),
    ):
        with pytest.raises(FileFormatError, match=match):
            open_vectors(write(a=rows))[:]
    Path(name).write_bytes(Path(name).read_bytes()[:-20])
    with pytest.raises(FileFormatError, match=r"a\.parquet"):
        open_vectors(name)


def test_hdf5_is_read_where_it_is_asked_for(tmp_path) -> None:
    h5py = pytest.importorskip("h5py")
    x = drawn(40)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["train"] = x
    check(open_vectors(f"{tmp_path / 'a.hdf5'}:train"), x)


def test_a_part_is_decoded_once_by_who_reads_on(tmp_path, monkeypatch) -> None:
    x = drawn(64)
    write_parquet(tmp_path / "a.parquet", x, groups=16)
    source, read, real = open_vectors(tmp_path / "a.parquet"), [], columns.Column._matrix

    def counted(self, column, start):
        read.append(start)
        return real(self, column, start)

    monkeypatch.setattr(columns.Column, "_matrix", counted)
    equal(np.concatenate([*source.blocks(5)]), x)
    assert read == [0, 16, 32, 48]


def test_a_thousand_files_are_not_open_at_once(tmp_path) -> None:
    resource = pytest.importorskip("resource")
    x = drawn(120)
    for i in range(60):
        write_parquet(tmp_path / f"{i:02}.parquet", x[2 * i : 2 * i + 2])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_open = len([*Path("/proc/self/fd").iterdir()]) if sys.platform == "linux" else 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_open + 20, before[1]))
    try:
        check(open_vectors(tmp_path), x)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_two_threads_read_one_source(tmp_path) -> None:
    x = drawn(200)
    write_parquet(tmp_path / "a.parquet", x[:100], groups=10)
    np.save(tmp_path / "b.npy", x[100:])
    source = open_vectors(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(lambda i: source[i : i + 30], range(170))):
            equal(found, x[i : i + 30])


def test_a_training_takes_its_sample(tmp_path) -> None:
    x = drawn(500)
    write_parquet(tmp_path / "a.parquet", x[:300], groups=64)
    np.save(tmp_path / "b.npy", x[300:])
    source = open_vectors(tmp_path)
    for settings in ({}, {"max_points": 100, "seed": 3}):
        data, expected = TrainingSet(source, 6, **settings), TrainingSet(x, 6, **settings)
        assert data.fingerprint() == expected.fingerprint()
        equal(data[:], expected[:])


MEASURED = """
import sys, numpy as np
from pathlib import Path
from faiss_qinco.storage.source import open_vectors
source = open_vectors(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")
def peak():
    line = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
    return int(line.split()[1])
before = peak()
for block in source.blocks(1000):
    pass
source[np.random.default_rng(0).integers(0, len(source), 2000)]
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_is_not_held_in_memory(tmp_path) -> None:
    with open(tmp_path / "a.u8bin", "wb") as file:  # 400 MB, of holes
        file.write(np.array([400_000, 1000], "<u4").tobytes())
        file.truncate(8 + 400_000_000)
    command = [sys.executable, "-c", MEASURED, "a.u8bin"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(found.stdout) < 40_000  # kB
