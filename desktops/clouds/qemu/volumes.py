"""Images, volumes and their snapshots: raw disks in a region's folders."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from desktops.clouds.qemu import files
from desktops.clouds.qemu.command import DISK
from desktops.clouds.qemu.monitor import Monitor, NotRunning
from desktops.clouds.qemu.options import CloudOptions
from desktops.clouds.qemu.presence import is_alive
from desktops.clouds.qemu.quota import check_volume
from desktops.clouds.qemu.store import Region, ServerRecord, SnapshotRecord, VolumeRecord
from desktops.core.cloud import (
    CloudError,
    Conflict,
    Job,
    JobState,
    NotFound,
    Snapshot,
    Volume,
    VolumeSpec,
    VolumeStatus,
)

SUFFIXES = (".raw", ".img", ".qcow2")


# Images


@dataclass(frozen=True, slots=True)
class Image:
    disk: Path
    boot: Path


def image(region: Region, name: str) -> Image:
    found = find_image(region, name)
    if found is None:
        raise NotFound(f"{region.name}: no image {name!r} in {region.images}.")
    return found


def find_image(region: Region, name: str) -> Image | None:
    for suffix in SUFFIXES:
        path = region.images / f"{name}{suffix}"
        if path.parent == region.images and path.is_file():
            return Image(path, region.images / f"{name}.boot")
    return None


def copy_image(source: Region, dest: Region, name: str, *, key: str) -> Job:
    if find_image(dest, name) is not None:
        return Job(key, JobState.DONE)
    there = image(source, name)
    path = dest.images / there.disk.name
    if reason := files.why_not(path):
        return Job(key, JobState.FAILED, reason)
    files.copy_boot(there.boot, dest.images / there.boot.name)
    files.make(path, *_copied(there.disk, path))
    return Job(key, JobState.RUNNING)


# Volumes


def observed(region: Region, record: VolumeRecord, servers: list[ServerRecord]) -> Volume:
    holder = next((s.id for s in servers if s.volume_id == record.id), None)
    return Volume(
        id=record.id,
        region=region.name,
        name=record.name,
        status=_status(disk_of(region, record.id), is_held=holder is not None),
        size_bytes=record.size_bytes,
        attached_to=holder,
        key=record.key,
        is_bootable=record.is_bootable,
    )


def _status(disk: Path, *, is_held: bool) -> VolumeStatus:
    if disk.exists():
        return VolumeStatus.IN_USE if is_held else VolumeStatus.AVAILABLE
    return VolumeStatus.ERROR if files.why_not(disk) else VolumeStatus.CREATING


def disk_of(region: Region, volume_id: str) -> Path:
    return region.volumes.folder(volume_id) / "disk"


def snapshot_disk(region: Region, snapshot_id: str) -> Path:
    return region.snapshots.folder(snapshot_id) / "disk"


def create(region: Region, spec: VolumeSpec, *, key: str) -> VolumeRecord:
    with region.locked():
        record = region.volumes.find(key) or _accept(region, spec, key=key)
    _make(region, record)
    return record


def receive(source: Region, volume_id: str, dest: Region, *, key: str) -> VolumeRecord:
    """A blank volume of the same size, booted by the same kernel."""
    volume = source.volumes.get(volume_id)
    with dest.locked():
        record = dest.volumes.find(key)
        if record is None:
            check_volume(dest, volume.size_bytes)
            record = replace(volume, id=str(uuid4()), key=key, origin="", copy_key="")
            files.copy_boot(
                disk_of(source, volume_id).with_name("boot"), _folder(dest, record.id) / "boot"
            )
            dest.volumes.put(record)
    _make(dest, record)
    return record


def _accept(region: Region, spec: VolumeSpec, *, key: str) -> VolumeRecord:
    origin, boot, is_bootable = _origin(region, spec)
    check_volume(region, spec.size_bytes)
    if origin is not None and (size := virtual_size(origin)) > spec.size_bytes:
        raise CloudError(f"{origin.name} has {size} bytes; {spec.name} has {spec.size_bytes}.")
    record = VolumeRecord(
        id=str(uuid4()),
        key=key,
        name=spec.name,
        size_bytes=spec.size_bytes,
        is_bootable=is_bootable,
        origin="" if origin is None else str(origin),
    )
    if boot is not None:
        files.copy_boot(boot, _folder(region, record.id) / "boot")
    return region.volumes.put(record)


def _folder(region: Region, volume_id: str) -> Path:
    folder = region.volumes.folder(volume_id)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _origin(region: Region, spec: VolumeSpec) -> tuple[Path | None, Path | None, bool]:
    """The disk it is made from, what that is booted by, and whether it can be."""
    if spec.snapshot_id is not None:
        snapshot = region.snapshots.get(spec.snapshot_id)
        disk = snapshot_disk(region, snapshot.id)
        if not disk.exists():
            raise Conflict(f"{region.name}: snapshot {snapshot.id} is not ready.")
        return disk, disk.parent / "boot", snapshot.is_bootable
    if spec.image is not None:
        found = image(region, spec.image)
        return found.disk, found.boot, True
    return None, None, False


def _make(region: Region, record: VolumeRecord) -> None:
    disk = disk_of(region, record.id)
    if disk.exists() or record.copy_key:
        return
    if record.origin:
        files.make(disk, *_copied(Path(record.origin), disk, size_bytes=record.size_bytes))
    else:
        files.blank(disk, record.size_bytes)


def _copied(source: Path, dest: Path, *, size_bytes: int | None = None) -> list[str]:
    """A command that writes the part of `dest`: raw where a size is given, else as it is."""
    script = 'cp --reflink=auto --sparse=always "$1" "$2"'
    if size_bytes is not None:
        if source.suffix == ".qcow2":
            script = 'qemu-img convert -O raw "$1" "$2"'
        script += f' && truncate --size={size_bytes} "$2"'
    return ["sh", "-c", script, "copy", str(source), str(files.part(dest))]


def virtual_size(disk: Path) -> int:
    if disk.suffix != ".qcow2":
        return disk.stat().st_size
    try:
        said = subprocess.run(
            ["qemu-img", "info", "--output=json", str(disk)],
            capture_output=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CloudError(f"qemu-img does not understand {disk.name}: {error}") from error
    return int(json.loads(said.stdout)["virtual-size"])


def delete(region: Region, volume_id: str) -> None:
    with region.locked():
        try:
            region.volumes.get(volume_id)
        except NotFound:
            return
        if any(server.volume_id == volume_id for server in region.servers.all()):
            raise Conflict(f"{region.name}: volume {volume_id} is in use.")
        region.volumes.remove(volume_id)


# Snapshots


def find_snapshot(region: Region, *, key: str) -> Snapshot | None:
    record = region.snapshots.find(key)
    return None if record is None else _snapshot_as_seen(region, record)


def snapshot(region: Region, volume_id: str, *, key: str, cloud: CloudOptions) -> Snapshot:
    """Goes on by being asked for: what the server's process has finished is taken then."""
    with region.locked():
        record = region.snapshots.find(key) or _accept_snapshot(region, volume_id, key=key)
    disk = snapshot_disk(region, record.id)
    if not disk.exists() and not files.why_not(disk):
        _take(region, record, disk, cloud=cloud)
    return _snapshot_as_seen(region, record)


