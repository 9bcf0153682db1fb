"""How fast to send, and how hard to compress for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import zstandard


@dataclass(frozen=True)
class Effort:
    """Of compression. window_log : base 2 of the bytes that repetitions are looked for in

    Long-distance matching is on: the frames of a pass are one stream, and an update of a program
    repeats much of the program.
    """

    level: int
    window_log: int

    @property
    def window_bytes(self) -> int:
        return 1 << self.window_log

    def compressor(self) -> zstandard.ZstdCompressor:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            self.level, window_log=self.window_log, enable_ldm=self.level > 1
        )
        return zstandard.ZstdCompressor(compression_params=parameters)


# Measured on blocks of a desktop's update, on one core: 175, 45, 16 and 2.3 MB/s before
# compression, and 1.28, 1.08, 1.055 and 1.02 times what level 19 makes of them.
EFFORTS = {
    "fast": Effort(1, 20),
    "balanced": Effort(6, 26),
    "slow-link": Effort(12, 27),
    "slowest-link": Effort(16, 27),
}
# The link's bytes a second below which each effort is worth its time.
BELOW = {"slowest-link": 0.7e6, "slow-link": 4e6, "balanced": 60e6}
MOST_WAIT_S = 0.25


def effort_for(link_bytes_per_s: float) -> str:
    """The hardest effort that still keeps such a link busy."""
    return next((name for name, below in BELOW.items() if link_bytes_per_s < below), "fast")


class Pace:
    """A bucket of tokens: `pace(n)` waits until n bytes may be sent.

    bytes_per_s may be changed while others wait: the share of a link changes as others come and
    go.
    """

    def __init__(
        self,
        bytes_per_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bytes_per_s = bytes_per_s
        self._clock, self._sleep = clock, sleep
        self._credit, self._at = 0.0, clock()

    def __call__(self, n_bytes: int) -> None:
        self._earn()
        self._credit -= n_bytes
        while self._credit < 0:
            self._sleep(min(-self._credit / self.bytes_per_s, MOST_WAIT_S))
            self._earn()

    def _earn(self) -> None:
        now = self._clock()
        earned = (now - self._at) * self.bytes_per_s
        # A tenth of a second's worth may be sent at once after a rest.
        self._credit = min(self._credit + earned, self.bytes_per_s / 10)
        self._at = now
