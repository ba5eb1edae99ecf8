"""One training for several indexes."""

from __future__ import annotations

from typing import Any

import faiss

from ..engine import Engine
from ..index import IndexIVFQINCo, IndexQINCo
from ..pre_transform import IndexPreTransform
from ..transform_file import copy_transform, kind_of
from .base import inside
from .refine import IndexRefine

_SIZES = ("d", "M", "nbits", "nlist", "metric_type", "length_correction")


def alike(one: Any, other: Any) -> bool:
    """Whether two indexes can have the same training."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (IndexIVFQINCo, IndexQINCo)):
        return all(getattr(one, name) == getattr(other, name) for name in _SIZES)
    if isinstance(one, IndexPreTransform):
        kinds = [[(kind_of(t), t.d_in, t.d_out) for t in index.chain] for index in (one, other)]
        if kinds[0] != kinds[1]:
            return False
    if isinstance(one, IndexRefine) and not _same_refinement(one, other):
        return False
    mine, its = inside(one), inside(other)
    return len(mine) == len(its) and all(map(alike, mine, its))


def _same_refinement(one: IndexRefine, other: IndexRefine) -> bool:
    kinds = [faiss.downcast_index(index.refine_index) for index in (one, other)]
    return type(kinds[0]) is type(kinds[1]) and kinds[0].sa_code_size() == kinds[1].sa_code_size()


def copy_training(source: Any, target: Any) -> None:
    """Train an index, which is empty, by what another one that is `alike` has learnt."""
    if isinstance(source, (IndexIVFQINCo, IndexQINCo)):
        _copy_engine(source, target)
        return
    if isinstance(source, IndexPreTransform):
        target.chain = type(target.chain)(map(copy_transform, source.chain))
    if isinstance(source, IndexRefine):
        target._set_refinement(faiss.clone_index(source.refine_index))
    for mine, its in zip(inside(source), inside(target), strict=True):
        copy_training(mine, its)


def _copy_engine(source: Any, target: Any) -> None:
    e = source._check_trained()
    if isinstance(target, IndexIVFQINCo) and target.quantizer is not source.quantizer:
        target.quantizer = faiss.clone_index(source.quantizer)
    target._engine = Engine(
        e.codec, e.centroids, e.additive, e.checkpoints, e.metric, e.length_correction,
        target.additive_weight, e.error_weight,
    )  # fmt: skip
    if target._wants_direct_map():
        target._engine.core.make_direct_map()
