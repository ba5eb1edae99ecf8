"""faiss's indexes around other indexes, around those of this package. `base.py` says what there is
to go around, and what all of them have."""
