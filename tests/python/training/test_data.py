"""The vectors and the time of a training."""

from __future__ import annotations

import itertools
import math
import pickle
import re
import time

import numpy as np
import pytest

from faiss_qinco.storage.source import open_vectors
from faiss_qinco.training import Budget, TrainingConfig, TrainingSet, plan
from faiss_qinco.training.plan import expected_errors


@pytest.fixture
def x():
    return np.random.default_rng(0).integers(0, 200, (3000, 8)).astype(np.uint8)


def test_a_sample_is_converted_where_it_is_read(x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for given in (x, mapped, np.asfortranarray(x), x.astype(np.float16)):
        data = TrainingSet(given, 8, max_points=1000, seed=3)
        assert (len(data), data.d, data.rows.dtype, data.list_no) == (1000, 8, np.int64, None)
        assert (np.diff(data.rows) > 0).all()
        for key in (slice(10, 20), np.array([5, 3, 999]), slice(None)):
            part = data[key]
            assert part.dtype == np.float32 and part.flags.c_contiguous
            np.testing.assert_array_equal(part, x[data.rows[key]])
        assert data.sample(7, 0).shape == (7, 8)
        np.testing.assert_array_equal(data.sample(10**6, 0), data[:])
    assert np.shares_memory(TrainingSet(x, 8)._x, x)
    assert (TrainingSet(x, 8, max_points=1000, seed=4).rows != data.rows).any()


def test_several_files_stay_mapped(x, tmp_path):
    names = [str(tmp_path / f"{i}.npy") for i in range(3)]
    for name, part in zip(names, np.split(x, [900, 901]), strict=True):
        np.save(name, part)
    rows = open_vectors(names)
    assert (rows.shape, rows.dtype, len(rows)) == ((3000, 8), np.uint8, 3000)
    for key in (slice(None), slice(898, 903), np.array([2999, 0, 900, 899, 901])):
        np.testing.assert_array_equal(rows[key], x[key])
    for settings in ({}, {"max_points": 1000, "seed": 3}):
        data, expected = TrainingSet(rows, 8, **settings), TrainingSet(x, 8, **settings)
        assert data.fingerprint() == expected.fingerprint()
        np.testing.assert_array_equal(data[:], expected[:])


def test_what_is_not_used_is_not_looked_at(x):
    x = x.astype(np.float32)
    rows = TrainingSet(x, 8, max_points=1000).rows
    unused = np.setdiff1d(np.arange(3000), rows)
    x[unused] = np.nan
    assert len(TrainingSet(x, 8, max_points=1000)) == 1000
    for value, message in ((np.nan, "NaN"), (-np.inf, "inf"), (1e19, "overflows")):
        x[rows[700]] = value
        with pytest.raises(RuntimeError, match=f"training vector {rows[700]} .*{message}"):
            TrainingSet(x, 8, max_points=1000)


def test_shapes_and_dtypes_that_do_not_fit(x):
    for wrong, error in (
        (x.tolist(), AttributeError), (x[0], ValueError), (x[:, :7], AssertionError),
        (x.astype(complex), TypeError), (x.astype(object), TypeError),
    ):  # fmt: skip
        with pytest.raises(error):
            TrainingSet(wrong, 8)


def test_fingerprints(x):
    known = TrainingSet(x, 8).fingerprint()
    assert TrainingSet(x.copy(), 8).fingerprint() == known
    other = x.copy()
    other[[0, 2999]] = other[[2999, 0]]
    for changed in (other, x[::-1], x[:-1], x + 1, np.roll(x, 1, axis=1)):
        assert TrainingSet(changed, 8).fingerprint() != known


def test_rows_far_from_all_others_are_left_out(x):
    rng = np.random.default_rng(1)
    for value in (1e5, 1e6, -1e15, 1e18):
        spoilt = x.astype(np.float32)
        spoilt[[7, 2000]] = value
        data = TrainingSet(spoilt, 8)
        assert data.left_out.tolist() == [7, 2000]
        assert len(data) == 2998 and not np.isin([7, 2000], data.rows).any()
        np.testing.assert_allclose(data.normalisation()[1], TrainingSet(x, 8).normalisation()[1],
                                   rtol=0.01)  # fmt: skip
    heavy_tailed = rng.normal(size=(20_000, 8)) * np.exp(rng.normal(size=(20_000, 1)))
    assert len(TrainingSet(heavy_tailed, 8).left_out) < 10
    few = np.zeros((1000, 8))
    few[::50] = 1  # rare, but not far
    for ordinary in (few, np.zeros((3, 8)), np.eye(8), np.empty((0, 8))):
        assert len(TrainingSet(ordinary, 8).left_out) == 0


@pytest.mark.parametrize("scale", [1e-15, 1e-12, 1.0, 1e12, 1e15])
def test_normalisation_at_any_scale(scale):
    x = (np.random.default_rng(0).normal(3, 2, (5000, 8)) * scale).astype(np.float32)
    mean, std = TrainingSet(x, 8).normalisation()
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, np.sqrt(exact.var(0).mean()), rtol=1e-5)
    mean, std = TrainingSet(np.full((9, 8), 0.1 * scale, np.float32), 8).normalisation()
    assert (mean == np.float32(0.1 * scale)).all() and std == 1.0


