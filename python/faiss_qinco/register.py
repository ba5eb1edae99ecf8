"""`register`: faiss's own functions and constructors take and give indexes of this package too.

What is put into faiss looks whether it is given an index, a file or a string of ours, and passes
everything else on. An attribute that someone else has replaced since is left in place by
`unregister`, and then passes on all.
"""

from __future__ import annotations

import copy
import ctypes
import os
import re
import stat
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import faiss
import numpy as np

from . import index_file, parameter_space
from .factory import index_factory
from .index import IndexIVFQINCo
from .pre_transform import IndexPreTransform
from .storage.container import container_size, is_container
from .wrappers.base import OURS, inside
from .wrappers.id_map import IndexIDMap, IndexIDMap2
from .wrappers.refine import IndexRefine, IndexRefineFlat
from .wrappers.shards import IndexReplicas, IndexShards

_faiss: Any = faiss  # its annotations lack some
_HEAD = 24  # bytes that tell a container
_lock = threading.RLock()
_active = False
_patches: list[_Patch] = []


def register() -> None:
    """Have faiss's functions work with indexes of this package, until `unregister`:

    `index_factory`, `read_index` (paths, flags, readers), `write_index` (paths, writers),
    `serialize_index`, `deserialize_index`, `clone_index`, `downcast_index`, `extract_index_ivf`,
    `try_extract_index_ivf`, `ParameterSpace`, and the constructors of IndexPreTransform,
    IndexIDMap, IndexIDMap2, IndexRefine, IndexRefineFlat, which give this package's class of that
    name around an index of it. A `faiss.IndexShards` or `faiss.IndexReplicas` becomes this
    package's with the first such index that is added to it (`threaded` is lost of one that was made
    before). `isinstance` says that such an object is of the class whose constructor gave it.

    With everything else they do what they did. Names that were imported before
    (`from faiss import read_index`) stay faiss's. Several calls are as one.
    """
    global _active
    with _lock:
        if not _patches:
            _patches.extend(_all_patches())
        for patch in _patches:
            patch.install()
        _active = True


def unregister() -> None:
    """Undo `register`. What has been made meanwhile stays as it is. (`__new__` of faiss's classes
    cannot be taken back in Python; it passes on all.)"""
    global _active
    with _lock:
        _active = False
        for patch in _patches:
            patch.remove()


