"""The error term: what the error of a stored vector, known when it is added, counts in its
distance.

A vector whose code says little of it lies somewhere around what it decodes to, and is further from
most queries than that: E|q - x|² = |q - x̂|² + |x - x̂|² for what is not near by chance. D is then
|q - x̂|² + w |x - x̂|²; with inner product, <q, x̂> for an x̂ stretched to |x| (1 - w e / 2), e being
|x - x̂|² / |x|² of the x̂ that is as long as x: for unit vectors the same. How much of it is right
depends on the vectors, so w is measured.

It takes no byte: core/extra.hpp says how it lies in what stands beside a code anyway.
"""

from __future__ import annotations

import faiss
import numpy as np

from .early_exit import distances, nearest

WEIGHTS = np.linspace(0, 1.2, 13)
# The least weight with so much of the best one's gain in 10@10. Beyond, that gains little more, and
# R@10 falls: the SIFT million has its best 10@10, .622, at .9, and its best R@10, .945, at .3
# (without: .582 and .941).
PART_OF_GAIN = 0.6
LEAST_GAIN = 0.003  # in 10@10: less is chance
RESULTS, CANDIDATES = 10, 100


def error_weight(
    x: np.ndarray, x_hat: np.ndarray, approximate: np.ndarray, bases: np.ndarray, metric: int
) -> float:
    """The weight with which vectors x (n, d), n > 100, find the most of their 10 nearest among one
    another by what these decode to, x_hat (n, d), with inner product as long as x. How many there
    are hardly matters; but the codec must not have been trained on any.

    approximate (n, d): what the tables make of their codes, bases (n, d): and what that is relative
    to. The term is read out of a bias of two bytes: where biases are large it is noise, and the
    weight 0."""
    itself = np.arange(len(x))[:, None]
    truth = nearest(x, x, RESULTS + 1, metric)
    truth = np.where(truth == itself, -1, truth)
    I = nearest(x, x_hat, CANDIDATES, metric)
    score = distances(x, x_hat, I, metric)
    error = np.square(x - x_hat).sum(axis=1)
    if metric == faiss.METRIC_L2:
        score *= score
        of_code = np.square(approximate).sum(1, dtype=float) - np.square(bases).sum(1, dtype=float)
    found = []
    for w in WEIGHTS:
        if metric == faiss.METRIC_L2:
            term = np.maximum(rounded(of_code + w * error) - of_code, 0)
            ranked = score + term[I] if w > 0 else score
        else:
            ranked = score * shrinkage(error, np.square(x).sum(axis=1), w)[I]
        ranked = np.where(itself == I, np.inf, ranked)
        best = np.take_along_axis(I, np.argpartition(ranked, RESULTS, axis=1)[:, :RESULTS], axis=1)
        found.append((best[:, :, None] == truth[:, None]).any(axis=2).mean())
    gain = np.array(found) - found[0]
    if gain.max() < LEAST_GAIN:
        return 0.0
    return float(WEIGHTS[np.argmax(gain >= PART_OF_GAIN * gain.max())])


def shrinkage(error: np.ndarray, square: np.ndarray, weight: float) -> np.ndarray:
    """What the lengths of vectors are shortened to, for |x - x̂|² and |x|² of the x̂ of equal length;
    all (n,)."""
    return np.asarray(np.maximum(1 - weight * error / np.maximum(2 * square, 1e-30), 0))


def with_term(x: np.ndarray, term: np.ndarray | float) -> np.ndarray:
    """x (n, d) with one dimension more, so that squared distances to queries, which have 0 there,
    are larger by the terms (n,)."""
    column = np.broadcast_to(np.sqrt(np.asarray(term, np.float32)), len(x))
    return np.column_stack((x, column))


def bfloat16(x: np.ndarray) -> np.ndarray:
    """As `put_bias` (core/bias.hpp) rounds: x (n,) float32 -> (n,) uint16."""
    most = np.float32(float.fromhex("0x1.FEp127"))  # the largest that is finite
    bits = np.clip(np.asarray(x, np.float32), -most, most).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def rounded(x: np.ndarray) -> np.ndarray:
    """What is read of x (n,) once it is stored so, (n,) float32."""
    bits = bfloat16(x).astype(np.uint32) << np.uint32(16)
    return np.asarray(bits.view(np.float32))
