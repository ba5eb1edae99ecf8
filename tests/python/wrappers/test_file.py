"""Indexes around others in files, bytes, pickles and copies; files that are forged."""

from __future__ import annotations

import copy
import copyreg
import json
import pickle

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.cli import main
from faiss_qinco.storage.container import FileFormatError, open_bytes, to_bytes

from .conftest import D, copies, equal

IDS = np.arange(400) * 7 - 3
LONG = "IDMap2,PCA16,IVF4_HNSW8,QINCo2x4_XS,Refine(SQ8)"


def shards(*indexes):
    made = fq.IndexShards(D, True, False)
    for index in indexes:
        made.add_shard(index)
    return made


def sq8(base, learnt):
    ranks = faiss.index_factory(D, "SQ8")
    ranks.train(learnt)
    return fq.IndexRefine(base, ranks)


def replicas(*indexes):
    made = fq.IndexReplicas(D, True)
    for index in indexes:
        made.add_replica(index)
    return made


MADE = {
    "id_map": lambda new, learnt: fq.IndexIDMap(new("flat")),
    "id_map2 of pca": lambda new, learnt: fq.IndexIDMap2(new("pca")),
    "refine of pca": lambda new, learnt: sq8(new("pca"), learnt),
    "id_map2 of refine flat of ip": lambda new, learnt: fq.IndexIDMap2(
        fq.IndexRefineFlat(new("ip"))
    ),
    "shards of id_map": lambda new, learnt: shards(
        fq.IndexIDMap(new("ivf")), fq.IndexIDMap2(new("pca")), fq.IndexIDMap(new("flat"))
    ),
    "replicas": lambda new, learnt: replicas(new("ivf"), new("ivf")),
}


def filled(name, new, learnt, x):
    index = MADE[name](new, learnt)
    if "id_map" in name:
        index.add_with_ids(x, IDS)
    else:
        index.add(x)
    return index


@pytest.mark.parametrize("name", MADE)
def test_files_and_copies(new, learnt, x, q, name, tmp_path, capsys):
    index = filled(name, new, learnt, x)
    if hasattr(index, "k_factor"):
        index.k_factor = 2.3
    index.rerank_device = "cpu:0"
    expected = index.search(q, 9)
    data = fq.serialize_index(index)
    pickles = [pickle.loads(pickle.dumps(index, protocol)) for protocol in (2, 5)]
    assert all(one.rerank_device == "cpu:0" for one in [*pickles, copy.copy(index)])
    for again in [*copies(index, tmp_path), *pickles]:
        assert type(again) is type(index) and repr(again) == repr(index)
        again.rerank_device = index.rerank_device
        equal(again.search(q, 9), expected)
        assert fq.serialize_index(again).tobytes() == data.tobytes()
        again.reset()
        assert (again.ntotal, index.ntotal) == (0, 400)
    assert main(["verify", str(tmp_path / "copy.fqi")]) in (0, None)
    capsys.readouterr()
    assert main(["info", "--json", str(tmp_path / "copy.fqi")]) in (0, None)
    found = json.loads(capsys.readouterr().out)
    assert found["class"] == type(index).__name__ and found["d"] == D
    assert ("ids" in found["parts"]) and "codes" in found["parts"]
    assert ("refine" in found["parts"]) == ("refine" in name) and found["ntotal"] == 400


def test_what_pickle_takes_is_no_view(new, learnt, x, q):
    """Of memory that is faiss's, and is gone with the next change."""
    for name in ("id_map", "id_map2 of refine flat of ip"):
        index = filled(name, new, learnt, x)
        expected = index.search(q, 9)
        make, parts = copyreg.dispatch_table[type(index)](index)
        index.reset()
        index.add_with_ids(x[::-1], IDS)
        equal(make(*parts).search(q, 9), expected)


