"""The command `faiss-qinco`."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

import faiss_qinco
from faiss_qinco import demo
from faiss_qinco.cli import main


@pytest.mark.parametrize("argv", [["--help"], ["demo", "--help"], ["info", "--help"]])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(argv)
    assert error.value.code == 0
    assert "usage: faiss-qinco" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [[], ["nonsense"], ["demo", "--seconds", "0"], ["demo", "--threads", "-1"], ["info", "more"]],
)
def test_wrong_arguments(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(argv)
    assert error.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_info_does_not_import_torch() -> None:
    code = "import sys, faiss_qinco.cli as c; c.main(['info']); sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for word in (faiss_qinco.__version__, faiss.__version__, faiss_qinco.simd_level(), "threads"):
        assert word in run.stdout


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "load", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_unwritable_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["demo", "--out", str(tmp_path / "file")]) == 1
    assert "faiss-qinco: error:" in capsys.readouterr().err


def test_demo_data() -> None:
    learn, base, query, groundtruth = demo.load()
    assert (len(learn), len(base), len(query)) == (10_517, 9_377, 500)
    distance, _ = faiss.knn(query, base, 1)
    truth = np.square(query - base[groundtruth[:, 0]]).sum(axis=1)
    np.testing.assert_allclose(distance[:, 0], truth, rtol=1e-5)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The demo on a tenth of its vectors; what it sets outside is set back."""
    threads = faiss.omp_get_max_threads(), torch.get_num_threads()
    learn, base, query, _ = demo.load()
    learn, base, query = learn[::10], base[::10], query[::10]
    groundtruth = faiss.knn(query, base, 1)[1]
    monkeypatch.setattr(demo, "load", lambda: (learn, base, query, groundtruth))
    monkeypatch.setattr(demo, "NLIST", 8)
    monkeypatch.setattr(demo, "NPROBE", 4)
    yield
    faiss.omp_set_num_threads(threads[0])
    torch.set_num_threads(threads[1])
    faiss_qinco.set_num_threads(None)


@pytest.mark.usefixtures("small")
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = pytest.importorskip("matplotlib") and tmp_path / "new" / "faiss_qinco_demo.png"
    options = ["--train", "--seconds", "3", "--threads", "1", "--out", str(tmp_path / "new")]
    assert main(["demo", *options]) == 0
    captured = capsys.readouterr()
    for word in ("IVF8,PQ8x8", "IVF8,RQ8x8", "IVF8,QINCo8x8", "R@1", "QPS", "MSE", str(plot)):
        assert word in captured.out
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "k-means" in captured.err


@pytest.mark.usefixtures("small")
@pytest.mark.skipif(not demo.CODEC.exists(), reason="no trained codec is here")
def test_demo_with_the_codec_of_the_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--threads", "1", "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert demo.TRAINED_BEFORE in captured.out and "k-means" not in captured.err
