"""Servers: a record, and while it is switched on a QEMU process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from desktops.clouds.qemu import process, volumes
from desktops.clouds.qemu.command import NIC, command_line, versioned_machine
from desktops.clouds.qemu.monitor import Monitor, NotRunning, statuses
from desktops.clouds.qemu.options import CloudOptions
from desktops.clouds.qemu.presence import is_alive
from desktops.clouds.qemu.quota import check_server
from desktops.clouds.qemu.store import Region, ServerRecord
from desktops.core.cloud import (
    CloudError,
    CloudFault,
    Conflict,
    Flavor,
    NotFound,
    Server,
    ServerSpec,
    ServerStatus,
    VolumeStatus,
)
from desktops.core.hypervisor import MachineDefinition

# What QEMU says of itself; anything else is that its guest cannot go on.
_STATUS: Mapping[str, ServerStatus] = {
    "running": ServerStatus.ACTIVE,
    "paused": ServerStatus.SUSPENDED,
    "suspended": ServerStatus.SUSPENDED,
    "postmigrate": ServerStatus.SUSPENDED,
    "finish-migrate": ServerStatus.SUSPENDED,
    "save-vm": ServerStatus.SUSPENDED,
    "prelaunch": ServerStatus.BUILD,
    "inmigrate": ServerStatus.BUILD,
    "shutdown": ServerStatus.SHUTOFF,
}
_PASSING = {"prelaunch", "inmigrate", "finish-migrate", "save-vm", "shutdown"}
FROZEN = {"paused", "postmigrate"}
UNANSWERED = "unanswered"


# Observing


def observed(region: Region, records: list[ServerRecord], cloud: CloudOptions) -> list[Server]:
    """Processes are asked all at the same time."""
    folders = {record.id: region.servers.folder(record.id) for record in records}
    alive = [server_id for server_id, folder in folders.items() if is_alive(folder)]
    said = statuses((folders[one] for one in alive), timeout_s=cloud.answer_timeout_s)
    answers = {
        one: UNANSWERED if isinstance(answer, CloudError) else answer
        for one, answer in zip(alive, said, strict=True)
    }
    for one, answer in answers.items():
        if answer == UNANSWERED and not is_alive(folders[one]):
            answers[one] = "gone"
    return [_server(region, r, answers.get(r.id, "gone"), cloud) for r in records]


def _server(region: Region, record: ServerRecord, said: str, cloud: CloudOptions) -> Server:
    status, is_busy, fault = _state(record, said)
    if status is ServerStatus.ACTIVE and record.stop_asked_at is not None:
        is_busy = time.time() < record.stop_asked_at + cloud.shutdown_timeout_s
    return Server(
        id=record.id,
        region=region.name,
        name=record.name,
        status=status,
        is_busy=is_busy,
        is_fenced=record.is_fenced,
        flavor=record.flavor,
        volume_ids=(record.volume_id,),
        host=region.options.host,
        key=record.key,
        fault=fault,
    )


def _state(record: ServerRecord, said: str) -> tuple[ServerStatus, bool, str]:
    if said == "gone":
        if record.fault:
            return ServerStatus.ERROR, False, record.fault
        if not record.is_made:
            return ServerStatus.BUILD, True, ""
        return ServerStatus.SHUTOFF, False, ""
    if said == UNANSWERED:
        status = ServerStatus.UNKNOWN if record.is_made else ServerStatus.BUILD
        return status, True, ""
    if said in _STATUS:
        return _STATUS[said], said in _PASSING, ""
    return ServerStatus.ERROR, False, f"QEMU says: {said}"


# Creating


def create(
    region: Region,
    spec: ServerSpec,
    cloud: CloudOptions,
    *,
    key: str,
    definition: MachineDefinition | None = None,
) -> Server:
    """definition : of the machine whose state it will get; None: it boots"""
    with region.locked():
        found = region.servers.find(key)
        record = found or _accept(region, spec, cloud, key=key, definition=definition)
    accepted = _server(region, record, "gone", cloud)
    if not record.is_made:
        with region.server_locked(record.id) as current:
            if not current.is_made:
                _drive(region, current, cloud)
    if found is None:
        return accepted
    return observed(region, [region.servers.get(record.id)], cloud)[0]


def _accept(
    region: Region,
    spec: ServerSpec,
    cloud: CloudOptions,
    *,
    key: str,
    definition: MachineDefinition | None,
) -> ServerRecord:
    flavor = cloud.flavors.get(spec.flavor)
    if flavor is None:
        raise NotFound(f"{region.name}: no flavor {spec.flavor!r}.")
    if spec.boot_volume_id is None:
        raise CloudError(f"Server {spec.name!r} has no volume to boot from; make one of an image.")
    if definition is not None and definition.memory_bytes != flavor.memory_bytes:
        raise CloudError(
            f"The state of a machine with {definition.memory_bytes} bytes of memory "
            f"does not fit flavor {flavor.name}."
        )
    held = volumes.observed(region, region.volumes.get(spec.boot_volume_id), region.servers.all())
    if held.status is not VolumeStatus.AVAILABLE:
        raise Conflict(f"{region.name}: volume {held.id} is {held.status}.")
    check_server(region, flavor)
    return region.servers.put(
        ServerRecord(
            id=str(uuid4()),
            key=key,
            name=spec.name,
            flavor=flavor.name,
            volume_id=held.id,
            definition=definition or _defined(flavor, cloud),
            metadata=dict(spec.metadata),
            is_fenced=spec.is_fenced,
            is_received=definition is not None,
        )
    )


def _defined(flavor: Flavor, cloud: CloudOptions) -> MachineDefinition:
    identity = uuid4()
    return MachineDefinition(
        machine=versioned_machine(cloud.program, cloud.machine),
        cpu=cloud.cpu,
        vcpus=flavor.vcpus,
        memory_bytes=flavor.memory_bytes,
        uuid=str(identity),
        mac="52:54:00:{:02x}:{:02x}:{:02x}".format(*identity.bytes[:3]),
    )


def _drive(region: Region, record: ServerRecord, cloud: CloudOptions) -> None:
    """Brings a process to run as its record says; called with the server's lock."""
    folder = region.servers.folder(record.id)
    if not is_alive(folder):
        try:
            _launch(region, record, cloud)
        except CloudFault as error:
            region.servers.put(replace(record, fault=str(error)))
            raise
    if not record.is_received:
        with Monitor(folder, timeout_s=cloud.answer_timeout_s) as monitor:
            run_on(monitor, record)
    region.servers.put(replace(record, is_made=True, fault="", stop_asked_at=None))


