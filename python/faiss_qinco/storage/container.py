"""The one container of model and index files: a safetensors file with checksums.

Any safetensors library reads the tensors. The file's `__metadata__`, strings as the format wants:

    format    "faiss_qinco.<kind>", kind being "model", "index", ...
    version   "1"
    header    a JSON object: what is no tensor
    crc32     a JSON object: tensor name -> CRC-32 of its bytes, 8 hex digits
    checksum  CRC-32 of all the above and of the names, dtypes, shapes and offsets

The layout is written here rather than by the safetensors library because that one orders the
metadata at random (files would not be byte-stable), copies every tensor, and cannot map a file.
The checksums find damage; they do not authenticate. So a reader also validates what it takes out,
with `take` and `take_number`, inside `with reading(path)`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

Path = str | os.PathLike[str]
Array = NDArray[Any]
Number = TypeVar("Number", int, float)

VERSION = 1
_MAX_HEAD = 100_000_000  # the safetensors library refuses a longer one
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


class FileFormatError(RuntimeError):
    """A file is not what it should be: damaged, of another kind, or from a newer version."""


class MissingFileError(FileNotFoundError, RuntimeError):
    """There is no such file, or no such folder to write to. FAISS raises RuntimeError here."""


@contextmanager
def reading(name: Path) -> Iterator[None]:
    """Turn whatever goes wrong in the block into an error that names the file.

    Raises MissingFileError for FileNotFoundError, and FileFormatError for other OSErrors and for
    what bad content causes: ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    RecursionError.
    """
    name = os.fspath(name)
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
        ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError
    ) as error:  # fmt: skip
        raise FileFormatError(f"{name}: bad content ({type(error).__name__}: {error})") from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new binary file that takes the place of `path` once the block has succeeded.

    Whatever interrupts the block, the file at `path` is the whole old one or the whole new one, and
    nothing else is left behind. A symbolic link is followed; the old file's permissions are kept.

    Raises MissingFileError if the folder does not exist, ValueError if `path` is there but is no
    regular file, and OSError for what the file system refuses.
    """
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".faiss_qinco-{secrets.token_hex(8)}.tmp")
    mode = None
    with suppress(FileNotFoundError):
        mode = os.stat(target).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError(f"path: expected a regular file or a new name, got {target!r}")
    if not os.path.isdir(folder):
        raise MissingFileError(errno.ENOENT, "no such folder to write to", folder)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    with suppress(OSError):  # the new file is in place; some file systems cannot sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_tensors(
    path: Path, kind: str, header: Mapping[str, Any], tensors: Mapping[str, Array]
) -> None:
    """Write a container file, all or nothing (see `replacing`); the same content, the same bytes.

    kind: what the file holds, such as "index". header: a JSON object with finite numbers.
    tensors: arrays of any shape, of 8 to 64 bit integers or 16 to 64 bit floats; contiguous
    little-endian ones are not copied.

    Raises TypeError for another dtype or a header that JSON cannot hold, ValueError for NaN or
    infinity in the header, and what `replacing` raises.
    """
    parts = _pack(kind, header, tensors)
    with replacing(path) as file:
        for part in parts:
            file.write(part)


