"""How forecasts are made night after night: chunks, workers that die, refreshes, what is kept."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client

from desktops.models import (
    Activity,
    Dataset,
    Desktop,
    DesktopUser,
    Event,
    Notice,
    Pool,
    Site,
)
from desktops.sources import bitbrains
from desktops.sources.options import ReadOptions
from desktops.sources.samples import Rejections
from forecasting.core.profiles import HORIZON_HOURS, LEVELS, RESOURCES
from forecasting.errors import ForecastFailed
from forecasting.history import Crowd, Subject, crowds_of, read_history
from forecasting.models import ForecastAlert, ForecastScore, Generation, ResourceDemandProfile
from forecasting.selectors import health_for, latest_generation
from forecasting.services import forecasts, generations, scheduling
from forecasting.services.drift import judge, score_days
from forecasting.services.forecasts import begin_forecast, run_forecast
from forecasting.services.generations import (
    MOST_ATTEMPTS,
    fail_generation,
    start_generation,
    work_on,
)
from forecasting.services.profiles import Row, write_profiles
from forecasting.services.refreshing import begin_refresh, make_refresh
from webapp.models import User

pytestmark = pytest.mark.django_db(transaction=True)

NIGHT = datetime(2026, 3, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
SETTLED = timedelta(minutes=5)  # after an hour, when all of it has come in


@pytest.fixture
def pool() -> Pool:
    dataset = Dataset.objects.create(name="live", label="Live", kind=Dataset.Kind.LIVE)
    return Pool.objects.create(dataset=dataset, name="office", label="Office")


def add_people(pool: Pool, n: int, *, zone: str = "UTC") -> list[DesktopUser]:
    return DesktopUser.objects.bulk_create(
        DesktopUser(dataset=pool.dataset, pool=pool, pseudonym=f"{zone}-{i}", time_zone=zone)
        for i in range(n)
    )


def same_for_all(level: float) -> Any:
    """A maker whose every profile is normal about `level` all week, with half a chance of a
    session."""

    def make(generation: Generation, crowd: Crowd) -> list[Row]:
        people = DesktopUser.objects.filter(pk__in=crowd.people).order_by("pk")
        return [profile_row(generation, person, level=level) for person in people]

    return make


def profile_row(generation: Generation, person: DesktopUser, *, level: float) -> Row:
    scores = np.array([-1.645, -1.282, -0.674, 0, 0.674, 1.282, 1.645])
    quantiles = np.tile(level + scores, (HORIZON_HOURS, 1))
    return Row(
        subject=Subject(person.pk, None, person.pool_id, "", person.time_zone),
        starts_at=generation.as_of,
        levels=LEVELS,
        engine="test",
        is_from_pool=False,
        history_hours=100,
        p_active=np.full(HORIZON_HOURS, 0.5),
        demand=dict.fromkeys(RESOURCES, quantiles),
        location={"paris": np.full(HORIZON_HOURS, 0.6), "elsewhere": np.full(HORIZON_HOURS, 0.4)},
    )


def start(pool: Pool, *, as_of: datetime = NIGHT, chunk: int = 2) -> Generation:
    return start_generation(
        dataset=pool.dataset,
        kind=Generation.Kind.FULL,
        as_of=as_of,
        crowds=crowds_of(pool.dataset, at=as_of, most=chunk),
        at=as_of,
    )


def finish(generation: Generation, make: Any, *, at: datetime | None = None) -> None:
    while work_on(generation, make=make, clock=lambda: at or generation.as_of):
        generation.refresh_from_db()


def shown(pool: Pool) -> set[int]:
    generation = latest_generation(pool.dataset)
    return set(generation.profiles.values_list("pk", flat=True)) if generation else set()


def test_nothing_of_a_generation_is_shown_before_all_of_it(pool: Pool) -> None:
    add_people(pool, 5)
    old = start(pool, as_of=NIGHT - 24 * HOUR)
    finish(old, same_for_all(1))
    before = shown(pool)
    assert len(before) == 5
    new = start(pool)
    for done in (2, 4):
        assert work_on(new, make=same_for_all(2), clock=lambda: NIGHT)
        new.refresh_from_db()
        assert (new.profiles_done, new.profiles_total) == (done, 5)
        assert shown(pool) == before
    assert work_on(new, make=same_for_all(2), clock=lambda: NIGHT)
    new.refresh_from_db()
    assert latest_generation(pool.dataset) == new
    assert len(shown(pool)) == 5 and not shown(pool) & before
    assert not new.chunks.exists(), "the orders go with the work"
    advanced = Event.objects.filter(kind="forecast.advanced", object_id=str(new.pk))
    assert advanced.count() == 3, "pages see it grow"


def test_a_crowd_lives_by_one_clock_and_is_no_larger_than_asked(pool: Pool) -> None:
    add_people(pool, 5, zone="Europe/Paris")
    add_people(pool, 2, zone="Asia/Tokyo")
    crowds = crowds_of(pool.dataset, at=NIGHT, most=3)
    assert [(c.time_zone, c.n_subjects) for c in crowds] == [
        ("Asia/Tokyo", 2),
        ("Europe/Paris", 3),
        ("Europe/Paris", 2),
    ]
    assert sorted(pk for c in crowds for pk in c.people) == sorted(
        DesktopUser.objects.values_list("pk", flat=True)
    )


def test_zones_with_the_same_clock_lend_each_other_and_others_do_not(pool: Pool) -> None:
    for zone in ("Europe/Paris", "Europe/Berlin", "Europe/London", "Africa/Lagos"):
        add_people(pool, 1, zone=zone)
    zones = [c.time_zone for c in crowds_of(pool.dataset, at=NIGHT, most=9)]
    assert zones == ["Africa/Lagos", "Europe/London"], "in March all of them but London agree"
    july = datetime(2026, 7, 1, tzinfo=UTC)
    zones = [c.time_zone for c in crowds_of(pool.dataset, at=july, most=9)]
    assert zones == ["Africa/Lagos", "Europe/Berlin"], "in July London is with Lagos"
    april = datetime(2026, 4, 1, tzinfo=UTC)
    assert len(crowds_of(pool.dataset, at=april, most=9)) == 3, "a change lies in the history"


def test_somebody_with_a_zone_nobody_knows_is_forecast_by_utc(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    people = [*add_people(pool, 2, zone="Europe/Paris"), *add_people(pool, 1, zone="Mars/Base")]
    write_hours(people[2], [0.1] * 5, until=NIGHT)
    generation = run_forecast(dataset_id=pool.dataset_id, clock=lambda: NIGHT + SETTLED)
    assert generation.profiles.count() == 3
    assert "Mars/Base" in caplog.text
    for where, field in ((people[2], "time_zone"), (Site(code="x", label="X"), "time_zone")):
        where.time_zone = "Mars/Base"
        with pytest.raises(ValidationError, match="no time zone 'Mars/Base'"):
            where._meta.get_field(field).clean("Mars/Base", where)


def test_no_site_may_be_called_what_stands_for_all_other_places() -> None:
    with pytest.raises(ValidationError, match="'elsewhere' stands for all places"):
        Site._meta.get_field("code").clean("elsewhere", Site())


def test_a_chunk_that_somebody_just_finished_does_not_keep_a_worker_from_the_next(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_people(pool, 4)
    generation = start(pool)
    first, second = generation.chunks.all()
    lock = generations._lock

    def finished_before(pk: int) -> bool:
        if pk == first.pk:
            generation.chunks.filter(pk=pk).update(done_at=NIGHT)
        return lock(pk)

    monkeypatch.setattr(generations, "_lock", finished_before)
    assert work_on(generation, make=same_for_all(1), clock=lambda: NIGHT)
    assert set(generation.profiles.values_list("desktop_user", flat=True)) == set(second.people)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert cursor.fetchone() == (0,), "no lock outlives its chunk"


def test_a_worker_killed_at_a_chunk_loses_that_chunk_and_no_more(pool: Pool) -> None:
    add_people(pool, 4)
    generation = start(pool)
    assert work_on(generation, make=same_for_all(1), clock=lambda: NIGHT)
    with worker_that_hangs(generation) as worker:
        assert not work_on(generation, make=same_for_all(1), clock=lambda: NIGHT), (
            "what somebody works on is left to them"
        )
        worker.kill()
        worker.wait()
    for _ in range(50):  # the server notices within moments that the connection is gone
        if work_on(generation, make=same_for_all(1), clock=lambda: NIGHT):
            break
        time.sleep(0.1)
    generation.refresh_from_db()
    assert generation.state == Generation.State.COMPLETE
    assert generation.profiles.count() == 4


HANGS = """
import sys, time, django
django.setup()
from django.utils import timezone
from forecasting.models import Generation
from forecasting.services.generations import work_on
def make(generation, crowd):
    print("working", flush=True)
    time.sleep(60)