def _launch(region: Region, record: ServerRecord, cloud: CloudOptions) -> None:
    memory = region.memory_of(record.id)
    memory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not record.is_received:
        memory.unlink(missing_ok=True)  # a machine is switched on with empty memory
    command = command_line(
        record,
        cloud,
        region.options,
        disk=volumes.disk_of(region, record.volume_id),
        memory=memory,
    )
    process.start(region.servers.folder(record.id), command, run=region.options.run)


def run_on(monitor: Monitor, record: ServerRecord) -> None:
    """The fence first: what runs behind one is never reachable."""
    _set_link(monitor, record)
    monitor.ask("cont")
    _announce(monitor, record)


def _set_link(monitor: Monitor, record: ServerRecord) -> None:
    monitor.ask("set_link", {"name": NIC, "up": not record.is_fenced})


def _announce(monitor: Monitor, record: ServerRecord) -> None:
    """Tells the switches where the machine is now."""
    if not record.is_fenced:
        monitor.ask("announce-self", {"initial": 5, "max": 100, "rounds": 5, "step": 20})


# Commands


def start(region: Region, server_id: str, cloud: CloudOptions) -> None:
    with region.server_locked(server_id) as record:
        if record.is_received:
            raise Conflict(f"{region.name}: server {server_id} waits for another machine's state.")
        folder = region.servers.folder(server_id)
        if is_alive(folder):
            with Monitor(folder, timeout_s=cloud.answer_timeout_s) as monitor:
                if monitor.status() == "running":
                    return
        _drive(region, record, cloud)


def stop(region: Region, server_id: str, cloud: CloudOptions) -> None:
    with region.server_locked(server_id) as record:
        folder = region.servers.folder(server_id)
        if not is_alive(folder):
            if not record.is_made:
                raise Conflict(f"{region.name}: server {server_id} is being built.")
            return
        with Monitor(folder, timeout_s=cloud.answer_timeout_s) as monitor:
            said = monitor.status()
            if _STATUS.get(said) is ServerStatus.BUILD:
                raise Conflict(f"{region.name}: server {server_id} is being built.")
            if said == "running" and _is_patient(record, cloud):
                if record.stop_asked_at is None:
                    monitor.ask("system_powerdown")
                    region.servers.put(replace(record, stop_asked_at=time.time()))
                return
        process.end(folder, timeout_s=cloud.answer_timeout_s)


def _is_patient(record: ServerRecord, cloud: CloudOptions) -> bool:
    if record.stop_asked_at is None:
        return cloud.shutdown_timeout_s > 0
    return time.time() < record.stop_asked_at + cloud.shutdown_timeout_s


def delete(region: Region, server_id: str, cloud: CloudOptions) -> None:
    try:
        with region.server_locked(server_id):
            process.end(region.servers.folder(server_id), timeout_s=cloud.answer_timeout_s)
            region.memory_of(server_id).unlink(missing_ok=True)
            region.servers.remove(server_id)
    except NotFound:
        return


def fence(region: Region, server_id: str, cloud: CloudOptions, *, is_fenced: bool) -> None:
    """Written down first: whatever happens next, the server comes back no more reachable."""
    with region.server_locked(server_id) as record:
        if record.is_fenced == is_fenced and not is_fenced:
            return
        fenced = replace(record, is_fenced=is_fenced)
        if is_fenced:
            region.servers.put(fenced)
        _apply_fence(region.servers.folder(server_id), fenced, cloud)
        region.servers.put(fenced)


def _apply_fence(folder: Path, record: ServerRecord, cloud: CloudOptions) -> None:
    if not is_alive(folder):
        return
    try:
        with Monitor(folder, timeout_s=cloud.answer_timeout_s) as monitor:
            _set_link(monitor, record)
            _announce(monitor, record)
    except NotRunning:
        if is_alive(folder):
            raise
