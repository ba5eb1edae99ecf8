from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.codec import training as room

from ..conftest import TINY, training


def train(x, config=TINY, M=3, nbits=6, **kwargs):
    return fq.QINCoCodec.train(x, M, nbits, config, training(**kwargs))


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        dataclasses.replace(TINY, d_e=48),
        fq.QINCoConfig(L=1, d_e=None, d_h=32, A=0, B=1, qinco1=True),
        fq.QINCoConfig(L=1, d_e=None, d_h=32, A=0, B=1, qinco1=True, low_rank=True),
    ],
    ids=["QINCo2", "QINCo2 with projections", "QINCo1", "QINCo-LR"],
)
def test_training_beats_its_start(learn, config):
    report = train(learn, config, epochs=5, batch_size=128).report
    _, seen, before = report.history[0]
    assert seen == 0
    assert 0.3 * before < report.mse < 0.97 * before
    if not config.qinco1:  # whose encoder has no beam, against RQ's with a beam of 5
        assert report.mse < 0.99 * report.rq_mse


def test_same_seed_same_codec(learn):
    x = learn[:3000]
    a, b = train(x, epochs=1), train(x, epochs=1)
    other = train(x, epochs=1, seed=1)
    for name, tensor in a.tensors.items():
        np.testing.assert_array_equal(tensor, b.tensors[name])
    assert any((t != other.tensors[k]).any() for k, t in a.tensors.items())


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_resume_is_exact(learn, tmp_path, monkeypatch, interruption):
    x = learn[:3000]
    settings = {"epochs": 8, "batch_size": 128, "noise": 0.1}  # 176 batches, validated every 50
    whole = train(x, **settings)

    path = tmp_path / "checkpoint"
    step = room._Run.train_batch

    def interrupted(self, rows):
        if self.step == 117:
            raise interruption
        step(self, rows)

    monkeypatch.setattr(room._Run, "train_batch", interrupted)
    with pytest.raises(interruption):
        train(x, checkpoint=path, **settings)
    monkeypatch.undo()
    assert path.exists()
    resumed = train(x, checkpoint=path, **settings)
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(tensor, resumed.tensors[name], err_msg=name)
    assert resumed.report.mse == whole.report.mse
    assert not path.exists()


def test_checkpoint_of_other_settings_is_refused(learn, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    monkeypatch.setattr(room.os, "remove", lambda path: None)  # a finished run's checkpoint stays
    train(learn[:3000], epochs=8, batch_size=128, checkpoint=path)
    with pytest.raises(RuntimeError, match="other data or settings"):
        train(learn[:3000], epochs=8, batch_size=128, lr=1e-4, checkpoint=path)


def test_time_budget_ends_training(learn):
    report = train(learn[:3000], epochs=10**6, max_seconds=2).report
    assert report.vectors_seen > 0
    assert report.seconds >= 2


def test_patience_ends_training(learn):
    report = train(learn[:2000], epochs=10**6, lr=0.0, muon_lr=0.0, patience=2).report
    assert len(report.history) == 3  # the start, which stays the best, and two more


def test_unused_codewords_are_reseeded(learn):
    run = room._Run(learn[:3000], 3, 64, TINY, training(), None, None)
    step = run.model.steps[0]
    before = step.codebook.detach().clone()
    run.used += 10
    run.used[0, 5] = 0
    run.reseed()
    changed = (step.codebook != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == [5]
    run.bar.close()


def test_divergence_is_an_error(learn):
    with pytest.raises(RuntimeError, match="diverged"):
        train(learn[:3000], lr=1e30)


def test_too_few_vectors(learn):
    with pytest.raises(RuntimeError, match="too few"):
        train(learn[:60])


def test_constant_vectors_do_not_break_training():
    x = np.ones((500, 16), np.float32)
    codec = train(x, epochs=1)
    assert np.isfinite(codec.decode(codec.encode(x))).all()


@pytest.mark.parametrize(
    "wrong",
    [{"L": -1}, {"B": 0}, {"A": 1.5}, {"d_e": 0}, {"qinco1": True, "d_e": 8}, {"train_A": 0}],
    ids=str,
)
def test_config_refuses(wrong):
    with pytest.raises(ValueError):
        fq.QINCoConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"max_seconds": -1}, {"warmup": 1.0}, {"noise": -1}], ids=str
)
def test_training_config_refuses(wrong):
    with pytest.raises(ValueError):
        fq.TrainingConfig(**wrong)
