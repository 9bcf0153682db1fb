"""Simple forecasts of whereabouts, which a model must beat to be worth its keep.

Each knows what was seen up to a moment and nothing else. All leave something for places where a
person was never seen: by Laplace's rule of succession, one part in one more than the sightings
there are, unless they say otherwise.

* most frequent: by how often
* recency: by how often, a sighting of a month ago counting half
* hour of week: by how often in that hour of the week, backed off to how often
* stay: the last place, as surely as the person's next sighting was in the same place before
* order-1, order-2: by what followed the last place, the last two; fallback to the shorter one.
  Source: Song, Kotz, Jain & He (2004), "Evaluating location predictors with extensive Wi-Fi
  mobility data".
* stay-decay: the last place or recency, by a weight of the hours since the person was seen,
  fitted on what came before
* stay-decay, new places: the same, with a fitted share for places never seen
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray, IntArray
from forecasting.core.location_targets import Answers, Targets, reduce_answers, targets_at
from forecasting.core.timeline import DAY_S
from forecasting.core.whereabouts import HOUR_S, HOURS_PER_WEEK, Sightings

MOST_FREQUENT = "most frequent"
BASELINES = (
    MOST_FREQUENT,
    "recency",
    "hour of week",
    "stay",
    "order-1",
    "order-2",
    "stay-decay",
    "stay-decay, new places",
)
RECENCY_HALF_LIFE_DAYS = 30.0
# Sightings that the coarser distribution counts for.
BACKOFF = 5.0
# Hours since last seen; beyond the last, and between any two, one weight.
SINCE_H = np.array([1.0, 3.0, 6.0, 12.0, 24.0, 48.0, 96.0, 168.0, 336.0])
N_SINCE = len(SINCE_H) + 1
ROUNDS = 60
# Each interval starts with so many cases shared out as all intervals together were.
PRIOR_CASES = 10.0
STAYED, RECENT, NEW = range(3)

# Weights by time since last seen: (N_SINCE, 2) and (N_SINCE, 3), see `fit_staying`.
Staying = tuple[FloatArray, FloatArray]


@dataclass(frozen=True)
class Past:
    """What people did up to a moment.

    Pairs of a person and a place lie next to each other by person, as targets ask for them.
    first_pair, n_pairs, n_seen, last_pair, last_s : shape (n_users,)
    pair_user, pair_place, frequency, recency : shape (n_pairs,); the last two sum, with
        `unseen[user]`, to 1
    pair : shape (n,), of each sighting
    """

    seen: Sightings
    first_pair: IntArray
    n_pairs: IntArray
    n_seen: IntArray
    last_pair: IntArray
    last_s: FloatArray
    unseen: FloatArray
    pair_user: IntArray
    pair_place: IntArray
    pair: IntArray
    frequency: FloatArray
    recency: FloatArray

    @classmethod
    def of(cls, seen: Sightings, moment_s: float) -> Past:
        """seen : nothing after the moment"""
        pairs, pair = np.unique(seen.user * seen.n_places + seen.place, return_inverse=True)
        pair_user, pair_place = pairs // seen.n_places, pairs % seen.n_places
        n_pairs = np.bincount(pair_user, minlength=seen.n_users)
        n_seen = np.bincount(seen.user, minlength=seen.n_users)
        last_pair, last_s = np.full(seen.n_users, -1), np.full(seen.n_users, -np.inf)
        last_pair[seen.user], last_s[seen.user] = pair, seen.at_s
        unseen: FloatArray = np.reciprocal(n_seen + 1.0)
        age_days = (moment_s - seen.at_s) / DAY_S
        weight = np.maximum(0.5 ** (age_days / RECENCY_HALF_LIFE_DAYS), 1e-200)
        return cls(
            seen,
            np.cumsum(n_pairs) - n_pairs,
            n_pairs,
            n_seen,
            last_pair,
            last_s,
            unseen,
            pair_user,
            pair_place,
            pair,
            _shares(pair, np.ones(len(pair)), pair_user) * (1 - unseen[pair_user]),
            _shares(pair, weight, pair_user) * (1 - unseen[pair_user]),
        )

    def rows(self, user: IntArray) -> tuple[IntArray, IntArray]:
        """Every place of every target's person: (target, pair), shape (n_rows,) each."""
        counts = self.n_pairs[user]
        case = np.repeat(np.arange(len(user)), counts)
        start = np.cumsum(counts) - counts
        return case, self.first_pair[user][case] + np.arange(len(case)) - start[case]

    def stayed(self) -> FloatArray:
        """How surely each person's next sighting is in the same place, shape (n_users,)."""
        same = self._following() & (self.pair[1:] == self.pair[:-1])
        n_same = np.bincount(self.seen.user[1:][same], minlength=self.seen.n_users)
        stayed: FloatArray = (n_same + 1.0) / (np.maximum(self.n_seen, 1) + 1.0)
        return stayed

    def followers(self, order: int) -> FloatArray:
        """How often each pair came after the last `order` places of its person; (n_pairs,)."""
        is_context = self._following()
        for back in range(order):
            ended = np.zeros(len(is_context), dtype=np.bool_)
            before = self.pair[: len(self.pair) - 1 - back]
            wanted = self._place_before_last(back)
            ended[back:] = before == wanted[self.seen.user[1:]][back:]
            is_context = is_context & ended
        counts = np.bincount(self.pair[1:][is_context], minlength=len(self.pair_user))
        return counts.astype(np.float64)

    def _following(self) -> BoolArray:
        """Whether each sighting but the first follows one of the same person."""
        following: BoolArray = self.seen.user[1:] == self.seen.user[:-1]
        return following

    def _place_before_last(self, back: int) -> IntArray:
        """Pair of each person's sighting that many before the last, -2 where there is none."""
        at = np.cumsum(self.n_seen) - 1 - back
        exists = self.n_seen > back
        return np.where(exists, self.pair[np.where(exists, at, 0)], -2)


