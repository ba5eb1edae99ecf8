"""`IndexIVFQINCo` and `IndexQINCo`: results against definitions, behaviour against FAISS's."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import pickle
import subprocess
import sys
import textwrap
import weakref

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from .conftest import TINY, make_searchable, new_index, training

FLT_MAX = np.finfo(np.float32).max
METRICS = {"L2": faiss.METRIC_L2, "IP": faiss.METRIC_INNER_PRODUCT}


def brute_force(x, vectors, k, metric):
    """Exact search in float64, ties by lower id."""
    x, vectors = x.astype(np.float64), vectors.astype(np.float64)
    if metric == faiss.METRIC_L2:
        score = np.stack([np.square(vectors - q).sum(1) for q in x])
    else:
        score = -(x @ vectors.T)
    ids = np.argsort(score, axis=1, kind="stable")[:, :k]
    D = np.take_along_axis(score, ids, axis=1)
    return D if metric == faiss.METRIC_L2 else -D, ids


def flat_index(learn, metric=faiss.METRIC_L2):
    index = fq.IndexQINCo(128, 4, 8, metric, TINY, training())
    make_searchable(index, learn)
    return index


def assert_same_results(D, I, D_expected, I_expected):
    np.testing.assert_allclose(D, D_expected, rtol=1e-4)
    assert (I_expected == I).mean() > 0.99  # near-ties may swap: two ids each


# -- results ----------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_exhaustive_search_is_brute_force_over_decoded_vectors(trained, base, queries, metric):
    index = fq.deserialize_index(trained[metric])
    index.add(base[:3000])
    index.nprobe, index.nshort, index.exit_margin = index.nlist, 3000, np.inf
    D, I = index.search(queries[:50], 20)
    decoded = index.reconstruct_n(0, 3000)
    assert_same_results(D, I, *brute_force(queries[:50], decoded, 20, metric))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_flat_exhaustive_search_is_brute_force(learn, base, queries, metric):
    index = flat_index(learn[:4000], metric)
    index.add(base[:1000])
    index.nshort, index.exit_margin = 1000, np.inf
    D, I = index.search(queries[:30], 10)
    decoded = index.reconstruct_n(0, 1000)
    assert_same_results(D, I, *brute_force(queries[:30], decoded, 10, metric))
    np.testing.assert_array_equal(index.reconstruct(17), decoded[17])


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_additive_distance_is_its_definition(trained, base, queries, metric):
    """nshort 0: |q - (centroid + Σ C_m[i_m])|², or the inner product (DESIGN section 1)."""
    index = fq.deserialize_index(trained[metric])
    index.add(base[:1000])
    index.nprobe, index.nshort = index.nlist, 0
    D, I = index.search(queries[:20], 1000)
    engine = index._engine
    order = np.argsort(np.concatenate([index.lists.get_ids(l) for l in range(16)]))
    codes = np.concatenate([index.lists.get_codes(l) for l in range(16)])[order]
    list_no = np.repeat(np.arange(16), index.lists.sizes())[order]
    C = engine.additive.astype(np.float64)
    approximation = engine.bases[list_no] + sum(C[m, codes[:, m]] for m in range(4))
    if metric == faiss.METRIC_INNER_PRODUCT:
        approximation = of_length(approximation, base[:1000])
    D_expected, I_expected = brute_force(queries[:20], approximation, 1000, metric)
    rounded = 2**-8 * np.abs(D_expected).max()  # a bias has two bytes
    np.testing.assert_allclose(D, D_expected, rtol=1e-3, atol=rounded)
    assert (I[:, 0] == I_expected[:, 0]).mean() > 0.9


def test_with_inner_product_codes_add_to_the_means_of_the_lists(trained, learn, base):
    index = fq.deserialize_index(trained[0])
    codec, x = index.codec, learn.astype(np.float64)
    centroids = index.quantizer.reconstruct_n(0, index.nlist)
    list_no = (x @ centroids.T).argmax(1)
    for l in range(index.nlist):
        members = x[list_no == l]
        assert np.linalg.norm(codec.bases()[l] - members.mean(0)) < 0.05 * members.std() * 128**0.5
    np.testing.assert_allclose(np.linalg.norm(codec.centroids(), axis=1), 1, rtol=1e-5)
    # Alone, as in the index, it chooses lists by the centroids; and so does what is read again.
    for other in (codec, pickle.loads(pickle.dumps(codec)), copy.deepcopy(index).codec):
        found = other.encode(base[:100])
        np.testing.assert_array_equal(found[:, 0], (base[:100] @ centroids.T).argmax(1))
    index.additive_weight = 0
    index.add(base[:100])
    index.make_direct_map()
    np.testing.assert_allclose(
        index.reconstruct_n(0, 100), of_length(codec.decode(found), base[:100]), rtol=2e-3
    )


def of_length(x_hat, x):
    """x_hat (n, d), as long as x is."""
    return x_hat * (np.linalg.norm(x, axis=1) / np.linalg.norm(x_hat, axis=1))[:, None]


def test_codes_are_chosen_with_the_tables_error(trained, learn, base):
    codec, base = fq.deserialize_index(trained[faiss.METRIC_L2]).codec, base[:2000]
    config = dataclasses.replace(codec.config, B=16)
    codec = fq.QINCoCodec(config, codec.M, codec.nbits, True, codec.mean, codec.std, codec.tensors)
    found = {}
    for weight in (0.0, 0.5):
        index = new_index()
        index.additive_weight = weight
        index.train_from_codec(learn, codec)
        index.add(base)
        again = fq.deserialize_index(fq.serialize_index(index))
        assert again.additive_weight == weight
        np.testing.assert_array_equal(again.sa_encode(base[:50]), index.sa_encode(base[:50]))
        lists, codes = index._engine.encode(base, None, "cpu")
        tables = index.codec.centroids()[lists]
        for m, codebook in enumerate(index._engine.additive):
            tables = tables + codebook[codes[:, m]]
        decoded = index.reconstruct_n(0, len(base))
        found[weight] = np.array([np.square(y - base).sum(1).mean() for y in (decoded, tables)])
    more, less = found[0.5] / found[0.0]
    assert 1 < more < 1.05 and less < 0.98
    index.additive_weight = 0
    lists = index.sa_encode(base[:50])[:, 0].astype(np.int64)
    codes = codec.encode(base[:50], lists)[:, 1:]
    np.testing.assert_array_equal(index.sa_encode(base[:50])[:, 1:], codes)
    for bad, error in ((-1, ValueError), (np.inf, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="additive_weight"):
            index.additive_weight = bad


def test_length_correction(trained, learn, queries):
    """With inner product what is stored has the length of what was added: whatever the length, the
    same in search and `reconstruct`, and what was short is found more often for it."""
    rng = np.random.default_rng(0)
    x = learn[:3000] * rng.uniform(0.5, 2, (3000, 1)).astype(np.float32)
    x[5] = 0
    codec = fq.deserialize_index(trained[0]).codec
    best = (queries @ x.T).argmax(1)
    found = {}
    for corrected in (True, False):
        index = fq.IndexIVFQINCo(
            faiss.IndexFlatIP(128), 128, 16, 4, 8, faiss.METRIC_INNER_PRODUCT,
            training=training(),
        )  # fmt: skip
        assert index.length_correction
        index.length_correction = corrected
        index.train_from_codec(x, codec)
        index.add(x)
        index = copy.deepcopy(index)
        assert index.length_correction == corrected
        with pytest.raises(RuntimeError, match="length_correction"):
            index.length_correction = not corrected
        index.nprobe = 16
        D, I = index.search(queries, 10)
        stored = index.reconstruct_n(0, 3000)
        np.testing.assert_allclose((queries[:, None] * stored[I]).sum(2), D, rtol=1e-4)
        lengths = np.linalg.norm(stored, axis=1)
        assert np.allclose(lengths, np.linalg.norm(x, axis=1), rtol=2e-3, atol=1) == corrected
        found[corrected] = (best[:, None] == I).any(1).mean()
        lims, _, of_range = index.range_search(queries[:20], float(np.median(D)))
        inside = D[:20] > np.median(D)
        rows = np.repeat(np.arange(20), np.diff(lims.astype(int)))
        pairs = set(zip(rows.tolist(), of_range.tolist(), strict=True))
        assert np.mean([(i, j) in pairs for i, j in zip(*np.nonzero(inside), strict=True)
                        for j in [I[i, j]]]) > 0.95  # fmt: skip
    assert found[True] > found[False]
    l2 = fq.IndexQINCo(16, 2)
    assert not l2.length_correction
    with pytest.raises(ValueError, match="L2"):
        l2.length_correction = True


def test_distance_is_to_what_reconstruct_returns(filled, queries):
    filled.nprobe = 4
    D, I = filled.search(queries[:40], 5)
    filled.make_direct_map()
    for q, d, i in zip(queries[:40], D, I, strict=True):
        vectors = np.stack([filled.reconstruct(int(j)) for j in i])
        np.testing.assert_allclose(d, np.square(vectors - q).sum(1), rtol=1e-5)


def test_recall_is_in_its_band(learn, base, queries, groundtruth):
    """Too good would be a bug as well: 4 bytes cannot find every neighbour."""
    index = new_index(epochs=10)
    index.train(learn)
    index.add(base)
    index.nprobe = 8

    def recall(nshort, rank):
        index.nshort = nshort
        return (index.search(queries, rank)[1] == groundtruth[:, :1]).any(1).mean()

    assert 0.10 < recall(0, 1) < recall(200, 1) < 0.60
    assert 0.55 < recall(200, 10) < 0.98


@pytest.mark.parametrize("nbits", [4, 5, 6, 7])
def test_fewer_bits(learn, base, queries, nbits):
    index = new_index(nbits=nbits)
    make_searchable(index, learn[:4000])
    index.add(base[:1000])
    assert index.code_size == (4 * nbits + 7) // 8
    index.nprobe, index.nshort, index.exit_margin = index.nlist, 1000, np.inf
    D, I = index.search(queries[:20], 10)
    decoded = index.reconstruct_n(0, 1000)
    assert_same_results(D, I, *brute_force(queries[:20], decoded, 10, faiss.METRIC_L2))
    codes = index.sa_encode(base[:1000])
    assert codes.shape == (1000, index.code_size + 1)
    np.testing.assert_array_equal(index.sa_decode(codes), decoded)


@pytest.mark.parametrize("nshort", [0, 50])
def test_threads_and_batches_do_not_change_results(filled, queries, nshort):
    filled.nprobe, filled.nshort = 5, nshort
    try:
        fq.set_num_threads(1)
        D1, I1 = filled.search(queries, 10)
        singles = [filled.search(q[None], 10) for q in queries[:60]]
        fq.set_num_threads(2)
        D2, I2 = filled.search(queries, 10)
    finally:
        fq.set_num_threads(None)
    np.testing.assert_array_equal(D1, D2)
    np.testing.assert_array_equal(I1, I2)
    np.testing.assert_array_equal(np.vstack([D for D, _ in singles]), D1[:60])
    np.testing.assert_array_equal(np.vstack([I for _, I in singles]), I1[:60])


@pytest.mark.parametrize("level", fq.simd_levels())
def test_many_queries_find_what_one_finds(trained, base, queries, tmp_path, level):
    """On every level: some scan the lists of a batch for groups of queries."""
    np.save(tmp_path / "q.npy", queries)
    for metric, image in trained.items():
        index = fq.deserialize_index(image)
        index.add(base[:3000])
        index.nprobe = 6
        fq.write_index(index, str(tmp_path / f"{metric}.fqi"))
    program = """
        import sys
        import numpy as np
        import faiss_qinco as fq
        q = np.load(sys.argv[1])
        assert fq.simd_level() == sys.argv[2]
        for path in sys.argv[3:]:
            index = fq.read_index(path)
            for index.nshort in (0, 50):
                found = index.search(q, 20)
                alone = [index.search(row[None], 20) for row in q[:60]]
                for both, singles in zip(found, zip(*alone)):
                    np.testing.assert_array_equal(both[:60], np.vstack(singles))
    """
    images = [str(tmp_path / f"{metric}.fqi") for metric in trained]
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "q.npy"), level, *images],
        env={**os.environ, "FAISS_QINCO_SIMD": level}, timeout=120, check=True,
    )  # fmt: skip


def test_shortlist_does_not_depend_on_k(filled, queries):
    filled.nprobe, filled.nshort, filled.exit_margin = 5, 40, np.inf
    D10, I10 = filled.search(queries, 10)
    D40, I40 = filled.search(queries, 40)
    np.testing.assert_array_equal(I10, I40[:, :10])
    np.testing.assert_array_equal(D10, D40[:, :10])


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_early_exit_saves_work_and_loses_little(trained, base, queries, metric):
    index = fq.deserialize_index(trained[metric])
    index.add(base)
    index.nprobe, index.nshort, index.exit_margin = 8, 500, np.inf
    fq.search_stats.reset()
    D_all, I_all = index.search(queries, 1)
    assert fq.search_stats.nq == len(queries)
    assert fq.search_stats.n_steps >= 4 * fq.search_stats.n_reranked > 0  # bf16: some run twice
    assert fq.search_stats.n_steps_saved == 0
    index.exit_margin = 1.0
    fq.search_stats.reset()
    D, I = index.search(queries, 1)
    stats = fq.search_stats
    assert stats.n_steps + stats.n_steps_saved >= 4 * stats.n_reranked
    saved = stats.n_steps_saved / (4 * stats.n_reranked)
    assert (0.5 if metric == faiss.METRIC_L2 else 0.25) < saved < 0.995
    same = I_all == I
    assert same.mean() > 0.985
    np.testing.assert_array_equal(D[same], D_all[same])  # always exact
    index.exit_margin = 1e9
    np.testing.assert_array_equal(index.search(queries, 1)[1], I_all)


@pytest.mark.parametrize(
    ("ivf", "metric"), [(True, faiss.METRIC_L2), (False, faiss.METRIC_INNER_PRODUCT)]
)
def test_a_precomputed_table_changes_no_result(trained, learn, base, queries, ivf, metric):
    index = fq.deserialize_index(trained[metric]) if ivf else flat_index(learn[:4000], metric)
    index.add(base[:3000])
    params = [
        fq.SearchParametersIVFQINCo(nprobe=4, nshort=nshort, exit_margin=margin)
        for nshort in (0, 12, 200, 4000)  # more than are probed
        for margin in (1.0, np.inf)
    ]
    radius = float(np.median(index.search(queries, 5)[0]))

    def results():
        found = [a for p in params for a in index.search(queries, 3, params=p)]
        return [*found, *index.range_search(queries[:20], radius)]

    def work():
        fq.search_stats.reset()
        index.search(queries, 1, params=params[4])
        return fq.search_stats.n_steps, fq.search_stats.n_steps_saved

    expected, (n_steps, n_saved) = results(), work()
    index.precompute_table()
    for a, b in zip(results(), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    n_run, n_not_run = work()
    assert n_run < n_steps
    assert n_run + n_not_run == n_steps + n_saved
    index.rerank_device = "cpu:0"  # torch has no use for it
    index.search(queries[:3], 1)


def test_use_precomputed_table(filled, learn, queries, monkeypatch):
    pytest.importorskip("torch")  # for a new student
    monkeypatch.setattr("faiss_qinco.training.student.EPOCHS", 1)
    assert filled.use_precomputed_table == 0
    before = filled.memory_usage()
    filled.use_precomputed_table = 1
    memory = filled.memory_usage()
    assert memory["precomputed_table"] == 16 * 256 * 128 * 4
    assert memory["total"] == before["total"] + memory["precomputed_table"]
    for clone in (copy.copy, copy.deepcopy, lambda i: fq.deserialize_index(fq.serialize_index(i))):
        assert clone(filled).use_precomputed_table == 0
    with pytest.raises(ValueError, match="use_precomputed_table"):
        filled.use_precomputed_table = 2

    filled.training = training()
    filled.distill(learn[:3000])  # the codec's weights are the same
    assert filled.use_precomputed_table == 1
    with_table = filled.search(queries, 3)
    filled.use_precomputed_table = -1
    assert filled.memory_usage()["precomputed_table"] == filled.use_precomputed_table == 0
    for a, b in zip(filled.search(queries, 3), with_table, strict=True):
        np.testing.assert_array_equal(a, b)

    filled.precompute_table()
    filled.reset()
    filled.train_from_codec(learn[:3000], copy.copy(filled.codec))
    assert filled.use_precomputed_table == 0  # it was of the codec before


def test_no_precomputed_table(learn):
    index = new_index()
    index.use_precomputed_table = 0
    with pytest.raises(RuntimeError, match="not trained"):
        index.use_precomputed_table = 1
    no_network = fq.IndexQINCo(128, 1, 4, config=TINY, training=training())
    make_searchable(no_network, learn[:500])
    with pytest.raises(RuntimeError, match="no network"):
        no_network.precompute_table()


def test_early_exit_keeps_k_candidates(filled, queries):
    filled.nprobe, filled.nshort, filled.exit_margin = 16, 200, 0.0
    D, I = filled.search(queries, 37)
    assert (I >= 0).all()
    assert all(len(set(row)) == 37 for row in I)
    assert (np.diff(D, axis=1) >= 0).all()
    params = fq.SearchParametersIVFQINCo(nprobe=16, exit_margin=np.inf)
    assert (filled.search(queries, 37, params=params)[0].mean(axis=1) <= D.mean(axis=1)).all()
    with pytest.raises(ValueError, match="exit_margin"):
        filled.exit_margin = -1
    with pytest.raises(ValueError, match="exit_margin"):
        fq.SearchParametersIVFQINCo(exit_margin=np.nan)


@pytest.fixture
def torch_index(trained, base, request):
    """Some vectors are stored twice: only the id says which comes first."""
    index = fq.deserialize_index(trained[request.param])
    index.add(np.vstack((base[:3000], base[:1000])))
    index.nprobe, index.exit_margin = 5, np.inf
    return index


@pytest.mark.parametrize("torch_index", METRICS.values(), ids=METRICS, indirect=True)
def test_a_torch_device_gives_the_same_results(torch_index, queries):
    """What a GPU runs, here on CPU tensors."""
    index, q = torch_index, queries[:60].copy()
    q[3, 5] = np.nan
    Dq, Iq = index.quantizer.search(queries[:60], 5)
    few = fq.SearchParametersIVFQINCo(nprobe=4, nshort=70, sel=faiss.IDSelectorRange(2000, 2300))
    none = fq.SearchParametersIVFQINCo(sel=faiss.IDSelectorRange(-9, -1))
    early = fq.SearchParametersIVFQINCo(nprobe=5, max_codes=90, ensure_topk_full=True)
    calls = [
        lambda: index.search(q, 10),
        lambda: index.search(q, 150),  # more than nshort, which are not worth a device
        lambda: index.search(q[:9], 5000),  # more than there are
        lambda: index.search(q, 20, params=few),
        lambda: index.search(q, 20, params=none),
        lambda: index.search(q, 20, params=early),
        lambda: index.search_preassigned(q, 10, Iq, Dq),
        lambda: index.search_preassigned(q, 10, Iq, None),
    ]
    expected = [call() for call in calls]
    index.rerank_device = "cpu:0"
    for call, (D, I) in zip(calls, expected, strict=True):
        found = call()
        assert [a.dtype for a in found] == [np.float32, np.int64]
        assert_same_results(*found, D, I)
    D, I = np.empty((60, 10), np.float32), np.empty((60, 10), np.int64)
    assert index.search(q, 10, D=D, I=I)[0] is D
    np.testing.assert_array_equal(I, calls[0]()[1])
    assert index.search(q[:0], 3)[0].shape == (0, 3)
    index.reset()
    assert (index.search(q, 3)[1] == -1).all()


def test_a_flat_index_on_a_torch_device(learn, base, queries):
    index = flat_index(learn[:4000])
    index.add(base[:1000])
    index.exit_margin = np.inf
    expected = index.search(queries, 10)
    index.rerank_device = "cpu:0"
    assert_same_results(*index.search(queries, 10), *expected)


def test_rerank_device(filled, queries):
    pytest.importorskip("torch")
    assert filled.rerank_device == "cpu"
    expected = filled.search(queries[:5], 3)
    filled.rerank_device = "nonsense"
    with pytest.raises(RuntimeError, match="torch cannot use 'nonsense'"):
        filled.search(queries[:5], 3)
    with pytest.raises(TypeError, match="rerank_device"):
        filled.rerank_device = 0
    for twin in (copy.copy(filled), pickle.loads(pickle.dumps(filled))):
        assert twin.rerank_device == "nonsense"
    restored = fq.deserialize_index(fq.serialize_index(filled))
    np.testing.assert_array_equal(restored.search(queries[:5], 3)[1], expected[1])
    filled.range_search(queries[:5], 1.0)  # the extension's alone
    filled.nshort = 0
    filled.search(queries[:5], 3)


def test_any_quantizer(learn, base, queries):
    """HNSW as coarse quantizer: the same lists as flat, but for what its graph misses."""
    flat, hnsw = new_index(epochs=1), new_index(epochs=1)
    hnsw.quantizer = faiss.IndexHNSWFlat(128, 16)
    for index in (flat, hnsw):
        index.train(learn[:4000])
        index.add(base[:2000])
        index.nprobe = 4
    assert (flat.lists.sizes() == hnsw.lists.sizes()).all()
    np.testing.assert_array_equal(flat.search(queries, 5)[1], hnsw.search(queries, 5)[1])


def test_trained_quantizer_is_kept_and_cp_is_used(learn):
    index = new_index(epochs=1)
    index.quantizer.add(learn[:16])
    index.train(learn[:4000])
    np.testing.assert_array_equal(index.quantizer.reconstruct_n(0, 16), learn[:16])
    other = new_index(epochs=1)
    other.cp.niter, other.cp.frozen_centroids = 1, False
    other.train(learn[:4000])
    clustering = faiss.Clustering(128, 16, other.cp)
    clustering.train(learn[:4000], faiss.IndexFlatL2(128))
    expected = faiss.vector_to_array(clustering.centroids).reshape(16, 128)
    np.testing.assert_array_equal(other.quantizer.reconstruct_n(0, 16), expected)


def test_train_from_codec(filled, learn, base, queries):
    index = fq.IndexIVFQINCo(faiss.IndexFlatL2(128), 128, 16, 4, config=TINY)
    index.error_weight = filled.error_weight
    index.train_from_codec(learn, filled.codec)
    index.add(base[:3000])
    filled.nprobe = index.nprobe = 4
    assert (index.search(queries, 1)[1] == filled.search(queries, 1)[1]).mean() > 0.99
    wrong = fq.IndexIVFQINCo(faiss.IndexFlatL2(128), 128, 17, 4, config=TINY)
    with pytest.raises(ValueError, match="codec"):
        wrong.train_from_codec(learn, filled.codec)


def test_a_second_train_trains_anew(learn, base):
    """As in FAISS, with the centroids that there are; what is stored would lose its meaning."""
    index = new_index(epochs=1)
    index.train(learn[:3000])
    first, centroids = index.codec, index.quantizer.reconstruct_n(0, 16)
    index.train(learn[3000:6000] + 10)
    assert index.codec is not first
    assert (index.codec.mean > first.mean).mean() > 0.9
    np.testing.assert_array_equal(index.quantizer.reconstruct_n(0, 16), centroids)
    index.add(base[:100])
    stored = index.reconstruct_n()
    for train in (index.train, lambda x: index.train_from_codec(x, first)):
        with pytest.raises(RuntimeError, match="reset"):
            train(learn[:3000])
    np.testing.assert_array_equal(index.reconstruct_n(), stored)
    with pytest.raises(RuntimeError):
        new_index().train(np.full((300, 128), np.nan))
    index.reset()
    with pytest.raises(RuntimeError, match="NaN"):
        index.train(np.full((300, 128), np.nan))
    assert index.is_trained  # as it was


def test_ctrl_c_after_the_codec_loses_nothing(learn, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    index = new_index(checkpoint=path)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("faiss_qinco.index.training.fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.train(learn[:3000])
    assert not index.is_trained
    assert path.exists()
    with monkeypatch.context() as patch:  # it is taken from there
        patch.setattr("faiss_qinco.training.loop.residual_codebooks", interrupted)
        patch.setattr("faiss_qinco.training.loop.Descent", interrupted)
        index.train(learn[:3000])
    assert index.is_trained
    assert not path.exists()
    missing = new_index(checkpoint=tmp_path / "missing" / "checkpoint")
    monkeypatch.setattr(faiss, "Clustering", interrupted)  # before anything is done
    with pytest.raises(OSError, match="missing"):
        missing.train(learn[:3000])


def test_one_row_far_outside_spoils_nothing(learn, base, queries):
    """A unit mix-up among the training vectors; PQ and RQ do as well with it as without."""

    def recall(x):
        index = new_index(epochs=2)
        index.train(x)
        index.add(base[:2000])
        index.nprobe = 16
        nearest = faiss.knn(queries, base[:2000], 1)[1]
        return (index.search(queries, 10)[1] == nearest).any(axis=1).mean()

    x = learn[:2000].copy()
    clean = recall(x)
    x[7, 3] = 1e6
    assert recall(x) > clean - 0.03
    x[7, 3] = 1e20
    with pytest.raises(RuntimeError, match="vector 7"):
        recall(x)


# -- behaviour, FAISS's -----------------------------------------------------------------------


def test_inputs(filled, queries):
    q = np.round(queries[:5])
    D, I = filled.search(q, 3)
    for same in (q.astype(np.float64), q.astype(np.uint8), np.asfortranarray(q), q.astype("f2")):
        np.testing.assert_array_equal(filled.search(same, 3)[1], I)
    assert D.dtype == np.float32
    assert I.dtype == np.int64
    assert filled.search(q[:0], 3)[0].shape == (0, 3)
    for wrong, error in (
        (q.tolist(), AttributeError),
        (q[0], ValueError),
        (q[None], ValueError),
        (q[:, :64], AssertionError),
    ):
        for call in (filled.add, filled.sa_encode, lambda x: filled.search(x, 3)):
            with pytest.raises(error):
                call(wrong)
    assert filled.ntotal == 3000


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("n", [3, 300])
def test_below_k_nshort_are_ranked_and_the_rest_follows(trained, base, queries, metric, n):
    index = fq.deserialize_index(trained[metric])
    index.add(base[:3000])
    index.nprobe, index.nshort, index.exit_margin = 6, 0, np.inf
    D_tables, I_tables = index.search(queries[:n], 30)
    sign = 1 if metric == faiss.METRIC_L2 else -1
    for nshort in (1, 7, 29):
        index.nshort = nshort
        D, I = index.search(queries[:n], 30)
        np.testing.assert_array_equal(np.sort(I[:, :nshort], 1), np.sort(I_tables[:, :nshort], 1))
        np.testing.assert_array_equal(I[:, nshort:], I_tables[:, nshort:])
        last = np.maximum.accumulate(np.hstack([D[:, :nshort], D_tables[:, nshort:]]) * sign, 1)
        np.testing.assert_array_equal(D[:, nshort:] * sign, last[:, nshort:])
        index.nshort = 30
        of_all = index.search(queries[:n], 30)
        for i in range(n):
            exact = dict(zip(of_all[1][i], of_all[0][i], strict=True))
            np.testing.assert_array_equal(D[i, :nshort], [exact[id] for id in I[i, :nshort]])
            assert (np.diff(D[i] * sign) >= 0).all()


def test_nshort_follows_k(filled, queries):
    """Else the shortlist would be the result: k of k."""
    assert filled.nshort is None
    filled.nprobe, filled.exit_margin = 16, np.inf
    for k, nshort in ((10, 100), (25, 100), (50, 200), (100, 400)):
        results = []
        for value in (None, nshort, k):
            filled.nshort = value
            results.append(filled.search(queries, k)[1])
        np.testing.assert_array_equal(results[0], results[1])
        assert (results[0] != results[2]).any()
    params = fq.SearchParametersIVFQINCo(nprobe=16, nshort=0)
    filled.nshort = None
    assert (filled.search(queries, 5, params=params)[0] != filled.search(queries, 5)[0]).any()


def test_arguments_that_are_none(filled, base, queries):
    for call, error in (
        (lambda: filled.add_with_ids(base[:3], None), AttributeError),
        (lambda: filled.range_search(queries, "1"), TypeError),
        (lambda: filled.range_search(queries, None), TypeError),
        (lambda: filled.reconstruct_n(1.5, 2), TypeError),
        (lambda: fq.index_factory(16.0, "QINCo8"), TypeError),
    ):
        with pytest.raises(error):
            call()
    assert filled.ntotal == 3000
    for huge in (1 << 62, 1 << 63, 10**30):
        given = fq.SearchParametersIVFQINCo(nprobe=huge, nshort=huge, max_codes=huge)
        assert filled.search(queries[:2], 3, params=given)[1].min() >= 0
        with pytest.raises((MemoryError, ValueError), match="k"):
            filled.search(queries[:2], huge)
    with pytest.raises(AttributeError):
        given.nprob = 3


def test_weak_references_and_repr(filled):
    assert weakref.ref(filled)() is filled
    assert repr(filled) == "<IndexIVFQINCo IVF16,QINCo4x8 d=128 L2 ntotal=3000>"
    assert repr(filled.codec) == "<QINCoCodec 4x8 d=128 nlist=16 L=1 d_e=128 d_h=32>"
    assert "inner product untrained" in repr(new_index(faiss.METRIC_INNER_PRODUCT))


def test_k(filled, queries):
    for k, error in ((0, AssertionError), (-1, AssertionError), (3.0, TypeError), (0, ValueError)):
        with pytest.raises(error):
            filled.search(queries, k)
    filled.nprobe = filled.nlist
    D, I = filled.search(queries[:2], 3005)
    for row in I:
        np.testing.assert_array_equal(np.sort(row[:3000]), np.arange(3000))
    assert (I[:, 3000:] == -1).all()
    assert (D[:, 3000:] == FLT_MAX).all()


def test_buffers(filled, queries):
    D, I = np.empty((500, 4), np.float32), np.empty((500, 4), np.int64)
    out = filled.search(queries, 4, D=D, I=I)
    assert out[0] is D
    assert out[1] is I
    np.testing.assert_array_equal(I, filled.search(queries, 4)[1])
    np.testing.assert_array_equal(filled.assign(queries, 4), I)
    with pytest.raises(AssertionError):
        filled.search(queries, 5, D=D)
    with pytest.raises(TypeError):
        filled.search(queries, 4, I=D)
    with pytest.raises(ValueError):
        filled.search(queries, 4, D=np.asfortranarray(D))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_empty_index_and_padding(trained, queries, metric):
    index = fq.deserialize_index(trained[metric])
    D, I = index.search(queries[:2], 3)
    assert (I == -1).all()
    assert (FLT_MAX == D if metric == faiss.METRIC_L2 else D == -FLT_MAX).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(filled, queries, base, bad):
    q = queries[:3].copy()
    I = filled.search(q, 3)[1]
    q[1, 5] = bad
    D_bad, I_bad = filled.search(q, 3)
    assert (I_bad[1] == -1).all()
    assert (D_bad[1] == FLT_MAX).all()
    np.testing.assert_array_equal(I_bad[[0, 2]], I[[0, 2]])
    x = base[:3].copy()
    x[1, 0] = bad
    filled.add(x)
    assert filled.ntotal == 3003
    filled.nprobe = filled.nlist
    assert 3001 not in filled.search(queries, 3003)[1]
    decoded = filled.reconstruct_n(3000, 3)
    assert np.isnan(decoded[1]).all()
    assert np.isfinite(decoded[[0, 2]]).all()
    with pytest.raises(RuntimeError, match="NaN"):
        filled.sa_encode(x)


def test_untrained(base, queries):
    index = new_index()
    for call in (
        lambda: index.add(base),
        lambda: index.add_with_ids(base, np.arange(len(base))),
        lambda: index.search(queries, 1),
        lambda: index.sa_encode(base),
        lambda: index.sa_decode(np.zeros((1, 5), np.uint8)),
    ):
        with pytest.raises(RuntimeError, match="not trained"):
            call()
    assert index.ntotal == 0


def test_train_refuses(learn):
    index = new_index()
    bad = learn[:1000].copy()
    bad[3, 3] = np.nan
    for x in (bad, learn[:0], learn[:15], learn[:100]):
        with pytest.raises(RuntimeError):
            index.train(x)
        assert not index.is_trained


def test_ids(filled, base, queries):
    ids = np.array([-5, 1 << 62, 7, 7], np.int64)
    filled.add_with_ids(base[:4], ids)
    filled.nprobe = filled.nlist
    assert set(ids) <= set(filled.search(base[:4], 3004)[1].ravel())
    filled.add_with_ids(base[:1], np.array([9000.0]))
    filled.add(base[:1])
    assert 3005 in filled.search(base[:1], 50)[1]
    for wrong in (np.arange(3), np.arange(4)[:, None]):
        with pytest.raises(AssertionError):
            filled.add_with_ids(base[:4], wrong)


def test_direct_map(filled, base):
    with pytest.raises(RuntimeError, match="direct map"):
        filled.reconstruct(0)
    filled.make_direct_map()
    filled.add(base[:2])
    np.testing.assert_array_equal(filled.reconstruct(3001), filled.reconstruct_n(3001, 1)[0])
    for key in (-1, 3002):
        with pytest.raises(RuntimeError):
            filled.reconstruct(key)
    filled.add_with_ids(base[:2], np.array([-7, 1 << 50]))
    np.testing.assert_array_equal(filled.reconstruct(-7), filled.reconstruct(3000))
    np.testing.assert_array_equal(filled.reconstruct(1 << 50), filled.reconstruct(3001))
    filled.make_direct_map(False)
    with pytest.raises(RuntimeError, match="direct map"):
        filled.reconstruct(-7)


def test_reconstruct_n(filled, base):
    all_vectors = filled.reconstruct_n()
    assert all_vectors.shape == (3000, 128)
    np.testing.assert_array_equal(filled.reconstruct_n(100, 5), all_vectors[100:105])
    assert filled.reconstruct_n(3000, 0).shape == (0, 128)
    error = np.square(all_vectors - base[:3000]).sum(1).mean()
    assert error < 0.5 * np.square(base[:3000] - base[:3000].mean(0)).sum(1).mean()
    for n0, ni in ((0, 3001), (-1, 2), (3001, 1)):
        with pytest.raises(RuntimeError):
            filled.reconstruct_n(n0, ni)


def test_codes(filled, base):
    codes = filled.sa_encode(base[:200])
    assert codes.dtype == np.uint8
    assert codes.shape == (200, filled.sa_code_size()) == (200, 5)
    np.testing.assert_array_equal(filled.sa_decode(codes), filled.reconstruct_n(0, 200))
    with pytest.raises(TypeError):
        filled.sa_decode(codes.astype(np.int32))
    with pytest.raises(AssertionError):
        filled.sa_decode(codes[:, :4])
    codes[0, 0] = 200
    with pytest.raises(RuntimeError):
        filled.sa_decode(codes)


def test_attributes(filled):
    for name, value, error in (
        ("nprobe", -1, OverflowError),
        ("nprobe", 2.5, TypeError),
        ("nshort", -1, OverflowError),
        ("nprobes", 3, AttributeError),
        ("code_size", 3, AttributeError),
    ):
        with pytest.raises(error):
            setattr(filled, name, value)
    filled.nprobe = 0
    with pytest.raises(RuntimeError, match="nprobe"):
        filled.search(np.zeros((1, 128)), 1)
    filled.nprobe = 10**6  # clamped
    filled.search(np.zeros((1, 128)), 1)
    for name, value, error in (("nbits", 9, ValueError), ("M", 0, ValueError)):
        with pytest.raises(error, match=name):
            fq.IndexQINCo(**{"d": 8, "M": 4, name: value})
    with pytest.raises(ValueError, match="metric"):
        fq.IndexQINCo(8, 4, metric=faiss.METRIC_L1)
    with pytest.raises(TypeError, match="quantizer"):
        fq.IndexIVFQINCo(None, 8, 4, 4)
    with pytest.raises(ValueError, match="quantizer"):
        fq.IndexIVFQINCo(faiss.IndexFlatL2(9), 8, 4, 4)


def test_search_parameters(filled, queries):
    filled.nprobe, filled.nshort = 7, 30
    bare = filled.search(queries, 5, params=fq.SearchParametersIVFQINCo())
    faiss_bare = filled.search(queries, 5, params=faiss.SearchParametersIVF())
    filled.nprobe = 1
    np.testing.assert_array_equal(bare[1], filled.search(queries, 5)[1])
    np.testing.assert_array_equal(faiss_bare[1], bare[1])
    params = fq.SearchParametersIVFQINCo(nprobe=9, nshort=0)
    D = filled.search(queries, 5, params=params)[0]
    filled.nprobe, filled.nshort = 9, 0
    np.testing.assert_array_equal(D, filled.search(queries, 5)[0])
    with pytest.raises(AssertionError):
        fq.SearchParametersIVFQINCo(nprob=3)
    for wrong, error in (
        (faiss.SearchParametersHNSW(), RuntimeError),
        ({"nprobe": 3}, TypeError),
    ):
        with pytest.raises(error):
            filled.search(queries, 5, params=wrong)


@pytest.mark.parametrize("nshort", [0, 100])
@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_range_search(trained, base, queries, metric, nshort):
    """As FAISS's: what a search over everything finds on the right side of the threshold."""
    index = fq.deserialize_index(trained[metric])
    index.add(base[:3000])
    index.nprobe, index.nshort = 9, 3000 if nshort else 0
    D, I = index.search(queries[:40], 3000)
    thresh = float(np.median(D[:, 20]))
    inside = (thresh > D if metric == faiss.METRIC_L2 else thresh < D) & (I >= 0)
    index.nshort = nshort
    results = []
    for n_threads in (1, 2):
        fq.set_num_threads(n_threads)
        try:
            results.append(index.range_search(queries[:40], thresh))
        finally:
            fq.set_num_threads(None)
    lims, D_range, I_range = results[0]
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [a.dtype for a in results[0]] == [np.uint64, np.float32, np.int64]
    assert lims[-1] == len(I_range) == len(D_range)
    found = 0
    for i, (begin, end) in enumerate(itertools.pairwise(lims)):
        got = dict(zip(I_range[begin:end].tolist(), D_range[begin:end].tolist(), strict=True))
        expected = dict(zip(I[i, inside[i]].tolist(), D[i, inside[i]].tolist(), strict=True))
        assert len(got) == end - begin
        assert got.items() <= expected.items()
        found += len(got)
        assert nshort or len(got) == len(expected)
    assert found > 0.7 * inside.sum()  # the rest is inside, but far away by the tables


