"""A faiss index of QINCo codes, with the codec that decodes them, as an index of ours."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from . import _core
from .codec.codec import QINCoCodec
from .engine import Engine
from .index import IndexIVFQINCo
from .interop import ivf_rq
from .storage.container import finite
from .threads import get_num_threads


def from_faiss(faiss_index: Any, codec: QINCoCodec) -> IndexIVFQINCo:
    """An index of what a faiss `IVF<nlist>[_HNSW<m>],RQ<M>x<nbits>…` index stores, whose codes are
    those of a codec and whose codebooks approximate them: one of a published `.faissindex`, or of
    `to_faiss`.

    faiss_index : as `faiss.read_index` gives it, mapped or not; nothing of it is shared.
    codec : QINCoCodec with an IVF, whose centroids the quantizer holds.

    Quantizer, ids, nprobe, and whether there is a direct map, are kept. Norms that faiss has beside
    its codes are computed anew, in two bytes. There are no margins of early exit, so that whole
    shortlists are decoded; what a `range_search` scans is decoded too. `additive_weight` is 0, as
    these codes were chosen. Takes the memory of the new index alone.

    Raises TypeError for other kinds of index or codec, RuntimeError for an untrained one, and
    ValueError, with the reason, where the two do not fit together.
    """
    source = ivf_rq.checked(faiss_index)
    if not isinstance(codec, QINCoCodec):
        raise TypeError(f"codec: expected a QINCoCodec, got {type(codec)}")
    if codec.nlist is None or codec.metric != faiss.METRIC_L2 or codec.own_centroids is not None:
        raise ValueError("codec: expected one with an IVF, of L2")
    additive = ivf_rq.codebooks(source)
    M, K, d = additive.shape
    expected, found = (d, source.nlist, M, K), (codec.d, codec.nlist, codec.M, codec.K)
    if found != expected:
        raise ValueError(
            f"codec: expected (d, nlist, M, K) {expected} as in the faiss index, got {found}"
        )
    index = IndexIVFQINCo(
        ivf_rq.copy_of(source.quantizer), d, source.nlist, M, codec.nbits, config=codec.config
    )
    centroids = index._coarse.centroids()
    if not np.allclose(centroids, codec.centroids(), rtol=1e-3, atol=1e-3 * codec.std):
        raise ValueError("codec: its centroids are not those of the faiss index's quantizer")
    engine = Engine(
        codec, centroids, finite("codebooks", additive), [], faiss.METRIC_L2, False, 0.0, 0.0
    )
    core, sizes = engine.core, ivf_rq.sizes(source)
    ends = sizes.cumsum()

    def rows(first: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        codes, ids = np.empty((n, M), np.uint8), np.empty(n, np.int64)
        list_no = np.searchsorted(ends, np.arange(first, first + n), side="right")
        numbers, starts, counts = np.unique(list_no, return_index=True, return_counts=True)
        for number, start, count in zip(
            numbers.tolist(), starts.tolist(), counts.tolist(), strict=True
        ):
            begin = first + start - int(ends[number] - sizes[number])
            part = slice(start, start + count)
            codes[part], ids[part] = ivf_rq.entries(source, number, begin, count)
        engine.next_id = max(engine.next_id, int(ids.max(initial=-1)) + 1)
        bias = core.bias(list_no, codes, n_threads=get_num_threads())
        return _core.pack_codes(codes, codec.nbits), bias, ids

    n = int(sizes.sum())
    engine.next_id = ntotal = max(int(source.ntotal), n)
    core.import_(sizes, rows, n, ntotal)
    index.nprobe, index.additive_weight, index._engine = source.nprobe, 0.0, engine
    index.set_direct_map_type(source.direct_map.type)
    return index
