"""The real world that the demo fleet lives in: coordinates, prices and round trips.

`desktops/data/demo_world.json` names the public table that each of its blocks was taken from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from desktops.core.demo.calendar import Site
from desktops.core.demo.people import SITE_CODES
from desktops.core.geo import LAST_MILE_MS, fibre_rtt_ms
from desktops.core.metros import Metro, bundled_metros

BUNDLED = Path(__file__).resolve().parent.parent.parent / "data" / "demo_world.json"
LINK_SHARE = 0.1  # of the bandwidth measured between two machines, for moving desktops
IN_TOWN_KM = 50.0  # a round trip measured within this distance stands for the site


@dataclass(frozen=True, slots=True)
class RegionFacts:
    name: str
    label: str
    country: str
    latitude: float
    longitude: float
    time_zone: str
    volume_price_per_gb_month: Decimal
    source: str


@dataclass(frozen=True, slots=True)
class FlavorFacts:
    name: str
    vcpus: int
    memory_bytes: int
    price_per_hour: dict[str, Decimal]


@dataclass(frozen=True, slots=True)
class LinkFacts:
    source: str
    dest: str
    rtt_ms: float
    egress_price_per_gb: Decimal
    bytes_per_s: int


@dataclass(frozen=True, slots=True)
class RoundTripFacts:
    """is_measured : the measuring point is in town; else the way to it is estimated"""

    site: str
    region: str
    rtt_ms: float
    is_measured: bool


@dataclass(frozen=True, slots=True)
class WorldFacts:
    regions: tuple[RegionFacts, ...]
    flavors: tuple[FlavorFacts, ...]
    links: tuple[LinkFacts, ...]
    sites: tuple[Metro, ...]
    round_trips: tuple[RoundTripFacts, ...]

    @property
    def calendar_sites(self) -> tuple[Site, ...]:
        return tuple(
            Site(m.code, m.country, m.time_zone, m.latitude, m.longitude) for m in self.sites
        )


@cache
def world_facts() -> WorldFacts:
    blocks = json.loads(BUNDLED.read_text(encoding="utf-8"))
    metros = {metro.code: metro for metro in bundled_metros()}
    return WorldFacts(
        regions=tuple(
            _region(row, blocks["regions"]["source"]) for row in _rows(blocks, "regions")
        ),
        flavors=tuple(_flavor(row) for row in _rows(blocks, "flavors")),
        links=tuple(_link(row) for row in _rows(blocks, "links")),
        sites=tuple(metros[code] for code in SITE_CODES),
        round_trips=tuple(
            trip for row in _rows(blocks, "site_round_trips") for trip in _round_trips(row)
        ),
    )


def _rows(blocks: dict[str, Any], name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = blocks[name]["rows"]
    return rows


def _region(row: dict[str, Any], source: str) -> RegionFacts:
    price = Decimal(row["volume_price_per_gb_month"])
    return RegionFacts(**{**row, "volume_price_per_gb_month": price, "source": source})


def _flavor(row: dict[str, Any]) -> FlavorFacts:
    return FlavorFacts(
        name=row["name"],
        vcpus=row["vcpus"],
        memory_bytes=row["memory_bytes"],
        price_per_hour={name: Decimal(price) for name, price in row["price_per_hour"].items()},
    )


def _link(row: dict[str, Any]) -> LinkFacts:
    return LinkFacts(
        source=row["source"],
        dest=row["dest"],
        rtt_ms=row["rtt_ms"],
        egress_price_per_gb=Decimal(row["egress_price_per_gb"]),
        bytes_per_s=round(LINK_SHARE * row["measured_bits_per_s"] / 8),
    )


def _round_trips(row: dict[str, Any]) -> list[RoundTripFacts]:
    """What was measured at the nearest region, and the way there from the site."""
    distance_km = row["distance_km"]
    way_ms = float(fibre_rtt_ms(distance_km)) + LAST_MILE_MS
    return [
        RoundTripFacts(row["site"], region, round(rtt_ms + way_ms, 1), distance_km <= IN_TOWN_KM)
        for region, rtt_ms in row["rtt_ms"].items()
    ]
