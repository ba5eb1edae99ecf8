"""An index of segments on one machine: index files of one model, committed in a folder, that are
searched in one call; to append is to write one more, to compact is to make one of all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any

import faiss
import numpy as np

from .. import _core
from ..checks import INT64, as_matrix, integer, result_buffers
from ..index_file import read_index
from ..params import Resolved
from ..pre_transform import IndexPreTransform
from ..storage.container import Path
from ..tensors import takes_tensors
from ..threads import get_num_threads
from .build import MEMORY, build
from .encode import MANIFEST as CODES_MANIFEST
from .encode import encode, sample_of, shards_of
from .encode import read_manifest as read_codes_manifest
from .merge import merge_indexes
from .model import leaf_of
from .segment_manifest import MANIFEST, commit, open_segment, read_manifest, segments_of

SETTINGS = ("nprobe", "nshort", "exit_margin", "M_search", "min_codes")


class IndexSegments:
    """The segments of a folder, mapped, as one index; `IndexSegments(folder)`.

    Parameters
    ----------
    folder : of `commit` or `append`. What is committed later, another object has.

    Attributes
    ----------
    nprobe, nshort, exit_margin, M_search, min_codes : as of `IndexIVFQINCo`; first those of the
        first segment. d, ntotal, metric_type, nlist, is_trained as in FAISS. segments : indexes.

    Lists are chosen once for all segments. Each has a shortlist of its own, of nshort codes: what
    one index of all vectors finds with as many re-ranked is among the results, and `compact` makes
    one. Takes the model once for each segment.

    Raises as `read_index` and `read_manifest`; RuntimeError for a segment that is not as its
    manifest says.
    """

    is_trained = True

    def __init__(self, folder: Path) -> None:
        fingerprint, found = read_manifest(folder)
        self.segments = [open_segment(file, fingerprint, ntotal) for file, ntotal in found]
        if not self.segments:
            raise RuntimeError(f"{os.fspath(folder)!r}: no segments in the manifest")
        self._leaves: list[Any] = [leaf_of(segment) for segment in self.segments]

    def __repr__(self) -> str:
        return (
            f"<IndexSegments {self._leaves[0]._factory_string()}, ntotal={self.ntotal}, "
            f"{len(self.segments)} segments>"
        )

    @property
    def d(self) -> int:
        """Dimension of queries."""
        return int(self.segments[0].d)

    @property
    def ntotal(self) -> int:
        """The vectors of all segments."""
        return sum(leaf.ntotal for leaf in self._leaves)

    @property
    def metric_type(self) -> int:
        return int(self._leaves[0].metric_type)

    @property
    def nlist(self) -> int:
        return int(self._leaves[0].nlist)

    def __getattr__(self, name: str) -> Any:
        if name in SETTINGS:
            return getattr(self._leaves[0], name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in SETTINGS:
            super().__setattr__(name, value)
            return
        for leaf in self._leaves:
            setattr(leaf, name, value)

    @takes_tensors
    def search(
        self,
        x: np.ndarray,
        k: int,
        *,
        params: Any = None,
        D: np.ndarray | None = None,
        I: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest vectors of all segments, as `IndexIVFQINCo.search`, params and selectors
        included: D (n, k) float32 and I (n, k) int64, by distance and then by id. D, I: buffers to
        fill and return. max_codes and min_codes count in each segment. Raises as that."""
        x = as_matrix(x, self.d)
        if isinstance(self.segments[0], IndexPreTransform):
            x = self.segments[0].apply_chain(x)
        first = self._leaves[0]
        k, D, I = result_buffers(k, len(x), D, I)
        resolved = first._resolve(params)
        if isinstance(params, str):  # one of the first segment's operating points
            params = resolved.given
        lists = probed(first, x, resolved)
        return search_each(self._leaves, x, k, lists, params, D, I)

    @takes_tensors
    def reconstruct(self, key: int) -> np.ndarray:
        """The decoded vector (d,) float32 of an id, of the last segment that has it. Raises
        RuntimeError where none has."""
        ids = np.array([integer("key", key, *INT64)])
        for segment, leaf in zip(self.segments[::-1], self._leaves[::-1], strict=True):
            list_no, offset = leaf._engine.core.locate(ids)
            if list_no[0] >= 0:
                x: np.ndarray = leaf._engine.core.reconstruct_at(list_no, offset)
                if isinstance(segment, IndexPreTransform):
                    x = segment.reverse_chain(x)
                return np.asarray(x[0])
        raise RuntimeError(f"key: no segment has id {key}")


Lists = tuple[np.ndarray | None, np.ndarray | None]


def probed(leaf: Any, x: np.ndarray, resolved: Resolved) -> Lists:
    """The lists (n, nprobe) that queries x (n, d) float32 visit in all segments, and their
    distances; Nones with min_codes: each segment then says by itself how far a search goes."""
    if resolved.min_codes:
        return None, None
    found: Lists = leaf._probe(x, resolved)
    if found[0] is not None:
        return found
    nprobe = min(resolved.given.nprobe, leaf.nlist)
    return _core.assign(leaf._engine.centroids, x, nprobe, leaf.metric_type, get_num_threads())


