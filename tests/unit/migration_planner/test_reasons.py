"""The words around the numbers."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from migration.core import reasons
from migration.core.advice import ItemName, StayReason


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (14_200_000, "14.20 EUR"),
        (5_000, "0.00 EUR"),
        (15_000, "0.02 EUR"),
        (-4_000, "0.00 EUR"),
        (-1_230_000, "-1.23 EUR"),
        (9_007_199_254_740_993_000_000, "9007199254740993.00 EUR"),
    ],
)
def test_money_is_rounded_half_to_even_and_exact_at_any_size(micros, text):
    assert reasons.money(micros, "EUR") == text


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0.0, "0 %"), (0.004, "<1 %"), (0.83, "83 %"), (0.996, ">99 %"), (1.0, "100 %")],
)
def test_only_certainty_is_called_certain(probability, text):
    assert reasons.percent(probability) == text


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (0.25, "about 15 minutes"),
        (1, "about an hour"),
        (9, "about 9 hours"),
        (35, "about 35 hours"),
        (72, "about 3 days"),
    ],
)
def test_durations_are_told_as_people_would(hours, text):
    assert reasons.duration(hours) == text


def test_clocks_are_those_of_the_place():
    at = datetime(2026, 3, 2, 22, 0, tzinfo=UTC)
    assert reasons.clock(at, ZoneInfo("Asia/Singapore")) == "Tue 06:00"


@pytest.mark.parametrize(("stall", "text"), [(0.35, "350 ms"), (95.4, "95 s"), (600, "10 min")])
def test_stalls_come_in_the_unit_that_fits(stall, text):
    assert reasons.seconds(stall) == text


def test_every_item_has_its_note():
    assert set(reasons.NOTES) == set(ItemName)


@pytest.mark.parametrize("why", StayReason)
def test_every_reason_to_stay_has_its_sentence(why):
    sentence = reasons.stay_sentence(
        why,
        region="Frankfurt",
        degradation=1_000_000,
        currency="EUR",
        best_gain=300_000,
        best_region="Singapore",
        min_gain=500_000,
        short="the quota of servers in Singapore",
    )
    assert "EUR" in sentence
    assert sentence.endswith(".")
