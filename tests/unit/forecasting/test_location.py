"""Where people will be: probabilities that mean what they say, and paths that agree with them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecasting.core import location
from forecasting.core.location import fit_locations
from forecasting.core.scores import log_loss
from forecasting.core.whereabouts import Knowledge
from forecasting.errors import InvalidHistory

START = datetime(2024, 1, 1, tzinfo=UTC)
WEEKS = 8
UNTIL = START + timedelta(weeks=WEEKS)
HOURS = START.timestamp() + 3600 * np.arange(24 * 7 * (WEEKS + 1))


def commuters(n_people: int = 40, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Office from Monday to Thursday, plant on Fridays, now and then a trip of three days."""
    random = np.random.default_rng(seed)
    hour = np.arange(len(HOURS))
    seen = (hour // 24 % 7 < 5) & (hour % 24 >= 8) & (hour % 24 < 18)
    place = np.where(hour // 24 % 7 == 4, "plant", "office")
    places = np.tile(place, (n_people, 1)).astype("<U10")
    for person in range(n_people):
        for day in np.flatnonzero(random.random(len(hour) // 24) < 0.02):
            places[person, day * 24 : (day + 3) * 24] = "lyon"
    user = np.repeat(np.arange(n_people), seen.sum())
    return user, np.tile(HOURS[seen], n_people), places[:, seen].ravel()


def at(day: int, hour: int) -> float:
    """A moment in the week after `UNTIL`."""
    return (UNTIL + timedelta(days=day, hours=hour)).timestamp()


def test_probabilities_sum_to_one_and_know_the_day_of_the_week():
    user, when, place = commuters()
    model = fit_locations(user, when, place, until=UNTIL)
    people = np.unique(user)
    monday = model.predict(people, np.full(len(people), at(0, 10)))
    friday = model.predict(people, np.full(len(people), at(4, 10)))
    for answer in [*monday, *friday]:
        assert sum(answer.values()) == pytest.approx(1.0)
        assert min(answer.values()) >= 0
        assert "elsewhere" in answer
    assert np.mean([answer["office"] for answer in monday]) > 0.8
    assert np.mean([answer["plant"] for answer in friday]) > 0.8


def test_nothing_after_until_is_used():
    user, when, place = commuters()
    future = when > UNTIL.timestamp()
    poisoned = place.astype("<U20")
    poisoned[future] = "somewhere poisonous"
    people = np.repeat(np.arange(40), 3)
    times = np.tile([at(0, 10), at(2, 12), at(4, 9)], 40)
    honest = fit_locations(user, when, place, until=UNTIL)
    assert honest.predict(people, times) == fit_locations(
        user, when, poisoned, until=UNTIL
    ).predict(people, times)
    assert honest.predict(people, times) == fit_locations(
        user[~future], when[~future], place[~future], until=UNTIL
    ).predict(people, times)


def test_the_order_of_observations_does_not_matter():
    user, when, place = commuters(10)
    mixed = np.random.default_rng(0).permutation(len(user))
    plain = fit_locations(user, when, place, until=UNTIL).predict([3], [at(1, 10)])
    shuffled = fit_locations(user[mixed], when[mixed], place[mixed], until=UNTIL)
    assert shuffled.predict([3], [at(1, 10)])[0] == pytest.approx(plain[0])


def test_it_beats_frequency_and_staying_on_what_came():
    user, when, place = commuters(60, seed=3)
    model = fit_locations(user, when, place, until=UNTIL)
    past = when <= UNTIL.timestamp()
    answers = model.predict(user[~past], when[~past])
    told = [a.get(p, a["elsewhere"]) for a, p in zip(answers, place[~past], strict=True)]
    frequency, staying = [], []
    for who, where in zip(user[~past], place[~past], strict=True):
        own = place[past & (user == who)]
        frequency.append(np.mean(own == where))
        staying.append(0.95 if own[-1] == where else 0.05)
    assert log_loss(np.array(told)) < 0.7 * log_loss(np.array(frequency))
    assert log_loss(np.array(told)) < 0.7 * log_loss(np.array(staying))


def test_a_newcomer_gets_the_fleets_habits():
    user, when, place = commuters()
    (answer,) = fit_locations(user, when, place, until=UNTIL).predict(["new"], [at(0, 10)])
    assert sum(answer.values()) == pytest.approx(1.0)
    assert answer["office"] > 0.5


def test_a_person_with_one_place_is_expected_there():
    user, when, place = commuters()
    alone = user == 7
    place = np.where(alone, "home", place)
    (answer,) = fit_locations(user, when, place, until=UNTIL).predict([7], [at(2, 10)])
    assert set(answer) == {"home", "elsewhere"}
    assert answer["home"] > 0.85


def test_somebody_who_moved_for_good_is_expected_at_the_new_place():
    user, when, place = commuters()
    moved = (user == 5) & (when > (UNTIL - timedelta(weeks=3)).timestamp())
    place = np.where(moved, "lyon", place)
    (answer,) = fit_locations(user, when, place, until=UNTIL).predict([5], [at(1, 10)])
    # Nobody else ever stayed longer than three days, yet this looks like a move.
    assert max(answer, key=answer.get) == "lyon"


def test_a_gap_of_weeks_is_no_reason_to_forget_a_habit():
    user, when, place = commuters()
    gap = (user == 5) & (when > (UNTIL - timedelta(weeks=3)).timestamp())
    model = fit_locations(user[~gap], when[~gap], place[~gap], until=UNTIL)
    (answer,) = model.predict([5], [at(1, 10)])
    assert answer["office"] > 0.5


def test_nobody_and_nothing_seen_is_answered_too():
    model = fit_locations([], [], [], until=UNTIL)
    assert model.predict(["anybody"], [at(0, 1)]) == [{"elsewhere": 1.0}]
    places, maps = model.maps(["anybody"], UNTIL, hours=3)
    assert places == ("elsewhere",)
    np.testing.assert_array_equal(maps, np.ones((1, 3, 1)))
    assert model.sample_paths(["anybody"], [at(0, 1)], n=2, seed=0).tolist() == [
        [["elsewhere"], ["elsewhere"]]
    ]


def test_one_observation_is_enough_for_an_answer():
    model = fit_locations(["a"], [at(-3, 9)], ["x"], until=UNTIL)
    (answer,) = model.predict(["a"], [at(0, 9)])
    assert set(answer) == {"x", "elsewhere"}
    assert answer["x"] > answer["elsewhere"]


def test_maps_are_the_predictions_of_every_hour():
    user, when, place = commuters(12)
    model = fit_locations(user, when, place, until=UNTIL)
    people = [*range(12), "new"]
    places, maps = model.maps(people, UNTIL, hours=100)
    assert places == ("lyon", "office", "plant", "elsewhere")
    np.testing.assert_allclose(maps.sum(axis=2), 1.0)
    for row, person in ((4, 4), (12, "new")):
        (answer,) = model.predict([person], [at(2, 10)])
        for k, label in enumerate(places):
            assert maps[row, 58, k] == pytest.approx(answer.get(label, 0.0))


def test_of_people_with_many_places_fewer_are_mixed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user, when, place = commuters(12)
    busy = user == 3
    place[busy] = [f"p{n % 50}" for n in range(busy.sum())]
    model = fit_locations(user, when, place, until=UNTIL)
    people, hours = [*range(12), "new"], [at(0, hour) for hour in range(24)]
    who, when_asked = np.repeat(np.array(people, dtype=object), 24), np.tile(hours, 13)
    whole = model.maps(people, UNTIL, hours=24)[1], model.predict(who, when_asked)
    drawn = model.sample_paths(people, hours, n=3, seed=1)

    most, rows = 50 * 24, []
    guesses = Knowledge.guesses

    def noted(
        self: Knowledge, user: object, at_s: object, case: object, pair: np.ndarray
    ) -> object:
        rows.append(len(pair))
        return guesses(self, user, at_s, case, pair)

    monkeypatch.setattr(location, "ROWS_AT_ONCE", most)
    monkeypatch.setattr(Knowledge, "guesses", noted)
    np.testing.assert_allclose(model.maps(people, UNTIL, hours=24)[1], whole[0])
    assert model.predict(who, when_asked) == whole[1]
    assert (model.sample_paths(people, hours, n=3, seed=1) == drawn).all()
    assert len(rows) > 3 and max(rows) <= 2 * most


def test_paths_are_distributed_as_predicted_at_every_hour():
    user, when, place = commuters()
    model = fit_locations(user, when, place, until=UNTIL)
    times = [UNTIL + timedelta(hours=h) for h in range(0, 120, 3)]
    people = np.array([0, 3, 5])
    paths = model.sample_paths(people, times, n=4000, seed=1)
    assert paths.shape == (3, 4000, 40)
    for i, person in enumerate(people):
        answers = model.predict([person] * len(times), times)
        for hour, answer in enumerate(answers):
            for label, chance in answer.items():
                assert np.mean(paths[i, :, hour] == label) == pytest.approx(chance, abs=0.035)


def test_paths_stay_about_as_long_as_people_do():
    """People who switch between two places every four days on average, without any habit."""
    random = np.random.default_rng(4)
    n_people, n_hours = 60, 24 * 7 * WEEKS
    switches = np.cumsum(random.random((n_people, n_hours)) < 1 / 96, axis=1)
    place = np.where((switches + np.arange(n_people)[:, None]) % 2 == 0, "a", "b")
    user = np.repeat(np.arange(n_people), n_hours)
    model = fit_locations(user, np.tile(HOURS[:n_hours], n_people), place.ravel(), until=UNTIL)
    times = [UNTIL + timedelta(hours=h) for h in range(168)]
    paths = model.sample_paths(np.arange(n_people), times, n=50, seed=2)
    rate = np.mean(paths[:, :, 1:] != paths[:, :, :-1])
    assert 0.5 / 96 < rate < 2.0 / 96


def test_the_same_seed_gives_the_same_paths():
    user, when, place = commuters(5)
    model = fit_locations(user, when, place, until=UNTIL)
    ask = {"user": [1, 2], "at": [at(0, 9), at(0, 10)], "n": 20}
    np.testing.assert_array_equal(
        model.sample_paths(**ask, seed=3), model.sample_paths(**ask, seed=3)
    )
    assert (model.sample_paths(**ask, seed=3) != model.sample_paths(**ask, seed=4)).any()


def test_times_may_be_datetimes_datetime64_or_seconds():
    user, when, place = commuters(5)
    as_datetime64 = (when * 1e6).astype("int64").astype("datetime64[us]")
    by_seconds = fit_locations(user, when, place, until=UNTIL)
    by_datetime64 = fit_locations(
        user, as_datetime64, place, until=np.datetime64(UNTIL.replace(tzinfo=None))
    )
    moment = UNTIL + timedelta(hours=10)
    assert by_seconds.predict([1], [moment]) == by_datetime64.predict(
        [1], np.array([moment.replace(tzinfo=None)], dtype="datetime64[us]")
    )


def test_bad_arguments_are_named():
    with pytest.raises(InvalidHistory, match="differ in shape"):
        fit_locations([1, 2], [0.0], ["a", "b"], until=1.0)
    with pytest.raises(InvalidHistory, match="observation 1 has no time"):
        fit_locations([1, 2], [0.0, np.nan], ["a", "b"], until=1.0)
    with pytest.raises(InvalidHistory, match="no time zone"):
        fit_locations([1], [0.0], ["a"], until=datetime(2024, 1, 1))
