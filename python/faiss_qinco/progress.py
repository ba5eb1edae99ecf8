"""The progress bar of everything that takes long."""

from __future__ import annotations

import sys
from typing import Any


class Bar:
    """A bar that shows nothing: without tqdm, whose first bar starts a thread."""

    def to(self, done: float) -> None:
        """So much of the total is done."""

    def say(self, **values: str) -> None:
        """Values to show beside the bar."""

    def close(self) -> None:
        """Leave the bar as it is."""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Shown(Bar):
    def __init__(self, what: str, total: int, unit: str, done: int) -> None:
        from tqdm import tqdm

        class Quiet(tqdm):  # type: ignore[misc]  # no types
            monitor_interval = 0  # no thread that watches over bars

        # A line in a log file for each tenth of a second would be a large file after a night.
        seen = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.bar: Any = Quiet(
            total=total, initial=done, desc=what, unit=unit, unit_scale=total > 10**5,
            mininterval=0.1 if seen else 10,
        )  # fmt: skip

    def to(self, done: float) -> None:
        self.bar.update(int(done) - self.bar.n)

    def say(self, **values: str) -> None:
        self.bar.set_postfix(values)

    def close(self) -> None:
        self.bar.close()


def progress_bar(what: str, total: int, unit: str, show: bool, done: int = 0) -> Bar:
    """A bar on stderr from 0 to `total`, to be used in `with`; one that shows nothing unless
    `show`. done: what was done before, and does not count for the rate."""
    return _Shown(what, total, unit, done) if show else Bar()
