from __future__ import annotations

import pytest
from django.utils import timezone

from desktops.core.cloud import CloudUnavailable, Inventory
from desktops.models import Dataset, Desktop, Flavor, FlavorPrice, Pool
from desktops.services.inventory import Drift, sync_inventory
from tests.support.simulator import SimulatorProcess, desktop, eventually, two_regions

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
