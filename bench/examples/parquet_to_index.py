"""Parquet in, index out, as `autofaiss build_index --file_format parquet`: one vector a row, a list
or a fixed-size list; trained on a sample, read and added batch after batch. The columns --ids go
into OUT.ids.parquet, whose row n is that of the vector with id n. After `faiss_qinco.register()`
autofaiss itself takes these strings, with numpy 1 and an index_param ("nprobe=8,nshort=100").

    pip install 'faiss-qinco[frameworks]'
    python bench/examples/parquet_to_index.py FOLDER_OR_FILE --column embedding --ids url title \
        --key IVF1024,QINCo8x8 --out index.fqi
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

import faiss_qinco as fq


def vectors(column: Any, d: int | None = None) -> np.ndarray:
    """(n, d) float32 of an Arrow column. ValueError for a row whose length is not d, or not that of
    the first one."""
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    d = int(lengths[0]) if d is None else d
    if (lengths != d).any():
        raise ValueError(f"expected vectors of length {d}, got lengths {np.unique(lengths)}")
    return np.asarray(pc.list_flatten(column), np.float32).reshape(-1, d)


def main(
    source: str, column: str, ids: list[str], key: str, out: str,
    training: fq.TrainingConfig, n_train: int = 400_000, batch: int = 65_536,
) -> Any:  # fmt: skip
    """The index, of which OUT has a copy."""
    data = ds.dataset(source, format="parquet")
    n = data.count_rows()
    rows = np.sort(np.random.default_rng(0).choice(n, min(n, n_train), replace=False))
    x = vectors(data.take(rows, columns=[column])[column])
    index = fq.index_factory(x.shape[1], key, training=training)
    index.train(x)
    kept = pa.schema([data.schema.field(name) for name in ids])
    with pq.ParquetWriter(f"{out}.ids.parquet", kept) as writer:
        for part in data.to_batches(
            columns=[column, *ids], batch_size=batch, batch_readahead=1, fragment_readahead=1
        ):
            index.add(vectors(part[column], index.d))
            writer.write_batch(part.select(ids))
    fq.write_index(index, out)
    return index


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("--column", default="embedding")
    parser.add_argument("--ids", nargs="*", default=[])
    parser.add_argument("--key", required=True, help="as for index_factory")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", type=float, default="auto", help="of training")
    given = vars(parser.parse_args())
    training = fq.TrainingConfig(max_seconds=given.pop("seconds"))
    print(main(**given, training=training))
