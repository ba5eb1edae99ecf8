"""An index as what it consists of: a file (the container of `storage`), bytes, or a copy.

`index_state` says what there is, `index_from_state` makes an index of it; files, bytes, pickle and
copy go through these two. What is read is checked here: a file with right checksums can still hold
anything.
"""

from __future__ import annotations

import copyreg
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO

import faiss
import numpy as np

from .codec.codec import QINCoCodec
from .codec.config import QINCoConfig
from .engine import Engine
from .index import IndexIVFQINCo, IndexQINCo
from .index.views import DirectMap
from .operating_points import from_json, to_json
from .pre_transform import IndexPreTransform
from .quantizer_file import quantizer_of
from .ranking.additive import MOST_WEIGHT
from .ranking.early_exit import KS, Checkpoint
from .storage.container import (
    CHUNK,
    Buffer,
    FileFormatError,
    Path,
    Reader,
    Stream,
    Tensors,
    finite,
    in_memory,
    open_bytes,
    open_mapped,
    open_tensors,
    take_number,
    take_value,
    to_bytes,
    write_tensors,
)
from .transform_file import transform_from_state, transform_state
from .wrappers.base import Wrapper, leaves
from .wrappers.file import WRAPPERS, wrapper_from_state, wrapper_state

_MMAP_IFC = getattr(faiss, "IO_FLAG_MMAP_IFC", 0x200)  # newer than faiss 1.9
_MAPPED = faiss.IO_FLAG_MMAP | _MMAP_IFC
_INT32 = (-(1 << 31), (1 << 31) - 1)
_SIZE = (1 << 64) - 1  # the largest of FAISS's size_t attributes
_FLOAT_MAX = float(np.finfo(np.float64).max)
_OLD_MARGINS = 3  # for 1, 10 and 100 results
_CLUSTERING = {
    "niter": int, "nredo": int, "spherical": bool, "seed": int, "min_points_per_centroid": int,
    "max_points_per_centroid": int, "int_centroids": bool, "frozen_centroids": bool,
}  # fmt: skip


Index = IndexIVFQINCo | IndexQINCo | IndexPreTransform | Wrapper


def write_index(index: Index, path: Path | BinaryIO) -> None:
    """Write an index to a file, atomically: a failed write leaves an old file whole. Or to an open
    binary file, from where it is on; a pipe or socket will do, which takes the time twice.

    The coarse quantizer, nprobe, min_codes, nshort, M_search, ids and direct map are kept; the
    settings of a training still to be done are not. Takes a few MB of memory, and twice that of a
    coarse quantizer that is not flat. Other threads may search meanwhile; what they add waits, and
    is not in the file. What is in it, `storage/README.md` says.

    Raises OSError where the file cannot be written (MissingFileError, also a RuntimeError, where
    its folder is missing), ValueError where the path is no regular file's, TypeError for an index
    of another kind.
    """
    with index_state(index) as (header, tensors):
        write_tensors(path, "index", header, tensors)


def read_index(path: Path | BinaryIO, io_flags: int = 0) -> Any:
    """Read an index written by `write_index`, of this or an earlier version. torch is not imported.

    path : or an open binary file that can be gone back in, from where it is on to its end; not to
        be mapped.

    io_flags : `faiss.IO_FLAG_MMAP` or `faiss.IO_FLAG_MMAP_IFC`: lists are left in the file and read
        when they are searched; opening takes milliseconds whatever the file's size (a direct map
        takes a look at all ids), and processes share what is in memory. The index can be used like
        any other: a list that is added to or removed from is copied first, and the file stays as
        it is. It must not be changed by others meanwhile, but may be replaced or deleted.
        Checksums of the lists are not compared, `verify_index` does that; damaged ones give wrong
        results. `faiss.IO_FLAG_READ_ONLY` changes nothing. A file of before format 1 is read as
        without flags.

    Takes a few MB of memory beside the index. Raises RuntimeError (FileFormatError or
    MissingFileError) for a file that is missing, truncated, damaged, of another kind or of a newer
    version, or whose content is no index; ValueError for other io_flags.
    """
    if io_flags & ~(_MAPPED | faiss.IO_FLAG_READ_ONLY):
        raise ValueError(
            "io_flags: expected IO_FLAG_MMAP, IO_FLAG_MMAP_IFC, IO_FLAG_READ_ONLY or 0, got "
            f"{io_flags:#x}"
        )
    mapped = io_flags & _MMAP_IFC or io_flags & faiss.IO_FLAG_MMAP == faiss.IO_FLAG_MMAP
    if io_flags & _MAPPED and not mapped:
        raise ValueError(f"io_flags: {io_flags:#x} is a part of IO_FLAG_MMAP")
    if not mapped:
        with open_tensors(path, "index") as reader:
            return index_from_state(reader)
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"path: expected one, to map the file, got {type(path)}")
    with open_mapped(path, "index") as reader:
        return index_from_state(reader, mapped=True)


