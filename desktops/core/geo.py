"""Distances on the globe and what they mean for a round trip."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

EARTH_RADIUS_KM = 6371.0
FIBRE_KM_PER_MS = 200.0
FIBRE_DETOUR = 1.5  # cables are about half as long again as the great circle
LAST_MILE_MS = 5.0  # between an office and the nearest exchange, there and back


def great_circle_km(
    latitude: ArrayLike, longitude: ArrayLike, to_latitude: ArrayLike, to_longitude: ArrayLike
) -> FloatArray:
    """Haversine distance; degrees in, shapes broadcast."""
    lat_a, lon_a, lat_b, lon_b = (
        np.radians(np.asarray(x, dtype=np.float64))
        for x in (latitude, longitude, to_latitude, to_longitude)
    )
    half = np.sin((lat_b - lat_a) / 2) ** 2
    half = half + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    distance: FloatArray = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(half, 1.0)))
    return distance


def nearest(
    latitude: FloatArray,
    longitude: FloatArray,
    place_latitude: FloatArray,
    place_longitude: FloatArray,
) -> NDArray[np.int64]:
    """Index of the nearest place to each point; points shape (n,), places shape (m,)."""
    km = great_circle_km(
        latitude[:, None], longitude[:, None], place_latitude[None], place_longitude[None]
    )
    index: NDArray[np.int64] = km.argmin(axis=1)
    return index


def fibre_rtt_ms(distance_km: Any) -> FloatArray:
    """Round trip over a cable that takes the usual detour, without any equipment's delay."""
    rtt: FloatArray = 2 * FIBRE_DETOUR * np.asarray(distance_km, dtype=np.float64) / FIBRE_KM_PER_MS
    return rtt


def estimated_rtt_ms(
    latitude: ArrayLike, longitude: ArrayLike, to_latitude: ArrayLike, to_longitude: ArrayLike
) -> FloatArray:
    """Round trip that nobody measured: the fibre's on the great circle and the last mile.

    Degrees in, shapes broadcast; NaN where a coordinate is.
    """
    km = great_circle_km(latitude, longitude, to_latitude, to_longitude)
    rtt: FloatArray = fibre_rtt_ms(km) + LAST_MILE_MS
    return rtt
