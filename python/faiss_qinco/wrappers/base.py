"""What indexes around others have in common: what they can be around, and what `faiss.Index` does
for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from ..checks import INT64, check_buffer, filled, integer
from ..index import IndexIVFQINCo, IndexQINCo
from ..pre_transform import IndexPreTransform
from ..tensors import takes_tensors
from .lock import Lock
from .of_index import stood_for

_OF_ARRAYS = {
    "train", "add", "add_with_ids", "remove_ids", "search", "range_search", "reconstruct",
    "sa_encode", "sa_decode",
}  # fmt: skip


def _not_implemented(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"{name} not implemented for {type(self).__name__}")

    method.__name__ = name
    method.__doc__ = "Raises RuntimeError: this index has none, as in faiss."
    return method


class Wrapper:
    """An index around others of this package. (Without slots: see `register`, which makes one of an
    object of faiss's.)"""

    _attributes: tuple[str, ...]
    _lock: Lock
    _stands_for: ClassVar[type | None] = None
    __class__ = stood_for

    def __init_subclass__(cls) -> None:
        for name in _OF_ARRAYS & vars(cls).keys():
            setattr(cls, name, takes_tensors(vars(cls)[name]))

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._attributes and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)

    add_with_ids = _not_implemented("add_with_ids")
    range_search = _not_implemented("range_search")
    reconstruct = _not_implemented("reconstruct")
    remove_ids = _not_implemented("remove_ids")
    check_compatible_for_merge = _not_implemented("check_compatible_for_merge")
    merge_from = _not_implemented("merge_from")
    sa_code_size = _not_implemented("sa_code_size")
    sa_encode = _not_implemented("sa_encode")
    sa_decode = _not_implemented("sa_decode")
    search: Callable[..., Any]
    ntotal: Any
    d: Any

    @takes_tensors
    def assign(self, x: np.ndarray, k: int, labels: np.ndarray | None = None) -> np.ndarray:
        """The ids (n, k) of `search`."""
        found: np.ndarray = self.search(x, k, I=labels)[1]
        return found

    @takes_tensors
    def search_and_reconstruct(
        self,
        x: np.ndarray,
        k: int,
        *,
        params: Any = None,
        D: np.ndarray | None = None,
        I: np.ndarray | None = None,
        R: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`search`, and what `reconstruct` gives for each result: D, I (n, k) and R (n, k, d)
        float32, NaN where a result is missing. Raises as the two."""
        with self._lock.reading():
            D, I = self.search(x, k, params=params, D=D, I=I)
            check_buffer("R", R, (*I.shape, self.d), np.float32)
            R = np.empty((*I.shape, self.d), np.float32) if R is None else R
            R[...] = np.nan
            ids, where = np.unique(I, return_inverse=True)
            if len(ids):
                decoded = np.full((len(ids), self.d), np.nan, np.float32)
                for row, key in zip(decoded, ids.tolist(), strict=True):
                    if key >= 0:
                        row[:] = self.reconstruct(key)
                R[...] = decoded[where.reshape(I.shape)]
        return D, I, R

    @takes_tensors
    def reconstruct_batch(self, key: Any, x: np.ndarray | None = None) -> np.ndarray:
        """What `reconstruct` gives for each of some ids (m,): (m, d) float32. Raises as that."""
        keys = np.ascontiguousarray(key, np.int64)
        if keys.ndim != 1:
            raise ValueError(f"key: expected shape (m,), got {keys.shape}")
        check_buffer("x", x, (len(keys), self.d), np.float32)
        decoded = np.empty((len(keys), self.d), np.float32)
        with self._lock.reading():
            for row, one in zip(decoded, keys.tolist(), strict=True):
                row[:] = self.reconstruct(one)
        return filled(x, decoded)

    def reconstruct_n(self, n0: int = 0, ni: int = -1, x: np.ndarray | None = None) -> np.ndarray:
        """What `reconstruct` gives for ids n0 .. n0+ni-1: (ni, d) float32; ni = -1: up to ntotal.
        Raises as that."""
        n0, ni = integer("n0", n0, *INT64), integer("ni", ni, *INT64)
        ni = max(self.ntotal - n0, 0) if ni == -1 else ni
        if ni < 0:
            raise RuntimeError(f"ni: expected at least -1, got {ni}")
        return self.reconstruct_batch(range(n0, n0 + ni), x)


OURS = (IndexIVFQINCo, IndexQINCo, IndexPreTransform, Wrapper)


def check_inside(name: str, index: Any, kinds: tuple[type, ...] = OURS) -> None:
    """Raises TypeError unless an index of one of these kinds."""
    if not isinstance(index, kinds):
        hint = "; for one of faiss's there is faiss's own" if not isinstance(index, OURS) else ""
        raise TypeError(
            f"{name}: expected one of {[kind.__name__ for kind in kinds]}, got {type(index)}{hint}"
        )


def inside(index: Any) -> list[Any]:
    """The indexes of this package that one is around, none for one that is around nothing."""
    if isinstance(index, (IndexIVFQINCo, IndexQINCo)):
        return []
    return [index.index] if isinstance(index, IndexPreTransform) else list(index._inside())


def leaves(index: Any) -> Iterator[IndexIVFQINCo | IndexQINCo]:
    """The indexes that hold the vectors, in order."""
    within = inside(index)
    if not within:
        if isinstance(index, (IndexIVFQINCo, IndexQINCo)):
            yield index
        return
    for one in within:
        yield from leaves(one)
