"""The demo fleet: invented people with human rhythms, from a seed. Nothing here was observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from desktops.core.demo.calendar import DAY_MARGIN, HOURS_PER_DAY, Calendar, Site
from desktops.core.demo.demand import Demand, demand
from desktops.core.demo.people import Person, make_people
from desktops.core.demo.rhythm import active_ratio
from desktops.core.demo.travel import Trip, make_trips, place_by_day, place_by_hour

HISTORY_DAYS = 56
FUTURE_DAYS = 14


@dataclass(frozen=True, slots=True)
class Fleet:
    """Arrays are (people, hours); the first `history_hours` of them may be observed, the rest is
    what will happen: known here, and to nobody else.

    place : index into calendar.sites, whether or not somebody works there at that hour
    active_ratio : share of the hour with a session
    first_hour : (people,), where a person's history begins; history_hours for none at all
    """

    calendar: Calendar
    people: tuple[Person, ...]
    trips: tuple[Trip, ...]
    history_hours: int
    first_hour: NDArray[np.int64]
    place: NDArray[np.int64]
    active_ratio: NDArray[np.float64]
    demand: Demand

    @property
    def is_observed(self) -> NDArray[np.bool_]:
        hour = np.arange(self.calendar.hours)
        observed: NDArray[np.bool_] = (hour >= self.first_hour[:, None]) & (
            hour < self.history_hours
        )
        return observed


def make_fleet(
    *, sites: Sequence[Site], end: datetime, seed: int, history_days: int = HISTORY_DAYS
) -> Fleet:
    """Days of history that end at `end` (aware, a whole hour), and two weeks that follow.

    Same arguments, same fleet. `sites` must hold every code of `people.SITE_CODES`.
    """
    rng = np.random.default_rng(seed)
    history_hours = history_days * HOURS_PER_DAY
    calendar = Calendar(
        sites=tuple(sites),
        start=end - timedelta(hours=history_hours),
        hours=history_hours + FUTURE_DAYS * HOURS_PER_DAY,
    )
    people = make_people(calendar.sites, rng)
    trips = make_trips(people, calendar, today=history_days + DAY_MARGIN, rng=rng)
    place = place_by_hour(people, trips, calendar)
    active = active_ratio(people, place, place_by_day(people, trips, calendar), calendar, rng)
    known_hours = [
        history_hours if p.history_days is None else p.history_days * HOURS_PER_DAY for p in people
    ]
    return Fleet(
        calendar=calendar,
        people=people,
        trips=trips,
        history_hours=history_hours,
        first_hour=np.maximum(history_hours - np.array(known_hours), 0),
        place=place,
        active_ratio=active,
        demand=demand(people, active, place, calendar, rng),
    )
