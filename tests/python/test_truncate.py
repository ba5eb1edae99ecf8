"""An index cut to its first codes."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from .conftest import TINY, make_searchable, training


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
def test_a_cut_index_is_of_the_first_codes(trained, base, queries, metric):
    index = fq.deserialize_index(trained[metric])
    x = base[:4000].copy()
    x[7] = np.nan  # takes a number only
    index.add(x)
    index.make_direct_map()
    index.nprobe, index.nshort, index.cp.niter = 16, 4000, 3
    before = index.search(queries, 5)
    cut = index.truncate(2)

    assert (cut.M, cut.code_size, cut.ntotal, cut.codec.M) == (2, 2, 4000, 2)
    assert (cut.nprobe, cut.nshort, cut.cp.niter) == (16, 4000, 3)
    for list_no in range(16):
        np.testing.assert_array_equal(
            cut.lists.get_codes(list_no), index.lists.get_codes(list_no)[:, :2]
        )
        np.testing.assert_array_equal(cut.lists.get_ids(list_no), index.lists.get_ids(list_no))
    expected = np.full((4000, 128), np.nan, np.float32)
    for list_no in range(16):
        codes = index.lists.get_codes(list_no)[:, :2].astype(np.int32)
        rows = np.column_stack((np.full(len(codes), list_no), codes))
        expected[index.lists.get_ids(list_no)] = index.codec.decode(rows)
    if metric == faiss.METRIC_INNER_PRODUCT:
        norms = np.linalg.norm(x, axis=1) / np.linalg.norm(expected, axis=1)
        expected *= norms[:, None]
        np.testing.assert_allclose(cut.reconstruct_n(), expected, rtol=2e-3)  # lengths: two bytes
        expected = cut.reconstruct_n()
    else:
        np.testing.assert_array_equal(cut.reconstruct_n(), expected)
    np.testing.assert_array_equal(cut.reconstruct(8), cut.reconstruct_n(8, 1)[0])

    flat = faiss.IndexFlat(128, metric)
    flat.add(np.where(np.isnan(expected), -1e4 if metric else 0, expected).astype(np.float32))
    D, I = cut.search(queries, 5)  # all are re-ranked
    np.testing.assert_allclose(D, flat.search(queries, 5)[0], rtol=1e-4)
    np.testing.assert_allclose(
        D[:, 0],
        np.square(queries - expected[I[:, 0]]).sum(1)
        if metric
        else (queries * expected[I[:, 0]]).sum(1),
        rtol=1e-4,
    )

    # The tables are of the cut codes, and so is the bias: those of what is added later too.
    found = cut.search(queries, 10, params=fq.SearchParametersIVFQINCo(nprobe=16, nshort=0))[1]
    assert np.mean([i in row for i, row in zip(I[:, 0], found, strict=True)]) > 0.9
    again = cut.truncate(2)
    again.reset()
    for list_no in range(16):
        codes = cut.lists.get_codes(list_no)
        lists, lengths = np.full(len(codes), list_no), None
        if metric == faiss.METRIC_INNER_PRODUCT:
            lengths = np.linalg.norm(x[cut.lists.get_ids(list_no)], axis=1)
        again.lists.add(lists, codes, extra=lengths)
        bias = again.lists.get_bias(list_no)
        np.testing.assert_allclose(bias, cut.lists.get_bias(list_no), rtol=2e-3)

    # Nothing is shared: neither what is stored nor settings.
    cut.reset()
    cut.quantizer.reset()
    cut.cp.niter = 7
    assert (index.ntotal, index.quantizer.ntotal, index.cp.niter) == (4000, 16, 3)
    np.testing.assert_array_equal(index.search(queries, 5), before)


def test_a_cut_codec_and_index_are_saved_and_used(filled, queries, tmp_path):
    fq.write_index(filled.truncate(3), tmp_path / "cut.fqi")
    cut = fq.read_index(tmp_path / "cut.fqi")
    cut.nprobe = 16
    assert cut.M == 3 and "QINCo3x8" in repr(cut)
    cut.codec.save(tmp_path / "cut.safetensors")
    codec = fq.QINCoCodec.load(tmp_path / "cut.safetensors")
    codes = codec.encode(queries)
    np.testing.assert_array_equal(codec.decode(codes), filled.codec.decode(codes))
    cut.rerank_device = "cpu:0"
    on_torch = cut.search(queries[:20], 3)[0]
    cut.rerank_device = "cpu"
    np.testing.assert_allclose(cut.search(queries[:20], 3)[0], on_torch, rtol=1e-3)


def test_without_vectors_or_lists(empty, learn, base, queries):
    cut = empty.truncate(1)
    cut.add(base[:500])
    cut.nprobe = 16
    D, I = cut.search(queries, 1)
    rows = cut.reconstruct_n()[I[:, 0]]
    np.testing.assert_allclose(D[:, 0], np.square(queries - rows).sum(axis=1), rtol=1e-4)

    flat = fq.IndexQINCo(128, 3, 4, config=TINY, training=training())
    make_searchable(flat, learn[:1500])
    flat.add(base[:300])
    for M in (1, 2):  # 1: a codebook, no network
        cut = flat.truncate(M)
        codes = flat.lists.get_codes(0)[:, :M]
        np.testing.assert_array_equal(cut.reconstruct_n(), flat.codec.decode(codes))
        assert cut.search(queries, 3)[1].min() >= 0
    assert flat.truncate(3).M == 3


@pytest.mark.parametrize("M", [0, 5, -1])
def test_only_to_what_there_is(filled, M):
    for cut in (filled.truncate, filled.codec.truncate):
        with pytest.raises(ValueError, match=r"M: expected 1\.\.4, got"):
            cut(M)
    with pytest.raises(TypeError):
        filled.truncate(2.5)
    with pytest.raises(RuntimeError, match="not trained"):
        fq.IndexQINCo(8, 2).truncate(1)
