"""A manifest of segments: which index files are one index, each with vectors of its own, all of one
model.

A container file (`storage`) of the kind "segments", without tensors. Header: `fingerprint`, of the
model; `segments`, of each its `file`, as seen from the manifest's folder, and `ntotal`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path as FilePath
from typing import Any

import faiss

from ..index import IndexIVFQINCo
from ..index_file import read_index
from ..storage.container import FileFormatError, Path, open_tensors, take_value, write_tensors
from .model import fingerprint_of, leaf_of

MANIFEST = "segments.fqm"


def commit(folder: Path, files: Iterable[Path]) -> FilePath:
    """Say that these files are the segments of the index in this folder: whoever opens it from now
    on gets them, and before what was committed before. To append, `[*segments_of(folder), *more]`.

    Returns the manifest's name. Raises TypeError for an index without lists, ValueError for a file
    twice, for none, or for segments of different models; as `read_index`; OSError where the
    manifest cannot be written.
    """
    manifest = FilePath(os.path.abspath(os.fsdecode(folder))) / MANIFEST
    names = [os.path.realpath(os.fsdecode(file)) for file in files]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"files: expected some that differ, got {len(names)}")
    fingerprint, segments = None, []
    for name in names:
        index = open_segment(name)
        found = fingerprint_of(index)
        if found != (fingerprint := fingerprint or found):
            raise ValueError(f"files: {name} is of another model than {names[0]}")
        file = os.path.relpath(name, os.path.realpath(manifest.parent))
        segments.append({"file": file, "ntotal": leaf_of(index).ntotal})
    write_tensors(manifest, "segments", {"fingerprint": fingerprint, "segments": segments}, {})
    return manifest


def segments_of(folder: Path) -> list[FilePath]:
    """The files that are committed in this folder. Raises as `read_manifest`."""
    return [file for file, _ in read_manifest(folder)[1]]


def read_manifest(folder: Path) -> tuple[str, list[tuple[FilePath, int]]]:
    """The model's fingerprint, and of each segment its file and ntotal. Raises MissingFileError and
    FileFormatError (both RuntimeError)."""
    folder = FilePath(os.path.abspath(os.fsdecode(folder)))
    with open_tensors(folder / MANIFEST, "segments") as reader:
        found = []
        for segment in take_value(reader.header, "segments", list):
            if not isinstance(segment, dict):
                raise FileFormatError(f"segments: expected objects, got {segment!r:.80}")
            file = folder / take_value(segment, "file", str)
            found.append((file, take_value(segment, "ntotal", int)))
        return take_value(reader.header, "fingerprint", str), found


def open_segment(file: Path, fingerprint: str | None = None, ntotal: int | None = None) -> Any:
    """The index of a segment, mapped. Raises as `read_index`, TypeError for one without lists,
    RuntimeError where it is not as the manifest says."""
    index = read_index(file, faiss.IO_FLAG_MMAP)
    leaf = leaf_of(index)
    if not isinstance(leaf, IndexIVFQINCo):
        raise TypeError(f"{os.fspath(file)!r}: expected an index with lists, got {type(leaf)}")
    if fingerprint is not None and fingerprint_of(index) != fingerprint:
        raise RuntimeError(f"{os.fspath(file)!r}: it is of another model than its manifest")
    if ntotal is not None and leaf.ntotal != ntotal:
        raise RuntimeError(
            f"{os.fspath(file)!r}: expected {ntotal} vectors as in its manifest, got {leaf.ntotal}"
        )
    return index
