"""faiss_qinco: FAISS-style indexes with implicit neural codebooks (QINCo, QINCo2)."""

from . import _faiss as _faiss  # first: it says what to install where there is no faiss
from ._core import search_stats, simd_level, simd_levels
from .codec.codec import QINCoCodec
from .codec.config import QINCoConfig
from .factory import index_factory
from .index import IndexIVFQINCo, IndexQINCo
from .index_file import (
    deserialize_index,
    read_index,
    serialize_index,
    verify_index,
    write_index,
)
from .params import SearchParametersIVFQINCo
from .pre_transform import IndexPreTransform
from .threads import get_num_threads, set_num_threads
from .training import finetune
from .training.config import TrainingConfig

__version__ = "0.1.0"

__all__ = [
    "IndexIVFQINCo",
    "IndexPreTransform",
    "IndexQINCo",
    "QINCoCodec",
    "QINCoConfig",
    "SearchParametersIVFQINCo",
    "TrainingConfig",
    "deserialize_index",
    "finetune",
    "get_num_threads",
    "index_factory",
    "read_index",
    "search_stats",
    "serialize_index",
    "set_num_threads",
    "simd_level",
    "simd_levels",
    "verify_index",
    "write_index",
]
