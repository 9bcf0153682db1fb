"""Numbers of each pair of desktop and alternative, gathered once.

a is where the desktop is, b the alternative. m pairs, T hours, K paths, S sites; hourly arrays run
(T, m).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from migration.core.alternatives import Pairs
from migration.core.costs import run_cost, saturation_cost
from migration.core.outlook import Outlook, at_site, map_latency, path_latency
from migration.core.recourse import Course
from migration.core.slo import BoolArray, FloatArray, IntArray, to_micros


@dataclass(frozen=True, slots=True)
class Trip:
    """The pairs' own numbers, gathered once. a: where the desktop is, b: the alternative."""

    outlook: Outlook
    row: IntArray
    source: IntArray
    region: IntArray
    pool: IntArray
    flavor_a: IntArray
    flavor_b: IntArray
    egress: FloatArray
    egress_home: FloatArray
    link: FloatArray
    link_home: FloatArray
    seed_bytes: IntArray
    p_active: FloatArray
    p_site: FloatArray
    per_site_a: IntArray
    per_site_b: IntArray
    p_better: FloatArray
    p_above_b: FloatArray
    saturation_a: IntArray
    saturation_b: IntArray
    gravity_a: IntArray
    gravity_b: IntArray
    run_a: IntArray
    run_b: IntArray

    @classmethod
    def of(cls, outlook: Outlook, pairs: Pairs) -> Trip:
        fleet, world = outlook.fleet, outlook.world
        tables, row, b = world.tables, pairs.row, pairs.region
        a, pool = fleet.region[row], fleet.pool[row]
        p_active, powered = outlook.p_active[row].T, outlook.powered[row].T
        p_site = outlook.p_site[row]
        per_site_a = world.latency_per_hour[pool, :, a]
        per_site_b = world.latency_per_hour[pool, :, b]
        is_better = (per_site_a > per_site_b)[:, :-1]
        price = tables.flavor_price_per_hour
        p_above_b = outlook.p_above_on(row, pairs.flavor).T
        return cls(
            outlook=outlook,
            row=row,
            source=a,
            region=b,
            pool=pool,
            flavor_a=fleet.flavor[row],
            flavor_b=pairs.flavor,
            egress=tables.egress_price_per_gb[a, b],
            egress_home=tables.egress_price_per_gb[b, a],
            link=tables.link_bytes_per_s[a, b],
            link_home=tables.link_bytes_per_s[b, a],
            seed_bytes=fleet.seed_bytes[row, b],
            p_active=p_active,
            p_site=p_site,
            per_site_a=per_site_a,
            per_site_b=per_site_b,
            p_better=np.einsum("mts,ms->tm", p_site, is_better.astype(np.float64)),
            p_above_b=p_above_b,
            saturation_a=outlook.saturation[row].T,
            saturation_b=saturation_cost(
                p_active, p_above_b, world.by_pool("saturation_price_per_hour", pool)
            ),
            gravity_a=to_micros(p_active * world.gravity_per_hour[pool, a]),
            gravity_b=to_micros(p_active * world.gravity_per_hour[pool, b]),
            run_a=run_cost(price[fleet.flavor[row], a], powered),
            run_b=run_cost(price[pairs.flavor, b], powered),
        )

    def fleet(self, name: str) -> IntArray:
        values: IntArray = getattr(self.outlook.fleet, name)[self.row]
        return values

    def policy(self, name: str) -> IntArray:
        return self.outlook.world.by_pool(name, self.pool)

    def ratio(self, name: str) -> FloatArray:
        return self.outlook.world.ratio_by_pool(name, self.pool)

    @property
    def dirty_rate(self) -> FloatArray:
        return self.outlook.fleet.dirty_bytes_per_hour[self.row]

    @property
    def dirty_limit(self) -> FloatArray:
        return self.outlook.fleet.dirty_limit_bytes[self.row]

    @property
    def base_a(self) -> IntArray:
        return self.saturation_a + self.gravity_a + self.run_a

    @property
    def base_b(self) -> IntArray:
        return self.saturation_b + self.gravity_b + self.run_b

    @property
    def seen_hour(self) -> IntArray:
        """(T, m) the hour whose whereabouts are known at the start of each hour."""
        hours = len(self.p_active)
        ahead: IntArray = np.arange(hours)[:, None] + self.policy("confirm_lead_hours")
        return np.minimum(ahead, hours - 1)

    def latencies(self) -> tuple[IntArray, IntArray, BoolArray]:
        """Hourly penalty along each path in a and in b, and where b is seen to serve better."""
        paths = self.outlook.site_paths
        if paths is None:
            here = map_latency(self.per_site_a, self.p_site, self.p_active)
            there = map_latency(self.per_site_b, self.p_site, self.p_active)
            seen = np.take_along_axis(self.p_better, self.seen_hour, axis=0)
            return here, there, (seen >= self.ratio("min_probability"))[:, :, None]
        sites = paths[self.row].transpose(2, 0, 1)
        better = at_site((self.per_site_a > self.per_site_b).astype(np.int64), sites) > 0
        seen_at = np.broadcast_to(self.seen_hour[:, :, None], better.shape)
        return (
            path_latency(self.per_site_a, sites, self.p_active),
            path_latency(self.per_site_b, sites, self.p_active),
            np.take_along_axis(better, seen_at, axis=0),
        )

    def odds(self, course: Course) -> FloatArray:
        """(m,) chance, over the working hours planned in b, that the user is better off there."""
        weight = course.in_b[:, :, 0] * np.maximum(self.p_active, 1e-9)
        total = weight.sum(axis=0)
        right: FloatArray = (weight * self.p_better).sum(axis=0)
        return np.where(total > 0, right / np.where(total > 0, total, 1.0), 0.0)

    def busiest_site(self, in_b: IntArray) -> IntArray:
        """(m,) the better served site where most of the work in b is expected."""
        at = np.einsum("tm,mts->ms", in_b * np.maximum(self.p_active, 1e-9), self.p_site)
        better = (self.per_site_a > self.per_site_b)[:, :-1]
        site: IntArray = np.argmax(np.where(better, at, -1.0), axis=1)
        return site


@dataclass(frozen=True, slots=True)
class Window:
    """When a shadow is worth holding and a cutover possible; hours, (m,) or (T, m).

    It is filled as late as its bytes allow, held until the last hour it can serve, and open for a
    cutover from when it is whole and the cooldown is over.
    """

    start: IntArray
    ready: IntArray
    last: IntArray
    held: BoolArray
    open: BoolArray

    @classmethod
    def of(cls, trip: Trip) -> Window:
        hours = len(trip.p_active)
        seen = np.take_along_axis(trip.p_better, trip.seen_hour, axis=0)
        useful = seen >= trip.ratio("min_probability")
        first = np.where(useful.any(axis=0), np.argmax(useful, axis=0), hours)
        last = np.where(useful.any(axis=0), hours - 1 - np.argmax(useful[::-1], axis=0), -1)
        filling = np.ceil(trip.seed_bytes / trip.link / 3600).astype(np.int64)
        start = np.maximum(first - filling - trip.policy("prepare_margin_hours"), 0)
        # A shadow that stands already is paid for from now on.
        start = np.where(trip.seed_bytes == 0, 0, start)
        ready = start + filling
        t = np.arange(hours)[:, None]
        held = (t >= start) & (t <= last)
        is_open = (t >= ready) & (t <= last) & (t >= trip.fleet("cooldown_hours"))
        return cls(start, ready, last, held, is_open)
