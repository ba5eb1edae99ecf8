from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import faiss_qinco as fq
from faiss_qinco.codec import training as room

from ..conftest import TINY, training
from .one_device import OneDevice


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


def test_report_has_the_error_of_the_encoders_beam(learn):
    x = learn[:3000]
    config = dataclasses.replace(TINY, A=4, B=8, train_A=1, train_B=1)
    codec = train(x, config, epochs=1, n_validation=300)
    report = codec.report
    assert report.mse < 0.99 * min(mse for _, _, mse in report.history)
    held_out = x[np.random.default_rng(0).permutation(len(x))[:300]]
    error = np.square(codec.decode(codec.encode(held_out)) - held_out).sum(1).mean()
    np.testing.assert_allclose(report.mse, error, rtol=1e-4)


def test_same_seed_same_codec(learn):
    x = learn[:3000]
    a, b = train(x, epochs=1), train(x, epochs=1)
    other = train(x, epochs=1, seed=1)
    for name, tensor in a.tensors.items():
        np.testing.assert_array_equal(tensor, b.tensors[name])
    assert any((t != other.tensors[k]).any() for k, t in a.tensors.items())


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_training_in_torch_alone_gets_as_far(learn, bf16):
    """What a GPU runs, here on CPU tensors."""
    settings = {"epochs": 3, "batch_size": 128}
    expected = train(learn, **settings).report
    report = train(learn, device="cpu:0", bf16=bf16, **settings).report
    np.testing.assert_allclose(report.mse, expected.mse, rtol=0.01)
    assert report.mse < 0.97 * report.history[0][2]


@pytest.mark.parametrize("config", [TINY, dataclasses.replace(TINY, d_e=48, train_A=None, A=0)])
def test_training_stays_on_its_device(learn, config):
    run = room._Run(learn[:2000], 3, 64, config, training(device="cpu:0"), None, None)
    run.bar.close()
    run.model.to("meta")
    run.device = "meta"
    run.optimizers = room.make_optimizers(run.model, run.training, run.dtype)
    x, _ = run.batch(np.arange(64))
    with OneDevice():
        codes = run.encoder(run.beam)(x, None)
        torch.autograd.backward(run.loss(x, codes))
        run.optimizers[1].step()  # Muon's; AdamW's is torch's
    assert x.is_meta and codes.is_meta
    assert all(p.grad.is_meta for p in run.model.parameters())


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there(learn, device):
    with pytest.raises(RuntimeError, match="torch cannot use"):
        train(learn[:3000], device=device)


@pytest.mark.parametrize(
    ("interruption", "device"),
    [(KeyboardInterrupt, "cpu"), (OSError, "cpu"), (KeyboardInterrupt, "cpu:0")],
)
def test_resume_is_exact(learn, tmp_path, monkeypatch, interruption, device):
    x = learn[:3000]
    # 176 batches, validated every 50
    settings = {"epochs": 8, "batch_size": 128, "noise": 0.1, "device": device}
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
