"""Re-ranking in torch, on a GPU: shortlists of the extension, decoded and ranked there."""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np
import torch
from torch import Tensor

from ..codec.codec import QINCoCodec
from ..codec.devices import use_bf16
from ..codec.encoding import chunks, rows_at_once
from .fitting import MOST_STRETCH

CANDIDATES = 1 << 18  # in a batch of queries: their ids, codes and scores are on the device
MORE = 8  # of the candidates ranked in bfloat16, so many beyond k are decoded in float32

Shortlist = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def rerank(
    codec: QINCoCodec,
    queries: np.ndarray,
    shortlist: Callable[[slice], Shortlist],
    n_short: int,
    k: int,
    metric: int,
    device: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates of each query, by the exact distance to the decoded vectors.

    Parameters
    ----------
    codec : decodes.
    queries : (n, d) float32.
    shortlist : slice of the queries -> their candidates: ids and list_no (nq, n_short) int64,
        codes (nq, n_short, m) uint8, all M of them or the first m, extra (nq, n_short) float32,
        what is added to their distances or what decoded vectors are stretched to
        (core/extra.hpp), or (0, n_short), as `Engine.shortlist` of the extension gives them,
        missing ones last.
    n_short, k, metric : candidates and results of a query; faiss's number of the metric.
    device : a torch device.

    Returns D (n, k) float32 and I (n, k) int64 as `search` does: ties by id, -1 and ±FLT_MAX where
    results are missing. All candidates are decoded; in float32, or where the device multiplies in
    bfloat16 and there is more than twice k to rank, in bfloat16, and the best k + 8 of these again
    in float32. The device works on one batch of queries while the next shortlists are made; its
    memory holds one batch, and D and I.

    Raises RuntimeError where torch cannot use the device.
    """
    codec._model(device)  # before anything is on the device: it says what is wrong with it
    n, sign = len(queries), 1.0 if metric == faiss.METRIC_L2 else -1.0
    D = torch.full((n, k), torch.nan, device=device)
    I = torch.full((n, k), -1, device=device)
    for part in chunks(n, max(1, CANDIDATES // n_short)):
        ids, list_no, codes, extra = shortlist(part)
        width = int((list_no >= 0).sum(axis=1).max())
        if width == 0:
            continue
        found = (ids, list_no, codes, extra)
        arrays = (queries[part], *(a[:, :width] for a in found))
        score, best = _best(
            codec, device, k, metric, *(torch.tensor(a, device=device) for a in arrays)
        )
        D[part, : best.shape[1]], I[part, : best.shape[1]] = score, best
    D_host, I_host = sign * D.cpu().numpy(), I.cpu().numpy()
    missing = np.isnan(D_host)
    D_host[missing], I_host[missing] = sign * np.finfo(np.float32).max, -1
    return D_host, I_host


@torch.no_grad()
def _best(
    codec: QINCoCodec,
    device: str,
    k: int,
    metric: int,
    q: Tensor,
    ids: Tensor,
    list_no: Tensor,
    codes: Tensor,
    extra: Tensor,
) -> tuple[Tensor, Tensor]:
    """Scores and ids (nq, up to k) of the best candidates (nq, n_short), NaN where missing."""
    if use_bf16(None, device) and ids.shape[1] > 2 * (k + MORE):
        score = _scores(codec, device, torch.bfloat16, metric, q, list_no, codes, extra)
        best = _ranked(score, ids, k + MORE)
        ids, list_no = ids.gather(1, best), list_no.gather(1, best)
        codes = codes.gather(1, best[:, :, None].expand(-1, -1, codes.shape[2]))
        extra = extra.gather(1, best[: len(extra)])
    score = _scores(codec, device, torch.float32, metric, q, list_no, codes, extra)
    best = _ranked(score, ids, k)
    return score.gather(1, best), ids.gather(1, best)


def _ranked(score: Tensor, ids: Tensor, k: int) -> Tensor:
    """Columns of the k best, ties by id; NaN comes last."""
    by_id = ids.argsort(dim=1)
    order = score.gather(1, by_id).argsort(dim=1, stable=True)
    return by_id.gather(1, order[:, :k])


def _scores(
    codec: QINCoCodec,
    device: str,
    dtype: torch.dtype,
    metric: int,
    q: Tensor,
    list_no: Tensor,
    codes: Tensor,
    extra: Tensor,
) -> Tensor:
    """Squared L2 distances or negated inner products (nq, n_short) of queries (nq, d) and decoded
    candidates, with their `extra` where there is some; NaN where list_no is -1. Products are
    in `dtype`, x̂ adds up in float32."""
    n_short, base, steps = list_no.shape[1], codec._model(device).base, codec._steps(device, dtype)
    mean = torch.tensor(codec.mean, device=device)
    score = torch.empty(list_no.numel(), device=q.device)
    first = list_no.flatten().clamp(min=0)  # a missing candidate goes along as one of list 0
    codes = codes.flatten(0, 1)
    if codec.nlist is None:
        first, codes = codes[:, 0].long(), codes[:, 1:]
    steps = steps[: codes.shape[1]]
    for part in chunks(len(score), rows_at_once(q.device)):
        x = base.index_select(0, first[part])
        for step, code in zip(steps, codes[part].T.long(), strict=True):
            x += step.f(code, x.to(dtype) @ step.W_x)
        x.mul_(codec.std).add_(mean)
        if len(extra) and metric != faiss.METRIC_L2:
            factor = extra.flatten()[part] / x.norm(dim=1).clamp(min=1e-30)
            x.mul_(factor.clamp(max=MOST_STRETCH)[:, None])
        rows = q.index_select(0, torch.arange(part.start, part.stop, device=q.device) // n_short)
        if metric == faiss.METRIC_L2:
            score[part] = rows.sub_(x).square_().sum(1)
            if len(extra):
                score[part] += extra.flatten()[part]
        else:
            score[part] = -rows.mul_(x).sum(1)
    return score.view_as(list_no).masked_fill_(list_no < 0, torch.nan)
