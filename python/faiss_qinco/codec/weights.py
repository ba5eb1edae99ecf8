"""A codec's tensors: their names and shapes, and the form that the extension takes."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from .. import _core
from .config import QINCoConfig

Tensor = TypeVar("Tensor")  # numpy's or torch's


def pack_weights(
    config: QINCoConfig,
    nbits: int,
    ivf: bool,
    mean: np.ndarray,
    std: float,
    tensors: dict[str, np.ndarray],
    in_bf16: bool | None = None,
) -> _core.QincoWeights:
    """The weights in `tensors`, as a codec names them, in the form that the extension takes.

    in_bf16: whether `encode` multiplies in bfloat16; None: where the CPU has it.
    """
    packed = _core.QincoWeights(nbits, ivf, not config.qinco1, mean, std, tensors["base"], in_bf16)
    L, d_e, d_h = config.L, config.width(len(mean)), config.d_h
    m = 0
    while step := with_prefix(tensors, f"steps.{m}."):
        m += 1
        W = step["concat.mlp.weight"]
        if config.low_rank:
            # Without BLAS, whose threads would go on spinning beside those of the encoder.
            W = np.einsum("er,rd->ed", W, step["concat.down.weight"])
        up = [step[f"blocks.{i}.up.weight"] for i in range(L)]
        down = [step[f"blocks.{i}.down.weight"] for i in range(L)]
        packed.add_step(
            step["codebook"],
            step.get("in_proj.weight"),
            W,
            step.get("concat.mlp.bias"),
            np.stack(up) if L else np.empty((0, d_h, d_e), np.float32),
            np.stack(down) if L else np.empty((0, d_e, d_h), np.float32),
            step.get("out_proj.weight"),
            step.get("preselect"),
        )
    return packed


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name starts with the prefix, by the rest of the name."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def tensor_shapes(
    config: QINCoConfig, d: int, M: int, nbits: int, nlist: int | None
) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor of a codec, `mean` included."""
    for name, value, low, high in (
        ("d", d, 1, 1 << 20), ("M", M, 1, 1 << 10), ("nbits", nbits, 4, 8),
        ("nlist", 1 if nlist is None else nlist, 1, 1 << 40), ("L", config.L, 0, 1 << 10),
    ):  # fmt: skip
        if not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name}: expected an integer in {low}..{high}, got {value!r}")
    K, d_e, d_h = 1 << nbits, config.width(d), config.d_h
    shapes: dict[str, tuple[int, ...]] = {
        "mean": (d,),
        "base": (K if nlist is None else nlist, d),
    }
    for m in range(M if nlist is not None else M - 1):
        s = f"steps.{m}."
        shapes[s + "codebook"] = (K, d)
        if config.A > 0:
            shapes[s + "preselect"] = (K, d)
        if d_e != d:
            shapes[s + "in_proj.weight"] = (d_e, d)
            shapes[s + "out_proj.weight"] = (d, d_e)
        if config.low_rank:
            shapes[s + "concat.down.weight"] = (d_h, d_e + d)
            shapes[s + "concat.mlp.weight"] = (d_e, d_h)
        else:
            shapes[s + "concat.mlp.weight"] = (d_e, d_e + d)
            shapes[s + "concat.mlp.bias"] = (d_e,)
        for i in range(config.L):
            shapes[f"{s}blocks.{i}.up.weight"] = (d_h, d_e)
            shapes[f"{s}blocks.{i}.down.weight"] = (d_e, d_h)
    return shapes
