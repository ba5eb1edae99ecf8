"""Building: from a trained index and encoded shards to an index file, in bounded memory.

The shards are gone through once to count: what each list holds, and between which ids, says where
everything lies in the file. Then once for each range of lists that fits in memory, which is sorted
by ids and written at its place. A journal beside the file says how far that has come, so that who
is killed goes on with the range that was under way.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .. import _core
from ..checks import INT64, integer
from ..index import IndexIVFQINCo
from ..index_file import index_state, read_index
from ..pre_transform import IndexPreTransform
from ..progress import Bar, progress_bar
from ..storage.container import (
    NO_FSYNC,
    FileFormatError,
    Layout,
    MissingFileError,
    Path,
    Stream,
    open_mapped,
    open_tensors,
    take_number,
    take_value,
    write_tensors,
)
from ..threads import get_num_threads
from .encode import shards_of
from .memory import resident
from .model import fingerprint_of, has_beside, leaf_of
from .shard import KIND, Shard, open_shard

MEMORY = 4 << 30
PARTIAL, JOURNAL = ".partial", ".journal"  # what is beside the file while it is made
_ROWS = 1 << 16  # counted at a time
_WRITTEN = 32 << 20  # bytes written at a time, where lists are not longer
_SPARE = 16 << 20  # of the memory, for what is not reckoned with
_OF_LIST = 64  # and of each list: what is in the journal, and where its vectors go
_NO_FALLOCATE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Built:
    """What was built: vectors stored, ntotal, and the bytes of the file that are theirs."""

    n_stored: int
    ntotal: int
    nbytes: int


def build(
    index: Any,
    shards: Path | Sequence[Path],
    out: Path,
    *,
    memory: int = MEMORY,
    first: int = 0,
    progress: bool = True,
) -> Built:
    """Make an index file of encoded shards, as `write_index` would write the index with all of
    their codes added; never whole in memory. Killed anywhere and called again, it goes on, and only
    the range of lists that was under way is done again. Each list is sorted by ids, equal ones in
    the order of the rows: the file is the same, bit for bit, whatever the memory, the shards that
    the rows are split into, and however often it was killed.

    Parameters
    ----------
    index : trained and empty, or its file: IndexIVFQINCo, IndexQINCo, or IndexPreTransform around
        one. It stays as it is.
    shards : the folder that `encode` has filled, or shard files in any order. Their rows have to be
        numbered from `first` without gaps.
    out : the index file to write. While it is made there are `out`.partial, as large as it will be,
        and `out`.journal. Those of an earlier call that was about other shards or another model are
        begun anew, with a warning.
    memory : bytes that the process may take in all, 4 GiB by default; there is one more pass over
        the shards for each time that all vectors, `code_size` + 10 bytes each, are larger.
    first : number of the first row, 0 by default: a segment's of an index with lists may be others.
    progress : shows bars.

    Raises TypeError for another kind of index, RuntimeError if it is not trained or where shards
    are still to be encoded; ValueError for an index that holds vectors, shards of another model or
    with gaps, and a memory too small for the longest list; FileFormatError for damaged shards;
    BlockingIOError while another process builds the same file; OSError for a full disk: called
    again when there is room, it goes on.
    """
    memory = integer("memory", memory, 1, INT64[1])
    if isinstance(index, (str, bytes, os.PathLike)):
        index = read_index(os.fsdecode(index))
    leaf = leaf_of(index)
    if leaf.ntotal:
        raise ValueError(f"index: expected an empty one, got ntotal {leaf.ntotal}")
    if first and not isinstance(leaf, IndexIVFQINCo):
        raise ValueError(f"first: expected 0, an index without lists has no other, got {first}")
    if isinstance(shards, (str, bytes, os.PathLike)):
        shards = shards_of(shards)
    target = os.path.realpath(os.fsdecode(out))
    if not os.path.isdir(folder := os.path.dirname(target)):
        raise MissingFileError(errno.ENOENT, "no such folder to write to", folder)
    if os.path.exists(target) and not os.path.isfile(target):
        raise ValueError(f"out: expected a regular file or a new name, got {target!r}")
    shards = list(shards)
    if any(os.path.realpath(os.fsdecode(shard)) == target for shard in shards):
        raise ValueError(f"out: expected another file than a shard, got {target!r}")
    source = _Shards(*_check_shards(index, leaf, shards, first))
    return build_from(index, source, target, memory, progress)


class Source(Protocol):
    """What an index file is built of, gone through several times.

    Attributes
    ----------
    n_rows : that are gone through each time. ntotal : of the index, in the end.
    digest : what tells them and the model from others.
    mapped_nbytes : of files that are mapped at a time, at most.
    """

    n_rows: int
    ntotal: int
    digest: str
    mapped_nbytes: int

    def count(self, builder: _core.ListBuilder, bar: Bar) -> int:
        """Have the builder count all rows, and see that the files are whole; the next id."""

    def add(self, builder: _core.ListBuilder, begin: int, end: int, bar: Bar, done: int) -> None:
        """Give it those of the lists begin .. end - 1. bar: shows the rows that were gone through,
        and `done` before."""


def build_from(index: Any, source: Source, target: str, memory: int, progress: bool) -> Built:
    """`build`, of any source; index: trained and empty; target: an absolute path."""
    memory = integer("memory", memory, 1, INT64[1])
    with _locked(target + PARTIAL) as handle:
        work = _Build(index, leaf_of(index), source, target, handle)
        if not work.resume():
            work.count(progress)
        work.lay_out()
        if not work.is_in_place():
            work.fill(memory, progress)
            work.finish()
        os.unlink(work.journal)
    sizes = {name: int(ends[-1]) for name, ends in work.ends.items()}
    return Built(sizes["vectors"], source.ntotal, sizes["blocks"] + sizes["ids"])


class _Shards:
    """A `Source`: encoded shards."""

    def __init__(self, shards: list[Shard], digest: str) -> None:
        self.shards, self.digest = shards, digest
        self.n_rows = self.ntotal = sum(shard.n for shard in shards)
        self.mapped_nbytes = max((os.path.getsize(shard.path) for shard in shards), default=0)

    def count(self, builder: _core.ListBuilder, bar: Bar) -> int:
        next_id = done = 0
        for shard in self.shards:
            with open_shard(shard.path) as (again, reader):
                if again != shard:
                    raise FileFormatError("has been replaced")
                parts = {
                    name: reader.rows(name, info.dtype, info.shape)
                    for name, info in reader.tensors.items()
                }
                for first in range(0, max(shard.n, 1), _ROWS):
                    rows = {
                        name: part.read(min(_ROWS, shard.n - first)) for name, part in parts.items()
                    }
                    ids = rows.get("ids")
                    builder.count(rows["list_no"], ids, shard.first + first)
                    if ids is not None:
                        next_id = max(next_id, int(ids.max(initial=-1)) + 1)
                    bar.to(done + first)
            if not shard.has_ids and shard.n:
                next_id = max(next_id, shard.first + shard.n)
            done += shard.n
        bar.to(done)
        return next_id

    def add(self, builder: _core.ListBuilder, begin: int, end: int, bar: Bar, done: int) -> None:
        for shard in self.shards:
            with open_mapped(shard.path, KIND) as reader:
                n = (shard.n,)
                builder.add(
                    reader.view("list_no", np.uint32, n),
                    reader.view("codes", np.uint8, (shard.n, shard.code_size)),
                    reader.view("beside", np.uint16, n) if shard.has_beside else None,
                    reader.view("ids", np.int64, n) if shard.has_ids else None,
                    shard.first,
                    get_num_threads(),
                )
            bar.to(done := done + shard.n)


def _check_shards(
    index: Any, leaf: Any, paths: Sequence[Path], first: int
) -> tuple[list[Shard], str]:
    """The shards in order, and what tells them and the model from others."""
    fingerprint = fingerprint_of(index)
    expected: dict[str, Any] = {
        "fingerprint": fingerprint, "nlist": leaf.nlist, "code_size": leaf.code_size,
        "has_beside": has_beside(leaf),
    }  # fmt: skip
    shards, heads = [], {}
    for path in paths:
        with open_shard(path) as (shard, _):
            heads[shard.first, os.fsdecode(path)] = head_of(path)
        for name, value in expected.items():
            if (got := getattr(shard, name)) != value:
                raise _unfit(path, f"{name}: expected {value!r} as of the index, got {got!r}")
        shards.append(shard)
    shards.sort(key=lambda shard: (shard.first, shard.n))  # without rows first
    end = first
    for shard in shards:
        if shard.first != end:
            what = "are missing" if shard.first > end else "are there twice"
            rows = sorted((end, shard.first))
            raise _unfit(shard.path, f"rows {rows[0]} to {rows[1] - 1} before it {what}")
        end += shard.n
    digest = hashlib.sha256(fingerprint.encode())
    for _, head in sorted(heads.items()):
        digest.update(head)
    return shards, digest.hexdigest()[:32]


def _unfit(path: Path, why: str) -> ValueError:
    return ValueError(f"{os.fsdecode(path)}: {why}")


def head_of(path: Path) -> bytes:
    """The head of a container, which has the checksums of all the rest."""
    with open(path, "rb") as file:
        size = file.read(8)
        return hashlib.sha256(size + file.read(int.from_bytes(size, "little"))).digest()


@contextmanager
def _locked(partial: str) -> Iterator[int]:
    """The partial file, open and this process's alone; it goes if nothing is in it."""
    handle = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(handle), os.stat(partial))
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:  # or another has just finished it
            raise BlockingIOError(errno.EAGAIN, "another process is building this file", partial)
        try:
            yield handle
        finally:
            if os.fstat(handle).st_size == 0:
                os.unlink(partial)
    finally:
        os.close(handle)


