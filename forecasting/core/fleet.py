"""Numbers in, quantiles out: the demand forecast of a whole fleet.

Several engines that fail in different ways (batched Prophet, one boosted model for the fleet, and
quantiles of comparable hours under different habits of remembering) each forecast every series.
They are averaged quantile by quantile with weights learned at past origins, first for the fleet,
then leaning to what served the single series (`combination`), and the spread is corrected so that
past intervals would have covered what they promised (`calibration`). Every step is relative to a
series' own scale and treats all series alike. No engine learned from what it is judged by; only a
series' range, its resting value and a lasting change of its level are taken as they are known now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from forecasting.core.arrays import AnyArray, BoolArray, FloatArray, IntArray
from forecasting.core.calendar import Holidays
from forecasting.core.calibration import learn_factors, stretch
from forecasting.core.combination import combine, learn_weights
from forecasting.core.pooled import MOST_ROWS, Clock, PooledModel, clock_of, fit_pooled
from forecasting.core.prophet import fit_prophet
from forecasting.core.related import Related
from forecasting.core.scores import pinball_loss
from forecasting.core.seasonal import HABITS, habit_quantiles
from forecasting.core.shifts import on_todays_level
from forecasting.core.threads import in_pieces
from forecasting.core.timeline import Timeline
from forecasting.core.wall import WallClock
from forecasting.errors import InvalidCalendar, InvalidHistory

ENGINE_NAME = "combined"
ENGINE_VERSION = "4"
PROPHET, POOLED, DEPARTURES, FIRST_HABIT = 0, 1, 2, 3
MEMBERS = ("prophet", "pooled", "pooled departures", *(habit.name for habit in HABITS))
BACKTEST_LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
# What is known of the next hours differs in kind from what is known of the next days.
BAND_ENDS_H = (6.0, 24.0, np.inf)
LEADS_PER_BAND = 5
BACKTEST_DAYS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14)
PROPHET_REFIT_DAYS = 4
# What is said of the next days comes from a pooled model that has also learned from the days on
# which its earlier self was judged: it is better than its record. Twice to four times do alike.
REFIT_CREDIT = 3.0
# That earlier self only has to show what it is worth: it learns from half as much.
TRIAL_ROWS = MOST_ROWS // 2
# A lowest value seen this often is where the series rests.
REST_SHARE = 0.05
# Who stirs on one day in seven at a time of day has a habit.
REST_DAYS, SURE_REST = 28, 0.9


@dataclass(frozen=True)
class FleetForecast:
    """A forecast, and how it came about.

    quantiles : shape (n_series, horizon, n_levels), see `forecast_fleet`
    engines : what was combined
    weights : shape (n_series, n_engines), the part each took, averaged over the horizon; a row
        sums to 1, NaN for a series never observed
    losses : shape (n_series, n_engines), pinball loss of each at the past origins the weights
        were learned from, as a ratio to that of the day before repeated; NaN where unknown
    """

    quantiles: FloatArray
    engines: tuple[str, ...]
    weights: FloatArray
    losses: FloatArray


def forecast_fleet(
    history: ArrayLike,
    *,
    start: datetime,
    step: timedelta,
    horizon: int,
    levels: Sequence[float],
    holidays: Holidays | None = None,
    related: Related | None = None,
) -> FloatArray:
    """Forecast quantiles of every series.

    history : shape (n_series, n_slots), any unit, NaN where missing. A series that follows
        another clock than the rest, or has missing slots at either end, is welcome.
    start : aware beginning of slot 0; its zone is the wall clock that rhythms follow. A change of
        that clock is followed where it is a whole number of slots; see `wall`
    step : length of a slot
    horizon : slots to forecast after the last
    levels : quantile levels in (0, 1), in any order
    holidays : events by slot, past and future; see `calendar.event_flags`
    related : what else was observed of the same subjects, application use for example

    Returns shape (n_series, horizon, n_levels), in the unit of the history: non-decreasing in
    level, never below zero for a series that never was. A series without a single observation is
    NaN throughout: nothing is known of it, and the caller decides what stands in (its pool, for
    one). A constant series is forecast to stay what it is. The result is a function of the
    arguments alone; the order of the series does not matter, and multiplying a series multiplies
    its forecast.

    Raises InvalidHistory for arguments that make no sense, naming the first offender.
    """
    return forecast_in_detail(
        history,
        start=start,
        step=step,
        horizon=horizon,
        levels=levels,
        holidays=holidays,
        related=related,
    ).quantiles


def forecast_in_detail(
    history: ArrayLike,
    *,
    start: datetime,
    step: timedelta,
    horizon: int,
    levels: Sequence[float],
    holidays: Holidays | None = None,
    related: Related | None = None,
) -> FleetForecast:
    """As `forecast_fleet`, with what each engine had to do with it."""
    values = _checked_history(history)
    level = _checked_levels(levels)
    timeline = Timeline(start, step, values.shape[1], horizon)
    if holidays and holidays.flags.shape[1] != values.shape[1] + horizon:
        raise InvalidCalendar(
            f"holidays cover {holidays.flags.shape[1]} slots, history and horizon have "
            f"{values.shape[1]} + {horizon}"
        )
    if related and related.values.shape[1] != values.shape[1]:
        raise InvalidHistory(
            f"related observations cover {related.values.shape[1]} slots, the history has"
            f" {values.shape[1]}"
        )
    if related and related.subject.shape != (len(values),):
        raise InvalidHistory(
            f"related observations are of {len(related.subject)} series, there are {len(values)}"
        )
    if related:
        _check_finite(related.values, "related observations of subject")
    if holidays:
        holidays.calendar_of(len(values))
    # The median is always among them: the spread is measured from it.
    rising = np.unique(np.append(level, 0.5))
    result = np.full((len(values), horizon, len(level)), np.nan)
    weights, losses = np.full((2, len(values), len(MEMBERS)), np.nan)
    known = np.flatnonzero(np.isfinite(values).any(axis=1))
    if len(known) and horizon and len(level):
        scale = _power_of_two(values[known])
        some = holidays.take(known) if holidays else None
        beside = related.take(known) if related else None
        wall = WallClock.of(timeline)
        made = _forecast_known(
            wall.history(values[known] / scale),
            wall.timeline,
            rising,
            wall.holidays(some),
            wall.related(beside),
        )
        asked = wall.back(made.quantiles)[:, :, np.searchsorted(rising, level)]
        result[known] = asked * scale[:, :, None]
        weights[known], losses[known] = made.weights, made.losses
    return FleetForecast(result, MEMBERS, weights, losses)


def _checked_history(history: ArrayLike) -> FloatArray:
    values = np.asarray(history, dtype=np.float64)
    if values.ndim != 2:
        raise InvalidHistory(f"history has shape {values.shape}, expected (n_series, n_slots)")
    _check_finite(values, "history of series")
    return values


def _check_finite(values: AnyArray, of_what: str) -> None:
    infinite = np.isinf(values)
    if infinite.any():
        row, slot, *_ = np.argwhere(infinite)[0]
        raise InvalidHistory(f"{of_what} {row} is infinite at slot {slot}")


def _checked_levels(levels: Sequence[float]) -> FloatArray:
    level = np.asarray(levels, dtype=np.float64)
    if level.ndim != 1 or not ((level > 0) & (level < 1)).all():
        raise InvalidHistory(f"levels {levels!r} are not all between 0 and 1")
    return level


def _power_of_two(values: FloatArray) -> FloatArray:
    """Per series, a number of the size of its largest value; dividing by it rounds nothing."""
    largest = np.nanmax(np.abs(values), axis=1, keepdims=True)
    _, exponent = np.frexp(largest)
    scale: FloatArray = np.where(largest > 0, np.ldexp(1.0, exponent - 1), 1.0)
    return scale


def _forecast_known(
    values: FloatArray,
    timeline: Timeline,
    levels: FloatArray,
    holidays: Holidays | None,
    related: Related | None,
) -> FleetForecast:
    """As `forecast_in_detail`, for series with at least one observation and rising levels."""
    n_series = len(values)
    values = np.concatenate(
        in_pieces(
            lambda some: on_todays_level(values[some], timeline, _of(holidays, some)), n_series
        )
    )
    clock = clock_of(timeline, holidays, len(values))
    pooled = fit_pooled(values, clock=clock, related=related, most_rows=TRIAL_ROWS)
    engines = _Engines(timeline, clock, holidays, related, pooled)
    trial = _Trial.of(timeline, learned_to=pooled.holdout_from if pooled else 0)
    actual = _observed_at(values, trial)
    said = np.concatenate(
        in_pieces(lambda some: engines.say(values, some, trial, BACKTEST_LEVELS), n_series),
        axis=1,
    )
    weights = np.empty((len(values), timeline.horizon, said.shape[0]))
    factors = np.ones((len(values), timeline.horizon, len(BACKTEST_LEVELS)))
    for band in np.unique(trial.band_of_slot):
        cases = trial.nearest_band(band)
        here = np.ix_(np.arange(len(values)), np.flatnonzero(trial.band_of_slot == band))
        happened = actual[:, :, cases].reshape(len(values), -1)
        heard = said[:, :, :, cases].reshape(*said.shape[:2], -1, len(BACKTEST_LEVELS))
        weight = _with_credit(
            learn_weights(_root(happened, values), _root(heard, values), levels=BACKTEST_LEVELS)
        )
        mixed = combine(heard, weight)
        weights[here] = weight[:, None]
        factors[here] = learn_factors(happened, mixed, levels=BACKTEST_LEVELS)[:, None]
    losses = np.concatenate(
        in_pieces(lambda some: _losses(actual[some], said[:, some], values[some], trial), n_series)
    )

    now = _Trial.now(timeline)
    if pooled:
        fresh = fit_pooled(values, clock=clock, related=related, holdout_days=0)
        engines = replace(engines, pooled=fresh)

    def forecast(some: IntArray) -> FloatArray:
        members = engines.say(values, some, now, levels)[:, :, 0]
        mixed = combine(members, weights[some])
        mixed = stretch(mixed, factors[some], at=BACKTEST_LEVELS, levels=levels)
        mixed = _without_strays(mixed, values[some], timeline, _of(holidays, some), levels)
        return _plausible(mixed, values[some], levels)

    quantiles = np.concatenate(in_pieces(forecast, n_series))
    return FleetForecast(quantiles, MEMBERS, weights.mean(axis=1), losses)


@dataclass(frozen=True)
class _Trial:
    """Origins in days before the end, and the leads at each that are forecast."""

    days_back: tuple[int, ...]
    leads: IntArray
    band_of_lead: IntArray
    band_of_slot: IntArray
    slots_per_day: int
    n_slots: int
    learned_to: int = 0

    @property
    def is_past(self) -> bool:
        return self.days_back != (0,)

    @classmethod
    def now(cls, timeline: Timeline) -> _Trial:
        leads = np.arange(1, timeline.horizon + 1)
        return cls((0,), leads, leads * 0, leads * 0, timeline.slots_per_day, timeline.n_slots)

    @classmethod
    def of(cls, timeline: Timeline, *, learned_to: int) -> _Trial:
        """Past origins to learn from: at most half the history is spent on being wrong about.

        learned_to : slot before which an engine has seen what happened
        """
        per_day = timeline.slots_per_day or 1
        longest = timeline.n_slots // (2 * per_day)
        reach = -(-timeline.horizon // per_day)
        days = tuple(d for d in BACKTEST_DAYS if d <= longest and (d <= 10 or reach > 1))
        band = np.searchsorted(
            BAND_ENDS_H, np.arange(1, timeline.horizon + 1) * timeline.step_s / 3600 - 1e-9
        )
        leads = [
            lead
            for each in np.unique(band)
            for lead in _spread(np.flatnonzero(band == each) + 1, LEADS_PER_BAND)
        ]
        chosen = np.array(leads, dtype=np.int64)
        days = tuple(d for d in days if timeline.n_slots - d * per_day + chosen.max() > learned_to)
        return cls(days, chosen, band[chosen - 1], band, per_day, timeline.n_slots, learned_to)

    @property
    def is_known(self) -> BoolArray:
        """What followed is known, and no engine had seen it, (n_origins, n_leads)."""
        back = np.array(self.days_back, dtype=np.int64)[:, None] * self.slots_per_day
        slot = self.n_slots - back + self.leads - 1
        known: BoolArray = (slot >= self.learned_to) & (slot < self.n_slots)
        return known

    def nearest_band(self, band: int) -> IntArray:
        """Which leads to learn a band from: its own if any was observed, else the nearest's."""
        seen = self.leads <= self.slots_per_day * max(self.days_back, default=0)
        candidates = self.band_of_lead[seen]
        if not len(candidates):
            return np.flatnonzero(self.band_of_lead == band)
        nearest = candidates[np.argmin(np.abs(candidates - band))]
        return np.flatnonzero(self.band_of_lead == nearest)


