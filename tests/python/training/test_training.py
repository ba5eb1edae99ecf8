from __future__ import annotations

import dataclasses
import subprocess
import sys
import tracemalloc
import warnings

import faiss
import numpy as np
import pytest
import torch

import faiss_qinco as fq
from faiss_qinco.coarse import Quantizer
from faiss_qinco.progress import Bar
from faiss_qinco.training import Budget, TrainingSet, distill, remove_checkpoint, start, train_codec
from faiss_qinco.training import loop as room
from faiss_qinco.training.descent import Descent
from faiss_qinco.training.start import residual_codebooks, rq_errors

from ..conftest import TINY, training
from ..one_device import OneDevice


def train(x, config=TINY, M=3, nbits=6, **kwargs):
    return train_codec(x, M, nbits, config, training(**kwargs))


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


def new_run(x, config=TINY, M=3, nbits=6, device="cpu", **kwargs):
    settings = training(device=device, **kwargs)
    data = TrainingSet(x, x.shape[1])
    return room.Run(data, M, nbits, config, settings, None, 1, Budget(), device)


@pytest.mark.parametrize("config", [TINY, dataclasses.replace(TINY, d_e=48, train_A=None, A=0)])
def test_training_stays_on_its_device(learn, config):
    run = new_run(learn[:2000], config, device="cpu:0", bf16=False)  # autocast knows no meta device
    run.model.to("meta")
    run.device = "meta"
    run.descent = Descent(run.model, run.training, "meta", run.dtype, len(run.model.steps) * [1.0])
    x, _ = run.batch(np.arange(64))
    with OneDevice():
        codes = run.encoder(training=True)(x, None)
        run.mixed(x, None)
        torch.autograd.backward(run.descent.loss(x, codes))
        run.descent.optimizers[1].step()  # Muon's; AdamW's is torch's
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
    monkeypatch.setattr(room, "OVERFIT", 0.0)  # mixed from the first validation on
    whole = train(x, **settings)

    path = tmp_path / "checkpoint"
    step = room.Run.train_batch

    def interrupted(self, rows, t):
        if self.step == 117:
            raise interruption
        step(self, rows, t)

    with monkeypatch.context() as patch, pytest.raises(interruption):
        patch.setattr(room.Run, "train_batch", interrupted)
        train(x, checkpoint=path, **settings)
    assert path.exists()
    resumed = train(x, checkpoint=path, **settings)
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(tensor, resumed.tensors[name], err_msg=name)
    assert resumed.report.mse == whole.report.mse

    # What follows the codec may fail as well: it is not trained again.
    monkeypatch.setattr(room.Run, "train_batch", None)
    again = train(x, checkpoint=path, **settings)
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(tensor, again.tensors[name], err_msg=name)
    assert dataclasses.asdict(again.report) == dataclasses.asdict(resumed.report)
    remove_checkpoint(training(checkpoint=path))
    remove_checkpoint(training(checkpoint=path))  # nothing there
    assert not path.exists()


@pytest.mark.parametrize("ivf", [False, True])
def test_vectors_are_mixed_where_they_are_learnt_by_heart(learn, ivf):
    x = learn[:1500]
    centroids, list_no = (None, None)
    if ivf:
        centroids, list_no = learn[2000:2016], np.arange(1500) % 16

    def error(mixing, x=x, list_no=list_no):
        settings = training(epochs=40, batch_size=128, n_validation=300, mixing=mixing)
        return train_codec(x, 2, 6, TINY, settings, centroids, list_no).report.mse

    assert error(0.2) < 0.99 * error(0)
    run = new_run(x, TINY, n_validation=300)
    run.model.base.data = torch.randn(16, 128)
    given, lists = torch.randn(400, 128), torch.arange(400) % 16 if ivf else None
    base = run.model.base[lists] if ivf else 0
    mixed = run.mixed(given, lists)
    assert (mixed - given).square().sum(1).gt(0.1).any()
    lengths = [(v - base).square().mean() for v in (mixed, given)]
    torch.testing.assert_close(*lengths, rtol=0.05, atol=0)


