"""An index around others as what it consists of: a header and tensors, with those of the indexes
inside under a prefix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import faiss
import numpy as np

from ..quantizer_file import quantizer_of
from ..storage.container import (
    CHUNK,
    FileFormatError,
    Reader,
    Stream,
    Tensors,
    take_number,
    take_value,
)
from .base import inside
from .id_map import IndexIDMap, IndexIDMap2
from .refine import IndexRefine, IndexRefineFlat, is_flat, new_flat
from .shards import IndexReplicas, IndexShards

State = tuple[dict[str, Any], Tensors]
WRAPPERS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        IndexIDMap, IndexIDMap2, IndexRefine, IndexRefineFlat, IndexReplicas, IndexShards
    )
}  # fmt: skip


@contextmanager
def wrapper_state(
    index: Any, inner_state: Callable[[Any], AbstractContextManager[State]]
) -> Iterator[State]:
    """What an index around others consists of, while nothing can change it; inner_state: the same
    of an index inside."""
    with ExitStack() as stack:
        stack.enter_context(index._lock.changing())
        states = [stack.enter_context(inner_state(one)) for one in inside(index)]
        header: dict[str, Any] = {"type": type(index).__name__}
        tensors: dict[str, np.ndarray | Stream] = {}
        if isinstance(index, (IndexIDMap, IndexRefine)):
            header["index"] = states[0][0]
            prefixes = ["index."]
        else:
            header |= {"d": index.d, "threaded": index.threaded}
            header["indexes"] = [inner for inner, _ in states]
            prefixes = [f"indexes.{i}." for i in range(len(states))]
        for prefix, (_, parts) in zip(prefixes, states, strict=True):
            tensors |= {f"{prefix}{name}": tensor for name, tensor in parts.items()}
        if isinstance(index, IndexShards):
            header["successive_ids"] = index.successive_ids
        if isinstance(index, IndexIDMap):
            index._synced()
            tensors["id_map"] = _view(index._ids())
        if isinstance(index, IndexRefine):
            index._synced()
            if not math.isfinite(index.k_factor):
                raise ValueError(f"k_factor: expected a finite number, got {index.k_factor}")
            header["k_factor"] = index.k_factor
            tensors["refine"] = _refinement(index)
        yield header, tensors


def _refinement(index: IndexRefine) -> np.ndarray | Stream:
    """What the refine index holds: vectors where it is flat, which may be large, else its bytes."""
    refinement: Any = faiss.downcast_index(index.refine_index)
    if not is_flat(refinement):
        return np.asarray(faiss.serialize_index(refinement))
    shape = (refinement.ntotal, refinement.d)
    vectors = faiss.rev_swig_ptr(refinement.get_xb(), shape[0] * shape[1]) if shape[0] else ()
    return _view(np.asarray(vectors, np.float32).reshape(shape))


def _view(array: np.ndarray) -> Stream:
    """Memory of faiss, which is there as long as nothing changes: a copy is a copy of it."""
    return Stream(array.dtype, array.shape, [array])


def wrapper_from_state(reader: Reader, inner: Callable[[Reader], Any]) -> Any:
    """Inverse of `wrapper_state`; inner: the same of an index inside, by its reader. Raises
    FileFormatError, and as the constructors."""
    header, kind = reader.header, WRAPPERS[reader.header["type"]]
    if issubclass(kind, (IndexShards, IndexReplicas)):
        return _several(reader, kind, inner)
    index = inner(reader.nested(take_value(header, "index", dict), "index."))
    if issubclass(kind, IndexIDMap):
        ids = reader.take("id_map", np.int64, (index.ntotal,))
        return kind._of(index, ids)
    made = kind._of(index, _refinement_of(reader, index))
    made.k_factor = take_number(header, "k_factor", float, -3.5e38, 3.5e38)
    return made


def _several(reader: Reader, kind: Any, inner: Callable[[Reader], Any]) -> Any:
    header = reader.header
    flags = ["threaded"] + ["successive_ids"] * issubclass(kind, IndexShards)
    index = kind(
        take_number(header, "d", int, 0, 1 << 20),
        *(take_value(header, flag, bool) for flag in flags),
    )
    for i, part in enumerate(take_value(header, "indexes", list)):
        if not isinstance(part, dict):
            raise FileFormatError(f"indexes: expected objects, got {part!r:.80}")
        index.addIndex(inner(reader.nested(part, f"indexes.{i}.")))
    return index


def _refinement_of(reader: Reader, index: Any) -> Any:
    if "refine" not in reader.tensors:
        raise FileFormatError("tensor 'refine' is missing")
    if reader.tensors["refine"].dtype == np.uint8:
        return quantizer_of(reader.take("refine", np.uint8, (None,)))
    n, d = index.ntotal, index.d
    rows = reader.rows("refine", np.float32, (n, d))
    flat = new_flat(d, index.metric_type)
    step = max(1, CHUNK // (4 * d))
    for begin in range(0, n, step):
        flat.add(rows.read(min(step, n - begin)))
    if n == 0:
        rows.read(0)
    return flat
