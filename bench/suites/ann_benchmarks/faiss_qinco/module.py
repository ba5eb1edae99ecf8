"""faiss_qinco in ann-benchmarks."""

import faiss
import numpy as np

import faiss_qinco as fq

from ..base.module import BaseANN


class QINCo(BaseANN):
    """An index of a factory string, such as "IVF1024,QINCo16x8", trained for some seconds."""

    def __init__(self, metric, factory, seconds):
        self._angular = metric == "angular"
        self._factory, self._seconds = factory, seconds
        self.name = f"faiss-qinco({factory},{seconds})"

    def fit(self, X):
        metric = faiss.METRIC_INNER_PRODUCT if self._angular else faiss.METRIC_L2
        training = fq.TrainingConfig(max_seconds=self._seconds, progress=False)
        self.index = fq.index_factory(X.shape[1], self._factory, metric, training)
        x = self._prepared(X)
        self.index.train(x)
        self.index.add(x)

    def set_query_arguments(self, nprobe, nshort):
        self.index.nprobe, self.index.nshort = nprobe, nshort
        faiss.cvar.indexIVF_stats.reset()
        self.name = f"faiss-qinco({self._factory},{self._seconds},{nprobe},{nshort})"

    def query(self, q, n):
        return self.index.search(self._prepared(q[None]), n)[1][0]

    def batch_query(self, X, n):
        self.res = self.index.search(self._prepared(X), n)[1]

    def get_batch_results(self):
        return [row[row >= 0] for row in self.res]

    def get_additional(self):
        return {"dist_comps": faiss.cvar.indexIVF_stats.ndis}

    def get_memory_usage(self):
        """Kilobytes of the index, not of what else the process has."""
        if not hasattr(self, "index"):
            return super().get_memory_usage()
        return self.index.memory_usage()["total"] / 1024

    def _prepared(self, x):
        x = np.array(x, np.float32)  # not the caller's
        if self._angular:
            faiss.normalize_L2(x)
        return x
