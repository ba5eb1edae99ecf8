"""Centroids of many lists: as many as asked for, the same however often it is killed, in the memory
that it is given, from vectors of every kind; and the indexes that they are for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco import clustering
from faiss_qinco.cli import main
from faiss_qinco.pipeline.coarse import read_coarse, train_coarse, use_coarse, write_coarse
from faiss_qinco.storage.container import FileFormatError
from faiss_qinco.training.data import TrainingSet

from ..conftest import TINY, make_searchable

NLIST = 200
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
METRICS = [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT]


@pytest.fixture(autouse=True)
def levels(monkeypatch):
    """Two levels where faiss's k-means would do."""
    monkeypatch.setattr(clustering, "DIRECT", 64)


def trained(x, nlist=NLIST, **kwargs) -> np.ndarray:
    return train_coarse(x, nlist, progress=False, **kwargs)


def distance(x: np.ndarray, centroids: np.ndarray) -> float:
    return float(faiss.knn(x, centroids, 1)[0].mean())


def in_child(call, *args, **kwargs) -> int:
    """The status of a process that makes the call."""
    if (process := os.fork()) == 0:
        try:
            call(*args, **kwargs)
        finally:
            os._exit(0)
    return os.waitpid(process, 0)[1]


def test_as_good_as_k_means_over_all(learn, base):
    """Of vectors of other photographs; without the last iteration it is half a percent worse."""
    km = faiss.Clustering(128, NLIST)
    km.niter, km.max_points_per_centroid = 10, 50
    km.train(learn[:10_000], faiss.IndexFlatL2(128))
    expected = faiss.vector_to_array(km.centroids).reshape(NLIST, 128)
    assert distance(base, trained(learn[:10_000])) < 1.01 * distance(base, expected)


@pytest.mark.parametrize("metric", METRICS)
def test_few_are_faiss_s(learn, metric):
    cp = faiss.ClusteringParameters()
    cp.niter, cp.spherical = 1, metric == faiss.METRIC_INNER_PRODUCT
    km = faiss.Clustering(128, 16, cp)
    for _ in range(10):
        km.train(learn[:4000], faiss.IndexFlat(128, metric))
    expected = faiss.vector_to_array(km.centroids).reshape(16, 128)
    np.testing.assert_array_equal(trained(learn[:4000], 16, metric=metric), expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nlist", [65, 200, 1777])
def test_as_many_as_asked_for(learn, metric, nlist):
    """And each with vectors of its own, of those it was trained on."""
    x = learn.astype(np.float16)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        centroids = trained(x, nlist, metric=metric)
    assert len(given) == (nlist == 1777)  # too few vectors, as faiss says
    assert (centroids.shape, centroids.dtype) == ((nlist, 128), np.float32)
    assert np.isfinite(centroids).all()
    assert len(np.unique(centroids, axis=0)) == nlist
    index = faiss.IndexFlat(128, metric)
    index.add(centroids)
    used = np.unique(index.search(x.astype(np.float32), 1)[1])
    assert len(used) > 0.97 * nlist
    if metric == faiss.METRIC_INNER_PRODUCT:
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-5)


