from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.codec import codec as codec_module
from faiss_qinco.codec.codec import AdditiveTerm
from faiss_qinco.codec.weights import pack_weights

from . import reference
from .test_model import CONFIGS, random_codec


def in_float32(codec: fq.QINCoCodec) -> fq.QINCoCodec:
    """The codec, whose products in the extension are float32's on CPUs with bfloat16 too."""
    codec._weights = pack_weights(
        codec.config, codec.nbits, codec.nlist is not None, codec.mean, codec.std, codec.tensors,
        in_bf16=False,
    )  # fmt: skip
    return codec


@pytest.mark.parametrize("nlist", [7, None], ids=["ivf", "flat"])
@pytest.mark.parametrize("name", CONFIGS)
def test_one_hypothesis_over_all_codewords_is_greedy(name, nlist):
    codec = in_float32(random_codec(CONFIGS[name], nlist=nlist))
    x = np.random.default_rng(5).standard_normal((6, codec.d)).astype(np.float32)
    list_no = None if nlist is None else np.arange(6, dtype=np.int64)
    codes = codec.encode(x, list_no, A=0, B=1)
    for i, row in enumerate((x - codec.mean) / codec.std):
        base = i if nlist is not None else int(codes[i, 0])
        assert reference.greedy_encode(codec, row.astype(np.float64), base) == codes[i].tolist()
        if nlist is None:  # the first code is the nearest codeword
            assert base == np.square(codec.tensors["base"] - row).sum(1).argmin()


def test_more_search_gives_less_error(trained, base):
    codec = fq.deserialize_index(trained[1]).codec
    x = base[:500]

    def error(**kwargs):
        return np.square(codec.decode(codec.encode(x, **kwargs)) - x).sum(1).mean()

    narrow, middle, wide = error(A=2, B=1), error(A=8, B=4), error(A=16, B=16)
    assert narrow > middle > wide


@pytest.mark.parametrize("nlist", [7, None], ids=["ivf", "flat"])
@pytest.mark.parametrize("name", CONFIGS)
def test_torch_finds_the_same_codes(name, nlist, monkeypatch):
    """What a GPU runs, here on CPU tensors; float32 in both."""
    pytest.importorskip("torch")
    codec = in_float32(random_codec(CONFIGS[name], nlist=nlist))
    monkeypatch.setattr(codec_module, "use_bf16", lambda *_: False)
    rng = np.random.default_rng(5)
    x = 3 * rng.standard_normal((150, codec.d), dtype=np.float32)
    list_no = None if nlist is None else rng.integers(0, nlist, 150)
    bases = codec.mean[None] if nlist is None else codec.bases()
    codebooks = rng.standard_normal((codec.M, codec.K, codec.d), dtype=np.float32)
    for A, B, weight in ((codec.K, 3, 0), (4, 5, 0), (1, 1, 0), (codec.K, 3, 0.5), (4, 5, 0.5)):
        if codec.config.A == 0 and codec.K > A:
            continue
        term = AdditiveTerm(codebooks, bases, weight) if weight else None
        codes = codec.encode(x, list_no, A=A, B=B, additive=term)[:, -codec.M :]
        found = codec._encode_torch(
            x, list_no, A, B, additive=codec._normalised(term, "cpu"), device="cpu"
        )
        assert (codes == found).all(axis=1).mean() > 0.97  # near-ties may swap
    with pytest.raises(ValueError, match="additive: expected codebooks"):
        codec.encode(x, list_no, additive=AdditiveTerm(codebooks[1:], bases, 0.5))
    with pytest.raises(ValueError, match="additive: expected a weight"):
        codec.encode(x, list_no, additive=AdditiveTerm(codebooks, bases, np.nan))


def test_encoding_in_bf16(trained, base, monkeypatch):
    """What a GPU runs, here on CPU tensors: other codes where it is close, as good ones."""
    codec = fq.deserialize_index(trained[1]).codec
    x = base[:500]
    monkeypatch.setattr(codec_module, "use_bf16", lambda *_: False)
    codes = codec.encode(x, device="cpu:0")
    monkeypatch.setattr(codec_module, "use_bf16", lambda *_: True)
    rounded = codec.encode(x, device="cpu:0")
    assert 0.6 < (codes == rounded).all(axis=1).mean() < 1
    error, rounded_error = (np.square(codec.decode(c) - x).sum(1).mean() for c in (codes, rounded))
    np.testing.assert_allclose(rounded_error, error, rtol=0.003)


