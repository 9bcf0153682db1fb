"""The planner's arithmetic once more: plain Python numbers, every course of action tried.

Written from the design, not from the code; slow, so for a handful of hours and paths only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from migration.core.inputs import FleetInput, PoolPolicy, Strategy, Tier, WorldTables

GB = 1e9
INTERVALS_H = (72, 48, 24, 12, 8, 6, 4, 3, 2, 1, 1 / 2, 1 / 4, 1 / 6, 1 / 12)


@dataclass(frozen=True)
class Option:
    region: int
    tier: Tier
    deletes_source: bool
    stay: float
    cost: float
    acting: float

    @property
    def gain(self) -> float:
        return self.stay - self.cost


def best_option(
    fleet: FleetInput, tables: WorldTables, policies: list[PoolPolicy], desktop: int
) -> Option | None:
    """The option that gains most, worth taking or not; None where no region is allowed."""
    here = int(fleet.region[desktop])
    regions = [
        r
        for r in range(len(tables.regions))
        if r != here
        and fleet.allowed_regions[desktop, r]
        and any(s.allowed[here, r] for s in tables.strategies)
    ]
    options = [o for r in regions for o in _Desk(fleet, tables, policies, desktop, r).options()]
    return max(options, key=lambda o: o.gain, default=None)


class _Desk:
    """One desktop and one region to prepare it in; same flavor on both sides."""

    def __init__(
        self,
        fleet: FleetInput,
        tables: WorldTables,
        policies: list[PoolPolicy],
        desktop: int,
        region: int,
    ) -> None:
        self.fleet, self.tables, self.d = fleet, tables, desktop
        self.a, self.b = int(fleet.region[desktop]), region
        self.pool = int(fleet.pool[desktop])
        self.policy = policies[self.pool]
        self.slo = self.policy.slo
        self.hours = range(fleet.hours)
        self.p = [float(x) for x in fleet.p_active[desktop]]
        self.flavor = int(fleet.flavor[desktop])
        self.seed = int(fleet.seed_bytes[desktop, region])
        self.volume = int(fleet.volume_bytes[desktop])

    # --- what an hour costs -------------------------------------------------------------

    def penalty(self, site: int, region: int) -> int:
        if site < 0:
            return 0
        above = max(self.tables.rtt_ms[site, region] - self.slo.rtt_ms, 0)
        return round(min(above * self.slo.latency_price_per_ms_hour, self.slo.latency_cap_per_hour))

    def is_better(self, site: int) -> bool:
        return self.penalty(site, self.a) > self.penalty(site, self.b)

    def chance(self, t: int, site: int) -> float:
        if self.fleet.paths is None:
            return float(self.fleet.p_site[self.d, t, site])
        return float(np.mean(self.fleet.paths[self.d, :, t] == site))

    def p_better(self, t: int) -> float:
        sites = range(len(self.tables.sites))
        return sum(self.chance(t, s) for s in sites if self.is_better(s))

    def seen(self, t: int) -> int:
        return min(t + self.policy.confirm_lead_hours, self.fleet.hours - 1)

    def base(self, t: int, region: int) -> int:
        above = max(self.tables.app_rtt_ms[self.pool, region] - self.slo.gravity_rtt_ms, 0)
        gravity = round(
            min(above * self.slo.gravity_price_per_ms_hour, self.slo.gravity_cap_per_hour)
        )
        return round(self.p[t] * gravity) + int(
            self.tables.flavor_price_per_hour[self.flavor, region]
        )

    def paths(self) -> Iterator[tuple[list[int], list[int], list[bool], list[bool]]]:
        """Latency of each hour in a and in b, may it go, may it return."""
        if self.fleet.paths is None:
            expected = [
                [
                    round(
                        self.p[t]
                        * sum(
                            self.chance(t, s) * self.penalty(s, r)
                            for s in range(len(self.tables.sites))
                        )
                    )
                    for t in self.hours
                ]
                for r in (self.a, self.b)
            ]
            likely = [
                self.p_better(self.seen(t)) >= self.policy.min_probability for t in self.hours
            ]
            yield expected[0], expected[1], likely, [True for _ in self.hours]
            return
        for path in self.fleet.paths[self.d].tolist():
            better = [self.is_better(path[self.seen(t)]) for t in self.hours]
            yield (
                [round(self.p[t] * self.penalty(path[t], self.a)) for t in self.hours],
                [round(self.p[t] * self.penalty(path[t], self.b)) for t in self.hours],
                better,
                [not x for x in better],
            )

    # --- shadow and moves ---------------------------------------------------------------

    def dirty(self, hours: float) -> float:
        rate = float(self.fleet.dirty_bytes_per_hour[self.d])
        limit = float(self.fleet.dirty_limit_bytes[self.d])
        return limit * (1 - math.exp(-rate * hours / limit))

    def mean_dirty(self, hours: float) -> float:
        steps = 2000
        return sum(self.dirty(hours * (i + 0.5) / steps) for i in range(steps)) / steps

    def link(self, a: int, b: int) -> float:
        return float(self.tables.link_bytes_per_s[a, b])

    def egress(self, a: int, b: int, size: float) -> int:
        return round(size / GB * self.tables.egress_price_per_gb[a, b])

    def interval(self, a: int, b: int, held: float, p_use: float, p_stall: float) -> float:
        price = self.tables.egress_price_per_gb[a, b] / GB
        worth = price + p_stall * self.slo.stall_price_per_s / self.link(a, b)
        shortest, longest = self.policy.min_sync_hours, self.policy.max_sync_hours
        costs = {
            h: held / h * (self.dirty(h) + self.policy.fixed_sync_bytes) * price
            + p_use * self.mean_dirty(h) * worth
            for h in INTERVALS_H
            if shortest <= h <= longest
        }
        return min(costs, key=lambda h: costs[h])

    def hold(self, region: int, other: int, tier: Tier, interval: float) -> int:
        storage = round(self.volume / GB * self.tables.storage_price_per_gb_hour[region])
        sync = self.egress(
            other, region, (self.dirty(interval) + self.policy.fixed_sync_bytes) / interval
        )
        hot = self.policy.hot_flavor
        server = int(self.tables.flavor_price_per_hour[hot, region]) if hot is not None else 0
        return storage + (tier != Tier.SEED) * sync + (tier == Tier.HOT) * server

    def move(self, a: int, b: int, t: int, tier: Tier, delta: float) -> int:
        """The cheapest strategy's price of cutting over from a to b in hour t."""
        kept = self.tables.flavor_price_per_hour[self.flavor, a] * self.policy.commit_window_hours
        return min(
            self.by(strategy, a, b, t, tier, delta)
            for strategy in self.tables.strategies
            if strategy.allowed[a, b]
        ) + round(float(kept))

    def by(self, strategy: Strategy, a: int, b: int, t: int, tier: Tier, delta: float) -> int:
        memory = int(self.fleet.memory_bytes[self.d]) if strategy.carries_memory else 0
        stall_s = (
            strategy.fixed_stall_s[tier]
            + self.volume / strategy.scan_bytes_per_s
            + (delta + strategy.memory_in_stall_ratio * memory) / self.link(a, b)
        )
        lost = 0 if strategy.carries_memory else self.slo.session_loss_price
        return (
            self.egress(a, b, delta + memory)
            + round(stall_s * self.p[t] * self.slo.stall_price_per_s)
            + round(self.p[t] * lost)
            + self.policy.fixed_risk
        )

    # --- every course of action ---------------------------------------------------------

    def options(self) -> Iterator[Option]:
        useful = [
            t for t in self.hours if self.p_better(self.seen(t)) >= self.policy.min_probability
        ]
        if not useful:
            return
        filling = math.ceil(self.seed / self.link(self.a, self.b) / 3600)
        start = max(useful[0] - filling - self.policy.prepare_margin_hours, 0)
        start = 0 if self.seed == 0 else start
        ready, last = start + filling, useful[-1]
        cooldown = int(self.fleet.cooldown_hours[self.d])
        window = [t for t in self.hours if max(ready, cooldown) <= t <= last]
        p_used = [self.p_better(t) for t in window]
        p_stall = (
            sum(self.p_better(t) * self.p[t] for t in window) / sum(p_used) if sum(p_used) else 0
        )
        held = [t for t in self.hours if start <= t <= last]
        interval = self.interval(self.a, self.b, len(held), max(p_used, default=0), p_stall)
        home = self.interval(self.b, self.a, sum(p_used), 1.0, sum(self.p) / len(self.p))
        way_home = [
            self.move(self.b, self.a, t, Tier.WARM, self.mean_dirty(home))
            if any(s.allowed[self.b, self.a] for s in self.tables.strategies)
            else math.inf
            for t in self.hours
        ]
        keep = self.hold(self.a, self.b, Tier.WARM, home)
        seeding = self.egress(self.a, self.b, self.seed)
        again = self.egress(self.b, self.a, float(self.fleet.used_bytes[self.d]))
        is_home = self.b == int(self.fleet.home_region[self.d])
        for tier, deletes in product(self.policy.tiers, (False, True)):
            go = [
                self.move(
                    self.a,
                    self.b,
                    t,
                    tier,
                    self.dirty(max(t - ready, 0))
                    if tier == Tier.SEED
                    else self.mean_dirty(interval),
                )
                for t in self.hours
            ]
            back = [x + deletes * again for x in way_home]
            rate = self.hold(self.b, self.a, tier, interval)
            stays, costs, actings = [], [], []
            for lat_a, lat_b, may_go, may_return in self.paths():
                in_a = [lat_a[t] + self.base(t, self.a) for t in self.hours]
                in_b = [lat_b[t] + self.base(t, self.b) for t in self.hours]
                cost, acting = min(
                    self.course(
                        states,
                        in_a,
                        in_b,
                        [rate * (t in held) for t in self.hours],
                        0 if deletes else keep,
                        [go[t] if may_go[t] and t in window else math.inf for t in self.hours],
                        [back[t] if may_return[t] else math.inf for t in self.hours],
                        0 if is_home else min(back),
                    )
                    for states in product((0, 1), repeat=self.fleet.hours)
                )
                stays.append(sum(in_a))
                costs.append(cost + seeding)
                actings.append(acting + seeding)
            yield Option(
                self.b,
                tier,
                deletes,
                sum(stays) / len(stays),
                sum(costs) / len(costs),
                sum(actings) / len(actings),
            )

    @staticmethod
    def course(
        states: tuple[int, ...],
        in_a: list[int],
        in_b: list[int],
        held: list[int],
        keep: int,
        go: list[float],
        back: list[float],
        end_in_b: float,
    ) -> tuple[float, float]:
        """Cost of being in these states hour by hour, and the part of it that acting costs."""
        total, acting, was = 0.0, 0.0, 0
        for t, state in enumerate(states):
            step = (go[t] if state else back[t]) if state != was else 0
            step += keep if state else held[t]
            acting += step
            total += step + (in_b[t] if state else in_a[t])
            was = state
        owed = end_in_b if was else 0
        return total + owed, acting + owed
