"""Parquet in, index out."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import faiss_qinco as fq

from ..wrappers.conftest import equal
from .conftest import EXAMPLES, REASON, brief, example

pa = pytest.importorskip("pyarrow", reason=REASON)
KEY = "IVF8,QINCo2x4_XS"


def columns(x):
    """The ways in which files hold vectors."""
    flat, n, d = x.ravel(), len(x), x.shape[1]
    return {
        "list": pa.array(list(x)),
        "large list": pa.LargeListArray.from_arrays(np.arange(n + 1) * d, flat),
        "fixed-size list": pa.FixedSizeListArray.from_arrays(pa.array(flat), d),
        "float64": pa.array(list(x.astype(np.float64))),
        "float16": pa.array(list(x.astype(np.float16))),  # exact: whole numbers up to 255
        "uint8": pa.array(list(x.astype(np.uint8))),
    }


def write(path, column, start=0, **more):
    import pyarrow.parquet as pq

    names = pa.array([f"doc {start + i}" for i in range(len(column))])
    pq.write_table(pa.table({"name": names, "v": column, **more}), path, row_group_size=300)


def test_index_and_ids(x, q, tmp_path):
    import pyarrow.parquet as pq

    module = example("parquet_to_index")
    expected = fq.index_factory(x.shape[1], KEY, training=brief())
    expected.train(x)
    expected.add(x)
    expected = expected.search(q, 5)
    for kind, column in columns(x).items():
        folder = tmp_path / kind
        folder.mkdir()
        write(folder / "0.parquet", column[:250])
        write(folder / "1.parquet", column[250:], 250)
        out = str(tmp_path / f"{kind}.fqi")
        index = module.main(str(folder), "v", ["name"], KEY, out, brief(), batch=77)
        for one in (index, fq.read_index(out)):
            assert one.ntotal == len(x)
            equal(one.search(q, 5), expected)
        ids = pq.read_table(f"{out}.ids.parquet")
        assert ids.column_names == ["name"]
        assert ids["name"].to_pylist() == [f"doc {i}" for i in range(len(x))]


def test_rows_of_other_lengths_are_refused(x, tmp_path):
    module = example("parquet_to_index")
    rows = list(x)
    for bad in ([*rows[:9], rows[0][:31], np.tile(rows[0], 2)[:33]], [*rows[:9], None]):
        with pytest.raises(ValueError, match="length"):
            module.vectors(pa.array(bad))
    np.testing.assert_array_equal(module.vectors(pa.array(rows)[7:20]), x[7:20])


def test_command_line(x, tmp_path):
    pytest.importorskip("torch")
    write(tmp_path / "v.parquet", columns(x)["list"])
    out = tmp_path / "index.fqi"
    command = [
        sys.executable, str(EXAMPLES / "parquet_to_index.py"), str(tmp_path / "v.parquet"),
        "--column", "v", "--key", KEY, "--out", str(out), "--seconds", "1",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    assert fq.read_index(out).ntotal == len(x)
