"""Search parameters of one call."""

from __future__ import annotations

import operator
from typing import Any

import faiss

from .errors import ArgumentError
from .selectors import selector_of


class SearchParametersIVFQINCo:
    """Parameters of one `search` call, in the manner of `faiss.SearchParametersIVF`.

    Parameters
    ----------
    nprobe : lists to visit; default 1, as in FAISS.
    nshort : vectors to re-rank with the neural codebooks (0: none, D is then the additive
        distance); None: the index's.
    exit_margin : early exit of re-ranking, see `IndexIVFQINCo.exit_margin` (inf: none); None: the
        index's.
    sel : a `faiss.IDSelector`; only ids that it accepts enter the shortlist.
    max_codes : end the scan of a query after so many codes that `sel` accepts; default 0: never.
    ensure_topk_full : scan the list where max_codes, or k where that is larger, is reached to its
        end; default False.
    max_empty_result_buckets : in `range_search`, end a query after so many lists in a row without
        a code inside the radius by its additive distance; default 0: never.
    quantizer_params : `faiss.SearchParameters` for the coarse quantizer.

    Raises AssertionError (also a ValueError) for an unknown keyword, TypeError or OverflowError
    for a size that is not a non-negative integer.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.nprobe: int = size("nprobe", kwargs.pop("nprobe", 1))
        nshort = kwargs.pop("nshort", None)
        self.nshort: int | None = None if nshort is None else size("nshort", nshort)
        exit_margin = kwargs.pop("exit_margin", None)
        self.exit_margin = None if exit_margin is None else margin_factor(exit_margin)
        self.sel: faiss.IDSelector | None = kwargs.pop("sel", None)
        self.max_codes: int = size("max_codes", kwargs.pop("max_codes", 0))
        self.ensure_topk_full: bool = bool(kwargs.pop("ensure_topk_full", False))
        self.max_empty_result_buckets: int = size(
            "max_empty_result_buckets", kwargs.pop("max_empty_result_buckets", 0)
        )
        self.quantizer_params: faiss.SearchParameters | None = kwargs.pop("quantizer_params", None)
        if kwargs:
            raise ArgumentError(f"unknown search parameters: {sorted(kwargs)}")
        if self.sel is not None and not isinstance(self.sel, faiss.IDSelector):
            raise TypeError(f"sel: expected a faiss.IDSelector, got {type(self.sel)}")


def size(name: str, value: Any) -> int:
    """An integer >= 0, with the errors of FAISS's size_t attributes."""
    number = operator.index(value)
    if number < 0:
        raise OverflowError(f"{name}: expected an integer >= 0, got {number}")
    return number


def margin_factor(value: float) -> float:
    """A factor >= 0, inf included. Raises TypeError or ValueError for anything else."""
    if isinstance(value, str) or not (factor := float(value)) >= 0:
        raise ValueError(f"exit_margin: expected a number >= 0, got {value!r}")
    return factor


def resolve_params(
    params: Any, nprobe: int, nshort: int, exit_margin: float
) -> SearchParametersIVFQINCo:
    """The parameters of a call: the index's where `params` is None; `faiss.SearchParametersIVF`
    is taken too. Raises TypeError or RuntimeError for anything else, as FAISS does."""
    if params is None:
        return SearchParametersIVFQINCo(nprobe=nprobe, nshort=nshort, exit_margin=exit_margin)
    if isinstance(params, faiss.SearchParametersIVF):
        if getattr(params, "max_lists_num", 0):
            raise RuntimeError("max_lists_num is not supported: set nprobe")
        names = ("nprobe", "max_codes", "quantizer_params")
        newer = {"ensure_topk_full": False, "max_empty_result_buckets": 0}  # than faiss 1.9
        params = SearchParametersIVFQINCo(
            sel=selector_of(params),
            **{name: getattr(params, name) for name in names},
            **{name: getattr(params, name, default) for name, default in newer.items()},
        )
    if isinstance(params, faiss.SearchParameters):
        raise RuntimeError(f"IndexIVFQINCo params have incorrect type: {type(params).__name__}")
    if not isinstance(params, SearchParametersIVFQINCo):
        raise TypeError(f"params: expected SearchParametersIVFQINCo, got {type(params)}")
    given = {k: v for k, v in vars(params).items() if v is not None}
    return SearchParametersIVFQINCo(**{"nshort": nshort, "exit_margin": exit_margin, **given})
