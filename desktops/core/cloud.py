"""What a cloud can be asked and told.

A driver implements `Cloud`. Requests to a cloud are asynchronous, as Nova's, Glance's and
Cinder's are: a command returns at once with what can be seen then, and the caller observes
until the wanted state is there. Every creating command carries a key; the driver looks for a
resource with that key before it creates one and adopts what it finds, so that a command sent
twice has one effect. Every other command is idempotent by the state it asks for.

CloudError
├── CloudUnavailable   not reached, timed out or 5xx; retrying later helps
├── NotFound           no such resource; retrying does not help
├── Conflict           the resource is in a state that forbids this now; observe, then retry
├── QuotaExceeded      the project may not have more; an operator must act
├── Forbidden          the credentials lack the permission; an operator must act
├── Unsupported        this cloud cannot do that at all
└── CloudFault         accepted, then failed (the resource is in error)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

# Keys of what is made for a trial and removed after it begin like this: it is nobody's desktop.
TRIAL = "trial:"


class CloudError(Exception):
    """Something about a cloud went wrong; the message names the cloud, resource and reason."""

    is_retryable = False


class CloudUnavailable(CloudError):
    """The cloud was not reached, timed out or answered with a server error."""

    is_retryable = True


class NotFound(CloudError):
    """No such resource."""


class Conflict(CloudError):
    """The resource is in a state that forbids the request now."""

    is_retryable = True


class QuotaExceeded(CloudError):
    """The project may not have more of this."""


class Forbidden(CloudError):
    """The credentials lack the permission."""


class Unsupported(CloudError):
    """This cloud cannot do that."""


class CloudFault(CloudError):
    """The cloud accepted the request and then failed it."""


class MemoryMode(StrEnum):
    """How memory and processor state can travel (DESIGN §7)."""

    LIVE = "live"
    HIBERNATE = "hibernate"
    HYPERVISOR = "hypervisor"
    NONE = "none"


class ServerStatus(StrEnum):
    BUILD = "BUILD"
    ACTIVE = "ACTIVE"
    SHUTOFF = "SHUTOFF"
    MIGRATING = "MIGRATING"
    SUSPENDED = "SUSPENDED"
    ERROR = "ERROR"
    UNKNOWN = "UNKNOWN"


class VolumeStatus(StrEnum):
    CREATING = "creating"
    AVAILABLE = "available"
    IN_USE = "in-use"
    BUSY = "busy"  # uploading, downloading, attaching, snapshotting …: wait
    ERROR = "error"


class JobState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a cloud can do, decided by its driver and configuration.

    incremental_copy : `copy_volume` with a base sends changed blocks only
    copy_while_attached : a running server's volume can be copied (crash-consistent)
    """

    memory_modes: frozenset[MemoryMode]
    incremental_copy: bool
    copy_while_attached: bool
    is_simulated: bool


@dataclass(frozen=True, slots=True)
class Flavor:
    name: str
    vcpus: int
    memory_bytes: int
    price_per_hour_micros: int | None = None  # None: the cloud does not know prices


@dataclass(frozen=True, slots=True)
class Quota:
    """Totals and what is used; None means unlimited."""

    servers: int | None
    servers_used: int
    vcpus: int | None
    vcpus_used: int
    memory_bytes: int | None
    memory_bytes_used: int
    volume_bytes: int | None
    volume_bytes_used: int


@dataclass(frozen=True, slots=True)
class Server:
    """A server as observed.

    is_busy : a request is under way (Nova's task_state is set); status alone is not enough
    is_fenced : its ports are administratively down, so no session can reach it
    key : the key it was created with, "" when not created by Foredesk
    """

    id: str
    region: str
    name: str
    status: ServerStatus
    is_busy: bool
    is_fenced: bool
    flavor: str
    volume_ids: tuple[str, ...]
    host: str
    key: str = ""
    fault: str = ""
    addresses: tuple[str, ...] = ()

    @property
    def accepts_sessions(self) -> bool:
        return self.status is ServerStatus.ACTIVE and not self.is_fenced

    @property
    def is_stopped(self) -> bool:
        return self.status is ServerStatus.SHUTOFF and not self.is_busy

    @property
    def is_running(self) -> bool:
        return self.status is ServerStatus.ACTIVE and not self.is_busy


