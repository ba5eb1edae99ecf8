"""Encoding: from vectors to a folder of encoded shards, by one process or by many.

A shard is what its rows and the model make of them, whoever encodes it, and however often: so who
starts again goes on with those that are not there yet, and several processes, on several machines
that see the folder, share the work by `part`. What belongs together says the manifest.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from .. import _core
from ..checks import check_matrix
from ..codec.config import EFFORTS
from ..engine import BLOCK, BLOCK_VALUES
from ..progress import Bar, progress_bar
from ..ranking.error_term import bfloat16
from ..storage.container import Path, open_tensors, take_number, write_tensors
from .memory import check_memory
from .model import fingerprint_of, has_beside, leaf_of
from .shard import NOT_STORED, Rows, write_shard

ROWS = 1 << 18  # of a shard: at 200 µs a vector, what is lost when it is killed took a minute
MOST_ROWS = 1 << 26
MANIFEST = "manifest.fqm"
_SPREAD = 1024  # rows that tell some vectors from others


def encode_rows(
    index: Any,
    x: Any,
    *,
    ids: np.ndarray | None = None,
    effort: str = "balanced",
    device: str = "auto",
    bar: Bar | None = None,
    done: int = 0,
) -> Rows:
    """What is stored of vectors x (n, d), any real dtype; not only arrays: what has a shape and
    gives the rows of a slice. ids (n,) int64, None: numbers.

    index : trained; what is in it does not matter. effort: as of `encode`. bar: shows how many, and
    `done` before. Raises as `encode`."""
    leaf = leaf_of(index)
    engine = leaf._check_trained()
    view = x if leaf is index else index._view(x)
    list_no, codes, extra = engine.encode_all(
        view, leaf._coarse, device, Bar() if bar is None else bar, effort, done
    )
    beside = None
    if has_beside(leaf):
        offset = 1 if leaf.length_correction else 0
        beside = bfloat16(engine.core.bias(list_no, codes, extra=extra) - offset)
    narrow = np.where(list_no >= 0, list_no, NOT_STORED).astype(np.uint32)
    return Rows(narrow, _core.pack_codes(codes, leaf.nbits), beside, ids)


def encode(
    index: Any,
    x: Any,
    folder: Path,
    *,
    effort: str = "balanced",
    part: tuple[int, int] = (1, 1),
    ids: np.ndarray | None = None,
    rows_per_shard: int = ROWS,
    memory: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> int:
    """Encode vectors into shard files, for `build`; go on where an earlier call was ended.

    Parameters
    ----------
    index : IndexIVFQINCo, IndexQINCo, or IndexPreTransform around one; trained. Nothing is added.
    x : (n, d), any real dtype, a memory map too, or a `VectorSource`; read a block at a time.
    folder : where the shards go, made if it is missing. Its manifest says what they are of; another
        model, other vectors, ids or sizes than the manifest's are refused.
    effort : hypotheses of the beam search: "fast" a quarter of the config's B, "balanced" B, "best"
        twice as many. Of XS with 8 codes (SIFT), beside "balanced": "fast" takes .28 of the time
        for 5 % more error, "best" twice the time for 1.5 % less.
    part : (i, m), this call is to do the i-th of m equal parts, 1 <= i <= m.
    ids : (n,) int64, of the vectors; None: their numbers, from 0.
    rows_per_shard : 262,144 by default. Those under way are lost when a process is killed.
    memory : bytes that the process may take in all; None: not looked at. The model is what counts,
        and some 200 MB for vectors under way.
    device : "auto", "cpu" or a torch device.
    progress : shows a bar.

    Returns how many vectors this call encoded. Raises TypeError for another kind of index,
    RuntimeError if it is not trained; ValueError for wrong shapes, parts and efforts, for a folder
    of something else, and where the memory cannot suffice; FileFormatError for damaged files in the
    folder; OSError where it cannot be written.
    """
    leaf = leaf_of(index)
    check_matrix(x, index.d)
    n = int(x.shape[0])
    if effort not in EFFORTS:
        raise ValueError(f"effort: expected one of {[*EFFORTS]}, got {effort!r}")
    i, m = part
    if not 1 <= i <= m:
        raise ValueError(f"part: expected (i, m) with 1 <= i <= m, got {part}")
    if not 1 <= rows_per_shard <= MOST_ROWS:
        raise ValueError(f"rows_per_shard: expected 1 to {MOST_ROWS}, got {rows_per_shard}")
    if ids is not None and (ids.shape != (n,) or ids.dtype != np.int64):
        raise ValueError(f"ids: expected ({n},) int64, got {ids.shape} {ids.dtype}")
    check_memory(memory, memory_of(leaf, x, rows_per_shard), "encoding")
    folder = FilePath(os.fsdecode(folder))
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "fingerprint": fingerprint_of(index), "n": n, "rows_per_shard": rows_per_shard,
        "d": index.d, "vectors": sample_of(x), "ids": None if ids is None else sample_of(ids),
        "effort": effort,
    }  # fmt: skip
    _agree(folder / MANIFEST, manifest)

    n_shards = -(-n // rows_per_shard)
    mine = range(n_shards * (i - 1) // m, n_shards * i // m)
    ends = {number: min((number + 1) * rows_per_shard, n) for number in mine}
    missing = [number for number in mine if not shard_path(folder, number).exists()]
    total = sum(end - number * rows_per_shard for number, end in ends.items())
    todo = sum(ends[number] - number * rows_per_shard for number in missing)
    done = total - todo
    with progress_bar("encoding", total, "vector", progress, done) as bar:
        for number in missing:
            first, end = number * rows_per_shard, ends[number]
            rows = encode_rows(
                index, _Part(x, first, end), ids=None if ids is None else ids[first:end],
                effort=effort, device=device, bar=bar, done=done,
            )  # fmt: skip
            write_shard(
                shard_path(folder, number), manifest["fingerprint"], first, leaf.nlist, rows
            )
            done += end - first
    return todo


def shard_path(folder: Path, number: int) -> FilePath:
    """The file of the shard of this number."""
    return FilePath(os.fsdecode(folder)) / f"{number:06d}.fqs"


def shards_of(folder: Path) -> list[FilePath]:
    """The files of a folder that `encode` has finished, in order.

    Raises RuntimeError where some are missing: it says how many, and which is the first;
    MissingFileError without a manifest, FileFormatError where it is damaged.
    """
    manifest = read_manifest(folder)
    n_shards = -(-manifest["n"] // manifest["rows_per_shard"])
    files = [shard_path(folder, number) for number in range(n_shards)]
    missing = [file for file in files if not file.exists()]
    if missing:
        raise RuntimeError(
            f"{os.fspath(folder)}: {len(missing)} of {n_shards} shards are still to be encoded, "
            f"{missing[0].name} first: run encode again"
        )
    return files


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a folder of shards is of: `fingerprint` of the model, `n` vectors of `d`,
    `rows_per_shard`, `effort`; `vectors` and `ids` tell the data from others.

    Raises MissingFileError and FileFormatError (both RuntimeError)."""
    with open_tensors(FilePath(os.fsdecode(folder)) / MANIFEST, "manifest") as reader:
        take_number(reader.header, "n", int, 0, (1 << 62) - 1)
        take_number(reader.header, "rows_per_shard", int, 1, MOST_ROWS)
        return reader.header


