from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from desktops import tasks
from desktops.core.cloud import (
    Cloud,
    CloudUnavailable,
    Inventory,
    Server,
    ServerSpec,
    ServerStatus,
    VolumeSpec,
)
from desktops.errors import SyncUnderWay
from desktops.models import (
    Dataset,
    Desktop,
    Drift,
    Event,
    Flavor,
    FlavorPrice,
    InventorySync,
    Pool,
    Region,
    RegionState,
)
from desktops.services.inventory import SYNC_LOCK, Synced, sync_cloud, sync_inventory
from migration.models import Transition
from migration.services.decisions import approve_recommendation
from tests.support.fleet import Fleet, make_fleet
from tests.support.simulator import GB, SimulatorProcess, desktop, eventually, two_regions

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def pool(simulated: SimulatorProcess) -> Pool:
    simulated.admin.load_world(two_regions())
    dataset = Dataset.objects.create(name="live", label="Live", kind=Dataset.Kind.LIVE)
    return Pool.objects.create(dataset=dataset, name="live", label="Live", cloud="simulated")


def sync(cloud: Cloud) -> Synced:
    """The first pool's outcome."""
    return sync_inventory(cloud=cloud, at=timezone.now())[0]


def drifts(pool: Pool) -> dict[str, str]:
    """Name → kind of what stands."""
    return dict(Drift.objects.filter(sync=pool.pk).values_list("name", "kind"))


class Seen:
    """A cloud of which every region's listing may be changed on its way."""

    name = "simulated"

    def __init__(self, cloud: Cloud, change: Callable[[Inventory], Inventory]) -> None:
        self.regions = cloud.regions
        self.asked: list[str] = []
        self._cloud, self._change = cloud, change

    def inventory(self, region: str) -> Inventory:
        self.asked.append(region)
        return self._change(self._cloud.inventory(region))


def east_is_down(inventory: Inventory) -> Inventory:
    if inventory.region == "east":
        raise CloudUnavailable("east does not answer")
    return inventory


def with_servers(**changes: Any) -> Callable[[Inventory], Inventory]:
    def change(inventory: Inventory) -> Inventory:
        return replace(inventory, servers=tuple(replace(s, **changes) for s in inventory.servers))

    return change


# Servers and desktops


def test_servers_become_desktops_once(simulated: SimulatorProcess, pool: Pool) -> None:
    simulated.admin.adopt([desktop("ana"), desktop("ben", is_running=False)])
    assert len(sync(simulated.cloud()).added) == 2
    rows = {d.label: d for d in Desktop.objects.select_related("region", "flavor")}
    assert rows["ana"].state == Desktop.State.RUNNING
    assert rows["ben"].state == Desktop.State.STOPPED
    assert rows["ana"].region.name == "east"
    assert rows["ana"].volume_id and rows["ana"].volume_bytes == 40 * 10**9
    assert FlavorPrice.objects.count() == 2 * Flavor.objects.count()
    assert sync(simulated.cloud()) == Synced(pool)


def test_drift_is_seen_and_nothing_is_deleted(simulated: SimulatorProcess, pool: Pool) -> None:
    (ana, ben) = simulated.admin.adopt([desktop("ana"), desktop("ben")])
    cloud = simulated.cloud()
    sync(cloud)
    cloud.stop_server("east", ana.server_id)
    cloud.delete_server("east", ben.server_id)
    eventually(lambda: {s.status for s in cloud.inventory("east").servers} == {"SHUTOFF"})
    sync(cloud)
    assert drifts(pool) == {"ana": "changed", "ben": "vanished"}
    assert Drift.objects.get(name="ana").detail == "running → stopped"
    states = dict(Desktop.objects.values_list("label", "state"))
    assert states == {"ana": Desktop.State.STOPPED, "ben": Desktop.State.MISSING}


def test_a_drift_stands_from_when_it_was_first_seen_until_it_is_gone(
    simulated: SimulatorProcess, pool: Pool
) -> None:
    simulated.admin.adopt([desktop("ana"), desktop("ben")])
    cloud, now = simulated.cloud(), timezone.now()
    gone = Seen(cloud, lambda inventory: replace(inventory, servers=inventory.servers[1:]))
    sync_inventory(cloud=cloud, at=now)
    for minutes in (5, 10):
        sync_inventory(cloud=gone, at=now + timedelta(minutes=minutes))
    drift = Drift.objects.get()
    assert (drift.kind, drift.name) == ("vanished", "ana")
    assert drift.first_seen_at == now + timedelta(minutes=5)
    sync_inventory(cloud=cloud, at=now + timedelta(minutes=15))
    assert list(Drift.objects.values_list("name", "detail")) == [("ana", "missing → running")]
    sync_inventory(cloud=cloud, at=now + timedelta(hours=24))
    assert Drift.objects.get().first_seen_at == now + timedelta(minutes=15)
    sync_inventory(cloud=cloud, at=now + timedelta(hours=25))
    assert not Drift.objects.exists(), "a change is shown for a day"
    assert Desktop.objects.filter(state=Desktop.State.RUNNING).count() == 2


