"""What a record of a MaxMind database says of a place, and which site that surely is."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from desktops.core.geo import FloatArray, great_circle_km

FARTHEST_KM = 100.0
"""Nobody is taken to be at a site farther away, nor by a record vaguer than this."""

ASSUMED_RADIUS_KM = 50.0
"""How exact a record is taken to be that does not say."""

HIDDEN = (
    "is_anonymous",
    "is_anonymous_proxy",
    "is_anonymous_vpn",
    "is_public_proxy",
    "is_residential_proxy",
    "is_satellite_provider",
    "is_tor_exit_node",
)
"""What a record may say of an address whose user is somewhere else."""


@dataclass(frozen=True, slots=True)
class Position:
    """radius_km : the address is used somewhere in this circle, as far as the record knows"""

    latitude: float
    longitude: float
    radius_km: float


@dataclass(frozen=True, slots=True)
class SitePositions:
    """Sites by their coordinates; arrays of shape (n,)."""

    codes: tuple[str, ...]
    latitude: FloatArray
    longitude: FloatArray

    def surely_at(self, position: Position) -> str | None:
        """The site that is nearest wherever in its circle the position really is.

        None when that can be two, or when circle or distance go beyond FARTHEST_KM.
        """
        if not self.codes or position.radius_km > FARTHEST_KM:
            return None
        km = great_circle_km(position.latitude, position.longitude, self.latitude, self.longitude)
        order = np.argsort(km)
        nearest = float(km[order[0]])
        if nearest > FARTHEST_KM:
            return None
        second = float(km[order[1]]) if len(order) > 1 else np.inf
        if nearest + position.radius_km >= second - position.radius_km:
            return None
        return self.codes[int(order[0])]


def may_be_anywhere(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Private and reserved addresses, which a database of the internet says nothing true of."""
    return not address.is_global


def position_of(record: object) -> Position | None:
    """Where a record of a City or Enterprise database puts an address; None when it does not."""
    if not isinstance(record, Mapping) or _is_hidden(record):
        return None
    location = record.get("location")
    if not isinstance(location, Mapping):
        return None
    latitude, longitude = _number(location, "latitude"), _number(location, "longitude")
    if latitude is None or longitude is None:
        return None
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        return None
    radius = _number(location, "accuracy_radius")
    return Position(latitude, longitude, ASSUMED_RADIUS_KM if radius is None else abs(radius))


def _is_hidden(record: Mapping[str, Any]) -> bool:
    traits = record.get("traits")
    places = (record, traits) if isinstance(traits, Mapping) else (record,)
    return any(place.get(flag) for place in places for flag in HIDDEN)


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not np.isfinite(value):
        return None
    return float(value)
