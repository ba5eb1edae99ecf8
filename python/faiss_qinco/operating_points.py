"""Operating points: settings of a search, with the recall and the speed measured with them.

They come from files, too: `from_json` checks them as anything else that is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .checks import INT64
from .errors import ArgumentError

MOST_POINTS = 10_000
_SIZES = ("nprobe", "nshort", "efSearch", "M_search")
_WANTED = re.compile(r"\s*(?:r@(\d{1,6})\s*>=\s*([\d.]+)|latency\s*<=\s*([\d.]+)\s*(us|ms|s))\s*")
_IN_A_SECOND = {"us": 1e6, "ms": 1e3, "s": 1.0}


@dataclass(frozen=True)
class OperatingPoint:
    """What was measured with one setting of a search.

    Attributes
    ----------
    name : what `choose` finds it by.
    parameters : of the search, by name: nprobe, nshort, efSearch, M_search, exit_margin.
    recall : R@r by rank r, fractions.
    seconds : of one query.
    n_threads : threads of the measurement, at least 1.
    machine : where it was made, in words.

    Raises ValueError (also an AssertionError) for anything else than that.
    """

    name: str
    parameters: dict[str, float]
    recall: dict[int, float]
    seconds: float
    n_threads: int = 1
    machine: str = ""

    def __post_init__(self) -> None:
        for name, text in (("name", self.name), ("machine", self.machine)):
            _expect(isinstance(text, str) and len(text) <= 200, name, text)
        _expect(bool(self.name) and not _WANTED.fullmatch(self.name), "name", self.name)
        _expect(isinstance(self.parameters, dict), "parameters", self.parameters)
        for name, value in self.parameters.items():
            if name == "exit_margin":
                _expect(_real(value) and value >= 0, name, value)
            else:
                _expect(name in _SIZES, "parameters", name)
                _expect(_whole(value) and int(name != "nshort") <= value <= INT64[1], name, value)
        _expect(isinstance(self.recall, dict) and bool(self.recall), "recall", self.recall)
        for rank, value in self.recall.items():
            _expect(_whole(rank) and rank >= 1, "recall", rank)
            _expect(_real(value) and 0 <= value <= 1, f"r@{rank}", value)
        fits = _real(self.seconds) and 0 < self.seconds < math.inf
        _expect(fits, "seconds", self.seconds)
        _expect(_whole(self.n_threads) and self.n_threads >= 1, "n_threads", self.n_threads)

    def __str__(self) -> str:
        recall = ", ".join(f"r@{rank} {value:.3f}" for rank, value in self.recall.items())
        return f"{self.name}: {recall}, {self.seconds * 1e3:.3g} ms"


def choose(points: Sequence[OperatingPoint], wanted: str) -> OperatingPoint:
    """The point that `wanted` says: its name; "r@1>=.45": the fastest with that recall;
    "latency<=2ms" (us, ms, s): the one of the best recall, at its least rank, in that time.

    Raises ValueError (also an AssertionError) that lists the points where none is meant.
    """
    there = "; ".join(map(str, points[:20])) or "none: see tune"
    for point in points:
        if point.name == wanted:
            return point
    found = _WANTED.fullmatch(wanted)
    try:
        limit = float((found[2] or found[3]) if found else "")
    except ValueError:
        raise ArgumentError(
            f'params: expected a name, "r@1>=.45" or "latency<=2ms", got {wanted!r}; '
            f"operating points: {there}"
        ) from None
    assert found is not None
    if found[1]:
        fit = [p for p in points if p.recall.get(int(found[1]), -1.0) >= limit]
    else:
        fit = [p for p in points if p.seconds <= limit / _IN_A_SECOND[found[4]]]
        fit.sort(key=lambda p: -p.recall[min(p.recall)])
        fit = [p for p in fit if p.recall[min(p.recall)] == fit[0].recall[min(fit[0].recall)]]
    if not fit:
        raise ArgumentError(f"params: no operating point has {wanted!r}; there are: {there}")
    return min(fit, key=lambda p: p.seconds)


def to_json(points: Sequence[OperatingPoint]) -> list[dict[str, Any]]:
    """For a file's header; an exit_margin of inf, which JSON lacks, becomes text."""
    return [
        {
            "name": p.name,
            "parameters": {k: "inf" if v == math.inf else v for k, v in p.parameters.items()},
            "recall": {str(rank): value for rank, value in p.recall.items()},
            "seconds": p.seconds,
            "n_threads": p.n_threads,
            "machine": p.machine,
        }
        for p in points
    ]


def from_json(content: Any) -> list[OperatingPoint]:
    """The points of a header; None, as files without any have: none. Raises ValueError for anything
    that `to_json` does not make, two points of one name among them."""
    if content is None:
        return []
    _expect(isinstance(content, list) and len(content) <= MOST_POINTS, "points", type(content))
    names = {"name", "parameters", "recall", "seconds", "n_threads", "machine"}
    points = []
    for one in content:
        _expect(isinstance(one, dict) and set(one) == names, "point", type(one))
        parameters, recall = one["parameters"], one["recall"]
        _expect(isinstance(parameters, dict) and isinstance(recall, dict), "point", one["name"])
        _expect(all(re.fullmatch("[1-9][0-9]{0,5}", r) for r in recall), "recall", list(recall)[:5])
        real = {k: math.inf if v == "inf" else v for k, v in parameters.items()}
        ranks = {int(rank): value for rank, value in recall.items()}
        points.append(OperatingPoint(**{**one, "parameters": real, "recall": ranks}))
    _expect(len({p.name for p in points}) == len(points), "points", "two of one name")
    return points


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _real(value: Any) -> bool:
    """Not NaN, nor an integer that no float holds, which JSON can have."""
    if _whole(value):
        return bool(abs(value) <= INT64[1])
    return isinstance(value, float) and not math.isnan(value)


def _expect(fits: bool, name: str, value: Any) -> None:
    if not fits:
        raise ArgumentError(f"operating point: {name} does not fit: {str(value)[:100]!r}")
