"""What the stages on Ray share: the import, tasks that may lose their workers, the model."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from ..index_file import deserialize_index
from ..progress import Bar

Options = Mapping[str, Any] | None  # of Ray: num_cpus, num_gpus, resources, memory, …


class LostWorkerError(RuntimeError):
    """A worker process, or its machine, was lost, and others in its place as well."""


def require_ray(module: str = "ray") -> Any:
    """The module. Raises ImportError with what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError("this needs Ray: pip install 'faiss-qinco[ray]'") from error


def threads_of(options: Options) -> int:
    """How many threads a worker with these options is to use: its CPUs, 1 by default."""
    return max(1, int((options or {}).get("num_cpus", 1)))


def result(ray: Any, ref: Any) -> Any:
    """What a task returned. What it raised is raised as it was there; LostWorkerError where it was
    lost, as often as it may be tried."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise LostWorkerError(f"a worker was lost: {error}") from error


def run_tasks(
    ray: Any,
    task: Callable[..., Any],
    calls: Mapping[tuple[Any, ...], int],
    common: tuple[Any, ...],
    options: Options,
    bar: Bar,
    done: int,
) -> None:
    """task(*common, *call) of each call, on Ray; how many rows a call is of, for the bar, which
    shows `done` before. The first error ends the others."""
    remote = ray.remote(**{"num_cpus": 1, "max_retries": 3, **(options or {})})(task)
    pending = {}
    try:
        for call, n in calls.items():
            pending[remote.remote(*common, *call)] = n
        while pending:
            for ref in ray.wait(list(pending), num_returns=1)[0]:
                result(ray, ref)
                done += pending.pop(ref)
            bar.to(done)
    except BaseException:
        for ref in pending:
            ray.cancel(ref)  # as Ctrl-C: what is being written is removed
        raise


_models: dict[str, Any] = {}  # one, of the last task: the next one is likely to be of the same


def model_of(key: str, image: Any) -> Any:
    """The index of these bytes, which `key` tells from others, made once in a worker."""
    if key not in _models:
        _models.clear()
        _models[key] = deserialize_index(image)
    return _models[key]