def verify_index(path: Path, progress: bool = False) -> None:
    """Read all of an index file, compare its checksums and look whether it holds what an index
    does, in a few MB of memory. Raises as `read_index`."""
    with open_mapped(path, "index") as reader:
        reader.verify(progress)
        index_from_state(reader, mapped=True, checked=True)


def serialize_index(index: Index) -> np.ndarray:
    """The bytes that `write_index` would write, (n,) uint8, made in place."""
    with index_state(index) as (header, tensors):
        return np.frombuffer(to_bytes("index", header, tensors), np.uint8)


def deserialize_index(data: Buffer) -> Any:
    """Inverse of `serialize_index`, with the errors of `read_index`.

    data : uint8 array, bytes, bytearray or memoryview, read-only ones too; it is not copied.

    Raises TypeError for anything else.
    """
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8:
            raise TypeError(f"data: expected uint8, got {data.dtype}")
        data = np.ascontiguousarray(data)
    elif not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"data: expected bytes or a uint8 array, got {type(data)}")
    with open_bytes(data, "index") as reader:
        return index_from_state(reader)


@contextmanager
def index_state(index: Any) -> Iterator[tuple[dict[str, Any], Tensors]]:
    """What an index consists of, while nothing can change it: a JSON header and tensors; those that
    grow with the vectors are streams. Raises TypeError for an index of another kind."""
    if type(index) not in _TYPES.values():
        raise TypeError(f"index: expected one of {[*_TYPES]}, got {type(index)}")
    if isinstance(index, IndexPreTransform):
        with index_state(index.index) as (inner, parts):
            yield _pre_transform_state(index, inner, parts)
        return
    if isinstance(index, Wrapper):
        with wrapper_state(index, index_state) as state:
            yield state
        return
    engine = index._engine
    with nullcontext() if engine is None else engine.core.reading():
        config = index._config
        header: dict[str, Any] = {
            "type": type(index).__name__,
            **{name: getattr(index, name) for name in ("d", "nlist", "M", "nbits", "nshort")},
            "M_search": index.M_search,
            "exit_margin": _none_for_inf(index.exit_margin),
            "metric": index.metric_type,
            "length_correction": index.length_correction,
            "additive_weight": index.additive_weight,
            "is_trained": index.is_trained,
            "config": config if isinstance(config, str) else config.to_dict(),
            "ntotal": index.ntotal,
            "next_id": 0 if engine is None else engine.next_id,
        }
        tensors: dict[str, np.ndarray | Stream] = {}
        if (weight := index.error_weight) not in (None, 0.0 if index.is_trained else None):
            header["error_weight"] = weight
        if index.operating_points:
            header["operating_points"] = to_json(index.operating_points)
        if isinstance(index, IndexIVFQINCo):
            header["nprobe"] = index.nprobe
            if index.min_codes:
                header["min_codes"] = index.min_codes
            header["cp"] = {
                name: kind(getattr(index.cp, name)) for name, kind in _CLUSTERING.items()
            }
            if (vectors := _flat_vectors(index)) is not None:
                header["quantizer"] = {"metric": index.quantizer.metric_type}
                tensors["centroids"] = vectors
            else:
                tensors["quantizer"] = faiss.serialize_index(index.quantizer)
            header["direct_map"] = not index.direct_map.no()
            # The rest only where it is not the default: bytes are those of before.
            if index.direct_map.type == DirectMap.Hashtable:
                header["direct_map_type"] = index.direct_map.type
            if index.max_codes:
                header["max_codes"] = index.max_codes
        if engine is not None:
            header["codec"], codec = engine.codec.state()
            header["exits"] = [_exit_state(checkpoint) for checkpoint in engine.checkpoints]
            tensors |= {f"codec.{name}": tensor for name, tensor in codec.items()}
            tensors |= {"centroids": engine.centroids, "additive": engine.additive}
            tensors |= {f"tail.{c.n_codes}": c.tail for c in engine.checkpoints}
            tensors |= _entries(engine)
        yield header, tensors


