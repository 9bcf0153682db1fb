"""The price of a shadow elsewhere: the best tier, and what to do with the source.

m pairs, T hours, K paths, V variants: each tier with the source kept (even) and deleted (odd).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from migration.core.advice import ItemName
from migration.core.alternatives import Pairs
from migration.core.costs import NEVER, MoveCost, transfer_cost
from migration.core.outlook import TIERS, Outlook
from migration.core.priced import Priced, settle
from migration.core.recourse import Course, Recourse, best_response, follow
from migration.core.shadows import ShadowTerms
from migration.core.slo import BoolArray, IntArray
from migration.core.trips import Trip, Window


def price_preparing(outlook: Outlook, pairs: Pairs) -> Priced:
    """Price the best shadow of each pair."""
    trip = Trip.of(outlook, pairs)
    window = Window.of(trip)
    terms = ShadowTerms.of(trip, window)
    latency_a, latency_b, is_better = trip.latencies()
    recourse = _respond(trip, window, terms, latency_a, latency_b, is_better)
    chosen = _Chosen.of(terms, recourse)
    course = chosen.course
    worked = trip.p_active[:, :, None] * (course.in_b & (latency_a > latency_b))
    on_paths = outlook.site_paths is not None
    is_shut = ~window.open.any(axis=0) & (window.last >= 0)
    tier_numbers = np.array([TIERS.index(tier) for tier in terms.tiers])
    latency = np.where(course.in_b, latency_b, latency_a).sum(axis=(0, 2))
    return settle(
        outlook,
        pairs,
        course,
        _bill(trip, window, terms, chosen, latency),
        chosen.go,
        tier=tier_numbers[chosen.tier],
        deletes_source=chosen.deletes,
        confidence=course.in_b.any(axis=0).mean(axis=1) if on_paths else trip.odds(course),
        ready_hour=window.ready,
        last_hour=window.last,
        is_late=is_shut & (window.ready > window.last),
        is_cooling=is_shut & (trip.fleet("cooldown_hours") > window.last),
        seed_bytes=trip.seed_bytes,
        interval_h=terms.interval_h,
        site=trip.busiest_site(course.in_b.sum(axis=2)),
        worked_hours=worked.sum(axis=(0, 2)),
    )


def _respond(
    trip: Trip,
    window: Window,
    terms: ShadowTerms,
    latency_a: IntArray,
    latency_b: IntArray,
    is_better: BoolArray,
) -> Recourse:
    nothing = np.zeros_like(terms.keep)
    held = [trip.base_a + window.held * cost.total() for cost in terms.hold]
    away = [trip.base_b + terms.keep, trip.base_b + nothing]
    out = [
        np.where(available, cost.total(), NEVER)
        for cost, available in zip(terms.go, terms.is_available, strict=True)
    ]
    on_paths = trip.outlook.site_paths is not None
    n_tiers = len(terms.tiers)
    return best_response(
        path_a=latency_a,
        path_b=latency_b,
        hour_a=np.repeat(np.stack(held, axis=1), 2, axis=1),
        hour_b=np.tile(np.stack(away, axis=1), (1, n_tiers, 1)),
        go=np.repeat(np.stack(out, axis=1), 2, axis=1),
        back=np.tile(terms.back, (1, n_tiers, 1)),
        can_go=window.open[:, :, None] & is_better,
        # Seen where the target serves no better, people may be taken home.
        can_return=~is_better if on_paths else np.ones_like(is_better),
        end_in_b=np.tile(terms.end_in_b, (n_tiers, 1)),
    )


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The cheapest variant of each pair, followed along its paths; (m,), go (T, m).

    tier : position in the terms' tiers; back, end_in_b : of the variant, (T, m) and (m,)
    """

    tier: IntArray
    deletes: BoolArray
    course: Course
    go: MoveCost
    back: IntArray
    end_in_b: IntArray

    @classmethod
    def of(cls, terms: ShadowTerms, recourse: Recourse) -> _Chosen:
        value = np.where(np.repeat(terms.is_available, 2, axis=0), recourse.value, NEVER)
        best = np.argmin(value, axis=0)
        every = np.arange(len(best))
        tier, deleted = best // 2, best % 2
        return cls(
            tier=tier,
            deletes=deleted == 1,
            course=follow(recourse.goes[:, best, every], recourse.returns[:, best, every]),
            go=_of_tier(terms.go, tier),
            back=terms.back[:, deleted, every],
            end_in_b=terms.end_in_b[deleted, every],
        )


def _of_tier(costs: list[MoveCost], tier: IntArray) -> MoveCost:
    every = np.arange(len(tier))
    names = [f.name for f in fields(MoveCost)]
    return MoveCost(
        **{n: np.stack([getattr(c, n) for c in costs])[tier, :, every].T for n in names}
    )


def _bill(
    trip: Trip, window: Window, terms: ShadowTerms, chosen: _Chosen, latency: IntArray
) -> dict[ItemName, IntArray]:
    """(m,) each item summed over the paths; together they are what `best_response` valued."""
    course, go, n_paths = chosen.course, chosen.go, trip.outlook.n_paths
    in_b: IntArray = course.in_b.sum(axis=2)
    in_a = n_paths - in_b
    gone, returned = course.cut_over.sum(axis=2), course.cut_back.sum(axis=2)
    held_hours = (in_a * window.held).sum(axis=0)
    storage, sync, server = (
        held_hours * np.choose(chosen.tier, [getattr(cost, name) for cost in terms.hold])
        for name in ("storage", "sync", "server")
    )
    away_at_end = course.in_b[-1].sum(axis=1)
    return {
        ItemName.LATENCY: latency,
        ItemName.SATURATION: (in_a * trip.saturation_a + in_b * trip.saturation_b).sum(axis=0),
        ItemName.GRAVITY: (in_a * trip.gravity_a + in_b * trip.gravity_b).sum(axis=0),
        ItemName.RUN: (in_a * trip.run_a + in_b * trip.run_b).sum(axis=0),
        ItemName.SHADOW_SEED: n_paths * transfer_cost(trip.seed_bytes, trip.egress),
        ItemName.SHADOW_STORAGE: storage,
        ItemName.SHADOW_SYNC: sync,
        ItemName.SHADOW_SERVER: server,
        ItemName.EGRESS: (gone * go.egress).sum(axis=0),
        ItemName.STALL: (gone * go.stall).sum(axis=0),
        ItemName.SESSION_LOSS: (gone * go.session_loss).sum(axis=0),
        ItemName.RISK: (gone * go.risk).sum(axis=0),
        ItemName.SOURCE_COMMIT: (gone * go.source_commit).sum(axis=0),
        ItemName.SOURCE_SHADOW: in_b.sum(axis=0) * np.where(chosen.deletes, 0, terms.keep),
        ItemName.WAY_HOME: (returned * chosen.back).sum(axis=0) + away_at_end * chosen.end_in_b,
    }
