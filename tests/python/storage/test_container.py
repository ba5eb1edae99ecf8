"""A damaged, foreign or hostile file is a clear error; an interrupted write harms nothing."""

import errno
import json
import os
import pickle
import stat
import zlib

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from faiss_qinco.storage import container
from faiss_qinco.storage.container import (
    FileFormatError,
    MissingFileError,
    from_bytes,
    read_tensors,
    reading,
    replacing,
    take,
    take_number,
    to_bytes,
    write_tensors,
)

HEADER = {"d": 4, "name": "Ω", "list": [1, 2.5, None, True], "nested": {"a": "b"}}
TENSORS = {
    "codes": np.arange(7, dtype=np.uint8),
    "x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "ids": np.array([-1, 2**62], np.int64),
    "scalar": np.array(2.5, np.float16),
    "empty": np.zeros((0, 5), np.float64),
}


def same(got, header=HEADER, tensors=TENSORS):
    return got[0] == header and {
        name: (t.dtype, t.shape, t.tobytes()) for name, t in got[1].items()
    } == {name: (t.dtype, t.shape, t.tobytes()) for name, t in tensors.items()}


def forge(directory, data=b"", size=None, **metadata):
    """A container file with a valid checksum around whatever is given."""
    metadata = {"format": "faiss_qinco.index", "version": "1", "header": "{}", **metadata}
    if "crc32" not in metadata:
        sums = {
            name: f"{zlib.crc32(data[slice(*entry['data_offsets'])]):08x}"
            for name, entry in directory.items()
        }
        metadata["crc32"] = json.dumps(sums)
    text = json.dumps([metadata, directory], sort_keys=True, separators=(",", ":"))
    metadata["checksum"] = f"{zlib.crc32(text.encode()):08x}"
    head = json.dumps({"__metadata__": metadata, **directory}).encode()
    return (len(head) if size is None else size).to_bytes(8, "little") + head + data


def entry(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("mmap", [False, True])
def test_round_trip(tmp_path, mmap):
    path = tmp_path / "a.fqi"
    write_tensors(path, "index", HEADER, TENSORS)
    header, tensors = read_tensors(path, "index", mmap)
    assert same((header, tensors))
    assert all(t.flags.aligned and t.flags.writeable != mmap for t in tensors.values())
    assert path.read_bytes() == to_bytes("index", HEADER, TENSORS)


@pytest.mark.parametrize(
    "dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
)
@pytest.mark.parametrize("order", "<>")
def test_every_dtype_and_layout(dtype, order):
    x = np.arange(24).astype(order + dtype).reshape(4, 6)
    tensors = {"c": x, "f": np.asfortranarray(x), "strided": x[::2, ::-1]}
    _, got = from_bytes(to_bytes("index", {}, tensors), "index")
    for name, t in tensors.items():
        np.testing.assert_array_equal(got[name], t)
        assert got[name].dtype == np.dtype(dtype)


def test_no_tensors():
    assert from_bytes(to_bytes("index", {}, {}), "index") == ({}, {})


def test_the_stock_library_reads_it(tmp_path):
    path = tmp_path / "a.fqi"
    write_tensors(path, "index", HEADER, TENSORS)
    assert same((HEADER, load_file(path)))


def test_the_same_content_gives_the_same_bytes():
    backwards = [dict(reversed(part.items())) for part in (HEADER, TENSORS)]
    assert to_bytes("index", *backwards) == to_bytes("index", HEADER, TENSORS)


def test_any_buffer_is_read():
    data = to_bytes("index", HEADER, TENSORS)
    for buffer in (bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)):
        assert same(from_bytes(buffer, "index"))
    # A view into a larger buffer may lie anywhere: what comes is aligned all the same.
    _, tensors = from_bytes(memoryview(b"x" + data)[1:], "index")
    assert same((HEADER, tensors))
    assert all(t.flags.aligned for t in tensors.values())


def test_every_truncation_is_found(tmp_path):
    data = to_bytes("index", HEADER, TENSORS)
    path = tmp_path / "a.fqi"
    for size in range(len(data)):
        with pytest.raises(FileFormatError):
            from_bytes(data[:size], "index")
        path.write_bytes(data[:size])
        with pytest.raises(FileFormatError):
            read_tensors(path, "index", mmap=True)
    with pytest.raises(FileFormatError, match="1 bytes too many"):
        from_bytes(data + b"\0", "index")


@pytest.mark.parametrize("flip", [*(1 << bit for bit in range(8)), 0xFF])
def test_every_flipped_byte_is_found_or_harmless(flip):
    data = bytearray(to_bytes("index", HEADER, TENSORS))
    end = 8 + int.from_bytes(data[:8], "little")
    for i in range(len(data)):
        data[i] ^= flip
        try:
            got = from_bytes(data, "index")
        except FileFormatError:
            pass
        else:
            # Only the white space that pads the header can change unnoticed.
            assert i < end and data[i] in b"\t\n\r " and same(got)
        data[i] ^= flip