work_on(Generation.objects.get(pk=int(sys.argv[1])), make=make, clock=timezone.now)
"""


def worker_that_hangs(generation: Generation) -> subprocess.Popen[str]:
    """A process of its own in the middle of a chunk."""
    given = connection.settings_dict
    where = f"{given['USER']}:{given['PASSWORD']}@{given['HOST']}:{given['PORT']}"
    worker = subprocess.Popen(
        [sys.executable, "-c", HANGS, str(generation.pk)],
        env=os.environ | {"DATABASE_URL": f"postgresql://{where}/{given['NAME']}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "working\n"
    return worker


def test_a_chunk_that_keeps_failing_ends_the_generation_and_the_old_one_stays(pool: Pool) -> None:
    add_people(pool, 4)
    old = start(pool, as_of=NIGHT - 24 * HOUR)
    finish(old, same_for_all(1))
    generation = start(pool)
    tried = []

    def fails(generation: Generation, crowd: Crowd) -> Sequence[Row]:
        tried.append(crowd.people)
        raise ValueError("disk full")

    for _ in range(MOST_ATTEMPTS - 1):
        assert work_on(generation, make=fails, clock=lambda: NIGHT)
    with pytest.raises(ForecastFailed, match="disk full"):
        work_on(generation, make=fails, clock=lambda: NIGHT)
    assert tried == [tried[0]] * MOST_ATTEMPTS
    generation.refresh_from_db()
    assert generation.state == Generation.State.FAILED
    assert "chunk 1" in generation.failure and "disk full" in generation.failure
    assert latest_generation(pool.dataset) == old
    assert not ResourceDemandProfile.objects.filter(generation=generation).exists()
    assert Event.objects.get(kind="forecast.failed").pool == pool


def test_a_chunk_that_kills_its_workers_is_given_up(pool: Pool) -> None:
    add_people(pool, 1)
    generation = start(pool)
    generation.chunks.update(attempts=MOST_ATTEMPTS)
    with pytest.raises(ForecastFailed, match="killed"):
        work_on(generation, make=same_for_all(1), clock=lambda: NIGHT)


def test_a_chunk_of_a_generation_that_was_ended_meanwhile_leaves_nothing(pool: Pool) -> None:
    add_people(pool, 2)
    generation = start(pool)

    def ended_meanwhile(generation: Generation, crowd: Crowd) -> Sequence[Row]:
        Generation.objects.update(state=Generation.State.FAILED)
        return same_for_all(1)(generation, crowd)

    scheduling.MAKERS[Generation.Kind.FULL], kept = (
        ended_meanwhile,
        scheduling.MAKERS[Generation.Kind.FULL],
    )
    try:
        scheduling.work_on_forecast(generation_id=generation.pk, clock=lambda: NIGHT)
    finally:
        scheduling.MAKERS[Generation.Kind.FULL] = kept
    assert not ResourceDemandProfile.objects.exists()


def test_an_unfinished_forecast_is_gone_on_with_and_a_stale_one_is_not(pool: Pool) -> None:
    add_people(pool, 3)
    first = begin_forecast(dataset_id=pool.dataset_id, clock=lambda: NIGHT)
    again = begin_forecast(dataset_id=pool.dataset_id, clock=lambda: NIGHT + HOUR)
    assert again == first
    later = begin_forecast(dataset_id=pool.dataset_id, clock=lambda: NIGHT + 24 * HOUR)
    assert later != first
    first.refresh_from_db()
    assert first.state == Generation.State.FAILED


def test_a_refresh_begun_at_the_same_moment_gives_way_to_a_full_forecast(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = add_people(pool, 2)
    write_hours(people[0], [0.1] * 5, until=NIGHT)
    finish(start(pool), same_for_all(1))
    asked = iter([None])
    running = forecasts.running_generation

    def not_yet_seen(dataset: Dataset) -> Generation | None:
        try:
            next(asked)
        except StopIteration:
            return running(dataset)
        begin_refresh(dataset=dataset, clock=lambda: NIGHT + 2 * HOUR)
        return None

    monkeypatch.setattr(forecasts, "running_generation", not_yet_seen)
    made = run_forecast(dataset_id=pool.dataset_id, clock=lambda: NIGHT + 3 * HOUR)
    assert (made.kind, made.state) == (Generation.Kind.FULL, Generation.State.COMPLETE)
    assert made.profiles.count() == 2
    assert pool.dataset.generations.get(kind=Generation.Kind.REFRESH).state == "failed"


def test_a_forecast_learns_from_no_hour_that_is_still_coming_in(pool: Pool) -> None:
    add_people(pool, 1)
    made = begin_forecast(dataset_id=pool.dataset_id, clock=lambda: NIGHT + timedelta(minutes=3))
    assert made.as_of == NIGHT - HOUR


def test_a_forecast_that_hangs_is_ended_so_that_another_is_made(pool: Pool) -> None:
    add_people(pool, 3)
    generation = start(pool)
    hours = scheduling.STALLED_AFTER
    scheduling.sweep_forecasts(clock=lambda: generation.started_at + hours - HOUR)
    work_on(generation, make=same_for_all(1), clock=lambda: generation.started_at + HOUR)
    scheduling.sweep_forecasts(clock=lambda: generation.started_at + hours)
    generation.refresh_from_db()
    assert generation.state == Generation.State.RUNNING, "an hour ago a part was finished"
    scheduling.sweep_forecasts(clock=lambda: generation.started_at + hours + HOUR)
    generation.refresh_from_db()
    assert generation.state == Generation.State.FAILED
    assert "No part of it was finished" in generation.failure
    assert Event.objects.filter(kind="forecast.failed", object_id=str(generation.pk)).exists()


def test_beat_starts_a_night_then_refreshes_and_nothing_twice(pool: Pool) -> None:
    person = add_people(pool, 1)[0]
    write_hours(person, [0.1] * 5, until=NIGHT)
    Dataset.objects.create(
        name="recorded", label="Recorded", kind=Dataset.Kind.IMPORTED, as_of=NIGHT - HOUR
    )
    Dataset.objects.create(name="empty", label="Empty", kind=Dataset.Kind.LIVE)

    def beat_and_work(minutes: int) -> list[tuple[str, datetime]]:
        now = NIGHT + timedelta(minutes=minutes)
        for _ in range(2):
            scheduling.sweep_forecasts(clock=lambda: now)
        for generation in Generation.objects.filter(state=Generation.State.RUNNING):
            scheduling.work_on_forecast(generation_id=generation.pk, clock=lambda: now)
        assert not Generation.objects.exclude(state=Generation.State.COMPLETE).exists()
        return list(Generation.objects.order_by("as_of").values_list("kind", "as_of"))

    night, hour_after = ("full", NIGHT), ("refresh", NIGHT + HOUR)
    assert beat_and_work(6) == [night]
    assert beat_and_work(50) == [night]
    assert beat_and_work(66) == [night, hour_after]
    assert beat_and_work(119) == [night, hour_after]


def test_who_opts_out_while_the_forecast_is_made_is_not_in_it(pool: Pool) -> None:
    people = add_people(pool, 2)

    def opted_out(generation: Generation, crowd: Crowd) -> Sequence[Row]:
        DesktopUser.objects.filter(pk=people[0].pk).update(is_predicted=False)
        return [profile_row(generation, person, level=1) for person in people]

    generation = start(pool)
    finish(generation, opted_out)
    assert [p.desktop_user for p in generation.profiles.all()] == [people[1]]


def test_places_of_who_opts_out_of_them_meanwhile_are_in_no_forecast(pool: Pool) -> None:
    people = add_people(pool, 2)

    def opted_out(generation: Generation, crowd: Crowd) -> Sequence[Row]:
        rows = [profile_row(generation, person, level=1) for person in people]
        DesktopUser.objects.filter(pk=people[0].pk).update(is_located=False)
        return rows

    generation = start(pool)
    finish(generation, opted_out)
    for made in (generation, refresh(pool, at=NIGHT + HOUR)):
        places = {p.desktop_user: set(p.location) for p in made.profiles.all()}
        assert places == {people[0]: set(), people[1]: {"paris", "elsewhere"}}


def test_who_opts_out_while_profiles_are_written_waits_and_finds_them(pool: Pool) -> None:
    (person,) = add_people(pool, 1)
    generation = start(pool)
    wanted = ("dbname", "user", "password", "host", "port")
    where = {k: v for k, v in connection.get_connection_params().items() if k in wanted}
    with transaction.atomic():
        write_profiles(generation, [profile_row(generation, person, level=1)])
        with psycopg.connect(**where, autocommit=True) as other:
            other.execute("SET lock_timeout = '200ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute(
                    "SELECT 1 FROM desktops_desktopuser WHERE id = %s FOR UPDATE", [person.pk]
                )


def test_hours_that_have_not_come_in_are_not_hours_away(pool: Pool) -> None:
    people = add_people(pool, 3)
    now = NIGHT + 8 * HOUR
    for person in people:
        write_hours(person, [0.0] * 30, until=now - HOUR)
    Activity.objects.filter(desktop_user=people[0], hour=now - 4 * HOUR).delete()
    history = read_history(pool.dataset, until=now, days=1)
    row = [s.desktop_user_id for s in history.subjects].index(people[0].pk)
    assert np.isnan(history.active_ratio[:, -1]).all(), "nobody was heard of yet"
    assert history.active_ratio[row, -4] == 0, "others were heard of in that hour"


def test_who_is_given_another_desktop_stays_in_the_refresh(pool: Pool) -> None:
    (person,) = add_people(pool, 1)
    finish(start(pool), same_for_all(5))
    desktop = Desktop.objects.create(
        dataset=pool.dataset, pool=pool, key="new", label="New", desktop_user=person
    )
    (profile,) = refresh(pool, at=NIGHT + HOUR).profiles.all()
    assert (profile.desktop_user, profile.desktop) == (person, desktop)


def test_the_command_goes_on_with_what_was_interrupted(pool: Pool, capsys: Any) -> None:
    add_people(pool, 3)
    generation = start(pool, as_of=datetime.now(UTC).replace(minute=0, second=0, microsecond=0))
    assert work_on(generation, make=same_for_all(1), clock=lambda: NIGHT)
    call_command("forecast", "live")
    generation.refresh_from_db()
    assert generation.state == Generation.State.COMPLETE
    assert generation.profiles.filter(engine="test").count() == 2, "what was done stays"
    assert "3 profiles" in capsys.readouterr().out
    call_command("forecast", "live", "--join")
    assert "No forecast of live is in the making" in capsys.readouterr().out


def test_a_few_nights_and_refreshes_are_kept(pool: Pool) -> None:
    add_people(pool, 1)
    for night in range(5):
        finish(start(pool, as_of=NIGHT + night * 24 * HOUR), same_for_all(1))
    for hours in (1, 2, 3):
        refresh(pool, at=NIGHT + (4 * 24 + hours) * HOUR)
    kinds = list(Generation.objects.order_by("as_of").values_list("kind", flat=True))
    assert kinds == ["full"] * 4 + ["refresh"] * 2
    newest = latest_generation(pool.dataset)
    assert newest is not None and newest.base is not None
    assert newest.base.as_of == NIGHT + 4 * 24 * HOUR, "every refresh is of the full forecast"


# ---- refreshes


def refresh(pool: Pool, *, at: datetime) -> Generation:
    generation = begin_refresh(dataset=pool.dataset, clock=lambda: at + SETTLED)
    finish(generation, make_refresh, at=at)
    generation.refresh_from_db()
    assert generation.state == Generation.State.COMPLETE, generation.failure
    return generation


def write_hours(person: DesktopUser, values: Sequence[float], *, until: datetime) -> None:
    """Hours at work in Lyon that end at `until`, with this many scores above the median."""
    site, _ = Site.objects.get_or_create(
        code="lyon", label="Lyon", latitude=45, longitude=5, time_zone="UTC"
    )
    Activity.objects.bulk_create(
        Activity(
            dataset=person.dataset,
            desktop_user=person,
            hour=until - (len(values) - i) * HOUR,
            active_ratio=1,
            site=site,
            **dict.fromkeys(RESOURCES, 5 + value),
        )
        for i, value in enumerate(values)
    )


def test_a_refresh_moves_the_next_hours_to_what_was_seen(pool: Pool) -> None:
    people = add_people(pool, 40)
    rng = np.random.default_rng(7)
    nights = [NIGHT - 24 * HOUR, NIGHT]
    for night in nights:
        finish(start(pool, as_of=night, chunk=100), same_for_all(5))
    now = NIGHT + 8 * HOUR
    for i, person in enumerate(people):
        lasting = 1.5 if i % 2 else -1.5
        write_hours(person, lasting + 0.3 * rng.normal(size=32), until=now)
    generation = refresh(pool, at=now + timedelta(minutes=5))
    assert (generation.as_of, generation.engine) == (now, generation.base.engine)
    high = generation.profiles.get(desktop_user=people[1])
    low = generation.profiles.get(desktop_user=people[0])
    assert high.starts_at == now and high.cpu_cores.shape == (HORIZON_HOURS, len(LEVELS))
    middle = LEVELS.index(0.5)
    assert high.cpu_cores[0, middle] > 5.8 and low.cpu_cores[0, middle] < 4.2
    assert abs(high.cpu_cores[-1, middle] - 5) < 0.2, "a week ahead nothing is known anew"
    assert (np.diff(high.cpu_cores, axis=1) >= 0).all()
    assert high.p_active[0] > 0.8, "who has been at work for a day goes on"
    assert high.location["lyon"][0] > 0.5 > high.location["paris"][0]
    assert np.allclose(sum(high.location.values()), 1, atol=1e-5)


def test_a_refresh_of_a_fleet_of_which_nothing_was_seen_says_the_same(pool: Pool) -> None:
    people = add_people(pool, 3)
    finish(start(pool), same_for_all(5))
    generation = refresh(pool, at=NIGHT + 3 * HOUR)
    before = ResourceDemandProfile.objects.get(generation=generation.base, desktop_user=people[0])
    after = generation.profiles.get(desktop_user=people[0])
    assert np.array_equal(after.cpu_cores, before.cpu_cores)
    assert np.array_equal(after.p_active, before.p_active)
    assert after.location.keys() == before.location.keys()


def test_newcomers_are_in_the_next_full_forecast_and_leavers_in_no_refresh(pool: Pool) -> None:
    people = add_people(pool, 2)
    finish(start(pool), same_for_all(5))
    people[0].delete()
    newcomer = DesktopUser.objects.create(dataset=pool.dataset, pool=pool, pseudonym="new")
    generation = refresh(pool, at=NIGHT + HOUR)
    assert [p.desktop_user_id for p in generation.profiles.all()] == [people[1].pk]
    assert newcomer.pk not in generation.profiles.values_list("desktop_user", flat=True)


def test_a_refresh_heeds_leave_that_was_announced_since(pool: Pool) -> None:
    people = add_people(pool, 2)
    finish(start(pool), same_for_all(5))
    Notice.objects.create(
        dataset=pool.dataset,
        desktop_user=people[0],
        kind=Notice.Kind.LEAVE,
        starts_at=NIGHT + 10 * HOUR,
        ends_at=NIGHT + 34 * HOUR,
        received_at=NIGHT + HOUR,
        origin="rest",
        provenance="test",
        uid="1",
    )
    generation = refresh(pool, at=NIGHT + 2 * HOUR)
    leaver, other = (generation.profiles.get(desktop_user=each).p_active for each in people)
    away = slice(8, 32)
    assert (leaver[away] < 0.2 * other[away]).all()
    assert np.array_equal(np.delete(leaver, np.r_[away]), np.delete(other, np.r_[away]))


# ---- drift


def write_weeks(pool: Pool, *, since: datetime, until: datetime) -> None:
    """Every hour of everybody, normal about five as `same_for_all(5)` says."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT setseed(0.5)")
        cursor.execute(
            "INSERT INTO desktops_activity (dataset_id, desktop_user_id, hour, active_ratio,"
            " cpu_cores, memory_bytes, network_bytes_per_s, storage_bytes_per_s)"
            " SELECT dataset_id, id, hour, 1, 5 + random_normal(), 5 + random_normal(),"
            " 5 + random_normal(), 5 + random_normal()"
            " FROM desktops_desktopuser, generate_series(%s, %s, interval '1 hour') hour"
            " WHERE pool_id = %s",
            [since, until - HOUR, pool.pk],
        )


