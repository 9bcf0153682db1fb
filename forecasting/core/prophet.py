"""Prophet's default model, fitted for a whole fleet at once.

The model is Prophet's: a linear trend whose slope may change at up to 25 points in the first 80 %
of the history, with a Laplace prior on the changes; Fourier series for the year, week and day,
switched on by Prophet's own rules; one effect per named holiday; Gaussian noise. Its maximum a
posteriori (MAP) estimate for known noise is a ridge regression with an L1 penalty on the slope
changes, solved for all series together by `posterior`. Series with the same observed slots share
design and Gram matrix.

Source: Taylor & Letham (2018), "Forecasting at scale".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray, IntArray
from forecasting.core.calendar import Holidays
from forecasting.core.posterior import (
    CHANGES,
    N_CHANGEPOINTS,
    OFFSET,
    SLOPE,
    best_variance,
    log_posterior,
    maximise_posterior,
)
from forecasting.core.timeline import DAY_S, Timeline

CHANGEPOINT_RANGE = 0.8

# name, period in days, Fourier order, least span of history in days, longest step in days
SEASONALITIES = (
    ("yearly", 365.25, 10, 730.0, np.inf),
    ("weekly", 7.0, 3, 14.0, 7.0),
    ("daily", 1.0, 4, 2.0, 1.0),
)
SOLVED_AT_ONCE, SHARED_FROM = 256, 32


@dataclass(frozen=True)
class _Layout:
    """What series with the same observed slots and the same calendar have in common."""

    first_s: float
    span_s: float
    changepoints: FloatArray  # (<= 25,), in scaled time
    seasons: tuple[str, ...]
    calendar: int

    def scaled_time(self, seconds: FloatArray) -> FloatArray:
        return (seconds - self.first_s) / self.span_s


@dataclass(frozen=True)
class ProphetFit:
    """MAP estimates of a fleet.

    columns : which coefficients belong to which component
    coefficients : shape (n_series, n_columns): slope, offset, slope changes, Fourier terms,
        holidays; on values divided by `scale`; NaN for a series with fewer than two observations
    noise : shape (n_series,), standard deviation, same scale
    scale : shape (n_series,), largest absolute value observed
    log_posterior : shape (n_series,), as Stan's `lp__`: constants left out
    """

    timeline: Timeline
    holidays: Holidays | None
    columns: dict[str, slice]
    layouts: tuple[_Layout, ...]
    layout_of: IntArray
    coefficients: FloatArray
    noise: FloatArray
    scale: FloatArray
    log_posterior: FloatArray

    def quantiles(
        self, levels: Sequence[float] | FloatArray, *, slots: IntArray | None = None
    ) -> FloatArray:
        """Quantiles of some slots, shape (n_series, slots, n_levels); by default of the future.

        Analytic: slope changes yet to come (as frequent and as large as those of the past) and
        noise are summed as variances, where Prophet simulates them.
        """
        if slots is None:
            slots = np.arange(self.timeline.n_slots, len(self.timeline.unix_s))
        mean = np.sum(list(self.components(slots).values()), axis=0)
        spread = np.sqrt(self._trend_variance(slots) + self.noise[:, None] ** 2)
        spread *= self.scale[:, None]
        # It takes a quarter of a second to import, and every process imports this module.
        from scipy.special import ndtri

        result: FloatArray = mean[:, :, None] + spread[:, :, None] * ndtri(np.asarray(levels))
        return result

    def components(self, slots: IntArray) -> dict[str, FloatArray]:
        """Trend, each seasonality and holidays, shape (n_series, slots) each, in data units."""
        parts = {name: np.full((len(self.scale), len(slots)), np.nan) for name in self.columns}
        regressors = _Regressors.of(self.columns, self.timeline, self.holidays, slots)
        for layout, members in zip(self.layouts, self._members(), strict=True):
            design = regressors.design(layout)
            for name, where in self.columns.items():
                part = self.coefficients[members, where] @ design[:, where].T
                parts[name][members] = part * self.scale[members, None]
        return parts

    def _trend_variance(self, slots: IntArray) -> FloatArray:
        """Variance of the trend from slope changes yet to come, scaled; (n_series, slots)."""
        variance = np.zeros((len(self.scale), len(slots)))
        size = np.abs(self.coefficients[:, CHANGES]).sum(axis=1)
        for layout, members in zip(self.layouts, self._members(), strict=True):
            ahead = np.maximum(layout.scaled_time(self.timeline.wall_s[slots]) - 1.0, 0.0)
            rate = max(len(layout.changepoints), 1)
            # A Poisson stream of Laplace slope changes, each acting from its own time on.
            variance[members] = (2.0 * (size[members] / rate) ** 2 * rate)[:, None] * ahead**3 / 3
        return variance

    def _members(self) -> list[IntArray]:
        """Which series have each layout."""
        order = np.argsort(self.layout_of, kind="stable")
        return np.split(
            order, np.searchsorted(self.layout_of[order], range(len(self.layouts) + 1))
        )[1:-1]


def fit_prophet(
    history: FloatArray, *, timeline: Timeline, holidays: Holidays | None = None
) -> ProphetFit:
    """Fit Prophet's default model to every series.

    history : shape (n_series, n_slots), NaN where missing; a series with fewer than two
        observations gets NaN everywhere
    """
    observed = np.isfinite(history)
    n_series = len(history)
    scale = np.abs(np.where(observed, history, 0.0)).max(axis=1, initial=0.0)
    scale[scale == 0] = 1.0
    values = np.where(observed, history, 0.0) / scale[:, None]

    groups = list(_groups(observed, timeline, holidays))
    layouts = tuple(layout for _, layout in groups)
    columns = _columns(layouts, holidays)
    regressors = _Regressors.of(columns, timeline, holidays, np.arange(timeline.n_slots))
    layout_of = np.full(n_series, -1)
    for number, (members, _) in enumerate(groups):
        layout_of[members] = number

    constant = _is_constant(values, observed)
    coefficients = _coefficients(values, observed, constant, groups, layout_of, regressors)
    noise, log_density = np.full(n_series, np.nan), np.full(n_series, np.nan)
    for members, layout in groups:
        seen = np.flatnonzero(observed[members[0]])
        count = np.full(len(members), float(len(seen)))
        fitted = coefficients[members] @ regressors.design(layout, seen).T
        # From the residuals themselves: sums of squares cancel where a series has no noise.
        error = ((values[np.ix_(members, seen)] - fitted) ** 2).sum(axis=1)
        variance = best_variance(error, count)
        noise[members] = np.sqrt(variance)
        log_density[members] = log_posterior(coefficients[members], variance, error, count)
    noise[constant] = np.where(layout_of[constant] >= 0, 0.0, np.nan)
    return ProphetFit(
        timeline=timeline,
        holidays=holidays,
        columns=columns,
        layouts=layouts,
        layout_of=layout_of,
        coefficients=coefficients,
        noise=noise,
        scale=scale,
        log_posterior=log_density,
    )


def _groups(
    observed: BoolArray, timeline: Timeline, holidays: Holidays | None
) -> Iterator[tuple[IntArray, _Layout]]:
    """Series that share a design: the same slots observed, the same calendar followed."""
    n_series = len(observed)
    calendar = holidays.calendar_of(n_series) if holidays else np.zeros(n_series, dtype=np.int64)
    key = np.column_stack([np.packbits(observed, axis=1), calendar])
    _, group = np.unique(key, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        times = timeline.wall_s[: timeline.n_slots][observed[members[0]]] if len(members) else []
        if len(times) >= 2:
            # In the hour that a clock repeats, wall time runs twice.
            yield members, _layout(np.sort(times), int(calendar[members[0]]))


def _layout(times: FloatArray, calendar: int) -> _Layout:
    """Changepoints and seasonalities by Prophet's rules, from the times observed."""
    # Seen only at one time of the wall clock, a series shows no trend: any span will do.
    span_s = times[-1] - times[0] or DAY_S
    n_early = int(np.floor(len(times) * CHANGEPOINT_RANGE))
    n_changes = min(N_CHANGEPOINTS, n_early - 1)
    changepoints = np.empty(0)
    if n_changes > 0:
        # numpy rounds half to even, as Prophet's own call does.
        where = np.linspace(0, n_early - 1, n_changes + 1).round().astype(int)[1:]
        changepoints = (times[where] - times[0]) / span_s
    step_days = np.diff(times).min() / DAY_S
    seasons = tuple(
        name
        for name, _, _, least_days, step_below in SEASONALITIES
        if span_s / DAY_S >= least_days and step_days < step_below
    )
    return _Layout(float(times[0]), float(span_s), changepoints, seasons, calendar)


