"""Without torch all but training works, whatever the machine has; and what is missing is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden" / "v1"
LIGHT = """
import sys
import faiss_qinco as fq
heavy = {"h5py", "matplotlib", "tensorboard", "torch", "tqdm"} & set(sys.modules)
assert not heavy, heavy

sys.modules["torch"] = None  # an import of it fails
import faiss, numpy as np
from pathlib import Path
from faiss_qinco.codec import devices
devices.GPU_NODES = ("/",)  # "auto" looks for torch where there may be a GPU
"""


def run(code: str, folder: Path, *args: str) -> str:
    command = [sys.executable, "-c", LIGHT + code, *args]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_indexes_are_read_searched_changed_and_written(tmp_path):
    """With lists and without, behind HNSW and behind a PCA; L2 and inner product."""
    code = """
for path in sorted(Path(sys.argv[1]).glob("*.fqi")):
    if path.stem in ("id_map", "shards"):  # the same indexes inside
        continue
    for flags in (0, faiss.IO_FLAG_MMAP):
        index = fq.read_index(path, flags)
        x = np.random.default_rng(0).standard_normal((50, index.d)).astype(np.float32)
        n = index.ntotal
        index.add(x)
        D, I = index.search(x, 5)
        assert I.shape == (50, 5) and index.ntotal == n + 50
        assert index.range_search(x, float(np.median(D)))[0][-1] > 0
        codes = index.sa_encode(x)
        assert index.sa_decode(codes).shape == x.shape
        if not isinstance(index, fq.IndexPreTransform):
            assert index.codec.encode(x).shape[0] == 50
        fq.write_index(index, "again.fqi")
        fq.verify_index("again.fqi")
        again = fq.deserialize_index(fq.serialize_index(fq.read_index("again.fqi")))
        assert (again.search(x, 5)[1] == I).all()
        if hasattr(index, "remove_ids"):
            assert index.remove_ids(np.arange(n, n + 50)) >= 50
    print(path.stem)
"""
    names = run(code, tmp_path, str(GOLDEN)).split()
    assert names == ["flat", "hnsw", "ivf", "transformed", "wide_ids"]


def test_a_codec_from_elsewhere_makes_an_index(tmp_path):
    code = """
codec = fq.read_index(Path(sys.argv[1]) / "flat.fqi").codec
x = np.random.default_rng(0).standard_normal((500, codec.d)).astype(np.float32)
index = fq.IndexQINCo(codec.d, codec.M, codec.nbits, faiss.METRIC_INNER_PRODUCT, codec.config)
index.train_from_codec(x, codec)
index.add(x)
index.reencode(codec)
assert index.search(x, 1)[1].shape == (500, 1)
"""
    run(code, tmp_path, str(GOLDEN))


def test_the_command_line(tmp_path):
    code = """
from faiss_qinco.cli import main
index = fq.read_index(Path(sys.argv[1]) / "ivf.fqi")
index.reset()
fq.write_index(index, "trained.fqi")
np.save("x.npy", np.random.default_rng(0).standard_normal((300, index.d), np.float32))
for command in (
    "info", "build --index trained.fqi --base x.npy --out index.fqi",
    "search --index index.fqi --query x.npy -k 3 --out found.npz", "info index.fqi",
    "verify index.fqi", "eval --index index.fqi --query x.npy --base x.npy --nprobe 4 -k 10",
):
    assert main(command.split()) == 0, command
for command in ("demo --train", "train --learn x.npy --out other.fqi IVF4,QINCo2x4"):
    assert main(command.split()) == 1, command
"""
    assert "torch" in run(code, tmp_path, str(GOLDEN))


def test_what_needs_torch_says_what_to_install(tmp_path):
    code = """
index = fq.read_index(Path(sys.argv[1]) / "ivf.fqi")
x = np.random.default_rng(0).standard_normal((400, index.d)).astype(np.float32)
new = fq.index_factory(index.d, "PCA4,IVF4,QINCo2x4")
other = fq.read_index(Path(sys.argv[1]) / "ivf.fqi")
other.training = fq.TrainingConfig(device="cuda")
on_gpu = fq.read_index(Path(sys.argv[1]) / "ivf.fqi")
on_gpu.rerank_device = "cuda"
student = fq.read_index(Path(sys.argv[1]) / "ivf.fqi")
student.training = fq.TrainingConfig(student=True)
for call in (
    lambda: new.train(x), lambda: new.index.train(x[:, :4]), lambda: fq.finetune(index.codec, x),
    lambda: index.distill(x), lambda: other.add(x), lambda: on_gpu.search(x, 3),
    lambda: index.codec.encode(x, device="cuda:1"),
    lambda: student.reencode(student.codec.with_student(None)),
):
    for kind in (ImportError, RuntimeError):
        try:
            call()
        except kind as error:
            assert "pip install 'faiss-qinco[train]'" in str(error), error
        else:
            raise AssertionError("no error")
assert not new.chain[0].is_trained and not new.is_trained
assert other.ntotal == index.ntotal == student.ntotal
"""
    run(code, tmp_path, str(GOLDEN))


@pytest.mark.parametrize(
    "before, message",
    [
        ("sys.modules['faiss'] = None", "needs faiss: pip install"),
        ("sys.modules['faiss'] = types.SimpleNamespace(__version__='1.8.0')", "found 1.8.0: pip"),
    ],
)
def test_an_import_without_faiss_says_what_to_install(before, message):
    code = f"import sys, types; {before}; import faiss_qinco"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1].startswith("ImportError: faiss_qinco needs faiss")
    assert message in found.stderr
