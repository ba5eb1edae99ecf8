"""remove_ids and merge_from: as FAISS's, and what it has no answer for."""

from __future__ import annotations

import copy

import faiss
import numpy as np
import pytest

import faiss_qinco as fq


def ids_of(index):
    """As they lie in the lists."""
    if isinstance(index, faiss.IndexIVF):
        lists = index.invlists
        return [
            i
            for l in range(index.nlist)
            for i in faiss.rev_swig_ptr(lists.get_ids(l), lists.list_size(l)).tolist()
        ]
    return np.concatenate([index.lists.get_ids(l) for l in range(index.lists.nlist)]).tolist()


@pytest.fixture(scope="module")
def flat_image(learn, base):
    """3000 vectors, no lists; every 100th cannot be stored."""
    from .conftest import TINY, make_searchable, training

    index = fq.IndexQINCo(128, 2, 4, config=TINY, training=training(epochs=1))
    make_searchable(index, learn[:3000])
    x = base[:3000].copy()
    x[::100, 5] = np.nan
    index.add(x)
    return fq.serialize_index(index)


def test_numbers_are_those_of_faiss(filled, base):
    """Duplicates, ids that are not there, and what `add` gives afterwards."""
    theirs = faiss.IndexIVFFlat(filled.quantizer, 128, 16)
    theirs.train(base)
    theirs.add(base[:3000])
    bitmap = np.packbits(np.arange(4000) % 5 == 0, bitorder="little")
    inner = faiss.IDSelectorRange(2000, 2500), faiss.IDSelectorBatch([2100, 2600, 7])
    removed = [
        np.array([5, 5, -1, 10**12, 2999], np.int64),
        np.array([7, 8], np.uint8),
        np.array([], np.float64),
        faiss.IDSelectorBatch([10, 11, 99999]),
        faiss.IDSelectorArray([20, 21]),
        faiss.IDSelectorRange(100, 120),
        faiss.IDSelectorAnd(*inner),
        faiss.IDSelectorXOr(*inner),
        faiss.IDSelectorBitmap(bitmap),
        faiss.IDSelectorNot(faiss.IDSelectorRange(0, 2900)),
        faiss.PyCallbackIDSelector(lambda i: i % 7 == 0),
        faiss.IDSelectorAll(),
    ]
    for mapped in (False, True):
        for index in (filled, theirs):
            index.reset()
            index.add(base[:2000])
            index.add_with_ids(base[2000:2100], np.arange(1950, 2050))
        filled.make_direct_map(mapped)
        for ids in removed:
            assert filled.remove_ids(ids) == theirs.remove_ids(ids)
            for index in (filled, theirs):
                index.add(base[:50])
            assert filled.ntotal == theirs.ntotal
            assert sorted(ids_of(filled)) == sorted(ids_of(theirs))
        assert filled.ntotal == 50


def test_without_lists_numbers_move_up_as_in_faiss(flat_image, queries):
    index = fq.deserialize_index(flat_image)
    theirs = faiss.IndexFlat(128)
    theirs.add(index.reconstruct_n())
    for ids in (
        np.array([3, 3, -1, 5000, 100]), faiss.IDSelectorRange(200, 301), np.array([2]),
        faiss.PyCallbackIDSelector(lambda i: i % 2 == 0),
    ):  # fmt: skip
        assert index.remove_ids(ids) == theirs.remove_ids(ids)
        np.testing.assert_array_equal(index.reconstruct_n(), theirs.reconstruct_n())
    assert np.isnan(index.reconstruct_n()).any()
    twin = copy.copy(index)
    before = twin.reconstruct_n()
    index.merge_from(twin)
    assert twin.ntotal == 0
    np.testing.assert_array_equal(index.reconstruct_n(), np.concatenate((before, before)))
    with pytest.raises(RuntimeError, match="add_id"):
        index.merge_from(twin, 3)
    assert index.remove_ids(faiss.IDSelectorAll()) == 2 * len(before)
    assert index.memory_usage()["codes"] == 0


def test_what_says_no_ids_is_refused(filled):
    for wrong, error in (
        (None, TypeError), ([1, 2], AttributeError), (3, TypeError),
        (np.zeros((2, 2), int), AssertionError), (np.array(["1"]), TypeError),
        (np.ones(3000, bool), TypeError), (np.array([1.5]), ValueError),
        (np.array([np.nan]), ValueError), (np.array([1 << 63], np.uint64), ValueError),
    ):  # fmt: skip
        with pytest.raises(error, match="ids"):
            filled.remove_ids(wrong)
    assert filled.ntotal == 3000

    def refuses(i):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        filled.remove_ids(faiss.PyCallbackIDSelector(refuses))
    for change in (lambda: filled.add(np.zeros((1, 128))), lambda: filled.remove_ids(np.arange(3))):

        def changes(i, change=change):
            return change()

        with pytest.raises(RuntimeError, match="inside a search"):
            filled.remove_ids(faiss.PyCallbackIDSelector(changes))
    assert filled.ntotal == 3000
    untrained = fq.IndexIVFQINCo(faiss.IndexFlatL2(8), 8, 4, 2)
    assert untrained.remove_ids(np.arange(3)) == 0
    with pytest.raises(TypeError):
        untrained.remove_ids("3")


