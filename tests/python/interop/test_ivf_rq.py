"""faiss's IVF-RQ indexes of QINCo codes, from and to."""

from __future__ import annotations

import copy
import gc
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from ..codec import reference
from ..codec.test_model import random_codec
from ..conftest import TINY, new_index
from . import writer

FLOAT = faiss.AdditiveQuantizer.ST_norm_float


@pytest.fixture(scope="module")
def codec() -> fq.QINCoCodec:
    """As a published one: L2, lists at the quantizer's centroids."""
    return random_codec(fq.QINCoConfig(L=1, d_e=None, d_h=8, A=4, B=4), 8, 3, nbits=6, nlist=5)


@pytest.mark.parametrize("hnsw", [False, True])
def test_from_faiss_searches_what_the_codec_decodes(codec, hnsw):
    source, codes, ids = writer.ivf_rq(codec, hnsw=hnsw)
    index = fq.from_faiss(source, codec)
    assert (index.ntotal, index.nprobe, index.additive_weight) == (400, 3, 0)
    assert index.next_id == ids.max() + 1 and index.codec is codec
    assert isinstance(index.quantizer, faiss.IndexHNSWFlat if hnsw else faiss.IndexFlat)
    decoded = reference.decode(codec, codes)
    queries = decoded[:20].astype(np.float32) + 0.1
    index.nshort, index.nprobe = 400, 5
    D, I = index.search(queries, 10)
    exact = np.square(queries[:, None] - decoded).sum(2)
    order = exact.argsort(1)[:, :10]
    np.testing.assert_array_equal(I, ids[order])
    np.testing.assert_allclose(D, np.take_along_axis(exact, order, 1), rtol=1e-4, atol=1e-4)
    # The tables: faiss's codebooks, on the centroids.
    codebooks = faiss.vector_to_array(source.rq.codebooks).reshape(3, 64, 8)
    centroids = codec.centroids()[codes[:, 0]]
    rough = centroids + sum(codebooks[m][codes[:, m + 1]] for m in range(3))
    bias = np.square(rough).sum(1) - np.square(centroids).sum(1)  # bfloat16
    index.nshort = 0
    D, I = index.search(queries, 10)
    rows = [{int(i): at for at, i in enumerate(ids)}[int(i)] for i in I.ravel()]
    exact = np.square(np.repeat(queries, 10, axis=0) - rough[rows]).sum(1)
    np.testing.assert_allclose(D.ravel(), exact, rtol=1e-5, atol=np.abs(bias).max() / 256)
    index.add(queries)
    assert index.ntotal == 420


