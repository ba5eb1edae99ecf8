"""`register`: faiss's functions with indexes of ours, and without a change for its own."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from .wrappers.conftest import D, control, equal, images, learnt, new, q, x  # noqa: F401

ROOT = Path(fq.__file__).parents[1]
NAMES = [
    "index_factory", "read_index", "write_index", "serialize_index", "deserialize_index",
    "clone_index", "downcast_index", "extract_index_ivf", "try_extract_index_ivf",
]  # fmt: skip
CLASSES = [
    "IndexPreTransform", "IndexIDMap", "IndexIDMap2", "IndexRefine", "IndexRefineFlat",
    "IndexShards", "IndexReplicas", "ParameterSpace", "IndexShardsIVF",
]  # fmt: skip
ORIGINAL = {name: getattr(faiss, name) for name in (*NAMES, *CLASSES)}
METHODS = {
    (cls, name): vars(getattr(faiss, cls)).get(name)
    for cls, names in {
        "ParameterSpace": ["initialize", "set_index_parameter", "set_index_parameters", "explore"],
        "IndexShards": ["add_shard", "addIndex"],
        "IndexReplicas": ["add_replica", "addIndex"],
    }.items()
    for name in names
}


@pytest.fixture
def registered():
    fq.register()
    yield
    fq.unregister()


def as_before():
    assert all(getattr(faiss, name) is ORIGINAL[name] for name in ORIGINAL)
    assert all(vars(getattr(faiss, cls)).get(name) is m for (cls, name), m in METHODS.items())


# -- ours ------------------------------------------------------------------------------------------


@pytest.fixture
def filled(new, x):  # noqa: F811
    index = fq.IndexIDMap2(new("pca"))
    index.add_with_ids(x, np.arange(400) * 3)
    return index


def test_files(registered, filled, q, tmp_path):  # noqa: F811
    path = tmp_path / "a.fqi"
    data = fq.serialize_index(filled).tobytes()
    for name in (str(path), path, os.fsencode(path)):
        faiss.write_index(filled, name)
        assert path.read_bytes() == data
        for flags in ((), (0,), (faiss.IO_FLAG_MMAP,), (faiss.IO_FLAG_READ_ONLY,)):
            again = faiss.read_index(name, *flags)
            assert type(again) is fq.IndexIDMap2
            equal(again.search(q, 3), filled.search(q, 3))
    assert faiss.serialize_index(filled).tobytes() == data
    for form in (np.frombuffer(data, np.uint8), data, bytearray(data), memoryview(data)):
        equal(faiss.deserialize_index(form).search(q, 3), filled.search(q, 3))
    clone = faiss.clone_index(filled)
    equal(clone.search(q, 3), filled.search(q, 3))
    clone.reset()
    assert filled.ntotal == 400
    with pytest.raises(ValueError):
        faiss.write_index(filled, str(path), faiss.IO_FLAG_SKIP_STORAGE)
    path.write_bytes(data[:-7])
    with pytest.raises(RuntimeError, match="truncated"):
        faiss.read_index(str(path))
    assert faiss.write_index.__name__ == "write_index"


def test_readers_and_writers(registered, filled, q, tmp_path):  # noqa: F811
    """An index of ours between two of faiss's, in each kind of stream."""
    own = faiss.IndexFlat(3)
    own.add(np.eye(3, dtype="f4"))
    path = str(tmp_path / "three")
    pieces = []
    writers = [faiss.FileIOWriter(path), faiss.PyCallbackIOWriter(pieces.append)]
    while writers:  # a file is written to its end when its writer goes
        for index in (own, filled, own):
            faiss.write_index(index, writers[-1])
        writers.pop()
    data = Path(path).read_bytes()
    assert b"".join(map(bytes, pieces)) == data
    vector = faiss.VectorIOReader()
    faiss.copy_array_to_vector(np.frombuffer(data, np.uint8), vector.data)
    pipe, end = os.pipe()
    thread = threading.Thread(target=lambda: (os.write(end, data), os.close(end)))
    thread.start()
    fifo = faiss.FileIOReader(f"/dev/fd/{pipe}")
    for reader in (
        faiss.FileIOReader(path), faiss.PyCallbackIOReader(io.BytesIO(data).read), vector,
        faiss.PyCallbackIOReader(io.BytesIO(data).read, 7),
        faiss.BufferedIOReader(faiss.FileIOReader(path)), fifo,
    ):  # fmt: skip
        first, second, third = (faiss.read_index(reader) for _ in range(3))
        assert type(first) is type(third) is faiss.IndexFlatL2 and first.ntotal == 3
        equal(second.search(q, 3), filled.search(q, 3))
        with pytest.raises(RuntimeError):
            faiss.read_index(reader)
    thread.join()
    os.close(pipe)
    cut = fq.serialize_index(filled).tobytes()[:-9]
    with pytest.raises(RuntimeError):
        faiss.read_index(faiss.PyCallbackIOReader(io.BytesIO(cut).read))


