"""Quantiles drawn from what happened at comparable hours before.

A habit says which past slots are comparable to a future one (the same hour of the day, nearby
hours, the same kind of day) and how fast they are forgotten. Its forecast is the weighted
empirical quantile of the values seen there, or, when the habit follows a level, of how far the
values strayed from the level known a given time before. Nothing is assumed about the shape of
the distribution, so zeros stay zeros, spikes stay rare and nothing falls below what was seen.

Days are counted as elapsed time; the callers lay history onto the wall clock first (`wall`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray, IntArray
from forecasting.core.timeline import DAY_S, Timeline

SUNDAY = 6


@dataclass(frozen=True)
class Habit:
    """Which past slots count, and how much.

    half_life_days : age at which a past day counts half
    neighbours : slots before and after the same clock time that count too, at half weight
    other_weekday, other_day_type : weight of days of another weekday (Tuesday for a Monday), and
        of a working day for a day of the weekend or the other way round
    level_half_life_h : half-life of the running level the habit follows; None to follow none
    """

    name: str
    half_life_days: float
    neighbours: int
    other_weekday: float = 1.0
    other_day_type: float = 1.0
    level_half_life_h: float | None = None


HABITS = (
    Habit("recent days", 4.0, 0),
    Habit("hour of week", 28.0, 1, 0.1, 0.03),
    Habit("fast level", 14.0, 1, 1.0, 0.3, level_half_life_h=3.0),
    Habit("slow level", 28.0, 1, 0.3, 0.1, level_half_life_h=24.0),
)


def habit_quantiles(
    history: FloatArray,
    *,
    timeline: Timeline,
    habit: Habit,
    days_off: BoolArray | None = None,
    days_back: Sequence[int] = (0,),
    leads: IntArray,
    levels: FloatArray,
    wanted: BoolArray | None = None,
) -> FloatArray:
    """Forecast quantiles, as they would have been at origins whole days before the end.

    history : shape (n_series, n_slots), NaN where missing
    days_off : shape (n_slots + horizon,), slots spent as a Sunday
    days_back : origins, in days before the last slot; 0 is now
    leads : slots ahead of the origin, from 1
    levels : quantile levels in (0, 1)
    wanted : shape (n_origins, n_leads), which of them to say; all by default

    Returns shape (n_series, n_origins, n_leads, n_levels). Where an origin knows no comparable
    slot, or is not wanted, the quantiles are NaN.
    """
    n_series, n_slots = history.shape
    per_day = timeline.slots_per_day or 1
    result = np.full((n_series, len(days_back), len(leads), len(levels)), np.nan)
    n_days = -(-n_slots // per_day)
    if n_slots == 0 or n_series == 0:
        return result
    offsets = np.arange(-habit.neighbours, habit.neighbours + 1) if timeline.slots_per_day else [0]
    day, offset = (grid.ravel() for grid in np.meshgrid(np.arange(n_days + 1), offsets))
    level = _running_level(history, timeline, habit.level_half_life_h)
    weekday = timeline.weekday.copy()
    if days_off is not None:
        weekday[days_off] = SUNDAY
    closeness = np.where(offset == 0, 1.0, 0.5)
    freshness = 0.5 ** (day * per_day * timeline.step_s / DAY_S / habit.half_life_days) * closeness
    ranked_at: dict[int, _Ranked] = {}

    for i, lead in enumerate(leads):
        phase, days_on = (lead - 1) % per_day, (lead - 1) // per_day
        slot = n_slots - per_day * day + phase + offset
        known = (slot >= 0) & (slot < n_slots)
        # The origin from which each of the slots was so far ahead.
        origin = n_slots - per_day * (day + days_on)
        if level is not None:
            known &= (origin >= 1) & (origin < n_slots)
        slots, origins, fresh = slot[known], origin[known], freshness[known]
        if not len(slots):
            continue
        if level is not None:
            ranked = _Ranked.of(history[:, slots] - level[:, origins])
        else:
            # All days at one time of day draw on the same past.
            if phase not in ranked_at:
                ranked_at[phase] = _Ranked.of(history[:, slots])
            ranked = ranked_at[phase]
        for b, back in enumerate(days_back):
            if wanted is not None and not wanted[b, i]:
                continue
            now = n_slots - per_day * back
            weight = fresh * _day_likeness(weekday[slots], int(weekday[now + lead - 1]), habit)
            weight[(origins >= now) | (slots >= now)] = 0.0
            quantile = ranked.quantiles(weight, levels)
            if level is not None:
                quantile = quantile + level[:, now, None]
            result[:, b, i] = quantile
    return result


def _day_likeness(weekdays: IntArray, target: int, habit: Habit) -> FloatArray:
    same_type = (weekdays >= 5) == (target >= 5)
    other = np.where(same_type, habit.other_weekday, habit.other_day_type)
    likeness: FloatArray = np.where(weekdays == target, 1.0, other)
    return likeness


class _Ranked:
    """Values of each series in rising order, to be weighed in several ways."""

    def __init__(self, order: IntArray, values: FloatArray) -> None:
        self.order, self.values = order, values
        self.is_seen = np.isfinite(values)
        self.told: dict[bytes, FloatArray] = {}

    @classmethod
    def of(cls, values: FloatArray) -> _Ranked:
        """values : shape (n, m), NaN where missing"""
        order = np.argsort(values, axis=1)  # NaN last
        return cls(order, np.take_along_axis(values, order, axis=1))

    def quantiles(self, weight: FloatArray, levels: FloatArray) -> FloatArray:
        """Smallest value at or below which at least `level` of the weight lies; (n, n_levels).

        weight : shape (m,), 0 leaves a value out; NaN for a series without any value left
        """
        asked = weight.tobytes()
        if asked not in self.told:
            self.told[asked] = self._quantiles(weight, levels)
        return self.told[asked]

    def _quantiles(self, weight: FloatArray, levels: FloatArray) -> FloatArray:
        mass = np.cumsum(weight[self.order] * self.is_seen, axis=1)
        total = mass[:, -1:]
        rows, most = mass.shape
        share = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
        # One rising sequence of all series, each moved on by its number.
        number = np.arange(rows)[:, None]
        wanted = (number + levels * (1 - 1e-9)).ravel()
        rank = np.searchsorted((share + number).ravel(), wanted).reshape(rows, -1) - number * most
        quantiles = np.take_along_axis(self.values, np.minimum(rank, most - 1), axis=1)
        quantiles[total[:, 0] <= 0] = np.nan
        return quantiles


def _running_level(
    history: FloatArray, timeline: Timeline, half_life_h: float | None
) -> FloatArray | None:
    """Exponentially weighted mean of all slots before each slot; (n_series, n_slots + 1)."""
    if half_life_h is None:
        return None
    keep = 0.5 ** (timeline.step_s / 3600 / half_life_h)
    n_series, n_slots = history.shape
    level = np.full((n_slots + 1, n_series), np.nan)
    total, mass = np.zeros(n_series), np.zeros(n_series)
    seen = np.isfinite(history)
    values = np.where(seen, history, 0.0)
    for slot in range(n_slots):
        total = keep * total + values[:, slot]
        mass = keep * mass + seen[:, slot]
        np.divide(total, mass, out=level[slot + 1], where=mass > 1e-200)
    return level.T
