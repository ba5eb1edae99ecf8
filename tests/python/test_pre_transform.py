"""`IndexPreTransform`: against faiss's over the same decoded vectors, and against doing it by
hand."""

from __future__ import annotations

import copy
import pickle

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.storage.container import FileFormatError, open_bytes, to_bytes

from .conftest import TINY, make_searchable, training

PREFIXES = ["OPQ4_16", "PCA16", "PCAR16", "PCAW16", "RR", "ITQ16", "L2norm", "L2norm,PCA16,RR"]
NO_WAY_BACK = ("PCAW", "ITQ")
d = 48  # the first of each descriptor


@pytest.fixture(scope="module")
def x(learn):
    return np.ascontiguousarray(learn[:1500, :d])


def made(prefix, metric=faiss.METRIC_L2, back="IVF4,QINCo2x4", **kwargs):
    settings = training(epochs=1, **kwargs)
    made = fq.index_factory(d, f"{prefix},{back}", metric, settings)
    made.index._config = TINY
    for transform in made.chain:
        quick(transform)
    return made


def quick(transform):
    if isinstance(transform, faiss.OPQMatrix):
        transform.niter = transform.niter_pq_0 = transform.niter_pq = 1


@pytest.fixture(scope="module")
def inner(x):
    """The bytes of trained indexes by dimension: what they were trained on does not matter."""
    found = {}
    for width in (16, d):
        quantizer = faiss.IndexFlatL2(width)
        index = fq.IndexIVFQINCo(
            quantizer, width, 4, 2, 4, config=TINY, training=training(epochs=1)
        )
        make_searchable(index, x[:, :width])
        found[width] = fq.serialize_index(index)
    return found


@pytest.fixture(scope="module")
def filled_bytes(x, inner):
    index = fq.IndexPreTransform(faiss.PCAMatrix(d, 16, 0, True), fq.deserialize_index(inner[16]))
    index.chain[0].train(x)
    index.add(x[:500])
    return fq.serialize_index(index)


@pytest.fixture
def filled(filled_bytes):
    return fq.deserialize_index(filled_bytes)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_as_faiss_has_it(x, inner, prefix, monkeypatch):
    """The transforms that faiss trains, and its results with the decoded vectors stored flat."""
    monkeypatch.setattr(fq.IndexIVFQINCo, "_train", lambda self, budget, data: None)
    index = made(prefix)
    index.index = fq.deserialize_index(inner[index.index.d])
    index.train(x)
    index.add(x[:400])
    index.nprobe, index.nshort, index.exit_margin = 4, 400, np.inf
    theirs = faiss.index_factory(d, f"{prefix},Flat", index.metric_type)
    opq = faiss.downcast_VectorTransform(theirs.chain.at(0))
    quick(opq)
    theirs.train(x)
    flat = faiss.downcast_index(theirs.index)
    flat.add(index.index.reconstruct_n())
    D, I = index.search(x[:50], 5)
    D_theirs, I_theirs = theirs.search(x[:50], 5)
    np.testing.assert_allclose(D, D_theirs, rtol=1e-3, atol=1e-3)
    assert (I_theirs == I).mean() > 0.95
    lims, D, I = index.range_search(x[:9], thresh := float(np.median(D)))
    assert set(I) == set(theirs.range_search(x[:9], thresh)[2]) and len(D) == lims[-1]
    if prefix.startswith(NO_WAY_BACK):
        with pytest.raises(RuntimeError, match="not implemented"):
            index.reconstruct_n()
    else:
        np.testing.assert_allclose(
            index.reconstruct_n(3, 40), theirs.reconstruct_n(3, 40), rtol=1e-4, atol=1e-3
        )
    np.testing.assert_array_equal(
        index.sa_encode(x[:20]), index.index.sa_encode(index.apply_chain(x[:20]))
    )


