"""Search parameters that pass several indexes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from ..checks import number
from ..errors import ArgumentError
from ..params import MOST_CODES, Defaults, SearchParametersIVFQINCo, resolve_params
from ..selectors import given, is_native


class IndexRefineSearchParameters:
    """As `faiss.IndexRefineSearchParameters`, with parameters of this package inside.

    Parameters
    ----------
    k_factor : as of `IndexRefine`; default 1.0.
    base_index_params : what the `search` of the base index takes; None: its own settings.
    sel : a `faiss.IDSelector` for the search of the base index, beside that of its parameters.
        (FAISS's takes one as well, and does not look at it.)

    Raises AssertionError (also a ValueError) for an unknown keyword, TypeError for a k_factor that
    is no number.
    """

    __slots__ = ("base_index_params", "k_factor", "sel")

    def __init__(self, **kwargs: Any) -> None:
        self.k_factor = float(np.float32(number("k_factor", kwargs.pop("k_factor", 1.0))))
        self.base_index_params = kwargs.pop("base_index_params", None)
        self.sel = kwargs.pop("sel", None)
        if self.sel is not None and not isinstance(self.sel, faiss.IDSelector):
            raise TypeError(f"sel: expected a faiss.IDSelector, got {type(self.sel)}")
        if kwargs:
            raise ArgumentError(f"unknown search parameters: {sorted(kwargs)}")

    def of_base(self, nprobe: int) -> Any:
        """The parameters for the base index, with `sel`; nprobe: the index's, for those that say
        nothing of it."""
        params, sel = self.base_index_params, self.sel
        if sel is None:
            return params
        if params is None:
            return SearchParametersIVFQINCo(nprobe=nprobe, sel=sel)
        return selecting(params, lambda other: faiss.IDSelectorAnd(sel, other), sel)


def refine_params(params: Any) -> IndexRefineSearchParameters | None:
    """The parameters of a call to an `IndexRefine`, ours or faiss's. Raises TypeError or
    RuntimeError for others, as FAISS does."""
    if params is None or isinstance(params, IndexRefineSearchParameters):
        return params
    if isinstance(params, faiss.IndexRefineSearchParameters):
        return IndexRefineSearchParameters(
            k_factor=params.k_factor,
            base_index_params=given(params, "base_index_params"),
            sel=given(params, "sel"),
        )
    if isinstance(params, (faiss.SearchParameters, SearchParametersIVFQINCo)):
        raise RuntimeError(f"IndexRefine params have incorrect type: {type(params).__name__}")
    raise TypeError(f"params: expected IndexRefineSearchParameters, got {type(params)}")


def selecting(params: Any, change: Callable[[Any], Any], instead: Any = None) -> Any:
    """The same parameters with change(sel) as their selector, or where they have none `instead`.
    They are not changed, so that other threads may use them. Raises as `search` for parameters of
    an unknown kind."""
    if params is None:
        return None
    if isinstance(params, faiss.SearchParametersPreTransform):  # whose index takes bare ones too
        return selecting(given(params, "index_params"), change, instead)
    if isinstance(params, (IndexRefineSearchParameters, faiss.IndexRefineSearchParameters)):
        own = refine_params(params)
        assert own is not None
        return IndexRefineSearchParameters(
            k_factor=own.k_factor,
            base_index_params=selecting(own.base_index_params, change),
            sel=instead if own.sel is None else change(own.sel),
        )
    found = resolve_params(params, Defaults(None, 1.0, None), MOST_CODES).given
    found.sel = instead if found.sel is None else change(found.sel)
    return found


def translated(sel: Any, ids: Any) -> Any:
    """A selector of the numbers 0, 1 … that asks `sel` of their ids, a `faiss.Int64Vector`, which
    must not change meanwhile. It refuses other numbers."""
    if not is_native(sel):
        n = ids.size()
        return _Asked(lambda i: 0 <= i < n and sel.is_member(ids.at(i)))
    return faiss.IDSelectorAnd(
        faiss.IDSelectorRange(0, ids.size()), faiss.IDSelectorTranslated(ids, sel)
    )


def shifted(sel: Any, by: int, n: int) -> Any:
    """A selector of the numbers below n that asks `sel` of them plus `by`."""
    if by == 0:
        return sel
    if type(sel) is faiss.IDSelectorRange:
        low, high = (max(end - by, 0) for end in (sel.imin, sel.imax))
        return faiss.IDSelectorRange(low, high)
    if not is_native(sel):
        return _Asked(lambda i: sel.is_member(i + by))
    ids = faiss.Int64Vector()
    faiss.copy_array_to_vector(np.arange(by, by + n), ids)
    return translated(sel, ids)


class _Asked(faiss.IDSelectorAll):
    """Asks a function; C++ does not see that."""

    def __init__(self, is_member: Callable[[int], bool]) -> None:
        super().__init__()
        self._ask = is_member

    def is_member(self, id: int) -> bool:
        return self._ask(id)
