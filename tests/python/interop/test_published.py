"""Published models decode and encode as the formulas of the papers say."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import faiss_qinco as fq
from faiss_qinco.cli import main
from faiss_qinco.storage.container import FileFormatError, read_tensors, write_tensors

from ..codec import reference
from ..codec.test_model import CONFIGS, random_codec, random_codes
from . import writer

ONE = CONFIGS["QINCo1"]
TWO = fq.QINCoConfig(L=2, d_e=24, d_h=40, A=3, B=5)
MODELS = {
    "QINCo": (1, ONE, None),
    "QINCo without blocks": (1, dataclasses.replace(ONE, L=0), None),
    "QINCoLR": (1, CONFIGS["QINCo-LR"], None),
    "IVFQINCo": (1, ONE, 7),
    "QINCo2": (2, TWO, None),
    "IVF-QINCo2": (2, TWO, 7),
    "QINCo2 without projections": (2, dataclasses.replace(TWO, d_e=None), 7),
    "QINCo2 without pre-selection": (2, dataclasses.replace(TWO, A=0, B=1), None),
    "qinco1_mode": (2, ONE, None),
}


def original(name: str, nbits: int = 5) -> fq.QINCoCodec:
    version, config, nlist = MODELS[name]
    codec = random_codec(config, nbits=nbits, nlist=nlist)
    if version == 1:
        codec.mean[:] = 0
    return codec


def published(name: str, **kwargs):
    """What the program would have saved."""
    codec = original(name, **kwargs)
    return (writer.version_1 if MODELS[name][0] == 1 else writer.version_2)(codec)


@pytest.mark.parametrize("name", MODELS)
def test_a_published_model_decodes_as_the_papers_say(name, tmp_path):
    expected = original(name)
    codec = fq.QINCoCodec.load(writer.save(published(name), tmp_path / "model.pt"))
    assert type(codec) is fq.QINCoCodec and repr(codec) == repr(expected)
    config = expected.config
    assert codec.config == dataclasses.replace(config, d_h=codec.config.d_h)
    codes = random_codes(expected, 50)
    decoded = reference.decode(expected, codes)
    np.testing.assert_allclose(codec.decode(codes), decoded, atol=1e-5 * np.abs(decoded).max())
    codec.save(tmp_path / "ours")
    np.testing.assert_array_equal(
        fq.QINCoCodec.load(tmp_path / "ours").decode(codes), codec.decode(codes)
    )


@pytest.mark.parametrize("name", MODELS)
def test_codes_of_the_papers_beam_search(name, tmp_path):
    """A codewords for each hypothesis, max(A, B) in the first network, and one hypothesis left."""
    codec = fq.QINCoCodec.load(writer.save(published(name, nbits=4), tmp_path / "model.pt"))
    x = 3 * np.random.default_rng(6).standard_normal((12, codec.d)).astype(np.float32)
    codes = codec.encode(x, per_hypothesis=True)
    for row, code in zip(x, codes, strict=True):
        assert code.tolist() == beam_search(codec, row.astype(np.float64))
    with pytest.raises(ValueError, match="A: "):
        codec.encode(x, A=codec.K + 1, per_hypothesis=True)


def beam_search(codec: fq.QINCoCodec, x: np.ndarray) -> list[int]:
    (A, B), x = codec.config.beam(codec.K), (x - codec.mean) / codec.std
    base = codec.tensors["base"].astype(np.float64)
    first = np.square(base - x).sum(1).argsort()[: 1 if codec.nlist is not None else B]
    beam = [([int(k)], base[k]) for k in first]
    n_steps = codec.M if codec.nlist is not None else codec.M - 1
    for m in range(n_steps):
        found = []
        for codes, x_hat in beam:
            chosen = range(codec.K)
            if A < codec.K:
                words = codec.tensors[f"steps.{m}.preselect"].astype(np.float64)
                width = A if m else max(A, B)
                chosen = np.square(x_hat + words - x).sum(1).argsort()[:width].tolist()
            for k in chosen:
                found.append(([*codes, k], x_hat + reference.step(codec, m, k, x_hat)))
        found.sort(key=lambda one: np.square(one[1] - x).sum())
        beam = found[: B if m + 1 < n_steps else 1]
    return beam[0][0]


@pytest.mark.parametrize("rotated", [False, True])
def test_pq_qinco(rotated, tmp_path):
    parts = [random_codec(ONE, d, M, nlist=None) for d, M in ((6, 2), (4, 3))]
    for part in parts:
        part.mean[:] = 0
    rng = np.random.default_rng(3)
    R = np.linalg.qr(rng.standard_normal((10, 10)))[0] if rotated else np.eye(10)
    matrix = R.astype(np.float32) if rotated else None
    path = writer.save(writer.version_1_pq(parts, matrix), tmp_path / "model.pt")
    codec = fq.QINCoCodec.load(path)
    assert isinstance(codec, fq.PQQINCoCodec) and (codec.d, codec.M) == (10, 5)

    x = rng.standard_normal((20, 10)).astype(np.float32)
    codes = codec.encode(x, per_hypothesis=True)
    y = x.astype(np.float64) @ R.T
    halves = (parts[0], y[:, :6], codes[:, :2]), (parts[1], y[:, 6:], codes[:, 2:])
    for part, of_x, of_codes in halves:
        for row, code in zip(of_x, of_codes, strict=True):
            assert code.tolist() == beam_search(part, row)
    decoded = np.hstack([reference.decode(part, own) for part, _, own in halves]) @ R
    np.testing.assert_allclose(codec.decode(codes), decoded, atol=1e-5 * np.abs(decoded).max())

    codec.save(tmp_path / "ours")
    again = fq.QINCoCodec.load(tmp_path / "ours")
    for other in (again, pickle.loads(pickle.dumps(codec)), copy.deepcopy(codec)):
        np.testing.assert_array_equal(other.decode(codes), codec.decode(codes))
        np.testing.assert_array_equal(other.encode(x), codec.encode(x))
    with pytest.raises(ValueError, match=r"x: expected shape \(n, 10\)"):
        codec.encode(x[:, :9])
    with pytest.raises(ValueError, match=r"codes: expected shape \(n, 5\)"):
        codec.decode(codes[:, :4])
    with pytest.raises(ValueError, match="NaN"):
        codec.encode(np.full((1, 10), np.nan))

    # A forged file of our own.
    header, tensors = read_tensors(tmp_path / "ours", "codec")
    forgeries = [
        ({"parts": []}, tensors), ({"parts": 3}, tensors), ({"parts": [{}, {}]}, tensors),
        ({"parts": header["parts"][:1]}, tensors),
        (header, tensors | {"other": np.zeros(3, np.float32)}),
        (header, tensors | {"matrix": np.ones((10, 10), np.float32)}),
        (header, tensors | {"matrix": np.full((10, 10), np.nan, np.float32)}),
        (header, tensors | {"matrix": np.eye(4, dtype=np.float32)}),
    ]  # fmt: skip
    for forged in forgeries:
        write_tensors(tmp_path / "forged", "codec", *forged)
        with pytest.raises(FileFormatError, match="forged"):
            fq.QINCoCodec.load(tmp_path / "forged")


def test_what_torch_can_save_else(tmp_path):
    """Keys of DistributedDataParallel, an optimizer, transposed and half-precision tensors."""
    codec, saved = original("QINCo2"), published("QINCo2")
    state = saved["model"]
    name = "steps.1.concat.mlp.weight"
    state[name] = state[name].T.contiguous().T
    codec.tensors["base"] = codec.tensors["base"].astype(np.float16).astype(np.float32)
    state["steps.0.codebook.weight"] = state["steps.0.codebook.weight"].half()
    bias = state["steps.1.concat.mlp.bias"].bfloat16()
    state["steps.1.concat.mlp.bias"] = bias
    codec.tensors["steps.0.concat.mlp.bias"] = bias.float().numpy()
    state["data_std"] = state["data_std"].double()
    saved["model"] = {f"module.{key}": value for key, value in state.items()}
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    saved["optimizer"] = optimizer.state_dict()
    saved["scheduler"] = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9).state_dict()
    loaded = fq.QINCoCodec.load(writer.save(saved, tmp_path / "model.pt"))
    codes = random_codes(codec, 20)
    expected = reference.decode(codec, codes)
    np.testing.assert_allclose(loaded.decode(codes), expected, atol=1e-5 * np.abs(expected).max())


def test_published_models_are_read_without_torch(tmp_path):
    for name in ("IVFQINCo", "IVF-QINCo2"):
        writer.save(published(name), tmp_path / f"{name}.pt")
    code = """
