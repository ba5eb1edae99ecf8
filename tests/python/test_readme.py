"""The README's first lines run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import faiss_qinco as fq

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_first_lines_run(tmp_path):
    pytest.importorskip("torch")
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert len(code.strip().splitlines()) <= 11
    check = "\nassert index.ntotal == 9377 and (I[:, 0] == groundtruth[:, 0]).mean() > 0.3\n"
    subprocess.run([sys.executable, "-c", code + check], cwd=tmp_path, check=True, timeout=280)
    assert (tmp_path / "sift.fqi").stat().st_size > 10**6


def test_importing_adding_and_searching_do_not_import_torch(filled, base, tmp_path):
    """Where there is no GPU, which only torch can tell."""
    fq.write_index(filled, tmp_path / "index.fqi")
    np.save(tmp_path / "x.npy", base[:50])
    code = """
import sys, numpy as np, faiss_qinco as fq, faiss_qinco.codec.devices as devices
devices.GPU_NODES = ()
index, x = fq.read_index("index.fqi"), np.load("x.npy")
index.add(x)
assert (index.search(x, 1)[1] >= 0).all() and index.ntotal == 3050
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
