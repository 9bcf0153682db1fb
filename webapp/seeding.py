"""The demo fleet's rows, and its desktops in the simulated cloud.

What is real (coordinates, prices, round trips) comes from desktops.core.demo.facts; the people,
their work and their trips are invented by desktops.core.demo.fleet and labelled as simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from django.db import transaction

from desktops import events
from desktops.clouds.registry import get_cloud, get_simulator_admin
from desktops.core.demo.demand import APPS
from desktops.core.demo.facts import WorldFacts, world_facts
from desktops.core.demo.fleet import HISTORY_DAYS, Fleet, make_fleet
from desktops.models import (
    Dataset,
    Desktop,
    DesktopUser,
    Flavor,
    FlavorPrice,
    PersonName,
    Pool,
    Region,
    RegionLink,
    RoundTrip,
    Site,
)
from desktops.pseudonyms import pseudonym
from desktops.services.bulk import column, copy_rows, hours

DATASET = "demo"
CLOUD = "simulated"
SEED = 20260302
MICROS = 1_000_000
GB = 10**9

IMAGE, IMAGE_BYTES = "desktop-2026", 12 * GB
VOLUME_BYTES = {"desktop.small": 64 * GB, "desktop.medium": 100 * GB, "desktop.large": 160 * GB}
# Nothing of a demo should fail for want of quota, and yet the limits should be seen.
QUOTA = {"servers": 160, "vcpus": 800, "memory_bytes": 3_200 * 2**30, "volume_bytes": 20_000 * GB}

FITTING_QUANTILE = 0.97  # of the hours of work that a person's flavor is big enough for
UNDERSIZED_DESKTOPS = 6
# Of the bytes written in an hour, those that hit a block not yet written in that hour.
UNIQUE_WRITE_RATIO = 0.12
WORKING_SET_RATIO = 0.08
# Elsewhere nobody looks at applications, as in most fleets.
POOLS_WITH_AGENT = frozenset({"engineering", "contractors"})
LEAST_APP_CPU_CORE_S = 36  # of an hour; less is not written

# The windows in which a source is kept are minutes here, so that a move can be watched to its end.
POOLS: Mapping[str, Mapping[str, Any]] = {
    "engineering": {
        "label": "Engineering",
        "slo_rtt_ms": 80,
        "latency_penalty_per_hour": Decimal("4"),
        "gravity_penalty_per_hour": Decimal("0.40"),
        "gravity_region": "eu-central-1",
        "commit_window_s": 60,
    },
    "trading": {
        "label": "Trading floor",
        "slo_rtt_ms": 35,
        "latency_penalty_per_hour": Decimal("12"),
        "saturation_penalty_per_hour": Decimal("15"),
        "stall_penalty_per_minute": Decimal("5"),
        "session_loss_penalty": Decimal("8"),
        "confidence_threshold": 0.7,
        "commit_window_s": 120,
    },
    "support": {
        "label": "Support shifts",
        "slo_rtt_ms": 100,
        "latency_penalty_per_hour": Decimal("3"),
        "cutover_mode": Pool.CutoverMode.OFF,
        "commit_window_s": 60,
    },
    "contractors": {
        "label": "Contractors",
        "slo_rtt_ms": 90,
        "latency_penalty_per_hour": Decimal("2.50"),
        "residency": ("us-east-1", "us-west-2", "eu-central-1", "ap-southeast-1"),
        "min_gain": Decimal("2"),
        "commit_window_s": 60,
    },
}


@dataclass(frozen=True, slots=True)
class _World:
    """Rows by the names that the facts use."""

    regions: Mapping[str, Region]
    flavors: Mapping[str, Flavor]
    sites: Mapping[str, Site]


@dataclass(frozen=True, slots=True)
class _Home:
    """Where and how big one person's desktop is."""

    region: str
    flavor: str
    used_bytes: int
    dirty_bytes_per_hour: int


def seed(
    *,
    wall: datetime,
    seed: int = SEED,
    history_days: int = HISTORY_DAYS,
    progress: Callable[[str], None] = print,
) -> Dataset:
    """Write the demo fleet, its history ending at the hour of `wall`; does nothing again.

    All or nothing in the database. What a broken run left in the simulated cloud is adopted by
    the next one.
    """
    dataset = Dataset.objects.filter(name=DATASET).first()
    if dataset is None:
        dataset = _seed_rows(wall, seed, history_days, progress)
    elif not _cloud_holds_servers():
        progress("Placing the desktops in the simulated cloud again ...")
        with transaction.atomic():
            _place(Desktop.objects.filter(dataset=dataset).exclude(region=None), frozenset())
    return dataset


