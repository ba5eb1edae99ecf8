"""Operating points: which is chosen, and what a forged header may not bring in."""

from __future__ import annotations

import copy
import json
import math

import pytest

from faiss_qinco.operating_points import OperatingPoint, choose, from_json, to_json

pytestmark = pytest.mark.fast

POINTS = [
    OperatingPoint("fast", {"nprobe": 1, "nshort": 0}, {1: 0.2, 10: 0.5}, 1e-4),
    OperatingPoint("slow", {"nprobe": 8, "exit_margin": math.inf}, {1: 0.46, 10: 0.9}, 3e-3),
    OperatingPoint("middle", {"nprobe": 8, "nshort": 50}, {1: 0.46, 10: 0.8}, 2e-3, 2, "one CPU"),
]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("r@1>=.45", "middle"),  # the faster of two
        ("r@10 >= 0.85", "slow"),
        ("r@1>=.1", "fast"),
        ("latency<=2ms", "middle"),
        ("latency <= 1s", "middle"),  # of equal recall the faster
        ("latency<=100us", "fast"),
        ("slow", "slow"),
    ],
)
def test_chooses(wanted, name):
    assert choose(POINTS, wanted).name == name


@pytest.mark.parametrize(
    "wanted", ["r@1>=.9", "r@5>=.1", "latency<=1us", "other", "", "r@1>=1.2.3", "latency<=2"]
)
def test_says_what_there_is_where_none_is_meant(wanted):
    with pytest.raises(ValueError, match=r"fast: r@1 0\.200.*middle"):
        choose(POINTS, wanted)
    with pytest.raises(ValueError, match="see tune"):
        choose([], wanted)


def test_a_header_keeps_them():
    read = from_json(json.loads(json.dumps(to_json(POINTS), allow_nan=False)))
    assert read == POINTS and [p.machine for p in read] == ["", "", "one CPU"]
    assert from_json(None) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", ""), ("name", 3), ("name", "r@1>=.5"), ("name", "slow"), ("name", "x" * 201),
        ("parameters", {"nprobe": 0}), ("parameters", {"nprobe": 1.5}),
        ("parameters", {"nprobe": True}), ("parameters", {"nprobe": 1 << 63}),
        ("parameters", {"nprobe": "inf"}), ("parameters", {"exit_margin": -1}),
        ("parameters", {"exit_margin": math.nan}), ("parameters", {"__class__": 1}),
        ("parameters", []), ("recall", {}), ("recall", {"0": 0.5}), ("recall", {"1": 1.5}),
        ("recall", {"1": math.nan}), ("recall", {"x": 0.5}), ("recall", [0.5]),
        ("seconds", 0), ("seconds", math.inf), ("seconds", math.nan), ("seconds", "1"),
        ("seconds", 10**400), ("parameters", {"exit_margin": 10**400}),
        ("n_threads", 0), ("machine", None), ("more", 1),
    ],
)  # fmt: skip
def test_a_forged_header_is_refused(key, value):
    content = copy.deepcopy(to_json(POINTS))
    content[0][key] = value
    with pytest.raises(ValueError, match="operating point"):
        from_json(content)


@pytest.mark.parametrize("content", [{}, "points", 3, [None], [[]], [{}]])
def test_what_is_no_list_of_points_is_refused(content):
    with pytest.raises(ValueError, match="operating point"):
        from_json(content)
