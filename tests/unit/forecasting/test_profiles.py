"""From arrays to one profile per subject."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from forecasting.core.location import fit_locations
from forecasting.core.profiles import LEVELS, RESOURCES, build_profiles
from forecasting.errors import InvalidHistory

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 28
END = START + timedelta(days=DAYS)
HOUR = np.arange(24 * DAYS)
OFFICE = (HOUR // 24 % 7 < 5) & (HOUR % 24 >= 8) & (HOUR % 24 < 18)


def fleet(n: int, *, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Demand of 2 during sessions and 0.1 else, times a size by resource; sessions in the week."""
    random = np.random.default_rng(seed)
    active = np.where(OFFICE & (random.random((n, len(HOUR))) < 0.9), 0.8, 0.0)
    noise = random.gamma(16, 1 / 16, (n, len(HOUR)))
    demand = {
        name: np.where(active > 0, 2.0, 0.1) * noise * 10**i for i, name in enumerate(RESOURCES)
    }
    return demand, active


def test_demand_is_what_a_session_needs_not_the_average_hour():
    demand, active = fleet(6)
    profile = build_profiles(demand, active_ratio=active, start=START, pool=["a"] * 6)[0]
    assert profile.starts_at == END
    assert profile.cpu_cores.shape == (168, len(LEVELS))
    for median in (profile.cpu_cores[:, 3], profile.storage_bytes_per_s[:, 3] / 1000):
        assert np.abs(median - 2.0).mean() < 0.2
        assert np.abs(median - 2.0).max() < 0.8
    assert profile.enough_history and profile.engine == "combined"


def test_machines_without_sessions_are_forecast_every_hour():
    demand, active = fleet(4)
    profile = build_profiles(demand, active_ratio=None, start=START, pool=["a"] * 4)[0]
    assert profile.p_active is None
    assert dict(profile.location) == {}
    median = profile.cpu_cores[:, 3].reshape(7, 24)
    assert median[:5, 10:16].mean() > 1.5
    assert median[5:].max() < 0.5
    mixed = np.where(np.arange(4)[:, None] == 0, np.nan, active)
    machine, person, *_ = build_profiles(
        demand, active_ratio=mixed, start=START, pool=["a"] * 4, people=[None, "p", "q", "r"]
    )
    assert machine.p_active is None
    assert machine.cpu_cores[130, 3] < 0.5
    assert person.p_active[10] > 0.7


def test_a_newcomer_gets_the_spread_of_their_own_pool():
    demand, active = fleet(9)
    for name in RESOURCES:
        demand[name][4:8] *= 10
        demand[name][8] = np.nan
    active[8] = np.nan
    pools = ["small"] * 4 + ["large"] * 5
    profiles = build_profiles(
        demand, active_ratio=active, start=START, pool=pools, people=list("abcdefghi")
    )
    newcomer = profiles[8]
    assert not newcomer.enough_history
    assert newcomer.engine == "pool"
    assert newcomer.history_hours == 0
    assert newcomer.cpu_cores[10, 3] == pytest.approx(20, rel=0.3)
    assert (np.diff(newcomer.cpu_cores, axis=1) >= 0).all()
    assert newcomer.p_active[10] > 0.6


def test_three_days_are_not_a_habit():
    demand, active = fleet(5)
    short = np.arange(len(HOUR)) < 24 * (DAYS - 3)
    active[2, short] = np.nan
    profiles = build_profiles(demand, active_ratio=active, start=START, pool=["a"] * 5)
    assert [profile.enough_history for profile in profiles] == [True, True, False, True, True]


def test_a_pool_without_any_history_borrows_from_the_fleet_and_an_empty_fleet_says_nothing():
    demand, active = fleet(3)
    for name in RESOURCES:
        demand[name][0] = np.nan
    active[0] = np.nan
    lonely = build_profiles(
        demand, active_ratio=active, start=START, pool=["x", "a", "a"], people=[1, 2, 3]
    )[0]
    assert lonely.cpu_cores[10, 3] == pytest.approx(2, rel=0.3)
    nothing = {name: np.full((2, 48), np.nan) for name in RESOURCES}
    unknown = build_profiles(nothing, active_ratio=None, start=START, pool=["a", "a"])
    assert np.isnan(unknown[0].cpu_cores).all()
    assert not unknown[0].enough_history


