"""A student: a small model that decodes the codes of a trained codec, its teacher, at a fraction of
the cost (distillation: Hinton et al., 2015, arXiv 1503.02531).

What there is to learn are the vectors of given codes, so no batch has to be encoded: that takes a
small part of the time of training the teacher. Base, mean and standard deviation are the teacher's.
"""

from __future__ import annotations

import time
import warnings

import numpy as np
import torch

from ..codec.codec import QINCoCodec
from ..codec.config import QINCoConfig
from ..codec.devices import check_device, resolve_device, use_bf16
from ..codec.encoding import chunks
from ..codec.model import QINCo
from ..progress import progress_bar
from ..threads import library_threads
from .budget import Budget
from .config import TrainingConfig
from .descent import Descent, pace

EPOCHS = 20
BATCH = 256  # more steps count for more than larger ones
FEWEST_STEPS = 50  # a student that had fewer would be of no use
TARGETS = 1 << 30  # bytes that what the teacher decodes may take


def train_student(
    teacher: QINCoCodec,
    codes: np.ndarray,
    config: QINCoConfig,
    training: TrainingConfig,
    budget: Budget,
) -> QINCoCodec | None:
    """Train a student of these sizes on codes (n, 1 + networks) int64 of training vectors, the
    list or else the first code in front. None, with a warning, where the budget is too small.

    Of `training` it takes the learning rates, clip_value, warmup, device, bf16, seed and progress.
    """
    device = resolve_device(training.device)
    check_device(device)
    with library_threads():
        return _train(teacher, codes, config, training, device, budget)


def _train(
    teacher: QINCoCodec,
    codes: np.ndarray,
    config: QINCoConfig,
    training: TrainingConfig,
    device: str,
    budget: Budget,
) -> QINCoCodec | None:
    dtype = torch.bfloat16 if use_bf16(training.bf16, device) else torch.float32
    rng = np.random.default_rng(training.seed)
    with torch.random.fork_rng(devices=[]):  # the caller's generator goes on as it was
        torch.default_generator.manual_seed(training.seed)
        model = QINCo(teacher.d, teacher.M, teacher.K, config, teacher.nlist)
    model.base.requires_grad_(False)
    master = teacher._model("cpu")
    with torch.no_grad():
        model.base.copy_(master.base)
        for step, known in zip(model.steps, master.steps, strict=True):
            step.set_codebook(known(known.codebook, torch.zeros_like(known.codebook)))
    paces = [pace(step.codebook.detach().numpy()) for step in model.steps]
    descent = Descent(model.to(device), training, device, dtype, paces)

    codes = codes[rng.permutation(len(codes))[: TARGETS // (2 * codes[0, 1:].size * teacher.d)]]
    codes = codes[: affordable(teacher, codes, device, budget)]
    rows = torch.from_numpy(codes).to(device)
    targets = decoded(teacher._model(device), rows)
    total, done, t = -(-len(rows) // BATCH) * EPOCHS, 0, 0.0
    began = time.monotonic()
    show = training.progress
    with progress_bar("distilling", 100, "%", show) as bar:
        while t < 1.0:
            order = torch.from_numpy(rng.permutation(len(rows))).to(device)
            for part in (order[batch] for batch in chunks(len(rows), BATCH)):
                # Not the vectors themselves, of which the codes do not say all: the teacher's x̂
                # tell the same without that noise, and it is the teacher's ranking that the
                # student has to foresee.
                x_hats = torch.stack(model.decode(rows[part])[1:], dim=1)
                loss = (x_hats - targets[part].float()).square().sum((1, 2)).mean() / teacher.d
                descent.step(loss, t)
                done += 1
                each = (time.monotonic() - began) / done
                if done < FEWEST_STEPS and (FEWEST_STEPS - done) * each > budget.left():
                    warnings.warn(
                        f"no student: {budget.seconds:.1f} s are too short to train one; give the "
                        "training more time (max_seconds), or set student=False",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                    return None
                t = budget.position(done / total)
                bar.to(100 * t)
                if t >= 1.0:
                    break
    tensors = {k: v.detach().cpu().numpy().copy() for k, v in model.state_dict().items()}
    tensors["base"] = teacher.tensors["base"]
    ivf = teacher.nlist is not None
    return QINCoCodec(
        config, teacher.M, teacher.nbits, ivf, teacher.mean, teacher.std, tensors,
        metric=teacher.metric,
    )  # fmt: skip


def affordable(teacher: QINCoCodec, codes: np.ndarray, device: str, budget: Budget) -> int:
    """How many of the codes the teacher can decode in a quarter of the time."""
    if budget.left() == np.inf:
        return len(codes)
    some = torch.from_numpy(codes[:256]).to(device)
    decoded(teacher._model(device), some)
    began = time.monotonic()
    decoded(teacher._model(device), some)
    each = (time.monotonic() - began) / len(some)
    return max(BATCH, int(0.25 * budget.left() / each))


@torch.no_grad()
def decoded(model: QINCo, codes: torch.Tensor) -> torch.Tensor:
    """x̂ after every step, (n, steps, d) float16, of codes (n, 1 + steps)."""
    parts = [
        torch.stack(model.decode(codes[i])[1:], dim=1).half() for i in chunks(len(codes), 4096)
    ]
    return torch.cat(parts)
