"""The price of each alternative: prepare a shadow elsewhere, or resize in place.

m pairs, T hours, K paths, S sites; variants are tiers x {keep, delete the source}. Hourly arrays
run (T, m). Amounts stay sums over the paths until `per_path` divides them, once per item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np

from migration.core.advice import ItemName
from migration.core.alternatives import Pairs
from migration.core.costs import (
    GB,
    NEVER,
    MoveCost,
    ShadowCost,
    mean_dirty_bytes,
    move_cost,
    run_cost,
    saturation_cost,
    shadow_cost,
    sync_interval_hours,
    transfer_cost,
)
from migration.core.costs import dirty_bytes as dirty_bytes_after
from migration.core.inputs import NOT_OFFERED, Tier
from migration.core.outlook import TIERS, Outlook, at_site, map_latency, path_latency, per_path
from migration.core.recourse import Course, best_response, follow
from migration.core.slo import BoolArray, FloatArray, IntArray, to_micros

ITEMS = tuple(ItemName)
N_STAY_ITEMS = 4
"""The first items are paid when staying too; the rest is what acting costs."""
NO_TIER = -1
CELLS = 8192
"""Pairs x paths worked on at once: what keeps the dynamic programme inside the cache."""


@dataclass(frozen=True, slots=True)
class Priced:
    """Priced alternatives, one per pair; (m,) unless said otherwise.

    row : of the chunk until `plan_fleet` makes it the fleet's
    hot_flavor : of the small server of a hot shadow, else -1
    items : (len(ITEMS), m) expected micro-units, whose sum is the action's cost
    load : (m, T) expected cutovers in each hour
    first_hour, end_hour : when the first cutover is expected, end exclusive
    ready_hour, last_hour : when the shadow is whole, and the last hour it is worth anything
    is_late, is_cooling : no cutover was possible because the shadow is whole, or the cooldown
        over, only after the last hour it would serve
    away_hours : mean length of a stay in the target
    active_hours, other_saving : as in `ConfirmTerms`
    """

    row: IntArray
    region: IntArray
    flavor: IntArray
    tier: IntArray
    hot_flavor: IntArray
    deletes_source: BoolArray
    items: IntArray
    gain: IntArray
    load: FloatArray
    confidence: FloatArray
    first_hour: IntArray
    end_hour: IntArray
    ready_hour: IntArray
    last_hour: IntArray
    is_late: BoolArray
    is_cooling: BoolArray
    seed_bytes: IntArray
    interval_h: FloatArray
    strategy: IntArray
    stall_s: FloatArray
    site: IntArray
    away_hours: FloatArray
    active_hours: FloatArray
    other_saving: IntArray

    def __len__(self) -> int:
        return len(self.row)

    def pick(self, index: IntArray | BoolArray) -> Priced:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Priced(**{k: v[:, index] if k == "items" else v[index] for k, v in values.items()})

    @classmethod
    def join(cls, parts: list[Priced]) -> Priced:
        return cls(
            **{
                f.name: np.concatenate(
                    [getattr(p, f.name) for p in parts], axis=1 if f.name == "items" else 0
                )
                for f in fields(cls)
            }
        )

    def item(self, name: ItemName) -> IntArray:
        amount: IntArray = self.items[ITEMS.index(name)]
        return amount


def price_all(
    price: Callable[[Outlook, Pairs], Priced], outlook: Outlook, pairs: Pairs
) -> list[Priced]:
    """Price in blocks small enough for the cache."""
    step = max(CELLS // outlook.n_paths, 1)
    return [price(outlook, pairs.part(slice(i, i + step))) for i in range(0, len(pairs), step)]


# --- Preparing a shadow elsewhere -----------------------------------------------------------


def price_preparing(outlook: Outlook, pairs: Pairs) -> Priced:
    """Price a shadow for each pair: the best tier, and what to do with the source."""
    trip = _Trip.of(outlook, pairs)
    window = _Window.of(trip)
    interval_h = _interval(trip, window)
    home_h = _home_interval(trip, window)
    go = _ways_out(trip, window, interval_h)
    back = _way_home(trip, home_h)
    hold = _holding(trip, interval_h)
    keep = _source_kept(trip, home_h).total()
    latency_a, latency_b, is_better = trip.latencies()

    again = transfer_cost(trip.fleet("used_bytes"), trip.egress_home)
    back_total = np.stack([back.total(), back.total() + again], axis=1)
    is_home = trip.region == trip.fleet("home_region")
    end_in_b = np.where(is_home, 0, back_total.min(axis=0))
    available = _available_tiers(trip)

    hours_a, hours_b, goes = [], [], []
    for number in range(len(TIERS)):
        held = trip.base_a + window.held * hold[number].total()
        out = np.where(available[number], go[number].total(), NEVER)
        for source_kept in (keep, np.zeros_like(keep)):
            hours_a.append(held)
            hours_b.append(trip.base_b + source_kept)
            goes.append(out)
    can_go = window.open[:, :, None] & is_better
    recourse = best_response(
        path_a=latency_a,
        path_b=latency_b,
        hour_a=np.stack(hours_a, axis=1),
        hour_b=np.stack(hours_b, axis=1),
        go=np.stack(goes, axis=1),
        back=np.tile(back_total, (1, len(TIERS), 1)),
        can_go=can_go,
        # Where people are not better off elsewhere they may go home.
        can_return=~is_better if outlook.site_paths is not None else np.ones_like(is_better),
        end_in_b=np.tile(end_in_b, (len(TIERS), 1)),
    )
    value = np.where(np.repeat(available, 2, axis=0), recourse.value, NEVER)
    best = np.argmin(value, axis=0)
    every = np.arange(len(pairs))
    course = follow(recourse.goes[:, best, every], recourse.returns[:, best, every])
    tier, deletes = best // 2, best % 2 == 1

    chosen_go = _of_tier(go, tier)
    chosen_hold = [np.stack([getattr(h, n) for h in hold])[tier, every] for n in _HOLD]
    in_b = course.in_b.sum(axis=2)
    gone, returned = course.cut_over.sum(axis=2), course.cut_back.sum(axis=2)
    in_a = outlook.n_paths - in_b
    held_hours = (in_a * window.held).sum(axis=0)
    home = back_total[:, deletes.astype(np.int64), every]
    seeding = transfer_cost(trip.seed_bytes, trip.egress)
    sums: dict[ItemName, IntArray] = {
        ItemName.LATENCY: np.where(course.in_b, latency_b, latency_a).sum(axis=(0, 2)),
        ItemName.SATURATION: (in_a * trip.saturation_a + in_b * trip.saturation_b).sum(axis=0),
        ItemName.GRAVITY: (in_a * trip.gravity_a + in_b * trip.gravity_b).sum(axis=0),
        ItemName.RUN: (in_a * trip.run_a + in_b * trip.run_b).sum(axis=0),
        ItemName.SHADOW_SEED: outlook.n_paths * seeding,
        ItemName.SHADOW_STORAGE: held_hours * chosen_hold[0],
        ItemName.SHADOW_SYNC: held_hours * chosen_hold[1],
        ItemName.SHADOW_SERVER: held_hours * chosen_hold[2],
        ItemName.EGRESS: (gone * chosen_go.egress).sum(axis=0),
        ItemName.STALL: (gone * chosen_go.stall).sum(axis=0),
        ItemName.SESSION_LOSS: (gone * chosen_go.session_loss).sum(axis=0),
        ItemName.RISK: (gone * chosen_go.risk).sum(axis=0),
        ItemName.SOURCE_COMMIT: (gone * chosen_go.source_commit).sum(axis=0),
        ItemName.SOURCE_SHADOW: in_b.sum(axis=0) * np.where(deletes, 0, keep),
        ItemName.WAY_HOME: (returned * home).sum(axis=0)
        + in_b_at_end(course) * end_in_b[deletes.astype(np.int64), every],
    }
    ever = course.cut_over.any(axis=0)
    worked = trip.p_active[:, :, None] * (course.in_b & (latency_a > latency_b))
    return _priced(
        outlook,
        pairs,
        course,
        sums,
        chosen_go,
        tier=tier,
        deletes_source=deletes,
        confidence=ever.mean(axis=1) if outlook.site_paths is not None else trip.odds(course),
        ready_hour=window.ready,
        last_hour=window.last,
        is_late=~window.open.any(axis=0) & (window.ready > window.last) & (window.last >= 0),
        is_cooling=~window.open.any(axis=0) & (trip.fleet("cooldown_hours") > window.last),
        seed_bytes=trip.seed_bytes,
        interval_h=interval_h,
        site=trip.busiest_site(in_b),
        worked_hours=worked.sum(axis=(0, 2)),
    )


_HOLD = ("storage", "sync", "server")


def in_b_at_end(course: Course) -> IntArray:
    """(m,) paths whose horizon ends in B."""
    count: IntArray = course.in_b[-1].sum(axis=1)
    return count


@dataclass(frozen=True, slots=True)
class _Trip:
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
    saturation_a: IntArray
    saturation_b: IntArray
    gravity_a: IntArray
    gravity_b: IntArray
    run_a: IntArray
    run_b: IntArray

    @classmethod
    def of(cls, outlook: Outlook, pairs: Pairs) -> _Trip:
        fleet, world = outlook.fleet, outlook.world
        tables, row, b = world.tables, pairs.row, pairs.region
        a, pool = fleet.region[row], fleet.pool[row]
        p_active, powered = outlook.p_active[row].T, outlook.powered[row].T
        p_site = outlook.p_site[row]
        per_site_a = world.latency_per_hour[pool, :, a]
        per_site_b = world.latency_per_hour[pool, :, b]
        is_better = (per_site_a > per_site_b)[:, :-1]
        price = tables.flavor_price_per_hour
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
            saturation_a=outlook.saturation[row].T,
            saturation_b=saturation_cost(
                p_active,
                outlook.p_above_on(row, pairs.flavor).T,
                world.by_pool("saturation_price_per_hour", pool),
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
class _Window:
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
    def of(cls, trip: _Trip) -> _Window:
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


def _interval(trip: _Trip, window: _Window) -> FloatArray:
    """(m,) hours between syncs of the shadow ahead of the cutover."""
    chance = np.where(window.open, trip.p_better, 0.0)
    total = chance.sum(axis=0)
    p_stall = (chance * trip.p_active).sum(axis=0) / np.where(total > 0, total, 1.0)
    price = trip.egress / GB
    return sync_interval_hours(
        held_hours=window.held.sum(axis=0).astype(np.float64),
        p_use=chance.max(axis=0),
        price_per_byte=price,
        value_per_byte=price + p_stall * trip.policy("stall_price_per_s") / trip.link,
        dirty_rate=trip.dirty_rate,
        dirty_limit=trip.dirty_limit,
        fixed_sync_bytes=trip.policy("fixed_sync_bytes"),
        shortest_h=trip.ratio("min_sync_hours"),
        longest_h=trip.ratio("max_sync_hours"),
    )


def _home_interval(trip: _Trip, window: _Window) -> FloatArray:
    """(m,) the same for the source kept as a shadow: home is where everybody returns to."""
    price = trip.egress_home / GB
    p_active = trip.p_active.mean(axis=0)
    return sync_interval_hours(
        held_hours=np.where(window.open, trip.p_better, 0.0).sum(axis=0),
        p_use=np.ones(len(trip.row)),
        price_per_byte=price,
        value_per_byte=price + p_active * trip.policy("stall_price_per_s") / trip.link_home,
        dirty_rate=trip.dirty_rate,
        dirty_limit=trip.dirty_limit,
        fixed_sync_bytes=trip.policy("fixed_sync_bytes"),
        shortest_h=trip.ratio("min_sync_hours"),
        longest_h=trip.ratio("max_sync_hours"),
    )


def _available_tiers(trip: _Trip) -> BoolArray:
    """(tiers, m)"""
    world = trip.outlook.world
    allowed = np.stack([world.has_tier(tier, trip.pool) for tier in TIERS])
    hot = world.hot_price(trip.pool, trip.region) != NOT_OFFERED
    allowed[TIERS.index(Tier.HOT)] &= hot
    return allowed


def _holding(trip: _Trip, interval_h: FloatArray) -> list[ShadowCost]:
    tables = trip.outlook.world.tables
    return [
        shadow_cost(
            tier,
            interval_h,
            volume_bytes=trip.fleet("volume_bytes"),
            dirty_rate=trip.dirty_rate,
            dirty_limit=trip.dirty_limit,
            fixed_sync_bytes=trip.policy("fixed_sync_bytes"),
            storage_price_per_gb_hour=tables.storage_price_per_gb_hour[trip.region],
            egress_price_per_gb=trip.egress,
            hot_price_per_hour=trip.outlook.world.hot_price(trip.pool, trip.region),
        )
        for tier in TIERS
    ]


def _source_kept(trip: _Trip, home_h: FloatArray) -> ShadowCost:
    return shadow_cost(
        Tier.WARM,
        home_h,
        volume_bytes=trip.fleet("volume_bytes"),
        dirty_rate=trip.dirty_rate,
        dirty_limit=trip.dirty_limit,
        fixed_sync_bytes=trip.policy("fixed_sync_bytes"),
        storage_price_per_gb_hour=trip.outlook.world.tables.storage_price_per_gb_hour[trip.source],
        egress_price_per_gb=trip.egress_home,
        hot_price_per_hour=0,
    )


def _ways_out(trip: _Trip, window: _Window, interval_h: FloatArray) -> list[MoveCost]:
    """Per tier, the price of cutting over in each hour; arrays (T, m)."""
    since_seed = np.maximum(np.arange(len(trip.p_active))[:, None] - window.ready, 0)
    stale = dirty_bytes_after(since_seed.astype(np.float64), trip.dirty_rate, trip.dirty_limit)
    fresh = mean_dirty_bytes(interval_h, trip.dirty_rate, trip.dirty_limit)
    return [
        _move(trip, tier, stale if tier is Tier.SEED else fresh, is_home=False) for tier in TIERS
    ]


def _way_home(trip: _Trip, home_h: FloatArray) -> MoveCost:
    delta = mean_dirty_bytes(home_h, trip.dirty_rate, trip.dirty_limit)
    return _move(trip, Tier.WARM, delta, is_home=True)


def _move(trip: _Trip, tier: Tier, delta_bytes: FloatArray, *, is_home: bool) -> MoveCost:
    tables = trip.outlook.world.tables
    source, target = (trip.region, trip.source) if is_home else (trip.source, trip.region)
    left = trip.flavor_b if is_home else trip.flavor_a
    kept = tables.flavor_price_per_hour[left, source] * trip.ratio("commit_window_hours")
    return move_cost(
        tables.strategies,
        tier,
        source=source,
        target=target,
        same_flavor=trip.flavor_a == trip.flavor_b,
        delta_bytes=delta_bytes,
        volume_bytes=trip.fleet("volume_bytes"),
        memory_bytes=trip.fleet("memory_bytes"),
        link_bytes_per_s=trip.link_home if is_home else trip.link,
        egress_price_per_gb=trip.egress_home if is_home else trip.egress,
        p_active=trip.p_active,
        stall_price_per_s=trip.policy("stall_price_per_s"),
        session_loss_price=trip.policy("session_loss_price"),
        fixed_risk=trip.policy("fixed_risk"),
        commit_cost=to_micros(kept),
    )


def _of_tier(costs: list[MoveCost], tier: IntArray) -> MoveCost:
    every = np.arange(len(tier))
    names = [f.name for f in fields(MoveCost)]
    return MoveCost(
        **{n: np.stack([getattr(c, n) for c in costs])[tier, :, every].T for n in names}
    )


# --- Resizing in place ----------------------------------------------------------------------


def price_resizing(outlook: Outlook, pairs: Pairs) -> Priced:
    """Price another flavor in the same region, there and back where demand falls again.

    Nothing is known along a path that the forecast of demand does not hold, so there is one path;
    the server is stopped and started, and nothing travels.
    """
    trip = _Trip.of(outlook, pairs)
    hours, m = trip.p_active.shape
    go = _restart(trip, trip.flavor_a)
    back = _restart(trip, trip.flavor_b)
    nothing = np.zeros((hours, m, 1), dtype=np.int64)
    is_open: BoolArray = np.arange(hours)[:, None] >= trip.fleet("cooldown_hours")
    recourse = best_response(
        path_a=nothing,
        path_b=nothing,
        hour_a=(trip.saturation_a + trip.run_a)[:, None],
        hour_b=(trip.saturation_b + trip.run_b)[:, None],
        go=go.total()[:, None],
        back=back.total()[:, None],
        can_go=is_open[:, :, None],
        can_return=np.ones((hours, m, 1), dtype=bool),
        end_in_b=np.zeros((1, m), dtype=np.int64),
    )
    course = follow(recourse.goes[:, 0], recourse.returns[:, 0])
    in_b, gone = course.in_b[:, :, 0], course.cut_over[:, :, 0]
    sums: dict[ItemName, IntArray] = {
        ItemName.SATURATION: np.where(in_b, trip.saturation_b, trip.saturation_a).sum(axis=0),
        ItemName.RUN: np.where(in_b, trip.run_b, trip.run_a).sum(axis=0),
        ItemName.STALL: (gone * go.stall).sum(axis=0),
        ItemName.SESSION_LOSS: (gone * go.session_loss).sum(axis=0),
        ItemName.RISK: (gone * go.risk).sum(axis=0),
        ItemName.SOURCE_COMMIT: (gone * go.source_commit).sum(axis=0),
        ItemName.WAY_HOME: (course.cut_back[:, :, 0] * back.total()).sum(axis=0),
    }
    # These do not change; they are taken from staying, path sums and all.
    stay = per_path(outlook.stay[:, pairs.row], outlook.n_paths)
    sums[ItemName.LATENCY], sums[ItemName.GRAVITY] = stay[0], stay[2]
    above = np.where(in_b & (trip.p_active > 0), outlook.p_above[pairs.row].T, 0.0)
    no_hour = np.zeros(m, dtype=np.int64)
    return _priced(
        outlook,
        pairs,
        course,
        sums,
        go,
        tier=no_hour + NO_TIER,
        deletes_source=np.zeros(m, dtype=bool),
        confidence=above.max(axis=0),
        ready_hour=no_hour,
        last_hour=np.where(in_b.any(axis=0), hours - 1 - np.argmax(in_b[::-1], axis=0), -1),
        is_late=np.zeros(m, dtype=bool),
        is_cooling=trip.fleet("cooldown_hours") >= hours,
        seed_bytes=no_hour,
        interval_h=np.zeros(m),
        site=no_hour - 1,
        worked_hours=np.zeros(m),
    )


def _restart(trip: _Trip, left: IntArray) -> MoveCost:
    """Stop, change the flavor, start; both flavors are held until the change is committed."""
    price = trip.outlook.world.tables.flavor_price_per_hour[left, trip.source]
    shape = trip.p_active.shape
    zeros = np.zeros(shape, dtype=np.int64)
    stall_s = np.zeros(shape) + trip.ratio("resize_stall_s")
    felt = trip.p_active * stall_s * trip.policy("stall_price_per_s")
    return MoveCost(
        egress=zeros,
        stall=to_micros(felt),
        session_loss=to_micros(trip.p_active * trip.policy("session_loss_price")),
        risk=zeros + trip.policy("fixed_risk"),
        source_commit=zeros + to_micros(price * trip.ratio("commit_window_hours")),
        strategy=zeros,
        stall_s=stall_s,
    )


# --- What both have in common ---------------------------------------------------------------


def _priced(
    outlook: Outlook,
    pairs: Pairs,
    course: Course,
    sums: Mapping[ItemName, IntArray],
    go: MoveCost,
    *,
    tier: IntArray,
    deletes_source: BoolArray,
    confidence: FloatArray,
    ready_hour: IntArray,
    last_hour: IntArray,
    is_late: BoolArray,
    is_cooling: BoolArray,
    seed_bytes: IntArray,
    interval_h: FloatArray,
    site: IntArray,
    worked_hours: FloatArray,
) -> Priced:
    n_paths = course.in_b.shape[2]
    every = np.arange(len(pairs))
    nothing = np.zeros(len(pairs), dtype=np.int64)
    items = np.stack([per_path(sums.get(name, nothing), n_paths) for name in ITEMS])
    stay = per_path(outlook.stay[:, pairs.row], outlook.n_paths)
    gone = course.cut_over.sum(axis=2)
    moves = np.maximum(gone.sum(axis=0), 1)
    trips = np.maximum(course.cut_over.any(axis=0).sum(axis=1), 1)
    first = _first_cuts(course)
    kept = stay[1:].sum(axis=0) - items[1:4].sum(axis=0)
    after = items[[ITEMS.index(n) for n in (ItemName.SOURCE_SHADOW, ItemName.WAY_HOME)]]
    return Priced(
        row=pairs.row,
        region=pairs.region,
        flavor=pairs.flavor,
        tier=tier,
        hot_flavor=np.where(
            tier == TIERS.index(Tier.HOT),
            outlook.world.hot_flavor(outlook.fleet.pool[pairs.row]),
            -1,
        ),
        deletes_source=deletes_source,
        items=items,
        gain=stay.sum(axis=0) - items.sum(axis=0),
        load=(course.cut_over.mean(axis=2) + course.cut_back.mean(axis=2)).T,
        confidence=confidence,
        first_hour=_reaches(first, 0.1),
        end_hour=_reaches(first, 0.9) + 1,
        ready_hour=ready_hour,
        last_hour=last_hour,
        is_late=is_late,
        is_cooling=is_cooling,
        seed_bytes=seed_bytes,
        interval_h=interval_h,
        strategy=go.strategy[np.argmax(gone, axis=0), every],
        stall_s=(gone * go.stall_s).sum(axis=0) / moves,
        site=site,
        away_hours=course.in_b.sum(axis=(0, 2)) / moves,
        active_hours=worked_hours / trips,
        other_saving=to_micros((kept - after.sum(axis=0)) * n_paths / trips),
    )


def _first_cuts(course: Course) -> IntArray:
    """(T, m) paths whose first cutover is in each hour."""
    is_first = course.cut_over & (np.cumsum(course.cut_over, axis=0, dtype=np.int16) == 1)
    count: IntArray = is_first.sum(axis=2)
    return count


def _reaches(count: IntArray, share: float) -> IntArray:
    """(m,) first hour by which this share of what is counted has come, 0 where nothing is."""
    so_far = np.cumsum(count, axis=0)
    reached: IntArray = np.argmax(so_far >= np.maximum(share * so_far[-1], 1e-9), axis=0)
    return reached
