"""faiss's ID selectors, for the extension.

A `faiss.IDSelector` is a C++ object whose first virtual function is `is_member`, so that the
extension can ask it without Python. Python is asked only by selectors that are written in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import faiss
import numpy as np

from . import _core
from .checks import as_id_array

_NATIVE = tuple(
    getattr(faiss, f"IDSelector{kind}")
    for kind in (
        "Range",
        "Batch",
        "Array",
        "Bitmap",
        "Not",
        "And",
        "Or",
        "XOr",
        "All",
        "Translated",
    )
    if hasattr(faiss, f"IDSelector{kind}")
)
_CALLBACK = getattr(faiss, "PyCallbackIDSelector", ())


def id_filter(sel: Any, n_threads: int) -> tuple[_core.IdFilter | None, int]:
    """The filter of a `faiss.IDSelector` (None: all ids), and with how many threads to search.

    A selector that calls Python is asked by one thread only, the caller's: there its exceptions,
    and Ctrl-C, are raised as they are. `sel` must outlive the filter.
    """
    if sel is None or type(sel) is faiss.IDSelectorAll:
        return None, n_threads
    if type(sel) is faiss.IDSelectorRange:
        return _core.IdFilter.range(sel.imin, sel.imax), n_threads
    if type(sel) is faiss.IDSelectorBitmap:
        bitmap: Any = sel  # the attribute is swig's
        return _core.IdFilter.bitmap(bitmap.n, int(bitmap.bitmap)), n_threads
    if not is_native(sel) or not _layout_is_known():
        return _core.IdFilter.python(sel.is_member), 1
    calls_python = _contains(sel, _CALLBACK)
    cheap = not calls_python and not _contains(sel, faiss.IDSelectorArray)  # it searches its array
    return _core.IdFilter.faiss(_address(sel), cheap), 1 if calls_python else n_threads


def removal(ids: Any, n_threads: int) -> tuple[np.ndarray | None, _core.IdFilter | None, int]:
    """What `remove_ids` is given: ids (m,) int64 where it says them, else a filter as of
    `id_filter`. Raises as `as_id_array`."""
    if type(ids) is faiss.IDSelectorArray:  # it would search its array for each id that is stored
        selector: Any = ids
        return faiss.rev_swig_ptr(selector.ids, selector.n).copy(), None, n_threads
    if isinstance(ids, faiss.IDSelector):
        return None, *id_filter(ids, n_threads)
    return as_id_array(ids), None, n_threads


def given(params: Any, name: str) -> Any:
    """The attribute of `faiss.SearchParameters` as the object that was given: swig's attribute is a
    pointer that has lost its type, and keeps nothing alive."""
    value = getattr(params, name)
    if value is None:
        return None
    kept = getattr(params, "_sp_field_refs", {}).values()  # faiss 1.15; before: referenced_objects
    for one in (*kept, *getattr(params, "referenced_objects", ())):
        if hasattr(one, "this") and _address(one) == _address(value):
            return one
    return value


def _address(sel: Any) -> int:
    return int(sel.this)


def is_native(sel: Any) -> bool:
    """Not a subclass made in Python, whose is_member C++ does not see; a plain IDSelector is what
    swig makes of a pointer."""
    return type(sel) in (*_NATIVE, _CALLBACK, faiss.IDSelector)


def _contains(sel: Any, kind: Any) -> bool:
    if isinstance(sel, kind):
        return True
    return any(_contains(s, kind) for s in _flat(getattr(sel, "referenced_objects", ())))


def _flat(references: Any) -> Iterable[Any]:
    for one in references:
        if isinstance(one, (list, tuple)):
            yield from _flat(one)
        else:
            yield one


@cache
def _layout_is_known() -> bool:
    """Whether C++ and Python agree on selectors whose answers are known."""
    ids = np.array([-4, 0, 2, 3, 5, 1 << 40])
    inner = faiss.IDSelectorRange(2, 5)
    for sel in (inner, faiss.IDSelectorNot(inner), faiss.IDSelectorBatch(ids[:2])):
        expected = [bool(sel.is_member(int(i))) for i in ids]
        if _core.IdFilter.faiss(_address(sel), True).accept(ids).tolist() != expected:
            return False
    return True
