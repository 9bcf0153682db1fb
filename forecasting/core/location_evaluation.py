"""How well it is foretold where people will be: rolling origins, held against simple methods.

Asked is as the product is asked: at a moment, about the people of a fleet, from everything the
fleet was seen doing up to that moment and nothing after it. Each person is asked about at several
moments in the last quarter of their records. A model is fitted to a fleet, and fitting it for
each person's own moments is not affordable, so people share moments: those wanted (evenly spaced
in each person's last quarter) are pooled, as many of their quantiles as there may be fits become
the moments, and each person gets those nearest to the wanted ones that lie in their last quarter.
Clocks are never shifted: a person's hour of the week, season and daylight saving stay true, and
what anybody did after a moment is out of reach of all that is asked at it.

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
from typing import Any, Protocol

import numpy as np

from forecasting.core.arrays import AnyArray, BoolArray, FloatArray, IntArray
from forecasting.core.location import ELSEWHERE_KEY, fit_locations
from forecasting.core.location_baselines import Past, baseline_answers, fit_staying, learn_staying
from forecasting.core.location_targets import BANDS, Answers, Targets, reduce_answers, targets_at
from forecasting.core.whereabouts import Sightings
from forecasting.errors import InvalidHistory

PRODUCT = "product"
LEAST_PROBABILITY = 1e-4
ECE_BINS = 15
LAST_SHARE = 0.25
FEWEST_SIGHTINGS = 8
# Earlier moments that what baselines fit is fitted on.
LESSONS = 40
RESAMPLES = 1000


class Predicts(Protocol):
    def predict(self, user: Any, at: Any) -> list[dict[Any, float]]: ...


# Sightings up to a moment, the moment, and the people to learn from (None for all) to a model.
Fit = Callable[[Sightings, float, IntArray | None], Predicts]


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
    """targets : of each moment; answers : by method, to the targets of each moment"""

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


def choose_moments(
    seen: Sightings, people: IntArray, *, per_person: int, most: int
) -> list[tuple[float, IntArray]]:
    """Moments in order, and who of these people is asked about at each.

    per_person : moments wanted for each person; most : moments in all

    Raises InvalidHistory when nobody was seen often enough.
    """
    n_seen = np.bincount(seen.user, minlength=seen.n_users)
    ends = np.cumsum(n_seen)
    asked = people[n_seen[people] >= FEWEST_SIGHTINGS]
    if not len(asked):
        raise InvalidHistory(f"nobody was seen {FEWEST_SIGHTINGS} times or more")
    first_s = seen.at_s[(ends - np.ceil(LAST_SHARE * n_seen).astype(np.int64))[asked] - 1]
    last_s = seen.at_s[ends[asked] - 1]
    share = (np.arange(per_person) + 0.5) / per_person
    wanted = first_s[:, None] + (last_s - first_s)[:, None] * share
    pooled = np.sort(wanted.ravel())
    moments = np.unique(np.quantile(pooled, (np.arange(most) + 0.5) / most, method="nearest"))
    moments = np.unique(moments if len(pooled) > most else pooled)
    right = np.clip(np.searchsorted(moments, wanted), 1, max(len(moments) - 1, 1))
    right = np.minimum(right, len(moments) - 1)
    left = np.maximum(right - 1, 0)
    is_left = np.abs(wanted - moments[left]) < np.abs(wanted - moments[right])
    nearest = np.where(is_left, left, right)
    inside = (moments[nearest] >= first_s[:, None]) & (moments[nearest] < last_s[:, None])
    person = np.broadcast_to(asked[:, None], nearest.shape)
    return [
        (float(moment), np.unique(person[inside & (nearest == number)]))
        for number, moment in enumerate(moments)
        if (inside & (nearest == number)).any()
    ]


def fit_product(seen: Sightings, moment_s: float, learners: IntArray | None) -> Predicts:
    """The product's model of everybody seen; what it learns of a fleet, of some of them.

    seen : up to the moment
    learners : the people whose past weighs the guesses; None for all
    """
    model = fit_locations(seen.user, seen.at_s, seen.place, until=moment_s)
    if learners is None:
        return model
    kept = np.isin(seen.user, learners)
    taught = fit_locations(seen.user[kept], seen.at_s[kept], seen.place[kept], until=moment_s)
    return replace(model, gate=taught.gate)


def evaluate(
    seen: Sightings,
    *,
    per_person: int = 10,
    most_moments: int = 48,
    held_out: IntArray | None = None,
    fit: Fit = fit_product,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Result:
    """Ask the product and the baselines at every moment.

    per_person, most_moments : see `choose_moments`
    held_out : people to be asked about, and none to learn the fleet's ways from; None to learn
        from all and ask about all
    progress : told how many moments of how many are done
    """
    everybody = np.arange(seen.n_users)
    learners = None if held_out is None else np.setdiff1d(everybody, held_out)
    asked = everybody if held_out is None else held_out
    moments = choose_moments(seen, asked, per_person=per_person, most=most_moments)
    lessons = learn_staying(
        seen,
        np.quantile(seen.at_s, np.linspace(0.05, 1.0, LESSONS)).tolist(),
        everybody if learners is None else learners,
    )
    every_target: list[Targets] = []
    answers: dict[str, list[Answers]] = {}
    for number, (moment_s, people) in enumerate(moments):
        targets = targets_at(seen, moment_s, people)
        if len(targets):
            every_target.append(targets)
            model = fit(seen.until(moment_s), moment_s, learners)
            past, staying = Past.of(seen, moment_s, people), fit_staying(lessons, moment_s)
            said = {
                PRODUCT: model_answers(model, targets),
                **baseline_answers(past, targets, staying),
            }
            for name, answer in said.items():
                answers.setdefault(name, []).append(answer)
        progress(number + 1, len(moments))
    if not every_target:
        raise InvalidHistory("nobody was seen in the week after a moment they are asked about")
    return Result(tuple(every_target), {name: tuple(said) for name, said in answers.items()})


def model_answers(model: Predicts, targets: Targets) -> Answers:
    """What a model says about targets; raises InvalidHistory when it is no distribution."""
    said = model.predict(targets.user, targets.at_s)
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
    """mean : log loss of one method less another's; standard_error : over resampled people"""

    mean: float
    standard_error: float


def compare(result: Result, method: str, other: str, *, seed: int = 0) -> Difference:
    """Paired difference in log loss, as uncertain as it is for having asked these people."""
    asked = _Asked.of(result.targets)
    gap = _losses(result.answers[method]).loss - _losses(result.answers[other]).loss
    _, person = np.unique(asked.user, return_inverse=True)
    total = np.bincount(person, gap * asked.is_first)
    cells = np.bincount(person, asked.is_first)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(total), np.full(len(total), 1 / len(total)), RESAMPLES)
    means = (drawn @ total) / np.maximum(drawn @ cells, 1)
    return Difference(float(total.sum() / cells.sum()), float(means.std(ddof=1)))


def hold_out(seen: Sightings, share: float, *, seed: int = 0) -> IntArray:
    """A share of the people, drawn at random."""
    people = np.random.default_rng(seed).permutation(seen.n_users)
    return np.sort(people[: max(round(share * seen.n_users), 1)])


def _mean(values: AnyArray) -> float:
    return float(values.mean()) if values.size else float("nan")
