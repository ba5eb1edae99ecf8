"""`IndexShards` and `IndexReplicas`, beside faiss's of an IndexIVFPQ."""

from __future__ import annotations

import threading

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from ..conftest import TINY, training
from ..test_selectors import Even
from .conftest import KINDS, D, equal, in_order, same_verdict


def shards(new, kind, *args, n=3):
    index = fq.IndexShards(*args)
    for _ in range(n):
        index.add_shard(new(kind))
    return index


CALLS = {
    "add twice": lambda s, x: (s.add(x), s.add(x)),
    "add with ids": lambda s, x: s.add_with_ids(x, np.arange(len(x))),
    "k 0": lambda s, x: s.search(x, 0),
    "wrong d": lambda s, x: s.search(x[:, :3], 1),
    "remove": lambda s, x: s.remove_ids(np.arange(3)),
    "merge": lambda s, x: s.merge_from(s, 0),
    "sa_encode": lambda s, x: s.sa_encode(x),
    "own_fields": lambda s, x: s.own_fields,
    "numbers": lambda s, x: (
        s.d,
        s.ntotal,
        s.is_trained,
        s.count(),
        s.successive_ids,
        s.own_indices,
    ),
    "sizes": lambda s, x: s.add(x) or [s.at(i).ntotal for i in range(3)] + [s.ntotal],
    "at -1": lambda s, x: s.at(-1) if isinstance(s, faiss.Index) else s.at("a"),
    "remove one": lambda s, x: s.remove_shard(s.at(1)) or (s.count(), s.ntotal),
    "remove none": lambda s, x: s.remove_shard(faiss.IndexFlat(D)),
    "one twice": lambda s, x: s.add_shard(s.at(0)),
    "no index": lambda s, x: s.add_shard(3),
    "reset": lambda s, x: (s.add(x), s.reset(), s.ntotal, s.search(x[:2], 2)[1].tolist()),
    "ids": lambda s, x: s.add(x) or np.unique(s.assign(x, 400)).tolist(),
}


@pytest.mark.parametrize("what", CALLS)
def test_as_faiss(control, new, x, what):
    theirs = faiss.IndexShards(D)
    for _ in range(3):
        theirs.add_shard(control())
    found = same_verdict(theirs, shards(new, "ivf", D), lambda index: CALLS[what](index, x))
    if found is not None:
        assert found[0] == found[1]


@pytest.mark.parametrize(
    "args",
    [(), (16,), (16, True), (16, True, False), (True,), (True, False), (16, 1, 0), ("a",), (None,),
     (16, True, False, 1), (16, "a")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["IndexShards", "IndexReplicas"])
def test_constructors(args, name):
    if name == "IndexReplicas" and args == (True, False):
        return  # faiss takes the first for a dimension of 1
    found = same_verdict(faiss, fq, lambda module: getattr(module, name)(*args))
    if found is not None:
        for attribute in ("d", "is_trained", "ntotal", "successive_ids")[: 3 + ("S" in name)]:
            assert getattr(found[0], attribute) == getattr(found[1], attribute)


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "ip"])
def test_shards_are_one_index(new, x, q, kind, threaded):
    x = np.concatenate([x[:200], x[:50], x[200:]])  # equal distances, by id
    one, many = new(kind), shards(new, kind, D, threaded, n=4)
    one.add(x)
    many.add(x)
    assert many.ntotal == 450
    for k in (1, 20, 500):
        equal(many.search(q, k), one.search(q, k))
    radius = float(np.median(one.search(q, 20)[0]))
    equal(in_order(*many.range_search(q, radius)), in_order(*one.range_search(q, radius)))
    if kind == "flat":
        np.testing.assert_array_equal(many.reconstruct_n(110, 10), one.reconstruct_n(110, 10))
    out = np.empty((30, 2), "f4"), np.empty((30, 2), np.int64)
    assert many.search(q, 2, D=out[0], I=out[1])[1] is out[1]
    assert many.search(q[:0], 3)[0].shape == (0, 3)
    bad = q.copy()
    bad[1, 1] = np.nan
    assert (many.search(bad, 3)[1][1] == -1).all()


SELECTORS = [
    faiss.IDSelectorRange(50, 300),
    faiss.IDSelectorBatch(np.arange(0, 400, 3)),
    faiss.PyCallbackIDSelector(lambda i: i % 3 == 0),
    Even(),
]


@pytest.mark.parametrize("sel", SELECTORS, ids=["range", "batch", "callback", "subclass"])
@pytest.mark.parametrize("kind", KINDS)
def test_selectors_are_asked_of_the_ids_of_all(new, x, q, kind, sel):
    one, many = new(kind), shards(new, kind, True)
    one.add(x)
    many.add(x)
    params = fq.SearchParametersIVFQINCo(nprobe=4, sel=sel)
    equal(many.search(q, 20, params=params), one.search(q, 20, params=params))
    assert np.isin(
        many.range_search(q, 1e9, params=params)[2], one.range_search(q, 1e9, params=params)[2]
    ).all()


