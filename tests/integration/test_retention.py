"""What is older than its kind is kept goes, by the clock of its data set."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from django.db import connection
from django.utils import timezone

from desktops.models import (
    Activity,
    Batch,
    Dataset,
    Desktop,
    Look,
    Notice,
    QuarantinedRow,
    Sample,
    Source,
)
from desktops.services import retention
from desktops.services.ingest import ensure_source
from desktops.services.samples import Rows as SampleRows
from desktops.services.samples import partition_days, write_samples
from forecasting.models import Generation, ResourceDemandProfile
from migration.models import Plan, Recommendation, Transition
from migration.services.retention import enforce_retention as enforce_plans
from tests.support.rows import AS_OF, Rows, add_profile, make_rows

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)
WALL = datetime(2026, 11, 23, 12, tzinfo=AS_OF.tzinfo)


def sample(rows: Rows, at: datetime) -> Source:
    source = ensure_source(pool=rows.pool, kind=Source.Kind.AGENT)
    one = np.array([1])
    desktop = np.array([Desktop.objects.filter(pool=rows.pool).earliest("pk").pk])
    at_s = np.array([int(at.timestamp())])
    cpu = {"cpu_cores": np.array([1.0])}
    written = SampleRows(one, at_s, one * 0, desktop, one * 0, cpu)
    write_samples(source=source, rows=written, at=WALL)
    return source


def live_rows(name: str) -> Rows:
    rows = make_rows(name)
    Dataset.objects.filter(pk=rows.dataset.pk).update(kind=Dataset.Kind.LIVE, as_of=None)
    rows.add_people(Desktop.objects.count() + 1)
    return rows


def test_hours_go_by_the_clock_of_their_data_set() -> None:
    recorded, live = make_rows("recorded"), live_rows("live")
    recorded.add_people(2)
    for rows in (recorded, live):
        desktop = Desktop.objects.filter(pool=rows.pool).earliest("pk")
        for days in (399, 401):
            Activity.objects.create(
                dataset=rows.dataset, desktop=desktop, hour=AS_OF - days * DAY, cpu_cores=1
            )
    retention.enforce_retention(wall=WALL)
    left = Activity.objects.filter(dataset=recorded.dataset, desktop_user=None)
    assert [a.hour for a in left] == [AS_OF - 399 * DAY]
    # Live data is counted from the wall, which is months later.
    assert not Activity.objects.filter(dataset=live.dataset, desktop_user=None).exists()


def test_what_is_stamped_by_the_wall_goes_by_the_wall() -> None:
    rows = make_rows()
    (desktop,) = rows.add_people(1)
    source = ensure_source(pool=rows.pool, kind=Source.Kind.AGENT)
    for days in (29, 31):
        at = WALL - days * DAY
        for settled_at in (at, None):
            Batch.objects.create(
                source=source,
                desktop=desktop,
                batch_id=uuid4(),
                received_at=at,
                settled_at=settled_at,
            )
        QuarantinedRow.objects.create(
            source=source, received_at=at, reason="future", detail="x", row={}
        )
    for days in (399, 401):
        Look.objects.create(viewer="vera", alias="a", what="page", hour=WALL - days * DAY)
    gone = retention.enforce_retention(wall=WALL)
    assert gone == {"batches": 1, "quarantine": 1, "looks": 1}
    # What was accepted and is not in the tables yet is kept, however old.
    assert Batch.objects.filter(settled_at=None).count() == 2


def test_nothing_goes_where_zero_days_are_set(settings: Any) -> None:
    settings.RETENTION_DAYS = dict.fromkeys(settings.RETENTION_DAYS, 0)
    rows = live_rows("live")
    sample(rows, WALL - 100 * DAY)
    Look.objects.create(viewer="vera", alias="a", what="page", hour=WALL - 9999 * DAY)
    assert retention.enforce_retention(wall=WALL) == {}
    assert enforce_plans(wall=WALL + 9999 * DAY) == 0
    assert Look.objects.exists() and Sample.objects.exists()


def test_notices_go_a_while_after_their_end() -> None:
    rows = make_rows()
    for n, days in enumerate((399, 401)):
        Notice.objects.create(
            dataset=rows.dataset,
            kind="closed",
            starts_at=AS_OF - 500 * DAY,
            ends_at=AS_OF - days * DAY,
            origin="csv",
            provenance="calendar",
            uid=str(n),
            received_at=AS_OF,
        )
    retention.enforce_retention(wall=WALL)
    assert Notice.objects.get().uid == "0"


def test_a_day_of_samples_is_dropped_whole() -> None:
    rows = live_rows("live")
    for days in (13, 15, 16):
        sample(rows, WALL - days * DAY)
    assert retention.enforce_retention(wall=WALL)["days of samples"] == 2
    assert partition_days() == [(WALL - 13 * DAY).date()]
    assert Sample.objects.count() == 1


def test_a_day_that_another_data_set_keeps_stays_with_its_rows_alone() -> None:
    live, recorded = live_rows("live"), make_rows("recorded")
    recorded.add_people(Desktop.objects.count() + 1)
    at = AS_OF - DAY  # yesterday in the recorded one, months ago in the live one
    sample(live, at)
    kept = sample(recorded, at)
    assert "days of samples" not in retention.enforce_retention(wall=WALL)
    assert [s.source_id for s in Sample.objects.all()] == [kept.pk]


def test_a_second_run_at_the_same_time_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Look.objects.create(viewer="vera", alias="a", what="page", hour=WALL - 999 * DAY)
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [retention.LOCK])
        assert retention.enforce_retention(wall=WALL) == {}
        # A connection that is closed lets go of it a moment later.
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [retention.LOCK])
    finally:
        other.close()
    assert retention.enforce_retention(wall=WALL) == {"looks": 1}


def test_long_tables_are_emptied_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 2)
    for n in range(5):
        Look.objects.create(viewer=f"v{n}", alias="a", what="page", hour=WALL - 999 * DAY)
    assert retention.enforce_retention(wall=WALL) == {"looks": 5}


def test_what_is_due_no_longer_when_its_turn_comes_stays() -> None:
    for n in range(2):
        Look.objects.create(viewer=f"v{n}", alias="a", what="page", hour=WALL - 999 * DAY)
    is_touched = False

    def touch(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal is_touched
        if sql.startswith("DELETE") and not is_touched:
            is_touched = True
            Look.objects.filter(viewer="v1").update(hour=WALL)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(touch):
        retention.delete_in_steps(Look.objects.filter(hour__lt=WALL - DAY))
    assert is_touched and Look.objects.get().viewer == "v1"


def test_old_plans_and_forecasts_go_but_for_what_a_move_followed() -> None:
    rows = make_rows()
    first, second = rows.add_people(2)
    move = rows.add_transition(first)
    advice = Recommendation.objects.get(desktop=first)
    Transition.objects.filter(pk=move.pk).update(recommendation=advice)
    Plan.objects.update(superseded_at=timezone.now())
    for days in (0, 200):
        newer = Generation.objects.create(
            dataset=rows.dataset,
            as_of=AS_OF + days * DAY,
            engine="test",
            state=Generation.State.COMPLETE,
            started_at=AS_OF,
        )
        add_profile(newer, rows.pool, desktop=second)
    Dataset.objects.filter(pk=rows.dataset.pk).update(as_of=AS_OF + 91 * DAY)

    assert enforce_plans(wall=WALL) > 0

    assert list(Recommendation.objects.all()) == [advice]
    assert list(Plan.objects.all()) == [rows.plan]
    assert set(Generation.objects.all()) == {rows.generation, newer}
    assert [p.generation for p in ResourceDemandProfile.objects.all()] == [newer]
    assert enforce_plans(wall=WALL) == 0


def test_the_current_plan_and_the_latest_forecast_never_grow_too_old() -> None:
    rows = make_rows()
    rows.add_people(1)
    Dataset.objects.filter(pk=rows.dataset.pk).update(as_of=AS_OF + 999 * DAY)
    assert enforce_plans(wall=WALL) == 0
    assert Plan.objects.exists() and ResourceDemandProfile.objects.exists()
