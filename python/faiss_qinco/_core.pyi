"""Native core. Arrays are C-contiguous; Metric: 1 is L2 (squared), 0 inner product."""

from collections.abc import Callable, Sequence
from math import inf
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Ids = NDArray[np.int64]
_Codes = NDArray[np.uint8]

class _Pybind11Type(type): ...

def simd_level() -> str: ...
def simd_levels() -> list[str]: ...
def pack_codes(codes: _Codes, nbits: int) -> _Codes: ...
def unpack_codes(packed: _Codes, M: int, nbits: int) -> _Codes: ...

class IdFilter(metaclass=_Pybind11Type):
    def __init__(self, *args: NoReturn, **kwargs: NoReturn) -> None: ...  # made here alone
    @staticmethod
    def range(begin: int, end: int) -> IdFilter: ...
    @staticmethod
    def bitmap(n: int, address: int) -> IdFilter: ...
    @staticmethod
    def set(ids: _Ids) -> IdFilter: ...
    @staticmethod
    def faiss(address: int, cheap: bool) -> IdFilter: ...
    @staticmethod
    def python(is_member: Callable[[int], bool]) -> IdFilter: ...
    def accept(self, ids: _Ids) -> NDArray[np.bool_]: ...

class AdditiveTables(metaclass=_Pybind11Type):
    def __init__(self, codebooks: _Floats) -> None: ...
    @property
    def M(self) -> int: ...
    @property
    def K(self) -> int: ...
    @property
    def d(self) -> int: ...
    def compute(self, q: _Floats, metric: int = 1, n_threads: int = 1) -> _Floats: ...

class QincoWeights(metaclass=_Pybind11Type):
    def __init__(
        self,
        nbits: int,
        ivf: bool,
        skip: bool,
        mean: _Floats,
        std: float,
        base: _Floats,
        in_bf16: bool | None = None,
    ) -> None: ...
    def add_step(
        self,
        codebook: _Floats,
        in_proj: _Floats | None,
        concat_weight: _Floats,
        concat_bias: _Floats | None,
        up: _Floats,
        down: _Floats,
        out_proj: _Floats | None,
        preselect: _Floats | None = None,
    ) -> None: ...
    @property
    def d(self) -> int: ...
    @property
    def d_e(self) -> int: ...
    @property
    def d_h(self) -> int: ...
    @property
    def L(self) -> int: ...
    @property
    def M(self) -> int: ...
    @property
    def K(self) -> int: ...
    @property
    def nbits(self) -> int: ...
    @property
    def ivf(self) -> bool: ...
    @property
    def skip(self) -> bool: ...
    @property
    def in_bf16(self) -> bool: ...
    @property
    def n_base(self) -> int: ...

class EarlyExit(metaclass=_Pybind11Type):
    def __init__(self, M: int, K: int, d: int, ks: Sequence[int]) -> None: ...
    def add_checkpoint(
        self,
        n_codes: int,
        margins: Sequence[float],
        tail: _Floats,
        range_margin: tuple[float, float] = (inf, inf),
    ) -> None: ...

class SearchStats(metaclass=_Pybind11Type):
    def __init__(self, *args: NoReturn, **kwargs: NoReturn) -> None: ...  # made here alone
    @property
    def nq(self) -> int: ...
    @property
    def nlist(self) -> int: ...
    @property
    def ndis(self) -> int: ...
    @property
    def n_reranked(self) -> int: ...
    @property
    def n_steps(self) -> int: ...
    @property
    def n_steps_saved(self) -> int: ...
    @property
    def n_student_steps(self) -> int: ...
    def reset(self) -> None: ...
    def add_to(self, address: int) -> None: ...

search_stats: SearchStats

def encode(
    weights: QincoWeights,
    x: _Floats,
    list_no: _Ids | None,
    A: int,
    B: int,
    n_threads: int = 1,
    tables: AdditiveTables | None = None,
    bases: _Floats | None = None,
    additive_weight: float = 0.0,
) -> _Codes: ...
def decode(
    weights: QincoWeights,
    list_no: _Ids | None,
    codes: _Codes,
    n_threads: int = 1,
    n_steps: int | None = None,
) -> _Floats: ...
def assign(
    centroids: _Floats, x: _Floats, nprobe: int, metric: int = 1, n_threads: int = 1
) -> tuple[_Ids, _Floats]: ...

class Reading(metaclass=_Pybind11Type):
    def __init__(self, *args: NoReturn, **kwargs: NoReturn) -> None: ...  # made here alone
    def __enter__(self) -> Reading: ...
    def __exit__(self, *args: object) -> None: ...

