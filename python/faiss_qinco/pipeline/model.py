"""The model of a pipeline: a trained index, whatever is in it."""

from __future__ import annotations

import hashlib
from typing import Any

import faiss
import numpy as np

from ..index import IndexIVFQINCo, IndexQINCo
from ..pre_transform import IndexPreTransform
from ..transform_file import transform_state

Leaf = IndexIVFQINCo | IndexQINCo


def leaf_of(index: Any) -> Leaf:
    """The index that has the codes: itself, or what is behind its transforms. Raises TypeError for
    an index of another kind, RuntimeError if it is not trained."""
    leaf = index.index if isinstance(index, IndexPreTransform) else index
    if not isinstance(leaf, (IndexIVFQINCo, IndexQINCo)):
        raise TypeError(
            "index: expected IndexIVFQINCo, IndexQINCo, or IndexPreTransform around one, got "
            f"{type(index)}"
        )
    leaf._check_trained()
    return leaf


def fingerprint_of(index: Any) -> str:
    """What tells a trained index from all whose codes mean something else, 32 hex digits: that of
    its engine, or with what is in front of it. Raises as `leaf_of`."""
    found = leaf_of(index)._check_trained().fingerprint()
    if not isinstance(index, IndexPreTransform):
        return found
    digest = hashlib.sha256(found.encode())
    for transform in index.chain:
        header, tensors = transform_state(transform)
        digest.update(repr(sorted(header.items())).encode())
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()[:32]


def has_beside(leaf: Leaf) -> bool:
    """Whether two bytes stand beside each code: a bias, or what corrects the length."""
    return bool(leaf.metric_type == faiss.METRIC_L2 or leaf.length_correction)
