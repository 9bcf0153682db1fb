"""What the cloud protocol promises, of every driver."""

from __future__ import annotations

from datetime import UTC, timedelta

import pytest

from desktops.core.cloud import (
    Capabilities,
    Cloud,
    CloudError,
    CloudUnavailable,
    Conflict,
    JobState,
    MemoryMode,
    NotFound,
    QuotaExceeded,
    ServerSpec,
    ServerStatus,
    VolumeSpec,
    VolumeStatus,
)
from tests.contract.rig import Rig

NOWHERE = "00000000-0000-4000-8000-000000000000"


# The cloud as a whole


def test_a_driver_is_a_cloud_and_says_what_it_can_do(rig: Rig) -> None:
    assert isinstance(rig.cloud, Cloud)
    assert rig.cloud.name
    capabilities = rig.cloud.capabilities()
    assert isinstance(capabilities, Capabilities)
    assert capabilities.memory_modes <= frozenset(MemoryMode)


def test_the_clock_is_aware_and_does_not_go_back(rig: Rig) -> None:
    first, second = rig.cloud.now(), rig.cloud.now()
    assert first.utcoffset() == timedelta(0)
    assert first.tzinfo is UTC
    assert first <= second


def test_regions_are_listed_by_the_clouds_own_names(rig: Rig) -> None:
    assert {rig.source, rig.dest} <= set(rig.cloud.regions())


def test_an_unknown_region_is_not_found(rig: Rig) -> None:
    with pytest.raises(NotFound):
        rig.cloud.inventory("atlantis")
    with pytest.raises(NotFound):
        rig.cloud.find_server("atlantis", key=rig.key())


def test_a_cloud_that_does_not_answer_is_unavailable_and_worth_trying_again(rig: Rig) -> None:
    unreachable = rig.ground.unreachable
    if unreachable is None:
        pytest.skip("this cloud has no unreachable twin")
    with pytest.raises(CloudUnavailable) as failure:
        unreachable.regions()
    assert failure.value.is_retryable


def test_the_inventory_shows_what_single_observations_show(rig: Rig) -> None:
    server = rig.server()
    before = rig.cloud.now()
    inventory = rig.cloud.inventory(rig.source)
    assert inventory.region == rig.source
    assert before - timedelta(seconds=5) <= inventory.observed_at
    assert rig.cloud.server(rig.source, server.id) in inventory.servers
    volume = rig.cloud.volume(rig.source, server.volume_ids[0])
    assert volume in inventory.volumes
    flavor = next(f for f in inventory.flavors if f.name == rig.ground.flavor)
    assert flavor.vcpus > 0
    assert flavor.memory_bytes > 0


def test_the_quota_counts_what_is_there(rig: Rig) -> None:
    before = rig.cloud.inventory(rig.source).quota
    rig.server()
    after = rig.cloud.inventory(rig.source).quota
    flavors = rig.cloud.inventory(rig.source).flavors
    flavor = next(f for f in flavors if f.name == rig.ground.flavor)
    assert after.servers_used == before.servers_used + 1
    assert after.vcpus_used == before.vcpus_used + flavor.vcpus
    assert after.memory_bytes_used == before.memory_bytes_used + flavor.memory_bytes
    assert after.volume_bytes_used == before.volume_bytes_used + rig.ground.volume_bytes


def test_more_than_the_quota_is_refused_and_leaves_nothing(rig: Rig) -> None:
    quota = rig.cloud.inventory(rig.source).quota
    if quota.volume_bytes is None:
        pytest.skip("volumes are not limited here")
    key = rig.key("huge")
    with pytest.raises(QuotaExceeded):
        rig.cloud.create_volume(
            rig.source, VolumeSpec(name="huge", size_bytes=quota.volume_bytes * 2), key=key
        )
    assert rig.cloud.find_volume(rig.source, key=key) is None
    assert rig.cloud.inventory(rig.source).quota == quota


# Servers


