"""`index_factory`: an index from FAISS's kind of description string."""

from __future__ import annotations

import re

import faiss

from .checks import integer
from .errors import FactoryError
from .index import IndexIVFQINCo, IndexQINCo
from .training.config import TrainingConfig

_PATTERN = re.compile(
    r"(?:IVF(?P<nlist>\d+)(?:_HNSW(?P<hnsw>\d*))?,)?"
    r"QINCo(?P<M>\d+)(?:x(?P<nbits>\d+))?(?:_(?P<preset>\w+))?"
)


def index_factory(
    d: int,
    description: str,
    metric: int = faiss.METRIC_L2,
    training: TrainingConfig | None = None,
) -> IndexIVFQINCo | IndexQINCo:
    """Build an untrained index for vectors of dimension d.

    `IVF<nlist>[_HNSW<m>],QINCo<M>[x<nbits>][_<preset>]` or `QINCo<M>[x<nbits>][_<preset>]`;
    nbits defaults to 8 and the preset to "auto". Raises ValueError (also a RuntimeError) for a
    string that is not understood, TypeError for a d that is no integer.
    """
    d = integer("d", d, 1, 1 << 20)
    match = _PATTERN.fullmatch(description.replace(" ", ""))
    if match is None:
        raise FactoryError(
            f"could not parse {description!r}: expected IVF<nlist>[_HNSW<m>],QINCo<M>x<nbits>"
            "[_<preset>] or QINCo<M>x<nbits>[_<preset>]"
        )
    M, nbits = int(match["M"]), int(match["nbits"] or 8)
    config = match["preset"] or "auto"
    try:
        if match["nlist"] is None:
            return IndexQINCo(d, M, nbits, metric, config, training)
        quantizer = (
            faiss.IndexFlat(d, metric)
            if match["hnsw"] is None
            else faiss.IndexHNSWFlat(d, int(match["hnsw"] or 32), metric)
        )
        return IndexIVFQINCo(quantizer, d, int(match["nlist"]), M, nbits, metric, config, training)
    except ValueError as error:
        raise FactoryError(f"{description!r}: {error}") from error
