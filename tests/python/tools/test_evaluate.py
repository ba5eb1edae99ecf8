"""What evaluation computes, on data made by hand."""

import json
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from faiss_qinco.tools.evaluate import (
    Point,
    Result,
    fastest_with,
    format_table,
    measure,
    mse,
    overlap_at,
    pareto_front,
    queries_per_second,
    recall_at,
    write_json,
)
from faiss_qinco.tools.plots import plot_pareto, plot_recall


def test_recall_counts_the_nearest_neighbour_only() -> None:
    found = np.array([[5, 1, 2], [1, 5, 2], [2, 1, 5], [2, 1, 0]])
    groundtruth = np.full((4, 2), (5, 1))  # that 1 is the second nearest does not count
    assert recall_at(found, groundtruth, (1, 2, 3)) == {1: 0.25, 2: 0.5, 3: 0.75}


def test_recall_counts_an_id_once() -> None:
    found = np.array([[5, 5, 5], [1, 5, 5]])
    assert recall_at(found, np.array([[5], [5]]), (1, 3)) == {1: 0.5, 3: 1.0}


def test_recall_of_padding_is_nothing() -> None:
    found = np.array([[3, -1], [-1, -1]])
    assert recall_at(found, np.array([[3], [4]]), (1, 2)) == {1: 0.5, 2: 0.5}
    assert recall_at(found, np.array([[-1], [-1]]), (2,)) == {2: 0.0}


