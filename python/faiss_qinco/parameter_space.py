"""What `faiss.ParameterSpace` does with indexes of this package, once they are registered.

Parameters are those of FAISS, `nprobe`, `k_factor_rf`, `quantizer_…` (of the coarse quantizer) and
`verbose`; and `max_codes`, `min_codes`, `nshort`, `exit_margin` and `M_search`.
"""

from __future__ import annotations

import math
import re
import time
from typing import Any

import faiss
import numpy as np

from .index import IndexIVFQINCo
from .wrappers.base import inside
from .wrappers.refine import IndexRefine

_NSHORT = (0, 5, 10, 20, 50, 100, 200, 500, 1000)
_MOST_NPROBE = 12  # as a power of two, as in FAISS


def initialize(space: Any, index: Any) -> None:
    """Ranges of the parameters that an index has."""
    if isinstance(index, IndexRefine):
        _add(space, "k_factor_rf", (1 << i for i in range(7)))
    within = inside(index)
    if within:
        initialize(space, within[0])
        return
    if isinstance(index, IndexIVFQINCo):
        powers = (1 << i for i in range(_MOST_NPROBE + 1))
        _add(space, "nprobe", (n for n in powers if n < index.nlist))
        of_quantizer = faiss.ParameterSpace()
        of_quantizer.initialize(index.quantizer)
        for found in _ranges(of_quantizer):
            _add(space, f"quantizer_{found[0]}", found[1])
    _add(space, "nshort", _NSHORT)


def _add(space: Any, name: str, values: Any) -> None:
    found = space.add_range(name).values
    for value in values:
        found.push_back(float(value))


def _ranges(space: Any) -> list[tuple[str, list[float]]]:
    ranges = space.parameter_ranges
    found = (ranges.at(i) for i in range(ranges.size()))
    return [(one.name, faiss.vector_to_array(one.values).tolist()) for one in found]


def set_index_parameter(space: Any, index: Any, name: str, val: float) -> None:
    """Raises RuntimeError for a name that the index has not, and as the attribute of that name."""
    if name == "k_factor_rf" and isinstance(index, IndexRefine):
        index.k_factor = int(val)
        return
    if name == "verbose":
        index.verbose = bool(val)
    if within := inside(index):
        for one in within:
            set_index_parameter(space, one, name, val)
    elif name == "verbose":
        pass
    elif name.startswith("quantizer_") and isinstance(index, IndexIVFQINCo):
        quantizer = faiss.downcast_index(index.quantizer)
        space.set_index_parameter(quantizer, name.removeprefix("quantizer_"), val)
    elif name == "exit_margin":
        index.exit_margin = val
    elif name in ("nshort", "M_search") or (
        name in ("nprobe", "max_codes", "min_codes") and isinstance(index, IndexIVFQINCo)
    ):
        if not math.isfinite(val):
            raise RuntimeError(f"{name}: expected a finite number, got {val}")
        setattr(index, name, int(val))
    else:
        raise RuntimeError(f"ParameterSpace: could not set parameter {name}")


def set_index_parameters(space: Any, index: Any, description: Any) -> None:
    """description: "nprobe=4,nshort=100", or the number of a combination. Raises RuntimeError for a
    string that is not understood, and as `set_index_parameter`."""
    if isinstance(description, str):
        for part in re.split("[ ,]+", description.strip(" ,")):
            name, found, value = part.partition("=")
            try:
                number = float(value)
            except ValueError:
                found = ""
            if not (name and found):
                raise RuntimeError(f"could not interpret parameters {part}")
            set_index_parameter(space, index, name, number)
        return
    left = int(description)
    for name, values in _ranges(space):
        left, i = divmod(left, len(values))
        set_index_parameter(space, index, name, values[i])


def explore(space: Any, index: Any, xq: np.ndarray, crit: Any) -> Any:
    """As FAISS: try combinations of parameters on queries (crit.nq, d), all of them or at random
    `n_experiments`, but for those that others show to be no use; `faiss.OperatingPoints`."""
    assert xq.shape == (crit.nq, index.d)
    xq = np.ascontiguousarray(xq, np.float32)
    points = faiss.OperatingPoints()
    n = space.n_combinations()
    order = np.arange(n)
    if space.n_experiments and n > 2:  # the least and the most first: they bound the others
        rest = np.random.default_rng(1234).permutation(np.arange(1, n - 1))
        order = np.concatenate([[0, n - 1], rest])[: space.n_experiments]
    for cno in order.tolist():
        if space.n_experiments and not _of_use(space, points, cno):
            continue
        set_index_parameters(space, index, cno)
        start, n_runs = time.perf_counter(), 0
        while n_runs == 0 or time.perf_counter() - start < space.min_test_duration:
            step = max(1, min(space.batchsize, len(xq)))
            found = [
                index.search(xq[i : i + step], crit.nnn) for i in range(0, max(len(xq), 1), step)
            ]
            n_runs += 1
        seconds = (time.perf_counter() - start) / n_runs
        D, I = (np.concatenate([part[j] for part in found]) for j in (0, 1))
        name, recall = space.combination_name(cno), faiss.AutoTuneCriterion.evaluate(crit, D, I)
        points.add(recall, seconds, name, cno)
        if space.verbose:
            print(f"{cno}/{n}: {name} perf={recall:.3f} t={seconds:.3f} s")
    return points


def _of_use(space: Any, points: Any, cno: int) -> bool:
    """Whether a combination could be faster, or better, than what has been tried, were larger
    parameters always slower and better."""
    least, most = 0.0, 1.0
    for i in range(points.all_pts.size()):
        point = points.all_pts.at(i)
        if space.combination_ge(cno, point.cno):
            least = max(least, point.t)
        if space.combination_ge(point.cno, cno):
            most = min(most, point.perf)
    return bool(points.t_for_perf(most) > least)