def test_untrained_and_empty(new):
    for text in (
        LONG,
        "QINCo2x4,RFlat",
        "IDMap,QINCo2x4",
    ):
        index = fq.index_factory(D, text)
        data = fq.serialize_index(index)
        assert repr(copy.copy(index)) == repr(fq.deserialize_index(data)) == repr(index)
    assert fq.deserialize_index(fq.serialize_index(fq.IndexShards(D))).count() == 0


def test_a_k_factor_that_json_has_not(new):
    index = fq.IndexRefineFlat(new("ivf"))
    index.k_factor = np.inf
    with pytest.raises(ValueError, match="k_factor"):
        fq.serialize_index(index)


def forged(index, change):
    with open_bytes(fq.serialize_index(index), "index") as reader:
        header, tensors = reader.header, reader.all()
    change(header, tensors)
    return to_bytes("index", header, {k: t for k, t in tensors.items() if t is not None})


def put(key, value):
    def change(header, tensors):
        place = header
        for part in key[:-1]:
            place = place[part]
        place[key[-1]] = value

    return change


def tensor(name, change):
    return lambda header, tensors: tensors.__setitem__(name, change(tensors[name]))


def deep(header, tensors):
    inner = header["index"]
    for _ in range(200):
        inner = {"type": "IndexIDMap", "index": inner}
    header["index"] = inner


def rank_bytes(change):
    """Other bytes of a faiss index."""

    def changed(header, tensors):
        ranks = faiss.deserialize_index(tensors["refine"])
        tensors["refine"] = faiss.serialize_index(change(ranks))

    return changed


def hnsw(ranks):
    index = faiss.IndexHNSWFlat(D, 4)
    index.add(np.zeros((400, D), "f4"))
    index.hnsw.entry_point = 10**6
    return index


FORGED = {
    "id_map": [
        put(["type"], "IndexIDMap3"), put(["type"], "IndexRefine"), put(["type"], "IndexShards"),
        put(["type"], None), put(["index"], None), put(["index"], []), put(["index"], {}),
        put(["index", "type"], "x"), put(["index", "ntotal"], 399), deep,
        tensor("id_map", lambda t: None), tensor("id_map", lambda t: t[:-1]),
        tensor("id_map", lambda t: t.astype(np.int32)), tensor("id_map", lambda t: t[:, None]),
    ],
    "refine of pca": [
        put(["k_factor"], None), put(["k_factor"], "x"), put(["k_factor"], True),
        put(["type"], "IndexRefineFlat"), tensor("refine", lambda t: None),
        tensor("refine", lambda t: t[:-1]), tensor("refine", lambda t: t[:8]),
        tensor("refine", lambda t: t.astype(np.int16)), tensor("refine", lambda t: t[:0]),
        rank_bytes(lambda ranks: faiss.IndexFlat(D)), rank_bytes(hnsw),
        rank_bytes(lambda ranks: faiss.IndexFlat(D + 1)),
    ],
    "id_map2 of refine flat of ip": [
        tensor("index.refine", lambda t: t[:-1]), tensor("index.refine", lambda t: t[:, :-1]),
        tensor("index.refine", lambda t: t.astype(np.float64)),
        put(["index", "index", "type"], "IndexIDMap"),
    ],
    "shards of id_map": [
        put(["indexes"], None), put(["indexes"], {}), put(["indexes", 1], 3), put(["d"], D + 1),
        put(["d"], -1), put(["threaded"], 1), put(["successive_ids"], None),
        put(["indexes", 1], None), put(["indexes", 0, "type"], "IndexShards"),
        tensor("indexes.1.id_map", lambda t: t[1:]),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "i"), [(name, i) for name in FORGED for i in range(len(FORGED[name]))]
)
def test_forged_files_are_refused(new, learnt, x, name, i, tmp_path):
    data = forged(filled(name, new, learnt, x), FORGED[name][i])
    with pytest.raises(FileFormatError):
        fq.deserialize_index(data)
    (tmp_path / "a.fqi").write_bytes(data)
    for read in (fq.read_index, fq.verify_index):
        with pytest.raises(FileFormatError):
            read(tmp_path / "a.fqi")
