"""The simulated cloud behind the cloud protocol."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from desktops.clouds.simulator.client import Client
from desktops.core.cloud import (
    Capabilities,
    Flavor,
    Host,
    Inventory,
    Job,
    JobState,
    MemoryMode,
    Quota,
    Server,
    ServerSpec,
    ServerStatus,
    Snapshot,
    Volume,
    VolumeCopy,
    VolumeSpec,
    VolumeStatus,
)


class SimulatedCloud:
    """Stateless: everything is the server's to know."""

    def __init__(self, name: str, *, url: str, token: str, timeout_s: float = 10.0) -> None:
        self.name = name
        self._client = Client(url=url, token=token, timeout_s=timeout_s)

    def __repr__(self) -> str:
        return f"<SimulatedCloud {self.name}>"

    def close(self) -> None:
        self._client.close()

    def capabilities(self) -> Capabilities:
        return Capabilities(
            memory_modes=frozenset({MemoryMode.LIVE, MemoryMode.NONE}),
            incremental_copy=True,
            copy_while_attached=True,
            is_simulated=True,
        )

    def now(self) -> datetime:
        return instant(self._call("now"))

    def regions(self) -> tuple[str, ...]:
        return tuple(self._call("regions"))

    def inventory(self, region: str) -> Inventory:
        seen = self._call("inventory", region=region)
        return Inventory(
            region=region,
            observed_at=instant(seen["observed_at_ms"]),
            flavors=tuple(Flavor(**flavor) for flavor in seen["flavors"]),
            quota=Quota(**seen["quota"]),
            servers=tuple(_server(server) for server in seen["servers"]),
            volumes=tuple(_volume(volume) for volume in seen["volumes"]),
            hosts=tuple(Host(**host) for host in seen["hosts"]),
        )

    def server(self, region: str, server_id: str) -> Server:
        return _server(self._call("server", region=region, server_id=server_id))

    def find_server(self, region: str, *, key: str) -> Server | None:
        found = self._call("find_server", region=region, key=key)
        return None if found is None else _server(found)

    def volume(self, region: str, volume_id: str) -> Volume:
        return _volume(self._call("volume", region=region, volume_id=volume_id))

    def find_volume(self, region: str, *, key: str) -> Volume | None:
        found = self._call("find_volume", region=region, key=key)
        return None if found is None else _volume(found)

    def find_snapshot(self, region: str, *, key: str) -> Snapshot | None:
        found = self._call("find_snapshot", region=region, key=key)
        return None if found is None else _snapshot(found)

    def create_server(self, region: str, spec: ServerSpec, *, key: str) -> Server:
        created = self._call(
            "create_server",
            region=region,
            key=key,
            name=spec.name,
            flavor=spec.flavor,
            boot_volume_id=spec.boot_volume_id,
            image=spec.image,
            network=spec.network,
            is_fenced=spec.is_fenced,
            metadata=dict(spec.metadata),
        )
        return _server(created)

    def start_server(self, region: str, server_id: str) -> None:
        self._call("start_server", region=region, server_id=server_id)

    def stop_server(self, region: str, server_id: str) -> None:
        self._call("stop_server", region=region, server_id=server_id)

    def delete_server(self, region: str, server_id: str) -> None:
        self._call("delete_server", region=region, server_id=server_id)

    def fence_server(self, region: str, server_id: str) -> None:
        self._call("fence_server", region=region, server_id=server_id)

    def unfence_server(self, region: str, server_id: str) -> None:
        self._call("unfence_server", region=region, server_id=server_id)

    def live_migrate(self, region: str, server_id: str, *, key: str) -> Job:
        return _job(self._call("live_migrate", region=region, server_id=server_id, key=key))

    def create_volume(self, region: str, spec: VolumeSpec, *, key: str) -> Volume:
        created = self._call(
            "create_volume",
            region=region,
            key=key,
            name=spec.name,
            size_bytes=spec.size_bytes,
            image=spec.image,
            snapshot_id=spec.snapshot_id,
        )
        return _volume(created)

    def delete_volume(self, region: str, volume_id: str) -> None:
        self._call("delete_volume", region=region, volume_id=volume_id)

    def snapshot_volume(self, region: str, volume_id: str, *, key: str) -> Snapshot:
        seen = self._call("snapshot_volume", region=region, volume_id=volume_id, key=key)
        return _snapshot(seen)

    def delete_snapshot(self, region: str, snapshot_id: str) -> None:
        self._call("delete_snapshot", region=region, snapshot_id=snapshot_id)

    # Where relays on the simulator's own host find content.

    def volume_place(self, region: str, volume_id: str) -> str:
        return str(self._call("volume_place", region=region, volume_id=volume_id))

    def snapshot_place(self, region: str, snapshot_id: str) -> str:
        return str(self._call("snapshot_place", region=region, snapshot_id=snapshot_id))

    def receive_volume(
        self, source_region: str, volume_id: str, dest_region: str, *, key: str
    ) -> Volume:
        made = self._call(
            "receive_volume",
            source_region=source_region,
            volume_id=volume_id,
            dest_region=dest_region,
            key=key,
        )
        return _volume(made)

    def copy_image(self, image: str, *, source_region: str, dest_region: str, key: str) -> Job:
        return _job(
            self._call(
                "copy_image",
                image=image,
                source_region=source_region,
                dest_region=dest_region,
                key=key,
            )
        )

    def copy_volume(
        self,
        source_region: str,
        volume_id: str,
        dest_region: str,
        *,
        key: str,
        base_volume_id: str | None = None,
    ) -> VolumeCopy:
        seen = self._call(
            "copy_volume",
            source_region=source_region,
            volume_id=volume_id,
            dest_region=dest_region,
            key=key,
            base_volume_id=base_volume_id,
        )
        return VolumeCopy(**seen | {"state": JobState(seen["state"])})

    def abandon_copy(self, dest_region: str, *, source_region: str, key: str) -> None:
        self._call("abandon_copy", dest_region=dest_region, source_region=source_region, key=key)

    def _call(self, operation: str, **arguments: Any) -> Any:
        return self._client.call(f"cloud/{operation}", **arguments)


def instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _server(seen: Mapping[str, Any]) -> Server:
    return Server(
        **{
            **seen,
            "status": ServerStatus(seen["status"]),
            "volume_ids": tuple(seen["volume_ids"]),
            "addresses": tuple(seen["addresses"]),
        }
    )


def _volume(seen: Mapping[str, Any]) -> Volume:
    return Volume(**{**seen, "status": VolumeStatus(seen["status"])})


def _snapshot(seen: Mapping[str, Any]) -> Snapshot:
    return Snapshot(**{**seen, "status": VolumeStatus(seen["status"])})


def _job(seen: Mapping[str, Any]) -> Job:
    return Job(key=seen["key"], state=JobState(seen["state"]), detail=seen["detail"])
