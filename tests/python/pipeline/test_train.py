"""The stage of training: killed anywhere, it goes on from its checkpoint to the same index."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.training import loop

from ..conftest import new_index, training


def train(x: np.ndarray, folder: Path) -> None:
    """As `faiss-qinco train --checkpoint`: the centroids are those of the stage before."""
    index = new_index()
    index.quantizer.add(x[:: len(x) // 16][:16])
    index.training = training(epochs=1, n_validation=100, checkpoint=folder / "checkpoint")
    index.train(x)
    fq.write_index(index, folder / "trained.fqi")


def stamp(path: Path) -> int:
    """When a file was written; 0: it is not there."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def test_killed_at_any_moment(learn, tmp_path, monkeypatch) -> None:
    """With SIGKILL, at twenty random moments."""
    pytest.importorskip("torch", reason="trains")
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.02)
    x, rng = learn[:800], np.random.default_rng(0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    checkpoint = killed / "checkpoint"
    for i in range(22):
        folder = killed if i else whole
        folder.mkdir(exist_ok=True)
        before = stamp(checkpoint)
        if (process := os.fork()) == 0:
            train(x, folder)
            os._exit(0)
        ended = status = 0
        if 0 < i < 21:
            # After there was another checkpoint, unless it ends before; else at any moment.
            while i % 2 and not ended and stamp(checkpoint) in (0, before):
                time.sleep(0.001)
                ended, status = os.waitpid(process, os.WNOHANG)
            if not ended:
                time.sleep(rng.uniform(0, 0.1))
                os.kill(process, signal.SIGKILL)
        if not ended:
            status = os.waitpid(process, 0)[1]
        assert i or status == 0
    assert status == 0
    assert (killed / "trained.fqi").read_bytes() == (whole / "trained.fqi").read_bytes()
    assert not (killed / "checkpoint").exists()
