"""Fine-tuning: a codec is trained further, on few vectors of a new kind, and keeps what it knew.

Each batch is part new vectors, encoded with the codec as it is by then, and part old ones with the
codes that the codec gave them at the start, whose decoding it has to hold on to (rehearsal, and
distillation from itself: Li and Hoiem, 2016, arXiv 1606.09282). In the end its weights are moved
back on the line towards the first ones as far as the error on old vectors asks for (Wortsman et
al., 2021, arXiv 2109.01903). Normalisation, lists and sizes stay.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..codec.codec import QINCoCodec, TuningReport
from ..codec.devices import check_device, resolve_device, use_bf16
from ..codec.encoding import chunks
from ..codec.statistics import Statistics
from ..progress import progress_bar
from ..threads import library_threads
from .budget import Budget
from .config import TrainingConfig
from .data import TrainingSet
from .descent import Descent, encoder, pace

REHEARSED = 0.75  # of a batch are old vectors
MEASURED_SHARE = 0.15  # of the time, for held-out vectors
PROBE, FEWEST_HELD_OUT = 8, 64
ENCODINGS = 8  # of those of each kind, new and old, together
TUNING_SHARE = 0.85  # of what is then left; the rest is for measuring
CODES_SHARE = 0.2  # for the codes of old vectors
ENCODED = 256  # of these at a time
KNOWN = 0.95  # of the error of unseen vectors: sampling alone seldom gives less
RISE_OF_UNSEEN = 1 / 3  # of that of vectors that are known better
BLENDS = 8  # parts of the line from the first weights to the last
RESEED = 200  # batches between two looks at unused codewords


class Side:
    """Vectors of one kind, old or new: those to learn from, and at most n_validation of them that
    tell the error."""

    def __init__(
        self, codec: QINCoCodec, data: TrainingSet, seed: int, n_validation: int, device: str
    ) -> None:
        self.data, self.device = data, device
        rows = np.random.default_rng(seed).permutation(len(data))
        n = min(n_validation, max(1, len(data) // 10))
        self.held_out, self.rows = np.sort(rows[:n]), rows[n:]
        self.tested = data[self.held_out]
        self.share, self.lost = 1.0, np.zeros(n)  # of their errors what counts, and what adds
        self.codes = codec.encode(self.tested, device=device)
        self.before = self.error(codec, self.codes)

    def stand_for_unseen(self, codec: QINCoCodec) -> None:
        """Where the codec knows these vectors better than unseen ones, tell the error of such.

        It has learnt from them, or an index has reconstructed them: any step loses what it knew of
        them alone. Of their rise, unseen vectors have a third or less (text vectors, 8 bytes,
        20,000 learnt from: at a half, three quarters and all of the way to the tuned codec, .015,
        .024 and .039 from .358, unseen ones .001, .003 and .013 from .419); so much of it counts,
        on top of the errors that the codec's statistics have.
        """
        unseen = codec.statistics
        if unseen is None or self.before >= KNOWN * unseen.mean:
            return
        at = np.linspace(0, len(unseen.errors) - 1, len(self.tested))
        spread = np.interp(at, np.arange(len(unseen.errors)), unseen.errors)
        spread *= unseen.mean / spread.mean()
        self.lost = spread - RISE_OF_UNSEEN * self.errors(codec, self.codes)
        self.share = RISE_OF_UNSEEN
        self.before = unseen.mean

    def errors(self, codec: QINCoCodec, codes: np.ndarray) -> np.ndarray:
        """(n,) of the held-out vectors, coded so."""
        errors = np.square(codec.decode(codes) - self.tested).sum(1, dtype=np.float64)
        return np.asarray(self.share * errors + self.lost)

    def error(self, codec: QINCoCodec, codes: np.ndarray | None = None) -> float:
        """Of the held-out vectors, coded by this codec, or so already."""
        codes = codec.encode(self.tested, device=self.device) if codes is None else codes
        return float(self.errors(codec, codes).mean(dtype=np.float64))


def tune(
    codec: QINCoCodec,
    data: TrainingSet,
    kept: TrainingSet | None,
    max_loss: float,
    training: TrainingConfig,
    budget: Budget,
) -> QINCoCodec:
    """See `finetune`."""
    device = resolve_device(training.device)
    check_device(device)
    codec = codec.with_student(None)  # a student of the first weights, which change
    with library_threads():
        n = min(training.n_validation, affordable(codec, data, device, budget))
        new = Side(codec, data, training.seed, n, device)
        old = None if kept is None else Side(codec, kept, training.seed, n, device)
        if old is not None:
            old.stand_for_unseen(codec)
        model, seen = descend(codec, new, old, training, device, budget)
    tuned = blended(codec, model, 1.0)
    blend, old_mse = BLENDS, None
    if old is not None:
        limit, old_mse = (1 + max_loss) * old.before, old.error(tuned)
        if old_mse > limit:
            # The error rises along the line: the furthest point on it that is still good enough.
            blend, high = 0, BLENDS
            tuned, old_mse = blended(codec, model, 0.0), old.before
            while high - blend > 1:
                middle = (blend + high) // 2
                trial = blended(codec, model, middle / BLENDS)
                if (error := old.error(trial)) <= limit:
                    blend, tuned, old_mse = middle, trial, error
                else:
                    high = middle
        if blend == 0:
            warnings.warn(
                f"keep: no step towards the new vectors leaves the error of these, "
                f"{old.before:.5g}, within max_loss={max_loss:g}: the codec is as it was",
                RuntimeWarning,
                stacklevel=3,
            )
    tuned.statistics, new_mse = measured(tuned, [new] if old is None else [new, old], device)
    tuned.report = TuningReport(
        new_mse_before=new.before,
        new_mse=new_mse,
        old_mse_before=None if old is None else old.before,
        old_mse=old_mse,
        old_codes_mse=None if old is None else old.error(tuned, old.codes),
        blend=blend / BLENDS,
        seconds=budget.spent,
        vectors_seen=seen,
    )
    return tuned


def affordable(codec: QINCoCodec, data: TrainingSet, device: str, budget: Budget) -> int:
    """How many vectors of each kind there is time to measure with."""
    if budget.left() == math.inf:
        return len(data)
    for _ in range(2):  # the first time takes longer
        began = time.monotonic()
        codec.encode(data[:PROBE], device=device)
        each = (time.monotonic() - began) / PROBE
    return max(FEWEST_HELD_OUT, int(MEASURED_SHARE * budget.left() / (ENCODINGS * each)))


def measured(codec: QINCoCodec, sides: Sequence[Side], device: str) -> tuple[Statistics, float]:
    """What the codec makes of the held-out vectors of all sides; the error of the first one's."""
    codes = [codec.encode(side.tested, device=device) for side in sides]
    errors = [side.errors(codec, c) for side, c in zip(sides, codes, strict=True)]
    lists, known = codec.split(np.concatenate(codes))
    statistics = Statistics.of(
        np.maximum(np.concatenate(errors), 0), known, codec.K, lists, codec.nlist
    )
    return statistics, float(errors[0].mean(dtype=np.float64))


