"""The services' JSON as the protocol's values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from desktops.clouds.openstack import fences, marks
from desktops.core.cloud import (
    Flavor,
    Host,
    Quota,
    Server,
    ServerStatus,
    Snapshot,
    Volume,
    VolumeStatus,
)

Json = dict[str, Any]

MIB = 1 << 20
GIB = 1 << 30

# https://docs.openstack.org/api-guide/compute/server_concepts.html
SERVER_STATUS = {
    "ACTIVE": ServerStatus.ACTIVE,
    "BUILD": ServerStatus.BUILD,
    "REBUILD": ServerStatus.BUILD,
    "REBOOT": ServerStatus.ACTIVE,
    "HARD_REBOOT": ServerStatus.ACTIVE,
    "PASSWORD": ServerStatus.ACTIVE,
    "SHUTOFF": ServerStatus.SHUTOFF,
    "SHELVED": ServerStatus.SHUTOFF,  # off as well; start_server unshelves it
    "SHELVED_OFFLOADED": ServerStatus.SHUTOFF,
    "MIGRATING": ServerStatus.MIGRATING,
    "RESIZE": ServerStatus.MIGRATING,
    "VERIFY_RESIZE": ServerStatus.MIGRATING,
    "REVERT_RESIZE": ServerStatus.MIGRATING,
    "SUSPENDED": ServerStatus.SUSPENDED,
    "PAUSED": ServerStatus.SUSPENDED,
    "ERROR": ServerStatus.ERROR,
}
# Nova shows these as status with no task beside them, though something is under way.
_BUSY_STATUS = {"REBOOT", "HARD_REBOOT", "RESIZE", "REVERT_RESIZE", "MIGRATING", "BUILD", "REBUILD"}

VOLUME_STATUS = {
    "creating": VolumeStatus.CREATING,
    "available": VolumeStatus.AVAILABLE,
    "in-use": VolumeStatus.IN_USE,
}


def server_status(status: str) -> ServerStatus:
    return SERVER_STATUS.get(status, ServerStatus.UNKNOWN)


def volume_status(status: str) -> VolumeStatus:
    """Whatever is neither known nor an error is something to wait for."""
    if status.startswith("error"):
        return VolumeStatus.ERROR
    return VOLUME_STATUS.get(status, VolumeStatus.BUSY)


def server_from(body: Json, ports: Iterable[Json], *, region: str) -> Server:
    """A server of Nova's (microversion 2.47 or later), with its ports of Neutron's.

    Of one in a cell that does not answer Nova tells hardly more than the id (2.69 or later).
    """
    status = server_status(body["status"])
    task = body.get("OS-EXT-STS:task_state")
    attached = body.get("os-extended-volumes:volumes_attached") or []
    addresses = (body.get("addresses") or {}).values()
    return Server(
        id=body["id"],
        region=region,
        name=body.get("name") or "",
        status=status,
        is_busy=bool(task) or body["status"] in _BUSY_STATUS,
        is_fenced=fences.are_fenced(body, ports),
        flavor=_flavor_name(body),
        volume_ids=tuple(volume["id"] for volume in attached),
        host=body.get("OS-EXT-SRV-ATTR:host") or body.get("hostId") or "",
        key=(body.get("metadata") or {}).get(marks.KEY, ""),
        fault=(body.get("fault") or {}).get("message", ""),
        addresses=tuple(one["addr"] for some in addresses for one in some),
    )


def _flavor_name(body: Json) -> str:
    flavor = body.get("flavor") or {}
    return flavor.get("original_name") or flavor.get("id") or ""


def is_being_deleted(body: Json) -> bool:
    """A server or volume on its way out: nobody should adopt it."""
    task = body.get("OS-EXT-STS:task_state") or ""
    return body["status"] in ("DELETED", "SOFT_DELETED", "deleting", "deleted") or task in (
        "deleting",
        "soft-deleting",
    )


def volume_from(body: Json, *, region: str) -> Volume:
    attachments = body.get("attachments") or []
    return Volume(
        id=body["id"],
        region=region,
        name=body.get("name") or "",
        status=volume_status(body["status"]),
        size_bytes=body["size"] * GIB,
        attached_to=attachments[0]["server_id"] if attachments else None,
        key=(body.get("metadata") or {}).get(marks.KEY, ""),
        is_bootable=str(body.get("bootable", "")).lower() == "true",
    )


def snapshot_from(body: Json, *, region: str) -> Snapshot:
    return Snapshot(
        id=body["id"],
        region=region,
        volume_id=body["volume_id"],
        status=volume_status(body["status"]),
        size_bytes=body["size"] * GIB,
        key=(body.get("metadata") or {}).get(marks.KEY, ""),
    )


def flavor_from(body: Json) -> Flavor:
    return Flavor(name=body["name"], vcpus=body["vcpus"], memory_bytes=body["ram"] * MIB)


def quota_from(compute: Json, storage: Json) -> Quota:
    """From the absolute limits of Nova and of Cinder, where -1 means unlimited."""
    return Quota(
        servers=_limit(compute["maxTotalInstances"]),
        servers_used=compute["totalInstancesUsed"],
        vcpus=_limit(compute["maxTotalCores"]),
        vcpus_used=compute["totalCoresUsed"],
        memory_bytes=_limit(compute["maxTotalRAMSize"], unit=MIB),
        memory_bytes_used=compute["totalRAMUsed"] * MIB,
        volume_bytes=_limit(storage["maxTotalVolumeGigabytes"], unit=GIB),
        volume_bytes_used=storage["totalGigabytesUsed"] * GIB,
    )


def host_from(body: Json) -> Host:
    """From Nova's list of its compute services."""
    return Host(
        name=body["host"], is_up=body["state"] == "up", is_enabled=body["status"] == "enabled"
    )


def _limit(value: int, *, unit: int = 1) -> int | None:
    return None if value < 0 else value * unit


def gib(size_bytes: int) -> int:
    """Whole GiB that hold so many bytes: Cinder counts in them."""
    return -(-size_bytes // GIB)
