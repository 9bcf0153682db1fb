from __future__ import annotations

from collections.abc import Callable

import pytest

from desktops.clouds.openstack import images, marks
from desktops.clouds.openstack.copies import SIZE_GIB, VOLUME_NAME
from desktops.clouds.openstack.driver import OpenStackCloud
from desktops.core.cloud import JobState, NotFound, Server, VolumeCopy, VolumeStatus
from tests.openstack.conftest import Hands
from tests.openstack.content import CONTENT, first_bytes
from tests.openstack.sweeping import Sweeper

NOWHERE = "00000000-0000-4000-8000-000000000000"


def bytes_of(hands: Hands, region: str, volume_id: str) -> bytes:
    """The beginning of a volume, read by way of an image."""
    api, name = hands.api(region), hands.key("check")
    upload = {"image_name": name, "disk_format": "raw", "container_format": "bare"}
    path = f"/volumes/{volume_id}/action"
    answer = api.post("block_storage", path, {"os-volume_upload_image": upload})
    image_id = answer["os-volume_upload_image"]["image_id"]
    hands.wait(lambda: api.get("image", f"/images/{image_id}")["status"], "active".__eq__)
    return first_bytes(api, image_id, len(CONTENT))


def test_a_stopped_desktop_is_copied_by_many_workers_and_boots_over_there(
    hands: Hands,
    desktop: Server,
    connect_again: Callable[[], OpenStackCloud],
    sweeper: Sweeper,
    east: str,
    west: str,
) -> None:
    hands.stopped(desktop)
    volume_id, key = desktop.volume_ids[0], hands.key("copy")
    seen: list[VolumeCopy] = []

    def advance() -> VolumeCopy:
        # A new driver every time, as after the last worker died.
        seen.append(connect_again().copy_volume(east, volume_id, west, key=key))
        return seen[-1]

    copy = hands.copied(advance)
    assert copy.volume_id and copy.bytes_total and copy.bytes_done == copy.bytes_total
    assert [one.bytes_done for one in seen] == sorted(one.bytes_done for one in seen)
    assert hands.cloud.copy_volume(east, volume_id, west, key=key) == copy

    made = hands.cloud.volume(west, copy.volume_id)
    source = hands.cloud.volume(east, volume_id)
    assert made.status is VolumeStatus.AVAILABLE
    assert (made.key, made.name, made.size_bytes) == (key, source.name, source.size_bytes)
    assert made.is_bootable
    assert bytes_of(hands, west, made.id) == CONTENT
    hands.until_available(made)

    moved = hands.boot(made, key=hands.key("moved"))
    assert moved.accepts_sessions
    assert moved.volume_ids == (made.id,)

    def intermediates() -> list[str]:
        return [one for one in sweeper.left() if "foredesk copy" in one]

    hands.wait(intermediates, lambda left: not left)


def test_a_running_desktop_is_copied_and_runs_on(
    hands: Hands, desktop: Server, east: str, west: str
) -> None:
    assert hands.cloud.capabilities().copy_while_attached
    key = hands.key("copy")
    copy = hands.copied(lambda: hands.cloud.copy_volume(east, desktop.volume_ids[0], west, key=key))
    assert hands.cloud.server(east, desktop.id).is_running
    assert bytes_of(hands, west, str(copy.volume_id)) == CONTENT


@pytest.mark.parametrize("calls", [1, 4, 12])
def test_an_abandoned_copy_leaves_nothing(
    hands: Hands, sweeper: Sweeper, image: str, east: str, west: str, calls: int
) -> None:
    volume, key = hands.volume(), hands.key("copy")
    for _ in range(calls):
        hands.cloud.copy_volume(east, volume.id, west, key=key)
    hands.abandoned(west, key=key)
    hands.wait(
        lambda: sweeper.left(keep=image), lambda left: len(left) == 1 and volume.id in left[0]
    )


def test_a_refused_import_ends_the_copy_with_the_reason_of_glance(
    hands: Hands, east: str, west: str
) -> None:
    """Here: there is nothing to fetch in the source. The image waits as a worker leaves it that
    died before it asked for the import."""
    volume, key = hands.volume(), hands.key("copy")
    properties = {images.ORIGIN: NOWHERE, SIZE_GIB: "1", VOLUME_NAME: volume.name}
    name = marks.copy_name(key)
    images.register(hands.api(west), name=name, disk_format="qcow2", properties=properties)

    def advance() -> VolumeCopy:
        return hands.cloud.copy_volume(east, volume.id, west, key=key)

    copy = hands.wait(advance, lambda seen: seen.state is not JobState.RUNNING)
    assert copy.state is JobState.FAILED
    # Glance 33 says no more than "Task failed due to Internal Error" of most reasons.
    assert copy.detail.partition("failed: ")[2]
    assert advance() == copy, "it stays failed until it is abandoned"
    hands.abandoned(west, key=key)
    assert list(images.named(hands.api(west), name)) == []


def test_a_missing_volume_is_not_copied(hands: Hands, east: str, west: str) -> None:
    with pytest.raises(NotFound):
        hands.cloud.copy_volume(east, NOWHERE, west, key=hands.key("copy"))


def test_an_image_is_copied_once_however_many_ask(
    hands: Hands, image: str, east: str, west: str
) -> None:
    def copy(key: str) -> JobState:
        job = hands.cloud.copy_image(image, source_region=east, dest_region=west, key=key)
        assert job.state is not JobState.FAILED, job.detail
        return job.state

    keys = [hands.key("image"), hands.key("image")]
    hands.wait(lambda: {copy(key) for key in keys}, lambda seen: seen == {JobState.DONE})
    found = list(images.named(hands.api(west), image))
    assert len(found) == 1
    (origin,) = images.named(hands.api(east), image)
    assert found[0]["os_hash_value"] == origin["os_hash_value"]