def test_messages_name_the_file_and_the_fault(tmp_path):
    path = tmp_path / "a.fqi"
    write_tensors(path, "model", HEADER, TENSORS)
    with pytest.raises(FileFormatError, match=r"a\.fqi: .*faiss_qinco\.index.*faiss_qinco\.model"):
        read_tensors(path, "index")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"a\.fqi: damaged: .* tensor 'codes'"):
        read_tensors(path, "model")
    path.write_bytes(forge({}, version="2"))
    with pytest.raises(FileFormatError, match=r"newer.*version 2.*upgrade"):
        read_tensors(path, "index")
    path.write_bytes(b"IxFI" + bytes(100))
    with pytest.raises(FileFormatError, match="not a faiss_qinco file"):
        read_tensors(path, "index")
    save_file(TENSORS, path)
    with pytest.raises(FileFormatError, match="got None"):
        read_tensors(path, "index")


@pytest.mark.parametrize("mmap", [False, True])
def test_missing_empty_folder(tmp_path, mmap):
    with pytest.raises(MissingFileError, match="none") as caught:
        read_tensors(tmp_path / "none", "index", mmap)
    assert isinstance(caught.value, RuntimeError) and isinstance(caught.value, FileNotFoundError)
    assert caught.value.errno == errno.ENOENT and pickle.loads(pickle.dumps(caught.value))
    with pytest.raises(FileFormatError):
        read_tensors(tmp_path, "index", mmap)
    (tmp_path / "empty").touch()
    with pytest.raises(FileFormatError):
        read_tensors(tmp_path / "empty", "index", mmap)
    with pytest.raises(MissingFileError, match="nowhere"):
        write_tensors(tmp_path / "nowhere" / "a", "index", {}, {})


F32 = np.zeros(4, np.float32).tobytes()
HOSTILE = {
    "huge shape": forge({"x": entry([2**40, 2**40], [0, 16])}, F32),
    "shape that overflows to 16 bytes": forge({"x": entry([2**62 + 1, 4], [0, 16])}, F32),
    "huge shape of no items": forge({"x": entry([0, 2**70], [0, 0])}),
    "negative shape": forge({"x": entry([-2, -2], [0, 16])}, F32),
    "float shape": forge({"x": entry([4.0], [0, 16])}, F32),
    "shape of text": forge({"x": entry("4", [0, 16])}, F32),
    "too many dimensions": forge({"x": entry([1] * 100 + [4], [0, 16])}, F32),
    "no shape": forge({"x": {"dtype": "F32", "data_offsets": [0, 16]}}, F32),
    "unknown dtype": forge({"x": entry([4], [0, 16], "Q99")}, F32),
    "dtype of lists": forge({"x": entry([4], [0, 16], [])}, F32),
    "offsets past the end": forge({"x": entry([2**40], [0, 2**42])}, F32),
    "negative offsets": forge({"x": entry([4], [-16, 0])}, F32),
    "backward offsets": forge({"x": entry([4], [16, 0])}, F32),
    "hole": forge({"x": entry([3], [4, 16])}, F32),
    "overlap": forge({"x": entry([4], [0, 16]), "y": entry([2], [8, 16])}, F32),
    "one offset": forge({"x": entry([4], [0])}, F32, crc32="{}"),
    "entry of another type": forge({"x": 3}, F32, crc32="{}"),
    "no checksum of a tensor": forge({"x": entry([4], [0, 16])}, F32, crc32="{}"),
    "header NaN": forge({}, header='{"a":NaN}'),
    "header infinity": forge({}, header='{"a":-Infinity}'),
    "header of another type": forge({}, header="[]"),
    "header nested too deep": forge({}, header='{"a":' + "[" * 200_000),
    "header with a giant number": forge({}, header='{"a":' + "9" * 10_000 + "}"),
    "header no JSON": forge({}, header="{"),
    "crc32 of another type": forge({"x": entry([4], [0, 16])}, F32, crc32="3"),
    "version no number": forge({}, version="one"),
    "version of another type": forge({}, version=None),
    "huge head": forge({}, size=2**63),
    "empty head": bytes(8),
    "head of another type": (2).to_bytes(8, "little") + b"[]",
    "metadata of another type": (18).to_bytes(8, "little") + b'{"__metadata__":3}',
    "head not UTF-8": (4).to_bytes(8, "little") + b'{"\xff"',
    "head nested too deep": (200_000).to_bytes(8, "little") + b"[" * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(tmp_path, name):
    with pytest.raises(FileFormatError, match=r"^<bytes>: "):
        from_bytes(HOSTILE[name], "index")
    if name != "no checksum of a tensor":
        path = tmp_path / "a.fqi"
        path.write_bytes(HOSTILE[name])
        with pytest.raises(FileFormatError):
            read_tensors(path, "index", mmap=True)


def test_a_forged_file_is_read():
    """Or else the hostile ones would be refused for the forgery's own faults."""
    _, tensors = from_bytes(forge({"x": entry([4], [0, 16])}, F32), "index")
    assert tensors["x"].tobytes() == F32


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["fsync", "replace"])
@pytest.mark.parametrize("there", [True, False])
def test_an_interrupted_write_harms_nothing(tmp_path, monkeypatch, error, where, there):
    path = tmp_path / "a.fqi"
    if there:
        write_tensors(path, "index", HEADER, TENSORS)

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, where, fail)
        with pytest.raises(type(error)):
            write_tensors(path, "index", {"new": 1}, TENSORS)
    assert list(tmp_path.iterdir()) == [path] * there
    if there:
        assert same(read_tensors(path, "index"))


