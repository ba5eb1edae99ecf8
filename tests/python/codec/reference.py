"""The codec's mathematics in float64 NumPy, one vector at a time (DESIGN; arXiv 2501.03078)."""

from __future__ import annotations

import numpy as np


def step(codec, m: int, k: int, x_hat: np.ndarray) -> np.ndarray:
    """f_m(c_m[k], x̂), all (d,) float64, normalised space."""

    def t(name: str) -> np.ndarray | None:
        value = codec.tensors.get(f"steps.{m}.{name}")
        return None if value is None else value.astype(np.float64)

    c = t("codebook")[k]
    u = c if t("in_proj.weight") is None else t("in_proj.weight") @ c
    w = np.concatenate([u, x_hat])
    if codec.config.low_rank:
        w = t("concat.down.weight") @ w
    z = u + t("concat.mlp.weight") @ w
    if t("concat.mlp.bias") is not None:
        z = z + t("concat.mlp.bias")
    for i in range(codec.config.L):
        hidden = np.maximum(t(f"blocks.{i}.up.weight") @ z, 0)
        z = z + t(f"blocks.{i}.down.weight") @ hidden
    if codec.config.qinco1:
        return z
    return c + (z if t("out_proj.weight") is None else t("out_proj.weight") @ z)


def decode_normalised(codec, codes: np.ndarray) -> np.ndarray:
    """codes (1 + steps,), the base first -> x̂ (d,) float64 in normalised space."""
    x_hat = codec.tensors["base"][codes[0]].astype(np.float64)
    for m, k in enumerate(codes[1:]):
        x_hat = x_hat + step(codec, m, int(k), x_hat)
    return x_hat


def decode(codec, codes: np.ndarray) -> np.ndarray:
    """codes (n, 1 + steps) -> (n, d) float64 in the input's space."""
    return np.stack([decode_normalised(codec, c) * codec.std + codec.mean for c in codes])


def greedy_encode(codec, x: np.ndarray, base: int) -> list[int]:
    """QINCo1's encoder: at each step the best of all K codewords. x (d,) normalised."""
    codes, x_hat = [base], codec.tensors["base"][base].astype(np.float64)
    for m in range(codec.M if codec.nlist is not None else codec.M - 1):
        candidates = [x_hat + step(codec, m, k, x_hat) for k in range(codec.K)]
        best = int(np.argmin([np.square(c - x).sum() for c in candidates]))
        codes.append(best)
        x_hat = candidates[best]
    return codes
