"""Haystack's FAISSDocumentStore with our indexes inside."""

from __future__ import annotations

import pytest

import faiss_qinco as fq

from .conftest import D, brief, example

REASON = "pip install 'faiss-qinco[frameworks]' && pip install --no-deps faiss-haystack"
pytest.importorskip("haystack_integrations.document_stores.faiss", reason=REASON)
pytestmark = pytest.mark.filterwarnings("ignore")  # its own


@pytest.fixture
def store(new):
    """An empty one whose index is trained."""
    from haystack_integrations.document_stores.faiss import FAISSDocumentStore

    made = FAISSDocumentStore(index_string="IVF4,QINCo2x4_XS", embedding_dim=D)
    assert type(made.index) is fq.IndexIDMap
    made.index.index = new("ivf")
    return made


@pytest.fixture
def documents(x):
    from haystack import Document

    return [
        Document(id=f"d{i}", content=str(i), embedding=row.tolist(), meta={"n": i})
        for i, row in enumerate(x)
    ]


def test_example(tmp_path):
    found = example("haystack_store").main(str(tmp_path), brief(), "IVF32,QINCo8x4_XS")
    assert len(set(found["nearest"])) == 3
    assert all(int(n) < 500 for n in found["of the first 500"])
    assert found["without the first"] == found["nearest"][1:]


def test_changes(store, documents, q, tmp_path):
    from haystack.document_stores.types import DuplicatePolicy

    asked = q[3].tolist()
    store.write_documents(documents)
    before = [(found.id, found.score) for found in store.search(asked, 400)]
    assert len(before) == 400
    store.write_documents(documents[:50], policy=DuplicatePolicy.OVERWRITE)  # removes, and adds
    assert store.index.ntotal == 400
    assert sorted((f.id, f.score) for f in store.search(asked, 400)) == sorted(before)
    less = {"field": "meta.n", "operator": "<", "value": 100}
    assert all(int(found.content) < 100 for found in store.search(asked, 5, filters=less))
    assert store.delete_by_filter(less) == 100 and store.index.ntotal == 300
    left = [one for one in before if int(one[0][1:]) >= 100]
    path = str(tmp_path / "store")
    store.save(path)
    for one in (store, type(store)(path, store.index_string, D)):
        assert {(f.id, f.score) for f in one.search(asked, 400)} == set(left)
    store.delete_all_documents()
    assert type(store.index) is fq.IndexIDMap and not store.index.is_trained


def test_a_wrong_string_is_haystacks_error():
    from haystack.document_stores.errors import DocumentStoreError
    from haystack_integrations.document_stores.faiss import FAISSDocumentStore

    with pytest.raises(DocumentStoreError, match="QINCo99"):
        FAISSDocumentStore(index_string="QINCo99", embedding_dim=D)