def _seed_rows(
    wall: datetime, seed: int, history_days: int, progress: Callable[[str], None]
) -> Dataset:
    end = wall.replace(minute=0, second=0, microsecond=0)
    facts = world_facts()
    progress(f"Inventing 200 people and {history_days} days of their work ...")
    fleet = make_fleet(sites=facts.calendar_sites, end=end, seed=seed, history_days=history_days)
    homes = _choose_homes(facts, fleet, np.random.default_rng(seed))
    with transaction.atomic():
        dataset = Dataset.objects.create(
            name=DATASET,
            label="Demo fleet (simulated)",
            kind=Dataset.Kind.SIMULATED,
            source="Simulated: 200 invented people. Coordinates, prices and round trips are real.",
            as_of=end,
        )
        world = _write_world(facts)
        pools = _write_pools(dataset, world)
        people = _write_people(dataset, fleet, pools, world)
        desktops = _write_desktops(dataset, fleet, people, homes, world)
        progress("Placing their desktops in the simulated cloud ...")
        at_work = fleet.active_ratio[:, fleet.history_hours] > 0
        _place(
            desktops,
            {who.desktop_key for who, here in zip(fleet.people, at_work, strict=True) if here},
        )
        progress("Writing the history ...")
        n_rows = _write_activity(dataset, fleet, people, desktops, world)
        _write_applications(fleet, people, desktops)
        for pool in pools.values():
            events.record(
                kind="demo.seeded", subject=pool, at=wall, pool_id=pool.pk, dataset=dataset.name
            )
    progress(f"{len(people)} people, {len(desktops)} desktops, {n_rows:,} hours of activity.")
    return dataset


def _choose_homes(facts: WorldFacts, fleet: Fleet, rng: np.random.Generator) -> list[_Home]:
    """The nearest region by round trip, and the smallest flavor that nearly always fits."""
    nearest = {
        site.code: min((t.rtt_ms, t.region) for t in facts.round_trips if t.site == site.code)[1]
        for site in facts.sites
    }
    size = _fitting_size(facts, fleet)
    too_small = rng.choice(np.flatnonzero(size > 0), UNDERSIZED_DESKTOPS, replace=False)
    size[too_small] -= 1
    used_ratio = rng.uniform(0.3, 0.6, len(size))
    written = np.where(fleet.active_ratio > 0, fleet.demand.storage_bytes_per_s, np.nan)
    dirty_per_hour = 3600 * UNIQUE_WRITE_RATIO * np.nanmean(written, axis=1)
    homes = []
    for row, person in enumerate(fleet.people):
        flavor = facts.flavors[size[row]].name
        homes.append(
            _Home(
                region=nearest[facts.sites[person.site].code],
                flavor=flavor,
                used_bytes=round(VOLUME_BYTES[flavor] * used_ratio[row]),
                dirty_bytes_per_hour=round(dirty_per_hour[row]),
            )
        )
    return homes


def _fitting_size(facts: WorldFacts, fleet: Fleet) -> np.ndarray:
    """(people,): index of the smallest flavor, the biggest for whom none is enough."""
    at_work = fleet.active_ratio > 0
    cpu, memory = (
        np.nanquantile(np.where(at_work, demand, np.nan), FITTING_QUANTILE, axis=1)
        for demand in (fleet.demand.cpu_cores, fleet.demand.memory_bytes)
    )
    fits = np.array(
        [(cpu <= f.vcpus) & (memory <= f.memory_bytes) for f in facts.flavors[:-1]]
        + [np.ones(len(cpu), dtype=bool)]
    )
    return fits.argmax(axis=0)


