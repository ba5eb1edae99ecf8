"""LlamaIndex's FaissMapVectorStore around an index of QINCo codes: add, retrieve, save, load,
delete.

FaissVectorStore takes an index without IDMap2, and cannot delete. Neither has filters or maximal
marginal relevance, whatever the index, and what is added after a delete gets numbers of `ntotal`
on, which may be in use.

    pip install 'faiss-qinco[frameworks]' && python bench/examples/llama_index_store.py
"""

from __future__ import annotations

import tempfile
from typing import Any

import faiss
from llama_index.core import (
    MockEmbedding,
    StorageContext,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.schema import QueryBundle, TextNode
from llama_index.vector_stores.faiss import FaissMapVectorStore

import faiss_qinco as fq
from faiss_qinco import demo

KEY = "IDMap2,IVF32,QINCo8x8_XS"  # was: "IDMap2,Flat"


def main(folder: str, training: fq.TrainingConfig, key: str = KEY) -> dict[str, Any]:
    learn, base, query, _ = demo.load()
    fq.register()
    index = faiss.index_factory(128, key)
    index.training = training
    index.train(learn)
    index.nprobe = 8

    model = MockEmbedding(embed_dim=128)  # nodes and queries bring vectors of their own
    nodes = [
        TextNode(id_=str(n), text=f"descriptor {n}", embedding=x.tolist())
        for n, x in enumerate(base[:500])
    ]
    storage = StorageContext.from_defaults(vector_store=FaissMapVectorStore(index))
    documents = VectorStoreIndex(nodes, storage_context=storage, embed_model=model)
    asked = QueryBundle("the third query", embedding=query[3].tolist())
    found = {"nearest": documents.as_retriever(similarity_top_k=3).retrieve(asked)}

    storage.persist(folder)
    vectors = FaissMapVectorStore.from_persist_dir(folder)
    storage = StorageContext.from_defaults(vector_store=vectors, persist_dir=folder)
    documents = load_index_from_storage(storage, embed_model=model)
    documents.delete_nodes([found["nearest"][0].node_id])
    found["without the first"] = documents.as_retriever(similarity_top_k=2).retrieve(asked)
    return {name: [node.node_id for node in nodes] for name, nodes in found.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(main(folder, fq.TrainingConfig(max_seconds=20)))
