"""What shows without a GPU that nothing stays behind on the CPU."""

from __future__ import annotations

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class OneDevice(TorchDispatchMode):
    """Tensors of two devices in one operation are an error, as beside a GPU's; the meta device,
    which has shapes without values, takes its place."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        assert len({t.device.type for t in tensors}) <= 1, func
        return func(*args, **kwargs)
