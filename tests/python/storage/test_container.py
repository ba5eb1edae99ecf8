"""A damaged, foreign or hostile file is a clear error; an interrupted write harms nothing."""

import errno
import json
import os
import pickle
import stat
import subprocess
import sys
import zlib

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from faiss_qinco.storage import container
from faiss_qinco.storage.container import (
    FileFormatError,
    MissingFileError,
    Stream,
    describe_container,
    finite,
    from_bytes,
    in_memory,
    open_bytes,
    open_tensors,
    read_tensors,
    reading,
    replacing,
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


def test_round_trip(tmp_path):
    path = tmp_path / "a.fqi"
    write_tensors(path, "index", HEADER, TENSORS)
    header, tensors = read_tensors(path, "index")
    assert same((header, tensors))
    assert all(t.flags.aligned and t.flags.writeable for t in tensors.values())
    assert path.read_bytes() == to_bytes("index", HEADER, TENSORS)
    with open_tensors(path) as reader:
        assert (reader.kind, reader.version) == ("index", 1)


def test_a_file_is_described_by_its_head(tmp_path):
    path = tmp_path / "a.fqi"
    write_tensors(path, "index", HEADER, TENSORS)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the tensors are not read
    path.write_bytes(data)
    info = describe_container(path)
    assert (info.kind, info.version, info.header) == ("index", 1, HEADER)
    assert {k: (v.dtype, v.shape, v.nbytes) for k, v in info.tensors.items()} == {
        k: (v.dtype, v.shape, v.nbytes) for k, v in TENSORS.items()
    }


def test_the_format_stays():
    """The bytes of a file are what the first release wrote."""
    assert zlib.crc32(to_bytes("index", HEADER, TENSORS)) == 2192736474


def test_streams(tmp_path, monkeypatch):
    """A tensor written in chunks, of any size and layout, is the tensor; one that is not of its
    shape is an error."""
    x = np.arange(60, dtype=np.float32).reshape(20, 3)
    want = to_bytes("index", {}, {"x": x})
    for chunks in ([x[:1], x[1:1], x[1:]], [np.asfortranarray(x)[:7], x[7:].astype(">f4")]):
        stream = Stream(x.dtype, x.shape, iter(chunks))
        assert to_bytes("index", {}, {"x": stream}) == want
    monkeypatch.setattr(container, "CHUNK", 50)
    write_tensors(tmp_path / "a", "index", {}, {"x": np.asfortranarray(x)})
    assert (tmp_path / "a").read_bytes() == want
    for chunks in ([x[1:]], [x, x[:1]], []):
        with pytest.raises(ValueError, match=r"'x'.*240 bytes"):
            to_bytes("index", {}, {"x": Stream(x.dtype, x.shape, chunks)})
        with pytest.raises(ValueError, match=r"'x'.*240 bytes"):
            write_tensors(tmp_path / "a", "index", {}, {"x": Stream(x.dtype, x.shape, chunks)})
    assert (tmp_path / "a").read_bytes() == want
    memory = in_memory("index", {}, {"x": Stream(x.dtype, x.shape, [x[:4], x[4:]])})
    np.testing.assert_array_equal(memory.take("x", np.float32, (None, 3)), x)


@pytest.mark.parametrize("where", ["file", "bytes"])
def test_rows(tmp_path, where):
    """Read in parts, the checksum is verified with the last of them."""
    x = np.arange(60, dtype=np.float32).reshape(20, 3)
    data = to_bytes("index", {}, {"x": x, "y": x})
    path = tmp_path / "a"
    for damaged in (False, True):
        if damaged:
            data[-1] ^= 1
        path.write_bytes(data)
        with open_tensors(path) if where == "file" else open_bytes(data) as reader:
            reader.take("x", np.float32, (20, 3))
            rows = reader.rows("y", np.float32, ("n", 3))
            got = [rows.read(n) for n in (7, 0, 12)]
            with pytest.raises(FileFormatError, match="no 2 more rows"):
                rows.read(2)
            rows = reader.rows("y", np.float32, ("n", 3))
            got = [rows.read(n) for n in (7, 0, 12)]
            if damaged:
                with pytest.raises(FileFormatError, match="checksum of tensor 'y'"):
                    rows.read(1)
            else:
                np.testing.assert_array_equal(np.concatenate([*got, rows.read(1)]), x)


MEASURE = """
import resource, sys
import numpy as np
from faiss_qinco.storage.container import Stream, open_bytes, open_tensors, to_bytes, write_tensors

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

n = 64 << 20
stream = Stream(np.dtype("u1"), (n,), (np.full(1 << 20, i, np.uint8) for i in range(64)))
before = peak()
write_tensors(sys.argv[1], "index", {}, {"x": stream, "y": np.zeros(1, np.uint8)})
with open_tensors(sys.argv[1]) as reader:
    rows = reader.rows("x", np.uint8, (n,))
    for _ in range(64):
        rows.read(1 << 20)
print(peak() - before)
stream = Stream(np.dtype("u1"), (n,), (np.full(1 << 20, i, np.uint8) for i in range(64)))
data = to_bytes("index", {}, {"x": stream})
with open_bytes(data) as reader:
    reader.take("x", np.uint8, (n,))
print(peak() - before)
"""


def test_memory(tmp_path):
    """A file is written and read in a few MB; bytes are made in place and not copied to be read."""
    run = [sys.executable, "-c", MEASURE, tmp_path / "a"]
    out = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    assert int(out[0]) < 8 and int(out[1]) < 64 * 1.1 + 8


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
            read_tensors(path, "index")
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


def test_missing_empty_folder_pipe(tmp_path):
    with pytest.raises(MissingFileError, match="none") as caught:
        read_tensors(tmp_path / "none", "index")
    assert isinstance(caught.value, RuntimeError) and isinstance(caught.value, FileNotFoundError)
    assert caught.value.errno == errno.ENOENT and pickle.loads(pickle.dumps(caught.value))
    with pytest.raises(FileFormatError):
        read_tensors(tmp_path, "index")
    (tmp_path / "empty").touch()
    with pytest.raises(FileFormatError):
        read_tensors(tmp_path / "empty", "index")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileFormatError, match="regular"):
        read_tensors(tmp_path / "pipe", "index")
    with pytest.raises(MissingFileError, match="nowhere"):
        write_tensors(tmp_path / "nowhere" / "a", "index", {}, {})


