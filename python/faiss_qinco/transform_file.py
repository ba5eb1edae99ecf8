"""A faiss transform as what it consists of: a JSON header and tensors, trained or not.

faiss's own bytes lose the settings of a training still to be done, and are followed by it wherever
they lead. Here sizes are checked when a transform is made of them, and nothing is left to follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import faiss
import numpy as np

from .errors import ArgumentError
from .storage.container import FileFormatError, finite, take_number

_INT = -(1 << 31), (1 << 31) - 1
_LINEAR: dict[str, type] = {"have_bias": bool, "is_orthonormal": bool}
# By class (those that this faiss has): settings, and vectors with their sizes once it is trained.
_SETTINGS: dict[str, dict[str, type]] = {
    "LinearTransform": _LINEAR,
    "RandomRotationMatrix": _LINEAR,
    "OPQMatrix": _LINEAR
    | dict.fromkeys(("M", "niter", "niter_pq", "niter_pq_0", "max_train_points"), int),
    "PCAMatrix": _LINEAR
    | {"eigen_power": float, "epsilon": float, "random_rotation": bool, "max_points_per_d": int,
       "balanced_bins": int},
    "ITQMatrix": _LINEAR | {"max_iter": int, "seed": int},
    "ITQTransform": {"do_pca": bool, "max_train_per_dim": int},
    "RemapDimensionsTransform": {},
    "NormalizationTransform": {"norm": float},
    "CenteringTransform": {},
    "HadamardRotation": {"seed": int},
}  # fmt: skip
_VECTORS: dict[str, tuple[str, ...]] = {
    "PCAMatrix": ("A", "b", "mean", "eigenvalues", "PCAMat"),
    "ITQTransform": ("mean",),
    "RemapDimensionsTransform": ("map",),
    "CenteringTransform": ("mean",),
} | dict.fromkeys(
    ("LinearTransform", "RandomRotationMatrix", "OPQMatrix", "ITQMatrix"), ("A", "b")
)  # fmt: skip
_PARTS = {"ITQTransform": {"itq": "ITQMatrix", "pca_then_itq": "LinearTransform"}}


def kind_of(transform: Any) -> str:
    """The name of its class, of those that can be here."""
    return type(transform).__name__


def check_transform(transform: Any) -> None:
    """Raises TypeError for a transform that is not known here, ArgumentError for one that cannot
    work."""
    if kind_of(transform) not in _SETTINGS:
        raise TypeError(f"transforms: expected one of {[*_SETTINGS]}, got {type(transform)}")
    if isinstance(transform, faiss.PCAMatrix) and transform.d_out > transform.d_in:
        raise ArgumentError(
            f"transforms: PCA cannot make {transform.d_out} dimensions of {transform.d_in}"
        )
    if isinstance(transform, faiss.OPQMatrix) and transform.d_out % max(1, transform.M):
        raise ArgumentError(
            f"transforms: OPQ cannot cut {transform.d_out} dimensions into {transform.M} parts"
        )


def transform_state(transform: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a transform consists of."""
    if (kind := kind_of(transform)) not in _SETTINGS:
        raise TypeError(f"transforms: expected one of {[*_SETTINGS]}, got {type(transform)}")
    header: dict[str, Any] = {
        "kind": kind, "d_in": transform.d_in, "d_out": transform.d_out,
        "is_trained": bool(transform.is_trained),
    }  # fmt: skip
    header |= {name: cast(getattr(transform, name)) for name, cast in _SETTINGS[kind].items()}
    tensors = {
        name: faiss.vector_to_array(getattr(transform, name)) for name in _VECTORS.get(kind, ())
    }
    for name in _PARTS.get(kind, ()):
        header[name], part = transform_state(getattr(transform, name))
        tensors |= {f"{name}.{key}": tensor for key, tensor in part.items()}
    return header, tensors


