"""Several processes that train together, started by `torchrun`: each computes its share of every
batch. The first alone clusters, validates, writes and shows progress; all end with the same.

A process by itself does all of this as if it were not there. All processes have to make the same
calls with the same data; torchrun's variables, or a group that is there already, tell that there
are several. Where one has ended, the others raise RuntimeError; one that does not answer for an
hour (of a group that is made here) counts as ended.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT = timedelta(hours=1)  # the first process clusters meanwhile, or fits tables
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process is the only one, or the first of several."""
    group = _group()
    return group is None or group.get_rank() == 0


def local_device(device: str) -> str:
    """ "cuda" -> the GPU of this process among several on a machine; else as it is."""
    if device != "cuda" or _group() is None:
        return device
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"


def from_first(compute: Callable[[], T]) -> T:
    """What `compute` gives, or raises, in the first process: it runs there alone."""
    group = _group()
    if group is None:
        return compute()
    message: list[Any] = [None]
    if group.get_rank() == 0:
        try:
            message = [(compute(), None)]
        except Exception as error:
            with _others():
                group.broadcast_object_list([(None, _portable(error))])
            raise
    with _others():
        group.broadcast_object_list(message)
    result, failure = message[0]
    if failure is not None:
        raise failure
    return result  # type: ignore[no-any-return]


def number_of_first(number: float, device: str) -> float:
    """The number that the first process has, in float64."""
    group = _group()
    if group is None:
        return number
    import torch

    shared = torch.tensor(number, dtype=torch.float64, device=device)
    with _others():
        group.broadcast(shared, 0)
    return float(shared)


def add_up(tensors: Sequence[Tensor]) -> None:
    """Each of the tensors, of one dtype and device, becomes the sum of it over all processes."""
    group = _group()
    if group is None:
        return
    import torch

    flat = torch.cat([t.reshape(-1) for t in tensors])
    with _others():
        group.all_reduce(flat)
    parts = torch.split(flat, [t.numel() for t in tensors])
    for t, total in zip(tensors, parts, strict=True):
        t.copy_(total.view_as(t))


def share(n: int) -> tuple[slice, float]:
    """The part of n >= 1 rows that is this process's, and what fraction it is. Where there are
    fewer rows than processes, some take one that counts for nothing: fraction 0.0."""
    group = _group()
    if group is None:
        return slice(0, n), 1.0
    rank, size = group.get_rank(), group.get_world_size()
    start, stop = n * rank // size, n * (rank + 1) // size
    return slice(start, max(stop, start + 1)), (stop - start) / n


def _group() -> Any:
    """torch.distributed where there are several processes, else None."""
    torch = sys.modules.get("torch")
    there = torch is not None and torch.distributed.is_available()
    if not (there and torch.distributed.is_initialized()):  # type: ignore[union-attr]
        if not all(name in os.environ for name in LAUNCHED) or os.environ["WORLD_SIZE"] == "1":
            return None
        _start()
    from torch import distributed

    return distributed if distributed.get_world_size() > 1 else None


def _start() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    with _others():
        torch.distributed.init_process_group(timeout=TIMEOUT)  # gloo, and NCCL where there are GPUs


@contextmanager
def _others() -> Iterator[None]:
    """Around what waits for other processes."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"training: another of the processes that train together has ended, or does not "
            f"answer; its error is the one that counts ({error})"
        ) from error


def _portable(error: Exception) -> Exception:
    """The error, or where it cannot be sent, one of the same text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
