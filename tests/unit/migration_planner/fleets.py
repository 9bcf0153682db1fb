"""Small worlds and fleets to plan for, readable by eye or drawn at random."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from migration.core.inputs import (
    NOT_OFFERED,
    FleetInput,
    PoolPolicy,
    Strategy,
    Tier,
    WorldTables,
)
from migration.core.slo import Slo

START = datetime(2026, 3, 2, 0, 0, tzinfo=UTC)  # a Monday
GB = 1_000_000_000
FRANKFURT, SINGAPORE, VIRGINIA = 0, 1, 2
PARIS_OFFICE, SINGAPORE_OFFICE, NEW_YORK_OFFICE = 0, 1, 2
SMALL, LARGE = 0, 1


def stop_strategy(n_regions: int, **changes: Any) -> Strategy:
    return replace(
        Strategy(
            name="stop",
            allowed=np.ones((n_regions, n_regions), dtype=bool),
            fixed_stall_s={Tier.SEED: 180.0, Tier.WARM: 90.0, Tier.HOT: 30.0},
        ),
        **changes,
    )


def world(**changes: Any) -> WorldTables:
    """Three regions, each with an office beside it, far from one another."""
    tables = WorldTables(
        regions=("Frankfurt", "Singapore", "Virginia"),
        sites=("Paris office", "Singapore office", "New York office"),
        flavors=("small", "large"),
        quotas=("servers", "vcpus"),
        rtt_ms=np.array([[12.0, 160.0, 95.0], [172.0, 9.0, 230.0], [88.0, 240.0, 11.0]]),
        app_rtt_ms=np.zeros((1, 3)),
        flavor_price_per_hour=np.array([[80_000, 90_000, 75_000], [160_000, 180_000, 150_000]]),
        flavor_vcpus=np.array([4.0, 8.0]),
        flavor_memory_bytes=np.array([16 * GB, 32 * GB]),
        storage_price_per_gb_hour=np.array([110.0, 120.0, 100.0]),
        egress_price_per_gb=np.array([[0.0, 2e4, 2e4], [9e4, 0.0, 9e4], [2e4, 2e4, 0.0]]),
        link_bytes_per_s=np.full((3, 3), 50e6),
        quota_headroom=np.array([[50.0, 50.0, 50.0], [400.0, 400.0, 400.0]]),
        quota_use=np.array([[1.0, 1.0], [4.0, 8.0]]),
        strategies=(stop_strategy(3),),
        site_zones=("Europe/Paris", "Asia/Singapore", "America/New_York"),
    )
    return replace(tables, **changes)


def policy(**changes: Any) -> PoolPolicy:
    return replace(PoolPolicy(), **changes)


def office_hours(hours: int, first: int = 8, last: int = 17) -> np.ndarray:
    """(T,) 0.9 in office hours of working days, from a Monday at midnight; else 0.02."""
    t = np.arange(hours)
    at_work = (t % 24 >= first) & (t % 24 < last) & (t // 24 % 7 < 5)
    return np.where(at_work, 0.9, 0.02)


def fleet(n: int = 1, hours: int = 168, **changes: Any) -> FleetInput:
    """n people of the Paris office with small desktops in Frankfurt, who stay there."""
    p_site = np.zeros((n, hours, 3))
    p_site[:, :, PARIS_OFFICE] = 1.0
    row = np.zeros(n, dtype=np.int64)
    values = FleetInput(
        start=START,
        region=row + FRANKFURT,
        home_region=row + FRANKFURT,
        flavor=row + SMALL,
        pool=row,
        volume_bytes=row + 60 * GB,
        used_bytes=row + 30 * GB,
        seed_bytes=np.full((n, 3), 20 * GB, dtype=np.int64),
        memory_bytes=row + 6 * GB,
        dirty_bytes_per_hour=np.full(n, 0.4e9),
        dirty_limit_bytes=np.full(n, 6e9),
        p_active=np.tile(office_hours(hours), (n, 1)),
        p_site=p_site,
        allowed_regions=np.ones((n, 3), dtype=bool),
        allowed_flavors=np.ones((n, 2), dtype=bool),
        cooldown_hours=row,
        levels=np.array([0.1, 0.5, 0.9]),
    )
    return replace(values, **changes)


def trip_paths(
    n: int, hours: int, *, share: float, leave: int, back: int, to: int, n_paths: int = 20
) -> np.ndarray:
    """(n, K, T) Paris, but on this share of the paths at `to` from `leave` until `back`."""
    paths = np.full((n, n_paths, hours), PARIS_OFFICE, dtype=np.int16)
    paths[:, : round(share * n_paths), leave:back] = to
    return paths


def random_world(
    rng: np.random.Generator, *, regions: int, sites: int, flavors: int
) -> WorldTables:
    """Prices and distances drawn at random, with holes where a region lacks a flavor."""
    price = rng.integers(20_000, 400_000, (flavors, regions))
    price[1:][rng.random((flavors - 1, regions)) < 0.2] = NOT_OFFERED
    link = rng.uniform(5e6, 8e7, (regions, regions))
    return WorldTables(
        regions=[f"region {r}" for r in range(regions)],
        sites=[f"site {s}" for s in range(sites)],
        flavors=[f"flavor {f}" for f in range(flavors)],
        quotas=("servers", "vcpus"),
        rtt_ms=rng.uniform(5, 250, (sites, regions)),
        app_rtt_ms=rng.uniform(0, 80, (2, regions)),
        flavor_price_per_hour=price,
        flavor_vcpus=np.sort(rng.integers(2, 17, flavors)).astype(float),
        flavor_memory_bytes=np.sort(rng.integers(4, 65, flavors)) * GB,
        storage_price_per_gb_hour=rng.uniform(50, 200, regions),
        egress_price_per_gb=rng.uniform(0, 1e5, (regions, regions)),
        link_bytes_per_s=link,
        quota_headroom=np.full((2, regions), np.inf),
        quota_use=np.array([np.ones(flavors), np.arange(1, flavors + 1)]),
        strategies=(
            stop_strategy(regions, scan_bytes_per_s=5e8),
            stop_strategy(
                regions,
                name="hibernate",
                allowed=rng.random((regions, regions)) < 0.7,
                memory_in_stall_ratio=1.0,
                carries_memory=True,
                needs_same_flavor=True,
            ),
        ),
    )


def random_policies(rng: np.random.Generator) -> list[PoolPolicy]:
    """Two pools; the second has every tier, is dearer and may shrink."""
    cheap = policy(fixed_risk=int(rng.integers(0, 300_000)), min_gain=int(rng.integers(1, 400_000)))
    dear = policy(
        slo=Slo(rtt_ms=40.0, latency_price_per_ms_hour=25_000, stall_price_per_s=9_000),
        tiers=tuple(Tier),
        hot_flavor=0,
        confirm_lead_hours=1,
        allow_downsize=True,
        min_gain=int(rng.integers(1, 400_000)),
    )
    return [cheap, dear]


def random_fleet(
    rng: np.random.Generator,
    tables: WorldTables,
    *,
    n: int,
    hours: int,
    n_paths: int | None,
    pools: int = 2,
) -> FleetInput:
    """People who move about at random, with demand around their flavor's capacity."""
    regions, sites, flavors = len(tables.regions), len(tables.sites), len(tables.flavors)
    levels = np.array([0.1, 0.5, 0.9, 0.95])
    region = rng.integers(0, regions, n)
    offered = tables.flavor_price_per_hour != NOT_OFFERED
    flavor = np.array([rng.choice(np.nonzero(offered[:, r])[0]) for r in region], dtype=np.int64)
    allowed = rng.random((n, regions)) < 0.8
    allowed[np.arange(n), region] = True
    volume = rng.integers(10, 100, n) * GB
    paths = None if n_paths is None else _wandering(rng, n, n_paths, hours, sites)
    scale = tables.flavor_vcpus[flavor][:, None, None] * rng.uniform(0.2, 1.2, (n, 1, 1))
    return FleetInput(
        start=START,
        region=region,
        home_region=np.where(rng.random(n) < 0.7, region, rng.integers(0, regions, n)),
        flavor=flavor,
        pool=rng.integers(0, pools, n),
        volume_bytes=volume,
        used_bytes=volume // 2,
        seed_bytes=np.where(rng.random((n, regions)) < 0.3, 0, volume[:, None] // 3),
        memory_bytes=rng.integers(1, 16, n) * GB,
        dirty_bytes_per_hour=rng.uniform(1e7, 2e9, n),
        dirty_limit_bytes=rng.uniform(1e9, 1e10, n),
        p_active=rng.random((n, hours)),
        p_site=rng.dirichlet(np.full(sites, 0.2), (n, hours)),
        allowed_regions=allowed,
        allowed_flavors=rng.random((n, flavors)) < 0.8,
        cooldown_hours=rng.choice([0, 0, 2], n),
        levels=levels,
        cpu_quantiles=np.sort(scale * rng.gamma(2.0, 0.3, (n, hours, len(levels))), axis=2),
        paths=paths,
    )


def _wandering(
    rng: np.random.Generator, n: int, n_paths: int, hours: int, sites: int
) -> np.ndarray:
    """Paths that stay with 0.9 and else jump, now and then to where nobody knows."""
    paths = np.empty((n, n_paths, hours), dtype=np.int16)
    paths[:, :, 0] = rng.integers(0, sites, (n, 1))
    for t in range(1, hours):
        jumps = rng.random((n, n_paths)) < 0.1
        paths[:, :, t] = np.where(jumps, rng.integers(-1, sites, (n, n_paths)), paths[:, :, t - 1])
    return paths