def night(pool: Pool, *, number: int, level: float) -> None:
    """A forecast at two o'clock, and the watch that sees the day after it end."""
    as_of = NIGHT + number * 24 * HOUR
    finish(start(pool, as_of=as_of, chunk=100), same_for_all(level))
    now = as_of + 51 * HOUR
    assert score_days(dataset=pool.dataset, now=now) == [(as_of + 24 * HOUR).date()]
    judge(dataset=pool.dataset, at=now)


def standing(pool: Pool) -> set[tuple[str, str]]:
    return set(pool.forecast_alerts.filter(cleared_at=None).values_list("resource", "kind"))


def test_a_pool_whose_forecasts_drift_is_reported_until_they_recover(pool: Pool) -> None:
    add_people(pool, 30)
    write_weeks(pool, since=NIGHT - 35 * 24 * HOUR, until=NIGHT + 11 * 24 * HOUR)
    night(pool, number=0, level=5)
    assert not standing(pool)
    score = ForecastScore.objects.get(resource="cpu_cores")
    assert score.hours == 30 * 24
    assert score.inside_80 / score.hours == pytest.approx(0.8, abs=0.05)
    assert 0.5 < score.loss / score.naive_loss < 0.9, "a week ago knows less than the truth"
    night(pool, number=1, level=9)
    assert standing(pool) == {(r, k) for r in RESOURCES for k in ("coverage", "loss")}
    told = Event.objects.filter(kind="forecast.drifted", pool=pool)
    assert (
        told.count() == 8
        and "meant to hold"
        in told.get(payload__resource="cpu_cores", payload__measure="coverage").payload["detail"]
    )
    for number in range(2, 9):
        night(pool, number=number, level=5)
    assert not standing(pool)
    assert Event.objects.filter(kind="forecast.recovered", pool=pool).count() == 8
    assert told.count() == 8, "an alert that stands is not raised again"


