"""faiss_qinco: FAISS-style indexes with implicit neural codebooks (QINCo, QINCo2)."""

from . import _faiss as _faiss  # first: it says what to install where there is no faiss
from ._core import search_stats, simd_level, simd_levels
from .codec.codec import QINCoCodec
from .codec.config import QINCoConfig
from .codec.product import PQQINCoCodec
from .factory import index_factory
from .from_faiss import from_faiss
from .index import IndexIVFQINCo, IndexQINCo
from .index_file import (
    deserialize_index,
    read_index,
    serialize_index,
    verify_index,
    write_index,
)
from .operating_points import OperatingPoint
from .params import SearchParametersIVFQINCo
from .pre_transform import IndexPreTransform
from .register import register, unregister
from .stats import count_for_faiss
from .threads import get_num_threads, set_num_threads
from .training import finetune
from .training.config import TrainingConfig
from .wrappers.id_map import IndexIDMap, IndexIDMap2
from .wrappers.refine import IndexRefine, IndexRefineFlat
from .wrappers.search_params import IndexRefineSearchParameters
from .wrappers.shards import IndexReplicas, IndexShards

count_for_faiss()

__version__ = "0.1.0"

__all__ = [
    "IndexIDMap",
    "IndexIDMap2",
    "IndexIVFQINCo",
    "IndexPreTransform",
    "IndexQINCo",
    "IndexRefine",
    "IndexRefineFlat",
    "IndexRefineSearchParameters",
    "IndexReplicas",
    "IndexShards",
    "OperatingPoint",
    "PQQINCoCodec",
    "QINCoCodec",
    "QINCoConfig",
    "SearchParametersIVFQINCo",
    "TrainingConfig",
    "deserialize_index",
    "finetune",
    "from_faiss",
    "get_num_threads",
    "index_factory",
    "read_index",
    "register",
    "search_stats",
    "serialize_index",
    "set_num_threads",
    "simd_level",
    "simd_levels",
    "unregister",
    "verify_index",
    "write_index",
]
