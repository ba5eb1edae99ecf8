"""Writes what the published files hold, of a codec of ours: their names of classes and tensors."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import nn

import faiss_qinco as fq

NAMES = ("QINCo", "QINCoLR", "IVFQINCo", "PQ_QINCo", "QINCoStep")
CLASSES: dict[str, Any] = {
    name: type(name, (nn.Module,), {"__module__": "model_qinco"}) for name in NAMES
}


@contextmanager
def model_qinco() -> Iterator[None]:
    """Where pickle finds the classes by their names."""
    module: Any = types.ModuleType("model_qinco")
    vars(module).update(CLASSES)
    sys.modules["model_qinco"] = module
    try:
        yield
    finally:
        del sys.modules["model_qinco"]


def save(model: Any, path: Path) -> Path:
    with model_qinco():
        torch.save(model, path)
    return path


def embedding(array: np.ndarray) -> nn.Embedding:
    return nn.Embedding.from_pretrained(torch.tensor(array), freeze=False)


def linear(weight: np.ndarray, bias: np.ndarray | None = None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    made.weight.data = torch.tensor(weight)
    if bias is not None:
        made.bias.data = torch.tensor(bias)
    return made


def version_1(codec: fq.QINCoCodec) -> Any:
    """The module of a codec with `qinco1` and without a mean."""
    config, ivf, t = codec.config, codec.nlist is not None, codec.tensors
    model = CLASSES["IVFQINCo" if ivf else "QINCoLR" if config.low_rank else "QINCo"]()
    model.d = codec.d
    if ivf:
        model.K_IVF = codec.nlist
    model.K, model.L, model.M, model.h = codec.K, config.L, codec.M, config.d_h
    model.codebook0 = embedding(t["base"])
    if ivf:
        model.codebook0.weight.requires_grad_(False)
    model.steps = []
    for m, s in enumerate(range(0 if ivf else 1, codec.M)):
        step = CLASSES["QINCoStep"]()
        step.d, step.K, step.L, step.h = codec.d, codec.K, config.L, config.d_h
        step.codebook = embedding(t[f"steps.{m}.codebook"])
        weight = t[f"steps.{m}.concat.mlp.weight"]
        if config.low_rank:
            down = t[f"steps.{m}.concat.down.weight"]
            step.MLPconcat = nn.Sequential(linear(down), linear(weight))
        else:
            step.MLPconcat = linear(weight, t[f"steps.{m}.concat.mlp.bias"])
        step.residual_blocks = []
        for i in range(config.L):
            up, down = (t[f"steps.{m}.blocks.{i}.{part}.weight"] for part in ("up", "down"))
            block = nn.Sequential(linear(up), nn.ReLU(), linear(down))
            step.add_module(f"residual_block{i}", block)
            step.residual_blocks.append(block)
        model.add_module(f"step{s}", step)
        model.steps.append(step)
    model.db_scale = codec.std
    return model.eval()


def version_1_pq(parts: list[fq.QINCoCodec], matrix: np.ndarray | None) -> Any:
    model = CLASSES["PQ_QINCo"]()
    model.db_scale, model.sub_quantizers = 1, []
    for i, part in enumerate(parts):
        model.add_module(f"sub_quantizer_{i}", version_1(part))
        model.sub_quantizers.append(getattr(model, f"sub_quantizer_{i}"))
    model.opq_matrix = None if matrix is None else nn.Parameter(torch.tensor(matrix))
    model.d = sum(part.d for part in parts)
    return model.eval()


def version_2(codec: fq.QINCoCodec) -> dict[str, Any]:
    """What is saved of a codec: a state dict, and its sizes."""
    config, ivf, d = codec.config, codec.nlist is not None, codec.d
    t = {name: torch.tensor(tensor) for name, tensor in codec.tensors.items()}
    state = nn.Module().state_dict()  # with the versions of modules, as any state dict
    state["data_mean"], state["data_std"] = torch.tensor(codec.mean), torch.tensor(codec.std)
    if not ivf:
        state |= statistics("steps.0.", d)
    state[f"steps.0.{'ivf_centroids' if ivf else 'codebook'}.weight"] = t["base"]
    for m in range(codec.M if ivf else codec.M - 1):
        s, ours = f"steps.{m + 1}.", f"steps.{m}."
        state |= statistics(s, d)
        if config.A > 0:
            state[f"{s}substep.codebook.weight"] = t[f"{ours}preselect"]
        state[f"{s}codebook.weight"] = t[f"{ours}codebook"]
        for part in ("weight", "bias"):
            state[f"{s}concat.mlp.{part}"] = t[f"{ours}concat.mlp.{part}"]
        for i in range(config.L):
            for part in ("up", "down"):
                block = f"{s}residual_blocks.{i}.{part}_proj.weight"
                state[block] = t[f"{ours}blocks.{i}.{part}.weight"]
        for part in ("in_proj", "out_proj") if config.width(d) != d else ():
            state[f"{s}{part}.weight"] = t[f"{ours}{part}.weight"]
    modules = {name.rpartition(".")[0] for name in state}
    state._metadata |= {name: {"version": 1} for name in sorted(modules)}
    values = {
        "K": codec.K, "M": codec.M, "de": config.d_e, "dh": config.d_h, "L": config.L,
        "A": config.A, "B": config.B, "ivf_in_use": ivf, "ivf_K": codec.nlist,
        "qinco1_mode": config.qinco1,
    }  # fmt: skip
    return {
        "epoch": 3, "model": state, "optimizer": None, "scheduler": None, "logger": None,
        "parameters": {name: value for name, value in values.items() if value is not None},
        "data_dim": d,
    }  # fmt: skip


def statistics(step: str, d: int) -> dict[str, torch.Tensor]:
    return {f"{step}xtarget_mean": torch.zeros(d), f"{step}xtarget_var": torch.ones(d)}


def ivf_rq(
    codec: fq.QINCoCodec, n: int = 400, hnsw: bool = False, search_type: int | None = None
) -> tuple[faiss.IndexIVFResidualQuantizer, np.ndarray, np.ndarray]:
    """A faiss index, filled by faiss's own means, whose lists hold random codes; its codes with the
    lists first, and its ids."""
    rng = np.random.default_rng(4)
    quantizer = faiss.IndexHNSWFlat(codec.d, 8) if hnsw else faiss.IndexFlatL2(codec.d)
    quantizer.add(codec.centroids())
    nbits = codec.nbits
    search_type = faiss.AdditiveQuantizer.ST_norm_qint8 if search_type is None else search_type
    index = faiss.IndexIVFResidualQuantizer(
        quantizer, codec.d, codec.nlist, codec.M, nbits, faiss.METRIC_L2, search_type
    )
    index.rq.train_type = faiss.ResidualQuantizer.Train_default
    index.train(rng.standard_normal((3000, codec.d)).astype(np.float32) * 3)
    codes = rng.integers(0, codec.K, (n, codec.M)).astype(np.int32)
    list_no = rng.integers(0, codec.nlist - 1, n)  # the last one is empty
    ids = rng.permutation(10 * n)[:n].astype(np.int64) - 5
    packed = np.zeros((n, index.rq.code_size), np.uint8)
    index.rq.pack_codes(n, faiss.swig_ptr(codes), faiss.swig_ptr(packed))
    for number in range(codec.nlist):
        mine = list_no == number
        of_list, own = np.ascontiguousarray(packed[mine]), np.ascontiguousarray(ids[mine])
        pointers = faiss.swig_ptr(own), faiss.swig_ptr(of_list)
        index.invlists.add_entries(number, len(own), *pointers)
    index.ntotal, index.nprobe = n, 3
    return index, np.column_stack((list_no, codes)), ids