def _spread(values: IntArray, count: int) -> IntArray:
    """At most `count` of the values, evenly spread."""
    where = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(np.int64)
    return values[where]


def _of(holidays: Holidays | None, series: IntArray) -> Holidays | None:
    return holidays.take(series) if holidays else None


def _observed_at(values: FloatArray, trial: _Trial) -> FloatArray:
    """What followed each past origin, shape (n_series, n_origins, n_leads).

    NaN if it did not yet, or if an engine had seen it before it spoke.
    """
    back = np.array(trial.days_back, dtype=np.int64)[:, None] * trial.slots_per_day
    slot = trial.n_slots - back + trial.leads - 1
    known = trial.is_known
    result: FloatArray = np.where(known, values[:, np.where(known, slot, 0)], np.nan)
    return result


def _root(cases: FloatArray, values: FloatArray) -> FloatArray:
    """Square roots above a series' lowest value: one hour of uproar must not decide its weights.

    cases : shape (n_series, n_cases), or (n_members, n_series, n_cases, n_levels)
    """
    lowest = np.nanmin(values, axis=1)[:, None]
    beyond = cases - (lowest if cases.ndim == 2 else lowest[:, :, None])
    result: FloatArray = np.sqrt(np.maximum(beyond, 0.0))
    return result


def _with_credit(weights: FloatArray) -> FloatArray:
    """Weights of what will speak of the future, from those of what spoke of the past."""
    credited = weights.copy()
    credited[:, [POOLED, DEPARTURES]] *= REFIT_CREDIT
    result: FloatArray = credited / credited.sum(axis=1, keepdims=True)
    return result


