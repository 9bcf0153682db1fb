"""How long things take in the simulated cloud, in simulated seconds."""

from __future__ import annotations

from math import exp
from random import Random

MEDIAN_S = {
    "boot": 25.0,  # a new server from its volume to ACTIVE
    "start": 12.0,
    "stop": 8.0,  # an orderly shutdown of the guest
    "delete_server": 4.0,
    "create_volume": 2.0,
    "delete_volume": 2.0,
    "snapshot": 4.0,
    "copy_setup": 6.0,  # snapshot and comparison before the first byte of a pass
    "copy_finish": 3.0,  # verification and clean-up after the last
    "live_migration": 4.0,  # besides the time its memory takes
    "live_migration_record": 1.0,  # the record says completed after the server is ACTIVE again
    "reconnect": 2.0,  # a waiting user's client connects
}
IMAGE_TO_VOLUME_BYTES_PER_S = 500_000_000
HOST_TO_HOST_BYTES_PER_S = 1_250_000_000
SPREAD = 0.25  # sigma of the logarithm


def draw_ms(median_s: float, random: Random) -> int:
    """A duration around its median, log-normal as waiting times are."""
    return max(1, round(1000 * median_s * exp(random.gauss(0, SPREAD))))


def sending_ms(n_bytes: int, bytes_per_s: float) -> int:
    return -int(-1000 * n_bytes // bytes_per_s)
