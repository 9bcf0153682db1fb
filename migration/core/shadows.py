"""What a shadow and the cutover to it cost, tier by tier, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from migration.core.costs import (
    GB,
    MoveCost,
    ShadowCost,
    dirty_bytes,
    mean_dirty_bytes,
    move_cost,
    shadow_cost,
    sync_interval_hours,
    transfer_cost,
)
from migration.core.inputs import NOT_OFFERED, Tier
from migration.core.slo import BoolArray, FloatArray, IntArray, to_micros
from migration.core.trips import Trip, Window


@dataclass(frozen=True, slots=True)
class ShadowTerms:
    """Prices of one block of pairs.

    tiers : those any of the pairs may have; the next three follow their order
    is_available : (tiers, m)
    hold : per tier, per hour of holding, (m,)
    go : per tier, the cutover in each hour, (T, m)
    interval_h : (m,) hours between syncs
    keep : (m,) per hour of keeping the source as a shadow
    back : (T, 2, m) the way back, the source kept (0) or deleted and sent anew (1)
    end_in_b : (2, m) still owed when the horizon ends away from home
    """

    tiers: tuple[Tier, ...]
    is_available: BoolArray
    hold: list[ShadowCost]
    go: list[MoveCost]
    interval_h: FloatArray
    keep: IntArray
    back: IntArray
    end_in_b: IntArray

    @classmethod
    def of(cls, trip: Trip, window: Window) -> ShadowTerms:
        tiers, is_available = _tiers(trip)
        interval_h = _interval_ahead(trip, window)
        home_h = _home_interval(trip, window)
        back = _way_home(trip, home_h).total()
        again = transfer_cost(trip.fleet("used_bytes"), trip.egress_home)
        both = np.stack([back, back + again], axis=1)
        is_home = trip.region == trip.fleet("home_region")
        return cls(
            tiers=tiers,
            is_available=is_available,
            hold=_holding(trip, tiers, interval_h),
            go=_ways_out(trip, tiers, window, interval_h),
            interval_h=interval_h,
            keep=_source_kept(trip, home_h).total(),
            back=both,
            end_in_b=np.where(is_home, 0, both.min(axis=0)),
        )


def _tiers(trip: Trip) -> tuple[tuple[Tier, ...], BoolArray]:
    """The tiers worth pricing for this block, and (tiers, m) who may have them."""
    world = trip.outlook.world
    allowed = {tier: world.has_tier(tier, trip.pool) for tier in Tier}
    allowed[Tier.HOT] = allowed[Tier.HOT] & (world.hot_price(trip.pool, trip.region) != NOT_OFFERED)
    tiers = tuple(tier for tier in Tier if allowed[tier].any()) or (Tier.SEED,)
    return tiers, np.stack([allowed[tier] for tier in tiers])


def _interval_ahead(trip: Trip, window: Window) -> FloatArray:
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


def _home_interval(trip: Trip, window: Window) -> FloatArray:
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


def _holding(trip: Trip, tiers: Sequence[Tier], interval_h: FloatArray) -> list[ShadowCost]:
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
        for tier in tiers
    ]


def _source_kept(trip: Trip, home_h: FloatArray) -> ShadowCost:
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


def _ways_out(
    trip: Trip, tiers: Sequence[Tier], window: Window, interval_h: FloatArray
) -> list[MoveCost]:
    """Per tier, the price of cutting over in each hour; arrays (T, m)."""
    since_seed = np.maximum(np.arange(len(trip.p_active))[:, None] - window.ready, 0)
    stale = dirty_bytes(since_seed.astype(np.float64), trip.dirty_rate, trip.dirty_limit)
    fresh = mean_dirty_bytes(interval_h, trip.dirty_rate, trip.dirty_limit)
    return [
        _move(trip, tier, stale if tier is Tier.SEED else fresh, is_home=False) for tier in tiers
    ]


def _way_home(trip: Trip, home_h: FloatArray) -> MoveCost:
    delta = mean_dirty_bytes(home_h, trip.dirty_rate, trip.dirty_limit)
    return _move(trip, Tier.WARM, delta, is_home=True)


def _move(trip: Trip, tier: Tier, delta_bytes: FloatArray, *, is_home: bool) -> MoveCost:
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
