"""Columns of vectors in files of Arrow's family: Parquet, Arrow IPC (Feather) and Lance; read some
rows at a time by pyarrow and pylance, which are imported when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .container import Array, FileFormatError

KINDS = {
    ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow",
    ".lance": "lance",
}  # fmt: skip
_LANCE_ROWS = 1 << 14  # read at a time


class Column:
    """A column of lists of numbers, all of one length, as a matrix. Not for several threads at
    once.

    Attributes
    ----------
    n, d : rows, and numbers of each. dtype : of the numbers. ends : where the parts that are read
        as one end, (parts,) int64. nbytes : of the numbers.
    """

    def __init__(
        self, name: str, sizes: Sequence[int], read: Callable[[int], Any], list_type: Any
    ) -> None:
        """sizes: rows of the parts; read: number of a part -> its pyarrow (chunked) array."""
        self.name, self._read = name, read
        self.ends = np.cumsum(sizes, dtype=np.int64)
        self.n = int(self.ends[-1]) if len(sizes) else 0
        self.dtype = np.dtype(list_type.value_type.to_pandas_dtype())
        self._held: tuple[int, Array] | None = None  # the part that was read last
        size = getattr(list_type, "list_size", None)
        self.d = int(size) if size is not None else self._first_length()
        self.nbytes = self.n * self.d * self.dtype.itemsize

    def read(self, begin: int, end: int) -> Array:
        """Rows begin .. end - 1, (m, d)."""
        out = np.empty((end - begin, self.d), self.dtype)
        first, last = np.searchsorted(self.ends, (begin, end - 1), side="right")
        for part in range(int(first), int(last) + 1) if end > begin else ():
            start = int(self.ends[part - 1]) if part else 0
            here = slice(max(begin, start), min(end, int(self.ends[part])))
            out[here.start - begin : here.stop - begin] = self.part(part)[
                here.start - start : here.stop - start
            ]
        return out

    def part(self, part: int) -> Array:
        """The rows of a part. That one is kept, so that who reads on does not decode it again."""
        if self._held is None or self._held[0] != part:
            start = int(self.ends[part - 1]) if part else 0
            self._held = part, self._matrix(self._read(part), start)
        return self._held[1]

    def _matrix(self, column: Any, start: int) -> Array:
        pa = _pyarrow()
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        rows = []
        for chunk in chunks:
            self._check(chunk, start)
            values = chunk.flatten()  # of this slice alone
            if values.null_count:
                row = start + int(np.flatnonzero(values.is_null())[0]) // self.d
                raise FileFormatError(f"{self.name}: row {row} has a null in its vector")
            rows.append(values.to_numpy(zero_copy_only=False).reshape(len(chunk), self.d))
            start += len(chunk)
        return rows[0] if len(rows) == 1 else np.concatenate([*rows, np.empty((0, self.d))])

    def _check(self, chunk: Any, start: int) -> None:
        pa = _pyarrow()
        if chunk.null_count:
            row = start + int(np.flatnonzero(chunk.is_null())[0])
            raise FileFormatError(f"{self.name}: row {row} is null")
        if not pa.types.is_fixed_size_list(chunk.type) and len(chunk):
            lengths = np.diff(np.asarray(chunk.offsets))
            if (bad := np.flatnonzero(lengths != self.d)).size:
                raise FileFormatError(
                    f"{self.name}: row {start + bad[0]} has {lengths[bad[0]]} values, "
                    f"expected {self.d} as the first"
                )

    def _first_length(self) -> int:
        for part, end in enumerate(self.ends):
            if end > (self.ends[part - 1] if part else 0):
                column = self._read(part)
                first = column[0].as_py()
                if first is None:
                    raise FileFormatError(f"{self.name}: row 0 is null")
                return len(first)
        return 0


def open_column(file: str, kind: str, name: str | None) -> Column:
    """The column of this name, None: the only one of vectors. kind: of `KINDS`.

    Raises FileFormatError where there is no such column, or the first vector is not one;
    ImportError without pyarrow, or pylance for Lance.
    """
    if kind == "lance":
        return _lance(file, name)
    pa = _pyarrow()
    if kind == "parquet":
        parquet = importlib.import_module("pyarrow.parquet")
        found = parquet.ParquetFile(file, memory_map=True)
        field = _field(found.schema_arrow, name)
        groups = range(found.metadata.num_row_groups)
        return Column(
            field.name,
            [found.metadata.row_group(i).num_rows for i in groups],
            lambda i: found.read_row_group(i, columns=[field.name]).column(0),
            field.type,
        )
    ipc = pa.ipc.open_file(pa.memory_map(file))
    field = _field(ipc.schema, name)
    sizes = [ipc.get_batch(i).num_rows for i in range(ipc.num_record_batches)]
    return Column(field.name, sizes, lambda i: ipc.get_batch(i).column(field.name), field.type)


def _lance(file: str, name: str | None) -> Column:
    try:
        lance = importlib.import_module("lance")
    except ImportError as error:
        raise ImportError("Lance datasets need pylance: pip install pylance") from error
    found = lance.dataset(file)
    field = _field(found.schema, name)
    n = found.count_rows()
    sizes = [min(_LANCE_ROWS, n - i) for i in range(0, n, _LANCE_ROWS)]

    def read(part: int) -> Any:
        table = found.to_table(
            columns=[field.name], offset=part * _LANCE_ROWS, limit=_LANCE_ROWS
        )  # fmt: skip
        return table.column(0)

    return Column(field.name, sizes, read, field.type)


def _field(schema: Any, name: str | None) -> Any:
    names = [field.name for field in schema if _has_vectors(field.type)]
    if name is None and len(names) == 1:
        return schema.field(names[0])
    if name is None or name not in names:
        wanted = "one column of vectors" if name is None else f"a column {name!r} of vectors"
        raise FileFormatError(f"expected {wanted}, there are {names}")
    return schema.field(name)


def _has_vectors(kind: Any) -> bool:
    types = _pyarrow().types
    lists = (types.is_fixed_size_list, types.is_list, types.is_large_list)
    numbers = (types.is_floating, types.is_integer)
    return any(of(kind) for of in lists) and any(of(kind.value_type) for of in numbers)


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise ImportError(
            "Parquet and Arrow files need pyarrow: pip install 'faiss-qinco[parquet]'"
        ) from error