def search_each(
    leaves: Sequence[Any], x: np.ndarray, k: int, lists: Lists, params: Any, D: np.ndarray,
    I: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The best k of what each segment finds in these lists, of `probed`, in D and I."""
    if lists[0] is None:
        found = [leaf.search(x, k, params=params) for leaf in leaves]
    else:
        found = [leaf.search_preassigned(x, k, *lists, params=params) for leaf in leaves]
    return merged(found, k, leaves[0].metric_type, D, I)


def merged(
    found: Sequence[tuple[np.ndarray, np.ndarray]],
    k: int,
    metric: int,
    D: np.ndarray,
    I: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The best k of several results (n, k), by distance and then by id, in D and I."""
    both = np.hstack([part[0] for part in found])
    ids = np.hstack([part[1] for part in found])
    score = -both if metric == faiss.METRIC_INNER_PRODUCT else both
    best = np.lexsort((ids, score), axis=1)[:, :k]
    D[...], I[...] = np.take_along_axis(both, best, 1), np.take_along_axis(ids, best, 1)
    return D, I


def append(
    folder: Path,
    x: Any,
    ids: np.ndarray | None = None,
    *,
    index: Any = None,
    effort: str = "balanced",
    memory: int = MEMORY,
    progress: bool = True,
) -> FilePath:
    """Store vectors in a new segment of an index of segments, and commit it: whoever opens the
    folder from then on has them. Nothing that is there is written to, or read but for its model.

    folder : with segments that are committed, or none. x (n, d), any real dtype, mapped, or a
        `VectorSource`. ids : (n,) int64; None: from the ntotal of all on. effort, memory,
        progress : as of `encode` and `build`. index : trained and empty, for the first segment.

    Returns the segment's file. Killed before the end, nothing has changed, but for a folder of that
    file's name and ".codes", which the same call goes on with; the vectors are stored once. Raises
    as those two, and BlockingIOError while another process appends or compacts.
    """
    os.makedirs(os.fsdecode(folder), exist_ok=True)
    with _alone(folder):
        found = read_manifest(folder)[1] if os.path.exists(_manifest(folder)) else []
        files = [file for file, _ in found]
        if files and os.path.exists(codes := _codes_of(files[-1])):
            # Of a call that was killed when all but this was done.
            manifest = codes / CODES_MANIFEST
            same = manifest.exists() and read_codes_manifest(codes)["vectors"] == sample_of(x)
            _forget(codes)
            if same:
                return files[-1]
        if files:
            index = read_index(files[0], faiss.IO_FLAG_MMAP)
            index.reset()  # in memory alone
        elif index is None:
            raise ValueError("index: expected a trained one, for the first segment of a folder")
        ntotal = sum(ntotal for _, ntotal in found)
        if ids is None:
            ids = np.arange(ntotal, ntotal + len(x))
        out = _next_name(folder, files)
        codes = _codes_of(out)
        encode(index, x, codes, ids=ids, effort=effort, progress=progress)
        build(index, shards_of(codes), out, memory=memory, progress=progress)
        commit(folder, [*files, out])
        _forget(codes)
    return out


def compact(folder: Path, *, memory: int = MEMORY, progress: bool = True) -> FilePath:
    """Make one segment of all that are committed, and commit it in their place; then delete those
    of them that are in the folder itself. Who has them open can go on.

    Returns its file: what `merge_indexes` makes of them. Raises as that, and as `append`.
    """
    with _alone(folder):
        files = segments_of(folder)
        out = _next_name(folder, files)
        merge_indexes(files, out, memory=memory, progress=progress)
        commit(folder, [out])
        here = os.path.realpath(os.fsdecode(folder))
        for file in files:
            if os.path.dirname(os.path.realpath(file)) == here:
                file.unlink()
    return out


def _codes_of(segment: FilePath) -> FilePath:
    return FilePath(f"{segment}.codes")


def _forget(codes: FilePath) -> None:
    """Delete codes, and last of them what says which they were."""
    for file in codes.iterdir():
        if file.name != CODES_MANIFEST:
            file.unlink()
    shutil.rmtree(codes)


def _manifest(folder: Path) -> str:
    return os.path.join(os.fsdecode(folder), MANIFEST)


def _next_name(folder: Path, files: Sequence[FilePath]) -> FilePath:
    """Of a segment's file: the first number behind those that are committed."""
    numbers = [int(file.stem) for file in files if file.stem.isdecimal()]
    return FilePath(os.fsdecode(folder)) / f"{max(numbers, default=-1) + 1:06d}.fqi"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process appends or compacts meanwhile."""
    handle = os.open(os.fsdecode(folder), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BlockingIOError(
            error.errno, "another process appends to it, or compacts it", os.fsdecode(folder)
        ) from error
    finally:
        os.close(handle)
