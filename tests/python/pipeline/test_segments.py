"""An index of segments: searched in one call, appended to, compacted, whole whatever happens."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.cli import main
from faiss_qinco.pipeline import segments
from faiss_qinco.pipeline.segment_manifest import commit, segments_of
from faiss_qinco.pipeline.segments import IndexSegments, append, compact

from ..conftest import make_searchable


def equal(one, two) -> None:
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def folder(empty, base, tmp_path) -> Path:
    """A first segment of 1000 vectors."""
    empty.add(base[:1000])
    empty.nprobe = 8
    fq.write_index(empty, tmp_path / "000000.fqi")
    commit(tmp_path, [tmp_path / "000000.fqi"])
    return tmp_path


def test_appended_searched_compacted(folder, empty, base, queries) -> None:
    append(folder, base[1000:1600], progress=False)
    append(folder, base[1600:1700], np.arange(5000, 5100), progress=False)
    index = IndexSegments(folder)
    assert (index.ntotal, index.d, index.nlist, len(index.segments)) == (1700, 128, 16, 3)
    empty.add(base[1000:1600])
    empty.add_with_ids(base[1600:1700], np.arange(5000, 5100))
    # With all of a list re-ranked, there is nothing that a shortlist of its own could change.
    params = fq.SearchParametersIVFQINCo(nprobe=8, nshort=2000, exit_margin=float("inf"))
    one, whole = index.search(queries, 10, params=params), empty.search(queries, 10, params=params)
    assert (one[1] == whole[1]).mean() > 0.999  # but for ties
    np.testing.assert_array_equal(one[0], whole[0])
    few = index.search(queries, 10)[0], empty.search(queries, 10)[0]
    assert (few[0] <= few[1]).all()  # never worse
    sel = faiss.IDSelectorRange(1500, 5050)
    params = fq.SearchParametersIVFQINCo(nprobe=16, nshort=2000, sel=sel)
    found = index.search(queries, 5, params=params)[1]
    assert ((found >= 1500) & (found < 5050)).all()
    for key in (3, 1100):
        np.testing.assert_array_equal(index.reconstruct(key), empty.reconstruct_n(key, 1)[0])
    assert np.square(index.reconstruct(5099) - base[1699]).sum() < np.square(base[1699]).sum() / 2
    with pytest.raises(RuntimeError, match="no segment has id 4000"):
        index.reconstruct(4000)
    out = compact(folder, progress=False)
    assert segments_of(folder) == [out] and [f.name for f in folder.glob("*.fqi")] == [out.name]
    equal(IndexSegments(folder).search(queries, 10), fq.read_index(out).search(queries, 10))
    equal(fq.read_index(out).search(queries, 10), empty.search(queries, 10))
    index.search(queries, 10)  # what is deleted is still mapped


def test_settings(folder, base, queries) -> None:
    append(folder, base[1000:1300], progress=False)
    index = IndexSegments(folder)
    assert index.nprobe == 8
    index.nprobe, index.nshort = 3, 0
    assert [leaf.nprobe for leaf in index.segments] == [3, 3]
    params = fq.SearchParametersIVFQINCo(nprobe=3, nshort=0)
    equal(index.search(queries, 4), IndexSegments(folder).search(queries, 4, params=params))
    point = fq.OperatingPoint("quick", {"nprobe": 3, "nshort": 0}, {1: 0.5}, 0.001)
    index.segments[0].operating_points = [point]  # no other segment has it
    equal(index.search(queries, 4, params="r@1>=.5"), index.search(queries, 4, params=params))
    index.min_codes = 500
    assert (index.search(queries, 4)[1] >= 0).all()
    D, I = np.empty((500, 4), np.float32), np.empty((500, 4), np.int64)
    assert index.search(queries[:500], 4, D=D, I=I)[0] is D
    with pytest.raises(AttributeError):
        index.nothing  # noqa: B018
    with pytest.raises(AssertionError):
        index.search(queries[:, :5], 4)


def test_other_kinds(learn, base, queries, tmp_path) -> None:
    """Behind a transform, with inner product, a quantizer that is not flat."""
    index = fq.index_factory(128, "PCA32,IVF16_HNSW8,QINCo4x8", faiss.METRIC_INNER_PRODUCT)
    make_searchable(index, learn[:2000])
    index.add(base[:500])
    index.index.nprobe = 16
    fq.write_index(index, tmp_path / "a.fqi")
    commit(tmp_path, [tmp_path / "a.fqi"])
    append(tmp_path, base[500:900], progress=False)
    index.add(base[500:900])
    params = fq.SearchParametersIVFQINCo(nprobe=16, nshort=900, exit_margin=float("inf"))
    found = IndexSegments(tmp_path).search(queries, 10, params=params)
    np.testing.assert_allclose(found[0], index.search(queries, 10, params=params)[0], rtol=1e-5)


def test_killed_when_all_but_the_codes_was_done(folder, base, monkeypatch) -> None:
    """Who calls again does not store the same vectors twice, and can store others."""
    x, y = base[1000:1100], base[1100:1150]

    def killed(codes: Path) -> None:
        raise KeyboardInterrupt

    for again, expected in ((x, 1100), (y, 1250)):
        with monkeypatch.context() as patch:
            patch.setattr(segments, "_forget", killed)
            with pytest.raises(KeyboardInterrupt):
                append(folder, x, progress=False)
        append(folder, again, progress=False)
        assert IndexSegments(folder).ntotal == expected
        assert not [*folder.glob("*.codes")]


def test_one_writer_at_a_time(folder, base) -> None:
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        for call in (lambda: append(folder, base[:10]), lambda: compact(folder)):
            with pytest.raises(BlockingIOError, match="another process appends"):
                call()
    finally:
        os.close(handle)
    append(folder, base[:10], progress=False)


@pytest.mark.parametrize("what", ["append", "compact"])
def test_killed_at_any_moment(folder, base, what) -> None:
    """What was committed is there, or what was to be; and who calls again comes to the end."""
    x = np.tile(base, (2, 1))
    if what == "compact":
        for i in range(3):
            append(folder, x[5000 * i : 5000 * (i + 1)], progress=False)
    before, n_ended = IndexSegments(folder).ntotal, 0
    start, rng = time.perf_counter(), np.random.default_rng(0)
    IndexSegments(folder)
    seconds = 20 * (time.perf_counter() - start)
    for i in range(12):
        if (process := os.fork()) == 0:
            fq.set_num_threads(1)
            if what == "compact":
                compact(folder, progress=False)
            else:
                append(folder, x, progress=False)
            os._exit(0)
        if i < 11:
            time.sleep(rng.uniform(0, seconds))
            os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        n_ended += status == 0
        for file in segments_of(folder):
            fq.verify_index(file)
        more = IndexSegments(folder).ntotal - before
        assert more % len(x) == 0
        if what == "compact":
            assert more == 0
        else:  # each that came to its end has stored them once
            assert more // len(x) - n_ended in (0, 1)
    assert status == 0


def test_the_commands(filled_image, base, queries, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    index = fq.deserialize_index(filled_image)
    index.reset()
    fq.write_index(index, "trained.fqi")
    for i, part in enumerate(np.split(base[:900], 3)):
        np.save(f"{i}.npy", part)
    assert main(["append", "--segments", "photos", "--base", "0.npy"]) == 1
    assert "index: expected a trained one" in capsys.readouterr().err
    assert (
        main(["append", "--segments", "photos", "--base", "0.npy", "--index", "trained.fqi"]) == 0
    )
    assert main(["append", "--segments", "photos", "--base", "1.npy", "2.npy"]) == 0
    assert IndexSegments("photos").ntotal == 900
    assert main(["compact", "photos"]) == 0
    assert "000002.fqi" in capsys.readouterr().out
    index.add(base[:900])
    equal(IndexSegments("photos").search(queries, 3), index.search(queries, 3))


def test_a_committed_file_that_changed(folder, empty, base) -> None:
    empty.add(base[:5])
    fq.write_index(empty, folder / "000000.fqi")
    with pytest.raises(RuntimeError, match="expected 1000 vectors as in its manifest, got 1005"):
        IndexSegments(folder)
    (folder / "000000.fqi").unlink()
    with pytest.raises(RuntimeError, match="no such file"):
        IndexSegments(folder)