def test_killed_after_each_part(learn, tmp_path, monkeypatch):
    """By SIGKILL, once for each checkpoint: a run that did any part again would not come so far."""
    file, out = tmp_path / "checkpoint", tmp_path / "out.npy"
    save, n = clustering.Checkpoint.save, 0

    def run():
        np.save(out, trained(learn, checkpoint=file))

    def last_words(self, *args, **kwargs):
        save(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    def count(self, *args, **kwargs):
        with open(tmp_path / "count", "ab") as counts:
            counts.write(b".")

    with monkeypatch.context() as patch:
        patch.setattr(clustering.Checkpoint, "save", count)
        assert in_child(run) == 0
    expected = out.read_bytes()
    out.unlink()
    parts = (tmp_path / "count").stat().st_size
    assert parts > 30
    monkeypatch.setattr(clustering.Checkpoint, "save", last_words)
    while in_child(run) != 0:
        n += 1
    assert n == parts
    assert out.read_bytes() == expected


def test_killed_at_any_moment(learn, tmp_path):
    file, out = tmp_path / "checkpoint", tmp_path / "out.npy"
    x = np.tile(learn, (3, 1))

    def run(checkpoint):
        np.save(out, trained(x, checkpoint=checkpoint))

    start = time.perf_counter()
    assert in_child(run, None) == 0
    seconds, expected = time.perf_counter() - start, out.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(10):
        if (process := os.fork()) == 0:
            run(file)
            os._exit(0)
        time.sleep(rng.uniform(0, seconds / 3))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    out.unlink()
    assert in_child(run, file) == 0
    assert out.read_bytes() == expected


def test_checkpoints_of_something_else(learn, tmp_path):
    file = tmp_path / "checkpoint"
    x = learn[:8000]
    expected = trained(x, checkpoint=file)
    content = file.read_bytes()
    np.testing.assert_array_equal(trained(x, checkpoint=file), expected)  # and all is done
    for other, settings in (
        (x[::-1], {}), (x[:7999], {}), (x, {"metric": faiss.METRIC_INNER_PRODUCT}),
        (x, {"seed": 1}), (x, {"niter": 3}), (x, {"nlist": NLIST + 1}),
        (x, {"max_points_per_centroid": 39}),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="of other vectors or arguments"):
            trained(other, **{"nlist": NLIST, "checkpoint": file, **settings})
    for damaged in (content[:-1], content[:5000] + b"x" + content[5001:], b""):
        file.write_bytes(damaged)
        with pytest.raises(FileFormatError):
            trained(x, checkpoint=file)
    file.write_bytes(content)
    state = clustering.Checkpoint(file, fingerprint_in(file))
    for stage, done, tensors in (
        ("refining", 3, {"first": np.ones((5, 128), np.float32)}),
        ("first", 3, {"centroids": np.ones((NLIST, 5), np.float32)}),
        ("second", 3, {"first": np.ones((5, 128), np.float32),
                       "list_no": np.full(len(x), 5, np.uint16),
                       "centroids": np.ones((5, 128), np.float32)}),
    ):  # fmt: skip
        state.save(stage, done, **tensors)
        with pytest.raises(FileFormatError, match="bad content"):
            trained(x, checkpoint=file)
    with pytest.raises(FileNotFoundError):
        trained(x, checkpoint=tmp_path / "none" / "checkpoint")


def fingerprint_in(file: Path) -> dict:
    from faiss_qinco.storage.container import describe_container

    return describe_container(file).header["fingerprint"]


def test_vectors_that_are_hardly_different(learn):
    few = np.repeat(learn[:100], 90, axis=0)
    for x, copies in ((np.full((9000, 128), 7.5, np.float32), 199), (few, 100)):
        with pytest.warns(RuntimeWarning, match=f"{copies} of 200 centroids are near copies"):
            centroids = trained(x)
        assert centroids.shape == (NLIST, 128) and np.isfinite(centroids).all()
        assert distance(x, centroids) < 1e-3 * float(np.square(x).sum(1).mean())
    # A vector that is half of all gets a centroid, and not half of them.
    x = np.concatenate([np.repeat(learn[:1], 8000, axis=0), learn[1:8001]])
    centroids = trained(x)
    near = faiss.knn(learn[:1], centroids, 10)[0][0]
    assert near[0] < 1 and near[1] > 100
    assert distance(learn[1:8001], centroids) < 1.02 * distance(
        learn[1:8001], trained(learn[1:8001])
    )
    assert not trained(np.zeros((9000, 4), np.uint8), 1).any()


def test_what_cannot_be(learn):
    with pytest.raises(RuntimeError, match="199 training vectors are fewer than nlist=200"):
        trained(learn[:199])
    with pytest.warns(RuntimeWarning, match="clustering 300 points to 200 centroids: please"):
        assert trained(learn[:300]).shape == (200, 128)
    x = learn[:8000].copy()
    x[77, 3] = np.nan
    with pytest.raises(RuntimeError, match="training vector 77 contains NaN"):
        trained(x)
    for settings, error in (
        ({"nlist": 0}, ValueError), ({"nlist": 2.5}, TypeError), ({"metric": 2}, ValueError),
        ({"memory": 10**6}, ValueError), ({"niter": 0}, ValueError), ({"seed": -1}, ValueError),
        ({"max_points_per_centroid": 0}, ValueError), ({"nlist": 10**10}, ValueError),
    ):  # fmt: skip
        with pytest.raises(error):
            trained(learn, **{"nlist": 200, **settings})
    for wrong, error in ((learn.tolist(), TypeError), (learn[0], ValueError)):
        with pytest.raises(error):
            trained(wrong)


def test_the_memory_that_it_is_given(base, tmp_path):
    """A file of more than that, all of which is used."""
    memory, n = 320 << 20, 700_000
    with open(tmp_path / "x", "wb") as file:
        for i in range(0, n, 9375):
            file.write((base[:9375] + np.float32(i / n)).tobytes())
    assert (tmp_path / "x").stat().st_size > memory
    program = """
        import re, sys, numpy as np
        from faiss_qinco import clustering
        from faiss_qinco.pipeline.coarse import train_coarse
        clustering.DIRECT, clustering.PARTS = 64, 4

        class Source:  # a memory map would count as well, for as long as nobody needs the memory
            def __init__(self, path, n):
                self.path, self.shape, self.dtype = path, (n, 128), np.dtype(np.float32)

            def __len__(self):
                return self.shape[0]

            def __getitem__(self, rows):
                if isinstance(rows, slice):
                    rows = np.arange(*rows.indices(len(self)))
                found = np.empty((len(rows), 128), np.float32)
                for i in np.unique(rows // 8192):
                    here = rows // 8192 == i
                    part = np.fromfile(self.path, np.float32, 8192 * 128, offset=i * 8192 * 512)
                    found[here] = part.reshape(-1, 128)[rows[here] - i * 8192]
                return found

        found = train_coarse(Source(sys.argv[1], int(sys.argv[2])), 100, memory=int(sys.argv[3]),
                             niter=1, max_points_per_centroid=7000, progress=False)
        assert found.shape == (100, 128)
        print(re.findall(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[0])
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), tmp_path / "x", str(n), str(memory)],
        stdout=subprocess.PIPE, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert memory / 4 < 1024 * int(run.stdout) < memory


def test_ctrl_c_leaves_a_checkpoint(learn, tmp_path, monkeypatch):
    file = tmp_path / "checkpoint"

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(clustering, "two_level", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(learn, checkpoint=file)
    assert file.exists() and [f.name for f in tmp_path.iterdir()] == ["checkpoint"]
    np.testing.assert_array_equal(trained(learn, checkpoint=file), trained(learn))


def test_an_index_that_trains_by_itself(learn):
    """With many lists it does the same, without a checkpoint."""
    index = fq.index_factory(128, "IVF200,QINCo4x8_XS")
    index._coarse.train(TrainingSet(learn, 128))
    np.testing.assert_array_equal(index.quantizer.reconstruct_n(0, NLIST), trained(learn))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("quantizer", ["", "_HNSW8", "(IVF20,Flat)"])
def test_an_index_with_these_centroids(learn, base, queries, tmp_path, metric, quantizer):
    """Through train, add, search and files, mapped too."""
    centroids = trained(learn, metric=metric)
    write_coarse(tmp_path / "coarse", centroids, metric)
    parsed = fq.index_factory(128, f"IVF200{quantizer},QINCo4x8", metric).quantizer
    index = fq.IndexIVFQINCo(parsed, 128, NLIST, 4, 8, metric, TINY)
    use_coarse(index, tmp_path / "coarse")
    np.testing.assert_array_equal(index.quantizer.reconstruct_n(0, NLIST), centroids)
    right = faiss.IndexFlat(128, metric)
    right.add(centroids)
    found = index.quantizer.search(base, 1)[1] == right.search(base, 1)[1]
    assert found.mean() > 0.95
    make_searchable(index, learn)
    index.add(base)
    assert int(index.lists.sizes().sum()) == len(base)
    index.nprobe = 20
    D, I = index.search(queries, 5)
    assert (I >= 0).all()
    fq.write_index(index, tmp_path / "index")
    for flags in (0, faiss.IO_FLAG_MMAP):
        again = fq.read_index(tmp_path / "index", flags)
        if "IVF" in quantizer:
            assert again.quantizer.nprobe == 16
        for a, b in zip((D, I), again.search(queries, 5), strict=True):
            np.testing.assert_array_equal(a, b)


def test_quantizers_in_brackets():
    made = fq.index_factory(128, "IDMap,PCA32,IVF300(IVF20,Flat),QINCo4x8")
    assert made.index.index.quantizer.nlist == 20 and made.index.index.quantizer.d == 32
    assert type(fq.index_factory(8, "IVF300(HNSW8),QINCo4x8").quantizer) is faiss.IndexHNSWFlat
    for wrong in ("IVF300(),QINCo4x8", "IVF300(IVF20),QINCo4x8", "IVF300(nothing),QINCo4x8"):
        with pytest.raises(ValueError, match=r"IVF300\("):
            fq.index_factory(128, wrong)


def test_files_that_do_not_fit(learn, tmp_path):
    file = tmp_path / "coarse"
    write_coarse(file, learn[:NLIST], faiss.METRIC_L2)
    for nlist, d, metric in ((NLIST + 1, 128, 1), (NLIST, 64, 1), (NLIST, 128, 0)):
        with pytest.raises(ValueError, match=r"expected .* centroids"):
            read_coarse(file, nlist, d, metric)
    for description in ("QINCo4x8", "OPQ16,IVF200,QINCo4x8"):
        with pytest.raises(ValueError, match="with lists and without transforms"):
            use_coarse(fq.index_factory(128, description), file)
    use_coarse(fq.index_factory(128, "IDMap,IVF200,QINCo4x8,RFlat"), file)
    whole = file.read_bytes()
    nan = learn[:NLIST].copy()
    nan[5, 5] = np.nan
    for content in (b"", whole[:-1], whole[:3], b"IxPT" + whole[4:]):
        file.write_bytes(content)
        with pytest.raises(RuntimeError):
            read_coarse(file, NLIST, 128, 1)
    write_coarse(file, nan, faiss.METRIC_L2)
    with pytest.raises(FileFormatError, match="NaN"):
        read_coarse(file, NLIST, 128, 1)
    with pytest.raises(FileNotFoundError):
        read_coarse(tmp_path / "none", NLIST, 128, 1)


def test_the_command(learn, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("one.npy", learn[:6000].astype(np.uint8))
    np.save("two.npy", learn[6000:].astype(np.uint8))
    command = ["train-coarse", "--learn", "one.npy", "two.npy", "--nlist", "200"]
    assert main([*command, "--out", "c.faissindex", "--memory", "1MB"]) == 1
    assert "memory: training 200 centroids takes" in capsys.readouterr().err
    assert main([*command, "--out", "c.faissindex", "--memory", "4GB"]) == 0
    assert "c.faissindex: 200 centroids, d 128" in capsys.readouterr().out
    assert sorted(os.listdir()) == ["c.faissindex", "one.npy", "two.npy"]
    index = faiss.read_index("c.faissindex")
    np.testing.assert_array_equal(index.reconstruct_n(0, NLIST), trained(learn))
    assert main([*command, "--out", "one.npy"]) == 1
    assert main(["train", "--learn", "one.npy", "--out", "x.fqi", "--coarse", "c.faissindex",
                 "IVF100,QINCo4x8"]) == 1  # fmt: skip
    assert "expected 100 centroids" in capsys.readouterr().err
