"""`IndexRefine` and `IndexRefineFlat`: bit for bit what faiss's makes of the same candidates."""

from __future__ import annotations

import threading

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from .conftest import D, equal, same_verdict

REFINEMENTS = ["Flat", "SQ8", "SQfp16", "PQ8x4"]


@pytest.fixture
def pair(control, new, learnt):
    ranks = [faiss.index_factory(D, "SQ8") for _ in range(2)]
    for one in ranks:
        one.train(learnt)
    return faiss.IndexRefine(control(), ranks[0]), fq.IndexRefine(new("ivf"), ranks[1])


def params(**kwargs):
    return faiss.IndexRefineSearchParameters(**kwargs)


IVF = faiss.SearchParametersIVF(nprobe=4, sel=faiss.IDSelectorRange(0, 10))
CALLS = {
    "k 0": lambda r, x: r.search(x, 0),
    "params of the base": lambda r, x: r.search(x, 3, params=IVF),
    "range, params of the base": lambda r, x: r.range_search(x, 3, params=IVF),
    "k_factor below 1": lambda r, x: r.search(x, 3, params=params(k_factor=0.5)),
    "k_factor of its own below 1": lambda r, x: (setattr(r, "k_factor", 0.5), r.search(x, 3)),
    "k_factor NaN": lambda r, x: (setattr(r, "k_factor", np.nan), r.search(x, 3)),
    "k_factor text": lambda r, x: setattr(r, "k_factor", "a"),
    "k_factor": lambda r, x: setattr(r, "k_factor", 2.3) or r.k_factor,
    "numbers": lambda r, x: (
        r.d,
        r.ntotal,
        r.is_trained,
        r.k_factor,
        r.own_fields,
        r.own_refine_index,
    ),
    "remove": lambda r, x: r.remove_ids(np.arange(3)),
    "add_with_ids": lambda r, x: r.add_with_ids(x, np.arange(400)),
    "merge": lambda r, x: r.merge_from(r, 0),
    "compatible": lambda r, x: r.check_compatible_for_merge(r),
    "reconstruct": lambda r, x: r.reconstruct(3).tolist(),
    "reconstruct_n": lambda r, x: r.reconstruct_n(3, 9).tolist(),
    "reconstruct_batch": lambda r, x: r.reconstruct_batch([1, 2]).tolist(),
    "search_and_reconstruct": lambda r, x: r.search_and_reconstruct(x, 2)[2].shape,
    "sa_encode": lambda r, x: len(r.sa_encode(x)),
    "reset": lambda r, x: (
        r.reset() or (r.ntotal, r.search(x, 2)[1].tolist(), r.search(x, 2)[0].tolist())
    ),
    "sel of the base": lambda r, x: r.search(
        x, 400, params=params(k_factor=1, base_index_params=IVF)
    )[1].max(),
    "everything": lambda r, x: r.search(x, 400)[1].tolist(),
}


@pytest.mark.parametrize("what", CALLS)
def test_as_faiss(pair, x, what):
    for index in pair:
        index.add(x)
    found = same_verdict(*pair, lambda index: CALLS[what](index, x))
    if found is not None:
        assert found[0] == found[1] or found[0] != found[0]


@pytest.mark.parametrize("refinement", REFINEMENTS)
@pytest.mark.parametrize("kind", ["ivf", "flat", "pca", "ip"])
def test_bits_are_those_of_faiss(new, learnt, x, q, kind, refinement):
    """faiss's over an index that finds the same candidates in the same order: all there are."""
    ours_base = new(kind)
    metric = ours_base.metric_type
    if kind != "ip":  # where the base indexes do not agree on which of equals comes first
        x = np.concatenate([x[:300], x[:50], x[350:]])
    ranks = [faiss.index_factory(D, refinement, metric) for _ in range(2)]
    for one in ranks:
        one.train(learnt)
    ours = fq.IndexRefine(ours_base, ranks[1])
    ours.add(x.astype(np.float64))
    base = faiss.IndexFlat(D, metric)
    base.add(ours_base.reconstruct_n())
    ranks[0].add(x)
    theirs = faiss.IndexRefine(base, ranks[0])
    equal(
        ours.search(q, 1, params=params(k_factor=1e15)),
        ours.search(q, 1, params=params(k_factor=400)),
    )
    for k, k_factor in ((3, 200), (20, 20), (400, 1), (500, 1), (7, 57.15)):
        own = params(k_factor=k_factor)
        equal(ours.search(q, k, params=own), theirs.search(q, k, params=own))
    ours.k_factor = theirs.k_factor = 40
    equal(ours.search(q, 10), theirs.search(q, 10))
    out = np.empty((30, 2), "f4"), np.empty((30, 2), np.int64)
    assert ours.search(q, 2, D=out[0], I=out[1])[0] is out[0]
    assert ours.search(q[:0], 3)[0].shape == (0, 3)
    radius = float(np.median(ours_base.search(q, 50)[0]))
    lims, D_, I = ours.range_search(q, radius)
    assert len(I) and lims.tolist() == ours_base.range_search(q, radius)[0].tolist()
    exact, ids = ours.search(q, 400, params=params(k_factor=1))
    for i, value, row in zip(
        I, D_, np.repeat(np.arange(30), np.diff(lims.astype(int))), strict=True
    ):
        assert exact[row][ids[row] == i] == value


