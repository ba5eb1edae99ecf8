"""Plots of results, as PNG files; needs matplotlib."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .evaluate import Result


def plot_recall(results: Sequence[Result], path: str | os.PathLike[str], title: str) -> None:
    """Draw R@r of each result as bars, grouped by rank, to a PNG file.

    Raises ImportError, which says what to install, where matplotlib is missing; OSError.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no window, whatever the backend
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'faiss-qinco[plot]'") from error

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    width = 0.84 / len(results)
    for i, result in enumerate(results):
        at = [group + (i - (len(results) - 1) / 2) * width for group in range(len(result.recall))]
        bars = axes.bar(at, list(result.recall.values()), width, label=result.name)
        axes.bar_label(bars, fmt="%.3f", fontsize=min(9, 40 // len(results)), padding=1)
    ranks = [f"R@{r}" for r in results[0].recall]
    axes.set_xticks(range(len(ranks)), ranks)
    axes.set_ylabel("recall of the nearest neighbour")
    axes.set_ylim(0, 1.08)
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=min(3, len(results)), fontsize=8)
    figure.savefig(path, format="png")
