"""The one container of model and index files: a safetensors file with checksums.

Any safetensors library reads the tensors. The file's `__metadata__`, strings as the format wants:

    format    "faiss_qinco.<kind>", kind being "codec", "index", ...
    version   "1"
    header    a JSON object: what is no tensor
    crc32     a JSON object: tensor name -> CRC-32 of its bytes, 8 hex digits
    checksum  CRC-32 of all the above and of the names, dtypes, shapes and offsets

The layout is written here rather than by the safetensors library because that one orders the
metadata at random (files would not be byte-stable), and holds every tensor of a file in memory, and
its bytes once more. Here a tensor can be a `Stream`, written while it is made, and a `Reader` reads
one tensor, or some rows of one, when asked for it. Nothing is allocated before the file's own size
says that there is so much to read. A tensor that is to be mapped begins at a cache line, behind one
named "padding".

The checksums find damage; they do not authenticate. So a reader also validates what it takes out,
with `Reader.take`, `finite` and `take_number`, inside `with open_tensors(path, kind) as reader`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..progress import progress_bar

Path = str | os.PathLike[str]
Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview | Array
Number = TypeVar("Number", int, float)
Kind = TypeVar("Kind")

VERSION = 1
CHUNK = 1 << 20  # bytes of a tensor that are worked on at once, where it need not be whole
_MAX_HEAD = 1 << 24  # of JSON, which takes many times as much memory once it is parsed
_ALIGN = 64  # of the first tensor, so that a mapped file suits vector instructions
_DTYPES = {
    name: np.dtype(code)
    for name, code in {
        "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
        "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
        "F16": "<f2", "F32": "<f4", "F64": "<f8",
    }.items()
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# What a file system says to an fsync that it does not know. The data is written nevertheless.
NO_FSYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}


class FileFormatError(RuntimeError):
    """A file is not what it should be: damaged, of another kind, or from a newer version."""


class MissingFileError(FileNotFoundError, RuntimeError):
    """There is no such file, or no such folder to write to. FAISS raises RuntimeError here."""


@contextmanager
def reading(name: Path) -> Iterator[None]:
    """Turn whatever goes wrong in the block into an error that names the file.

    Raises MissingFileError for FileNotFoundError, and FileFormatError for other OSErrors and for
    what bad content causes: ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    AssertionError, RuntimeError. MemoryError stays: what a file asks for, it contains.
    """
    name = os.fsdecode(name)
    try:
        yield
    except MissingFileError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(errno.ENOENT, "no such file", name) from error
    except FileFormatError as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise FileFormatError(f"{name}: {error}") from error.__cause__
    except OSError as error:
        raise FileFormatError(f"{name}: cannot be read: {error.strerror or error}") from error
    except (
        ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError,
        RuntimeError,
    ) as error:  # fmt: skip
        raise FileFormatError(f"{name}: bad content ({type(error).__name__}: {error})") from error


def is_container(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 24 or more, is likely to be a container, and
    certainly none of faiss's, whose fourth byte is a letter or a digit."""
    return head[3:8] == bytes(5) and head[8:24] == b'{"__metadata__":'


def container_size(head: bytes | bytearray) -> int:
    """The size of a whole container, by its head, which is all there is of it yet. Raises
    FileFormatError."""
    with reading("<reader>"):
        entries = _loads(bytes(head[8:]))
        entries.pop("__metadata__", None)
        ends = [int(entry["data_offsets"][1]) for entry in entries.values()]
        return len(head) + max(ends, default=0)


