"""The QINCo networks in torch (DESIGN: QINCo, arXiv 2401.14732, eq. 4-6; QINCo2, 2501.03078).

A model is a table of starting vectors `base` (IVF centroids, frozen, or the first codebook) and
one `Step` per further code: x̂_m = x̂_{m-1} + f_m(c_m[i_m], x̂_{m-1}), in normalised space.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from .config import QINCoConfig


class Block(nn.Module):
    """z + Down·relu(Up·z), without bias."""

    def __init__(self, d_e: int, d_h: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_e, d_h, bias=False)
        self.down = nn.Linear(d_h, d_e, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, z: Tensor) -> Tensor:
        return torch.add(z, self.down(torch.relu(self.up(z))))


class Concat(nn.Module):
    """W·[u ; x̂] + b, or its low-rank form (two bias-free linears)."""

    def __init__(self, d: int, d_e: int, rank: int | None) -> None:
        super().__init__()
        self.down = None if rank is None else nn.Linear(d_e + d, rank, bias=False)
        self.mlp = nn.Linear(d_e + d if rank is None else rank, d_e, bias=rank is None)

    def weight(self) -> Tensor:
        """W as one (d_e, d_e + d) matrix."""
        return self.mlp.weight if self.down is None else self.mlp.weight @ self.down.weight

    def forward(self, u: Tensor, x_hat: Tensor) -> Tensor:
        ux = torch.cat((u, x_hat), dim=-1)
        out: Tensor = self.mlp(ux if self.down is None else self.down(ux))
        return out


class Step(nn.Module):
    """One codebook and the network f_m that adapts it to x̂_{m-1}.

    Initialised so that f_m(c, x̂) starts as the codewords it is given: see `set_codebook`. What is
    trained so starts as the residual quantizer that the codewords are from.
    """

    def __init__(self, d: int, K: int, config: QINCoConfig) -> None:
        super().__init__()
        d_e = config.width(d)
        self.qinco1 = config.qinco1
        self.codebook = nn.Parameter(torch.empty(K, d))
        self.preselect = nn.Parameter(torch.empty(K, d)) if config.A > 0 else None
        self.in_proj = None if d_e == d else nn.Linear(d, d_e, bias=False)
        self.out_proj = None if d_e == d else nn.Linear(d_e, d, bias=False)
        self.concat = Concat(d, d_e, config.d_h if config.low_rank else None)
        blocks = nn.ModuleList(Block(d_e, config.d_h) for _ in range(config.L))
        self.blocks = cast("list[Block]", blocks)
        with torch.no_grad():
            self.concat.mlp.weight.zero_()
            if self.concat.mlp.bias is not None:
                self.concat.mlp.bias.zero_()
            if self.out_proj is not None:
                self.out_proj.weight.zero_()

    @torch.no_grad()
    def set_codebook(self, codewords: Tensor) -> None:
        """Start from (K, d) codewords. Without projections QINCo2's f is c + z with z = c, so c
        is half a codeword; else f = c."""
        half = not self.qinco1 and self.out_proj is None
        self.codebook.copy_(codewords * 0.5 if half else codewords)
        if self.preselect is not None:
            self.preselect.copy_(codewords)

    def forward(self, c: Tensor, x_hat: Tensor) -> Tensor:
        """f_m(c, x̂): c (…, d), x̂ (…, d) -> (…, d)."""
        u: Tensor = c if self.in_proj is None else self.in_proj(c)
        z: Tensor = u + self.concat(u, x_hat)
        for block in self.blocks:
            z = block(z)
        if self.qinco1:
            return z
        return torch.add(c, z if self.out_proj is None else self.out_proj(z))


class QINCo(nn.Module):
    """base (n_base, d) and `n_steps` networks over codebooks of K codewords.

    With an IVF, base holds the normalised centroids and is not trained; codes are (n, M + 1),
    the list first. Without, base is the first codebook (K, d); codes are (n, M).
    """

    def __init__(
        self, d: int, M: int, K: int, config: QINCoConfig, n_lists: int | None = None
    ) -> None:
        super().__init__()
        ivf = n_lists is not None
        base = torch.zeros(n_lists if n_lists is not None else K, d)
        self.base = nn.Parameter(base, requires_grad=not ivf)
        steps = nn.ModuleList(Step(d, K, config) for _ in range(M if ivf else M - 1))
        self.steps = cast("list[Step]", steps)

    def decode(self, codes: Tensor) -> list[Tensor]:
        """codes (n, 1 + n_steps) int64, the base first -> [x̂_0, x̂_1 …], each (n, d).

        `embedding`, not indexing, whose gradient adds up in the order that threads happen to run.
        """
        x_hats = [embedding(codes[:, 0], self.base)]
        for m, step in enumerate(self.steps):
            x_hat = x_hats[-1]
            x_hats.append(x_hat + step(embedding(codes[:, m + 1], step.codebook), x_hat))
        return x_hats
