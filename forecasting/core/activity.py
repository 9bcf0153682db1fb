"""The probability that somebody has a session, hour by hour ahead.

Several guesses (the person's own hour of the week, long and lately; the fleet's; going on as just
now; being away) are mixed by `gate`, whose weights are fitted on what the fleet did in earlier
weeks given the same circumstances.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray, IntArray
from forecasting.core.calendar import Holidays
from forecasting.core.gate import Gate, fit_gate
from forecasting.core.seasonal import SUNDAY
from forecasting.core.timeline import DAY_S, Timeline
from forecasting.errors import InvalidHistory

HOURS_PER_WEEK = 168
LONG_HALF_LIFE_H, LATELY_HALF_LIFE_H = 28 * 24.0, 5 * 24.0
# Hours that a coarser habit counts for; four weeks give four of each hour of the week.
BACKOFF_H = 2.0
RECENT_H = 72
LESSON_WEEKS = (1, 2, 3, 4)
MOST_CASES = 20_000
N_CIRCUMSTANCES = 9
# Some work on leave; how many is learned, from so many hours' worth of expecting this.
LEAVE_SHARE, LEAVE_PRIOR_H = 0.1, 40.0
# No forecast is sure: what never happened yet may, and habits end.
LEAST = 0.002


def forecast_activity(
    active_ratio: FloatArray,
    *,
    start: datetime,
    horizon: int = HOURS_PER_WEEK,
    holidays: Holidays | None = None,
    absent: BoolArray | None = None,
) -> FloatArray:
    """Probability of a session in each hour ahead.

    active_ratio : shape (n_people, n_hours), share of each hour with a session, NaN where unknown
    start : aware beginning of the first hour; its zone is the wall clock habits follow
    horizon : hours to forecast after the last
    holidays : days off count as Sundays
    absent : shape (n_people, n_hours + horizon), hours announced as leave: past ones say nothing
        of habits, in coming ones a session is as rare as it proved to be in announced leave

    Returns shape (n_people, horizon), in (0, 1). Somebody never observed gets the fleet's habit;
    NaN when nobody was.
    """
    ratio = np.asarray(active_ratio, dtype=np.float64)
    if ratio.ndim != 2:
        raise InvalidHistory(f"active_ratio has shape {ratio.shape}, expected (n_people, n_hours)")
    if not np.isfinite(ratio).any():
        return np.full((len(ratio), horizon), np.nan)
    if absent is None:
        absent = np.zeros((len(ratio), ratio.shape[1] + horizon), dtype=np.bool_)
    elif absent.shape != (len(ratio), ratio.shape[1] + horizon):
        raise InvalidHistory(
            f"absent has shape {absent.shape}, expected {(len(ratio), ratio.shape[1] + horizon)}"
        )
    seen = np.where(np.isfinite(ratio), ratio > 0, np.nan)
    past, ahead_absent = absent[:, : ratio.shape[1]], absent[:, ratio.shape[1] :]
    active = np.where(past, np.nan, seen)
    timeline = Timeline(start, timedelta(hours=1), ratio.shape[1], horizon)
    hour = _hours_of_week(timeline, holidays, len(ratio))
    gate = _fit_gate(active, hour)
    now = _Evidence.at(active, hour, ratio.shape[1])
    ahead = np.arange(horizon)
    person, lead = (
        grid.ravel() for grid in np.meshgrid(np.arange(len(ratio)), ahead, indexing="ij")
    )
    weight = gate.weights(now.circumstances(person, lead))
    probability = (weight * now.guesses(person, lead)).sum(axis=1)
    result: FloatArray = probability.reshape(len(ratio), horizon)
    usual = np.take_along_axis(now.long, hour[:, : ratio.shape[1]], axis=1)
    result = np.where(ahead_absent, result * _share_in_leave(seen, usual, past), result)
    return np.asarray(np.clip(result, LEAST, 1 - LEAST))


def _share_in_leave(seen: FloatArray, usual: FloatArray, absent: BoolArray) -> float:
    """Sessions in announced leave per session that would have been usual."""
    during = absent & np.isfinite(seen)
    sessions, expected = seen[during].sum(), usual[during].sum()
    return float(min((sessions + LEAVE_SHARE * LEAVE_PRIOR_H) / (expected + LEAVE_PRIOR_H), 1.0))


@dataclass(frozen=True)
class _Evidence:
    """What is known of everybody at one hour.

    long, lately : shape (n_people, 168), habits by hour of the week; fleet : shape (168,)
    last : shape (n_people,), active in the last hour known; recent : active in the last days
    per hour expected; seen : hours observed
    hour : hour of the week of every slot from here on, shape (n_people, n_slots)
    """

    long: FloatArray
    lately: FloatArray
    fleet: FloatArray
    last: FloatArray
    recent: FloatArray
    seen: FloatArray
    hour: IntArray

    @classmethod
    def at(cls, active: FloatArray, hour: IntArray, now: int) -> _Evidence:
        past, past_hour = active[:, :now], hour[:, :now]
        known = np.isfinite(past)
        value = np.where(known, past, 0.0)
        fleet = _fleet_habit(value, known, past_hour)
        long = _habit(value, known, past_hour, fleet, LONG_HALF_LIFE_H)
        lately = _habit(value, known, past_hour, fleet, LATELY_HALF_LIFE_H)
        tail = slice(max(now - RECENT_H, 0), now)
        expected = np.take_along_axis(long, past_hour[:, tail], axis=1) * known[:, tail]
        last_at = now - 1 - np.argmax(known[:, ::-1], axis=1)
        return cls(
            long=long,
            lately=lately,
            fleet=fleet,
            last=value[np.arange(len(value)), last_at] if now else np.zeros(len(value)),
            recent=(value[:, tail].sum(axis=1) + 1) / (expected.sum(axis=1) + 1),
            seen=known.sum(axis=1).astype(np.float64),
            hour=hour[:, now:],
        )

    def guesses(self, person: IntArray, lead: IntArray) -> FloatArray:
        """Probability of a session by each guess, shape (n_cases, 5)."""
        hour = self.hour[person, lead]
        own = [self.long[person, hour], self.lately[person, hour], self.fleet[hour]]
        return np.stack([*own, self.last[person], np.zeros(len(person))], axis=1)

    def circumstances(self, person: IntArray, lead: IntArray) -> FloatArray:
        ahead = np.log1p(lead) / np.log1p(HOURS_PER_WEEK)
        recent = np.log(np.clip(self.recent[person], 0.05, 20.0))
        weeks = np.minimum(self.seen[person] / HOURS_PER_WEEK, 8.0) / 8
        usual = self.long[person, self.hour[person, lead]]
        # How unlike the fleet this person lives: whether the fleet says anything about them.
        unlike = np.abs(self.long - self.fleet).mean(axis=1)[person] * 4
        facts = [ahead, ahead**2, recent, recent * ahead, weeks, usual, unlike, unlike * usual]
        return np.stack([np.ones(len(person)), *facts], axis=1)


def _fit_gate(active: FloatArray, hour: IntArray) -> Gate:
    """Ask in earlier weeks who had a session in the week after."""
    cases: list[tuple[FloatArray, FloatArray]] = []
    weeks = [week for week in LESSON_WEEKS if active.shape[1] >= (week + 1) * HOURS_PER_WEEK]
    for week in weeks:
        now = active.shape[1] - week * HOURS_PER_WEEK
        evidence = _Evidence.at(active, hour, now)
        after = active[:, now : now + HOURS_PER_WEEK]
        person, lead = np.nonzero(np.isfinite(after) & (evidence.seen > 0)[:, None])
        every = max(1, len(person) * len(weeks) // MOST_CASES)
        person, lead = person[::every], lead[::every]
        guess = evidence.guesses(person, lead)
        happened = after[person, lead][:, None]
        cases.append(
            (evidence.circumstances(person, lead), np.where(happened > 0, guess, 1 - guess))
        )
    prior = np.zeros((N_CIRCUMSTANCES, 5))
    prior[0] = [2.0, 1.0, 0.0, -1.0, -2.0]
    if not cases:
        return Gate(prior)
    circumstances, guesses = (np.concatenate(parts) for parts in zip(*cases, strict=True))
    return fit_gate(circumstances, guesses, np.ones(len(guesses)), prior=prior)


def _hours_of_week(timeline: Timeline, holidays: Holidays | None, n_people: int) -> IntArray:
    """Hour of the week of every slot for every person, days off being Sundays."""
    clock = (timeline.wall_s % DAY_S // 3600).astype(np.int64)
    plain = timeline.weekday * 24 + clock
    if holidays is None:
        return np.broadcast_to(plain, (n_people, len(plain)))
    by_calendar = np.stack(
        [
            np.where(holidays.days_off(each), SUNDAY * 24 + clock, plain)
            for each in range(len(holidays.flags))
        ]
    )
    hours: IntArray = by_calendar[holidays.calendar_of(n_people)]
    return hours


def _fleet_habit(value: FloatArray, known: FloatArray, hour: IntArray) -> FloatArray:
    """Share of the fleet with a session by hour of the week, shape (168,)."""
    total = np.bincount(hour.ravel(), value.ravel(), HOURS_PER_WEEK)
    count = np.bincount(hour.ravel(), known.ravel(), HOURS_PER_WEEK)
    overall = value.sum() / max(known.sum(), 1)
    result: FloatArray = (total + BACKOFF_H * overall) / (count + BACKOFF_H)
    return result


def _habit(
    value: FloatArray, known: FloatArray, hour: IntArray, fleet: FloatArray, half_life_h: float
) -> FloatArray:
    """Own habit by hour of the week, backed off to the hour of the day, then to the fleet's."""
    n_people, n_hours = value.shape
    weight = 0.5 ** (np.arange(n_hours, 0, -1) / half_life_h)
    key = np.arange(n_people)[:, None] * HOURS_PER_WEEK + hour
    size = n_people * HOURS_PER_WEEK
    total = np.bincount(key.ravel(), (value * weight).ravel(), size).reshape(n_people, 7, 24)
    count = np.bincount(key.ravel(), (known * weight).ravel(), size).reshape(n_people, 7, 24)
    fleet_day = fleet.reshape(7, 24)
    result = np.empty((n_people, 7, 24))
    for days in (slice(0, 5), slice(5, 7)):
        coarse_total, coarse_count = total[:, days].sum(axis=1), count[:, days].sum(axis=1)
        stranger = fleet_day[days].mean(axis=0)
        coarse = (coarse_total + BACKOFF_H * stranger) / (coarse_count + BACKOFF_H)
        fine = total[:, days] + BACKOFF_H * coarse[:, None]
        result[:, days] = fine / (count[:, days] + BACKOFF_H)
    return result.reshape(n_people, HOURS_PER_WEEK)