import sys, faiss_qinco as fq
for name in ("IVFQINCo", "IVF-QINCo2"):
    fq.QINCoCodec.load(f"{sys.argv[1]}/{name}.pt").decode([[1, 2, 3, 4, 5]])
assert not {"torch", "model_qinco"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)


def broken_2(key, value):
    def breaks(saved):
        saved["parameters"][key] = value

    return breaks


def broken_1(name, value):
    return lambda model: setattr(model, name, value)


def state_2(change):
    return lambda saved: change(saved["model"])


def fill(tensor, value):
    with torch.no_grad():
        tensor.view(-1)[3] = value


@pytest.mark.parametrize(
    ("name", "breaks", "says"),
    [
        ("IVF-QINCo2", broken_2("K", 24), "K: expected one of"),
        ("IVF-QINCo2", broken_2("K", 512), "K: expected one of"),
        ("IVF-QINCo2", broken_2("K", 16), "do not fit"),
        ("IVF-QINCo2", broken_2("K", None), "K: expected an integer"),
        ("IVF-QINCo2", broken_2("M", 10**12), "not so many tensors|M: expected"),
        ("IVF-QINCo2", broken_2("L", 10**9), "not so many tensors"),
        ("IVF-QINCo2", broken_2("M", 3), "do not fit"),
        ("IVF-QINCo2", broken_2("A", 0), "do not fit"),
        ("IVF-QINCo2", broken_2("B", 10**7), "B: expected"),
        ("IVF-QINCo2", broken_2("de", None), "do not fit"),
        ("IVF-QINCo2", broken_2("dh", 41), "do not fit"),
        ("IVF-QINCo2", broken_2("ivf_in_use", False), "do not fit"),
        ("IVF-QINCo2", broken_2("ivf_in_use", 1), "ivf_in_use: expected a bool"),
        ("IVF-QINCo2", broken_2("ivf_K", 8), "do not fit"),
        ("IVF-QINCo2", broken_2("qinco1_mode", True), "qinco1_mode"),
        ("IVF-QINCo2", broken_2("K", (((),),)), "K: expected an integer"),
        ("IVF-QINCo2", lambda s: s.update(data_dim=21), "do not fit|d="),
        ("IVF-QINCo2", lambda s: s.update(model=[1]), "expected a dict"),
        ("IVF-QINCo2", lambda s: s.pop("parameters"), "expected a QINCo model"),
        ("IVF-QINCo2", state_2(lambda m: m.pop("data_mean")), "data_mean"),
        ("IVF-QINCo2", state_2(lambda m: m.update(extra=torch.ones(1))), "extra"),
        ("IVF-QINCo2", state_2(lambda m: m.update(data_mean=7)), "data_mean: expected a tensor"),
        ("IVF-QINCo2", state_2(lambda m: m.update(data_mean=torch.arange(20))), "expected floats"),
        ("IVF-QINCo2", state_2(lambda m: m.update(data_std=torch.zeros(()))), "std"),
        ("IVF-QINCo2", state_2(lambda m: m.update(data_std=torch.ones(2))), "data_std"),
        ("IVF-QINCo2", state_2(lambda m: fill(m["data_mean"], np.nan)), "NaN"),
        ("IVF-QINCo2", state_2(lambda m: fill(m["steps.2.codebook.weight"], np.inf)), "infinity"),
        ("IVFQINCo", broken_1("K", 100), "K: expected one of"),
        ("IVFQINCo", broken_1("K_IVF", 8), "do not fit"),
        ("IVFQINCo", broken_1("d", 21), "expected d=21"),
        ("IVFQINCo", broken_1("d", 2**39), "expected d="),
        ("IVFQINCo", broken_1("h", 17), "do not fit"),
        ("IVFQINCo", broken_1("db_scale", 0.0), "std"),
        ("IVFQINCo", broken_1("db_scale", float("nan")), "std"),
        ("IVFQINCo", broken_1("db_scale", "1"), "db_scale: expected a number"),
        ("IVFQINCo", broken_1("db_scale", 10**400), "db_scale: expected a number"),
        ("IVFQINCo", broken_1("M", True), "M: expected an integer"),
        ("IVFQINCo", broken_1("more", torch.nn.Linear(2, 2)), "more"),
        ("IVFQINCo", lambda m: fill(m.codebook0.weight, np.nan), "NaN"),
        ("QINCoLR", broken_1("L", 2), "do not fit"),
    ],
)  # fmt: skip
def test_a_model_of_parts_that_do_not_fit(name, breaks, says, tmp_path):
    saved = published(name)
    breaks(saved)
    path = writer.save(saved, tmp_path / "broken.pt")
    with pytest.raises(FileFormatError, match=f"broken.pt: .*({says})"):
        fq.QINCoCodec.load(path)


