"""Searches: checked arguments, one call of the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..checks import as_matrix, check_buffer, check_matrix, filled, number, result_buffers
from ..explore import explore, params_of
from ..operating_points import OperatingPoint, choose
from ..params import Defaults, Resolved, resolve_params
from ..tensors import takes_tensors
from ..threads import get_num_threads
from .settings import Settings


class Searching(Settings):
    """Methods that search."""

    __slots__ = ()

    @takes_tensors
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
        x : (n, d) queries, any real dtype; torch tensors give tensors back.
        k : results per query.
        params : `SearchParametersIVFQINCo` (or `faiss.SearchParametersIVF`); None: the index's
            nprobe and nshort; or what an operating point is to have (see `tune`): "r@1>=.45" for
            the fastest with that recall, "latency<=2ms" for the best in that time, or its name.
        D, I : buffers (n, k) float32 and int64 to fill and return.

        Returns
        -------
        D (n, k) float32: squared L2 distance (or inner product) between the query and what
        `reconstruct` returns (with `M_search`, what the first codes decode to), best first. With an
        nshort below k, what is not re-ranked follows in the order of the tables, with the additive
        distance, a part of it being rounded to two bytes, or the largest before it if that is more
        (inner product: the least); with nshort 0 that is all. I (n, k) int64.
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

    @takes_tensors
    def search_and_reconstruct(
        self,
        x: np.ndarray,
        k: int,
        *,
        params: Any = None,
        D: np.ndarray | None = None,
        I: np.ndarray | None = None,
        R: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`search`, and what the results decode to: D and I (n, k), R (n, k, d) float32, what
        `reconstruct` returns for each, NaN where one is missing. Re-ranks on CPUs.

        D, I, R : buffers to fill and return. Raises as `search`.
        """
        check_matrix(x, self.d)
        k, D, I = result_buffers(k, len(x), D, I)
        check_buffer("R", R, (len(x), k, self.d), np.float32)
        with self._found(x, k, params, D, I) as (list_no, offset):
            core = self._check_trained().core
            found = core.reconstruct_at(list_no, offset, n_threads=get_num_threads())
        return D, I, filled(R, found.reshape(len(x), k, self.d))

    @contextmanager
    def _found(
        self, x: np.ndarray, k: int, params: Any, D: np.ndarray, I: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A search into D and I (n, k), and where its results are stored, while nothing moves:
        list_no and offset (n * k,) int64, -1 where one is missing."""
        engine, x = self._check_trained(), as_matrix(x, self.d)
        resolved = self._resolve(params)
        probed = self._probe(x, resolved)
        engine.prepare(resolved.M_search)  # which a reading would not let it
        entries = np.empty(I.shape, np.int64), np.empty(I.shape, np.int64)
        with engine.core.reading():
            engine.search(x, k, resolved, probed, D, I, "cpu", entries)
            yield entries[0].ravel(), entries[1].ravel()

    @takes_tensors
    def tune(
        self,
        queries: np.ndarray,
        groundtruth: np.ndarray,
        *,
        k: int = 10,
        nprobe: Sequence[int] | None = None,
        nshort: Sequence[int] | None = None,
        efSearch: Sequence[int] | None = None,
        single: bool = False,
        progress: bool = True,
    ) -> list[OperatingPoint]:
        """Find operating points: settings of which no other is both faster and better, as
        `faiss.ParameterSpace.explore` does, and keep them in `operating_points`.

        Parameters
        ----------
        queries : (n, d), any real dtype; some hundred tell recall to a few points.
        groundtruth : (n, 1 or more) ids, the nearest first, of which the first counts.
        k : results of a search, default 10.
        nprobe, nshort : values to try; None: powers of 2 up to 256 lists, and 0 to 500. efSearch:
            of a quantizer that is an HNSW graph; None: 16 and 64.
        single : whether to time queries one by one (the median counts), not all at once.
        progress : shows a bar.

        Takes two searches with the largest nshort for each nprobe, which tell what all others
        find, and one for each setting that may be worth it. Times are of this machine with the
        threads that are set. Returns the points, the fastest first. What is added later is not in
        their recall. Raises as `search`, and ValueError for another shape or values.
        """
        self._check_trained()
        x = as_matrix(queries, self.d)
        found = explore(
            self, x, np.asarray(groundtruth), k, nprobe, nshort, efSearch, single, progress
        )
        self.operating_points = found
        return found

    def _resolve(self, params: Any) -> Resolved:
        if isinstance(params, str):
            params = params_of(choose(self._operating_points, params))
        return resolve_params(params, self._defaults(), self.M)

    def _defaults(self) -> Defaults:
        return Defaults(self._nshort, self._exit_margin, self._M_search, self._min_codes)

    def _probe(self, x: np.ndarray, params: Resolved) -> tuple[Any, Any]:
        given = params.given
        return self._coarse.probe(x, min(given.nprobe, self.nlist), given.quantizer_params)

    @takes_tensors
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

    @takes_tensors
    def assign(self, x: np.ndarray, k: int, labels: np.ndarray | None = None) -> np.ndarray:
        """The ids (n, k) of `search`."""
        return self.search(x, k, I=labels)[1]
