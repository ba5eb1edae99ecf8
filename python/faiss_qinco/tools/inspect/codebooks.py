"""Base codebooks, and what the networks make of them."""

from __future__ import annotations

import math

import numpy as np

from ...codec.codec import QINCoCodec
from ...codec.devices import require_torch
from ...progress import progress_bar
from .findings import Movement, Picture
from .vectors import Codes, before_codes, mean_square

PREFIXES, FLOATS = 128, 1 << 24  # x̂ that codebooks are generated for, and what these may take
SHOWN_PREFIXES = 3  # of which are drawn


def _base_codebooks(codec: QINCoCodec) -> list[np.ndarray]:
    """The base codebooks (K, d) of the networks, as codewords in the units of the input."""
    c = codec.config
    # Without projections QINCo2's f is c + z with z = c at the start: c is half a codeword.
    scale = codec.std * (1 if c.qinco1 or c.width(codec.d) != codec.d else 2)
    n = codec.M - (codec.nlist is None)
    return [codec.tensors[f"steps.{m}.codebook"] * np.float32(scale) for m in range(n)]


def codebook_lengths(codec: QINCoCodec) -> np.ndarray:
    books = _base_codebooks(codec)
    if codec.nlist is None:
        books.insert(0, codec.tensors["base"] * np.float32(codec.std))
    return np.array([math.sqrt(mean_square(book)) for book in books])


def movement(codec: QINCoCodec, known: Codes, progress: bool) -> Movement | None:
    books = _base_codebooks(codec)
    if not books:
        return None
    require_torch("the picture of generated codebooks")
    import torch

    K, d, std = codec.K, codec.d, np.float32(codec.std)
    n = min(len(known.codes), max(SHOWN_PREFIXES, min(PREFIXES, FLOATS // (K * d))))
    some = np.linspace(0, len(known.codes) - 1, n).astype(np.int64)
    codes = known.codes[some]
    lists = None if known.list_no is None else known.list_no[some]
    x = None if known.x is None else known.x[some]
    first = int(codec.nlist is None)  # the code that has no network
    drawn = sorted({0, (len(books) - 1) // 2, len(books) - 1})
    shares, pictures = [], []
    k = torch.arange(K)
    with (
        torch.no_grad(),
        progress_bar("generated codebooks", len(books), "step", progress) as bar,
    ):
        for m, (step, base) in enumerate(
            zip(codec._steps("cpu", torch.float32), books, strict=True)
        ):
            x_hat = (
                before_codes(codec, lists, n)
                if m + first == 0
                else codec.decode_lists(lists, np.ascontiguousarray(codes[:, : m + first]))
            )
            f = np.empty((n, K, d), np.float32)
            for i, prefix in enumerate(torch.from_numpy((x_hat - codec.mean) / std)):
                f[i] = step.f(k, (prefix @ step.W_x).expand(K, -1)).numpy() * std
            shares.append(_shares(f, base))
            if m in drawn:
                some_f = f[np.linspace(0, n - 1, min(n, SHOWN_PREFIXES)).astype(int)]
                targets = None
                if x is not None:
                    targets = (x - x_hat)[np.linspace(0, n - 1, len(some_f)).astype(int)]
                pictures.append(_picture(m + first + 1, base, some_f, targets))
            bar.to(m + 1)
    learned, shifted, reshaped = np.array(shares).T
    steps = np.arange(first, codec.M) + 1
    return Movement(steps, learned, shifted, reshaped, n, pictures)


def _shares(f: np.ndarray, base: np.ndarray) -> tuple[float, float, float]:
    """`Movement`'s learned, shifted, reshaped, of f (n, K, d) and base (K, d)."""
    mean = f.mean(axis=0, dtype=np.float64).astype(np.float32)
    moved = f - mean
    shift = moved.mean(axis=1, dtype=np.float64).astype(np.float32)
    moved -= shift[:, None]
    spread = mean_square(mean - mean.mean(axis=0)) or np.inf
    squares = mean - base, shift, moved.reshape(-1, moved.shape[2])
    learned, shifted, reshaped = (mean_square(a) / spread for a in squares)
    return learned, shifted, reshaped


def _picture(step: int, base: np.ndarray, f: np.ndarray, targets: np.ndarray | None) -> Picture:
    """In the plane in which the generated codewords spread most."""
    points = f.reshape(-1, f.shape[2]).astype(np.float64)
    centre = points.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(points.T, bias=True).reshape(2 * (f.shape[2],)))
    plane = vectors[:, ::-1][:, :2]
    if plane.shape[1] < 2:  # d 1
        plane = np.hstack((plane, np.zeros_like(plane)))
    share = float(values[-2:].sum() / values.sum()) if values.sum() > 0 else 1.0
    flat = [(a - centre) @ plane for a in (base, f)]
    at = None if targets is None else (targets - centre) @ plane
    return Picture(step, flat[0], flat[1], at, share)
