"""Recall, reconstruction error and speed of an index, in one way for faiss's and ours."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from ..threads import set_num_threads

RANKS = (1, 10, 100)
MSE_RUN = 5_000  # vectors reconstructed at a time

Search = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Result:
    """What was measured of one method.

    Attributes
    ----------
    name : the method, in the manner of a factory string.
    code_bytes : bytes of a vector's code, without list number and id.
    stored_bytes : the same with what else is stored per vector for the scan (a norm or a bias).
    mse : mean squared L2 reconstruction error, in the units of the input.
    recall : R@r by rank r, fractions.
    overlap : the fraction of the 10 true nearest that is among the first 10 results ("10@10"),
        None where fewer than 10 are known.
    qps : queries per second, None where they were not timed.
    train_seconds : seconds of training, None where none took place.
    """

    name: str
    code_bytes: int
    stored_bytes: int
    mse: float
    recall: dict[int, float]
    overlap: float | None = None
    qps: float | None = None
    train_seconds: float | None = None


@dataclass(frozen=True)
class Point:
    """One point of a method's curve of recall and speed.

    Attributes
    ----------
    name : the method, in the manner of a factory string.
    parameters : of its search, by name, as they are to be shown.
    stored_bytes : what is stored per vector for the scan: the code and what stands beside it.
    recall : R@r, a fraction.
    qps : queries per second.
    """

    name: str
    parameters: dict[str, Any]
    stored_bytes: int
    recall: float
    qps: float


@dataclass(frozen=True)
class Measured:
    """What was measured of one index with one setting of its search, at one k.

    Attributes
    ----------
    parameters : of the search, by name, in the order in which to show them.
    k : results per query.
    recall : R@r by rank r up to k, fractions.
    qps : queries per second, all at once.
    k_true : of the two that follow: k, or the true neighbours that are known.
    overlap : the fraction of so many true nearest that is among as many results ("10@10").
    ndcg : normalised discounted cumulative gain of the results, those being relevant.
    p50, p99 : seconds of a single query, half of them and 99 % being faster; None: not measured.
    """

    parameters: dict[str, Any]
    k: int
    recall: dict[int, float]
    qps: float
    k_true: int
    overlap: float
    ndcg: float
    p50: float | None = None
    p99: float | None = None


def recall_at(
    I: np.ndarray,
    groundtruth: np.ndarray,
    ranks: Sequence[int] = RANKS,
) -> dict[int, float]:
    """R@r: the fraction of queries whose true nearest neighbour is among the first r results.

    I (n, k) ids as `search` returns them, -1 where there is none; groundtruth (n, 1 or more) ids,
    the nearest first; only its first column counts. Returns {r: fraction}.

    Raises ValueError for arrays that are not 2-D, of different n or empty, or a rank not in 1..k.
    """
    I, groundtruth = np.asarray(I), np.asarray(groundtruth)
    if I.ndim != 2 or groundtruth.ndim != 2 or len(I) != len(groundtruth) or not groundtruth.size:
        raise ValueError(
            f"I, groundtruth: expected (n, k) and (n, 1 or more) with n > 0, "
            f"got {I.shape} and {groundtruth.shape}"
        )
    if not all(1 <= r <= I.shape[1] for r in ranks):
        raise ValueError(f"ranks: expected 1..{I.shape[1]}, got {tuple(ranks)}")
    nearest = groundtruth[:, :1]
    found = (nearest == I) & (nearest >= 0)
    return {r: float(found[:, :r].any(axis=1).mean()) for r in ranks}


def overlap_at(I: np.ndarray, groundtruth: np.ndarray, k: int = 10) -> float:
    """The fraction of the k true nearest neighbours that is among the first k results.

    I (n, k or more) ids as `search` returns them, -1 where there is none; groundtruth (n, k or
    more) ids, the nearest first.

    Raises ValueError for arrays that are not 2-D, of different n or empty, or of fewer columns.
    """
    I, groundtruth = np.asarray(I), np.asarray(groundtruth)
    narrow = I.ndim != 2 or groundtruth.ndim != 2 or min(I.shape[1], groundtruth.shape[1]) < k
    if narrow or len(I) != len(groundtruth) or not I.size:
        raise ValueError(
            f"I, groundtruth: expected (n, {k} or more) with n > 0, "
            f"got {I.shape} and {groundtruth.shape}"
        )
    found = groundtruth[:, :k, None] == I[:, None, :k]
    return float((found.any(axis=2) & (groundtruth[:, :k] >= 0)).mean())


def ndcg_at(I: np.ndarray, groundtruth: np.ndarray, k: int = 10) -> float:
    """Normalised discounted cumulative gain: as `overlap_at`, but a result of rank r counts
    1 / log2(r + 1), and the sum is divided by that of k true neighbours. Raises as that."""
    overlap_at(I, groundtruth, k)  # for what it raises
    I, groundtruth = np.asarray(I)[:, :k], np.asarray(groundtruth)[:, :k]
    found = ((groundtruth[:, :, None] == I[:, None, :]) & (groundtruth >= 0)[:, :, None]).any(1)
    discount = 1 / np.log2(np.arange(k) + 2.0)
    return float((found @ discount).mean() / discount.sum())


def mse(index: Any, x: np.ndarray, sample: int = 100_000) -> float:
    """Mean squared L2 error of the vectors as the index stores them.

    index: faiss's or ours, with `reconstruct_n`; x (n, d), any real dtype: row i is what was added
    with id i. At most `sample` rows are compared, in runs spread evenly over x: the same ones for
    every index. NaN if one of them was not stored.

    Raises ValueError for an empty x.
    """
    if len(x) == 0:
        raise ValueError("x: expected at least one vector")
    total, n = 0.0, 0
    for i in range(0, len(x), MSE_RUN * -(-len(x) // sample)):
        rows = x[i : i + MSE_RUN].astype(np.float32)
        error = index.reconstruct_n(i, len(rows)) - rows
        total += float(np.square(error, dtype=np.float64).sum())
        n += len(rows)
    return total / n


def queries_per_second(search: Search, queries: np.ndarray, repeats: int = 3) -> float:
    """Median over `repeats` timings of search(queries), queries (n, d)."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        search(queries)
        seconds.append(time.perf_counter() - start)
    return len(queries) / float(np.median(seconds))


