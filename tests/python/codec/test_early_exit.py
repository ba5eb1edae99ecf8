"""Margins of early exit: what they may lose, by their definition."""

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.codec import early_exit as room
from faiss_qinco.codec.fitting import SHORTLIST, shortlists


def test_margins_lose_no_more_than_they_may(monkeypatch):
    monkeypatch.setattr(room, "DENSER", 1.0)
    rng = np.random.default_rng(0)
    exact = np.sort(rng.random((3000, 200), np.float32), axis=1)
    approximate = exact + 0.02 * rng.standard_normal(exact.shape, np.float32)
    found = room.margins(approximate, exact)
    assert len(found) == len(room.LOSS)
    for margin, (k, loss) in zip(found, room.LOSS.items(), strict=True):
        kth = np.sort(approximate, axis=1)[:, k - 1 : k]

        def lost(margin, k=k, kth=kth):
            return (approximate[:, :k] > kth + margin).mean()

        assert lost(margin) <= loss < lost(0.9 * margin)


def test_margins_of_few_or_no_candidates():
    exact = np.array([[0.5, 0.7, np.inf], [np.inf, np.inf, np.inf]], np.float32)
    approximate = np.array([[0.9, 0.6, np.inf], [np.inf, np.inf, np.inf]], np.float32)
    first, *more = room.margins(approximate, exact)
    np.testing.assert_allclose(first, room.DENSER * 0.3, rtol=1e-6)
    assert more == [0, 0]


def test_checkpoints():
    assert room.checkpoint_codes(8, True, False) == [1, 2, 3, 4, 6]
    assert room.checkpoint_codes(8, True, True) == [1, 2, 3, 4, 6, 8]
    assert room.checkpoint_codes(5, False, False) == [2, 3, 4]
    assert room.checkpoint_codes(1, True, False) == []


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
def test_calibration_sees_whole_shortlists(trained, base, queries, metric):
    index = fq.deserialize_index(trained[metric])
    encoded = index.codec.encode(base[:3000])
    list_no, codes = encoded[:, 0].astype(np.int64), encoded[:, 1:].astype(np.uint8)
    parts = index.state()[1]
    found = []
    try:
        for n_threads in (1, 2):
            fq.set_num_threads(n_threads)
            I = shortlists(
                index.codec, parts["additive"], parts["centroids"], list_no, codes, queries, metric
            )[1]
            assert I.shape == (len(queries), SHORTLIST)
            assert (I >= 0).all()
            found.append(I)
    finally:
        fq.set_num_threads(None)
    np.testing.assert_array_equal(*found)