def test_a_day_is_scored_once_and_only_against_the_night_before(pool: Pool) -> None:
    add_people(pool, 30)
    write_weeks(pool, since=NIGHT - 30 * 24 * HOUR, until=NIGHT + 5 * 24 * HOUR)
    finish(start(pool, chunk=100), same_for_all(5))
    day = (NIGHT + 24 * HOUR).date()
    assert score_days(dataset=pool.dataset, now=NIGHT + 48 * HOUR) == [], "late hours may come"
    assert score_days(dataset=pool.dataset, now=NIGHT + 49 * HOUR) == [day]
    assert score_days(dataset=pool.dataset, now=NIGHT + 49 * HOUR) == []
    old = score_days(dataset=pool.dataset, now=NIGHT + 5 * 24 * HOUR)
    assert old == [day + timedelta(days=1)], "an older forecast is no day-ahead forecast"


def test_a_silent_day_waits_and_one_with_nothing_to_compare_is_done(pool: Pool) -> None:
    people = add_people(pool, 3)
    finish(start(pool, chunk=100), same_for_all(5))
    now, day = NIGHT + 49 * HOUR, (NIGHT + 24 * HOUR).date()
    assert score_days(dataset=pool.dataset, now=now) == [], "it may come in yet"
    newcomer = DesktopUser.objects.create(dataset=pool.dataset, pool=pool, pseudonym="new")
    write_hours(newcomer, [0.1], until=NIGHT + 30 * HOUR)
    assert score_days(dataset=pool.dataset, now=now) == [day]
    assert score_days(dataset=pool.dataset, now=now) == [], "nobody reads it hour after hour"
    assert set(ForecastScore.objects.values_list("hours", flat=True)) == {0}
    admin = User.objects.create_superuser("ada")
    assert health_for(admin, days=7) == [], "no hours, nothing to show"
    judge(dataset=pool.dataset, at=now)
    assert not standing(pool) and people


