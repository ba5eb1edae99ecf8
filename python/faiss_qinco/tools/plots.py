"""Plots of results, as PNG files; needs matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from .evaluate import Point, Result, pareto_front

MAX_LABELS = 24  # points of a panel that are labelled


def plot_recall(
    curves: Mapping[str, Sequence[Result]], path: str | os.PathLike[str], title: str
) -> None:
    """Draw R@r over the bytes stored per vector to a PNG file: one panel per rank r, one line
    per method, in the order in which they come.

    Raises ImportError, which says what to install, where matplotlib is missing; OSError.
    """
    ranks = list(next(iter(curves.values()))[0].recall)
    figure, panels = figure_of(len(ranks))
    for axes, r in zip(panels, ranks, strict=True):
        for label, results in curves.items():
            stored = [result.stored_bytes for result in results]
            axes.plot(stored, [result.recall[r] for result in results], marker="o", label=label)
        axes.set_title(f"R@{r}", fontsize=10)
        axes.set_xlabel("bytes")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("recall of the nearest neighbour")
    figure.suptitle(title)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
    )
    figure.savefig(path, format="png")


def plot_pareto(
    points: Sequence[Point], path: str | os.PathLike[str], title: str, rank: int = 1
) -> None:
    """`plot_ranks` of one rank."""
    plot_ranks({rank: points}, path, title)


def plot_ranks(
    points: Mapping[int, Sequence[Point]], path: str | os.PathLike[str], title: str
) -> None:
    """Draw queries per second (logarithmic) over R@r to a PNG file, one panel per rank r.

    Each method in a colour of its own, in the order in which they come: every point faint, and a
    line through those that are Pareto-optimal within the method, labelled with their parameters
    where a panel has few.

    Raises ImportError, which says what to install, where matplotlib is missing; OSError.
    """
    figure, panels = figure_of(len(points))
    for axes, (rank, of_rank) in zip(panels, points.items(), strict=True):
        _draw_pareto(axes, of_rank, labels=len(of_rank) <= MAX_LABELS)
        axes.set_xlabel(f"R@{rank}")
        axes.locator_params(axis="x", nbins=6)
        axes.margins(x=0.25, y=0.1)  # room for the labels, which are left of their points
    panels[0].set_ylabel("queries per second")
    figure.suptitle(title)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
    )
    figure.savefig(path, format="png")


def _draw_pareto(axes: Any, points: Sequence[Point], labels: bool) -> None:
    for name in dict.fromkeys(p.name for p in points):
        curve = [p for p in points if p.name == name]
        front = pareto_front(curve)
        label = f"{name} ({front[0].stored_bytes} B)"
        recall, qps = [p.recall for p in front], [p.qps for p in front]
        (line,) = axes.plot(recall, qps, marker="o", markersize=4, label=label)
        for point in front if labels else ():
            axes.annotate(
                ", ".join(f"{name} {value}" for name, value in point.parameters.items()),
                (point.recall, point.qps), (-5, 3), textcoords="offset points",
                fontsize=7, ha="right", color=line.get_color(),
            )  # fmt: skip
        recall, qps = [p.recall for p in curve], [p.qps for p in curve]
        axes.scatter(recall, qps, s=6, alpha=0.35, color=line.get_color(), linewidths=0)
    axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")


def figure_of(
    n: int = 1, width: float | None = None, height: float = 4.5, sharey: bool = True
) -> tuple[Any, Sequence[Any]]:
    """A figure of n panels side by side, sizes in inches, and its panels.

    Raises ImportError, which says what to install, where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no window, whatever the backend
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'faiss-qinco[plot]'") from error

    width = width or (8 if n == 1 else 4.5 * n)
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    return figure, figure.subplots(1, n, squeeze=False, sharey=sharey)[0]
