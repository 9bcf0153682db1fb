"""The invented people of the demo live as people do."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime

import numpy as np
import pytest

from desktops.core.demo.calendar import DAY_MARGIN
from desktops.core.demo.demand import APPS
from desktops.core.demo.facts import world_facts
from desktops.core.demo.fleet import HISTORY_DAYS, Fleet, make_fleet
from desktops.core.demo.people import STARTER_HISTORY_DAYS, Rhythm, Travel

# A Wednesday; the weeks before it hold public holidays of every kind.
END = datetime(2026, 1, 14, 9, tzinfo=UTC)
TODAY = HISTORY_DAYS + DAY_MARGIN


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return make_fleet(sites=world_facts().calendar_sites, end=END, seed=1)


def rows(fleet: Fleet, **traits: object) -> np.ndarray:
    """People with all of these traits."""
    return np.array(
        [
            row
            for row, person in enumerate(fleet.people)
            if all(getattr(person, name) == value for name, value in traits.items())
        ]
    )


def at_home(fleet: Fleet) -> np.ndarray:
    home = np.array([[person.site] for person in fleet.people])
    return fleet.place == home


def local(fleet: Fleet, values: np.ndarray) -> np.ndarray:
    """A (sites, hours) table, read for each person where they are."""
    return values[fleet.place, np.arange(fleet.calendar.hours)]


def test_the_same_seed_makes_the_same_fleet_and_another_another(fleet: Fleet) -> None:
    sites = world_facts().calendar_sites
    again = make_fleet(sites=sites, end=END, seed=1)
    other = make_fleet(sites=sites, end=END, seed=2)
    assert again.people == fleet.people
    assert again.trips == fleet.trips
    np.testing.assert_array_equal(again.active_ratio, fleet.active_ratio)
    np.testing.assert_array_equal(again.demand.cpu_cores, fleet.demand.cpu_cores)
    np.testing.assert_array_equal(again.demand.app_cpu_core_s, fleet.demand.app_cpu_core_s)
    assert other.trips != fleet.trips


def test_200_people_with_names_of_their_own_work_at_12_sites(fleet: Fleet) -> None:
    assert len(fleet.people) == 200
    assert len({person.name for person in fleet.people}) == 200
    assert {person.site for person in fleet.people} == set(range(12))


def test_weekends_are_quiet_for_all_but_shift_workers(fleet: Fleet) -> None:
    weekend = fleet.calendar.weekday[local(fleet, fleet.calendar.day)] >= 5
    works = fleet.active_ratio > 0
    office = rows(fleet, rhythm=Rhythm.OFFICE)
    shift = rows(fleet, rhythm=Rhythm.SHIFT)
    assert works[office][weekend[office]].mean() < 0.02
    assert works[office][~weekend[office]].mean() > 0.25
    assert works[shift][weekend[shift]].mean() > 0.8 * works[shift][~weekend[shift]].mean()


@pytest.mark.parametrize(
    ("country", "day"),
    [
        ("US", date(2025, 11, 27)),
        ("DE", date(2025, 12, 26)),
        ("JP", date(2026, 1, 12)),
        ("IN", date(2025, 12, 25)),
    ],
)
def test_public_holidays_of_the_country_are_quiet(fleet: Fleet, country: str, day: date) -> None:
    calendar = fleet.calendar
    number = calendar.dates.index(day)
    is_there = np.array([site.country == country for site in calendar.sites])[fleet.place]
    office = np.isin([p.rhythm for p in fleet.people], [Rhythm.OFFICE, Rhythm.TRADER])[:, None]
    on_the_day = is_there & office & (local(fleet, calendar.day) == number)
    week_before = is_there & office & (local(fleet, calendar.day) == number - 7)
    assert on_the_day.sum() > 24
    assert fleet.active_ratio[on_the_day].mean() < 0.03
    assert calendar.weekday[number - 7] < 5
    assert fleet.active_ratio[week_before].mean() > 0.1


def test_offices_work_by_the_local_time_of_where_their_people_are(fleet: Fleet) -> None:
    clock = local(fleet, fleet.calendar.hour_of_day)
    office = np.isin([p.rhythm for p in fleet.people], [Rhythm.OFFICE, Rhythm.TRADER])[:, None]
    for place in (at_home(fleet), ~at_home(fleet)):
        share = np.array(
            [
                fleet.active_ratio[office & place & (np.floor(clock) == hour)].mean()
                for hour in range(24)
            ]
        )
        assert share[[10, 11, 14, 15]].min() > 0.35
        assert share[[1, 2, 3, 4]].max() < 0.01


def test_a_shift_that_begins_in_the_evening_goes_on_after_midnight(fleet: Fleet) -> None:
    shift = rows(fleet, rhythm=Rhythm.SHIFT)
    clock = local(fleet, fleet.calendar.hour_of_day)[shift]
    active = fleet.active_ratio[shift]
    for hour in range(24):
        assert active[np.floor(clock) == hour].mean() > 0.1, hour


def test_trips_of_one_person_are_contiguous_and_never_overlap(fleet: Fleet) -> None:
    days_away = np.zeros((len(fleet.people), fleet.calendar.days), dtype=int)
    for trip in fleet.trips:
        assert trip.site != fleet.people[trip.person].site
        days_away[trip.person, trip.first_day : trip.last_day + 1] += 1
        day = fleet.calendar.day[trip.site]
        there = fleet.place[trip.person] == trip.site
        assert there[(trip.first_day <= day) & (day <= trip.last_day)].all()
    assert days_away.max() == 1
    stayers = rows(fleet, travel=Travel.NONE)
    assert at_home(fleet)[stayers].all()


def test_some_people_are_away_now_and_stay_away_for_a_while(fleet: Fleet) -> None:
    now = fleet.history_hours
    away = ~at_home(fleet)
    assert away[rows(fleet, travel=Travel.SECONDED), now : now + 7 * 24].all()
    assert away[rows(fleet, travel=Travel.RELOCATED), now:].all()
    assert away[rows(fleet, travel=Travel.TRIPS), now].sum() >= 6


@pytest.mark.parametrize("weekday", range(7))
def test_whatever_day_it_is_regular_travellers_leave_within_the_week(weekday: int) -> None:
    fleet = make_fleet(
        sites=world_facts().calendar_sites, end=END.replace(day=12 + weekday), seed=3
    )
    week = slice(fleet.history_hours, fleet.history_hours + 7 * 24)
    weekly = rows(fleet, travel=Travel.WEEKLY)
    assert (~at_home(fleet))[weekly, week].any(axis=1).all()
    past = (~at_home(fleet))[weekly, : fleet.history_hours]
    assert (past.mean(axis=1) > 0.2).all()


def test_the_fortnightly_are_away_in_every_other_week(fleet: Fleet) -> None:
    for row in rows(fleet, travel=Travel.FORTNIGHTLY):
        firsts = sorted(trip.first_day for trip in fleet.trips if trip.person == row)
        assert {b - a for a, b in itertools.pairwise(firsts)} == {14}
        assert all(fleet.calendar.weekday[first] == 1 for first in firsts)


def test_new_starters_have_little_or_no_history(fleet: Fleet) -> None:
    known_hours = fleet.is_observed.sum(axis=1)
    few = sorted(known_hours[known_hours < fleet.history_hours].tolist())
    assert few == [24 * days for days in STARTER_HISTORY_DAYS]
    assert not fleet.is_observed[:, fleet.history_hours :].any()


def test_month_ends_are_busy_for_controllers(fleet: Fleet) -> None:
    controllers = rows(fleet, role="controller")
    day = local(fleet, fleet.calendar.day)[controllers]
    works = fleet.active_ratio[controllers] > 0.5
    cpu = fleet.demand.cpu_cores[controllers]
    is_end = fleet.calendar.is_month_end[day]
    assert cpu[works & is_end].mean() > 1.4 * cpu[works & ~is_end].mean()


def test_demand_follows_the_applications_of_the_role(fleet: Fleet) -> None:
    works = fleet.active_ratio > 0.5
    mean = {
        role: {
            name: getattr(fleet.demand, name)[rows(fleet, role=role)][
                works[rows(fleet, role=role)]
            ].mean()
            for name in ("cpu_cores", "memory_bytes", "storage_bytes_per_s")
        }
        for role in ("agent", "engineer", "designer")
    }
    assert mean["engineer"]["cpu_cores"] > 2 * mean["agent"]["cpu_cores"]
    assert mean["designer"]["memory_bytes"] > mean["engineer"]["memory_bytes"]
    assert mean["engineer"]["storage_bytes_per_s"] > mean["designer"]["storage_bytes_per_s"]


def test_a_tenth_compute_on_the_working_day_after_they_planned(fleet: Fleet) -> None:
    planners = rows(fleet, plans_ahead=True)
    assert len(planners) == len(fleet.people) // 10
    app_names = list(APPS)
    plans, computes = (
        fleet.demand.app_cpu_core_s[..., app_names.index(name)] > 0
        for name in ("planner", "render")
    )
    others = rows(fleet, plans_ahead=False)
    assert not plans[others].any() and not computes[others].any()
    planned_before = np.zeros(2)
    for row in planners:
        day = fleet.calendar.day[fleet.place[row], np.arange(fleet.calendar.hours)]
        worked_h = np.bincount(day, fleet.active_ratio[row])
        days = np.flatnonzero(worked_h >= 2)
        planned, computed = (
            np.bincount(day, is_running[row])[days] > 0 for is_running in (plans, computes)
        )
        planned_before += [planned[:-1][computed[1:]].sum(), computed[1:].sum()]
    assert planned_before[1] > 200
    assert planned_before[0] > 0.9 * planned_before[1]  # some work in the mornings only

    works = fleet.active_ratio[planners] > 0.5
    cpu = fleet.demand.cpu_cores[planners]
    assert cpu[works & computes[planners]].mean() > 1.8 * cpu[works & ~computes[planners]].mean()


def test_what_applications_take_is_part_of_the_demand(fleet: Fleet) -> None:
    cores = fleet.demand.app_cpu_core_s.sum(axis=-1) / 3600
    assert (cores <= fleet.demand.cpu_cores).all()
    works = fleet.active_ratio > 0.5
    assert cores[works].sum() > 0.9 * fleet.demand.cpu_cores[works].sum()
    assert not cores[fleet.active_ratio == 0].any()


def test_nothing_is_negative_or_missing(fleet: Fleet) -> None:
    assert ((fleet.active_ratio >= 0) & (fleet.active_ratio <= 1)).all()
    for name in ("cpu_cores", "memory_bytes", "network_bytes_per_s", "storage_bytes_per_s"):
        values = getattr(fleet.demand, name)
        assert np.isfinite(values).all()
        assert (values > 0).all()


def test_every_site_has_a_round_trip_to_every_region_and_most_have_one_near() -> None:
    facts = world_facts()
    rtt = {(trip.site, trip.region): trip.rtt_ms for trip in facts.round_trips}
    assert len(rtt) == 12 * 5
    nearest = [min(rtt[s.code, r.name] for r in facts.regions) for s in facts.sites]
    assert sum(ms < 35 for ms in nearest) >= 8
    assert {trip.is_measured for trip in facts.round_trips} == {True, False}


def test_the_fleet_spans_a_change_to_summer_time() -> None:
    fleet = make_fleet(
        sites=world_facts().calendar_sites, end=datetime(2026, 4, 8, 9, tzinfo=UTC), seed=1
    )
    london = [site.code for site in fleet.calendar.sites].index("lon")
    utc = (np.arange(fleet.calendar.hours) + fleet.calendar.start.hour) % 24
    shift = (fleet.calendar.hour_of_day[london] - utc) % 24
    assert set(shift.tolist()) == {0.0, 1.0}