@pytest.mark.parametrize("nbits", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("norm", ["float", "qint8", "qint4"])
def test_to_faiss_is_what_faiss_would_have_made(nbits, norm):
    codec = random_codec(TINY, 8, 3, nbits=nbits, nlist=5)
    search_type = getattr(faiss.AdditiveQuantizer, f"ST_norm_{norm}")
    source, _, ids = writer.ivf_rq(codec, search_type=search_type)
    index = fq.from_faiss(source, codec)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([index.lists.get_ids(i) for i in range(5)])), np.sort(ids)
    )
    made = index.to_faiss(search_type)
    assert (made.code_size, made.nprobe, made.ntotal) == (source.code_size, 3, 400)
    queries = codec.centroids()[np.arange(20) % 5] + np.float32(0.3)
    queries += np.random.default_rng(1).standard_normal(queries.shape).astype(np.float32)
    if norm == "float":  # the others' ranges are those of its own training in `source`
        for one, two in zip(made.search(queries, 10), source.search(queries, 10), strict=True):
            np.testing.assert_array_equal(one, two)
    back = fq.from_faiss(made, codec)
    for nshort in (0, 50):
        index.nshort = back.nshort = nshort
        for one, two in zip(index.search(queries, 9), back.search(queries, 9), strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_trained_index_goes_to_faiss_and_back(filled, queries, tmp_path):
    filled.nprobe, filled.nshort = 5, 0
    D, I = filled.search(queries, 10)
    for search_type, same, rtol in ((None, 0.9, 0.1), (FLOAT, 0.98, 5e-3)):
        made = filled.to_faiss() if search_type is None else filled.to_faiss(search_type)
        faiss.write_index(made, str(tmp_path / "a.faissindex"))
        made = faiss.read_index(str(tmp_path / "a.faissindex"))
        assert isinstance(made, faiss.IndexIVFResidualQuantizer) and made.nprobe == 5
        D2, I2 = made.search(queries, 10)
        overlap = [len(set(a) & set(b)) / 10 for a, b in zip(I, I2, strict=True)]
        assert np.mean(overlap) > same
        np.testing.assert_allclose(np.median(D2 / D), 1, rtol=rtol)
    assert made.code_size == 4 + 4 and filled.to_faiss().code_size == 4 + 1
    assert filled.to_faiss(faiss.AdditiveQuantizer.ST_decompress).code_size == 4

    mapped = faiss.read_index(str(tmp_path / "a.faissindex"), faiss.IO_FLAG_MMAP)
    # Early exit's margins are not in it: without them here too.
    filled.nshort, filled.exit_margin = 100, np.inf
    expected = filled.search(queries, 10)
    codec = filled.codec.with_student(None)
    for source in (made, mapped, faiss.downcast_index(made)):
        back = fq.from_faiss(source, codec)
        back.nshort = 100
        for one, two in zip(back.search(queries, 10), expected, strict=True):
            np.testing.assert_array_equal(one, two)
    copied = copy.deepcopy(back)
    np.testing.assert_array_equal(copied.search(queries, 10)[1], expected[1])


def test_nothing_is_shared(filled, queries):
    filled.nprobe = 16
    expected = filled.search(queries[:5], 3)
    made = filled.to_faiss()
    faiss_expected = made.search(queries[:5], 3)
    back = fq.from_faiss(made, filled.codec)
    before = back.search(queries[:5], 3)
    filled.reset()
    del filled
    gc.collect()
    np.testing.assert_array_equal(made.search(queries[:5], 3)[1], faiss_expected[1])
    made.reset()
    made.quantizer.reset()
    del made
    gc.collect()
    for one, two in zip(back.search(queries[:5], 3), before, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(before[1], expected[1])


def test_ids_maps_and_what_is_not_stored(empty, base):
    x = base[:300].copy()
    x[5] = np.nan
    empty.add_with_ids(x, np.arange(300) - 2**40)
    empty.make_direct_map()
    made = empty.to_faiss()
    assert made.ntotal == 300 and made.direct_map.type == 0
    made.set_direct_map_type(faiss.DirectMap.Hashtable)
    back = fq.from_faiss(made, empty.codec)
    assert back.ntotal == 300 and back.next_id == 300
    assert back.direct_map.type == faiss.DirectMap.Hashtable
    np.testing.assert_array_equal(back.reconstruct(7 - 2**40), empty.reconstruct(7 - 2**40))
    with pytest.raises(RuntimeError):
        back.reconstruct(5 - 2**40)


def test_an_empty_index(empty, queries):
    made = empty.to_faiss()
    assert made.ntotal == 0 and (made.search(queries[:3], 2)[1] == -1).all()
    back = fq.from_faiss(made, empty.codec)
    assert (back.search(queries[:3], 2)[1] == -1).all() and back.next_id == 0


def test_adding_meanwhile(empty, base):
    """What another thread adds is in it or is not, with its id and code."""
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(lambda: [empty.add(base[i : i + 50]) for i in range(0, 1500, 50)])
        while True:
            done = adding.done()
            made = empty.to_faiss()
            back = fq.from_faiss(made, empty.codec)
            n = made.ntotal
            assert n == back.ntotal and n % 50 == 0
            np.testing.assert_array_equal(back.reconstruct_n(), empty.reconstruct_n(0, n))
            if done:
                break


def test_what_does_not_fit(codec, filled, trained):
    source, _, _ = writer.ivf_rq(codec)
    wrong = {
        r"\(8, 5, 3, 64\) as in the faiss index, got \(8, 5, 2, 64\)": codec.truncate(2),
        r"got \(8, 6, 3, 64\)": random_codec(TINY, 8, 3, nbits=6, nlist=6),
        r"got \(9, 5, 3, 64\)": random_codec(TINY, 9, 3, nbits=6, nlist=5),
        r"got \(8, 5, 3, 32\)": random_codec(TINY, 8, 3, nbits=5, nlist=5),
        "with an IVF": random_codec(TINY, 8, 3, nbits=6, nlist=None),
    }
    for says, other in wrong.items():
        with pytest.raises(ValueError, match=says):
            fq.from_faiss(source, other)
    moved = random_codec(TINY, 8, 3, nbits=6, nlist=5)
    moved.tensors["base"] = moved.tensors["base"] + np.float32(0.1)
    with pytest.raises(ValueError, match="its centroids are not those"):
        fq.from_faiss(source, moved)
    for other in (None, "codec", fq.PQQINCoCodec([random_codec(TINY, nlist=None)])):
        with pytest.raises(TypeError, match="expected a QINCoCodec"):
            fq.from_faiss(source, other)
    for other in (None, filled, codec, faiss.IndexFlatL2(8), faiss.index_factory(8, "IVF5,PQ2x4")):
        with pytest.raises(TypeError, match="expected an IndexIVFResidualQuantizer"):
            fq.from_faiss(other, codec)
    with pytest.raises(RuntimeError, match="not trained"):
        fq.from_faiss(faiss.index_factory(8, "IVF5,RQ3x4_Nqint8"), codec)
    source.by_residual = False
    with pytest.raises(ValueError, match="residuals"):
        fq.from_faiss(source, codec)
    source.by_residual = True
    source.rq.codebooks.resize(7)
    with pytest.raises(ValueError, match="do not fit together"):
        fq.from_faiss(source, codec)
    source, _, _ = writer.ivf_rq(codec)
    codebooks = faiss.vector_to_array(source.rq.codebooks)
    codebooks[3] = np.nan
    faiss.copy_array_to_vector(codebooks, source.rq.codebooks)
    with pytest.raises(RuntimeError, match="codebooks"):
        fq.from_faiss(source, codec)

    with pytest.raises(ValueError, match="L2"):
        fq.deserialize_index(trained[faiss.METRIC_INNER_PRODUCT]).to_faiss()
    with pytest.raises(RuntimeError, match="train"):
        new_index().to_faiss()
    for search_type in (99, "qint8", faiss.AdditiveQuantizer.ST_norm_cqint8):
        with pytest.raises(ValueError, match="search_type"):
            filled.to_faiss(search_type)
