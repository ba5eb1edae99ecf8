"""Without Ray."""

from __future__ import annotations

import subprocess
import sys


def test_who_asks_for_ray_is_told_what_to_install_and_nobody_else_imports_it() -> None:
    code = """
import sys
sys.modules["ray"] = None
import faiss_qinco
from faiss_qinco.pipeline import distributed, distributed_index
for call in (
    lambda: distributed.encode_shards(None, None, "codes"),
    lambda: distributed.build_segments(None, [], "index"),
    lambda: distributed_index.DistributedIndex("index"),
):
    try:
        call()
    except ImportError as error:
        assert "pip install 'faiss-qinco[ray]'" in str(error)
    else:
        raise SystemExit(1)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0
