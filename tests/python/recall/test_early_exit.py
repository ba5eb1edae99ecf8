"""What early exit promises, on vectors and queries that calibrated nothing."""

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.ranking.early_exit import LOSS

METRICS = [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT]


@pytest.fixture(scope="module", params=METRICS)
def index(request, fully_trained, base):
    index = fq.deserialize_index(fully_trained[request.param])
    index.add(base)
    return index


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("nshort", [100, 1000])
def test_a_search_loses_no_more_than_promised(index, queries, nshort, length):
    for k in (1, 10, 50, 100, 300):
        if k >= nshort:
            continue
        I = {}
        for margin in (np.inf, 1.0):
            params = fq.SearchParametersIVFQINCo(nprobe=8, nshort=nshort, exit_margin=margin)
            fq.search_stats.reset()
            I[margin] = index.search(length * queries, k, params=params)[1]
        lost = sum(len(np.setdiff1d(a, b)) for a, b in zip(I[np.inf], I[1.0], strict=True))
        assert lost <= max(1, LOSS * queries.shape[0] * k), (k, lost)
        if nshort == 1000 and k == 1:  # and saves most of the work
            assert fq.search_stats.n_steps < fq.search_stats.n_steps_saved


def test_few_training_vectors_calibrate_nothing_and_lose_nothing(learn, base, queries):
    from ..conftest import TINY, make_searchable, training

    quantizer = faiss.IndexFlat(128)
    index = fq.IndexIVFQINCo(quantizer, 128, 4, 4, 8, faiss.METRIC_L2, TINY, training())
    make_searchable(index, learn[:400])
    index.add(base[:2000])
    for k in (1, 10, 100):
        I = [
            index.search(queries, k, params=fq.SearchParametersIVFQINCo(
                nprobe=4, nshort=500, exit_margin=margin))[1]
            for margin in (np.inf, 1.0)
        ]  # fmt: skip
        assert np.mean([len(np.setdiff1d(a, b)) for a, b in zip(*I, strict=True)]) <= LOSS * k
