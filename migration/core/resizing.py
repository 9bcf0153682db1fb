"""The price of another flavor in the same region."""

from __future__ import annotations

import numpy as np

from migration.core.advice import ItemName
from migration.core.alternatives import Pairs
from migration.core.costs import MoveCost
from migration.core.outlook import Outlook, per_path
from migration.core.priced import NO_TIER, Priced, settle
from migration.core.recourse import best_response, follow
from migration.core.slo import BoolArray, FloatArray, IntArray, to_micros
from migration.core.trips import Trip


def price_resizing(outlook: Outlook, pairs: Pairs) -> Priced:
    """Price another flavor in the same region, there and back where demand falls again.

    Nothing is known along a path that the forecast of demand does not hold, so there is one path;
    the server is stopped and started, and nothing travels.
    """
    trip = Trip.of(outlook, pairs)
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
    confidence = _odds(trip, outlook.p_above[pairs.row].T, in_b)
    no_hour = np.zeros(m, dtype=np.int64)
    return settle(
        outlook,
        pairs,
        course,
        sums,
        go,
        tier=no_hour + NO_TIER,
        deletes_source=np.zeros(m, dtype=bool),
        confidence=confidence,
        ready_hour=no_hour,
        last_hour=np.where(in_b.any(axis=0), hours - 1 - np.argmax(in_b[::-1], axis=0), -1),
        is_late=np.zeros(m, dtype=bool),
        is_cooling=trip.fleet("cooldown_hours") >= hours,
        seed_bytes=no_hour,
        interval_h=np.zeros(m),
        site=no_hour - 1,
        worked_hours=np.zeros(m),
    )


def _odds(trip: Trip, p_above_a: FloatArray, in_b: BoolArray) -> FloatArray:
    """(m,) chance that demand exceeds the old flavor, or fits the new one where that is smaller.

    Of the hours on the new flavor the one that speaks most for growing, and least for shrinking.
    """
    worked = in_b & (trip.p_active > 0)
    above = np.where(worked, p_above_a, 0.0).max(axis=0)
    still = np.where(worked, trip.p_above_b, 0.0).max(axis=0)
    vcpus = trip.outlook.world.tables.flavor_vcpus
    odds: FloatArray = np.where(vcpus[trip.flavor_b] < vcpus[trip.flavor_a], 1.0 - still, above)
    return odds


def _restart(trip: Trip, left: IntArray) -> MoveCost:
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
