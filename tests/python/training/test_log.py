"""The log of a training."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pytest

from faiss_qinco.training import loop as room
from faiss_qinco.training import train_codec

from ..conftest import TINY, training


@pytest.fixture(scope="module")
def x(learn):
    return np.ascontiguousarray(learn[:1500, :16])


def train(x, log, **kwargs):
    settings = {"epochs": 8, "batch_size": 64, "n_validation": 150, "mixing": 0, **kwargs}
    return train_codec(x, 3, 5, TINY, training(log=log, **settings)).report


def rows_of(path):
    with open(path) as file:
        return [{k: float(v or "nan") for k, v in row.items()} for row in csv.DictReader(file)]


def test_a_csv_log_is_readable_while_it_goes_on_and_after_a_kill(x, tmp_path, monkeypatch):
    path, settings = tmp_path / "log.csv", {"checkpoint": tmp_path / "checkpoint"}
    step, seen = room.Run.train_batch, []

    def killed(self, rows, t):
        seen.append(len(rows_of(path)))
        if self.step == 130:
            self.validate()  # after the last checkpoint: this row is written again
            assert rows_of(path)[-1]["vectors_seen"] == 130 * 64
            raise KeyboardInterrupt
        step(self, rows, t)

    monkeypatch.setattr(room.Run, "train_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        train(x, path, **settings)
    monkeypatch.undo()
    assert seen[0] == 1 and seen[-1] == 3
    with open(path, "a") as file:
        file.write("99.5,12")  # what a crash leaves
    report = train(x, path, **settings)
    text, rows = path.read_text(), rows_of(path)
    assert [(r["vectors_seen"], r["mse"]) for r in rows] == [
        (seen, pytest.approx(mse)) for _, seen, mse in report.history
    ]
    assert all(r["rq_mse"] == pytest.approx(report.rq_mse) for r in rows)
    losses = [r["loss"] for r in rows[1:]]
    assert np.isnan(rows[0]["batch_mse"])
    assert all(0.5 < r["batch_mse"] / r["mse"] < 1.5 for r in rows[1:])
    assert np.isnan(rows[0]["loss"]) and 0 < losses[-1] < losses[0] < 10
    assert 0 < rows[-1]["lr_factor"] < rows[1]["lr_factor"] <= 1 and rows[0]["lr_factor"] == 0
    assert text.count("vectors_seen") == 1
    train(x, path, **settings)  # the codec is there: nothing is trained
    assert path.read_text() == text
    train(x, path, epochs=1)  # another training
    assert len(rows_of(path)) == 2


def test_a_log_for_tensorboard(x, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = tmp_path / "runs" / "one"
    for _ in range(2):
        report = train(x, path)
    events = EventAccumulator(str(path)).Reload()
    found = [(e.step, e.value) for e in events.Scalars("training/mse")]
    assert found == [(seen, pytest.approx(mse)) for _, seen, mse in report.history]
    assert len(events.Scalars("training/loss")) == len(found) - 1


def test_a_log_that_cannot_be_written_fails_at_once(x, tmp_path, monkeypatch):
    monkeypatch.setattr(room.Run, "begin", None)
    other = tmp_path / "vectors.csv"
    other.write_text("1,2,3\n4,5,6\n")
    (tmp_path / "file").touch()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for path, error, words in (
        (other, ValueError, "log of a training"),
        (tmp_path / "missing" / "log.csv", OSError, "missing"),
        (tmp_path / "runs", ImportError, r"faiss-qinco\[tensorboard\]"),
    ):
        with pytest.raises(error, match=words):
            train(x, path)
    assert other.read_text() == "1,2,3\n4,5,6\n" and not (tmp_path / "runs").exists()