def read_tensors(
    path: Path, kind: str, mmap: bool = False
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read a container file of this kind: (header, tensors by name).

    The tensors are writable views of one buffer of the file's size. With `mmap` they are read-only
    views of the mapped file, and their own checksums are not verified, for that would read it all.

    Raises MissingFileError, or FileFormatError (both RuntimeError) for a file that is truncated,
    damaged, of another kind or of a newer version.
    """
    with reading(path):
        buffer = np.memmap(path, np.uint8, "r") if mmap else np.fromfile(path, np.uint8)
        return _unpack(np.asarray(buffer), kind, verify=not mmap)


def to_bytes(kind: str, header: Mapping[str, Any], tensors: Mapping[str, Array]) -> bytes:
    """The bytes that `write_tensors` would write; raises what it raises for its arguments."""
    return b"".join(_pack(kind, header, tensors))


def from_bytes(
    data: bytes | bytearray | memoryview | Array, kind: str, name: str = "<bytes>"
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read what `to_bytes` returned, given as any contiguous buffer: (header, tensors by name).

    The tensors are views of `data`, read-only where it is. Raises FileFormatError as `read_tensors`
    does, with `name` in the path's place.
    """
    with reading(name):
        return _unpack(np.frombuffer(data, np.uint8), kind, verify=True)


def take(
    tensors: Mapping[str, Array],
    name: str,
    dtype: DTypeLike,
    shape: Sequence[int | str | None],
    sizes: dict[str, int] | None = None,
) -> Array:
    """tensors[name], once it is known to have this dtype and shape.

    A dimension is a number, None for any, or a symbol such as "M": what `sizes` says it is, or else
    any, and `sizes` then remembers it for the tensors to come.

    Raises FileFormatError.
    """
    if name not in tensors:
        raise FileFormatError(f"tensor {name!r} is missing")
    tensor = tensors[name]
    known = {} if sizes is None else sizes
    want = [known.get(dim) if isinstance(dim, str) else dim for dim in shape]
    if (
        tensor.dtype != dtype
        or tensor.ndim != len(want)
        or any(w not in (None, size) for w, size in zip(want, tensor.shape, strict=True))
    ):
        symbols = {d: known[d] for d in shape if isinstance(d, str) and d in known}
        raise FileFormatError(
            f"tensor {name!r}: expected {np.dtype(dtype)} {tuple(shape)}"
            f"{f' with {symbols}' if symbols else ''}, got {tensor.dtype} {tensor.shape}"
        )
    for dim, size in zip(shape, tensor.shape, strict=True):
        # A symbol met twice in one shape, such as ("d", "d"), must agree with itself.
        if isinstance(dim, str) and known.setdefault(dim, size) != size:
            raise FileFormatError(f"tensor {name!r}: expected {tuple(shape)}, got {tensor.shape}")
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


def _pack(kind: str, header: Mapping[str, Any], tensors: Mapping[str, Array]) -> list[Any]:
    """The file's parts in order: the head (bytes), then the bytes of each tensor, uint8 (size,)."""
    arrays = {}
    for name, tensor in tensors.items():
        dtype = tensor.dtype.newbyteorder("<")
        if dtype not in _NAMES:
            raise TypeError(f"tensors[{name!r}]: expected one of {list(_NAMES)}, got {dtype}")
        if name == "__metadata__":
            raise ValueError("tensors: '__metadata__' is no name for a tensor")
        arrays[name] = np.asarray(tensor, dtype, order="C")
    # The widest items first, so that each tensor is aligned to its own items.
    arrays = dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))
    parts: list[Any] = [array.reshape(-1).view(np.uint8) for array in arrays.values()]

    directory: dict[str, Any] = {}
    begin = 0
    for name, array in arrays.items():
        end = begin + array.nbytes
        directory[name] = {
            "dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": [begin, end]
        }  # fmt: skip
        begin = end
    metadata = {
        "format": f"faiss_qinco.{kind}",
        "version": str(VERSION),
        "header": _dumps(dict(header)),
        "crc32": _dumps(
            {name: _crc32(part.data) for name, part in zip(arrays, parts, strict=True)}
        ),
    }
    metadata["checksum"] = _crc32(_dumps([metadata, directory]).encode())
    head = _dumps({"__metadata__": metadata, **directory}).encode()
    head += b" " * (-(8 + len(head)) % _ALIGN)
    if len(head) > _MAX_HEAD:
        raise ValueError(f"header: expected at most {_MAX_HEAD} bytes of JSON, got {len(head)}")
    return [len(head).to_bytes(8, "little") + head, *parts]


def _unpack(
    buffer: NDArray[np.uint8], kind: str, verify: bool
) -> tuple[dict[str, Any], dict[str, Array]]:
    """The inverse of `_pack`, on the bytes of a whole file, (size,). To be called in `reading`."""
    size = int.from_bytes(buffer[:8].tobytes(), "little")
    if buffer.size < 8 or size > min(buffer.size - 8, _MAX_HEAD):
        raise FileFormatError("truncated, or not a faiss_qinco file")
    directory = _loads(buffer[8 : 8 + size].tobytes())
    metadata = directory.pop("__metadata__", {})
    if metadata.get("format") != f"faiss_qinco.{kind}":
        raise FileFormatError(
            f"expected format 'faiss_qinco.{kind}', got {metadata.get('format')!r:.80}"
        )
    if int(metadata["version"]) > VERSION:
        raise FileFormatError(
            f"written by a newer faiss_qinco (format version {metadata['version']:.20}, this one "
            f"reads up to {VERSION}): upgrade faiss_qinco"
        )
    if metadata.pop("checksum") != _crc32(_dumps([metadata, directory]).encode()):
        raise FileFormatError("damaged: the checksum of the header differs")

    data = buffer[8 + size :]
    checksums = _loads(metadata["crc32"])
    tensors = {}
    expected = 0
    for name, entry in sorted(directory.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
        if any(number < 0 for number in shape):
            raise FileFormatError(f"tensor {name!r:.80}: bad shape")
        begin, end = entry["data_offsets"]
        if begin != expected or end - begin != math.prod(shape) * dtype.itemsize:
            raise FileFormatError(f"tensor {name!r:.80}: bad offsets")
        expected = end
        if end > data.size:
            raise FileFormatError(f"truncated in tensor {name!r:.80}")
        part = data[begin:end]
        if verify and checksums[name] != _crc32(part.data):
            raise FileFormatError(f"damaged: the checksum of tensor {name!r:.80} differs")
        tensors[name] = np.require(part.view(dtype).reshape(shape), requirements="A")
    if expected != data.size:
        raise FileFormatError(f"damaged: {data.size - expected} bytes too many")
    return _loads(metadata["header"]), tensors


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
