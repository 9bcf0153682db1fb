from __future__ import annotations

import pytest
from django.utils import timezone

from desktops.core.cloud import CloudUnavailable, Inventory, ServerSpec, VolumeSpec
from desktops.models import Dataset, Desktop, Flavor, FlavorPrice, Pool
from desktops.services.inventory import Drift, sync_inventory
from migration.services.decisions import approve_recommendation
from tests.support.fleet import make_fleet
from tests.support.simulator import GB, SimulatorProcess, desktop, eventually, two_regions

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def pool(simulated: SimulatorProcess) -> Pool:
    simulated.admin.load_world(two_regions())
    dataset = Dataset.objects.create(name="live", label="Live", kind=Dataset.Kind.LIVE)
    return Pool.objects.create(dataset=dataset, name="live", label="Live")


def sync(pool: Pool, cloud: object) -> Drift:
    return sync_inventory(cloud=cloud, pool=pool, at=timezone.now())  # type: ignore[arg-type]


def test_servers_become_desktops_once(simulated: SimulatorProcess, pool: Pool) -> None:
    simulated.admin.adopt([desktop("ana"), desktop("ben", is_running=False)])
    drift = sync(pool, simulated.cloud())
    assert len(drift.added) == 2
    rows = {d.label: d for d in Desktop.objects.select_related("region", "flavor")}
    assert rows["ana"].state == Desktop.State.RUNNING
    assert rows["ben"].state == Desktop.State.STOPPED
    assert rows["ana"].region.name == "east"
    assert rows["ana"].volume_id and rows["ana"].volume_bytes == 40 * 10**9
    assert FlavorPrice.objects.count() == 2 * Flavor.objects.count()
    assert sync(pool, simulated.cloud()) == Drift((), (), (), ())


def test_drift_is_seen_and_nothing_is_deleted(simulated: SimulatorProcess, pool: Pool) -> None:
    (ana, ben) = simulated.admin.adopt([desktop("ana"), desktop("ben")])
    cloud = simulated.cloud()
    sync(pool, cloud)
    cloud.stop_server("east", ana.server_id)
    cloud.delete_server("east", ben.server_id)
    eventually(lambda: {s.status for s in cloud.inventory("east").servers} == {"SHUTOFF"})
    drift = sync(pool, cloud)
    assert (len(drift.changed), len(drift.missing)) == (1, 1)
    states = dict(Desktop.objects.values_list("label", "state"))
    assert states == {"ana": Desktop.State.STOPPED, "ben": Desktop.State.MISSING}


def test_a_region_that_cannot_be_listed_keeps_its_desktops(
    simulated: SimulatorProcess, pool: Pool
) -> None:
    simulated.admin.adopt([desktop("ana")])
    sync(pool, simulated.cloud())

    class EastIsDown:
        name = "simulated"
        regions = simulated.cloud().regions

        def inventory(self, region: str) -> Inventory:
            if region == "east":
                raise CloudUnavailable("east does not answer")
            return simulated.cloud().inventory(region)

    drift = sync(pool, EastIsDown())
    assert drift.missing == ()
    assert "east does not answer" in drift.failed[0]
    assert Desktop.objects.get().state == Desktop.State.RUNNING


def test_another_pools_servers_do_not_become_this_pools_desktops(
    simulated: SimulatorProcess, pool: Pool
) -> None:
    simulated.admin.adopt([desktop("ana")])
    sync(pool, simulated.cloud())
    other = Pool.objects.create(dataset=pool.dataset, name="other", label="Other")
    assert sync(other, simulated.cloud()).added == ()
    assert Desktop.objects.get().pool == pool


def test_halves_of_a_move_are_no_new_desktops(simulated: SimulatorProcess) -> None:
    fleet = make_fleet(simulated)
    moving = fleet.desktop(simulated)
    transition = approve_recommendation(
        recommendation_id=fleet.recommendation(moving).pk, actor=fleet.alice, at=timezone.now()
    )
    cloud = simulated.cloud()
    disk = VolumeSpec(name="half", size_bytes=20 * GB, image="desktop-2026")
    volume = cloud.create_volume("east", disk, key="disk")
    eventually(lambda: cloud.volume("east", volume.id).status == "available")
    spec = ServerSpec(name="half", flavor="desktop.small", boot_volume_id=volume.id)
    half = cloud.create_server("east", spec, key="half")
    transition.dest_server_id = half.id
    transition.save()
    assert sync(fleet.pool, cloud).added == ()
