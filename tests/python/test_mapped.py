"""Indexes whose lists stay in their file, and files that are not what they should be."""

from __future__ import annotations

import os
import subprocess
import sys

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.cli import main
from faiss_qinco.storage.container import (
    FileFormatError,
    open_tensors,
    read_tensors,
    write_tensors,
)

from .conftest import TINY, make_searchable, training

MMAP = faiss.IO_FLAG_MMAP


def same_results(one, two, queries):
    for got, wanted in zip(one.search(queries, 10), two.search(queries, 10), strict=True):
        np.testing.assert_array_equal(got, wanted)
    radius = float(two.search(queries[:3], 5)[0].mean())
    for got, wanted in zip(
        one.range_search(queries[:3], radius), two.range_search(queries[:3], radius), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(one.reconstruct_n(0, 50), two.reconstruct_n(0, 50))


@pytest.fixture(params=["l2", "ip", "flat", "hnsw", "transformed", "M_search"])
def whole(request, trained, learn, base, tmp_path):
    if request.param in ("hnsw", "transformed", "flat"):
        factory = {"hnsw": "IVF16_HNSW8,QINCo4x8", "transformed": "PCA64,IVF16,QINCo4x8",
                   "flat": "QINCo3x5"}[request.param]  # fmt: skip
        index = fq.index_factory(128, factory, training=training(epochs=1))
        getattr(index, "index", index)._config = TINY
        make_searchable(index, learn[:3000])
    else:
        metric = faiss.METRIC_INNER_PRODUCT if request.param == "ip" else faiss.METRIC_L2
        index = fq.deserialize_index(trained[metric])
    if request.param == "flat":
        index.add(base[:2000])
        return index
    index.nprobe = 8
    ids = np.random.default_rng(0).permutation(1 << 20)[:3000].astype(np.int64)
    ids[:50] = np.arange(50)
    index.add_with_ids(base[:2000], ids[:2000])
    index.add_with_ids(base[2000:3000], ids[2000:])
    index.remove_ids(ids[100:200])
    if request.param == "M_search":
        index.M_search = 2
    return index


@pytest.mark.parametrize("flags", [MMAP, 0x200, MMAP | faiss.IO_FLAG_READ_ONLY])
def test_answers_as_the_whole_index_does(whole, queries, tmp_path, flags):
    path = tmp_path / "index"
    fq.write_index(whole, path)
    mapped = fq.read_index(path, flags)
    memory = mapped.memory_usage()
    assert memory["codes"] == memory["bias"] == memory["ids"] == 0
    same_results(mapped, whole, queries)
    os.unlink(path)  # what is mapped stays
    same_results(mapped, whole, queries)
    fq.write_index(mapped, tmp_path / "again")
    fq.write_index(whole, path)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_changes_are_made_to_a_copy(filled, base, queries, tmp_path):
    path = tmp_path / "index"
    filled.nprobe = 4
    fq.write_index(filled, path)
    before = path.read_bytes()
    mapped, other = fq.read_index(path, MMAP), fq.read_index(path, MMAP)
    more = fq.read_index(path)
    more.reset()
    more.add(base[3000:3200])
    for index in (mapped, filled):
        index.add(base[3000:3100])
        index.remove_ids(np.arange(0, 500, 3))
        index.merge_from(fq.deserialize_index(fq.serialize_index(more)), 5000)
        index.make_direct_map()
    same_results(mapped, filled, queries)
    np.testing.assert_array_equal(mapped.reconstruct(5001), filled.reconstruct(5001))
    assert path.read_bytes() == before
    assert other.ntotal == 3000
    empty = fq.read_index(path)
    empty.reset()
    empty.merge_from(other, 0)  # lists of the file change hands
    del other
    same_results(empty, fq.read_index(path), queries)
    assert fq.read_index(path, MMAP).ntotal == 3000


def test_numbers_move_up_in_a_copy(learn, base, queries, tmp_path):
    index = fq.IndexQINCo(128, 3, 5, config=TINY, training=training(epochs=1))
    make_searchable(index, learn[:2000])
    x = base[:300].copy()
    x[7] = np.nan  # ids that are not offsets
    index.add(x)
    fq.write_index(index, tmp_path / "index")
    before = (tmp_path / "index").read_bytes()
    mapped = fq.read_index(tmp_path / "index", MMAP)
    for flat in (index, mapped):
        flat.remove_ids(np.arange(0, 100, 3))
    for got, wanted in zip(mapped.search(queries, 5), index.search(queries, 5), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert (tmp_path / "index").read_bytes() == before


def test_the_file_may_be_replaced_under_it(filled, base, queries, tmp_path):
    path = tmp_path / "index"
    fq.write_index(filled, path)
    mapped = fq.read_index(path, MMAP)
    mapped.add(base[:10])
    fq.write_index(mapped, path)
    again = fq.read_index(path, MMAP)
    same_results(again, mapped, queries)


def test_flags_that_there_are_not(filled, tmp_path):
    fq.write_index(filled, tmp_path / "x")
    for flags in (faiss.IO_FLAG_ONDISK_SAME_DIR, faiss.IO_FLAG_SKIP_IVF_DATA, 1 << 20):
        with pytest.raises(ValueError, match="io_flags"):
            fq.read_index(tmp_path / "x", flags)
    with pytest.raises(RuntimeError, match="no such file"):
        fq.read_index(tmp_path / "y", MMAP)
    (tmp_path / "y").touch()
    with pytest.raises(FileFormatError):
        fq.read_index(tmp_path / "y", MMAP)


def test_damage_is_found_by_verify(filled, tmp_path, capsys):
    path = tmp_path / "index"
    fq.write_index(filled, path)
    fq.verify_index(path)
    filled.codec.save(tmp_path / "codec")
    assert main(["verify", str(path), str(tmp_path / "codec")]) == 0
    assert "a whole index" in capsys.readouterr().out
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="checksum"):
        fq.read_index(path)
    with pytest.raises(FileFormatError, match="checksum"):
        fq.verify_index(path)
    assert main(["verify", str(path)]) == 1
    path.write_bytes(data[:-10])
    with pytest.raises(FileFormatError, match="truncated"):
        fq.read_index(path, MMAP)


def forged(path, change):
    """The file with other content, and right checksums."""
    header, tensors = read_tensors(path, "index")
    tensors = {name: np.array(t) for name, t in tensors.items() if name != "padding"}
    change(header, tensors)
    out = path.with_name("forged")
    write_tensors(out, "index", header, tensors)
    return out


def swap(name, i, value):
    def change(header, tensors):
        tensors[name].reshape(-1)[i] = value

    return change


HOSTILE = [
    *(swap("sizes", 0, v) for v in (-1, 1 << 62, 1 << 40, 5)),
    *(swap("ids.made", i, v) for i in range(3) for v in (0, 1, 1 << 29, (1 << 32) - 1)),
    *(swap("ids.bits", i, v) for i, v in ((0, 63), (0, 64), (0, 255), (1, 3))),
    *(lambda h, t, n=n: t.update({n: t[n][:-1]}) for n in ("sizes", "ids", "blocks", "ids.made")),
    lambda h, t: t.update(blocks=np.concatenate((t["blocks"], t["blocks"][:1]))),
    lambda h, t: t.pop("ids.least"),
    lambda h, t: t.update(sizes=t["sizes"].astype(np.int32)),
    lambda h, t: h.update(ntotal=-1),
    lambda h, t: h.update(ntotal=10),
    lambda h, t: h.update(next_id=None),
    lambda h, t: h.update(quantizer={"metric": 7}),
    lambda h, t: h.pop("quantizer"),
    lambda h, t: t.update(centroids=t["centroids"][:-1]),
]


@pytest.mark.parametrize("change", HOSTILE)
def test_forged_heads_are_refused(filled, tmp_path, change):
    fq.write_index(filled, tmp_path / "index")
    path = forged(tmp_path / "index", change)
    for read in (fq.read_index, lambda p: fq.read_index(p, MMAP), fq.verify_index):
        with pytest.raises(FileFormatError):
            read(path)


@pytest.mark.parametrize("name", ["ids", "blocks"])
def test_forged_sections_are_refused_or_do_no_harm(filled, queries, tmp_path, name):
    """Right checksums, and anything at all in the lists."""
    fq.write_index(filled, tmp_path / "index")
    rng = np.random.default_rng(0)
    size = read_tensors(tmp_path / "index", "index")[1][name].size
    for anything in (0, 255, rng.integers(0, 256, size, np.uint8)):
        path = forged(tmp_path / "index", lambda h, t, a=anything: t[name].__setitem__(..., a))
        if name == "ids" or (isinstance(anything, int) and anything == 255):  # NaN among the biases
            for read in (fq.read_index, fq.verify_index):
                with pytest.raises(FileFormatError):
                    read(path)
        index = fq.read_index(path, MMAP)
        index.nprobe = 16
        index.search(queries, 10)
        index.search(queries, 10, params=fq.SearchParametersIVFQINCo(
            nprobe=16, sel=faiss.IDSelectorRange(0, 100)))  # fmt: skip
        index.reconstruct_n(0, 100)
        index.remove_ids(np.arange(50))


def test_many_processes_have_one_copy(filled, queries, tmp_path):
    path = tmp_path / "index"
    fq.write_index(filled, path)
    np.save(tmp_path / "q.npy", queries[:5])
    code = (
        "import sys, numpy as np, faiss_qinco as fq\n"
        f"index = fq.read_index(sys.argv[1], {MMAP})\n"
        "print(index.search(np.load(sys.argv[2]), 3)[1].tolist())"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "q.npy")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = {run.communicate()[0].strip() for run in runs}
    assert outputs == {str(filled.search(queries[:5], 3)[1].tolist())}


def test_what_is_mapped_begins_at_a_cache_line(filled, tmp_path):
    fq.write_index(filled, tmp_path / "index")
    with open_tensors(tmp_path / "index") as reader:
        names, sizes = list(reader.tensors), [t.nbytes for t in reader.tensors.values()]
    before = sum(sizes[: names.index("blocks")])
    head = (tmp_path / "index").stat().st_size - sum(sizes)
    assert (head + before) % 64 == 0


def test_a_quantizer_of_another_kind_is_kept(trained, base, queries, tmp_path):
    index = fq.deserialize_index(trained[faiss.METRIC_L2])
    fq.write_index(index, tmp_path / "flat")
    assert "quantizer" not in read_tensors(tmp_path / "flat", "index")[1]
    loaded = fq.read_index(tmp_path / "flat")
    assert type(loaded.quantizer) is faiss.IndexFlatL2
    np.testing.assert_array_equal(
        loaded.quantizer.reconstruct_n(0, 16), index.quantizer.reconstruct_n(0, 16)
    )
