"""torch tensors in and out, where a caller has some; torch is never imported for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

Method = TypeVar("Method", bound=Callable[..., Any])


def takes_tensors(method: Method) -> Method:
    """A method of arrays that takes torch tensors too, on any device: if one is given, arrays that
    it returns are tensors on the device of the first, as with `faiss.contrib.torch_utils`, and a
    given buffer is itself returned. uint64, which torch hardly knows, is int64 then."""

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        is_tensor = getattr(sys.modules.get("torch"), "is_tensor", None)
        if is_tensor is None or not any(map(is_tensor, (*args, *kwargs.values()))):
            return method(self, *args, **kwargs)
        given = [value for value in (*args, *kwargs.values()) if is_tensor(value)]
        arrays = [_array(tensor) for tensor in given]
        known = {id(t): a for t, a in zip(given, arrays, strict=True)}
        result = method(
            self,
            *(known.get(id(value), value) for value in args),
            **{name: known.get(id(value), value) for name, value in kwargs.items()},
        )

        def tensor(value: Any) -> Any:
            if not isinstance(value, np.ndarray):
                return value
            for buffer, array in zip(given, arrays, strict=True):
                if value is array:
                    if buffer.data_ptr() != array.ctypes.data:  # another device, or bfloat16
                        buffer.detach().copy_(_tensor(array))
                    return buffer
            return _tensor(value).to(given[0].device)

        return tuple(map(tensor, result)) if isinstance(result, tuple) else tensor(result)

    return cast(Method, call)


def _array(tensor: Any) -> np.ndarray:
    """The numbers of a tensor: where they are, if it is one on the CPU."""
    tensor = tensor.detach()
    if str(tensor.dtype) == "torch.bfloat16":  # which NumPy does not know
        tensor = tensor.float()
    return np.asarray(tensor.cpu().numpy())


def _tensor(array: np.ndarray) -> Any:
    return sys.modules["torch"].from_numpy(
        array.view(np.int64) if array.dtype == np.uint64 else array
    )
