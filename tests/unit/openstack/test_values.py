from __future__ import annotations

from typing import Any

import pytest

from desktops.clouds.openstack import values
from desktops.core.cloud import Host, ServerStatus, VolumeStatus

UP = {"id": "p1", "admin_state_up": True, "security_groups": ["g"]}
DOWN = UP | {"id": "p2", "admin_state_up": False}
QUARANTINED = UP | {"id": "p3", "security_groups": ["q"]}


def server(**changes: Any) -> dict[str, Any]:
    return {
        "id": "s1",
        "name": "desk",
        "status": "ACTIVE",
        "OS-EXT-STS:task_state": None,
        "OS-EXT-SRV-ATTR:host": "east-a",
        "hostId": "4e0e",
        "flavor": {"original_name": "desktop.small", "vcpus": 1},
        "metadata": {"foredesk:key": "k"},
        "os-extended-volumes:volumes_attached": [{"id": "v1", "delete_on_termination": False}],
        "addresses": {"desktops": [{"addr": "10.1.0.9", "version": 4}]},
    } | changes


def test_a_server_as_nova_shows_it() -> None:
    seen = values.server_from(server(), [UP], region="east")
    assert (seen.id, seen.region, seen.name, seen.key) == ("s1", "east", "desk", "k")
    assert (seen.flavor, seen.volume_ids, seen.host) == ("desktop.small", ("v1",), "east-a")
    assert seen.addresses == ("10.1.0.9",)
    assert seen.is_running and seen.accepts_sessions


@pytest.mark.parametrize(
    ("status", "task", "expected", "is_busy"),
    [
        ("ACTIVE", None, ServerStatus.ACTIVE, False),
        ("ACTIVE", "powering-off", ServerStatus.ACTIVE, True),
        ("ACTIVE", "migrating", ServerStatus.ACTIVE, True),
        ("BUILD", None, ServerStatus.BUILD, True),
        ("SHUTOFF", None, ServerStatus.SHUTOFF, False),
        ("SHUTOFF", "powering-on", ServerStatus.SHUTOFF, True),
        ("SHELVED_OFFLOADED", None, ServerStatus.SHUTOFF, False),
        ("SHELVED_OFFLOADED", "unshelving", ServerStatus.SHUTOFF, True),
        ("MIGRATING", "migrating", ServerStatus.MIGRATING, True),
        ("VERIFY_RESIZE", None, ServerStatus.MIGRATING, False),
        ("PAUSED", None, ServerStatus.SUSPENDED, False),
        ("HARD_REBOOT", None, ServerStatus.ACTIVE, True),
        ("ERROR", None, ServerStatus.ERROR, False),
        ("RESCUE", None, ServerStatus.UNKNOWN, False),
        ("SOMETHING_NEW", None, ServerStatus.UNKNOWN, False),
    ],
)
def test_status_and_task_together_tell_what_a_server_does(
    status: str, task: str | None, expected: ServerStatus, is_busy: bool
) -> None:
    body = server(status=status, **{"OS-EXT-STS:task_state": task})
    seen = values.server_from(body, [UP], region="east")
    assert (seen.status, seen.is_busy) == (expected, is_busy)


@pytest.mark.parametrize(
    ("ports", "is_fenced"),
    [
        ([UP], False),
        ([DOWN], True),
        ([QUARANTINED], True),
        ([UP, DOWN], False),
        ([DOWN, QUARANTINED], True),
        ([UP | {"security_groups": ["q", "g"]}], False),
        ([], True),
    ],
)
def test_a_server_is_fenced_when_no_port_lets_anybody_in(
    ports: list[dict[str, Any]], is_fenced: bool
) -> None:
    body = server(metadata={"foredesk:quarantine": "q"})
    assert values.server_from(body, ports, region="east").is_fenced is is_fenced


def test_nobody_elses_security_group_is_a_quarantine() -> None:
    assert not values.server_from(server(), [QUARANTINED], region="east").is_fenced
    assert not values.server_from(server(), [UP | {"security_groups": []}], region="e").is_fenced