def test_codes_do_not_depend_on_threads_and_batch(trained, base):
    codec = fq.deserialize_index(trained[1]).codec
    x = base[:200]
    try:
        fq.set_num_threads(1)
        codes = codec.encode(x)
        fq.set_num_threads(2)
        np.testing.assert_array_equal(codec.encode(x), codes)
    finally:
        fq.set_num_threads(None)
    np.testing.assert_array_equal(np.vstack([codec.encode(row[None]) for row in x]), codes)


def test_default_list_is_the_nearest_centroid(trained, base):
    codec = fq.deserialize_index(trained[1]).codec
    x = base[:200]
    distance = np.square(x[:, None] - codec.centroids()).sum(2)
    np.testing.assert_array_equal(codec.encode(x)[:, 0], distance.argmin(1))


def test_encode_refuses_wrong_shapes(trained, base):
    codec = fq.deserialize_index(trained[1]).codec
    with pytest.raises(ValueError, match="x: expected shape"):
        codec.encode(base[:3, :64])
    with pytest.raises(ValueError, match="list_no"):
        codec.encode(base[:3], np.zeros(2, np.int64))
    for wrong in (16, -1):
        with pytest.raises(ValueError, match="list_no"):
            codec.encode(base[:3], np.full(3, wrong), device="cpu:0")


def test_default_list_by_inner_product(trained, base, tmp_path):
    index = fq.deserialize_index(trained[1])  # whose centroids are of several lengths
    codec = fq.QINCoCodec(
        index.codec.config, 4, 8, True, index.codec.mean, index.codec.std, index.codec.tensors,
        metric=0,
    )  # fmt: skip
    x = base[:200]
    best = (x @ codec.centroids().T).argmax(1)
    np.testing.assert_array_equal(codec.encode(x)[:, 0], best)
    assert (best != np.square(x[:, None] - codec.centroids()).sum(2).argmin(1)).any()
    codec.save(tmp_path / "codec")
    assert fq.QINCoCodec.load(tmp_path / "codec").metric == 0
    assert codec.with_student(codec).metric == pickle.loads(pickle.dumps(codec)).metric == 0
    header, tensors = codec.state()
    del header["metric"]  # of older files
    assert fq.QINCoCodec.from_state(header, tensors).metric == 1


def test_encode_refuses_what_it_cannot_encode(trained, base):
    codec = fq.deserialize_index(trained[1]).codec
    for value, message in ((np.nan, "NaN"), (np.inf, "inf"), (-1e19, "overflows"), (1e30, "over")):
        x = base[:1500].copy()
        x[1200, 5] = value
        for device in ("cpu", "cpu:0"):
            with pytest.raises(ValueError, match=rf"^x: row 1200 .*{message}"):
                codec.encode(x, device=device)
        assert codec.encodable(x).sum() == 1499 and not codec.encodable(x)[1200]
    small = fq.QINCoCodec(codec.config, 4, 8, True, codec.mean, 1e-12, codec.tensors)
    with pytest.raises(ValueError, match=r"row 0 .*overflows"):
        small.encode(base[:3] + 1e9)


def test_encoding_starts_no_thread(trained, base):
    codec = fq.deserialize_index(trained[1]).codec
    codec.encode(base[:50])
    before = set(threading.enumerate())
    for progress in (False, True):
        codec.encode(base[:50], progress=progress)
        assert set(threading.enumerate()) == before


@pytest.mark.parametrize("device", ["cpu", "cpu:0"], ids=["extension", "torch"])
def test_encode_refuses_a_wrong_beam(device):
    codec = random_codec(CONFIGS["QINCo1"])
    for A, B, message in (
        (4, 2, rf"^A: the model has no pre-selection codebooks, expected A = {codec.K}, got 4$"),
        (-1, 2, rf"^A: expected 1 to {codec.K}, got -1$"),
        (codec.K + 1, 2, rf"^A: expected 1 to {codec.K}, got {codec.K + 1}$"),
        (0, 0, r"^B: expected at least 1, got 0$"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.encode(np.zeros((3, codec.d)), A=A, B=B, device=device)


def test_no_vectors(trained):
    codec = fq.deserialize_index(trained[1]).codec
    assert codec.encode(np.empty((0, 128), np.float32)).shape == (0, 5)
    assert codec.decode(np.empty((0, 5), np.int32)).shape == (0, 128)
