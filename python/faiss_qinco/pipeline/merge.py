"""Merging: index files of one model to one file, list by list, never whole in memory."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np

from .. import _core
from ..index import IndexIVFQINCo
from ..index_file import read_index, verify_index
from ..progress import Bar
from ..storage.container import Path
from ..threads import get_num_threads
from .build import MEMORY, Built, build_from, head_of
from .model import fingerprint_of, has_beside, leaf_of

_ROWS = 1 << 16  # read at a time


def merge_indexes(
    files: Sequence[Path],
    out: Path,
    *,
    shift_ids: bool = False,
    memory: int = MEMORY,
    progress: bool = True,
) -> Built:
    """Write the index file of all that several index files of one model hold: what `build` makes of
    all their codes at once, byte for byte, however they are grouped and merged.

    Parameters
    ----------
    files : IndexIVFQINCo, or IndexPreTransform around one, each with vectors of its own. Settings
        are those of the first.
    out : as of `build`; killed and called again, the same call goes on. It is none of `files`: who
        merged again after the end would store the others twice.
    shift_ids : ids of each file get those before it added (their ntotal), as in
        `faiss.contrib.ondisk.merge_ondisk`; else they stay, as in `merge_from(other, 0)`. An id may
        be there several times, as in FAISS.
    memory, progress : as of `build`.

    Each file is read whole and its checksums compared before anything is written.

    Raises ValueError for no files, one twice, an out that is one of them, or those of different
    models, and says what differs; TypeError for an index of another kind; FileFormatError for a
    file that is damaged; and as `build`.
    """
    names = [os.path.realpath(os.fsdecode(file)) for file in files]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"files: expected at least one, and each once, got {len(names)}")
    target = os.path.realpath(os.fsdecode(out))
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "expected a file to write, got a folder", target)
    if target in names:
        raise ValueError(f"out: expected another file than those that are merged, got {target!r}")
    template = _open(names[0])
    source = _Indexes(names, fingerprint_of(template), shift_ids)
    template.reset()  # in memory alone
    for name in names:
        verify_index(name, progress)
    return build_from(template, source, target, memory, progress)


def _open(name: str) -> Any:
    index = read_index(name, faiss.IO_FLAG_MMAP)
    if not isinstance(leaf_of(index), IndexIVFQINCo):
        raise TypeError(f"{name}: expected an index with lists, got {type(index)}")
    return index


class _Indexes:
    """A `Source` of index files, mapped one at a time."""

    def __init__(self, names: list[str], fingerprint: str, shift_ids: bool) -> None:
        self.names = names
        self.n_rows = self.ntotal = self.mapped_nbytes = 0
        self.add_ids = []
        digest = hashlib.sha256(fingerprint.encode())
        for name in names:
            index = _open(name)
            if (found := fingerprint_of(index)) != fingerprint:
                why = (
                    leaf_of(_open(names[0]))
                    ._check_trained()
                    .difference(leaf_of(index)._check_trained())
                )
                raise ValueError(
                    f"files: {name} is of another model than {names[0]}; they differ in "
                    f"{why or 'what is in front of them'} ({found}, {fingerprint})"
                )
            engine = leaf_of(index)._check_trained()
            self.add_ids.append(self.ntotal if shift_ids else 0)
            self.n_rows += engine.core.n_stored
            self.ntotal += index.ntotal
            digest.update(head_of(name) + str(self.add_ids[-1]).encode())
        self.digest = digest.hexdigest()[:32]

    def count(self, builder: _core.ListBuilder, bar: Bar) -> int:
        next_id, done = 0, 0
        for name, add_id in zip(self.names, self.add_ids, strict=True):
            engine = leaf_of(_open(name))._check_trained()
            sizes = engine.core.sizes()
            for first, list_no in _rows(sizes, 0, len(sizes)):
                ids = engine.core.export_ids(first, len(list_no)) + add_id
                builder.count(list_no, ids, 0)
                bar.to(done := done + len(list_no))
            next_id = max(next_id, engine.next_id + add_id)
        return next_id

    def add(self, builder: _core.ListBuilder, begin: int, end: int, bar: Bar, done: int) -> None:
        for name, add_id in zip(self.names, self.add_ids, strict=True):
            leaf = leaf_of(_open(name))
            core, beside = leaf._check_trained().core, has_beside(leaf)
            for first, list_no in _rows(core.sizes(), begin, end):
                n = len(list_no)
                builder.add(
                    list_no, core.export_codes(first, n),
                    core.export_beside(first, n) if beside else None,
                    core.export_ids(first, n) + add_id, 0, get_num_threads(),
                )  # fmt: skip
            bar.to(done := done + core.n_stored)


def _rows(sizes: np.ndarray, begin: int, end: int) -> Iterator[tuple[int, np.ndarray]]:
    """The entries of the lists begin .. end - 1, some at a time: number of the first of them, list
    after list, and their lists (m,) uint32."""
    ends = np.cumsum(sizes)
    first, last = int(ends[begin] - sizes[begin]), int(ends[end - 1])
    for at in range(first, last, _ROWS):
        numbers = np.arange(at, min(at + _ROWS, last))
        yield at, np.searchsorted(ends, numbers, side="right").astype(np.uint32)