def test_a_pipe_is_read_once(registered, tmp_path):
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    data = faiss.serialize_index(faiss.IndexFlat(3)).tobytes()
    thread = threading.Thread(target=lambda: Path(path).write_bytes(data))
    thread.start()
    assert faiss.read_index(path).d == 3
    thread.join()


def test_factory(registered):
    index = faiss.index_factory(D, "IDMap2,PCA16,IVF4,QINCo2x4_XS,Refine(SQ8)")
    assert repr(index).startswith("<IndexIDMap2 <IndexRefine <IndexPreTransform PCAMatrix 32->16")
    ip = faiss.index_factory(D, "qinco2", faiss.METRIC_INNER_PRODUCT)
    assert ip.metric_type == faiss.METRIC_INNER_PRODUCT
    with pytest.raises(RuntimeError):
        faiss.index_factory(D, "QINCo99x99")


def test_inside(registered, new, filled):  # noqa: F811
    ivf = filled.index.index
    assert faiss.extract_index_ivf(filled) is faiss.try_extract_index_ivf(filled) is ivf
    assert faiss.downcast_index(filled) is filled
    assert faiss.extract_index_ivf(ivf) is ivf
    flat = fq.IndexIDMap(new("flat"))
    assert faiss.try_extract_index_ivf(flat) is None
    with pytest.raises(RuntimeError):
        faiss.extract_index_ivf(flat)


def test_constructors(registered, new, x, q):  # noqa: F811
    ivf, flat = new("ivf"), new("flat")
    assert type(faiss.IndexIDMap(flat)) is fq.IndexIDMap
    assert type(faiss.IndexIDMap2(flat)) is fq.IndexIDMap2
    assert type(faiss.IndexRefineFlat(ivf)) is fq.IndexRefineFlat
    assert type(faiss.IndexRefine(ivf, faiss.IndexFlat(D))) is fq.IndexRefine
    pre = faiss.IndexPreTransform(faiss.NormalizationTransform(D), ivf)
    assert type(pre) is type(faiss.IndexPreTransform(ivf)) is fq.IndexPreTransform
    assert len(pre.chain) == 1
    ivf.add(x)
    again = faiss.IndexRefineFlat(ivf, faiss.swig_ptr(x))
    assert again.ntotal == 400
    with pytest.raises(TypeError):
        faiss.IndexFlat(ivf)
    with pytest.raises(TypeError):
        faiss.IndexShardsIVF(ivf, 4)


def test_isinstance_of_the_class_that_was_called(registered, new):  # noqa: F811
    ivf, flat = new("ivf"), new("flat")
    assert isinstance(faiss.IndexIDMap(ivf), faiss.IndexIDMap)
    assert isinstance(faiss.IndexIDMap2(ivf), faiss.IndexIDMap)
    assert not isinstance(faiss.IndexIDMap(ivf), faiss.IndexIDMap2)
    assert isinstance(faiss.IndexRefineFlat(ivf), faiss.IndexRefine)
    pre = faiss.IndexPreTransform(ivf)
    assert isinstance(pre, faiss.IndexPreTransform) and isinstance(pre, fq.IndexPreTransform)
    assert type(copy.deepcopy(pre)) is type(pickle.loads(pickle.dumps(pre))) is type(pre)
    with pytest.raises(TypeError):  # in faiss's C++ there is nothing of it
        fq.IndexIVFQINCo(pre, D, 4, 2)
    with pytest.raises(TypeError):
        fq.IndexRefine(ivf, pre)
    for cls in (faiss.IndexShards, faiss.IndexReplicas):
        several = cls(D)
        several.addIndex(flat)
        assert isinstance(several, cls) and type(several) is not cls
    assert not isinstance(ivf, faiss.IndexIDMap) and not isinstance(3, faiss.IndexIDMap)
    fq.unregister()
    assert not isinstance(several, faiss.Index) and several.__class__ is type(several)


