"""What is announced and what is seen, in the maps of where people will be."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext

from desktops.models import (
    Activity,
    Dataset,
    DesktopUser,
    Event,
    Notice,
    Sighting,
    Source,
)
from forecasting.core.profiles import HORIZON_HOURS
from forecasting.models import Generation, ResourceDemandProfile
from forecasting.services.contradictions import heed_sightings
from forecasting.services.forecasts import run_forecast
from forecasting.services.generations import work_on
from forecasting.services.places import fit_places, sample_paths
from forecasting.services.refreshing import begin_refresh, make_refresh
from tests.support.rows import AS_OF, HOUR, Rows, make_rows
from tests.support.services import Service

pytestmark = pytest.mark.django_db(transaction=True)

WALL = datetime.fromisoformat("2026-04-01T12:00:00+00:00")
DAY = 24 * HOUR


@pytest.fixture
def rows() -> Rows:
    """Four people in Paris from eight to five by its clock every day, up to 2 March, 8:00 UTC."""
    rows = make_rows()
    rows.add_people(4)
    Activity.objects.all().delete()
    hours = [AS_OF - n * HOUR for n in range(1, 28 * 24)]
    Activity.objects.bulk_create(
        Activity(
            dataset=rows.dataset,
            desktop_user=person,
            desktop=person.desktop,
            hour=hour,
            active_ratio=1,
            cpu_cores=1.0,
            site=rows.sites[0],
        )
        for person in people_of(rows)
        for hour in hours
        if 7 <= hour.hour < 16
    )
    return rows


def people_of(rows: Rows) -> list[DesktopUser]:
    return list(DesktopUser.objects.filter(dataset=rows.dataset).order_by("pk"))


def announce(rows: Rows, person: DesktopUser, **changes: Any) -> Notice:
    values = {
        "kind": Notice.Kind.TRAVEL,
        "site": rows.sites[1],
        "starts_at": AS_OF + 2 * DAY,
        "ends_at": AS_OF + 4 * DAY,
        "received_at": WALL - HOUR,
        "origin": "rest",
        "provenance": "test",
        "uid": uuid4().hex,
    } | changes
    return Notice.objects.create(dataset=rows.dataset, desktop_user=person, **values)


def forecast(rows: Rows, *, wall: datetime = WALL) -> dict[int, ResourceDemandProfile]:
    generation = run_forecast(dataset_id=rows.dataset.pk, clock=lambda: wall)
    return {each.desktop_user_id: each for each in generation.profiles.all()}


def in_lyon(profile: ResourceDemandProfile) -> np.ndarray:
    assert np.allclose(sum(profile.location.values()), 1, atol=1e-5)
    return np.asarray(profile.location.get("lyon", np.zeros(HORIZON_HOURS)))


# ---- announced travel


def test_an_announced_trip_is_in_the_map_from_its_beginning_to_its_end(rows: Rows) -> None:
    traveller, other = people_of(rows)[:2]
    announce(rows, traveller)
    told = forecast(rows)
    chance = in_lyon(told[traveller.pk])
    assert (chance[60:84] > 0.9).all(), "in the middle of the trip"
    assert (chance[48:96] > 0.6).all(), "on the way"
    assert (np.delete(chance, np.r_[48:96]) < 0.1).all()
    assert (in_lyon(told[other.pk]) < 0.1).all(), "it is nobody else's"


def test_a_trip_counts_from_when_it_was_announced_until_it_is_taken_back(rows: Rows) -> None:
    traveller = people_of(rows)[0]
    trip = announce(rows, traveller, received_at=WALL + HOUR)
    assert (in_lyon(forecast(rows)[traveller.pk]) < 0.1).all()
    later = WALL + 2 * HOUR
    assert in_lyon(forecast(rows, wall=later)[traveller.pk])[72] > 0.9
    Notice.objects.filter(pk=trip.pk).update(withdrawn_at=later + HOUR)
    cancelled = in_lyon(forecast(rows, wall=later + 2 * HOUR)[traveller.pk])
    assert (cancelled < 0.1).all(), "a trip that is cancelled is as if it never was"


def test_nothing_announced_is_used_of_who_may_not_be_located(rows: Rows) -> None:
    shy = people_of(rows)[0]
    announce(rows, shy)
    DesktopUser.objects.filter(pk=shy.pk).update(is_located=False)
    assert forecast(rows)[shy.pk].location == {}
    model = fit_places(rows.dataset, until=AS_OF, known_at=WALL)
    assert model.announced is None


def test_paths_that_plans_are_priced_on_travel_too(rows: Rows) -> None:
    traveller = people_of(rows)[0]
    announce(rows, traveller)
    ask = {"at": AS_OF, "known_at": WALL, "n": 200, "seed": 1}
    paths = sample_paths(rows.dataset, [traveller.pk], ["paris", "lyon"], **ask)
    assert paths.shape == (1, 200, 168)
    assert (paths[0, :, 72] == 1).mean() > 0.85
    assert (paths[0, :, 24] == 1).mean() < 0.1


def test_travel_costs_no_query_a_person(rows: Rows) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as context:
            fit_places(rows.dataset, until=AS_OF, known_at=WALL)
        return len(context)

    announce(rows, people_of(rows)[0])
    few = queries()
    for person in people_of(rows)[1:]:
        announce(rows, person)
    assert queries() == few


def test_a_refresh_heeds_travel_that_was_announced_since(rows: Rows) -> None:
    traveller, other = people_of(rows)[:2]
    Dataset.objects.filter(pk=rows.dataset.pk).update(as_of=None, kind=Dataset.Kind.LIVE)
    known = AS_OF + timedelta(minutes=5)
    run_forecast(dataset_id=rows.dataset.pk, clock=lambda: known)
    announce(rows, traveller, received_at=AS_OF + HOUR)
    later = AS_OF + 2 * HOUR + timedelta(minutes=5)
    rows.dataset.refresh_from_db()
    refresh = begin_refresh(dataset=rows.dataset, clock=lambda: later)
    work_on(refresh, make=make_refresh, clock=lambda: later)
    told = {each.desktop_user_id: each for each in refresh.profiles.all()}
    assert in_lyon(told[traveller.pk])[70] > 0.9, "two hours have gone"
    assert (in_lyon(told[other.pk]) < 0.1).all()


# ---- seen elsewhere than expected


def see(rows: Rows, person: DesktopUser, *, at: datetime, site: Any = None) -> None:
    source, _ = Source.objects.get_or_create(
        pool=rows.pool,
        name="door",
        defaults={"kind": Source.Kind.PRESENCE, "dataset": rows.dataset},
    )
    Sighting.objects.update_or_create(
        desktop_user=person, defaults={"site": site or rows.sites[1], "at": at, "source": source}
    )


@pytest.fixture
def _nothing_learned() -> None:
    cache.clear()


@pytest.mark.usefixtures("_nothing_learned")
def test_who_is_where_nobody_expected_them_is_expected_to_stay_a_while(rows: Rows) -> None:
    told = forecast(rows)
    surprising, usual = people_of(rows)[:2]
    see(rows, surprising, at=AS_OF + 3 * HOUR + timedelta(minutes=20))
    see(rows, usual, at=AS_OF + 3 * HOUR, site=rows.sites[0])
    before = in_lyon(told[surprising.pk])
    assert heed_sightings(clock=lambda: WALL) == 1
    after = told[surprising.pk]
    after.refresh_from_db()
    chance = in_lyon(after)
    assert chance[3] > 0.7 > 0.1 > before[3]
    assert (chance[:3] == before[:3]).all(), "what is over stays as it was told"
    assert (np.diff(chance[3:60]) <= 1e-6).all() and chance[-1] == before[-1]
    untouched = told[usual.pk]
    was = untouched.location
    untouched.refresh_from_db()
    assert all((untouched.location[place] == was[place]).all() for place in was)
    (event,) = Event.objects.filter(kind="forecast.contradicted")
    assert event.payload == {"people": 1} and event.pool_id == rows.pool.pk


@pytest.mark.usefixtures("_nothing_learned")
def test_a_sighting_is_heeded_once_and_the_next_one_anew(rows: Rows) -> None:
    person = people_of(rows)[0]
    told = forecast(rows)[person.pk]
    see(rows, person, at=AS_OF + HOUR)
    assert heed_sightings(clock=lambda: WALL) == 1
    told.refresh_from_db()
    once = told.location["lyon"].copy()
    assert heed_sightings(clock=lambda: WALL) == 0
    see(rows, person, at=AS_OF + 2 * HOUR)
    assert heed_sightings(clock=lambda: WALL) == 0, "by now it is expected"
    told.refresh_from_db()
    assert (told.location["lyon"] == once).all()
    see(rows, person, at=AS_OF + 30 * HOUR)
    assert heed_sightings(clock=lambda: WALL) == 1, "a day later it is a surprise again"


@pytest.mark.usefixtures("_nothing_learned")
def test_who_opted_out_or_left_or_was_seen_before_changes_nothing(rows: Rows) -> None:
    shy, left, earlier, later = people_of(rows)
    told = forecast(rows)
    for person, hours in ((shy, 1), (left, 1), (earlier, -1), (later, 169)):
        see(rows, person, at=AS_OF + hours * HOUR)
    DesktopUser.objects.filter(pk=shy.pk).update(is_located=False)
    Sighting.objects.filter(desktop_user=left).update(site=None)
    assert heed_sightings(clock=lambda: WALL) == 0
    for person in (shy, left, earlier, later):
        before = told[person.pk].location
        told[person.pk].refresh_from_db()
        assert all((told[person.pk].location[p] == before[p]).all() for p in before)


@pytest.mark.usefixtures("_nothing_learned")
def test_a_monday_morning_costs_as_many_queries_as_one_person(rows: Rows) -> None:
    told = forecast(rows)
    see(rows, people_of(rows)[0], at=AS_OF + HOUR)
    with CaptureQueriesContext(connection) as one:
        assert heed_sightings(clock=lambda: WALL) == 1
    for person in people_of(rows):
        see(rows, person, at=AS_OF + 30 * HOUR)
    with CaptureQueriesContext(connection) as many:
        assert heed_sightings(clock=lambda: WALL) == len(told)
    assert len(many) <= len(one), "what is learned of staying is kept"


@pytest.mark.usefixtures("_nothing_learned")
def test_a_worker_moves_the_map_within_seconds(rows: Rows, tmp_path: Path) -> None:
    person = people_of(rows)[0]
    told = forecast(rows)[person.pk]
    see(rows, person, at=AS_OF + HOUR)
    worker = Service(
        *("celery", "-A", "webapp", "--quiet", "worker", "--pool=solo", "--queues=default"),
        log=tmp_path / "worker.log",
    )
    try:
        worker.start()
        from desktops.services.presence import ring

        cache.delete("presence.rung")
        ring()
        deadline = time.monotonic() + 40
        while "lyon" not in told.location or told.location["lyon"][1] < 0.5:
            assert time.monotonic() < deadline, worker.log.read_text()
            time.sleep(0.1)
            told.refresh_from_db()
    finally:
        worker.stop()
    assert Generation.objects.filter(pk=told.generation_id, state="complete").exists()