def test_a_server_is_asked_for_at_once_and_runs_later(rig: Rig) -> None:
    volume = rig.volume()
    asked = rig.ask_for_server(volume, key=rig.key("server"))
    assert not asked.is_running
    running = rig.wait_for_server(asked, lambda seen: seen.is_running)
    assert running.status is ServerStatus.ACTIVE
    assert running.accepts_sessions
    assert running.volume_ids == (volume.id,)
    assert running.flavor == rig.ground.flavor
    assert running.host
    attached = rig.cloud.volume(rig.source, volume.id)
    assert attached.status is VolumeStatus.IN_USE
    assert attached.attached_to == running.id


def test_a_server_asked_for_twice_is_there_once(rig: Rig) -> None:
    volume, key = rig.volume(), rig.key("server")
    first = rig.ask_for_server(volume, key=key)
    assert rig.ask_for_server(volume, key=key).id == first.id
    rig.wait_for_server(first, lambda seen: seen.is_running)
    assert rig.ask_for_server(volume, key=key).id == first.id
    found = rig.cloud.find_server(rig.source, key=key)
    assert found is not None
    assert (found.id, found.key) == (first.id, key)
    assert [s.id for s in rig.cloud.inventory(rig.source).servers if s.key == key] == [first.id]


def test_a_key_belongs_to_a_region(rig: Rig) -> None:
    key = rig.key("server")
    rig.ask_for_server(rig.volume(), key=key)
    assert rig.cloud.find_server(rig.dest, key=key) is None
    assert rig.cloud.find_server(rig.source, key=rig.key("nobody")) is None


def test_stop_and_start_are_idempotent(rig: Rig) -> None:
    server = rig.server()
    rig.cloud.start_server(server.region, server.id)
    rig.cloud.stop_server(server.region, server.id)
    rig.cloud.stop_server(server.region, server.id)
    stopped = rig.wait_for_server(server, lambda seen: seen.is_stopped)
    assert not stopped.accepts_sessions
    rig.cloud.stop_server(server.region, server.id)
    assert rig.cloud.server(server.region, server.id).is_stopped
    rig.cloud.start_server(server.region, server.id)
    rig.cloud.start_server(server.region, server.id)
    assert rig.wait_for_server(server, lambda seen: seen.is_running).id == server.id


def test_stopping_a_server_that_is_being_built_is_a_conflict(rig: Rig) -> None:
    asked = rig.ask_for_server(rig.volume(), key=rig.key("server"))
    if rig.cloud.server(asked.region, asked.id).status is not ServerStatus.BUILD:
        pytest.skip("this cloud builds faster than it can be asked")
    with pytest.raises(Conflict) as failure:
        rig.cloud.stop_server(asked.region, asked.id)
    assert failure.value.is_retryable


def test_a_server_created_fenced_never_accepts_sessions_until_it_is_unfenced(rig: Rig) -> None:
    server = rig.server(is_fenced=True)
    assert server.is_fenced
    assert not server.accepts_sessions
    rig.cloud.unfence_server(server.region, server.id)
    rig.cloud.unfence_server(server.region, server.id)
    assert rig.wait_for_server(server, lambda seen: seen.accepts_sessions)


def test_a_fence_holds_through_stop_and_start(rig: Rig) -> None:
    server = rig.server()
    rig.cloud.fence_server(server.region, server.id)
    rig.cloud.fence_server(server.region, server.id)
    assert rig.cloud.server(server.region, server.id).is_fenced
    rig.stop(server)
    rig.cloud.start_server(server.region, server.id)
    started = rig.wait_for_server(server, lambda seen: seen.is_running)
    assert started.is_fenced
    assert not started.accepts_sessions


def test_deleting_a_server_keeps_its_volume_and_may_be_repeated(rig: Rig) -> None:
    server = rig.server()
    rig.cloud.delete_server(server.region, server.id)
    rig.cloud.delete_server(server.region, server.id)
    rig.wait(lambda: rig.is_server_gone(server.region, server.id))
    rig.cloud.delete_server(server.region, server.id)
    assert rig.cloud.find_server(server.region, key=server.key) is None
    volume = rig.wait_for_volume(server.region, server.volume_ids[0])
    assert volume.attached_to is None


