"""Haystack's FAISSDocumentStore with QINCo codes: add, search, filter, delete, save, load.

The store makes its index from a string, and puts an `IndexIDMap` around it; it is for you to train.
`delete_all_documents` makes another one, to be trained again.

    pip install 'faiss-qinco[frameworks]' && pip install --no-deps faiss-haystack
    python bench/examples/haystack_store.py

(faiss-haystack asks for numpy 1 where Python is older than 3.13, and works with 2.)
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from haystack import Document, Pipeline
from haystack_integrations.components.retrievers.faiss import FAISSEmbeddingRetriever
from haystack_integrations.document_stores.faiss import FAISSDocumentStore

import faiss_qinco as fq
from faiss_qinco import demo

KEY = "IVF32,QINCo8x8_XS"  # was: "Flat"


def main(folder: str, training: fq.TrainingConfig, key: str = KEY) -> dict[str, Any]:
    learn, base, query, _ = demo.load()
    fq.register()
    store = FAISSDocumentStore(index_string=key, embedding_dim=128)
    store.index.training = training
    store.index.train(learn)
    store.index.nprobe = 8

    store.write_documents(
        [
            Document(id=str(n), content=f"descriptor {n}", embedding=x.tolist(), meta={"n": n})
            for n, x in enumerate(base[:1000])
        ]
    )
    pipeline = Pipeline()
    pipeline.add_component("retriever", FAISSEmbeddingRetriever(document_store=store))

    def ask(top_k: int, **kwargs: Any) -> list[Document]:
        asked = {"query_embedding": query[3].tolist(), "top_k": top_k, **kwargs}
        return pipeline.run({"retriever": asked})["retriever"]["documents"]

    first_half = {"field": "meta.n", "operator": "<", "value": 500}
    found = {"nearest": ask(3), "of the first 500": ask(3, filters=first_half)}
    store.delete_documents([found["nearest"][0].id])
    path = str(Path(folder) / "store")
    store.save(path)
    store = FAISSDocumentStore(path, key, 128)
    found["without the first"] = store.search(query[3].tolist(), 2)
    return {name: [document.id for document in documents] for name, documents in found.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(main(folder, fq.TrainingConfig(max_seconds=20)))
