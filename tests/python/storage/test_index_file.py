from __future__ import annotations

import subprocess
import sys

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.storage.container import to_bytes

from ..conftest import TINY, new_index, training


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
    index.train(learn[:2000])
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


def test_inconsistent_content_is_refused(filled):
    """A file with right checksums and wrong content, as an attacker would write it."""
    header, tensors = filled.state()

    def refused(header_change=(), **tensor_change):
        data = to_bytes("index", {**header, **dict(header_change)}, {**tensors, **tensor_change})
        with pytest.raises(RuntimeError):
            fq.deserialize_index(np.frombuffer(data, np.uint8))

    for change in (
        {"nlist": 10**12}, {"nlist": 15}, {"M": 5}, {"nbits": 4}, {"d": 64}, {"ntotal": 2},
        {"ntotal": -1}, {"type": "os.system"}, {"metric": 77}, {"nprobe": "x"}, {"codec": None},
        {"is_trained": "yes please", "codec": {}},
    ):  # fmt: skip
        refused(change)
    sizes = tensors["sizes"]
    refused(sizes=sizes[:-1])
    refused(sizes=np.where(np.arange(16) == 0, sizes + 1, sizes))
    refused(sizes=np.where(np.arange(16) == 0, -1, sizes))
    refused(sizes=np.where(np.arange(16) == 0, 1 << 62, sizes))
    refused(codes=tensors["codes"][:, :3])
    refused(ids=tensors["ids"][:-1])
    refused(bias=tensors["bias"].astype(np.float64))
    refused(centroids=tensors["centroids"][:, :64])
    refused(additive=tensors["additive"][:3])
    refused(quantizer=tensors["quantizer"][:40])
    refused(quantizer=faiss.serialize_index(faiss.IndexFlatL2(128)))


def test_write_refuses_other_objects(tmp_path):
    with pytest.raises(TypeError):
        fq.write_index(faiss.IndexFlatL2(4), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_io_flags(filled, tmp_path):
    fq.write_index(filled, tmp_path / "x")
    with pytest.raises(ValueError, match="io_flags"):
        fq.read_index(tmp_path / "x", faiss.IO_FLAG_MMAP)


def test_a_full_disk_is_an_error_and_loses_nothing(filled, tmp_path, monkeypatch):
    path = tmp_path / "index.fqi"
    fq.write_index(filled, path)
    before = path.read_bytes()
    import os

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    filled.reset()
    with pytest.raises(OSError, match="No space"):
        fq.write_index(filled, path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["index.fqi"]