def test_range_search_edges(filled, queries):
    filled.nprobe = filled.nlist
    for thresh, n in ((np.nan, 0), (-1, 0), (np.inf, 3000)):
        lims, D, I = filled.range_search(queries[:3], thresh)
        np.testing.assert_array_equal(lims, np.arange(4) * n)
        assert len(np.unique(I)) == n
    q = queries[:2].copy()
    q[0, 3] = np.nan
    assert filled.range_search(q, np.inf)[0].tolist() == [0, 0, 3000]
    assert filled.range_search(q[:0], 1.0)[0].tolist() == [0]
    D = filled.search(queries[:1], 1)[0]
    filled.nshort = 3000
    assert filled.range_search(queries[:1], D[0, 0])[0][-1] == 0  # strictly below
    assert filled.range_search(queries[:1], np.nextafter(D[0, 0], np.inf))[0][-1] >= 1
    sel = faiss.IDSelectorRange(100, 110)
    params = fq.SearchParametersIVFQINCo(nprobe=16, sel=sel)
    assert sorted(filled.range_search(queries[:1], np.inf, params=params)[2]) == [*range(100, 110)]
    filled.nshort = 0
    params = fq.SearchParametersIVFQINCo(nprobe=16, max_empty_result_buckets=1)
    assert filled.range_search(queries, -1e9, params=params)[0][-1] == 0
    with pytest.raises(TypeError):
        filled.range_search(queries, None)


