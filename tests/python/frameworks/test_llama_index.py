"""LlamaIndex's stores with our indexes inside."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from .conftest import REASON, brief, example

pytest.importorskip("llama_index.vector_stores.faiss", reason=REASON)
pytestmark = pytest.mark.filterwarnings("ignore")  # its own


@pytest.fixture
def nodes(x):
    from llama_index.core.schema import TextNode

    return [TextNode(id_=f"n{i}", text=str(i), embedding=row.tolist()) for i, row in enumerate(x)]


@pytest.fixture
def ask(q):
    from llama_index.core.vector_stores.types import VectorStoreQuery

    return lambda store, k: store.query(VectorStoreQuery(q[3].tolist(), similarity_top_k=k))


def test_example(tmp_path):
    key = "IDMap2,IVF32,QINCo8x4_XS"
    found = example("llama_index_store").main(str(tmp_path), brief(), key)
    assert len(set(found["nearest"])) == 3
    assert found["without the first"] == found["nearest"][1:]


def test_numbers_of_the_index(new, nodes, ask, q, tmp_path):
    from llama_index.vector_stores.faiss import FaissVectorStore

    index = new("ivf")
    store = FaissVectorStore(index)
    assert store.add(nodes[:50]) == [str(i) for i in range(50)]
    D, I = index.search(q[3:4], 5)
    path = str(tmp_path / "store" / "vectors.json")
    store.persist(path)
    again = FaissVectorStore.from_persist_path(path)
    assert type(again.client) is fq.IndexIVFQINCo
    for one in (store, again):
        found = ask(one, 5)
        assert found.ids == [str(i) for i in I[0]]
        np.testing.assert_array_equal(found.similarities, D[0])


@pytest.mark.parametrize("kind", ["ivf", "flat", "pca"])
@pytest.mark.parametrize("name", ["IndexIDMap", "IndexIDMap2"])
def test_ids_of_nodes(new, nodes, ask, tmp_path, kind, name):
    """The store asks whether the index is a `faiss.IndexIDMap`; what is left after a delete keeps
    its place and its distance."""
    from llama_index.vector_stores.faiss import FaissMapVectorStore

    store = FaissMapVectorStore(getattr(faiss, name)(new(kind)))
    store.add(nodes)
    before = ask(store, 10)
    store.delete_nodes(before.ids[:2])
    store.delete(before.ids[5])
    left = [i for i in range(10) if i not in (0, 1, 5)]
    path = str(tmp_path / "vectors.json")
    store.persist(path)
    again = FaissMapVectorStore.from_persist_path(path)
    assert type(again.client) is getattr(fq, name) and again.client.ntotal == len(nodes) - 3
    for one in (store, again):
        found = ask(one, 7)
        assert found.ids == [before.ids[i] for i in left]
        np.testing.assert_array_equal(found.similarities, [before.similarities[i] for i in left])
    fq.unregister()
    with pytest.raises(ValueError, match="IndexIDMap"):
        FaissMapVectorStore(fq.IndexIDMap2(new(kind)))