@pytest.mark.parametrize("name", ["IndexShards", "IndexReplicas"])
def test_shards_become_ours_with_the_first(registered, control, new, x, q, name):  # noqa: F811
    """faiss's constructor does not know yet what will be in it."""
    add = "add_shard" if name == "IndexShards" else "add_replica"
    made = getattr(faiss, name)(D, True)
    kept = made
    for _ in range(2):
        getattr(made, add)(new("ivf"))
    assert type(kept) is getattr(fq, name) and kept is made and kept.threaded
    made.add(x)
    one = new("ivf")
    one.add(x)
    equal(made.search(q, 5), one.search(q, 5))
    assert fq.deserialize_index(fq.serialize_index(made)).count() == 2
    if name == "IndexShards":
        own = faiss.IndexShards(True, False)
        own.addIndex(new("ivf"))
        assert (own.successive_ids, own.threaded, own.d) == (False, True, D)
    theirs = getattr(faiss, name)(D)
    getattr(theirs, add)(control())
    with pytest.raises(TypeError, match="together"):
        getattr(theirs, add)(new("ivf"))
    assert type(theirs) is getattr(faiss, name) and theirs.count() == 1


def test_parameter_space(registered, new, x, q, capfd):  # noqa: F811
    index = fq.IndexIDMap2(fq.IndexRefineFlat(new("pca")))
    index.add_with_ids(x, np.arange(400))
    base = index.index.base_index.index
    space = faiss.ParameterSpace()
    space.initialize(index)
    space.display()
    sys.stdout.flush()
    names = [space.parameter_ranges.at(i).name for i in range(space.parameter_ranges.size())]
    assert names == ["k_factor_rf", "nprobe", "nshort"]
    space.set_index_parameters(index, "nprobe=3,k_factor_rf=4 nshort=7")
    assert (base.nprobe, index.index.k_factor, base.nshort) == (3, 4, 7)
    space.set_index_parameter(index, "exit_margin", 2.5)
    space.set_index_parameter(index, "verbose", 1)
    assert base.exit_margin == 2.5 and base.verbose is True
    base.verbose = False
    for bad in ("foo=1", "nprobe", "nprobe=a", "=3", "nprobe=nan", "k_factor=2"):
        with pytest.raises(RuntimeError):
            space.set_index_parameters(index, bad)
    number = space.n_combinations() - 1
    space.set_index_parameters(index, number)
    assert space.combination_name(number) == "k_factor_rf=64,nprobe=2,nshort=1000"
    assert (base.nprobe, index.index.k_factor, base.nshort) == (2, 64, 1000)
    shards = fq.IndexShards()
    shards.add_shard(new("ivf"))
    shards.add_shard(new("ivf"))
    space.set_index_parameter(shards, "nprobe", 3)
    assert [shards.at(i).nprobe for i in range(2)] == [3, 3]
    graph = fq.index_factory(D, "IVF4_HNSW8,QINCo2x4_XS")
    space = faiss.ParameterSpace()
    space.initialize(graph)
    space.set_index_parameter(graph, "quantizer_efSearch", 33)
    assert graph.quantizer.hnsw.efSearch == 33


@pytest.mark.parametrize("n_experiments", [0, 12])
def test_explore(registered, new, x, q, n_experiments):  # noqa: F811
    index = new("ivf")
    index.add(x)
    exact = faiss.IndexFlat(D)
    exact.add(x)
    crit = faiss.OneRecallAtRCriterion(len(q), 1)
    crit.set_groundtruth(None, exact.search(q, 1)[1])
    space = faiss.ParameterSpace()
    space.verbose, space.n_experiments, space.batchsize = 0, n_experiments, 11
    space.initialize(index)
    points = space.explore(index, q, crit)
    n = points.all_pts.size()
    assert n == space.n_combinations() if n_experiments == 0 else 0 < n <= n_experiments
    best = points.optimal_pts.at(points.optimal_pts.size() - 1)
    space.set_index_parameters(index, best.key)
    assert (index.search(q, 1)[1][:, 0] == exact.search(q, 1)[1][:, 0]).mean() == best.perf > 0


# -- faiss's own -----------------------------------------------------------------------------------


