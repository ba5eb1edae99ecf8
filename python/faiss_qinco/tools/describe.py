"""What a file holds, from its head: vectors, one of our indexes or codecs, a published model, a
faiss index."""

from __future__ import annotations

import os
import re
from typing import Any

import faiss

from ..codec.codec import QINCoCodec
from ..storage.container import FileFormatError, describe_container, reading
from ..storage.vectors import describe_vectors

# Of the tensors of an index, what they are parts of; all others belong to the codec.
_PARTS = {
    "sizes": "lists", "blocks": "codes", "codes": "codes", "bias": "bias", "ids": "ids",
    "quantizer": "quantizer", "padding": "lists",
    "centroids": "centroids", "additive": "tables", "tail": "tables", "transforms": "transforms",
    "id_map": "ids", "refine": "refine",
}  # fmt: skip
_INSIDE = re.compile(r"(index\.|indexes\.\d+\.)*")  # of an index around others
_HEADER = (
    "d", "transforms", "ntotal", "nlist", "M", "nbits", "config", "is_trained", "nprobe", "nshort",
    "min_codes", "M_search", "error_weight",
)  # fmt: skip


def describe(path: str) -> dict[str, Any]:
    """What a file is and holds, as JSON would have it, without reading its data.

    "kind" is "index", "codec", "published codec" (which is read whole), "faiss index" or that of
    `VectorFile`. The others follow the kind: n, d, dtype; what an index or codec was made with,
    whether it is trained, and "parts", the bytes by what holds them (of a published PQ-QINCo, how
    many codecs it is); the class of a faiss index (of which faiss reads what it cannot map).
    "bytes" is the file's size, a dataset's in HDF5.

    Raises MissingFileError and FileFormatError (both RuntimeError), ValueError for a file of none
    of these kinds, and ImportError where h5py is needed and missing.
    """
    head = b""
    if os.path.exists(path):  # not file.hdf5:dataset
        with reading(path), open(path, "rb") as opened:
            head = opened.read(200)
    if b'"__metadata__"' in head:
        found = _container(path)
    elif head[:4] == b"PK\3\4":
        codec = QINCoCodec.load(path)
        found = {"kind": "published codec", "d": codec.d, "M": codec.M}
        header = codec.state()[0]
        found |= {name: header[name] for name in _HEADER if name in header}
        found |= {"parts": len(header["parts"])} if "parts" in header else {}
        found["bytes"] = os.path.getsize(path)
    elif head[:1] == b"I" and head[:4].isalnum():
        found = _faiss(path)
    else:
        try:
            file = describe_vectors(path)
        except FileFormatError as error:
            raise FileFormatError(f"{error}; nor is it an index or a codec") from error
        found = {
            "kind": file.kind, "n": file.n, "d": file.d, "dtype": str(file.dtype),
            "bytes": file.nbytes,
        }  # fmt: skip
    return {"file": path, **found}


def _container(path: str) -> dict[str, Any]:
    info = describe_container(path)
    parts: dict[str, int] = {}
    for name, tensor in info.tensors.items():
        part = _PARTS.get(_INSIDE.sub("", name, count=1).split(".")[0], "codec")
        parts[part] = parts.get(part, 0) + tensor.nbytes
    found: dict[str, Any] = {"kind": info.kind}
    header = info.header
    if info.kind == "index":
        with reading(path):
            header = _flattened(header)
    if info.kind == "index":
        metric = "L2" if header.get("metric") == faiss.METRIC_L2 else "inner product"
        found |= {"class": header.get("type"), "metric": metric}
    found |= {name: header[name] for name in _HEADER if name in header}
    return found | {"parts": parts, "bytes": os.path.getsize(path)}


def _flattened(header: dict[str, Any]) -> dict[str, Any]:
    """The header of an index with what those inside say, where it says nothing itself; of several,
    the first, with the vectors of all shards."""
    found = dict(header)
    if (transforms := header.get("transforms")) is not None:
        names = [f"{t['kind']} {t['d_in']}->{t['d_out']}" for t in transforms]
        found["transforms"] = ", ".join(names)
    if isinstance(header.get("index"), dict):
        return _flattened(header["index"]) | found
    if parts := header.get("indexes"):
        inner = [_flattened(part) for part in parts]
        if header.get("type") == "IndexShards":
            found["ntotal"] = sum(part["ntotal"] for part in inner)
        return inner[0] | found
    return found


def _faiss(file: str) -> dict[str, Any]:
    # IO_FLAG_MMAP_IFC, which maps more than inverted lists, is newer than faiss 1.9.
    flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
    flags = getattr(faiss, "IO_FLAG_MMAP_IFC", flags)
    try:
        index = faiss.read_index(file, flags)
    except RuntimeError as error:
        raise FileFormatError(f"{file}: faiss cannot read it: {error}") from error
    names = ("d", "ntotal", "nlist", "is_trained")
    found: dict[str, Any] = {"kind": "faiss index", "class": type(index).__name__}
    found["metric"] = "L2" if index.metric_type == faiss.METRIC_L2 else "inner product"
    found |= {name: getattr(index, name) for name in names if hasattr(index, name)}
    return found | {"bytes": os.path.getsize(file)}
