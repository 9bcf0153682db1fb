"""Make intervals cover what they promise, from how past ones did.

Each quantile is moved toward or away from the median by the factor at which past observations
would have fallen below it as often as its level says: conformal prediction with the distance to
the median as its score. One factor per level is found for the fleet, one for each series, and
the two are averaged by how much the series has shown. A forecast that is certain (no distance to
its median) stays certain.

Source: Romano, Patterson & Candes (2019), "Conformalized quantile regression", in its scaled form.
"""

from __future__ import annotations

import numpy as np

from forecasting.core.arrays import FloatArray, IntArray

# Cases that count as much as the fleet; hours of one day err together, so this is some days' worth.
FLEET_CASES = 100.0
LEAST_FACTOR, MOST_FACTOR = 0.5, 3.0


def learn_factors(actual: FloatArray, quantiles: FloatArray, *, levels: FloatArray) -> FloatArray:
    """Factors by which to stretch the distance of each quantile to the median.

    actual : shape (n_series, n_cases), NaN where unknown
    quantiles : shape (n_series, n_cases, n_levels), what had been said
    levels : shape (n_levels,), rising, 0.5 among them

    Returns shape (n_series, n_levels), 1 where there is nothing to learn from.
    """
    middle = int(np.argmin(np.abs(levels - 0.5)))
    distance = quantiles - quantiles[..., middle : middle + 1]
    away = actual - quantiles[..., middle]
    known = np.isfinite(away)
    factors = np.ones((len(actual), len(levels)))
    share = known.sum(axis=1) / (known.sum(axis=1) + FLEET_CASES)
    for i, level in enumerate(levels):
        if i == middle:
            continue
        side = 1.0 if level > 0.5 else -1.0
        score = _ratio(side * away, side * distance[..., i])
        score[~known] = np.nan
        wanted = max(level, 1 - level)
        fleet = _log_factor(score.reshape(1, -1), wanted)
        own = _log_factor(score, wanted)
        factors[:, i] = np.exp(share * own + (1 - share) * fleet)
    return factors


def stretch(
    quantiles: FloatArray, factors: FloatArray, *, at: FloatArray, levels: FloatArray
) -> FloatArray:
    """Apply factors learned at some levels to quantiles at any levels.

    quantiles : shape (n_series, n_slots, n_levels)
    levels : shape (n_levels,), rising, 0.5 among them
    factors : shape (n_series, n_slots, len(at)); at : the levels they were learned at, rising

    Returns the shape of `quantiles`, non-decreasing in level.
    """
    middle = int(np.argmin(np.abs(levels - 0.5)))
    median = quantiles[..., middle : middle + 1]
    position = np.interp(levels, at, np.arange(len(at)))
    left = np.minimum(position.astype(np.int64), len(at) - 2)
    share = position - left
    factor = (1 - share) * factors[..., left] + share * factors[..., left + 1]
    result: FloatArray = np.sort(median + factor * (quantiles - median), axis=-1)
    return result


def _ratio(away: FloatArray, distance: FloatArray) -> FloatArray:
    """Score of each case: the factor at which its quantile would just have reached it.

    NaN where the quantile is the median: no factor moves it, so the case says nothing of factors.
    """
    silent = np.full(away.shape, np.nan)
    score: FloatArray = np.divide(away, distance, out=silent, where=distance > 0)
    return score


def _log_factor(score: FloatArray, wanted: float) -> FloatArray:
    """Log of the `wanted` quantile of each row, within limits; 0 for a row without cases."""
    if not score.shape[1]:
        return np.zeros(len(score))
    ranked = np.sort(score, axis=1)  # NaN last
    count = (~np.isnan(score)).sum(axis=1)
    top = np.maximum(count - 1, 0)
    rank = np.clip(wanted * (count + 1) - 1, 0, top)
    low: IntArray = rank.astype(np.int64)
    below = np.take_along_axis(ranked, low[:, None], axis=1)[:, 0]
    above = np.take_along_axis(ranked, np.minimum(low + 1, top)[:, None], axis=1)[:, 0]
    value = np.where(count > 0, below + (rank - low) * (above - below), 1.0)
    result: FloatArray = np.log(np.clip(value, LEAST_FACTOR, MOST_FACTOR))
    return result
