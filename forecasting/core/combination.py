"""Weights with which several forecasts are averaged, learned at past origins.

Averaging quantiles level by level beats picking a champion when origins are few, and the weights
that served the whole fleet are the best first guess for each series. So the weights are found
twice by exponentiated gradient on the pinball loss: once for the fleet, then, starting there and
stopped early, for every series. Stopping early is the shrinkage toward the fleet.

Source: Kivinen & Warmuth (1997), exponentiated gradient; Lichtendahl, Grushka-Cockayne & Winkler
(2013), "Is it better to average probabilities or quantiles?".
"""

from __future__ import annotations

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray, IntArray
from forecasting.core.threads import in_pieces

FLEET_ROUNDS, SERIES_ROUNDS = 60, 20
FLEET_RATE, SERIES_RATE = 0.5, 0.3
# The fleet's weights are settled by a few hundred series; more only cost time.
FLEET_SAMPLE = 600


def learn_weights(actual: FloatArray, quantiles: FloatArray, *, levels: FloatArray) -> FloatArray:
    """Weights of each member for each series.

    actual : shape (n_series, n_cases), what happened; NaN where unknown
    quantiles : shape (n_members, n_series, n_cases, n_levels), what each member had said; NaN
        where it had nothing to say
    levels : shape (n_levels,)

    Returns shape (n_series, n_members), rows summing to 1; equal weights for a series with no
    case to learn from, and none for a member that never said anything.
    """
    heard = np.isfinite(quantiles).all(axis=3).reshape(len(quantiles), -1).any(axis=1)
    if heard.any() and not heard.all():
        weights = np.zeros(quantiles.shape[1::-1])
        weights[:, heard] = learn_weights(actual, quantiles[heard], levels=levels)
        return weights
    n_members, n_series = quantiles.shape[:2]
    spoken = np.isfinite(quantiles).all(axis=(0, 3)) & np.isfinite(actual)
    said = np.where(spoken[None, :, :, None], quantiles, 0.0)
    happened = np.where(spoken, actual, 0.0)
    count = np.maximum(spoken.sum(axis=1), 1)
    loss = _pinball(happened, said, levels).sum(axis=(2, 3)) / count
    scale = loss.mean(axis=0)  # (n_series,)
    useful = np.flatnonzero((scale > 0) & spoken.any(axis=1))

    start = np.full(n_members, 1.0 / n_members)
    weights = np.tile(start, (n_series, 1))
    if not len(useful):
        return weights
    relative = 1.0 / (np.where(scale > 0, scale, 1.0) * count)
    # Chosen by what they are like, not by where they stand: order must not matter.
    ranked = useful[np.lexsort(loss[:, useful] / scale[useful])]
    sample = ranked[np.unique(np.linspace(0, len(ranked) - 1, FLEET_SAMPLE).astype(np.int64))]
    fleet = start[None]
    for turn in range(FLEET_ROUNDS):
        slope = _slope(fleet, happened[sample], said[:, sample], levels, relative[sample])
        rate = FLEET_RATE / np.sqrt(1 + turn / 10)
        fleet = _descend(fleet, slope.mean(axis=0, keepdims=True), rate)

    def lean(some: IntArray) -> FloatArray:
        own = np.repeat(fleet, len(some), axis=0)
        mine = useful[some]
        facts = happened[mine], said[:, mine], levels, relative[mine]
        for _ in range(SERIES_ROUNDS):
            own = _descend(own, _slope(own, *facts), SERIES_RATE)
        return own

    weights[:] = fleet
    weights[useful] = np.concatenate(in_pieces(lean, len(useful)))
    return weights


def combine(quantiles: FloatArray, weights: FloatArray) -> FloatArray:
    """Average quantiles level by level, leaving out members that have nothing to say.

    quantiles : shape (n_members, n_series, ..., n_levels)
    weights : shape (n_series, n_members), or (n_series, n_slots, n_members)

    Returns shape (n_series, ..., n_levels), NaN where no member has anything to say.
    """
    spoken: BoolArray = np.asarray(np.isfinite(quantiles).all(axis=-1))
    weight = np.moveaxis(weights, -1, 0)
    weight = weight.reshape(weight.shape + (1,) * (spoken.ndim - weight.ndim)) * spoken
    total = weight.sum(axis=0)
    summed = (np.where(spoken[..., None], quantiles, 0.0) * weight[..., None]).sum(axis=0)
    result: FloatArray = np.where(
        total[..., None] > 0, summed / np.where(total > 0, total, 1.0)[..., None], np.nan
    )
    return result


def _pinball(actual: FloatArray, quantiles: FloatArray, levels: FloatArray) -> FloatArray:
    error = actual[..., None] - quantiles
    loss: FloatArray = np.maximum(levels * error, (levels - 1) * error)
    return loss


def _slope(
    weights: FloatArray,
    actual: FloatArray,
    quantiles: FloatArray,
    levels: FloatArray,
    relative: FloatArray,
) -> FloatArray:
    """Gradient of the relative loss by weight, shape (n_series, n_members)."""
    weights = np.broadcast_to(weights, (len(actual), len(quantiles)))
    mixed = np.einsum("nk,knab->nab", weights, quantiles)
    push = (actual[..., None] < mixed) - levels
    slope: FloatArray = np.einsum("nab,knab->nk", push, quantiles) * relative[:, None]
    return slope


def _descend(weights: FloatArray, slope: FloatArray, rate: float) -> FloatArray:
    """One step of exponentiated gradient; a huge slope cannot throw the weights about."""
    push = np.clip(slope - slope.min(axis=1, keepdims=True), 0.0, 5.0)
    moved = weights * np.exp(-rate * push)
    result: FloatArray = moved / moved.sum(axis=1, keepdims=True)
    return result
