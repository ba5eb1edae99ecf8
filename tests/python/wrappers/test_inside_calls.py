"""What a selector or an array of the caller's does inside a call of a wrapper, and what an error
there leaves; torch tensors."""

from __future__ import annotations

import threading

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from .conftest import D, equal


class Lazy:
    """Vectors of which some block raises, or does something first."""

    def __init__(self, x, before):
        self.x, self.shape, self._before = x, x.shape, before

    def __getitem__(self, rows):
        self._before(rows)
        return self.x[rows]


def in_time(call):
    """What a call returns or raises; the test fails where it hangs."""
    found = []

    def run():
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert found, "it hangs"
    return found[0]


def test_a_selector_may_search_while_it_removes(new, x, q):
    index = fq.IndexIDMap2(new("ivf"))
    index.index.make_direct_map()
    index.add_with_ids(x, np.arange(400))
    nearest = index.search(q[:1], 1)[1][0, 0]

    class Nearest(faiss.IDSelectorAll):
        def is_member(self, id):
            index.reconstruct(id)
            return id == index.search(q[:1], 1)[1][0, 0]

    class Changing(faiss.IDSelectorAll):
        def is_member(self, id):
            index.remove_ids(np.array([id]))

    assert in_time(lambda: index.remove_ids(Nearest())) == 1
    assert in_time(lambda: nearest in index.search(q[:1], 400)[1]) is False
    error = in_time(lambda: index.remove_ids(Changing()))
    assert isinstance(error, RuntimeError) and "inside a change" in str(error)
    assert index.ntotal == 399


def test_ids_of_a_failed_add_are_not_found(new, x, monkeypatch):
    monkeypatch.setattr("faiss_qinco.wrappers.id_map._UNSORTED", 5)
    index = fq.IndexIDMap2(new("flat"))
    index.add_with_ids(x[:10], np.arange(10))

    def fail(rows):
        index.reconstruct(3)  # sorts what ids there are
        raise OSError

    with pytest.raises(OSError):
        index.add_with_ids(Lazy(x[:100], fail), np.arange(100) + 1000)
    index.add_with_ids(x[10:20], np.arange(10) + 500)
    np.testing.assert_array_equal(index.reconstruct(503), index.index.reconstruct(13))
    with pytest.raises(RuntimeError, match="not found"):
        index.reconstruct(1003)


@pytest.mark.parametrize("fails_in", ["refine", "base"])
def test_a_refined_index_stays_in_step(new, x, q, fails_in):
    index = fq.IndexRefineFlat(new("ivf"))
    index.add(x[:100])
    before = index.search(q, 5)
    reads = []

    def fail(rows):
        reads.append(rows)
        if len(reads) == (1 if fails_in == "refine" else 2):
            raise OSError

    with pytest.raises(OSError):
        index.add(Lazy(x[:50], fail))
    assert index.refine_index.ntotal == index.ntotal == 100
    equal(index.search(q, 5), before)
    index.add(x[100:])
    assert index.ntotal == 400


def test_shards_that_cannot_undo_are_not_refined(new):
    shards = fq.IndexShards(D, False, False)
    shards.add_shard(new("ivf"))
    with pytest.raises(RuntimeError, match="successive_ids"):
        fq.IndexRefineFlat(shards)


@pytest.mark.parametrize("wrap", [fq.IndexIDMap2, fq.IndexRefineFlat, fq.IndexReplicas])
def test_tensors(new, x, q, wrap):
    torch = pytest.importorskip("torch")
    if wrap is fq.IndexReplicas:
        index = wrap(D)
        index.add_replica(new("ivf"))
    else:
        index = wrap(new("ivf"))
    index.nprobe = 4
    vectors = torch.from_numpy(x)
    if wrap is fq.IndexIDMap2:
        index.add_with_ids(vectors, torch.arange(400))
    else:
        index.add(vectors)
    buffer = torch.empty(len(q), 3)
    D_, I = index.search(torch.from_numpy(q), 3, D=buffer)
    assert D_ is buffer and torch.is_tensor(I)
    equal((D_, I), index.search(q, 3))
    assert all(map(torch.is_tensor, index.range_search(torch.from_numpy(q), 1e5)))
