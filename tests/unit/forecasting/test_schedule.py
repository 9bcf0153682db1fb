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
    failed: datetime | None = None,
    is_running: bool = False,
) -> Due:
    return due(Made(full, newest, failed, is_running), now=now, nightly_hour=2)


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
    assert what(now, failed=now - HOUR / 2) is Due.NOTHING
    assert what(now, failed=now - HOUR) is Due.REFRESH