def test_checkpoint_of_something_else_is_refused(learn, tmp_path):
    path = tmp_path / "checkpoint"
    x, rng = learn[:2000], np.random.default_rng(0)
    centroids, list_no = learn[2000:2016], rng.integers(0, 16, 2000)

    def train(x=x, M=2, nbits=6, centroids=centroids, metric=1, config=TINY, **kwargs):
        settings = training(epochs=1, checkpoint=path, **kwargs)
        return train_codec(x, M, nbits, config, settings, centroids, list_no, metric=metric)

    codec = train()
    assert train(patience=7).report.mse == codec.report.mse  # is free to change
    other = x.copy()
    other[:1000] = other[:1000][::-1]
    for change in (
        {"lr": 1e-4}, {"x": other}, {"x": x + 1}, {"M": 3}, {"nbits": 5}, {"metric": 0},
        {"centroids": centroids + 1}, {"centroids": centroids[::-1]}, {"seed": 1},
        {"config": dataclasses.replace(TINY, d_h=16)},
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="other data or settings"):
            train(**change)


def test_damaged_checkpoint(learn, tmp_path):
    path = tmp_path / "checkpoint"
    train(learn[:500], epochs=1, checkpoint=path)
    content = path.read_bytes()
    for damaged in (content[:-9], content[:99], b"no checkpoint" * 99, b""):
        path.write_bytes(damaged)
        with pytest.raises(RuntimeError, match="checkpoint: "):
            train(learn[:500], epochs=1, checkpoint=path)
        assert path.read_bytes() == damaged


def test_checkpoint_that_cannot_be_written_fails_at_once(learn, tmp_path, monkeypatch):
    monkeypatch.setattr(room.Run, "begin", None)
    for path, error in (
        (tmp_path / "missing" / "checkpoint", OSError),
        ("/proc/checkpoint", OSError),
        (tmp_path, ValueError),
    ):
        with pytest.raises(error):
            train(learn[:500], checkpoint=path)


def test_time_budget_ends_training(learn):
    report = train(learn[:3000], epochs=10**6, max_seconds=2).report
    assert 0 < report.vectors_seen < 10**6


def test_time_is_left_for_what_follows(learn):
    run = new_run(learn[:2000], max_seconds=100)
    assert run.seconds_later() == 0.0
    run.budget, run.each = Budget(100), (0.001, 0.01)
    for n_later, student, expected in (
        (0, None, 0), (10, None, 10), (1250, None, 20), (10**6, None, 30), (10, True, 30),
    ):  # fmt: skip
        run.n_later, run.training = n_later, training(student=student)
        assert run.seconds_later() == pytest.approx(expected, rel=0.01)
    assert new_run(learn[:2000]).seconds_later() == 0.0


def test_patience_ends_training(learn):
    report = train(learn[:2000], epochs=10**6, lr=0.0, muon_lr=0.0, patience=2).report
    assert len(report.history) == 3  # the start, which stays the best, and two more