def _losses(actual: FloatArray, said: FloatArray, values: FloatArray, trial: _Trial) -> FloatArray:
    """Pinball loss of each member relative to the day before repeated, (n_series, n_members)."""
    naive = _day_before(values, trial)
    known = np.isfinite(actual) & np.isfinite(naive).all(axis=-1)
    spoken: BoolArray = np.asarray(np.isfinite(said).all(axis=-1))
    known &= spoken[spoken.any(axis=(1, 2, 3))].all(axis=0)
    happened = np.where(known, actual, np.nan)
    total = np.stack(
        [
            np.nansum(pinball_loss(happened, each, levels=BACKTEST_LEVELS), axis=(1, 2, 3))
            for each in (naive, *said)
        ]
    )
    silent = ~spoken.any(axis=(2, 3))
    ratio = np.full(silent.shape, np.nan)
    np.divide(total[1:], total[0], out=ratio, where=(total[0] > 0) & ~silent)
    return ratio.T


def _day_before(values: FloatArray, trial: _Trial) -> FloatArray:
    """The last day known at each origin again, with the quantiles of how wrong that was."""
    per_day = trial.slots_per_day
    shape = (len(values), len(trial.days_back), len(trial.leads), len(BACKTEST_LEVELS))
    if values.shape[1] <= per_day or not trial.days_back:
        return np.full(shape, np.nan)
    back = np.array(trial.days_back, dtype=np.int64)[:, None] * per_day
    slot = trial.n_slots - back + (trial.leads - 1) % per_day - per_day
    last = np.where(slot >= 0, values[:, np.maximum(slot, 0)], np.nan)
    ranked = np.sort(values[:, per_day:] - values[:, :-per_day], axis=1)  # NaN last
    count = np.isfinite(ranked).sum(axis=1)
    rank = np.rint(np.maximum(count - 1, 0)[:, None] * BACKTEST_LEVELS).astype(np.int64)
    wrong = np.take_along_axis(ranked, rank, axis=1)
    return np.asarray(last[..., None] + wrong[:, None, None])


