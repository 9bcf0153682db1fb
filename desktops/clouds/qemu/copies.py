"""A volume's way into another region: a snapshot, whose data are copied piece by piece.

Each call does the next short piece. Nothing but the files remembers how far it got.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from desktops.clouds.qemu import files, volumes
from desktops.clouds.qemu.options import CloudOptions
from desktops.clouds.qemu.quota import check_volume
from desktops.clouds.qemu.store import CopyRecord, Region, VolumeRecord, id_for
from desktops.core.cloud import (
    Conflict,
    JobState,
    NotFound,
    Snapshot,
    VolumeCopy,
    VolumeStatus,
)

PIECE_BYTES = 64 << 20


def advance(
    source: Region, dest: Region, volume_id: str, cloud: CloudOptions, *, key: str
) -> VolumeCopy:
    record = _record(source, dest, volume_id, key=key)
    if not (record.is_done or record.fault):
        with _alone(dest, record) as is_alone:
            if is_alone:
                record = _next(source, dest, dest.copies.get(record.id), cloud)
    return _seen(record)


def abandon(source: Region, dest: Region, cloud: CloudOptions, *, key: str) -> None:
    try:
        record = dest.copies.get(_id(source, key))
    except NotFound:
        return
    with _alone(dest, record) as is_alone:
        if not is_alone:
            raise Conflict(f"{dest.name}: a piece of {key} is being copied.")
        _drop_snapshot(source, record, cloud)
        volumes.delete(dest, record.volume_id)
        dest.copies.remove(record.id)


def _id(source: Region, key: str) -> str:
    return id_for("copy", source.name, key)


def _record(source: Region, dest: Region, volume_id: str, *, key: str) -> CopyRecord:
    copy_id = _id(source, key)
    try:
        return dest.copies.get(copy_id)
    except NotFound:
        source.volumes.get(volume_id)
    record = CopyRecord(
        id=copy_id,
        key=key,
        source_region=source.name,
        source_volume_id=volume_id,
        volume_id=id_for("volume", source.name, key),
    )
    return dest.copies.put(record)


@contextmanager
def _alone(dest: Region, record: CopyRecord) -> Iterator[bool]:
    """Whether nobody else is at this copy now."""
    with (dest.copies.folder(record.id) / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _next(source: Region, dest: Region, record: CopyRecord, cloud: CloudOptions) -> CopyRecord:
    disk = volumes.disk_of(dest, record.volume_id)
    if disk.exists():  # its worker died between the last two steps
        return _finished(source, dest, record, cloud)
    snapshot = volumes.snapshot(
        source, record.source_volume_id, key=_snapshot_key(record), cloud=cloud
    )
    if snapshot.status is VolumeStatus.ERROR:
        reason = files.why_not(volumes.snapshot_disk(source, snapshot.id)) or "failed"
        return dest.copies.put(replace(record, fault=f"snapshot: {reason}"))
    if snapshot.status is not VolumeStatus.AVAILABLE:
        return record
    taken = volumes.snapshot_disk(source, snapshot.id)
    if record.bytes_total is None:
        return _begin(source, dest, record, snapshot, taken)
    try:
        offset, copied = files.copy_piece(taken, files.part(disk), record.offset, PIECE_BYTES)
    except OSError as error:
        return dest.copies.put(replace(record, fault=f"{dest.name}: {error.strerror}"))
    record = dest.copies.put(replace(record, offset=offset, bytes_done=record.bytes_done + copied))
    if offset < snapshot.size_bytes:
        return record
    files.part(disk).replace(disk)
    return _finished(source, dest, record, cloud)


def _begin(
    source: Region, dest: Region, record: CopyRecord, snapshot: Snapshot, taken: Path
) -> CopyRecord:
    """The volume over there, with its size and what it is booted by, and nothing in it."""
    volume = source.volumes.get(record.source_volume_id)
    with dest.locked():
        if dest.volumes.find(record.key) is None:
            check_volume(dest, snapshot.size_bytes)
            dest.volumes.put(
                VolumeRecord(
                    id=record.volume_id,
                    key=record.key,
                    name=volume.name,
                    size_bytes=snapshot.size_bytes,
                    is_bootable=volume.is_bootable,
                    copy_key=record.key,
                )
            )
    disk = volumes.disk_of(dest, record.volume_id)
    files.copy_boot(taken.parent / "boot", disk.parent / "boot")
    with files.part(disk).open("wb") as file:
        file.truncate(snapshot.size_bytes)
        os.fsync(file.fileno())
    return dest.copies.put(replace(record, bytes_total=files.data_bytes(taken)))


def _finished(source: Region, dest: Region, record: CopyRecord, cloud: CloudOptions) -> CopyRecord:
    _drop_snapshot(source, record, cloud)
    total = record.bytes_total or 0
    return dest.copies.put(replace(record, is_done=True, bytes_done=total, bytes_total=total))


def _drop_snapshot(source: Region, record: CopyRecord, cloud: CloudOptions) -> None:
    snapshot = source.snapshots.find(_snapshot_key(record))
    if snapshot is not None:
        volumes.delete_snapshot(source, snapshot.id, cloud=cloud)


def _snapshot_key(record: CopyRecord) -> str:
    return f"copy {record.key}"


def _seen(record: CopyRecord) -> VolumeCopy:
    state = JobState.DONE if record.is_done else JobState.RUNNING
    return VolumeCopy(
        key=record.key,
        state=JobState.FAILED if record.fault else state,
        bytes_done=record.bytes_done,
        bytes_total=record.bytes_total,
        volume_id=record.volume_id if record.is_done or record.bytes_total is not None else None,
        detail=record.fault,
    )
