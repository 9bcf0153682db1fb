"""Where people will be: probabilities by hour, and joint paths.

Several guesses (staying, returning, habit by hour of the week, frequency over days, weeks and
always, somewhere new) are mixed with weights that depend on the circumstances: how long ago the
person was seen, for how long they had been there, how usual that place is for them at that hour.
The weights are fitted on the past of the fleet by asking, at earlier moments, where people were
found in the week after.

Places in the answers are those given; `elsewhere` stands for every place the person was never
seen in. A person never seen at all gets the fleet's habits.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from desktops.core.metros import ELSEWHERE_CODE
from forecasting.core.announced import Announced, Trips
from forecasting.core.arrays import AnyArray, FloatArray, IntArray
from forecasting.core.gate import Gate, fit_gate
from forecasting.core.paths import fit_restlessness, sample_chain
from forecasting.core.timeline import wall_seconds
from forecasting.core.whereabouts import (
    ALWAYS,
    CONSTANT,
    DAYS,
    ELSEWHERE,
    GUESSES,
    HOUR_S,
    HOURS_PER_WEEK,
    MOVED,
    N_CIRCUMSTANCES,
    STAY,
    Clocks,
    Knowledge,
    Sightings,
    hour_of_week,
)
from forecasting.errors import InvalidHistory

ELSEWHERE_KEY = ELSEWHERE_CODE
# Past moments to learn from, and how much of what followed; more adds seconds, not accuracy.
LESSONS = 12
MOST_CASES, MOST_PEOPLE = 20_000, 1500
BAND_ENDS_H = np.array([6.0, 24.0])
# Before any evidence: somewhere new is a rare guess, and who settled in a new place has moved.
NEW_PLACE_LOGIT, MOVED_LOGIT = -3.0, 12.0
# Places of all cases that are mixed at once: of people with many places, fewer people.
ROWS_AT_ONCE = 2_000_000
# The share of a newcomer's map that no place of the fleet explains.
NEWCOMER_ELSEWHERE = 0.02


def fit_locations(
    user: ArrayLike,
    at: ArrayLike,
    place: ArrayLike,
    *,
    until: datetime | float | np.datetime64,
    zones: Mapping[Hashable, tzinfo] | None = None,
    trips: Trips | None = None,
) -> LocationModel:
    """Learn where people will be from where they were seen.

    user, place : shape (n,), any sortable labels; at : shape (n,), datetime64 (UTC) or seconds
        since 1970 UTC; in any order
    until : observations after this moment are not used, not even their labels
    zones : by which wall clock somebody lives, by label of the person; UTC where it is not told
    trips : travel that had been announced by `until` and was not taken back

    Raises InvalidHistory when the arrays differ in length or a time is missing.
    """
    users, places = np.asarray(user), np.asarray(place)
    at_s, until_s = _seconds(at), float(_seconds(until))
    if not users.shape == places.shape == at_s.shape or users.ndim != 1:
        raise InvalidHistory(
            f"user {users.shape}, at {at_s.shape} and place {places.shape} differ in shape"
        )
    if np.isnan(at_s).any():
        raise InvalidHistory(f"observation {int(np.argmax(np.isnan(at_s)))} has no time")
    known = at_s <= until_s
    user_labels, user_number = np.unique(users[known], return_inverse=True)
    announced_places = trips.place if trips is not None else places[:0]
    place_labels = np.unique(np.concatenate([places[known], announced_places]))
    place_number = np.searchsorted(place_labels, places[known])
    users_by_label = {label: number for number, label in enumerate(user_labels.tolist())}
    sightings = Sightings.of(
        user_number,
        place_number,
        at_s[known],
        n_users=len(user_labels),
        n_places=max(len(place_labels), 1),
        clocks=_clocks(users_by_label, zones),
    )
    knowledge = Knowledge.of(sightings, until_s)
    return LocationModel(
        users=users_by_label,
        places=tuple(place_labels.tolist()),
        knowledge=knowledge,
        gate=learn_gate(sightings, until_s),
        fleet_habit=_fleet_habit(knowledge, len(place_labels)),
        restlessness=fit_restlessness(sightings, knowledge),
        announced=_announced(trips, users_by_label, place_labels, sightings),
        zones=zones or {},
    )


def _clocks(users: Mapping[Hashable, int], zones: Mapping[Hashable, tzinfo] | None) -> Clocks:
    if not zones:
        return Clocks()
    of_each = [zones.get(label, UTC) for label in users]
    distinct = list(dict.fromkeys(of_each))
    number = {zone: i for i, zone in enumerate(distinct)}
    if len(distinct) <= 1:
        return Clocks(tuple(distinct) or (UTC,))
    return Clocks(tuple(distinct), np.array([number[zone] for zone in of_each], dtype=np.int64))


def _announced(
    trips: Trips | None, users: Mapping[Hashable, int], place_labels: AnyArray, seen: Sightings
) -> Announced | None:
    if trips is None or not len(trips):
        return None
    places = {label: number for number, label in enumerate(place_labels.tolist())}
    found = (seen.user, seen.place, seen.at_s)
    return Announced.of(trips, users=users, places=places, seen=found)


@dataclass(frozen=True)
class LocationModel:
    """Where each person of a fleet will be after `knowledge.until_s`.

    fleet_habit : shape (168, n_places + 1), the average person's places, elsewhere last
    restlessness : shape (n_users + 1,), rate per hour at which somebody's whereabouts are drawn
        anew; the last is the fleet's
    zones : by which clock people live, also those never seen; UTC for others
    """

    users: dict[Hashable, int]
    places: tuple[Any, ...]
    knowledge: Knowledge
    gate: Gate
    fleet_habit: FloatArray
    restlessness: FloatArray
    announced: Announced | None = None
    zones: Mapping[Hashable, tzinfo] = field(default_factory=dict)

    def predict(self, user: ArrayLike, at: ArrayLike) -> list[dict[Any, float]]:
        """Distribution over places for each person at each time, summing to 1.

        user : shape (n,) or one label; at : shape (n,) or one time; broadcast together
        """
        number, at_s = np.broadcast_arrays(self._numbers(user), np.atleast_1d(_seconds(at)))
        answers: list[dict[Any, float]] = [{} for _ in number]
        for some in _pieces(self._n_rows(number)):
            case, place, probability, elsewhere = self._mix(number[some], at_s[some])
            for i, label, p in zip(
                case.tolist(), place.tolist(), probability.tolist(), strict=True
            ):
                answers[some[i]][self.places[label]] = p
            for i, p in zip(some.tolist(), elsewhere.tolist(), strict=True):
                answers[i][ELSEWHERE_KEY] = p
        labels = np.broadcast_to(_labels(user), number.shape)
        for i in np.flatnonzero(number < 0):
            answers[i] = self._newcomer(labels[i], at_s[i : i + 1])
        return answers

    def maps(
        self, users: Sequence[Hashable] | AnyArray, start: datetime, hours: int = HOURS_PER_WEEK
    ) -> tuple[tuple[Any, ...], FloatArray]:
        """Hourly maps of many people at once.

        Returns the places, `elsewhere` last, and probabilities (n_users, hours, n_places + 1)
        that sum to 1 over the last axis. Memory is 8 bytes times the product of that shape.
        """
        number = self._numbers(users)
        hour_s: FloatArray = float(_seconds(start)) + HOUR_S * np.arange(hours, dtype=np.float64)
        result = np.zeros((len(number), hours, len(self.places) + 1))
        for some in _pieces(hours * self._n_rows(number)):
            seen = some[number[some] >= 0]
            case, place, probability, elsewhere = self._mix(
                np.repeat(number[seen], hours), np.tile(hour_s, len(seen))
            )
            row, hour = seen[case // hours], case % hours
            result[row, hour, place] = probability
            result[seen, :, -1] = elsewhere.reshape(len(seen), hours)
        labels = _labels(users)
        for i in np.flatnonzero(number < 0):
            result[i] = self._fleet_habit_of(labels[i], hour_s)
        return (*self.places, ELSEWHERE_KEY), result

    def sample_paths(self, user: ArrayLike, at: ArrayLike, *, n: int, seed: int) -> AnyArray:
        """Joint paths of where people will be, as labels; shape (n_users, n, n_hours).

        user : shape (n_users,); at : shape (n_hours,), rising
        n : paths per person; seed : the same seed gives the same paths

        At each hour the paths are distributed as `predict` says; between hours they change no
        more often than the person does.
        """
        places, code = self.sample_codes(user, at, n=n, seed=seed)
        labels = np.empty(len(places), dtype=object)
        labels[:] = places
        return labels[code]

    def sample_codes(
        self, user: ArrayLike, at: ArrayLike, *, n: int, seed: int
    ) -> tuple[tuple[Any, ...], IntArray]:
        """As `sample_paths`, as numbers into the places returned with them."""
        number, at_s = self._numbers(user), np.atleast_1d(_seconds(at))
        case_user = np.repeat(number, len(at_s))
        probability = np.zeros((len(number), len(at_s), len(self.places) + 1))
        flat = probability.reshape(len(case_user), -1)
        times = np.tile(at_s, len(number))
        seen = np.flatnonzero(case_user >= 0)
        for some in _pieces(self._n_rows(case_user[seen])):
            rows = seen[some]
            case, place, mixed, elsewhere = self._mix(case_user[rows], times[rows])
            flat[rows[case], place] = mixed
            flat[rows, -1] = elsewhere
        labels = _labels(user)
        for i in np.flatnonzero(number < 0):
            probability[i] = self._fleet_habit_of(labels[i], at_s)
        step_h = np.diff(at_s, prepend=at_s[:1]) / HOUR_S
        codes = sample_chain(probability, self.restlessness[number], step_h, n=n, seed=seed)
        return (*self.places, ELSEWHERE_KEY), codes

    def _numbers(self, users: ArrayLike | Sequence[Hashable]) -> IntArray:
        """Number of each person, -1 for somebody never seen."""
        numbers = [self.users.get(label, -1) for label in _labels(users)]
        return np.array(numbers, dtype=np.int64)

    def _n_rows(self, number: IntArray) -> IntArray:
        """How many rows a case of each person takes, shape (n,): its places, and itself."""
        n_pairs = np.append(self.knowledge.n_pairs, 0)
        rows: IntArray = 1 + n_pairs[number]
        return rows

    def _mix(
        self, user: IntArray, at_s: FloatArray
    ) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
        """The mixture: case, place and probability of every place, and elsewhere of every case.

        A place occurs once in a case. Nothing is said of people who were never seen.
        """
        case, pair = self.knowledge.rows(np.maximum(user, 0)) if self.users else _no_rows()
        seen = user[case] >= 0
        case, pair = case[seen], pair[seen]
        elsewhere = np.zeros(len(user))
        if not len(case):
            return case, pair, np.empty(0), elsewhere
        seen_case = np.flatnonzero(user >= 0)
        row_of = np.zeros(len(user), dtype=np.int64)
        row_of[seen_case] = np.arange(len(seen_case))
        guess, circumstances = self.knowledge.guesses(
            user[seen_case], at_s[seen_case], row_of[case], pair
        )
        weight = np.zeros((len(user), len(GUESSES)))
        weight[seen_case] = self.gate.weights(circumstances)
        if self.announced is not None:
            weight = self._leaving(self.announced, weight, np.maximum(user, 0), at_s)
        probability = np.einsum("rg,rg->r", guess, weight[case])
        total = np.bincount(case, probability, len(user)) + weight[:, ELSEWHERE]
        total[user < 0] = 1.0
        probability, elsewhere = probability / total[case], weight[:, ELSEWHERE] / total
        place = self.knowledge.pair_place[pair]
        if self.announced is not None:
            return _heed(self.announced, user, at_s, case, place, probability, elsewhere)
        return case, place, probability, elsewhere

    def _leaving(
        self, announced: Announced, weight: FloatArray, user: IntArray, at_s: FloatArray
    ) -> FloatArray:
        """Weights of guesses, of which those that somebody goes on being where they are end with
        the trip they announced."""
        known = self.knowledge
        last = np.where(known.last_pair >= 0, known.pair_place[known.last_pair], -1)
        is_over = at_s >= announced.leaves_s(last, known.last_s)[user]
        result = weight.copy()
        for guess in (STAY, DAYS):
            moved = np.where(is_over, announced.trust[1] * weight[:, guess], 0.0)
            result[:, guess] -= moved
            result[:, ALWAYS] += moved
        return result

    def _fleet_habit_of(self, label: Hashable, at_s: FloatArray) -> FloatArray:
        """What the fleet does at the time on a newcomer's wall, their own announced trips heeded;
        shape (n, n_places + 1)."""
        wall_s = wall_seconds(at_s, self.zones.get(label, UTC))
        habit: FloatArray = self.fleet_habit[hour_of_week(wall_s)]
        if self.announced is None or label not in self.announced.newcomers:
            return habit
        trip = self.announced.during(np.full(len(at_s), self.announced.newcomers[label]), at_s)
        away = np.flatnonzero(trip >= 0)
        trust = self.announced.chance(trip[away], at_s[away])
        habit[away] *= 1 - trust[:, None]
        habit[away, self.announced.place[trip[away]]] += trust
        return habit

    def _newcomer(self, label: Hashable, at_s: FloatArray) -> dict[Any, float]:
        (row,) = self._fleet_habit_of(label, at_s)
        likely = {place: float(p) for place, p in zip(self.places, row, strict=False) if p > 0}
        return {**likely, ELSEWHERE_KEY: float(row[-1])}


def _heed(
    announced: Announced,
    user: IntArray,
    at_s: FloatArray,
    case: IntArray,
    place: IntArray,
    probability: FloatArray,
    elsewhere: FloatArray,
) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
    """What `_mix` returns, with announced trips heeded: the places announced, and as much less of
    the others as announcements can be trusted."""
    trip = announced.during(user, at_s)
    away = np.flatnonzero(trip >= 0)
    trust = np.zeros(len(user))
    trust[away] = announced.chance(trip[away], at_s[away])
    probability, elsewhere = probability * (1 - trust)[case], elsewhere * (1 - trust)
    there = np.full(len(user), -1)
    there[away] = announced.place[trip[away]]
    is_there = place == there[case]
    probability = probability + np.where(is_there, trust[case], 0.0)
    has_row = np.zeros(len(user), dtype=np.bool_)
    has_row[case[is_there]] = True
    new = away[~has_row[away]]
    return (
        np.concatenate([case, new]),
        np.concatenate([place, there[new]]),
        np.concatenate([probability, trust[new]]),
        elsewhere,
    )


def _labels(users: ArrayLike | Sequence[Hashable]) -> AnyArray:
    """One label counts as a list of one; shape (n,)."""
    labels: list[Any]
    if isinstance(users, np.ndarray):
        labels = np.atleast_1d(users).tolist()
    elif isinstance(users, Sequence) and not isinstance(users, str):
        labels = list(users)
    else:
        labels = [users]
    result = np.empty(len(labels), dtype=object)
    result[:] = labels
    return result


def _no_rows() -> tuple[IntArray, IntArray]:
    return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)


def learn_gate(sightings: Sightings, until_s: float) -> Gate:
    """Ask at earlier moments where people were found afterwards, and fit the weights to that."""
    sightings = sightings.of_some(MOST_PEOPLE)
    moments = moments_before(sightings, until_s)
    lessons = [_lesson(sightings, each, most=2 * MOST_CASES // len(moments)) for each in moments]
    circumstances, guesses, importance, person = (
        np.concatenate(parts) for parts in zip(*lessons, strict=True)
    )
    prior = np.zeros((N_CIRCUMSTANCES, len(GUESSES)))
    prior[CONSTANT, ELSEWHERE] = NEW_PLACE_LOGIT
    prior[MOVED, STAY] = MOVED_LOGIT
    if len(importance) > MOST_CASES:
        chosen = np.linspace(0, len(importance) - 1, MOST_CASES).astype(np.int64)
        circumstances, guesses = circumstances[chosen], guesses[chosen]
        importance, person = importance[chosen], person[chosen]
    return fit_gate(circumstances, guesses, importance, prior=prior, group=person)


def moments_before(sightings: Sightings, until_s: float, *, count: int = LESSONS) -> FloatArray:
    """Earlier moments to learn from, spread over the later part of what was seen."""
    if not len(sightings.at_s):
        return np.array([until_s])
    latest = until_s - HOURS_PER_WEEK * HOUR_S
    shares = np.linspace(0.35, 1.0, count)
    moments = np.minimum(np.quantile(sightings.at_s, shares), latest)
    moments = moments[moments > sightings.at_s.min()]
    if not len(moments):
        moments = np.quantile(sightings.at_s, [0.5, 0.75])
    # Not on a sighting: nobody signs in at the moment they are asked about.
    result: FloatArray = np.unique(moments) + 0.5
    return result


def _lesson(
    sightings: Sightings, moment_s: float, *, most: int
) -> tuple[FloatArray, FloatArray, FloatArray, IntArray]:
    """Circumstances, guesses of what then happened, importance and person of the sightings in the
    week after a moment, or of so many of them.

    As a person's week counts as much as another's, and the next hours as much as the next days,
    the sightings of one person in one band share one unit of importance.
    """
    knowledge = Knowledge.of(sightings, moment_s)
    lead_h = (sightings.at_s - moment_s) / HOUR_S
    after = np.flatnonzero((lead_h > 0) & (lead_h <= HOURS_PER_WEEK))
    after = after[knowledge.n_seen[sightings.user[after]] > 0]
    band = np.searchsorted(BAND_ENDS_H, lead_h[after])
    cell = sightings.user[after] * (len(BAND_ENDS_H) + 1) + band
    _, cell, count = np.unique(cell, return_inverse=True, return_counts=True)
    importance = 1.0 / count[cell]
    if len(after) > most:
        chosen = np.linspace(0, len(after) - 1, most).astype(np.int64)
        after, importance = after[chosen], importance[chosen]
    user, place, at_s = sightings.user[after], sightings.place[after], sightings.at_s[after]
    case, pair = knowledge.rows(user)
    every, circumstances = knowledge.guesses(user, at_s, case, pair)
    happened = np.flatnonzero(knowledge.pair_place[pair] == place[case])
    guesses = np.zeros((len(user), len(GUESSES)))
    guesses[:, ELSEWHERE] = 1.0
    guesses[case[happened]] = every[happened]
    return circumstances, guesses, importance, user


def _fleet_habit(knowledge: Knowledge, n_places: int) -> FloatArray:
    """The average person's habit, shape (168, n_places + 1)."""
    habit = np.zeros((HOURS_PER_WEEK, n_places + 1))
    np.add.at(habit.T, knowledge.pair_place, knowledge.habits[0])
    total = habit.sum(axis=1, keepdims=True)
    habit *= np.where(total > 0, (1 - NEWCOMER_ELSEWHERE) / np.where(total > 0, total, 1.0), 0.0)
    habit[:, -1] = 1.0 - habit.sum(axis=1)
    return habit


def _pieces(rows: IntArray) -> list[IntArray]:
    """Cases, numbered from 0, in pieces of about ROWS_AT_ONCE; rows : shape (n,), of each case."""
    cuts = np.flatnonzero(np.diff(np.cumsum(rows) // ROWS_AT_ONCE)) + 1
    return np.split(np.arange(len(rows)), cuts) if len(rows) else []


def _seconds(moment: Any) -> FloatArray:
    """Seconds since 1970 UTC of a datetime64, an aware datetime, numbers, or arrays of them."""
    if isinstance(moment, datetime):
        return np.asarray(_aware_seconds(moment))
    values = np.asarray(moment)
    if values.dtype.kind == "M":
        seconds = values.astype("datetime64[us]").astype(np.float64) / 1e6
        return np.where(np.isnat(values), np.nan, seconds)
    if values.dtype == object:
        flat = [_aware_seconds(each) for each in values.ravel()]
        return np.array(flat, dtype=np.float64).reshape(values.shape)
    return values.astype(np.float64)


def _aware_seconds(moment: Any) -> float:
    if isinstance(moment, datetime):
        if moment.utcoffset() is None:
            raise InvalidHistory(f"{moment.isoformat()} has no time zone")
        return moment.timestamp()
    return float(moment)
