"""What the simulated cloud is made of, read from a dict that a person or a seeder wrote.

{
  "currency": "USD",
  "regions": [{
      "name": "eu-west", "latitude": 53.3, "longitude": -6.3,
      "label": "Dublin", "country": "IE",                       # optional
      "hosts": 4,                                               # optional, compute hosts
      "volume_price_per_gb_month_micros": 88000,                # optional
      "quota": {"servers": 100, "vcpus": 400,                   # optional, null or absent:
                "memory_bytes": 1600000000000, "volume_bytes": null}}],   # unlimited
  "links": [{                                                   # one per direction; a missing
      "source": "eu-west", "dest": "us-east",                   # one is estimated by distance
      "rtt_ms": 68.5, "bytes_per_s": 125000000,
      "egress_price_per_gb_micros": 20000}],
  "flavors": [{
      "name": "desktop.medium", "vcpus": 4, "memory_bytes": 17179869184,
      "price_per_hour_micros": {"eu-west": 192000, "us-east": 166000}}],  # where it can be had
  "images": [{"name": "desktop-2026", "size_bytes": 12000000000, "regions": ["eu-west"]}],
  "durations_s": {"boot": 25}                                   # optional, medians (timing.py)
}

Money is whole micro-units of `currency`; GB are 10^9 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import asin, cos, radians, sin, sqrt
from typing import Protocol, TypeVar

from desktops.clouds.simulator.fields import Fields, InvalidInput
from desktops.clouds.simulator.timing import MEDIAN_S

DEFAULT_HOSTS = 4
DEFAULT_BYTES_PER_S = 62_500_000  # 500 Mbit/s
DEFAULT_EGRESS_PRICE_MICROS = 20_000
FIBRE_KM_PER_MS = 200.0
FIBRE_DETOUR = 1.5  # cables are about half as long again as the great circle


@dataclass(frozen=True, slots=True)
class Limits:
    """None means unlimited."""

    servers: int | None = None
    vcpus: int | None = None
    memory_bytes: int | None = None
    volume_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Region:
    name: str
    latitude: float
    longitude: float
    label: str
    country: str
    hosts: int
    volume_price_per_gb_month_micros: int
    quota: Limits


@dataclass(frozen=True, slots=True)
class Link:
    name: str  # "source → dest"
    source: str
    dest: str
    rtt_ms: float
    bytes_per_s: int
    egress_price_per_gb_micros: int


@dataclass(frozen=True, slots=True)
class FlavorFacts:
    name: str
    vcpus: int
    memory_bytes: int
    price_per_hour_micros: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ImageFacts:
    name: str
    size_bytes: int
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class World:
    currency: str
    regions: Mapping[str, Region]
    links: Mapping[str, Link]
    flavors: Mapping[str, FlavorFacts]
    images: Mapping[str, ImageFacts]
    durations_s: Mapping[str, float]

    def link(self, source: str, dest: str) -> Link:
        known = self.links.get(_link_name(source, dest))
        return known or _estimated_link(self.regions[source], self.regions[dest])


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)

EMPTY = World("USD", {}, {}, {}, {}, {})


def parse_world(described: object) -> World:
    """Read a world's description; raises InvalidInput naming the first thing that is wrong."""
    top = Fields(described, "world")
    regions = _by_name(top.objects("regions"), _region)
    world = World(
        currency=top.text("currency", "USD"),
        regions=regions,
        links=_by_name(top.objects("links", []), lambda f: _link(f, regions)),
        flavors=_by_name(top.objects("flavors", []), lambda f: _flavor(f, regions)),
        images=_by_name(top.objects("images", []), lambda f: _image(f, regions)),
        durations_s=_durations(top.object("durations_s", {})),
    )
    top.refuse_others()
    return world


def _by_name(objects: Iterable[Fields], read: Callable[[Fields], N]) -> dict[str, N]:
    found: dict[str, N] = {}
    for fields in objects:
        facts = read(fields)
        if facts.name in found:
            raise InvalidInput(f"{fields.path}: {facts.name} is there already")
        found[facts.name] = facts
    return found


