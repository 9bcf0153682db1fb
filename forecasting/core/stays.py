"""What a sequence engine reads of whereabouts: last stays, and what is asked, as numbers.

Nothing names a place. Of each it is told how often, how lately and at which hours the person was
there, so that what is learned of some people and their places holds for others and theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import AnyArray, FloatArray, IntArray
from forecasting.core.timeline import DAY_S
from forecasting.core.whereabouts import (
    ALWAYS,
    DAYS,
    ELSEWHERE,
    HOUR_S,
    N_CIRCUMSTANCES,
    WEEKS,
    Knowledge,
    Sightings,
    log_hours,
)

N_STAYS = 48
N_STAY_FACTS = 15
N_CLOCK_FACTS = 5
N_CONTEXT = N_CIRCUMSTANCES + N_CLOCK_FACTS
# All guesses but the one that it is a place never seen.
N_GUESSES = ELSEWHERE
N_PLACE_FACTS = N_GUESSES + 3
# Below this a guess says no more than that it does not believe it. Logarithms of guesses are told
# in units of that.
LEAST_GUESS = 1e-6
GUESS_SCALE = -float(np.log(LEAST_GUESS))


@dataclass(frozen=True)
class Stays:
    """The last stays of each person, oldest first, as known at a moment.

    A stay is sightings at one place with none at another between them.

    facts : shape (n_users, N_STAYS, N_STAY_FACTS), about -1 to 1; before the first stay, zeros
    place : shape (n_users, N_STAYS), number among the person's places; before the first stay, -1
    place_facts : shape (n_pairs, 3), of each pair of `Knowledge`: log of how long ago it was seen,
        of its rank among the person's places, of how often it was seen
    """

    facts: AnyArray
    place: IntArray
    place_facts: FloatArray

    @classmethod
    def of(cls, seen: Sightings, known: Knowledge) -> Stays:
        """seen : what `known` is made of; nothing after `known.until_s` is looked at"""
        seen = seen.until(known.until_s)
        keys = known.pair_user * seen.n_places + known.pair_place
        pair = np.searchsorted(keys, seen.user * seen.n_places + seen.place)
        place_facts = _place_facts(seen, known, pair)
        facts = np.zeros((seen.n_users, N_STAYS, N_STAY_FACTS), dtype=np.float32)
        place = np.full((seen.n_users, N_STAYS), -1)
        # Pairs are a person's own, so a stay ends with the person too.
        first = np.flatnonzero(np.diff(pair, prepend=-1))
        last = np.append(first[1:], len(pair))[: len(first)] - 1
        user = seen.user[first]
        n_stays = np.bincount(user, minlength=seen.n_users)
        from_end = np.cumsum(n_stays)[user] - np.arange(len(first))
        recent = from_end <= N_STAYS
        slot = N_STAYS - from_end[recent]
        facts[user[recent], slot] = _stay_facts(seen, known, pair, first, last)[recent]
        place[user[recent], slot] = pair[first[recent]] - known.first_pair[user[recent]]
        return cls(facts, place, place_facts)


@dataclass(frozen=True)
class Questions:
    """What is asked of people at times, about each of their places.

    user : shape (n,); context : shape (n, N_CONTEXT), the circumstances of `Knowledge` first
    case, pair : shape (n_rows,), every place of every question's person, see `Knowledge.rows`
    places : shape (n_rows, N_PLACE_FACTS)
    """

    user: IntArray
    context: FloatArray
    case: IntArray
    pair: IntArray
    places: FloatArray

    @classmethod
    def of(cls, known: Knowledge, stays: Stays, user: IntArray, at_s: FloatArray) -> Questions:
        """user : shape (n,), people who have been seen; at_s : shape (n,)"""
        case, pair = known.rows(user)
        guess, circumstances = known.guesses(user, at_s, case, pair)
        guess = np.log(np.maximum(guess[:, :N_GUESSES], LEAST_GUESS)) / GUESS_SCALE
        return cls(
            user,
            np.column_stack([circumstances, _clock_facts(known.clocks.wall_s(user, at_s))]),
            case,
            pair,
            np.column_stack([guess, stays.place_facts[pair]]),
        )


def _place_facts(seen: Sightings, known: Knowledge, pair: IntArray) -> FloatArray:
    n_pairs = len(known.pair_user)
    last_s = np.full(n_pairs, -np.inf)
    np.maximum.at(last_s, pair, seen.at_s)
    count = np.bincount(pair, minlength=n_pairs)
    order = np.lexsort((-known.share[:, ALWAYS - DAYS], known.pair_user))
    rank = np.empty(n_pairs)
    rank[order] = np.arange(n_pairs) - known.first_pair[known.pair_user[order]]
    return np.column_stack(
        [log_hours((known.until_s - last_s) / HOUR_S), np.log1p(rank) / 5, np.log1p(count) / 5]
    )


def _stay_facts(
    seen: Sightings, known: Knowledge, pair: IntArray, first: IntArray, last: IntArray
) -> FloatArray:
    """Of stays from the first to the last sighting of each; shape (n_stays, N_STAY_FACTS)."""
    user, place = seen.user[first], pair[first]
    goes_on = user[1:] == user[:-1]
    gap_h = np.zeros(len(first))
    gap_h[1:] = np.where(goes_on, seen.at_s[first[1:]] - seen.at_s[last[:-1]], 0.0) / HOUR_S
    is_first_visit = np.zeros(len(pair))
    is_first_visit[np.unique(pair, return_index=True)[1]] = 1.0
    came, left = (seen.clocks.wall_s(user, seen.at_s[each]) for each in (first, last))
    return np.column_stack(
        [
            np.ones(len(first)),
            log_hours(gap_h),
            log_hours((seen.at_s[last] - seen.at_s[first]) / HOUR_S),
            np.log1p(last - first) / 5,
            log_hours((known.until_s - seen.at_s[last]) / HOUR_S),
            _clock_facts(came)[:, :2],
            _clock_facts(left)[:, :2],
            _is_weekend(came),
            place == known.last_pair[user],
            known.previous[place],
            known.share[place, ALWAYS - DAYS],
            known.share[place, WEEKS - DAYS],
            is_first_visit[first],
        ]
    )


def _clock_facts(wall_s: FloatArray) -> FloatArray:
    """The hour of the day as a place on a circle, once and twice round, and whether it is a
    weekend; shape (n, N_CLOCK_FACTS)."""
    angle = 2 * np.pi * wall_s / DAY_S
    return np.column_stack(
        [
            *(wave(turns * angle) for turns in (1, 2) for wave in (np.sin, np.cos)),
            _is_weekend(wall_s),
        ]
    )


def _is_weekend(wall_s: FloatArray) -> FloatArray:
    # The first day of 1970 was a Thursday.
    return ((wall_s // DAY_S + 3) % 7 >= 5).astype(np.float64)