def check_regular(path: Path) -> None:
    """To open a pipe would wait for its writer. Raises OSError or FileFormatError."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise FileFormatError("not a regular file")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new binary file that takes the place of `path` once the block has succeeded.

    Whatever interrupts the block, the file at `path` is the whole old one or the whole new one, and
    nothing else is left behind. A symbolic link is followed; the old file's permissions are kept,
    and its owner, as far as the file system lets us. Where it has no fsync, the new file is as safe
    as the file system makes it by itself.

    Raises MissingFileError if the folder does not exist, ValueError if `path` is there but is no
    regular file, and OSError for what the file system refuses: a new file in that folder, above
    all, which needs the right to write to the folder.
    """
    target = os.path.realpath(os.fsdecode(path))
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".faiss_qinco-{secrets.token_hex(8)}.tmp")
    old = None
    with suppress(FileNotFoundError):
        old = os.stat(target)
        if not stat.S_ISREG(old.st_mode):
            raise ValueError(f"path: expected a regular file or a new name, got {target!r}")
    if not os.path.isdir(folder):
        raise MissingFileError(errno.ENOENT, "no such folder to write to", folder)
    mode = 0o666 if old is None else old.st_mode & 0o777  # from the start, and less the umask
    try:
        with _create(temporary, mode) as file:
            yield file
            file.flush()
            try:
                os.fsync(file.fileno())
            except OSError as error:
                if error.errno not in NO_FSYNC:
                    raise
        if old is not None:
            with suppress(OSError):
                os.chown(temporary, old.st_uid, old.st_gid)
            with suppress(OSError):
                os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):  # what went wrong is the error to raise
            os.unlink(temporary)
        raise
    with suppress(OSError):  # the new file is in place; some file systems cannot sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _create(name: str, mode: int) -> BinaryIO:
    try:
        return open(name, "xb", opener=lambda name, flags: os.open(name, flags, mode))
    except OSError as error:  # the file's own name would say nothing to the user
        folder = os.path.dirname(name)
        reason = f"no new file can be made in the folder ({error.strerror})"
        raise OSError(error.errno, reason, folder) from error