def test_the_newest_change_of_a_desktop_is_shown(simulated: SimulatorProcess, pool: Pool) -> None:
    simulated.admin.adopt([desktop("ana")])
    cloud, now = simulated.cloud(), timezone.now()
    sync_inventory(cloud=cloud, at=now)
    stopped = Seen(cloud, with_servers(status=ServerStatus.SHUTOFF))
    for minutes, seen in ((5, stopped), (10, cloud), (15, stopped)):
        sync_inventory(cloud=seen, at=now + timedelta(minutes=minutes))
    drift = Drift.objects.get()
    assert (drift.detail, drift.first_seen_at) == (
        "running → stopped",
        now + timedelta(minutes=15),
    )


def test_a_resized_desktop_and_a_grown_volume_are_followed(
    simulated: SimulatorProcess, pool: Pool
) -> None:
    simulated.admin.adopt([desktop("ana")])
    cloud = simulated.cloud()
    sync(cloud)

    def resized(inventory: Inventory) -> Inventory:
        volumes = tuple(replace(v, size_bytes=80 * GB) for v in inventory.volumes)
        return with_servers(flavor="desktop.medium")(replace(inventory, volumes=volumes))

    sync(Seen(cloud, resized))
    assert Drift.objects.get().detail == (
        "flavor desktop.small → desktop.medium; volume 40 GB → 80 GB"
    )
    row = Desktop.objects.select_related("flavor").get()
    assert (row.flavor.name, row.volume_bytes) == ("desktop.medium", 80 * GB)


def test_a_status_that_says_nothing_changes_nothing(
    simulated: SimulatorProcess, pool: Pool
) -> None:
    simulated.admin.adopt([desktop("ana")])
    cloud = simulated.cloud()
    sync(cloud)
    assert sync(Seen(cloud, with_servers(status=ServerStatus.UNKNOWN))) == Synced(pool)


def test_a_region_that_cannot_be_listed_keeps_its_desktops(
    simulated: SimulatorProcess, pool: Pool
) -> None:
    simulated.admin.adopt([desktop("ana")])
    cloud, now = simulated.cloud(), timezone.now()
    sync_inventory(cloud=cloud, at=now)
    state = RegionState.objects.get(region__name="east").observed_at
    for minutes in (5, 10):
        seen = Seen(cloud, east_is_down)
        (synced,) = sync_inventory(cloud=seen, at=now + timedelta(minutes=minutes))
        assert synced.missing == ()
        assert "east does not answer" in synced.failed[0]
    drift = Drift.objects.get()
    assert (drift.kind, drift.name, drift.detail) == ("unlisted", "east", "east does not answer")
    assert drift.first_seen_at == now + timedelta(minutes=5)
    assert RegionState.objects.get(region__name="east").observed_at == state
    assert Desktop.objects.get().state == Desktop.State.RUNNING
    sync_inventory(cloud=cloud, at=now + timedelta(minutes=15))
    assert not Drift.objects.exists()


def test_what_was_known_of_an_unlisted_region_stands(
    simulated: SimulatorProcess, pool: Pool
) -> None:
    simulated.admin.adopt([desktop("ana")])
    cloud = simulated.cloud()
    sync(cloud)
    sync(Seen(cloud, lambda inventory: replace(inventory, servers=())))
    sync(Seen(cloud, east_is_down))
    assert drifts(pool) == {"ana": "vanished", "east": "unlisted"}


def test_a_region_the_cloud_names_no_more_keeps_its_desktops(
    simulated: SimulatorProcess, pool: Pool
) -> None:
    simulated.admin.adopt([desktop("ana")])
    cloud = simulated.cloud()
    sync(cloud)
    without_east = Seen(cloud, lambda inventory: inventory)
    without_east.regions = lambda: ("west",)
    sync(without_east)
    assert drifts(pool) == {"east": "unlisted"}
    assert Desktop.objects.get().state == Desktop.State.RUNNING


# Whose servers