@dataclass(frozen=True)
class Lesson:
    """What the parts of stay-decay gave to first sightings after a moment in the past.

    since_h : shape (n,), hours since the person was seen
    parts : shape (n, 3), probability given by STAYED, by RECENT and by NEW to what happened;
        unseen : shape (n,), what RECENT leaves for new places
    """

    until_s: float
    since_h: FloatArray
    parts: FloatArray
    unseen: FloatArray


def learn_staying(seen: Sightings, moments: FloatArray) -> list[Lesson]:
    """Lessons at moments; each is over a week after its moment."""
    lessons = []
    for moment_s in moments.tolist():
        targets = targets_at(seen, moment_s)
        first = np.flatnonzero(targets.is_first)
        if not len(first):
            continue
        past = Past.of(seen.until(moment_s), moment_s)
        user, place = targets.user[first], targets.place[first]
        keys = past.pair_user * seen.n_places + past.pair_place
        wanted = user * seen.n_places + place
        pair = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        is_known = keys[pair] == wanted
        unseen = past.unseen[user]
        recent = np.where(is_known, past.recency[pair] / (1 - unseen), 0.0)
        parts = np.stack([place == targets.last[first], recent, ~is_known], axis=1)
        lessons.append(
            Lesson(
                moment_s + HOURS_PER_WEEK * HOUR_S,
                (targets.at_s[first] - past.last_s[user]) / HOUR_S,
                parts.astype(np.float64),
                unseen,
            )
        )
    return lessons


def fit_staying(lessons: Sequence[Lesson], until_s: float) -> Staying:
    """Weights by time since last seen from lessons over until then.

    Returns (N_SINCE, 2), of staying and recency, which leaves Laplace's share for new places, and
    (N_SINCE, 3), of staying, recency among places known, and new places.
    """
    known = [lesson for lesson in lessons if lesson.until_s <= until_s]
    if not known:
        return np.full((N_SINCE, 2), 1 / 2), np.full((N_SINCE, 3), 1 / 3)
    since = np.searchsorted(SINCE_H, np.concatenate([each.since_h for each in known]), "right")
    parts = np.concatenate([each.parts for each in known])
    unseen = np.concatenate([each.unseen for each in known])
    recent = np.where(parts[:, NEW] > 0, unseen, parts[:, RECENT] * (1 - unseen))
    two = np.stack([parts[:, STAYED], recent], axis=1)
    return _weights(two, since), _weights(parts, since)


