"""What a training will take, said before it starts. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..codec.config import PRESETS, QINCoConfig, network_costs, resolve_config
from ..codec.devices import resolve_device
from ..codec.weights import tensor_shapes
from ..threads import get_num_threads
from .budget import CODEC_SHARE
from .config import TrainingConfig
from .start import BEAM, MEMORY, POINTS_PER_CODEWORD

# Seconds of one core for a batch of 256, fitted to XS and S with 8 and 16 codes, d 32 to 960, on an
# AMD Zen 5: within a factor of two there, and more where the CPU has no bfloat16.
SECONDS_PER_MILLION = 0.003, 0.06  # multiply-adds of encoding a vector, parameters
COPIES = 7  # of the parameters: gradients, moments, the best so far, what is being packed
BY_TIME = 0.6  # of the codec's time: what is left for batches


@dataclass(frozen=True)
class Plan:
    """What a training will take. `str` says it in a few lines.

    config : the sizes, "auto" worked out; name: of the preset, if it is one.
    points, given : training vectors used, and given.
    seconds : what the training takes at most, None: no limit but the epochs.
    epochs : passes over the vectors that are asked for.
    epoch_seconds : of one of them on this CPU, to within a factor of two or so; None on a GPU.
    memory : bytes beside those of x, roughly.
    """

    config: QINCoConfig
    name: str
    points: int
    given: int
    seconds: float | None
    epochs: int
    epoch_seconds: float | None
    memory: int

    @property
    def affordable_epochs(self) -> float:
        """Of the epochs, those that there is time for, roughly."""
        if self.seconds is None or self.epoch_seconds is None:
            return float(self.epochs)
        possible = CODEC_SHARE * BY_TIME * self.seconds / self.epoch_seconds
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
        if self.epoch_seconds is None:
            return lines[0]
        whole = self.epochs * self.epoch_seconds
        epochs = self.affordable_epochs
        if epochs >= self.epochs:
            lines.append(f"all {self.epochs} epochs, roughly {time_of(whole)} for the codec")
        else:
            needed = whole / (CODEC_SHARE * BY_TIME)
            lines.append(
                f"roughly {epochs:.2g} of {self.epochs} epochs; for all of them max_seconds would "
                f"have to be {time_of(needed)}. More time gives a smaller error, each doubling by "
                "less"
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
    name = next((name for name, preset in PRESETS.items() if preset == sizes), str(sizes))
    points = n if training.max_points is None else min(n, training.max_points)
    K = 1 << nbits
    shapes = tensor_shapes(sizes, d, M, nbits, nlist)
    tensors = {name: math.prod(shape) for name, shape in shapes.items()}
    frozen = tensors["base"] if nlist is not None else 0
    parameters = sum(tensors.values()) - frozen
    start = min(8 * BEAM * d * min(points, POINTS_PER_CODEWORD * K), MEMORY)
    memory = 4 * (COPIES * parameters + 3 * frozen) + start
    per_epoch = None
    if resolve_device(training.device).startswith("cpu"):
        of_encoding, of_parameters = SECONDS_PER_MILLION
        encoding = of_encoding * training.batch_size / 256 * encoding_cost(sizes, d, M, K) / 1e6
        batch = encoding + of_parameters * parameters / 1e6
        per_epoch = math.ceil(points / training.batch_size) * batch / get_num_threads()
    seconds = training.seconds(points)
    return Plan(sizes, name, points, n, seconds, training.epochs, per_epoch, memory)


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
    """Seconds, minutes or hours, in words."""
    for unit, name in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.2g} {name}"
    return f"{seconds:.2g} seconds" if seconds < 10 else f"{seconds:.0f} seconds"