def behaviour(x, q, path):  # noqa: F811
    """What faiss does, in words and numbers."""
    seen = []

    def note(call):
        try:
            seen.append(call())
        except Exception as error:
            seen.append((type(error), str(error)))

    x = x[:, :16].copy()
    q = q[:, :16].copy()
    for text in ("Flat", "IDMap,Flat", "PCA8,IVF4,PQ4x4,RFlat", "IDMap2,SQ8", "nonsense"):

        def one(text=text):
            index = faiss.index_factory(16, text)
            index.train(x)
            index.add_with_ids(x, np.arange(len(x)) * 2) if "IDMap" in text else index.add(x)
            faiss.ParameterSpace().set_index_parameter(index, "verbose", 0)
            data = faiss.serialize_index(index)
            faiss.write_index(index, path)
            again = [
                faiss.read_index(path), faiss.deserialize_index(data), faiss.clone_index(index),
                faiss.read_index(faiss.FileIOReader(path)), pickle.loads(pickle.dumps(index)),
                faiss.read_index(faiss.PyCallbackIOReader(io.BytesIO(data.tobytes()).read)),
                faiss.read_index(path, faiss.IO_FLAG_MMAP), faiss.downcast_index(index),
                faiss.read_index(faiss.FileIOReader(path), faiss.IO_FLAG_MMAP),
            ]  # fmt: skip
            ivf = faiss.try_extract_index_ivf(index)
            return data.tobytes(), type(index), type(ivf), [
                (type(i), [a.tobytes() for a in i.search(q, 3)]) for i in again
            ]  # fmt: skip

        note(one)
    flat = faiss.IndexFlat(16)
    for wrap in (faiss.IndexIDMap, faiss.IndexIDMap2, faiss.IndexRefineFlat):
        note(lambda wrap=wrap: (type(wrap(flat)), isinstance(wrap(flat), wrap), wrap(flat).d))
        note(lambda wrap=wrap: type(wrap(3)))
    for wrap in (faiss.IndexShards, faiss.IndexReplicas):
        for args in ((), (16,), (16, True), (True,), ("a",)):
            note(lambda wrap=wrap, args=args: (type(wrap(*args)), wrap(*args).d))
    shards = faiss.IndexShards(16, False, False)
    note(lambda: shards.add_shard(3))
    parts = [faiss.index_factory(16, "IDMap,Flat") for _ in range(2)]
    for part in parts:
        note(lambda part=part: shards.add_shard(part))
    note(lambda: (shards.add(x), [a.tobytes() for a in shards.search(q, 3)]))
    note(lambda: type(faiss.IndexPreTransform(faiss.NormalizationTransform(16), flat)))
    note(lambda: type(faiss.IndexPreTransform(flat)))
    note(lambda: type(faiss.IndexRefine(flat, faiss.IndexFlat(16))))
    for bad in ("/nowhere", 3, Path(path), b"/nowhere"):
        note(lambda bad=bad: faiss.read_index(bad))
    note(lambda: faiss.read_index())
    note(lambda: faiss.write_index(3, path))
    note(lambda: faiss.write_index(flat, "/nowhere/x"))
    note(lambda: faiss.extract_index_ivf(flat))
    note(lambda: faiss.clone_index(3))
    note(lambda: faiss.index_factory(16))
    note(lambda: faiss.index_factory(16, "Flat", faiss.METRIC_INNER_PRODUCT).metric_type)
    for data in (np.zeros(3, np.uint8), np.zeros(40, np.uint8), np.zeros(9), 3, b"abc"):
        note(lambda data=data: faiss.deserialize_index(data))
    space = faiss.ParameterSpace()
    ivf = faiss.index_factory(16, "IVF8,Flat")
    note(lambda: (space.initialize(ivf), space.n_combinations()))
    note(lambda: (space.set_index_parameters(ivf, "nprobe=3"), ivf.nprobe))
    note(lambda: space.set_index_parameters(ivf, "nonsense=3"))
    note(lambda: space.initialize(3))

    def refuse(n):
        raise LookupError("no more")

    note(lambda: faiss.read_index(faiss.PyCallbackIOReader(refuse)))
    note(lambda: faiss.read_index(faiss.PyCallbackIOReader(lambda n: 3)))
    later = iter([faiss.serialize_index(flat).tobytes()[:4]])
    note(lambda: faiss.read_index(faiss.PyCallbackIOReader(lambda n: next(later))))
    for data in (b"", b"abc", bytes(4), bytes(30), b"IxF2"):
        note(lambda data=data: faiss.read_index(faiss.PyCallbackIOReader(io.BytesIO(data).read)))
    return [repr(one).split(" at 0x")[0] for one in seen]