def test_next_id_never_comes_back(filled, base, tmp_path):
    assert filled.next_id == 3000
    filled.remove_ids(np.arange(2000, 3000))
    assert (filled.ntotal, filled.next_id) == (2000, 3000)
    filled.add_with_ids(base[:5], np.arange(filled.next_id, filled.next_id + 5))
    filled.remove_ids(np.array([3004]))
    fq.write_index(filled, tmp_path / "index")
    for index in (filled, copy.copy(filled), fq.read_index(tmp_path / "index"), filled.truncate(2)):
        assert (index.ntotal, index.next_id) == (2004, 3005)
    filled.reencode(filled.codec)
    assert filled.next_id == 3005
    filled.add_with_ids(base[:1], np.array([2**63 - 1]))
    with pytest.raises(RuntimeError, match="next_id"):
        filled.next_id  # noqa: B018
    filled = copy.copy(filled)
    filled.reset()
    assert filled.next_id == 0


@pytest.mark.parametrize("mapped", [False, True])
def test_what_is_left_is_as_if_nothing_else_had_been_there(empty, base, queries, mapped):
    """Results, lists and memory; through many small removals."""
    empty.nprobe = 4
    twin = copy.copy(empty)
    for index in (empty, twin):
        index.make_direct_map(mapped)
    empty.add(base[:4000])
    rng = np.random.default_rng(0)
    gone = rng.permutation(4000)[:3600]
    for i, ids in enumerate(np.array_split(gone, 300)):
        empty.remove_ids(ids if i % 2 else faiss.IDSelectorBatch(ids))
    left = np.setdiff1d(np.arange(4000), gone)
    twin.add_with_ids(base[left], left)
    for got, wanted in zip(empty.search(queries, 10), twin.search(queries, 10), strict=True):
        np.testing.assert_array_equal(got, wanted)
    for list_no in range(empty.nlist):
        for name in ("get_ids", "get_codes", "get_bias"):
            got, wanted = (getattr(i._engine.core, name)(list_no) for i in (empty, twin))
            np.testing.assert_array_equal(got, wanted)
    used, wanted = empty.memory_usage(), twin.memory_usage()
    for part in ("codes", "bias", "ids", "direct_map"):
        assert used[part] <= 2 * wanted[part] + 1024