def index_from_state(reader: Reader, mapped: bool = False, checked: bool | None = None) -> Any:
    """Inverse of `index_state`. To be called inside `open_tensors` and its like, which turn errors
    into FileFormatError: raises that, and ValueError or TypeError where the parts do not fit.

    mapped: the lists are views of the reader's arrays. checked: whether to read all of them for
    that; None: unless they are mapped."""
    checked = not mapped if checked is None else checked
    header = reader.header
    kind = header.get("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise FileFormatError(f"unknown index type {kind!r:.80}")
    if kind == "IndexPreTransform":
        return _pre_transform(reader, mapped, checked)
    if kind in WRAPPERS:
        return wrapper_from_state(reader, lambda part: index_from_state(part, mapped, checked))
    d, M = take_number(header, "d", int, 1, 1 << 20), take_number(header, "M", int, 1, 64)
    nlist = take_number(header, "nlist", int, 1, 1 if kind == "IndexQINCo" else 1 << 40)
    nbits = take_number(header, "nbits", int, 4, 8)
    metric = take_number(header, "metric", int, 0, 1)  # FAISS's numbers
    config = header["config"]
    if not isinstance(config, str):
        config = QINCoConfig.from_dict(config)
    trained = take_value(header, "is_trained", bool)
    index: Any
    if kind == "IndexQINCo":
        index = IndexQINCo(d, M, nbits, metric, config)
    else:
        quantizer = _quantizer(reader, d)
        if trained and (quantizer.ntotal != nlist or not quantizer.is_trained):
            raise FileFormatError(f"quantizer: expected {nlist} centroids, got {quantizer.ntotal}")
        index = IndexIVFQINCo(quantizer, d, nlist, M, nbits, metric, config)
        index.nprobe = take_number(header, "nprobe", int, 0, _SIZE)
        index._direct_map_type = int(
            "direct_map" in header and take_value(header, "direct_map", bool)
        )
        if index._direct_map_type and "direct_map_type" in header:
            index._direct_map_type = take_number(header, "direct_map_type", int, 1, 2)
        if "max_codes" in header:
            index.max_codes = take_number(header, "max_codes", int, 0, _SIZE)
        if "min_codes" in header:
            index.min_codes = take_number(header, "min_codes", int, 0, _SIZE)
        cp = take_value(header, "cp", dict)
        for name in _CLUSTERING.keys() & cp.keys():
            flag = _CLUSTERING[name] is bool
            value = take_value(cp, name, bool) if flag else take_number(cp, name, int, *_INT32)
            setattr(index.cp, name, value)
    if header["nshort"] is not None:
        index.nshort = take_number(header, "nshort", int, 0, _SIZE)
    if header["exit_margin"] is not None:
        index.exit_margin = take_number(header, "exit_margin", float, 0, _FLOAT_MAX)
    else:
        index.exit_margin = math.inf
    # Files of before these have none.
    index.operating_points = from_json(header.get("operating_points"))
    if header.get("M_search") is not None:
        index.M_search = take_number(header, "M_search", int, 1, M)
    index.length_correction = "length_correction" in header and take_value(
        header, "length_correction", bool
    )
    index.additive_weight = 0.0
    if "additive_weight" in header:
        index.additive_weight = take_number(header, "additive_weight", float, 0, MOST_WEIGHT)
    weight: float | None = None
    if "error_weight" in header:
        weight = take_number(header, "error_weight", float, 0, MOST_WEIGHT)
    if trained:  # with the weight that was measured; another training measures again
        index._engine = _engine(reader, index, weight or 0.0, mapped, checked)
        if index._wants_direct_map():
            index._engine.core.make_direct_map()
    else:
        index.error_weight = weight
    return index


def _flat_vectors(index: IndexIVFQINCo) -> np.ndarray | None:
    """What a flat quantizer holds, (n, d) float32, where that makes the same one again."""
    if not index._coarse.is_flat():
        return None
    vectors = np.asarray(index.quantizer.reconstruct_n(0, index.quantizer.ntotal))
    engine = index._engine
    return vectors if engine is None or np.array_equal(vectors, engine.centroids) else None


def _quantizer(reader: Reader, d: int) -> faiss.Index:
    if "quantizer" not in reader.header:
        return quantizer_of(reader.take("quantizer", np.uint8, (None,)))
    metric = take_number(take_value(reader.header, "quantizer", dict), "metric", int, 0, 1)
    flat = faiss.IndexFlatIP(d) if metric == faiss.METRIC_INNER_PRODUCT else faiss.IndexFlatL2(d)
    flat.add(finite("centroids", reader.take("centroids", np.float32, (None, d))))
    return flat


def _engine(reader: Reader, index: Any, error_weight: float, mapped: bool, checked: bool) -> Engine:
    header, d, M, K = reader.header, index.d, index.M, 1 << index.nbits
    # These first: their size in the file justifies what is allocated for nlist.
    sizes = reader.take("sizes", np.int64, (index.nlist,))
    centroids = finite("centroids", reader.take("centroids", np.float32, (index.nlist, d)))
    additive = finite("additive", reader.take("additive", np.float32, (M, K, d)))
    codec_header = header["codec"]
    if isinstance(codec_header, dict):  # of a file from before codecs had a metric: the index's
        codec_header = {"metric": index.metric_type, **codec_header}
    codec = QINCoCodec.from_state(codec_header, reader.all("codec."))
    index._check_codec(codec)
    checkpoints = [_exit(reader, values, M, K, d) for values in take_value(header, "exits", list)]
    engine = Engine(
        codec, centroids, additive, checkpoints, index.metric_type, index.length_correction,
        index.additive_weight, error_weight,
    )  # fmt: skip

    if "codes" not in reader.tensors:
        _restore(reader, engine, sizes, mapped, checked)
        return engine
    # A file of before format 1: codes row by row, wide ids, biases of 4 bytes.
    known: dict[str, int] = {}
    ids = reader.rows("ids", np.int64, ("n",), known)
    codes = reader.rows("codes", np.uint8, ("n", index.code_size), known)
    bias = reader.rows("bias", np.float32, ("n",), known)
    ntotal = take_number(header, "ntotal", int, known["n"], (1 << 62) - 1)

    # A file of before it has none.
    engine.next_id = ntotal
    if "next_id" in header:
        engine.next_id = take_number(header, "next_id", int, 0, 1 << 63)

    def rows(first: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        some = ids.read(n)
        engine.next_id = max(engine.next_id, int(some.max(initial=-1)) + 1)
        return codes.read(n), finite("bias", bias.read(n)), some

    engine.core.import_(sizes, rows, known["n"], ntotal)
    return engine


def _restore(
    reader: Reader, engine: Engine, sizes: np.ndarray, mapped: bool, checked: bool
) -> None:
    """What is stored, as `_entries` gave it."""
    header, n = reader.header, len(sizes)
    least = reader.take("ids.least", np.int64, (n,))
    made = reader.take("ids.made", np.uint32, (n, 3))
    bits = reader.take("ids.bits", np.uint8, (n, 2))
    ntotal = take_number(header, "ntotal", int, 0, (1 << 62) - 1)
    engine.next_id = take_number(header, "next_id", int, 0, 1 << 63)

    def section(name: str) -> Any:
        if mapped:
            return reader.view(name, np.uint8, (None,))
        rows, size = reader.rows(name, np.uint8, (None,)), reader.tensors[name].nbytes
        pieces = (rows.read(min(CHUNK, size - begin)) for begin in range(0, size, CHUNK))
        return size, pieces.__next__

    engine.core.restore(
        sizes, least, made, bits, section("blocks"), section("ids"), ntotal, checked
    )


def _pre_transform_state(
    index: IndexPreTransform, inner: dict[str, Any], parts: Tensors
) -> tuple[dict[str, Any], Tensors]:
    tensors = {f"index.{name}": tensor for name, tensor in parts.items()}
    headers = []
    for i, transform in enumerate(index.chain):
        header, vectors = transform_state(transform)
        headers.append(header)
        tensors |= {f"transforms.{i}.{name}": vector for name, vector in vectors.items()}
    kind = type(index).__name__
    return {"type": kind, "d": index.d, "index": inner, "transforms": headers}, tensors


def _pre_transform(reader: Reader, mapped: bool, checked: bool) -> IndexPreTransform:
    inner = take_value(reader.header, "index", dict)
    index = index_from_state(reader.nested(inner, "index."), mapped, checked)
    transforms = [
        transform_from_state(header, reader.all(f"transforms.{i}."))
        for i, header in enumerate(take_value(reader.header, "transforms", list))
    ]
    return IndexPreTransform(transforms, index)


def _entries(engine: Engine) -> dict[str, np.ndarray | Stream]:
    """The tensors of what is stored, list after list, as it lies in memory."""
    core = engine.core
    sizes, least, made, bits = core.heads()

    class Section:
        def __init__(self, ids: bool) -> None:
            self.ids = ids

        def __iter__(self) -> Iterator[np.ndarray]:
            list_no = part = 0
            while list_no < len(sizes):
                piece, list_no, part = core.export_section(self.ids, list_no, part)
                yield piece

    def stream(ids: bool) -> Stream:
        shape = (core.section_nbytes(ids),)
        return Stream(np.dtype(np.uint8), shape, Section(ids), aligned=not ids)

    return {
        "sizes": sizes, "ids.least": least, "ids.made": made, "ids.bits": bits,
        "blocks": stream(ids=False), "ids": stream(ids=True),
    }  # fmt: skip


# -- parts -----------------------------------------------------------------------------------------


def _exit_state(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "n_codes": checkpoint.n_codes,
        "margins": [_none_for_inf(margin) for margin in checkpoint.margins],
        "range_margin": [_none_for_inf(margin) for margin in checkpoint.range_margin],
    }


def _exit(reader: Reader, values: Mapping[str, Any], M: int, K: int, d: int) -> Checkpoint:
    n_codes = take_number(values, "n_codes", int, 0, M)
    name, rows = f"tail.{n_codes}", M - n_codes if n_codes else 0
    tail = finite(name, reader.take(name, np.float32, (rows, K, d)))
    margins = [_margin(margin) for margin in take_value(values, "margins", list)]
    old = "range_margin" not in values
    if len(margins) != (n_margins := _OLD_MARGINS if old else len(KS)):
        raise FileFormatError(f"margins: expected {n_margins}, got {len(margins)}")
    if old:  # they could be too small: none is better
        return Checkpoint(n_codes, [math.inf] * len(KS), tail)
    low, high = values["range_margin"]
    return Checkpoint(n_codes, margins, tail, (_margin(low), _margin(high)))


def _none_for_inf(value: float) -> float | None:
    """JSON has no infinity."""
    return None if math.isinf(value) else float(value)


def _margin(value: Any) -> float:
    if value is None:
        return math.inf
    return take_number({"margin": value}, "margin", float, 0, _FLOAT_MAX)


# -- copies ----------------------------------------------------------------------------------------


def _reduce(index: Any) -> tuple[Any, ...]:
    """What pickle and copy call: the tensors whole, and what files do not keep."""
    with index_state(index) as (header, tensors):
        arrays = in_memory("index", header, tensors).all()
    settings = [(leaf.training, leaf.rerank_device) for leaf in leaves(index)]
    return _copied, (header, arrays, settings)


def _copied(header: dict[str, Any], arrays: dict[str, np.ndarray], settings: list[Any]) -> Any:
    index = index_from_state(in_memory("index", header, arrays))
    for leaf, (training, device) in zip(leaves(index), settings, strict=True):
        leaf.training, leaf.rerank_device = training, device
    return index


_TYPES: dict[str, type] = {
    kind.__name__: kind for kind in (IndexIVFQINCo, IndexQINCo, IndexPreTransform)
} | WRAPPERS
for _kind in _TYPES.values():
    copyreg.pickle(_kind, _reduce)
