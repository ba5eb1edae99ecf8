"""From IndexIVFPQ to IndexIVFQINCo: one program with either; only the line that makes the index
differs.

    python bench/examples/from_ivfpq.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

import faiss_qinco as fq
from faiss_qinco import demo

NLIST, M = 32, 8


def program(new: Callable[[faiss.Index, int], Any], path: str) -> float:
    """What programs do with an index, which `new` makes; the recall at 1."""
    learn, base, query, groundtruth = demo.load()
    d = learn.shape[1]
    quantizer = faiss.IndexFlatL2(d)
    index = new(quantizer, d)
    index.train(learn)
    index.add(base)
    index.nprobe = 8
    faiss.write_index(index, path)
    index = faiss.read_index(path)
    _, I = index.search(query, 10)

    even = faiss.IDSelectorBatch(np.arange(0, index.ntotal, 2))
    selected = index.search(query, 10, params=faiss.SearchParametersIVF(nprobe=8, sel=even))[1]
    assert not (selected[selected >= 0] % 2).any()
    index.make_direct_map()
    assert index.reconstruct(int(I[0, 0])).shape == (d,)
    index.set_direct_map_type(faiss.DirectMap.NoMap)
    assert index.remove_ids(np.arange(100)) == 100 and index.ntotal == len(base) - 100
    return float((I[:, 0] == groundtruth[:, 0]).mean())


def main(path: str, training: fq.TrainingConfig, nbits: int = 8) -> dict[str, float]:
    fq.register()  # faiss.write_index and faiss.read_index then take both
    return {
        "IndexIVFPQ": program(
            lambda quantizer, d: faiss.IndexIVFPQ(quantizer, d, NLIST, M, nbits), path
        ),
        "IndexIVFQINCo": program(
            lambda quantizer, d: fq.IndexIVFQINCo(
                quantizer, d, NLIST, M, nbits, config="XS", training=training
            ),
            path,
        ),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(main(f"{folder}/index", fq.TrainingConfig(max_seconds=20)))
