"""faiss's `IVF<nlist>,RQ<M>x<nbits>` indexes, whose lists hold QINCo codes and whose codebooks are
the additive ones: what the published searches of large sets begin with."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from .. import _core

_BLOCK = 1 << 16  # vectors at a time
_SEARCH_TYPES = {
    getattr(faiss.AdditiveQuantizer, f"ST_{name}")
    for name in ("norm_float", "norm_qint8", "norm_qint4", "decompress")
}


def checked(index: Any) -> faiss.IndexIVFResidualQuantizer:
    """The index, once it is known to be one whose lists can hold QINCo codes.

    Raises TypeError for another kind, RuntimeError if untrained, ValueError for inner product,
    codes that are not of residuals, of differing nbits, and for parts that do not fit together.
    """
    if type(index) is faiss.Index:  # a pointer from C++
        index = faiss.downcast_index(index)
    if not isinstance(index, faiss.IndexIVFResidualQuantizer):
        raise TypeError(f"faiss_index: expected an IndexIVFResidualQuantizer, got {type(index)}")
    if not index.is_trained or index.quantizer.ntotal != index.nlist:
        raise RuntimeError("faiss_index: is not trained")
    if index.metric_type != faiss.METRIC_L2 or not index.by_residual:
        raise ValueError("faiss_index: expected L2, and codes of residuals")
    rq: Any = index.rq
    lists: Any = index.invlists
    nbits = set(faiss.vector_to_array(rq.nbits).tolist())
    if len(nbits) != 1 or not nbits <= set(range(4, 9)):
        raise ValueError(f"faiss_index: expected codes all of 4 to 8 bits, got {sorted(nbits)}")
    right = (
        (rq.d, lists.nlist) == (index.d, index.nlist)
        and rq.codebooks.size() == rq.M * index.d << max(nbits)
        and lists.code_size == index.code_size >= (rq.M * max(nbits) + 7) // 8
    )
    if not right:
        raise ValueError("faiss_index: its parts do not fit together")
    return index


def codebooks(index: faiss.IndexIVFResidualQuantizer) -> np.ndarray:
    """(M, K, d) float32."""
    return np.asarray(faiss.vector_to_array(index.rq.codebooks).reshape(index.rq.M, -1, index.d))


def copy_of(quantizer: faiss.Index) -> faiss.Index:
    return faiss.deserialize_index(faiss.serialize_index(quantizer))


def sizes(index: faiss.IndexIVFResidualQuantizer) -> np.ndarray:
    """Of the lists, (nlist,) int64."""
    lists: Any = index.invlists
    return np.array([lists.list_size(i) for i in range(index.nlist)], np.int64)


def entries(
    index: faiss.IndexIVFResidualQuantizer, list_no: int, first: int, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes (n, M) uint8 and ids (n,) int64 of a list from number `first` on."""
    rq: Any = index.rq
    lists: Any = index.invlists
    nbits, end = rq.nbits.at(0), first + n
    codes, ids = lists.get_codes(list_no), lists.get_ids(list_no)
    try:
        packed = faiss.rev_swig_ptr(codes, end * lists.code_size).reshape(end, -1)
        packed = packed[first:, : (rq.M * nbits + 7) // 8]  # behind it is the norm
        unpacked = _core.unpack_codes(np.ascontiguousarray(packed), rq.M, nbits)
        return unpacked, np.array(faiss.rev_swig_ptr(ids, end)[first:])
    finally:
        lists.release_codes(list_no, codes)
        lists.release_ids(list_no, ids)


def ivf_rq(
    quantizer: faiss.Index, additive: np.ndarray, core: _core.Engine, search_type: int
) -> faiss.IndexIVFResidualQuantizer:
    """The faiss index of additive codebooks (M, K, d) whose lists hold what those of an engine of
    ours do; to be called inside a reading. The quantizer is copied.

    search_type: one of faiss's, of norms in float32 or in 8 or 4 bits, or of none. Raises
    ValueError for any other.
    """
    if search_type not in _SEARCH_TYPES:
        raise ValueError(
            "search_type: expected ST_norm_float, ST_norm_qint8, ST_norm_qint4 or ST_decompress of "
            f"faiss.AdditiveQuantizer, got {search_type!r}"
        )
    M, _, d = additive.shape
    copied: Any = copy_of(quantizer)
    make: Any = faiss.IndexIVFResidualQuantizer
    index: Any = make(copied, d, core.nlist, M, core.nbits, faiss.METRIC_L2, search_type)
    copied.this.disown()
    index.own_fields, index.is_trained = True, True
    rq = index.rq
    faiss.copy_array_to_vector(np.ascontiguousarray(additive).reshape(-1), rq.codebooks)
    rq.is_trained = True
    stored = np.flatnonzero(core.sizes()).tolist()
    if stored:  # the range of norms that are rounded
        ranges = np.array([_norm_range(additive, core.get_codes(list_no)) for list_no in stored])
        rq.norm_min, rq.norm_max = float(ranges[:, 0].min()), float(ranges[:, 1].max())
    for list_no in stored:
        codes, ids = core.get_codes(list_no).astype(np.int32), core.get_ids(list_no)
        for begin in range(0, len(codes), _BLOCK):
            some, own = codes[begin : begin + _BLOCK], ids[begin : begin + _BLOCK]
            n, pointer = len(some), faiss.swig_ptr
            packed = np.zeros((n, rq.code_size), np.uint8)
            rq.pack_codes(n, pointer(some), pointer(packed))
            index.invlists.add_entries(list_no, n, pointer(own), pointer(packed))
    index.ntotal = core.ntotal
    made: faiss.IndexIVFResidualQuantizer = index
    return made


def _norm_range(additive: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """The least and the largest |r̂|² of what codes (n, M), n > 0, stand for."""
    low, high = np.inf, 0.0
    for begin in range(0, len(codes), _BLOCK):
        some = codes[begin : begin + _BLOCK]
        r = sum(codebook[some[:, m]] for m, codebook in enumerate(additive))
        norms = np.einsum("ij,ij->i", r, r)
        low, high = min(low, norms.min()), max(high, norms.max())
    return low, high