def test_one_listing_serves_every_pool_and_names_say_whose(
    simulated: SimulatorProcess, pool: Pool
) -> None:
    Pool.objects.update(server_names="ana-*")
    other = Pool.objects.create(
        dataset=pool.dataset, name="other", label="Other", cloud="simulated", server_names="*-1"
    )
    names = ("ana-1", "ana-2", "ben-1", "cam-2")
    simulated.admin.adopt([desktop(name) for name in names])
    cloud = Seen(simulated.cloud(), lambda inventory: inventory)
    sync(cloud)
    assert sorted(cloud.asked) == ["east", "west"]
    owners = dict(Desktop.objects.values_list("label", "pool__name"))
    assert owners == {"ana-2": "live", "ben-1": "other"}
    assert drifts(pool) == drifts(other) == {"ana-1": "unknown", "cam-2": "unknown"}
    details = dict(Drift.objects.filter(sync=pool.pk).values_list("name", "detail"))
    assert details["ana-1"] == "Its name fits several pools: live, other."
    assert details["cam-2"] == "Its name fits no pool's pattern."


def test_another_pools_desktops_stay_its_own(simulated: SimulatorProcess, pool: Pool) -> None:
    simulated.admin.adopt([desktop("ana")])
    sync(simulated.cloud())
    Pool.objects.update(cloud="", server_names="*")
    other = Pool.objects.create(
        dataset=pool.dataset, name="other", label="Other", cloud="simulated"
    )
    assert sync(simulated.cloud()) == Synced(other)
    assert Desktop.objects.get().pool == pool


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"status": ServerStatus.BUILD}, {}),
        ({"status": ServerStatus.ERROR, "fault": "No valid host"}, {"ana": "unknown"}),
        ({"status": ServerStatus.UNKNOWN}, {"ana": "unknown"}),
        ({"key": "t-gone:create_dest"}, {"ana": "unknown"}),
        ({"name": "n" * 255}, None),
    ],
)
def test_only_a_whole_server_of_somebody_becomes_a_desktop(
    simulated: SimulatorProcess,
    pool: Pool,
    changes: dict[str, Any],
    seen: dict[str, str] | None,
) -> None:
    simulated.admin.adopt([desktop("ana")])
    sync(Seen(simulated.cloud(), with_servers(**changes)))
    assert Desktop.objects.exists() == (seen is None)
    assert drifts(pool) == (seen or {})


# Desktops on the move


def moving(simulated: SimulatorProcess) -> tuple[Fleet, Transition]:
    fleet = make_fleet(simulated, cloud="simulated")
    return fleet, approve_recommendation(
        recommendation_id=fleet.recommendation(fleet.desktop(simulated)).pk,
        actor=fleet.alice,
        at=timezone.now(),
    )


def half_made(simulated: SimulatorProcess, *, key: str) -> Server:
    cloud = simulated.cloud()
    disk = VolumeSpec(name="half", size_bytes=20 * GB, image="desktop-2026")
    volume = cloud.create_volume("east", disk, key="disk")
    eventually(lambda: cloud.volume("east", volume.id).status == "available")
    spec = ServerSpec(name="half", flavor="desktop.small", boot_volume_id=volume.id)
    made = cloud.create_server("east", spec, key=key)
    return eventually(lambda: cloud.server("east", made.id), lambda server: server.is_running)


def test_halves_of_a_move_are_no_new_desktops(simulated: SimulatorProcess) -> None:
    fleet, transition = moving(simulated)
    # Before its id is written down, its key says whose it is.
    half = half_made(simulated, key=f"{transition.key}:create_dest")
    assert sync(simulated.cloud()) == Synced(fleet.pool)
    transition.dest_server_id = half.id
    transition.save()
    assert sync(simulated.cloud()) == Synced(fleet.pool)


def test_a_server_that_a_move_left_behind_is_shown(simulated: SimulatorProcess) -> None:
    _, transition = moving(simulated)
    half_made(simulated, key=f"{transition.key}:create_dest")
    now = timezone.now()
    Transition.objects.update(finished_at=now - timedelta(minutes=1), state="failed")
    synced = sync(simulated.cloud())
    assert (synced.added, synced.unknown) == ((), ("half",))


def test_a_desktop_on_the_move_is_left_to_its_transition(simulated: SimulatorProcess) -> None:
    fleet, _ = moving(simulated)
    nothing = Seen(simulated.cloud(), lambda inventory: replace(inventory, servers=()))
    assert sync(nothing) == Synced(fleet.pool)


def test_a_move_that_ended_since_the_listing_is_not_undone(simulated: SimulatorProcess) -> None:
    """The listing is older than the rows: it still shows the source, and no destination."""
    fleet, _ = moving(simulated)
    began_at = timezone.now()

    def ended(inventory: Inventory) -> Inventory:
        now = timezone.now()
        Desktop.objects.update(server_id="new", region=fleet.west, moved_at=now)
        Transition.objects.update(finished_at=now, state="done")
        return inventory

    (synced,) = sync_inventory(cloud=Seen(simulated.cloud(), ended), at=began_at)
    assert synced == Synced(fleet.pool)
    assert Desktop.objects.get().state != Desktop.State.MISSING


# Regions and quotas


