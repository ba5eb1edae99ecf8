"""Where torch computes. It is imported by the functions that need it, and need not be there."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

from ..errors import MissingTorchError

GPU_NODES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # CUDA on Linux and in WSL, ROCm


def resolve_device(device: str) -> str:
    """ "auto" -> "cuda" where torch sees a GPU, else "cpu"; other names are kept.

    Raises MissingTorchError for a name of torch's where there is no torch.
    """
    if device == "cpu":
        return device
    if device != "auto":
        require_torch(f"device {device!r}")
        return device
    if not _any_exists(GPU_NODES) or not _has_torch():
        return "cpu"  # known without torch, whose import takes seconds
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@cache
def _any_exists(paths: tuple[str, ...]) -> bool:
    """Asked once: every call of an index needs the answer."""
    return any(os.path.exists(path) for path in paths)


def require_torch(what: str) -> None:
    """Raises MissingTorchError, which says what to install for `what`, where torch is missing; does
    not import it."""
    if not _has_torch():
        raise MissingTorchError(
            f"{what}: needs torch, which is not installed: pip install 'faiss-qinco[train]'"
        )


def _has_torch() -> bool:
    return find_spec("torch") is not None


def check_device(device: str) -> None:
    """Raises RuntimeError unless torch can use the device: an unknown name, a GPU that is not
    there, or a torch built without what it needs (which torch calls an AssertionError)."""
    import torch

    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise RuntimeError(f"device: torch cannot use {device!r} here: {error}") from error


def use_bf16(setting: bool | None, device: str) -> bool:
    """Whether matrix products in bfloat16 pay: where the device has them in hardware."""
    if setting is not None:
        return setting
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())
