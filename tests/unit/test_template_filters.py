from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from desktops.core.money import amount
from desktops.templatetags import foredesk as filters

AT = datetime(2026, 3, 2, 8, 5, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (1_234_567, "1.23 USD"),
        (1_234_567_890, "1,234.57 USD"),
        (0, "0.00 USD"),
        (3_200, "0.0032 USD"),
        (-1_500_000, "\N{MINUS SIGN}1.50 USD"),
        (None, "—"),
    ],
)
def test_money_has_its_currency(micros: int | None, text: str) -> None:
    assert filters.money(micros, "USD") == text


def test_micro_units_become_decimals_exactly() -> None:
    assert amount(9_007_199_254_740_993) == Decimal("9007199254.740993")


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(0.83, "83 %"), (1, "100 %"), (0.998, "> 99 %"), (0, "0 %"), (0.001, "< 1 %"), (None, "—")],
)
def test_certainty_is_not_claimed_by_rounding(ratio: float | None, text: str) -> None:
    assert filters.percent(ratio) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1_500_000, "1.5 MB"), (40 * 10**9, "40 GB"), (3e15, "3,000 TB")],
)
def test_sizes_have_decimal_units(size: float, text: str) -> None:
    assert filters.bytes_size(size) == text


def test_memory_has_binary_units() -> None:
    assert filters.memory_size(16 * 2**30) == "16 GiB"
    assert filters.memory_size(3200 * 2**30) == "3.12 TiB"


def test_a_row_in_quarantine_has_units() -> None:
    row = {"at": 0, "desktop": "d", "cpu_cores": -4.0, "memory_bytes": 3e9, "active_ratio": "inf"}
    assert filters.measures(row) == [("Active", "inf"), ("CPU", "-4 cores"), ("Memory", "3 GB")]


@pytest.mark.parametrize("row", [{}, {"at": "noon"}, {"at": 10**30}, []])
def test_a_row_without_a_time_has_none(row: object) -> None:
    assert filters.observed_at(row) is None


@pytest.mark.parametrize(
    ("took", "text"),
    [
        (timedelta(0), "0 ms"),
        (timedelta(milliseconds=340), "340 ms"),
        (timedelta(seconds=2, milliseconds=240), "2.2 s"),
        (timedelta(seconds=59.98), "60.0 s"),
        (timedelta(minutes=2, seconds=5), "2 min 5 s"),
        (timedelta(minutes=5), "5 min"),
        (timedelta(days=1, hours=4, minutes=9), "1 d 4 h"),
        (timedelta(days=3, minutes=9), "3 d"),
    ],
)
def test_a_duration_is_said_in_its_two_largest_units(took: timedelta, text: str) -> None:
    assert filters.duration(took) == text


def test_times_say_their_zone() -> None:
    assert "Mon 2 Mar 2026 08:05 UTC" in filters.utc(AT)
    assert 'datetime="2026-03-02T08:05:09+00:00"' in filters.utc(AT)
    assert "08:05:09 UTC" in filters.utc_seconds(AT)
    assert filters.in_zone(AT, "Europe/Paris") == "Mon 09:05 Europe/Paris"
    assert filters.in_zone(AT, "Mars/Olympus") == ""
    assert filters.wall_clock(AT, "Europe/Paris") == "Mon 2 Mar 09:05"
    assert filters.weekday(AT, "Europe/Paris") == "Mon 09:05"
    assert filters.wall_clock(None, "UTC") == filters.weekday(None, "UTC") == "—"
    assert filters.utc(None) == "—"


def test_keys_become_words() -> None:
    assert filters.words("awaiting_approval") == "Awaiting approval"
    assert filters.command("create_dest") == "Create destination"
    assert filters.command("unfence_dest") == "Unfence destination"