def test_an_exception_of_a_thread(new, x, q):
    many = shards(new, "ivf", True)
    many.add(x)

    def refuse(i):
        raise LookupError("no")

    params = fq.SearchParametersIVFQINCo(nprobe=4, sel=faiss.PyCallbackIDSelector(refuse))
    with pytest.raises(LookupError, match="no"):
        many.search(q, 3, params=params)
    assert (many.search(q, 3)[1] >= 0).all()


def test_ids_of_the_shards(new, x, q):
    one = new("ivf")
    one.add(x)
    many = fq.IndexShards(D, False, False)
    for _ in range(2):
        many.add_shard(fq.IndexIDMap(new("flat")))
    many.add_shard(fq.IndexIDMap(new("flat")))
    with pytest.raises(RuntimeError):
        many.add(x[:10]) or many.at(0).add(x[:1])
    many = shards(new, "ivf", D, False, False)
    many.add(x[:100])
    many.add(x[100:])
    equal(many.search(q, 20), one.search(q, 20))
    many.reset()
    ids = np.arange(400) * 3
    many.add_with_ids(x, ids)
    D_, I = one.search(q, 20)
    equal(many.search(q, 20), (D_, ids[I]))


def test_a_failed_add_leaves_none(new, x):
    many = shards(new, "ivf")
    many.at(2)._engine = None
    with pytest.raises(RuntimeError):
        many.add(x)
    assert many.ntotal == 0


def test_what_does_not_fit(new, x):
    many = shards(new, "ivf")
    untrained = fq.IndexIVFQINCo(faiss.IndexFlatL2(D), D, 4, 2, 4)
    for index in (untrained, new("ip"), fq.IndexQINCo(D + 1, 2)):
        with pytest.raises(RuntimeError):
            many.add_shard(index)
    for index in (faiss.IndexFlat(D), None):
        with pytest.raises(TypeError):
            many.add_shard(index)
    around = fq.IndexShards()
    around.add_shard(many)
    for index in (around, many):
        with pytest.raises(RuntimeError):
            many.add_shard(index)
    assert many.count() == 3
    with pytest.raises(RuntimeError):
        fq.IndexShards(D + 1).add_shard(new("ivf"))
    for call in (lambda s: s.search(x, 1), lambda s: s.add(x), lambda s: s.train(x)):
        with pytest.raises(RuntimeError, match="no indexes"):
            call(fq.IndexShards(D))
    with pytest.raises(IndexError):
        many.at(3)
    with pytest.raises(AttributeError):
        many.successive_idz = True


@pytest.mark.parametrize("wrap", [lambda i: i, fq.IndexRefineFlat, fq.IndexIDMap2])
@pytest.mark.parametrize("kind", ["ivf", "flat", "pca"])
def test_one_training_for_all(learnt, x, q, kind, wrap, monkeypatch):
    """Only the first is trained; codes of one shard mean the same in the others."""

    def untrained():
        d = 16 if kind == "pca" else D
        settings = training(epochs=1)
        index = (
            fq.IndexQINCo(D, 2, 4, config=TINY, training=settings)
            if kind == "flat"
            else fq.IndexIVFQINCo(faiss.IndexFlatL2(d), d, 4, 2, 4, config=TINY, training=settings)
        )
        return wrap(fq.IndexPreTransform(faiss.PCAMatrix(D, 16), index) if kind == "pca" else index)

    many = fq.IndexShards(False)
    for _ in range(3):
        many.add_shard(untrained())
    if kind == "ivf" and wrap is fq.IndexRefineFlat:
        for i in range(3):
            many.at(i).base_index.make_direct_map()
    n_trained = []
    inner = fq.IndexQINCo if kind == "flat" else fq.IndexIVFQINCo
    train = inner._train
    monkeypatch.setattr(inner, "_train", lambda *a: (n_trained.append(1), train(*a))[1])
    many.train(learnt)
    assert len(n_trained) == 1 and many.is_trained
    one = many.at(0)
    copied = many.at(2)
    for index in (one, copied):
        index.add_with_ids(x, np.arange(400)) if wrap is fq.IndexIDMap2 else index.add(x)
    if kind != "flat":
        many.nprobe = 4
    equal(one.search(q, 20), copied.search(q, 20))
    if kind == "ivf" and wrap is fq.IndexRefineFlat:
        assert len(copied.base_index.reconstruct(7)) == D
    if wrap is fq.IndexIDMap2:
        one.merge_from(copied, 1000)
        assert one.ntotal == 800
    with pytest.raises(RuntimeError, match="reset"):
        many.train(learnt)


