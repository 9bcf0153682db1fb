"""The plan for a fleet: one advice per desktop, in money, with its reason.

Two stages. Now it is decided what to prepare; the cutover is decided later, with more knowledge.
So an alternative is worth what remains of the cost of staying when, along each sampled path of
the user's whereabouts, the cheaper of staying and cutting over is taken, the cutover never before
the user is seen where the target serves better and the shadow is whole (`recourse`), less what
preparing costs. Each path is played knowing how it goes on, which makes preparing look somewhat
better than it is for people whose trips vary much in length; minimum gain and hysteresis answer
for that. Without paths the plan is made on the hourly map.

The steps: screen (`alternatives`), price (`preparing`, `resizing`), keep what gains enough, share
what is scarce (`allocation`), say it (`writing`, `reasons`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from migration.core.advice import Advice, StayReason
from migration.core.allocation import allocate, reachable_limits
from migration.core.alternatives import find_alternatives
from migration.core.inputs import (
    FleetInput,
    FleetLimits,
    PlanInputError,
    PoolPolicy,
    WorldTables,
    check_fleet,
)
from migration.core.outlook import World, look_ahead, per_path
from migration.core.preparing import price_preparing
from migration.core.priced import N_STAY_ITEMS, Priced, price_all
from migration.core.resizing import price_resizing
from migration.core.slo import BoolArray, IntArray
from migration.core.writing import WhyStay, Writer

CHUNK = 512
"""Desktops looked at together; bounds memory whatever the fleet's size."""


def plan_fleet(
    fleet: FleetInput,
    *,
    tables: WorldTables,
    policies: Sequence[PoolPolicy],
    now: datetime,
    currency: str = "EUR",
    limits: FleetLimits | None = None,
) -> list[Advice]:
    """Advise on every desktop, in the order of the fleet.

    policies : one per pool, indexed by `fleet.pool`
    now : aware; hours of the forecast that have passed are left out, the running hour counts whole

    Raises `PlanInputError` naming the field that is wrong, or when the forecast has run out.
    """
    check_fleet(fleet, tables, policies)
    fleet = fleet.from_hour(_first_hour(fleet, now))
    world = World.of(tables, policies)
    drafts = [
        _draft(fleet.rows(slice(first, first + CHUNK)), world, first)
        for first in range(0, len(fleet), CHUNK)
    ]
    if not drafts:
        return []
    draft = _join(drafts)
    good = draft.priced.pick(is_worth_it(draft.priced, fleet, world))
    shared = reachable_limits(good, fleet, tables, limits or FleetLimits())
    share = allocate(good.row, good.gain, shared)
    labels = [limit.label for limit in shared]
    writer = Writer(fleet, world, currency, draft.stay)
    why = why_stay(draft, good, [labels[i] if i >= 0 else "" for i in share.short], fleet, world)
    taken = {int(good.row[i]): int(i) for i in np.nonzero(share.taken)[0]}
    return [
        writer.act(good, taken[row]) if row in taken else writer.stay(row, why[row])
        for row in range(len(fleet))
    ]


def is_worth_it(priced: Priced, fleet: FleetInput, world: World) -> BoolArray:
    """(m,) gains something, at least the minimum, and clearly more than what it costs to act."""
    pool = fleet.pool[priced.row]
    acting = priced.items[N_STAY_ITEMS:].sum(axis=0)
    result: BoolArray = (
        (priced.gain > 0)
        & (priced.gain >= world.by_pool("min_gain", pool))
        & (priced.gain >= world.ratio_by_pool("hysteresis_ratio", pool) * acting)
    )
    return result


@dataclass(frozen=True, slots=True)
class _Draft:
    """Everything priced for the fleet, before anything is shared.

    stay : (4, n) items of staying, micro-units; held_back : (n,) as in `Alternatives`
    """

    stay: IntArray
    priced: Priced
    held_back: BoolArray


def _draft(fleet: FleetInput, world: World, first: int) -> _Draft:
    """Price one chunk, whose first row is `first` of the fleet."""
    outlook = look_ahead(fleet, world)
    found = find_alternatives(outlook)
    parts = [
        *price_all(price_preparing, outlook, found.elsewhere),
        *price_all(price_resizing, outlook, found.resizes),
    ]
    # With nothing to price, an empty block keeps the shapes.
    priced = Priced.join(parts or [price_resizing(outlook, found.resizes)])
    return _Draft(
        stay=per_path(outlook.stay, outlook.n_paths),
        priced=replace(priced, row=priced.row + first),
        held_back=found.held_back,
    )


def _join(drafts: list[_Draft]) -> _Draft:
    return _Draft(
        stay=np.concatenate([d.stay for d in drafts], axis=1),
        priced=Priced.join([d.priced for d in drafts]),
        held_back=np.concatenate([d.held_back for d in drafts]),
    )


def why_stay(
    draft: _Draft, good: Priced, short: Sequence[str], fleet: FleetInput, world: World
) -> list[WhyStay]:
    """For every desktop, what to say if it stays.

    short : per alternative of `good`, the limit that held it back
    """
    why = _without_alternatives(draft)
    is_hopeless = draft.stay[:3].sum(axis=0) <= world.by_pool("min_gain", fleet.pool)
    priced = draft.priced
    for i in np.argsort(priced.gain, kind="stable").tolist():  # the best comes last and stays
        row = int(priced.row[i])
        why[row] = WhyStay(
            _why_not(priced, i, bool(is_hopeless[row])),
            gain=int(priced.gain[i]),
            region=int(priced.region[i]),
        )
    for i in np.argsort(good.gain, kind="stable").tolist():
        why[int(good.row[i])] = WhyStay(
            StayReason.NO_CAPACITY,
            gain=int(good.gain[i]),
            region=int(good.region[i]),
            short=short[i],
        )
    return why


def _without_alternatives(draft: _Draft) -> list[WhyStay]:
    return [
        WhyStay(StayReason.NOT_ALLOWED if held else StayReason.NOTHING_TO_GAIN)
        for held in draft.held_back.tolist()
    ]


def _why_not(priced: Priced, one: int, is_hopeless: bool) -> StayReason:
    if priced.gain[one] > 0:
        return StayReason.BELOW_MIN_GAIN
    if priced.is_cooling[one]:
        return StayReason.COOLDOWN
    if priced.is_late[one]:
        return StayReason.NOT_READY
    return StayReason.NOTHING_TO_GAIN if is_hopeless else StayReason.COSTS_MORE


def _first_hour(fleet: FleetInput, now: datetime) -> int:
    if now.tzinfo is None:
        raise PlanInputError("now must be an aware datetime")
    passed = max((now - fleet.start) // timedelta(hours=1), 0)
    if passed >= fleet.hours:
        raise PlanInputError(f"the forecast starts {fleet.start} and ended before now, {now}")
    return passed
