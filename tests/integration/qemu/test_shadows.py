"""Shadows on QEMU hosts: kept in step by a relay, and rid of what lost relays left behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from desktops.core.cloud import VolumeSpec, VolumeStatus
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
from tests.support.simulator import eventually

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


def a_shadow(cloud: Hypervisor, key: str = "desk") -> Shadow:
    """Of a desktop that is switched off, with nothing in it yet."""
    spec = VolumeSpec(key, 64 * MIB, image=BLANK_IMAGE)
    asked = cloud.create_volume(SOURCE, spec, key=key)
    volume = eventually(
        lambda: cloud.volume(SOURCE, asked.id),
        lambda seen: seen.status is VolumeStatus.AVAILABLE,
    )
    dataset, _ = Dataset.objects.get_or_create(
        name="test", defaults={"label": "Test fleet", "as_of": timezone.now()}
    )
    east, west = (
        Region.objects.get_or_create(cloud="hosts", name=name, label=name.title())[0]
        for name in (SOURCE, DEST)
    )
    flavor, _ = Flavor.objects.get_or_create(
        cloud="hosts", name="desktop.small", vcpus=1, memory_bytes=256 * MIB
    )
    pool, _ = Pool.objects.get_or_create(
        dataset=dataset, name="office", label="Office", gateway="none"
    )
    desktop = Desktop.objects.create(
        dataset=dataset,
        pool=pool,
        key=key,
        label=key,
        region=east,
        flavor=flavor,
        server_id=key,
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

    def recovery_point() -> Any:
        shadow.refresh_from_db()
        return shadow.recovery_point_at

    with relay(*Region.objects.all(), folder=tmp_path, env=settings_of(tmp_path)):
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


def test_a_desktop_of_the_same_image_is_seeded_by_its_difference(
    hosts: Hypervisor, tmp_path: Path
) -> None:
    first, second = a_shadow(hosts), a_shadow(hosts, "other")
    Shadow.objects.filter(pk=second.pk).update(paused_at=timezone.now())
    source = Path(hosts.volume_place(SOURCE, second.desktop.volume_id))
    with source.open("r+b") as file:
        file.seek(50 * MIB)
        file.write(b"their own" * 1000)
    with relay(*Region.objects.all(), folder=tmp_path, env=settings_of(tmp_path)) as carrier:
        keep_until(lambda: ready(first), hosts)
        Shadow.objects.filter(pk=second.pk).update(paused_at=None)
        keep_until(lambda: ready(second), hosts)
    assert content(hosts, DEST, ready(second).volume_id) == source.read_bytes()
    assert first.passes.get().sent_bytes > MIB, "the image, which does not compress"
    seed = second.passes.get()
    assert seed.makes_volume
    assert seed.sent_bytes < 50_000, carrier.log.read_text()


def ready(shadow: Shadow) -> Shadow | None:
    return Shadow.objects.filter(pk=shadow.pk, state=Shadow.State.READY).first()


def settings_of(folder: Path) -> dict[str, str]:
    return {"QEMU_CLOUDS_FILE": str(clouds_file(folder / "hosts.toml", "hosts", options(folder)))}


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
