"""What a region holds, as files: one folder each for servers, volumes, snapshots and copies.

A record is a JSON file that is replaced whole. There is no other memory: whatever worker comes next
finds what there is.

    images/NAME.raw|.qcow2|.img     NAME.boot/{kernel,initrd,append} where it has no boot loader
    servers/ID/server.json          + qmp.sock, pid, console.log, processor_state, its locks
    volumes/ID/volume.json          + disk, boot/
    snapshots/ID/snapshot.json      + disk, boot/
    copies/ID/copy.json
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import uuid4

from desktops.clouds.qemu.options import RegionOptions
from desktops.core.cloud import CloudUnavailable, NotFound
from desktops.core.hypervisor import MachineDefinition

ID = re.compile(r"[0-9a-f-]{36}")


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """is_made : its process was started; until then creating it goes on when it is asked for again
    is_received : it goes on from another machine's state, and has not begun to
    stop_asked_at : when its guest was last asked to shut down
    """

    id: str
    key: str
    name: str
    flavor: str
    volume_id: str
    definition: MachineDefinition
    metadata: dict[str, str]
    is_fenced: bool
    is_received: bool
    is_made: bool = False
    stop_asked_at: float | None = None
    fault: str = ""

    @property
    def interface(self) -> str:
        return f"fd{self.id.replace('-', '')[:10]}"


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """origin : what it is made from, a disk of an image or a snapshot; "": blank
    copy_key : of the pass that writes it; the disk is there when that is done
    """

    id: str
    key: str
    name: str
    size_bytes: int
    is_bootable: bool
    origin: str = ""
    copy_key: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    id: str
    key: str
    volume_id: str
    size_bytes: int
    is_bootable: bool


@dataclass(frozen=True, slots=True)
class CopyRecord:
    """offset : up to which the source's disk was read"""

    id: str
    key: str
    source_region: str
    source_volume_id: str
    volume_id: str
    offset: int = 0
    bytes_done: int = 0
    bytes_total: int | None = None
    is_done: bool = False
    fault: str = ""


R = TypeVar("R", ServerRecord, VolumeRecord, SnapshotRecord, CopyRecord)


class Shelf(Generic[R]):
    """The records of one kind in one region."""

    def __init__(self, region: str, root: Path, kind: type[R], noun: str) -> None:
        self._region = region
        self._root = root
        self._kind: type[R] = kind
        self._noun = noun

    def folder(self, record_id: str) -> Path:
        if not ID.fullmatch(record_id):
            raise self._missing(record_id)
        return self._root / record_id

    def get(self, record_id: str) -> R:
        path = self.folder(record_id) / self._file
        try:
            return self._read(path)
        except FileNotFoundError:
            raise self._missing(record_id) from None

    def find(self, key: str) -> R | None:
        return next((record for record in self.all() if record.key == key), None)

    def all(self) -> list[R]:
        found = []
        for path in sorted(self._root.glob(f"*/{self._file}")):
            if ID.fullmatch(path.parent.name):
                try:
                    found.append(self._read(path))
                except FileNotFoundError:
                    continue  # deleted meanwhile
        return found

    def put(self, record: R, *, is_lasting: bool = True) -> R:
        """is_lasting : through a power cut too; else through the end of any process only"""
        folder = self.folder(record.id)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / self._file, json.dumps(asdict(record), indent=1).encode(), is_lasting)
        return record

    def remove(self, record_id: str) -> None:
        """Its folder, with what is in it; at once for whoever looks."""
        folder = self.folder(record_id)
        doomed = folder.with_name(f".{folder.name}-{uuid4().hex[:8]}")
        try:
            folder.rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed)

    @property
    def _file(self) -> str:
        return f"{self._noun}.json"

    def _read(self, path: Path) -> R:
        body: dict[str, Any] = json.loads(path.read_bytes())
        if "definition" in body:
            body["definition"] = MachineDefinition(**body["definition"])
        record: R = self._kind(**body)
        return record

    def _missing(self, record_id: str) -> NotFound:
        return NotFound(f"{self._region}: no {self._noun} {record_id}.")


class Region:
    """One region's records. Raises CloudUnavailable where the folder is not (yet) there."""

    def __init__(self, options: RegionOptions) -> None:
        self.options = options
        self.name = options.name
        self._folder = options.folder
        if not self.is_there:
            raise CloudUnavailable(f"{self.name}: {self.images} is not there.")
        self.servers = Shelf(self.name, self._folder / "servers", ServerRecord, "server")
        self.volumes = Shelf(self.name, self._folder / "volumes", VolumeRecord, "volume")
        self.snapshots = Shelf(self.name, self._folder / "snapshots", SnapshotRecord, "snapshot")
        self.copies = Shelf(self.name, self._folder / "copies", CopyRecord, "copy")

    @property
    def is_there(self) -> bool:
        return self.images.is_dir()

    @property
    def images(self) -> Path:
        return self._folder / "images"

    def memory_of(self, server_id: str) -> Path:
        return self.options.memory_folder / f"{server_id}.ram"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While something new is given its place; never for long."""
        with locked(self._folder / "lock"):
            yield

    @contextmanager
    def server_locked(self, server_id: str) -> Iterator[ServerRecord]:
        """One command at a time for one server. Yields its record as it is then."""
        self.servers.get(server_id)
        with locked(self.servers.folder(server_id) / "command.lock"):
            yield self.servers.get(server_id)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    try:
        file = path.open("ab")
    except FileNotFoundError:
        raise NotFound(f"{path.parent} was deleted.") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_whole(path: Path, content: bytes, is_lasting: bool) -> None:
    """Readers see all of it or what was there before."""
    part = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    with part.open("wb") as file:
        file.write(content)
        if is_lasting:
            file.flush()
            os.fsync(file.fileno())
    part.replace(path)


def id_for(*parts: str) -> str:
    """An id that follows from what it is for."""
    digest = sha256("\0".join(parts).encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"
