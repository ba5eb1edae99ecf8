"""Searches beside each other, interrupted, and after a fork."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

SCRIPT = """
    import os, signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)
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


def interrupted(arguments: list[str], word: str, seconds: float) -> str:
    """What a program prints after the word, when Ctrl-C comes so long after it."""
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == f"{word}\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=60)[0]
        finally:
            process.kill()


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
    assert interrupted(command(program), "searching", 0.5) == "interrupted\n"


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


def test_fork_beside_threads(command):
    """Those that search in the parent are not in the child, and it does not wait for them."""
    program = """
        import threading
        stop = []
        def search():
            while not stop:
                index.search(queries[:50], 5)
        threads = [threading.Thread(target=search) for _ in range(3)]
        for t in threads: t.start()
        expected = index.search(queries[:20], 5)[1]
        children = []
        for _ in range(5):
            child = os.fork()
            if child == 0:
                same = (index.search(queries[:20], 5)[1] == expected).all()
                index.add(queries[:10])
                os._exit(0 if same and index.ntotal == 3010 else 1)
            children.append(child)
        assert all(os.waitpid(child, 0)[1] == 0 for child in children)
        stop.append(1)
        for t in threads: t.join()
        print("all the same")
    """
    output = subprocess.run(
        command(program), stdout=subprocess.PIPE, text=True, timeout=120, check=True
    )
    assert output.stdout == "all the same\n"


def test_concurrent_adds_give_each_id_once(empty, base):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: empty.add(base[50 * i : 50 * i + 50]), range(40)))
    ids = np.concatenate([empty.lists.get_ids(l) for l in range(empty.nlist)])
    assert empty.ntotal == len(ids) == 2000
    np.testing.assert_array_equal(np.sort(ids), np.arange(2000))


def test_everything_beside_add(filled, base, queries, tmp_path):
    """Searches, saves, copies and resets while another thread adds: each sees a whole index."""
    filled.nprobe = filled.nlist
    stop = threading.Event()

    def until_stopped(call):
        n = 0
        while not stop.is_set():
            call()
            n += 1
        return n

    def search():
        D, I = filled.search(queries[:20], 5)
        assert not np.isnan(D).any()
        assert I.max() < 10**6

    def save():
        fq.write_index(filled, tmp_path / "index.fqi")
        assert fq.read_index(tmp_path / "index.fqi").ntotal % 100 == 0

    def clone():
        twin = copy.copy(filled)
        assert int(twin.lists.sizes().sum()) == twin.ntotal

    def decode():
        filled.range_search(queries[:5], 30_000.0)
        try:
            filled.reconstruct_n(0, 10)
        except RuntimeError:  # it has just been reset
            assert filled.ntotal < 5000

    with ThreadPoolExecutor(5) as pool:
        others = [
            pool.submit(until_stopped, call) for call in (search, search, save, clone, decode)
        ]
        try:
            end = time.monotonic() + 4
            while time.monotonic() < end:
                filled.add(base[:100])
                if filled.ntotal > 6000:
                    filled.reset()
        finally:
            stop.set()
        assert all(other.result() > 0 for other in others)


def test_removals_and_merges_to_and_fro_beside_searches(filled, base, queries):
    """Two indexes that take from each other, in both directions at once: nothing is lost, and what
    a search finds is whole."""
    expected = filled.reconstruct_n()
    other = copy.copy(filled)
    other.reset()
    both = filled, other
    for index in both:
        index.nprobe = 4
        index.make_direct_map()
    stop = threading.Event()

    def search(index):
        while not stop.is_set():
            D, I = index.search(queries[:10], 5)
            assert np.isfinite(D).all()
            assert I.max() < 3000
            copied = copy.copy(index)
            assert int(copied.lists.sizes().sum()) == copied.ntotal

    def merge(one, two):
        for _ in range(60):
            one.merge_from(two)

    def remove():
        for i in range(100):
            for index in both:
                index.remove_ids(np.arange(10 * i, 10 * i + 10))

    with ThreadPoolExecutor(5) as pool:
        readers = [pool.submit(search, index) for index in both]
        changes = [pool.submit(merge, *both), pool.submit(merge, *both[::-1]), pool.submit(remove)]
        for change in changes:
            change.result()
        stop.set()
        for reader in readers:
            reader.result()
    filled.merge_from(other)
    filled.remove_ids(np.arange(1000))
    assert filled.ntotal == 2000
    ids = np.concatenate([filled.lists.get_ids(l) for l in range(filled.nlist)])
    np.testing.assert_array_equal(np.sort(ids), np.arange(1000, 3000))
    for i in range(1000, 3000, 50):
        np.testing.assert_array_equal(filled.reconstruct(i), expected[i])


def test_a_filter_that_adds_beside_an_add_is_refused(filled, queries):
    """Whoever changes the index waits for the search, which must not wait for the change."""
    inside, waits = threading.Event(), []

    def adds(i):
        if not inside.is_set():
            inside.set()
            time.sleep(0.1)  # the other thread's add waits by now
            with pytest.raises(RuntimeError, match="inside a search"):
                filled.add(queries[:1])
            waits.append(filled.ntotal)
        return True

    def add():
        inside.wait()
        filled.add(queries[:1])

    other = threading.Thread(target=add)
    other.start()
    params = fq.SearchParametersIVFQINCo(sel=faiss.PyCallbackIDSelector(adds))
    filled.search(queries[:1], 3, params=params)
    other.join(timeout=60)
    assert not other.is_alive()
    assert (waits, filled.ntotal) == ([3000], 3001)


@pytest.mark.parametrize("n_rows", [1, 200_000])
def test_ctrl_c_while_adding(command, n_rows):
    """All or nothing: what is stored fits the count, can be saved, and read again."""
    program = f"""
        x = np.tile(queries, ({n_rows} // len(queries) + 1, 1))[:{n_rows}]
        print("adding", flush=True)
        try:
            while True:
                index.add(x)
        except KeyboardInterrupt:
            n = index.ntotal
            assert (n - 3000) % {n_rows} == 0 and index.lists.sizes().sum() == n
            fq.write_index(index, sys.argv[1] + ".new")
            assert fq.read_index(sys.argv[1] + ".new").ntotal == n
            print("interrupted")
    """
    assert interrupted(command(program), "adding", 0.7) == "interrupted\n"


def test_a_selector_may_search_and_may_not_add(filled, queries):
    """A change inside a search of its own would wait for itself."""
    expected = filled.search(queries[:1], 3)[1]

    def searches(i):
        return bool((filled.search(queries[:1], 3)[1] == expected).all())

    def adds(i):
        filled.add(queries[:1])

    def found(is_member):
        params = fq.SearchParametersIVFQINCo(sel=faiss.PyCallbackIDSelector(is_member))
        return filled.search(queries[:1], 3, params=params)[1]

    np.testing.assert_array_equal(found(searches), expected)
    with pytest.raises(RuntimeError, match="inside a search"):
        found(adds)
    assert filled.ntotal == 3000


def test_number_of_threads():
    before = fq.get_num_threads()
    for wrong, error in ((2.5, TypeError), ("2", TypeError), (0, ValueError), (-1, ValueError)):
        with pytest.raises(error):
            fq.set_num_threads(wrong)
    fq.set_num_threads(np.int64(1))
    assert fq.get_num_threads() == 1
    fq.set_num_threads(None)
    assert fq.get_num_threads() == before
