"""Searches: checked arguments, one call of the engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..checks import as_matrix, number, result_buffers
from ..params import Resolved, resolve_params
from .settings import Settings


class Searching(Settings):
    """Methods that search."""

    __slots__ = ()

    def search(
        self,
        x: np.ndarray,
        k: int,
        *,
        params: Any = None,
        D: np.ndarray | None = None,
        I: np.ndarray | None = None,
        numeric_type: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest stored vectors of each query.

        Parameters
        ----------
        x : (n, d) queries, any real dtype.
        k : results per query.
        params : `SearchParametersIVFQINCo` (or `faiss.SearchParametersIVF`); None: the index's
            nprobe and nshort.
        D, I : buffers (n, k) float32 and int64 to fill and return.

        Returns
        -------
        D (n, k) float32: squared L2 distance (or inner product) between the query and what
        `reconstruct` returns (with `M_search`, what the first codes decode to), best first; with
        nshort 0 the additive distance, a part of it being rounded to two bytes. I (n, k) int64.
        Missing results, and queries with NaN or inf, have id -1 and D = ±FLT_MAX.

        Raises
        ------
        RuntimeError if untrained, nprobe is 0 or params are another index's; ValueError for an
        M_search above M, and (also an AssertionError) for a wrong dimension, k < 1 or buffers of a
        wrong shape; TypeError for k or buffers of a wrong type.
        """
        engine, x = self._check_trained(), as_matrix(x, self.d)
        resolved = self._resolve(params)
        k, D, I = result_buffers(k, len(x), D, I)
        engine.search(x, k, resolved, self._probe(x, resolved), D, I, self._rerank_device)
        return D, I

    def _resolve(self, params: Any) -> Resolved:
        return resolve_params(
            params, self._default_nprobe(), self._nshort, self._exit_margin, self._M_search, self.M
        )

    def _default_nprobe(self) -> int:
        return 1

    def _probe(self, x: np.ndarray, params: Resolved) -> tuple[Any, Any]:
        given = params.given
        return self._coarse.probe(x, min(given.nprobe, self.nlist), given.quantizer_params)

    def range_search(
        self, x: np.ndarray, thresh: float, *, params: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All stored vectors of the probed lists that are nearer than a threshold.

        Parameters
        ----------
        x : (n, d) queries, any real dtype.
        thresh : squared L2 distance that results are below, or inner product that they are above;
            nothing is below or above NaN.
        params : as for `search`.

        Returns
        -------
        lims (n + 1,) uint64; D and I (lims[n],) float32 and int64, as `search` gives them: those of
        query i are lims[i] to lims[i + 1], in no particular order.

        With nshort 0, D is the additive distance, which also decides. Else the exact one: decoded
        are the vectors whose additive distance is inside by a margin that is calibrated in training
        so that at most 1 % of what is inside is missed; `exit_margin` scales it, inf decodes all.

        Raises as `search`, TypeError for a thresh that is no number.
        """
        engine, x = self._check_trained(), as_matrix(x, self.d)
        resolved = self._resolve(params)
        return engine.range_search(x, number("thresh", thresh), resolved, self._probe(x, resolved))

    def assign(self, x: np.ndarray, k: int, labels: np.ndarray | None = None) -> np.ndarray:
        """The ids (n, k) of `search`."""
        return self.search(x, k, I=labels)[1]
