"""Files that earlier versions wrote are read, and give the results that they gave."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.storage.container import read_tensors

HERE = Path(__file__).parent
RESULTS = json.loads((HERE / "results.json").read_text())
RESULTS_1 = json.loads((HERE / "v1" / "results.json").read_text())
REPLACED = {"codes", "bias", "ids", "quantizer"}  # by what format 1 has
ROUNDED = 4e-3  # of a bias, which format 1 has in two bytes


def lists_of(index):
    core = getattr(index, "index", index)._engine.core
    return [
        [get(list_no) for get in (core.get_ids, core.get_codes, core.get_bias)]
        for list_no in range(core.nlist)
    ]


@pytest.mark.parametrize("name", ["ivf", "hnsw", "flat", "transformed"])
def test_files_of_before_format_1(name, tmp_path):
    """A flat quantizer with student and direct map, HNSW with ids of its own, no lists and inner
    product, the first behind a PCA: the queries are searched with nprobe 4."""
    index = fq.read_index(HERE / f"{name}.fqi", faiss.IO_FLAG_MMAP)  # which changes nothing here
    if name != "flat":
        index.nprobe = 4
    D, I = index.search(np.array(RESULTS["q"], np.float32), 5)
    np.testing.assert_array_equal(I, RESULTS[name]["I"])
    np.testing.assert_allclose(D, RESULTS[name]["D"], rtol=1e-5)  # another CPU rounds otherwise
    # Nothing that the old file holds is lost when it is written again.
    fq.write_index(index, tmp_path / "again")
    header, tensors = read_tensors(HERE / f"{name}.fqi", "index")
    new_header, new_tensors = read_tensors(tmp_path / "again", "index")
    assert header.keys() <= new_header.keys()
    for key, tensor in tensors.items():
        if key.removeprefix("index.") not in REPLACED:
            np.testing.assert_array_equal(new_tensors[key], tensor)
    prefix = "index." if name == "transformed" else ""
    found = [np.concatenate(part) for part in zip(*lists_of(index), strict=True)]
    of_lists = np.repeat(np.arange(len(tensors[f"{prefix}sizes"])), tensors[f"{prefix}sizes"])
    order, old = np.lexsort((found[0], of_lists)), np.lexsort((tensors[f"{prefix}ids"], of_lists))
    np.testing.assert_array_equal(found[0][order], tensors[f"{prefix}ids"][old])
    np.testing.assert_allclose(found[2][order], tensors[f"{prefix}bias"][old], rtol=ROUNDED)


@pytest.mark.parametrize("flags", [0, faiss.IO_FLAG_MMAP])
@pytest.mark.parametrize("name", RESULTS_1)
def test_files_of_format_1(name, flags, tmp_path):
    """Those of before, written again, and one with inner product, lengths corrected, wide random
    ids, and a direct map, some vectors removed; indexes around others. `make.py` has made them."""
    expected = RESULTS_1[name]
    index = fq.read_index(HERE / "v1" / f"{name}.fqi", flags)
    D, I = index.search(np.array(expected["q"], np.float32), 5)
    np.testing.assert_array_equal(I, expected["I"])
    np.testing.assert_allclose(D, expected["D"], rtol=1e-5)
    fq.verify_index(HERE / "v1" / f"{name}.fqi")
    fq.write_index(index, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (HERE / "v1" / f"{name}.fqi").read_bytes()


def test_a_codec_file():
    codec = fq.QINCoCodec.load(HERE / "codec.safetensors")
    codes = fq.read_index(HERE / "ivf.fqi").codec.encode(np.array(RESULTS["q"], np.float32))
    np.testing.assert_array_equal(codec.encode(np.array(RESULTS["q"], np.float32)), codes)
