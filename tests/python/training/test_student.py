"""Students: what they learn, and what an index does with one."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.codec.config import PRESETS, student_pays
from faiss_qinco.training import Budget, distill, train_codec

from ..conftest import TINY, training

SMALL = fq.QINCoConfig(L=1, d_e=16, d_h=16, A=0, B=1)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("faiss_qinco.training.student.EPOCHS", 5)


@pytest.fixture(scope="module")
def codes(trained, learn):
    return fq.deserialize_index(trained[faiss.METRIC_L2]).codec.encode(learn)


def error(student, codec, codes, n_steps):
    columns = slice(codes.shape[1] - codec.M + n_steps)
    return np.square(student.decode(codes[:, columns]) - codec.decode(codes[:, columns])).mean()


def test_a_student_learns_every_step_from_the_teacher(empty, codes):
    codec = distill(empty.codec, codes[:8000], SMALL, training())
    twin = distill(empty.codec, codes[:8000], SMALL, training())
    slow = distill(empty.codec, codes[:8000], SMALL, training(lr=1e-9, muon_lr=1e-9))
    assert codec.student.config == SMALL
    for name, tensor in codec.student.tensors.items():
        np.testing.assert_array_equal(tensor, twin.student.tensors[name])
    for n_steps in range(1, 5):
        start, end = (error(c.student, codec, codes[8000:], n_steps) for c in (slow, codec))
        assert end < 0.7 * start


@pytest.mark.parametrize(
    "config",
    [
        fq.QINCoConfig(L=1, d_e=None, d_h=32, A=0, B=1, qinco1=True),
        fq.QINCoConfig(L=1, d_e=40, d_h=32, A=4, B=2),
    ],
    ids=["QINCo1", "projections"],
)
def test_teachers_of_other_kinds_and_without_an_ivf(learn, config):
    codec = train_codec(learn[:3000], 3, 5, config, training(epochs=1))
    codes = codec.encode(learn[:3000])
    codec = distill(codec, codes, training=training())
    x_hat = codec.decode(codes)
    error = np.square(codec.student.decode(codes) - x_hat).mean()
    assert error < 0.1 * np.square(x_hat - x_hat.mean(0)).mean()
    np.testing.assert_array_equal(  # the first code needs no network
        codec.student.decode(codes[:, :1]), codec.decode(codes[:, :1])
    )


def test_no_student_where_there_is_no_time(empty, codes):
    with pytest.warns(RuntimeWarning, match="no student"):
        codec = distill(empty.codec, codes, SMALL, training(), budget=Budget(1e-3))
    assert codec is empty.codec


def test_a_student_within_a_budget(empty, codes):
    codec = distill(empty.codec, codes, SMALL, training(), budget=Budget(60))
    assert error(codec.student, codec, codes, 4) < 0.5 * np.square(codec.decode(codes)).mean()


def test_codes_that_do_not_fit_are_refused(empty, codes):
    for wrong in (codes[:, :-1], codes + 256, np.where([True] + 4 * [False], 16, codes)):
        with pytest.raises(ValueError, match="codes"):
            distill(empty.codec, wrong)


def test_by_default_where_it_pays(learn):
    for d in (96, 128, 384, 768):
        assert [name for name in PRESETS if student_pays(PRESETS[name], d)] == ["M", "L"]
    large = fq.QINCoConfig(L=5, d_e=None, d_h=256, A=1, B=1)
    index = fq.IndexIVFQINCo(
        faiss.IndexFlatL2(128), 128, 4, 2, 4, config=large, training=training(epochs=1)
    )
    index.train(learn[:600])
    assert index.codec.student is not None


@pytest.mark.parametrize(
    ("ivf", "metric"), [(True, faiss.METRIC_L2), (False, faiss.METRIC_INNER_PRODUCT)]
)
def test_index_with_a_student(trained, learn, base, queries, tmp_path, ivf, metric):
    if ivf:
        index = fq.deserialize_index(trained[metric])
        index.nprobe = 8
        index.training = training()
    else:
        index = fq.IndexQINCo(128, 4, 8, metric, TINY, training())
        index.train(learn[:5000])
    index.add(base[:5000])
    index.nshort = 200
    without, D_without = index.codec, index.search(queries, 5)[0]
    assert without.student is None
    index.distill(learn[:5000])
    assert index.codec.student is not None
    assert index.codec.tensors is without.tensors

    fq.search_stats.reset()
    D, I = index.search(queries, 1)
    stats = fq.search_stats
    n_networks = 4 if ivf else 3
    assert stats.n_student_steps > 0
    assert stats.n_steps < 0.5 * n_networks * stats.n_reranked
    assert stats.n_steps + stats.n_steps_saved >= n_networks * stats.n_reranked
    singles = [index.search(q[None], 1) for q in queries[:30]]
    np.testing.assert_array_equal(np.vstack([D for D, _ in singles]), D[:30])
    index.exit_margin = np.inf
    fq.search_stats.reset()
    D_all, I_all = index.search(queries, 1)
    assert fq.search_stats.n_student_steps == 0
    same = I_all == I
    assert same.mean() > 0.97
    np.testing.assert_array_equal(D[same], D_all[same])  # always exact

    index.exit_margin = 1.0
    fq.write_index(index, tmp_path / "index.fqi")
    loaded = fq.read_index(tmp_path / "index.fqi")
    for a, b in zip(index.search(queries, 5), loaded.search(queries, 5), strict=True):
        np.testing.assert_array_equal(a, b)
    fq.write_index(loaded, tmp_path / "again.fqi")
    assert (tmp_path / "again.fqi").read_bytes() == (tmp_path / "index.fqi").read_bytes()
    assert loaded.memory_usage()["codec"] > sum(t.nbytes for t in without.tensors.values())
    np.testing.assert_allclose(D_without.mean(), index.search(queries, 5)[0].mean(), rtol=0.01)


def test_train_from_a_codec_with_a_student(empty, learn, codes):
    codec = distill(empty.codec, codes, SMALL, training())
    for setting, student in ((None, codec.student), (True, codec.student), (False, None)):
        index = fq.IndexIVFQINCo(
            faiss.IndexFlatL2(128), 128, 16, 4, config=TINY, training=training(student=setting)
        )
        index.train_from_codec(learn, codec)
        assert index.codec.student is student


def test_model_file(empty, codes, tmp_path):
    codec = distill(empty.codec, codes, SMALL, training())
    codec.save(tmp_path / "model")
    loaded = fq.QINCoCodec.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.student.decode(codes), codec.student.decode(codes))
    header, tensors = codec.state()
    name = "student.steps.0.codebook"
    for wrong in (
        ({**header, "student": None}, tensors),
        ({**header, "student": {"L": 2}}, tensors),
        ({k: v for k, v in header.items() if k != "student"}, tensors),
        (header, {**tensors, name: tensors[name][:-1]}),
        (header, {**tensors, name: tensors[name].astype(np.float64)}),
        (header, {**tensors, "student.more": tensors[name]}),
        (header, {k: v for k, v in tensors.items() if k != "base"}),
    ):
        with pytest.raises(RuntimeError, match="codec"):
            fq.QINCoCodec.from_state(*wrong)
