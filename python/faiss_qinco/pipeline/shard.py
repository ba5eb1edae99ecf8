"""Encoded shards: codes of rows of a vector file, in the order of the rows, with the lists they go
to; what `encode` writes and `build` makes an index of.

A container file (`storage`) of the kind "shard". Header: `fingerprint`, of the model; `first`, the
number of the first row among all that are encoded; `n` rows; `nlist` and `code_size`. Tensors:

    list_no  (n) uint32, 0xFFFFFFFF for a row that takes a number and is not stored
    codes    (n, code_size) uint8, packed
    beside   (n) uint16: the bfloat16 that stands beside a code in its list; none where none does
    ids      (n) int64; none where the id of row i is first + i
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ..storage.container import (
    FileFormatError,
    Path,
    Reader,
    open_tensors,
    take_number,
    take_value,
    write_tensors,
)

KIND = "shard"
NOT_STORED = 0xFFFFFFFF


@dataclass(frozen=True)
class Shard:
    """What is in a shard, but for its rows.

    Attributes
    ----------
    path : its file. fingerprint : of the model that encoded it, see `Engine.fingerprint`.
    first : number of its first row. n : its rows. nlist, code_size : of the index.
    has_beside, has_ids : whether it has these tensors.
    """

    path: Path
    fingerprint: str
    first: int
    n: int
    nlist: int
    code_size: int
    has_beside: bool
    has_ids: bool


@dataclass(frozen=True)
class Rows:
    """Some rows of a shard: list_no (m,) uint32, codes (m, code_size) uint8, beside (m,) uint16 or
    None, ids (m,) int64 or None."""

    list_no: np.ndarray
    codes: np.ndarray
    beside: np.ndarray | None
    ids: np.ndarray | None


def write_shard(path: Path, fingerprint: str, first: int, nlist: int, rows: Rows) -> None:
    """Write a shard, atomically. Raises as `write_tensors`."""
    tensors = {"list_no": rows.list_no, "codes": rows.codes}
    if rows.beside is not None:
        tensors["beside"] = rows.beside
    if rows.ids is not None:
        tensors["ids"] = rows.ids
    n, code_size = rows.codes.shape
    header = {
        "fingerprint": fingerprint, "first": first, "n": n, "nlist": nlist, "code_size": code_size,
    }  # fmt: skip
    write_tensors(path, KIND, header, tensors)


@contextmanager
def open_shard(path: Path) -> Iterator[tuple[Shard, Reader]]:
    """A shard, and the reader of its tensors for the block, as `open_tensors`. Their shapes are
    known to be right; their content is not looked at."""
    with open_tensors(path, KIND) as reader:
        header, found = reader.header, reader.tensors
        n = take_number(header, "n", int, 0, (1 << 62) - 1)
        shard = Shard(
            path,
            take_value(header, "fingerprint", str),
            take_number(header, "first", int, 0, (1 << 62) - 1),
            n,
            take_number(header, "nlist", int, 1, NOT_STORED),
            take_number(header, "code_size", int, 1, 64),
            "beside" in found,
            "ids" in found,
        )
        reader.rows("list_no", np.uint32, (n,))
        reader.rows("codes", np.uint8, (n, shard.code_size))
        if shard.has_beside:
            reader.rows("beside", np.uint16, (n,))
        if shard.has_ids:
            reader.rows("ids", np.int64, (n,))
        if set(found) - {"list_no", "codes", "beside", "ids"}:
            raise FileFormatError(f"unknown tensors: {sorted(found)}")
        yield shard, reader


def read_shard(path: Path) -> tuple[Shard, Rows]:
    """A whole shard. Raises FileFormatError and MissingFileError (both RuntimeError), for wrong
    checksums and list numbers too."""
    with open_shard(path) as (shard, reader):
        n = shard.n
        list_no = reader.take("list_no", np.uint32, (n,))
        if ((list_no >= shard.nlist) & (list_no != NOT_STORED)).any():
            raise FileFormatError(f"list_no: expected less than {shard.nlist}")
        return shard, Rows(
            list_no,
            reader.take("codes", np.uint8, (n, shard.code_size)),
            reader.take("beside", np.uint16, (n,)) if shard.has_beside else None,
            reader.take("ids", np.int64, (n,)) if shard.has_ids else None,
        )
