"""The command `faiss-qinco`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco import demo
from faiss_qinco.cli import COMMANDS as COMMAND_MODULES
from faiss_qinco.cli import _parser, main
from faiss_qinco.cli import build as build_command
from faiss_qinco.storage.source import open_vectors
from faiss_qinco.storage.vectors import read_vectors, write_vectors

from .conftest import make_searchable

COMMANDS = ["demo", "train", "build", "search", "eval", "info", "inspect", "convert"]
TRAIN = ["train", "--learn", "x.fvecs", "--out", "x.fqi"]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main([*command, "--help"])
    assert error.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    usage = " ".join(["faiss-qinco", *command])
    assert f"usage: {usage}" in text and f"example: {usage} " in text + " "


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_commands(name: str) -> None:
    parsed = _parser().parse_args(COMMAND_MODULES[name][0].EXAMPLE.split()[1:])
    assert parsed.run is COMMAND_MODULES[name][0].run


@pytest.mark.parametrize(
    "argv",
    [
        [], ["nonsense"], ["demo", "--seconds", "0"], ["demo", "--threads", "-1"],
        ["info", "more", "than"], TRAIN, [*TRAIN, "IVF8,QINCo8x8", "--seconds", "nan"],
        [*TRAIN, "IVF8,QINCo8x8", "--metric", "cosine"], ["build", "--index", "x.fqi"],
        ["search", "--index", "x.fqi", "--query", "x.npy", "--out", "x.txt"],
        ["search", "--index", "x.fqi", "--query", "x.npy", "--out", "x.npy", "-k", "0"],
        ["eval", "--index", "x.fqi", "--query", "x.npy"],
        ["eval", "--index", "x.fqi", "--query", "x.npy", "--groundtruth", "x", "--base", "x"],
    ],
)  # fmt: skip
def test_wrong_arguments(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(argv)
    assert error.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_info_does_not_import_torch() -> None:
    code = "import sys, faiss_qinco.cli as c; c.main(['info']); sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for word in (fq.__version__, faiss.__version__, fq.simd_level(), "threads"):
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
    threads = faiss.omp_get_max_threads()
    learn, base, query, _ = demo.load()
    learn, base, query = learn[::10], base[::10], query[::10]
    groundtruth = faiss.knn(query, base, 1)[1]
    monkeypatch.setattr(demo, "load", lambda: (learn, base, query, groundtruth))
    monkeypatch.setattr(demo, "NLIST", 8)
    monkeypatch.setattr(demo, "NPROBE", 4)
    yield
    faiss.omp_set_num_threads(threads)
    fq.set_num_threads(None)


@pytest.mark.usefixtures("small")
def test_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(demo, "M", 2)
    plot = pytest.importorskip("matplotlib") and tmp_path / "new" / "faiss_qinco_demo.png"
    options = ["--train", "--seconds", "3", "--threads", "1", "--out", str(tmp_path / "new")]
    assert main(["demo", *options]) == 0
    captured = capsys.readouterr()
    for word in ("IVF8,PQ2x8", "IVF8,RQ2x8", "IVF8,QINCo2x8", "R@1", "QPS", "MSE", str(plot)):
        assert word in captured.out
    assert [len(line.split("  ")) > 5 for line in captured.out.splitlines()].count(True) == 7
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert captured.out.startswith("method") and "k-means" in captured.err


@pytest.mark.usefixtures("small")
@pytest.mark.skipif(not demo.CODEC.exists(), reason="no trained codec is here")
def test_demo_with_the_codec_of_the_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--threads", "1", "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert demo.TRAINED_BEFORE in captured.out and "k-means" not in captured.err


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of vector files, and of what train and build make of them."""
    folder = tmp_path_factory.mktemp("walk")
    learn, base, query, _ = demo.load()
    base, query = base[:3000], query[:100]
    write_vectors(folder / "learn.fvecs", learn[:2000])
    np.save(folder / "base_0.npy", base[:1900].astype(np.uint8))
    write_vectors(folder / "base_1.fbin", base[1900:])
    write_vectors(folder / "query.fvecs", query)
    np.save(folder / "ids.npy", 3 * np.arange(3000) + 2**32)
    write_vectors(folder / "truth.ivecs", faiss.knn(query, base, 10)[1].astype(np.int32))
    files = {name: str(folder / name) for name in ("learn.fvecs", "base_0.npy", "base_1.fbin")}
    trained, index = str(folder / "trained.fqi"), str(folder / "index.fqi")
    factory = ["IVF8,QINCo4x4_XS", "--epochs", "1", "--seed", "1"]
    if find_spec("torch"):
        assert main(["train", "--learn", files["learn.fvecs"], "--out", trained, *factory]) == 0
    else:  # the other commands do without
        model = fq.index_factory(128, factory[0])
        make_searchable(model, learn[:2000])
        fq.write_index(model, trained)
    both = [files["base_0.npy"], files["base_1.fbin"]]
    assert main(["build", "--index", trained, "--base", *both, "--out", index]) == 0
    return folder


