"""FAISS's surface, ids and errors, a file for each subject. What an index runs on is `engine`.

All distances are squared L2, or inner products. Where FAISS has a behaviour, it is FAISS's.
"""

from .flat import IndexQINCo
from .ivf import IndexIVFQINCo

__all__ = ["IndexIVFQINCo", "IndexQINCo"]