def test_an_interrupted_block_harms_nothing(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_touches_no_file(tmp_path):
    path = tmp_path / "a.fqi"
    for header, tensors, error in [
        ({"a": float("nan")}, {}, ValueError),
        ({"a": float("inf")}, {}, ValueError),
        ({"a": object()}, {}, TypeError),
        ({}, {"x": np.zeros(1, object)}, TypeError),
        ({}, {"x": np.zeros(1, complex)}, TypeError),
        ({}, {"x": np.zeros(1, bool)}, TypeError),
        ({}, {"__metadata__": np.zeros(1)}, ValueError),
    ]:
        with pytest.raises(error):
            write_tensors(path, "index", header, tensors)
    assert not list(tmp_path.iterdir())


def test_the_folder_is_synced_after_the_file_is_in_place(tmp_path, monkeypatch):
    path = tmp_path / "a"
    synced = []
    fsync = os.fsync

    def spy(handle):
        synced.append((stat.S_ISDIR(os.fstat(handle).st_mode), path.exists()))
        fsync(handle)

    monkeypatch.setattr(container.os, "fsync", spy)
    write_tensors(path, "index", HEADER, TENSORS)
    assert synced == [(False, False), (True, True)]


def test_permissions_and_links(tmp_path):
    new, old, link = tmp_path / "new", tmp_path / "old", tmp_path / "link"
    mask = os.umask(0o027)
    try:
        write_tensors(new, "index", {}, {})
    finally:
        os.umask(mask)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640
    old.touch()
    old.chmod(0o604)
    link.symlink_to("old")
    write_tensors(link, "index", HEADER, TENSORS)
    assert link.is_symlink() and same(read_tensors(old, "index"))
    assert stat.S_IMODE(old.stat().st_mode) == 0o604


def test_only_regular_files_are_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(ValueError, match="regular file"):
            write_tensors(path, "index", {}, {})
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_mapped_file_outlives_its_replacement(tmp_path):
    path = tmp_path / "a.fqi"
    write_tensors(path, "index", HEADER, TENSORS)
    mapped = read_tensors(path, "index", mmap=True)
    write_tensors(path, "index", {}, {})
    assert same(mapped)


def test_take():
    tensors = {"x": np.zeros((3, 4), np.float32), "s": np.zeros((), np.int64)}
    sizes = {"d": 4}
    assert take(tensors, "x", np.float32, ("n", "d"), sizes) is tensors["x"]
    assert sizes == {"n": 3, "d": 4}
    take(tensors, "x", np.float32, (None, 4))
    take(tensors, "s", np.int64, ())
    for name, dtype, shape in [
        ("y", np.float32, (3, 4)),
        ("x", np.float64, (3, 4)),
        ("x", np.float32, (3,)),
        ("x", np.float32, (3, 4, None)),
        ("x", np.float32, (3, 5)),
        ("x", np.float32, (None, "n")),
        ("x", np.float32, ("q", "q")),
    ]:
        with pytest.raises(FileFormatError, match=repr(name)):
            take(tensors, name, dtype, shape, dict(sizes))


def test_take_number():
    header = {"i": 3, "f": 0.5, "b": True, "s": "3", "huge": 10**400, "nan": float("nan")}
    assert take_number(header, "i", int, 0, 3) == 3
    assert type(take_number(header, "i", float, 0, 3)) is float
    assert take_number(header, "f", float, 0, 1) == 0.5
    for name, kind in [
        ("f", int), ("b", int), ("b", float), ("s", int), ("huge", int), ("huge", float),
        ("nan", float), ("missing", int),
    ]:  # fmt: skip
        with pytest.raises(FileFormatError, match=name):
            take_number(header, name, kind, 0, 100)


def test_reading_names_the_file_once():
    with pytest.raises(FileFormatError) as caught, reading("a"), reading("a"):
        raise FileFormatError("bad")
    assert str(caught.value) == "a: bad"
    with pytest.raises(KeyboardInterrupt), reading("a"):
        raise KeyboardInterrupt
