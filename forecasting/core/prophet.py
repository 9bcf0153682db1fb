"""Prophet's default model, fitted for a whole fleet at once.

The model is Prophet's: a linear trend whose slope may change at up to 25 points in the first 80 %
of the history, with a Laplace prior on the changes; Fourier series for the year, week and day,
switched on by Prophet's own rules; one effect per named holiday; Gaussian noise. Its maximum a
posteriori (MAP) estimate for known noise is a ridge regression with an L1 penalty on the slope
changes, and the best noise level for known coefficients is closed-form. Series with the same
observed slots share design and Gram matrix, so what remains per series is a small quadratic
programme, solved for all series together by an interior-point method.

Source: Taylor & Letham (2018), "Forecasting at scale"; the priors are those of Prophet's Stan
model. Interior point: Boyd & Vandenberghe (2004), chapter 11.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray, IntArray
from forecasting.core.calendar import Holidays
from forecasting.core.timeline import DAY_S, Timeline

N_CHANGEPOINTS = 25
CHANGEPOINT_RANGE = 0.8
LAPLACE_SCALE = 0.05
TREND_SCALE = 5.0
SEASONAL_SCALE = 10.0
NOISE_SCALE = 0.5

# name, period in days, Fourier order, least span of history in days, longest step in days
SEASONALITIES = (
    ("yearly", 365.25, 10, 730.0, np.inf),
    ("weekly", 7.0, 3, 14.0, 7.0),
    ("daily", 1.0, 4, 2.0, 1.0),
)
SLOPE, OFFSET, N_TREND = 0, 1, 2 + N_CHANGEPOINTS
CHANGES = slice(2, N_TREND)

# Scaled values lie in [-1, 1]; noise below this is rounding, and would make the programme singular.
LEAST_NOISE = 1e-7
MAX_ITERATIONS = 50
SOLVED_AT_ONCE = 256


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
        for number, layout in enumerate(self.layouts):
            members = np.flatnonzero(self.layout_of == number)
            design = _design(layout, self.columns, self.timeline, self.holidays, slots)
            for name, where in self.columns.items():
                part = self.coefficients[members, where] @ design[:, where].T
                parts[name][members] = part * self.scale[members, None]
        return parts

    def _trend_variance(self, slots: IntArray) -> FloatArray:
        """Variance of the trend from slope changes yet to come, scaled; (n_series, slots)."""
        variance = np.zeros((len(self.scale), len(slots)))
        size = np.abs(self.coefficients[:, CHANGES]).sum(axis=1)
        for number, layout in enumerate(self.layouts):
            members = self.layout_of == number
            ahead = np.maximum(layout.scaled_time(self.timeline.wall_s[slots]) - 1.0, 0.0)
            rate = max(len(layout.changepoints), 1)
            # A Poisson stream of Laplace slope changes, each acting from its own time on.
            variance[members] = (2.0 * (size[members] / rate) ** 2 * rate)[:, None] * ahead**3 / 3
        return variance


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
    columns = _columns([layout for _, layout in groups], holidays)
    n_columns = max(each.stop for each in columns.values())
    gram = np.zeros((n_series, n_columns, n_columns))
    moment = np.zeros((n_series, n_columns))
    layout_of = np.full(n_series, -1)
    for number, (members, layout) in enumerate(groups):
        layout_of[members] = number
        seen = np.flatnonzero(observed[members[0]])
        design = _design(layout, columns, timeline, holidays, seen)
        gram[members] = design.T @ design
        moment[members] = values[np.ix_(members, seen)] @ design

    coefficients = np.full((n_series, n_columns), np.nan)
    noise = np.full(n_series, np.nan)
    log_posterior = np.full(n_series, np.nan)
    energy, count = (values**2).sum(axis=1), observed.sum(axis=1).astype(np.float64)
    fitted = np.flatnonzero(layout_of >= 0)
    for first in range(0, len(fitted), SOLVED_AT_ONCE):
        some = fitted[first : first + SOLVED_AT_ONCE]
        coefficients[some], noise[some], log_posterior[some] = _maximise_posterior(
            gram[some], moment[some], energy[some], count[some]
        )
    _settle_constants(values, observed, fitted, coefficients, noise)
    return ProphetFit(
        timeline=timeline,
        holidays=holidays,
        columns=columns,
        layouts=tuple(layout for _, layout in groups),
        layout_of=layout_of,
        coefficients=coefficients,
        noise=noise,
        scale=scale,
        log_posterior=log_posterior,
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
            yield members, _layout(np.asarray(times), int(calendar[members[0]]))


def _layout(times: FloatArray, calendar: int) -> _Layout:
    """Changepoints and seasonalities by Prophet's rules, from the times observed."""
    span_s = times[-1] - times[0]
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
    columns = {"trend": slice(0, N_TREND)}
    end = N_TREND
    for name, _, order, _, _ in SEASONALITIES:
        if any(name in layout.seasons for layout in layouts):
            columns[name] = slice(end, end + 2 * order)
            end += 2 * order
    if holidays:
        columns["holidays"] = slice(end, end + len(holidays.names))
    return columns


def _design(
    layout: _Layout,
    columns: dict[str, slice],
    timeline: Timeline,
    holidays: Holidays | None,
    slots: IntArray,
) -> FloatArray:
    """The regressors of some slots, shape (slots, n_columns)."""
    seconds = timeline.wall_s[slots]
    time = layout.scaled_time(seconds)
    design = np.zeros((len(seconds), max(each.stop for each in columns.values())))
    design[:, SLOPE], design[:, OFFSET] = time, 1.0
    ramps = np.maximum(time[:, None] - layout.changepoints, 0.0)
    design[:, 2 : 2 + ramps.shape[1]] = ramps
    for name, period_days, order, _, _ in SEASONALITIES:
        if name in layout.seasons:
            angle = 2 * np.pi * (seconds[:, None] / DAY_S) * np.arange(1, order + 1) / period_days
            waves = np.stack([np.sin(angle), np.cos(angle)], axis=2)
            design[:, columns[name]] = waves.reshape(len(seconds), -1)
    if holidays:
        design[:, columns["holidays"]] = holidays.flags[layout.calendar][slots]
    return design