def test_other_things_that_torch_saves(tmp_path):
    pairwise = {"decoder.0.weight": torch.ones(3, 4)}
    for saved in (pairwise, torch.ones(3), [1, 2], None, torch.nn.Linear(2, 2)):
        with pytest.raises(FileFormatError, match="expected a QINCo model"):
            fq.QINCoCodec.load(writer.save(saved, tmp_path / "other.pt"))
    pq = writer.version_1_pq([original("QINCo")], None)
    pq.db_scale = 255
    with pytest.raises(FileFormatError, match="db_scale"):
        fq.QINCoCodec.load(writer.save(pq, tmp_path / "other.pt"))
    pq = writer.version_1_pq([original("IVFQINCo")], None)
    with pytest.raises(FileFormatError, match="sub_quantizer_0: expected a QINCo"):
        fq.QINCoCodec.load(writer.save(pq, tmp_path / "other.pt"))
    pq = writer.version_1_pq([], None)
    with pytest.raises(FileFormatError, match="sub_quantizer_0"):
        fq.QINCoCodec.load(writer.save(pq, tmp_path / "other.pt"))
    torch.save(published("QINCo2"), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(FileFormatError, match="not a faiss_qinco file"):
        fq.QINCoCodec.load(tmp_path / "old.pt")


def test_info_of_a_published_model(tmp_path, capsys):
    path = writer.save(published("IVF-QINCo2"), tmp_path / "model.pt")
    assert main(["info", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["d"], found["M"], found["nlist"]) == ("published codec", 20, 4, 7)
    assert found["bytes"] == path.stat().st_size and found["config"]["B"] == 5
