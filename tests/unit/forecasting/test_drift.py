from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from forecasting.core.drift import LEAST_HOURS, DriftKind, Tally, drifts, tally
from forecasting.core.profiles import LEVELS

LEVEL = np.array(LEVELS)
NOTHING: frozenset[DriftKind] = frozenset()
WRONG = frozenset(DriftKind)


def week(*, inside_80: float = 0.8, loss_ratio: float = 0.7, hours: int = 1000) -> Tally:
    return Tally(hours, loss_ratio, 1.0, (0.5 * hours, inside_80 * hours, 0.9 * hours))


def test_a_true_forecast_holds_what_it_promises() -> None:
    rng = np.random.default_rng(2)
    actual = rng.normal(size=(50, 48))
    actual[::7, ::3] = np.nan
    quantiles = np.broadcast_to(ndtri(LEVEL), (*actual.shape, len(LEVEL)))
    scored = tally(actual, quantiles, 2 * quantiles, levels=LEVEL)
    assert scored.hours == np.isfinite(actual).sum()
    for interval, share in scored.coverage.items():
        assert share == pytest.approx(interval, abs=0.03)
    assert scored.loss_ratio is not None and scored.loss_ratio < 1
    assert not drifts(scored, standing=NOTHING)
    narrow = tally(actual, quantiles / 3, quantiles, levels=LEVEL)
    assert set(drifts(narrow, standing=NOTHING)) == {DriftKind.COVERAGE, DriftKind.LOSS}


def test_hours_of_which_a_forecast_knew_nothing_do_not_count() -> None:
    actual = np.ones((2, 3))
    quantiles = np.ones((2, 3, len(LEVEL)))
    quantiles[0] = np.nan
    assert tally(actual, quantiles, quantiles, levels=LEVEL).hours == 3


def test_days_add_up() -> None:
    both = week(inside_80=0.6, hours=1000) + week(inside_80=0.9, hours=3000)
    assert both.hours == 4000 and both.coverage[0.8] == pytest.approx(0.825)


@pytest.mark.parametrize(
    ("inside_80", "standing", "expected"),
    [
        (0.72, NOTHING, False),
        (0.69, NOTHING, True),
        (0.91, NOTHING, True),
        (0.72, WRONG, True),
        (0.74, WRONG, False),
    ],
)
def test_an_alert_stands_until_coverage_has_clearly_recovered(
    inside_80: float, standing: frozenset[DriftKind], expected: bool
) -> None:
    told = drifts(week(inside_80=inside_80), standing=standing)
    assert (DriftKind.COVERAGE in told) is expected


@pytest.mark.parametrize(
    ("ratio", "standing", "expected"),
    [(0.99, NOTHING, False), (1.01, NOTHING, True), (0.99, WRONG, True), (0.9, WRONG, False)],
)
def test_a_loss_above_the_naive_ones_is_told(
    ratio: float, standing: frozenset[DriftKind], expected: bool
) -> None:
    assert (DriftKind.LOSS in drifts(week(loss_ratio=ratio), standing=standing)) is expected


def test_a_few_hours_raise_nothing_and_clear_nothing() -> None:
    few = week(inside_80=0.1, hours=LEAST_HOURS - 1)
    assert not drifts(few, standing=NOTHING)
    assert set(drifts(few, standing=WRONG)) == WRONG
    assert Tally().loss_ratio is None and Tally().coverage == {}
