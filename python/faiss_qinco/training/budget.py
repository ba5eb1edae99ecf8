"""The time that a training may take."""

from __future__ import annotations

import math
import time

STUDENT_SHARE = 0.4  # of what is left when `distill` is called


class Budget:
    """Seconds of wall-clock time from now on; None: no limit.

    One budget is of a whole `index.train`, made when it starts. What takes part of it asks for a
    share of what is left, which is a budget as well.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = math.inf if seconds is None else float(seconds)
        self._started = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def left(self) -> float:
        """Seconds, 0.0 where it is overdrawn, inf without a limit."""
        return max(0.0, self.seconds - self.spent)

    def share(self, fraction: float) -> Budget:
        """A budget, from now on, of this part of what is left."""
        return Budget(None if self.seconds == math.inf else fraction * self.left())

    def charge(self, seconds: float) -> None:
        """Count seconds that were spent before the start, by an earlier run."""
        self._started -= seconds

    def position(self, done: float) -> float:
        """Where a schedule is, 0 to 1, of which the part `done` is done: there, or further where
        the clock is. The clock starts 5 % behind, so that it has no say in what has time enough."""
        clock = self.spent / self.seconds if self.seconds > 0 else 1.0
        return min(1.0, max(done, clock - 0.05 * (1 - clock)))
