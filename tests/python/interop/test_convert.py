"""`faiss-qinco convert`."""

from __future__ import annotations

import subprocess
import sys

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.cli import main
from faiss_qinco.storage.container import write_tensors

from ..codec.test_model import random_codec
from ..conftest import TINY, training
from . import writer
from .test_archive import archive_of


@pytest.fixture(scope="module")
def codec() -> fq.QINCoCodec:
    return random_codec(TINY, 8, 3, nbits=6, nlist=5)


def test_convert(codec, tmp_path, capsys):
    source, _, _ = writer.ivf_rq(codec, hnsw=True)
    paths = {name: str(tmp_path / name) for name in ("x.faissindex", "x.pt", "x.codec", "x.fqi")}
    faiss.write_index(source, paths["x.faissindex"])
    writer.save(writer.version_2(codec), tmp_path / "x.pt")
    assert main(["convert", paths["x.pt"], paths["x.codec"]]) == 0
    assert repr(codec) in capsys.readouterr().out
    np.testing.assert_array_equal(
        fq.QINCoCodec.load(paths["x.codec"]).decode([[1, 2, 3, 4]]), codec.decode([[1, 2, 3, 4]])
    )
    for model in ("x.pt", "x.codec"):
        command = ["convert", paths["x.faissindex"], paths["x.fqi"], "--codec", paths[model]]
        assert main([*command, "--threads", "1"]) == 0
        assert "ntotal=400" in capsys.readouterr().out
        index, expected = fq.read_index(paths["x.fqi"]), fq.from_faiss(source, codec)
        queries = codec.centroids() + np.float32(0.5)
        for one, two in zip(index.search(queries, 7), expected.search(queries, 7), strict=True):
            np.testing.assert_array_equal(one, two)
    assert main(["convert", paths["x.fqi"], str(tmp_path / "back")]) == 0
    assert "IVF5,RQ3x6_Nqint8 ntotal=400" in capsys.readouterr().out
    back = faiss.read_index(str(tmp_path / "back"))
    for one, two in zip(
        back.search(queries, 7), fq.from_faiss(source, codec).to_faiss().search(queries, 7),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("x.faissindex new.fqi", "needs --codec"),
        ("x.pt new.codec --codec x.pt", "no use for --codec"),
        ("none.pt new.codec", "no such file"),
        ("text.txt new.codec", "not a faiss_qinco file"),
        ("codec.ours new", "expected format"),
        ("flat.fqi new.faissindex", "expected an IndexIVFQINCo"),
        ("x.faissindex new.fqi --codec none.pt", "no such file"),
        ("x.faissindex new.fqi --codec flat.pt", "with an IVF"),
        ("x.faissindex new.fqi --codec other.ours", "newer|damaged|format"),
        ("short.faissindex new.fqi --codec x.pt", "faiss cannot read it"),
        ("evil.pt new.codec", "it asks for 'posix.system'"),
        ("x.pt x.pt", "would be lost"),
        ("x.faissindex x.pt --codec x.pt", "would be lost"),
        ("x.pt none/new.codec", "no such folder"),
    ],
)
def test_what_cannot_be_converted(codec, command, word, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    faiss.write_index(writer.ivf_rq(codec)[0], "x.faissindex")
    whole = (tmp_path / "x.faissindex").read_bytes()
    (tmp_path / "short.faissindex").write_bytes(whole[: len(whole) // 2])
    writer.save(writer.version_2(codec), tmp_path / "x.pt")
    flat = random_codec(TINY, 8, 3, nbits=6, nlist=None)
    writer.save(writer.version_2(flat), tmp_path / "flat.pt")
    codec.save("codec.ours")
    write_tensors("other.ours", "thing", {}, {})
    (tmp_path / "text.txt").write_text("words")
    index = fq.IndexQINCo(8, 3, 4, config=TINY, training=training(epochs=1))
    fq.write_index(index, "flat.fqi")
    evil = b"\x80\2cposix\nsystem\nX\2\0\0\0id\x85R."
    archive_of(tmp_path / "evil.pt", evil)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["convert", *command.split()]) == 1
    captured = capsys.readouterr()
    assert any(one in captured.err for one in word.split("|")) and not captured.out
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_converting_does_not_import_torch(codec, tmp_path):
    faiss.write_index(writer.ivf_rq(codec)[0], str(tmp_path / "x.faissindex"))
    writer.save(writer.version_2(codec), tmp_path / "x.pt")
    code = """
import sys, faiss_qinco.cli as cli
x = sys.argv[1] + "/x"
for command in (f"{x}.pt {x}.codec", f"{x}.faissindex {x}.fqi --codec {x}.pt", f"{x}.fqi {x}.back"):
    assert cli.main(["convert", *command.split()]) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
