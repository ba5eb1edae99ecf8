"""A file that `torch.save` wrote, read without torch, and without running what is in it.

Such a file is a zip archive of numbers and of a pickle, a program that can call whatever there is.
Here its opcodes are gone through one by one: those alone that torch writes for models. Nothing is
imported, looked up or called: names, of which a few are known, stay names; modules become `Object`,
and tensors stay in the file until `Archive.array` reads them. Everything else is an error, and so
is what would take more memory than the file's size justifies.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from ..storage.container import FileFormatError, Path, check_regular, reading

MOST_PICKLE = 1 << 22  # bytes, each of which may become an object
_MOST_DIMENSIONS = 8
_MODULES = {f"model_qinco {name}" for name in ("QINCo", "QINCoLR", "IVFQINCo", "PQ_QINCo")} | {
    "model_qinco QINCoStep",
    "torch.nn.modules.activation ReLU",
    "torch.nn.modules.container ModuleList",
    "torch.nn.modules.container Sequential",
    "torch.nn.modules.linear Linear",
    "torch.nn.modules.sparse Embedding",
}
# Of what is no float there are only the types: optimizers have some.
_STORAGES = {
    "torch FloatStorage": "<f4", "torch DoubleStorage": "<f8", "torch HalfStorage": "<f2",
    "torch BFloat16Storage": "<u2", "torch LongStorage": None, "torch IntStorage": None,
    "torch ByteStorage": None, "torch BoolStorage": None,
}  # fmt: skip
_TENSOR, _PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
_DICT, _SETS = "collections OrderedDict", {"__builtin__ set", "builtins set"}
_NAMES = {*_MODULES, *_STORAGES, *_SETS, _TENSOR, _PARAMETER, _DICT}


@dataclass(frozen=True)
class Name:
    """What would have been imported: "module name"."""

    text: str


@dataclass
class Object:
    """A module of torch.nn or `model_qinco`. kind: its class's name; state: its attributes."""

    kind: str
    state: dict[Any, Any] | None = None


