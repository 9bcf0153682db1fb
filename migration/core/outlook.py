"""What the coming hours cost if everybody stays, and what the policies say, as arrays.

c desktops of a chunk, T hours, S sites, R regions, K paths (1 where planned on the marginal map).
Sums over paths stay integers; `per_path` divides once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from migration.core.costs import (
    probability_above,
    probability_any_above,
    run_cost,
    saturation_cost,
)
from migration.core.inputs import (
    NOT_OFFERED,
    UNKNOWN_SITE,
    FleetInput,
    PoolPolicy,
    Tier,
    WorldTables,
)
from migration.core.slo import (
    BoolArray,
    FloatArray,
    IntArray,
    gravity_penalty,
    latency_penalty,
    to_micros,
)

TIERS = tuple(Tier)


@dataclass(frozen=True, slots=True)
class World:
    """Tables and policies as arrays to index by pool.

    latency_per_hour : (P, S + 1, R), the last site is the unknown one, which costs nothing
    gravity_per_hour : (P, R)
    """

    tables: WorldTables
    policies: tuple[PoolPolicy, ...]
    latency_per_hour: IntArray
    gravity_per_hour: IntArray

    @classmethod
    def of(cls, tables: WorldTables, policies: Sequence[PoolPolicy]) -> World:
        unknown = np.zeros((1, len(tables.regions)), dtype=np.int64)
        latency = [np.vstack([latency_penalty(tables.rtt_ms, p.slo), unknown]) for p in policies]
        gravity = [
            gravity_penalty(rtt, p.slo) for rtt, p in zip(tables.app_rtt_ms, policies, strict=True)
        ]
        return cls(tables, tuple(policies), np.array(latency), np.array(gravity))

    def by_pool(self, name: str, pool: IntArray) -> IntArray:
        """A whole-number policy field (of the SLO too) for each of these pools."""
        return np.array([_setting(p, name) for p in self.policies], dtype=np.int64)[pool]

    def ratio_by_pool(self, name: str, pool: IntArray) -> FloatArray:
        """The same for a field with fractions."""
        return np.array([_setting(p, name) for p in self.policies], dtype=np.float64)[pool]

    def has_tier(self, tier: Tier, pool: IntArray) -> BoolArray:
        return np.array([tier in p.tiers for p in self.policies], dtype=bool)[pool]

    def hot_price(self, pool: IntArray, region: IntArray) -> IntArray:
        """(m,) price per hour of a hot shadow's server, `NOT_OFFERED` where there is none."""
        flavor = self.hot_flavor(pool)
        price = self.tables.flavor_price_per_hour[flavor, region]
        return np.where(flavor < 0, NOT_OFFERED, price)

    def hot_flavor(self, pool: IntArray) -> IntArray:
        """(m,) the small flavor of each pool's hot shadows, -1 where it has none."""
        flavor = [-1 if p.hot_flavor is None else p.hot_flavor for p in self.policies]
        return np.array(flavor, dtype=np.int64)[pool]


def _setting(policy: PoolPolicy, name: str) -> int | float:
    value: int | float = getattr(policy if hasattr(policy, name) else policy.slo, name)
    return value


@dataclass(frozen=True, slots=True)
class Outlook:
    """One chunk of the fleet and what staying costs.

    p_active, powered : (c, T); p_site : (c, T, S), of the paths where there are any
    site_paths : (c, K, T) with S for unknown, or None
    p_above : (c, T) chance that demand exceeds the present flavor, given a session
    saturation : (c, T) micro-units per hour on the present flavor
    stay : (4, c) latency, saturation, gravity, run over the horizon, summed over the paths
    """

    fleet: FleetInput
    world: World
    p_active: FloatArray
    p_site: FloatArray
    powered: FloatArray
    site_paths: IntArray | None
    p_above: FloatArray
    saturation: IntArray
    stay: IntArray

    @property
    def n_paths(self) -> int:
        return 1 if self.site_paths is None else self.site_paths.shape[1]

    def p_above_on(self, row: IntArray, flavor: IntArray) -> FloatArray:
        """(m, T) chance that demand exceeds each flavor, for these rows of the chunk."""
        result = self.p_above[row].copy()
        other = flavor != self.fleet.flavor[row]
        result[other] = _p_above(self.fleet, self.world.tables, row[other], flavor[other])
        return result


