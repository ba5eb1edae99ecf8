"""Quantizers of every kind, and what becomes of rows that they have no list for."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from .conftest import TINY, make_searchable, new_index, training


def hnsw_index(**kwargs) -> fq.IndexIVFQINCo:
    index = new_index(epochs=1, **kwargs)
    index.quantizer = faiss.IndexHNSWFlat(128, 16, index.metric_type)
    return index


@pytest.fixture(scope="module")
def hnsw_image(learn, base) -> np.ndarray:
    index = hnsw_index()
    make_searchable(index, learn[:3000])
    index.add(base[:1000])
    return fq.serialize_index(index)


def test_rows_without_a_list_are_not_stored(hnsw_image, base, queries):
    """As in FAISS: they are numbered, and the others of the batch are stored."""
    index = fq.deserialize_index(hnsw_image)
    x = base[1000:1005].copy()
    x[1], x[3, 0] = 1e25, np.nan
    index.add(x)
    assert index.ntotal == 1005
    assert int(index.lists.sizes().sum()) == 1003
    decoded = index.reconstruct_n(1000, 5)
    assert np.isnan(decoded[[1, 3]]).all()
    assert np.isfinite(decoded[[0, 2, 4]]).all()
    q = queries[:3].copy()
    q[1] = 1e25
    I = index.search(q, 2)[1]
    assert (I[1] == -1).all()
    np.testing.assert_array_equal(I[[0, 2]], index.search(queries[[0, 2]], 2)[1])


class Reluctant(faiss.IndexFlatL2):
    """A quantizer with no list for vectors whose first number is large."""

    def search(self, x, k, **kwargs):
        D, I = super().search(x, k, **kwargs)
        I[x[:, 0] > 100] = -1
        return D, I


def test_training_without_the_rows_that_have_no_list(learn, base):
    index = new_index(epochs=1)
    index.quantizer = Reluctant(128)
    index.train(learn[:3000])
    with_list = learn[:3000][learn[:3000, 0] <= 100]
    twin = new_index(epochs=1)
    twin.quantizer.add(index.quantizer.reconstruct_n(0, 16))
    twin.train(with_list)
    assert 300 < len(with_list) < 3000
    np.testing.assert_allclose(index.codec.mean, twin.codec.mean, rtol=1e-6)
    index.add(base[:500])
    assert int(index.lists.sizes().sum()) == int((base[:500, 0] <= 100).sum())


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("call", ["search", "range_search"])
def test_quantizer_params_may_be_made_inline(hnsw_image, queries, held, call):
    index = fq.deserialize_index(hnsw_image)
    args = (queries, 3) if call == "search" else (queries, 60_000.0)
    run = getattr(index, call)
    expected = run(*args, params=fq.SearchParametersIVFQINCo(nprobe=4))
    for _ in range(20):
        if held:
            inner = faiss.SearchParametersHNSW(efSearch=64)
            params = faiss.SearchParametersIVF(nprobe=4, quantizer_params=inner)
            found = run(*args, params=params)
        else:
            found = run(
                *args,
                params=faiss.SearchParametersIVF(
                    nprobe=4, quantizer_params=faiss.SearchParametersHNSW(efSearch=64)
                ),
            )
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(TypeError, match="quantizer_params"):
        fq.SearchParametersIVFQINCo(quantizer_params=5)


def run_script(text: str, *args: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *args],
        stdout=subprocess.PIPE, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip


def test_after_contrib_torch_utils(hnsw_image, queries, tmp_path):
    """It replaces faiss's search by one that takes no params."""
    pytest.importorskip("torch")
    (tmp_path / "index.fqi").write_bytes(hnsw_image.tobytes())
    np.save(tmp_path / "q.npy", queries[:20])
    program = """
        import sys, faiss, numpy as np, faiss_qinco as fq
        index, q = fq.read_index(sys.argv[1]), np.load(sys.argv[2])
        params = fq.SearchParametersIVFQINCo(
            nprobe=4, quantizer_params=faiss.SearchParametersHNSW(efSearch=64))
        calls = [
            lambda x: index.search(x, 3),
            lambda x: index.search(x, 3, params=params),
            lambda x: index.range_search(x, 6e4),
        ]
        expected = [call(q) for call in calls]
        import torch, faiss.contrib.torch_utils
        for x in (q, torch.from_numpy(q)):
            for call, found in zip(calls, expected):
                assert all(np.array_equal(a, b) for a, b in zip(call(x), found))
        index.add(q)
        assert index.ntotal == 1020
        print("the same")
    """
    assert run_script(program, str(tmp_path / "index.fqi"), str(tmp_path / "q.npy")) == "the same\n"


def test_after_a_fork(hnsw_image, queries, tmp_path):
    """The threads of faiss's OpenMP are not there in the child, which must not wait for them."""
    (tmp_path / "index.fqi").write_bytes(hnsw_image.tobytes())
    np.save(tmp_path / "q.npy", np.tile(queries, (4, 1)))
    program = """
        import os, sys, faiss, numpy as np, faiss_qinco as fq
        faiss.omp_set_num_threads(2)
        index, q = fq.read_index(sys.argv[1]), np.load(sys.argv[2])
        expected = index.search(q, 3)[1]
        child = os.fork()
        if child == 0:
            same = (index.search(q, 3)[1] == expected).all() and faiss.omp_get_max_threads() == 2
            index.add(q)
            os._exit(0 if same and index.ntotal == 1000 + len(q) else 1)
        assert os.waitpid(child, 0)[1] == 0
        print("the same")
    """
    assert run_script(program, str(tmp_path / "index.fqi"), str(tmp_path / "q.npy")) == "the same\n"


def test_inner_product_codes_go_to_the_lists_of_the_index(trained, base):
    """`codec.encode` assigns by the metric of the index that it was trained for."""
    index = fq.deserialize_index(trained[faiss.METRIC_INNER_PRODUCT])
    codes = index.codec.encode(base[:300])
    np.testing.assert_array_equal(codes[:, 0], index.quantizer.assign(base[:300], 1)[:, 0])
    assert (codes[:, 0] != index.codec.encode(base[:300] - 100)[:, 0]).any()


def test_a_codec_of_another_kind_is_refused(trained, learn):
    codec = fq.deserialize_index(trained[faiss.METRIC_L2]).codec
    with pytest.raises(ValueError, match="metric"):
        new_index(faiss.METRIC_INNER_PRODUCT).train_from_codec(learn, codec)
    with pytest.raises(TypeError, match="codec"):
        new_index().train_from_codec(learn, None)


def test_numpy_sizes():
    index = fq.index_factory(np.int64(128), "IVF16_HNSW8,QINCo4x8")
    assert type(index.d) is int
    index = fq.IndexIVFQINCo(
        faiss.IndexFlatL2(128), np.int32(128), np.int64(16), np.uint8(4), config=TINY,
        training=training(),
    )  # fmt: skip
    assert (type(index.nlist), type(index.M)) == (int, int)