@dataclass(frozen=True)
class Storage:
    """Numbers in the archive: their type, the file's name, and how many there are to be."""

    kind: str
    key: str
    size: int


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in a storage: offset, shape and strides in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Archive:
    """An open archive. root: what was saved, of None, bool, int, float, str, tuple, list, dict,
    `Name`, `Object`, `Storage` and `Tensor`. What is in it may refer to itself."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._zip, self._left = zipfile.ZipFile(file), size
        found = [name for name in self._zip.namelist() if name.endswith("/data.pkl")]
        if len(found) != 1:
            raise FileFormatError("a zip archive, but not one of torch.save")
        self._prefix = found[0].removesuffix("data.pkl")
        if f"{self._prefix}byteorder" in self._zip.namelist():
            order = self._read("byteorder", 16)
            if order != b"little":
                raise FileFormatError("expected little-endian numbers")
        self.root = unpickled(self._read("data.pkl", MOST_PICKLE))

    def _read(self, name: str, most: int) -> bytes:
        """One file of the archive. All that is ever read is no more than the archive's size."""
        try:
            info = self._zip.getinfo(self._prefix + name)
        except KeyError as error:
            raise FileFormatError(f"{name} is missing") from error
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise FileFormatError(f"{name} is compressed or encrypted, which torch does not do")
        if info.file_size > most:
            raise FileFormatError(f"{name}: expected at most {most} bytes, got {info.file_size}")
        self._left -= info.file_size
        if self._left < 0:
            raise FileFormatError("its parts take more than the file has")
        return self._zip.read(info)

    def array(self, name: str, tensor: Any) -> np.ndarray:
        """A tensor of floats as float32; `name` is for errors. Each storage can be read as often as
        the archive's size allows: once, that is, where it is most of the file.

        Raises FileFormatError for what is no such tensor, or is not in the file as it says.
        """
        if not isinstance(tensor, Tensor):
            raise FileFormatError(f"{name}: expected a tensor")
        storage = tensor.storage
        dtype = _STORAGES[storage.kind]
        if dtype is None:
            raise FileFormatError(f"{name}: expected floats, got {storage.kind}")
        n_bytes = storage.size * np.dtype(dtype).itemsize
        data = self._read(f"data/{storage.key}", n_bytes)
        if len(data) != n_bytes:
            raise FileFormatError(f"{name}: expected {n_bytes} bytes, got {len(data)}")
        flat = np.frombuffer(data, dtype)
        if dtype == "<u2":  # the upper half of a float32
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        strides = [stride * flat.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
        with np.errstate(over="ignore"):  # of float64: infinite then
            return np.array(view, np.float32, order="C")


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip archive does. Raises as `open_archive`."""
    with reading(path):
        check_regular(path)
        with open(path, "rb") as file:
            return file.read(4) == b"PK\3\4"


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """A file of `torch.save`, open in the block. What goes wrong there is a FileFormatError, or a
    MissingFileError (both RuntimeError), that names the file."""
    with reading(path):
        check_regular(path)
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            try:
                yield Archive(file, size)
            except (zipfile.BadZipFile, EOFError, struct.error, NotImplementedError) as error:
                raise FileFormatError(f"damaged: {error}") from error


def unpickled(data: bytes) -> Any:
    """What a pickle of torch.save stands for; see `Archive`. Raises FileFormatError."""
    try:
        return _Machine().run(data)
    except FileFormatError:
        raise
    except (
        ValueError, LookupError, TypeError, AttributeError, OverflowError,
        DeprecationWarning,  # of escapes in names, where warnings are errors
    ) as error:  # fmt: skip
        raise FileFormatError("its pickle is damaged") from error


class _Machine:
    """A pickle's stack and memory."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below the marks
        self.memory: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        argument: Any
        for opcode, argument, _ in pickletools.genops(data):
            name, stack = opcode.name, self.stack
            if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                stack.append(argument)
            elif name in _EMPTY:
                stack.append(_EMPTY[name]())
            elif name in ("BINPUT", "LONG_BINPUT"):
                self.memory[argument] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(self.memory[argument])
            elif name == "MARK":
                self.outer.append(stack)
                self.stack = []
            elif name in _SIZES:
                values = tuple(stack.pop() for _ in range(_SIZES[name]))
                stack.append(values[::-1])
            elif name == "TUPLE":
                values = tuple(self.marked())
                self.stack.append(values)
            elif name == "APPEND":
                value = stack.pop()
                _as(list, stack[-1]).append(value)
            elif name == "APPENDS":
                items = self.marked()
                _as(list, self.stack[-1]).extend(items)
            elif name == "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set(stack[-1], key, value)
            elif name == "SETITEMS":
                items = self.marked()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _set(self.stack[-1], key, value)
            elif name == "GLOBAL":
                if argument not in _NAMES:
                    text = argument.replace(" ", ".")
                    raise FileFormatError(f"it asks for {text[:80]!r}, which no model needs")
                stack.append(Name(argument))
            elif name == "NEWOBJ":
                values, made = stack.pop(), stack.pop()
                stack.append(_new(made, values))
            elif name == "REDUCE":
                values, made = stack.pop(), stack.pop()
                stack.append(_called(made, values))
            elif name == "BUILD":
                state = stack.pop()
                _build(stack[-1], state)
            elif name == "BINPERSID":
                stack.append(_storage(stack.pop()))
            elif name == "STOP":
                if len(stack) != 1 or self.outer:
                    break
                return stack[0]
            elif name != "PROTO":
                raise FileFormatError(f"its pickle has a {name}, which torch.save does not write")
        raise FileFormatError("its pickle is damaged")

    def marked(self) -> list[Any]:
        """What is above the last mark, which goes."""
        items = self.stack
        self.stack = self.outer.pop()
        return items


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
_EMPTY: dict[str, Any] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _as(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected a {kind.__name__}")
    return value


def _set(target: Any, key: Any, value: Any) -> None:
    if type(key) not in (str, int):  # hashing tuples of tuples can take for ever
        raise TypeError("expected a str or int as key")
    _as(dict, target)[key] = value


def _new(made: Any, values: Any) -> Object:
    if not isinstance(made, Name) or made.text not in _MODULES or values != ():
        raise FileFormatError("its pickle makes what is no module")
    return Object(made.text.rpartition(" ")[2].rpartition(".")[2])


def _called(made: Any, values: Any) -> Any:
    """What a function that torch.save names would have returned."""
    if isinstance(made, Name) and type(values) is tuple:
        if made.text == _DICT and not values:
            return {}
        if made.text in _SETS and len(values) == 1:
            return ()  # nobody asks for what is in it
        if made.text == _PARAMETER and values and isinstance(values[0], Tensor):
            return values[0]
        if made.text == _TENSOR and len(values) in (6, 7):
            return _tensor(*values[:4])
    raise FileFormatError("its pickle calls what makes no tensor")


def _build(target: Any, state: Any) -> None:
    if type(target) is dict:  # of a state dict: the versions of its modules
        return
    if not isinstance(target, Object) or target.state is not None or type(state) is not dict:
        raise FileFormatError("its pickle gives attributes to what has none")
    target.state = state


def _storage(values: Any) -> Storage:
    if type(values) is tuple and len(values) == 5:
        what, kind, key, _, size = values
        if (
            type(what) is str
            and what == "storage"
            and isinstance(kind, Name)
            and kind.text in _STORAGES
            and type(key) is str
            and key.isalnum()
            and _sizes((size,))
        ):
            return Storage(kind.text, key, size)
    raise FileFormatError("its pickle refers to what is no storage")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    right = (
        isinstance(storage, Storage)
        and _sizes((offset,))
        and _sizes(shape)
        and _sizes(strides)
        and len(shape) == len(strides) <= _MOST_DIMENSIONS
    )
    if right:
        count = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        # Not more numbers than there are: a stride of 0 would make any number of one.
        right = count <= storage.size and (count == 0 or last < storage.size)
    if not right:
        raise FileFormatError("a tensor does not lie in its storage")
    return Tensor(storage, offset, shape, strides)


def _sizes(values: Any) -> bool:
    return type(values) is tuple and all(type(n) is int and 0 <= n < 1 << 48 for n in values)
