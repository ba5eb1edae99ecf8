"""The figures of `inspect` against their definitions; the page that shows them."""

from __future__ import annotations

import base64
import os
import re
from importlib.util import find_spec

import faiss
import numpy as np
import pytest

import faiss_qinco as fq
from faiss_qinco.cli import main
from faiss_qinco.tools.inspect import inspect
from faiss_qinco.tools.inspect.codebooks import _shares
from faiss_qinco.tools.inspect.findings import slopes
from faiss_qinco.tools.inspect.page import write_page
from faiss_qinco.tools.inspect.searches import _ranks, _recall


@pytest.fixture(scope="module")
def found(filled_image, base, queries):
    index = fq.deserialize_index(filled_image)
    index.nprobe = 4
    return inspect(index, base[3000:7000], queries[:60], sample=800)


def test_errors_are_those_of_the_codec_and_of_a_residual_quantizer(found, filled_image, base):
    index = fq.deserialize_index(filled_image)
    codec, x = index.codec, base[3000:7000][found.worst.rows]
    codes = np.column_stack(index._engine.encode(x, None, "cpu"))  # as they would be stored
    errors = np.square(codec.decode(codes) - x).sum(1)
    np.testing.assert_allclose(found.worst.errors[found.worst.order], errors, rtol=1e-4)
    assert (np.diff(errors) <= 0).all() and errors[0] == pytest.approx(found.worst.errors.max())
    np.testing.assert_array_equal(found.worst.list_no, codes[:, 0])
    assert found.n_measured == len(found.worst.errors) == 800
    steps = found.steps
    assert steps.mse[-1] == pytest.approx(found.worst.errors.mean(), rel=1e-5)
    assert steps.rq[-1] == pytest.approx(found.worst.rq_errors.mean(), rel=1e-5)
    assert steps.rq[0] == pytest.approx(steps.mse[0])  # of the lists alone
    assert (np.diff(steps.mse) < 0).all() and (np.diff(steps.rq) < 0).all()
    assert 0.9 * steps.mse[-1] < steps.tables < steps.mse[0]  # of networks that were not trained
    np.testing.assert_allclose(slopes(np.array([100.0, 10.0, 1.0]), 4), [20, 20])


def test_use_of_codewords_and_lists_is_of_what_is_stored(found, filled_image):
    lists = fq.deserialize_index(filled_image).lists
    codes = np.concatenate([lists.get_codes(l) for l in range(16)])
    for m in range(4):
        np.testing.assert_array_equal(found.use.counts[m], np.bincount(codes[:, m], minlength=256))
    p = found.use.counts[1][found.use.counts[1] > 0] / 3000
    assert found.use.entropy[1] == pytest.approx(-(p * np.log2(p)).sum())
    assert found.use.unused[1] == 256 - len(p)
    np.testing.assert_array_equal(found.lists, lists.sizes())


def test_parts_of_a_movement_add_up():
    rng = np.random.default_rng(0)
    base, f = rng.standard_normal((16, 5)), rng.standard_normal((7, 16, 5))
    f[:, :, 0] += 3
    mean = f.mean(0)
    spread = np.square(mean - mean.mean(0)).sum(1).mean()
    assert sum(_shares(f, base)) == pytest.approx(np.square(f - base).sum(2).mean() / spread)


def test_recall_of_the_tables():
    by_tables = np.array([[7, 3, 5, 1], [2, 9, 4, 8]])
    ranks = _ranks(np.array([[5, 7, 3], [6, 2, -1]]), by_tables)
    np.testing.assert_array_equal(ranks, [[2, 0, 1], [4, 0, -1]])
    np.testing.assert_allclose(_recall(ranks, np.array([1, 3, 4]), 3), [np.nan, 4 / 5, 4 / 5])


def test_searches_are_those_of_the_index(found, filled_image, queries):
    index = fq.deserialize_index(filled_image)
    index.nprobe = found.searches.nprobe
    longest = int(found.searches.nshorts[-1])

    def best(nshort):
        params = fq.SearchParametersIVFQINCo(nprobe=4, nshort=nshort, exit_margin=np.inf)
        return index.search(queries[:60], 1, params=params)[1][:, 0]

    at = list(found.searches.nshorts).index(10)
    assert found.searches.n_queries == 60 and found.searches.nprobe == 4
    expected = (best(10) == best(longest)).mean()
    assert found.searches.recall[1][at] == pytest.approx(expected, abs=1e-9)
    assert all(0 <= exit.lost <= exit.n for exit in found.searches.exits)


