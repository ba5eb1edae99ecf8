"""faiss's own statistics of IVF searches, `faiss.cvar.indexIVF_stats`, with ours among them."""

from __future__ import annotations

import ctypes
from typing import Any

import faiss

from . import _core

NAMES = "nq", "nlist", "ndis"


def count_for_faiss() -> bool:
    """Have the extension add what it counts to faiss's statistics as well, and say whether it
    does: not where faiss has none, or keeps them in another way than it is known to."""
    total: Any = getattr(faiss.cvar, "indexIVF_stats", None)
    if not all(hasattr(total, name) for name in NAMES):
        return False
    known: Any = faiss.IndexIVFStats()
    for i, name in enumerate(NAMES):
        setattr(known, name, i + 1)
    numbers = (ctypes.c_size_t * len(NAMES)).from_address(int(known.this))
    if [*numbers] != [1, 2, 3]:
        return False
    _core.search_stats.add_to(int(total.this))
    return True