def test_range_search_of_a_flat_index(learn, base, queries):
    index = flat_index(learn[:4000])
    index.add(base[:1000])
    index.nshort = 1000
    D, I = index.search(queries[:5], 1000)
    lims, D_range, I_range = index.range_search(queries[:5], D[0, 30])
    assert lims[1] == (D[0] < D[0, 30]).sum() == 30
    assert set(I_range[:30]) == set(I[0, :30])
    assert set(D_range[:30]) == set(D[0, :30])


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_search_preassigned(trained, base, queries, metric):
    index = fq.deserialize_index(trained[metric])
    index.add(base[:3000])
    index.nprobe = 5
    D, I = index.search(queries, 7)
    Dq, Iq = index.quantizer.search(queries, 5)
    D_given, I_given = np.empty_like(D), np.empty_like(I)
    out = index.search_preassigned(queries, 7, Iq, Dq, D=D_given, I=I_given)
    assert out[0] is D_given
    np.testing.assert_array_equal(I_given, I)
    np.testing.assert_array_equal(index.search_preassigned(queries, 7, Iq, None)[0], D)
    Iq[:, 2:] = -1
    params = fq.SearchParametersIVFQINCo(nprobe=2)
    expected = index.search(queries, 7, params=params)[1]
    np.testing.assert_array_equal(index.search_preassigned(queries, 7, Iq, Dq)[1], expected)
    got = index.search_preassigned(queries, 7, Iq[:, :2], Dq[:, :2], params=params)
    np.testing.assert_array_equal(got[1], expected)
    for wrong in ((Iq[:, :4], Dq), (Iq, Dq[:, :4])):
        with pytest.raises(AssertionError):
            index.search_preassigned(queries, 7, *wrong)
    Iq[0, 0] = 16
    with pytest.raises(RuntimeError):
        index.search_preassigned(queries, 7, Iq, Dq)


