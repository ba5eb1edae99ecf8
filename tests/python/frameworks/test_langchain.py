"""LangChain's FAISS store with our indexes inside, and faiss's beside."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

import faiss_qinco as fq

from ..wrappers.conftest import same_verdict
from .conftest import REASON, brief, example

pytest.importorskip("langchain_community", reason=REASON)
pytestmark = pytest.mark.filterwarnings("ignore")  # its own
N = 200


@pytest.fixture
def store(x, q):
    """index -> a store of it with N documents."""
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS
    from langchain_core.embeddings import Embeddings

    class Known(Embeddings):
        def embed_documents(self, texts):
            return [x[int(text)].tolist() for text in texts]

        def embed_query(self, text):
            return q[int(text)].tolist()

    def filled(index, start=0, n=N):
        made = FAISS(Known(), index, InMemoryDocstore(), {})
        numbers = [str(i) for i in range(start, start + n)]
        made.add_texts(numbers, [{"even": int(i) % 2 == 0} for i in numbers], ids=numbers)
        return made

    return filled


def ids(documents):
    return [int(document.id) for document in documents]


def test_example(tmp_path):
    found = example("langchain_store").main(str(tmp_path), brief(), "QINCo8x4_XS")
    assert len(set(found["nearest"])) == 3
    assert all(int(n) % 2 == 0 for n in found["even"]) and len(found["even"]) == 3
    assert found["diverse"][0] == found["nearest"][0] and len(set(found["diverse"])) == 3
    assert found["without the first"] == found["nearest"][1:]


@pytest.mark.parametrize("kind", ["ivf", "flat", "pca", "refine"])
def test_searches_are_those_of_the_index(store, new, q, tmp_path, kind):
    index = fq.IndexRefineFlat(new("ivf")) if kind == "refine" else new(kind)
    made = store(index)
    expected = index.search(q[3:4], 10)
    again = [made, type(made).deserialize_from_bytes(
        made.serialize_to_bytes(), made.embeddings, allow_dangerous_deserialization=True
    )]  # fmt: skip
    made.save_local(str(tmp_path))
    for flags in (0, faiss.IO_FLAG_MMAP):
        again.append(
            type(made).load_local(
                str(tmp_path), made.embeddings, allow_dangerous_deserialization=True, io_flags=flags
            )
        )
    for one in again:
        assert type(one.index) is type(index)
        found = one.similarity_search_with_score("3", k=10)
        assert ids(document for document, _ in found) == expected[1][0].tolist()
        np.testing.assert_array_equal([score for _, score in found], expected[0][0])
        even = one.similarity_search("3", k=3, filter={"even": True}, fetch_k=10)
        assert ids(even) == [i for i in expected[1][0] if i % 2 == 0][:3]


def test_diverse_results_need_what_faiss_needs(store, new, control):
    """A direct map; FAISS's error says so to LangChain's users."""
    theirs, ours = store(control()), store(new("ivf"))

    def diverse(one):
        return ids(one.max_marginal_relevance_search("3", k=4))

    assert same_verdict(theirs, ours, diverse) is None
    for one in (theirs, ours):
        one.index.make_direct_map()
        assert len(set(diverse(one))) == 4
        retriever = one.as_retriever(search_type="mmr", search_kwargs={"k": 4})
        assert ids(retriever.invoke("3")) == diverse(one)
    assert len(diverse(store(new("flat")))) == 4


def test_documents_stay_with_their_vectors(store, new):
    """In a flat index, whatever is deleted, added and merged."""
    made, other = store(new("flat")), store(new("flat"), 300, 20)
    decoded = {i: made.index.reconstruct(i) for i in range(N)}
    decoded |= {300 + i: other.index.reconstruct(i) for i in range(20)}
    decoded |= {250: store(new("flat"), 250, 1).index.reconstruct(0)}
    made.delete(["7", "0", "150"])
    made.merge_from(other)
    made.add_texts(["250"], ids=["250"])
    made.delete(["310"])
    assert made.index.ntotal == N - 3 + 20 + 1 - 1 == len(made.index_to_docstore_id)
    for number, i in made.index_to_docstore_id.items():
        np.testing.assert_array_equal(made.index.reconstruct(number), decoded[int(i)])
