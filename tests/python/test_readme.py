"""The README's first lines run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_first_lines_run(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert len(code.strip().splitlines()) <= 11
    check = "\nassert index.ntotal == 9377 and (I[:, 0] == groundtruth[:, 0]).mean() > 0.3\n"
    subprocess.run([sys.executable, "-c", code + check], cwd=tmp_path, check=True, timeout=280)
    assert (tmp_path / "sift.fqi").stat().st_size > 10**6


def test_importing_the_package_does_not_import_torch():
    code = "import sys, faiss_qinco; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
