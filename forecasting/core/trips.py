"""One announced trip, applied to one person's map of whereabouts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import numpy as np

from forecasting.core.announced import AT_EDGE, IN_MIDDLE, Announced
from forecasting.core.arrays import FloatArray
from forecasting.core.profiles import HOUR


def with_trip(
    location: Mapping[str, FloatArray],
    *,
    starts_at: datetime,
    place: str,
    start: datetime,
    end: datetime,
    trust: tuple[float, float] = (AT_EDGE[0], IN_MIDDLE[0]),
) -> dict[str, FloatArray]:
    """The map as it would be, had the trip been announced; the one given stays as it is.

    location : place → probability by hour from `starts_at` on, summing to 1 at every hour
    start, end : of the trip, the end exclusive; hours count by their beginning
    trust : how often people are where they announced: at the ends of a trip, in its middle
    """
    hours = len(next(iter(location.values()), ()))
    at_s = np.arange(hours, dtype=np.float64) * HOUR.total_seconds() + starts_at.timestamp()
    nobody = np.zeros(1, dtype=np.int64)
    announced = Announced(
        nobody, nobody, np.array([start.timestamp()]), np.array([end.timestamp()]), trust
    )
    trip = announced.during(np.zeros(hours, dtype=np.int64), at_s)
    away = trip >= 0
    chance = np.zeros(hours)
    chance[away] = announced.chance(trip[away], at_s[away])
    changed = {name: ((1 - chance) * p).astype(p.dtype) for name, p in location.items()}
    if hours:
        dtype = next(iter(location.values())).dtype
        changed[place] = (changed.get(place, np.zeros(hours)) + chance).astype(dtype)
    return changed