def test_an_index_behind_transforms(walked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    for command in (
        "train --learn learn.fvecs --out pca.fqi PCA32,IVF8,qinco4x4_xs --epochs 1",
        "build --index pca.fqi --base base_0.npy base_1.fbin --out pca.fqi",
        "search --index pca.fqi --query query.fvecs --nprobe 8 --nshort 50 --out pca.npy -k 5",
        "eval --index pca.fqi --query query.fvecs --groundtruth truth.ivecs --nprobe 8 -k 10",
    ):
        assert main(arguments(walked, command)) == 0
    index = fq.read_index(walked / "pca.fqi")
    index.nprobe, index.nshort = 8, 50
    query = read_vectors(walked / "query.fvecs")
    np.testing.assert_array_equal(np.load(walked / "pca.npy"), index.search(query, 5)[1])
    capsys.readouterr()
    assert main(["info", str(walked / "pca.fqi"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["class"], found["d"], found["ntotal"]) == ("IndexPreTransform", 128, 3000)
    assert found["transforms"] == "PCAMatrix 128->32" and (found["nlist"], found["M"]) == (8, 4)
    assert found["parts"]["codes"] >= 3000 * (2 + 2) and found["parts"]["transforms"] > 4 * 128 * 32


def arguments(folder: Path, text: str) -> list[str]:
    """The words of a command; those with a dot are files in the folder."""
    return [str(folder / word) if "." in word else word for word in text.split()]


def test_build_adds_the_files_in_order(walked: Path) -> None:
    trained, index = (fq.read_index(walked / name) for name in ("trained.fqi", "index.fqi"))
    assert (trained.is_trained, trained.ntotal, index.ntotal) == (True, 0, 3000)
    trained.add(demo.load()[1][:3000])
    np.testing.assert_array_equal(trained.reconstruct_n(0, 3000), index.reconstruct_n(0, 3000))


def test_build_with_ids_and_blocks(
    walked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_command, "BLOCK", 700)
    out = ["--out", str(tmp_path / "ids.fqi")]
    build = "build --index trained.fqi --base base_0.npy base_1.fbin --ids ids.npy"
    assert main([*arguments(walked, build), *out]) == 0
    with_ids, plain = fq.read_index(tmp_path / "ids.fqi"), fq.read_index(walked / "index.fqi")
    query = demo.load()[2][:50]
    np.testing.assert_array_equal(
        with_ids.search(query, 5)[1], 2**32 + 3 * plain.search(query, 5)[1]
    )
    search = ["search", "--index", str(tmp_path / "ids.fqi")]
    ivecs = ["--query", str(walked / "query.fvecs"), "--out", str(tmp_path / "ids.ivecs")]
    assert main([*search, *ivecs]) == 1  # they need more than 32 bits
    assert not (tmp_path / "ids.ivecs").exists()


@pytest.mark.parametrize("suffix", ["npz", "npy", "ivecs", "ibin"])
def test_search(
    walked: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / f"found.{suffix}")
    search = "search --index index.fqi --query query.fvecs -k 5 --nprobe 4 --nshort 30 --json --out"
    assert main([*arguments(walked, search), out]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("queries_per_second") > 0 and printed.pop("threads") > 0
    assert printed == {"out": out, "n": 100, "k": 5, "nprobe": 4, "nshort": 30}
    index = fq.read_index(walked / "index.fqi")
    index.nprobe, index.nshort = 4, 30
    D, I = index.search(demo.load()[2][:100], 5)
    if suffix == "npz":
        np.testing.assert_array_equal(np.load(out)["D"], D)
        np.testing.assert_array_equal(np.load(out)["I"], I)
    else:
        np.testing.assert_array_equal(read_vectors(out), I)


def test_eval(walked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    files = ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    measure = "eval --index index.fqi --query query.fvecs -k 20 --nprobe 1 8 --nshort 0 50"
    truth = arguments(walked, f"{measure} --repeats 1 --single 5 --groundtruth truth.ivecs")
    assert main([*truth, *files]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    head = "nprobe nshort R@1 R@10 R@20 10@10 nDCG QPS p50 ms p99 ms"
    assert table[0] == head.split()
    assert [row[:2] for row in table[1:]] == [["1", "0"], ["1", "50"], ["8", "0"], ["8", "50"]]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    recalls = [r["recall"] for r in json.loads((tmp_path / "a.json").read_text())["results"]]
    assert recalls[3]["20"] > recalls[1]["20"]  # more lists
    # The nearest neighbours that --base finds are those of the file.
    assert main(arguments(walked, f"{measure} --repeats 1 --single 0 --mmap --base base_*.*")) == 0
    again = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert again[0] == head.replace("10@10", "20@20").removesuffix(" p50 ms p99 ms").split()
    assert [row[:5] for row in again] == [row[:5] for row in table]


def test_info_of_files(walked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = fq.read_index(walked / "index.fqi")
    index.codec.save(walked / "codec.safetensors")
    other = faiss.index_factory(8, "IVF2,Flat")
    other.train(np.eye(8, dtype=np.float32))
    other.add(np.eye(8, dtype=np.float32))
    faiss.write_index(other, str(walked / "other.faiss"))

    def info(name: str) -> dict[str, Any]:
        assert main(["info", str(walked / name), "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    found = info("index.fqi")
    assert found["bytes"] == (walked / "index.fqi").stat().st_size
    assert (found["kind"], found["class"], found["ntotal"]) == ("index", "IndexIVFQINCo", 3000)
    assert (found["metric"], found["nlist"], found["M"], found["nbits"]) == ("L2", 8, 4, 4)
    assert found["parts"]["codes"] >= 3000 * (2 + 2) and found["parts"]["codec"] > 0
    assert info("codec.safetensors")["kind"] == "codec"
    for name, n, dtype in (("learn.fvecs", 2000, "float32"), ("base_0.npy", 1900, "uint8")):
        found = info(name)
        expected = (name.split(".")[1], n, 128, dtype)
        assert (found["kind"], found["n"], found["d"], found["dtype"]) == expected
    found = info("other.faiss")
    assert (found["class"], found["d"], found["ntotal"]) == ("IndexIVFFlat", 8, 8)
    assert main(["info", str(walked / "index.fqi")]) == 0
    assert "ntotal" in capsys.readouterr().out


def test_hdf5_is_read_in_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    h5py = pytest.importorskip("h5py")
    x = np.arange(120, dtype=np.float32).reshape(30, 4)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["train"] = x
    name = f"{tmp_path / 'a.hdf5'}:train"
    read = [*open_vectors(name).blocks(7)]
    assert [len(block) for block in read] == [7, 7, 7, 7, 2]
    np.testing.assert_array_equal(np.concatenate(read), x)
    assert main(["info", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["d"], found["dtype"]) == (30, 4, "float32")


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("info none.fvecs", "no such file"),
        ("info text.txt", "nor is it an index"),
        ("info short.fqi", "truncated"),
        ("info short.fvecs", "truncated"),
        ("info short.faiss", "faiss cannot read it"),
        ("train --learn none.fvecs --out new.fqi IVF8,QINCo4x4", "no such file"),
        ("train --learn learn.fvecs --out none/new.fqi IVF8,QINCo4x4", "no such folder"),
        ("train --learn learn.fvecs --out new.fqi IVF4096,QINCo4x4", "training vectors"),
        ("build --index none.fqi --base base_0.npy --out new.fqi", "no such file"),
        ("build --index short.fqi --base base_0.npy --out new.fqi", "truncated"),
        ("build --index trained.fqi --base narrow.npy --out new.fqi", "expected d = 128"),
        ("build --index trained.fqi --base base_0.npy narrow.npy --out new.fqi", "d = 128"),
        ("build --index trained.fqi --base base_0.npy --ids ids.npy --out new.fqi", "1900 integer"),
        ("search --index index.fqi --query narrow.npy --out new.npy", "d"),
        ("search --index learn.fvecs --query query.fvecs --out new.npy", "faiss_qinco file"),
        ("eval --index index.fqi --query query.fvecs --base narrow.npy", "d = 128"),
        ("eval --index index.fqi --query query.fvecs --groundtruth short.ivecs", "expected"),
    ],
)
def test_unusable_files(
    walked: Path, command: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (walked / "text.txt").write_text("no vectors")
    (walked / "short.fqi").write_bytes((walked / "index.fqi").read_bytes()[:-1])
    (walked / "short.fvecs").write_bytes((walked / "learn.fvecs").read_bytes()[:-1])
    (walked / "short.faiss").write_bytes(b"IwFl" + bytes(40))
    np.save(walked / "narrow.npy", np.zeros((10, 7), np.float32))
    write_vectors(walked / "short.ivecs", np.zeros((3, 1), np.int32))
    assert main(arguments(walked, command)) == 1
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert last.startswith("faiss-qinco: error: ") and word in last and not captured.out
    assert not [*walked.glob("new.*")]


def test_a_factory_string_that_is_not_understood(walked: Path) -> None:
    assert main(arguments(walked, "train --learn learn.fvecs --out new.fqi IVF8,PQ8x8")) == 2


@pytest.mark.parametrize("method", ["train", "add", "search"])
def test_ctrl_c_writes_nothing(walked: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fq.IndexIVFQINCo, method, interrupted)
    command = {
        "train": "train --learn learn.fvecs --out new.fqi IVF8,QINCo4x4",
        "add": "build --index trained.fqi --base base_0.npy --out new.fqi",
        "search": "search --index index.fqi --query query.fvecs --out new.npy",
    }[method]
    assert main(arguments(walked, command)) == 130
    assert not [*walked.glob("new.*")]


def test_building_and_searching_do_not_import_torch(walked: Path, tmp_path: Path) -> None:
    """Where there is no GPU, which only torch can tell."""
    code = """
import sys, faiss_qinco.cli as cli, faiss_qinco.codec.devices as devices
devices.GPU_NODES = ()
folder, out = sys.argv[1:]
for command in (
    f"build --index {folder}/trained.fqi --base {folder}/query.fvecs --out {out}/a.fqi --threads 1",
    f"search --index {out}/a.fqi --query {folder}/query.fvecs --out {out}/a.npz --threads 1",
    f"info {out}/a.fqi",
):
    assert cli.main(command.split()) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(walked), str(tmp_path)], check=True)


def test_what_is_read_is_not_written_over(tmp_path, capsys):
    x = tmp_path / "x.npy"
    np.save(x, np.zeros((300, 8), np.float32))
    content = x.read_bytes()
    for command in (
        ["train", "--learn", str(x), "--out", str(x), "QINCo2x4"],
        ["build", "--index", str(tmp_path / "i.fqi"), "--base", str(x), "--out", str(x)],
        ["search", "--index", str(tmp_path / "i.fqi"), "--query", str(x), "--out", str(x)],
    ):
        assert main(command) == 1
        assert "would be lost" in capsys.readouterr().err
    assert x.read_bytes() == content
