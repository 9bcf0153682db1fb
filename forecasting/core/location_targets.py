"""What is asked of a forecast of whereabouts, and what is kept of the answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray, IntArray
from forecasting.core.whereabouts import HOUR_S, HOURS_PER_WEEK, Sightings

BANDS = ("0-6 h", "6-24 h", "24-168 h")
BAND_ENDS_H = np.array([6.0, 24.0])


@dataclass(frozen=True)
class Targets:
    """Sightings to be foretold from one moment; every array has shape (n,).

    at_s : seconds since 1970 UTC, within a week after the moment
    last : place of the person's last sighting before the moment
    band : index into BANDS; is_first : first of the person in the band
    """

    moment_s: float
    user: IntArray
    at_s: FloatArray
    place: IntArray
    last: IntArray
    band: IntArray
    is_first: BoolArray

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Answers:
    """What one method said about targets, reduced to what scores need; shape (n,) each.

    outcome : probability given to what happened
    top : probability of the likeliest place; is_hit : that was it
    squares : sum of the squared probabilities
    """

    outcome: FloatArray
    top: FloatArray
    is_hit: BoolArray
    squares: FloatArray


def reduce_answers(
    targets: Targets,
    case: IntArray,
    place: IntArray,
    probability: FloatArray,
    elsewhere: FloatArray,
) -> Answers:
    """Distributions as rows, to what scores need of them.

    case : shape (n_rows,), which target
    place, probability : shape (n_rows,)
    elsewhere : shape (n,)
    """
    n = len(targets)
    happened = place == targets.place[case]
    is_known = np.bincount(case, happened, n) > 0
    outcome = np.where(is_known, np.bincount(case, probability * happened, n), elsewhere)
    likeliest = np.zeros(n)
    np.maximum.at(likeliest, case, probability)
    top = np.maximum(likeliest, elsewhere)
    # Of places that tie for the first rank the first is named.
    rows = np.flatnonzero(probability == top[case])
    has_place, at = np.unique(case[rows], return_index=True)
    named = np.full(n, -1)
    named[has_place] = place[rows[at]]
    is_hit = np.where(named >= 0, named == targets.place, ~is_known)
    squares = np.bincount(case, probability**2, n) + elsewhere**2
    return Answers(outcome, top, is_hit, squares)


def targets_at(seen: Sightings, moment_s: float) -> Targets:
    """Where people were seen in the week after a moment, if they were seen before."""
    past = np.flatnonzero(seen.at_s <= moment_s)
    last = np.full(seen.n_users, -1)
    last[seen.user[past]] = seen.place[past]
    lead_h = (seen.at_s - moment_s) / HOUR_S
    ahead = (lead_h > 0) & (lead_h <= HOURS_PER_WEEK) & (last[seen.user] >= 0)
    user, lead_h = seen.user[ahead], lead_h[ahead]
    band = np.searchsorted(BAND_ENDS_H, lead_h)
    cell = user * len(BANDS) + band
    return Targets(
        moment_s,
        user,
        seen.at_s[ahead],
        seen.place[ahead],
        last[user],
        band,
        np.diff(cell, prepend=-1) != 0,
    )
