"""Parts of a fit, told so that they can be read."""

from __future__ import annotations

import numpy as np

from forecasting.core.components import readable

HOURS = np.arange(28 * 24)
OBSERVED = (HOURS % 24 >= 8) & (HOURS % 24 < 17) & (HOURS // 24 % 7 < 5)
# The day lies ten above the trend whenever anybody looks, and far below it when nobody does.
PARTS = {
    "trend": np.full(HOURS.size, -7.0),
    "weekly": np.where(HOURS // 24 % 7 < 5, 0.0, 50.0),
    "daily": np.where(HOURS % 24 < 8, -90.0, 10.0 + (HOURS % 24 == 9)),
    "holidays": np.zeros(HOURS.size),
}


def told(**changes):
    return readable(PARTS | changes, wall_hour=HOURS, observed=OBSERVED)


def test_the_trend_lies_where_the_observed_hours_lie():
    parts = told()
    assert np.allclose(parts["trend"], -7.0 + 10.0 + 1 / 9)
    assert np.isclose(parts["daily"][OBSERVED].mean(), 0, atol=1e-12)


def test_parts_of_observed_hours_still_add_up_to_the_fit():
    before = sum(PARTS.values())
    after = sum(told().values())
    assert np.allclose(after[OBSERVED], before[OBSERVED])


def test_hours_of_the_day_and_days_of_the_week_that_were_never_observed_are_left_out():
    parts = told()
    assert np.array_equal(np.isfinite(parts["daily"]), (HOURS % 24 >= 8) & (HOURS % 24 < 17))
    assert np.array_equal(np.isfinite(parts["weekly"]), OBSERVED)


def test_events_are_told_only_where_they_have_an_effect():
    assert "holidays" not in told()
    assert "holidays" in told(holidays=np.where(HOURS < 24, 1.0, 0.0))
