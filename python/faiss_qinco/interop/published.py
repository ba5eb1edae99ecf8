"""The published QINCo models, version 1 (ICML 2024) and 2 (ICLR 2025): their names and sizes as
those of a codec's file."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..storage.container import FileFormatError
from .archive import Archive, Object

Model = tuple[dict[str, Any], dict[str, np.ndarray]]

_MOST = 1 << 40
_LONGEST = 80  # path of a parameter
_SIZES = (16, 32, 64, 128, 256)
_STATISTICS = (".xtarget_mean", ".xtarget_var")  # of version 2's training: nothing decodes by them


def published_model(archive: Archive) -> Model:
    """Header and tensors of a codec's file, as `QINCoCodec.state` has them, of a model that the
    reference program saved. Of PQ-QINCo those of the parts, and the rotation.

    Raises FileFormatError where it is no such model, or of sizes that no codec here has.
    """
    root = archive.root
    if isinstance(root, Object):
        if root.kind == "PQ_QINCo":
            return _parts(archive, root)
        return _first(archive, root)
    if type(root) is dict and {"model", "parameters"} <= root.keys():
        return _second(archive, root)
    raise FileFormatError(
        "expected a QINCo model, version 1 (of the module model_qinco) or 2 (a dict with model and "
        "parameters)"
    )


def _first(archive: Archive, model: Object) -> Model:
    """Version 1: attributes and parameters of a module."""
    if model.kind not in ("QINCo", "QINCoLR", "IVFQINCo"):
        raise FileFormatError(f"expected a QINCo model, got a {model.kind}")
    values, state = _attributes(model), state_dict(model)
    ivf, low_rank = model.kind == "IVFQINCo", model.kind == "QINCoLR"
    M, L = _depth(values, state)
    names = {"base": "codebook0.weight"}
    for m, s in enumerate(range(0 if ivf else 1, M)):
        ours, theirs = f"steps.{m}.", f"step{s}."
        names[f"{ours}codebook"] = f"{theirs}codebook.weight"
        if low_rank:
            names[f"{ours}concat.down.weight"] = f"{theirs}MLPconcat.0.weight"
            names[f"{ours}concat.mlp.weight"] = f"{theirs}MLPconcat.1.weight"
        else:
            for part in ("weight", "bias"):
                names[f"{ours}concat.mlp.{part}"] = f"{theirs}MLPconcat.{part}"
        for i in range(L):
            names[f"{ours}blocks.{i}.up.weight"] = f"{theirs}residual_block{i}.0.weight"
            names[f"{ours}blocks.{i}.down.weight"] = f"{theirs}residual_block{i}.2.weight"
    d = _integer(values, "d", 1, _MOST)
    header = _header(values, "d", "h", "K_IVF" if ivf else None, M, L)
    header["std"] = _real(values, "db_scale")
    header["config"] |= {"qinco1": True, "low_rank": low_rank}
    tensors = _arrays(archive, state, names)
    # The size of what has been read justifies this one.
    if tensors["base"].shape[-1:] != (d,):
        raise FileFormatError(f"codebook0.weight: expected d={d}, got {tensors['base'].shape}")
    return header, {"mean": np.zeros(d, np.float32), **tensors}


def _second(archive: Archive, root: dict[Any, Any]) -> Model:
    """Version 2: a state dict, and what the model was made with."""
    values, state = root["parameters"], root["model"]
    if type(values) is not dict or type(state) is not dict:
        raise FileFormatError("model, parameters: expected a dict of each")
    values = {"data_dim": root.get("data_dim"), "A": 0, "B": 1, "dh": 1, **values}
    if not all(type(name) is str for name in state):
        raise FileFormatError("model: expected names of tensors")
    state = {name.removeprefix("module."): value for name, value in state.items()}
    state = {k: v for k, v in state.items() if not k.endswith(_STATISTICS)}
    M, L = _depth(values, state)
    ivf = _flag(values, "ivf_in_use")
    header = _header(values, "data_dim", "dh", "ivf_K" if ivf else None, M, L)
    A, B = _integer(values, "A", 0, _MOST), _integer(values, "B", 1, _MOST)
    d_e = _integer(values, "de", 1, _MOST) if values.get("de") is not None else header["d"]
    projected = d_e != header["d"]
    qinco1 = _flag(values, "qinco1_mode")
    if qinco1 and projected:
        raise FileFormatError("qinco1_mode: expected no de, or that of the vectors")
    header["config"] |= {"A": A, "B": B, "d_e": d_e if projected else None, "qinco1": qinco1}

    first = "ivf_centroids" if ivf else "codebook"
    names = {"mean": "data_mean", "std": "data_std", "base": f"steps.0.{first}.weight"}
    for m in range(M if ivf else M - 1):
        ours, theirs = f"steps.{m}.", f"steps.{m + 1}."
        names[f"{ours}codebook"] = f"{theirs}codebook.weight"
        if A > 0:
            names[f"{ours}preselect"] = f"{theirs}substep.codebook.weight"
        same = ["concat.mlp.weight", "concat.mlp.bias"]
        for name in [*same, *(["in_proj.weight", "out_proj.weight"] if projected else [])]:
            names[ours + name] = theirs + name
        for i in range(L):
            for part in ("up", "down"):
                block = f"{theirs}residual_blocks.{i}.{part}_proj.weight"
                names[f"{ours}blocks.{i}.{part}.weight"] = block
    tensors = _arrays(archive, state, names)
    std = tensors.pop("std")
    if std.size != 1:
        raise FileFormatError(f"data_std: expected one number, got {std.shape}")
    header["std"] = std.item()
    return header, tensors


def _parts(archive: Archive, model: Object) -> Model:
    """Version 1's PQ-QINCo: models of parts of the vectors, after a rotation."""
    values, modules = _attributes(model), _dict(model, "_modules")
    if _real({"db_scale": 1, **values}, "db_scale") != 1:
        raise FileFormatError("db_scale: expected 1 beside those of the parts")
    names = [f"sub_quantizer_{i}" for i in range(len(modules))]
    if not names or set(names) != modules.keys():
        raise FileFormatError("expected the modules sub_quantizer_0, sub_quantizer_1 …")
    headers: list[dict[str, Any]] = []
    tensors: dict[str, np.ndarray] = {}
    for i, name in enumerate(names):
        part = modules[name]
        if not isinstance(part, Object) or part.kind not in ("QINCo", "QINCoLR"):
            raise FileFormatError(f"{name}: expected a QINCo")
        header, own = _first(archive, part)
        headers.append(header)
        tensors |= {f"parts.{i}.{k}": v for k, v in own.items()}
    matrix = {**values, **_dict(model, "_parameters")}.get("opq_matrix")
    if matrix is not None:
        tensors["matrix"] = archive.array("opq_matrix", matrix)
    return {"parts": headers}, tensors


