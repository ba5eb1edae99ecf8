"""What a training will take, said before it starts. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..codec.config import PRESETS, QINCoConfig, network_costs, resolve_config
from ..codec.devices import resolve_device
from ..codec.weights import tensor_shapes
from ..threads import get_num_threads
from .config import TrainingConfig
from .start import BEAM, most_points

# Seconds of one core for a batch of 256, fitted to XS and S with 8 and 16 codes, d 32 to 960, on an
# AMD Zen 5: within a factor of two there, and more where the CPU has no bfloat16.
SECONDS_PER_MILLION = 0.003, 0.06  # multiply-adds of encoding a vector, parameters
COPIES = 7  # of the parameters: gradients, moments, the best so far, what is being packed
BY_TIME = 0.5  # of the time of the whole training: what is left for batches

# The error of unseen vectors as a fraction of RQ's, after v vectors seen of n different ones:
# 1 - gain * u / (u + half * K / 256) with u = v / (1 + v / (REPEATS * n)), since a vector seen
# again and again tells less and less. Fitted to sizes XS and "auto" with 8 codes of 8 bits
# (`bench/training/README.md`): SIFT, v 198,144 of n 200,000 .696, 595,968 of 300,000 .540, 189,440
# of 10,017 .788; text, n 30,000, v 112,640 .884, 281,600 .838, 619,520 .804, 1,126,400 .789;
# within .005 there; .06 too low for 66,304 of 10,017, .938. How it depends on K, and that it does
# not on M, is assumed.
LAWS = {"descriptors like SIFT": (0.63, 204_000), "text embeddings": (0.28, 137_000)}
REPEATS = 22


@dataclass(frozen=True)
class Plan:
    """What a training will take. `str` says it in a few lines.

    config : the sizes, "auto" worked out; name: of the preset, if it is one.
    points, given : training vectors used, and given.
    seconds : what the training takes at most, None: no limit but the epochs.
    epochs : passes over the vectors that are asked for.
    epoch_seconds : of one of them on this CPU, to within a factor of two or so; None on a GPU.
    memory : bytes beside those of x, roughly.
    errors : what to expect, as `expected_errors` gives it for each kind of vectors in `LAWS`: as it
        is (""), and what more would give ("twice the time", …). Empty where it is not known how
        many vectors there is time for: on a GPU with a limit of time.
    """

    config: QINCoConfig
    name: str
    points: int
    given: int
    seconds: float | None
    epochs: int
    epoch_seconds: float | None
    memory: int
    errors: dict[str, list[float]]

    @property
    def affordable_epochs(self) -> float:
        """Of the epochs, those that there is time for, roughly."""
        if self.seconds is None or self.epoch_seconds is None:
            return float(self.epochs)
        possible = BY_TIME * self.seconds / self.epoch_seconds
        return min(float(self.epochs), possible)

    def __str__(self) -> str:
        used = f"{self.points:,} vectors"
        if self.points < self.given:
            used += f" of {self.given:,}"
        limit = "without a limit of time" if self.seconds is None else time_of(self.seconds)
        limit = limit if self.seconds is None else f"at most {limit}"
        lines = [
            f"training a codec of size {self.name} on {used}, {limit}; "
            f"roughly {self.memory / 1e6:.0f} MB of memory beside the vectors"
        ]
        if self.epoch_seconds is not None:
            whole = self.epochs * self.epoch_seconds
            epochs = self.affordable_epochs
            if epochs >= self.epochs:
                lines.append(f"all {self.epochs} epochs, roughly {time_of(whole)} for the codec")
            else:
                needed = whole / BY_TIME
                part = f"{epochs:.2g}" if epochs >= 0.1 else f"{epochs * self.points:,.0f} vectors"
                lines.append(
                    f"roughly {part} of {self.epochs} epochs; for all of them max_seconds would "
                    f"have to be {time_of(needed)}"
                )
        if self.errors:
            now, *more = (
                (what, " to ".join(f"{error:.2f}" for error in errors))
                for what, errors in self.errors.items()
            )
            lines.append(
                f"error roughly {now[1]} of residual quantization's ({' to '.join(LAWS)}); with "
                + ", with ".join(f"{what} {errors}" for what, errors in more)
            )
        return "\n".join(lines)


def plan(
    d: int,
    n: int,
    M: int,
    nbits: int,
    nlist: int | None,
    config: str | QINCoConfig,
    training: TrainingConfig,
) -> Plan:
    """What training on n vectors of dimension d will take; nlist None: without an IVF."""
    sizes = resolve_config(config, d, training.device)
    name = next((name for name, preset in PRESETS.items() if preset == sizes), None)
    if name is None:
        A, B = sizes.beam(1 << nbits)
        name = f"L={sizes.L}, d_e={sizes.width(d)}, d_h={sizes.d_h}, A={A}, B={B}"
    points = n if training.max_points is None else min(n, training.max_points)
    K = 1 << nbits
    shapes = tensor_shapes(sizes, d, M, nbits, nlist)
    tensors = {name: math.prod(shape) for name, shape in shapes.items()}
    frozen = tensors["base"] if nlist is not None else 0
    parameters = sum(tensors.values()) - frozen
    start = 8 * BEAM * d * min(points, most_points(K, d))
    memory = 4 * (COPIES * parameters + 3 * frozen) + start
    per_epoch = None
    if resolve_device(training.device).startswith("cpu"):
        of_encoding, of_parameters = SECONDS_PER_MILLION
        encoding = of_encoding * training.batch_size / 256 * encoding_cost(sizes, d, M, K) / 1e6
        batch = encoding + of_parameters * parameters / 1e6
        per_epoch = math.ceil(points / training.batch_size) * batch / get_num_threads()
    seconds = training.seconds(points)
    found = Plan(sizes, name, points, n, seconds, training.epochs, per_epoch, memory, {})
    if seconds is not None and per_epoch is None:
        return found
    epochs = found.affordable_epochs
    by_time = epochs < training.epochs
    # Ten times as many get the time that is theirs, and epochs as far as that suffices.
    tenfold = replace(found, seconds=training.seconds(10 * points),
                      epoch_seconds=None if per_epoch is None else 10 * per_epoch)  # fmt: skip
    errors = {
        "": expected_errors(epochs * points, points, K),
        "twice the time" if by_time else "twice the epochs": expected_errors(
            min(2 * epochs, training.epochs) * points if by_time else 2 * epochs * points,
            points, K,
        ),
        "ten times the vectors": expected_errors(
            tenfold.affordable_epochs * 10 * points, 10 * points, K
        ),
    }  # fmt: skip
    return replace(found, errors=errors)


def expected_errors(seen: float, points: int, K: int) -> list[float]:
    """The error of unseen vectors, as a fraction of RQ's, after `seen` of `points` training
    vectors, for each kind in `LAWS`. Rough: vectors differ more than the two kinds do."""
    worth = seen / (1 + seen / (REPEATS * max(points, 1)))
    return [1 - gain * worth / (worth + half * K / 256) for gain, half in LAWS.values()]


def encoding_cost(config: QINCoConfig, d: int, M: int, K: int) -> int:
    """Multiply-adds of encoding a vector with the beam of training."""
    A, B = config.beam(K, training=True)
    of_hypothesis, of_candidate = network_costs(config, d)
    hypotheses, total = 1, 0
    for _ in range(M):
        width = min(A * B, hypotheses * K)
        preselection = d * K if width < hypotheses * K else 0
        total += hypotheses * (preselection + of_hypothesis) + width * of_candidate
        hypotheses = min(B, width)
    return total


def time_of(seconds: float) -> str:
    """Seconds, minutes, hours or days, in words."""
    for unit, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if (number := seconds / unit) >= 2:
            return f"{number:.2g} {name}" if number < 100 else f"{number:,.0f} {name}"
    return f"{seconds:.2g} seconds" if seconds < 10 else f"{seconds:.0f} seconds"
