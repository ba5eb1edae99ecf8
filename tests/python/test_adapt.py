"""`reencode` and `drift`: an index whose vectors are no longer what they were."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import threading

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from .conftest import training

SMALL = fq.QINCoConfig(L=1, d_h=16, A=4, B=2)
BOTH = pytest.mark.parametrize("ivf", [True, False])


def made(learn, ivf, metric=faiss.METRIC_L2):
    if ivf:
        quantizer = faiss.IndexFlat(128, metric)
        index = fq.IndexIVFQINCo(quantizer, 128, 4, 2, 4, metric, SMALL, training(epochs=1))
        index.nprobe = 2
    else:
        index = fq.IndexQINCo(128, 3, 4, metric, SMALL, training(epochs=1))
    index.train(learn[:1500])
    return index


@pytest.fixture(scope="module")
def images(learn):
    return {ivf: fq.serialize_index(made(learn, ivf)) for ivf in (True, False)}


@pytest.fixture(scope="module")
def tuned(images, learn):
    x = np.ascontiguousarray(learn[:1000, ::-1])
    settings = training(epochs=4, student=False)
    return {
        ivf: fq.finetune(fq.deserialize_index(i).codec, x, learn[:1000], training=settings)
        for ivf, i in images.items()
    }


def restored(image):
    index = fq.deserialize_index(image)
    index.training = training()
    return index


@BOTH
def test_reencode_is_as_if_added_with_the_codec(images, tuned, base, queries, ivf):
    """Rows that cannot be stored, ids and direct map included."""
    x = base[:700].copy()
    x[[5, 699]] = np.nan
    index, codec = restored(images[ivf]), tuned[ivf]
    index.additive_weight = 0
    index.add(x)
    if ivf:
        index.make_direct_map()
    index.exit_margin = np.inf
    index.reencode(codec, np.where(np.isnan(x), 0, x))  # what is not stored stays so
    assert index.codec.report is codec.report
    assert index.ntotal == 700
    found = index.reconstruct_n()
    assert np.isnan(found[[5, 699]]).all()
    stored = np.isfinite(x[:, 0])
    lists = index.lists
    list_no = np.repeat(np.arange(index.nlist), lists.sizes())
    ids = np.concatenate([lists.get_ids(i) for i in range(index.nlist)])
    known = np.empty(700, np.int64)
    known[ids] = list_no
    codes = codec.encode(x[stored], known[stored] if ivf else None)
    np.testing.assert_allclose(found[stored], codec.decode(codes), rtol=1e-5, atol=1e-2)
    if ivf:
        assert index.nprobe == 2
        np.testing.assert_array_equal(index.reconstruct(7), found[7])
        index.nprobe = 4
    index.nshort = 700
    D, I = index.search(queries[:20], 5)  # of all: exact for what is stored
    exact = np.square(queries[:20, None] - found[I]).sum(2)
    np.testing.assert_allclose(D, exact, rtol=1e-4)
    again = fq.deserialize_index(fq.serialize_index(index))
    np.testing.assert_array_equal(again.reconstruct_n(), found)


def test_ids_of_ones_own_and_a_function(images, tuned, base):
    ids = np.random.default_rng(0).permutation(400) * 10**9 - 7
    index = restored(images[True])
    index.add_with_ids(base[:400], ids)
    row, asked = {int(i): n for n, i in enumerate(ids)}, []

    def originals(wanted):
        asked.extend(wanted.tolist())
        return base[[row[i] for i in wanted.tolist()]]

    before = [index.lists.get_ids(i) for i in range(4)]
    with pytest.raises(ValueError, match="a row for each id"):
        index.reencode(tuned[True], base[:400])
    index.reencode(tuned[True], originals)
    assert asked[:400] == sorted(ids.tolist())
    for i in range(4):
        np.testing.assert_array_equal(index.lists.get_ids(i), before[i])


@BOTH
def test_without_the_vectors_old_codes_serve_where_they_say_more(images, tuned, base, ivf):
    index = restored(images[ivf])
    index.add(base[:1000])
    before = index.reconstruct_n()
    index.reencode(index.codec)
    np.testing.assert_array_equal(index.reconstruct_n(), before)  # nothing lost to its own codec
    index.reencode(tuned[ivf])
    moved = np.square(index.reconstruct_n() - before).sum(1).mean()
    twice = tuned[ivf].decode(tuned[ivf].encode(before))
    assert moved < np.square(twice - before).sum(1).mean()


def test_all_or_nothing(images, tuned, base, monkeypatch):
    index = restored(images[True])
    index.add(base[:300])
    image = fq.serialize_index(index).tobytes()
    bad, other = base[:300].copy(), copy.copy(tuned[True])
    bad[7, 3] = np.inf
    other = pickle.loads(pickle.dumps(tuned[True]))
    other.tensors["base"] = other.tensors["base"] + 1

    def interrupted(ids):
        raise KeyboardInterrupt

    for codec, x, error, match in (
        (tuned[True], bad, ValueError, "id 7"),
        (tuned[True], base[:299], ValueError, "a row for each id"),
        (tuned[True], base[:300, :9], ValueError, "d=128"),
        (tuned[True], lambda ids: base[:2], ValueError, "got 2"),
        (tuned[True], interrupted, KeyboardInterrupt, None),
        (tuned[False], None, ValueError, "codec: expected"),
        (other, None, ValueError, "centroids"),
        ("codec", None, TypeError, "codec"),
    ):
        with pytest.raises(error, match=match):
            index.reencode(codec, x)
        assert fq.serialize_index(index).tobytes() == image
    index.add(base[:10])  # it can be changed again
    index.reset()
    with pytest.raises(RuntimeError, match="too few"):
        index.reencode(tuned[True])


def test_searches_go_on_and_changes_are_refused_meanwhile(images, tuned, base, queries):
    index = restored(images[True])
    index.add(base[:300])
    reading, done = threading.Event(), threading.Event()

    def originals(ids):
        reading.set()
        assert done.wait(60)
        return base[ids]

    thread = threading.Thread(target=index.reencode, args=(tuned[True], originals))
    thread.start()
    try:
        assert reading.wait(60)
        index.search(queries[:3], 2)
        for change in (lambda: index.add(base[:3]), index.reset, index.make_direct_map):
            with pytest.raises(RuntimeError, match="re-encoded"):
                change()
    finally:
        done.set()
        thread.join()
    assert index.codec.report is tuned[True].report
    index.add(base[300:302])
    assert index.ntotal == 302


@BOTH
def test_drift(images, learn, base, ivf, tmp_path):
    index = restored(images[ivf])
    unseen = learn[1500:6000]
    alarms = [index.drift(unseen[i : i + 300]).alarm for i in range(0, 4500, 300)]
    assert sum(alarms) <= 1
    assert not index.drift(unseen[:1]).alarm
    shifted = index.drift(base[:300, ::-1])
    assert shifted.alarm
    assert "DRIFT" in repr(shifted)
    constant = index.drift(np.full((300, 128), 20, np.uint8))
    assert constant.alarm
    fq.write_index(index, tmp_path / "index")
    for other in (fq.read_index(tmp_path / "index"), copy.copy(index)):
        assert repr(other.drift(base[:300])) == repr(index.drift(base[:300]))
    bad = unseen[:300].copy()
    bad[0, 0] = np.nan
    found = index.drift(bad)
    assert (found.n, found.unusable, found.alarm) == (299, 1, True)
    with pytest.raises(RuntimeError, match="none of"):
        index.drift(bad[:1])
    with pytest.raises(ValueError, match="got none"):
        index.drift(bad[:0])
    with pytest.raises(ValueError, match="d=128"):
        index.drift(bad[:, :5])


def test_drift_from_vectors_without_an_error():
    """Rounding is none."""
    x = np.full((300, 8), 3.7, np.float32)
    index = fq.IndexQINCo(8, 2, 4, faiss.METRIC_L2, SMALL, training(epochs=1))
    index.train(x)
    assert index.codec.statistics.mean < index.codec.rounding
    assert not index.drift(x[:5] * np.float32(1 + 2e-7)).alarm
    found = index.drift(x + 1e-3)
    assert found.alarm and len(repr(found)) < 200


def test_codecs_without_statistics(images, learn):
    codec = pickle.loads(pickle.dumps(restored(images[True]).codec))
    codec.statistics = None
    index = fq.deserialize_index(images[True])
    index._engine.codec.statistics = None
    with pytest.raises(RuntimeError, match="no statistics"):
        index.drift(learn)
    with pytest.raises(RuntimeError, match="cut"):
        fq.deserialize_index(images[True]).truncate(1).drift(learn)
    index = fq.IndexIVFQINCo(faiss.IndexFlatL2(128), 128, 4, 2, 4, training=training())
    index.train_from_codec(learn[:1500], codec)
    assert codec.statistics is None  # the one given is as it was
    assert dataclasses.astuple(index.drift(learn[2000:2100]))[2] == 100
