"""What it is worth that a trip was announced, on invented people who travel.

Every stay of theirs away from home is a trip, announced three days before it begins from the
midnight of its first day to that after its last. One notice in ten is of a trip nobody makes, to a
place and at a time drawn at random, so that none can be trusted blindly.
"""

from __future__ import annotations

import numpy as np

from benchmarks.figures import Figures
from benchmarks.known_whereabouts import DAY_S, KINDS, N_SITES, KnownFleet
from forecasting.core.announced import Trips
from forecasting.core.location import fit_locations

LEAST_PROBABILITY = 1e-4
ANNOUNCED_S = 3 * DAY_S
BROKEN_SHARE = 0.1
TRAVELLING = KINDS.index("travelling")


def announced_travel(fleet: KnownFleet, moments_s: list[float], *, seed: int) -> Figures:
    """Mean log loss of the sightings on kept trips of the week ahead that were announced by each
    moment and had not begun: with the notices, without them, and the ratio of the two."""
    kept = _trips(fleet)
    broken = _broken(fleet, len(kept.user), np.random.default_rng(seed))
    with_s, without_s = [], []
    for moment_s in moments_s:
        past = fleet.at_s <= moment_s
        seen = fleet.user[past], fleet.at_s[past], fleet.place[past]
        known = _together(_known_at(kept, moment_s), _known_at(broken, moment_s))
        user, at_s, place = _asked(fleet, kept, moment_s)
        for losses, trips in ((with_s, known), (without_s, None)):
            model = fit_locations(*seen, until=moment_s, trips=trips)
            told = model.predict(user, at_s)
            losses += [
                -np.log(max(answer.get(there, 0.0), LEAST_PROBABILITY))
                for answer, there in zip(told, place.tolist(), strict=True)
            ]
    heard, unheard = float(np.mean(with_s)), float(np.mean(without_s))
    return {
        "announced_logloss": round(heard, 5),
        "announced_logloss_without": round(unheard, 5),
        "announced_logloss_ratio": round(heard / unheard, 5),
    }


def _trips(fleet: KnownFleet) -> Trips:
    """Consecutive sightings of a traveller at one place that is not home."""
    theirs = np.flatnonzero(fleet.kind(fleet.user) == TRAVELLING)
    order = theirs[np.lexsort((fleet.at_s[theirs], fleet.user[theirs]))]
    user, place, at_s = fleet.user[order], fleet.place[order], fleet.at_s[order]
    changes = (np.diff(user, prepend=-1) != 0) | (np.diff(place, prepend=-1) != 0)
    first = np.flatnonzero(changes)
    last = np.append(first[1:], len(user)) - 1
    home = np.full(user.max() + 1, -1)
    for person in np.unique(user).tolist():
        home[person] = np.bincount(place[user == person]).argmax()
    away = place[first] != home[user[first]]
    first, last = first[away], last[away]
    return Trips(
        user[first],
        place[first],
        at_s[first] // DAY_S * DAY_S,
        (at_s[last] // DAY_S + 1) * DAY_S,
    )


def _broken(fleet: KnownFleet, n_kept: int, random: np.random.Generator) -> Trips:
    n = round(n_kept * BROKEN_SHARE / (1 - BROKEN_SHARE))
    first = TRAVELLING * fleet.n_of_kind
    days = random.uniform(fleet.at_s.min(), fleet.at_s.max(), n) // DAY_S
    return Trips(
        random.integers(first, first + fleet.n_of_kind, n),
        random.integers(0, N_SITES, n),
        days * DAY_S,
        (days + random.integers(1, 6, n)) * DAY_S,
    )


def _known_at(trips: Trips, moment_s: float) -> Trips:
    known = trips.start_s - ANNOUNCED_S <= moment_s
    return Trips(trips.user[known], trips.place[known], trips.start_s[known], trips.end_s[known])


def _together(one: Trips, other: Trips) -> Trips:
    return Trips(
        np.concatenate([one.user, other.user]),
        np.concatenate([one.place, other.place]),
        np.concatenate([one.start_s, other.start_s]),
        np.concatenate([one.end_s, other.end_s]),
    )


def _asked(
    fleet: KnownFleet, kept: Trips, moment_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sightings on the trips that were announced by a moment and begin after it."""
    ahead = (kept.start_s > moment_s) & (kept.start_s - ANNOUNCED_S <= moment_s)
    asked = np.zeros(len(fleet.user), dtype=bool)
    for person, start_s, end_s in zip(
        kept.user[ahead], kept.start_s[ahead], kept.end_s[ahead], strict=True
    ):
        asked |= (fleet.user == person) & (fleet.at_s >= start_s) & (fleet.at_s < end_s)
    return fleet.user[asked], fleet.at_s[asked], fleet.place[asked]