def _maximise_posterior(
    gram: FloatArray, moment: FloatArray, energy: FloatArray, count: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """MAP coefficients, noise and log posterior of a batch of series.

    gram, moment, energy : X'X (n, p, p), X'y (n, p) and y'y (n,) of the scaled series
    count : number of observations, shape (n,)

    With r = X'X theta - X'y the optimum satisfies r + noise^2 * prior gradient = 0. The L1 part
    is kept smooth by the barrier parameter mu, driven to zero; `up` and `down` are the positive
    and negative parts of the slope changes, `up_dual` and `down_dual` the slacks of |r| <= penalty.
    """
    n_columns = gram.shape[1]
    precision = np.full(n_columns, SEASONAL_SCALE**-2)
    precision[[SLOPE, OFFSET]] = TREND_SCALE**-2
    precision[CHANGES] = 0.0
    diagonal = np.arange(n_columns)

    theta = np.zeros_like(moment)
    variance = _best_variance(energy, count)
    penalty = variance / LAPLACE_SCALE
    up = np.full((len(gram), N_CHANGEPOINTS), LAPLACE_SCALE)
    down = up.copy()
    up_dual = np.repeat(penalty[:, None], N_CHANGEPOINTS, axis=1)
    down_dual = up_dual.copy()
    for _ in range(MAX_ITERATIONS):
        gap = ((up * up_dual + down * down_dual).mean(axis=1) / 2)[:, None]
        mu = 0.1 * gap
        give = up / up_dual + down / down_dual
        push = mu / up_dual - up - mu / down_dual + down
        hessian = gram.copy()
        hessian[:, diagonal, diagonal] += variance[:, None] * precision
        # A hair of ridge: neighbouring ramps may coincide where half the history is missing.
        hessian[:, diagonal, diagonal] += 1e-13 * count[:, None]
        gradient = np.einsum("nij,nj->ni", hessian, theta) - moment
        gradient[:, CHANGES] += penalty[:, None] - up_dual - push / give
        hessian[:, diagonal[CHANGES], diagonal[CHANGES]] += 1.0 / give
        move = -np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]

        dual_move = (push - move[:, CHANGES]) / give
        up_move = (mu - up * up_dual - up * dual_move) / up_dual
        down_move = (mu - down * down_dual + down * dual_move) / down_dual
        primal = _step_inside((up, up_move), (down, down_move))
        dual = _step_inside((up_dual, dual_move), (down_dual, -dual_move))
        length = np.minimum(primal, dual)
        theta += length * move
        up, down = up + length * up_move, down + length * down_move
        up_dual, down_dual = up_dual + length * dual_move, down_dual - length * dual_move

        error = _squared_error(theta, gram, moment, energy)
        previous, variance = variance, _best_variance(error, count)
        settled = np.abs(variance - previous) <= 1e-9 * variance
        if (settled & (gap[:, 0] <= 1e-9 * penalty * LAPLACE_SCALE)).all():
            break
        stretch = (variance / previous)[:, None]
        up_dual, down_dual = up_dual * stretch, down_dual * stretch
        penalty = variance / LAPLACE_SCALE

    noise = np.sqrt(variance)
    log_posterior = (
        -count * np.log(noise)
        - error / (2 * variance)
        - variance / (2 * NOISE_SCALE**2)
        - (precision * theta**2).sum(axis=1) / 2
        - np.abs(theta[:, CHANGES]).sum(axis=1) / LAPLACE_SCALE
    )
    return theta, noise, log_posterior


def _squared_error(
    theta: FloatArray, gram: FloatArray, moment: FloatArray, energy: FloatArray
) -> FloatArray:
    fitted = np.einsum("nij,nj->ni", gram, theta)
    result: FloatArray = energy + (theta * (fitted - 2 * moment)).sum(axis=1)
    return np.maximum(result, 0.0)


def _best_variance(squared_error: FloatArray, count: FloatArray) -> FloatArray:
    """The noise variance of highest posterior for given residuals, in closed form.

    Root of v^2 / NOISE_SCALE^2 + count * v - squared_error = 0, in the form without cancellation.
    """
    root = np.sqrt(count**2 + 4 * squared_error / NOISE_SCALE**2)
    return np.maximum(2 * squared_error / (count + root), LEAST_NOISE**2)


def _step_inside(*moves: tuple[FloatArray, FloatArray]) -> FloatArray:
    """The longest step up to 1 that keeps every value positive, shape (n, 1)."""
    longest = np.ones(len(moves[0][0]))
    for value, move in moves:
        ratio = np.where(move < 0, -value / np.where(move < 0, move, 1.0), np.inf)
        longest = np.minimum(longest, 0.99 * ratio.min(axis=1))
    return longest[:, None]


def _settle_constants(
    values: FloatArray,
    observed: BoolArray,
    fitted: IntArray,
    coefficients: FloatArray,
    noise: FloatArray,
) -> None:
    """A series that never changed has nothing to fit; as Prophet does, say so with no noise."""
    highest = np.where(observed, values, -np.inf).max(axis=1, initial=-np.inf)
    lowest = np.where(observed, values, np.inf).min(axis=1, initial=np.inf)
    constant = fitted[highest[fitted] == lowest[fitted]]
    coefficients[constant] = 0.0
    coefficients[constant, OFFSET] = highest[constant]
    noise[constant] = 0.0