def state_dict(model: Object) -> dict[str, Any]:
    """The parameters of a module and of those in it, by their paths."""
    found: dict[str, Any] = {}
    seen, waiting = set(), [("", model)]
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in seen:  # and round and round
            raise FileFormatError(f"{prefix.removesuffix('.')}: a module that is elsewhere too")
        seen.add(id(module))
        parameters, modules = _dict(module, "_parameters"), _dict(module, "_modules")
        # What all have in front counts as often: paths could take much more than the file.
        if any(len(prefix) + len(name) > _LONGEST for name in (*parameters, *modules)):
            raise FileFormatError("names of parameters that no QINCo model has")
        for name, value in parameters.items():
            if value is not None:
                found[f"{prefix}{name}"] = value
        for name, child in modules.items():
            if not isinstance(child, Object):
                raise FileFormatError(f"{prefix}{name}: expected a module")
            waiting.append((f"{prefix}{name}.", child))
    return found


def _attributes(module: Object) -> dict[Any, Any]:
    return {} if module.state is None else module.state


def _dict(module: Object, name: str) -> dict[Any, Any]:
    found = _attributes(module).get(name)
    if type(found) is not dict or not all(type(key) is str for key in found):
        raise FileFormatError(f"{module.kind}: its {name} are missing")
    return found


def _depth(values: dict[Any, Any], state: dict[str, Any]) -> tuple[int, int]:
    """M and L, once there are as many tensors as they say."""
    M, L = _integer(values, "M", 1, _MOST), _integer(values, "L", 0, _MOST)
    if (M - 1) * max(1, L) > len(state):
        raise FileFormatError("there are not so many tensors as L and M say")
    return M, L


def _header(
    values: dict[Any, Any], d: str, d_h: str, nlist: str | None, M: int, L: int
) -> dict[str, Any]:
    K = _integer(values, "K", 1, _MOST)
    if K not in _SIZES:
        raise FileFormatError(f"K: expected one of {_SIZES}, got {K}")
    return {
        "config": {"L": L, "d_e": None, "d_h": _integer(values, d_h, 1, _MOST), "A": 0, "B": 1},
        "d": _integer(values, d, 1, _MOST),
        "M": M,
        "nbits": K.bit_length() - 1,
        "nlist": None if nlist is None else _integer(values, nlist, 1, _MOST),
        "metric": 1,
    }


def _arrays(
    archive: Archive, state: dict[str, Any], names: dict[str, str]
) -> dict[str, np.ndarray]:
    """The tensors by our names, once there are those and no others."""
    if wrong := sorted(set(names.values()) ^ state.keys()):
        raise FileFormatError(f"tensors do not fit its sizes: {[name[:80] for name in wrong[:4]]}")
    return {ours: archive.array(theirs, state[theirs]) for ours, theirs in names.items()}


# Not as in `take_number`: what a pickle holds may be too much to print.


def _integer(values: dict[Any, Any], name: str, low: int, high: int) -> int:
    value = values.get(name)
    if type(value) is not int or not low <= value <= high:
        raise FileFormatError(f"{name}: expected an integer from {low} to {high}")
    return value


def _real(values: dict[Any, Any], name: str) -> float:
    """A number: of its range it is for the codec to judge."""
    value = values.get(name)
    if type(value) is float or (type(value) is int and abs(value) <= _MOST):
        return float(value)
    raise FileFormatError(f"{name}: expected a number")


def _flag(values: dict[Any, Any], name: str) -> bool:
    value = values.get(name, False)
    if type(value) is not bool:
        raise FileFormatError(f"{name}: expected a bool")
    return value
