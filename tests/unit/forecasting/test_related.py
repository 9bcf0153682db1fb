"""What ran yesterday helps a forecast where it tells of today, and harms none where it does not."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from forecasting.core.fleet import forecast_fleet
from forecasting.core.profiles import LEVELS, RESOURCES, build_profiles
from forecasting.core.related import Related
from forecasting.core.scores import pinball_loss
from forecasting.errors import InvalidHistory

START = datetime(2026, 1, 5, tzinfo=ZoneInfo("Europe/Paris"))  # a Monday
N_PEOPLE, N_DAYS = 40, 35
HOURS = 24 * N_DAYS


def fleet(*, tells: bool) -> tuple[np.ndarray, np.ndarray]:
    """Demand of (people, hours) with a day to come, and use of two applications so far.

    Everybody works every day; on some days, at random, demand is four times as high. If it
    `tells`, a tool that takes nothing ran for three hours on the days before; else at random.
    """
    rng = np.random.default_rng(7)
    is_heavy = rng.random((N_PEOPLE, N_DAYS + 1)) < 0.35
    ran = is_heavy[:, 1:] if tells else rng.random((N_PEOPLE, N_DAYS)) < 0.35
    hour = np.arange(HOURS + 24)
    at_work = np.isin(hour % 24, np.arange(8, 18))
    level = rng.uniform(0.5, 4.0, (N_PEOPLE, 1))
    noise = rng.lognormal(0, 0.2, (N_PEOPLE, HOURS + 24))
    demand = level * noise * np.where(is_heavy[:, hour // 24], 4.0, 1.0)
    demand[:, ~at_work] = np.nan
    past = hour[:HOURS]
    tool = ran[:, past // 24] & np.isin(past % 24, (14, 15, 16))
    every_day = np.broadcast_to(at_work[:HOURS], tool.shape) * rng.lognormal(0, 0.2, tool.shape)
    return demand, np.stack([30.0 * tool, every_day], axis=-1).astype(np.float32)


def forecast(demand: np.ndarray, related: Related | None) -> np.ndarray:
    return forecast_fleet(
        demand[:, :HOURS],
        start=START,
        step=timedelta(hours=1),
        horizon=24,
        levels=LEVELS,
        related=related,
    )


def loss(demand: np.ndarray, said: np.ndarray) -> float:
    return float(np.nanmean(pinball_loss(demand[:, HOURS:], said, levels=LEVELS)))


@pytest.fixture(scope="module")
def said() -> np.ndarray:
    """What is said where use tells of the next day."""
    demand, use = fleet(tells=True)
    return forecast(demand, Related(use, np.arange(N_PEOPLE)))


def test_use_that_tells_of_the_next_day_makes_the_forecast_better(said: np.ndarray) -> None:
    demand, _ = fleet(tells=True)
    assert loss(demand, said) < 0.8 * loss(demand, forecast(demand, None))


def test_use_that_tells_nothing_does_no_harm() -> None:
    demand, use = fleet(tells=False)
    known = loss(demand, forecast(demand, Related(use, np.arange(N_PEOPLE))))
    assert known < 1.02 * loss(demand, forecast(demand, None))


def test_nobody_observed_is_as_nothing_said() -> None:
    demand, use = fleet(tells=True)
    nobody = Related(use, np.full(N_PEOPLE, -1))
    unseen = Related(np.full_like(use, np.nan), np.arange(N_PEOPLE))
    np.testing.assert_array_equal(forecast(demand, nobody), forecast(demand, unseen))


def test_the_unit_of_a_kind_does_not_matter(said: np.ndarray) -> None:
    demand, use = fleet(tells=True)
    in_other_units = use * np.array([1024.0, 0.25], dtype=np.float32)
    again = forecast(demand, Related(in_other_units, np.arange(N_PEOPLE)))
    np.testing.assert_allclose(again, said, rtol=1e-9)


def test_profiles_heed_what_is_related_and_who_is_on_leave() -> None:
    demand, use = fleet(tells=True)
    past = demand[:, :HOURS]
    active = np.where(np.isfinite(past), 1.0, 0.0)
    absent = np.zeros((N_PEOPLE, HOURS + 24), dtype=np.bool_)
    absent[0, HOURS:] = True
    ran = np.nan_to_num(use[:, -24:, 0]).any(axis=1)
    ran[0] = False
    profiles = build_profiles(
        dict.fromkeys(RESOURCES, past),
        active_ratio=active,
        start=START,
        pool=["a"] * N_PEOPLE,
        people=list(range(N_PEOPLE)),
        related=use,
        absent=absent,
        horizon=24,
    )
    noon = 12
    chance = np.array([each.p_active[noon] for each in profiles])
    assert chance[0] < 0.15 < 0.8 < chance[1:].min()
    median = np.array([each.cpu_cores[noon, LEVELS.index(0.5)] for each in profiles])
    size = np.nanmedian(past, axis=1)
    assert np.median((median / size)[ran]) > 2 * np.median((median / size)[~ran])


@pytest.mark.parametrize(
    ("values", "subject", "told"),
    [
        (np.zeros((2, 48)), [0, 1], r"expected \(n_subjects, n_slots, n_kinds\)"),
        (np.zeros((2, 48, 1)), [0, 2], "run from 0 to 2, there are 2"),
        (np.zeros((2, 48, 1)), [-2, 0], "run from -2 to 0, there are 2"),
    ],
)
def test_related_observations_that_make_no_sense_are_refused(
    values: np.ndarray, subject: list[int], told: str
) -> None:
    with pytest.raises(InvalidHistory, match=told):
        Related(values, np.array(subject))


@pytest.mark.parametrize(
    ("related", "told"),
    [
        (Related(np.zeros((2, 47, 1)), np.arange(2)), "cover 47 slots, the history has 48"),
        (Related(np.zeros((2, 48, 1)), np.arange(1)), "are of 1 series, there are 2"),
    ],
)
def test_related_observations_of_something_else_are_refused(related: Related, told: str) -> None:
    with pytest.raises(InvalidHistory, match=told):
        forecast_fleet(
            np.ones((2, 48)),
            start=START,
            step=timedelta(hours=1),
            horizon=1,
            levels=LEVELS,
            related=related,
        )