def _snapshot_as_seen(region: Region, record: SnapshotRecord) -> Snapshot:
    return Snapshot(
        id=record.id,
        region=region.name,
        volume_id=record.volume_id,
        status=_status(snapshot_disk(region, record.id), is_held=False),
        size_bytes=record.size_bytes,
        key=record.key,
    )


def _accept_snapshot(region: Region, volume_id: str, *, key: str) -> SnapshotRecord:
    volume = region.volumes.get(volume_id)
    if not disk_of(region, volume_id).exists():
        raise Conflict(f"{region.name}: volume {volume_id} is not ready.")
    record = SnapshotRecord(
        id=str(uuid4()),
        key=key,
        volume_id=volume_id,
        size_bytes=volume.size_bytes,
        is_bootable=volume.is_bootable,
    )
    region.snapshots.put(record)
    files.copy_boot(
        disk_of(region, volume_id).with_name("boot"),
        snapshot_disk(region, record.id).parent / "boot",
    )
    return record


def _take(region: Region, record: SnapshotRecord, disk: Path, *, cloud: CloudOptions) -> None:
    holder = next((s for s in region.servers.all() if s.volume_id == record.volume_id), None)
    if holder is not None:
        # Held, so that the server neither starts nor ends between looking and doing.
        with region.server_locked(holder.id):
            folder = region.servers.folder(holder.id)
            if is_alive(folder):
                _take_running(region, record, disk, folder, timeout_s=cloud.answer_timeout_s)
                return
    source = disk_of(region, record.volume_id)
    if source.exists():
        files.make(disk, *_copied(source, disk))
    else:
        write_failure(disk, f"Volume {record.volume_id} was deleted.")


