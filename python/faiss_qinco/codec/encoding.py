"""Beam-search encoding in torch (QINCo2, arXiv 2501.03078, section 3.2 and algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .model import QINCo, Step


def rows_at_once(device: torch.device) -> int:
    """Candidates that go through the networks together: on a CPU their activations stay in cache,
    a GPU has work for all of it within a few hundred MB."""
    return 8192 if device.type == "cpu" else 1 << 16


class CompiledStep:
    """A step's weights for inference: what depends on the codeword alone is one (K, d_e) table,
    T = u + W_u·u + b with u = In·c, so that z = T[k] + W_x·x̂ before the residual blocks."""

    def __init__(self, step: Step, dtype: torch.dtype) -> None:
        c = step.codebook
        u = c if step.in_proj is None else step.in_proj(c)
        W = step.concat.weight()
        W_u, W_x = W[:, : u.shape[1]], W[:, u.shape[1] :]
        table = torch.addmm(u, u, W_u.T)
        if step.concat.mlp.bias is not None:
            table = table + step.concat.mlp.bias
        self.table = table.to(dtype)
        self.codebook = c.to(dtype)
        self.W_x = W_x.T.to(dtype)
        self.blocks = [(b.up.weight.T.to(dtype), b.down.weight.T.to(dtype)) for b in step.blocks]
        self.out = None if step.out_proj is None else step.out_proj.weight.T.to(dtype)
        self.skip = not step.qinco1
        # |r - p|² ranks as |p|² - 2 <r, p>
        self.preselect = None
        if step.preselect is not None:
            self.preselect = (step.preselect.to(dtype), step.preselect.square().sum(1) * 0.5)

    def preselected(
        self, e: Tensor, width: int, per_hypothesis: bool = False
    ) -> tuple[Tensor, Tensor]:
        """(n, H, d) errors x̂ - x of the hypotheses -> of all H·K pairs of a hypothesis and a
        codeword, the `width` with the least error before the network: both (n, width).
        per_hypothesis: for each hypothesis the best width / H."""
        n, H, _ = e.shape
        K = self.codebook.shape[0]
        if width == H * K:
            best = torch.arange(width, device=e.device).expand(n, width)
        else:
            assert self.preselect is not None
            codewords, half_norms = self.preselect
            score = (e.to(codewords.dtype) @ codewords.T).float().add_(half_norms)
            if per_hypothesis:
                # Sorted: which of equal errors `topk` takes hangs on their order.
                k = score.topk(width // H, dim=2, largest=False).indices
                parent = torch.arange(H, device=e.device)[:, None].expand_as(k)
                return parent.flatten(1), k.flatten(1)
            score.add_(0.5 * e.square().sum(2, keepdim=True))
            best = score.view(n, -1).topk(width, dim=1, largest=False, sorted=False).indices
        return best // K, best % K

    def errors(self, e: Tensor, x_hat: Tensor, parent: Tensor, k: Tensor) -> Tensor:
        """Errors x̂ + f(c_k, x̂) - x of the candidates.

        e = x̂ - x and x_hat (n, H, d) float32; parent, k (n, width) -> (n, width, d) in the model's
        dtype.
        """
        n, H, d = e.shape
        row = (parent + H * torch.arange(n, device=e.device)[:, None]).flatten()
        Wx = x_hat.view(-1, d).to(self.W_x.dtype) @ self.W_x
        f = self.f(k.flatten(), Wx.index_select(0, row))
        f += e.view(-1, d).to(f.dtype).index_select(0, row)
        return f.view(n, -1, d)

    def f(self, k: Tensor, Wx: Tensor) -> Tensor:
        """f(c_k, x̂) (n, d) of codewords k (n,), where Wx (n, d_e) is x̂ @ W_x."""
        z = self.table.index_select(0, k)
        z += Wx
        for up, down in self.blocks:
            z.addmm_((z @ up).relu_(), down)
        f = z if self.out is None else z @ self.out
        if self.skip:
            f += self.codebook.index_select(0, k)
        return f


@torch.no_grad()
def compile_steps(model: QINCo, dtype: torch.dtype) -> list[CompiledStep]:
    """Inference weights of every step, in `dtype`."""
    return [CompiledStep(step, dtype) for step in model.steps]


@torch.no_grad()
def beam_encode(
    model: QINCo,
    steps: list[CompiledStep],
    x: Tensor,
    lists: Tensor | None,
    A: int,
    B: int,
    additive: tuple[Tensor, Tensor, float] | None = None,
    per_hypothesis: bool = False,
) -> tuple[Tensor, Tensor]:
    """Encode normalised vectors.

    B hypotheses go on from step to step; the network sees A·B candidates, the best of all
    hypotheses and codewords together before the network. per_hypothesis: A for each hypothesis, as
    in the paper, and max(A, B) for the first network.
    x (n, d) float32; lists (n,) int64 with an IVF, else None (the first code is then searched as
    well). additive: as `AdditiveTerm`, normalised. Returns codes (n, 1 + n_steps) int64, the base
    first, and the squared error (n,) in normalised space as the encoder saw it.
    """
    n, d = x.shape
    if lists is not None:
        codes = lists[:, None, None]  # (n, hypotheses, steps so far)
    else:
        base = model.base
        score = base.square().sum(1) - 2 * x @ base.T
        codes = score.topk(min(B, base.shape[0]), dim=1, largest=False).indices[:, :, None]
    e = model.base[codes[:, :, 0]] - x[:, None]
    for m, step in enumerate(steps):
        H, K = codes.shape[1], step.codebook.shape[0]
        each = min(A if m else max(A, B), K)
        width = H * each if per_hypothesis else min(A * B, H * K)
        keep = 1 if m == len(steps) - 1 else min(B, width)
        new_codes = torch.empty(n, keep, m + 2, dtype=torch.int64, device=x.device)
        new_e = torch.empty(n, keep, d, device=x.device)
        chunk = max(1, rows_at_once(x.device) // width)
        for i in range(0, n, chunk):
            part = slice(i, i + chunk)
            parent, k = step.preselected(e[part], width, per_hypothesis)
            cand = step.errors(e[part], x[part, None] + e[part], parent, k)
            err = torch.linalg.vector_norm(cand, dim=2, dtype=torch.float32)
            if additive is not None and m == len(steps) - 1:
                err = err.square() + additive_errors(additive, x[part], codes[part], parent, k)
            best = err.topk(keep, dim=1, largest=False).indices
            new_e[part] = cand.gather(1, best[:, :, None].expand(-1, -1, d))
            old = codes[part].gather(1, parent.gather(1, best)[:, :, None].expand(-1, -1, m + 1))
            new_codes[part] = torch.cat((old, k.gather(1, best)[:, :, None]), dim=2)
        codes, e = new_codes, new_e
    return codes[:, 0], e[:, 0].square().sum(1)


def additive_errors(
    additive: tuple[Tensor, Tensor, float], x: Tensor, codes: Tensor, parent: Tensor, k: Tensor
) -> Tensor:
    """The term of last candidates (n, width): a parent of codes (n, H, 1 + steps), and k."""
    codebooks, bases, weight = additive
    ivf = codes.shape[2] == len(codebooks)  # then the first is the list
    rest = x[:, None] - (bases[codes[:, :, 0]] if ivf else bases[0])
    for m, codebook in enumerate(codebooks[:-1]):
        rest = rest - codebook[codes[:, :, m + ivf]]
    error = torch.take_along_dim(rest, parent[:, :, None], 1) - codebooks[-1][k]
    return weight * error.square().sum(2)


def chunks(n: int, size: int) -> Iterable[slice]:
    """0 .. n - 1 in slices of `size`, the last one shorter."""
    return (slice(i, min(i + size, n)) for i in range(0, n, size))
