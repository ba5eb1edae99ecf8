"""The checkpoint of a training: its file, and what it must agree with to be continued."""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..codec.config import QINCoConfig
from ..storage.container import read_tensors, reading, replacing, write_tensors
from .config import TrainingConfig
from .data import TrainingSet

FREE = (  # to change
    "checkpoint", "progress", "log", "device", "max_seconds", "patience", "student",
)  # fmt: skip


def check_checkpoint(training: TrainingConfig) -> None:
    """Whether the checkpoint can be written, before anything is trained.

    Raises OSError for a folder that is missing (also a RuntimeError) or not writable, ValueError
    for a path that is no file.
    """
    if training.checkpoint is not None:
        check_writable(training.checkpoint)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Whether a file can be written there; what is there stays. Raises as `check_checkpoint`."""
    with suppress(_Undone), replacing(Path(path)):
        raise _Undone


class _Undone(Exception):
    """Ends a replacement that is a trial."""


def remove_checkpoint(training: TrainingConfig) -> None:
    """Remove the checkpoint, where there is one: all of the training is done."""
    if training.checkpoint is not None:
        with suppress(FileNotFoundError):
            os.remove(training.checkpoint)


def fingerprint(
    data: TrainingSet,
    M: int,
    K: int,
    config: QINCoConfig,
    training: TrainingConfig,
    centroids: np.ndarray | None,
    metric: int,
) -> dict[str, Any]:
    """What must be equal for a checkpoint to be continued, as JSON gives it back."""
    settings = {k: v for k, v in asdict(training).items() if k not in FREE}
    lists = None
    if centroids is not None:
        lists = [len(centroids), zlib.crc32(np.ascontiguousarray(centroids, np.float32).tobytes())]
    content = {
        "M": M, "K": K, "metric": metric, "config": config.to_dict(), "training": settings,
        "data": data.fingerprint(), "centroids": lists,
    }  # fmt: skip
    found: dict[str, Any] = json.loads(json.dumps(content))
    return found


def save(
    path: str | os.PathLike[str], header: dict[str, Any], tensors: dict[str, np.ndarray]
) -> None:
    """Write header and tensors, all or nothing."""
    write_tensors(path, "checkpoint", header, tensors)


def load(
    path: str | os.PathLike[str] | None, expected: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """What `save` wrote there, None where there is nothing.

    Raises RuntimeError for a damaged file, and for one whose fingerprint is not the expected one.
    """
    if path is None or not os.path.exists(path):
        return None
    header, tensors = read_tensors(path, "checkpoint")
    with reading(path):
        found = header["fingerprint"]
    if found != expected:
        raise RuntimeError(
            f"checkpoint {os.fspath(path)!r} is of other data or settings; "
            "remove it or name another"
        )
    return header, tensors