def test_shards_of_other_sizes_are_trained_by_themselves(learnt):
    many = fq.IndexShards()
    for M in (2, 3):
        many.add_shard(fq.IndexQINCo(D, M, 4, config=TINY, training=training(epochs=1)))
    many.train(learnt)
    assert [many.at(i).codec.M for i in range(2)] == [2, 3]


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_replicas(new, x, q, kind, threaded):
    one, many = new(kind), fq.IndexReplicas(D, threaded)
    one.add(x)
    for _ in range(3):
        many.add_replica(new(kind))
    many.add(x)
    assert (many.ntotal, many.at(2).ntotal, many.count()) == (400, 400, 3)
    params = fq.SearchParametersIVFQINCo(nprobe=4, sel=SELECTORS[1])
    for n in (0, 1, 2, 4, 30):
        # Part by part: what faiss's PCA makes of a row depends on how many there are.
        parts = [q[:n][i : i + max(1, -(-n // 3))] for i in range(0, max(n, 1), max(1, -(-n // 3)))]
        for given in (None, params):
            found = [one.search(part, 7, params=given) for part in parts]
            expected = [np.concatenate([one[j] for one in found]) for j in (0, 1)]
            equal(many.search(q[:n], 7, params=given), expected)
        lims, D_, I = many.range_search(q[:n], 3e4)
        found = [one.range_search(part, 3e4) for part in parts]
        equal((D_, I), (np.concatenate([one[j] for one in found]) for j in (1, 2)))
        np.testing.assert_array_equal(np.diff(lims), np.concatenate([np.diff(f[0]) for f in found]))
    with pytest.raises(RuntimeError):
        many.add_replica(new(kind))
    with pytest.raises(RuntimeError):
        many.add_with_ids(x, np.arange(400))
    many.remove_replica(many.at(1))
    assert many.count() == 2
    with pytest.raises(RuntimeError):
        many.removeIndex(one)
    many.nshort = 9
    assert many.at(1).nshort == many.nshort == 9


def test_threads_keep_the_callers_number(new, x, q):
    """Whose number, if it is faiss's, is that of a thread, and the workers are others."""
    many = shards(new, "ivf", True)
    many.add(x)
    seen = []

    def ask(i):
        seen.append(fq.get_num_threads())
        return True

    before = faiss.omp_get_max_threads()
    params = fq.SearchParametersIVFQINCo(sel=faiss.PyCallbackIDSelector(ask))
    try:
        faiss.omp_set_num_threads(6)
        many.search(q[:1], 1, params=params)
        assert faiss.omp_get_max_threads() == fq.get_num_threads() == 6 and set(seen) == {2}
        fq.set_num_threads(9)
        many.search(q[:1], 1, params=params)
        assert fq.get_num_threads() == 9 and set(seen) == {2, 3}
    finally:
        faiss.omp_set_num_threads(before)
        fq.set_num_threads(None)
    assert not [t for t in threading.enumerate() if t.name.startswith("faiss_qinco")]


@pytest.mark.parametrize("threaded", [False, True])
def test_searches_while_it_changes(new, x, q, threaded):
    """An id never comes with the distance of another vector, whichever shards are full already."""
    many = shards(new, "flat", threaded)
    many.add(x)
    distance, ids = many.search(q[:1], 400)
    right = dict(zip(ids[0].tolist(), distance[0].tolist(), strict=True))
    wrong, done = [], threading.Event()

    def search():
        while not done.is_set():
            found, ids = many.search(q[:1], 50)
            for i, value in zip(ids[0].tolist(), found[0].tolist(), strict=True):
                if i != -1 and right.get(i) != value:
                    wrong.append((i, value))

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for i in range(30):
            many.reset()
            many.add(x)
            if i % 10 == 0:
                assert fq.deserialize_index(fq.serialize_index(many)).ntotal == 400
                last = many.at(2)
                many.remove_shard(last)
                many.add_shard(last)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong


def test_changes_inside_a_search_of_its_own(new, x, q):
    """Also in a thread of a shard."""
    many = shards(new, "ivf", True)
    many.add(x)
    seen = []

    def ask(i):
        if not seen:
            seen.append(1)
            for change in (many.reset, lambda: many.remove_shard(many.at(0))):
                with pytest.raises(RuntimeError, match="inside a search"):
                    change()
        return True

    params = fq.SearchParametersIVFQINCo(sel=faiss.PyCallbackIDSelector(ask))
    many.search(q[:1], 1, params=params)
    assert seen and many.ntotal == 400