def test_who_has_few_hours_is_not_told_that_all_is_as_promised(pool: Pool) -> None:
    admin = User.objects.create_superuser("ada")
    few = {"pool": pool, "day": NIGHT.date(), "resource": "cpu_cores", "forecast_as_of": NIGHT}
    inside = {"inside_50": 5, "inside_80": 8, "inside_90": 9}
    ForecastScore.objects.create(**few, **inside, hours=10, loss=5, naive_loss=9)
    assert "too few hours to say" in seen_by(admin)
    ForecastScore.objects.update(hours=1000, inside_50=500, inside_80=800, inside_90=900)
    assert "as promised" in seen_by(admin)


def test_why_a_forecast_failed_is_for_operators(pool: Pool) -> None:
    add_people(pool, 1)
    fail_generation(start(pool), "person 7 has an infinite hour", at=NIGHT)
    viewer, operator = User.objects.create_user("vera"), User.objects.create_user("otto")
    for user, role in ((viewer, "viewer"), (operator, "operator")):
        user.groups.add(Group.objects.get(name=role))
        pool.members.add(user)
    assert "person 7" not in seen_by(viewer) and "Failed" in seen_by(viewer)
    assert "person 7" in seen_by(operator)


def test_only_members_of_a_pool_see_how_its_forecasts_do(pool: Pool) -> None:
    ForecastScore.objects.create(
        pool=pool,
        day=NIGHT.date(),
        resource="cpu_cores",
        forecast_as_of=NIGHT,
        hours=1000,
        loss=50,
        naive_loss=100,
        inside_50=500,
        inside_80=800,
        inside_90=900,
    )
    member, stranger = User.objects.create_user("vera"), User.objects.create_user("eve")
    for user in (member, stranger):
        user.groups.add(Group.objects.get(name="viewer"))
    pool.members.add(member)
    (health,) = health_for(member, days=7)
    assert (health.week.loss_ratio, health.week.coverage[0.8]) == (0.5, 0.8)
    assert health_for(stranger, days=7) == []
    running = start(pool)
    ForecastAlert.objects.create(
        pool=pool, resource="cpu_cores", kind="loss", detail="worse than naive", raised_at=NIGHT
    )
    page = seen_by(member)
    assert ">80<" in page.replace(" %", "") and "0.50" in page and "worse than naive" in page
    assert running.get_kind_display() in page
    assert "worse than naive" not in seen_by(stranger)


