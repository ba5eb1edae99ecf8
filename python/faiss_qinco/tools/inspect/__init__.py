"""What goes on inside a codec or an index, in figures: `inspect`. `page` draws them.

Nothing here is a sum over all of a large set: vectors and stored codes are sampled, by one seed, so
that memory and time are bounded whatever the size of the files.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...codec.codec import QINCoCodec
from ...errors import ArgumentError, MissingTorchError
from ...pre_transform import IndexPreTransform
from ...threads import library_threads
from ...transform_file import kind_of
from .advice import about, warnings_of
from .codebooks import codebook_lengths, movement
from .findings import CodeUse, Inspection
from .searches import search
from .vectors import Codes, choice, codeword_counts, len_of, measure, rows_of, stored_codes

SAMPLE = 10_000  # vectors whose errors are measured
QUERIES = 500


def inspect(
    target: Any,
    vectors: Any = None,
    queries: Any = None,
    *,
    nprobe: int | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    progress: bool = False,
) -> Inspection:
    """Look inside a codec or an index.

    Parameters
    ----------
    target : a QINCoCodec, or a trained IndexIVFQINCo, IndexQINCo or IndexPreTransform around one,
        which stays as it is. Behind transforms, all figures are of what these make of vectors.
    vectors : (n, d), any real dtype, best ones that nothing was trained with: errors are measured
        on `sample` of them, at most half, and a residual quantizer is trained on some of the
        others. Only their shape is read, and the rows that are used: a mapped file stays on disk.
        None: what can be known without.
    queries : (n, d), for an index with vectors in it; None: of the vectors given those that are not
        measured.
    nprobe : lists to visit; None: the index's, or the root of nlist where that is still 1.
    seed : of all samples.

    Raises ValueError (also an AssertionError) for another d or no rows, TypeError for another
    target, RuntimeError where it is not trained, or where none of the sampled vectors can be
    encoded.
    """
    engine, transforms = None, target if isinstance(target, IndexPreTransform) else None
    if transforms is not None:
        transforms._check_trained()
        target = transforms.index
    if not isinstance(target, QINCoCodec):
        if not hasattr(target, "is_trained") or not hasattr(target, "codec"):
            raise TypeError(
                f"target: expected a QINCoCodec or an index of ours, got {type(target)}"
            )
        engine = target._check_trained()
    codec = target if engine is None else engine.codec
    d = codec.d if transforms is None else transforms.d
    for name, x in (("vectors", vectors), ("queries", queries)):
        if x is not None and (len(x.shape) != 2 or x.shape[1] != d or not x.shape[0]):
            raise ArgumentError(f"{name}: expected shape (1 or more, {d}), got {tuple(x.shape)}")
    if transforms is not None:
        vectors, queries = (None if x is None else transforms._view(x) for x in (vectors, queries))
    if sample < 1:
        raise ArgumentError(f"sample: expected at least 1, got {sample}")
    rng = np.random.default_rng(seed)
    found = Inspection(
        "codec" if engine is None else "index", about(target, codec), codebook_lengths(codec)
    )
    codes: Codes | None = None
    spare: np.ndarray | None = None
    with library_threads():
        if vectors is not None:
            codes, spare = measure(found, target, codec, engine, vectors, sample, rng, progress)
        else:
            found.missing.append(
                "The error per step, the comparison with RQ and the worst-coded vectors need "
                "vectors (--vectors)."
            )
        if engine is not None:
            stored = stored_codes(engine)
            found.lists = stored.sizes if codec.nlist is not None else None
            if len(stored.codes):
                found.use = CodeUse(codeword_counts(stored.codes, codec.K), len(stored.codes), True)
                codes = codes or Codes(stored.list_no, stored.codes, None)
        if codes is None:
            found.missing.append(
                "Codeword use and generated codebooks need vectors (--vectors) or stored codes."
            )
        else:
            if found.use is None:
                found.use = CodeUse(codeword_counts(codes.codes, codec.K), len(codes.codes), False)
            try:
                found.movement = movement(codec, codes, progress)
                if found.movement is None:
                    found.missing.append(
                        "A codec of one code without inverted lists has no network: its one "
                        "codebook is plain, and does not move."
                    )
            except MissingTorchError as error:
                found.missing.append(f"{error}.")
        if engine is not None:
            if queries is not None:
                spare = rows_of(queries, choice(len_of(queries), QUERIES, rng))
            elif spare is not None:
                spare, found.queries_held_out = spare[:QUERIES], True
            search(found, target, engine, spare, nprobe, progress)
    if transforms is not None:
        chain = [f"{kind_of(t)} {t.d_in} -> {t.d_out}" for t in transforms.chain]
        found.about = {"transforms": ", ".join(chain) or "none"} | found.about
    found.warnings = warnings_of(found, target, engine)
    return found
