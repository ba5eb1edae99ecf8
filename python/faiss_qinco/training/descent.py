"""One gradient step after the other: optimizers, learning rates, loss, unused codewords."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from .. import _core
from ..codec.config import QINCoConfig
from ..codec.encoding import beam_encode, compile_steps
from ..codec.model import QINCo
from ..codec.weights import pack_weights, with_prefix
from ..threads import get_num_threads
from .config import TrainingConfig
from .muon import Muon
from .processes import add_up

Encoder = Callable[[Tensor, Tensor | None], Tensor]


def encoder(
    model: QINCo,
    config: QINCoConfig,
    beam: tuple[int, int],
    device: str,
    dtype: torch.dtype,
    bf16: bool | None,
) -> Encoder:
    """x (n, d), lists (n,) or None -> codes (n, 1 + n_steps) int64, the base first, with the model
    as it is now and `beam` (A, B): in the extension on "cpu" (bf16: its products; None: as the CPU
    has them), else in torch, in `dtype`."""
    A, B = beam
    if device != "cpu":
        steps = compile_steps(model, dtype)
        return lambda x, lists: beam_encode(model, steps, x, lists, A, B)[0]
    tensors = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    n_base, d = model.base.shape
    ivf = not model.base.requires_grad
    K = len(model.steps[0].codebook) if len(model.steps) else n_base
    mean = np.zeros(d, np.float32)

    def packed(base: np.ndarray) -> _core.QincoWeights:
        try:
            return pack_weights(
                config, K.bit_length() - 1, ivf, mean, 1.0, {**tensors, "base": base}, bf16
            )
        except ValueError as error:  # they are not finite
            raise RuntimeError(f"training diverged ({error}); lower lr") from error

    whole = packed(tensors["base"]) if n_base <= MANY or not ivf else None

    def encode(x: Tensor, lists: Tensor | None) -> Tensor:
        list_no = None if lists is None else lists.numpy()
        if whole is not None:
            weights = whole
        else:
            assert list_no is not None
            present, list_no = np.unique(list_no, return_inverse=True)
            weights = packed(tensors["base"][present])
        found = _core.encode(weights, x.numpy(), list_no, A, B, get_num_threads())
        codes = torch.from_numpy(found).long()
        return codes if lists is None else torch.column_stack((lists, codes))

    return encode


MANY = 1 << 14  # lists, of which only those of a batch are packed for it
SLOWER = 0.15  # codebooks of entries smaller than that have smaller learning rates


def pace(codebook: np.ndarray) -> float:
    """The factor of a step's learning rates, by the (K, d) codebook that it starts from: 1 but
    for entries far smaller than the vectors' (tight clusters), which steps of the usual length
    would carry away."""
    return min(1.0, float(np.sqrt(np.square(codebook).mean())) / SLOWER)


class Descent:
    """A model on its way down: it, its optimizers, and how often its codewords were used."""

    def __init__(
        self,
        model: QINCo,
        training: TrainingConfig,
        device: str,
        dtype: torch.dtype,
        paces: Sequence[float],
        together: bool = False,
    ) -> None:
        """paces: of each step, see `pace`. together: with other processes, if there are any, each
        of which has a share of every batch."""
        self.model, self.training, self.dtype = model, training, dtype
        self.together = together
        self.autocast = device != "cpu" and dtype != torch.float32
        matrices: dict[float, list[nn.Parameter]] = {}
        others: dict[float, list[nn.Parameter]] = {}
        for name, p in model.named_parameters():
            if not p.requires_grad:
                continue
            matrix = name.endswith("weight")
            # Inside the blocks all is relative to their input.
            paced = name.startswith("steps.") and (not matrix or ".concat." in name)
            factor = paces[int(name.split(".")[1])] if paced else 1.0
            (matrices if matrix else others).setdefault(factor, []).append(p)
        adamw = torch.optim.AdamW(
            [{"params": ps, "lr": training.lr * factor} for factor, ps in others.items()],
            weight_decay=training.weight_decay, fused=True,
        )  # fmt: skip
        self.optimizers: list[torch.optim.Optimizer] = [adamw]
        if matrices:
            groups = [{"params": p, "lr": training.muon_lr * f} for f, p in matrices.items()]
            self.optimizers.append(Muon(groups, training.muon_lr, dtype))
        for group in self._groups():
            group["initial_lr"] = group["lr"]
        n_codewords = len(model.steps[0].codebook) if len(model.steps) else 0
        self.used = torch.zeros(len(model.steps), n_codewords)
        self.sums = torch.zeros(3, device=device)  # of losses, errors and steps, see `since`
        self.factor = 0.0

    def _groups(self) -> list[dict[str, float]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def loss(self, x: Tensor, codes: Tensor) -> Tensor:
        """Sum over the steps of |x̂_m - x|², and of the pre-selection codebooks' errors, of this
        process's share of a batch. What it is after the last step, `since` tells."""
        with torch.autocast(x.device.type, self.dtype) if self.autocast else nullcontext():
            x_hats = self.model.decode(codes)
        loss = x.new_zeros(())
        if self.model.base.requires_grad:
            loss = loss + (x_hats[0] - x).square().sum(1).mean()
        for m, step in enumerate(self.model.steps):
            loss = loss + (x_hats[m + 1] - x).square().sum(1).mean()
            if step.preselect is not None:
                target = x - x_hats[m].detach()
                error = embedding(codes[:, m + 1], step.preselect) - target
                loss = loss + error.square().sum(1).mean()
        self.sums[1] += (x_hats[-1].detach() - x).square().sum(1).mean()
        return loss / x.shape[1]

    def count(self, codes: Tensor) -> None:
        """Remember that these codes (n, 1 + n_steps) were used."""
        k = codes[:, 1:].T.cpu()
        self.used.scatter_add_(1, k, torch.ones(k.shape))

    def step(self, loss: Tensor, t: float) -> None:
        """One step. Learning rates by the position t in the schedule: a linear ramp, then half a
        cosine to zero. loss: of this process's share of the batch, times what fraction that is."""
        self.model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        loss = loss.detach()
        if self.together:
            add_up([loss, *(p.grad for p in self.model.parameters() if p.grad is not None)])
        self.sums[0] += loss
        self.sums[2] += 1
        torch.nn.utils.clip_grad_value_(self.model.parameters(), self.training.clip_value)
        warmup = self.training.warmup
        ramp = min(1.0, (t + 0.002) / warmup) if warmup > 0 else 1.0
        self.factor = ramp * 0.5 * (1 + math.cos(math.pi * t))
        for group in self._groups():
            group["lr"] = group["initial_lr"] * self.factor
        for optimizer in self.optimizers:
            optimizer.step()

    def since(self) -> tuple[float, float, float]:
        """Of the steps since the last call the mean loss and |x̂ - x|² (of this process's shares),
        NaN without any, and the factor of the learning rates in the last."""
        loss, error, n = self.sums.tolist()
        self.sums.zero_()
        return (loss / n, error / n, self.factor) if n else (math.nan, math.nan, self.factor)

    @torch.no_grad()
    def reseed(self, rng: np.random.Generator) -> None:
        """Unused codewords become noisy copies of often used ones."""
        if self.together:
            counts = self.used.to(self.sums.device)
            add_up([counts])
            self.used = counts.cpu()
        for m, step in enumerate(self.model.steps):
            used = self.used[m].numpy()
            dead = np.flatnonzero(used == 0)
            if len(dead) == 0 or used.sum() == 0:
                continue
            source = rng.choice(len(used), size=len(dead), p=used / used.sum(dtype=np.float64))
            for table in (step.codebook, step.preselect):
                if table is None:
                    continue
                noise = rng.standard_normal((len(dead), table.shape[1]), dtype=np.float32)
                scale = 0.1 * float(table.std())
                table[dead] = table[source] + scale * torch.from_numpy(noise).to(table)
                for moment in self.optimizers[0].state.get(table, {}).values():
                    if moment.shape == table.shape:
                        moment[dead] = 0
        self.used.zero_()

    def state(self) -> dict[str, Tensor]:
        """All of it, by name, for a checkpoint."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for o, optimizer in enumerate(self.optimizers):
            for i, moments in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{o}.{i}.{k}": v for k, v in moments.items()}
        return tensors | {"used": self.used, "sums": self.sums}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(with_prefix(tensors, "model."))
        self.used, self.sums = tensors["used"], tensors["sums"].to(self.sums.device)
        for o, optimizer in enumerate(self.optimizers):
            state = optimizer.state_dict()
            for name, value in with_prefix(tensors, f"optimizer.{o}.").items():
                i, key = name.split(".")
                state["state"].setdefault(int(i), {})[key] = value
            optimizer.load_state_dict(state)