@pytest.mark.parametrize("back", ["QINCo2x4", "IVF4,QINCo2x4"])
def test_everything_goes_through_the_chain(x, back):
    index = made("L2norm,PCA16", back=back)
    assert not index.is_trained and not index.index.is_trained
    for call in (index.add, lambda v: index.search(v, 1), index.sa_encode):
        with pytest.raises(RuntimeError, match="not trained"):
            call(x)
    with pytest.raises(RuntimeError, match="PCAMatrix is not trained"):
        index.reverse_chain(x[:, :16])
    index.train(x.astype(np.float16))
    assert index.is_trained and (index.d, index.index.d, index.ntotal) == (d, 16, 0)
    inner = copy.deepcopy(index.index)
    index.add(x[:300])
    inner.add(index.apply_chain(x[:300]))
    if "IVF" in back:
        index.add_with_ids(x[:10], np.arange(10) + 1000)
        inner.add_with_ids(index.apply_chain(x[:10]), np.arange(10) + 1000)
        index.nprobe = inner.nprobe = 2
        params = faiss.SearchParametersPreTransform()
        params.index_params = faiss.SearchParametersIVF(nprobe=2)
    else:
        assert not hasattr(index, "nprobe")
        with pytest.raises(RuntimeError, match="add_with_ids"):
            index.add_with_ids(x[:1], np.arange(1))
        params = fq.SearchParametersIVFQINCo()
    q = index.apply_chain(x[:20])
    for given in (None, params):
        D, I = index.search(x[:20], 5, params=given)
        np.testing.assert_array_equal(I, inner.search(q, 5)[1])
        np.testing.assert_array_equal(D, inner.search(q, 5)[0])
    np.testing.assert_array_equal(index.assign(x[:20], 5), I)
    decoded = index.sa_decode(index.sa_encode(x[:5]))
    np.testing.assert_allclose(decoded, index.reconstruct_n(0, 5), rtol=1e-5, atol=1e-5)
    if "IVF" not in back:
        np.testing.assert_allclose(index.reconstruct(3), decoded[3], rtol=1e-5, atol=1e-5)
    usage = index.memory_usage()
    assert usage["transforms"] > 4 * d * 16 and usage["per_vector"] == usage["total"] / index.ntotal
    index.reset()
    assert index.ntotal == 0 and "PCAMatrix 48->16" in repr(index)


def test_rows_that_are_no_vectors(x, inner, filled):
    """L2 norm would make zeros of a vector whose squares overflow."""
    bad = x[:4].copy()
    bad[0, 0], bad[1, 1], bad[2] = np.nan, np.inf, 1e30
    for transform in (faiss.NormalizationTransform(d), faiss.RemapDimensionsTransform(d, d)):
        index = fq.IndexPreTransform(transform, fq.deserialize_index(inner[d]))
        index.add(bad)
        I = index.search(bad, 4)[1]
        assert index.ntotal == 4 and (I[:3] == -1).all() and (I[3] == 3).sum() == 1
        decoded = index.reconstruct_n()
        assert np.isnan(decoded[:3]).all() and np.isfinite(decoded[3]).all()
    with pytest.raises(RuntimeError, match="training vector 0"):
        made("PCA16").train(bad)
    assert filled.search(x[:0], 3)[0].shape == (0, 3) and filled.reconstruct_n(0, 0).shape == (0, d)


def test_training_is_all_or_nothing(x, monkeypatch):
    opq = faiss.OPQMatrix(d, 4, 32)
    quick(opq)
    index = fq.IndexPreTransform(
        [faiss.NormalizationTransform(d), opq],
        fq.IndexIVFQINCo(faiss.IndexFlatL2(32), 32, 4, 2, 4, config=TINY, training=training()),
    )
    import faiss_qinco.index.training as module

    def interrupted(*_, **__):
        assert opq.is_trained
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_codec", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.train(x)
    assert not opq.is_trained and opq.A.size() == 0 and not index.is_trained
    assert (opq.niter, opq.niter_pq_0, opq.pq) == (1, 1, None)
    index.train(x)
    assert opq.is_trained
    A = faiss.vector_to_array(opq.A)
    index.train(x[:1000])  # as in FAISS, transforms are trained once
    np.testing.assert_array_equal(faiss.vector_to_array(opq.A), A)
    index.add(x[:3])
    with pytest.raises(RuntimeError, match="reset"):
        index.train(x)


def test_opq_keeps_to_the_time(x, monkeypatch):
    """By a rule: the clock would give other vectors to a checkpoint that is to be continued."""
    pytest.importorskip("torch")
    seen = []
    monkeypatch.setattr(faiss.OPQMatrix, "train", lambda self, x: seen.append(self.niter))
    for seconds in (None, 1e6, 4 / fq.get_num_threads(), 0.01):
        index = made("OPQ4_16", max_seconds=seconds)
        index.chain[0].niter, index.chain[0].niter_pq_0 = 50, 4
        with pytest.raises(RuntimeError, match="OPQMatrix"):
            index.train(x)
    assert seen[:2] == [50, 50] and 1 < seen[2] < 50 and seen[3] == 1


def test_vectors_far_from_all_others_are_left_out_where_they_become_so(x):
    index = made("PCA16")
    x = x.copy()
    x[7] *= 1e6
    index.train(x)
    assert abs(faiss.vector_to_array(index.chain[0].mean)).max() < 1e3


