"""A priced alternative, and how sums over the paths become its items.

m alternatives, T hours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np

from migration.core.advice import ItemName
from migration.core.alternatives import Pairs
from migration.core.costs import MoveCost
from migration.core.inputs import Tier
from migration.core.outlook import TIERS, Outlook, per_path
from migration.core.recourse import Course
from migration.core.slo import BoolArray, FloatArray, IntArray, to_micros

ITEMS = tuple(ItemName)
N_STAY_ITEMS = 4
"""The first items are paid when staying too; the rest is what acting costs."""
NO_TIER = -1
CELLS = 4096
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


def price_all(
    price: Callable[[Outlook, Pairs], Priced], outlook: Outlook, pairs: Pairs
) -> list[Priced]:
    """Price in blocks small enough for the cache."""
    step = max(CELLS // outlook.n_paths, 1)
    return [price(outlook, pairs.part(slice(i, i + step))) for i in range(0, len(pairs), step)]


def settle(
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
    """Divide what was summed over the paths, and read the dates off the course.

    sums : items in micro-units summed over the paths of `course`; what is missing is 0
    go : (T, m) the cutovers out; worked_hours : (m,) hours of work the target serves better,
        summed over the paths
    """
    n_paths = course.in_b.shape[2]
    every = np.arange(len(pairs))
    nothing = np.zeros(len(pairs), dtype=np.int64)
    items = np.stack([per_path(sums.get(name, nothing), n_paths) for name in ITEMS])
    stay = per_path(outlook.stay[:, pairs.row], outlook.n_paths)
    gone = course.cut_over.sum(axis=2)
    moves = np.maximum(gone.sum(axis=0), 1)
    trips = np.maximum(course.cut_over.any(axis=0).sum(axis=1), 1)
    first: IntArray = course.first_cut.sum(axis=2)
    saved = stay[1:].sum(axis=0) - items[1:N_STAY_ITEMS].sum(axis=0)
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
        other_saving=to_micros((saved - after.sum(axis=0)) * n_paths / trips),
    )


def _reaches(count: IntArray, share: float) -> IntArray:
    """(m,) first hour by which this share of what is counted has come, 0 where nothing is."""
    so_far = np.cumsum(count, axis=0)
    reached: IntArray = np.argmax(so_far >= np.maximum(share * so_far[-1], 1e-9), axis=0)
    return reached