def _columns(layouts: Sequence[_Layout], holidays: Holidays | None) -> dict[str, slice]:
    """Columns of the design by component; a seasonality nobody uses has none."""
    columns = {"trend": slice(0, CHANGES.stop)}
    end = CHANGES.stop
    for name, _, order, _, _ in SEASONALITIES:
        if any(name in layout.seasons for layout in layouts):
            columns[name] = slice(end, end + 2 * order)
            end += 2 * order
    if holidays:
        columns["holidays"] = slice(end, end + len(holidays.names))
    return columns


@dataclass(frozen=True)
class _Regressors:
    """What does not depend on a layout is computed once for all of them.

    seconds : shape (slots,), wall clock
    waves : shape (slots, n_columns), every seasonality; other columns are 0
    flags : shape (n_calendars, slots, n_holidays)
    """

    columns: dict[str, slice]
    seconds: FloatArray
    waves: FloatArray
    flags: BoolArray | None

    @classmethod
    def of(
        cls,
        columns: dict[str, slice],
        timeline: Timeline,
        holidays: Holidays | None,
        slots: IntArray,
    ) -> _Regressors:
        seconds = timeline.wall_s[slots]
        waves = np.zeros((len(seconds), max(each.stop for each in columns.values())))
        for name, period_days, order, _, _ in SEASONALITIES:
            if name in columns:
                angle = 2 * np.pi * seconds[:, None] / DAY_S * np.arange(1, order + 1) / period_days
                pairs = np.stack([np.sin(angle), np.cos(angle)], axis=2)
                waves[:, columns[name]] = pairs.reshape(len(seconds), -1)
        return cls(columns, seconds, waves, holidays.flags[:, slots] if holidays else None)

    def design(self, layout: _Layout, rows: IntArray | slice = slice(None)) -> FloatArray:
        """The regressors of series with one layout in some of the slots, (rows, n_columns)."""
        design = self.waves[rows].copy()
        time = layout.scaled_time(self.seconds[rows])
        design[:, SLOPE], design[:, OFFSET] = time, 1.0
        ramps = design[:, 2 : 2 + len(layout.changepoints)]
        np.maximum(time[:, None] - layout.changepoints, 0.0, out=ramps)
        for name, where in self.columns.items():
            if name not in (*layout.seasons, "trend", "holidays"):
                design[:, where] = 0.0
        if self.flags is not None:
            design[:, self.columns["holidays"]] = self.flags[layout.calendar][rows]
        return design


