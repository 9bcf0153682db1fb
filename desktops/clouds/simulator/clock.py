"""The simulated cloud's clock: its own epoch and speed, tied to the wall clock by an anchor.

Instants are whole milliseconds since the Unix epoch, simulated or real. Simulated time goes on
while the server process is down, as a cloud goes on while its API is down.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """speed : simulated seconds per real second"""

    sim_anchor_ms: int
    wall_anchor_ms: int
    speed: float

    def sim_ms(self, wall_ms: int) -> int:
        return self.sim_anchor_ms + int((wall_ms - self.wall_anchor_ms) * self.speed)

    def wall_ms(self, sim_ms: int) -> int:
        return self.wall_anchor_ms + int((sim_ms - self.sim_anchor_ms) / self.speed)


class WallClock:
    """Milliseconds since the epoch, never going back while the process lives."""

    def __init__(self) -> None:
        self._offset_ms = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000

    def __call__(self) -> int:
        return self._offset_ms + time.monotonic_ns() // 1_000_000
