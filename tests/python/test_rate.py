"""Searches by the first codes of what is stored."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.engine import Engine

from .conftest import new_index

GOLDEN = Path(__file__).parent / "golden"


def params(**kwargs):
    return fq.SearchParametersIVFQINCo(**{"nprobe": 6, **kwargs})


@pytest.fixture
def small() -> fq.IndexIVFQINCo:
    """39 vectors and one that takes a number only, L2, d 6, 4 lists, 3 codes of 4 bits."""
    index = fq.read_index(GOLDEN / "ivf.fqi")
    index.nprobe = 4
    return index


def some(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 6)).astype(np.float32)


def add_random(index, n):
    core, rng = index.lists, np.random.default_rng(index.ntotal)
    codes = rng.integers(0, 1 << core.nbits, (n, core.M)).astype(np.uint8)
    core.add(rng.integers(0, core.nlist, n), codes)


def check_same(index, cut, queries, **kwargs):
    """Every search of an index by so many codes as a cut one has, and of this one."""
    for nshort in (0, 30, 200):
        given = kwargs | {"nshort": nshort}
        first = params(**given, M_search=cut.M)
        expected = cut.search(queries, 7, params=params(**given))
        np.testing.assert_array_equal(index.search(queries, 7, params=first), expected)
        radius = float(expected[0][0, 4])
        hits = cut.range_search(queries, radius, params=params(**given))
        assert len(hits[1]) > 0
        got = index.range_search(queries, radius, params=first)
        for array, of_cut in zip(got, hits, strict=True):
            np.testing.assert_array_equal(array, of_cut)
    return expected


@pytest.mark.parametrize("metric, corrected", [(1, False), (0, False), (0, True)])
def test_is_a_search_of_the_cut_index(trained, learn, base, queries, metric, corrected):
    index = fq.deserialize_index(trained[metric])
    if index.length_correction != corrected:
        codec, index = index.codec, new_index(metric)
        index.length_correction = corrected
        index.train_from_codec(learn[:2000], codec)
    index.add(base[:1100])
    queries = queries[:20]
    whole = index.search(queries, 7, params=params())
    for M in (1, 3):  # to fit the tables of 3, there are too few
        cut = index.truncate(M)
        D, I = check_same(index, cut, queries)
        decoded = cut.reconstruct_n()
        for i in (0, 5):
            found = decoded[I[i]]
            exact = np.square(found - queries[i]).sum(1) if metric else found @ queries[i]
            np.testing.assert_allclose(D[i], exact, rtol=1e-4)
    for M in (None, 4):
        np.testing.assert_array_equal(index.search(queries, 7, params=params(M_search=M)), whole)

    # And of what is added once there are tables.
    cut, x = index.truncate(1), base[3000:3300]
    list_no, codes = index._engine.encode(x, None, "cpu")
    lengths = np.linalg.norm(x, axis=1) if corrected else None
    for to in (index, cut):
        to.lists.add(list_no, codes[:, : to.M].copy(), extra=lengths)
    check_same(index, cut, queries)


def test_with_filters_limits_lists_and_a_table(filled, queries):
    cut = filled.truncate(2)
    filled.precompute_table()
    cut.precompute_table()
    sel = faiss.IDSelectorRange(100, 2000)
    check_same(filled, cut, queries[:50], sel=sel, max_codes=150, ensure_topk_full=True)
    check_same(filled, cut, queries[:50], sel=sel, max_empty_result_buckets=1)
    Dq, Iq = filled.quantizer.search(queries, 5)
    filled.M_search, filled.nprobe, cut.nprobe = 2, 5, 5
    for distances in (Dq, None):
        np.testing.assert_array_equal(
            filled.search_preassigned(queries, 3, Iq, distances),
            cut.search_preassigned(queries, 3, Iq, distances),
        )
    given = faiss.SearchParametersIVF(nprobe=5)
    expected = cut.search(queries, 3)
    np.testing.assert_array_equal(filled.search(queries, 3, params=given), expected)
    filled.rerank_device = "cpu:0"
    D, I = filled.search(queries, 3)
    np.testing.assert_allclose(D, expected[0], rtol=1e-4)
    assert np.mean(expected[1] == I) > 0.99


@pytest.mark.parametrize("name", ["flat", "ivf"])
def test_of_small_codes(name):
    """Of 4 and 5 bits, with and without lists; and what is added later has its biases too."""
    index = fq.read_index(GOLDEN / f"{name}.fqi")
    q = some(20)
    q = np.resize(q, (20, index.d))
    for M in (1, 2):
        check_same(index, index.truncate(M), q)
    add_random(index, 50)
    for M in (1, 2):
        check_same(index, index.truncate(M), q)


def test_tables_are_fitted_once_and_again_for_four_times_as_many(small):
    core, q = small.lists, some(20)
    found = []
    for n in (0, 100, 27, 500, 3, 5000):  # from 4 to 50 vectors for each of 16 codewords, of 1 code
        add_random(small, n)
        small.search(q, 3, params=params(M_search=1))
        found.append(core.rate(1))
    # 39 are too few, 139 are not; of the last, 800 would be used, not four times as many.
    expected = [(0, 39), (139, 139), (139, 166), (666, 666), (666, 669), (666, 5669)]
    assert found == expected
    check_same(small, fq.deserialize_index(fq.serialize_index(small)).truncate(2), q)
    assert core.rate(2) == (1600, 5669) and core.rate(3) == (-1, 5669)
    small.reset()
    assert core.rate(1) == (0, 0)
    small.search(q, 3, params=params(M_search=1))
    add_random(small, 64)
    small.search(q, 3, params=params(M_search=1))
    assert core.rate(1) == (64, 64)


def test_one_thread_fits_for_all(small, monkeypatch):
    calls, fitted = [], Engine._fitted

    def counted(engine, *sample):
        calls.append(len(sample[0]))
        if len(calls) == 1:
            raise MemoryError
        return fitted(engine, *sample)

    monkeypatch.setattr(Engine, "_fitted", counted)
    small.M_search, q = 2, some(20)
    with pytest.raises(MemoryError):
        small.search(q, 3)
    add_random(small, 300)
    with ThreadPoolExecutor(4) as pool:
        results = [*pool.map(lambda _: small.search(q, 3), range(8))]
    assert calls == [0, 339]
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    # While one makes better ones, the others do with those that there are.
    add_random(small, 5000)
    with small._engine._preparing:
        small.search(q, 3)
    assert calls == [0, 339]
    small.search(q, 3)
    assert calls == [0, 339, 1600]


def test_inside_another_search(small):
    q = some(20)

    def is_member(i):
        found.append(small.search(q, 3, params=params(M_search=2))[1])
        return True

    sel = faiss.PyCallbackIDSelector(is_member)
    found: list[np.ndarray] = []
    with pytest.raises(RuntimeError, match=r"M_search: the tables for 2 codes cannot be fitted"):
        small.search(q[:1], 3, params=params(sel=sel))
    expected = small.search(q, 3, params=params(M_search=2))[1]
    add_random(small, 1000)  # better ones would be due
    after = small.search(q, 3)
    small.search(q[:1], 3, params=params(sel=sel))
    assert len(found) > 0 and found[0].shape == expected.shape
    np.testing.assert_array_equal(small.search(q, 3), after)


def test_the_setting(small, tmp_path):
    assert small.M_search is None
    for bad in (0, 4, -1):
        with pytest.raises(ValueError, match=r"M_search: expected 1\.\.3, got"):
            small.M_search = bad
    for bad in (0, 65):
        with pytest.raises(ValueError, match="M_search: expected"):
            params(M_search=bad)
    for bad in (1.5, "2"):
        with pytest.raises(TypeError, match="M_search"):
            small.M_search = bad
        with pytest.raises(TypeError, match="M_search"):
            params(M_search=bad)
    with pytest.raises(ValueError, match=r"M_search: expected 1\.\.3, got 4"):
        small.search(some(1), 1, params=params(M_search=4))

    before = small.memory_usage()
    assert before["rates"] == 0
    small.M_search = np.int64(2)
    expected = small.search(some(20), 3)
    fq.write_index(small, tmp_path / "index.fqi")
    for again in (
        fq.read_index(tmp_path / "index.fqi"), copy.copy(small), pickle.loads(pickle.dumps(small)),
        small.truncate(3),
    ):  # fmt: skip
        assert again.M_search == 2
        np.testing.assert_array_equal(again.search(some(20), 3), expected)
    assert small.truncate(1).M_search == 1
    wrapped = fq.IndexPreTransform(faiss.RandomRotationMatrix(6, 6), copy.copy(small))
    wrapped.M_search = 1
    assert wrapped.index.M_search == 1

    memory = small.memory_usage()
    assert memory["rates"] >= 2 * 2 * 16 * 6 * 4 + 4 * 39
    assert memory["total"] - before["total"] == memory["rates"]
