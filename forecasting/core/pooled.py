"""One model for the whole fleet: gradient-boosted quantiles.

What a series does next hour looks like what others did in the same circumstances, once each is
measured by its own size. So every series is put on the scale of its own recent mean, and one set
of trees, a quantile each, learns from all of them together: from the last hours and days, from
what happened at the same clock time before, and from the calendar. Cube roots are learned, which
keeps a few heavy hours from deciding everything; a quantile does not mind.

Trees cut the world into a few boxes, so they smear a job that runs at three o'clock sharp, and a
series that hardly ever moves. A second set of them therefore learns departures: how far an hour
lies from what is usual at its clock time. It follows sharp habits of whatever size, but carries an
old habit on where it ended; the two fail in different ways, and the caller averages them.

Days are counted as elapsed time; the callers lay history onto the wall clock first (`wall`).

The last days are held back from learning. The caller can thus compare the model with others where
none of them has seen what happened.

Source: Ke et al. (2017), "LightGBM"; Januschowski et al. (2022), "Forecasting with trees".
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray, IntArray
from forecasting.core.calendar import Holidays
from forecasting.core.related import Related
from forecasting.core.seasonal import SUNDAY
from forecasting.core.threads import N_THREADS
from forecasting.core.timeline import DAY_S, Timeline

logger = logging.getLogger(__name__)

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
ROUNDS, LEARNING_RATE, LEAVES, BINS = 100, 0.08, 15, 63
LEAST_LEAF_ROWS = 100
# Half the columns for each tree: they say much the same in different ways.
COLUMN_SHARE = 0.5
SEED = 1
# A fleet has so much in common that more only costs time; less is too little to learn from.
MOST_ROWS, LEAST_ROWS = 80_000, 4_000
LEARNING_DAYS, SCALE_DAYS, CLOCK_DAYS = 28, 28, 28
LEADS_LEARNED = 24
HOLDOUT_DAYS, HOLDOUT_SHARE = 7, 5
LEAST_DAYS = 7

# From and to how many hours before the origin to average.
RECENT_H = (
    (1, 0), (2, 1), (3, 0), (6, 0), (12, 0), (24, 0), (48, 24), (72, 0), (168, 0),
)  # fmt: skip
SPREAD_DAYS = (1, 7, 28)
RELATED_H = (3, 24, 168)
CLOCK_LAGS = (1, 2, 3, 4, 5, 6)
SAME_DAYS = 4
SATURDAY = 5


@dataclass(frozen=True)
class Clock:
    """The wall clock of each series: kinds of day differ where days off do.

    timeline : the slots
    days_off : shape (n_calendars, n_slots + horizon)
    calendar : shape (n_series,), which row of `days_off` each series follows
    """

    timeline: Timeline
    days_off: BoolArray
    calendar: IntArray

    def take(self, series: IntArray) -> Clock:
        return Clock(self.timeline, self.days_off, self.calendar[series])

    def day_kinds(self, slots: IntArray) -> IntArray:
        """Weekday from Monday 0, days off being Sundays; shape (n_calendars, *slots.shape)."""
        kinds: IntArray = np.where(self.days_off[:, slots], SUNDAY, self.timeline.weekday[slots])
        return kinds


def clock_of(timeline: Timeline, holidays: Holidays | None, n_series: int) -> Clock:
    """The clock of each series, by the calendar it follows."""
    if not holidays:
        none = np.zeros((1, timeline.n_slots + timeline.horizon), dtype=np.bool_)
        return Clock(timeline, none, np.zeros(n_series, dtype=np.int64))
    off = np.stack([holidays.days_off(each) for each in range(len(holidays.flags))])
    return Clock(timeline, off, holidays.calendar_of(n_series))


@dataclass(frozen=True)
class PooledModel:
    """Boosters of each kind, one a level; nothing from `holdout_from` (a slot) on was learned from.

    amounts : of what goes beyond a series' lowest value
    departures : of how far that is from the usual
    """

    amounts: tuple[Any, ...]
    departures: tuple[Any, ...]
    holdout_from: int

    def quantiles(
        self,
        history: FloatArray,
        *,
        clock: Clock,
        days_back: Sequence[int],
        leads: IntArray,
        levels: FloatArray,
        related: Related | None = None,
        wanted: BoolArray | None = None,
    ) -> FloatArray:
        """Quantiles as they would have been said at origins whole days before the end.

        history : shape (n_series, n_slots), NaN where missing
        leads : slots ahead of the origin, from 1; levels : in (0, 1)
        related : of the same series; the kinds it was fitted with
        wanted : shape (n_origins, n_leads), which of them to say; all by default

        Returns shape (2, n_series, n_origins, n_leads, n_levels), by amounts and by departures,
        non-decreasing in level, within what the series had shown until then; NaN where not
        wanted, and at an origin before which a series was not observed.
        """
        lowest = _lowest(history)
        rows, usual, scale = _features(history - lowest, clock, days_back, leads, related)
        some = np.ones(rows.shape[1:3], dtype=np.bool_) if wanted is None else wanted
        flat = np.ascontiguousarray(rows[:, some].reshape(-1, rows.shape[-1]))
        learned = np.full((2, *rows.shape[:-1], len(LEVELS)), np.nan)
        for kind, boosters in enumerate((self.amounts, self.departures)):
            for i, booster in enumerate(boosters):
                said = booster.predict(flat, num_threads=1).reshape(len(rows), -1)
                learned[kind][:, some, i] = said + usual[:, some] if kind else said
        learned.sort(axis=-1)
        root = np.maximum(_at_levels(learned, levels), 0.0)
        last = _last_known(clock.timeline.n_slots, clock.timeline.slots_per_day, days_back)
        peak = np.fmax.accumulate(history, axis=1)[:, np.maximum(last, 0)]
        beyond = root**3 * scale[:, :, None, None] + lowest[:, :, None, None]
        result: FloatArray = np.minimum(beyond, peak[:, :, None, None])
        return result


def fit_pooled(
    history: FloatArray,
    *,
    clock: Clock,
    related: Related | None = None,
    holdout_days: int = HOLDOUT_DAYS,
    most_rows: int = MOST_ROWS,
) -> PooledModel | None:
    """Learn from all series, each at origins on as many past days as there are.

    history : shape (n_series, n_slots), NaN where missing, every series observed at least once
    holdout_days : last days not to learn from, fewer where the history is short
    most_rows : of series are taken at most as many as have so many rows together, one at least

    Returns None when there is too little to learn from. The same series in another order, or
    each multiplied by a number or moved by one, give the same model.
    """
    timeline = clock.timeline
    per_day = timeline.slots_per_day
    n_days = timeline.n_slots // per_day if per_day else 0
    if n_days < LEAST_DAYS or not timeline.horizon:
        return None
    holdout = min(holdout_days, n_days // HOLDOUT_SHARE)
    reach = -(-timeline.horizon // per_day)
    first, last = holdout + 1, min(holdout + LEARNING_DAYS + reach - 1, n_days - 2)
    days_back = range(first, last + 1)
    leads = _leads_learned(timeline.horizon, per_day)
    most_series = max(1, most_rows // max(1, len(days_back) * len(leads)))
    holdout_from = timeline.n_slots - holdout * per_day
    known = np.flatnonzero(np.isfinite(history[:, :holdout_from]).any(axis=1))
    some = known[_sample(history[known, :holdout_from], most_series)]
    past = history[some, :holdout_from]

    lowest = _lowest(past)
    beside = related.take(some) if related else None
    rows, usual, scale = _features(past - lowest, clock.take(some), days_back, leads, beside)
    slot = _slots(timeline.n_slots, per_day, days_back, leads)
    seen = slot < holdout_from
    happened = np.where(seen, past[:, np.where(seen, slot, 0)], np.nan) - lowest[:, :, None]
    target = np.cbrt(np.maximum(happened / scale[:, :, None], 0.0)).astype(np.float32)
    usable = np.isfinite(target)
    library = _library() if usable.sum() >= LEAST_ROWS else None
    if library is None:
        return None
    departure = (target - usual)[usable]
    amounts, departures = _boost(rows[usable], (target[usable], departure), library)
    return PooledModel(amounts, departures, holdout_from)


def _library() -> Any:
    """LightGBM, or None where it cannot be loaded: the other engines do without."""
    try:
        # It takes half a second to import, and every process imports this module.
        import lightgbm
    except (ImportError, OSError) as error:
        # Its wheel expects the system's OpenMP (Debian's libgomp1).
        logger.warning("no pooled model, forecasts will be worse: %s", error)
        return None
    return lightgbm


def _boost(rows: np.ndarray, targets: Sequence[np.ndarray], lightgbm: Any) -> list[tuple[Any, ...]]:
    """A booster a level for each target: shape (n_rows, n_columns) and (n_rows,) each."""
    # One thread a booster: threads that wait for each other within a tree lose more than they win.
    fixed = {
        "objective": "quantile",
        "learning_rate": LEARNING_RATE,
        "num_leaves": LEAVES,
        "min_data_in_leaf": min(LEAST_LEAF_ROWS, len(rows) // 100),
        "feature_fraction": COLUMN_SHARE,
        "max_bin": BINS,
        "seed": SEED,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }
    lessons = lightgbm.Dataset(rows, targets[0], params=fixed)
    lessons.construct()

    def boost(level: float) -> Any:
        return lightgbm.train({**fixed, "alpha": level}, lessons, ROUNDS)

    boosters = []
    with ThreadPoolExecutor(N_THREADS) as threads:
        for target in targets:
            # The same rows: they are put into bins once.
            lessons.set_label(target)
            boosters.append(tuple(threads.map(boost, LEVELS.tolist())))
    return boosters


def _leads_learned(horizon: int, per_day: int) -> IntArray:
    """A few leads, spread over the horizon and over the hours of the day."""
    if horizon <= LEADS_LEARNED:
        return np.arange(1, horizon + 1)
    stride = horizon // LEADS_LEARNED
    # A stride that shares a factor with the day would see the same hours again and again.
    while np.gcd(stride, per_day) > 1:
        stride -= 1
    return np.arange(1, horizon + 1, stride)


def _sample(history: FloatArray, count: int) -> IntArray:
    """At most `count` series, chosen and ordered by what they are like, not by where they stand."""
    if not len(history):
        return np.empty(0, dtype=np.int64)
    lowest = _lowest(history)
    mean = np.nanmean(history - lowest, axis=1)
    shape = (history[:, -1:] - lowest)[:, 0], np.nanmax(history - lowest, axis=1)
    size = np.where(mean > 0, mean, 1.0)
    likeness = [np.nan_to_num(each / size).astype(np.float32) for each in shape]
    seen = np.isfinite(history).sum(axis=1)
    ranked = np.lexsort((*likeness, seen))
    where = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(np.int64)
    result: IntArray = ranked[where]
    return result


def _lowest(history: FloatArray) -> FloatArray:
    """Lowest value of each series, shape (n_series, 1): only what goes beyond it is learned."""
    lowest: FloatArray = np.nanmin(history, axis=1, keepdims=True)
    return lowest


def _last_known(n_slots: int, per_day: int, days_back: Sequence[int]) -> IntArray:
    """The last slot before each origin, shape (n_origins,)."""
    last: IntArray = n_slots - per_day * np.asarray(days_back, dtype=np.int64) - 1
    return last


def _slots(n_slots: int, per_day: int, days_back: Sequence[int], leads: IntArray) -> IntArray:
    """The slot of each lead at each origin, shape (n_origins, n_leads)."""
    return _last_known(n_slots, per_day, days_back)[:, None] + leads


def _features(
    history: FloatArray,
    clock: Clock,
    days_back: Sequence[int],
    leads: IntArray,
    related: Related | None,
) -> tuple[np.ndarray, np.ndarray, FloatArray]:
    """What was known at each origin about each lead, in units of the series' own mean.

    Returns float32 rows of shape (n_series, n_origins, n_leads, n_columns); the cube root of what
    is usual, float32, shape (n_series, n_origins, n_leads); and the unit, shape
    (n_series, n_origins), NaN where a series had not been observed yet. Rounding to float32 makes
    a series and its multiple the same to the last bit.
    """
    timeline = clock.timeline
    per_day = timeline.slots_per_day
    hour = max(1, round(3600 / timeline.step_s))
    sums = _RunningSums.of(history)
    slot = _slots(timeline.n_slots, per_day, days_back, leads)
    origin = _last_known(timeline.n_slots, per_day, days_back) + 1
    unit = sums.mean(origin, SCALE_DAYS * per_day, 0)
    observed = np.isfinite(unit)
    unit = np.where(observed & ~(unit > 0), 1.0, unit)

    by_origin = [sums.mean(origin, max(a * hour, 1), b * hour) for a, b in RECENT_H]
    by_origin += [sums.deviation(origin, days * per_day) for days in SPREAD_DAYS]
    # Same clock time: whole days before, beginning with the last one known at the origin.
    reach = -(-leads // per_day) - 1
    before = per_day * (reach[:, None] + np.arange(1, CLOCK_DAYS + 1))
    at_clock = slot[:, :, None] - before
    past = _known(history, at_clock, origin)
    earlier = _known(history, at_clock[:, :, :7] - 1, origin)
    later = _known(history, at_clock[:, :, :7] + 1, origin)
    kind = clock.day_kinds(slot)
    kinds = clock.day_kinds(np.maximum(at_clock, 0))
    is_weekend, same = kinds >= SATURDAY, kinds == kind[..., None]
    alike = (is_weekend == (kind >= SATURDAY)[..., None])[clock.calendar]
    # The last days of the same kind, the latest first: a holiday's are Sundays.
    chosen = np.argsort(~same, axis=-1, kind="stable")[..., :SAME_DAYS]
    is_same = np.take_along_axis(same, chosen, axis=-1)[clock.calendar]
    chosen = chosen[clock.calendar]
    same_days = np.where(is_same, np.take_along_axis(past, chosen, axis=-1), np.nan)
    in_week = np.minimum(chosen[..., :1], 6)
    around = np.concatenate([past[..., :14], earlier, later], axis=-1)
    by_lead = [past[..., lag - 1] for lag in CLOCK_LAGS]
    by_lead += [same_days[..., 0], same_days[..., 1], _mean(same_days)]
    for side in (earlier, later):
        by_lead += [side[..., 0], np.take_along_axis(side, in_week, axis=-1)[..., 0]]
    by_lead += list(_quantiles(past[..., :7], (0.1, 0.5, 0.9)))
    by_lead += list(_quantiles(around, LEVELS))
    by_lead += [_mean(past), _mean(np.where(alike, past, np.nan))]
    own = [np.isnan(past).mean(axis=-1), (past == 0).mean(axis=-1), kind[clock.calendar]]
    of_clock = [clock.timeline.wall_s[slot] % DAY_S, np.broadcast_to(leads, slot.shape)]

    shape = (len(history), *slot.shape)
    sized = [np.broadcast_to(each[:, :, None], shape) for each in by_origin] + by_lead
    columns = [each / unit[:, :, None] for each in sized] + own
    columns += [np.broadcast_to(each, shape) for each in of_clock]
    if related:
        columns += _of_related(related, at_clock, origin, hour)
    rows = np.empty((*shape, len(columns)), dtype=np.float32)
    for i, each in enumerate(columns):
        rows[..., i] = each
    usual = _usual(past, np.maximum(at_clock, 0), clock) / unit[:, :, None]
    # Where the clock time was not observed lately: the mean, which is the unit.
    usual = np.where(np.isfinite(usual), usual, 1.0).astype(np.float32)
    return rows, np.cbrt(usual), unit


def _usual(past: FloatArray, at_clock: IntArray, clock: Clock) -> FloatArray:
    """Median of the last seven days that were not off, shape (n_series, n_origins, n_leads).

    past : shape (n_series, n_origins, n_leads, CLOCK_DAYS), at slots `at_clock`, latest first

    Weekends are among them: on five days in seven work is what is usual. A week off is not.
    """
    if not clock.days_off.any():
        return _quantiles(past[..., :7], (0.5,))[0]
    first = np.argsort(clock.days_off[:, at_clock], axis=-1, kind="stable")[..., :7]
    return _quantiles(np.take_along_axis(past, first[clock.calendar], axis=-1), (0.5,))[0]


def _of_related(
    related: Related, at_clock: IntArray, origin: IntArray, hour: int
) -> list[FloatArray]:
    """How much of each kind there was lately and at the same clock time, of its own mean."""
    columns = []
    for kind in range(related.n_kinds):
        history = related.values[related.subject, :, kind].astype(np.float64)
        history[related.subject < 0] = np.nan
        sums = _RunningSums.of(history)
        unit = sums.mean(origin, SCALE_DAYS * 24 * hour, 0)[:, :, None]
        unit = np.where(unit > 0, unit, 1.0)
        shape = (len(history), *at_clock.shape[:2])
        recent = [sums.mean(origin, h * hour, 0)[:, :, None] for h in RELATED_H]
        at_same_clock = _known(history, at_clock[:, :, [0, 6]], origin)
        beside = [*recent, at_same_clock[..., 0], at_same_clock[..., 1]]
        columns += [np.broadcast_to(each / unit, shape) for each in beside]
    return columns


@dataclass(frozen=True)
class _RunningSums:
    """Sums over any stretch of slots by two look-ups; shape (n_series, n_slots + 1) each."""

    count: FloatArray
    total: FloatArray
    squares: FloatArray

    @classmethod
    def of(cls, history: FloatArray) -> _RunningSums:
        seen = np.isfinite(history)
        values = np.where(seen, history, 0.0)
        return cls(*(_running(each) for each in (seen.astype(np.float64), values, values**2)))

    def mean(self, origin: IntArray, first: int, last: int) -> FloatArray:
        """Mean from `first` to `last` slots before each origin; NaN where nothing was observed."""
        count, total = (_between(each, origin, first, last) for each in (self.count, self.total))
        result: FloatArray = np.divide(
            total, count, out=np.full(count.shape, np.nan), where=count > 0
        )
        return result

    def deviation(self, origin: IntArray, first: int) -> FloatArray:
        mean = self.mean(origin, first, 0)
        count = _between(self.count, origin, first, 0)
        square = _between(self.squares, origin, first, 0) / np.maximum(count, 1)
        result: FloatArray = np.sqrt(np.maximum(square - mean**2, 0.0))
        return result


def _running(values: FloatArray) -> FloatArray:
    return np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)


def _between(sums: FloatArray, origin: IntArray, first: int, last: int) -> FloatArray:
    result: FloatArray = sums[:, np.maximum(origin - last, 0)]
    return result - sums[:, np.maximum(origin - first, 0)]


def _known(history: FloatArray, slots: IntArray, origin: IntArray) -> FloatArray:
    """Values at slots, NaN before the history and at or after the origin."""
    known = (slots >= 0) & (slots < origin[:, None, None])
    result: FloatArray = np.where(known, history[:, np.where(known, slots, 0)], np.nan)
    return result


def _mean(values: FloatArray) -> FloatArray:
    seen = np.isfinite(values)
    count = seen.sum(axis=-1)
    total = np.where(seen, values, 0.0).sum(axis=-1)
    mean: FloatArray = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean


def _quantiles(values: FloatArray, levels: Sequence[float] | FloatArray) -> list[FloatArray]:
    """Quantiles over the last axis, missing values left out; NaN where there are none."""
    ranked = np.sort(values, axis=-1)  # NaN last
    top = np.maximum(np.isfinite(ranked).sum(axis=-1) - 1, 0)
    result = []
    for level in levels:
        at = level * top
        low = np.floor(at).astype(np.int64)
        share = at - low
        below = np.take_along_axis(ranked, low[..., None], axis=-1)[..., 0]
        above = np.take_along_axis(ranked, np.minimum(low + 1, top)[..., None], axis=-1)[..., 0]
        result.append(below + share * (above - below))
    return result


def _at_levels(learned: FloatArray, levels: FloatArray) -> FloatArray:
    """From the quantiles learned to others: straight between and beyond, in normal scores."""
    # It takes a quarter of a second to import, and every process imports this module.
    from scipy.special import ndtri

    known, wanted = ndtri(LEVELS), ndtri(np.asarray(levels))
    left = np.clip(np.searchsorted(known, wanted, side="right") - 1, 0, len(known) - 2)
    share = (wanted - known[left]) / (known[left + 1] - known[left])
    result: FloatArray = learned[..., left] * (1 - share) + learned[..., left + 1] * share
    return result