def test_faiss_with_its_own_is_as_before(x, q, tmp_path):  # noqa: F811
    path = str(tmp_path / "a")
    before = behaviour(x, q, path)
    fq.register()
    try:
        assert behaviour(x, q, path) == before
        assert all(getattr(faiss, name) is ORIGINAL[name] for name in CLASSES)
    finally:
        fq.unregister()
    assert behaviour(x, q, path) == before


# -- on and off ------------------------------------------------------------------------------------


def test_on_and_off(new):  # noqa: F811
    as_before()
    for _ in range(3):
        fq.register()
        fq.register()
        assert type(faiss.IndexIDMap(new("flat"))) is fq.IndexIDMap
        fq.unregister()
        fq.unregister()
        as_before()
        with pytest.raises(TypeError):
            faiss.IndexIDMap(new("flat"))
        with pytest.raises(TypeError):
            faiss.serialize_index(new("flat"))


def test_who_wrapped_ours_stays(filled, monkeypatch):
    fq.register()
    ours, calls = faiss.serialize_index, []

    def theirs(*args):
        calls.append(args)
        return ours(*args)

    faiss.serialize_index = theirs
    try:
        fq.unregister()
        assert faiss.serialize_index is theirs
        assert faiss.serialize_index(faiss.IndexFlat(3)).tobytes()[:4] == b"IxF2"
        with pytest.raises(TypeError):
            faiss.serialize_index(filled)
        fq.register()
        assert faiss.serialize_index is theirs
        assert faiss.serialize_index(filled).tobytes() == fq.serialize_index(filled).tobytes()
    finally:
        faiss.serialize_index = ours
        fq.unregister()
    assert len(calls) == 3
    as_before()


def test_who_put_faiss_back_is_no_obstacle(filled):
    fq.register()
    faiss.serialize_index = ORIGINAL["serialize_index"]
    try:
        fq.register()
        assert faiss.serialize_index(filled).tobytes() == fq.serialize_index(filled).tobytes()
    finally:
        fq.unregister()
    as_before()


def test_threads(filled):
    """Whoever calls meanwhile gets an answer or faiss's TypeError."""
    data = fq.serialize_index(filled).tobytes()
    wrong, done = [], threading.Event()

    def use():
        while not done.is_set():
            try:
                if faiss.serialize_index(filled).tobytes() != data:
                    wrong.append("bytes")
            except TypeError:
                pass
            except BaseException as error:
                wrong.append(error)
            if type(faiss.IndexIDMap(faiss.IndexFlat(3))) is not faiss.IndexIDMap:
                wrong.append("class")

    threads = [threading.Thread(target=use) for _ in range(2)]
    on_and_off = lambda: [(fq.register(), fq.unregister()) for _ in range(30)]  # noqa: E731
    switches = [threading.Thread(target=on_and_off) for _ in range(2)]
    for thread in (*threads, *switches):
        thread.start()
    for thread in switches:
        thread.join()
    done.set()
    for thread in threads:
        thread.join()
    fq.unregister()
    assert not wrong
    as_before()


@pytest.mark.parametrize("first", ["torch_utils", "register"])
def test_torch_utils(first, filled, tmp_path):
    fq.write_index(filled, tmp_path / "a.fqi")
    steps = ["import faiss.contrib.torch_utils", "fq.register()"]
    code = "\n".join([
        "import faiss, numpy as np, torch, faiss_qinco as fq",
        *(steps if first == "torch_utils" else steps[::-1]),
        f"index = faiss.read_index({str(tmp_path / 'a.fqi')!r})",
        f"x = np.ones((2, {D}), 'f4')",
        "assert index.search(x, 3)[1].shape == (2, 3)",
        "own = faiss.IndexIDMap(faiss.index_factory(4, 'Flat'))",
        "own.add_with_ids(torch.eye(4), torch.arange(4))",
        "assert torch.is_tensor(own.search(torch.eye(4), 1)[1])",
        "assert type(faiss.IndexIDMap2(fq.IndexQINCo(4, 2))) is fq.IndexIDMap2",
        "fq.unregister()",
        "assert faiss.deserialize_index(faiss.serialize_index(own)).ntotal == 4",
    ])  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=120)
