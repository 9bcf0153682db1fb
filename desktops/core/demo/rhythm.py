"""When the people of the demo fleet work: share of every hour with a session."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from desktops.core.demo.calendar import Calendar
from desktops.core.demo.people import Person, Rhythm

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

START_HOUR = {Rhythm.OFFICE: 8.8, Rhythm.TRADER: 7.0, Rhythm.PART_TIME: 9.2}
WORK_HOURS = {Rhythm.OFFICE: 8.8, Rhythm.TRADER: 10.4, Rhythm.PART_TIME: 5.0}
SHIFT_STARTS = np.array([6.0, 14.0, 22.0])
SHIFT_HOURS = 8.0
P_SICK_DAY = 0.02
P_LEAVE = 0.2  # of taking five to nine days off somewhere in the calendar
P_WEEKEND_LOOK_IN = 0.05
MONTH_END_EXTRA_HOURS = 1.5


def active_ratio(
    people: Sequence[Person],
    place: IntArray,
    place_of_day: IntArray,
    calendar: Calendar,
    rng: np.random.Generator,
) -> FloatArray:
    """(people, hours) in 0..1, by the local time of where each person is.

    place, place_of_day : from `travel`, (people, hours) and (people, days)
    """
    start, length = _working_days(people, place_of_day, calendar, rng)
    hours = np.arange(calendar.hours)
    day = calendar.day[place, hours]
    clock = calendar.hour_of_day[place, hours]
    rows = np.arange(len(people))[:, None]
    today = _overlap(clock, start[rows, day], length[rows, day])
    # What began yesterday and goes on after midnight.
    yesterday = _overlap(clock + 24, start[rows, day - 1], length[rows, day - 1])
    lunch_at = start[rows, day] + 0.45 * length[rows, day]
    lunch = 0.6 * _overlap(clock, lunch_at, np.where(length[rows, day] > 6, 0.8, 0.0))
    focus = rng.beta(14, 1.6, size=day.shape)
    ratio: FloatArray = np.clip(today + yesterday - lunch, 0, 1) * focus
    return ratio


def _overlap(clock: FloatArray, start: FloatArray, length: FloatArray) -> FloatArray:
    """Share of the hour that begins at `clock` within [start, start + length)."""
    end = start + length
    share: FloatArray = np.clip(np.minimum(clock + 1, end) - np.maximum(clock, start), 0, 1)
    return share


def _working_days(
    people: Sequence[Person],
    place_of_day: IntArray,
    calendar: Calendar,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """(people, days) each: local hour at which work begins, and hours of it, 0 on a day off."""
    shape = (len(people), calendar.days)
    rhythm = np.array([p.rhythm for p in people])
    is_shift = rhythm == Rhythm.SHIFT
    weekend = calendar.weekday >= 5
    holiday = calendar.is_holiday[place_of_day, np.arange(calendar.days)]
    off = np.where(is_shift[:, None], _rota_off(shape, rng), weekend | holiday)
    off |= _part_time_off(rhythm, calendar, rng)
    look_in = off & ~is_shift[:, None] & (rng.random(shape) < P_WEEKEND_LOOK_IN)
    absent = (rng.random(shape) < P_SICK_DAY) | _leave(shape, rng)

    start = np.array([START_HOUR.get(p.rhythm, 0.0) for p in people])
    start = (start + rng.normal(0, 0.5, len(people)))[:, None] + rng.normal(0, 0.25, shape)
    length = np.array([WORK_HOURS.get(p.rhythm, SHIFT_HOURS) for p in people])[:, None]
    length = length + rng.normal(0, 0.4, shape)
    length = length + MONTH_END_EXTRA_HOURS * (
        calendar.is_month_end & np.isin(rhythm, (Rhythm.OFFICE, Rhythm.TRADER))[:, None]
    )
    shift_start = _shift_start(shape, rng)
    start = np.where(is_shift[:, None], shift_start, start)
    length = np.where(is_shift[:, None], SHIFT_HOURS, length)

    start = np.where(look_in, rng.uniform(10, 18, shape), start)
    length = np.where(look_in, rng.uniform(0.5, 2, shape), np.where(off, 0.0, length))
    return start, np.where(absent, 0.0, length)


def _rota_off(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Five days on, two off, from a weekday of one's own."""
    first = rng.integers(7, size=(shape[0], 1))
    is_off: NDArray[np.bool_] = (np.arange(shape[1]) + first) % 7 >= 5
    return is_off


def _shift_start(shape: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    """Early, late, night, a week each; the change falls into the days off only by chance."""
    week = (np.arange(shape[1]) + rng.integers(7, size=(shape[0], 1))) // 7
    start: FloatArray = SHIFT_STARTS[(week + rng.integers(3, size=(shape[0], 1))) % 3]
    return start


def _part_time_off(
    rhythm: NDArray[np.str_], calendar: Calendar, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Two weekdays of one's own are free."""
    free = np.argsort(rng.random((len(rhythm), 5)), axis=1)[:, :2]
    is_free: NDArray[np.bool_] = (calendar.weekday == free[:, :, None]).any(axis=1)
    is_free &= (rhythm == Rhythm.PART_TIME)[:, None]
    return is_free


def _leave(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    first = rng.integers(shape[1], size=(shape[0], 1))
    last = first + rng.integers(4, 9, size=(shape[0], 1))
    takes_it = rng.random((shape[0], 1)) < P_LEAVE
    day = np.arange(shape[1])
    return takes_it & (first <= day) & (day <= last)
