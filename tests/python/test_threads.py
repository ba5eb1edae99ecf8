"""Searches beside each other, interrupted, and after a fork."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

SCRIPT = """
    import os, sys
    import numpy as np
    import faiss_qinco as fq

    index = fq.read_index(sys.argv[1])
    queries = np.load(sys.argv[2])
    index.nprobe = 16
    fq.set_num_threads(2)
"""


@pytest.fixture
def command(filled_image, queries, tmp_path):
    """The command line of a Python program that follows SCRIPT."""
    (tmp_path / "index.fqi").write_bytes(filled_image.tobytes())
    np.save(tmp_path / "queries.npy", queries)

    def command(program: str) -> list[str]:
        text = textwrap.dedent(SCRIPT) + textwrap.dedent(program)
        files = [str(tmp_path / name) for name in ("index.fqi", "queries.npy")]
        return [sys.executable, "-c", text, *files]

    return command


def test_concurrent_searches(filled, queries):
    filled.nprobe = 5
    every_third = faiss.IDSelectorBatch(np.arange(0, 3000, 3))
    some = fq.SearchParametersIVFQINCo(nprobe=5, sel=every_third)
    calls = [
        lambda: filled.search(queries, 10),
        lambda: filled.search(queries, 10, params=some),
        lambda: filled.range_search(queries[:100], 60_000),
        lambda: filled.search(queries[:1], 3),
    ]
    expected = [call() for call in calls]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: calls[i % 4](), range(48)))
    for i, result in enumerate(results):
        for got, wanted in zip(result, expected[i % 4], strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("call", ["search(many, 10)", "range_search(many, 1e9)"])
def test_ctrl_c(command, call):
    """A search of several minutes ends, and the index stays usable."""
    program = f"""
        many = np.tile(queries, (200, 1))
        index.nshort = 3000
        expected = index.search(queries[:5], 10)[1]
        print("searching", flush=True)
        try:
            index.{call}
        except KeyboardInterrupt:
            assert (index.search(queries[:5], 10)[1] == expected).all()
            print("interrupted")
    """
    with subprocess.Popen(command(program), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "searching\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        try:
            output = process.communicate(timeout=60)[0]
        finally:
            process.kill()
    assert output == "interrupted\n"


def test_fork_after_a_search(command):
    program = """
        expected = index.search(queries, 10)[1]
        child = os.fork()
        same = (index.search(queries, 10)[1] == expected).all()
        if child == 0:
            os._exit(0 if same else 1)
        assert same and os.waitpid(child, 0)[1] == 0
        print("both the same")
    """
    output = subprocess.run(
        command(program), stdout=subprocess.PIPE, text=True, timeout=120, check=True
    )
    assert output.stdout == "both the same\n"
