from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from forecasting.core.schedule import Due, Made, due

HOUR = timedelta(hours=1)
NIGHT = datetime(2026, 3, 3, 2, tzinfo=UTC)


def what(
    now: datetime,
    *,
    full: datetime | None = NIGHT,
    newest: datetime | None = NIGHT,
    full_failed: datetime | None = None,
    refresh_failed: datetime | None = None,
    is_running: bool = False,
) -> Due:
    return due(Made(full, newest, full_failed, refresh_failed, is_running), now=now, nightly_hour=2)


def test_a_new_data_set_is_forecast_at_once() -> None:
    assert what(NIGHT + 9 * HOUR, full=None, newest=None) is Due.FULL


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(0, Due.NOTHING), (4, Due.NOTHING), (5, Due.FULL), (59, Due.FULL), (600, Due.FULL)],
)
def test_every_night_from_the_hour_on_and_late_rather_than_never(
    minutes: int, expected: Due
) -> None:
    yesterday = NIGHT - 24 * HOUR
    now = NIGHT + timedelta(minutes=minutes)
    assert what(now, full=yesterday, newest=NIGHT - HOUR) is expected


@pytest.mark.parametrize(
    ("minutes", "expected"), [(30, Due.NOTHING), (64, Due.NOTHING), (65, Due.REFRESH)]
)
def test_every_other_hour_a_refresh_once_the_hour_has_settled(minutes: int, expected: Due) -> None:
    assert what(NIGHT + timedelta(minutes=minutes)) is expected


def test_not_while_one_is_made_nor_right_after_one_failed() -> None:
    now = NIGHT + 5 * HOUR
    assert what(now, is_running=True) is Due.NOTHING
    assert what(now, refresh_failed=now - HOUR / 2) is Due.NOTHING
    assert what(now, refresh_failed=now - HOUR) is Due.REFRESH


def test_a_failing_night_does_not_stop_the_refreshes() -> None:
    yesterday, now = NIGHT - 24 * HOUR, NIGHT + 5.5 * HOUR
    assert what(now, full=yesterday, newest=now - 1.5 * HOUR, full_failed=now - HOUR) is Due.REFRESH
    assert what(now, full=yesterday, newest=now, full_failed=now - HOUR) is Due.NOTHING
    assert what(now, full=yesterday, newest=now, full_failed=now - 3 * HOUR) is Due.FULL


def test_without_any_forecast_there_is_no_waiting_for_refreshes() -> None:
    now = NIGHT + 5 * HOUR
    assert what(now, full=None, newest=None, full_failed=now - HOUR / 2) is Due.NOTHING
    assert what(now, full=None, newest=None, full_failed=now - HOUR) is Due.FULL
