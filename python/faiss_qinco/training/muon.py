"""Muon (K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon): momentum whose steps
are made orthogonal by polynomial iterations: those of Polar Express (Amsel et al., 2025,
arXiv 2505.16932, each the best after the ones before), of which four do what five of Newton-Schulz
with fixed coefficients do.

`torch.optim.Muon` iterates in bfloat16 alone, one matrix after the other, which takes most of the
training time on a CPU; this one takes all matrices of a shape at once, in the dtype that is fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
)  # of x, x xᵀ x and (x xᵀ)² x, for singular values up to 1
ROOM = 1.01  # for the roundings that could make one larger


def orthogonalised(g: Tensor) -> Tensor:
    """(n, rows, cols) -> the same with singular values near 1."""
    x: Tensor = g / (ROOM * g.norm(dim=(1, 2), keepdim=True)).clamp(min=1e-7)
    for a, b, c in COEFFICIENTS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """For matrices (rows, cols); momentum 0.95 (Nesterov), no weight decay.

    lr is what a square matrix moves by, in spectral norm; dtype: of the iterations.
    """

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, dtype: torch.dtype) -> None:
        super().__init__(params, {"lr": lr, "momentum": 0.95})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # without a closure
        for group in self.param_groups:
            stacks: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor, bool]]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"])
                tall = p.shape[0] > p.shape[1]
                update = (update.mT if tall else update).to(self.dtype)
                stacks.setdefault(tuple(update.shape), []).append((p, update, tall))
            for stack in stacks.values():
                updates = orthogonalised(torch.stack([update for _, update, _ in stack]))
                for (p, _, tall), update in zip(stack, updates, strict=True):
                    lr = group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                    p.add_((update.mT if tall else update).to(p.dtype), alpha=-lr)