def _region(fields: Fields) -> Region:
    quota = fields.object("quota", {})
    region = Region(
        name=fields.text("name"),
        latitude=fields.number("latitude", low=-90, high=90),
        longitude=fields.number("longitude", low=-180, high=180),
        label=fields.text("label", ""),
        country=fields.text("country", ""),
        hosts=fields.whole("hosts", DEFAULT_HOSTS, low=1, high=250),
        volume_price_per_gb_month_micros=fields.whole("volume_price_per_gb_month_micros", 0),
        quota=Limits(
            servers=quota.limit("servers"),
            vcpus=quota.limit("vcpus"),
            memory_bytes=quota.limit("memory_bytes"),
            volume_bytes=quota.limit("volume_bytes"),
        ),
    )
    quota.refuse_others()
    fields.refuse_others()
    return region


def _link(fields: Fields, regions: Mapping[str, Region]) -> Link:
    source, dest = fields.text("source"), fields.text("dest")
    fields.need_region(source, regions)
    fields.need_region(dest, regions)
    guess = _estimated_link(regions[source], regions[dest])
    link = Link(
        name=guess.name,
        source=source,
        dest=dest,
        rtt_ms=fields.number("rtt_ms", guess.rtt_ms, low=0),
        bytes_per_s=fields.whole("bytes_per_s", guess.bytes_per_s, low=1),
        egress_price_per_gb_micros=fields.whole(
            "egress_price_per_gb_micros", guess.egress_price_per_gb_micros
        ),
    )
    fields.refuse_others()
    return link


def _flavor(fields: Fields, regions: Mapping[str, Region]) -> FlavorFacts:
    prices = fields.object("price_per_hour_micros")
    for region in prices.values:
        fields.need_region(region, regions)
    flavor = FlavorFacts(
        name=fields.text("name"),
        vcpus=fields.whole("vcpus", low=1),
        memory_bytes=fields.whole("memory_bytes", low=1),
        price_per_hour_micros={region: prices.whole(region) for region in prices.values},
    )
    fields.refuse_others()
    return flavor


def _image(fields: Fields, regions: Mapping[str, Region]) -> ImageFacts:
    image = ImageFacts(
        name=fields.text("name"),
        size_bytes=fields.whole("size_bytes", low=1),
        regions=tuple(fields.texts("regions")),
    )
    for region in image.regions:
        fields.need_region(region, regions)
    fields.refuse_others()
    return image


def _durations(fields: Fields) -> Mapping[str, float]:
    for name in fields.values:
        if name not in MEDIAN_S:
            raise InvalidInput(f"{fields.path}.{name}: known are {', '.join(sorted(MEDIAN_S))}")
    return {name: fields.number(name, low=0) for name in fields.values}


def _link_name(source: str, dest: str) -> str:
    return f"{source} → {dest}"


def _estimated_link(source: Region, dest: Region) -> Link:
    one_way_ms = _great_circle_km(source, dest) * FIBRE_DETOUR / FIBRE_KM_PER_MS
    return Link(
        name=_link_name(source.name, dest.name),
        source=source.name,
        dest=dest.name,
        rtt_ms=round(1 + 2 * one_way_ms, 1),
        bytes_per_s=DEFAULT_BYTES_PER_S,
        egress_price_per_gb_micros=DEFAULT_EGRESS_PRICE_MICROS,
    )


def _great_circle_km(a: Region, b: Region) -> float:
    """Haversine on a sphere of 6371 km."""
    lat_a, lat_b = radians(a.latitude), radians(b.latitude)
    half = sin((lat_b - lat_a) / 2) ** 2
    half += cos(lat_a) * cos(lat_b) * sin(radians(b.longitude - a.longitude) / 2) ** 2
    return 2 * 6371 * asin(min(1.0, sqrt(half)))