@pytest.mark.parametrize("sel", [None, faiss.IDSelectorRange(0, 900)], ids=["all", "some"])
@pytest.mark.parametrize("full", [False, True])
def test_max_codes(filled, base, queries, sel, full):
    """The ids that an IVFFlat of faiss with the same lists may return."""
    theirs = faiss.IndexIVFFlat(filled.quantizer, 128, 16)
    theirs.is_trained = True
    x, ids = base[:3000].copy(), np.arange(3000)
    list_no = filled.quantizer.assign(x, 1)[:, 0]
    theirs.add_core(3000, *map(faiss.swig_ptr, (x, ids, list_no)))
    theirs.ntotal = 3000
    for max_codes in (1, 63, 64, 400, 2999, 5000):
        params = faiss.SearchParametersIVF(
            nprobe=16, max_codes=max_codes, ensure_topk_full=full, sel=sel
        )
        for k in (3, 3000) if not full else (3, 1000):
            n = [
                (index.search(queries[:20], k, params=params)[1] >= 0).sum(1)
                for index in (filled, theirs)
            ]
            np.testing.assert_array_equal(*n)


def test_memory_usage(filled, learn, base):
    memory = filled.memory_usage()
    assert 1 * 3000 / 2 <= memory["ids"] <= 3000  # of 4 bits and a rest
    assert 2 * 3000 <= memory["bias"] <= 2 * (3000 + 63 * 16)
    assert 4 * 3000 <= memory["codes"] <= 4 * (3000 + 63 * 16)
    assert memory["centroids"] == 4 * 16 * 128
    parts = {k: v for k, v in memory.items() if k not in ("total", "per_vector")}
    assert memory["total"] == sum(parts.values()) == 3000 * memory["per_vector"]
    filled.add_with_ids(base[:100], np.arange(-100, 0) * 1000)
    assert filled.memory_usage()["ids"] > memory["ids"]
    flat = flat_index(learn[:4000])
    flat.add(base[:1000])
    assert flat.memory_usage()["ids"] == 0
    assert new_index().memory_usage()["total"] == 0


def test_reset(filled, base, queries):
    before = filled.search(queries, 3)[1]
    filled.reset()
    assert (filled.ntotal, filled.is_trained) == (0, True)
    filled.add(base[:3000])
    np.testing.assert_array_equal(filled.search(queries, 3)[1], before)


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda i: pickle.loads(pickle.dumps(i))]
)
def test_copies_are_deep(filled, base, queries, clone):
    untrained = clone(new_index(epochs=77))
    assert (untrained.is_trained, untrained.training.epochs) == (False, 77)
    filled.nprobe = 3
    twin = clone(filled)
    filled.add(base[:5])
    assert (twin.ntotal, twin.nprobe) == (3000, 3)
    filled.reset()
    assert (twin.search(queries, 1)[1] >= 0).all()