@pytest.mark.parametrize("prefix", [*PREFIXES, "Pad64", "HR", "ITQ", "OPQ4"])
@pytest.mark.parametrize("trained", [False, True])
def test_files_and_copies(x, prefix, trained):
    """Also of what is still to be trained, which faiss's own files forget."""
    if prefix == "HR" and not hasattr(faiss, "HadamardRotation"):
        pytest.skip("newer than this faiss")
    index = made(prefix)
    if trained:
        for i, transform in enumerate(index.chain):
            at = x
            for before in index.chain[:i]:
                at = before.apply(at)
            if not transform.is_trained:
                transform.train(at)
    data = fq.serialize_index(index)
    for again in (
        fq.deserialize_index(data), copy.copy(index), pickle.loads(pickle.dumps(index))
    ):  # fmt: skip
        assert fq.serialize_index(again).tobytes() == data.tobytes()
        assert repr(again) == repr(index)
        for a, b in zip(again.chain, index.chain, strict=True):
            assert a.is_trained == b.is_trained
    for a, b in zip(again.chain, index.chain, strict=True):
        for one in (a, b):
            if not one.is_trained:
                one.train(x[:, : a.d_in])
        np.testing.assert_array_equal(a.apply(x[:9, : a.d_in]), b.apply(x[:9, : a.d_in]))


def test_a_filled_index_in_a_file(x, filled, tmp_path):
    filled.nprobe = 3
    fq.write_index(filled, tmp_path / "a.fqi")
    again = fq.read_index(tmp_path / "a.fqi")
    assert again.nprobe == 3
    for a, b in zip(again.search(x[:30], 5), filled.search(x[:30], 5), strict=True):
        np.testing.assert_array_equal(a, b)


def content(data):
    with open_bytes(data, "index") as reader:
        return reader.header, reader.all()


BAD = {
    ("transforms",): [None, [1], {}, "x"],
    ("transforms", 0): [{}, None],
    ("transforms", 0, "kind"): ["IndexFlat", None, "OPQMatrix", "ITQTransform",
                                "RemapDimensionsTransform", "HadamardRotation"],
    ("transforms", 0, "d_in"): [0, -1, 2**40, 47, "48", True],
    ("transforms", 0, "d_out"): [17, 2**20, 128, None],
    ("transforms", 0, "is_trained"): [1, None],
    ("transforms", 0, "have_bias"): [False, 1, None],
    ("transforms", 0, "epsilon"): ["x", None, 1e40],
    ("transforms", 0, "max_points_per_d"): [0, 2**31],
    ("index",): [None, 3, {}],
    ("index", "type"): ["IndexPreTransform", "x"],
    ("index", "d"): [64, 17],
}  # fmt: skip


@pytest.mark.parametrize("path", BAD, ids=str)
def test_a_file_with_wrong_content_is_refused(filled_bytes, path):
    for value in BAD[path]:
        header, tensors = content(filled_bytes)
        place = header
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(FileFormatError, match=r"^<bytes>: "):
            fq.deserialize_index(to_bytes("index", header, tensors))


@pytest.mark.parametrize("name", ["A", "b", "mean", "eigenvalues"])
def test_a_file_with_wrong_tensors_is_refused(filled_bytes, name):
    changes = [lambda t: None, lambda t: t * np.nan, lambda t: t.astype(np.float64)]
    changes += [lambda t: t[:-1], lambda t: t.reshape(1, -1)] if name != "eigenvalues" else []
    for change in changes:
        header, tensors = content(filled_bytes)
        tensors[f"transforms.0.{name}"] = change(tensors[f"transforms.0.{name}"])
        tensors = {k: t for k, t in tensors.items() if t is not None}
        with pytest.raises(FileFormatError):
            fq.deserialize_index(to_bytes("index", header, tensors))


def test_what_cannot_be_composed():
    inner = fq.IndexQINCo(16, 2, 4, config=TINY)
    for transforms, index, error in (
        (faiss.PCAMatrix(64, 17), inner, ValueError),
        ([faiss.PCAMatrix(64, 32), faiss.PCAMatrix(33, 16)], inner, AssertionError),
        (faiss.PCAMatrix(8, 16), inner, ValueError),
        (faiss.OPQMatrix(16, 5), inner, ValueError),
        (faiss.IndexFlatL2(16), inner, TypeError),
        ([3], inner, TypeError),
        (3, inner, TypeError),
        (faiss.PCAMatrix(64, 16), faiss.IndexFlatL2(16), TypeError),
        (faiss.PCAMatrix(64, 16), fq.IndexPreTransform([], inner), TypeError),
    ):
        with pytest.raises(error):
            fq.IndexPreTransform(transforms, index)
    index = fq.IndexPreTransform(faiss.PCAMatrix(32, 16), inner)
    index.prepend_transform(faiss.RandomRotationMatrix(64, 32))
    assert index.d == 64 and [t.d_in for t in index.chain] == [64, 32]
    assert (index.chain.size(), index.chain.at(1).d_out) == (2, 16)
