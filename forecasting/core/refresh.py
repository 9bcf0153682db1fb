"""What was observed since a forecast, brought into it without fitting anything anew.

An hour's demand is expressed as its normal score under the forecast (0: the median, 1.64: the
95 % quantile). Scores of neighbouring hours go together, by how much is learned from the fleet's
own past; given the scores of the last hours, those ahead are normal with a mean and a variance
that the Gaussian copula gives, and every quantile moves to where these put it.

Probabilities (of a session, of a place) become a mixture: going on as last seen, with a weight
that is learned for every lead from how often that explained what then happened, and the forecast.

Hours are elapsed time throughout: nothing here steps by days, so clocks may change.
Where nothing was learned or observed, the forecast stays what it is.
Source: Joe (2014), "Dependence Modeling with Copulas", 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray, IntArray

# How long what goes together goes together: a task, half a day, a change of habits.
TIMESCALES_H = np.array([2.0, 8.0, 36.0])
LEAST_CORRELATION, MOST_CORRELATION = 0.02, 0.95
MOST_LAG_H = 24
# Hours looked back at; what is older says nothing that these do not say.
MOST_PAST_H = 24
FARTHEST_SCORE = 3.0
SERIES_AT_ONCE = 1000
# Correlations below this many standard errors of none at all are taken for none.
STANDARD_ERRORS = 2.0

LEADS_H = np.array([1, 2, 3, 4, 6, 8, 12, 16, 20, 24])
FORGOTTEN_H = 48.0
# Cases without persistence that are assumed before any was seen.
PRIOR_CASES = 50.0
HALVINGS = 20


def normal_scores(actual: FloatArray, quantiles: FloatArray, *, levels: FloatArray) -> FloatArray:
    """Where each observation lay in its forecast.

    actual : shape (n, n_hours), NaN where not observed
    quantiles : shape (n, n_hours, n_levels), non-decreasing in level
    levels : shape (n_levels,), rising

    Returns shape (n, n_hours), within +-FARTHEST_SCORE, NaN where not known. An observation equal
    to several quantiles lies in the middle of them.
    """
    z = _ndtri(levels)
    last = len(levels) - 1
    below = (quantiles < actual[..., None]).sum(axis=-1)
    up_to = (quantiles <= actual[..., None]).sum(axis=-1)
    left = np.clip(below - 1, 0, last - 1)
    q_left, q_right = _at(quantiles, left), _at(quantiles, left + 1)
    width = q_right - q_left
    step = z[left + 1] - z[left]
    with np.errstate(invalid="ignore", over="ignore"):
        share = np.divide(
            actual - q_left, width, out=np.sign(actual - q_left) * np.inf, where=width > 0
        )
        between = z[left] + share * step
    tied = (z[np.clip(below, 0, last)] + z[np.clip(up_to - 1, 0, last)]) / 2
    score = np.where(up_to > below, tied, between)
    known = np.isfinite(actual) & np.isfinite(quantiles).all(axis=-1)
    result: FloatArray = np.where(
        known, np.clip(np.nan_to_num(score), -FARTHEST_SCORE, FARTHEST_SCORE), np.nan
    )
    return result


@dataclass(frozen=True)
class Memory:
    """How scores of neighbouring hours go together: correlation = sum of weights that fade.

    weights : shape (len(TIMESCALES_H),), >= 0, summing to at most MOST_CORRELATION
    """

    weights: FloatArray

    def correlation(self, lag_h: FloatArray) -> FloatArray:
        """Of hours this far apart, the shape of `lag_h`; 1 at 0."""
        fading = np.exp(-np.abs(lag_h)[..., None] / TIMESCALES_H) @ self.weights
        result: FloatArray = np.where(lag_h == 0, 1.0, fading)
        return result


def learn_memory(scores: Sequence[FloatArray]) -> Memory:
    """From scores under past forecasts, each of shape (n, n_hours) with NaN where not known."""
    from scipy.optimize import nnls

    lags = np.arange(1, MOST_LAG_H + 1)
    square, seen = 0.0, 0
    product, pairs = np.zeros(len(lags)), np.zeros(len(lags))
    for each in scores:
        known = np.isfinite(each)
        value = np.where(known, each, 0.0)
        square, seen = square + float((value**2).sum()), seen + int(known.sum())
        for i, lag in enumerate(lags[: max(each.shape[1] - 1, 0)]):
            product[i] += (value[:, lag:] * value[:, :-lag]).sum()
            pairs[i] += (known[:, lag:] & known[:, :-lag]).sum()
    if not pairs.any() or not square:
        return Memory(np.zeros(len(TIMESCALES_H)))
    count = np.maximum(pairs, 1)
    correlation = product / count / (square / seen)
    correlation = np.maximum(correlation - STANDARD_ERRORS / np.sqrt(count), 0.0)
    importance = np.sqrt(pairs)
    fading = np.exp(-lags[:, None] / TIMESCALES_H)
    weights, _ = nnls(fading * importance[:, None], correlation * importance)
    total = float(weights.sum())
    if total < LEAST_CORRELATION:
        return Memory(np.zeros(len(TIMESCALES_H)))
    return Memory(weights * min(1.0, MOST_CORRELATION / total))


def condition(
    quantiles: FloatArray, scores: FloatArray, *, levels: FloatArray, memory: Memory
) -> FloatArray:
    """The forecast given the hours just before it.

    quantiles : shape (n, horizon, n_levels), what was forecast for the hours ahead
    scores : shape (n, n_past), normal scores of the hours before, the newest last, NaN where not
        known
    levels : shape (n_levels,), rising

    Returns the shape and type of `quantiles`, non-decreasing in level, never below zero where the
    forecast was not.
    """
    past = scores[:, -MOST_PAST_H:]
    moved = quantiles.copy()
    informed = np.flatnonzero(np.isfinite(past).any(axis=1))
    if not memory.weights.any():
        return moved
    for first in range(0, len(informed), SERIES_AT_ONCE):
        some = informed[first : first + SERIES_AT_ONCE]
        mean, deviation = _expected(past[some], quantiles.shape[1], memory)
        moved[some] = _moved(quantiles[some], mean, deviation, levels)
    return moved


def _expected(past: FloatArray, horizon: int, memory: Memory) -> tuple[FloatArray, FloatArray]:
    """Mean and deviation of the scores ahead, shape (n, horizon) each."""
    n_past = past.shape[1]
    ago = np.arange(n_past, 0, -1, dtype=np.float64)
    among = memory.correlation(ago[:, None] - ago)
    ahead = memory.correlation(ago[:, None] + np.arange(horizon))
    known = np.isfinite(past)
    both = known[:, :, None] & known[:, None, :]
    # What is not known is a score of its own that goes together with nothing.
    covariance = np.where(both, among, np.eye(n_past))
    cross = np.where(known[:, :, None], ahead, 0.0)
    weight = np.linalg.solve(covariance, cross)
    mean = np.einsum("nph,np->nh", weight, np.where(known, past, 0.0))
    explained = np.einsum("nph,nph->nh", weight, cross)
    return mean, np.sqrt(np.clip(1.0 - explained, 0.0, 1.0))


def _moved(
    quantiles: FloatArray, mean: FloatArray, deviation: FloatArray, levels: FloatArray
) -> FloatArray:
    """Read every quantile off the forecast at the score where its level now lies."""
    z = _ndtri(levels).astype(quantiles.dtype)
    wanted = (mean[..., None] + deviation[..., None] * z).astype(quantiles.dtype)
    left = np.searchsorted(z[1:-1], wanted.ravel()).reshape(wanted.shape)
    low = np.take_along_axis(quantiles, left, axis=-1)
    high = np.take_along_axis(quantiles, left + 1, axis=-1)
    result = low + (wanted - z[left]) / (z[left + 1] - z[left]) * (high - low)
    floor = np.where(quantiles[..., :1] >= 0, 0.0, -np.inf)
    return np.maximum(result, floor).astype(quantiles.dtype)


@dataclass(frozen=True)
class Persistence:
    """weights : shape (len(LEADS_H),), share of what happens that is going on as last seen."""

    weights: FloatArray

    def at(self, lead_h: FloatArray | IntArray) -> FloatArray:
        """Weight this many hours after somebody was seen, the shape of `lead_h`."""
        leads = np.append(LEADS_H, FORGOTTEN_H)
        result: FloatArray = np.interp(lead_h, leads, np.append(self.weights, 0.0))
        return result


def learn_persistence(lead_h: IntArray, is_same: BoolArray, chance: FloatArray) -> Persistence:
    """The weight of going on as before that made what happened likeliest, lead by lead.

    lead_h : shape (n_cases,), hours between two sightings; those of other leads than LEADS_H
        are not used
    is_same : shape (n_cases,), whether the second was as the first
    chance : shape (n_cases,), the forecast's probability of the second
    """
    weights = np.zeros(len(LEADS_H))
    for i, lead in enumerate(LEADS_H):
        here = lead_h == lead
        if here.any():
            same, forecast = is_same[here].astype(np.float64), np.maximum(chance[here], 1e-6)
            weights[i] = _likeliest_weight(same, forecast)
    return Persistence(weights)


def _likeliest_weight(same: FloatArray, forecast: FloatArray) -> float:
    """The root of the log likelihood's slope, which falls: most cases are certain either way and
    say nothing, so that anything that climbs step by step would stop on the way."""
    low, high = 0.0, 1.0 - 1e-9
    for _ in range(HALVINGS):
        weight = (low + high) / 2
        slope = ((same - forecast) / (weight * same + (1 - weight) * forecast)).sum()
        if slope > PRIOR_CASES / (1 - weight):
            low = weight
        else:
            high = weight
    return low


def pairs_ahead(
    state: FloatArray | IntArray, chance: FloatArray
) -> tuple[IntArray, BoolArray, FloatArray, FloatArray]:
    """Every pair of sightings LEADS_H apart: lead, whether the same, the forecast's probability
    of the second, and the first state; shape (n_pairs,) each.

    state : shape (n, n_hours), anything that compares, negative or NaN where not seen
    chance : shape (n, n_hours), probability that the forecast gave to the state of the hour
    """
    seen = np.nan_to_num(state, nan=-1.0) >= 0
    leads, same, chances, first = [], [], [], []
    for lead in LEADS_H[state.shape[1] > LEADS_H]:
        row, hour = np.nonzero(seen[:, :-lead] & seen[:, lead:])
        leads.append(np.full(len(row), lead))
        same.append(state[row, hour] == state[row, hour + lead])
        chances.append(chance[row, hour + lead])
        first.append(state[row, hour].astype(np.float64))
    if not leads:
        nothing = np.empty(0)
        return nothing.astype(np.int64), nothing.astype(np.bool_), nothing, nothing
    return (
        np.concatenate(leads),
        np.concatenate(same),
        np.concatenate(chances),
        np.concatenate(first),
    )


def _at(values: FloatArray, index: IntArray) -> FloatArray:
    picked: FloatArray = np.take_along_axis(values, index[..., None], axis=-1)[..., 0]
    return picked


def _ndtri(levels: FloatArray) -> FloatArray:
    from scipy.special import ndtri

    return np.asarray(ndtri(np.asarray(levels, dtype=np.float64)))