def descend(
    codec: QINCoCodec,
    new: Side,
    old: Side | None,
    training: TrainingConfig,
    device: str,
    budget: Budget,
) -> tuple[dict[str, np.ndarray], int]:
    """The tensors in the end, and the number of vectors seen."""
    rng = np.random.default_rng(training.seed)
    model = copy.deepcopy(codec._model("cpu"))
    model.base.requires_grad_(codec.nlist is None)
    paces = [pace(step.codebook.detach().numpy()) for step in model.steps]
    dtype = torch.bfloat16 if use_bf16(training.bf16, device) else torch.float32
    descent = Descent(model.to(device), training, device, dtype, paces)

    def normalised(x: np.ndarray) -> Tensor:
        return torch.from_numpy((x - codec.mean) / np.float32(codec.std)).to(device)

    n_old = 0
    if old is not None:
        n_old = int(REHEARSED * training.batch_size)
        rehearsed = codes_to_rehearse(codec, old, device, budget.share(CODES_SHARE))
        old_batches = batches(len(rehearsed), n_old, rng)
    n_new = max(1, training.batch_size - n_old)
    new_lists = codec.assign(new.data[new.rows])
    new_batches = batches(len(new.rows), n_new, rng)
    total, done, t = max(1, len(new.rows) // n_new) * training.epochs, 0, 0.0
    clock = budget.share(TUNING_SHARE)
    beam = codec.config.beam(codec.K, True)
    with progress_bar("fine-tuning", 100, "%", training.progress) as bar:
        while t < 1.0:
            rows = next(new_batches)
            x = normalised(new.data[new.rows[rows]])
            if training.noise > 0:
                noise = rng.standard_normal(x.shape, dtype=np.float32)
                x = x + training.noise * torch.from_numpy(noise).to(x)
            lists = None if new_lists is None else torch.from_numpy(new_lists[rows]).to(device)
            encode = encoder(model, codec.config, beam, device, dtype, training.bf16)
            codes = encode(x, lists)
            if n_old:
                some = rehearsed[next(old_batches)]
                known = torch.from_numpy(some.astype(np.int64)).to(device)
                x = torch.cat((x, normalised(codec.decode(some))))
                codes = torch.cat((codes, known))
            descent.step(descent.loss(x, codes), t)
            descent.count(codes)
            done += 1
            if done % RESEED == 0:
                descent.reseed(rng)
            t = clock.position(done / total)
            bar.to(100 * t)
    tensors = {k: v.detach().cpu().numpy().copy() for k, v in model.state_dict().items()}
    if not all(np.isfinite(v).all() for v in tensors.values()):
        raise RuntimeError("fine-tuning diverged: the weights are not finite; lower lr")
    return tensors, done * (n_new + n_old)


def codes_to_rehearse(codec: QINCoCodec, old: Side, device: str, budget: Budget) -> np.ndarray:
    """The codes of as many old vectors as there is time for."""
    found: list[np.ndarray] = []
    for part in chunks(len(old.rows), ENCODED):
        found.append(codec.encode(old.data[old.rows[part]], device=device))
        if budget.left() <= 0:
            break
    return np.concatenate(found)


def batches(n: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Numbers in 0..n-1, `size` or all of them at a time, one permutation after the other."""
    size = min(n, size)
    while True:
        order = rng.permutation(n)
        for i in range(0, n - size + 1, size):
            yield np.sort(order[i : i + size])


def blended(codec: QINCoCodec, tensors: dict[str, np.ndarray], part: float) -> QINCoCodec:
    """The codec whose weights lie so far on the line from the codec's to these. Lists stay."""
    found = {k: (1 - part) * v + part * tensors[k] for k, v in codec.tensors.items()}
    if codec.nlist is not None:
        found["base"] = codec.tensors["base"]
    found = {k: np.ascontiguousarray(v, np.float32) for k, v in found.items()}
    return codec.with_tensors(found, codec.M)