def test_places_of_every_hour_sum_to_one():
    demand, active = fleet(4)
    person, hour = np.nonzero(active)
    place = np.where(HOUR[hour] // 24 % 7 == 4, "plant", "office")
    when = START.timestamp() + 3600.0 * HOUR[hour]
    locations = fit_locations(person, when, place, until=END)
    profiles = build_profiles(
        demand,
        active_ratio=active,
        start=START,
        pool=["a"] * 4,
        locations=locations,
        people=[0, 1, None, 99],
    )
    for i in (0, 1, 3):
        total = sum(profiles[i].location.values())
        np.testing.assert_allclose(total, np.ones(168))
    assert profiles[0].location["plant"][4 * 24 + 10] > 0.6
    assert dict(profiles[2].location) == {}
    assert profiles[3].location["office"][10] > 0.5


def test_a_profile_starts_where_the_history_ends_over_a_change_to_summer_time():
    nothing = {name: np.full((1, 24 * 60), np.nan) for name in RESOURCES}
    start = datetime(2024, 3, 1, tzinfo=ZoneInfo("Europe/Paris"))
    (profile,) = build_profiles(nothing, active_ratio=None, start=start, pool=["a"])
    assert profile.starts_at.timestamp() - start.timestamp() == 24 * 60 * 3600


def test_no_subjects_give_no_profiles():
    nothing = {name: np.empty((0, 48)) for name in RESOURCES}
    assert build_profiles(nothing, active_ratio=None, start=START, pool=[]) == []


def test_arrays_that_do_not_fit_are_named():
    demand, active = fleet(2)
    with pytest.raises(InvalidHistory, match="active_ratio has shape"):
        build_profiles(demand, active_ratio=active[:1], start=START, pool=["a", "a"])
    with pytest.raises(InvalidHistory, match="1 pools for 2 subjects"):
        build_profiles(demand, active_ratio=active, start=START, pool=["a"])
    del demand["memory_bytes"]
    with pytest.raises(InvalidHistory, match="lacks memory_bytes"):
        build_profiles(demand, active_ratio=active, start=START, pool=["a", "a"])


def test_a_newcomers_few_hours_say_how_large_they_are():
    demand, active = fleet(12)
    known = np.flatnonzero(active[0] > 0)[-12:]
    for name in RESOURCES:
        few = np.full(len(HOUR), np.nan)
        few[known] = demand[name][0, known] * 5.0
        demand[name] = np.vstack([demand[name], few, np.full(len(HOUR), np.nan)])
    active = np.vstack([active, np.where(np.isfinite(few), 0.8, 0.0), np.zeros(len(HOUR))])
    profiles = build_profiles(demand, active_ratio=active, start=START, pool=["a"] * 14)
    large, unknown = profiles[12], profiles[13]
    usual = profiles[0].cpu_cores[:, 3].mean()
    assert not large.enough_history and not unknown.enough_history
    assert large.engines == {} and set(profiles[0].engines) == set(RESOURCES)
    assert 2.0 * usual < large.cpu_cores[:, 3].mean() < 5.0 * usual
    assert unknown.cpu_cores[:, 3].mean() == pytest.approx(usual, rel=0.2)


def test_engines_share_what_they_say():
    demand, active = fleet(6)
    profile = build_profiles(demand, active_ratio=active, start=START, pool=["a"] * 6)[0]
    for name in RESOURCES:
        shares = profile.engines[name]
        assert sum(share.weight for share in shares.values()) == pytest.approx(1.0)
        assert all(share.loss > 0 for share in shares.values() if share.loss == share.loss)


def test_what_was_never_observed_of_an_established_person_is_lent_by_the_pool():
    demand, active = fleet(6)
    for name in RESOURCES[1:]:
        demand[name][1:3] *= 10
    demand["memory_bytes"][0] = np.nan
    demand["network_bytes_per_s"][:, : 24 * (DAYS - 3)] = np.nan
    pools = ["a", "b", "b", "a", "a", "a"]
    profile, *others = build_profiles(demand, active_ratio=active, start=START, pool=pools)
    assert profile.enough_history and profile.engine == "combined"
    assert set(profile.engines) == {"cpu_cores", "storage_bytes_per_s"}
    working = (np.arange(168) // 24 < 5) & (np.arange(168) % 24 == 10)
    np.testing.assert_allclose(profile.memory_bytes[working, 3], 20.0, rtol=0.3)
    # Nobody has enough of the network to lend, so what little there is stays everybody's own.
    median = profile.network_bytes_per_s[working, 3]
    assert (median > 50).all() and (median < 300).all()
    assert "memory_bytes" in others[0].engines
