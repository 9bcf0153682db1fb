"""The demo fleet in the tables and in the simulated cloud."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from django.db import IntegrityError
from django.db.models import Max, Min, Sum
from django.utils import timezone

from desktops.clouds.registry import get_cloud
from desktops.models import (
    Activity,
    ApplicationUse,
    Dataset,
    Desktop,
    DesktopUser,
    Drift,
    Event,
    FlavorPrice,
    Pool,
    RoundTrip,
)
from desktops.services.inventory import Synced, sync_inventory
from forecasting.history import read_history
from forecasting.services.applications import read_related
from tests.support.simulator import SimulatorProcess
from webapp.seeding import seed

WALL = datetime(2026, 3, 4, 9, 20, tzinfo=UTC)


def seed_shortly(wall: datetime = WALL) -> Dataset:
    """The demo fleet with a week of history, which is quicker to write."""
    return seed(wall=wall, history_days=7, progress=lambda text: None)


@pytest.mark.django_db
def test_the_demo_fleet_is_written_and_placed(simulated: SimulatorProcess) -> None:
    dataset = seed_shortly()

    assert dataset.kind == Dataset.Kind.SIMULATED
    assert dataset.as_of == datetime(2026, 3, 4, 9, tzinfo=UTC)
    assert DesktopUser.objects.count() == Desktop.objects.count() == 200
    assert Pool.objects.get(name="engineering").gravity_region.name == "eu-central-1"
    assert RoundTrip.objects.count() == 12 * 5
    assert Event.objects.filter(kind="demo.seeded").count() == 4
    cloud = get_cloud("simulated")
    running = {
        (server.id, region)
        for region in cloud.regions()
        for server in cloud.inventory(region).servers
        if server.accepts_sessions
    }
    written = {(d.server_id, d.region.name) for d in Desktop.objects.select_related("region")}
    assert running == written
    assert len({region for _, region in written}) == 5


@pytest.mark.django_db
def test_comparing_the_new_fleet_with_its_cloud_finds_nothing(simulated: SimulatorProcess) -> None:
    seed_shortly()
    rows = (Desktop.objects.order_by("pk"), FlavorPrice.objects.order_by("pk"))
    before = [list(table.values()) for table in rows]

    synced = sync_inventory(cloud=get_cloud("simulated"), at=timezone.now())
    assert synced == [Synced(pool) for pool in Pool.objects.order_by("pk")]
    assert [list(table.values()) for table in rows] == before
    assert not Drift.objects.exists()


@pytest.mark.django_db
def test_its_history_is_eight_weeks_that_end_at_the_current_hour(
    simulated: SimulatorProcess,
) -> None:
    dataset = seed(wall=WALL, progress=lambda text: None)

    hours = Activity.objects.aggregate(first=Min("hour"), last=Max("hour"))
    assert hours["last"] == datetime(2026, 3, 4, 8, tzinfo=UTC)
    assert hours["first"] == hours["last"] - timedelta(hours=56 * 24 - 1)
    assert Activity.objects.filter(active_ratio=0, site__isnull=False).count() == 0
    assert Activity.objects.filter(active_ratio__gt=0, site__isnull=True).count() == 0
    assert DesktopUser.objects.filter(activity__isnull=True).count() == 3
    used = ApplicationUse.objects.aggregate(first=Min("hour"), last=Max("hour"))
    assert hours["first"] <= used["first"] and used["last"] <= hours["last"]
    planners = ApplicationUse.objects.filter(application="planner").values("desktop_user")
    assert planners.distinct().count() == 20
    # What the forecast keeps apart holds what tells of tomorrow.
    history = read_history(dataset, until=WALL, days=56)
    related = read_related(history.subjects, history.start, history.hours)
    planned_core_s = ApplicationUse.objects.filter(application="planner").aggregate(
        total=Sum("cpu_core_s")
    )
    of_kinds = np.nansum(related, axis=(0, 1), dtype=np.float64)
    assert np.isclose(of_kinds, planned_core_s["total"], rtol=1e-3).any()


@pytest.mark.django_db
def test_seeding_again_changes_nothing(simulated: SimulatorProcess) -> None:
    seed_shortly()
    before = list(Desktop.objects.values_list("key", "server_id"))
    seed_shortly(WALL + timedelta(days=3))

    assert list(Desktop.objects.values_list("key", "server_id")) == before
    assert Dataset.objects.get().as_of == datetime(2026, 3, 4, 9, tzinfo=UTC)


@pytest.mark.django_db
def test_a_lost_simulated_cloud_gets_its_desktops_back(simulated: SimulatorProcess) -> None:
    seed_shortly()
    simulated.stop()
    for file in simulated.store.parent.glob(f"{simulated.store.name}*"):
        file.unlink()
    simulated.start()
    seed_shortly()

    cloud = get_cloud("simulated")
    for desktop in Desktop.objects.select_related("region")[:5]:
        assert cloud.server(desktop.region.name, desktop.server_id).accepts_sessions


@pytest.mark.django_db(transaction=True)
def test_a_seeding_that_breaks_leaves_no_row_and_can_be_repeated(
    simulated: SimulatorProcess,
) -> None:
    other = Dataset.objects.create(name="other", label="Other", kind=Dataset.Kind.LIVE)
    in_the_way = Pool.objects.create(dataset=other, name="contractors", label="Mine")
    with pytest.raises(IntegrityError):
        seed_shortly()
    assert not Dataset.objects.filter(name="demo").exists()
    assert Desktop.objects.count() == Activity.objects.count() == 0

    in_the_way.delete()
    seed_shortly()
    assert Desktop.objects.count() == 200
