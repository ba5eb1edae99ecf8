"""The training room: makes a codec of vectors, a student of a codec.

In the order of a training: `config` (settings), `budget` (time), `plan` (what it will take), `data`
(the vectors), `loop` (the walk: `start` from residual quantization, then `descent` batch after
batch, saved by `checkpoint`, shown by `log`), `student`; `tuning` for a codec that there is.

Importing this package does not import torch; what trains does.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..codec.codec import QINCoCodec
from ..codec.config import QINCoConfig, resolve_config, student_config
from ..codec.devices import require_torch
from ..errors import ArgumentError
from .budget import STUDENT_SHARE, Budget
from .checkpoint import check_checkpoint, remove_checkpoint
from .config import TrainingConfig, check_number
from .data import TrainingSet
from .log import check_log
from .plan import Plan, plan

__all__ = [
    "Budget", "Plan", "TrainingConfig", "TrainingSet", "check_files", "distill", "finetune",
    "plan", "remove_checkpoint", "train_codec",
]  # fmt: skip


def check_files(training: TrainingConfig) -> None:
    """Whether checkpoint and log can be written, before anything is trained.

    Raises OSError where not, ValueError for a path that is no file, or no log; ImportError where
    TensorBoard is missing.
    """
    check_checkpoint(training)
    check_log(training.log)


def train_codec(
    x: Any,
    M: int,
    nbits: int = 8,
    config: str | QINCoConfig = "auto",
    training: TrainingConfig | None = None,
    centroids: np.ndarray | None = None,
    list_no: np.ndarray | None = None,
    *,
    metric: int = 1,
    budget: Budget | None = None,
    n_later: int = 0,
) -> QINCoCodec:
    """Train a codec.

    Parameters
    ----------
    x : (n, d) of any real dtype, or a `TrainingSet`.
    M, nbits, config : codes of a vector, bits of a code, sizes of the networks.
    centroids, list_no : with an IVF, (nlist, d) float32 and (n,) int64, the list of each vector;
        of a `TrainingSet`, its own list_no by default.
    metric : faiss's number of the metric, by which the codec's `encode` chooses lists. With inner
        product (0), codes add to the mean of a list's vectors, not to its centroid, which FAISS
        gives unit length.
    budget, n_later : what is left of the time of a whole training, and how many vectors are to be
        encoded after this in what the codec leaves of it, 10 to 30 %. None: `training.max_seconds`.

    Warns (RuntimeWarning) where the codec's error on held-out vectors is not below that of residual
    quantization. Raises RuntimeError when there are fewer vectors than codewords, when the error
    diverges, for a device that torch cannot use and a checkpoint that is damaged or of another
    training; as `TrainingSet` for x; ValueError for a list_no that does not fit; as `check_files`
    where checkpoint or log cannot be written.
    """
    training, started = training or TrainingConfig(), Budget()
    check_files(training)
    if isinstance(x, TrainingSet):
        data = x
    else:
        d = x.shape[-1] if getattr(x, "shape", ()) else 0
        data = TrainingSet(x, d, max_points=training.max_points, seed=training.seed)
        list_no = None if list_no is None else np.asarray(list_no)[data.rows]
    if list_no is not None:
        data.list_no = np.ascontiguousarray(list_no, np.int64)
    if (data.list_no is None) != (centroids is None):
        raise ArgumentError("list_no: expected with centroids, and not without")
    if data.list_no is not None and data.list_no.shape != (len(data),):
        raise ArgumentError(f"list_no: expected shape ({len(data)},), got {data.list_no.shape}")
    if budget is None:
        budget = Budget(training.seconds(len(data)))
        budget.charge(started.spent)
    require_torch("training")
    from .loop import train_model  # seconds of the budget: it imports torch

    config = resolve_config(config, data.d, training.device)
    bases = centroids
    if centroids is not None and metric == 0:
        bases = data.list_means(centroids)
    codec = train_model(data, M, nbits, config, training, bases, metric, budget, n_later)
    if bases is not centroids:
        codec.own_centroids = np.ascontiguousarray(centroids, np.float32)
    return codec


def distill(
    codec: QINCoCodec,
    codes: np.ndarray,
    config: QINCoConfig | None = None,
    training: TrainingConfig | None = None,
    *,
    budget: Budget | None = None,
) -> QINCoCodec:
    """The codec with a new student, trained to decode as it does.

    codes (n, M), or (n, M + 1) behind an IVF: of training vectors, as `encode` gives them.
    config: the student's sizes; default: an L 1, d_h 256 of width d, at most 128. training:
    learning rates, seed, device, progress; it takes 20 epochs at most. budget: what is left of the
    time of a whole training, of which the student takes its share; None: a tenth of
    `training.max_seconds`.

    Warns (RuntimeWarning) and returns the codec as it is where the time is too short for a student.
    Raises ValueError as `decode`, for too few columns or none at all.
    """
    if codec.M == 1 and codec.nlist is None:
        raise ValueError("a codec of one code without an IVF has no networks to learn from")
    list_no, codes = codec.split(codes, codec.M + (codec.nlist is not None))
    known = codes if list_no is None else np.column_stack((list_no, codes))
    n_base = codec.K if codec.nlist is None else codec.nlist
    if len(known) == 0 or not 0 <= int(known[:, 0].min()) <= int(known[:, 0].max()) < n_base:
        raise ArgumentError(f"codes: expected some, with first numbers in 0..{n_base - 1}")
    config, training = config or student_config(codec.d), training or TrainingConfig()
    own = (
        Budget(training.seconds(len(known))).share(0.1)
        if budget is None
        else budget.share(STUDENT_SHARE)
    )
    require_torch("training a student")
    from .student import train_student

    student = train_student(codec, known.astype(np.int64), config, training, own)
    return codec if student is None else codec.with_student(student)


# What is learnt already takes no larger steps.
TUNING = TrainingConfig(batch_size=256, lr=3e-3, noise=0.25)
FEWEST_TUNED = 100


def finetune(
    codec: QINCoCodec,
    x: Any,
    keep: Any = None,
    *,
    max_loss: float = 0.03,
    training: TrainingConfig | None = None,
) -> QINCoCodec:
    """A new codec for another kind of vectors as well, from few of them.

    The codec given stays what it was and decodes what it encoded. The new one has its lists,
    normalisation and sizes, so that an index can go over to it (`index.reencode`), and no student.
    Its `report`, a `TuningReport`, has the errors of vectors held out, new and old, before and
    after.

    Parameters
    ----------
    codec : the codec to start from.
    x : (n, d) of any real dtype, a mapped file too, n >= 100: vectors of the new kind.
    keep : (m, d), m >= 100: vectors of the old kind, as many as x or more; where they are
        not there any more, what an index reconstructs of them. Learnt from beside the new ones;
        some, held out, hold the codec to max_loss: best such as it was not trained on. With those
        that it was, or that are reconstructed, the codec's statistics help to tell the error of
        unseen ones. None: only the new vectors count; if they are far from the old ones, the error
        of these can rise by half.
    max_loss : by what fraction the error of unseen old vectors may rise. inf: by anything.
    training : learning rates, epochs, max_seconds ("auto": by the number of vectors of x and keep
        together), batch_size, noise, n_validation, max_points (of each), device, bf16, seed,
        progress. Default: as of a training, with noise 0.25 against over-fitting.

    Warns (RuntimeWarning) where max_loss leaves the codec as it was. Raises RuntimeError for too
    few vectors, for NaN and the like as `TrainingSet`, for a codec of no networks, when it
    diverges, and for a device that torch cannot use; ValueError for another d and a max_loss below
    0; TypeError for what is no codec or no TrainingConfig. Ctrl-C leaves nothing behind.
    """
    if not isinstance(codec, QINCoCodec):
        raise TypeError(f"codec: expected a QINCoCodec, got {type(codec)}")
    max_loss = check_number("max_loss", max_loss, 0, float("inf"))
    training = TUNING if training is None else training
    if not isinstance(training, TrainingConfig):
        raise TypeError(f"training: expected a TrainingConfig, got {type(training)}")
    if codec.M == 1 and codec.nlist is None:
        raise RuntimeError("codec: of one code without an IVF, it has no networks to tune")
    sets: list[TrainingSet | None] = []
    for name, vectors in (("x", x), ("keep", keep)):
        if vectors is None and name == "keep":
            sets.append(None)
            continue
        try:
            data = TrainingSet(vectors, codec.d, max_points=training.max_points, seed=training.seed)
        except (RuntimeError, TypeError, ValueError) as error:
            raise type(error)(str(error).replace("x:", f"{name}:", 1)) from error
        if len(data) < FEWEST_TUNED:
            raise RuntimeError(
                f"{name}: expected at least {FEWEST_TUNED} vectors to tune with, got {len(data)}"
            )
        sets.append(data)
    require_torch("fine-tuning")
    new, kept = sets
    assert new is not None
    budget = Budget(training.seconds(len(new) + (0 if kept is None else len(kept))))
    from .tuning import tune

    tuned = tune(codec, new, kept, max_loss, training, budget)
    if training.progress:
        print(tuned.report, file=sys.stderr)
    return tuned
