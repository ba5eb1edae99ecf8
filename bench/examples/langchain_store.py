"""LangChain's FAISS store around a flat index of QINCo codes: add, search, filter, maximal marginal
relevance, save, load, delete.

With "IVF32,QINCo8x8_XS" all works but `delete`: LangChain has the documents behind move up, as flat
indexes do, and an IVF index, faiss's too, keeps its ids, so that documents would be those of other
vectors. Maximal marginal relevance then needs `index.make_direct_map()`, as with faiss's.

    pip install 'faiss-qinco[frameworks]' && python bench/examples/langchain_store.py
"""

from __future__ import annotations

import tempfile
from typing import Any

import faiss
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores import FAISS
from langchain_core.embeddings import Embeddings

import faiss_qinco as fq
from faiss_qinco import demo

learn, base, query, _ = demo.load()


class Descriptors(Embeddings):
    """In the place of a model: text "… 17" has the 17th of the demo's vectors."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [base[int(text.split()[-1])].tolist() for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return query[int(text.split()[-1])].tolist()


def main(folder: str, training: fq.TrainingConfig, key: str = "QINCo8x8_XS") -> dict[str, Any]:
    fq.register()
    index = faiss.index_factory(128, key)  # was: faiss.IndexFlatL2(128)
    index.training = training
    index.train(learn)

    embeddings = Descriptors()
    store = FAISS(embeddings, index, InMemoryDocstore(), {})
    numbers = range(1000)
    store.add_texts(
        [f"descriptor {n}" for n in numbers],
        metadatas=[{"even": n % 2 == 0} for n in numbers],
        ids=[str(n) for n in numbers],
    )
    found = {
        "nearest": store.similarity_search("query 3", k=3),
        "even": store.similarity_search("query 3", k=3, filter={"even": True}, fetch_k=50),
        "diverse": store.max_marginal_relevance_search("query 3", k=3, fetch_k=20),
    }
    store.save_local(folder)
    store = FAISS.load_local(folder, embeddings, allow_dangerous_deserialization=True)
    store.delete([found["nearest"][0].id])
    found["without the first"] = store.similarity_search("query 3", k=2)
    return {name: [document.id for document in documents] for name, documents in found.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(main(folder, fq.TrainingConfig(max_seconds=20)))
