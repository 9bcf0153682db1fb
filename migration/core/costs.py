"""The arithmetic of planning in money: pure functions over arrays.

Amounts are integer micro-units (1e-6 of the currency), rounded half to even where they arise and
only added afterwards, so that sums stay exact. Unit prices (per GB, per hour) may have fractions
of a micro-unit. Arguments broadcast; a GB is 1e9 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from migration.core.inputs import Strategy, Tier
from migration.core.slo import BoolArray, FloatArray, IntArray, Slo, to_micros

GB = 1e9
SYNC_INTERVALS_H: FloatArray = np.array(
    [1 / 12, 1 / 6, 1 / 4, 1 / 2, 1, 2, 3, 4, 6, 8, 12, 24, 48, 72]
)
NEVER = np.int64(2**55)
"""A price nobody pays: larger than any sum of real ones, small enough to add without overflow."""


def probability_above(
    quantiles: FloatArray, levels: FloatArray, capacity: FloatArray | float
) -> FloatArray:
    """P(demand > capacity), from the quantiles of demand.

    quantiles : (..., L) non-decreasing, at least 0
    levels : (L,) increasing in (0, 1)
    capacity : broadcasts to (...)

    Linear between levels. Below the lowest the distribution runs linearly to 0 at demand 0; above
    the highest it ends in an exponential tail whose density continues that of the last interval
    (nothing lies above when the last two quantiles are equal or there is only one). On a flat
    stretch the highest of its levels counts, as P(demand > c) leaves c itself out. 0 where the
    quantiles are NaN: no forecast claims no saturation.
    """
    capacity = np.broadcast_to(np.asarray(capacity, dtype=np.float64), quantiles.shape[:-1])
    count = (quantiles <= capacity[..., None]).sum(axis=-1)
    top = len(levels)
    at = np.clip(count, 1, top) - 1
    above = np.clip(count, 0, top - 1)
    q_low = np.where(count == 0, 0.0, _pick(quantiles, at))
    l_low = np.where(count == 0, 0.0, levels[at])
    q_high, l_high = _pick(quantiles, above), levels[above]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (capacity - q_low) / (q_high - q_low)
        inside = 1.0 - (l_low + np.clip(share, 0.0, 1.0) * (l_high - l_low))
        result = np.where(count == top, _tail(quantiles, levels, capacity), inside)
    return np.where(np.isfinite(result), result, 0.0)


def _pick(values: FloatArray, index: IntArray) -> FloatArray:
    picked: FloatArray = np.take_along_axis(values, index[..., None], axis=-1)[..., 0]
    return picked


def _tail(quantiles: FloatArray, levels: FloatArray, capacity: FloatArray) -> FloatArray:
    if len(levels) == 1:
        return np.zeros(capacity.shape)
    left = float(1.0 - levels[-1])
    scale = (quantiles[..., -1] - quantiles[..., -2]) * left / (levels[-1] - levels[-2])
    beyond = np.maximum(capacity - quantiles[..., -1], 0.0)
    above: FloatArray = left * np.exp(-beyond / np.where(scale > 0, scale, 1.0))
    return np.where(scale > 0, above, 0.0)


def probability_any_above(first: FloatArray, second: FloatArray) -> FloatArray:
    """Chance that at least one resource is short, the two taken as independent.

    People's cpu and memory demand rise together, so this lies on the careful side: never below
    the larger of the two, never above their sum.
    """
    return 1.0 - (1.0 - first) * (1.0 - second)


def dirty_bytes(hours: FloatArray | float, rate: FloatArray, limit: FloatArray) -> FloatArray:
    """Unique bytes changed in so many hours: limit x (1 - exp(-rate x hours / limit)), concave.

    rate : bytes per hour at first; limit : the working set that is rewritten over and over
    """
    safe = np.maximum(limit, 1.0)
    return limit * -np.expm1(-rate * hours / safe)


def mean_dirty_bytes(hours: FloatArray | float, rate: FloatArray, limit: FloatArray) -> FloatArray:
    """Expected unique dirty bytes at a moment drawn evenly from a sync interval that long."""
    safe = np.maximum(limit, 1.0)
    x = np.maximum(rate * hours / safe, 1e-9)  # the limit at 0 is 0, and x / 2 is exact enough
    return limit * (1.0 + np.expm1(-x) / x)


@dataclass(frozen=True, slots=True)
class Degradation:
    """Expected micro-units per hour, shape (..., R) latency and gravity, (...) saturation."""

    latency: IntArray
    saturation: IntArray
    gravity: IntArray

    def total(self) -> IntArray:
        return self.latency + self.saturation[..., None] + self.gravity


def degradation(
    p_active: FloatArray,
    p_site: FloatArray,
    p_above: FloatArray,
    *,
    latency_per_hour: IntArray,
    gravity_per_hour: IntArray,
    slo: Slo,
) -> Degradation:
    """What staying in each region costs the user in an hour.

    p_active : (...) chance of a session
    p_site : (..., S) where the user is, given a session
    p_above : (...) chance of demand above capacity, given a session
    latency_per_hour : (S, R) `latency_penalty` of each round trip
    gravity_per_hour : (R,) `gravity_penalty` of each region
    """
    return Degradation(
        latency=to_micros(p_active[..., None] * (p_site @ latency_per_hour)),
        saturation=saturation_cost(p_active, p_above, slo.saturation_price_per_hour),
        gravity=to_micros(p_active[..., None] * gravity_per_hour),
    )


def saturation_cost(
    p_active: FloatArray, p_above: FloatArray, price_per_hour: IntArray | int
) -> IntArray:
    """P(active) x P(demand above capacity, given a session) x price of such an hour."""
    return to_micros(p_active * p_above * price_per_hour)


def run_cost(price_per_hour: IntArray, powered_hours: FloatArray | float) -> IntArray:
    """Price of the flavor for the hours it is powered."""
    return to_micros(price_per_hour * powered_hours)


def transfer_cost(size_bytes: FloatArray | IntArray, egress_price_per_gb: FloatArray) -> IntArray:
    """Price of sending so many bytes."""
    return to_micros(size_bytes / GB * egress_price_per_gb)


@dataclass(frozen=True, slots=True)
class ShadowCost:
    """Micro-units per hour of holding a shadow."""

    storage: IntArray
    sync: IntArray
    server: IntArray

    def total(self) -> IntArray:
        return self.storage + self.sync + self.server


def shadow_cost(
    tier: Tier,
    interval_h: FloatArray,
    *,
    volume_bytes: IntArray,
    dirty_rate: FloatArray,
    dirty_limit: FloatArray,
    fixed_sync_bytes: IntArray | int,
    storage_price_per_gb_hour: FloatArray,
    egress_price_per_gb: FloatArray,
    hot_price_per_hour: IntArray | int,
) -> ShadowCost:
    """Storage; for warm and hot the syncs; for hot a small server."""
    storage = to_micros(volume_bytes / GB * storage_price_per_gb_hour)
    each_sync = dirty_bytes(interval_h, dirty_rate, dirty_limit) + fixed_sync_bytes
    sync = to_micros(each_sync / interval_h / GB * egress_price_per_gb)
    nothing = np.zeros_like(storage)
    return ShadowCost(
        storage=storage,
        sync=nothing if tier is Tier.SEED else sync,
        server=nothing + (hot_price_per_hour if tier is Tier.HOT else 0),
    )


def sync_interval_hours(
    *,
    held_hours: FloatArray,
    p_use: FloatArray,
    price_per_byte: FloatArray,
    value_per_byte: FloatArray,
    dirty_rate: FloatArray,
    dirty_limit: FloatArray,
    fixed_sync_bytes: FloatArray | IntArray,
    shortest_h: FloatArray,
    longest_h: FloatArray,
) -> FloatArray:
    """The replication interval that costs least, from `SYNC_INTERVALS_H`; shape (m,).

    held_hours : how long the shadow is held, during which syncs are paid
    p_use : chance that it will be used, when one final delta is sent while the user waits
    price_per_byte : micro-units to send a byte; value_per_byte : micro-units a byte less in the
        final delta is worth (egress and stall)

    At the best interval one more sync costs as much as the smaller final delta is expected to
    gain. The more likely the shadow is used the shorter it gets. Equal costs: the longer one.
    Where the bounds leave no step of the list, the longest bound counts.
    """
    interval = SYNC_INTERVALS_H[::-1, None]
    syncs = held_hours / interval
    sent = dirty_bytes(interval, dirty_rate, dirty_limit) + fixed_sync_bytes
    final = mean_dirty_bytes(interval, dirty_rate, dirty_limit)
    cost = syncs * sent * price_per_byte + p_use * final * value_per_byte
    in_bounds = (interval >= shortest_h) & (interval <= longest_h)
    best = np.argmin(np.where(in_bounds, cost, np.inf), axis=0)
    return np.where(in_bounds.any(axis=0), interval[best, 0], longest_h)


@dataclass(frozen=True, slots=True)
class MoveCost:
    """Expected micro-units of one cutover and how it is made; all of one shape.

    strategy : index of the cheapest allowed strategy, -1 where none is allowed
    """

    egress: IntArray
    stall: IntArray
    session_loss: IntArray
    risk: IntArray
    source_commit: IntArray
    strategy: IntArray
    stall_s: FloatArray

    def total(self) -> IntArray:
        """`NEVER` where no strategy is allowed."""
        price = self.egress + self.stall + self.session_loss + self.risk + self.source_commit
        return np.where(self.strategy < 0, NEVER, price)


def move_cost(
    strategies: Sequence[Strategy],
    tier: Tier,
    *,
    source: IntArray,
    target: IntArray,
    same_flavor: BoolArray,
    delta_bytes: FloatArray,
    volume_bytes: IntArray,
    memory_bytes: IntArray,
    link_bytes_per_s: FloatArray,
    egress_price_per_gb: FloatArray,
    p_active: FloatArray,
    stall_price_per_s: IntArray,
    session_loss_price: IntArray,
    fixed_risk: IntArray,
    commit_cost: IntArray,
) -> MoveCost:
    """Price one cutover per element by the cheapest strategy allowed there; arguments broadcast.

    source, target : region indices; p_active : chance that somebody works in that hour
    delta_bytes : still to send in the freeze; commit_cost : keeping the source that long
    """
    shape = np.broadcast_shapes(p_active.shape, np.shape(delta_bytes), np.shape(source))
    zeros = np.zeros(shape, dtype=np.int64)
    risk = zeros + fixed_risk
    commit = zeros + commit_cost
    best = MoveCost(zeros, zeros, zeros, risk, commit, zeros - 1, np.zeros(shape))
    for number, strategy in enumerate(strategies):
        memory = memory_bytes if strategy.carries_memory else 0
        waiting_bytes = (
            strategy.delta_in_stall_ratio * delta_bytes + strategy.memory_in_stall_ratio * memory
        )
        scan_s = volume_bytes / strategy.scan_bytes_per_s
        stall_s = strategy.fixed_stall_s[tier] + scan_s + waiting_bytes / link_bytes_per_s
        lost = 0 if strategy.carries_memory else session_loss_price
        option = MoveCost(
            egress=zeros + transfer_cost(delta_bytes + memory, egress_price_per_gb),
            stall=zeros + to_micros(stall_s * p_active * stall_price_per_s),
            session_loss=zeros + to_micros(p_active * lost),
            risk=risk,
            source_commit=commit,
            strategy=zeros + number,
            stall_s=np.zeros(shape) + stall_s,
        )
        usable = strategy.allowed[source, target] & (same_flavor | (not strategy.needs_same_flavor))
        best = _cheaper(best, option, usable & (option.total() < best.total()))
    return best


def _cheaper(old: MoveCost, new: MoveCost, is_new: BoolArray) -> MoveCost:
    return MoveCost(
        **{name: np.where(is_new, getattr(new, name), getattr(old, name)) for name in _MOVE_FIELDS}
    )


_MOVE_FIELDS = tuple(MoveCost.__dataclass_fields__)