def _coefficients(
    values: FloatArray,
    observed: BoolArray,
    constant: BoolArray,
    groups: Sequence[tuple[IntArray, _Layout]],
    layout_of: IntArray,
    regressors: _Regressors,
) -> FloatArray:
    """MAP coefficients of every series in a group, shape (n_series, n_columns); else NaN."""
    n_columns = regressors.waves.shape[1]
    gram = np.zeros((len(groups), n_columns, n_columns))
    moment = np.zeros((len(values), n_columns))
    for number, (members, layout) in enumerate(groups):
        seen = np.flatnonzero(observed[members[0]])
        design = regressors.design(layout, seen)
        gram[number] = design.T @ design
        moment[members] = values[np.ix_(members, seen)] @ design
    energy, count = (values**2).sum(axis=1), observed.sum(axis=1).astype(np.float64)
    coefficients = np.full((len(values), n_columns), np.nan)
    for some in _batches([members[~constant[members]] for members, _ in groups]):
        of = layout_of[some]
        shared = of[:1] if (of == of[0]).all() else of
        coefficients[some] = maximise_posterior(
            gram[shared], moment[some], energy[some], count[some]
        )
    # A series that never changed has nothing to fit; as Prophet does, say so with no noise.
    still = np.flatnonzero(constant & (layout_of >= 0))
    coefficients[still] = 0.0
    coefficients[still, OFFSET] = np.where(observed[still], values[still], -np.inf).max(axis=1)
    return coefficients


def _batches(groups: Sequence[IntArray]) -> Iterator[IntArray]:
    """Series to be solved together: those of a large group by themselves, so as to share a Gram."""
    large = [members for members in groups if len(members) >= SHARED_FROM]
    small = [members for members in groups if len(members) < SHARED_FROM]
    for members in [*large, *([np.concatenate(small)] if small else [])]:
        if len(members):
            yield from np.array_split(members, -(-len(members) // SOLVED_AT_ONCE))


def _is_constant(values: FloatArray, observed: BoolArray) -> BoolArray:
    """Which series never changed, shape (n_series,)."""
    highest = np.where(observed, values, -np.inf).max(axis=1, initial=-np.inf)
    lowest = np.where(observed, values, np.inf).min(axis=1, initial=np.inf)
    constant: BoolArray = highest == lowest
    return constant
