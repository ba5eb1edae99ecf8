"""Files that the first release wrote are read, and give the results that they gave."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.storage.container import open_tensors

HERE = Path(__file__).parent
RESULTS = json.loads((HERE / "results.json").read_text())


@pytest.mark.parametrize("name", ["ivf", "hnsw", "flat", "transformed"])
def test_index_files(name, tmp_path):
    """A flat quantizer with student and direct map, HNSW with ids of its own, no lists and inner
    product, the first behind a PCA: the queries are searched with nprobe 4."""
    index = fq.read_index(HERE / f"{name}.fqi")
    if name != "flat":
        index.nprobe = 4
    D, I = index.search(np.array(RESULTS["q"], np.float32), 5)
    np.testing.assert_array_equal(I, RESULTS[name]["I"])
    np.testing.assert_allclose(D, RESULTS[name]["D"], rtol=1e-5)  # another CPU rounds otherwise
    # Nothing that the old file holds is lost when it is written again.
    fq.write_index(index, tmp_path / "again")
    with open_tensors(HERE / f"{name}.fqi") as old, open_tensors(tmp_path / "again") as new:
        assert old.header.keys() <= new.header.keys()
        tensors = new.all()
        for key, tensor in old.all().items():
            np.testing.assert_array_equal(tensors[key], tensor)


def test_a_codec_file():
    codec = fq.QINCoCodec.load(HERE / "codec.safetensors")
    codes = fq.read_index(HERE / "ivf.fqi").codec.encode(np.array(RESULTS["q"], np.float32))
    np.testing.assert_array_equal(codec.encode(np.array(RESULTS["q"], np.float32)), codes)
