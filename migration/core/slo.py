"""What a missed service level costs: latency, data gravity, SLO minutes.

All money is integer micro-units (1e-6 of the currency), rounded half to even, per hour of use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Slo:
    """A pool's service level and the price of missing it, money in micro-units.

    rtt_ms : round trip up to which the user notices nothing
    latency_price_per_ms_hour, latency_cap_per_hour : price of each ms above it, and its ceiling
    saturation_price_per_hour : an hour of work with demand above the flavor's capacity
    stall_price_per_s : a second without a working session while somebody works
    session_loss_price : open work lost because memory was not carried along
    gravity_rtt_ms, gravity_price_per_ms_hour, gravity_cap_per_hour : the same as for latency, for
        the way between the desktop and the applications and file shares it works on
    """

    rtt_ms: float = 60.0
    latency_price_per_ms_hour: int = 10_000
    latency_cap_per_hour: int = 3_000_000
    saturation_price_per_hour: int = 2_000_000
    stall_price_per_s: int = 5_000
    session_loss_price: int = 2_000_000
    gravity_rtt_ms: float = 20.0
    gravity_price_per_ms_hour: int = 2_000
    gravity_cap_per_hour: int = 1_000_000

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) >= 0:
                raise ValueError(f"Slo.{name} must be at least 0, got {getattr(self, name)}")


def to_micros(value: FloatArray | float) -> IntArray:
    """Nearest integer micro-units, half to even. `ValueError` where it is not finite."""
    rounded = np.rint(np.asarray(value, dtype=np.float64))
    if not np.all(np.isfinite(rounded)):
        raise ValueError("an amount of money is not finite")
    return rounded.astype(np.int64)


def latency_penalty(rtt_ms: FloatArray | float, slo: Slo) -> IntArray:
    """Micro-units per hour of work at this round trip: 0 up to the SLO, then rising, capped.

    rtt_ms : any shape, finite, between the user's site and the desktop's region
    """
    return _ramp(rtt_ms, slo.rtt_ms, slo.latency_price_per_ms_hour, slo.latency_cap_per_hour)


def gravity_penalty(rtt_ms: FloatArray | float, slo: Slo) -> IntArray:
    """Micro-units per hour of work this far from the pool's applications and file shares."""
    return _ramp(
        rtt_ms, slo.gravity_rtt_ms, slo.gravity_price_per_ms_hour, slo.gravity_cap_per_hour
    )


def slo_minutes(p_active: FloatArray, rtt_ms: FloatArray, slo: Slo) -> FloatArray:
    """Expected minutes of work above the SLO's round trip, per hour given.

    p_active, rtt_ms : shapes that broadcast; probability of work in that hour, ms in that hour
    """
    return 60.0 * p_active * (np.asarray(rtt_ms) > slo.rtt_ms)


def _ramp(
    rtt_ms: FloatArray | float, free_ms: float, price_per_ms: int, cap_per_hour: int
) -> IntArray:
    above_ms = np.maximum(np.asarray(rtt_ms, dtype=np.float64) - free_ms, 0.0)
    return to_micros(np.minimum(above_ms * price_per_ms, cap_per_hour))
