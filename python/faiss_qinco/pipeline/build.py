"""Building: from encoded shards to an index file, never whole in memory.

The shards are gone through once to count, from which it follows where in the file everything will
be; and then once for every so many lists as memory holds, which are filled and written to their
place. A journal beside the file says how far it is: killed anywhere, the same call goes on.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core
from ..index_file import index_state
from ..progress import Bar, progress_bar
from ..storage.container import (
    FileFormatError,
    Layout,
    Path,
    Stream,
    read_tensors,
    take_number,
    write_tensors,
)
from ..threads import get_num_threads
from .encode import shards_of
from .memory import check_memory, resident, total_memory
from .model import fingerprint_of, has_beside, leaf_of
from .shard import Rows, Shard, open_shard, read_shard

_SECTIONS = ("blocks", "ids")
_HEADS = ("sizes", "ids.least", "ids.made", "ids.bits")
_OF_LIST = 256  # bytes that a list takes in memory beside what is in it


def build(
    index: Any,
    shards: Path | Sequence[Path],
    out: Path,
    *,
    memory: int | None = None,
    progress: bool = True,
) -> None:
    """Write the index file of all that has been encoded: what `write_index` writes of the index
    once all rows were added to it, in one `add`.

    Parameters
    ----------
    index : the trained index that the shards were encoded with, with nothing in it. Its settings
        are those of the file.
    shards : a folder of `encode`, or shard files whose rows follow on from one another.
    out : the index file. Meanwhile it is `out`.building, with `out`.journal beside it: as long as
        these are there the same call, after it was killed or the disk was full, goes on where it
        was; with other shards or another index it begins anew. A file that is there is replaced at
        the end.
    memory : bytes that the process may take in all; None: a third of the machine's. With less, the
        shards are gone through more often.
    progress : shows a bar.

    Ids are those of the shards, or the rows' numbers. Raises TypeError and RuntimeError as
    `encode`; ValueError for an index that is not empty, for shards of another model or that do not
    follow on from one another, and where the memory cannot suffice; RuntimeError where shards are
    missing, or while another process builds the same file; FileFormatError for damaged ones;
    OSError where the file cannot be written.
    """
    leaf = leaf_of(index)
    if leaf.ntotal:
        raise ValueError(f"index: expected an empty one, got one of {leaf.ntotal} vectors")
    if isinstance(shards, (str, bytes, os.PathLike)):
        shards = shards_of(shards)
    inputs = _inputs(index, shards)
    memory = total_memory() // 3 if memory is None else memory
    target = os.path.realpath(os.fsdecode(out))
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "expected a file to write, got a folder", target)
    builder = _core.ListBuilder(
        nlist=leaf.nlist, M=leaf.M, nbits=leaf.nbits, beside=has_beside(leaf)
    )
    next_id = _count(builder, inputs, progress)
    nbytes = dict(zip(_SECTIONS, builder.nbytes(), strict=True))
    ranges = _ranges(inputs, nbytes, memory)
    layout, names = _layout(index, inputs, builder, nbytes, next_id)
    of = hashlib.sha256(layout.head() + repr(inputs.checksums).encode()).hexdigest()

    journal = f"{target}.journal"
    with _locked(f"{target}.building", journal) as handle:
        done, checksums = _resumed(journal, of)
        _check_room(handle, target, layout.size)
        os.ftruncate(handle, layout.size)
        todo = [(max(first, done), last) for first, last in ranges if last > done]
        total = inputs.n * len(todo)
        with progress_bar("building", total, "row", progress) as bar:
            for i, (first, last) in enumerate(todo):
                builder.begin(first, last)
                for rows, number in inputs.rows(bar, i * inputs.n):
                    builder.fill(
                        rows.list_no, rows.codes, rows.beside, rows.ids, number, get_num_threads()
                    )
                builder.finish(get_num_threads())
                for name in _SECTIONS:
                    at = layout.place(names[name])[0] + int(nbytes[name][:first].sum())
                    for piece in _exported(builder, name == "ids", last - first):
                        checksums[name] = zlib.crc32(piece.data, checksums[name])
                        at = _write(handle, piece.data, at)
                os.fsync(handle)
                write_tensors(journal, "journal", {"of": of, "lists": last, **checksums}, {})
        for name in layout.streams.keys() - set(names.values()):
            at = layout.place(name)[0]
            for part in layout.part(name):
                at = _write(handle, part, at)
        layout.checksums |= {names[name]: checksums[name] for name in _SECTIONS}
        _write(handle, memoryview(layout.head()), 0)
        os.fsync(handle)
        with suppress(OSError):
            os.chmod(f"{target}.building", os.stat(target).st_mode & 0o777)
        os.replace(f"{target}.building", target)
        with suppress(OSError):
            os.unlink(journal)


@dataclass(frozen=True)
class _Inputs:
    """The shards; the number of their first row, and of all rows; what is in them."""

    shards: list[Shard]
    first: int
    n: int
    has_ids: bool
    checksums: list[Any]

    def rows(self, bar: Bar, done: int) -> Iterator[tuple[Rows, int]]:
        """Of each shard, with the number of the first. bar: shows how many, and `done` before."""
        for shard in self.shards:
            yield read_shard(shard.path)[1], shard.first
            bar.to(done := done + shard.n)


def _inputs(index: Any, files: Sequence[Path]) -> _Inputs:
    leaf, fingerprint = leaf_of(index), fingerprint_of(index)
    shards, checksums, n = [], [], 0
    for file in files:
        with open_shard(file) as (shard, reader):
            shards.append(shard)
            checksums.append([shard.first, shard.n, sorted((reader.checksums or {}).items())])
        name = os.fsdecode(file)
        if shard.fingerprint != fingerprint:
            raise ValueError(
                f"shards: {name} was encoded by another model ({shard.fingerprint}, this one is "
                f"{fingerprint})"
            )
        of_shard = (shard.nlist, shard.code_size, shard.has_beside)
        if of_shard != (of_index := (leaf.nlist, leaf.code_size, has_beside(leaf))):
            raise FileFormatError(
                f"{name}: nlist, code_size, beside: expected {of_index}, got {of_shard}"
            )
        if shard.has_ids != shards[0].has_ids:
            raise ValueError(f"shards: {name} is not like the others, which alone have ids")
        if shard.first != (expected := shards[0].first + n):
            raise ValueError(f"shards: {name} begins at row {shard.first}, expected {expected}")
        n += shard.n
    if not shards:
        return _Inputs([], 0, 0, False, [])
    return _Inputs(shards, shards[0].first, n, shards[0].has_ids, checksums)


def _count(builder: _core.ListBuilder, inputs: _Inputs, progress: bool) -> int:
    """Have the builder count; the next id."""
    n, most = 0, -1
    with progress_bar("counting", inputs.n, "row", progress) as bar:
        for shard in inputs.shards:
            with open_shard(shard.path) as (_, reader):
                list_no = reader.take("list_no", np.uint32, (shard.n,))
                ids = reader.take("ids", np.int64, (shard.n,)) if shard.has_ids else None
            builder.count(list_no, ids, shard.first)
            if ids is not None:
                most = max(most, int(ids.max(initial=-1)))
            bar.to(n := n + shard.n)
    return most + 1 if inputs.has_ids else inputs.first + inputs.n


def _ranges(inputs: _Inputs, nbytes: dict[str, np.ndarray], memory: int) -> list[tuple[int, int]]:
    """The lists in runs that memory holds."""
    blocks, ids = nbytes["blocks"], nbytes["ids"]
    largest = max((shard.n for shard in inputs.shards), default=0)
    of_rows = largest * (30 + (inputs.shards[0].code_size if inputs.shards else 0))
    # Ids wait unsorted, in 4 bytes or 8, and a list whose order changes is there twice.
    wide = inputs.has_ids or inputs.first + inputs.n >= 1 << 32
    code_size = inputs.shards[0].code_size if inputs.shards else 1
    each = blocks + ids + _OF_LIST + blocks // (code_size + 2) * (8 if wide else 4)
    fixed = of_rows + 3 * int(blocks.max()) + (1 << 24)
    check_memory(memory, fixed + int(each.max()), "building")
    left = memory - resident() - fixed
    ranges, first, held = [], 0, 0
    for last, n in enumerate(each.tolist()):
        if held and held + n > left:
            ranges.append((first, last))
            first, held = last, 0
        held += n
    return [*ranges, (first, len(each))]


def _layout(
    index: Any, inputs: _Inputs, builder: _core.ListBuilder, nbytes: dict[str, np.ndarray],
    next_id: int,
) -> tuple[Layout, dict[str, str]]:  # fmt: skip
    """Of the file, and the names in it of the sections, which it does not have."""
    with index_state(index) as (header, tensors):
        of_leaf, prefix = header, ""
        if leaf_of(index) is not index:
            of_leaf, prefix = header["index"], "index."
        of_leaf.update(ntotal=inputs.n, next_id=next_id)
        found: dict[str, Any] = dict(tensors)
    heads = dict(zip(_HEADS, builder.heads(), strict=True))
    found.update({prefix + name: head for name, head in heads.items()})
    names = {name: prefix + name for name in _SECTIONS}
    for name in _SECTIONS:
        shape = (int(nbytes[name].sum()),)
        found[names[name]] = Stream(np.dtype(np.uint8), shape, [], name == "blocks")
    return Layout("index", header, found), names


def _exported(builder: _core.ListBuilder, ids: bool, n_lists: int) -> Iterator[np.ndarray]:
    list_no = part = 0
    while list_no < n_lists:
        piece, list_no, part = builder.export_section(ids, list_no, part)
        yield piece


def _resumed(journal: str, of: str) -> tuple[int, dict[str, int]]:
    """How many lists are done, and the checksums up to there."""
    with suppress(RuntimeError):  # missing, or damaged by who knows what: begin anew
        header = read_tensors(journal, "journal")[0]
        if header.get("of") == of:
            checksums = {name: take_number(header, name, int, 0, 0xFFFFFFFF) for name in _SECTIONS}
            return take_number(header, "lists", int, 0, 1 << 32), checksums
    return 0, dict.fromkeys(_SECTIONS, 0)


@contextmanager
def _locked(name: str, journal: str) -> Iterator[int]:
    """The file of this name, made if it is missing, for this process alone. Where there is no
    journal at the end, there is nothing in it to go on with, and it is deleted."""
    while True:
        handle = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RuntimeError(f"{name}: another process is building it") from error
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(name)):
                    try:
                        yield handle
                    except BaseException:
                        if not os.path.exists(journal):
                            os.unlink(name)
                        raise
                    return
        finally:
            os.close(handle)


def _check_room(handle: int, target: str, size: int) -> None:
    free = shutil.disk_usage(os.path.dirname(target)).free
    if free + os.fstat(handle).st_blocks * 512 < size:
        raise OSError(errno.ENOSPC, f"the index takes {size:,} bytes, there are {free:,}", target)


def _write(handle: int, data: memoryview, at: int) -> int:
    """All of it at that place; the place behind it."""
    data = data.cast("B") if data.nbytes else data
    while len(data):
        n = os.pwrite(handle, data, at)
        data, at = data[n:], at + n
    return at