def look_ahead(fleet: FleetInput, world: World) -> Outlook:
    """Price staying for one chunk of desktops."""
    tables, pool = world.tables, fleet.pool
    every = np.arange(len(fleet))
    p_active = np.minimum(fleet.p_active.astype(np.float64), 1.0)
    powered = np.ones_like(p_active)
    if fleet.powered_ratio is not None:
        powered = fleet.powered_ratio.astype(np.float64)
    p_site, site_paths = _whereabouts(fleet, len(tables.sites))
    p_above = _p_above(fleet, tables, every, fleet.flavor)
    price = world.by_pool("saturation_price_per_hour", pool)
    saturation = saturation_cost(p_active, p_above, price[:, None])
    gravity = to_micros(p_active * world.gravity_per_hour[pool, fleet.region][:, None])
    run = run_cost(tables.flavor_price_per_hour[fleet.flavor, fleet.region][:, None], powered)
    per_site = world.latency_per_hour[pool, :, fleet.region]
    paths = 1 if site_paths is None else site_paths.shape[1]
    return Outlook(
        fleet=fleet,
        world=world,
        p_active=p_active,
        p_site=p_site,
        powered=powered,
        site_paths=site_paths,
        p_above=p_above,
        saturation=saturation,
        stay=np.stack(
            [
                _latency_of_staying(per_site, p_active, p_site, site_paths),
                paths * saturation.sum(axis=1),
                paths * gravity.sum(axis=1),
                paths * run.sum(axis=1),
            ]
        ),
    )


def path_latency(per_site: IntArray, sites: IntArray, p_active: FloatArray) -> IntArray:
    """(T, m, K) expected latency penalty of each hour along each path.

    per_site : (m, S + 1) micro-units per hour; sites : (T, m, K); p_active : (T, m)
    """
    return to_micros(at_site(per_site, sites) * p_active[:, :, None])


def map_latency(per_site: IntArray, p_site: FloatArray, p_active: FloatArray) -> IntArray:
    """(T, m, 1) the same over the marginal map; p_site : (m, T, S)."""
    expected = np.einsum("mts,ms->tm", p_site, per_site[:, :-1].astype(np.float64))
    return to_micros(expected * p_active)[:, :, None]


def at_site(per_site: IntArray, sites: IntArray) -> IntArray:
    """(T, m, K) the row's value at the site of each hour and path."""
    offset = np.arange(len(per_site)) * per_site.shape[1]
    picked: IntArray = per_site.ravel()[sites + offset[:, None]]
    return picked


def per_path(total: IntArray, n_paths: int) -> IntArray:
    """Mean over the paths to the nearest micro-unit, halves up."""
    mean: IntArray = (2 * total + n_paths) // (2 * n_paths)
    return mean


def _latency_of_staying(
    per_site: IntArray, p_active: FloatArray, p_site: FloatArray, site_paths: IntArray | None
) -> IntArray:
    if site_paths is None:
        hourly = map_latency(per_site, p_site, p_active.T)
    else:
        hourly = path_latency(per_site, site_paths.transpose(2, 0, 1), p_active.T)
    total: IntArray = hourly.sum(axis=(0, 2))
    return total


def _whereabouts(fleet: FleetInput, n_sites: int) -> tuple[FloatArray, IntArray | None]:
    """The hourly map and the paths; with paths, the map is theirs, so that both agree."""
    if fleet.paths is None:
        return fleet.p_site.astype(np.float64), None
    paths = fleet.paths.astype(np.int64)
    paths = np.where(paths == UNKNOWN_SITE, n_sites, paths)
    n, k, hours = paths.shape
    cell = np.arange(n)[:, None, None] * hours + np.arange(hours)
    counts = np.bincount(
        (cell * (n_sites + 1) + paths).ravel(), minlength=n * hours * (n_sites + 1)
    )
    return counts.reshape(n, hours, n_sites + 1)[:, :, :n_sites] / k, paths


def _p_above(fleet: FleetInput, tables: WorldTables, row: IntArray, flavor: IntArray) -> FloatArray:
    cpu: FloatArray = np.zeros((len(row), fleet.hours))
    memory = cpu
    if fleet.cpu_quantiles is not None and len(fleet.levels):
        capacity = tables.flavor_vcpus[flavor][:, None]
        cpu = probability_above(fleet.cpu_quantiles[row], fleet.levels, capacity)
    if fleet.memory_quantiles is not None and len(fleet.levels):
        capacity = tables.flavor_memory_bytes[flavor].astype(np.float64)[:, None]
        memory = probability_above(fleet.memory_quantiles[row], fleet.levels, capacity)
    return probability_any_above(cpu, memory)
