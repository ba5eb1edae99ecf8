"""The page of `inspect`: its figures as pictures, with plain words beside; needs matplotlib."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...ranking.early_exit import LOSS
from ...storage.container import replacing
from ..plots import figure_of
from .findings import (
    Inspection,
    Movement,
    Searches,
    Steps,
    Worst,
    imbalance,
    slopes,
)

OURS, RQ, GREY, THIRD = "#1f5fa8", "#d9822b", "#8a8f98", "#3d9970"
PREFIX_COLOURS = (OURS, RQ, THIRD)
PAGE = "inspect.html"


class Section(NamedTuple):
    """title; picture: (name, figure), or None; words: HTML; table: rows, the first the head."""

    title: str
    picture: tuple[str, Any] | None
    words: list[str]
    table: list[list[str]]


def write_page(found: Inspection, folder: str | os.PathLike[str], name: str) -> Path:
    """Write `inspect.html`, which needs no other file, and its pictures as PNG files beside it.

    name: of what was inspected, for the title. The folder is made where it is missing; each file is
    written whole or not at all, the page last. Returns the page's path.

    Raises ImportError, which says what to install, where matplotlib is missing; OSError.
    """
    folder = Path(folder)
    sections = [*_sections(found)]
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for section in sections:
        if section.picture is not None:
            file, figure = section.picture
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png")
            pictures[file] = buffer.getvalue()
            with replacing(folder / file) as out:
                out.write(buffer.getvalue())
    with replacing(folder / PAGE) as out:
        # A file's name need not be UTF-8.
        out.write(_html(found, name, sections, pictures).encode(errors="replace"))
    return folder / PAGE


def _sections(found: Inspection) -> Iterator[Section]:
    if found.steps is not None:
        yield _of_steps(found, found.steps)
    if found.use is not None:
        yield _of_use(found)
    yield from _of_codebooks(found)
    if found.worst is not None and found.steps is not None:
        yield from _of_worst(found.worst, found.steps)
    if found.lists is not None and found.lists.sum() and len(found.lists) > 1:
        yield _of_lists(found.lists)
    if found.searches is not None:
        yield from _of_searches(found, found.searches)


# -- pictures --------------------------------------------------------------------------------------


def _axes(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10.5, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _of_steps(found: Inspection, steps: Steps) -> Section:
    figure, (left, right) = figure_of(2, width=9.5, height=4, sharey=False)
    curves = [("this codec", steps.mse, OURS, "o")]
    if steps.rq is not None:
        curves.append(("RQ, same bytes", steps.rq, RQ, "s"))
    number = np.arange(1, len(steps.mse))
    for i, (name, mse, colour, marker) in enumerate(curves):
        left.plot(steps.bytes, mse, marker=marker, markersize=5, color=colour, label=name)
        width = 0.8 / len(curves)
        at = number + (i - (len(curves) - 1) / 2) * width
        right.bar(at, slopes(mse, steps.nbits), width, color=colour, label=name)
    if steps.tables is not None:
        left.plot(
            steps.bytes[-1], steps.tables, "D", color=THIRD, markersize=6, label="its tables alone"
        )
    if steps.mse[-1] > 0:
        left.set_yscale("log")
        left.yaxis.set_major_formatter(lambda v, _: f"{v:,.4g}")
        left.yaxis.set_minor_formatter(lambda v, _: f"{v:,.4g}")
        left.tick_params(axis="y", which="minor", labelsize=7)
    _axes(left, "Error after each code", "bytes of code", "mean squared error")
    _axes(right, "What each code buys", "code", "dB less error, per byte")
    right.xaxis.get_major_locator().set_params(integer=True)
    right.axhline(0, color="black", linewidth=0.6)
    left.legend(frameon=False, fontsize=9)
    n_bytes = steps.bytes[-1]
    words = [
        f"A vector is coded step by step; each code corrects what is still wrong after those "
        f"before it. Measured on {found.n_measured:,} of the {found.n_vectors:,} vectors given: "
        f"the mean squared distance between a vector and what its code gives back, in the units of "
        f"the vectors, squared. It starts at {_n(steps.mse[0])} "
        f"({'the centroid of its list alone' if _ivf(found) else 'the mean alone'}) and ends at "
        f"<b>{_n(steps.mse[-1])}</b> after {n_bytes:g} bytes."
    ]
    if steps.mse[0] > 0 and steps.mse[-1] > 0:
        slope = 10 * np.log10(steps.mse[0] / steps.mse[-1]) / n_bytes
        said = (
            f"<b>Rate-distortion slope: {slope:.2f} dB per byte</b>: each byte divides the error "
            f"by {10 ** (slope / 10):.2f}"
        )
        if steps.rq is not None and steps.rq[-1] > 0:
            other = 10 * np.log10(steps.rq[0] / steps.rq[-1]) / n_bytes
            said += (
                f" (RQ: {other:.2f} dB). The error is <b>{steps.mse[-1] / steps.rq[-1]:.2f}</b> of "
                f"that of RQ, residual quantization, the same steps with plain codebooks: it was "
                f"trained on {steps.n_rq:,} others of these vectors"
            )
        words.append(
            said + ". Bars that stay high to the last code say that more bytes would go on "
            "paying; bars that fall say that they would pay less."
        )
    if steps.tables is not None:
        words.append(
            f"The green mark, {_n(steps.tables)}, is the error of the tables: what the codes say "
            "when they are read without the networks, as searches do first."
        )
    head = ["bytes", "error", "dB per byte"]
    if steps.rq is not None:
        head += ["RQ's error", "RQ's dB per byte", "of RQ's"]
    rows = [head]
    gains = [(["–", *(f"{g:.2f}" for g in slopes(mse, steps.nbits))]) for _, mse, _, _ in curves]
    for m, mse in enumerate(steps.mse):
        row = [f"{steps.bytes[m]:g}", _n(mse), gains[0][m]]
        if steps.rq is not None:
            ratio = mse / steps.rq[m] if steps.rq[m] > 0 else np.nan
            row += [_n(steps.rq[m]), gains[1][m], f"{ratio:.3f}"]
        rows.append(row)
    return Section("Error per step", ("error_per_step.png", figure), words, rows)


def _ivf(found: Inspection) -> bool:
    return bool(found.about["inverted lists"] != "none")


def _of_use(found: Inspection) -> Section:
    use = found.use
    assert use is not None
    M, K = use.counts.shape
    figure, (left, right) = figure_of(2, width=9.5, height=3.8, sharey=False)
    number = np.arange(1, M + 1)
    left.bar(number, use.entropy, color=OURS, width=0.7)
    nbits = K.bit_length() - 1
    left.axhline(nbits, color=GREY, linestyle="--", linewidth=1, label="all equally often")
    left.set_ylim(0, nbits * 1.18)
    left.legend(frameon=False, fontsize=9, loc="upper right")
    _axes(left, "Bits that each code carries", "code", "entropy, bits")
    left.xaxis.get_major_locator().set_params(integer=True)
    shown = {0, (M - 1) // 2, M - 1}
    for m, colour in zip(sorted(shown), PREFIX_COLOURS, strict=False):
        often = np.sort(use.counts[m])[::-1] / use.n * K
        right.plot(np.arange(1, K + 1), often, color=colour, label=f"code {m + 1}", linewidth=1.6)
    right.axhline(1, color=GREY, linestyle="--", linewidth=1)
    right.set_ylim(0)
    right.legend(frameon=False, fontsize=9)
    _axes(
        right, "How often each codeword is used", "codewords, the most used first",
        "times the equal share",
    )  # fmt: skip
    whose = "stored in the index" if use.stored else "of the measured vectors"
    n_runs = found.about.get("vectors", use.n)
    sample = f", a sample of {n_runs:,}" if use.stored and n_runs > use.n else ""
    words = [
        f"Each code chooses one of {K} codewords. Where all are chosen equally often, a code "
        f"carries its full {nbits} bits; what is missing are bits that are stored and say nothing. "
        f"Counted over {use.n:,} codes {whose}{sample}.",
        f"In all {int(use.unused.sum())} of {M * K} codewords are never used. A few are no harm; "
        "many mean that the codec was trained on too little, or on other data.",
    ]
    if use.n < 20 * K:
        words.append(
            "There are few codes for so many codewords: some are unused, and entropies low, by "
            "chance."
        )
    rows = [
        ["code", "entropy, bits", "unused codewords", "most used, of all codes"],
        *(
            [str(m + 1), f"{use.entropy[m]:.2f}", str(use.unused[m]),
             f"{100 * use.counts[m].max() / use.n:.2f} %"]
            for m in range(M)
        ),
    ]  # fmt: skip
    return Section("Use of the codewords", ("code_use.png", figure), words, rows)


def _of_codebooks(found: Inspection) -> Iterator[Section]:
    first = 1 if len(found.codebooks) else 0
    figure, (axes,) = figure_of(1, width=6.5, height=3.3)
    number = np.arange(first, len(found.codebooks) + 1)
    axes.bar(number, found.codebooks, color=OURS, width=0.7)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _axes(axes, "Length of the codewords", "code", "root mean square length")
    yield Section(
        "The base codebooks",
        ("codebook_lengths.png", figure),
        [
            "The codewords that the networks start from, as long as they would be if the networks "
            "left them alone, in the units of the vectors. Each code corrects what those before it "
            "left, so the bars should fall; a bar near zero is a code that was hardly learnt."
        ],
        [],
    )
    if found.movement is not None:
        yield _of_movement(found.movement)
        yield _of_pictures(found.movement)


def _of_movement(movement: Movement) -> Section:
    figure, (axes,) = figure_of(1, width=7.5, height=3.8)
    bottom = np.zeros(len(movement.steps))
    for name, part, colour in (
        ("away from the base, the same for every vector", movement.learned, GREY),
        ("moved together, as the vector so far asks", movement.shifted, OURS),
        ("reshaped: each codeword its own way", movement.reshaped, RQ),
    ):
        axes.bar(movement.steps, part, bottom=bottom, color=colour, width=0.7, label=name)
        bottom = bottom + part
    axes.set_ylim(0, max(bottom.max(), 1e-9) * 1.45)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    _axes(
        axes, "How far generated codebooks are from their base", "code",
        "mean square, codewords' spread = 1",
    )  # fmt: skip
    follows = movement.shifted + movement.reshaped
    words = [
        "This is what sets the codec apart from PQ and RQ: before each code a network makes a new "
        "codebook, fitted to what the codes before it have reconstructed. Measured over the "
        f"partial reconstructions of {movement.n} vectors, as mean squares; 1 is the spread of the "
        "codewords themselves.",
        "Grey is what a plain codebook could have learnt as well. <b>Blue and orange are what only "
        f"networks can do</b>: from {follows.min():.2f} to {follows.max():.2f} here. Bars without "
        "them would be a plain residual quantizer.",
    ]
    rows = [
        ["code", "same for all", "moved together", "reshaped", "in all"],
        *(
            [str(step), *(f"{v:.3f}" for v in (a, b, c, a + b + c))]
            for step, a, b, c in zip(
                movement.steps, movement.learned, movement.shifted, movement.reshaped, strict=True
            )
        ),
    ]
    return Section(
        "How the networks change the codebooks", ("codebook_movement.png", figure), words, rows
    )


def _of_pictures(movement: Movement) -> Section:
    n = len(movement.pictures)
    figure, panels = figure_of(n, width=max(5, 3.9 * n), height=4.6, sharey=False)
    targets = False
    for axes, picture in zip(panels, movement.pictures, strict=True):
        axes.scatter(*picture.base.T, s=9, color="#c3c7cd", linewidths=0, label="base codebook")
        for i, points in enumerate(picture.generated):
            colour = PREFIX_COLOURS[i]
            label = f"generated for vector {'ABC'[i]}"
            axes.scatter(*points.T, s=7, color=colour, alpha=0.75, linewidths=0, label=label)
            if picture.targets is not None:
                targets = True
                axes.scatter(
                    *picture.targets[i], marker="*", s=190, color=colour, edgecolors="white",
                    linewidths=1.2, zorder=3,
                )  # fmt: skip
        _axes(axes, f"Code {picture.step}", f"{100 * picture.share:.0f} % of the variance", "")
        axes.set_aspect("equal", adjustable="datalim")
        axes.tick_params(labelsize=8)
        axes.locator_params(nbins=5)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, 2 * n),
        frameon=False, fontsize=9, markerscale=2,
    )  # fmt: skip
    words = [
        f"Codebooks of {'these steps' if n > 1 else 'this step'}, flattened to the two directions "
        "in which they spread most (principal components; the axes are in the units of the "
        "vectors, relative to what is reconstructed so far). Every dot is a codeword: grey in the "
        "base codebook, coloured in the codebooks generated for three of the vectors. Where the "
        "colours lie apart, or have other shapes, the networks are at work."
    ]
    if targets:
        words.append(
            "The star of each colour is where the vector itself is: the code chosen is the one "
            "that gets nearest to it, with an eye to the codes that follow. A star far from all "
            "dots of its colour is badly coded, unless what is missing lies in other directions."
        )
    return Section("Codebooks in two dimensions", ("codebooks_2d.png", figure), words, [])


def _of_worst(worst: Worst, steps: Steps) -> Iterator[Section]:
    figure, (axes,) = figure_of(1, width=7.5, height=3.6)
    curves = [("this codec", worst.errors, OURS)]
    if worst.rq_errors is not None:
        curves.append(("RQ, same bytes", worst.rq_errors, RQ))
    positive = np.concatenate([e[e > 0] for _, e, _ in curves])
    if len(positive) and positive.max() > positive.min():
        bins = np.geomspace(positive.min(), positive.max(), 50)
        axes.set_xscale("log")
    else:
        bins = np.linspace(0, 1, 50)
    for name, errors, colour in curves:
        axes.hist(errors, bins=bins, color=colour, alpha=0.55, label=name)
    axes.axvline(np.quantile(worst.errors, 0.99), color="black", linestyle=":", linewidth=1.2,
                 label="beyond: the worst 1 %")  # fmt: skip
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:,.4g}")
    axes.xaxis.set_minor_formatter(lambda v, _: "")
    axes.legend(frameon=False, fontsize=9)
    _axes(axes, "Errors of the vectors, one by one", "squared error", "vectors")
    mean = float(worst.errors.mean())
    heavy = -np.sort(-worst.errors)[: max(1, len(worst.errors) // 100)].sum()
    words = [
        "The mean hides what happens to single vectors. The histogram shows how many have which "
        f"error; those on the right are found least reliably. The worst 1 % bear "
        f"{100 * heavy / max(worst.errors.sum(), 1e-300):.1f} % of the error (1 % if all were "
        "alike)."
    ]
    yield Section("The errors of single vectors", ("error_histogram.png", figure), words, [])

    n = min(3, len(worst.order))
    figure, panels = figure_of(n, width=max(5, 3.6 * n), height=3.2)
    for axes, row, x, x_hat in zip(panels, worst.rows, worst.x, worst.x_hat, strict=False):
        axes.plot(x, color="black", linewidth=1, label="the vector")
        axes.plot(x_hat, color=RQ, linewidth=1, label="what its code gives back")
        _axes(axes, f"row {row}", "dimension", "")
    panels[0].set_ylabel("value")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False,
        fontsize=9,
    )  # fmt: skip
    head = ["row", "list", "length", "error", "times the mean", "RQ's error"]
    rows = [head if worst.rq_errors is not None else head[:-1]]
    for i, row, list_no, x in zip(worst.order, worst.rows, worst.list_no, worst.x, strict=True):
        cells = [
            str(row), "–" if list_no < 0 else str(list_no), _n(float(np.linalg.norm(x))),
            _n(worst.errors[i]), f"{worst.errors[i] / mean:.1f}" if mean > 0 else "–",
        ]  # fmt: skip
        rows.append(cells + ([] if worst.rq_errors is None else [_n(worst.rq_errors[i])]))
    words = [
        "The vectors whose codes give them back worst, by their row (from 0) in the vectors given. "
        "Are they of another kind, damaged, much longer than the others? If they matter and are "
        "alike, the codec has not learnt their kind: train with more of them."
    ]
    yield Section("The worst-coded vectors", ("worst_vectors.png", figure), words, rows)


def _of_lists(sizes: np.ndarray) -> Section:
    figure, (axes,) = figure_of(1, width=7.5, height=3.4)
    ordered = np.sort(sizes)[::-1]
    axes.fill_between(np.arange(1, len(sizes) + 1), ordered, step="mid", color=OURS, alpha=0.8)
    axes.axhline(sizes.mean(), color=GREY, linestyle="--", linewidth=1, label="the mean")
    axes.set_ylim(0)
    axes.set_xlim(1, len(sizes))
    axes.legend(frameon=False, fontsize=9)
    _axes(axes, "Sizes of the inverted lists", "lists, the largest first", "vectors")
    words = [
        f"{int(sizes.sum()):,} vectors are stored in {len(sizes):,} lists: {sizes.mean():.1f} on "
        f"average, {int(sizes.max()):,} at most; {int(np.count_nonzero(sizes == 0)):,} are empty. "
        f"<b>Imbalance factor {imbalance(sizes):.2f}</b>: where queries are distributed as what is "
        "stored, a search scans so many times as many vectors as with lists of equal size (1 is "
        "ideal, 1.2 to 1.6 usual)."
    ]
    return Section("The inverted lists", ("list_sizes.png", figure), words, [])


def _of_searches(found: Inspection, searches: Searches) -> Iterator[Section]:
    figure, (axes,) = figure_of(1, width=7.5, height=3.8)
    for (k, recall), colour in zip(searches.recall.items(), PREFIX_COLOURS, strict=False):
        best = "the best result" if k == 1 else f"the {k} best"
        axes.plot(searches.nshorts, recall, marker="o", markersize=4, color=colour, label=best)
    axes.set_xscale("log")
    axes.set_xticks(searches.nshorts, [str(n) for n in searches.nshorts])
    axes.minorticks_off()
    axes.set_ylim(
        min(0.5, np.nanmin([np.nanmin(r) for r in searches.recall.values()])) - 0.03, 1.03
    )
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    _axes(
        axes, "What the tables leave for the networks to find",
        "nshort: vectors that the networks re-rank", "part in the shortlist",
    )  # fmt: skip
    whose = (
        "No queries were given: vectors of the set given served as such (others than those "
        "measured above). Where these are stored in the index as well, each query has a copy of "
        "itself there, which real queries do not have: give --query for figures to rely on."
        if found.queries_held_out
        else "The queries are those given."
    )
    longest = searches.nshorts[-1]
    words = [
        "A search first ranks all vectors of the lists it visits by look-up tables, which is fast "
        "and rough, and then decodes the nshort best of them with the networks. The curve says "
        "which part of the results that the networks rank best is among the first nshort of the "
        f"tables: <b>choose nshort where it gets flat</b>. {searches.n_queries} queries, nprobe "
        f"{searches.nprobe} ({searches.probed:,.0f} vectors on average); the results are compared "
        f"with a decoding of the {longest} first of the tables, not with the true neighbours: "
        "<code>faiss-qinco eval</code> does that.",
        whose,
    ]
    rows = [
        ["nshort", *(f"of the {k} best" if k > 1 else "of the best" for k in searches.recall)],
        *(
            [str(n), *("–" if np.isnan(r[i]) else f"{r[i]:.3f}" for r in searches.recall.values())]
            for i, n in enumerate(searches.nshorts)
        ),
    ]
    yield Section("The tables and the shortlist", ("tables.png", figure), words, rows)
    if searches.exits:
        rows = [["k", "nshort", "results", "lost", "lost, %", "promised, %", "networks run, %"]]
        for e in searches.exits:
            rows.append([
                str(e.k), str(e.nshort), f"{e.n:,}", str(e.lost),
                f"{100 * e.lost / max(e.n, 1):.3f}", f"{100 * LOSS:g}", f"{100 * e.networks:.0f}",
            ])  # fmt: skip
        yield Section(
            "Early exit",
            None,
            [
                "While it re-ranks, a search gives up candidates that are out of reach of the k "
                "best, by margins that the training calibrated (exit_margin 1). It promises that "
                f"of the results of many queries it loses at most {100 * LOSS:g} %. Lost are "
                "results of the whole decoding that are missing; with few results in all, one or "
                "two lost are chance. The fewer networks run, the faster. "
                + ("As above, vectors served as queries." if found.queries_held_out else "")
            ],
            rows,
        )


# -- HTML ------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1d2430; background: #f4f5f7; margin: 0; }
main { max-width: 980px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 26px; margin: 8px 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 0 0 8px; }
section { background: #fff; border: 1px solid #e1e4e9; border-radius: 8px; padding: 18px 22px;
          margin: 18px 0; }
p { margin: 8px 0; max-width: 76ch; }
img { max-width: 100%; height: auto; display: block; margin: 12px auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 12px; text-align: right; border-bottom: 1px solid #eceef1; }
th { font-weight: 600; color: #4a5361; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; }
dt { color: #4a5361; } dd { margin: 0; }
details { overflow-x: auto; } summary { cursor: pointer; color: #1f5fa8; }
.warning { border-left: 4px solid #d9a72b; padding: 2px 14px; margin: 10px 0; }
.severe { border-left-color: #c23b3b; }
.fine { border-left-color: #3d9970; }
.small { color: #4a5361; font-size: 14px; }
"""


