from __future__ import annotations

import copy
import errno
import io
import os
import pickle
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.storage import container
from faiss_qinco.storage.container import FileFormatError, open_tensors, to_bytes

from .conftest import TINY, make_searchable, new_index, training

N_KILLS = int(os.environ.get("FAISS_QINCO_KILLS", "5"))


def test_round_trip_is_bit_identical(filled, queries, tmp_path):
    filled.nprobe, filled.nshort = 4, 37
    filled.make_direct_map()
    path = tmp_path / "index.fqi"
    fq.write_index(filled, path)
    loaded = fq.read_index(path)
    for a, b in zip(filled.search(queries, 10), loaded.search(queries, 10), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(loaded.reconstruct(5), filled.reconstruct(5))
    np.testing.assert_array_equal(loaded.reconstruct_n(), filled.reconstruct_n())
    fq.write_index(loaded, tmp_path / "again.fqi")
    assert (tmp_path / "again.fqi").read_bytes() == path.read_bytes()


def test_loaded_index_goes_on(filled, base, queries):
    loaded = fq.deserialize_index(fq.serialize_index(filled))
    for index in (filled, loaded):
        index.add(base[3000:3500])
    assert loaded.ntotal == 3500
    np.testing.assert_array_equal(loaded.search(queries, 5)[0], filled.search(queries, 5)[0])


def test_flat_and_untrained_indexes(learn, base, queries, tmp_path):
    index = fq.IndexQINCo(128, 3, 5, faiss.METRIC_INNER_PRODUCT, TINY, training(epochs=1))
    fq.write_index(index, tmp_path / "untrained")
    assert not fq.read_index(tmp_path / "untrained").is_trained
    make_searchable(index, learn[:2000])
    index.add(base[:500])
    loaded = fq.deserialize_index(fq.serialize_index(index))
    np.testing.assert_array_equal(loaded.search(queries, 5)[0], index.search(queries, 5)[0])
    ivf = fq.deserialize_index(fq.serialize_index(new_index()))
    assert (ivf.is_trained, ivf.nlist, ivf.cp.niter) == (False, 16, 10)


def test_reading_and_searching_does_not_import_torch(filled, queries, tmp_path):
    fq.write_index(filled, tmp_path / "index.fqi")
    np.save(tmp_path / "q.npy", queries[:3])
    code = """
import sys, numpy as np, faiss_qinco as fq
index = fq.read_index(sys.argv[1])
D, I = index.search(np.load(sys.argv[2]), 5)
index.reconstruct_n(0, 3)
assert 'torch' not in sys.modules
print(I.tolist())
"""
    args = [sys.executable, "-c", code, tmp_path / "index.fqi", tmp_path / "q.npy"]
    out = subprocess.run(args, check=True, capture_output=True, text=True).stdout
    assert out.strip() == str(filled.search(queries[:3], 5)[1].tolist())


def test_truncated_files(filled_image, tmp_path):
    data = filled_image.tobytes()
    path = tmp_path / "index.fqi"
    for size in (0, 7, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(RuntimeError, match="index"):
            fq.read_index(path)
    with pytest.raises(RuntimeError, match="missing"):
        fq.read_index(tmp_path / "missing")


GOLDEN = Path(__file__).parent / "golden"


def content(name):
    """Header and tensors of a file of d 6, nlist 4, M 3, nbits 4, to be changed."""
    with open_tensors(GOLDEN / f"{name}.fqi") as reader:
        return reader.header, reader.all()


def set_at(value, *path):
    """What puts a value at a place in the header."""

    def change(header, tensors):
        for key in path[:-1]:
            header = header[key]
        header[path[-1]] = value

    return change


def put(name, make):
    def change(header, tensors):
        tensors[name] = make(tensors[name])

    return change


def first(value):
    """A tensor with this value in front."""

    def make(tensor):
        tensor = tensor.copy()
        tensor.reshape(-1)[0] = value
        return tensor

    return make


def drop(name):
    return lambda header, tensors: tensors.pop(name)


def empty_quantizer(d):
    return lambda _: faiss.serialize_index(faiss.IndexFlatL2(d))


def huge_flat(data):
    """It says that it holds 2^33 bytes."""
    data = data.copy()
    data[8:16] = np.frombuffer((2**31 // 6).to_bytes(8, "little"), np.uint8)
    data[37:45] = np.frombuffer((2**31 // 6 * 6).to_bytes(8, "little"), np.uint8)
    return data


REFUSED = {
    f"{path}: {value!r:.30}": set_at(value, *path)
    for path, values in {
        ("type",): ["os.system", ["x"], None],
        ("d",): [5, 2**40, -1, "6", True, 6.0, None],
        ("nlist",): [3, 10**12, 0, -1],
        ("M",): [2, 64, 0, 2**70],
        ("nbits",): [8, 3, "4"],
        ("metric",): [7, "1", -1],
        ("ntotal",): [2, -1, 2**62, 2**70, 40.0],
        ("nprobe",): [-1, "x", 2**70, 1.5, None],
        ("nshort",): [-1, "x", 2**70],
        ("exit_margin",): [-1, "x", "inf", [], 10**400],
        ("M_search",): [0, 4, "2", 1.0, True, 2**70],
        ("min_codes",): [-1, "x", 2**70, 1.5, True, None],
        ("is_trained",): ["yes please", 1, None],
        ("direct_map",): [1, "x", None],
        ("next_id",): [-1, "x", 2**70, 1.5, None],
        ("config",): [None, [], "XXL", {"L": 10**9, "x": 1}],
        ("codec",): [None, [], {}],
        ("codec", "std"): [0, -1, 1e-60, 1e60, "1", 10**400, None],
        ("codec", "M"): [2**40, "3", True, None],
        ("codec", "nlist"): [None, 3, 2**40],
        ("codec", "config"): [[1], None],
        ("codec", "config", "L"): [10**9, 2, -1],
        ("codec", "config", "d_h"): [2**60],
        ("codec", "config", "B"): [2**60, 0],
        ("codec", "student"): [None, {"L": 2**60}],
        ("exits",): [None, [1], {}],
        ("exits", 1, "n_codes"): [99, -1, 0, "1"],
        ("exits", 1, "margins"): [[], ["a"], [-1.0], None, 3],
        ("exits", 1, "range_margin"): [[], [1.0], [-1, 1], None],
        ("cp",): [None, [1]],
        ("cp", "niter"): ["x", 2**31, 1.5, True],
        ("cp", "spherical"): [1, "x"],
    }.items()
    for value in values
} | {
    "margin twice": lambda h, t: h["exits"].append(h["exits"][-1]),
    "header empty": lambda h, t: h.clear(),
    "sizes short": put("sizes", lambda x: x[:-1]),
    "sizes float": put("sizes", lambda x: x.astype(np.float64)),
    "sizes + 1": put("sizes", lambda x: x + 1),
    "sizes negative": put("sizes", first(-1)),
    "sizes huge": put("sizes", first(2**62)),
    "codes narrow": put("codes", lambda x: x[:, :1]),
    "codes int8": put("codes", lambda x: x.astype(np.int8)),
    "ids short": put("ids", lambda x: x[:-1]),
    "ids float": put("ids", lambda x: x.astype(np.float64)),
    "bias float64": put("bias", lambda x: x.astype(np.float64)),
    "additive short": put("additive", lambda x: x[:2]),
    "tail missing": drop("tail.1"),
    "tail of another shape": put("tail.1", lambda x: x[:1]),
    "codec tensor missing": drop("codec.base"),
    "quantizer missing": drop("quantizer"),
    "quantizer cut": put("quantizer", lambda x: x[:40]),
    "quantizer empty": put("quantizer", lambda x: x[:0]),
    "quantizer garbage": put("quantizer", lambda x: np.arange(100, dtype=np.uint8)),
    "quantizer float": put("quantizer", lambda x: x.astype(np.float32)),
    "quantizer without centroids": put("quantizer", empty_quantizer(6)),
    "quantizer of another d": put("quantizer", empty_quantizer(7)),
    "quantizer that says it is huge": put("quantizer", huge_flat),
} | {
    f"{name} {bad}": put(name, first(bad))
    for name in ("codec.mean", "codec.base", "codec.steps.0.codebook",
                 "codec.student.steps.0.codebook", "centroids", "additive", "tail.1", "bias")
    for bad in (np.nan, np.inf)
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_inconsistent_content_is_refused(name):
    """A file with right checksums and wrong content, as an attacker would write it."""
    header, tensors = content("ivf")
    REFUSED[name](header, tensors)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FileFormatError, match=r"^<bytes>: "):
        fq.deserialize_index(to_bytes("index", header, tensors))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10


@pytest.mark.parametrize(
    "change", [set_at(1, "cp", "__class__"), set_at(1, "cp", "this"), set_at(1, "later"),
               lambda h, t: h["cp"].pop("niter"), lambda h, t: h.pop("direct_map"),
               set_at(2**61, "ntotal"), set_at(None, "exits", 1, "margins", 0)],
)  # fmt: skip
def test_unknown_and_lacking_entries_do_no_harm(change):
    """Unknown attributes are not set. Numbers that cost nothing may be large: a direct map takes as
    much as is stored."""
    header, tensors = content("ivf")
    change(header, tensors)
    index = fq.deserialize_index(to_bytes("index", header, tensors))
    assert type(index.cp) is faiss.ClusteringParameters and index.cp.niter == 10
    index.search(np.zeros((1, 6), np.float32), 1)


def test_low_rank_products_stay_in_proportion():
    """A rank of 1 and a width of 2^17: a file of 20 MB whose product takes 69 GB."""
    header, tensors = content("flat")
    d = 1 << 17
    header["d"] = header["codec"]["d"] = d
    header["codec"]["config"]["d_h"] = 1
    for name in ("base", "steps.0.codebook", "steps.1.codebook"):
        tensors[f"codec.{name}"] = np.zeros((32, d), np.float32)
    for m in range(2):
        tensors[f"codec.steps.{m}.concat.down.weight"] = np.zeros((1, 2 * d), np.float32)
        tensors[f"codec.steps.{m}.concat.mlp.weight"] = np.zeros((d, 1), np.float32)
    tensors["codec.mean"], tensors["centroids"] = np.zeros(d, np.float32), np.zeros((1, d), "f4")
    tensors["additive"] = np.zeros((3, 32, d), np.float32)
    with pytest.raises(FileFormatError, match="low-rank"):
        fq.deserialize_index(to_bytes("index", header, tensors))


@pytest.mark.parametrize("links", [True, False])
def test_graphs_of_quantizers_are_checked(links):
    """HNSW follows links without looking where they lead."""
    header, tensors = content("hnsw")
    hnsw = faiss.deserialize_index(tensors["quantizer"])
    if links:
        faiss.copy_array_to_vector(np.full(hnsw.hnsw.neighbors.size(), 4, np.int32),
                                   hnsw.hnsw.neighbors)  # fmt: skip
    else:
        hnsw.hnsw.entry_point = 4
    tensors["quantizer"] = faiss.serialize_index(hnsw)
    with pytest.raises(FileFormatError):
        fq.deserialize_index(to_bytes("index", header, tensors))


def test_quantizers_of_any_kind():
    """Empty and filled, of a kind that is checked and of one that is not."""
    x = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    for make in (
        lambda: faiss.IndexHNSWFlat(8, 4),
        lambda: faiss.IndexFlatIP(8),
        lambda: faiss.IndexFlat(8, faiss.METRIC_L1),
        lambda: faiss.index_factory(8, "IVF4,Flat"),
        lambda: faiss.index_factory(8, "HNSW8_SQ8"),
        lambda: faiss.index_factory(8, "PCA4,HNSW8"),
    ):
        for filled in (False, True):
            quantizer = make()
            if filled:
                quantizer.train(x)
                quantizer.add(x)
            index = fq.IndexIVFQINCo(quantizer, 8, 300, 2, config=TINY)
            read = fq.deserialize_index(fq.serialize_index(index)).quantizer
            assert type(faiss.downcast_index(read)) is type(faiss.downcast_index(quantizer))
            if not quantizer.is_trained:
                continue
            for a, b in zip(read.search(x, 2), quantizer.search(x, 2), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.array])
def test_bytes_of_any_kind(kind):
    data = fq.serialize_index(fq.read_index(GOLDEN / "ivf.fqi"))
    if kind is np.array:
        frozen = data.copy()
        frozen.setflags(write=False)
        forms = [data, frozen, np.repeat(data, 2)[::2]]
    else:
        forms = [kind(data.tobytes())]
    for form in forms:
        assert fq.serialize_index(fq.deserialize_index(form)).tobytes() == data.tobytes()


@pytest.mark.parametrize("data", ["text", 3, [1, 2], np.zeros(100, np.float32), None])
def test_what_is_no_bytes(data):
    with pytest.raises(TypeError, match="data: expected"):
        fq.deserialize_index(data)


@pytest.mark.parametrize("name", ["ivf", "hnsw", "flat"])
def test_copies(name):
    index = fq.read_index(GOLDEN / f"{name}.fqi")
    index.rerank_device, index.exit_margin, index.nshort = "cpu:0", float("inf"), None
    data = fq.serialize_index(index).tobytes()
    for made in (copy.copy, copy.deepcopy, lambda i: pickle.loads(pickle.dumps(i))):
        again = made(index)
        assert fq.serialize_index(again).tobytes() == data and again.rerank_device == "cpu:0"
        again.reset()
    assert fq.serialize_index(index).tobytes() == data


def test_saved_while_others_add():
    """What is saved is the index as it was between two calls."""
    index = fq.read_index(GOLDEN / "ivf.fqi")
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    stop = threading.Event()

    def add():
        while not stop.is_set():
            index.add(x)
            if index.ntotal > 5000:
                index.reset()

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for how in (fq.serialize_index, copy.copy, pickle.dumps) * 10:
            made = how(index)
            if how is fq.serialize_index:
                made = fq.deserialize_index(made)
            elif how is pickle.dumps:
                made = pickle.loads(made)
            ids = np.concatenate([made.lists.get_ids(l) for l in range(4)])
            assert np.isfinite(made.reconstruct_n()[ids]).all()
            assert made.ntotal - len(ids) in (0, 1)  # of the first 40, one is NaN
            assert len(np.unique(ids)) == len(ids) and made.ntotal % 10 == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


MEASURE = """
import resource, sys
import numpy as np
import faiss_qinco as fq

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

what, golden, path = sys.argv[1:]
if what == "read":
    before = peak()
    index = fq.read_index(path)
    print(peak() - before - index.memory_usage()["total"] / 2**20)
    sys.exit()
index = fq.read_index(golden)
index.reset()
index.make_direct_map(False)
rng = np.random.default_rng(0)
for _ in range(6):
    list_no = rng.integers(0, index.nlist, 500_000)
    index.lists.add(list_no, rng.integers(0, 16, (500_000, 3), dtype=np.uint8))
before = peak()
if what == "write":
    fq.write_index(index, path)
    print(peak() - before)
else:
    data = fq.serialize_index(index)
    print((peak() - before) / (len(data) / 2**20))
"""


def test_memory(tmp_path):
    """3 million vectors, 40 MB: a few MB beside the index to write or read it; bytes are made in
    place."""
    got = {}
    for what in ("write", "read", "serialize"):
        run = [sys.executable, "-c", MEASURE, what, GOLDEN / "ivf.fqi", tmp_path / "a"]
        got[what] = float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert got["write"] < 6 and got["read"] < 6 and got["serialize"] < 1.1, got


def test_write_refuses_other_objects(tmp_path):
    with pytest.raises(TypeError):
        fq.write_index(faiss.IndexFlatL2(4), tmp_path / "x")
    assert not list(tmp_path.iterdir())


class Failing:
    """A file whose write number `left` fails; or that writes and reads some bytes at a time."""

    def __init__(self, file, left, error=errno.ENOSPC):
        self.file, self.left, self.error = file, left, error

    def write(self, data):
        self.left -= 1
        if self.left == 0:
            self.file.write(data[: len(data) // 2])
            raise OSError(self.error, os.strerror(self.error))
        return self.file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_whichever_write_fails_the_old_file_is_whole(filled, base, tmp_path, monkeypatch, error):
    path = tmp_path / "index.fqi"
    fq.write_index(filled, path)
    before = path.read_bytes()
    filled.add(base[3000:3100])
    create = container._create
    for left in range(1, 1000):
        monkeypatch.setattr(
            container, "_create", lambda *args, left=left: Failing(create(*args), left, error)
        )
        try:
            fq.write_index(filled, path)
        except OSError as raised:
            assert raised.errno == error
            assert path.read_bytes() == before
            assert [p.name for p in tmp_path.iterdir()] == ["index.fqi"]
        else:
            break
    assert left > 10
    assert fq.read_index(path).ntotal == 3100


def test_killed_while_it_writes_the_old_file_or_the_new_one_is_whole(filled, base, tmp_path):
    path = tmp_path / "index.fqi"
    sizes = {}
    for n in (3000, 3500):
        fq.write_index(filled, tmp_path / f"{n}")
        sizes[n] = (tmp_path / f"{n}").read_bytes()
        filled.add(base[3000:3500])
    code = (
        "import sys, faiss_qinco as fq\n"
        "both = [fq.read_index(name) for name in sys.argv[2:]]\n"
        "print('ready', flush=True)\n"
        "while True:\n    for index in both: fq.write_index(index, sys.argv[1])"
    )
    rng = np.random.default_rng(0)
    for _ in range(N_KILLS):
        command = [
            sys.executable,
            "-c",
            code,
            str(path),
            str(tmp_path / "3000"),
            str(tmp_path / "3500"),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
            run.stdout.readline()
            while not path.exists():
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.02))
            run.kill()
        assert path.read_bytes() in sizes.values()


@pytest.mark.parametrize("some", [7000, None])
def test_file_objects(filled, queries, tmp_path, some):
    """Also of a kind that writes and reads less than it is asked to, or cannot go back."""

    class Short(io.RawIOBase):
        def __init__(self):
            self.data, self.at = bytearray(b"before"), 6

        def writable(self):
            return True

        def write(self, data):
            data = bytes(data)[:some]
            self.data += data
            return len(data)

    short = Short()
    fq.write_index(filled, short)
    assert bytes(short.data[6:]) == fq.serialize_index(filled).tobytes()
    with open(tmp_path / "file", "w+b") as file:
        file.write(b"before")
        fq.write_index(filled, file)
        file.seek(6)
        loaded = fq.read_index(file)
        file.seek(0)
        with pytest.raises(FileFormatError, match="file"):
            fq.read_index(file)
        with pytest.raises(TypeError, match="path"):
            fq.read_index(file, faiss.IO_FLAG_MMAP)
    np.testing.assert_array_equal(loaded.search(queries, 5)[1], filled.search(queries, 5)[1])
    loaded = fq.read_index(io.BytesIO(fq.serialize_index(filled).tobytes()))
    np.testing.assert_array_equal(loaded.search(queries, 5)[1], filled.search(queries, 5)[1])

    class Broken(Short):
        def write(self, data):
            return 0

    with pytest.raises(OSError, match="wrote 0"):
        fq.write_index(filled, Broken())


def test_a_full_disk_is_an_error_and_loses_nothing(filled, tmp_path, monkeypatch):
    path = tmp_path / "index.fqi"
    fq.write_index(filled, path)
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    filled.reset()
    with pytest.raises(OSError, match="No space"):
        fq.write_index(filled, path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["index.fqi"]