def test_a_volume_outlives_its_server_and_boots_another(rig: Rig) -> None:
    first = rig.server()
    rig.delete(first)
    volume = rig.wait_for_volume(first.region, first.volume_ids[0])
    second = rig.ask_for_server(volume, key=rig.key("server"))
    running = rig.wait_for_server(second, lambda seen: seen.is_running)
    assert running.volume_ids == (volume.id,)


@pytest.mark.parametrize("command", ["start_server", "stop_server", "fence_server", "server"])
def test_what_a_missing_server_cannot_do_is_not_found(rig: Rig, command: str) -> None:
    with pytest.raises(NotFound):
        getattr(rig.cloud, command)(rig.source, NOWHERE)


def test_a_missing_flavor_is_named(rig: Rig) -> None:
    volume = rig.volume()
    with pytest.raises(CloudError, match="no-such-flavor"):
        rig.cloud.create_server(
            rig.source,
            ServerSpec(name="x", flavor="no-such-flavor", boot_volume_id=volume.id),
            key=rig.key("server"),
        )


def test_one_volume_boots_one_server(rig: Rig) -> None:
    server = rig.server()
    key = rig.key("second")
    with pytest.raises(Conflict):
        rig.cloud.create_server(
            rig.source,
            ServerSpec(
                name="second", flavor=rig.ground.flavor, boot_volume_id=server.volume_ids[0]
            ),
            key=key,
        )
    assert rig.cloud.find_server(rig.source, key=key) is None


def test_live_migration_ends_on_another_host_of_the_region(rig: Rig) -> None:
    if MemoryMode.LIVE not in rig.cloud.capabilities().memory_modes:
        pytest.skip("this cloud does not migrate live")
    server, key = rig.server(), rig.key("live")
    job = rig.cloud.live_migrate(server.region, server.id, key=key)
    assert job.key == key
    done = rig.wait(
        lambda: rig.cloud.live_migrate(server.region, server.id, key=key),
        lambda seen: seen.state is not JobState.RUNNING,
    )
    assert done.state is JobState.DONE, done.detail
    # DONE means that the server is back, not that it will be.
    moved = rig.cloud.server(server.region, server.id)
    assert moved.is_running
    assert moved.host != server.host
    again = rig.cloud.live_migrate(server.region, server.id, key=key)
    assert again.state is JobState.DONE
    assert rig.cloud.server(server.region, server.id).host == moved.host


# Volumes and snapshots


def test_a_volume_asked_for_twice_is_there_once(rig: Rig) -> None:
    key = rig.key("volume")
    first = rig.ask_for_volume(key=key)
    assert rig.ask_for_volume(key=key).id == first.id
    made = rig.wait_for_volume(rig.source, first.id)
    assert made.size_bytes == rig.ground.volume_bytes
    assert made.key == key
    assert rig.cloud.find_volume(rig.source, key=key) == made
    assert rig.cloud.find_volume(rig.dest, key=key) is None
    assert [v.id for v in rig.cloud.inventory(rig.source).volumes if v.key == key] == [first.id]


def test_a_volume_from_an_image_is_bootable(rig: Rig) -> None:
    assert rig.volume().is_bootable
    assert not rig.volume(image=None).is_bootable


def test_a_missing_image_is_named(rig: Rig) -> None:
    with pytest.raises(CloudError, match="no-such-image"):
        rig.cloud.create_volume(
            rig.source,
            VolumeSpec(name="x", size_bytes=rig.ground.volume_bytes, image="no-such-image"),
            key=rig.key("volume"),
        )


def test_a_volume_in_use_is_not_deleted(rig: Rig) -> None:
    server = rig.server()
    with pytest.raises(Conflict):
        rig.cloud.delete_volume(rig.source, server.volume_ids[0])
    assert rig.cloud.volume(rig.source, server.volume_ids[0]).status is VolumeStatus.IN_USE