def _write_world(facts: WorldFacts) -> _World:
    regions = {
        r.name: Region.objects.update_or_create(
            cloud=CLOUD,
            name=r.name,
            defaults={
                "label": f"{r.label} (simulated)",
                "country": r.country,
                "latitude": r.latitude,
                "longitude": r.longitude,
                "time_zone": r.time_zone,
                "volume_price_per_gb_month": r.volume_price_per_gb_month,
                "source": r.source,
            },
        )[0]
        for r in facts.regions
    }
    flavors = {
        f.name: Flavor.objects.update_or_create(
            cloud=CLOUD, name=f.name, defaults={"vcpus": f.vcpus, "memory_bytes": f.memory_bytes}
        )[0]
        for f in facts.flavors
    }
    # An imported data set may have brought the same metro areas.
    sites = {
        s.code: Site.objects.get_or_create(
            code=s.code,
            defaults={
                "label": s.label,
                "country": s.country,
                "latitude": s.latitude,
                "longitude": s.longitude,
                "time_zone": s.time_zone,
            },
        )[0]
        for s in facts.sites
    }
    FlavorPrice.objects.bulk_create(
        (
            FlavorPrice(flavor=flavors[f.name], region=regions[name], price_per_hour=price)
            for f in facts.flavors
            for name, price in f.price_per_hour.items()
        ),
        ignore_conflicts=True,
    )
    RegionLink.objects.bulk_create(
        (
            RegionLink(
                source=regions[link.source],
                dest=regions[link.dest],
                egress_price_per_gb=link.egress_price_per_gb,
                bytes_per_s=link.bytes_per_s,
                rtt_ms=link.rtt_ms,
            )
            for link in facts.links
        ),
        ignore_conflicts=True,
    )
    RoundTrip.objects.bulk_create(
        (
            RoundTrip(
                site=sites[trip.site],
                region=regions[trip.region],
                rtt_ms=trip.rtt_ms,
                source=RoundTrip.Source.TABLE if trip.is_measured else RoundTrip.Source.ESTIMATE,
            )
            for trip in facts.round_trips
        ),
        ignore_conflicts=True,
    )
    return _World(regions, flavors, sites)


def _write_pools(dataset: Dataset, world: _World) -> dict[str, Pool]:
    pools = {}
    for name, policy in POOLS.items():
        fields = dict(policy)
        residency = fields.pop("residency", ())
        gravity = fields.pop("gravity_region", None)
        pools[name] = Pool.objects.create(
            dataset=dataset,
            name=name,
            cloud=CLOUD,
            server_names="demo-*",
            gateway="simulator",
            image=IMAGE,
            gravity_region=world.regions[gravity] if gravity else None,
            **fields,
        )
        pools[name].residency.set(world.regions[region] for region in residency)
    return pools


def _write_people(
    dataset: Dataset, fleet: Fleet, pools: Mapping[str, Pool], world: _World
) -> list[DesktopUser]:
    sites = fleet.calendar.sites
    people = DesktopUser.objects.bulk_create(
        DesktopUser(
            dataset=dataset,
            pool=pools[person.pool],
            pseudonym=pseudonym(person.name),
            home_site=world.sites[sites[person.site].code],
            time_zone=sites[person.site].time_zone,
        )
        for person in fleet.people
    )
    PersonName.objects.bulk_create(
        PersonName(desktop_user=row, name=person.name)
        for row, person in zip(people, fleet.people, strict=True)
    )
    return people


def _write_desktops(
    dataset: Dataset,
    fleet: Fleet,
    people: Sequence[DesktopUser],
    homes: Sequence[_Home],
    world: _World,
) -> list[Desktop]:
    return Desktop.objects.bulk_create(
        Desktop(
            dataset=dataset,
            pool=person.pool,
            key=who.desktop_key,
            label=who.desktop_key.replace("demo", "desktop"),
            desktop_user=person,
            region=world.regions[home.region],
            flavor=world.flavors[home.flavor],
            volume_bytes=VOLUME_BYTES[home.flavor],
            used_bytes=home.used_bytes,
            dirty_bytes_per_hour=home.dirty_bytes_per_hour,
            state=Desktop.State.RUNNING,
        )
        for who, person, home in zip(fleet.people, people, homes, strict=True)
    )


def _place(desktops: Sequence[Desktop], at_work: frozenset[str] | set[str]) -> None:
    """Have the simulated cloud hold each desktop where its row says, and write down its ids."""
    admin = get_simulator_admin(CLOUD)
    try:
        admin.load_world(_described_world(world_facts()))
        placed = admin.adopt([_described(d, is_at_work=d.key in at_work) for d in desktops])
    finally:
        admin.close()
    for desktop, place in zip(desktops, placed, strict=True):
        desktop.server_id, desktop.volume_id = place.server_id, place.volume_id
    Desktop.objects.bulk_update(desktops, ["server_id", "volume_id"])


