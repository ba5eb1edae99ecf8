"""From vector files larger than memory to a searched index: stages that can be killed anywhere and
run again, in bounded memory, with files in between.

    train_coarse   vectors -> centroids            (faiss-qinco train-coarse)
    train          vectors, centroids -> an empty index: `IndexIVFQINCo.train`
    encode         vectors, index -> encoded shards
    build          shards -> an index file
    merge_indexes  index files -> an index file    (faiss-qinco merge)
    estimate       what all of it will take        (faiss-qinco plan)
"""

from .build import build
from .coarse import train_coarse
from .encode import encode
from .estimate import estimate
from .merge import merge_indexes

__all__ = ["build", "encode", "estimate", "merge_indexes", "train_coarse"]
