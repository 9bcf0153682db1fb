"""Announced travel: strong evidence of where somebody will be, and of when they will be back.

How strong is learned from announcements that are over: how often people were then seen where they
had said, apart for the first and last half day of a trip, when they may be on their way. Of a trip
in whose middle somebody was last seen elsewhere little is believed: they stayed, or are back.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from forecasting.core.arrays import AnyArray, BoolArray, FloatArray, IntArray
from forecasting.errors import InvalidHistory

HOUR_S = 3600
EDGE_S = 12 * HOUR_S
# How often people are where they announced, and for how many sightings that counts before any:
# at the ends of a trip, and in its middle.
AT_EDGE, IN_MIDDLE = (0.7, 10.0), (0.95, 20.0)
# The same of a trip in whose middle they were last seen elsewhere.
MISSED = (0.2, 10.0)
SUREST = 0.995


@dataclass(frozen=True)
class Trips:
    """Announced travel; shape (n,) each, in the order in which it was announced.

    user, place : labels; start_s, end_s : seconds since 1970 UTC, the end exclusive

    Only what had been announced by the moment of a forecast, and not been taken back, belongs here.
    Of two trips at one time the later counts.
    """

    user: AnyArray
    place: AnyArray
    start_s: FloatArray
    end_s: FloatArray

    def __post_init__(self) -> None:
        if not len(self.user) == len(self.place) == len(self.start_s) == len(self.end_s):
            raise InvalidHistory("announced trips differ in length")
        if not (self.start_s < self.end_s).all():
            raise InvalidHistory("an announced trip ends before it begins")

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Announced:
    """Trips of numbered people to numbered places; shape (n,) each.

    trust : how often people are where they announced: at the ends of a trip, in its middle
    most : shape (n,), how likely each trip is kept at most, less where it was seen not to be
    newcomers : numbers of those who were never seen, after all the others
    """

    user: IntArray
    place: IntArray
    start_s: FloatArray
    end_s: FloatArray
    trust: tuple[float, float] = (AT_EDGE[0], IN_MIDDLE[0])
    most: FloatArray | None = None
    newcomers: Mapping[Hashable, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        trips: Trips,
        *,
        users: Mapping[Hashable, int],
        places: Mapping[Hashable, int],
        seen: tuple[IntArray, IntArray, FloatArray],
    ) -> Announced:
        """Number what is announced, and learn how far it can be trusted.

        users, places : number of each label; trips to others are left out
        seen : user, place and time of every sighting, in order of user and time; shape (n,) each
        """
        strangers = dict.fromkeys(each for each in trips.user.tolist() if each not in users)
        newcomers = {label: number for number, label in enumerate(strangers, start=len(users))}
        number = {**users, **newcomers}
        user = np.array([number[u] for u in trips.user.tolist()], dtype=np.int64)
        place = np.array([places.get(p, -1) for p in trips.place.tolist()], dtype=np.int64)
        known = np.flatnonzero(place >= 0)
        made = cls(
            user[known],
            place[known],
            np.asarray(trips.start_s, dtype=np.float64)[known],
            np.asarray(trips.end_s, dtype=np.float64)[known],
        )
        seen_user, seen_place, at_s = seen
        row = made.during(seen_user, at_s)
        on_trip = np.flatnonzero(row >= 0)
        trip = row[on_trip]
        kept = made.place[trip] == seen_place[on_trip]
        is_edge = made.is_edge(trip, at_s[on_trip])
        is_miss = ~kept & ~is_edge
        after_miss = np.zeros(len(trip), dtype=np.bool_)
        after_miss[1:] = is_miss[:-1] & (trip[1:] == trip[:-1])
        at_edge, in_middle, missed = (
            min((kept[some].sum() + share * count) / (some.sum() + count), SUREST)
            for some, (share, count) in (
                (is_edge, AT_EDGE),
                (~is_edge, IN_MIDDLE),
                (after_miss, MISSED),
            )
        )
        is_last = np.diff(seen_user, append=-1)[on_trip] != 0
        most = np.ones(len(made))
        most[trip[is_last & is_miss]] = missed
        return replace(made, trust=(at_edge, in_middle), most=most, newcomers=newcomers)

    def __len__(self) -> int:
        return len(self.user)

    def during(self, user: IntArray, at_s: FloatArray) -> IntArray:
        """The trip each person has announced for a time, -1 for none; shape (n,)."""
        trip = np.full(len(user), -1)
        order = np.argsort(user, kind="stable")
        first, end = (np.searchsorted(user[order], self.user, side) for side in ("left", "right"))
        for row in range(len(self)):
            theirs = order[first[row] : end[row]]
            when = at_s[theirs]
            trip[theirs[(when >= self.start_s[row]) & (when < self.end_s[row])]] = row
        return trip

    def leaves_s(self, place: IntArray, last_s: FloatArray) -> FloatArray:
        """When each person's present trip ends as announced, infinity without one; (n_users,).

        place, last_s : where and when each was last seen; on a trip are those seen where they
            had announced to be
        """
        trip = self.during(np.arange(len(place)), last_s)
        end_s = np.full(len(place), np.inf)
        there = np.flatnonzero(trip >= 0)
        there = there[self.place[trip[there]] == place[there]]
        end_s[there] = self.end_s[trip[there]]
        return end_s

    def is_edge(self, trip: IntArray, at_s: FloatArray) -> BoolArray:
        edge: BoolArray = (at_s - self.start_s[trip] < EDGE_S) | (self.end_s[trip] - at_s < EDGE_S)
        return edge

    def chance(self, trip: IntArray, at_s: FloatArray) -> FloatArray:
        """How likely somebody is where they announced, shape (n,)."""
        chance: FloatArray = np.where(self.is_edge(trip, at_s), *self.trust)
        return chance if self.most is None else np.minimum(chance, self.most[trip])


def with_trip(
    location: Mapping[str, FloatArray],
    *,
    starts_at: datetime,
    place: str,
    start: datetime,
    end: datetime,
    trust: tuple[float, float] = (AT_EDGE[0], IN_MIDDLE[0]),
) -> dict[str, FloatArray]:
    """The map as it would be, had the trip been announced; the one given stays as it is.

    location : place → probability by hour from `starts_at` on, summing to 1 at every hour
    start, end : of the trip, the end exclusive; hours count by their beginning
    trust : how often people are where they announced: at the ends of a trip, in its middle
    """
    hours = len(next(iter(location.values()), ()))
    at_s = np.arange(hours, dtype=np.float64) * HOUR_S + starts_at.timestamp()
    nobody = np.zeros(1, dtype=np.int64)
    announced = Announced(
        nobody, nobody, np.array([start.timestamp()]), np.array([end.timestamp()]), trust
    )
    trip = announced.during(np.zeros(hours, dtype=np.int64), at_s)
    away = trip >= 0
    chance = np.zeros(hours)
    chance[away] = announced.chance(trip[away], at_s[away])
    changed = {name: ((1 - chance) * p).astype(p.dtype) for name, p in location.items()}
    if hours:
        dtype = next(iter(location.values())).dtype
        changed[place] = (changed.get(place, np.zeros(hours)) + chance).astype(dtype)
    return changed
