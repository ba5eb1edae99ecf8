"""Imported first: says what to install where faiss is missing or too old.

No distribution of faiss is a requirement of the package, since any will do, and faiss-cpu would
overwrite the files of another one, of a build for GPUs above all.
"""

from __future__ import annotations

INSTALL = "pip install faiss-cpu, or conda install -c pytorch faiss-gpu"

try:
    import faiss
except ModuleNotFoundError as error:
    if error.name != "faiss":
        raise
    raise ImportError(f"faiss_qinco needs faiss: {INSTALL}") from error

if tuple(map(int, faiss.__version__.split(".")[:2])) < (1, 9):
    raise ImportError(
        f"faiss_qinco needs faiss 1.9 or later, and found {faiss.__version__}: {INSTALL}"
    )