def measure(
    name: str,
    search: Search,
    queries: np.ndarray,
    groundtruth: np.ndarray,
    *,
    mse: float,
    code_bytes: int,
    extra_bytes: int = 0,
    train_seconds: float | None = None,
    repeats: int = 3,
) -> Result:
    """Search once for R@1, R@10, R@100 and 10@10, then `repeats` times for the speed, if at all.

    search: queries (n, d) -> D, I (n, 100); extra_bytes: what is stored beside a code; the rest is
    as in `recall_at` and `Result`.
    """
    I = search(queries)[1]
    recall = recall_at(I, groundtruth)
    overlap = overlap_at(I, groundtruth) if groundtruth.shape[1] >= 10 else None
    qps = queries_per_second(search, queries, repeats) if repeats else None
    stored_bytes = code_bytes + extra_bytes
    return Result(name, code_bytes, stored_bytes, mse, recall, overlap, qps, train_seconds)


def measure_search(
    index: Any,
    queries: np.ndarray,
    groundtruth: np.ndarray,
    k: int,
    parameters: dict[str, Any],
    repeats: int = 3,
    single: int = 0,
) -> Measured:
    """Search for k results once for R@1, R@10, R@100 (those up to k, and R@k), overlap and nDCG,
    then `repeats` times for the speed.

    index: faiss's or ours; parameters: attributes of it to set first, and they stay; those that it
    does not have are only said. single: queries, at most, that are searched for one after the other
    for p50 and p99; the rest is as in `recall_at`.
    """
    for name, value in parameters.items():
        if hasattr(index, name):
            setattr(index, name, value)
    ranks = sorted({*(r for r in RANKS if r < k), k})
    I = index.search(queries, k)[1]
    recall, k_true = recall_at(I, groundtruth, ranks), min(k, groundtruth.shape[1])
    qps = queries_per_second(lambda q: index.search(q, k), queries, repeats)
    p50 = p99 = None
    if single:
        p50, p99 = np.quantile(latencies(index, queries[:single], k), (0.5, 0.99)).tolist()
    return Measured(
        parameters, k, recall, qps, k_true, overlap_at(I, groundtruth, k_true),
        ndcg_at(I, groundtruth, k_true), p50, p99,
    )  # fmt: skip


def latencies(index: Any, queries: np.ndarray, k: int) -> np.ndarray:
    """Seconds (n,) of searching for each query by itself."""
    seconds = np.empty(len(queries))
    for i in range(len(queries)):
        start = time.perf_counter()
        index.search(queries[i : i + 1], k)
        seconds[i] = time.perf_counter() - start
    return seconds


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other excels: none has as much recall and more speed, or the reverse.

    By rising recall; of equal points the first.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.recall, -p.qps)):
        if not front or point.qps > front[-1].qps:
            front.append(point)
    return front[::-1]


def fastest_with(points: Sequence[Point], recall: float) -> Point | None:
    """The fastest of the points with at least that recall, None where there is none.

    A measured point, never one interpolated between two.
    """
    return max((p for p in points if p.recall >= recall), key=lambda p: p.qps, default=None)


def set_threads(n: int) -> None:
    """Use n threads in faiss, faiss_qinco and, where it is installed, torch."""
    faiss.omp_set_num_threads(n)
    set_num_threads(n)
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(n)


def format_table(results: Sequence[Result]) -> str:
    """The results as a table in Markdown, aligned so that it reads as plain text as well."""
    timed = any(r.qps is not None for r in results)
    ranks = list(results[0].recall) if results else []
    head = ["method", "code B", "bytes", "MSE", *(f"R@{r}" for r in ranks), "10@10"]
    rows = [head + ["QPS"] * timed + ["train s"]]
    for r in results:
        row = [
            r.name,
            str(r.code_bytes),
            str(r.stored_bytes),
            f"{r.mse:{'.0f' if r.mse >= 1000 else '.4g'}}",
        ]
        row += [cell(f, ".3f") for f in (*r.recall.values(), r.overlap)]
        row += [cell(r.qps, ".0f")] * timed
        rows.append([*row, cell(r.train_seconds, ".0f")])
    first, *lines = (f"| {line} |" for line in columns(rows, " | ").split("\n"))
    method, *figures = ("-" * len(c) for c in first.strip("|").split("|"))
    rule = "|".join(["", method, *(f"{figure[1:]}:" for figure in figures), ""])
    return "\n".join([first, rule, *lines])


def cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def columns(rows: Sequence[Sequence[str]], between: str = "  ") -> str:
    """Rows of equally many cells as plain text: the first column to the left, others to the right.

    The first row is the head.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        between.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    )


def write_json(
    path: str | os.PathLike[str], results: Sequence[Result | Point | Measured], **context: Any
) -> None:
    """Write {**context, "results": [...]} as JSON. Raises OSError."""
    content = {**context, "results": [dataclasses.asdict(result) for result in results]}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
