"""Joint paths through places, whose hourly frequencies are given.

From one hour to the next a path either keeps its place wherever the two hours' probabilities
allow it (the coupling that moves least), or, at the person's own rate, is drawn anew. Both leave
the hourly probabilities exactly as they are; the rate sets how long stays and trips last.

Source: maximal coupling, Lindvall (1992), "Lectures on the coupling method".
"""

from __future__ import annotations

import numpy as np

from forecasting.core.arrays import FloatArray, IntArray
from forecasting.core.whereabouts import ALWAYS, DAYS, HOUR_S, Knowledge, Sightings

RATES_PER_H = np.geomspace(1 / 2000, 1.0, 24)
# Changes of the fleet that count as much as a person's own.
FLEET_STEPS = 20.0
PEOPLE_AT_ONCE = 256


def fit_restlessness(sightings: Sightings, knowledge: Knowledge) -> FloatArray:
    """Rate per hour at which each person's whereabouts are drawn anew; the fleet's last.

    Between two sightings some hours apart a person was either not redrawn, and is where they
    were, or was, and is found by frequency. The likeliest rate of a grid is taken, the average
    person standing in for `FLEET_STEPS` further steps.

    Returns shape (n_users + 1,).
    """
    seen = sightings.until(knowledge.until_s)
    n_users = seen.n_users
    following = seen.user[1:] == seen.user[:-1] if len(seen.user) else np.empty(0, dtype=np.bool_)
    here = np.flatnonzero(following)
    user = seen.user[here]
    gap_h = (seen.at_s[here + 1] - seen.at_s[here]) / HOUR_S
    keys = knowledge.pair_user * seen.n_places + knowledge.pair_place
    pair = np.searchsorted(keys, user * seen.n_places + seen.place[here + 1])
    frequency = knowledge.share[pair, ALWAYS - DAYS]
    same = seen.place[here] == seen.place[here + 1]
    likelihood = np.zeros((n_users, len(RATES_PER_H)))
    for i, rate in enumerate(RATES_PER_H):
        kept = np.exp(-rate * gap_h)
        step = np.log(np.maximum(kept * same + (1 - kept) * frequency, 1e-12))
        likelihood[:, i] = np.bincount(user, step, n_users)
    steps = np.bincount(user, minlength=n_users)
    fleet = likelihood.sum(axis=0) / max(steps.sum(), 1)
    best = np.argmax(np.vstack([likelihood + FLEET_STEPS * fleet, fleet]), axis=1)
    chosen: FloatArray = np.take(RATES_PER_H, best)
    return chosen


def sample_chain(
    probability: FloatArray, rate_per_h: FloatArray, step_h: FloatArray, *, n: int, seed: int
) -> IntArray:
    """Draw paths.

    probability : shape (n_users, n_hours, n_places), rows summing to 1
    rate_per_h : shape (n_users,); step_h : shape (n_hours,), hours since the hour before
    n : paths per user

    Returns place numbers, shape (n_users, n, n_hours). Each person's paths depend on the seed and
    their place in the list alone.
    """
    n_users, n_hours, _ = probability.shape
    codes = np.zeros((n_users, n, n_hours), dtype=np.int64)
    random = np.random.default_rng(seed)
    for first in range(0, n_users, PEOPLE_AT_ONCE):
        some = slice(first, first + PEOPLE_AT_ONCE)
        chance = probability[some]
        redraw = 1 - np.exp(-rate_per_h[some, None] * np.maximum(step_h, 0.0))
        here = np.zeros((len(chance), n), dtype=np.int64)
        for hour in range(n_hours):
            now = chance[:, hour]
            anew = _draw(now, random.random((len(chance), n)))
            if hour == 0:
                here = anew
            else:
                before = chance[:, hour - 1]
                keep = np.divide(now, before, out=np.ones_like(now), where=before > 0)
                stays = random.random(here.shape) < np.take_along_axis(keep, here, axis=1)
                gains = np.maximum(now - before, 0.0)
                moved = _draw(gains, random.random(here.shape))
                coupled = np.where(stays, here, moved)
                here = np.where(random.random(here.shape) < redraw[:, hour, None], anew, coupled)
            codes[some, :, hour] = here
    return codes


def _draw(weight: FloatArray, uniform: FloatArray) -> IntArray:
    """One place per uniform number by unnormalised weights; (n_users, n)."""
    edges = np.cumsum(weight, axis=1)
    wanted = uniform * edges[:, -1:]
    place: IntArray = (edges[:, None, :-1] <= wanted[:, :, None]).sum(axis=2)
    return place