def test_a_server_without_ports_yet_is_as_it_was_asked_to_be() -> None:
    building = server(status="BUILD", metadata={})
    assert not values.server_from(building, [], region="east").is_fenced
    building["metadata"]["foredesk:quarantine"] = "q"
    assert values.server_from(building, [], region="east").is_fenced


def test_a_fault_and_a_hidden_host() -> None:
    body = server(status="ERROR", fault={"message": "No valid host was found.", "code": 500})
    del body["OS-EXT-SRV-ATTR:host"]
    seen = values.server_from(body, [], region="east")
    assert (seen.fault, seen.host) == ("No valid host was found.", "4e0e")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("creating", VolumeStatus.CREATING),
        ("available", VolumeStatus.AVAILABLE),
        ("in-use", VolumeStatus.IN_USE),
        ("downloading", VolumeStatus.BUSY),
        ("uploading", VolumeStatus.BUSY),
        ("reserved", VolumeStatus.BUSY),
        ("backing-up", VolumeStatus.BUSY),
        ("deleting", VolumeStatus.BUSY),
        ("something-new", VolumeStatus.BUSY),
        ("error", VolumeStatus.ERROR),
        ("error_deleting", VolumeStatus.ERROR),
    ],
)
def test_a_volumes_status(status: str, expected: VolumeStatus) -> None:
    assert values.volume_status(status) is expected


def test_a_volume_as_cinder_shows_it() -> None:
    body = {
        "id": "v1",
        "name": None,
        "status": "in-use",
        "size": 20,
        "bootable": "true",
        "metadata": {"foredesk:key": "k"},
        "attachments": [{"server_id": "s1", "device": "/dev/vda"}],
    }
    seen = values.volume_from(body, region="east")
    assert (seen.name, seen.size_bytes, seen.attached_to) == ("", 20 << 30, "s1")
    assert (seen.is_bootable, seen.key) == (True, "k")


def test_limits_of_minus_one_are_none() -> None:
    compute = {
        "maxTotalInstances": -1,
        "totalInstancesUsed": 3,
        "maxTotalCores": 20,
        "totalCoresUsed": 4,
        "maxTotalRAMSize": 1024,
        "totalRAMUsed": 512,
    }
    storage = {"maxTotalVolumeGigabytes": -1, "totalGigabytesUsed": 2}
    quota = values.quota_from(compute, storage)
    assert (quota.servers, quota.servers_used) == (None, 3)
    assert (quota.memory_bytes, quota.memory_bytes_used) == (1 << 30, 1 << 29)
    assert (quota.volume_bytes, quota.volume_bytes_used) == (None, 2 << 30)


@pytest.mark.parametrize(("size", "gib"), [(1, 1), (1 << 30, 1), ((1 << 30) + 1, 2), (0, 0)])
def test_volumes_are_whole_gib(size: int, gib: int) -> None:
    assert values.gib(size) == gib


def test_a_server_of_a_cell_that_does_not_answer_is_hardly_known() -> None:
    """https://docs.openstack.org/api-guide/compute/down_cells.html"""
    seen = values.server_from({"id": "s1", "status": "UNKNOWN"}, [], region="east")
    assert (seen.id, seen.name, seen.flavor) == ("s1", "", "")
    assert seen.status is ServerStatus.UNKNOWN


@pytest.mark.parametrize(
    ("state", "status", "is_up", "is_enabled"),
    [
        ("up", "enabled", True, True),
        ("up", "disabled", True, False),
        ("down", "enabled", False, True),
    ],
)
def test_a_host_is_what_its_compute_service_says(
    state: str, status: str, is_up: bool, is_enabled: bool
) -> None:
    service = {"binary": "nova-compute", "host": "east-a", "state": state, "status": status}
    assert values.host_from(service) == Host("east-a", is_up=is_up, is_enabled=is_enabled)
