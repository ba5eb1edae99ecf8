"""The log of a training, while it goes on: of each validation a row of a CSV file, or points of
TensorBoard. No torch here but with TensorBoard."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..storage.container import replacing
from .checkpoint import check_writable

COLUMNS = ("seconds", "vectors_seen", "mse", "rq_mse", "batch_mse", "loss", "lr_factor")


class Log:
    """Rows of these columns go nowhere."""

    def add(self, row: Mapping[str, float]) -> None:
        """One more validation; NaN: what is not known."""

    def close(self) -> None:
        """No more rows come."""


class _Csv(Log):
    def __init__(self, path: str, seen: int) -> None:
        kept = [row for row in _rows(path) if int(row[1]) <= seen]
        with replacing(Path(path)) as file:
            file.write("".join(",".join(row) + "\n" for row in (COLUMNS, *kept)).encode())
        self.file = open(path, "a", encoding="ascii")  # noqa: SIM115  # until `close`

    def add(self, row: Mapping[str, float]) -> None:
        cells = ("" if math.isnan(row[name]) else f"{row[name]:.9g}" for name in COLUMNS)
        self.file.write(",".join(cells) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class _TensorBoard(Log):
    def __init__(self, path: str, seen: int) -> None:
        # It hides what an earlier run wrote there of these steps and later ones.
        self.writer = _tensorboard()(path, purge_step=seen + 1)

    def add(self, row: Mapping[str, float]) -> None:
        for name in COLUMNS:
            if name != "vectors_seen" and not math.isnan(row[name]):
                self.writer.add_scalar(f"training/{name}", row[name], int(row["vectors_seen"]))
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def open_log(path: str | os.PathLike[str] | None, seen: int) -> Log:
    """The log there, of a training that goes on after `seen` vectors: rows of more are dropped.

    seen: -1 for a training that starts; it takes the place of an earlier one. Raises as
    `check_log`.
    """
    if path is None:
        return Log()
    path = os.fspath(path)
    return _Csv(path, seen) if _is_csv(path) else _TensorBoard(path, seen)


def check_log(path: str | os.PathLike[str] | None) -> None:
    """Whether a log can be written there, before anything is trained.

    Raises OSError for a folder that is missing (CSV) or not writable, and a file where a folder is
    expected; ValueError for a CSV file that is no log of a training; ImportError, naming what to
    install, where tensorboard is missing.
    """
    if path is None:
        return
    path = os.fspath(path)
    if _is_csv(path):
        _rows(path)
        check_writable(path)
        return
    _tensorboard()
    os.makedirs(path, exist_ok=True)
    check_writable(os.path.join(path, "log"))


def _is_csv(path: str) -> bool:
    return path.lower().endswith(".csv")


def _rows(path: str) -> list[list[str]]:
    """The whole rows of a log, without its header; none where there is no file."""
    with suppress(FileNotFoundError), open(path, encoding="ascii", errors="replace") as file:
        header, *rows = [*csv.reader(file)] or [[]]
        if header and tuple(header) != COLUMNS:
            raise ValueError(f"log: expected a new file or the log of a training, got {path!r}")
        return [row for row in rows if len(row) == len(COLUMNS)]
    return []


def _tensorboard() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "log: TensorBoard's needs tensorboard: pip install 'faiss-qinco[tensorboard]'; or name "
            "a .csv file"
        ) from error
    return SummaryWriter
