"""The adapters of benchmark suites, against the suites' interfaces: the calls that their runners
make, in that order. (The suites themselves cannot be installed by pip.)"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import faiss
import numpy as np
import pytest

SUITES = Path(__file__).parents[2] / "bench" / "suites"
pytestmark = pytest.mark.skipif(not SUITES.exists(), reason="bench is not there (a wheel's tests)")


class BaseANN:
    """As much as both suites' have."""

    def done(self) -> None: ...

    def get_memory_usage(self) -> float:
        return 1.0

    def get_additional(self) -> dict[str, Any]:
        return {}

    def __str__(self) -> str:
        return self.name


def loaded(monkeypatch, file: str, package: str, **modules: dict[str, Any]) -> ModuleType:
    """An adapter, with stand-ins for the modules of its suite."""
    for name, content in modules.items():
        module = ModuleType(name.replace("__", "."))
        module.__dict__.update(content)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location(f"{package}.adapter", SUITES / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("metric", ["euclidean", "angular"])
def test_ann_benchmarks(monkeypatch, learn, queries, metric) -> None:
    pytest.importorskip("torch", reason="trains")
    module = loaded(
        monkeypatch, "ann_benchmarks/faiss_qinco/module.py", "algorithms.faiss_qinco",
        algorithms={}, algorithms__faiss_qinco={}, algorithms__base={},
        algorithms__base__module={"BaseANN": BaseANN},
    )  # fmt: skip
    x, q = learn[:2000].copy(), queries[:40].copy()
    algo = module.QINCo(metric, "IVF16,QINCo4x4_XS", 2)
    assert algo.get_memory_usage() > 0
    algo.fit(x)
    np.testing.assert_array_equal(x, learn[:2000])  # the caller's are as they were
    normed = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "angular" else x
    target = q / np.linalg.norm(q, axis=1, keepdims=True) if metric == "angular" else q
    true = faiss.knn(np.ascontiguousarray(target), np.ascontiguousarray(normed), 1)[1]
    algo.set_query_arguments(16, 100)
    found = np.array([algo.query(v, 10) for v in q])
    assert (found == true).any(1).mean() > 0.4
    algo.batch_query(q, 10)
    np.testing.assert_array_equal(np.array(algo.get_batch_results()), found)
    np.testing.assert_array_equal(q, queries[:40])
    assert algo.get_additional()["dist_comps"] > 0 and algo.get_memory_usage() > 0
    assert str(algo) == "faiss-qinco(IVF16,QINCo4x4_XS,2,16,100)"
    algo.set_query_arguments(1, 0)
    algo.batch_query(q, 500)  # more than a list has
    assert all((row >= 0).all() for row in algo.get_batch_results())
    algo.done()


def test_big_ann_benchmarks(monkeypatch, learn, queries, tmp_path) -> None:
    pytest.importorskip("torch", reason="trains")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    x = learn[:3000].astype(np.uint8)

    class Dataset:
        nb, d = x.shape

        def distance(self) -> str:
            return "euclidean"

        def get_dataset_iterator(self, bs: int):
            return (x[i : i + bs] for i in range(0, len(x), bs))

    module = loaded(
        monkeypatch, "big_ann_benchmarks/faiss_qinco.py", "benchmark", benchmark={},
        benchmark__algorithms={}, benchmark__algorithms__base={"BaseANN": BaseANN},
        benchmark__datasets={"DATASETS": {"small": Dataset}},
    )  # fmt: skip
    monkeypatch.setattr(module, "BLOCK", 700)
    params = {"indexkey": "IVF16,QINCo4x4_XS", "seconds": 2, "maxtrain": 2000, "memory": 1 << 33}
    algo = module.FaissQINCo("euclidean", params)
    assert not algo.load_index("small")
    algo.fit("small")
    assert {f.name for f in (tmp_path / "data").iterdir()} == {
        "small.IVF16,QINCo4x4_XS.fqi", "small.IVF16,QINCo4x4_XS.fqi.trained",
    }  # fmt: skip
    assert algo.index.ntotal == 3000
    again = module.FaissQINCo("euclidean", params)
    assert again.load_index("small") and again.track() == "T1"
    q = queries[:40].astype(np.uint8)
    true = faiss.knn(q.astype(np.float32), x.astype(np.float32), 1)[1]
    again.set_query_arguments("nprobe=16,nshort=100")
    again.query(q, 10)
    assert again.get_results().shape == (40, 10)
    assert (again.get_results() == true).any(1).mean() > 0.4
    again.range_query(q, 30_000.0)
    lims, D, I = again.get_range_results()
    assert len(lims) == 41 and len(D) == len(I) == lims[-1]
    assert again.get_additional()["dist_comps"] > 0
    assert "nprobe=16" in str(again)
    folder, prefix, components = again.index_files_to_store("small")
    assert all((Path(folder) / (prefix + part)).exists() for part in components)
    rows = module._Rows(Dataset())
    for part in (slice(0, 10), slice(650, 1500), slice(20, 30), slice(2990, 3000), slice(5, 5)):
        np.testing.assert_array_equal(rows[part], x[part])