@dataclass(frozen=True, slots=True)
class Volume:
    id: str
    region: str
    name: str
    status: VolumeStatus
    size_bytes: int
    attached_to: str | None  # server id
    key: str = ""
    is_bootable: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    id: str
    region: str
    volume_id: str
    status: VolumeStatus
    size_bytes: int
    key: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """Something long that the cloud does; `detail` is the operator's explanation."""

    key: str
    state: JobState
    detail: str = ""


@dataclass(frozen=True, slots=True)
class VolumeCopy:
    """One pass of a volume into another region.

    bytes_total : what this pass has to send, None while not yet known
    volume_id : the destination volume once it exists; holds the copy when state is DONE
    """

    key: str
    state: JobState
    bytes_done: int
    bytes_total: int | None
    volume_id: str | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that servers run on.

    is_up : its compute service reports; is_enabled : it takes new servers
    """

    name: str
    is_up: bool
    is_enabled: bool


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything of one region at one moment, in as few requests as the cloud allows.

    hosts : empty where the credentials may not see them
    """

    region: str
    observed_at: datetime
    flavors: tuple[Flavor, ...]
    quota: Quota
    servers: tuple[Server, ...]
    volumes: tuple[Volume, ...]
    hosts: tuple[Host, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """A server to create: from an existing volume, or from an image.

    is_fenced : create it with its ports down
    """

    name: str
    flavor: str
    boot_volume_id: str | None = None
    image: str | None = None  # name or id
    network: str | None = None  # name or id; None: the driver's configured network
    is_fenced: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    name: str
    size_bytes: int
    image: str | None = None  # name or id
    snapshot_id: str | None = None


@runtime_checkable
class Cloud(Protocol):
    """One cloud: all regions that share credentials. Region names are the cloud's own."""

    name: str

    def capabilities(self) -> Capabilities: ...
    def now(self) -> datetime:
        """The cloud's clock; the simulated one runs at its own speed."""

    # Observations: never change anything, raise NotFound and CloudUnavailable.
    def regions(self) -> tuple[str, ...]: ...
    def inventory(self, region: str) -> Inventory: ...
    def server(self, region: str, server_id: str) -> Server: ...
    def find_server(self, region: str, *, key: str) -> Server | None: ...
    def volume(self, region: str, volume_id: str) -> Volume: ...
    def find_volume(self, region: str, *, key: str) -> Volume | None: ...
    def find_snapshot(self, region: str, *, key: str) -> Snapshot | None: ...

    # Servers.
    def create_server(self, region: str, spec: ServerSpec, *, key: str) -> Server: ...
    def start_server(self, region: str, server_id: str) -> None: ...
    def stop_server(self, region: str, server_id: str) -> None: ...
    def delete_server(self, region: str, server_id: str) -> None:
        """Deletes the server and never its volumes. Deleting what is gone succeeds."""

    def fence_server(self, region: str, server_id: str) -> None:
        """Take the server's ports down: no session can reach it, whatever starts it."""

    def unfence_server(self, region: str, server_id: str) -> None: ...
    def live_migrate(self, region: str, server_id: str, *, key: str) -> Job:
        """Move to another host of the region; call again to observe the same migration."""

    # Volumes, snapshots, images.
    def create_volume(self, region: str, spec: VolumeSpec, *, key: str) -> Volume: ...
    def delete_volume(self, region: str, volume_id: str) -> None: ...
    def snapshot_volume(self, region: str, volume_id: str, *, key: str) -> Snapshot:
        """Start a snapshot, or observe the one with this key."""

    def delete_snapshot(self, region: str, snapshot_id: str) -> None: ...
    def copy_image(self, image: str, *, source_region: str, dest_region: str, key: str) -> Job:
        """Start or observe the copy of an image into another region."""

    def copy_volume(
        self,
        source_region: str,
        volume_id: str,
        dest_region: str,
        *,
        key: str,
        base_volume_id: str | None = None,
    ) -> VolumeCopy:
        """Start, drive on or observe one pass of a volume into another region.

        Never blocks for long: each call does the next short piece and says where the pass is,
        so a worker that dies between two calls loses nothing. `base_volume_id` is an earlier
        pass's result; a cloud with `incremental_copy` brings it up to date and returns it, any
        other makes a new volume and leaves the base alone. Intermediate snapshots and images
        are the driver's to remove once the pass is DONE or abandoned.
        """

    def abandon_copy(self, dest_region: str, *, source_region: str, key: str) -> None:
        """Stop a pass and remove what it made, the destination volume included unless it was
        the base of an incremental pass. Abandoning what is gone succeeds; Conflict means that
        something must finish first, and to ask again."""
