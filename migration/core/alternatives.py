"""Which regions and flavors are worth pricing for whom: a screen that never drops a gain.

Most people stay where they are served well, so most pairs of desktop and region fall here, by an
upper bound on what the pair could save, before anything expensive is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from migration.core.costs import NEVER, saturation_cost
from migration.core.inputs import NOT_OFFERED
from migration.core.outlook import Outlook
from migration.core.slo import BoolArray, IntArray

NO_FLAVOR = -1


@dataclass(frozen=True, slots=True)
class Pairs:
    """Alternatives to price: row of the chunk, target region, target flavor; each (m,)."""

    row: IntArray
    region: IntArray
    flavor: IntArray

    def __len__(self) -> int:
        return len(self.row)

    def part(self, index: slice) -> Pairs:
        return Pairs(self.row[index], self.region[index], self.flavor[index])


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Pairs in other regions, pairs in the same one, and who is held back by what is allowed.

    held_back : (c,) a region that is not allowed might have paid
    """

    elsewhere: Pairs
    resizes: Pairs
    held_back: BoolArray


def find_alternatives(outlook: Outlook) -> Alternatives:
    """Screen every desktop and region of the chunk."""
    fleet = outlook.fleet
    rows = np.arange(len(fleet))
    flavors = target_flavors(outlook)
    here = flavors[rows, fleet.region] != NO_FLAVOR
    could_pay = _could_pay(outlook, flavors)
    could_pay[rows, fleet.region] = False
    row, region = np.nonzero(could_pay & fleet.allowed_regions)
    held_back: BoolArray = np.any(could_pay & ~fleet.allowed_regions, axis=1)
    return Alternatives(
        elsewhere=Pairs(row, region, flavors[row, region]),
        resizes=Pairs(rows[here], fleet.region[here], flavors[here, fleet.region[here]]),
        held_back=held_back,
    )


def target_flavors(outlook: Outlook) -> IntArray:
    """(c, R) flavor to take in each region, `NO_FLAVOR` where none is offered and allowed.

    The present flavor is kept where the region offers it and saturation on it costs no more than
    the pool's minimum gain. Else the flavor with the lowest sum of price and saturation is taken,
    never a smaller one unless the pool allows that. In the desktop's own region it is the best
    *other* flavor, for a resize.
    """
    fleet, world = outlook.fleet, outlook.world
    price = world.tables.flavor_price_per_hour
    rows = np.arange(len(fleet))
    offered = price[fleet.flavor] != NOT_OFFERED
    flavors = np.where(offered, fleet.flavor[:, None], NO_FLAVOR)
    flavors[rows, fleet.region] = NO_FLAVOR
    is_tight = outlook.saturation.sum(axis=1) > world.by_pool("min_gain", fleet.pool)
    may_shrink = world.by_pool("allow_downsize", fleet.pool) > 0
    choose = np.nonzero(is_tight | may_shrink | ~offered.all(axis=1))[0]
    if len(choose):
        flavors[choose] = _cheapest_flavors(outlook, choose)
    return flavors


def _cheapest_flavors(outlook: Outlook, rows: IntArray) -> IntArray:
    fleet, world = outlook.fleet, outlook.world
    tables, pool, now = world.tables, fleet.pool[rows], fleet.flavor[rows]
    n_flavors = len(tables.flavors)
    sat_price = world.by_pool("saturation_price_per_hour", pool)[:, None]
    saturation = np.empty((len(rows), n_flavors), dtype=np.int64)
    for flavor in range(n_flavors):
        above = outlook.p_above_on(rows, np.full(len(rows), flavor))
        cost = saturation_cost(outlook.p_active[rows], above, sat_price)
        saturation[:, flavor] = cost.sum(axis=1)
    smaller = (tables.flavor_vcpus < tables.flavor_vcpus[now][:, None]) | (
        tables.flavor_memory_bytes < tables.flavor_memory_bytes[now][:, None]
    )
    allowed = fleet.allowed_flavors[rows] & (
        ~smaller | (world.by_pool("allow_downsize", pool) > 0)[:, None]
    )
    every = np.arange(len(rows))
    allowed[every, now] = True
    hours = outlook.powered[rows].sum(axis=1)
    run = np.rint(tables.flavor_price_per_hour * hours[:, None, None]).astype(np.int64)
    usable = allowed[:, :, None] & (tables.flavor_price_per_hour != NOT_OFFERED)
    usable[every, now, fleet.region[rows]] = False
    cost = np.where(usable, run + saturation[:, :, None], NEVER)
    # At equal cost the present flavor wins, then the first of the list.
    order = 2 * cost - (np.arange(n_flavors) == now[:, None])[:, :, None]
    best = np.argmin(order, axis=1)
    return np.where(usable.any(axis=1), best, NO_FLAVOR)


def _could_pay(outlook: Outlook, flavors: IntArray) -> BoolArray:
    """(c, R) whether the most a region could save exceeds the risk and the minimum gain."""
    fleet, world = outlook.fleet, outlook.world
    tables, pool, now = world.tables, fleet.pool, fleet.region
    latency = world.latency_per_hour[pool, :-1]
    here = np.take_along_axis(latency, now[:, None, None], axis=2)
    hours_at = np.einsum("nt,nts->ns", outlook.p_active, outlook.p_site)
    by_latency = np.einsum("ns,nsr->nr", hours_at, np.maximum(here - latency, 0).astype(float))
    gravity = world.gravity_per_hour
    nearer = np.maximum(gravity[pool, now][:, None] - gravity[pool], 0)
    price = tables.flavor_price_per_hour
    there = price[flavors, np.arange(len(tables.regions))]
    cheaper = np.maximum(price[fleet.flavor, now][:, None] - there, 0)
    most = (
        by_latency
        + outlook.p_active.sum(axis=1)[:, None] * nearer
        + outlook.powered.sum(axis=1)[:, None] * cheaper
        + outlook.saturation.sum(axis=1)[:, None] * (flavors != fleet.flavor[:, None])
    )
    least = world.by_pool("fixed_risk", pool) + world.by_pool("min_gain", pool)
    links = tables.link_bytes_per_s
    linked = (links[now] > 0) & (links.T[now] > 0)
    travels = np.any([s.allowed for s in tables.strategies], axis=0)
    reachable = linked & travels[now] & (flavors != NO_FLAVOR)
    # Rounding each hour to a micro-unit may save up to half of one per hour more.
    slack = 2 * outlook.p_active.shape[1]
    result: BoolArray = reachable & (by_latency > 0) & (most + slack > least[:, None])
    return result
