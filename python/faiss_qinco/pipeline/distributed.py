"""Many machines, by Ray. Here encoding and building: who does what; each does what `encode` and
`build` do. Search is `distributed_index`.

The model goes to all workers through Ray's object store; vectors, shards and segments are files
that all of them see, and the same ones as without Ray. A worker that is lost is replaced, and what
it had not finished is done again; a call that was ended is gone on with by the same call.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from ..checks import as_id_array, check_matrix
from ..engine import BLOCK
from ..index import IndexIVFQINCo
from ..index_file import serialize_index
from ..progress import progress_bar
from ..storage.container import Path, write_tensors
from ..storage.source import VectorSource, open_vectors
from ..threads import part_of_threads
from .build import MEMORY, build, head_of
from .distributed_index import DistributedIndex
from .encode import MANIFEST, ROWS, encode, encode_rows, shard_path, shards_of
from .memory import total_memory
from .model import fingerprint_of, leaf_of
from .on_ray import LostWorkerError, Options, model_of, require_ray, run_tasks, threads_of
from .segment_manifest import commit, segments_of
from .shard import Rows, open_shard, write_shard

__all__ = [
    "DistributedIndex",
    "LostWorkerError",
    "build_segments",
    "commit",
    "encode_dataset",
    "encode_shards",
    "segments_of",
]

SHARDS = 64  # of a segment: 17 million vectors


def encode_shards(
    index: Any,
    x: Any,
    folder: Path,
    *,
    effort: str = "balanced",
    ids: np.ndarray | None = None,
    rows_per_shard: int = ROWS,
    memory: int | None = None,
    device: str = "auto",
    options: Options = None,
    progress: bool = True,
) -> int:
    """`encode` on Ray: a task a shard. The folder is the same, byte for byte, and either can go on
    with what the other began.

    Parameters
    ----------
    index, folder, effort, ids, rows_per_shard, memory, device, progress : as of `encode`; memory,
        of each worker. The folder is one that all workers see.
    x : names as of `open_vectors`, or what that returns, of files that all workers see; or vectors
        (n, d), which are copied to each machine.
    options : of `ray.remote`: num_cpus of a task (default 1, and so many threads), num_gpus,
        max_retries (3: how often a shard's worker may be lost), and so on.

    Returns how many vectors this call encoded. Raises as `encode`; ImportError without Ray;
    LostWorkerError (a RuntimeError) where a worker was lost more often; RuntimeError where the
    workers' folder is another one.
    """
    ray = require_ray()
    rows = open_vectors(x) if isinstance(x, (str, os.PathLike, list, tuple)) else x
    files = isinstance(rows, VectorSource)
    source = [os.path.abspath(name) for name in rows.names] if files else rows
    folder = FilePath(os.path.abspath(os.fsdecode(folder)))
    settings: dict[str, Any] = {
        "effort": effort, "rows_per_shard": rows_per_shard, "memory": memory, "device": device,
    }  # fmt: skip
    n = int(rows.shape[0]) if hasattr(rows, "shape") else 0
    n_shards = -(-n // max(1, rows_per_shard))
    # The first of more parts than there are shards is empty: arguments and manifest alone.
    encode(index, rows, folder, part=(1, n_shards + 1), ids=ids, progress=False, **settings)
    missing = {
        (number + 1, n_shards): min(rows_per_shard, n - number * rows_per_shard)
        for number in range(n_shards)
        if not shard_path(folder, number).exists()
    }
    todo = sum(missing.values())
    if todo:
        key, image = _image(index)
        common = (
            ray.put(image), key, source if files else ray.put(source),
            None if ids is None else ray.put(ids), str(folder), settings, threads_of(options),
        )  # fmt: skip
        with progress_bar("encoding", n, "vector", progress, n - todo) as bar:
            run_tasks(ray, _encode_shard, missing, common, options, bar, n - todo)
    _check_seen(folder, [shard_path(folder, number) for number in range(n_shards)])
    return todo


def encode_dataset(
    index: Any,
    dataset: Any,
    folder: Path,
    *,
    column: str = "vector",
    id_column: str | None = None,
    effort: str = "balanced",
    rows_per_shard: int = ROWS,
    device: str = "auto",
    concurrency: int = 1,
    options: Options = None,
) -> int:
    """Encode a `ray.data.Dataset` with a column of vectors into a folder of shards: what is read
    from where only Ray Data can. Files that all workers see are better left to `encode_shards`,
    which goes on where it was ended; this begins anew.

    Parameters
    ----------
    index, folder, effort, rows_per_shard, device : as of `encode`; the folder is empty or new, and
        written to by this process alone, which gets the codes.
    dataset : its rows are kept in its order.
    column : of vectors (d,) of any real dtype. id_column : of integer ids; None: numbers.
    concurrency : workers that encode. options : of each, as for `encode_shards`.

    Returns how many vectors there were. Raises as `encode`, KeyError for a column that is missing;
    ImportError without Ray.
    """
    ray, data = require_ray(), require_ray("ray.data")
    fingerprint, nlist = fingerprint_of(index), leaf_of(index).nlist
    folder = FilePath(os.fsdecode(folder))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"folder: expected an empty one, {folder} has something in it")
    key, image = _image(index)
    how = data.DataContext.get_current().execution_options
    before, how.preserve_order = how.preserve_order, True
    n = 0
    try:
        encoded = dataset.map_batches(
            _EncodeBatch,
            fn_constructor_args=(
                ray.put(image), key, column, id_column, effort, device, threads_of(options)
            ),
            batch_format="numpy", batch_size=BLOCK, concurrency=concurrency,
            **{"num_cpus": 1, **(options or {})},
        )  # fmt: skip
        batches = encoded.iter_batches(batch_format="numpy", batch_size=rows_per_shard)
        for number, batch in enumerate(batches):
            rows = Rows(*(batch.get(name) for name in ("list_no", "codes", "beside", "ids")))
            write_shard(shard_path(folder, number), fingerprint, n, nlist, rows)
            n += len(rows.codes)
    finally:
        how.preserve_order = before
    manifest = {
        "fingerprint": fingerprint, "n": n, "rows_per_shard": rows_per_shard, "d": index.d,
        "vectors": None, "ids": None, "effort": effort,
    }  # fmt: skip
    write_tensors(folder / MANIFEST, "manifest", manifest, {})
    return n


def build_segments(
    index: Any,
    shards: Path | Sequence[Path],
    folder: Path,
    *,
    shards_per_segment: int = SHARDS,
    memory: int | None = None,
    options: Options = None,
    progress: bool = True,
) -> list[FilePath]:
    """Index files of so many shards each, in a folder: `build` on Ray, a task a segment. What is
    there of the same model and shards is not built again. `commit` makes one index of them.

    Parameters
    ----------
    index : the trained index that the shards were encoded with, with nothing in it.
    shards : a folder of `encode`, or shard files; which, like `folder`, all workers see.
    shards_per_segment : shards that follow on from one another, 64 by default: 17 million vectors.
    memory : bytes that each task may take in all; Ray then starts no more on a machine than it has
        memory for. None: its part of a third of the machine's, at most 4 GiB.
    options : as for `encode_shards`. progress : shows a bar.

    Returns the files, in order. Raises as `build`, and as `encode_shards`.
    """
    ray = require_ray()
    files = shards_of(shards) if isinstance(shards, (str, bytes, os.PathLike)) else shards
    names = [os.path.abspath(os.fsdecode(file)) for file in files]
    folder = FilePath(os.path.abspath(os.fsdecode(folder)))
    if shards_per_segment < 1:
        raise ValueError(f"shards_per_segment: expected at least 1, got {shards_per_segment}")
    if leaf_of(index).ntotal:
        raise ValueError(f"index: expected an empty one, got ntotal {index.ntotal}")
    if not isinstance(leaf_of(index), IndexIVFQINCo):
        raise TypeError(f"index: expected one with lists, got {type(leaf_of(index))}")
    folder.mkdir(parents=True, exist_ok=True)
    key, image = _image(index)
    calls, done, made = {}, 0, []
    for group in _groups(names, shards_per_segment):
        name, first, n = _segment_of(key, group)
        made.append(folder / name)
        if made[-1].exists():
            done += n
        else:
            calls[tuple(group), str(made[-1]), first] = n
    if calls:
        if memory is not None:
            options = {"memory": memory, **(options or {})}
        common = (ray.put(image), key, memory, threads_of(options))
        total = done + sum(calls.values())
        with progress_bar("building", total, "row", progress, done) as bar:
            run_tasks(ray, _build_segment, calls, common, options, bar, done)
    _check_seen(folder, made)
    return made


# -- on the workers -------------------------------------------------------------------------------


def _encode_shard(
    image: Any, key: str, source: Any, ids: Any, folder: str, settings: dict[str, Any],
    n_threads: int, i: int, m: int,
) -> None:  # fmt: skip
    with part_of_threads(n_threads):
        encode(
            model_of(key, image), _opened(source), folder, part=(i, m), ids=ids, progress=False,
            **settings,
        )  # fmt: skip


def _build_segment(
    image: Any, key: str, memory: int | None, n_threads: int, files: tuple[str, ...], out: str,
    first: int,
) -> None:  # fmt: skip
    if memory is None:
        share = total_memory() // 3 * n_threads // max(n_threads, os.cpu_count() or 1)
        memory = min(MEMORY, share)
    with part_of_threads(n_threads):
        build(model_of(key, image), files, out, memory=memory, first=first, progress=False)


class _EncodeBatch:
    """What `map_batches` calls: columns of vectors to columns of a shard's tensors."""

    def __init__(
        self, image: Any, key: str, column: str, id_column: str | None, effort: str, device: str,
        n_threads: int,
    ) -> None:  # fmt: skip
        ray = require_ray()
        self.index = model_of(key, ray.get(image) if isinstance(image, ray.ObjectRef) else image)
        self.column, self.id_column = column, id_column
        self.effort, self.device, self.n_threads = effort, device, n_threads

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = batch[self.column]
        if x.dtype == object:  # lists of numbers, not of a fixed size
            x = np.stack([np.asarray(row) for row in x])
        check_matrix(x, self.index.d)
        ids = None if self.id_column is None else as_id_array(batch[self.id_column])
        with part_of_threads(self.n_threads):
            rows = encode_rows(self.index, x, ids=ids, effort=self.effort, device=self.device)
        return {name: part for name, part in vars(rows).items() if part is not None}


# -- of the driver --------------------------------------------------------------------------------


def _opened(source: Any) -> Any:
    return open_vectors(source) if isinstance(source, list) else source


def _image(index: Any) -> tuple[str, np.ndarray]:
    """The model as bytes, with nothing in it, and what tells it from others."""
    if leaf_of(index).ntotal:
        index = copy.copy(index)
        index.reset()
    image = serialize_index(index)
    return hashlib.sha256(image.data).hexdigest(), image


def _groups(files: list[str], size: int) -> Iterator[list[str]]:
    return (files[i : i + size] for i in range(0, len(files), size))


def _segment_of(key: str, files: list[str]) -> tuple[str, int, int]:
    """The name of the segment of these shards, which tells it from those of others, the number of
    its first row, and how many there are."""
    digest, firsts, n = hashlib.sha256(key.encode()), [], 0
    for file in files:
        with open_shard(file) as (shard, _):
            firsts.append(shard.first)
            n += shard.n
        digest.update(head_of(file))
    return f"{firsts[0]:012d}-{digest.hexdigest()[:16]}.fqi", firsts[0], n


def _check_seen(folder: FilePath, files: list[FilePath]) -> None:
    if missing := [file for file in files if not file.exists()]:
        raise RuntimeError(
            f"{folder}: the workers are done, and {missing[0].name} is not there: the folder has "
            "to be one that all of them see"
        )