@pytest.mark.parametrize(
    ("found", "groundtruth", "ranks"),
    [
        (np.zeros((2, 3)), np.zeros((3, 1)), (1,)),
        (np.zeros(3), np.zeros((3, 1)), (1,)),
        (np.zeros((3, 3)), np.zeros(3), (1,)),
        (np.zeros((0, 3)), np.zeros((0, 1)), (1,)),
        (np.zeros((3, 3)), np.zeros((3, 1)), (4,)),
        (np.zeros((3, 3)), np.zeros((3, 1)), (0,)),
    ],
)
def test_recall_refuses(found: np.ndarray, groundtruth: np.ndarray, ranks: tuple[int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        recall_at(found, groundtruth, ranks)


@pytest.mark.parametrize("sample", [100_000, 20_000, 5_000, 1])
def test_mse(sample: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (23_456, 4), np.uint8)
    flat = faiss.IndexFlatL2(4)
    flat.add(x.astype(np.float32) + 2)
    assert mse(flat, x, sample) == 16.0
    with pytest.raises(ValueError, match="at least one"):
        mse(flat, x[:0])


def test_mse_compares_no_more_than_the_sample() -> None:
    rows: list[int] = []

    class Recorder:
        def reconstruct_n(self, n0: int, ni: int) -> np.ndarray:
            rows.extend(range(n0, n0 + ni))
            return np.zeros((ni, 1), np.float32)

    x = np.arange(60_000, dtype=np.float32)[:, None]
    expected = np.square(x[:5_000], dtype=np.float64).mean()
    assert mse(Recorder(), x, 5_000) == pytest.approx(expected)
    assert rows == list(range(5_000))
    rows.clear()
    mse(Recorder(), x, 20_000)
    assert len(rows) == 20_000 == len(set(rows)) and max(rows) >= 45_000


def test_queries_per_second() -> None:
    calls = []

    def search(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append(len(queries))
        return queries, queries

    assert queries_per_second(search, np.zeros((7, 2), np.float32), repeats=5) > 0
    assert calls == [7] * 5


def results() -> list[Result]:
    recall = {1: 0.25, 10: 0.5, 100: 1.0}
    return [
        Result("RQ", 8, 12, 200.0, recall, 0.75, 10.0, 3.0),
        Result("ours", 8, 9, 150.0, recall),
    ]


def test_measure() -> None:
    x = np.random.default_rng(0).standard_normal((200, 4), np.float32)
    flat = faiss.IndexFlatL2(4)
    flat.add(x)
    result = measure(
        "flat", lambda q: flat.search(q, 100), x, np.arange(200)[:, None],
        mse=0.0, code_bytes=16, extra_bytes=4,
    )  # fmt: skip
    assert result.recall == {1: 1.0, 10: 1.0, 100: 1.0}
    assert (result.code_bytes, result.stored_bytes, result.train_seconds) == (16, 20, None)


def test_measure_without_ten_true_neighbours_or_timing() -> None:
    truth = np.arange(10)[:, None]
    found = np.broadcast_to(np.arange(100), (10, 100))
    result = measure(
        "all", lambda q: (found, found), truth, truth, mse=0.0, code_bytes=1, repeats=0
    )
    assert (result.recall[1], result.recall[10]) == (0.1, 1.0)
    assert result.overlap is None and result.qps is None


def test_overlap() -> None:
    found = np.array([[0, 1, 2], [5, 4, -1]])
    assert overlap_at(found, np.array([[1, 0, 7], [3, 4, 5]]), 2) == 0.75
    assert overlap_at(found, np.array([[1, 0, 7], [3, -1, -1]]), 3) == pytest.approx(2 / 6)
    for truth in (np.zeros((2, 1)), np.zeros((1, 3)), np.zeros(2)):
        with pytest.raises(ValueError, match="expected"):
            overlap_at(found, truth, 2)


def test_table() -> None:
    head, rule, first, second = format_table(results()).split("\n")
    assert len({len(line) for line in (head, rule, first, second)}) == 1
    assert [head.index(c, 2) for c in "|"] == [rule.index(c, 2) for c in "|"]
    assert [c.strip() for c in first.strip("|").split("|")] == (
        ["RQ", "8", "12", "200", "0.250", "0.500", "1.000", "0.750", "10", "3"]
    )
    assert [c.strip() for c in second.strip("|").split("|")][-3:] == ["-", "-", "-"]
    assert "QPS" not in format_table(results()[1:])


def points(*recall_and_qps: tuple[float, float], name: str = "ours") -> list[Point]:
    return [Point(name, {"nprobe": i}, 12, r, qps) for i, (r, qps) in enumerate(recall_and_qps)]


@pytest.mark.parametrize(
    ("curve", "front"),
    [
        ([], []),
        ([(0.5, 10)], [0]),
        ([(0.2, 30), (0.4, 20), (0.3, 20), (0.5, 5), (0.5, 10), (0.1, 30)], [0, 1, 4]),
        ([(0.5, 10), (0.5, 10), (0.4, 10)], [0]),
        ([(0.3, 1), (0.2, 2), (0.1, 3)], [2, 1, 0]),
    ],
)
def test_pareto_front(curve: list[tuple[float, float]], front: list[int]) -> None:
    assert [p.parameters["nprobe"] for p in pareto_front(points(*curve))] == front


def test_fastest_with_at_least_that_recall() -> None:
    curve = points((0.2, 30), (0.4, 20), (0.5, 25), (0.6, 5))
    assert fastest_with(curve, 0.2) is curve[0]  # equal is enough
    assert fastest_with(curve, 0.21) is curve[2]  # not the next in recall
    assert fastest_with(curve, 0.6) is curve[3]
    assert fastest_with(curve, 0.601) is None
    assert fastest_with([], 0.0) is None


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", results(), threads=2)
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["threads"] == 2 and content["results"][1]["recall"]["10"] == 0.5


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_recall({"both": results()}, tmp_path / "a.png", "title")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_plot_pareto_draws_each_front_on_a_log_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *a, **k: drawn.append(self))
    curves = points((0.2, 30), (0.3, 20), (0.1, 10)) + points((0.4, 5), name="theirs")
    plot_pareto(curves, tmp_path / "a.png", "title", rank=10)
    (axes,) = drawn[0].axes
    assert (axes.get_yscale(), axes.get_xlabel()) == ("log", "R@10")
    assert [line.get_label() for line in axes.lines] == ["ours (12 B)", "theirs (12 B)"]
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.2, 0.3], [0.4]]
    assert [len(dots.get_offsets()) for dots in axes.collections] == [3, 1]


def test_plot_pareto_writes_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_pareto(points((0.2, 30)), tmp_path / "a.png", "title")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'faiss-qinco\[plot\]'"):
        plot_recall({"both": results()}, tmp_path / "a.png", "title")