@dataclass(frozen=True)
class _Engines:
    """All that can be asked about the fleet."""

    timeline: Timeline
    clock: Clock
    holidays: Holidays | None
    related: Related | None
    pooled: PooledModel | None

    def say(
        self, fleet: FloatArray, some: IntArray, trial: _Trial, levels: FloatArray
    ) -> FloatArray:
        """What every engine says of some series, NaN where it has nothing to say.

        Shape (n_members, n_series, n_origins, n_leads, n_levels).
        """
        values, clock, holidays = fleet[some], self.clock.take(some), _of(self.holidays, some)
        asked: dict[str, Any] = {"days_back": trial.days_back, "leads": trial.leads}
        if trial.is_past:
            asked["wanted"] = trial.is_known
        shape = (len(values), len(trial.days_back), len(trial.leads), len(levels))
        said = np.full((len(MEMBERS), *shape), np.nan)
        said[PROPHET] = _prophet(values, self.timeline, holidays, trial, levels)
        if self.pooled:
            beside = self.related.take(some) if self.related else None
            said[[POOLED, DEPARTURES]] = self.pooled.quantiles(
                values, clock=clock, levels=levels, related=beside, **asked
            )
        for each in np.unique(clock.calendar):
            same = np.flatnonzero(clock.calendar == each)
            for number, habit in enumerate(HABITS, start=FIRST_HABIT):
                said[number, same] = habit_quantiles(
                    values[same],
                    timeline=self.timeline,
                    habit=habit,
                    days_off=clock.days_off[each],
                    levels=levels,
                    **asked,
                )
        # Where no comparable hour was ever seen, Prophet's curves are free to go anywhere.
        strange = ~np.isfinite(said[FIRST_HABIT:]).all(axis=-1).any(axis=0)
        said[PROPHET][strange] = np.nan
        return _at_rest(_within_reach(said, values), values)


