"""Fine-tuning, and the statistics that a codec keeps of its training."""

from __future__ import annotations

import dataclasses
import pickle

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.training import train_codec

from ..conftest import training


@pytest.fixture(scope="module")
def codec(fully_trained):
    return fq.deserialize_index(fully_trained[faiss.METRIC_L2]).codec


def mse(codec, x, codes=None):
    codes = codec.encode(x) if codes is None else codes
    return np.square(codec.decode(codes) - x).sum(1).mean()


@pytest.fixture(scope="module")
def shifted(base):
    """Vectors of another kind: the dimensions the other way round."""
    return np.ascontiguousarray(base[:, ::-1])


@pytest.fixture(scope="module")
def settings():
    return training(epochs=8, noise=0.1)


@pytest.fixture(scope="module")
def tuned(codec, shifted, learn, settings):
    return fq.finetune(codec, shifted[:3000], learn[:3000], training=settings)


def test_the_new_kind_gains_and_the_old_one_keeps_its_error(codec, tuned, shifted, base):
    new, old = shifted[6000:8000], base[6000:8000]
    codes, image = codec.encode(old), pickle.dumps(codec)
    assert mse(tuned, new) < 0.9 * mse(codec, new)
    assert mse(tuned, old) < 1.06 * mse(codec, old)
    assert mse(tuned, old, codes) < 1.2 * mse(codec, old, codes)
    assert tuned.report.old_mse <= 1.03 * tuned.report.old_mse_before
    np.testing.assert_allclose(tuned.report.new_mse_before, mse(codec, new), rtol=0.1)
    np.testing.assert_array_equal(tuned.centroids(), codec.centroids())
    assert pickle.dumps(codec) == image  # the one given is as it was


@pytest.mark.filterwarnings("ignore:keep")
def test_nothing_may_be_lost(codec, shifted, learn, settings):
    settings = dataclasses.replace(settings, epochs=2)
    tuned = fq.finetune(codec, shifted[:600], learn[:600], max_loss=0, training=settings)
    assert tuned.report.old_mse <= tuned.report.old_mse_before
    assert tuned.report.blend < 1


def clusters(n, seed):
    """Vectors about 20 centres, which the seed chooses: (n, 16) float32."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, 16))[rng.integers(0, 20, n)]
    return (centres + 0.4 * rng.standard_normal((n, 16))).astype(np.float32)


@pytest.fixture(scope="module")
def small():
    x = clusters(3000, 0)
    quantizer = faiss.IndexFlatL2(16)
    config = fq.QINCoConfig(L=1, d_h=16, A=4, B=2)
    index = fq.IndexIVFQINCo(quantizer, 16, 4, 4, 4, config=config, training=training(epochs=1))
    index.train(x)
    return index.codec


def test_what_an_index_reconstructs_serves_as_old_vectors(small):
    """Its codes say all of it: what that has lost counts too, or no error would be small enough."""
    old, new = clusters(3000, 0), clusters(1500, 1)
    again = fq.finetune(small, new, small.decode(small.encode(old)), training=training(epochs=4))
    assert again.report.blend > 0
    assert again.report.new_mse < 0.98 * again.report.new_mse_before
    assert mse(again, old) < 1.06 * mse(small, old)
    np.testing.assert_allclose(again.report.old_mse_before, small.statistics.mean)
    least = again.statistics.errors[0]  # of a reconstruction it would be nothing
    assert least > 0.1 * small.statistics.mean


def test_there_is_little_time_to_measure(small):
    settings = training(max_seconds=1e-3, n_validation=400, lr=10.0)
    with pytest.warns(RuntimeWarning, match="max_loss=0"):
        tuned = fq.finetune(
            small, clusters(3000, 1), clusters(3000, 0), max_loss=0, training=settings
        )
    assert tuned.statistics.n == 128
    assert tuned.report.new_mse == tuned.report.new_mse_before
    assert fq.training.finetune is fq.finetune  # no module has taken the place of the function


def test_without_old_vectors_and_without_lists(learn):
    codec = train_codec(learn[:1000], 2, 5, fq.QINCoConfig(L=1, d_h=16, A=0), training(epochs=1))
    np.testing.assert_allclose(codec.statistics.mean, codec.report.mse, rtol=1e-6)
    x = np.ascontiguousarray(learn[:1000, ::-1])
    tuned = fq.finetune(codec, x, training=training(epochs=4))
    assert tuned.report.new_mse < 0.95 * tuned.report.new_mse_before
    assert tuned.report.old_mse is tuned.report.old_codes_mse is None


def test_what_cannot_be_tuned_with_is_refused(codec, learn, settings):
    x, bad = learn[:200], learn[:200].copy()
    bad[3, 4] = np.nan
    for call, error, match in (
        (lambda: fq.finetune(codec, x[:1]), RuntimeError, "x: expected at least 100"),
        (lambda: fq.finetune(codec, x, x[:1]), RuntimeError, "keep: expected at least 100"),
        (lambda: fq.finetune(codec, bad), RuntimeError, "x: training vector 3"),
        (lambda: fq.finetune(codec, x, bad), RuntimeError, "keep: training vector 3"),
        (lambda: fq.finetune(codec, x[:, :9]), ValueError, "x: expected d=128"),
        (lambda: fq.finetune(codec, x, max_loss=-1), ValueError, "max_loss"),
        (lambda: fq.finetune("codec", x), TypeError, "codec"),
        (lambda: fq.finetune(codec, x, training={}), TypeError, "training"),
    ):
        with pytest.raises(error, match=match):
            call()


def test_statistics_are_of_unseen_vectors_and_kept(codec, tuned, learn, base, tmp_path):
    found = codec.statistics
    assert found.n == 512
    np.testing.assert_allclose(found.mean, mse(codec, base), rtol=0.1)
    assert found.mean > 1.1 * mse(codec, learn)
    assert (found.codewords.sum(1) == 512).all()
    assert found.lists.sum() == 512
    tuned.save(tmp_path / "codec")
    for copy in (fq.QINCoCodec.load(tmp_path / "codec"), pickle.loads(pickle.dumps(tuned))):
        for name, tensor in tuned.statistics.state().items():
            np.testing.assert_array_equal(copy.statistics.state()[name], tensor)


def test_forged_statistics_are_refused(codec):
    header, tensors = codec.state()
    for name, wrong in (
        ("lists", tensors["statistics.lists"][:-1]),
        ("lists", tensors["statistics.lists"] - 1),
        ("codewords", tensors["statistics.codewords"].astype(np.float32)),
        ("moments", np.array([512.5, 1.0, 1.0])),
        ("moments", np.array([512, np.nan, 1.0])),
        ("errors", tensors["statistics.errors"][::-1].copy()),
        ("more", np.zeros(1)),
    ):
        with pytest.raises(RuntimeError, match="statistics"):
            fq.QINCoCodec.from_state(header, {**tensors, f"statistics.{name}": wrong})
