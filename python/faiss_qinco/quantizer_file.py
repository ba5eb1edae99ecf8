"""A faiss index out of bytes that may hold anything.

faiss allocates what a length says before it has read so much, and follows what a graph says. Before
and after it reads, flat and HNSW indexes, the usual quantizers, are checked here in full. Of others
it is limited what faiss allocates: that they do no harm is faiss's to see to.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from .storage.container import FileFormatError

_EF_MOST = 1 << 24  # more than that HNSW does not visit for a query; it allocates it


def quantizer_of(data: np.ndarray) -> faiss.Index:
    """The faiss index of its bytes, (n,) uint8. Raises FileFormatError, or faiss's RuntimeError."""
    if _is_flat(data):
        return faiss.deserialize_index(data)
    with _faiss_limits(len(data)):
        try:
            quantizer = faiss.deserialize_index(data)
        except MemoryError as error:
            raise FileFormatError("quantizer: more memory than there is") from error
    if isinstance(quantizer, faiss.IndexHNSW):
        _check_graph(quantizer)
    return quantizer


def _is_flat(data: np.ndarray) -> bool:
    """Whether these are the bytes of an IndexFlat (L2 or inner product), as long as they say."""
    head = "<4siqqq?iQ"  # fourcc, d, ntotal, two unused, is_trained, metric, n floats
    if len(data) < (begin := struct.calcsize(head)):
        return False
    fourcc, d, ntotal, _, _, _, metric, n = struct.unpack(head, data[:begin].tobytes())
    known = fourcc in (b"IxFI", b"IxF2", b"IxFl") and metric in (0, 1)
    return known and d > 0 and ntotal * d == n and begin + 4 * n == len(data)


_limiting = threading.Lock()


@contextmanager
def _faiss_limits(size: int) -> Iterator[None]:
    """What faiss may allocate for one vector of an index that it reads, and how many parts this may
    have. These are settings of the process: not so low as to be in the way of another thread that
    reads an index of its own. faiss 1.9 does not have them."""
    limits = {"vector_byte_limit": max(size + 1, 1 << 28), "loop_limit": max(size, 1 << 24)}
    limits = {k: v for k, v in limits.items() if hasattr(faiss, f"set_deserialization_{k}")}
    with _limiting:
        old = {name: getattr(faiss, f"get_deserialization_{name}")() for name in limits}
        try:
            for name, limit in limits.items():
                getattr(faiss, f"set_deserialization_{name}")(limit)
            yield
        finally:
            for name, limit in old.items():
                getattr(faiss, f"set_deserialization_{name}")(limit)


def _check_graph(index: faiss.IndexHNSW) -> None:
    """That each link of an HNSW graph leads to a node of that level, inside its arrays."""
    hnsw: Any = index.hnsw
    n = index.ntotal
    levels = faiss.vector_to_array(hnsw.levels).astype(np.int64)  # of a node, from 1 on
    links = faiss.vector_to_array(hnsw.neighbors)
    offsets = faiss.vector_to_array(hnsw.offsets).astype(np.int64)
    widths = faiss.vector_to_array(hnsw.cum_nneighbor_per_level).astype(np.int64)
    storage = faiss.downcast_index(index.storage)
    right = (
        storage.ntotal == n
        and storage.d == index.d
        and len(levels) == n
        and len(offsets) == n + 1
        and offsets[0] == 0
        and offsets[-1] == len(links)
        and len(widths) > 0
        and widths[0] == 0
        and (np.diff(widths) >= 0).all()
        and hnsw.efSearch <= _EF_MOST
        and hnsw.efConstruction <= _EF_MOST
        and (n == 0 or 1 <= levels.min() <= levels.max() < len(widths))
        and (np.diff(offsets) == widths[levels]).all()
        and (len(links) == 0 or -1 <= links.min() <= links.max() < n)
        and -1 <= hnsw.entry_point < n
        and (hnsw.entry_point < 0 or hnsw.max_level < levels[hnsw.entry_point])
    )
    # Level by level: the nodes that have links there, and whether these nodes have that level.
    for level in range(int(levels.max(initial=0))) if right else ():
        nodes = np.flatnonzero(levels > level)
        for slot in range(widths[level], widths[level + 1]):
            to = links[offsets[nodes] + slot]
            right = right and bool((levels[to[to >= 0]] > level).all())
    if not right:
        raise FileFormatError("quantizer: its graph is damaged")