class _Build:
    """One run: the counts, of pass 1 or of the journal; then the ranges.

    The lists before `done` are in the partial file, and `crc` are the checksums of their sections.
    """

    def __init__(self, index: Any, leaf: Any, source: Source, target: str, handle: int) -> None:
        self.index, self.source = index, source
        self.target, self.partial, self.journal = target, target + PARTIAL, target + JOURNAL
        self.handle, self.nlist = handle, leaf.nlist
        self.builder = _core.ListBuilder(leaf.nlist, leaf.code_size, has_beside(leaf))
        self.next_id = self.done = self.begin = 0
        self.crc = {"blocks": 0, "ids": 0}

    def count(self, progress: bool) -> None:
        """Pass 1."""
        with progress_bar("counting", self.source.n_rows, "vector", progress) as bar:
            self.next_id = self.source.count(self.builder, bar)

    # -- the journal ---------------------------------------------------------------------------

    def resume(self) -> bool:
        """Go on from the journal, if there is one, and it is of the same shards and model."""
        try:
            with open_tensors(self.journal, "build") as reader:
                header, n = reader.header, (self.nlist,)
                if take_value(header, "digest", str) != self.source.digest:
                    raise FileFormatError("of other files or another model")
                sizes, least, most = (
                    reader.take(name, np.int64, n) for name in ("sizes", "least", "most")
                )
                are_offsets = reader.take("are_offsets", np.uint8, n)
                next_id = take_number(header, "next_id", int, 0, 1 << 63)
                begin = take_number(header, "begin", int, 0, 1 << 62)
                crc = {name: take_number(header, name, int, 0, 0xFFFFFFFF) for name in self.crc}
                done = take_number(header, "done", int, 0, self.nlist)
                self.builder.set_counts(sizes, least, most, are_offsets)  # the last that can fail
                self.next_id, self.begin, self.done, self.crc = next_id, begin, done, crc
        except MissingFileError:
            return False
        except FileFormatError as error:
            warnings.warn(f"begun anew: {error}", stacklevel=3)
            return False
        return True

    def note(self) -> None:
        """Write the journal: what it speaks of is in the file."""
        sizes, least, most, are_offsets = self.builder.counts()
        header: dict[str, Any] = {
            "digest": self.source.digest, "next_id": self.next_id, "begin": self.begin,
            "done": self.done, **self.crc,
        }  # fmt: skip
        tensors: dict[str, np.ndarray | Stream] = {
            "sizes": sizes, "least": least, "most": most, "are_offsets": are_offsets,
        }  # fmt: skip
        new = self.journal + ".new"  # one name, so that who is killed leaves no others behind
        with self._refused(), open(new, "wb") as file:
            write_tensors(file, "build", header, tensors)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.journal)
        _sync_folder(self.journal)

    # -- the file ------------------------------------------------------------------------------

    def lay_out(self) -> None:
        """Say where everything goes, and whether the partial file is what the journal says."""
        sizes, least, made, bits = self.builder.heads()
        self.ends = {
            name: np.concatenate(([0], np.cumsum(part)))
            for name, part in zip(
                ("vectors", "blocks", "ids"), (sizes, *self.builder.nbytes()), strict=True
            )
        }
        with index_state(self.index) as (header, tensors):
            nested = isinstance(self.index, IndexPreTransform)
            prefix, inner = ("index.", header["index"]) if nested else ("", header)
            inner["ntotal"], inner["next_id"] = self.source.ntotal, self.next_id
            parts: dict[str, np.ndarray | Stream] = {
                "sizes": sizes, "ids.least": least, "ids.made": made, "ids.bits": bits,
            }  # fmt: skip
            for name in self.crc:
                shape = (int(self.ends[name][-1]),)
                parts[name] = Stream(np.dtype(np.uint8), shape, (), aligned=name == "blocks")
            named = {prefix + name: part for name, part in parts.items()}
            self.layout = Layout("index", header, {**tensors, **named})
        self.names = {name: prefix + name for name in self.crc}
        begin, size = self.layout.begin(self.names["blocks"]), os.fstat(self.handle).st_size
        fits = self.begin == begin and size == self.layout.size
        if self.done and not fits and not self.is_in_place():
            warnings.warn(f"begun anew: {self.partial} is not what its journal says", stacklevel=3)
            self.done, self.crc = 0, dict.fromkeys(self.crc, 0)
        self.begin = begin
        if self.done == 0:
            self.note()

    def is_in_place(self) -> bool:
        """Whether an earlier call came so far that only its journal was left."""
        if self.done < self.nlist or os.fstat(self.handle).st_size:
            return False
        for _ in self._others():
            pass
        head = self.layout.head()
        try:
            with open(self.target, "rb") as file:
                return file.read(len(head)) == head
        except OSError:
            return False

    def fill(self, memory: int, progress: bool) -> None:
        """Pass 2: the ranges that are still to be done."""
        ranges, most = self._ranges(memory)
        self._reserve()
        n = self.source.n_rows
        with progress_bar("building", len(ranges) * n, "vector", progress) as bar:
            for i, (begin, end) in enumerate(ranges):
                self.builder.begin(begin, end)
                self.source.add(self.builder, begin, end, bar, i * n)
                bar.to((i + 1) * n)
                written = self.ends["blocks"] + self.ends["ids"]
                for first, last in _cut(written, begin, end, most):
                    self._write_lists(first, last)
                self._sync()
                self.done = end
                self.note()
        self.builder.begin(0, 0)  # the last range is forgotten

    def finish(self) -> None:
        """Write what is no list, and put the file in its place."""
        for at, part in self._others():
            self._write(at, part)
        self._write(0, memoryview(self.layout.head()))
        self._sync()
        with suppress(OSError):  # as `replacing` does
            os.fchmod(self.handle, os.stat(self.target).st_mode & 0o777)
        os.replace(self.partial, self.target)
        _sync_folder(self.target)

    def _others(self) -> Iterator[tuple[int, memoryview]]:
        """All tensors but those of the lists, and where they go; then all checksums are known."""
        for name in self.layout.streams.keys() - self.names.values():
            at = self.layout.begin(name)
            for part in self.layout.parts_of(name):
                yield at, part
                at += len(part)
        for name, crc in self.crc.items():
            self.layout.checksums[self.names[name]] = crc

    def _write_lists(self, first: int, last: int) -> None:
        """Of the lists that have begun; what was made is gone before there is more."""
        pieces = self.builder.write(first, last, get_num_threads())
        for name, data in zip(self.crc, pieces, strict=True):
            self.crc[name] = zlib.crc32(data.data, self.crc[name])
            at = self.layout.begin(self.names[name]) + int(self.ends[name][first])
            self._write(at, data.data)

    def _ranges(self, memory: int) -> tuple[list[tuple[int, int]], int]:
        """Ranges of lists whose vectors fit in memory, and how many bytes to write at a time."""
        taken = resident() + self.source.mapped_nbytes + _SPARE + _OF_LIST * self.nlist
        most = max(min(_WRITTEN, (memory - taken) // 8), 1)
        longest = {name: int(np.diff(ends).max()) for name, ends in self.ends.items()}
        # What is written, and what each thread sorts.
        taken += max(most, longest["blocks"] + longest["ids"])
        taken += get_num_threads() * (24 * longest["vectors"] + longest["ids"])
        records = self.ends["vectors"] * self.builder.record_nbytes
        if (needed := taken + longest["vectors"] * self.builder.record_nbytes) > memory:
            raise ValueError(
                f"memory: expected at least {needed / 1e6:,.0f} MB for a list of "
                f"{longest['vectors']:,} vectors, got {memory / 1e6:,.0f} MB"
            )
        return list(_cut(records, self.done, self.nlist, memory - taken)), most

    def _reserve(self) -> None:
        """Make the partial file as large as it will be, so that a full disk is known now."""
        size = self.layout.size
        if os.fstat(self.handle).st_size != size:
            os.ftruncate(self.handle, 0)
        with self._refused():
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self.handle, 0, size)
            except OSError as error:
                if error.errno not in _NO_FALLOCATE:
                    if not self.done:
                        os.ftruncate(self.handle, 0)  # what there was of room
                    raise
            os.ftruncate(self.handle, size)

    def _write(self, at: int, data: memoryview) -> None:
        with self._refused():
            while len(data):
                n = os.pwrite(self.handle, data, at)
                data, at = data[n:], at + n

    def _sync(self) -> None:
        with self._refused():
            try:
                os.fsync(self.handle)
            except OSError as error:
                if error.errno not in NO_FSYNC:
                    raise

    @contextmanager
    def _refused(self) -> Iterator[None]:
        """Errors of writing name the file, and say that nothing is lost."""
        try:
            yield
        except OSError as error:
            reason = f"{error.strerror} (nothing is lost: build again, and it goes on)"
            raise OSError(error.errno, reason, self.partial) from error


def _cut(ends: np.ndarray, begin: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    """The lists begin .. end - 1 in ranges of at most so much, one list at least; ends[l]: how much
    the lists before l have."""
    while begin < end:
        last = int(np.searchsorted(ends, ends[begin] + most, side="right")) - 1
        yield begin, (begin := max(min(last, end), begin + 1))


def _sync_folder(path: str) -> None:
    """As far as the file system can."""
    with suppress(OSError):
        handle = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