def seen_by(user: User) -> str:
    client = Client()
    client.force_login(user)
    answer = client.get("/accuracy/published/")
    assert answer.status_code == 200
    return answer.content.decode()


# ---- one person, one series


def test_a_resize_a_move_and_a_new_desktop_leave_a_person_the_same_series(pool: Pool) -> None:
    """Half of two cores and a quarter of four are one core, at this desktop or the next."""
    (person,) = add_people(pool, 1)
    old = Desktop.objects.create(
        dataset=pool.dataset, pool=pool, key="old", label="old", desktop_user=person
    )
    hours = [NIGHT - n * HOUR for n in range(6, 0, -1)]
    samples = (
        # time;cores;capacity;used MHz;used %;memory capacity KB;used KB;read;written;in;out KB/s
        *(f"{int(h.timestamp())};2;5200;2600;50;8388608;4194304;1;1;1;1\n" for h in hours[:3]),
        *(f"{int(h.timestamp())};4;10400;2600;25;16777216;4194304;1;1;1;1\n" for h in hours[3:]),
    )
    use = machine_hours(samples)
    for hour, cores, memory in zip(hours[:4], *(column[:4] for column in use), strict=True):
        at_work(person, old, hour, cpu_cores=cores, memory_bytes=memory)
    Desktop.objects.filter(pk=old.pk).update(desktop_user=None)
    new = Desktop.objects.create(
        dataset=pool.dataset, pool=pool, key="new", label="new", desktop_user=person
    )
    for hour, cores, memory in zip(hours[4:], *(column[4:] for column in use), strict=True):
        at_work(person, new, hour, cpu_cores=cores, memory_bytes=memory)
    history = read_history(pool.dataset, until=NIGHT, days=1)
    assert [(s.desktop_user_id, s.desktop_id) for s in history.subjects] == [
        (None, old.pk),
        (person.pk, new.pk),
    ]
    assert history.demand["cpu_cores"][1, -6:].tolist() == [1.0] * 6
    assert history.demand["memory_bytes"][1, -6:].tolist() == [4 * 2**30] * 6


def machine_hours(lines: Sequence[str]) -> tuple[list[float], list[float]]:
    """Cores and bytes of lines of a recording that has shares and capacities, too."""
    header = "Timestamp [ms];" + ";".join(f"column {n}" for n in range(10)) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1.csv"
        path.write_text(header + "".join(lines))
        (samples,) = bitbrains.read(path, ReadOptions(), Rejections(), lambda n: None)
    return tuple(samples.measures[name].tolist() for name in ("cpu_cores", "memory_bytes"))


def at_work(person: DesktopUser, desktop: Desktop, hour: datetime, **used: float) -> None:
    Activity.objects.create(
        dataset=person.dataset,
        desktop_user=person,
        desktop=desktop,
        hour=hour,
        active_ratio=1,
        **used,
    )