def _cloud_holds_servers() -> bool:
    cloud = get_cloud(CLOUD)
    return any(cloud.inventory(region).servers for region in cloud.regions())


def _described(desktop: Desktop, *, is_at_work: bool) -> dict[str, Any]:
    """What the simulated cloud is told of one desktop."""
    return {
        "desktop_key": desktop.key,
        "region": desktop.region.name,
        "flavor": desktop.flavor.name,
        "image": IMAGE,
        "volume_bytes": desktop.volume_bytes,
        "used_bytes": max(desktop.used_bytes, IMAGE_BYTES),
        "dirty_bytes_per_s": desktop.dirty_bytes_per_hour // 3600,
        "dirty_saturation_bytes": round(WORKING_SET_RATIO * desktop.used_bytes),
        "name": desktop.key,
        "is_user_present": is_at_work,
    }


def _described_world(facts: WorldFacts) -> dict[str, Any]:
    names = [region.name for region in facts.regions]
    return {
        "currency": "USD",
        "regions": [
            {
                "name": r.name,
                "latitude": r.latitude,
                "longitude": r.longitude,
                "label": r.label,
                "country": r.country,
                "hosts": 8,
                "volume_price_per_gb_month_micros": int(r.volume_price_per_gb_month * MICROS),
                "quota": QUOTA,
            }
            for r in facts.regions
        ],
        "links": [
            {
                "source": link.source,
                "dest": link.dest,
                "rtt_ms": link.rtt_ms,
                "bytes_per_s": link.bytes_per_s,
                "egress_price_per_gb_micros": int(link.egress_price_per_gb * MICROS),
            }
            for link in facts.links
        ],
        "flavors": [
            {
                "name": f.name,
                "vcpus": f.vcpus,
                "memory_bytes": f.memory_bytes,
                "price_per_hour_micros": {
                    name: int(price * MICROS) for name, price in f.price_per_hour.items()
                },
            }
            for f in facts.flavors
        ],
        "images": [{"name": IMAGE, "size_bytes": IMAGE_BYTES, "regions": names}],
    }


def _write_activity(
    dataset: Dataset,
    fleet: Fleet,
    people: Sequence[DesktopUser],
    desktops: Sequence[Desktop],
    world: _World,
) -> int:
    """Every hour since each person's first day; where somebody is, only while they work."""
    person, hour = np.nonzero(fleet.is_observed)
    site_id = np.array([world.sites[site.code].pk for site in fleet.calendar.sites])
    active = fleet.active_ratio[person, hour]
    start_s = int(fleet.calendar.start.timestamp())
    measures = {
        name: column(getattr(fleet.demand, name)[person, hour].astype(np.float32))
        for name in ("cpu_cores", "memory_bytes", "network_bytes_per_s", "storage_bytes_per_s")
    }
    return copy_rows(
        "desktops_activity",
        {
            "dataset_id": column(np.full(len(person), dataset.pk)),
            "desktop_user_id": column(np.array([p.pk for p in people])[person]),
            "desktop_id": column(np.array([d.pk for d in desktops])[person]),
            "hour": hours(start_s + 3600 * hour),
            "active_ratio": column(active.astype(np.float32)),
            **measures,
            "site_id": column(
                np.where(active > 0, site_id[fleet.place[person, hour]], np.nan), pa.int64()
            ),
        },
    )


def _write_applications(
    fleet: Fleet, people: Sequence[DesktopUser], desktops: Sequence[Desktop]
) -> None:
    """What ran in the hours that were observed, where applications are."""
    cpu_core_s = fleet.demand.app_cpu_core_s
    has_agent = np.array([person.pool in POOLS_WITH_AGENT for person in fleet.people])
    is_observed = fleet.is_observed & has_agent[:, None]
    ran = (cpu_core_s >= LEAST_APP_CPU_CORE_S) & is_observed[..., None]
    person, hour, app = np.nonzero(ran)
    start_s = int(fleet.calendar.start.timestamp())
    copy_rows(
        "desktops_applicationuse",
        {
            "desktop_user_id": column(np.array([p.pk for p in people])[person]),
            "desktop_id": column(np.array([d.pk for d in desktops])[person]),
            "hour": hours(start_s + 3600 * hour),
            "application": column(list(APPS)).take(column(app)),
            "cpu_core_s": column(cpu_core_s[ran]),
        },
    )
