"""The sequence engine of whereabouts. It needs PyTorch, an extra, and seconds to train."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import call_command

from forecasting.core.location_evaluation import PRODUCT, Product, evaluate, score, sightings_of
from forecasting.core.whereabouts import Sightings
from forecasting.engines import registry

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed: make neural"),
]

REPOSITORY = Path(__file__).resolve().parents[3]
DATASETS = Path(os.environ.get("FOREDESK_DATASETS", REPOSITORY.parent / "shared" / "datasets"))
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
START_S = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
DAYS = 84
UNTIL_S = START_S + 70 * DAY_S
HOME, OFFICE, TRIP = 0, 1, 2


def rotating(n_people: int = 30, *, days: int = DAYS, seed: int = 0) -> Sightings:
    """Office by day and home at night; whoever was two days on a trip is three at home.

    A habit by the hour of the week knows nothing of that, the order of stays does.
    """
    chance = np.random.default_rng(seed)
    user, at_s, place = [], [], []
    for person in range(n_people):
        day = int(chance.integers(7))
        plan = np.full(days, OFFICE)
        while day < days:
            plan[day : day + 2], plan[day + 2 : day + 5] = TRIP, HOME
            day += 5 + int(chance.integers(2, 12))
        for hour in (10, 15):
            user.append(np.full(days, person))
            at_s.append(START_S + DAY_S * np.arange(days) + HOUR_S * (hour + chance.random(days)))
            place.append(plan)
    return sightings_of(*(np.concatenate(each) for each in (user, at_s, place)))


def learn(seen: Sightings, until_s: float = UNTIL_S, **changes: Any) -> Any:
    from forecasting.engines.sequence import Sequence  # PyTorch takes seconds to import
    from forecasting.engines.sequence_training import Settings

    settings = replace(Settings(members=2, steps=60, check_every=20), **changes)
    return Sequence.learn(seen, until_s, settings=settings)


def asked(n_people: int) -> tuple[np.ndarray, np.ndarray]:
    """Each person an hour, a day and six days on."""
    lead_s = HOUR_S * np.array([1.0, 24.0, 144.0])
    return np.repeat(np.arange(n_people), 3), np.tile(UNTIL_S + lead_s, n_people)


@pytest.fixture(scope="module")
def learned() -> Any:
    return learn(rotating())


def test_the_same_past_gives_the_same_answer_and_leaves_no_trace(learned):
    import torch

    state = torch.random.get_rng_state()
    said = learned.about(rotating(), UNTIL_S).predict(*asked(30))
    torch.rand(3), np.random.rand(3), random.random()
    torch.random.set_rng_state(state)
    assert learn(rotating()).about(rotating(), UNTIL_S).predict(*asked(30)) == said
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    assert learn(rotating(), seed=1).about(rotating(), UNTIL_S).predict(*asked(30)) != said


def test_nothing_after_the_moment_is_used(learned):
    seen = rotating()
    later = seen.at_s > UNTIL_S
    assert 0 < later.sum() < len(later)
    poisoned = replace(seen, place=np.where(later, (seen.place + 1) % 3, seen.place))
    poisoned = replace(poisoned, at_s=np.where(later, seen.at_s + 5 * HOUR_S, seen.at_s))
    said = learned.about(seen, UNTIL_S).predict(*asked(30))
    assert learn(poisoned).about(poisoned, UNTIL_S).predict(*asked(30)) == said


def test_what_it_says_of_strangers_sums_to_one(learned):
    strangers = rotating(50, seed=7)
    said = learned.about(strangers, UNTIL_S).predict(*asked(50))
    assert len(said) == 150
    for answer in said:
        assert set(answer) <= {HOME, OFFICE, TRIP, "elsewhere"}
        assert sum(answer.values()) == pytest.approx(1.0, abs=1e-9)
        assert min(answer.values()) > 0


def test_a_person_with_one_place_is_expected_there_and_nobody_known_elsewhere(learned):
    at_s = START_S + DAY_S * np.arange(60) + 9 * HOUR_S
    user, place = np.full(60, 4), np.full(60, 11)
    settled = Sightings.of(user, place, at_s, n_users=6, n_places=12)
    model = learned.about(settled, UNTIL_S)
    here, stranger = model.predict([4, 5], UNTIL_S + 9 * HOUR_S)
    assert set(here) == {11, "elsewhere"}
    assert here[11] > 0.8
    assert stranger == {"elsewhere": 1.0}
    nobody = learned.about(settled.until(0.0), UNTIL_S)
    assert nobody.predict(4, UNTIL_S) == [{"elsewhere": 1.0}]


def test_of_a_fleet_too_young_to_learn_from_it_says_about_what_the_product_says():
    seen = rotating(3, days=80).until(START_S + DAY_S)
    for until_s in (START_S - DAY_S, START_S + 0.5 * DAY_S):
        product = Product.learn(seen.until(until_s), until_s)
        ours, theirs = (
            each.about(rotating(3), UNTIL_S).predict(*asked(3))
            for each in (learn(seen, until_s), product)
        )
        for answer, other in zip(ours, theirs, strict=True):
            assert answer == pytest.approx(other, abs=0.06)


def test_the_order_of_stays_tells_what_habits_cannot():
    def fit(seen: Sightings, moment_s: float) -> Any:
        return learn(seen, moment_s, steps=400, check_every=50)

    result = evaluate(rotating(60), per_person=6, fits=1, beside={"sequence": fit})
    scores = score(result)
    assert scores["sequence"].log_loss < 0.9 * scores[PRODUCT].log_loss


def test_the_command_scores_it_beside_the_product(tmp_path, capsys, monkeypatch):
    from forecasting.engines import sequence

    quick = sequence.Settings(members=1, steps=10)
    monkeypatch.setattr(sequence, "Settings", lambda: quick)
    seen = rotating(6)
    file = tmp_path / "seen.csv"
    rows = zip(seen.user, seen.at_s, seen.place, strict=True)
    lines = [f"{user},{at_s},{place}" for user, at_s, place in rows]
    file.write_text("\n".join(["user,at,place", *lines]) + "\n")
    call_command(
        "evaluate_locations",
        *(f"--data={file}", "--format=csv", "--origins=3", "--fits=1", "--engine=sequence"),
        "--json",
    )
    *lines, last = capsys.readouterr().out.splitlines()
    detail = json.loads(last)["detail"]
    assert {"product", "sequence", "product + sequence"} < set(detail)
    assert "The product's log loss less that of sequence:" in lines


@pytest.mark.timeout(1200)
def test_on_recorded_people_it_is_no_worse_than_the_product(capsys):
    folder = DATASETS / "git_roaming_dev"
    if not folder.is_dir():
        pytest.skip(f"no data set {folder}")
    call_command(
        "evaluate_locations",
        *(f"--data={folder}", "--format=git_roaming", "--fits=4", "--engine=sequence", "--json"),
    )
    detail = json.loads(capsys.readouterr().out.splitlines()[-1])["detail"]
    assert detail["sequence"]["log_loss"] < 1.03 * detail["product"]["log_loss"]
    assert detail["product + sequence"]["log_loss"] < detail["product"]["log_loss"]


def test_it_is_loaded_by_name():
    from forecasting.engines.sequence import Sequence

    assert registry.load_location("sequence") == Sequence.learn