def test_deleting_a_volume_may_be_repeated(rig: Rig) -> None:
    volume = rig.volume(image=None)
    rig.cloud.delete_volume(rig.source, volume.id)
    rig.cloud.delete_volume(rig.source, volume.id)
    rig.wait(lambda: rig.is_volume_gone(rig.source, volume.id))
    rig.cloud.delete_volume(rig.source, volume.id)
    assert rig.cloud.find_volume(rig.source, key=volume.key) is None


def test_a_missing_volume_is_not_found(rig: Rig) -> None:
    with pytest.raises(NotFound):
        rig.cloud.volume(rig.source, NOWHERE)
    with pytest.raises(NotFound):
        rig.cloud.snapshot_volume(rig.source, NOWHERE, key=rig.key("snapshot"))
    with pytest.raises(NotFound):
        rig.cloud.copy_volume(rig.source, NOWHERE, rig.dest, key=rig.key("pass"))


def test_a_snapshot_asked_for_twice_is_there_once_and_makes_volumes(rig: Rig) -> None:
    volume, key = rig.volume(), rig.key("snapshot")
    asked = rig.cloud.snapshot_volume(rig.source, volume.id, key=key)
    rig.remember_snapshot(rig.source, asked.id)
    snapshot = rig.wait(
        lambda: rig.cloud.snapshot_volume(rig.source, volume.id, key=key),
        lambda seen: seen.status is VolumeStatus.AVAILABLE,
    )
    assert (snapshot.id, snapshot.volume_id) == (asked.id, volume.id)
    clone = rig.volume(image=None, snapshot_id=snapshot.id)
    assert clone.is_bootable
    rig.cloud.delete_snapshot(rig.source, snapshot.id)
    rig.cloud.delete_snapshot(rig.source, snapshot.id)


def test_a_running_servers_volume_can_be_snapshotted(rig: Rig) -> None:
    server, key = rig.server(), rig.key("snapshot")
    volume_id = server.volume_ids[0]
    asked = rig.cloud.snapshot_volume(rig.source, volume_id, key=key)
    rig.remember_snapshot(rig.source, asked.id)
    rig.wait(
        lambda: rig.cloud.snapshot_volume(rig.source, volume_id, key=key),
        lambda seen: seen.status is VolumeStatus.AVAILABLE,
    )
    assert rig.cloud.server(rig.source, server.id).is_running


# Between regions


def test_an_image_is_copied_once_and_can_be_used_there(rig: Rig) -> None:
    key = rig.key("image")

    def copy() -> JobState:
        job = rig.cloud.copy_image(
            rig.ground.image, source_region=rig.source, dest_region=rig.dest, key=key
        )
        assert job.key == key
        assert job.state is not JobState.FAILED, job.detail
        return job.state

    rig.wait(copy, lambda state: state is JobState.DONE)
    assert copy() is JobState.DONE
    assert rig.volume(region=rig.dest).is_bootable


def test_a_pass_goes_on_by_being_asked_for_until_it_is_done(rig: Rig) -> None:
    volume, key = rig.volume(), rig.key("pass")
    seen = [rig.ask_for_pass(volume.id, key=key)]

    def drive() -> JobState:
        seen.append(rig.ask_for_pass(volume.id, key=key))
        return seen[-1].state

    rig.wait(drive, lambda state: state is not JobState.RUNNING)
    done = seen[-1]
    assert done.state is JobState.DONE, done.detail
    assert seen[0].state is JobState.RUNNING
    assert all(copy.key == key for copy in seen)
    assert [copy.bytes_done for copy in seen] == sorted(copy.bytes_done for copy in seen)
    assert done.bytes_total == done.bytes_done
    assert done.volume_id is not None
    made = rig.wait_for_volume(rig.dest, done.volume_id)
    assert made.size_bytes >= volume.size_bytes
    assert made.is_bootable
    assert made.attached_to is None
    assert rig.cloud.volume(rig.source, volume.id) == volume


