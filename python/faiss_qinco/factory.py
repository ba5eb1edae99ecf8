"""`index_factory`: an index from FAISS's kind of description string."""

from __future__ import annotations

import re
from typing import Any

import faiss

from .checks import integer
from .errors import FactoryError
from .index import IndexIVFQINCo, IndexQINCo
from .pre_transform import IndexPreTransform
from .storage.container import FileFormatError
from .training.config import TrainingConfig
from .transform_file import copy_transform
from .wrappers.base import Wrapper
from .wrappers.id_map import IndexIDMap, IndexIDMap2
from .wrappers.refine import IndexRefine, IndexRefineFlat

_PATTERN = re.compile(
    r"(?:(?P<transforms>.+?),)??"
    r"(?:IVF(?P<nlist>\d+)(?:_HNSW(?P<hnsw>\d*)|\((?P<quantizer>.+)\))?,)?"
    r"(?i:QINCo(?P<M>\d+)(?:x(?P<nbits>\d+))?(?:_(?P<preset>\w+))?)"
)

NPROBE = 16  # of a quantizer in two levels


Index = IndexIVFQINCo | IndexQINCo | IndexPreTransform | Wrapper


def index_factory(
    d: int,
    description: str,
    metric: int = faiss.METRIC_L2,
    training: TrainingConfig | None = None,
) -> Any:
    """Build an untrained index for vectors of dimension d.

    `IVF<nlist>[_HNSW<m>],QINCo<M>[x<nbits>][_<preset>]` or `QINCo<M>[x<nbits>][_<preset>]`;
    nbits defaults to 8 and the preset to "auto". In place of `_HNSW<m>`, in brackets, any index of
    faiss's that finds centroids: `IVF65536(IVF512,Flat),QINCo8x8`, which finds them among those of
    the nearest 16 of 512 clusters (its `quantizer.nprobe`).

    In front of either, transforms of vectors as in faiss's `index_factory`:
    `OPQ16_64,IVF1024,QINCo8x8`, `PCAR128,…`, `RR,…`, `L2norm,PCA64,…`: those that the faiss
    installed understands (see `IndexPreTransform`). Behind all of this `,RFlat` or `,Refine(…)`,
    what is in the brackets being any index of faiss (see `IndexRefine`); and around everything
    `IDMap,` or `IDMap2,`, in front or, as `,IDMap`, at the end.

    Our own part may be written in any case (`qinco8x8_xs`); the parts that are faiss's are as faiss
    wants them. Raises ValueError (also a RuntimeError) for a string that is not understood,
    TypeError for a d that is no integer.
    """
    d = integer("d", d, 1, 1 << 20)
    try:
        return _parsed(d, description.replace(" ", ""), metric, training)
    except FactoryError:
        raise
    except (ValueError, RuntimeError, TypeError) as error:
        raise FactoryError(f"{description!r}: {error}") from error


def _parsed(d: int, description: str, metric: int, training: TrainingConfig | None) -> Index:
    """In faiss's order: ids, refinement, transforms, the index itself."""
    for kind in (IndexIDMap2, IndexIDMap):
        name = kind.__name__.removeprefix("Index")
        if match := re.fullmatch(f"(.+),{name}|{name},(.+)", description):
            return kind(_parsed(d, match[1] or match[2], metric, training))
    if match := re.fullmatch(r"(.+),RFlat", description):
        return IndexRefineFlat(_parsed(d, match[1], metric, training))
    if match := re.fullmatch(r"(.+),Refine\((.+)\)", description):
        refinement = faiss.index_factory(d, match[2], metric)
        return IndexRefine(_parsed(d, match[1], metric, training), refinement)
    match = _PATTERN.fullmatch(description)
    if match is None:
        raise FactoryError(
            f"could not parse {description!r}: expected IVF<nlist>[_HNSW<m>],QINCo<M>x<nbits>"
            "[_<preset>] or QINCo<M>x<nbits>[_<preset>], or transforms such as OPQ16 before it"
        )
    if match["transforms"] is None:
        return _index(d, match, metric, training)
    chain = _transforms(d, match["transforms"])
    return IndexPreTransform(chain, _index(chain[-1].d_out, match, metric, training))


def _index(
    d: int, match: re.Match[str], metric: int, training: TrainingConfig | None
) -> IndexIVFQINCo | IndexQINCo:
    M, nbits = int(match["M"]), int(match["nbits"] or 8)
    config = match["preset"] or "auto"
    if match["nlist"] is None:
        return IndexQINCo(d, M, nbits, metric, config, training)
    quantizer: Any = faiss.IndexFlat(d, metric)
    if match["hnsw"] is not None:
        quantizer = faiss.IndexHNSWFlat(d, int(match["hnsw"] or 32), metric)
    elif match["quantizer"] is not None:
        quantizer = faiss.index_factory(d, match["quantizer"], metric)
        if isinstance(quantizer, faiss.IndexIVF):  # faiss's 1 finds the nearest centroid for few
            quantizer.nprobe = min(NPROBE, quantizer.nlist)
    return IndexIVFQINCo(quantizer, d, int(match["nlist"]), M, nbits, metric, config, training)


def _transforms(d: int, description: str) -> list[Any]:
    """What faiss makes of the front of a factory string, copied. Raises ValueError."""
    try:
        parsed = faiss.index_factory(d, f"{description},Flat")
    except RuntimeError as error:
        raise ValueError(f"faiss does not understand {description!r}") from error
    if not isinstance(parsed, faiss.IndexPreTransform) or not isinstance(
        faiss.downcast_index(parsed.index), faiss.IndexFlat
    ):
        raise ValueError(f"{description!r}: expected transforms alone")
    chain: Any = parsed.chain
    try:
        return [copy_transform(chain.at(i)) for i in range(chain.size())]
    except (FileFormatError, TypeError) as error:
        raise ValueError(str(error)) from error
