"""How many threads a call uses."""

from __future__ import annotations

import faiss

_threads: int | None = None


def set_num_threads(n: int | None) -> None:
    """Use n threads in every later call; None: as many as `faiss.omp_get_max_threads()` says when
    the call is made (the default). Raises ValueError for n < 1."""
    global _threads
    if n is not None and n < 1:
        raise ValueError(f"n: expected at least 1 thread, got {n!r}")
    _threads = n


def get_num_threads() -> int:
    """The number of threads that a call made now would use."""
    return int(faiss.omp_get_max_threads()) if _threads is None else _threads
