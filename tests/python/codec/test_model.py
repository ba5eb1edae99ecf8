"""The torch decoder, the extension's decoder and the float64 reference are one function."""

from __future__ import annotations

import numpy as np
import pytest

import faiss_qinco as fq

from ..conftest import random_tensors
from . import reference

CONFIGS = {
    "QINCo2": fq.QINCoConfig(L=2, d_e=24, d_h=40),
    "QINCo2 without projections": fq.QINCoConfig(L=1, d_e=None, d_h=17),
    "QINCo2 without blocks": fq.QINCoConfig(L=0, d_e=5, d_h=1),
    "QINCo1": fq.QINCoConfig(L=2, d_e=None, d_h=16, A=0, B=1, qinco1=True),
    "QINCo-LR": fq.QINCoConfig(L=1, d_e=None, d_h=8, A=0, B=1, qinco1=True, low_rank=True),
}


def random_codec(
    config: fq.QINCoConfig, d: int = 20, M: int = 4, nbits: int = 5, nlist: int | None = 7
) -> fq.QINCoCodec:
    tensors = random_tensors(config, d, M, nbits, nlist, 0.3)
    mean = np.random.default_rng(2).standard_normal(d).astype(np.float32)
    return fq.QINCoCodec(config, M, nbits, nlist is not None, mean, 2.5, tensors)


def random_codes(codec: fq.QINCoCodec, n: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, codec.K, (n, codec.M), dtype=np.int32)
    if codec.nlist is not None:
        codes = np.hstack((rng.integers(0, codec.nlist, (n, 1), dtype=np.int32), codes))
    return codes


@pytest.mark.parametrize("nlist", [7, None], ids=["ivf", "flat"])
@pytest.mark.parametrize("name", CONFIGS)
def test_three_decoders_agree(name, nlist):
    codec = random_codec(CONFIGS[name], nlist=nlist)
    codes = random_codes(codec, 131)
    expected = reference.decode(codec, codes)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(codec.decode(codes), expected, atol=1e-5 * scale)
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        x_hats = codec._model("cpu").decode(torch.from_numpy(codes.astype(np.int64)))
    decoded = x_hats[-1].numpy() * codec.std + codec.mean
    np.testing.assert_allclose(decoded, expected, atol=1e-5 * scale)


@pytest.mark.parametrize("nlist", [7, None], ids=["ivf", "flat"])
def test_a_prefix_of_a_code_is_a_coarser_code(nlist):
    codec = random_codec(CONFIGS["QINCo2"], nlist=nlist)
    codes = random_codes(codec, 9)
    for columns in range(1, codes.shape[1] + 1):
        expected = reference.decode(codec, codes[:, :columns])
        scale = np.abs(expected).max()
        np.testing.assert_allclose(codec.decode(codes[:, :columns]), expected, atol=1e-5 * scale)


def test_decode_does_not_depend_on_the_batch():
    codec = random_codec(CONFIGS["QINCo2"])
    codes = random_codes(codec, 200)
    together = codec.decode(codes)
    one_by_one = np.vstack([codec.decode(codes[i : i + 1]) for i in range(200)])
    np.testing.assert_array_equal(together, one_by_one)


def test_decode_refuses_bad_codes():
    codec = random_codec(CONFIGS["QINCo2"])
    codes = random_codes(codec, 3)
    for bad, error in (
        (codes[0], ValueError),
        (np.hstack((codes, codes)), ValueError),
        (codes.astype(np.float32), TypeError),
        (codes * 0 + codec.K, ValueError),
        (codes - 32, ValueError),
    ):
        with pytest.raises(error):
            codec.decode(bad)


@pytest.mark.parametrize("name", CONFIGS)
def test_model_file_round_trip(name, tmp_path):
    codec = random_codec(CONFIGS[name])
    codec.save(tmp_path / "codec.safetensors")
    loaded = fq.QINCoCodec.load(tmp_path / "codec.safetensors")
    codes = random_codes(codec, 50)
    np.testing.assert_array_equal(loaded.decode(codes), codec.decode(codes))
    assert loaded.config == codec.config


@pytest.mark.parametrize(
    "change",
    [{"d": 21}, {"M": 5}, {"nbits": 4}, {"M": -1}, {"d": 10**30}, {"nlist": None}, {"std": 0.0},
     {"metric": 2}, {"metric": "L2"}, {"metric": True},
     {"config": {"L": 10**12}}, {"config": {"L": True}}, {"config": 3}],
    ids=str,
)  # fmt: skip
def test_headers_that_do_not_fit_are_refused(change):
    header, tensors = random_codec(CONFIGS["QINCo2"]).state()
    with pytest.raises(RuntimeError, match="codec"):
        fq.QINCoCodec.from_state({**header, **change}, tensors)