class Engine(metaclass=_Pybind11Type):
    def __init__(
        self,
        *,
        nlist: int,
        M: int,
        nbits: int,
        metric: int,
        centroids: _Floats,
        tables: AdditiveTables,
        weights: QincoWeights | None,
        early_exit: EarlyExit | None = None,
        student: QincoWeights | None = None,
        bases: _Floats | None = None,
        corrects_length: bool = False,
    ) -> None: ...
    @property
    def corrects_length(self) -> bool: ...
    @property
    def d(self) -> int: ...
    @property
    def nlist(self) -> int: ...
    @property
    def M(self) -> int: ...
    @property
    def nbits(self) -> int: ...
    @property
    def metric(self) -> int: ...
    @property
    def code_size(self) -> int: ...
    @property
    def ntotal(self) -> int: ...
    @property
    def n_stored(self) -> int: ...
    def search(
        self,
        q: _Floats,
        k: int,
        *,
        n_codes: int = 0,
        nprobe: int = 1,
        nshort: int = 0,
        exit_margin: float = 1.0,
        filter: IdFilter | None = None,
        max_codes: int = 0,
        whole_lists: bool = False,
        max_lists: int = 0,
        min_codes: int = 0,
        coarse_list_no: _Ids | None = None,
        coarse_score: _Floats | None = None,
        n_threads: int = 1,
        D: _Floats | None = None,
        I: _Ids | None = None,
        list_no: _Ids | None = None,
        offset: _Ids | None = None,
    ) -> tuple[_Floats, _Ids]: ...
    def shortlist(
        self,
        q: _Floats,
        k: int,
        *,
        n_codes: int = 0,
        nprobe: int = 1,
        filter: IdFilter | None = None,
        max_codes: int = 0,
        whole_lists: bool = False,
        max_lists: int = 0,
        min_codes: int = 0,
        coarse_list_no: _Ids | None = None,
        coarse_score: _Floats | None = None,
        n_threads: int = 1,
    ) -> tuple[_Ids, _Ids, _Codes, _Floats]: ...
    def range_search(
        self,
        q: _Floats,
        radius: float,
        *,
        n_codes: int = 0,
        nprobe: int = 1,
        nshort: int = 0,
        exit_margin: float = 1.0,
        filter: IdFilter | None = None,
        max_codes: int = 0,
        whole_lists: bool = False,
        max_lists: int = 0,
        min_codes: int = 0,
        max_empty_lists: int = 0,
        coarse_list_no: _Ids | None = None,
        coarse_score: _Floats | None = None,
        n_threads: int = 1,
    ) -> tuple[NDArray[np.uint64], _Floats, _Ids]: ...
    def encode(
        self,
        x: _Floats,
        *,
        list_no: _Ids | None = None,
        A: int,
        B: int,
        additive_weight: float = 0.0,
        n_threads: int = 1,
    ) -> tuple[_Ids, _Codes]: ...
    def add(
        self,
        list_no: _Ids,
        codes: _Codes,
        *,
        lengths: _Floats | None = None,
        ids: _Ids | None = None,
        n_threads: int = 1,
    ) -> None: ...
    def remove(
        self, filter: IdFilter | None, *, renumber: bool = False, n_threads: int = 1
    ) -> int: ...
    def remove_ids(self, ids: _Ids, n_threads: int = 1) -> int: ...
    def update(
        self,
        ids: _Ids,
        list_no: _Ids,
        codes: _Codes,
        *,
        lengths: _Floats | None = None,
        n_threads: int = 1,
    ) -> None: ...
    def merge_from(self, other: Engine, add_id: int) -> None: ...
    def bias(
        self,
        list_no: _Ids,
        codes: _Codes,
        *,
        lengths: _Floats | None = None,
        n_threads: int = 1,
    ) -> _Floats: ...
    def lengths(
        self, list_no: _Ids, codes: _Codes, bias: _Floats, *, n_threads: int = 1
    ) -> _Floats: ...
    def set_rate(self, tables: AdditiveTables, n_fitted: int, n_threads: int = 1) -> None: ...
    def rate(self, n_codes: int) -> tuple[int, int]: ...
    @property
    def may_change(self) -> bool: ...
    def set_ranking(self, early_exit: EarlyExit | None, student: QincoWeights | None) -> None: ...
    def precompute_table(self, n_threads: int = 1) -> None: ...
    def drop_table(self) -> None: ...
    @property
    def table_nbytes(self) -> int: ...
    def make_direct_map(self) -> None: ...
    def clear_direct_map(self) -> None: ...
    @property
    def has_direct_map(self) -> bool: ...
    def reconstruct(self, id: int) -> _Floats: ...
    def reconstruct_n(self, id0: int, n: int, n_threads: int = 1) -> _Floats: ...
    def locate(self, ids: _Ids) -> tuple[_Ids, _Ids]: ...
    def codes_at(self, list_no: _Ids, offset: _Ids) -> _Codes: ...
    def reconstruct_at(self, list_no: _Ids, offset: _Ids, n_threads: int = 1) -> _Floats: ...
    def reset(self) -> None: ...
    @property
    def centroids(self) -> _Floats: ...
    @property
    def bases(self) -> _Floats: ...
    def sizes(self) -> _Ids: ...
    def list_size(self, list_no: int) -> int: ...
    def get_codes(self, list_no: int) -> _Codes: ...
    def get_ids(self, list_no: int) -> _Ids: ...
    def get_bias(self, list_no: int) -> _Floats: ...
    def memory(self) -> dict[str, int]: ...
    def heads(self) -> tuple[_Ids, _Ids, NDArray[np.uint32], _Codes]: ...
    def section_nbytes(self, ids: bool) -> int: ...
    def export_section(self, ids: bool, list_no: int, part: int) -> tuple[_Codes, int, int]: ...
    def restore(
        self,
        sizes: _Ids,
        least: _Ids,
        made: NDArray[np.uint32],
        bits: _Codes,
        blocks: _Codes | tuple[int, Callable[[], _Codes]],
        ids: _Codes | tuple[int, Callable[[], _Codes]],
        ntotal: int,
        checked: bool,
    ) -> None: ...
    def export_codes(self, first: int, n: int) -> _Codes: ...
    def export_bias(self, first: int, n: int) -> _Floats: ...
    def export_ids(self, first: int, n: int) -> _Ids: ...
    def import_(
        self,
        sizes: _Ids,
        rows: Callable[[int, int], tuple[_Codes, _Floats, _Ids]],
        n: int,
        ntotal: int,
    ) -> None: ...
    def reading(self) -> Reading: ...