def _html(
    found: Inspection, name: str, sections: Sequence[Section], pictures: dict[str, bytes]
) -> str:
    title = escape(name)
    facts = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(f'{v:,}' if isinstance(v, int) else str(v))}</dd>"
        for key, v in found.about.items()
    )
    warnings = "".join(
        f'<div class="warning{" severe" if w.severe else ""}"><p><b>{escape(w.what)}</b><br>'
        f"{escape(w.advice)}</p></div>"
        for w in found.warnings
    )
    if not warnings:
        warnings = (
            '<div class="warning fine"><p>Nothing to warn of in what was looked at.</p></div>'
        )
    missing = "".join(f'<p class="small">{escape(text)}</p>' for text in found.missing)
    body = []
    for section in sections:
        parts = [f"<h2>{escape(section.title)}</h2>"]
        parts += [f"<p>{text}</p>" for text in section.words]
        if section.picture is not None:
            data = base64.b64encode(pictures[section.picture[0]]).decode()
            parts.append(f'<img alt="{escape(section.title)}" src="data:image/png;base64,{data}">')
        if section.table:
            table = _table(section.table)
            if section.picture is None:
                parts.append(table)
            else:
                parts.append(f"<details><summary>The figures</summary>{table}</details>")
        body.append(f"<section>{''.join(parts)}</section>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}: a look inside</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{title}</h1><p class="small">A look inside this QINCo {escape(found.kind)}.</p>'
        f"<section><h2>What deserves attention</h2>{warnings}</section>"
        f"<section><h2>What it is</h2><dl>{facts}</dl></section>"
        + "".join(body)
        + (f"<section><h2>Not shown</h2>{missing}</section>" if missing else "")
        + "</main></body></html>\n"
    )


def _table(rows: list[list[str]]) -> str:
    head, *rest = rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rest
    )
    return f"<table><tr>{cells}</tr>{body}</table>"


def _n(value: float) -> str:
    """A number of any size, four digits or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