def _weights(parts: FloatArray, since: IntArray) -> FloatArray:
    """Mixture weights in each interval by expectation and maximisation, shape (N_SINCE, k)."""
    k = parts.shape[1]
    overall = _maximise(parts, np.ones(k))
    rows = [_maximise(parts[since == i], PRIOR_CASES * overall) for i in range(N_SINCE)]
    return np.stack(rows)


def _maximise(parts: FloatArray, prior: FloatArray) -> FloatArray:
    weight = prior / prior.sum()
    for _ in range(ROUNDS):
        blame = parts * weight
        blame = blame / np.maximum(blame.sum(axis=1, keepdims=True), 1e-12)
        weight = (blame.sum(axis=0) + prior) / (blame.sum() + prior.sum())
    result: FloatArray = weight
    return result


def baseline_answers(past: Past, targets: Targets, staying: Staying) -> Mapping[str, Answers]:
    """What each of BASELINES says about targets.

    staying : of `fit_staying`
    """
    user = targets.user
    case, pair = past.rows(user)
    unseen = past.unseen[user]
    stays = pair == past.last_pair[user][case]

    def reduced(probability: FloatArray, elsewhere: FloatArray) -> Answers:
        return reduce_answers(targets, case, past.pair_place[pair], probability, elsewhere)

    first, unseen_first = _backed_off(past, past.followers(1), past.frequency, past.unseen)
    second, unseen_second = _backed_off(past, past.followers(2), first, unseen_first)
    at_hour, unseen_hour = _by_hour(past, targets, case, pair)
    stayed = past.stayed()[user]
    since = np.searchsorted(SINCE_H, (targets.at_s - past.last_s[user]) / HOUR_S, "right")
    two, three = staying[0][since], staying[1][since]
    recency, known = past.recency[pair], past.recency[pair] / (1 - unseen[case])
    answers = (
        reduced(past.frequency[pair], unseen),
        reduced(recency, unseen),
        reduced(at_hour, unseen_hour),
        reduced(
            stayed[case] * stays + (1 - stayed[case]) * past.frequency[pair], (1 - stayed) * unseen
        ),
        reduced(first[pair], unseen_first[user]),
        reduced(second[pair], unseen_second[user]),
        reduced(two[case, STAYED] * stays + two[case, RECENT] * recency, two[:, RECENT] * unseen),
        reduced(three[case, STAYED] * stays + three[case, RECENT] * known, three[:, NEW]),
    )
    return dict(zip(BASELINES, answers, strict=True))


def _backed_off(
    past: Past, count: FloatArray, coarse: FloatArray, unseen: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Shares of counted pairs, and what is left for new places, backed off to a coarser one."""
    total = np.bincount(past.pair_user, count, past.seen.n_users) + BACKOFF
    return (count + BACKOFF * coarse) / total[past.pair_user], BACKOFF * unseen / total


def _by_hour(
    past: Past, targets: Targets, case: IntArray, pair: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Shares of the rows' places at the hour of the week, and what is left for new places."""
    hour, asked = _hour_of_week(past.seen.at_s), _hour_of_week(targets.at_s)
    # Counted by pair and hour as sorted keys: most places were seen in few hours of the week.
    keys, counts = np.unique(past.pair * HOURS_PER_WEEK + hour, return_counts=True)
    wanted = pair * HOURS_PER_WEEK + asked[case]
    at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    count = np.where(keys[at] == wanted, counts[at], 0)
    total = np.bincount(case, count, len(targets)) + BACKOFF
    return (
        (count + BACKOFF * past.frequency[pair]) / total[case],
        BACKOFF * past.unseen[targets.user] / total,
    )


def _hour_of_week(at_s: FloatArray) -> IntArray:
    """Hour of the UTC week, Monday 0:00 being 0."""
    hour: IntArray = ((at_s // HOUR_S).astype(np.int64) + 72) % HOURS_PER_WEEK
    return hour


def _shares(pair: IntArray, weight: FloatArray, pair_user: IntArray) -> FloatArray:
    """Each pair's part of its person's weight, shape (n_pairs,)."""
    mass = np.bincount(pair, weight, len(pair_user))
    shares: FloatArray = mass / np.bincount(pair_user, mass)[pair_user]
    return shares
