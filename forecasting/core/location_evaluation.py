"""How well it is foretold where people will be: rolling origins, held against simple methods.

Asked is as the product is asked. It learns the ways of a fleet now and then, and what it knows of
a person follows every sighting; so each person is asked about at moments of their own, evenly
spaced over the last quarter of their records, with all that was seen of them up to the moment,
while the ways of the fleet are those learned at the latest of a few common moments before.
Nothing that anybody did after a moment is used for what is asked at it. Clocks are never shifted:
a person's hour of the week, season and daylight saving stay true.

Within a person's moment and a band of lead time the *first* sighting is scored: where the person
will be found next, then. Thus each person, moment and band counts alike, and somebody who is seen
every hour no more than somebody seen twice a week. Scores over *every* sighting, those of one
cell sharing its weight, are given beside it. A person is one sighting an hour at most, the last.

A *change* is a sighting in another place than the last one before the moment. A method answers
with a distribution over places the person was seen in and `elsewhere` for all others; the outcome
`elsewhere` is a place like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from forecasting.core.arrays import AnyArray, BoolArray, FloatArray, IntArray
from forecasting.core.location import ELSEWHERE_KEY, LocationModel, fit_locations
from forecasting.core.location_baselines import (
    BASELINES,
    Past,
    Staying,
    baseline_answers,
    fit_staying,
    learn_staying,
)
from forecasting.core.location_targets import BANDS, Answers, Targets, reduce_answers, targets_at
from forecasting.core.whereabouts import Knowledge, Sightings
from forecasting.errors import InvalidHistory

PRODUCT = "product"
LEAST_PROBABILITY = 1e-4
ECE_BINS = 15
LAST_SHARE = 0.25
FEWEST_SIGHTINGS = 8
# Earlier moments that what baselines fit is fitted on.
LESSONS = 40
RESAMPLES = 1000


# By place, and `elsewhere`.
Distribution = dict[Any, float]


class Predicts(Protocol):
    def predict(self, user: Any, at: Any) -> list[Distribution]: ...


class Learned(Protocol):
    """What was learned of the ways of a fleet."""

    def about(self, seen: Sightings, moment_s: float) -> Predicts:
        """A model of people who need not be of that fleet; nothing is seen after the moment."""


Fit = Callable[[Sightings, float], Learned]


@dataclass(frozen=True)
class Product:
    """The product's model, with the fleet's ways learned earlier and people as they are known."""

    model: LocationModel

    @classmethod
    def learn(cls, seen: Sightings, moment_s: float) -> Product:
        return cls(fit_locations(seen.user, seen.at_s, seen.place, until=moment_s))

    def about(self, seen: Sightings, moment_s: float) -> LocationModel:
        # What is known of one person is made twenty times as fast without rows for all the others.
        people = np.unique(seen.user)
        theirs = seen.of_some(len(people))
        known = Knowledge.of(theirs, moment_s, togetherness=self.model.knowledge.togetherness)
        return replace(
            self.model,
            users={label: number for number, label in enumerate(people.tolist())},
            places=tuple(range(seen.n_places)),
            knowledge=known,
            restlessness=np.full(len(people) + 1, self.model.restlessness[-1]),
        )


@dataclass(frozen=True)
class Scores:
    """Of one method. Losses in nats, Brier in [0, 2], the others shares in [0, 1].

    log_loss, brier, accuracy : over all bands; by_band : log loss in each of BANDS
    change_log_loss, change_accuracy, change_by_band : on changes alone
    every_log_loss : over every sighting; ece : the same, by the likeliest place
    ece_by_chance : what a perfectly calibrated method with these probabilities would get
    """

    log_loss: float
    by_band: tuple[float, ...]
    brier: float
    accuracy: float
    change_log_loss: float
    change_by_band: tuple[float, ...]
    change_accuracy: float
    every_log_loss: float
    ece: float
    ece_by_chance: float


@dataclass(frozen=True)
class Result:
    """targets : of each question, a person at a moment; answers : by method, to each question"""

    targets: tuple[Targets, ...]
    answers: Mapping[str, tuple[Answers, ...]]


def sightings_of(user: AnyArray, at_s: FloatArray, place: AnyArray) -> Sightings:
    """Numbered sightings of labelled ones; shape (n,) each.

    Raises InvalidHistory when nobody was seen, or a time is missing.
    """
    if not len(user) or np.isnan(at_s).any():
        raise InvalidHistory("nobody was seen, or a sighting has no time")
    people, user_number = np.unique(user, return_inverse=True)
    places, place_number = np.unique(place, return_inverse=True)
    return Sightings.of(user_number, place_number, at_s, n_users=len(people), n_places=len(places))


def person_moments(
    seen: Sightings, people: IntArray, *, per_person: int
) -> tuple[IntArray, FloatArray]:
    """Who of these people is asked about when, in order of time: (person, moment_s), shape (n,).

    per_person : moments for each person, evenly spaced between the sighting that ends the first
        three quarters of theirs and their last; those with no sighting in the week after will
        have nothing to score

    Raises InvalidHistory when nobody was seen often enough.
    """
    n_seen = np.bincount(seen.user, minlength=seen.n_users)
    ends = np.cumsum(n_seen)
    asked = people[n_seen[people] >= FEWEST_SIGHTINGS]
    if not len(asked):
        raise InvalidHistory(f"nobody was seen {FEWEST_SIGHTINGS} times or more")
    n_last = np.ceil(LAST_SHARE * n_seen).astype(np.int64)
    first_s = seen.at_s[(ends - n_last)[asked] - 1]
    last_s = seen.at_s[ends[asked] - 1]
    share = (np.arange(per_person) + 0.5) / per_person
    moment_s = (first_s[:, None] + (last_s - first_s)[:, None] * share).ravel()
    order = np.argsort(moment_s, kind="stable")
    return np.repeat(asked, per_person)[order], moment_s[order]


def evaluate(
    seen: Sightings,
    *,
    per_person: int = 24,
    fits: int = 32,
    held_out: IntArray | None = None,
    fit: Fit = Product.learn,
    beside: Mapping[str, Fit] = MappingProxyType({}),
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Result:
    """Ask the product, the baselines, and what else is to be scored beside them.

    per_person : moments for each person
    fits : common moments at which the ways of the fleet are learned
    held_out : people to be asked about, and not learned from; None to ask about and learn from all
    beside : other engines by name; each is asked alone and in equal parts with the product
    progress : told how many questions of how many were asked
    """
    asked = np.arange(seen.n_users) if held_out is None else held_out
    fleet = seen if held_out is None else _take(seen, ~np.isin(seen.user, held_out))
    person, moment_s = person_moments(seen, asked, per_person=per_person)
    lessons = learn_staying(fleet, np.quantile(fleet.at_s, np.linspace(0.05, 1.0, LESSONS)))
    ends = np.searchsorted(seen.user, np.arange(seen.n_users + 1))
    targets: list[Targets] = []
    answers: dict[str, list[Answers]] = {}
    done = 0
    for some in np.array_split(np.arange(len(person)), min(fits, len(person))):
        learned_s = float(moment_s[some[0]])
        past = fleet.until(learned_s)
        learned = {PRODUCT: fit(past, learned_s)}
        learned |= {name: other(past, learned_s) for name, other in beside.items()}
        staying = fit_staying(lessons, learned_s)
        for who, when_s in zip(person[some].tolist(), moment_s[some].tolist(), strict=True):
            own = _take(seen, slice(ends[who], ends[who + 1]))
            ahead = targets_at(own, when_s)
            if len(ahead):
                targets.append(ahead)
                for name, said in _ask(own.until(when_s), ahead, learned, staying).items():
                    answers.setdefault(name, []).append(said)
        done += len(some)
        progress(done, len(person))
    if not targets:
        raise InvalidHistory("nobody was seen in the week after a moment they are asked about")
    return Result(tuple(targets), {name: tuple(said) for name, said in answers.items()})


def _ask(
    past: Sightings, targets: Targets, learned: Mapping[str, Learned], staying: Staying
) -> dict[str, Answers]:
    """What every method says of somebody whose past this is."""
    said = {
        name: of.about(past, targets.moment_s).predict(targets.user, targets.at_s)
        for name, of in learned.items()
    }
    for name in list(said):
        if name != PRODUCT:
            said[f"{PRODUCT} + {name}"] = [
                _halves(*both) for both in zip(said[PRODUCT], said[name], strict=True)
            ]
    return {
        **{name: model_answers(answers, targets) for name, answers in said.items()},
        **baseline_answers(Past.of(past, targets.moment_s), targets, staying),
    }


def _halves(one: Distribution, other: Distribution) -> Distribution:
    places = dict.fromkeys([*one, *other])
    return {place: (one.get(place, 0.0) + other.get(place, 0.0)) / 2 for place in places}


def _take(seen: Sightings, which: BoolArray | slice) -> Sightings:
    return Sightings(
        seen.user[which], seen.place[which], seen.at_s[which], seen.n_users, seen.n_places
    )


def model_answers(said: Sequence[Distribution], targets: Targets) -> Answers:
    """What a model said about targets; raises InvalidHistory when it is no distribution."""
    elsewhere = np.array([each.get(ELSEWHERE_KEY, 0.0) for each in said])
    sizes = [len(each) for each in said]
    case = np.repeat(np.arange(len(said)), sizes)
    keys = [key for each in said for key in each]
    is_place = np.array([key != ELSEWHERE_KEY for key in keys], dtype=np.bool_)
    place = np.array([key if key != ELSEWHERE_KEY else -1 for key in keys], dtype=np.int64)
    probability = np.array([value for each in said for value in each.values()])
    total = np.bincount(case, probability, len(said))
    if not np.allclose(total, 1.0, atol=1e-6) or (probability < 0).any():
        raise InvalidHistory("a forecast of whereabouts does not sum to 1")
    return reduce_answers(
        targets, case[is_place], place[is_place], probability[is_place], elsewhere
    )


@dataclass(frozen=True)
class _Losses:
    """Of one method, over all moments; shape (n,) each."""

    loss: FloatArray
    brier: FloatArray
    is_hit: BoolArray
    top: FloatArray


@dataclass(frozen=True)
class _Asked:
    """All targets of all moments; shape (n,) each.

    share : of the weight of the person, moment and band, divided among its sightings
    """

    user: IntArray
    band: IntArray
    is_first: BoolArray
    has_changed: BoolArray
    share: FloatArray

    @classmethod
    def of(cls, targets: Sequence[Targets]) -> _Asked:
        is_first = np.concatenate([each.is_first for each in targets])
        cell = np.cumsum(is_first) - 1
        return cls(
            np.concatenate([each.user for each in targets]),
            np.concatenate([each.band for each in targets]),
            is_first,
            np.concatenate([each.place != each.last for each in targets]),
            1.0 / np.bincount(cell)[cell],
        )


def score(result: Result, *, seed: int = 0) -> dict[str, Scores]:
    """Scores of every method."""
    asked = _Asked.of(result.targets)
    return {
        name: _score(asked, _losses(answers), np.random.default_rng(seed))
        for name, answers in result.answers.items()
    }


def _losses(answers: Sequence[Answers]) -> _Losses:
    outcome, top, is_hit, squares = (
        np.concatenate([getattr(each, name) for each in answers])
        for name in ("outcome", "top", "is_hit", "squares")
    )
    loss = -np.log(np.maximum(outcome, LEAST_PROBABILITY))
    return _Losses(loss, squares - 2 * outcome + 1, is_hit, top)


def _score(asked: _Asked, losses: _Losses, random: np.random.Generator) -> Scores:
    first, changed = asked.is_first, asked.is_first & asked.has_changed

    def by_band(some: BoolArray) -> tuple[float, ...]:
        return tuple(_mean(losses.loss[some & (asked.band == b)]) for b in range(len(BANDS)))

    chance = [
        weighted_calibration_error(
            losses.top, random.random(len(losses.top)) < losses.top, asked.share
        )
        for _ in range(20)
    ]
    return Scores(
        log_loss=_mean(losses.loss[first]),
        by_band=by_band(first),
        brier=_mean(losses.brier[first]),
        accuracy=_mean(losses.is_hit[first]),
        change_log_loss=_mean(losses.loss[changed]),
        change_by_band=by_band(changed),
        change_accuracy=_mean(losses.is_hit[changed]),
        every_log_loss=float(np.average(losses.loss, weights=asked.share)),
        ece=weighted_calibration_error(losses.top, losses.is_hit, asked.share),
        ece_by_chance=float(np.mean(chance)),
    )


def weighted_calibration_error(
    probability: FloatArray, happened: BoolArray, weight: FloatArray, *, bins: int = ECE_BINS
) -> float:
    """`scores.expected_calibration_error` of weighted cases, in bins of equal weight."""
    order = np.argsort(probability, kind="stable")
    heavy = np.cumsum(weight[order])
    bin_of = np.minimum((heavy - weight[order] / 2) * bins / heavy[-1], bins - 1).astype(np.int64)
    gap = (probability - happened)[order] * weight[order]
    return float(np.abs(np.bincount(bin_of, gap, bins)).sum() / heavy[-1])


@dataclass(frozen=True)
class Difference:
    """Of the product and another method.

    best : name of the other, the best of several; mean : log loss of the product less the other's
    standard_error : of the mean, over resampled people
    """

    best: str
    mean: float
    standard_error: float


def compare(
    result: Result, scores: Mapping[str, Scores], *, band: int | None = None, seed: int = 0
) -> Difference:
    """The product against the baseline that turned out best, by log loss.

    band : index into BANDS; None for all bands, with the baseline that is best in them all
    """
    losses = {
        name: scores[name].log_loss if band is None else scores[name].by_band[band]
        for name in BASELINES
    }
    return difference(result, min(losses, key=losses.__getitem__), band=band, seed=seed)


def difference(result: Result, other: str, *, band: int | None = None, seed: int = 0) -> Difference:
    """The product against another method, by log loss in a band or in all."""
    asked = _Asked.of(result.targets)
    counted = asked.is_first & ((band is None) | (asked.band == band))
    gap = _losses(result.answers[PRODUCT]).loss - _losses(result.answers[other]).loss
    _, person = np.unique(asked.user[counted], return_inverse=True)
    if not len(person):
        return Difference(other, float("nan"), float("nan"))
    total, cells = np.bincount(person, gap[counted]), np.bincount(person)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(total), np.full(len(total), 1 / len(total)), RESAMPLES)
    means = (drawn @ total) / np.maximum(drawn @ cells, 1)
    return Difference(other, float(total.sum() / cells.sum()), float(means.std(ddof=1)))


def hold_out(seen: Sightings, share: float, *, seed: int = 0) -> IntArray:
    """A share of the people, drawn at random; somebody is left to learn from.

    Raises InvalidHistory when there is one person only.
    """
    if seen.n_users < 2:
        raise InvalidHistory("one person alone cannot be held out: nobody is left to learn from")
    people = np.random.default_rng(seed).permutation(seen.n_users)
    return np.sort(people[: min(max(round(share * seen.n_users), 1), seen.n_users - 1)])


def _mean(values: AnyArray) -> float:
    return float(values.mean()) if values.size else float("nan")