@dataclass(frozen=True)
class Stream:
    """A tensor that is written while it is made.

    dtype, shape : of the tensor. chunks : arrays that, one after the other in C order, are all of
        it; gone through twice where the file cannot be gone back in.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunks: Iterable[Array]
    aligned: bool = False  # to 64 bytes in the file; of several, each is a multiple of that

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


Tensors = Mapping[str, Array | Stream]


def write_tensors(
    path: Path | BinaryIO, kind: str, header: Mapping[str, Any], tensors: Tensors
) -> None:
    """Write a container file, all or nothing (see `replacing`); the same content, the same bytes.
    Or to an open binary file, from where it is on, which need not be one to go back in.

    kind: what the file holds, such as "index". header: a JSON object with finite numbers.
    tensors: arrays of any shape, of 8 to 64 bit integers or 16 to 64 bit floats; contiguous
    little-endian ones are not copied; or a `Stream`, of which one chunk at a time is in memory.

    Raises TypeError for another dtype or a header that JSON cannot hold, ValueError for NaN or
    infinity in the header or a stream of another length than its shape, and what `replacing`
    raises.
    """
    layout = Layout(kind, header, tensors)
    if not isinstance(path, (str, bytes, os.PathLike)):
        for _ in layout.parts():  # for the checksums, which come first
            pass
        _write(path, memoryview(layout.head()))
        for part in layout.parts():
            _write(path, part)
        return
    with replacing(path) as file:
        file.write(layout.head())  # of the right size; its checksums come last
        for part in layout.parts():
            file.write(part)
        file.seek(0)
        file.write(layout.head())


def _write(file: BinaryIO, data: memoryview) -> None:
    """All of it, to a file that may write less than it is given."""
    while len(data) > 0:
        n = file.write(data)
        if n is not None and not 0 < n <= len(data):
            raise OSError(errno.EIO, f"the file wrote {n} bytes of {len(data)}")
        data = data[n if n is not None else len(data) :]


def to_bytes(kind: str, header: Mapping[str, Any], tensors: Tensors) -> bytearray:
    """The bytes that `write_tensors` would write, made in place; raises what it raises for its
    arguments."""
    layout = Layout(kind, header, tensors)
    data = bytearray(layout.size)
    view = memoryview(data)
    end = len(layout.head())
    for part in layout.parts():
        view[end : end + len(part)] = part
        end += len(part)
    view[: len(layout.head())] = layout.head()
    return data


class Layout:
    """Where everything goes in a file, which is known beforehand, and its checksums, which are
    known when all parts have been taken (or set, by who writes a tensor in another way)."""

    def __init__(self, kind: str, header: Mapping[str, Any], tensors: Tensors) -> None:
        streams = {}
        for name, tensor in tensors.items():
            dtype = tensor.dtype.newbyteorder("<")
            if dtype not in _NAMES:
                raise TypeError(f"tensors[{name!r}]: expected one of {list(_NAMES)}, got {dtype}")
            if name == "__metadata__":
                raise ValueError("tensors: '__metadata__' is no name for a tensor")
            if not isinstance(tensor, Stream):
                tensor = Stream(dtype, tensor.shape, [tensor])
            streams[name] = replace(tensor, dtype=dtype, shape=tuple(tensor.shape))

        # The widest items first, so that each tensor is aligned to its own items.
        def place(name: str) -> tuple[int, bool, str]:
            return -streams[name].dtype.itemsize, not streams[name].aligned, name

        if aligned := [name for name, stream in streams.items() if stream.aligned]:
            first = min(map(place, aligned))
            before = sum(s.nbytes for name, s in streams.items() if place(name) < first)
            zeros = np.zeros(-before % _ALIGN, np.uint8)
            streams["padding"] = Stream(zeros.dtype, zeros.shape, [zeros], True)
        order = sorted(streams, key=lambda name: (place(name)[:2], name != "padding", name))
        self.streams = {name: streams[name] for name in order}
        self.checksums = dict.fromkeys(order, 0)
        self.directory: dict[str, Any] = {}
        begin = 0
        for name, stream in self.streams.items():
            end = begin + stream.nbytes
            self.directory[name] = {
                "dtype": _NAMES[stream.dtype], "shape": stream.shape, "data_offsets": [begin, end]
            }  # fmt: skip
            begin = end
        self.metadata = {
            "format": f"faiss_qinco.{kind}",
            "version": str(VERSION),
            "header": _dumps(dict(header)),
        }
        self.size = len(self.head()) + begin

    def head(self) -> bytes:
        crc32 = _dumps({name: f"{crc:08x}" for name, crc in self.checksums.items()})
        metadata = {**self.metadata, "crc32": crc32}
        metadata["checksum"] = _crc32(_dumps([metadata, self.directory]).encode())
        head = _dumps({"__metadata__": metadata, **self.directory}).encode()
        head += b" " * (-(8 + len(head)) % _ALIGN)
        if len(head) > _MAX_HEAD:
            raise ValueError(f"header: expected at most {_MAX_HEAD} bytes of JSON, got {len(head)}")
        return len(head).to_bytes(8, "little") + head

    def parts(self) -> Iterator[memoryview]:
        """The bytes of all tensors, in order."""
        for name in self.streams:
            yield from self.parts_of(name)

    def begin(self, name: str) -> int:
        """Where a tensor begins in the file."""
        return len(self.head()) + int(self.directory[name]["data_offsets"][0])

    def parts_of(self, name: str) -> Iterator[memoryview]:
        """The bytes of one tensor."""
        stream = self.streams[name]
        left, self.checksums[name] = stream.nbytes, 0
        for chunk in stream.chunks:
            # In pieces, so that what must be copied to be contiguous is not copied whole.
            for piece in _pieces(np.asarray(chunk), stream.dtype):
                left -= len(piece)
                if left < 0:
                    break
                self.checksums[name] = zlib.crc32(piece, self.checksums[name])
                yield piece
        if left:
            raise ValueError(
                f"tensors[{name!r}]: its chunks are not the {stream.nbytes} bytes of its shape"
            )


def _pieces(array: Array, dtype: np.dtype[Any]) -> Iterator[memoryview]:
    """The array's bytes in C order, as this dtype."""
    if array.ndim == 0 or (array.dtype == dtype and array.flags.c_contiguous):
        yield _bytes_of(np.asarray(array, dtype, order="C"))
        return
    rows = max(1, CHUNK * len(array) // max(1, array.nbytes))
    for i in range(0, len(array), rows):
        yield _bytes_of(np.asarray(array[i : i + rows], dtype, order="C"))


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


@dataclass(frozen=True)
class TensorInfo:
    """What a file says of a tensor."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Reader:
    """Takes tensors out of a file, one at a time.

    Attributes
    ----------
    kind, version, header : of the file. tensors : what there is, TensorInfo by name, in the order
    of the file.
    """

    def __init__(
        self,
        kind: str,
        version: int,
        header: dict[str, Any],
        tensors: dict[str, TensorInfo],
        fetch: Callable[[str, int, int], NDArray[np.uint8]],
        checksums: Mapping[str, Any] | None,
    ) -> None:
        """fetch: name, begin, end -> these bytes of the tensor. checksums: by name; None: there is
        nothing to verify."""
        self.kind, self.version, self.header, self.tensors = kind, version, header, tensors
        self._fetch, self._checksums = fetch, checksums

    def take(
        self,
        name: str,
        dtype: DTypeLike,
        shape: Sequence[int | str | None],
        sizes: dict[str, int] | None = None,
    ) -> Array:
        """The tensor of this name, read once it is known to have this dtype and shape: an array of
        its own from a file, a view (read-only where the buffer is) from a buffer.

        A dimension is a number, None for any, or a symbol such as "M": what `sizes` says it is, or
        else any, and `sizes` then remembers it for the tensors to come.

        Raises FileFormatError, for a wrong checksum too.
        """
        return self.rows(name, dtype, shape, sizes).read()

    def rows(
        self,
        name: str,
        dtype: DTypeLike,
        shape: Sequence[int | str | None],
        sizes: dict[str, int] | None = None,
    ) -> Rows:
        """As `take`, to be read in parts."""
        self._check(name, np.dtype(dtype), shape, {} if sizes is None else sizes)
        return Rows(self, name)

    def view(self, name: str, dtype: DTypeLike, shape: Sequence[int | str | None]) -> Array:
        """As `take`, without looking at the checksum: of a mapped file nothing is read."""
        self._check(name, np.dtype(dtype), shape, {})
        info = self.tensors[name]
        return self._fetch(name, 0, info.nbytes).view(info.dtype).reshape(info.shape)

    def verify(self, progress: bool = False) -> None:
        """Read all of the file and compare the checksums. Raises FileFormatError."""
        total = sum(tensor.nbytes for tensor in self.tensors.values())
        with progress_bar("verifying", total, "B", progress) as bar:
            done = 0
            for name, tensor in self.tensors.items():
                rows, n = Rows(self, name), math.prod(tensor.shape[:1])
                step = max(1, CHUNK * n // max(1, tensor.nbytes))
                for first in range(0, max(n, 1), step):
                    some = min(step, n - first) if tensor.shape else None
                    bar.to(done := done + rows.read(some).nbytes)

    def all(self, prefix: str = "") -> dict[str, Array]:
        """All tensors whose name starts with the prefix, whatever they are, by the rest of it."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        return {name[len(prefix) :]: Rows(self, name).read() for name in names}

    def nested(self, header: dict[str, Any], prefix: str) -> Reader:
        """A reader of those tensors whose name starts with the prefix, by the rest of it, with a
        header of their own."""
        n = len(prefix)
        tensors = {name[n:]: t for name, t in self.tensors.items() if name.startswith(prefix)}
        checksums = self._checksums
        if checksums is not None:
            checksums = {name[n:]: crc for name, crc in checksums.items() if name[:n] == prefix}
        return Reader(
            self.kind, self.version, header, tensors,
            lambda name, begin, end: self._fetch(prefix + name, begin, end), checksums,
        )  # fmt: skip

    def _check(
        self,
        name: str,
        dtype: np.dtype[Any],
        shape: Sequence[int | str | None],
        known: dict[str, int],
    ) -> None:
        if name not in self.tensors:
            raise FileFormatError(f"tensor {name!r} is missing")
        tensor = self.tensors[name]
        want = [known.get(dim) if isinstance(dim, str) else dim for dim in shape]
        if (
            tensor.dtype != dtype
            or len(tensor.shape) != len(want)
            or any(w not in (None, size) for w, size in zip(want, tensor.shape, strict=True))
        ):
            symbols = {d: known[d] for d in shape if isinstance(d, str) and d in known}
            raise FileFormatError(
                f"tensor {name!r}: expected {dtype} {tuple(shape)}"
                f"{f' with {symbols}' if symbols else ''}, got {tensor.dtype} {tensor.shape}"
            )
        for dim, size in zip(shape, tensor.shape, strict=True):
            # A symbol met twice in one shape, such as ("d", "d"), must agree with itself.
            if isinstance(dim, str) and known.setdefault(dim, size) != size:
                raise FileFormatError(
                    f"tensor {name!r}: expected {tuple(shape)}, got {tensor.shape}"
                )


class Rows:
    """A tensor that is read from its first row on. Its checksum is verified with the last."""

    def __init__(self, reader: Reader, name: str) -> None:
        self._reader, self._name, self._info = reader, name, reader.tensors[name]
        self._end = self._crc = 0

    def read(self, n: int | None = None) -> Array:
        """The next n rows, (n, ...); None: the whole tensor. Raises FileFormatError."""
        info, begin, shape = self._info, self._end, self._info.shape
        if n is not None:
            shape = (n, *shape[1:])
        self._end += math.prod(shape) * info.dtype.itemsize
        if self._end > info.nbytes:
            raise FileFormatError(f"tensor {self._name!r}: has no {n} more rows")
        data = self._reader._fetch(self._name, begin, self._end)
        if (checksums := self._reader._checksums) is not None:
            self._crc = zlib.crc32(data.data, self._crc)
            if self._end == info.nbytes and checksums.get(self._name) != f"{self._crc:08x}":
                raise FileFormatError(f"damaged: the checksum of tensor {self._name!r:.80} differs")
        return np.require(data.view(info.dtype).reshape(shape), requirements="A")


@contextmanager
def open_tensors(path: Path | BinaryIO, kind: str | None = None) -> Iterator[Reader]:
    """A container file of this kind (None: of any), open for reading in the block. Or an open
    binary file that can be gone back in, from where it is on to its end.

    The block is as in `reading`: what goes wrong there is an error of this file. Raises
    MissingFileError, or FileFormatError (both RuntimeError) for a file that is truncated, damaged,
    of another kind or of a newer version.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        with reading(str(getattr(path, "name", "<file>"))):
            start = path.tell()
            yield _open_file(path, start, path.seek(0, os.SEEK_END) - start, kind)
        return
    with reading(path):
        check_regular(path)
        with open(path, "rb") as file:
            yield _open_file(file, 0, os.fstat(file.fileno()).st_size, kind)


@contextmanager
def open_mapped(path: Path, kind: str | None = None) -> Iterator[Reader]:
    """As `open_tensors`, with arrays that are views of the file, read-only, which stay mapped while
    there are any. The file must not be changed meanwhile; to be replaced does no harm."""
    with reading(path):
        check_regular(path)
        data = np.memmap(path, np.uint8, "r").view(np.ndarray)
        yield _open(lambda begin, end: data[begin:end], len(data), kind)


@contextmanager
def open_bytes(data: Buffer, kind: str | None = None, name: str = "<bytes>") -> Iterator[Reader]:
    """As `open_tensors`, of what `to_bytes` returned, given as any contiguous buffer; `name` is in
    the path's place."""
    with reading(name):
        buffer = np.frombuffer(data, np.uint8)
        yield _open(lambda begin, end: buffer[begin:end], len(buffer), kind)


def in_memory(kind: str, header: dict[str, Any], tensors: Tensors) -> Reader:
    """A reader of what was never written: for copies."""
    arrays = {name: _array(tensor) for name, tensor in tensors.items()}
    infos = {name: TensorInfo(array.dtype, array.shape) for name, array in arrays.items()}

    def fetch(name: str, begin: int, end: int) -> NDArray[np.uint8]:
        return arrays[name].reshape(-1).view(np.uint8)[begin:end]

    return Reader(kind, VERSION, header, infos, fetch, None)


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """All of a container file: (header, tensors by name). Raises as `open_tensors`."""
    with open_tensors(path, kind) as reader:
        return reader.header, reader.all()


def from_bytes(data: Buffer, kind: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Inverse of `to_bytes`: (header, tensors by name). Raises as `open_bytes`."""
    with open_bytes(data, kind) as reader:
        return reader.header, reader.all()


@dataclass(frozen=True)
class ContainerInfo:
    """What a container file says of itself: kind ("index", "codec", ...), format version, header,
    and tensors by name, in the order of the file."""

    kind: str
    version: int
    header: dict[str, Any]
    tensors: dict[str, TensorInfo]


def describe_container(path: Path) -> ContainerInfo:
    """Read the head of a container file of any kind. Raises as `open_tensors`."""
    with open_tensors(path) as reader:
        return ContainerInfo(reader.kind, reader.version, reader.header, reader.tensors)


def finite(name: str, tensor: Array) -> Array:
    """The tensor, once it is known to have neither NaN nor infinity. Raises FileFormatError."""
    flat = tensor.reshape(-1)
    if not all(np.isfinite(flat[i : i + CHUNK]).all() for i in range(0, len(flat), CHUNK)):
        raise FileFormatError(f"tensor {name!r}: contains NaN or infinity")
    return tensor


def take_number(
    header: Mapping[str, Any], name: str, kind: type[Number], low: Number, high: Number
) -> Number:
    """header[name], once it is known to be an int (or a float) with low <= value <= high.

    An int is taken for a float, never a float or a bool for an int; NaN is never taken.

    Raises FileFormatError.
    """
    value = header.get(name)
    if type(value) not in {int, kind} or not low <= value <= high:  # type: ignore[operator]
        raise FileFormatError(
            f"{name}: expected {kind.__name__} from {low} to {high}, got {value!r:.80}"
        )
    return kind(value)  # type: ignore[arg-type]


def take_value(header: Mapping[str, Any], name: str, kind: type[Kind]) -> Kind:
    """header[name], once it is known to be of this kind. Raises FileFormatError."""
    value = header.get(name)
    if type(value) is not kind:
        raise FileFormatError(f"{name}: expected a {kind.__name__}, got {value!r:.80}")
    return value


def _open_file(file: BinaryIO, start: int, size: int, kind: str | None) -> Reader:
    """The reader of a container of `size` bytes that begins at `start`."""

    def fetch(begin: int, end: int) -> NDArray[np.uint8]:
        data = np.empty(end - begin, np.uint8)
        file.seek(start + begin)
        done = 0
        while done < len(data):  # a file may read less than is asked for
            piece = file.read(min(CHUNK, len(data) - done))  # which is copied
            if not piece:
                raise FileFormatError("truncated while it was read")
            data[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        return data

    return _open(fetch, size, kind)


def _open(fetch: Callable[[int, int], NDArray[np.uint8]], size: int, kind: str | None) -> Reader:
    """The reader of a whole file of `size` bytes, of which fetch(begin, end) gives these."""
    end = 8 + int.from_bytes(fetch(0, min(8, size)).tobytes(), "little")
    if not 8 <= end <= min(size, 8 + _MAX_HEAD):
        raise FileFormatError("truncated, or not a faiss_qinco file")
    directory = _loads(fetch(8, end).tobytes())
    metadata = directory.pop("__metadata__", {})
    prefix, _, found = str(metadata.get("format")).partition(".")
    if prefix != "faiss_qinco" or kind not in (None, found):
        raise FileFormatError(
            f"expected format 'faiss_qinco.{kind or '*'}', got {metadata.get('format')!r:.80}"
        )
    if int(metadata["version"]) > VERSION:
        raise FileFormatError(
            f"written by a newer faiss_qinco (format version {metadata['version']:.20}, this one "
            f"reads up to {VERSION}): upgrade faiss_qinco"
        )
    if metadata.pop("checksum") != _crc32(_dumps([metadata, directory]).encode()):
        raise FileFormatError("damaged: the checksum of the header differs")
    tensors, begins = {}, {}
    expected = 0
    for name, entry in sorted(directory.items(), key=lambda item: item[1]["data_offsets"]):
        tensor = TensorInfo(_DTYPES[entry["dtype"]], tuple(entry["shape"]))
        if len(tensor.shape) > 32 or not all(type(n) is int and n >= 0 for n in tensor.shape):
            raise FileFormatError(f"tensor {name!r:.80}: bad shape")
        begin, stop = entry["data_offsets"]
        if begin != expected or stop - begin != tensor.nbytes:
            raise FileFormatError(f"tensor {name!r:.80}: bad offsets")
        expected = stop
        if end + stop > size:
            raise FileFormatError(f"truncated in tensor {name!r:.80}")
        tensors[name], begins[name] = tensor, end + begin
    if end + expected != size:
        raise FileFormatError(f"damaged: {size - end - expected} bytes too many")
    return Reader(
        found, int(metadata["version"]), _loads(metadata["header"]), tensors,
        lambda name, first, last: fetch(begins[name] + first, begins[name] + last),
        _loads(metadata["crc32"]),
    )  # fmt: skip


def _array(tensor: Array | Stream) -> Array:
    if not isinstance(tensor, Stream):
        return np.asarray(tensor, order="C")
    array = np.empty(tensor.shape, tensor.dtype)
    flat, end = array.reshape(-1), 0
    for chunk in tensor.chunks:
        flat[end : end + chunk.size] = chunk.reshape(-1)
        end += chunk.size
    return array


def _crc32(data: bytes | memoryview) -> str:
    return f"{zlib.crc32(data):08x}"


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _loads(text: str | bytes) -> dict[str, Any]:
    """A JSON object. Raises TypeError for other JSON, ValueError for none, NaN and infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} in JSON")

    value = json.loads(text, parse_constant=refuse)
    if not isinstance(value, dict):
        raise TypeError("expected a JSON object")
    return value
