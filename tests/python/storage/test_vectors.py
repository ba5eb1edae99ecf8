"""Every vector format against bytes laid out by hand, and its damaged files."""

import contextlib
import errno
import os
import struct
import sys

import numpy as np
import pytest

from faiss_qinco.storage.container import FileFormatError, MissingFileError
from faiss_qinco.storage.vectors import (
    VectorFile,
    describe_vectors,
    read_groundtruth,
    read_vectors,
    write_vectors,
)

DTYPES = {
    "fvecs": np.float32, "bvecs": np.uint8, "ivecs": np.int32,
    "fbin": np.float32, "u8bin": np.uint8, "i8bin": np.int8, "ibin": np.int32,
    "npy": np.float64,
}  # fmt: skip
RAW = [suffix for suffix in DTYPES if suffix != "npy"]


def sample(suffix, n=5, d=3):
    return (
        (np.arange(n * d) - (0 if suffix in ("bvecs", "u8bin") else 7))
        .reshape(n, d)
        .astype(DTYPES[suffix])
    )


def laid_out(suffix, x):
    """The file's bytes, by the definition of the format."""
    if suffix.endswith("vecs"):
        return b"".join(struct.pack("<i", len(row)) + row.tobytes() for row in x)
    return struct.pack("<II", *x.shape) + x.tobytes()