def test_merged_is_as_added(empty, base, queries):
    one, other, whole = (copy.copy(empty) for _ in range(3))
    for index in (one, other, whole):
        index.nprobe = 5
        index.make_direct_map()
    one.add(base[:1000])
    other.add(base[1000:1700])
    whole.add(base[:1700])
    one.merge_from(other, 1000)
    assert (one.ntotal, one.next_id, other.ntotal, other.next_id) == (1700, 1700, 0, 0)
    for got, wanted in zip(one.search(queries, 10), whole.search(queries, 10), strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(fq.serialize_index(one), fq.serialize_index(whole))
    np.testing.assert_array_equal(one.reconstruct(1699), whole.reconstruct(1699))
    assert (other.search(queries[:1], 3)[1] == -1).all()
    other.add(base[:10])  # it can be used again
    with pytest.raises(ValueError, match="add_id"):
        one.merge_from(other, 2**63 - 5)
    with pytest.raises(ValueError, match="add_id"):
        one.merge_from(other, -1)
    with pytest.raises(TypeError):
        one.merge_from(other, 0.5)
    assert (one.ntotal, other.ntotal) == (1700, 10)


def test_what_cannot_be_merged_is_refused_with_the_reason(filled, learn, flat_image):
    def refused(other, reason, error=RuntimeError):
        for call in (filled.check_compatible_for_merge, filled.merge_from):
            with pytest.raises(error, match=reason):
                call(other)

    refused(filled, "itself")
    refused(fq.IndexIVFQINCo(faiss.IndexFlatL2(128), 128, 16, 4), "not trained")
    refused(fq.deserialize_index(flat_image), "M is 4 here, and 2")
    refused(filled.truncate(3), "M is 4 here, and 3")
    refused(faiss.IndexFlat(128), "expected a IndexIVFQINCo", TypeError)
    refused(None, "expected a IndexIVFQINCo", TypeError)
    filled.check_compatible_for_merge(copy.copy(filled))

    other = copy.copy(filled)
    other.reset()
    other.train_from_codec(learn[:4000], filled.codec)
    refused(other, "tables")
    tensors = dict(filled.codec.tensors)
    name = next(iter(tensors))
    tensors[name] = tensors[name] * np.float32(1.001)
    other = copy.copy(filled)
    other._engine.codec = filled.codec.with_tensors(tensors, 4)
    refused(other, "codec")
    other = copy.copy(filled)
    other._engine.centroids = filled._engine.centroids + 1
    refused(other, "centroids")
    assert filled.ntotal == 3000


def test_with_transforms(filled, base):
    def outer(index, seed=1):
        rotation = faiss.RandomRotationMatrix(128, 128)
        rotation.init(seed)
        return fq.IndexPreTransform(rotation, index)

    one, other = outer(filled), outer(copy.copy(filled))
    assert one.remove_ids(np.arange(10)) == 10
    assert (one.ntotal, one.next_id) == (2990, 3000)
    one.merge_from(other, 3000)
    assert (one.ntotal, one.next_id, other.ntotal) == (5990, 6000, 0)
    with pytest.raises(RuntimeError, match="transforms"):
        one.merge_from(outer(copy.copy(filled), seed=2))
    with pytest.raises(RuntimeError, match="itself"):
        one.merge_from(outer(filled))
    with pytest.raises(TypeError):
        one.merge_from(copy.copy(filled))


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
def test_other_vectors_for_ids(trained, base, queries, metric):
    index, fresh = (fq.deserialize_index(trained[metric]) for _ in range(2))
    index.nprobe = fresh.nprobe = 16
    ids = np.random.default_rng(0).permutation(10_000)[:1000]
    index.add_with_ids(base[:1000], ids)
    with pytest.raises(RuntimeError, match="direct map"):
        index.update_vectors(ids[:2], base[:2])
    index.make_direct_map()
    index.update_vectors(ids[:300], base[2000:2300].astype(np.float64))
    index.update_vectors(ids[[5, 6, 5]].astype(np.int32), base[[0, 1, 2]])  # the last counts
    index.update_vectors(ids[:0], base[:0])
    x = np.concatenate((base[2000:2300], base[300:1000]))
    x[5], x[6] = base[2], base[1]
    fresh.add_with_ids(x, ids)
    fresh.make_direct_map()
    assert (index.ntotal, index.next_id) == (1000, fresh.next_id)
    for got, wanted in zip(index.search(queries, 10), fresh.search(queries, 10), strict=True):
        np.testing.assert_array_equal(got, wanted)
    for i in ids[:20].tolist():
        np.testing.assert_array_equal(index.reconstruct(i), fresh.reconstruct(i))
    before = fq.serialize_index(index)
    bad = base[:2].copy()
    bad[1, 3] = np.nan
    for keys, rows, error in (
        (ids[:2], bad, RuntimeError), ([10_001, ids[0]], base[:2], RuntimeError),
        (ids[:2], base[:3], ValueError), (ids[:2], base[:2, :5], ValueError),
    ):  # fmt: skip
        with pytest.raises(error):
            index.update_vectors(np.array(keys), rows)
    np.testing.assert_array_equal(fq.serialize_index(index), before)


def test_part_of_an_index_in_another(trained, base, queries):
    """As FAISS does it with the same lists."""
    index = fq.deserialize_index(trained[faiss.METRIC_INNER_PRODUCT])
    index.add(base[:1000])
    theirs = faiss.IndexIVFFlat(faiss.IndexFlatL2(1), 1, 16)
    theirs.is_trained = True
    for list_no in range(16):
        ids = index._engine.core.get_ids(list_no)
        codes = np.zeros((len(ids), 4), np.uint8)
        theirs.invlists.add_entries(list_no, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    theirs.ntotal = 1000
    for subset in (
        (0, 10, 60),
        (0, 60, 10),
        (1, 3, 1),
        (2, 0, 100),
        (2, 100, 250),
        (3, 3, 2),
        (4, 1, 3),
    ):
        one, other = copy.copy(index), faiss.IndexIVFFlat(faiss.IndexFlatL2(1), 1, 16)
        one.reset()
        one.make_direct_map()
        index.copy_subset_to(one, *subset)
        theirs.copy_subset_to(other, *subset)
        assert one.ntotal == other.ntotal
        for list_no in range(16):
            n = other.invlists.list_size(list_no)
            wanted = faiss.rev_swig_ptr(other.invlists.get_ids(list_no), n) if n else []
            np.testing.assert_array_equal(one._engine.core.get_ids(list_no), wanted)
        for i in one._engine.core.get_ids(2)[:3].tolist():
            np.testing.assert_allclose(one.reconstruct(i), index.reconstruct_n(i, 1)[0], rtol=1e-5)
    for bad in ((5, 0, 1), (-1, 0, 1)):
        with pytest.raises(RuntimeError):
            index.copy_subset_to(one, *bad)
    for bad in ((1, 0, 0), (3, 2, 2), (3, 2, -1)):
        with pytest.raises(ValueError, match="a1"):
            index.copy_subset_to(one, *bad)
    with pytest.raises(RuntimeError):
        index.copy_subset_to(fq.deserialize_index(trained[faiss.METRIC_L2]), 0, 0, 5)
