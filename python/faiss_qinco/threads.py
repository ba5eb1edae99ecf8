"""How many threads a call uses."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import faiss

from .checks import integer

MAX_THREADS = 4096

_threads: int | None = None
_of_part: ContextVar[int | None] = ContextVar("faiss_qinco_threads", default=None)
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


def set_num_threads(n: int | None) -> None:
    """Use n threads in every later call; None: as many as `faiss.omp_get_max_threads()` says when
    the call is made (the default). Raises TypeError unless an integer, ValueError for n < 1."""
    global _threads
    _threads = None if n is None else integer("n", n, 1, MAX_THREADS)


def get_num_threads() -> int:
    """The number of threads that a call made now would use."""
    if (part := _of_part.get()) is not None:
        return part
    return max(1, int(faiss.omp_get_max_threads())) if _threads is None else _threads


@contextmanager
def part_of_threads(n: int) -> Iterator[None]:
    """In the block, this thread's calls use n threads, whatever is set: others run at the time."""
    token = _of_part.set(n)
    try:
        yield
    finally:
        _of_part.reset(token)


@contextmanager
def library_threads(torch_too: bool = True) -> Iterator[None]:
    """In the block, faiss, and torch if it is imported and wanted, use as many threads of their own
    as a call of ours would.

    In a process made by `fork` it is one: the threads of OpenMP that the parent had started are not
    there, and GNU's runtime, in both libraries, would wait for them for ever.
    """
    n = 1 if _forked else get_num_threads()
    libraries = [(faiss.omp_get_max_threads, faiss.omp_set_num_threads)]
    if torch_too and (torch := sys.modules.get("torch")) is not None:
        libraries.append((torch.get_num_threads, torch.set_num_threads))
    changed = [(put, before) for get, put in libraries if (before := get()) != n]
    try:
        for put, _ in changed:
            put(n)
        yield
    finally:
        for put, before in changed:
            put(before)
