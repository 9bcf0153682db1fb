"""How good a forecast was: small pure functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from forecasting.core.arrays import BoolArray, FloatArray


def pinball_loss(y: FloatArray, q: FloatArray, *, levels: ArrayLike) -> FloatArray:
    """Quantile loss of each forecast.

    y : shape (...,), observed value, NaN where missing
    q : shape (..., n_levels), forecast quantiles, same unit as y
    levels : shape (n_levels,), in (0, 1)

    Returns shape (..., n_levels), >= 0, unit of y, NaN where y is NaN.
    Source: Koenker & Bassett (1978); Gneiting (2011).
    """
    level = np.asarray(levels, dtype=np.float64)
    error = y[..., None] - q
    loss: FloatArray = np.maximum(level * error, (level - 1) * error)
    return loss


def weighted_quantile_loss(y: FloatArray, q: FloatArray, *, levels: ArrayLike) -> float:
    """Twice the pinball loss, averaged over levels, per unit of what was observed.

    y : shape (...,), NaN where missing; q : shape (..., n_levels); same unit

    Returns a ratio without unit, >= 0; NaN when nothing but zeros or nothing at all was observed.
    Source: Park et al. (2022), "Learning quantile functions without quantile crossing".
    """
    total = float(np.nansum(np.abs(y)))
    if total == 0:
        return float("nan")
    n_levels = np.asarray(levels).size
    return float(2 * np.nansum(pinball_loss(y, q, levels=levels)) / n_levels / total)


def probability_integral_transform(
    y: FloatArray, q: FloatArray, *, levels: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest level whose quantile equals the observed value, by interpolation.

    y : shape (...,), NaN where missing; q : shape (..., n_levels), non-decreasing in level

    Returns two arrays of the shape of y in [0, 1]. They differ where quantiles tie with the
    observation (a forecast that half of the hours are exactly zero): the tie is taken to reach
    half way to the next level. They differ, too, below the first and above the last quantile,
    where only the stretch is known. A calibrated forecast is uniform when each observation is
    spread evenly between the two.
    Source: Czado, Gneiting & Held (2009), "Predictive model assessment for count data".
    """
    level = np.asarray(levels, dtype=np.float64)
    n_levels = len(level)
    padded = np.concatenate([[0.0], level, [1.0]])
    half_way = np.concatenate([[0.0], (level[1:] + level[:-1]) / 2, [1.0]])
    below = (q < y[..., None]).sum(axis=-1)
    upto = (q <= y[..., None]).sum(axis=-1)
    left = np.take_along_axis(q, np.clip(below - 1, 0, None)[..., None], axis=-1)[..., 0]
    right = np.take_along_axis(q, np.clip(below, None, n_levels - 1)[..., None], axis=-1)[..., 0]
    inside = (below > 0) & (below < n_levels) & (right > left)
    share = np.divide(y - left, right - left, out=np.zeros_like(y), where=inside)
    floor, ceiling = padded[below], padded[np.minimum(below + 1, n_levels + 1)]
    between = floor + share * (ceiling - floor)
    tied = upto > below
    low = np.where(tied, half_way[below], np.where(inside, between, floor))
    high = np.where(tied, half_way[upto], np.where(inside, between, ceiling))
    missing = np.isnan(y)
    return np.where(missing, np.nan, low), np.where(missing, np.nan, high)


def covered_share(
    y: FloatArray, q: FloatArray, *, levels: ArrayLike, interval: float
) -> FloatArray:
    """How much of each observation lies inside the central interval, ties counted fractionally.

    y : shape (...,), NaN where missing; q : shape (..., n_levels)
    interval : in (0, 1); its two ends, (1 - interval) / 2 and (1 + interval) / 2, must be levels

    Returns shape (...,), in [0, 1], NaN where y is NaN.
    Source: randomised probability integral transform in expectation, Czado et al. (2009).
    """
    level = np.asarray(levels, dtype=np.float64)
    lower, upper = (1 - interval) / 2, (1 + interval) / 2
    for end in (lower, upper):
        if np.abs(level - end).min() > 1e-9:
            raise ValueError(f"the {interval:.0%} interval needs the level {end:g}")
    low, high = probability_integral_transform(y, q, levels=levels)
    width = high - low
    inside = np.clip(np.minimum(high, upper) - np.maximum(low, lower), 0, None)
    certain = ((low >= lower) & (low <= upper)).astype(np.float64)
    share = np.where(width > 1e-12, inside / np.where(width > 1e-12, width, 1.0), certain)
    return np.where(np.isnan(y), np.nan, share)


def coverage(y: FloatArray, q: FloatArray, *, levels: ArrayLike, interval: float) -> float:
    """Share of observations inside the central interval: the mean of `covered_share`.

    Returns a share in [0, 1], NaN when nothing was observed.
    """
    share = covered_share(y, q, levels=levels, interval=interval)
    seen = ~np.isnan(share)
    return float(share[seen].mean()) if seen.any() else float("nan")


def log_loss(probability: FloatArray, *, floor: float = 1e-4) -> float:
    """Mean negative log of the probability given to what happened, nats.

    probability : shape (n,), of the outcome observed; raised to `floor` where lower
    Source: Good (1952), logarithmic score.
    """
    return float(-np.log(np.maximum(probability, floor)).mean())


def brier_score(probabilities: FloatArray, outcome: FloatArray) -> float:
    """Mean squared distance between probabilities and what happened, in [0, 2].

    probabilities : shape (n, k), rows summing to 1
    outcome : shape (n, k), 1 for what happened, else 0
    Source: Brier (1950).
    """
    return float(((probabilities - outcome) ** 2).sum(axis=1).mean())


def expected_calibration_error(
    probability: FloatArray, happened: BoolArray, *, bins: int = 15
) -> float:
    """Mean gap between probabilities and frequencies over bins of equal mass, in [0, 1].

    probability : shape (n,), in [0, 1]; happened : shape (n,)
    Source: Naeini, Cooper & Hauskrecht (2015); equal-mass bins after Nixon et al. (2019).
    """
    order = np.argsort(probability, kind="stable")
    pieces = [piece for piece in np.array_split(order, bins) if len(piece)]
    gaps = [len(at) * abs(probability[at].mean() - happened[at].mean()) for at in pieces]
    return float(sum(gaps) / max(len(probability), 1))