class _Patch:
    """One attribute of faiss, or of a class of it."""

    def __init__(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """make: what it was -> what takes its place."""
        self._owner, self._name, self._make = owner, name, make
        self._original: Any = None
        self._ours: Any = None
        self._inherited = isinstance(owner, type) and name not in vars(owner)

    def install(self) -> None:
        current = getattr(self._owner, self._name)
        if self._ours is not None and current is not self._original:
            return  # it is ours, or goes around ours
        self._original, self._ours = current, self._make(current)
        setattr(self._owner, self._name, self._ours)

    def remove(self) -> None:
        if self._ours is not None and getattr(self._owner, self._name) is self._ours:
            if self._inherited:
                delattr(self._owner, self._name)
            else:
                setattr(self._owner, self._name, self._original)
            self._ours = None


def _is_ours(value: Any) -> bool:
    return isinstance(value, OURS)


def _of_index(ours: Callable[..., Any], place: int = 0) -> Callable[[Any], Any]:
    """A patch that calls `ours` where the argument at this place is an index of ours."""

    def make(original: Any) -> Any:
        @wraps(original)
        def dispatch(*args: Any, **kwargs: Any) -> Any:
            index = args[place] if len(args) > place else kwargs.get("index")
            if _active and _is_ours(index):
                return ours(*args, **kwargs)
            return original(*args, **kwargs)

        return dispatch

    return make


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda original: value


# -- functions -------------------------------------------------------------------------------------


def _make_index_factory(original: Any) -> Any:
    @wraps(original)
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        description = args[1] if len(args) > 1 else kwargs.get("description")
        if _active and isinstance(description, str) and re.search("(?i:qinco)", description):
            return index_factory(*args[:3], **{k: v for k, v in kwargs.items() if k in _FACTORY})
        return original(*args, **kwargs)

    return dispatch


_FACTORY = ("d", "description", "metric")  # and not own_invlists


def _make_read_index(original: Any) -> Any:
    @wraps(original)
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        if not _active or not args:
            return original(*args, **kwargs)
        source, *rest = args
        if isinstance(source, (str, bytes, os.PathLike)):
            if _is_our_file(source):
                return index_file.read_index(source, *rest, **kwargs)  # type: ignore[arg-type]
        elif isinstance(source, faiss.IOReader):
            head, source = _looked_at(source)
            if head is not None:
                return _read_on(head, source)
        return original(source, *rest, **kwargs)

    return dispatch


def _is_our_file(path: Any) -> bool:
    """Only a regular file is opened for a look: of a pipe it would take what is looked at."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            return is_container(file.read(_HEAD))
    except (OSError, ValueError):
        return False


def _looked_at(reader: Any) -> tuple[bytes | None, Any]:
    """The bytes that a reader has given where they are the first of a container; else None, and a
    reader that gives them again. Of a faiss index no more is read than faiss reads first."""
    start: Any = reader.rp if isinstance(reader, _faiss.VectorIOReader) else None
    head: bytes = reader.read_bytes(4)
    if len(head) == 4 and head[3] == 0:
        head += reader.read_bytes(_HEAD - 4)
        if is_container(head):
            return head, reader
    if start is not None:
        reader.rp = start
        return None, reader
    if isinstance(reader, _faiss.FileIOReader) and _gone_back(reader, len(head)):
        return None, reader
    left = head

    def read(n: int) -> bytes:
        nonlocal left
        found, left = left[:n], left[n:]
        return found or bytes(reader.read_bytes(n))

    return None, _faiss.PyCallbackIOReader(read)


def _gone_back(reader: Any, n: int) -> bool:
    """Whether a file could be gone back in."""
    library = ctypes.CDLL(None)
    seek = library.fseek
    seek.argtypes, seek.restype = [ctypes.c_void_p, ctypes.c_long, ctypes.c_int], ctypes.c_int
    return bool(seek(int(reader.f), -n, os.SEEK_CUR) == 0)


def _read_on(head: bytes, reader: Any) -> Any:
    """The index whose first bytes a reader has given. A container says its own length; what is
    behind it stays in the reader."""
    data = bytearray(head)

    def until(n: int) -> None:
        while len(data) < n:
            piece = reader.read_bytes(min(n - len(data), 1 << 20))
            if not piece:
                break
            data.extend(piece)

    until(8 + int.from_bytes(head[:8], "little"))
    until(container_size(data))
    return index_file.deserialize_index(data)


def _write_index(index: Any, target: Any, io_flags: int = 0) -> None:
    _no_flags(io_flags)
    if isinstance(target, faiss.IOWriter):
        target = _Writer(target)
    index_file.write_index(index, target)


def _serialize_index(index: Any, io_flags: int = 0) -> np.ndarray:
    _no_flags(io_flags)
    return index_file.serialize_index(index)


def _no_flags(io_flags: int) -> None:
    if io_flags:
        raise ValueError(f"io_flags: expected 0 for an index of faiss_qinco, got {io_flags:#x}")


class _Writer:
    """A faiss.IOWriter as an open file."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def write(self, data: Any) -> int:
        array = np.frombuffer(data, np.uint8)
        return int(self._writer(faiss.swig_ptr(array), 1, len(array)))


def _make_deserialize_index(original: Any) -> Any:
    @wraps(original)
    def dispatch(data: Any, *args: Any, **kwargs: Any) -> Any:
        if _active and isinstance(data, (np.ndarray, bytes, bytearray, memoryview)):
            head = data[:_HEAD]
            if (
                getattr(head, "dtype", None) == np.uint8 or not isinstance(head, np.ndarray)
            ) and is_container(bytes(head)):
                return index_file.deserialize_index(data)
        return original(data, *args, **kwargs)

    return dispatch


def _ivf(index: Any) -> IndexIVFQINCo | None:
    """The IndexIVFQINCo inside."""
    while not isinstance(index, IndexIVFQINCo):
        if isinstance(index, (IndexShards, IndexReplicas)) or not (within := inside(index)):
            return None
        (index,) = within
    return index


def _extract_index_ivf(index: Any) -> IndexIVFQINCo:
    if (found := _ivf(index)) is None:
        raise RuntimeError(f"could not extract an IVF index from {type(index).__name__}")
    return found


# -- classes ---------------------------------------------------------------------------------------


def _make_new(kinds: dict[Any, Any]) -> Callable[[Any], Any]:
    """kinds: our class for each of faiss's."""

    def make(original: Any) -> Any:
        def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
            if _active and cls in kinds and any(map(_is_ours, args)):
                kind = kinds[cls]
                if kind is IndexPreTransform and len(args) == 1:
                    args = ([], *args)
                return kind(*args, **kwargs)  # of another class: faiss's __init__ is not called
            # Not `original`, which object's is: once replaced, that one takes no arguments.
            made = object.__new__(cls)
            if _active and cls in _SEVERAL:
                made.__dict__["_faiss_qinco_args"] = args
            return made

        return staticmethod(new)

    return make


class _New(_Patch):
    """`__new__`, which Python does not let go back to what it was; it passes on all."""

    def install(self) -> None:
        if self._ours is None:
            super().install()

    def remove(self) -> None:
        """Nothing."""


_SEVERAL = {faiss.IndexShards: IndexShards, faiss.IndexReplicas: IndexReplicas}


def _make_add(original: Any) -> Any:
    @wraps(original)
    def dispatch(self: Any, index: Any, *args: Any) -> Any:
        if not _active or not _is_ours(index) or type(self) not in _SEVERAL:
            return original(self, index, *args)
        if self.count():
            raise TypeError(
                f"index: {type(self).__name__} holds faiss's indexes, which cannot be together "
                "with those of faiss_qinco"
            )
        ours, state = _SEVERAL[type(self)], self.__dict__
        made = ours(*state.get("_faiss_qinco_args", (self.d, False)))
        if ours is IndexShards:
            made.successive_ids = bool(self.successive_ids)
        made.addIndex(index)
        # The same object from now on: whoever has it has ours.
        state.clear()
        object.__setattr__(self, "__class__", ours)
        state.update(made.__dict__)
        return None

    return dispatch


def _all_patches() -> list[_Patch]:
    functions: dict[str, Callable[[Any], Any]] = {
        "index_factory": _make_index_factory,
        "read_index": _make_read_index,
        "write_index": _of_index(_write_index),
        "serialize_index": _of_index(_serialize_index),
        "deserialize_index": _make_deserialize_index,
        "clone_index": _of_index(copy.copy),
        "downcast_index": _of_index(lambda index: index),
        "extract_index_ivf": _of_index(_extract_index_ivf),
        "try_extract_index_ivf": _of_index(_ivf),
    }
    found = [_Patch(faiss, name, make) for name, make in functions.items()]
    for name in ("initialize", "set_index_parameter", "set_index_parameters", "explore"):
        ours = _of_index(getattr(parameter_space, name), 1)
        found.append(_Patch(faiss.ParameterSpace, name, ours))
    for one in _SEVERAL:
        names = ["addIndex", "add_shard" if one is faiss.IndexShards else "add_replica"]
        found += [_Patch(one, name, _make_add) for name in names]
    kinds = {
        faiss.IndexPreTransform: IndexPreTransform,
        faiss.IndexIDMap: IndexIDMap, faiss.IndexIDMap2: IndexIDMap2,
        faiss.IndexRefine: IndexRefine, faiss.IndexRefineFlat: IndexRefineFlat,
    }  # fmt: skip
    of_kinds, classes = _make_new(kinds), kinds | _SEVERAL
    found += [_Patch(ours, "_stands_for", _constant(theirs)) for theirs, ours in classes.items()]
    return found + [_New(cls, "__new__", of_kinds) for cls in classes]
