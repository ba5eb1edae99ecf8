"""Several processes that train together, as torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

import faiss_qinco as fq

from . import two
from .test_log import rows_of


def test_two_processes_train_as_one_does(learn, tmp_path):
    np.save(tmp_path / "x.npy", learn[:901, :16])  # an epoch: 811 vectors, the last batch of 11
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    several = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, two.__file__, str(tmp_path)],
            env={**os.environ, **several, "RANK": rank, "OMP_NUM_THREADS": "1"},
        )
        for rank in ("0", "1")
    ]
    try:
        alone = two.trained(tmp_path, "alone").codec
        assert [process.wait(timeout=250) for process in started] == [0, 9]
    finally:
        for process in started:
            process.kill()
            process.wait()

    assert (tmp_path / "index0").read_bytes() == (tmp_path / "index1").read_bytes()
    together = fq.read_index(str(tmp_path / "index0")).codec
    for name, tensor in alone.tensors.items():
        bound = 1e-3 * np.abs(tensor).max()
        np.testing.assert_allclose(together.tensors[name], tensor, atol=bound, err_msg=name)
    for a, b in zip(*(rows_of(tmp_path / f"log{n}.csv") for n in ("0", "alone")), strict=True):
        for name in ("vectors_seen", "mse", "rq_mse", "loss", "lr_factor"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, nan_ok=True)
    # The first alone writes, all raise what it raises, and where one has ended the other says so.
    written = {"x", "index0", "index1", "log0", "logalone", "raised0", "raised1", "error",
               "logended", "checkpointended"}  # fmt: skip
    assert {path.stem for path in tmp_path.iterdir()} == written
    assert "another of the processes" in (tmp_path / "error").read_text()
