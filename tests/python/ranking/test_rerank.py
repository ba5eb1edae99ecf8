"""The decoder and ranking of a GPU, on CPU tensors, against the extension's decoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from faiss_qinco.codec import encoding
from faiss_qinco.ranking import rerank as reranking

from ..codec.test_model import CONFIGS, random_codec, random_codes
from ..one_device import OneDevice

N, N_SHORT, K = 6, 50, 10


@pytest.fixture(params=["ivf", "flat"])
def case(request):
    """config -> the codec, queries, their shortlists, and the decoded candidates. Of query 0 all
    is missing, of query 1 the half; the last 5 candidates of the others are the first 5 again,
    with lower ids."""

    def case(config):
        codec = random_codec(config, nlist=7 if request.param == "ivf" else None)
        codes = random_codes(codec, N * N_SHORT).reshape(N, N_SHORT, -1)
        codes[:, -5:] = codes[:, :5]
        decoded = codec.decode(codes.reshape(N * N_SHORT, -1)).reshape(N, N_SHORT, -1)
        list_no = codes[:, :, 0].astype(np.int64) if codec.nlist else np.zeros((N, N_SHORT), int)
        ids = np.random.default_rng(4).permutation(10 * N_SHORT)[: N * N_SHORT] - 100
        ids = ids.reshape(N, N_SHORT)
        ids[:, -5:] = ids[:, :5] - 1000
        codes = codes[:, :, -codec.M :].astype(np.uint8)
        for missing in ((0, slice(None)), (1, slice(N_SHORT // 2, None))):
            ids[missing], list_no[missing], codes[missing] = -1, -1, 0
            decoded[missing] = np.nan
        q = np.random.default_rng(5).standard_normal((N, codec.d)).astype(np.float32)
        return codec, q, (ids, list_no, codes, np.empty((0, N_SHORT), np.float32)), decoded

    return case


def rerank(codec, q, candidates, metric, k=K):
    def shortlist(part):
        ids, list_no, codes, lengths = candidates
        return ids[part], list_no[part], codes[part], lengths[part]

    return reranking.rerank(codec, q, shortlist, N_SHORT, k, metric, "cpu:0")


def expected(q, ids, decoded, metric, k=K):
    q, decoded = q.astype(np.float64)[:, None], decoded.astype(np.float64)
    score = np.square(decoded - q).sum(2) if metric == 1 else -(decoded * q).sum(2)
    order = np.lexsort((ids, score))[:, :k]
    score = np.take_along_axis(score, order, 1)
    missing = np.where(np.isnan(score), np.finfo(np.float32).max, score)
    return missing if metric == 1 else -missing, np.take_along_axis(ids, order, 1)


@pytest.mark.parametrize("metric", [1, 0], ids=["L2", "IP"])
@pytest.mark.parametrize("name", CONFIGS)
def test_rerank_is_exact(case, name, metric):
    codec, q, candidates, decoded = case(CONFIGS[name])
    D_expected, I_expected = expected(q, candidates[0], decoded, metric)
    D, I = rerank(codec, q, candidates, metric)
    np.testing.assert_allclose(D, D_expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(I, I_expected)


def test_what_is_decoded_is_stretched(case, monkeypatch):
    codec, q, candidates, decoded = case(CONFIGS["QINCo2"])
    lengths = np.random.default_rng(6).uniform(0.5, 2, candidates[1].shape).astype(np.float32)
    norms = np.linalg.norm(decoded, axis=2, keepdims=True)
    D_expected, I_expected = expected(q, candidates[0], decoded * lengths[..., None] / norms, 0)
    for in_bf16 in (False, True):
        monkeypatch.setattr(reranking, "use_bf16", lambda *_, yes=in_bf16: yes)
        D, I = rerank(codec, q, (*candidates[:3], lengths), 0)
        np.testing.assert_allclose(D, D_expected, rtol=1e-4, atol=1e-3)
        np.testing.assert_array_equal(I, I_expected)


def test_bf16_ranks_and_float32_decides(case, monkeypatch):
    monkeypatch.setattr(reranking, "use_bf16", lambda *_: True)
    codec, q, candidates, decoded = case(CONFIGS["QINCo2"])
    D_expected, I_expected = expected(q, candidates[0], decoded, 1)
    D, I = rerank(codec, q, candidates, 1)
    np.testing.assert_allclose(D, D_expected, rtol=1e-4)
    assert torch.bfloat16 in {dtype for _, dtype in codec._compiled}
    np.testing.assert_array_equal(I, I_expected)


def test_batches_do_not_change_results(case, monkeypatch):
    codec, q, candidates, _ = case(CONFIGS["QINCo2"])
    D, I = rerank(codec, q, candidates, 1)
    monkeypatch.setattr(reranking, "CANDIDATES", 2 * N_SHORT)
    monkeypatch.setattr(reranking, "rows_at_once", lambda _: 64)
    D_batches, I_batches = rerank(codec, q, candidates, 1)
    np.testing.assert_allclose(D_batches, D, rtol=1e-6)
    np.testing.assert_array_equal(I_batches, I)


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_all_stays_on_the_device(case, name, bf16, monkeypatch):
    monkeypatch.setattr(reranking, "use_bf16", lambda *_: bf16)
    codec, *arrays, _ = case(CONFIGS[name])
    q, *candidates = (torch.from_numpy(a).to("meta") for a in (arrays[0], *arrays[1]))
    steps = codec._steps("meta", torch.bfloat16 if bf16 else torch.float32)
    lists = candidates[1][:, 0] if codec.nlist else None
    with OneDevice():
        score, ids = reranking._best(codec, "meta", K, 1, q, *candidates)
        codes, error = encoding.beam_encode(codec._model("meta"), steps, q, lists, codec.K, 2)
    assert score.shape == ids.shape == (N, K)
    assert all(t.is_meta for t in (score, ids, codes, error))
