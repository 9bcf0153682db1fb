"""Somebody who changed role needs another size of desktop from that day on.

Engines that remember weeks take weeks to believe it. So a lasting change of level is looked for:
the last days all lie far on one side of what the same weekday brought before, further than such
days ever strayed. The history before it is then brought to the new level, rhythms and all, and
every engine forecasts as if it had always been so.
"""

from __future__ import annotations

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray, IntArray
from forecasting.core.calendar import Holidays
from forecasting.core.timeline import Timeline

# A change shows in at least so many days; one longer ago has long been learned by itself.
LEAST_DAYS, MOST_DAYS = 3, 10
LEAST_WEEKS_BEFORE, MOST_WEEKS_BEFORE = 2, 4
# Beyond the larger the old rhythm says nothing of the new one, however it is scaled.
LEAST_CHANGE, MOST_CHANGE = np.log(1.5), np.log(20.0)
STANDARD_DEVIATIONS = 4.0
# Days that never differed by a hair before may do so without meaning anything.
LEAST_DEVIATION = 0.05


def on_todays_level(
    history: FloatArray, timeline: Timeline, holidays: Holidays | None = None
) -> FloatArray:
    """The history as if a recent, lasting change of level had always been.

    history : shape (n_series, n_slots), NaN where missing; one with negative values stays as it is
    holidays : of the same series; a day off says nothing of the level, before or now

    Returns the same shape; the same values where nothing changed.
    """
    per_day = timeline.slots_per_day
    n_days = timeline.n_slots // per_day if per_day else 0
    if n_days < LEAST_DAYS + 7 * LEAST_WEEKS_BEFORE:
        return history
    kept = history[:, timeline.n_slots - n_days * per_day :].reshape(len(history), n_days, per_day)
    size = _log_mean(kept)
    if holidays:
        size[_days_off(holidays, timeline, n_days)[holidays.calendar_of(len(size))]] = np.nan
    change = np.zeros(len(history))
    since = np.zeros(len(history), dtype=np.int64)
    for days in range(LEAST_DAYS, MOST_DAYS + 1):
        found, shift = _change(size, days)
        change[found], since[found] = shift[found], days
    changed = np.flatnonzero((since > 0) & ~(history < 0).any(axis=1))
    if not len(changed):
        return history
    result = history.copy()
    before = np.arange(timeline.n_slots) < timeline.n_slots - per_day * since[changed, None]
    result[changed] *= np.where(before, np.exp(change[changed])[:, None], 1.0)
    return result


def _days_off(holidays: Holidays, timeline: Timeline, n_days: int) -> BoolArray:
    """Which of the last days are off, if only in part, shape (n_calendars, n_days)."""
    off = np.stack([holidays.days_off(each) for each in range(len(holidays.flags))])
    known = off[:, timeline.n_slots - n_days * timeline.slots_per_day : timeline.n_slots]
    return np.asarray(known.reshape(len(off), n_days, -1).any(axis=2))


def _log_mean(values: FloatArray) -> FloatArray:
    """Log of the mean over the last axis, -inf of nothing but zeros; NaN where nothing was seen."""
    seen = np.isfinite(values)
    count = seen.sum(axis=-1)
    total = np.where(seen, values, 0.0).sum(axis=-1)
    mean = total / np.maximum(count, 1)
    result: FloatArray = np.log(mean, out=np.full(mean.shape, -np.inf), where=mean > 0)
    result[count == 0] = np.nan
    return result


def _change(size: FloatArray, days: int) -> tuple[FloatArray, FloatArray]:
    """Whether the last `days` days lie on another level, and by how much in logs; (n_series,)."""
    n_days = size.shape[1]
    weeks = min((n_days - days) // 7, MOST_WEEKS_BEFORE)
    if weeks < LEAST_WEEKS_BEFORE:
        none = np.zeros(len(size))
        return none.astype(np.bool_), none
    first = n_days - days - 7 * weeks
    before = size[:, first : n_days - days].reshape(len(size), weeks, 7)
    usual = _median(np.moveaxis(before, 1, -1))
    usual[np.isinf(usual)] = np.nan  # of a weekday that is usually idle nothing is expected
    strayed = np.abs(before - usual[:, None]).reshape(len(size), -1)
    spread = np.maximum(1.4826 * _median(strayed), LEAST_DEVIATION)
    weekday: IntArray = np.arange(days) % 7
    lately = size[:, n_days - days :] - usual[:, weekday]
    seen = ~np.isnan(lately)
    shift = _median(lately)
    far = np.maximum(STANDARD_DEVIATIONS * spread, LEAST_CHANGE)[:, None]
    outward = np.where(shift[:, None] > 0, lately, -lately)
    beyond = np.where(seen, outward > far, True)
    found = beyond.all(axis=1) & (seen.sum(axis=1) >= LEAST_DAYS) & np.isfinite(spread)
    found &= np.abs(shift) < MOST_CHANGE
    return found, shift


def _median(values: FloatArray) -> FloatArray:
    """Over the last axis, NaN left out; NaN where there is nothing else."""
    ranked = np.sort(values, axis=-1)  # NaN last
    top = np.maximum((~np.isnan(ranked)).sum(axis=-1) - 1, 0)[..., None]
    low = np.take_along_axis(ranked, top // 2, axis=-1)
    high = np.take_along_axis(ranked, (top + 1) // 2, axis=-1)
    result: FloatArray = ((low + high) / 2)[..., 0]
    return result
