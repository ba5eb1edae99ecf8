"""How much memory a stage may take, and whether that can suffice."""

from __future__ import annotations

import os
import re
from pathlib import Path

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_bytes(text: str) -> int:
    """Bytes of "8GB", "500 MB", "2GiB" or a plain number. Raises ValueError."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?)(i?)b?\s*", text.lower())
    try:
        if match is None:
            raise ValueError
        unit = _UNITS[match[2]]
        if match[3]:
            unit = 1 << (10 * "kmgt".index(match[2]) + 10)
        found = int(float(match[1]) * unit)
        if found < 1:
            raise ValueError
        return found
    except ValueError:
        raise ValueError(f"expected bytes such as 8GB, got {text!r}") from None


def resident() -> int:
    """Bytes of this process that are in memory, the interpreter and its libraries included; 0 where
    the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def total_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(memory: int | None, needed: int, what: str) -> None:
    """Raise ValueError where `needed` bytes more than the process has now are more than `memory`
    (None: anything goes)."""
    if memory is not None and (total := resident() + needed) > memory:
        raise ValueError(
            f"memory: {what} takes {total / 1e6:,.0f} MB, expected at least that, "
            f"got {memory / 1e6:,.0f} MB"
        )