def test_a_budget(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    budget, free = Budget(10), Budget(None)
    now[0] += 4
    assert (budget.spent, budget.left(), free.left()) == (4, 6, math.inf)
    assert free.share(0.1).left() == math.inf
    part = budget.share(0.5)
    assert part.left() == 3
    assert part.position(0.7) == 0.7  # as far as what is done, with time enough
    now[0] += 2
    assert 0.6 < part.position(0.1) < 2 / 3  # else by the clock
    now[0] += 2
    assert (part.left(), part.position(0.1), budget.left()) == (0, 1, 2)
    assert part.share(0.5).position(0.0) == 1
    budget.charge(1)
    assert (budget.spent, budget.left()) == (9, 1)


def test_seconds_by_the_number_of_vectors():
    auto = TrainingConfig()
    assert [auto.seconds(n) for n in (0, 10_000, 100_000, 10**9)] == [10, 60, 600, 600]
    assert TrainingConfig(max_seconds=7).seconds(10**9) == 7
    assert TrainingConfig(max_seconds=None).seconds(10) is None


def test_a_plan_says_what_is_asked_for():
    short = plan(128, 100_000, 8, 8, 1024, "S", TrainingConfig(max_points=50_000))
    text = str(short)
    for part in ("size S", "50,000 vectors of 100,000", "at most 5 minutes", "MB", "of 60 epochs",
                 "twice the time", "ten times the vectors"):  # fmt: skip
        assert part in text
    assert 0 < short.affordable_epochs < 60
    assert "all 2 epochs" in str(plan(16, 2000, 4, 8, None, "XS", TrainingConfig(epochs=2)))
    larger = plan(128, 100_000, 16, 8, 1024, "S", TrainingConfig())
    assert larger.memory > short.memory and larger.epoch_seconds > short.epoch_seconds


def test_what_more_would_give():
    """Rough by nature: more never hurts, what is repeated counts for less, nothing is free."""
    assert abs(expected_errors(595_968, 300_000, 256)[0] - 0.540) < 0.01
    assert all(
        abs(expected_errors(seen, 30_000, 256)[1] - measured) < 0.01
        for seen, measured in ((112_640, 0.884), (281_600, 0.838), (1_126_400, 0.789))
    )
    for n in (1, 1000, 10**6, 10**9):
        errors = np.array([expected_errors(n * epochs, n, 256) for epochs in (0, 1, 9, 99, 999)])
        assert (np.diff(errors, axis=0) < 0).all() and (errors[0] == 1).all() and errors.min() > 0.3
        assert (np.array(expected_errors(9 * n, n, 4096)) > errors[2]).all()  # more codewords
        assert (np.array(expected_errors(9 * n, 10 * n, 256)) < errors[2]).all()  # more vectors


@pytest.mark.parametrize("seconds", ["auto", 5, 10**6, None])
def test_plans_of_any_size(seconds):
    training = TrainingConfig(max_seconds=seconds, device="cpu")
    for d, M, n, nbits in itertools.product((1, 16, 384, 4096), (1, 8, 64), (300, 10**8), (4, 8)):
        found = plan(d, n, M, nbits, None if d == 16 else 1000, "auto", training)
        now, *more = found.errors.values()
        assert len(more) == 2 and all(0.3 < e <= 1 for e in now)
        assert all(b <= a for errors in more for a, b in zip(now, errors, strict=True))
        assert 0 < found.affordable_epochs <= 60 and 0 < found.memory < 1e11
        assert not re.search(r"inf|nan|e[+-]\d", str(found)), str(found)
    assert not plan(128, 1000, 8, 8, None, "auto", TrainingConfig(device="cuda")).errors


def test_through_a_transform(monkeypatch):
    """Row by row as by hand, in parts too; what becomes far or no number counts afterwards."""
    x = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float64)
    x[3, 0] = 12.0  # the exponential of it is far from all others
    monkeypatch.setattr("faiss_qinco.training.data.BLOCK", 60)
    data = TrainingSet(x, 6, max_points=400, seed=1)

    def transform(rows):
        assert rows.dtype == np.float32 and len(rows) <= 10
        return np.exp(rows[:, :2])

    made = data.through(transform, 2)
    assert made.d == 2 and made[:].dtype == np.float32 and data.d == 6
    assert 3 in data.rows and 3 in made.left_out and 3 not in made.rows
    np.testing.assert_array_equal(made[:], np.exp(x[made.rows, :2].astype(np.float32)))
    part = made.subset(np.array([5, 80]))
    np.testing.assert_array_equal(part[:], made[np.array([5, 80])])
    np.testing.assert_array_equal(np.concatenate([made[b] for b in made.blocks()]), made[:])
    with pytest.raises(RuntimeError, match=f"training vector {data.rows[0]} contains NaN"):
        data.through(lambda rows: rows * np.nan, 6)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"epochs": 0}, ValueError), ({"epochs": 2.0}, ValueError), ({"seed": -1}, ValueError),
     ({"max_seconds": -1}, ValueError), ({"max_seconds": 0}, ValueError),
     ({"max_seconds": math.nan}, ValueError), ({"max_seconds": "5"}, TypeError),
     ({"warmup": 1.0}, ValueError), ({"mixing": -1}, ValueError), ({"lr": -1.0}, ValueError),
     ({"lr": math.nan}, ValueError), ({"muon_lr": math.inf}, ValueError),
     ({"lr": True}, TypeError), ({"weight_decay": -0.1}, ValueError),
     ({"clip_value": -1}, ValueError), ({"clip_value": 0}, ValueError),
     ({"device": 0}, TypeError), ({"checkpoint": 3}, TypeError), ({"log": 3}, TypeError),
     ({"progress": "no"}, TypeError),
     ({"student": 1}, TypeError), ({"bf16": "yes"}, TypeError), ({"patience": 0}, ValueError)],
    ids=str,
)  # fmt: skip
def test_training_config_refuses(wrong, error):
    with pytest.raises(error, match=next(iter(wrong))):
        TrainingConfig(**wrong)


def test_numpy_numbers_are_numbers():
    config = TrainingConfig(
        epochs=np.int64(3), seed=np.uint8(1), lr=np.float32(0.5), max_seconds=np.int32(4),
        progress=np.bool_(False),
    )  # fmt: skip
    assert config == TrainingConfig(epochs=3, seed=1, lr=0.5, max_seconds=4, progress=False)
    assert pickle.loads(pickle.dumps(config)) == config
