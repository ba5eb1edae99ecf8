"""faiss_qinco in big-ann-benchmarks: built in bounded memory, searched mapped."""

import os
import shutil

import faiss
import numpy as np
from benchmark.algorithms.base import BaseANN
from benchmark.datasets import DATASETS

import faiss_qinco as fq
from faiss_qinco.pipeline.build import build
from faiss_qinco.pipeline.encode import encode

BLOCK = 1 << 18  # vectors at a time


class FaissQINCo(BaseANN):
    """Of a dict: indexkey (a factory string), seconds (of training), maxtrain (vectors), effort (of
    encoding) and memory (bytes), the last four with defaults."""

    def __init__(self, metric, index_params):
        self._metric, self._params = metric, index_params
        self.indexkey = index_params.get("indexkey", "IVF65536_HNSW32,QINCo8x8")
        self.name = f"faiss-qinco({self.indexkey})"

    def track(self):
        return "T1"

    def index_name(self, name):
        return f"data/{name}.{self.indexkey}.fqi"

    def fit(self, dataset):
        """As one that was killed left off: trained, or encoded in part."""
        ds, out = DATASETS[dataset](), self.index_name(dataset)
        trained, codes = f"{out}.trained", f"{out}.codes"
        if os.path.exists(trained):
            index = fq.read_index(trained)
        else:
            inner = ds.distance() in ("ip", "angular")
            metric = faiss.METRIC_INNER_PRODUCT if inner else faiss.METRIC_L2
            training = fq.TrainingConfig(max_seconds=self._params.get("seconds", "auto"))
            index = fq.index_factory(ds.d, self.indexkey, metric, training)
            maxtrain = self._params.get("maxtrain", 1_000_000)
            index.train(next(ds.get_dataset_iterator(bs=min(maxtrain, ds.nb))))
            fq.write_index(index, trained)
        rows = _Rows(ds)
        effort, memory = self._params.get("effort", "fast"), self._params.get("memory", 8 << 30)
        encode(index, rows, codes, effort=effort, rows_per_shard=BLOCK)
        build(index, codes, out, memory=memory)
        shutil.rmtree(codes)
        self.load_index(dataset)

    def load_index(self, dataset):
        if not os.path.exists(self.index_name(dataset)):
            return False
        self.index = fq.read_index(self.index_name(dataset), faiss.IO_FLAG_MMAP)
        return True

    def index_files_to_store(self, dataset):
        folder, name = os.path.split(self.index_name(dataset))
        return [folder, name, [""]]

    def set_query_arguments(self, query_args):
        """Such as "nprobe=16,nshort=20"."""
        faiss.cvar.indexIVF_stats.reset()
        for setting in query_args.split(","):
            name, value = setting.split("=")
            if name == "efSearch":
                faiss.downcast_index(self.index.quantizer).hnsw.efSearch = int(value)
            else:
                setattr(self.index, name, int(value))
        self.name = f"faiss-qinco({self.indexkey},{query_args})"

    def query(self, X, k):
        self.res = self.index.search(X, k)[1]

    def range_query(self, X, radius):
        self.res = self.index.range_search(X, radius)

    def get_results(self):
        return self.res

    def get_range_results(self):
        return self.res

    def get_additional(self):
        return {"dist_comps": faiss.cvar.indexIVF_stats.ndis}


class _Rows:
    """The vectors of a data set, which gives them in order, as `encode` asks for them: from some
    row on, block after block."""

    def __init__(self, ds):
        self.shape, self._ds = (ds.nb, ds.d), ds
        self._start, self._blocks, self._block = 0, None, None
        self.dtype = next(ds.get_dataset_iterator(bs=1)).dtype

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        if isinstance(rows, np.ndarray):  # asked for to tell them from others: the first will do
            few = next(self._ds.get_dataset_iterator(bs=min(1024, len(self))))
            return few[np.minimum(np.arange(len(rows)), len(few) - 1)]
        begin, end, _ = rows.indices(len(self))
        found = []
        while begin < end:
            self._go_to(begin)
            part = self._block[begin - self._start : end - self._start]
            found.append(part)
            begin += len(part)
        return np.concatenate(found) if found else np.empty((0, self.shape[1]), self.dtype)

    def _go_to(self, row):
        if self._blocks is None or row < self._start:
            self._blocks = iter(self._ds.get_dataset_iterator(bs=BLOCK))
            self._start, self._block = 0, next(self._blocks)
        while row >= self._start + len(self._block):
            self._start += len(self._block)
            self._block = next(self._blocks)
