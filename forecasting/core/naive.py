"""The simplest forecasts there are, with the spread of their own past errors.

What any engine has to beat: the value a day or a week ago, or the last one seen, each moved by the
empirical quantiles of how far that was off in the history. A lag is elapsed time: over a change
of the clock, days are to be laid onto the wall clock first (`forecasting.core.wall`).
"""

from __future__ import annotations

import numpy as np

from forecasting.core.arrays import FloatArray


def seasonal_naive(
    history: FloatArray, *, lag: int, horizon: int, levels: FloatArray
) -> FloatArray:
    """The value a whole number of lags before, plus quantiles of past changes over one lag.

    history : shape (n_series, n_slots), NaN where missing; lag : slots, a day or a week

    Returns shape (n_series, horizon, n_levels): the latest lag at which something was observed;
    NaN where nothing was; never below zero where the history is not.
    """
    n_series, n_slots = history.shape
    base = np.full((n_series, horizon), np.nan)
    for lead in range(horizon):
        slot = n_slots + lead - lag * (lead // lag + 1)
        while slot >= 0 and np.isnan(base[:, lead]).any():
            base[:, lead] = np.where(np.isnan(base[:, lead]), history[:, slot], base[:, lead])
            slot -= lag
    errors = row_quantiles(history[:, lag:] - history[:, :-lag], levels)
    return _not_below_zero(base[:, :, None] + np.nan_to_num(errors)[:, None], history)


def persistence(history: FloatArray, *, horizon: int, levels: FloatArray) -> FloatArray:
    """The last value seen, plus quantiles of past changes over as many slots as lie ahead."""
    n_series, n_slots = history.shape
    last = np.full(n_series, np.nan)
    for slot in range(n_slots - 1, -1, -1):
        last = np.where(np.isnan(last), history[:, slot], last)
        if not np.isnan(last).any():
            break
    errors = np.zeros((n_series, horizon, len(levels)))
    for lead in range(1, min(horizon, n_slots - 1) + 1):
        errors[:, lead - 1] = row_quantiles(history[:, lead:] - history[:, :-lead], levels)
    return _not_below_zero(last[:, None, None] + np.nan_to_num(errors), history)


def row_quantiles(values: FloatArray, levels: FloatArray) -> FloatArray:
    """Quantiles of what is finite in each row, shape (n_rows, n_levels); NaN for an empty row.

    As `numpy.nanquantile` does, without its loop over rows.
    """
    if not values.shape[1]:
        return np.full((len(values), len(levels)), np.nan)
    ranked = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(ranked).sum(axis=1)
    position = np.maximum(count - 1, 0)[:, None] * levels
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(count - 1, 0)[:, None])
    low = np.take_along_axis(ranked, below, axis=1)
    high = np.take_along_axis(ranked, above, axis=1)
    result: FloatArray = low + (position - below) * (high - low)
    return result


def _not_below_zero(quantiles: FloatArray, history: FloatArray) -> FloatArray:
    never_negative = ~(history < 0).any(axis=1)
    quantiles[never_negative] = np.maximum(quantiles[never_negative], 0.0)
    return quantiles