@pytest.mark.parametrize("vectors", [False, True])
def test_a_codec_alone_and_with_vectors(trained, learn, vectors, tmp_path):
    for metric in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
        codec = fq.deserialize_index(trained[metric]).codec
        seen = inspect(codec, learn[:300] if vectors else None, sample=100)
        assert seen.kind == "codec" and seen.searches is None
        assert (seen.steps is not None) == vectors
        if vectors:  # before the first code it is what the list's codes add to that is known
            lists = codec.encode(seen.worst.x)[:, 0]
            assert (seen.worst.list_no == lists).all()
            assert seen.steps.mse[0] < np.square(learn[:300] - codec.mean).sum(1).mean()
        assert write_page(seen, tmp_path, "codec").exists()


def test_the_page_holds_its_pictures_and_no_foreign_markup(found, tmp_path):
    page = write_page(found, tmp_path, "<b>photos & more</b>").read_text()
    assert "<b>photos" not in page and "&lt;b&gt;photos &amp; more" in page
    pictures = {p.name: p.read_bytes() for p in tmp_path.glob("*.png")}
    inside = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert len(inside) == len(pictures) >= (8 if find_spec("torch") else 7)
    assert {base64.b64decode(text) for text in inside} == set(pictures.values())
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)


def test_behind_transforms_figures_are_of_what_they_make_of_vectors(learn, tmp_path):
    index = fq.index_factory(128, "PCA8,IVF4,QINCo2x4")
    index.training = fq.TrainingConfig(epochs=1, max_seconds=None, progress=False)
    with pytest.raises(RuntimeError, match="not trained"):
        inspect(index)
    index.train(learn[:800])
    index.add(learn[:800])
    seen = inspect(index, learn[800:1200], learn[1200:1210], sample=100)
    assert seen.about["transforms"] == "PCAMatrix 128 -> 8"
    x = index.apply_chain(learn[800:1200][seen.worst.rows])
    np.testing.assert_allclose(seen.worst.x, x, rtol=1e-5, atol=1e-2)
    assert seen.searches.n_queries == 10
    with pytest.raises(ValueError, match="128"):
        inspect(index, learn[:, :8])
    page = write_page(inspect(index.codec), tmp_path, os.fsdecode(b"x\xff.fqi"))
    assert "x?.fqi" in page.read_text()


def test_what_cannot_be_inspected_is_refused(filled_image, trained, base):
    index = fq.deserialize_index(filled_image)
    bad = np.full((50, 128), np.nan, np.float32)
    for call, error, match in (
        (lambda: inspect("index"), TypeError, "target"),
        (lambda: inspect(fq.IndexQINCo(8, 4)), RuntimeError, "not trained"),
        (lambda: inspect(index, base[:, :9]), ValueError, "vectors: expected shape"),
        (lambda: inspect(index, base[:0]), ValueError, "vectors: expected shape"),
        (lambda: inspect(index, base, sample=0), ValueError, "sample"),
        (lambda: inspect(index, bad), RuntimeError, "none of"),
        (lambda: inspect(index.codec, bad), RuntimeError, "none of"),
    ):
        with pytest.raises(error, match=match):
            call()
    empty = inspect(fq.deserialize_index(trained[faiss.METRIC_L2]))
    assert empty.use is None and empty.searches is None and empty.missing


def test_from_the_command_line(filled_image, base, tmp_path, capsys):
    fq.write_index(fq.deserialize_index(filled_image), tmp_path / "i.fqi")
    np.save(tmp_path / "x.npy", base[3000:3200])
    main(
        [
            "inspect",
            str(tmp_path / "i.fqi"),
            "--vectors",
            str(tmp_path / "x.npy"),
            "--sample",
            "80",
            "--out",
            str(tmp_path / "page"),
        ]
    )
    assert "inspect.html" in capsys.readouterr().out
    assert (tmp_path / "page" / "inspect.html").stat().st_size > 10_000