F32 = np.zeros(4, np.float32).tobytes()
HOSTILE = {
    "huge shape": forge({"x": entry([2**40, 2**40], [0, 16])}, F32),
    "shape that overflows to 16 bytes": forge({"x": entry([2**62 + 1, 4], [0, 16])}, F32),
    "huge shape of no items": forge({"x": entry([0, 2**70], [0, 0])}),
    "negative shape": forge({"x": entry([-2, -2], [0, 16])}, F32),
    "boolean shape": forge({"x": entry([True, 4], [0, 16])}, F32),
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
    path = tmp_path / "a.fqi"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(FileFormatError, match=r"a\.fqi: "):
        read_tensors(path, "index")


def test_a_forged_file_is_read():
    """Or else the hostile ones would be refused for the forgery's own faults."""
    _, tensors = from_bytes(forge({"x": entry([4], [0, 16])}, F32), "index")
    assert tensors["x"].tobytes() == F32


class Faulty:
    """`os` whose n-th call of those that may fail does; and of files, write, flush and close."""

    CALLS = ("stat", "open", "fsync", "chown", "chmod", "replace", "close")

    def __init__(self, n, error):
        self.n, self.error, self.calls = n, error, []

    def __getattr__(self, name):
        function = getattr(os, name)
        return self.failing(name, function) if name in self.CALLS else function

    def failing(self, name, function):
        def call(*args, **kwargs):
            self.calls.append(name)
            if len(self.calls) - 1 == self.n:
                raise self.error
            return function(*args, **kwargs)

        return call

    def opened(self, name, mode, **kwargs):
        file = open(name, mode, **kwargs)  # noqa: SIM115
        return FaultyFile(file, self) if "x" in mode else file


class FaultyFile:
    def __init__(self, file, faulty):
        self.file, self.fileno, self.seek = file, file.fileno, file.seek
        for name in ("write", "flush"):
            setattr(self, name, faulty.failing(name, getattr(file, name)))
        self.close = faulty.failing("close", lambda: None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.close()


REFUSALS = (errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
FAILURES = (errno.EIO, errno.ENOSPC, errno.EDQUOT)


@pytest.mark.parametrize(
    "error",
    [*(OSError(code, os.strerror(code)) for code in REFUSALS + FAILURES), KeyboardInterrupt()],
    ids=repr,
)
@pytest.mark.parametrize("there", [True, False])
def test_whatever_fails_leaves_the_old_file_or_the_new(tmp_path, monkeypatch, error, there):
    """Each call in turn, of those that the file system may refuse."""
    path = tmp_path / "a.fqi"
    new = {"new": 1}
    needless = set()
    for n in range(100):
        path.unlink(missing_ok=True)
        if there:
            write_tensors(path, "index", HEADER, TENSORS)
        faulty = Faulty(n, error)
        with monkeypatch.context() as patch:
            patch.setattr(container, "os", faulty)
            patch.setattr(container, "open", faulty.opened, raising=False)
            try:
                write_tensors(path, "index", new, TENSORS)
            except (OSError, KeyboardInterrupt) as caught:
                written = (
                    isinstance(caught, KeyboardInterrupt)
                    and path.exists()
                    and (read_tensors(path, "index")[0] == new)
                )
                assert caught is error or caught.__cause__ is error
            else:
                written = True
                if n < len(faulty.calls):
                    needless.add(faulty.calls[n])
        assert list(tmp_path.iterdir()) == [path] * (there or written)
        if there or written:
            assert same(read_tensors(path, "index"), new if written else HEADER)
        if n >= len(faulty.calls):
            break
    assert n > 10
    # What data safety does not need: rights and owner of an old file, and to sync the folder.
    expected = set() if isinstance(error, KeyboardInterrupt) else {"open", "fsync", "close"}
    if there and expected:
        expected |= {"chown", "chmod"}
    assert needless == expected


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("call", ["chmod", "chown", "fsync"])
def test_mounts_that_refuse(tmp_path, monkeypatch, call, code):
    path = tmp_path / "a.fqi"
    path.touch()

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    write_tensors(path, "index", HEADER, TENSORS)
    assert same(read_tensors(path, "index")) and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", FAILURES)
def test_an_fsync_that_fails_is_an_error(tmp_path, monkeypatch, code):
    path = tmp_path / "a.fqi"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError) as caught:
        write_tensors(path, "index", HEADER, TENSORS)
    assert caught.value.errno == code
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


FULL = """
import os, resource, signal, sys
import numpy as np
from faiss_qinco.storage.container import write_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_tensors(sys.argv[1], "index", {}, {"x": np.ones(int(sys.argv[2]), np.uint8)})
except OSError as error:
    print(error.errno)
"""


@pytest.mark.parametrize("size", [99_900, 10**6])
def test_a_real_short_write(tmp_path, size):
    """The file system takes the first 100,000 bytes of a file."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    run = [sys.executable, "-c", FULL, path, str(size)]
    out = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert out.strip() == str(errno.EFBIG)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_takes_no_new_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def refuse(name, flags, mode=0o777, **_):
        raise PermissionError(errno.EACCES, "Permission denied", name)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match="no new file can be made in the folder") as caught:
        write_tensors(path, "index", HEADER, TENSORS)
    assert caught.value.filename == str(tmp_path)


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
    write_tensors(os.fsencode(old), "index", {}, {})
    assert read_tensors(os.fsencode(old), "index") == ({}, {})


def test_private_stays_private_where_chmod_is_refused(tmp_path, monkeypatch):
    """A new file that others can read must not take the place of one that they could not."""
    path = tmp_path / "a"
    path.touch(0o600)
    modes = []

    def refuse(name, mode):
        modes.append(stat.S_IMODE(os.stat(name).st_mode))
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    write_tensors(path, "index", HEADER, TENSORS)
    assert modes == [0o600] and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_only_regular_files_are_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(ValueError, match="regular file"):
            write_tensors(path, "index", {}, {})
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_file_that_is_read_outlives_its_replacement(tmp_path):
    path = tmp_path / "a.fqi"
    write_tensors(path, "index", HEADER, TENSORS)
    with open_tensors(path) as reader:
        write_tensors(path, "index", {}, {})
        assert same((reader.header, reader.all()))


def test_take():
    tensors = {"x": np.zeros((3, 4), np.float32), "s": np.zeros((), np.int64)}
    sizes = {"d": 4}
    reader = in_memory("index", {}, tensors)
    np.testing.assert_array_equal(reader.take("x", np.float32, ("n", "d"), sizes), tensors["x"])
    assert sizes == {"n": 3, "d": 4}
    reader.take("x", np.float32, (None, 4))
    reader.take("s", np.int64, ())
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
            reader.take(name, dtype, shape, dict(sizes))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_finite(monkeypatch, bad):
    monkeypatch.setattr(container, "CHUNK", 3)
    x = np.zeros((4, 2), np.float32)
    assert finite("x", x) is x
    x[3, 1] = bad
    with pytest.raises(FileFormatError, match="'x'"):
        finite("x", x)


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
