"""Sequences of changes against a model of the index in a few lines of Python."""

from __future__ import annotations

import tempfile
from pathlib import Path

import faiss
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import faiss_qinco as fq

GOLDEN = Path(__file__).parents[1] / "golden" / "ivf.fqi"

vectors = st.lists(st.sampled_from(["good", "good", "nan", "huge"]), max_size=5)
some_ids = st.lists(st.one_of(st.integers(-6, 20), st.integers(0, 1 << 40)), max_size=6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), vectors),
        st.tuples(st.just("add_with_ids"), vectors),
        st.tuples(st.just("add_with_ids"), st.integers(60, 90).map(lambda n: ["good"] * n)),
        st.tuples(st.just("update"), st.integers(1, 5)),
        st.tuples(st.just("remove"), some_ids),
        st.tuples(st.just("remove some stored"), st.integers(1, 4)),
        st.tuples(st.just("remove by selector"), st.integers(-3, 12)),
        st.tuples(st.just("merge"), vectors),
        st.tuples(st.just("make_direct_map"), st.booleans()),
        st.tuples(st.sampled_from(["reset", "save", "map"]), st.none()),
    ),
    max_size=14,
)


def queries_of(rng, argument, d):
    x = rng.standard_normal((len(argument), d)).astype(np.float32)
    x[[kind == "nan" for kind in argument], -1] = np.nan
    x[[kind == "huge" for kind in argument]] = 1e25
    return x, np.array([kind == "good" for kind in argument], bool)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(steps=steps, seed=st.integers(0, 99))
def test_ids_numbers_and_vectors_are_those_of_the_model(steps, seed):
    rng = np.random.default_rng(seed)
    index = fq.read_index(GOLDEN)
    index.reset()
    index.make_direct_map(False)
    index.nprobe, index.nshort, index.exit_margin = index.nlist, 2000, np.inf
    first_code = [
        fq.SearchParametersIVFQINCo(nprobe=index.nlist, nshort=nshort, M_search=1)
        for nshort in (0, 2000)
    ]
    stored: list[tuple[int, bytes]] = []  # id, code; what cannot be stored takes a number only
    ntotal, next_id, mapped, most = 0, 0, False, 0

    for what, argument in steps:
        if what in ("add", "add_with_ids", "merge"):
            x, good = queries_of(rng, argument, index.d)
            ids = np.arange(ntotal, ntotal + len(x))
            if what == "add":
                index.add(x)
            elif what == "add_with_ids":
                ids = np.where(rng.random(len(x)) < 0.5, rng.integers(-5, 15, len(x)),
                               rng.integers(-5, 1 << 40, len(x)))  # fmt: skip
                index.add_with_ids(x, ids)
            else:
                other = fq.read_index(GOLDEN)
                other.reset()
                other.add(x)
                index.merge_from(other, ntotal)
                assert other.ntotal == 0
            codes = map(bytes, index.sa_encode(x[good])) if good.any() else []
            stored += zip(ids[good].tolist(), codes, strict=True)
            ntotal += len(x)
            next_id = max(next_id, int(ids.max(initial=-1)) + 1)
        elif what.startswith("remove"):
            if what == "remove":
                goes = set(argument)
            elif what == "remove some stored":
                goes = {i for i, _ in stored[::argument]}
            else:
                goes = set(range(argument, argument + 8))
            ids = np.array(sorted(goes), np.int64)
            if what == "remove by selector":
                ids = faiss.IDSelectorRange(argument, argument + 8)
            before = len(stored)
            stored = [entry for entry in stored if entry[0] not in goes]
            assert index.remove_ids(ids) == before - len(stored)
            ntotal -= before - len(stored)
        elif what == "update":
            ids = [i for i, _ in stored]
            ids = [i for i in sorted(set(ids)) if ids.count(i) == 1][::argument]
            x = rng.standard_normal((len(ids), index.d)).astype(np.float32)
            if mapped and ids:
                index.update_vectors(np.array(ids), x)
                codes = dict(zip(ids, map(bytes, index.sa_encode(x)), strict=True))
                stored = [(i, codes.get(i, code)) for i, code in stored]
        elif what == "make_direct_map":
            index.make_direct_map(argument)
            mapped = argument
        elif what == "reset":
            index.reset()
            stored, ntotal, next_id = [], 0, 0
        elif what == "map":
            with tempfile.TemporaryDirectory() as folder:
                fq.write_index(index, f"{folder}/index")
                index = fq.read_index(f"{folder}/index", faiss.IO_FLAG_MMAP)
        else:
            image = fq.serialize_index(index)
            index = fq.deserialize_index(image)
            np.testing.assert_array_equal(fq.serialize_index(index), image)

        most = max(most, len(stored))
        assert (index.ntotal, index.next_id) == (ntotal, next_id)
        found = np.concatenate([index.lists.get_ids(l) for l in range(index.nlist)])
        assert sorted(found) == sorted(i for i, _ in stored)
        query = rng.standard_normal((1, index.d)).astype(np.float32)
        D, I = index.search(query, max(len(stored), 1))
        assert sorted(I[0][: len(stored)]) == sorted(i for i, _ in stored)
        exact = [
            np.square(index.sa_decode(np.frombuffer(code, np.uint8)[None])[0] - query[0]).sum()
            for _, code in stored
        ]
        np.testing.assert_allclose(D[0][: len(stored)], sorted(exact), rtol=1e-4)
        by_first = [index.search(query, len(stored) + 1, params=p) for p in first_code]
        if mapped:
            of_id: dict[int, list[bytes]] = {}
            for i, code in stored:
                of_id.setdefault(i, []).append(code)
            for i, same in of_id.items():
                decoded = index.sa_decode(
                    np.frombuffer(b"".join(same), np.uint8).reshape(len(same), -1)
                )
                assert (index.reconstruct(i) == decoded).all(1).any()
            for missing in {*range(ntotal), -1, ntotal} - of_id.keys():
                with pytest.raises(RuntimeError):
                    index.reconstruct(missing)
    if steps:
        cut = index.truncate(1)
        expected = [cut.search(query, len(stored) + 1, params=p) for p in first_code]
        if most < 64:  # else tables have been fitted, there to other vectors than here
            np.testing.assert_array_equal(by_first[0], expected[0])
        np.testing.assert_array_equal(by_first[1], expected[1])