def test_flat(control, new, x, q, learnt):
    ours = fq.IndexRefineFlat(new("ivf"))
    ours.k_factor = 40
    with pytest.raises(RuntimeError):
        fq.IndexRefineFlat(fq.IndexIVFQINCo(faiss.IndexFlatL2(D), D, 4, 2, 4)).add(x)
    ours.add(x)
    exact = faiss.IndexFlat(D)
    exact.add(x)
    np.testing.assert_array_equal(ours.search(q, 10)[1], exact.search(q, 10)[1])
    assert (ours.search(x, 1)[0] == 0).all()
    filled = new("ivf")
    filled.add(x)
    for xb in (x, x.astype(np.float16), faiss.swig_ptr(x)):
        again = fq.IndexRefineFlat(filled, xb)
        again.k_factor = 40
        equal(again.search(q, 5), ours.search(q, 5))
    for xb in (None, x[:3]):
        with pytest.raises(RuntimeError):
            fq.IndexRefineFlat(filled, xb)
    assert ours.own_refine_index and not ours.own_fields


def test_parameters_reach_the_base(new, x, q):
    ours = fq.IndexRefineFlat(new("pca"))
    ours.add(x)
    sel = faiss.IDSelectorBatch(np.arange(0, 400, 3))
    inner = fq.SearchParametersIVFQINCo(nprobe=4, sel=sel)
    other = fq.SearchParametersIVFQINCo(nprobe=4, sel=faiss.IDSelectorRange(0, 400))
    forms = [
        fq.IndexRefineSearchParameters(k_factor=20, base_index_params=inner),
        fq.IndexRefineSearchParameters(k_factor=20, sel=sel),
        fq.IndexRefineSearchParameters(k_factor=20, sel=sel, base_index_params=other),
        params(k_factor=20, sel=sel),
        params(k_factor=20, base_index_params=faiss.SearchParametersIVF(nprobe=4, sel=sel)),
    ]
    expected = ours.search(q, 10, params=forms[0])
    assert (expected[1] % 3 == 0).all()
    np.testing.assert_array_equal(ours.sa_decode(ours.sa_encode(x)), ours.reconstruct_n())
    with pytest.raises(AttributeError):
        ours.k_faktor = 3
    for form in forms[1:]:
        equal(ours.search(q, 10, params=form), expected)
    around = fq.IndexIDMap(fq.IndexRefineFlat(new("ivf")))
    around.add_with_ids(x, np.arange(400) * 3)
    for form in forms:
        found = around.search(q, 10, params=form)[1]
        assert (found % 3 == 0).all() and found.max() < 400
    with pytest.raises(AssertionError):
        fq.IndexRefineSearchParameters(k_faktor=3)
    with pytest.raises(TypeError):
        fq.IndexRefineSearchParameters(sel=3)
    with pytest.raises(TypeError):
        ours.search(q, 3, params={})


def test_what_does_not_fit(new, x):
    for base, ranks, error in (
        (new("ivf"), faiss.IndexFlat(D + 1), RuntimeError),
        (new("ivf"), faiss.IndexFlat(D, faiss.METRIC_INNER_PRODUCT), RuntimeError),
        (new("ivf"), None, TypeError),
        (new("ivf"), new("flat"), TypeError),
        (faiss.IndexFlat(D), faiss.IndexFlat(D), TypeError),
        (fq.IndexIDMap(new("ivf")), faiss.IndexFlat(D), TypeError),
    ):
        with pytest.raises(error):
            fq.IndexRefine(base, ranks)
    filled = faiss.IndexFlat(D)
    filled.add(x)
    with pytest.raises(RuntimeError):
        fq.IndexRefine(new("ivf"), filled)
    with pytest.raises(RuntimeError):
        fq.IndexRefineFlat(new("ivf")).reconstruct(0)  # faiss reads behind its end


def test_training_is_of_both(learnt, x):
    index = fq.index_factory(D, "IVF4,QINCo2x4_XS,Refine(SQ8)")
    from ..conftest import TINY, training

    index.training = training(epochs=1)
    index.base_index._config = TINY
    with pytest.raises(RuntimeError, match="not trained"):
        index.add(x)
    with pytest.raises(RuntimeError, match="not trained"):
        index.search(x, 1)
    index.train(learnt)
    index.add(x)
    index.nprobe, index.k_factor = 4, 400
    assert index.is_trained and np.median(index.search(x, 1)[0]) < 5


def test_add_is_all_or_nothing(new, x, q, monkeypatch):
    index = fq.IndexRefineFlat(new("ivf"))
    index.add(x[:10])

    def full(self, x):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(faiss.IndexFlat, "add", full)
        with pytest.raises(MemoryError):
            index.add(x[10:])
    assert index.ntotal == index.refine_index.ntotal == index.base_index.ntotal == 10
    index.add(x[10:])
    assert (index.search(x, 1)[0] == 0).mean() > 0.2 and index.ntotal == 400
    index.base_index.add(x[:1])
    with pytest.raises(RuntimeError, match="not to its indexes"):
        index.add(x[:1])


def test_searches_while_it_grows(new, x, q):
    """Never a distance that the refine index has not."""
    index = fq.IndexRefineFlat(new("ivf"))
    exact = ((x - q[0]) ** 2).sum(1)
    wrong, done = [], threading.Event()

    def search():
        while not done.is_set():
            found, ids = index.search(q[:1], 400)
            for i, value in zip(ids[0].tolist(), found[0].tolist(), strict=True):
                if i >= 0 and abs(value - exact[i]) > 1e-3 * exact[i]:
                    wrong.append(i)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            for i in range(0, 400, 20):
                index.add(x[i : i + 20])
            index.reset()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong
