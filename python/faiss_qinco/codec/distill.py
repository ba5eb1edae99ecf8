"""A student: a small model that decodes the codes of a trained codec, its teacher, at a fraction of
the cost (distillation: Hinton et al., 2015, arXiv 1503.02531).

What there is to learn are the vectors of given codes, so no batch has to be encoded: that takes a
small part of the time of training the teacher. Base, mean and standard deviation are the teacher's.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import closing

import numpy as np
import torch

from .codec import QINCoCodec
from .config import QINCoConfig, TrainingConfig, resolve_device
from .encoding import chunks
from .model import QINCo
from .training import Progress, descend, make_optimizers, position, use_bf16

EPOCHS = 20
SHARE = 0.1  # of the teacher's max_seconds
BATCH = 256  # more steps count for more than larger ones
TARGETS = 1 << 30  # bytes that what the teacher decodes may take


def train_student(
    teacher: QINCoCodec, codes: np.ndarray, config: QINCoConfig, training: TrainingConfig
) -> QINCoCodec:
    """Train a student of these sizes on codes (n, 1 + networks) int64 of training vectors, the
    list or else the first code in front.

    Of `training` it takes the learning rates, clip_value, warmup, device, bf16, seed and progress.
    """
    started = time.monotonic()
    limit = training.max_seconds
    training = dataclasses.replace(training, max_seconds=None if limit is None else SHARE * limit)
    device = resolve_device(training.device)
    dtype = torch.bfloat16 if use_bf16(training.bf16, device) else torch.float32
    rng = np.random.default_rng(training.seed)
    torch.manual_seed(training.seed)
    model = QINCo(teacher.d, teacher.M, teacher.K, config, teacher.nlist)
    model.base.requires_grad_(False)
    master = teacher._model("cpu")
    with torch.no_grad():
        model.base.copy_(master.base)
        for step, known in zip(model.steps, master.steps, strict=True):
            step.set_codebook(known(known.codebook, torch.zeros_like(known.codebook)))
    model.to(device)

    codes = codes[rng.permutation(len(codes))[: TARGETS // (2 * codes[0, 1:].size * teacher.d)]]
    rows = torch.from_numpy(codes).to(device)
    targets = decoded(teacher._model(device), rows)
    optimizers = make_optimizers(model, training, dtype)
    per_epoch = -(-len(rows) // BATCH)
    total, done, t = per_epoch * EPOCHS, 0, 0.0
    with closing(Progress("distilling", total, training)) as bar:
        while t < 1.0:
            order = torch.from_numpy(rng.permutation(len(rows))).to(device)
            for part in (order[batch] for batch in chunks(len(rows), BATCH)):
                # Not the vectors themselves, of which the codes do not say all: the teacher's x̂
                # tell the same without that noise, and it is the teacher's ranking that the
                # student has to foresee.
                x_hats = torch.stack(model.decode(rows[part])[1:], dim=1)
                loss = (x_hats - targets[part].float()).square().sum((1, 2)).mean() / teacher.d
                descend(model, optimizers, loss, t, training)
                done += 1
                t = position(done, total, started, training.max_seconds)
                bar.update(done, t)
                if t >= 1.0:
                    break
    tensors = {k: v.detach().cpu().numpy().copy() for k, v in model.state_dict().items()}
    tensors["base"] = teacher.tensors["base"]
    ivf = teacher.nlist is not None
    return QINCoCodec(config, teacher.M, teacher.nbits, ivf, teacher.mean, teacher.std, tensors)


@torch.no_grad()
def decoded(model: QINCo, codes: torch.Tensor) -> torch.Tensor:
    """x̂ after every step, (n, steps, d) float16, of codes (n, 1 + steps)."""
    parts = [
        torch.stack(model.decode(codes[i])[1:], dim=1).half() for i in chunks(len(codes), 4096)
    ]
    return torch.cat(parts)