@pytest.mark.parametrize("suffix", DTYPES)
def test_round_trip(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    x = sample(suffix)
    write_vectors(path, x)
    if suffix in RAW:
        assert path.read_bytes() == laid_out(suffix, x)
    got = read_vectors(path)
    assert got.dtype == x.dtype and not got.flags.writeable
    np.testing.assert_array_equal(got, x)
    for start, count in [(0, 0), (0, 2), (2, None), (2, 2), (4, 9), (5, None), (9, 1)]:
        stop = None if count is None else start + count
        np.testing.assert_array_equal(read_vectors(path, start, count), x[start:stop])
    write_vectors(path, np.asfortranarray(x)[::-1])
    np.testing.assert_array_equal(read_vectors(path), x[::-1])


@pytest.mark.parametrize("suffix", ["fbin", "u8bin", "i8bin", "ibin", "npy"])
def test_no_rows(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    write_vectors(path, sample(suffix, 0))
    assert read_vectors(path).shape == (0, 3)


@pytest.mark.parametrize("suffix", ["fvecs", "u8bin"])
def test_written_in_blocks(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("faiss_qinco.storage.vectors._BLOCK", 7)
    write_vectors(tmp_path / f"x.{suffix}", sample(suffix))
    np.testing.assert_array_equal(read_vectors(tmp_path / f"x.{suffix}"), sample(suffix))


def test_dtypes_are_converted_without_loss_or_refused(tmp_path):
    x = np.arange(6).reshape(2, 3)
    write_vectors(tmp_path / "x.fvecs", x.astype(np.float16))
    np.testing.assert_array_equal(read_vectors(tmp_path / "x.fvecs"), x)
    for suffix, dtype in [
        ("fvecs", "f8"), ("ivecs", "i8"), ("u8bin", "i1"), ("i8bin", "f4"), ("bvecs", "?"),
        ("npy", "O"), ("npy", "c8"),
    ]:  # fmt: skip
        with pytest.raises(TypeError, match=suffix):
            write_vectors(tmp_path / f"y.{suffix}", x.astype(dtype))
    for bad in (x[0], x[:, :0], x[None]):
        with pytest.raises(ValueError, match="expected"):
            write_vectors(tmp_path / "y.ibin", bad.astype(np.int32))
    with pytest.raises(ValueError, match="expected"):
        write_vectors(tmp_path / "y.fvecs", sample("fvecs", 0))
    assert [p.name for p in tmp_path.iterdir()] == ["x.fvecs"]


@pytest.mark.parametrize("suffix", DTYPES)
def test_an_interrupted_write_harms_nothing(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"x.{suffix}"
    write_vectors(path, sample(suffix))

    def fail(*_):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(os, "fsync", fail)
        write_vectors(path, sample(suffix, 9))
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(read_vectors(path), sample(suffix))


def test_arguments(tmp_path):
    for name in ("x", "x.txt", "x.hdf5"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match="path"):
            read_vectors(tmp_path / name)
        with pytest.raises(ValueError, match="path"):
            write_vectors(tmp_path / name, np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="path"):
        write_vectors(tmp_path / "x.hdf5:train", np.zeros((2, 2), np.float32))
    for arguments in ({"start": -1}, {"count": -1}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            read_vectors(tmp_path / "x.fvecs", **arguments)


@pytest.mark.parametrize("suffix", [*DTYPES, "gt"])
def test_files_are_described(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "gt":
        path.write_bytes(np.array([5, 3], "<u4").tobytes() + np.zeros(15, "<i4").tobytes())
        want = VectorFile("groundtruth", 5, 3, np.dtype("<i4"), 68)
    else:
        x = sample(suffix)
        write_vectors(path, x)
        want = VectorFile(suffix, 5, 3, x.dtype, path.stat().st_size)
    assert describe_vectors(path) == want
    path.write_bytes(path.read_bytes()[:6])
    with pytest.raises(FileFormatError, match="truncated"):
        describe_vectors(path)
    path.unlink()
    with pytest.raises(MissingFileError):
        describe_vectors(path)
    os.mkfifo(path)
    with pytest.raises(FileFormatError, match="not a regular file"):
        describe_vectors(path)


def test_hdf5_files_are_described(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["train"] = np.zeros((5, 3), np.float32)
    want = VectorFile("hdf5", 5, 3, np.dtype(np.float32), 60)
    assert describe_vectors(f"{path}:train") == want
    with pytest.raises(ValueError, match=r"a\.hdf5:dataset, .*'train'"):
        describe_vectors(path)


@pytest.mark.parametrize("suffix", DTYPES)
def test_missing_file(tmp_path, suffix):
    with pytest.raises(MissingFileError, match="x"):
        read_vectors(tmp_path / f"x.{suffix}")
    with pytest.raises(MissingFileError, match="x"):
        read_groundtruth(tmp_path / f"x.{suffix}")


@pytest.mark.parametrize("suffix", ["fvecs", "bvecs", "ivecs"])
def test_truncated_vecs(tmp_path, suffix):
    x = sample(suffix)
    data = laid_out(suffix, x)
    path = tmp_path / f"x.{suffix}"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        rows, rest = divmod(size, len(data) // len(x))
        if rows and not rest:  # nothing tells that rows are missing
            np.testing.assert_array_equal(read_vectors(path), x[:rows])
        else:
            with pytest.raises(FileFormatError, match=suffix):
                read_vectors(path)


@pytest.mark.parametrize("suffix", ["fbin", "u8bin", "i8bin", "ibin"])
def test_cropped_bin(tmp_path, suffix):
    x = sample(suffix)
    data = laid_out(suffix, x)
    path = tmp_path / f"x.{suffix}"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        rows = (size - 8) // (x.itemsize * x.shape[1])
        if rows > 0:
            with pytest.warns(UserWarning, match=f"cropped, {rows} of 5 rows") as caught:
                np.testing.assert_array_equal(read_vectors(path), x[:rows])
            assert caught[0].filename == __file__
        else:
            with pytest.raises(FileFormatError, match=suffix):
                read_vectors(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(FileFormatError, match=suffix):
        read_vectors(path)


def test_the_suffix_of_crops(tmp_path):
    path = tmp_path / "base.1B.u8bin.crop_nb_4"
    data = laid_out("u8bin", sample("u8bin"))
    path.write_bytes(struct.pack("<I", 10**9) + data[4 : 8 + 4 * 3])
    with pytest.warns(UserWarning, match="4 of 1000000000"):
        np.testing.assert_array_equal(read_vectors(path), sample("u8bin")[:4])


def test_truncated_npy(tmp_path):
    path = tmp_path / "x.npy"
    write_vectors(path, sample("npy"))
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(FileFormatError, match="npy"):
            read_vectors(path)


def test_damaged_npy_header(tmp_path):
    """A flip is an error or another matrix, never something else."""
    path = tmp_path / "x.npy"
    write_vectors(path, sample("npy"))
    data = bytearray(path.read_bytes())
    for i in range(128):
        for flip in (1, 4, 0x10, 0x80):
            data[i] ^= flip
            path.write_bytes(data)
            with contextlib.suppress(FileFormatError):
                assert read_vectors(path).ndim == 2
            data[i] ^= flip


@pytest.mark.parametrize(
    "x",
    [np.zeros(3), np.zeros((2, 2, 2)), np.zeros((2, 2), complex), np.array([["a"]]),
     np.array([[{}]], object), np.zeros((2, 2), "f4,f4")],
    ids=["1-D", "3-D", "complex", "text", "objects", "records"],
)  # fmt: skip
def test_other_npy(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(FileFormatError):
        read_vectors(tmp_path / "x.npy")


@pytest.mark.parametrize("d", [0, -1, 2**31 - 1, -(2**31)])
def test_hostile_vecs(tmp_path, d):
    path = tmp_path / "x.fvecs"
    path.write_bytes(struct.pack("<i", d) + bytes(12))
    with pytest.raises(FileFormatError, match="fvecs"):
        read_vectors(path)


@pytest.mark.parametrize(
    "head", [(5, 0), (0, 0), (0, 5), (2**32 - 1, 2**32 - 1), (1, 2**32 - 1), (2, 1)]
)
def test_hostile_bin(tmp_path, head):
    path = tmp_path / "x.fbin"
    path.write_bytes(struct.pack("<II", *head) + bytes(12))
    with pytest.raises(FileFormatError, match="fbin"):
        read_vectors(path)


def test_vecs_of_several_lengths(tmp_path):
    path = tmp_path / "x.ivecs"
    rows = [np.zeros(d, np.int32) for d in (3, 1, 5, 3)]
    path.write_bytes(laid_out("ivecs", rows))
    with pytest.raises(FileFormatError, match="not all rows have d = 3"):
        read_vectors(path)
    with pytest.raises(FileFormatError, match="not all rows have d = 3"):
        read_vectors(path, 1, 1)
    write_vectors(path, np.zeros((5000, 3), np.int32))
    with open(path, "r+b") as file:
        file.seek(-16, os.SEEK_END)
        file.write(struct.pack("<i", 4))
    with pytest.raises(FileFormatError, match="not all rows have d = 3"):
        read_vectors(path)


IDS = np.array([[3, 1, 2], [0, -1, 2**31 - 1]], np.int32)
DISTANCES = np.array([[0.5, 1, 2], [3, 4, np.inf]], np.float32)


@pytest.mark.parametrize("name", ["gt.bin", "gt.gt", "gt.ibin", "bigann-10M"])
@pytest.mark.parametrize("both", [True, False])
def test_bigann_groundtruth(tmp_path, name, both):
    path = tmp_path / name
    data = laid_out("ibin", IDS) + (DISTANCES.tobytes() if both else b"")
    path.write_bytes(data)
    ids, distances = read_groundtruth(path)
    assert ids.dtype == np.int64
    np.testing.assert_array_equal(ids, IDS)
    if both:
        assert distances.dtype == np.float32
        np.testing.assert_array_equal(distances, DISTANCES)
    else:
        assert distances is None
    for size in range(len(data)):
        if size != 8 + IDS.nbytes:
            path.write_bytes(data[:size])
            with pytest.raises(FileFormatError, match=name):
                read_groundtruth(path)


@pytest.mark.parametrize("head", [(2**32 - 1, 2**32 - 1), (0, 3), (3, 0)])
def test_hostile_groundtruth(tmp_path, head):
    path = tmp_path / "gt.bin"
    for data in (b"", bytes(8)):
        path.write_bytes(struct.pack("<II", *head) + data)
        with pytest.raises(FileFormatError, match="gt"):
            read_groundtruth(path)


@pytest.mark.parametrize("suffix", ["ivecs", "npy"])
def test_groundtruth_of_ids_alone(tmp_path, suffix):
    write_vectors(tmp_path / f"gt.{suffix}", IDS)
    ids, distances = read_groundtruth(tmp_path / f"gt.{suffix}")
    assert ids.dtype == np.int64 and distances is None
    np.testing.assert_array_equal(ids, IDS)


def test_groundtruth_of_floats(tmp_path):
    write_vectors(tmp_path / "gt.npy", DISTANCES)
    with pytest.raises(FileFormatError, match="integer ids"):
        read_groundtruth(tmp_path / "gt.npy")


def test_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "x.hdf5"
    x = sample("fvecs")
    with h5py.File(path, "w") as file:
        file["train"], file["group/test"] = x, x[:2]
        file["neighbors"], file["distances"] = IDS, DISTANCES
        file["other"], file["flat"], file["text"] = IDS[:1], x[0], [[b"a"]]
    np.testing.assert_array_equal(read_vectors(f"{path}:train"), x)
    np.testing.assert_array_equal(read_vectors(f"{path}:train", 1, 2), x[1:3])
    np.testing.assert_array_equal(read_vectors(f"{path}:group/test"), x[:2])
    for name in (path, f"{path}:neighbors"):
        ids, distances = read_groundtruth(name)
        np.testing.assert_array_equal(ids, IDS)
        np.testing.assert_array_equal(distances, DISTANCES)
        assert ids.dtype == np.int64 and distances.dtype == np.float32
    assert read_groundtruth(f"{path}:other")[1] is None
    for name in ("none", "group", "flat", "text"):
        with pytest.raises(FileFormatError, match=r"x\.hdf5"):
            read_vectors(f"{path}:{name}")
    with pytest.raises(FileFormatError, match="integer ids"):
        read_groundtruth(f"{path}:train")
    data = path.read_bytes()
    for size in (0, 7, 100, len(data) // 2):
        path.write_bytes(data[:size])
        with pytest.raises(FileFormatError, match=r"x\.hdf5"):
            read_vectors(f"{path}:train")
    with pytest.raises(MissingFileError):
        read_vectors(tmp_path / "none.h5:train")


def test_hdf5_without_h5py(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    for read in (read_vectors, read_groundtruth):
        with pytest.raises(ImportError, match=r"pip install 'faiss-qinco\[hdf5\]'"):
            read("x.hdf5:train")
