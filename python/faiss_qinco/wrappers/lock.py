"""Who may do what at the same time to an index around another one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# The locks that this thread, or the search that it is a part of, is reading under.
_reading: ContextVar[tuple[int, ...]] = ContextVar("faiss_qinco_reading", default=())


class Lock:
    """Searches run together; changes run one at a time, and only their `alone` parts without
    searches."""

    def __init__(self) -> None:
        self._one_change = threading.Lock()
        self._condition = threading.Condition()
        self._n_reading = self._n_waiting = 0
        self._alone = False
        self._changer = 0  # the thread that changes

    @contextmanager
    def reading(self) -> Iterator[None]:
        """To search. Inside another reading of the same call it does not wait, for a change may be
        waiting for that one."""
        inside = _reading.get()
        if self._alone and self._changer == threading.get_ident():
            raise RuntimeError("an index cannot be searched inside a change of its own")
        counted = id(self) not in inside
        if counted:
            with self._condition:
                self._condition.wait_for(lambda: not self._alone and not self._n_waiting)
                self._n_reading += 1
        token = _reading.set((*inside, id(self)))
        try:
            yield
        finally:
            _reading.reset(token)
            if counted:
                with self._condition:
                    self._n_reading -= 1
                    self._condition.notify_all()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """To change what is stored, or to save it. RuntimeError inside a search of this index."""
        if id(self) in _reading.get():
            raise RuntimeError("an index cannot be changed inside a search of its own")
        if self._changer == threading.get_ident():
            raise RuntimeError("an index cannot be changed inside a change of its own")
        with self._one_change:
            self._changer = threading.get_ident()
            try:
                yield
            finally:
                self._changer = 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A part of `changing` that no search overlaps with."""
        with self._condition:
            self._n_waiting += 1
            try:
                self._condition.wait_for(lambda: not self._n_reading)
                self._alone = True
            finally:
                self._n_waiting -= 1
                self._condition.notify_all()
        try:
            yield
        finally:
            with self._condition:
                self._alone = False
                self._condition.notify_all()
