"""Whatever is done to a file, it is refused with the documented error, or it is an object that
works: no other error, no crash, no memory that the file does not justify."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMES = ("ivf.fqi", "hnsw.fqi", "flat.fqi", "transformed.fqi", "codec.safetensors",
         "v1/ivf.fqi", "v1/wide_ids.fqi", "v1/flat.fqi", "v1/id_map.fqi",
         "v1/shards.fqi")  # fmt: skip
FILES = [HERE.parent / "golden" / name for name in NAMES]


@pytest.mark.parametrize("seed", [1])
def test_mutated_files(seed):
    run = [sys.executable, HERE / "mutate.py", str(seed), "1500", *FILES]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, f"round {done.stderr[-2000:]}"
    assert done.stdout == ""
    for how in ("forged', 'read", "forged', 'refused", "bytes_changed', 'refused"):
        assert how in done.stderr  # both happen, or nothing has been tried
