"""Search parameters of one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss

from .checks import integer, margin_factor, size
from .errors import ArgumentError
from .selectors import given

DEFAULT_NSHORT = 100
DEFAULT_K_FACTOR = 4
MOST_CODES = 64


class SearchParametersIVFQINCo:
    """Parameters of one `search` call, in the manner of `faiss.SearchParametersIVF`.

    Parameters
    ----------
    nprobe : lists to visit; default 1, as in FAISS.
    nshort : vectors to re-rank with the neural codebooks; the rest of k follows as the tables rank
        it (0: all, D is then the additive distance); None: the index's.
    exit_margin : early exit of re-ranking, see `IndexIVFQINCo.exit_margin` (inf: none); None: the
        index's.
    M_search : codes of each vector to search by, the first of them, see `IndexIVFQINCo.M_search`;
        None: as the index does.
    sel : a `faiss.IDSelector`; only ids that it accepts enter the shortlist.
    max_codes : end the scan of a query after so many codes that `sel` accepts; default 0: never.
    min_codes : go on after the nprobe lists, to the next in order of distance, until so many codes
        that `sel` accepts were scanned, see `IndexIVFQINCo.min_codes`; None: the index's.
    max_lists_num : visit at most so many lists that are not empty, be it for nprobe or min_codes;
        default 0: any number. FAISS's indexes heed it in k-NN searches of fast-scan codes alone.
    ensure_topk_full : scan the list where max_codes, or k where that is larger, is reached to its
        end, and take a max_lists_num below k for k; default False.
    max_empty_result_buckets : in `range_search`, end a query after so many lists in a row without
        a code inside the radius by its additive distance; default 0: never.
    quantizer_params : `faiss.SearchParameters` for the coarse quantizer.

    Raises AssertionError (also a ValueError) for an unknown keyword, TypeError or OverflowError
    for a size that is not a non-negative integer, ValueError for an M_search below 1 (and for one
    above the index's M where it is used).
    """

    __slots__ = (
        "M_search", "ensure_topk_full", "exit_margin", "max_codes", "max_empty_result_buckets",
        "max_lists_num", "min_codes", "nprobe", "nshort", "quantizer_params", "sel",
    )  # fmt: skip

    nprobe: int
    nshort: int | None
    exit_margin: float | None
    M_search: int | None
    sel: faiss.IDSelector | None
    max_codes: int
    min_codes: int | None
    max_lists_num: int
    ensure_topk_full: bool
    max_empty_result_buckets: int
    quantizer_params: faiss.SearchParameters | None

    def __init__(self, **kwargs: Any) -> None:
        for name in ("nprobe", "max_codes", "max_lists_num", "max_empty_result_buckets"):
            setattr(self, name, size(name, kwargs.pop(name, int(name == "nprobe"))))
        for name in ("nshort", "min_codes"):
            value = kwargs.pop(name, None)
            setattr(self, name, None if value is None else size(name, value))
        margin = kwargs.pop("exit_margin", None)
        self.exit_margin = None if margin is None else margin_factor(margin)
        M_search = kwargs.pop("M_search", None)
        self.M_search = None if M_search is None else integer("M_search", M_search, 1, MOST_CODES)
        self.ensure_topk_full = bool(kwargs.pop("ensure_topk_full", False))
        for name, kind in (("sel", faiss.IDSelector), ("quantizer_params", faiss.SearchParameters)):
            value = kwargs.pop(name, None)
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name}: expected a faiss.{kind.__name__}, got {type(value)}")
            setattr(self, name, value)
        if kwargs:
            raise ArgumentError(f"unknown search parameters: {sorted(kwargs)}")


@dataclass(frozen=True)
class Defaults:
    """What an index has set; the last two count where a call has no parameters, as in FAISS."""

    nshort: int | None
    exit_margin: float
    M_search: int | None
    min_codes: int = 0
    nprobe: int = 1
    max_codes: int = 0


@dataclass(frozen=True)
class Resolved:
    """The parameters of a call, with the index's where it gave none; k is still to be asked."""

    given: SearchParametersIVFQINCo
    default_nshort: int | None
    exit_margin: float
    M_search: int
    min_codes: int
    kept_alive: Any  # what the caller gave: it may be all that keeps sel and quantizer_params

    def nshort(self, k: int) -> int:
        """The shortlist's length for k results: by default it follows k."""
        nshort = self.default_nshort if self.given.nshort is None else self.given.nshort
        return max(DEFAULT_NSHORT, DEFAULT_K_FACTOR * k) if nshort is None else nshort


def resolve_params(params: Any, index: Defaults, M: int) -> Resolved:
    """The parameters of a call to an index of M codes: its own where `params` is None;
    `faiss.SearchParametersIVF` is taken too. Raises TypeError or RuntimeError for anything else, as
    FAISS does, RuntimeError for an nprobe of 0, or for min_codes with a quantizer_params.sel, and
    ValueError for an M_search above M."""
    found = params
    if params is None:
        found = SearchParametersIVFQINCo(nprobe=index.nprobe, max_codes=index.max_codes)
    elif isinstance(params, faiss.SearchParametersIVF):
        newer = {  # than faiss 1.9
            "ensure_topk_full": False, "max_empty_result_buckets": 0, "max_lists_num": 0,
        }  # fmt: skip
        found = SearchParametersIVFQINCo(
            nprobe=params.nprobe,
            max_codes=params.max_codes,
            **{name: given(params, name) for name in ("sel", "quantizer_params")},
            **{name: getattr(params, name, default) for name, default in newer.items()},
        )
    elif isinstance(params, faiss.SearchParameters):
        raise RuntimeError(f"IndexIVFQINCo params have incorrect type: {type(params).__name__}")
    elif isinstance(params, SearchParametersIVFQINCo):
        # Checked again: its attributes may have been set since.
        found = SearchParametersIVFQINCo(**{k: getattr(params, k) for k in params.__slots__})
    else:
        raise TypeError(f"params: expected SearchParametersIVFQINCo, got {type(params)}")
    if found.nprobe == 0:
        raise RuntimeError("nprobe: expected at least 1, got 0")
    margin = index.exit_margin if found.exit_margin is None else found.exit_margin
    M_search = index.M_search
    if found.M_search is not None:
        M_search = integer("M_search", found.M_search, 1, M)
    min_codes = index.min_codes if found.min_codes is None else found.min_codes
    lists = found.quantizer_params
    if min_codes and lists is not None and given(lists, "sel") is not None:
        raise RuntimeError(
            f"min_codes: expected 0 beside quantizer_params.sel, which leaves lists out, got "
            f"{min_codes}"
        )
    return Resolved(
        found, index.nshort, margin, M if M_search is None else M_search, min_codes, params
    )
