"""A transition of a running machine, from its approval to the release of what it left behind, by
the machine of states, a relay's process and two regions of QEMU."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from desktops.core.cloud import Cloud
from desktops.models import Dataset, Desktop, Flavor, Pool, Region
from migration.core.machine import PATHS, State, Strategy
from migration.models import Pass, Transition
from tests.support.driving import drive_to
from tests.support.qemu import DEST, MIB, SOURCE, Desk, clouds_file, desk
from tests.support.relays import relay

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]
BUSY = "guest.dirty_mbps=4 guest.dirty_mb=32 guest.disk_kbps=200"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path, append=BUSY) as mine:
        yield mine


def test_a_running_machine_moves_with_the_session_that_is_open_on_it(
    hosts: Desk, tmp_path: Path, settings: Any
) -> None:
    desktop = a_desktop(hosts)
    transition = a_transition(desktop)
    settings.RELAYED_CLOUDS = frozenset({"hosts"})
    session = hosts.session()
    before = session.tick()
    hosts_file = clouds_file(tmp_path / "hosts.toml", "hosts", hosts.settings)
    env = {"QEMU_CLOUDS_FILE": str(hosts_file)}
    with relay(*Region.objects.all(), folder=tmp_path, env=env) as carrier:
        transition = drive_to(transition, timeout_s=90, clouds=lambda _: hosts.cloud)
    assert transition.state == State.DONE, (transition.failure, carrier.log.read_text())
    after = session.tick()
    assert (after.boot, after.asked) == (before.boot, before.asked + 1)
    assert after.counter > before.counter
    assert session.ask("check").startswith("ok")
    session.close()
    assert_released(hosts.cloud, transition)
    assert_told(transition)


def assert_released(cloud: Cloud, transition: Transition) -> None:
    """There is the one machine over there, and nothing is left where it came from."""
    assert [s.id for s in cloud.inventory(DEST).servers] == [transition.dest_server_id]
    assert [v.id for v in cloud.inventory(DEST).volumes] == [transition.dest_volume_id]
    left = cloud.inventory(SOURCE)
    assert (left.servers, left.volumes) == ((), ())


def assert_told(transition: Transition) -> None:
    """What was carried, how, and for how long the machine stood still."""
    sync, cutover = Pass.objects.order_by("created_at")
    assert (sync.kind, cutover.kind) == (Pass.Kind.VOLUME, Pass.Kind.MACHINE)
    assert sync.dest_volume_id == cutover.dest_volume_id == transition.dest_volume_id
    assert 0 < cutover.sent_bytes < 256 * MIB
    assert transition.stall_ms == cutover.stall_ms
    assert 0 < cutover.stall_ms < 10_000
    states = [step.state for step in transition.steps.all()]
    path = [state.value for state in PATHS[Strategy.HYPERVISOR]]
    assert states == sorted(states, key=path.index)


def a_desktop(hosts: Desk) -> Desktop:
    server = hosts.boot()
    dataset = Dataset.objects.create(name="test", label="Test fleet", as_of=timezone.now())
    east, _ = (
        Region.objects.create(cloud="hosts", name=name, label=name.title())
        for name in (SOURCE, DEST)
    )
    flavor = Flavor.objects.create(
        cloud="hosts", name="desktop.small", vcpus=1, memory_bytes=256 * MIB
    )
    pool = Pool.objects.create(
        dataset=dataset, name="office", label="Office", gateway="none", commit_window_s=0
    )
    return Desktop.objects.create(
        dataset=dataset,
        pool=pool,
        key="desk",
        label="desk",
        region=east,
        flavor=flavor,
        server_id=server.id,
        volume_id=server.volume_ids[0],
        volume_bytes=64 * MIB,
        state=Desktop.State.RUNNING,
    )


def a_transition(desktop: Desktop, **changes: Any) -> Transition:
    """To the other region, approved and confirmed."""
    now = timezone.now()
    values: dict[str, Any] = {
        "key": "move",
        "pool": desktop.pool,
        "desktop": desktop,
        "strategy": Strategy.HYPERVISOR,
        "source_region": desktop.region,
        "dest_region": Region.objects.get(name=DEST),
        "flavor": desktop.flavor,
        "source_server_id": desktop.server_id,
        "source_volume_id": desktop.volume_id,
        "approved_at": now,
        "confirmed_at": now,
        "expires_at": now + timedelta(hours=1),
        "state_entered_at": now,
        "created_at": now,
        "due_at": now,
    }
    return Transition.objects.create(**(values | changes))
