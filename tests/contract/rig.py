from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar
from uuid import uuid4

from desktops.core.cloud import (
    Cloud,
    Conflict,
    JobState,
    NotFound,
    Server,
    ServerSpec,
    Volume,
    VolumeCopy,
    VolumeSpec,
    VolumeStatus,
)
from tests.contract.drivers import Ground
from tests.support.simulator import eventually

T = TypeVar("T")


class Rig:
    """Makes things in a cloud and waits for them.

    Keys are new in every test, so that tests share a cloud, and a real one with other people.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.cloud: Cloud = ground.cloud
        self.source, self.dest = ground.source, ground.dest
        self._copies: list[str] = []
        self._snapshots: list[tuple[str, str]] = []
        self._servers: list[tuple[str, str]] = []
        self._volumes: list[tuple[str, str]] = []

    def key(self, what: str = "thing") -> str:
        return f"contract:{what}:{uuid4()}"

    def wait(self, observe: Callable[[], T], is_wanted: Callable[[T], object] = bool) -> T:
        ground = self.ground
        return eventually(observe, is_wanted, timeout_s=ground.timeout_s, every_s=ground.poll_s)

    def insist(self, ask: Callable[[], None]) -> None:
        """Ask again for as long as the cloud must first finish something else."""

        def is_accepted() -> bool:
            try:
                ask()
            except Conflict:
                return False
            return True

        self.wait(is_accepted)

    # Volumes

    def ask_for_volume(self, *, key: str, region: str | None = None, **changes: object) -> Volume:
        spec = VolumeSpec(
            **{"name": "contract", "size_bytes": self.ground.volume_bytes, **changes}  # type: ignore[arg-type]
        )
        region = region or self.source
        volume = self.cloud.create_volume(region, spec, key=key)
        self._volumes.append((region, volume.id))
        return volume

    def volume(self, **changes: object) -> Volume:
        """A volume that is there; bootable, from the image, unless `image` says otherwise."""
        asked = self.ask_for_volume(
            key=self.key("volume"),
            **{"image": self.ground.image, **changes},  # type: ignore[arg-type]
        )
        return self.wait_for_volume(asked.region, asked.id)

    def wait_for_volume(
        self, region: str, volume_id: str, status: VolumeStatus = VolumeStatus.AVAILABLE
    ) -> Volume:
        return self.wait(
            lambda: self.cloud.volume(region, volume_id), lambda seen: seen.status is status
        )

    def is_volume_gone(self, region: str, volume_id: str) -> bool:
        try:
            self.cloud.volume(region, volume_id)
        except NotFound:
            return True
        return False

    # Servers

    def ask_for_server(self, volume: Volume, *, key: str, is_fenced: bool = False) -> Server:
        spec = ServerSpec(
            name="contract",
            flavor=self.ground.flavor,
            boot_volume_id=volume.id,
            is_fenced=is_fenced,
            metadata={"foredesk:desktop": key},
        )
        server = self.cloud.create_server(volume.region, spec, key=key)
        self._servers.append((server.region, server.id))
        return server

    def server(self, *, is_fenced: bool = False) -> Server:
        """A running server on a volume of its own."""
        asked = self.ask_for_server(self.volume(), key=self.key("server"), is_fenced=is_fenced)
        return self.wait_for_server(asked, lambda seen: seen.is_running)

    def wait_for_server(self, server: Server, is_wanted: Callable[[Server], object]) -> Server:
        return self.wait(lambda: self.cloud.server(server.region, server.id), is_wanted)

    def stop(self, server: Server) -> Server:
        self.cloud.stop_server(server.region, server.id)
        return self.wait_for_server(server, lambda seen: seen.is_stopped)

    def delete(self, server: Server) -> None:
        self.cloud.delete_server(server.region, server.id)
        self.wait(lambda: self.is_server_gone(server.region, server.id))

    def is_server_gone(self, region: str, server_id: str) -> bool:
        try:
            self.cloud.server(region, server_id)
        except NotFound:
            return True
        return False

    # Passes

    def ask_for_pass(self, volume_id: str, *, key: str, base: str | None = None) -> VolumeCopy:
        copy = self.cloud.copy_volume(
            self.source, volume_id, self.dest, key=key, base_volume_id=base
        )
        if key not in self._copies:
            self._copies.append(key)
        if copy.volume_id is not None and (self.dest, copy.volume_id) not in self._volumes:
            self._volumes.append((self.dest, copy.volume_id))
        return copy

    def copy(self, volume_id: str, *, key: str, base: str | None = None) -> VolumeCopy:
        """A pass driven to its end, which must be a good one."""
        copy = self.wait(
            lambda: self.ask_for_pass(volume_id, key=key, base=base),
            lambda seen: seen.state is not JobState.RUNNING,
        )
        assert copy.state is JobState.DONE, copy.detail
        return copy

    def abandon(self, key: str) -> None:
        self.insist(lambda: self.cloud.abandon_copy(self.dest, source_region=self.source, key=key))

    def remember_snapshot(self, region: str, snapshot_id: str) -> None:
        self._snapshots.append((region, snapshot_id))

    def clean_up(self) -> None:
        for region, server_id in self._servers:
            self.cloud.delete_server(region, server_id)
        for region, server_id in self._servers:
            self.wait(partial(self.is_server_gone, region, server_id))
        for key in reversed(self._copies):
            self.abandon(key)
        for region, snapshot_id in self._snapshots:
            self.insist(partial(self.cloud.delete_snapshot, region, snapshot_id))
        for region, volume_id in self._volumes:
            self.insist(partial(self.cloud.delete_volume, region, volume_id))
        for region, volume_id in self._volumes:
            self.wait(partial(self.is_volume_gone, region, volume_id))