def test_unused_codewords_are_reseeded(learn):
    run = new_run(learn[:3000])
    run.start_from_rq()
    step = run.model.steps[0]
    before = step.codebook.detach().clone()
    run.descent.used += 10
    run.descent.used[0, 5] = 0
    run.descent.reseed(np.random.default_rng(0))
    changed = (step.codebook != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == [5]


def test_divergence_is_an_error(learn):
    with pytest.raises(RuntimeError, match="diverged"):
        train(learn[:3000], lr=1e30)


def test_too_few_vectors(learn):
    with pytest.raises(RuntimeError, match="too few"):
        train(learn[:63])


SMALL = {"config": "XS", "M": 4, "nbits": 6}


@pytest.fixture(scope="module")
def small(learn):
    return np.ascontiguousarray(learn[:1500, :16])


def relative_error(codec, x):
    error = np.square((codec.decode(codec.encode(x)) - x).astype(np.float64)).sum()
    return error / np.square((x - x.mean(0)).astype(np.float64)).sum()


def test_one_vector_far_away_does_not_spoil_the_others(small):
    clean = relative_error(train(small, **SMALL), small)
    for value in (1e5, 1e15):
        x = small.copy()
        x[7] = value
        assert relative_error(train(x, **SMALL), small) < 1.1 * clean


def test_any_scale_trains_as_well(small):
    error = relative_error(train(small, **SMALL), small)
    for scale in (1e-15, 1e-12, 1e12, 1e15):
        x = small * np.float32(scale)
        np.testing.assert_allclose(relative_error(train(x, **SMALL), x), error, rtol=0.05)


def test_tight_clusters_train_as_well(learn):
    """Centroids a thousand times as far apart as the vectors of a list."""
    x = np.ascontiguousarray(learn[:4000, :16])
    centroids, list_no = x[:8], np.square(x[:, None] - x[:8]).sum(2).argmin(1)
    far = 1000 * centroids
    x = x - centroids[list_no] + far[list_no]
    report = train_codec(x, 4, 6, "XS", training(epochs=8), far, list_no).report
    assert report.mse < 0.9 * report.rq_mse
    assert report.history[-1][2] < report.history[0][2]


def test_few_distinct_vectors():
    rng = np.random.default_rng(0)
    three = np.repeat(rng.normal(size=(3, 16)), 200, axis=0)
    for x, bound in (
        (np.zeros((500, 9)), 0.0), (np.ones((500, 16)), 0.0), (np.full((500, 16), 1e-12), 0.0),
        (three, 0.01), (np.eye(16)[rng.integers(0, 16, 600)], 0.01),
    ):  # fmt: skip
        x = x.astype(np.float32)
        codec = train(x, epochs=1)
        assert np.square(codec.decode(codec.encode(x)) - x).sum(1).mean() <= bound


@pytest.mark.parametrize("nbits", [4, 6])
def test_as_many_vectors_as_codewords(small, nbits):
    x = small[: 1 << nbits].copy()
    codec = train(x, M=2, nbits=nbits)
    assert relative_error(codec, x) < 0.1
    x[3] = 1e9  # one less to train on
    assert np.isfinite(train(x, M=2, nbits=nbits).report.mse)
    with pytest.raises(RuntimeError, match="too few"):
        train(x[1:], M=2, nbits=nbits)


def test_the_start_is_that_of_faiss(learn):
    x = (learn - learn.mean(0)) / learn.std()
    rq = faiss.ResidualQuantizer(128, 3, 6)
    rq.train_type = rq.Train_default
    rq.train(x[:3000])
    rng = np.random.default_rng(0)
    codebooks, n = residual_codebooks(x[:3000], 3, 6, rng, Budget(), Bar())
    expected = faiss.vector_to_array(rq.codebooks).reshape(codebooks.shape)
    assert n == 3000
    assert np.abs(codebooks - expected).max() < 0.1 * expected.std()  # a little noise
    found = np.square(x[3000:] - rq.decode(rq.compute_codes(x[3000:]))).sum(1)
    np.testing.assert_allclose(rq_errors(expected, x[3000:]), found, rtol=1e-5)


def test_a_start_that_is_cut_short_sees_all_parts_of_a_file(learn, monkeypatch):
    x = np.concatenate((learn[:1000], learn[1000:2000] + 1000))[:, :16]  # two kinds in a row
    monkeypatch.setattr(start, "affordable", lambda x, M, K, budget: (300, 5, 2))
    run = new_run(np.ascontiguousarray(x), M=2, nbits=5)
    run.start_from_rq()
    of_each_kind = np.bincount(run.model.base.detach().numpy().mean(1) > 0, minlength=2)
    assert run.start_rows == 300 and of_each_kind.min() >= 8


def test_what_is_held_does_not_grow_with_the_file(tmp_path, monkeypatch):
    """Of a mapped file, however large: what an object of it holds for each row, blocks, samples."""
    n, d = 120_000, 256
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (n, d))
    x[:] = np.random.default_rng(0).integers(0, 200, (n, d), np.uint8)
    monkeypatch.setattr("faiss_qinco.training.data.BLOCK", 1 << 18)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    Quantizer(faiss.IndexFlatL2(d), d, 8, 1).train(TrainingSet(mapped[:1000], d))  # imports
    tracemalloc.start()
    try:
        data = TrainingSet(mapped, d)
        quantizer = Quantizer(faiss.IndexFlatL2(d), d, 8, 1)
        centroids = quantizer.train(data)
        data.list_no = quantizer.assign_training(data, centroids)
        settings = training(max_points=None, n_validation=64)
        run = room.Run(data, 2, 4, TINY, settings, centroids, 1, Budget(), "cpu")
        run.begin()
        run.train_batch(run.rows[:64], 0.5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.3 * 4 * n * d  # in float32


def test_a_short_time_has_gradient_steps(learn):
    x = np.tile(learn, (4, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how good it is depends on the machine
        report = train(x, "XS", M=4, nbits=8, max_seconds=2, epochs=60).report
    assert report.vectors_seen > 0
    assert report.mse < np.square(x - x.mean(0)).sum(1).mean()


def test_a_codec_no_better_than_its_start_is_a_warning(learn):
    with pytest.warns(RuntimeWarning, match="not below that of residual quantization"):
        train(learn[:1000], lr=0.0, muon_lr=0.0)


def test_a_start_without_time_is_a_warning(learn, monkeypatch):
    monkeypatch.setattr(room, "START_SHARE", 0.0)
    with pytest.warns(RuntimeWarning, match="had time for [0-9]+ of 2700 vectors.*more time"):
        train(learn[:3000, :16], **SMALL, n_validation=300, max_seconds=600)


def test_the_callers_generators_and_threads_stay(small):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    within = []
    try:
        fq.set_num_threads(1)
        step = room.Run.train_batch

        def spying(self, rows, t):
            within.append((torch.get_num_threads(), faiss.omp_get_max_threads()))
            step(self, rows, t)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(room.Run, "train_batch", spying)
            codec = train(small, epochs=1)
        distill(codec, codec.encode(small), training=training())
    finally:
        fq.set_num_threads(None)
    assert set(within) == {(1, 1)}
    assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == threads
    np.testing.assert_array_equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])  # noqa: NPY002


FORK = """
import os, sys
import numpy as np
import faiss_qinco as fq
from faiss_qinco.training import TrainingConfig, train_codec
x = np.random.default_rng(0).standard_normal((2000, 16), dtype=np.float32)
def train():
    training = TrainingConfig(epochs=1, progress=False, max_seconds=None)
    return train_codec(x, 2, 6, "XS", training).report.mse
train()
if (child := os.fork()) == 0:
    os._exit(0 if np.isfinite(train()) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_training_after_a_fork():
    """OpenMP's threads do not survive it; libgomp waits for them for ever."""
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=200)


@pytest.mark.parametrize("stage", ["start_from_rq", "validate", "train_batch", "finish"])
def test_interrupts_leave_a_usable_checkpoint(small, tmp_path, monkeypatch, stage):
    path = tmp_path / "checkpoint"

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(room.Run, stage, interrupt)
        train(small, epochs=1, checkpoint=path)
    assert {p.name for p in tmp_path.iterdir()} <= {"checkpoint"}
    state = torch.get_num_threads()
    assert np.isfinite(train(small, epochs=1, checkpoint=path).report.mse)
    assert torch.get_num_threads() == state


@pytest.mark.parametrize(
    "wrong",
    [{"L": -1}, {"B": 0}, {"A": 1.5}, {"d_e": 0}, {"qinco1": True, "d_e": 8}, {"train_A": 0}],
    ids=str,
)
def test_config_refuses(wrong):
    with pytest.raises(ValueError):
        fq.QINCoConfig(**wrong)


def test_config_takes_numpy_integers():
    config = fq.QINCoConfig(L=np.int64(1), d_e=np.int32(8), B=np.uint8(3))
    assert config == fq.QINCoConfig(L=1, d_e=8, B=3)
    assert all(type(v) in (int, bool, type(None)) for v in config.to_dict().values())
