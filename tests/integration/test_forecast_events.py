"""What is announced, and what ran beside it, reaches the forecast; nothing from after it does."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from desktops.models import (
    Activity,
    ApplicationUse,
    Dataset,
    Desktop,
    DesktopUser,
    DiskRead,
    Notice,
    Pool,
)
from desktops.services.notices import withdraw_notice
from forecasting.core.profiles import HORIZON_HOURS
from forecasting.history import Subject, read_history
from forecasting.models import ResourceDemandProfile
from forecasting.services.applications import MOST_APPLICATIONS, read_related
from forecasting.services.calendars import holidays_of, leave_of, read_notices
from forecasting.services.forecasts import run_forecast
from tests.support.history import write_history
from tests.support.rows import AS_OF, Rows, make_rows

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# The data set's clock is of the past, the wall's is not: notices are received by the wall's.
WALL = datetime.fromisoformat("2026-06-01T12:30:00+00:00")
START, HOURS = AS_OF - 7 * DAY, 14 * 24
WEDNESDAY = datetime.fromisoformat("2026-03-04T00:00:00+00:00")


@pytest.fixture
def rows() -> Rows:
    """Four people at work from eight to five every day, seen up to Monday, 2 March, 8:00 UTC."""
    rows = make_rows()
    rows.add_people(4)
    write_history(rows)
    return rows


def announce(dataset: Dataset, kind: str, first: datetime, end: datetime, **about: Any) -> Notice:
    values = {"received_at": WALL - HOUR, "origin": "rest", "provenance": "test"} | about
    return Notice.objects.create(
        dataset=dataset, kind=kind, starts_at=first, ends_at=end, uid=uuid4().hex, **values
    )


def people_of(rows: Rows) -> list[DesktopUser]:
    return list(DesktopUser.objects.filter(dataset=rows.dataset).order_by("pk"))


def forecast(rows: Rows, *, wall: datetime = WALL) -> dict[int, ResourceDemandProfile]:
    """The profile of each person."""
    generation = run_forecast(dataset_id=rows.dataset.pk, clock=lambda: wall)
    return {each.desktop_user_id: each for each in generation.profiles.all()}


def at_work(profile: ResourceDemandProfile, day: datetime) -> np.ndarray:
    """Probability of a session from nine to five of a day."""
    first = (day - profile.starts_at) // HOUR + 9
    return np.array(profile.p_active)[first : first + 8]


def test_announced_leave_empties_its_hours_until_it_is_withdrawn(rows: Rows) -> None:
    ana, ben, *_ = people_of(rows)
    leave = announce(rows.dataset, "leave", WEDNESDAY, WEDNESDAY + DAY, desktop_user=ana)
    there = forecast(rows)
    assert at_work(there[ana.pk], WEDNESDAY).max() < 0.15
    assert at_work(there[ana.pk], WEDNESDAY + DAY).min() > 0.7
    assert at_work(there[ben.pk], WEDNESDAY).min() > 0.7

    assert withdraw_notice(notice=leave, actor="test", at=WALL + HOUR)
    back = forecast(rows, wall=WALL + 2 * HOUR)
    assert at_work(back[ana.pk], WEDNESDAY).min() > 0.7


def test_a_day_on_which_a_pool_is_closed_is_as_a_sunday_there(rows: Rows) -> None:
    Activity.objects.filter(hour__iso_week_day__gte=6).delete()
    ana, *others = people_of(rows)
    office = Pool.objects.create(dataset=rows.dataset, name="office", label="Office")
    DesktopUser.objects.filter(pk=ana.pk).update(pool=office)
    announce(rows.dataset, "closed", WEDNESDAY, WEDNESDAY + DAY, pool=office, title="Removal")
    made = forecast(rows)
    assert at_work(made[ana.pk], WEDNESDAY).max() < 0.3
    assert at_work(made[ana.pk], WEDNESDAY - DAY).min() > 0.6
    for other in others:
        assert at_work(made[other.pk], WEDNESDAY).min() > 0.6


def test_a_notice_counts_from_when_it_was_received_and_until_it_was_withdrawn(rows: Rows) -> None:
    span = (WEDNESDAY, WEDNESDAY + DAY)
    kept = [
        announce(rows.dataset, "closed", *span, title="known"),
        announce(rows.dataset, "closed", *span, title="held", withdrawn_at=WALL + HOUR),
    ]
    announce(rows.dataset, "closed", *span, title="later", received_at=WALL + HOUR)
    announce(rows.dataset, "closed", *span, title="gone", withdrawn_at=WALL - HOUR)
    announce(rows.dataset, "busy", START - 2 * DAY, START - DAY, title="long ago")
    found = read_notices(rows.dataset, start=START, hours=HOURS, known_at=WALL)
    assert {notice.pk for notice in found} == {notice.pk for notice in kept}


def test_travel_is_no_leave_and_other_peoples_leave_is_nobodys_event(rows: Rows) -> None:
    ana, ben, *_ = people_of(rows)
    announce(rows.dataset, "travel", START, START + DAY, desktop_user=ana, site=rows.sites[1])
    announce(rows.dataset, "leave", START + 1.5 * HOUR, START + 3 * HOUR, desktop_user=ben)
    subjects = read_history(rows.dataset, until=AS_OF, days=7).subjects
    notices = read_notices(rows.dataset, start=START, hours=HOURS, known_at=WALL)
    absent = leave_of(subjects, START, HOURS, notices)
    assert absent is not None and absent.shape == (4, HOURS)
    assert np.argwhere(absent).tolist() == [
        [[s.desktop_user_id for s in subjects].index(ben.pk), 2]
    ]
    assert holidays_of(subjects, START, HOURS, notices) is None


def test_events_reach_the_pool_the_site_or_everybody_they_are_about(rows: Rows) -> None:
    ana, *others = people_of(rows)
    DesktopUser.objects.filter(pk=ana.pk).update(home_site=rows.sites[1])
    for first in (START, START + 8 * DAY):
        announce(rows.dataset, "busy", first, first + DAY, title="Quarter close")
    announce(rows.dataset, "other", START, START + HOUR, title="Fair", site=rows.sites[1])
    elsewhere = Pool.objects.create(dataset=rows.dataset, name="elsewhere", label="Elsewhere")
    announce(rows.dataset, "busy", START, START + DAY, title="Not ours", pool=elsewhere)

    subjects = read_history(rows.dataset, until=AS_OF, days=7).subjects
    notices = read_notices(rows.dataset, start=START, hours=HOURS, known_at=WALL)
    holidays = holidays_of(subjects, START, HOURS, notices)
    assert holidays is not None and holidays.calendar is not None
    assert holidays.names == ("busy: quarter close", "other: fair")
    assert not holidays.is_day_off.any()
    of = {
        s.desktop_user_id: holidays.flags[c]
        for s, c in zip(subjects, holidays.calendar, strict=True)
    }
    assert of[ana.pk].sum(axis=0).tolist() == [48, 1]
    for other in others:
        assert of[other.pk].sum(axis=0).tolist() == [48, 0]


def test_people_with_the_same_events_share_a_calendar_and_queries_do_not_grow(rows: Rows) -> None:
    (ana, *_) = people_of(rows)
    home = rows.sites[0]
    home.country = "FR"
    home.save()
    announce(rows.dataset, "busy", START, START + DAY, title="Fair", site=home)

    def ask() -> tuple[int, int]:
        people = people_of(rows)
        for person in people:
            announce(rows.dataset, "leave", START, START + DAY, desktop_user=person)
            use(person, ana.desktop, len(people), editor=5.0)
        subjects = read_history(rows.dataset, until=AS_OF, days=7).subjects
        with CaptureQueriesContext(connection) as queries:
            notices = read_notices(rows.dataset, start=START, hours=HOURS, known_at=WALL)
            holidays = holidays_of(subjects, START, HOURS, notices)
            absent = leave_of(subjects, START, HOURS, notices)
            read_related(subjects, START, 7 * 24)
        assert holidays is not None and absent is not None
        assert absent.any(axis=1).all()
        return len(holidays.flags), len(queries)

    few = ask()
    DesktopUser.objects.bulk_create(
        DesktopUser(dataset=rows.dataset, pool=rows.pool, pseudonym=f"p{i}", home_site=home)
        for i in range(40)
    )
    assert ask() == few == (1, 6)


# Application use


def use(person: DesktopUser | None, desktop: Desktop, hour: int, **core_s: float) -> None:
    ApplicationUse.objects.bulk_create(
        ApplicationUse(
            desktop=desktop,
            desktop_user=person,
            hour=START + hour * HOUR,
            application=name,
            cpu_core_s=seconds,
        )
        for name, seconds in core_s.items()
    )


def test_use_is_told_by_application_zero_after_the_first_and_unknown_before(rows: Rows) -> None:
    ana, ben, cy, _ = people_of(rows)
    machine = rows.add_machine()
    use(ana, ana.desktop, 5, editor=100.0)
    use(ana, ana.desktop, 30, editor=60.0, planner=7.0)
    use(ana, ben.desktop, 30, editor=30.0)  # at somebody else's: hers all the same
    use(None, machine, 8, batch=50.0)
    use(cy, cy.desktop, -1, editor=1.0)
    use(cy, cy.desktop, 7 * 24, editor=1.0)
    subjects = read_history(rows.dataset, until=AS_OF, days=7).subjects
    related = read_related(subjects, START, 7 * 24)
    assert related is not None and related.dtype == np.float32
    assert related.shape == (5, 7 * 24, 3)

    row_of = {(s.desktop_user_id, s.desktop_id): row for row, s in enumerate(subjects)}
    hers = related[row_of[ana.pk, ana.desktop.pk]]
    assert np.isnan(hers[:5]).all() and np.isfinite(hers[5:]).all()
    assert hers[5].sum() == 100
    assert sorted(hers[30].tolist()) == [0, 7, 90]
    assert hers[31:].sum() == 0
    of_machine = related[row_of[None, machine.pk]]
    assert np.isnan(of_machine[:8]).all() and of_machine[8:].sum() == 50
    for nothing in (ben, cy):  # his came before and after
        assert np.isnan(related[row_of[nothing.pk, nothing.desktop.pk]]).all()


def test_kept_apart_are_the_applications_that_run_on_some_days_only(rows: Rows) -> None:
    (ana, *_) = people_of(rows)
    daily = {f"daily{i}": 1000.0 + i for i in range(MOST_APPLICATIONS)}
    for day in range(6):
        use(ana, ana.desktop, 24 * day + 9, **daily)
    use(ana, ana.desktop, 3 * 24 + 10, planner=5.0)
    subject = Subject(ana.pk, ana.desktop.pk, ana.pool_id, "", "UTC")
    related = read_related([subject], START, 7 * 24)
    assert related is not None and related.shape == (1, 7 * 24, MOST_APPLICATIONS + 1)
    assert related[0, 3 * 24 + 10, 0] == 5
    assert related[0, 9].sum() == sum(daily.values())


def test_disk_reads_of_a_day_are_told_when_it_is_over(rows: Rows) -> None:
    ana, ben, *_ = people_of(rows)
    for days, read_bytes in ((0, [4, 5]), (2, [1]), (7, [10**6])):  # the last is today
        DiskRead.objects.create(
            desktop=ana.desktop,
            day=(START + days * DAY).date(),
            extent_bytes=2**20,
            extents=list(range(len(read_bytes))),
            read_bytes=read_bytes,
        )
    subjects = read_history(rows.dataset, until=AS_OF, days=7).subjects
    related = read_related(subjects, START, 7 * 24)
    assert related is not None and related.shape == (4, 7 * 24, 1)
    users = [s.desktop_user_id for s in subjects]
    hers = related[users.index(ana.pk), :, 0]
    first, second = 23 - START.hour, 23 - START.hour + 48
    assert np.isnan(hers[:first]).all()
    assert {slot: hers[slot] for slot in np.flatnonzero(np.nan_to_num(hers))} == {
        first: 9,
        second: 1,
    }
    assert np.isnan(related[users.index(ben.pk)]).all()


def test_without_any_use_there_is_nothing_to_tell(rows: Rows) -> None:
    subjects = read_history(rows.dataset, until=AS_OF, days=7).subjects
    assert read_related(subjects, START, 7 * 24) is None


def test_use_after_the_clock_changes_no_forecast(rows: Rows) -> None:
    (ana, *_) = people_of(rows)
    for day in range(1, 30):
        use(ana, ana.desktop, 7 * 24 - 24 * day, editor=100.0 * (day % 3), planner=5.0)
    before = forecast(rows)[ana.pk]
    use(ana, ana.desktop, 7 * 24, editor=1e6)
    DiskRead.objects.create(
        desktop=ana.desktop,
        day=date(2026, 3, 2),
        extent_bytes=2**20,
        extents=[0],
        read_bytes=[10**12],
    )
    after = forecast(rows, wall=WALL + HOUR)[ana.pk]
    assert len(before.p_active) == HORIZON_HOURS
    np.testing.assert_array_equal(np.array(before.cpu_cores), np.array(after.cpu_cores))