def test_a_finished_pass_stays_finished(rig: Rig) -> None:
    volume, key = rig.volume(), rig.key("pass")
    done = rig.copy(volume.id, key=key)
    assert rig.ask_for_pass(volume.id, key=key) == done
    in_dest = [v.id for v in rig.cloud.inventory(rig.dest).volumes]
    assert in_dest.count(str(done.volume_id)) == 1


def test_a_copied_volume_boots_in_the_other_region(rig: Rig) -> None:
    volume = rig.volume()
    done = rig.copy(volume.id, key=rig.key("pass"))
    made = rig.wait_for_volume(rig.dest, str(done.volume_id))
    server = rig.ask_for_server(made, key=rig.key("server"), is_fenced=True)
    running = rig.wait_for_server(server, lambda seen: seen.is_running)
    assert running.region == rig.dest
    assert running.is_fenced


def test_a_running_servers_volume_is_copied_where_the_cloud_says_so(rig: Rig) -> None:
    server = rig.server()
    if not rig.cloud.capabilities().copy_while_attached:
        with pytest.raises(CloudError):
            rig.copy(server.volume_ids[0], key=rig.key("pass"))
        return
    done = rig.copy(server.volume_ids[0], key=rig.key("pass"))
    assert rig.cloud.server(rig.source, server.id).is_running
    assert rig.wait_for_volume(rig.dest, str(done.volume_id)).is_bootable


def test_a_pass_with_a_base_refreshes_it_or_leaves_it_alone(rig: Rig) -> None:
    server = rig.server()
    rig.stop(server)
    first = rig.copy(server.volume_ids[0], key=rig.key("pass"))
    second = rig.copy(server.volume_ids[0], key=rig.key("pass"), base=first.volume_id)
    is_refreshed = rig.cloud.capabilities().incremental_copy
    assert (second.volume_id == first.volume_id) is is_refreshed
    assert first.bytes_total is not None
    assert second.bytes_total is not None
    if is_refreshed:
        assert second.bytes_total < first.bytes_total
    else:
        rig.wait_for_volume(rig.dest, str(first.volume_id))
    assert rig.wait_for_volume(rig.dest, str(second.volume_id)).is_bootable


def test_an_abandoned_pass_leaves_nothing_and_may_be_begun_anew(rig: Rig) -> None:
    volume, key = rig.volume(), rig.key("pass")
    before = {v.id for v in rig.cloud.inventory(rig.dest).volumes}
    copy = rig.ask_for_pass(volume.id, key=key)
    assert copy.state is JobState.RUNNING
    rig.abandon(key)
    rig.abandon(key)

    def left_behind() -> set[str]:
        return {v.id for v in rig.cloud.inventory(rig.dest).volumes} - before

    assert rig.wait(left_behind, lambda ids: not ids) == set()
    assert rig.cloud.volume(rig.source, volume.id) == volume
    again = rig.copy(volume.id, key=key)
    assert rig.wait_for_volume(rig.dest, str(again.volume_id)).is_bootable


def test_abandoning_a_finished_pass_removes_the_volume_it_made(rig: Rig) -> None:
    volume, key = rig.volume(), rig.key("pass")
    done = rig.copy(volume.id, key=key)
    rig.abandon(key)
    rig.wait(lambda: rig.is_volume_gone(rig.dest, str(done.volume_id)))


def test_abandoning_a_pass_keeps_its_base(rig: Rig) -> None:
    volume, key = rig.volume(), rig.key("pass")
    first = rig.copy(volume.id, key=rig.key("pass"))
    rig.ask_for_pass(volume.id, key=key, base=first.volume_id)
    rig.abandon(key)
    assert rig.wait_for_volume(rig.dest, str(first.volume_id)).is_bootable


def test_abandoning_what_never_was_succeeds(rig: Rig) -> None:
    rig.cloud.abandon_copy(rig.dest, source_region=rig.source, key=rig.key("pass"))
