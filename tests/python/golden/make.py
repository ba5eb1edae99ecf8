"""Makes the files of format 1. They are made once: later versions read them as they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import faiss
import numpy as np

import faiss_qinco as fq

HERE = Path(__file__).parent
DATA = Path(fq.__file__).parent / "data" / "sift_demo"
RESULTS = json.loads((HERE / "results.json").read_text())


def wide_ids(x: np.ndarray) -> fq.IndexIVFQINCo:
    """With inner product: what else a file can hold."""
    training = fq.TrainingConfig(epochs=2, max_seconds=None, progress=False, n_validation=256)
    index = fq.index_factory(16, "IVF4,QINCo3x4", faiss.METRIC_INNER_PRODUCT, training)
    index._config = fq.QINCoConfig(L=1, d_e=8, d_h=16, A=4, B=4)
    index.length_correction = True
    index.train(x[:1000])
    rng = np.random.default_rng(0)
    ids = rng.permutation(1 << 20)[:300].astype(np.int64) * (1 << 20) - 7
    index.add_with_ids(x[1000:1280], ids[:280])
    index.remove_ids(ids[::10])
    index.add_with_ids(x[1280:1300], ids[280:])
    index.make_direct_map()
    index.nprobe, index.nshort, index.M_search = 3, 50, 2
    return index


def id_map() -> fq.IndexIDMap2:
    """Ids, vectors to refine by, and transforms, one inside the other."""
    x = np.random.default_rng(2).normal(size=(60, 6)).astype(np.float32)
    inside = fq.read_index(HERE / "transformed.fqi")
    inside.reset()
    inside.nprobe = 4
    ranks = faiss.index_factory(6, "SQ8")
    ranks.train(x)
    index = fq.IndexIDMap2(fq.IndexRefine(inside, ranks))
    index.index.k_factor = 3.5
    index.add_with_ids(x, np.arange(60, dtype=np.int64) * (1 << 33) - 5)
    return index


def shards() -> fq.IndexShards:
    """Several, with and without vectors to refine by."""
    x = np.random.default_rng(3).normal(size=(60, 6)).astype(np.float32)
    index = fq.IndexShards(6, True, True)
    for wrap in (lambda inside: inside, fq.IndexRefineFlat):
        inside = fq.read_index(HERE / "flat.fqi")
        inside.reset()
        index.add_shard(wrap(inside))
    index.add(x)
    return index


def main(names: list[str]) -> None:
    """Write these files, and what the indexes find."""
    results = {}
    if (HERE / "v1" / "results.json").exists():
        results = json.loads((HERE / "v1" / "results.json").read_text())
    x = np.load(DATA / "learn.npy")[:1300].astype(np.float32)
    x = x.reshape(len(x), 16, 8).mean(2)
    (HERE / "v1").mkdir(exist_ok=True)
    for name in names:
        if name == "wide_ids":
            index, q = wide_ids(x), x[:5]
        elif name in ("id_map", "shards"):
            index, q = globals()[name](), np.array(RESULTS["q"], np.float32)
        else:
            index, q = fq.read_index(HERE / f"{name}.fqi"), np.array(RESULTS["q"], np.float32)
            if name != "flat":
                index.nprobe = 4
        D, I = index.search(q, 5)
        results[name] = {"q": q.tolist(), "D": D.tolist(), "I": I.tolist()}
        fq.write_index(index, HERE / "v1" / f"{name}.fqi")
    (HERE / "v1" / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1:])