def _prophet(
    values: FloatArray,
    timeline: Timeline,
    holidays: Holidays | None,
    trial: _Trial,
    levels: FloatArray,
) -> FloatArray:
    """Batched Prophet at each origin, refitted every few days (its trend does not hurry)."""
    shape = (len(values), len(trial.days_back), len(trial.leads), len(levels))
    said = np.full(shape, np.nan)
    # What a series never falls below says nothing of its rhythm, nor shall it of the priors.
    lowest = np.nanmin(values, axis=1)[:, None]
    fitted_at = {
        back: -(-back // PROPHET_REFIT_DAYS) * PROPHET_REFIT_DAYS for back in trial.days_back
    }
    for fit_back in sorted(set(fitted_at.values())):
        n_known = timeline.n_slots - fit_back * trial.slots_per_day
        if n_known < 2 or not len(trial.leads):
            continue
        ahead = fit_back * trial.slots_per_day + timeline.horizon
        past = Timeline(timeline.start, timeline.step, n_known, ahead)
        fit = fit_prophet(values[:, :n_known] - lowest, timeline=past, holidays=holidays)
        for number, back in enumerate(trial.days_back):
            if fitted_at[back] == fit_back:
                late = (fit_back - back) * trial.slots_per_day
                said[:, number] = fit.quantiles(levels, slots=n_known + late + trial.leads - 1)
    result: FloatArray = said + lowest[:, :, None, None]
    return result


def _at_rest(said: FloatArray, values: FloatArray) -> FloatArray:
    """Let idle hours be idle.

    Half of a disk's hours may be exactly zero. Engines that follow a curve or a level always miss
    that by a little; where all that look at values alone say a series is at its resting value,
    the others are not heard.
    """
    lowest = np.nanmin(values, axis=1)
    rests = (values == lowest[:, None]).sum(axis=1) >= REST_SHARE * np.isfinite(values).sum(axis=1)
    by_value = [
        number
        for number, habit in enumerate(HABITS, start=FIRST_HABIT)
        if habit.level_half_life_h is None
    ]
    floor = lowest[:, None, None, None]
    resting = (said[by_value] == floor).all(axis=0) & rests[:, None, None, None]
    result: FloatArray = np.where(resting & np.isfinite(said), floor, said)
    return result


def _without_strays(
    quantiles: FloatArray,
    values: FloatArray,
    timeline: Timeline,
    holidays: Holidays | None,
    levels: FloatArray,
) -> FloatArray:
    """Quantiles at rest up to the level to which a series surely rests at that time of day.

    quantiles : shape (n_series, horizon, n_levels)

    One stray hour of the last days is no habit: how likely an hour is idle is half what the time
    of day says, half what all hours say, and holds only where the time of day is nearly always so.
    What began two days ago may be a habit yet: a series that stirs all day, or twice at one time.
    Nor do ordinary days say anything of an event's.
    """
    per_day = timeline.slots_per_day
    n_days = min(timeline.n_slots // per_day if per_day else 0, REST_DAYS)
    if not n_days:
        return quantiles
    lowest = np.nanmin(values, axis=1)[:, None]
    recent = values[:, timeline.n_slots - n_days * per_day :]
    seen = np.isfinite(recent).reshape(-1, n_days, per_day)
    idle = (recent == lowest).reshape(seen.shape)
    at_clock = idle.sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    at_all = idle.sum(axis=(1, 2)) / np.maximum(seen.sum(axis=(1, 2)), 1)
    lately = idle[:, -2:].sum(axis=(1, 2)) / np.maximum(seen[:, -2:].sum(axis=(1, 2)), 1)
    sure = (at_clock >= SURE_REST) & (lately >= SURE_REST)[:, None] & idle[:, -2:].any(axis=1)
    likely = np.where(sure, (at_clock + at_all[:, None]) / 2, 0.0)
    by_slot = likely[:, np.arange(timeline.horizon) % per_day, None]
    if holidays:
        happening = holidays.flags[:, timeline.n_slots :, ~holidays.is_day_off]
        at_work = np.asarray(happening.any(axis=-1))
        by_slot[at_work[holidays.calendar_of(len(values))]] = 0.0
    floor = lowest[..., None]
    above = np.where(by_slot > 0, np.maximum(quantiles, floor), quantiles)
    result: FloatArray = np.where(levels <= by_slot, floor, above)
    return result


def _within_reach(quantiles: FloatArray, values: FloatArray) -> FloatArray:
    """No lower than zero where the history is not, no further out than its own range again."""
    low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
    span = high - low
    floor = np.where(low >= 0, np.maximum(low - span, 0.0), low - span)
    return np.clip(quantiles, floor[:, None, None, None], (high + span)[:, None, None, None])


def _plausible(quantiles: FloatArray, values: FloatArray, levels: FloatArray) -> FloatArray:
    """Fill what no engine could say, and keep what stretching may not break."""
    overall = np.nanquantile(values, levels, axis=1).T[:, None, :]
    filled = np.where(np.isfinite(quantiles), quantiles, overall)
    return _within_reach(filled[:, None], values)[:, 0]
