"""Sequences of changes against a model of the index in a few lines of Python."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import faiss_qinco as fq

GOLDEN = Path(__file__).parents[1] / "golden" / "ivf.fqi"

vectors = st.lists(st.sampled_from(["good", "good", "nan", "huge"]), max_size=5)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), vectors),
        st.tuples(st.just("add_with_ids"), vectors),
        st.tuples(st.just("make_direct_map"), st.booleans()),
        st.tuples(st.sampled_from(["reset", "save"]), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(steps=steps, seed=st.integers(0, 99))
def test_ids_numbers_and_vectors_are_those_of_the_model(steps, seed):
    rng = np.random.default_rng(seed)
    index = fq.read_index(GOLDEN)
    index.reset()
    index.make_direct_map(False)
    index.nprobe, index.nshort, index.exit_margin = index.nlist, 1000, np.inf
    first_code = [
        fq.SearchParametersIVFQINCo(nprobe=index.nlist, nshort=nshort, M_search=1)
        for nshort in (0, 1000)
    ]
    stored: list[tuple[int, np.ndarray]] = []  # id, code; what cannot be stored takes a number only
    ntotal, own_ids, mapped = 0, False, False

    for what, argument in steps:
        if what in ("add", "add_with_ids"):
            x = rng.standard_normal((len(argument), index.d)).astype(np.float32)
            good = np.array([kind == "good" for kind in argument], bool)
            x[[kind == "nan" for kind in argument], -1] = np.nan
            x[[kind == "huge" for kind in argument]] = 1e25
            ids = np.arange(ntotal, ntotal + len(x))
            if what == "add":
                index.add(x)
            elif mapped:
                with pytest.raises(RuntimeError, match="direct map"):
                    index.add_with_ids(x, ids)
                continue
            else:
                ids = rng.integers(-5, 1 << 40, len(x))
                own_ids |= bool(good.any())
                index.add_with_ids(x, ids)
            codes = index.sa_encode(x[good]) if good.any() else []
            stored += zip(ids[good].tolist(), codes, strict=True)
            ntotal += len(x)
        elif what == "make_direct_map":
            if argument and own_ids:
                with pytest.raises(RuntimeError):
                    index.make_direct_map()
            else:
                index.make_direct_map(argument)
                mapped = argument
        elif what == "reset":
            index.reset()
            stored, ntotal, own_ids = [], 0, False
        else:
            index = fq.deserialize_index(fq.serialize_index(index))

        assert index.ntotal == ntotal
        found = np.concatenate([index.lists.get_ids(l) for l in range(index.nlist)])
        assert sorted(found) == sorted(i for i, _ in stored)
        query = rng.standard_normal((1, index.d)).astype(np.float32)
        D, I = index.search(query, ntotal + 1)
        assert sorted(I[0][I[0] >= 0]) == sorted(i for i, _ in stored if i >= 0)
        by_first = [index.search(query, ntotal + 1, params=p) for p in first_code]
        if mapped:
            for i, code in stored:
                decoded = index.sa_decode(code[None])[0]
                np.testing.assert_array_equal(index.reconstruct(i), decoded)
                distance = np.square(decoded - query[0]).sum()
                np.testing.assert_allclose(D[0][I[0] == i], distance, rtol=1e-4)
            for missing in {*range(ntotal), -1, ntotal} - {i for i, _ in stored}:
                with pytest.raises(RuntimeError):
                    index.reconstruct(missing)
    if steps:
        cut = index.truncate(1)
        expected = [cut.search(query, ntotal + 1, params=p) for p in first_code]
        np.testing.assert_array_equal(by_first, expected)