def test_quotas_and_hosts_of_regions_are_kept(simulated: SimulatorProcess, pool: Pool) -> None:
    simulated.admin.adopt([desktop("ana")])
    sync(simulated.cloud())
    state = RegionState.objects.select_related("region").get(region__name="east")
    quota = simulated.cloud().inventory("east").quota
    assert (state.servers, state.servers_used) == (quota.servers, 1)
    assert (state.volume_bytes_used, state.vcpus_used) == (40 * GB, 2)
    assert state.hosts[0] == {"name": "east-host-1", "is_up": True, "is_enabled": True}


def test_a_price_entered_by_hand_outlives_a_cloud_that_knows_none(
    simulated: SimulatorProcess, pool: Pool
) -> None:
    cloud = simulated.cloud()
    sync(cloud)
    FlavorPrice.objects.update(price_per_hour="0.42")

    def priceless(inventory: Inventory) -> Inventory:
        flavors = tuple(replace(f, price_per_hour_micros=None) for f in inventory.flavors)
        return replace(inventory, flavors=flavors)

    sync(Seen(cloud, priceless))
    assert {str(price.price_per_hour) for price in FlavorPrice.objects.all()} == {"0.420000"}


# Doors


def test_a_cloud_that_fails_leaves_everything_and_says_so(
    simulated: SimulatorProcess, pool: Pool
) -> None:
    simulated.admin.adopt([desktop("ana")])
    first = timezone.now()
    sync_cloud(name="simulated", at=first)
    simulated.stop()
    for _ in range(2):
        tasks.sync_cloud("simulated")
    state = InventorySync.objects.get()
    assert state.succeeded_at == first and state.attempted_at > first
    assert state.failure and Desktop.objects.get().state == Desktop.State.RUNNING
    kinds = list(Event.objects.order_by("seq").values_list("kind", flat=True))
    assert kinds == ["inventory.synced", "inventory.failed"]  # once, not every five minutes
    simulated.start()
    tasks.sync_cloud("simulated")
    assert InventorySync.objects.get().failure == ""
    assert Event.objects.latest("seq").kind == "inventory.synced"


def test_a_cloud_that_is_not_configured_is_told(simulated: SimulatorProcess, pool: Pool) -> None:
    Pool.objects.update(cloud="nowhere")
    with pytest.raises(ImproperlyConfigured):
        sync_cloud(name="nowhere", at=timezone.now())
    assert InventorySync.objects.get().failure == "No cloud 'nowhere' in CLOUDS."


def test_nothing_new_is_no_event(simulated: SimulatorProcess, pool: Pool) -> None:
    simulated.admin.adopt([desktop("ana")])
    for _ in range(3):
        sync_cloud(name="simulated", at=timezone.now())
    assert Event.objects.get().payload["added"] == 1
    tasks.sync_cloud("simulated", "otto")
    assert Event.objects.get(actor="otto").payload["added"] == 0, "who asked is told"


def test_one_comparison_of_a_cloud_at_a_time(simulated: SimulatorProcess, pool: Pool) -> None:
    with psycopg.connect(**connection.get_connection_params() | {"cursor_factory": None}) as other:
        lock = "SELECT {}(%s, hashtext(%s))"
        other.execute(lock.format("pg_advisory_lock"), [SYNC_LOCK, "simulated"])
        with pytest.raises(SyncUnderWay):
            sync_cloud(name="simulated", at=timezone.now())
        assert not InventorySync.objects.exists()
        other.execute(lock.format("pg_advisory_unlock"), [SYNC_LOCK, "simulated"])
        sync_cloud(name="simulated", at=timezone.now())
    assert InventorySync.objects.get().succeeded_at


def test_the_command_connects_a_pool_and_reports(simulated: SimulatorProcess) -> None:
    simulated.admin.load_world(two_regions())
    simulated.admin.adopt([desktop("desk-ana"), desktop("db")])
    out, err = StringIO(), StringIO()
    names = "--server-names=desk-*"
    call_command("sync_inventory", "simulated", "--pool=paris", names, stdout=out)
    assert "added: 1 (server-" in out.getvalue() and "unknown: 1 (db)" in out.getvalue()
    assert Pool.objects.get().cloud == "simulated"
    call_command("sync_inventory", stdout=out)
    assert Desktop.objects.count() == 1
    simulated.stop()
    with pytest.raises(CommandError, match="Not compared whole: simulated"):
        call_command("sync_inventory", stdout=out, stderr=err)
    assert err.getvalue().startswith("simulated: ")
    with pytest.raises(CommandError, match="Pool paris is compared with the cloud simulated"):
        call_command("sync_inventory", "other", "--pool=paris")


def test_regions_are_found(simulated: SimulatorProcess, pool: Pool) -> None:
    sync(simulated.cloud())
    assert set(Region.objects.values_list("name", flat=True)) == {"east", "west"}
