"""Forecasts of whereabouts are held against simple ones, and none sees what comes after."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from forecasting.core.location_baselines import (
    BASELINES,
    SINCE_H,
    Past,
    baseline_answers,
    fit_staying,
    learn_staying,
)
from forecasting.core.location_evaluation import (
    PRODUCT,
    Product,
    compare,
    evaluate,
    hold_out,
    person_moments,
    score,
    sightings_of,
    weighted_calibration_error,
)
from forecasting.core.location_targets import BANDS, Targets, reduce_answers, targets_at
from forecasting.core.scores import expected_calibration_error
from forecasting.core.whereabouts import Sightings
from forecasting.errors import InvalidHistory

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


def travellers(n_people: int = 12, *, days: int = 120, seed: int = 0) -> Sightings:
    """Seen three times a day; trips of some days to one of three places."""
    random = np.random.default_rng(seed)
    place = np.zeros((n_people, days), dtype=np.int64)
    for person in range(n_people):
        for day in np.flatnonzero(random.random(days) < 0.08):
            place[person, day : day + 1 + random.integers(4)] = random.integers(1, 4)
    user, day = np.divmod(np.arange(n_people * days), days)
    at_s = (DAY_S * day)[:, None] + HOUR_S * np.array([9, 13, 17]) + random.uniform(0, 60, 3)
    return sightings_of(np.repeat(user, 3), at_s.ravel(), np.repeat(place.ravel(), 3))


def sequence(*places: int, step_h: float = 24.0, n_places: int = 4) -> Sightings:
    """One person, seen at one place after the other."""
    at_s = HOUR_S * step_h * np.arange(len(places))
    user = np.zeros(len(places), dtype=np.int64)
    return Sightings(user, np.array(places), at_s, n_users=1, n_places=n_places)


@dataclass(frozen=True)
class Says:
    """Whatever is asked, one answer; or where they will be, to who knows."""

    answer: dict | None = None
    known: Sightings | None = None

    def about(self, seen: Sightings, moment_s: float) -> Says:
        return self

    def predict(self, user: np.ndarray, at: np.ndarray) -> list[dict]:
        if self.known is None:
            return [self.answer for _ in user]
        keys = zip(self.known.user.tolist(), self.known.at_s.tolist(), strict=True)
        where = dict(zip(keys, self.known.place.tolist(), strict=True))
        return [
            {where[who, when]: 1.0, "elsewhere": 0.0}
            for who, when in zip(user.tolist(), at.tolist(), strict=True)
        ]


def test_people_are_asked_about_in_the_last_quarter_of_their_records():
    seen = travellers()
    person, moment_s = person_moments(seen, np.arange(12), per_person=5)
    assert np.bincount(person).tolist() == [5] * 12
    assert (np.diff(moment_s) >= 0).all()
    days = moment_s / DAY_S
    assert days.min() > 0.75 * 120
    assert days.max() < 120
    with pytest.raises(InvalidHistory, match="nobody was seen 8 times"):
        person_moments(sequence(0, 1, 0), np.array([0]), per_person=5)


def test_of_each_band_the_first_sighting_is_marked():
    seen = sequence(*([0] * 20), step_h=1.5)
    targets = targets_at(seen, 10 * HOUR_S)
    lead_h = (targets.at_s - 10 * HOUR_S) / HOUR_S
    assert lead_h[targets.is_first].tolist() == [0.5, 6.5]
    assert [BANDS[band] for band in targets.band[targets.is_first]] == ["0-6 h", "6-24 h"]
    assert not len(targets_at(seen, -1.0)), "nobody is asked about who was never seen"


def test_nothing_after_a_moment_is_used_by_anybody():
    seen = travellers()
    poisoned_from = 105 * DAY_S
    poisoned = replace(
        seen, place=np.where(seen.at_s > poisoned_from, (seen.place + 1) % 4, seen.place)
    )
    honest, other = (evaluate(each, per_person=6, fits=4) for each in (seen, poisoned))
    n_before = 0
    for number, targets in enumerate(honest.targets):
        assert targets.moment_s == other.targets[number].moment_s
        if targets.moment_s > poisoned_from:
            continue
        n_before += 1
        for name in honest.answers:
            for what in ("top", "squares"):
                np.testing.assert_array_equal(
                    getattr(honest.answers[name][number], what),
                    getattr(other.answers[name][number], what),
                    err_msg=f"{name} at {targets.moment_s}",
                )
    assert 20 < n_before < len(honest.targets)


def test_a_model_gets_nothing_of_what_comes_after_and_nobody_held_out():
    seen = travellers()
    held_out = hold_out(seen, 0.5)
    assert len(held_out) == 6
    told = []

    class Watching(Says):
        def about(self, own, moment_s):
            assert own.at_s.max() <= moment_s
            assert moment_s >= told[-1]
            assert set(own.user.tolist()) <= set(held_out.tolist())
            return self

    def fit(fleet, moment_s):
        assert fleet.at_s.max() <= moment_s
        assert not set(fleet.user.tolist()) & set(held_out.tolist())
        told.append(moment_s)
        return Watching({"elsewhere": 1.0})

    result = evaluate(seen, per_person=4, fits=3, held_out=held_out, fit=fit)
    assert len(told) == 3
    assert {int(each.user[0]) for each in result.targets} == set(held_out.tolist())
    assert len(hold_out(travellers(3), 0.99)) == 2
    with pytest.raises(InvalidHistory, match="nobody is left"):
        hold_out(travellers(1), 0.5)


def test_the_product_knows_a_person_it_did_not_learn_from():
    seen = travellers()
    moment_s = 100 * DAY_S
    own = sequence(*([3] * 90), n_places=seen.n_places)
    own = replace(own, user=own.user + 11, n_users=seen.n_users)
    known = seen.user < 11
    others = replace(seen, user=seen.user[known], place=seen.place[known], at_s=seen.at_s[known])
    learned = Product.learn(others.until(moment_s), moment_s)
    (answer,) = learned.about(own, moment_s).predict([11], [moment_s + DAY_S])
    assert set(answer) == {3, "elsewhere"}
    assert answer[3] > 0.9


def test_what_is_known_anew_of_a_person_is_what_a_whole_fit_would_know():
    seen = travellers()
    moment_s = 100 * DAY_S
    past = seen.until(moment_s)
    whole = Product.learn(past, moment_s)
    own = past.user == 7
    alone = replace(past, user=past.user[own], place=past.place[own], at_s=past.at_s[own])
    at_s = moment_s + HOUR_S * np.array([1.0, 9.0, 50.0])
    people = np.full(3, 7)
    said = whole.about(alone, moment_s).predict(people, at_s)
    for ours, theirs in zip(said, whole.model.predict(people, at_s), strict=True):
        assert ours == pytest.approx(theirs)


def test_knowing_where_they_will_be_loses_nothing():
    seen = travellers()
    result = evaluate(seen, per_person=4, fits=2, fit=lambda *given: Says(known=seen))
    scores = score(result)
    best = scores[PRODUCT]
    # A place where the person had never been can only be said to be elsewhere.
    assert best.log_loss == pytest.approx(0.0, abs=0.2)
    assert best.accuracy > 0.97
    assert best.brier < 0.06
    assert all(of.log_loss > best.log_loss for name, of in scores.items() if name != PRODUCT)
    ahead = compare(result, scores)
    assert ahead.best in BASELINES
    assert ahead.mean == pytest.approx(best.log_loss - scores[ahead.best].log_loss)
    assert 0 < ahead.standard_error < -ahead.mean


def test_each_person_moment_and_band_counts_alike():
    often = travellers(2)
    # The second person is seen every hour at place 1, where the first hardly ever is.
    n_hours = 120 * 24
    first = often.user == 0
    seen = sightings_of(
        np.concatenate([often.user[first], np.ones(n_hours, dtype=np.int64)]),
        np.concatenate([often.at_s[first], HOUR_S * np.arange(n_hours) + 1800]),
        np.concatenate([np.zeros(first.sum(), dtype=np.int64), np.ones(n_hours, dtype=np.int64)]),
    )
    result = evaluate(seen, per_person=8, fits=1, fit=lambda *given: Says({0: 1.0}))
    scores = score(result)[PRODUCT]
    cells = np.array([[each.user[0], each.is_first.sum()] for each in result.targets])
    share_of_first = cells[cells[:, 0] == 0, 1].sum() / cells[:, 1].sum()
    assert scores.accuracy == pytest.approx(share_of_first)
    assert scores.every_log_loss == pytest.approx((1 - share_of_first) * -np.log(1e-4))
    assert scores.log_loss == pytest.approx(scores.every_log_loss)
    assert scores.ece == pytest.approx(1 - share_of_first)


def test_changes_are_told_apart_from_staying():
    seen = travellers(30)
    scores = score(
        evaluate(seen, per_person=6, fits=2, fit=lambda *given: Says({"elsewhere": 1.0}))
    )
    assert scores["stay"].change_accuracy == 0.0
    assert scores["most frequent"].change_accuracy > 0.3
    assert scores["stay"].accuracy > scores["most frequent"].accuracy - 0.1
    assert scores["stay-decay"].log_loss < min(
        scores[name].log_loss for name in ("most frequent", "hour of week")
    )


def test_what_is_no_distribution_is_refused():
    with pytest.raises(InvalidHistory, match="does not sum to 1"):
        evaluate(travellers(3), fit=lambda *given: Says({0: 0.6, "elsewhere": 0.1}))


def targets_of(places: list[int], *, at_s: float = 0.0) -> Targets:
    n = len(places)
    zeros = np.zeros(n, dtype=np.int64)
    return Targets(
        at_s - 1, zeros, np.full(n, at_s), np.array(places), zeros, zeros, np.ones(n, dtype=bool)
    )


def test_an_unknown_place_is_elsewhere_and_of_ties_the_first_is_named():
    answers = reduce_answers(
        targets_of([5, 6, 9]),
        case=np.array([0, 0, 1, 1, 2, 2]),
        place=np.array([5, 6, 5, 6, 5, 6]),
        probability=np.array([0.4, 0.4, 0.4, 0.4, 0.1, 0.2]),
        elsewhere=np.array([0.2, 0.2, 0.7]),
    )
    np.testing.assert_allclose(answers.outcome, [0.4, 0.4, 0.7])
    np.testing.assert_allclose(answers.top, [0.4, 0.4, 0.7])
    assert answers.is_hit.tolist() == [True, False, True]
    np.testing.assert_allclose(answers.squares, [0.36, 0.36, 0.54])


@pytest.mark.parametrize("name", BASELINES)
def test_what_a_baseline_says_sums_to_one(name: str):
    past = sequence(0, 1, 1, 0, 2, 0, 0, 1)
    at_s = past.at_s[-1] + 30 * HOUR_S
    targets = targets_of([0, 1, 2, 3], at_s=at_s)
    staying = fit_staying([], at_s)
    answers = baseline_answers(Past.of(past, past.at_s[-1]), targets, staying)[name]
    assert answers.outcome.sum() == pytest.approx(1.0)
    assert (answers.outcome > 0).all()


def said(past: Sightings, places: list[int], name: str) -> np.ndarray:
    at_s = float(past.at_s[-1]) + HOUR_S
    targets = targets_of(places, at_s=at_s)
    answers = baseline_answers(Past.of(past, at_s), targets, fit_staying([], at_s))
    return answers[name].outcome


def test_the_second_order_knows_what_the_first_cannot():
    past = sequence(*([0, 0, 1] * 20), 0, 0)
    assert said(past, [1], "order-2")[0] > 0.7
    assert 0.4 < said(past, [1], "order-1")[0] < 0.65
    after_one = sequence(*([0, 0, 1] * 20), 0)
    assert said(after_one, [0], "order-2")[0] > 0.7


def test_an_unheard_of_pair_of_places_falls_back_to_the_last_one():
    past = sequence(*([0, 1] * 20), 2, 0)
    np.testing.assert_allclose(said(past, [1, 2], "order-2"), said(past, [1, 2], "order-1"))
    assert said(past, [1], "order-1")[0] > 0.8


def test_recency_and_hour_of_the_week_are_what_they_say():
    moved = sequence(*([0] * 100), *([1] * 50))
    assert said(moved, [0], "most frequent")[0] == pytest.approx(100 / 151)
    assert said(moved, [1], "recency")[0] > 0.6
    days = sequence(*([0, 1] * 100), step_h=12.0)
    at_s = float(days.at_s[-1])
    targets = replace(
        targets_of([0, 1], at_s=0), at_s=np.array([at_s + 12 * HOUR_S, at_s + 24 * HOUR_S])
    )
    answers = baseline_answers(Past.of(days, at_s), targets, fit_staying([], at_s))
    assert (answers["hour of week"].outcome > 0.7).all()


def test_staying_is_learned_to_fade_from_what_was_over_by_then():
    seen = travellers(40)
    lessons = learn_staying(seen, DAY_S * np.arange(10.5, 90, 5))
    two, three = fit_staying(lessons, 110 * DAY_S)
    np.testing.assert_allclose(two.sum(axis=1), 1.0)
    np.testing.assert_allclose(three.sum(axis=1), 1.0)
    soon, late = np.searchsorted(SINCE_H, [4.0, 120.0])
    assert two[soon, 0] > two[late, 0] + 0.2
    unlearned, _ = fit_staying(lessons, 12 * DAY_S)
    np.testing.assert_array_equal(unlearned, 0.5)


def test_calibration_of_equal_weights_is_the_usual_one():
    random = np.random.default_rng(0)
    probability = random.random(1500)
    happened = random.random(1500) < probability**2
    assert weighted_calibration_error(probability, happened, np.ones(1500)) == pytest.approx(
        expected_calibration_error(probability, happened), abs=1e-12
    )
    twice = weighted_calibration_error(
        np.repeat(probability, 2), np.repeat(happened, 2), np.full(3000, 0.5)
    )
    assert twice == pytest.approx(expected_calibration_error(probability, happened), abs=1e-12)
