"""Shadows on QEMU hosts: kept in step by a relay, and rid of what lost relays left behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from desktops.core.cloud import VolumeSpec
from desktops.core.exports import VolumeExports
from desktops.core.hypervisor import Hypervisor
from desktops.models import Dataset, Desktop, Flavor, Pool, Region
from migration.models import Pass, Shadow
from migration.services.keeping_shadows import keep_shadows
from tests.support.qemu import (
    BLANK_IMAGE,
    DEST,
    MIB,
    SOURCE,
    clouds_file,
    options,
    prepare,
    qemu_cloud,
    skip_without_qemu,
)
from tests.support.relays import relay

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]


@pytest.fixture
def hosts(tmp_path: Path, settings: Any) -> Iterator[Hypervisor]:
    skip_without_qemu()
    mine = options(tmp_path)
    for region in mine["regions"].values():
        prepare(region)
    settings.RELAYED_CLOUDS = frozenset({"hosts"})
    with qemu_cloud(mine) as cloud:
        yield cloud


def a_shadow(cloud: Hypervisor) -> Shadow:
    """Of a desktop that is switched off, with nothing in it yet."""
    spec = VolumeSpec("desk", 64 * MIB, image=BLANK_IMAGE)
    volume = cloud.create_volume(SOURCE, spec, key="desk")
    dataset = Dataset.objects.create(name="test", label="Test fleet", as_of=timezone.now())
    east, west = (
        Region.objects.create(cloud="hosts", name=name, label=name.title())
        for name in (SOURCE, DEST)
    )
    flavor = Flavor.objects.create(
        cloud="hosts", name="desktop.small", vcpus=1, memory_bytes=256 * MIB
    )
    pool = Pool.objects.create(dataset=dataset, name="office", label="Office", gateway="none")
    desktop = Desktop.objects.create(
        dataset=dataset,
        pool=pool,
        key="desk",
        label="desk",
        region=east,
        flavor=flavor,
        server_id="server",
        volume_id=volume.id,
        volume_bytes=64 * MIB,
        state=Desktop.State.RUNNING,
    )
    return Shadow.objects.create(
        desktop=desktop, region=west, tier="warm", sync_interval_s=60, created_at=timezone.now()
    )


def keep_until(is_so: Callable[[], object], cloud: Hypervisor, *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, list(Pass.objects.values())
        keep_shadows(now=timezone.now(), clouds=lambda _: cloud)
        time.sleep(0.2)


def content(cloud: VolumeExports, region: str, volume_id: str) -> bytes:
    return Path(cloud.volume_place(region, volume_id)).read_bytes()


def test_a_relay_seeds_a_shadow_and_sends_only_what_changed_after_that(
    hosts: Hypervisor, tmp_path: Path
) -> None:
    shadow = a_shadow(hosts)
    source = Path(hosts.volume_place(SOURCE, shadow.desktop.volume_id))
    env = {
        "QEMU_CLOUDS_FILE": str(clouds_file(tmp_path / "hosts.toml", "hosts", options(tmp_path)))
    }

    def recovery_point() -> Any:
        shadow.refresh_from_db()
        return shadow.recovery_point_at

    with relay(*Region.objects.all(), folder=tmp_path, env=env):
        keep_until(recovery_point, hosts)
        first = recovery_point()
        assert content(hosts, DEST, shadow.volume_id) == source.read_bytes()
        with source.open("r+b") as file:
            file.seek(40 * MIB)
            file.write(b"changed" * 1000)
        Shadow.objects.update(sync_asked_at=timezone.now())
        keep_until(lambda: recovery_point() > first, hosts)
    assert content(hosts, DEST, shadow.volume_id) == source.read_bytes()
    step, seed = shadow.passes.order_by("-created_at")
    assert seed.makes_volume and seed.sent_bytes > MIB
    assert not step.makes_volume and step.sent_bytes < 20_000
    assert step.changed_bytes == shadow.lag_bytes == 8192
    assert hosts.find_snapshot(SOURCE, key=f"pass {seed.key}") is None


def test_what_a_lost_relay_left_behind_is_removed(hosts: Hypervisor) -> None:
    shadow = a_shadow(hosts)
    now = timezone.now()
    one = Pass.objects.create(
        key="lost",
        state=Pass.State.ABANDONED,
        shadow=shadow,
        makes_volume=True,
        source_region=shadow.desktop.region,
        dest_region=shadow.region,
        source_volume_id=shadow.desktop.volume_id,
        created_at=now,
        finished_at=now,
    )
    hosts.snapshot_volume(SOURCE, shadow.desktop.volume_id, key="pass lost")
    made = hosts.receive_volume(SOURCE, shadow.desktop.volume_id, DEST, key="pass lost")
    Shadow.objects.update(paused_at=now)
    keep_shadows(now=now + timedelta(seconds=30), clouds=lambda _: hosts)
    assert hosts.find_snapshot(SOURCE, key="pass lost"), "its relay may still be at it"
    keep_shadows(now=now + timedelta(seconds=90), clouds=lambda _: hosts)
    assert hosts.find_snapshot(SOURCE, key="pass lost") is None
    assert hosts.find_volume(DEST, key="pass lost") is None
    assert [v.id for v in hosts.inventory(SOURCE).volumes] == [shadow.desktop.volume_id]
    one.refresh_from_db()
    assert one.cleaned_at
    assert made.id not in [v.id for v in hosts.inventory(DEST).volumes]


def test_a_volume_that_a_shadow_has_taken_over_is_not_garbage(hosts: Hypervisor) -> None:
    shadow = a_shadow(hosts)
    now = timezone.now()
    made = hosts.receive_volume(SOURCE, shadow.desktop.volume_id, DEST, key="pass lost")
    Shadow.objects.update(volume_id=made.id, paused_at=now)
    Pass.objects.create(
        key="lost",
        state=Pass.State.FAILED,
        makes_volume=True,
        source_region=shadow.desktop.region,
        dest_region=shadow.region,
        source_volume_id=shadow.desktop.volume_id,
        dest_volume_id=made.id,
        created_at=now,
        finished_at=now,
    )
    keep_shadows(now=now + timedelta(seconds=90), clouds=lambda _: hosts)
    assert hosts.find_volume(DEST, key="pass lost") is not None
