"""The file that `build` makes of shards: that of an index to which the same codes were added."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco import _core
from faiss_qinco.cli import main
from faiss_qinco.pipeline.build import JOURNAL, PARTIAL, build
from faiss_qinco.pipeline.encode import encode
from faiss_qinco.pipeline.memory import resident
from faiss_qinco.pipeline.model import fingerprint_of
from faiss_qinco.pipeline.shard import NOT_STORED, Rows, write_shard
from faiss_qinco.storage.container import FileFormatError

from ..conftest import TINY, make_searchable, new_index

PYTHONPATH = str(Path(fq.__file__).parents[1])


def leaf(index: Any) -> Any:
    return getattr(index, "index", index)


def random_rows(
    index: Any, n: int, rng: np.random.Generator, ids: np.ndarray | None = None, even: bool = False
) -> Rows:
    """What encoding could have given, some rows of which are not stored, and some lists without
    any; even: all lists have about as many."""
    index = leaf(index)
    list_no = rng.integers(0, index.nlist, n).astype(np.uint32)
    list_no[rng.random(n) < 0.1] = NOT_STORED
    if index.nlist > 3 and not even:
        list_no[np.isin(list_no, [0, 2, index.nlist - 1])] = 1
    codes = _core.pack_codes(rng.integers(0, 1 << index.nbits, (n, index.M), np.uint8), index.nbits)
    engine = index._engine
    beside = None
    if engine.metric == faiss.METRIC_L2 or engine.length_correction:
        # Small ones, so that with length correction they are ratios of about 1.
        beside = rng.normal(0, 0.1, n).astype(np.float32).view(np.uint32) >> 16
        beside = beside.astype(np.uint16)
    return Rows(list_no, codes, beside, ids)


def write_shards(index: Any, rows: Rows, sizes: list[int], folder: Path) -> list[Path]:
    folder.mkdir()
    paths, first = [], 0
    for i, size in enumerate(sizes):
        part = slice(first, first + size)
        some = Rows(
            rows.list_no[part], rows.codes[part],
            None if rows.beside is None else rows.beside[part],
            None if rows.ids is None else rows.ids[part],
        )  # fmt: skip
        paths.append(folder / f"{i}.fqs")
        write_shard(paths[-1], fingerprint_of(index), first, leaf(index).nlist, some)
        first += size
    assert first == len(rows.list_no)
    return paths


def expected(index: Any, rows: Rows, path: Path) -> bytes:
    """What `write_index` gives of an index that has these rows, each list in the order of its ids:
    added in that order, where there are enough in all lists for them to be sorted."""
    index = fq.deserialize_index(fq.serialize_index(index))
    engine = leaf(index)._engine
    n = len(rows.list_no)
    ids = np.arange(n) if rows.ids is None else rows.ids
    list_no = np.where(rows.list_no == NOT_STORED, -1, rows.list_no.astype(np.int64))
    order = np.lexsort((np.arange(n), ids, list_no))
    order = order[list_no[order] >= 0]
    beside = np.zeros(n, np.float32)
    if rows.beside is not None:
        beside = (rows.beside.astype(np.uint32) << 16).view(np.float32)
        beside = beside + np.float32(engine.length_correction)
    sizes = np.bincount(list_no[order], minlength=len(engine.centroids))
    engine.core.import_(
        sizes,
        lambda first, m: (
            rows.codes[order[first : first + m]], beside[order[first : first + m]],
            ids[order[first : first + m]].astype(np.int64),
        ),
        len(order), n,
    )  # fmt: skip
    engine.next_id = max(0, int(ids.max(initial=-1)) + 1)
    fq.write_index(index, path)
    return path.read_bytes()


def built(index: Any, shards: Any, out: Path, **kwargs: Any) -> bytes:
    build(index, shards, out, progress=False, **kwargs)
    assert sorted(f.name for f in out.parent.iterdir() if f.name.startswith(out.name)) == [out.name]
    return out.read_bytes()


KINDS = ["l2", "ip", "length", "nbits 5", "flat", "behind"]
images: dict[str, np.ndarray] = {}


@pytest.fixture(autouse=True, scope="module")
def shared(trained) -> None:
    """Those that other tests have made already."""
    images["l2"], images["ip"] = trained[faiss.METRIC_L2], trained[faiss.METRIC_INNER_PRODUCT]


def made(kind: str, learn: np.ndarray) -> Any:
    """An empty index that can be searched, made once."""
    if kind not in images:
        index: Any = {
            "length": lambda: new_index(faiss.METRIC_INNER_PRODUCT),
            "nbits 5": lambda: new_index(nbits=5),
            "flat": lambda: fq.index_factory(128, "QINCo3x4"),
            "behind": lambda: fq.index_factory(128, "PCA32,IVF16,QINCo4x8"),
        }[kind]()
        if kind == "length":
            index.length_correction = True
        make_searchable(index, learn[:2000])
        images[kind] = fq.serialize_index(index)
    return fq.deserialize_index(images[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_ids", [False, True])
def test_the_file_of_an_index_with_the_same_codes(learn, tmp_path, kind, with_ids) -> None:
    index = made(kind, learn)
    rng = np.random.default_rng(0)
    n = 3000
    ids = rng.integers(0, 1 << 40, n) if with_ids else None
    rows = random_rows(index, n, rng, ids)
    if ids is not None:
        ids[rng.integers(0, n, 50)] = ids[0]  # many times the same
    want = expected(index, rows, tmp_path / "expected")
    for i, sizes in enumerate(([n], [0, 1, 0, 1999, 1000, 0], [100] * 30)):
        shards = write_shards(index, rows, sizes, tmp_path / str(i))
        assert built(index, shards[::-1], tmp_path / "out") == want
    found = fq.read_index(tmp_path / "out", faiss.IO_FLAG_MMAP)
    assert found.ntotal == n
    fq.verify_index(tmp_path / "out")


def test_what_add_makes_of_real_vectors(learn, base, tmp_path) -> None:
    for name, index in (("ivf", made("l2", learn)), ("behind", made("behind", learn)),
                        ("flat", made("flat", learn))):  # fmt: skip
        x = base[:2000].copy()
        x[[3, 1999]] = np.nan
        if name == "flat":
            x = base[:2000]  # numbers without gaps: no ids at all
        encode(index, x, tmp_path / name, rows_per_shard=700, progress=False)
        data = built(index, tmp_path / name, tmp_path / "out")
        index.add(x)
        found = fq.read_index(tmp_path / "out")
        one, two = leaf(index)._engine, leaf(found)._engine
        assert (two.core.ntotal, two.next_id) == (one.core.ntotal, one.next_id) == (2000, 2000)
        for ours, theirs in zip(found.search(base[:50], 10), index.search(base[:50], 10),
                                strict=True):  # fmt: skip
            np.testing.assert_array_equal(ours, theirs)
        if name == "flat":
            assert data == fq.serialize_index(index).tobytes()


def test_ranges_do_not_show(learn, tmp_path, monkeypatch) -> None:
    index = made("l2", learn)
    n = 200_000
    rng = np.random.default_rng(1)
    rows = random_rows(index, n, rng, rng.integers(0, 1 << 40, n), even=True)
    shards = write_shards(index, rows, [n // 4] * 4, tmp_path / "shards")
    want = expected(index, rows, tmp_path / "expected")
    begun: list[int] = []
    begin = _core.ListBuilder.begin

    def noted(self: Any, first: int, end: int) -> None:
        begun.append(first)
        begin(self, first, end)

    monkeypatch.setattr(_core.ListBuilder, "begin", noted)
    made_of = set()
    for more in range(18, 30):  # MB beside what is there, from too few to enough
        begun.clear()
        try:
            assert built(index, shards, tmp_path / "out", memory=resident() + more * 10**6) == want
            made_of.add(len(begun))
        except ValueError as error:
            assert "memory: expected at least" in str(error)
            os.unlink(f"{tmp_path / 'out'}{JOURNAL}")
    assert len(made_of) > 2


def test_without_rows(learn, tmp_path) -> None:
    index = made("l2", learn)
    empty = random_rows(index, 0, np.random.default_rng(0))
    want = fq.serialize_index(index).tobytes()
    assert built(index, [], tmp_path / "out") == want
    shards = write_shards(index, empty, [0, 0], tmp_path / "shards")
    assert built(index, shards, tmp_path / "out") == want


def test_shards_that_do_not_belong_are_refused(learn, tmp_path) -> None:
    index = made("l2", learn)
    rows = random_rows(index, 300, np.random.default_rng(0))
    a, b, c = write_shards(index, rows, [100] * 3, tmp_path / "shards")
    out = tmp_path / "out"

    with pytest.raises(ValueError, match="rows 100 to 199 before it are missing"):
        built(index, [a, c], out)
    with pytest.raises(ValueError, match="rows 0 to 99 before it are missing"):
        built(index, [b, c], out)
    with pytest.raises(ValueError, match="rows 100 to 199 before it are there twice"):
        built(index, [a, b, b, c], out)
    other = made("nbits 5", learn)
    with pytest.raises(ValueError, match="fingerprint: expected"):
        built(other, [a, b, c], out)
    with pytest.raises(ValueError, match="expected an empty one, got ntotal 5"):
        full = fq.deserialize_index(fq.serialize_index(index))
        full.add(learn[:5])
        built(full, [a, b, c], out)
    with pytest.raises(TypeError, match="index: expected"):
        built(faiss.IndexFlatL2(128), [a, b, c], out)
    with pytest.raises(RuntimeError, match="no such file"):
        built(index, [a, tmp_path / "none.fqs"], out)
    with pytest.raises(RuntimeError, match="no such folder to write to"):
        built(index, [a, b, c], tmp_path / "none" / "out")
    with pytest.raises(ValueError, match="out: expected a regular file"):
        built(index, [a, b, c], tmp_path)
    with pytest.raises(ValueError, match="out: expected another file than a shard"):
        built(index, [a, b, c], b)
    with pytest.raises(ValueError, match="memory: expected at least"):
        built(index, [a, b, c], tmp_path / "small", memory=1 << 20)
    with pytest.raises(ValueError, match="memory: expected 1"):
        built(index, [a, b, c], out, memory=0)
    with pytest.raises(TypeError, match="memory"):
        built(index, [a, b, c], out, memory="4GB")
    with pytest.raises(TypeError):
        built(index, [1, 2], out)

    # Lists that there are not, in a file whose checksums are right.
    bad = Rows(np.full(100, 16, np.uint32), rows.codes[:100], rows.beside[:100], None)
    write_shard(c, fingerprint_of(index), 200, index.nlist, bad)
    with pytest.raises(FileFormatError, match=r"2\.fqs.*list_no\[0\]: expected below 16"):
        built(index, [a, b, c], out)
    whole = b.read_bytes()
    for data, what in ((whole[:-5], "truncated"), (whole[:-5] + b"12345", "damaged")):
        b.write_bytes(data)
        with pytest.raises(FileFormatError, match=rf"1\.fqs.*{what}"):
            built(index, [a, b], out)
    assert not out.exists()


def forked(call: Any) -> int:
    """The process id of a child that does this and ends."""
    if (child := os.fork()) == 0:
        try:
            call()
        finally:
            os._exit(0)
    return child


def test_killed_at_any_moment_it_goes_on_to_the_same_file(learn, tmp_path) -> None:
    index = made("l2", learn)
    n = 4000
    rng = np.random.default_rng(2)
    rows = random_rows(index, n, rng, rng.integers(0, 1 << 40, n))
    shards = write_shards(index, rows, [n // 4] * 4, tmp_path / "shards")
    want = expected(index, rows, tmp_path / "expected")
    out = tmp_path / "out"
    begin = _core.ListBuilder.begin
    log = tmp_path / "log"

    def run() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("faiss_qinco.pipeline.build._cut", one_list_each)
            patch.setattr(_core.ListBuilder, "begin", noted)
            build(index, shards, out, progress=False)

    def one_list_each(ends: np.ndarray, first: int, end: int, most: int) -> Any:
        return ((i, i + 1) for i in range(first, end))

    def noted(self: Any, first: int, end: int) -> None:
        with log.open("a") as file:
            file.write(f"{first} ")
        begin(self, first, end)

    n_killed = 0
    while not out.exists() and n_killed < 200:
        child = forked(run)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        n_killed += 1
    assert n_killed > 3
    run()  # what was killed behind its last step
    assert out.read_bytes() == want
    left = {f.name for f in tmp_path.iterdir()} - {"shards", "expected", "out", "log"}
    assert not left
    first = [int(word) for word in log.read_text().split()]
    begun = first[: first.index(15) + 1]  # in the file is what comes before the last one
    assert all(b in (a, a + 1) or a == b == 0 for a, b in pairwise(begun))


def test_begun_anew_for_other_shards_and_damaged_leftovers(learn, tmp_path) -> None:
    index = made("l2", learn)
    rng = np.random.default_rng(3)
    out = tmp_path / "out"
    partial, journal = Path(f"{out}{PARTIAL}"), Path(f"{out}{JOURNAL}")
    a = random_rows(index, 1000, rng)
    b = random_rows(index, 1000, rng)
    one = write_shards(index, a, [500, 500], tmp_path / "a")
    two = write_shards(index, b, [500, 500], tmp_path / "b")
    want = expected(index, b, tmp_path / "expected")

    def interrupted(shards: list[Path], calls: int) -> None:
        """As much as is done before this call of `write`."""
        left, write = calls, _core.ListBuilder.write

        def last(self: Any, *args: Any) -> Any:
            nonlocal left
            if (left := left - 1) < 0:
                raise KeyboardInterrupt
            return write(self, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_core.ListBuilder, "write", last)
            patch.setattr("faiss_qinco.pipeline.build._cut", lambda ends, first, end, most: (
                (i, i + 1) for i in range(first, end)
            ))  # fmt: skip
            with pytest.raises(KeyboardInterrupt):
                built(index, shards, out)
        assert partial.exists() and journal.exists() and not out.exists()

    interrupted(one, 7)
    with pytest.warns(UserWarning, match="begun anew: .*other files or another model"):
        assert built(index, two, out) == want
    out.unlink()

    interrupted(two, 7)
    data = bytearray(journal.read_bytes())
    data[-3] ^= 1
    journal.write_bytes(data)
    with pytest.warns(UserWarning, match="begun anew: .*damaged"):
        assert built(index, two, out) == want
    out.unlink()

    interrupted(two, 7)
    partial.unlink()
    with pytest.warns(UserWarning, match="is not what its journal says"):
        assert built(index, two, out) == want
    out.unlink()

    # Other settings of the index are no other model, and are those of the file.
    interrupted(two, 7)
    index.nprobe = 2
    assert built(index, two, out) == expected(index, b, tmp_path / "expected")

    # A file that is there is replaced, and keeps its mode.
    out.write_text("old")
    out.chmod(0o640)
    built(index, two, out)
    assert out.stat().st_mode & 0o777 == 0o640


def test_who_is_killed_behind_the_last_step_has_only_the_journal_left(learn, tmp_path) -> None:
    index = made("l2", learn)
    rows = random_rows(index, 1000, np.random.default_rng(0))
    shards = write_shards(index, rows, [1000], tmp_path / "shards")
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("faiss_qinco.pipeline.build.os.unlink", lambda path: os._exit)
        build(index, shards, out, progress=False)
    assert Path(f"{out}{JOURNAL}").exists()
    made_at = out.stat().st_ino
    want = out.read_bytes()
    assert built(index, shards, out) == want
    assert out.stat().st_ino == made_at


def test_two_at_once(learn, tmp_path) -> None:
    index = made("l2", learn)
    out = tmp_path / "out"
    with open(f"{out}{PARTIAL}", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another process is building this file"):
            build(index, [], out, progress=False)
    built(index, [], out)


def test_a_full_disk(learn, tmp_path) -> None:
    index = made("l2", learn)
    rows = random_rows(index, 20000, np.random.default_rng(0))
    shards = write_shards(index, rows, [20000], tmp_path / "shards")
    out = tmp_path / "out"

    def in_a_small_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            build(index, shards, out, progress=False)
        except OSError as error:
            (tmp_path / "error").write_text(f"{error.errno} {error}")

    os.waitpid(forked(in_a_small_room), 0)
    said = (tmp_path / "error").read_text()
    assert said.startswith(str(errno.EFBIG)) and "build again, and it goes on" in said
    assert not out.exists()
    assert built(index, shards, out) == expected(index, rows, tmp_path / "expected")


PEAK = """
import sys
from pathlib import Path
import faiss_qinco as fq
from faiss_qinco.pipeline.build import build
from faiss_qinco.pipeline.memory import resident
trained, out, *shards = sys.argv[1:]
index = fq.read_index(trained)
memory = resident() + 36_000_000
Path("/proc/self/clear_refs").write_text("5")
build(index, shards, out, memory=memory, progress=False)
status = Path("/proc/self/status").read_text()
peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
print(peak - memory)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures as Linux does")
def test_the_memory_is_kept(learn, tmp_path) -> None:
    index = fq.IndexIVFQINCo(faiss.IndexFlatL2(128), 128, 200, 4, 8, faiss.METRIC_L2, TINY)
    index.quantizer.add(learn[:200])
    make_searchable(index, learn[:2000])
    fq.write_index(index, tmp_path / "trained")
    some = random_rows(index, 250_000, np.random.default_rng(0), even=True)
    n, shards = 0, []
    while n < 12_000_000:
        shards.append(tmp_path / f"{n}.fqs")
        write_shard(shards[-1], fingerprint_of(index), n, index.nlist, some)
        n += 250_000
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "trained", out, *shards],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )  # fmt: skip
    assert out.stat().st_size > 80_000_000  # and 168 with wide ids
    assert int(done.stdout) < 0


def test_the_command(learn, base, tmp_path, capsys) -> None:
    index = made("l2", learn)
    fq.write_index(index, tmp_path / "trained")
    encode(index, base[:1000], tmp_path / "codes", rows_per_shard=300, progress=False)
    command = ["build", "--index", str(tmp_path / "trained"), "--out", str(tmp_path / "out")]
    assert main([*command, "--codes", str(tmp_path / "codes"), "--memory", "4GB"]) == 0
    assert "1000 vectors" in (said := capsys.readouterr().out) and "bytes a vector" in said
    assert fq.read_index(tmp_path / "out").ntotal == 1000
    assert main([*command, "--codes", str(tmp_path / "codes"), "--memory", "1MB"]) == 1
    assert "memory: expected at least" in capsys.readouterr().err
    for wrong in (["--codes", "x", "--ids", "y"], ["--base", "x", "--memory", "1GB"]):
        assert main([*command, *wrong]) == 1
        assert f"{wrong[2]}: expected with" in capsys.readouterr().err
    (tmp_path / "codes" / "000001.fqs").unlink()
    assert main([*command, "--codes", str(tmp_path / "codes")]) == 1
    assert "still to be encoded" in capsys.readouterr().err