def restore_transform(
    transform: Any, header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
    """Make a transform of the same class what `transform_state` said of one. What it was given to
    train with, OPQ's `pq`, it keeps."""
    kind = kind_of(transform)
    for name in ("d_in", "d_out", "is_trained", *_SETTINGS[kind]):
        setattr(transform, name, header[name])
    for name in _VECTORS.get(kind, ()):
        faiss.copy_array_to_vector(np.ascontiguousarray(tensors[name]), getattr(transform, name))
    for name in _PARTS.get(kind, ()):
        prefix = f"{name}."
        part = {k[len(prefix) :]: t for k, t in tensors.items() if k.startswith(prefix)}
        restore_transform(getattr(transform, name), header[name], part)
    if kind == "HadamardRotation":
        transform.init(header["seed"])


def transform_from_state(header: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """Inverse of `transform_state`, of what may be anything. Raises FileFormatError, and what
    `storage.container.reading` turns into that."""
    _check_state(header, tensors)
    kind = header["kind"]
    make = getattr(faiss, kind, None)
    if make is None:
        raise FileFormatError(f"transforms: {kind} needs a newer faiss than {faiss.__version__}")
    transform = make()
    restore_transform(transform, header, tensors)
    return transform


def copy_transform(transform: Any) -> Any:
    """Another one that owns itself, of one that may be a pointer from C++. Raises TypeError for a
    transform that is not known here, FileFormatError for one that cannot work."""
    header, tensors = transform_state(faiss.downcast_VectorTransform(transform))
    return transform_from_state(header, tensors)


def _check_state(header: Any, tensors: Mapping[str, np.ndarray]) -> None:
    kind = header["kind"]
    if not isinstance(kind, str) or kind not in _SETTINGS:
        raise FileFormatError(f"unknown transform {kind!r:.80}")
    d_in = take_number(header, "d_in", int, 1, 1 << 20)
    d_out = take_number(header, "d_out", int, 1, 1 << 20)
    for name, cast in {"is_trained": bool, **_SETTINGS[kind]}.items():
        if cast is bool:
            if type(header[name]) is not bool:
                raise FileFormatError(f"{name}: expected a bool, got {header[name]!r:.80}")
        elif cast is int:
            take_number(header, name, int, *((1, _INT[1]) if name in _POSITIVE else _INT))
        else:
            take_number(header, name, float, -1e30, 1e30)
    trained = header["is_trained"]
    if kind in ("NormalizationTransform", "CenteringTransform") and d_in != d_out:
        raise FileFormatError(f"transforms: {kind} from {d_in} to {d_out} dimensions")
    if kind == "HadamardRotation" and d_out != 1 << (d_in - 1).bit_length():
        raise FileFormatError(f"transforms: {kind} from {d_in} to {d_out} dimensions")
    sizes = {
        "A": d_in * d_out,
        "b": d_out if header.get("have_bias") else 0,
        "mean": d_in,
        "map": d_out,
    }
    for name in _VECTORS.get(kind, ()):
        tensor = tensors[name]
        dtype = np.dtype(np.int32 if name == "map" else np.float32)
        if tensor.dtype != dtype or tensor.ndim != 1:
            raise FileFormatError(f"transforms: {name}: expected {dtype} (n,), got {tensor.dtype}")
        if (trained or name == "map") and name in sizes and len(tensor) != sizes[name]:
            raise FileFormatError(
                f"transforms: {name}: expected {sizes[name]} numbers, got {len(tensor)}"
            )
        finite(name, tensor)
        if name == "map" and not -1 <= tensor.min() <= tensor.max() < d_in:
            raise FileFormatError(f"transforms: map: expected numbers in -1..{d_in - 1}")
    for name, part_kind in _PARTS.get(kind, {}).items():
        prefix = f"{name}."
        part = {k[len(prefix) :]: t for k, t in tensors.items() if k.startswith(prefix)}
        _check_state(header[name], part)
        found = tuple(header[name][key] for key in ("kind", "d_in", "d_out", "is_trained"))
        if found != (expected := (part_kind, d_out if name == "itq" else d_in, d_out, trained)):
            raise FileFormatError(f"transforms: {name}: expected {expected}, got {found}")


_POSITIVE = {"M", "niter", "niter_pq", "niter_pq_0", "max_train_points", "max_points_per_d",
             "max_train_per_dim", "max_iter"}  # fmt: skip
