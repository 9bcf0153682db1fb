"""Where the people of the demo fleet are, hour by hour: the truth a forecast is held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from desktops.core.demo.calendar import Calendar
from desktops.core.demo.people import Person, Travel
from desktops.core.geo import great_circle_km

FAR_KM = 4000.0  # nearer, the same region serves both places
ON_A_TRIP_NOW = 6  # of those who travel now and then


@dataclass(frozen=True, slots=True)
class Trip:
    """A stay from the first to the last local day at `site`, both included.

    person : row of the person; site : index; days are numbered as in `Calendar`
    """

    person: int
    site: int
    first_day: int
    last_day: int


def make_trips(
    people: Sequence[Person], calendar: Calendar, today: int, rng: np.random.Generator
) -> tuple[Trip, ...]:
    """Trips within the calendar, none overlapping for one person.

    today : number of the day at which history ends; some people are away on it
    """
    far = _far_sites(calendar)
    trips: list[Trip] = []
    away_now = 0
    for row, person in enumerate(people):
        if person.travel is Travel.NONE:
            continue
        usual = int(rng.choice(far[person.site]))
        if person.travel is Travel.TRIPS:
            is_away_now = away_now < ON_A_TRIP_NOW
            away_now += is_away_now
            stays = _occasional(calendar, today, is_away_now, rng)
        else:
            stays = _regular(person.travel, calendar, today, rng)
        for first, last in stays:
            is_usual = person.travel is not Travel.TRIPS or rng.random() < 0.7
            site = usual if is_usual else int(rng.choice(far[person.site]))
            trips.append(Trip(row, site, max(first, 0), last))
    return tuple(trips)


def place_by_hour(
    people: Sequence[Person], trips: Sequence[Trip], calendar: Calendar
) -> NDArray[np.int64]:
    """(people, hours): index of the site; a trip lasts from midnight to midnight there."""
    place = np.repeat(np.array([[p.site] for p in people]), calendar.hours, axis=1)
    for trip in trips:
        day = calendar.day[trip.site]
        place[trip.person, (trip.first_day <= day) & (day <= trip.last_day)] = trip.site
    return place


def place_by_day(
    people: Sequence[Person], trips: Sequence[Trip], calendar: Calendar
) -> NDArray[np.int64]:
    """(people, days): index of the site on each local day."""
    place = np.repeat(np.array([[p.site] for p in people]), calendar.days, axis=1)
    for trip in trips:
        place[trip.person, trip.first_day : trip.last_day + 1] = trip.site
    return place


def _far_sites(calendar: Calendar) -> list[list[int]]:
    latitude = np.array([s.latitude for s in calendar.sites])
    longitude = np.array([s.longitude for s in calendar.sites])
    km = great_circle_km(latitude[:, None], longitude[:, None], latitude[None], longitude[None])
    return [np.flatnonzero(row > FAR_KM).tolist() for row in km]


def _regular(
    travel: Travel, calendar: Calendar, today: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    if travel is Travel.RELOCATED:
        return [(today - int(rng.integers(21, 43)), calendar.days - 1)]
    if travel is Travel.SECONDED:
        return [(today - int(rng.integers(10, 30)), today + int(rng.integers(10, 25)))]
    if travel is Travel.FORTNIGHTLY:
        days, every = (1, 3), 2
    else:
        days, every = ((0, 2), (1, 3), (3, 4))[int(rng.integers(3))], 1
    mondays = np.flatnonzero(calendar.weekday == 0)[int(rng.integers(every)) :: every]
    stays = [(int(monday) + days[0], int(monday) + days[1]) for monday in mondays]
    return [stay for stay in stays if stay[1] < calendar.days]


def _occasional(
    calendar: Calendar, today: int, is_away_now: bool, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Stays of three to ten days, weeks apart."""
    stays = list(_stays_from(int(rng.integers(4, 20)), calendar.days, rng))
    if is_away_now:
        now = (today - int(rng.integers(1, 4)), today + int(rng.integers(3, 7)))
        stays = [s for s in stays if s[1] < now[0] - 1 or s[0] > now[1] + 1]
        stays = sorted([*stays, now])
    return stays


def _stays_from(day: int, days: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    while True:
        length = int(rng.integers(3, 11))
        if day + length > days:
            return
        yield day, day + length - 1
        day += length + int(rng.integers(9, 28))