def write_failure(disk: Path, reason: str) -> None:
    disk.with_name(f"{disk.name}.failed").write_text(reason)


def _take_running(
    region: Region, record: SnapshotRecord, disk: Path, folder: Path, *, timeout_s: float
) -> None:
    """The server's process copies the disk as it is at this instant, while the server runs on."""
    try:
        with Monitor(folder, timeout_s=timeout_s) as monitor:
            found = _job(monitor, _job_name(record))
            if found is None:
                _begin(monitor, record, disk)
            elif found["status"] == "concluded":
                _forget(monitor, record)
                if "error" in found:
                    write_failure(disk, found["error"])
                else:
                    files.part(disk).replace(disk)
    except NotRunning as error:
        raise Conflict(f"{region.name}: the server ended meanwhile: {error}") from error


def _begin(monitor: Monitor, record: SnapshotRecord, disk: Path) -> None:
    node = _node_name(record)
    nodes = {n["node-name"] for n in monitor.ask("query-named-block-nodes", {"flat": True})}
    if node in nodes:
        monitor.ask("blockdev-del", {"node-name": node})
    with files.part(disk).open("wb") as file:
        file.truncate(record.size_bytes)
    target = {"driver": "file", "filename": str(files.part(disk)), "discard": "unmap"}
    monitor.ask("blockdev-add", {"driver": "raw", "node-name": node, "file": target})
    try:
        monitor.ask(
            "blockdev-backup",
            {
                "job-id": _job_name(record),
                "device": DISK,
                "target": node,
                "sync": "full",
                "auto-dismiss": False,
            },
        )
    except CloudError:
        monitor.ask("blockdev-del", {"node-name": node})
        raise


def delete_snapshot(region: Region, snapshot_id: str, *, cloud: CloudOptions) -> None:
    try:
        record = region.snapshots.get(snapshot_id)
    except NotFound:
        return
    if not snapshot_disk(region, snapshot_id).exists():
        _cancel(region, record, timeout_s=cloud.answer_timeout_s)
    region.snapshots.remove(snapshot_id)


def _cancel(region: Region, record: SnapshotRecord, *, timeout_s: float) -> None:
    """Where a server's process still writes it, it must stop first: Conflict until then."""
    job = _job_name(record)
    for holder in region.servers.all():
        folder = region.servers.folder(holder.id)
        if holder.volume_id != record.volume_id or not is_alive(folder):
            continue
        with Monitor(folder, timeout_s=timeout_s) as monitor:
            found = _job(monitor, job)
            if found is None:
                return
            if found["status"] != "concluded":
                monitor.ask("block-job-cancel", {"device": job, "force": True})
                raise Conflict(f"{region.name}: snapshot {record.id} is being given up.")
            _forget(monitor, record)


def _forget(monitor: Monitor, record: SnapshotRecord) -> None:
    monitor.ask("job-dismiss", {"id": _job_name(record)})
    monitor.ask("blockdev-del", {"node-name": _node_name(record)})


def _job(monitor: Monitor, name: str) -> dict[str, Any] | None:
    return next((job for job in monitor.ask("query-jobs") if job["id"] == name), None)


def _job_name(record: SnapshotRecord) -> str:
    return f"snapshot-{record.id}"


def _node_name(record: SnapshotRecord) -> str:
    return f"s{record.id.replace('-', '')[:24]}"