def _agree(path: FilePath, manifest: dict[str, Any]) -> None:
    """Write the manifest, or see that it is the one that is there."""
    if not path.exists():
        if path.parent.exists() and any(path.parent.glob("*.fqs")):
            raise ValueError(f"folder: {path.parent} has shards and no {MANIFEST}")
        write_tensors(path, "manifest", manifest, {})
        return
    found = read_manifest(path.parent)
    for name, value in manifest.items():
        if found.get(name) != value:
            raise ValueError(
                f"folder: {path.parent} has codes of another kind; {name}: expected "
                f"{found.get(name)!r:.80} as there, got {value!r:.80}"
            )


def sample_of(x: Any) -> list[int]:
    """What tells these rows from others, cheaply: how many, and some spread over all."""
    rows = np.unique(np.linspace(0, max(len(x) - 1, 0), _SPREAD).astype(np.int64))[: len(x)]
    return [len(x), zlib.crc32(np.ascontiguousarray(x[rows]).tobytes())]


def memory_of(leaf: Any, x: Any, rows_per_shard: int) -> int:
    """Bytes that encoding takes beside the model, at most."""
    block = min(BLOCK, max(1, BLOCK_VALUES // max(leaf.d, x.shape[1])))
    of_row = x.shape[1] * (x.dtype.itemsize + 4) + 8 * leaf.d
    return int(block * of_row + rows_per_shard * (leaf.M + 2 * leaf.code_size + 40))


class _Part:
    """Rows first .. end - 1 of x, read when they are asked for."""

    def __init__(self, x: Any, first: int, end: int) -> None:
        self.shape, self.dtype = (end - first, x.shape[1]), x.dtype
        self._x, self._first = x, first

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> Any:
        begin, end, _ = rows.indices(len(self))
        return self._x[self._first + begin : self._first + end]
