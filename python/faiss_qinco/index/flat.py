"""`IndexQINCo`: codes without inverted lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from ..checks import INT64, check_buffer, filled, integer
from ..coarse import NoLists
from ..codec.config import QINCoConfig
from ..tensors import takes_tensors
from ..training.config import TrainingConfig
from .common import QINCoIndex

if TYPE_CHECKING:
    from typing_extensions import Self


class IndexQINCo(QINCoIndex):
    """Flat index of QINCo codes: the shortlist is found by tables over all vectors.

    Parameters
    ----------
    d, M, nbits : dimension, codes per vector (1..64), bits per code (4..8).
    metric : faiss.METRIC_L2 or METRIC_INNER_PRODUCT.
    config : "auto" (default), a preset name ("XS", "S", "M", "L") or QINCoConfig.
    training : TrainingConfig.

    Attributes
    ----------
    As of `IndexIVFQINCo`, but for those of lists and quantizer.

    Raises ValueError for a size out of range, an unknown metric or preset.
    """

    __slots__ = ()

    def __init__(
        self,
        d: int,
        M: int,
        nbits: int = 8,
        metric: int = faiss.METRIC_L2,
        config: str | QINCoConfig = "auto",
        training: TrainingConfig | None = None,
    ) -> None:
        super().__init__(NoLists(), d, 1, M, nbits, metric, config, training)

    def _shell(self, M: int) -> Self:
        return type(self)(self.d, M, self.nbits, self.metric_type, self._config, self.training)

    def remove_ids(self, ids: Any) -> int:
        """Remove vectors by their ids; those of the vectors that follow move up, so that they are
        0 .. ntotal-1 again, as in `faiss.IndexFlat`.

        A vector that could not be stored (see `add`) has a number that can be removed like others.
        Otherwise as `IndexIVFQINCo.remove_ids`.
        """
        return self._remove(ids, True)

    def merge_from(self, other: Self, add_id: int = 0) -> None:
        """Move all that another index stores into this one; its ids then follow on from ntotal.

        Otherwise as `IndexIVFQINCo.merge_from`. Raises RuntimeError for an add_id that is not 0.
        """
        if integer("add_id", add_id, *INT64) != 0:
            raise RuntimeError(f"add_id: expected 0, for this index numbers itself, got {add_id}")
        self._merge_from(other, None)

    @takes_tensors
    def reconstruct(self, key: int, x: np.ndarray | None = None) -> np.ndarray:
        """The decoded vector (d,) float32 of an id. Raises RuntimeError for an id out of range."""
        check_buffer("x", x, (self.d,), np.float32)
        return filled(x, self.reconstruct_n(key, 1)[0])

    @takes_tensors
    def add_sa_codes(self, codes: np.ndarray) -> None:
        """Store codes of `sa_encode`, (n, sa_code_size()) uint8; ids follow on from ntotal. With
        `length_correction` their vectors count as long as what they decode to.

        Raises as `sa_decode`. FAISS's flat indexes take ids, and forget them; there are none here.
        """
        engine = self._check_trained()
        engine.add_codes(*self._unpacked(codes, 0), None)
