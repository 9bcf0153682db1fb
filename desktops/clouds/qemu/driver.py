"""The cloud protocol, and the hypervisor's, over QEMU."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from desktops.clouds.qemu import copies, quota, servers, states, volumes
from desktops.clouds.qemu.options import CloudOptions, parse
from desktops.clouds.qemu.store import Region
from desktops.core.cloud import (
    Capabilities,
    CloudUnavailable,
    Host,
    Inventory,
    Job,
    MemoryMode,
    NotFound,
    Server,
    ServerSpec,
    Snapshot,
    Unsupported,
    Volume,
    VolumeCopy,
    VolumeSpec,
)
from desktops.core.hypervisor import Hypervisor, MachineDefinition, VirtualDesktopState


def connect(name: str, **options: Any) -> Hypervisor:
    """The cloud of the hosts that `options` describe (`options.py`); nothing is asked of it yet."""
    return QemuCloud(name, parse(options))


class QemuCloud:
    """See `connect`."""

    def __init__(self, name: str, options: CloudOptions) -> None:
        self.name = name
        self._options = options

    def capabilities(self) -> Capabilities:
        return Capabilities(
            memory_modes=frozenset({MemoryMode.HYPERVISOR, MemoryMode.NONE}),
            incremental_copy=False,
            copy_while_attached=True,
            is_simulated=False,
        )

    def now(self) -> datetime:
        return datetime.now(UTC)

    # Observations.

    def regions(self) -> tuple[str, ...]:
        """All that are configured; CloudUnavailable where not one of them is there."""
        unavailable = None
        for name in self._options.regions:
            try:
                self._region(name)
            except CloudUnavailable as error:
                unavailable = error
            else:
                return tuple(self._options.regions)
        raise unavailable or CloudUnavailable(f"{self.name} has no regions.")

    def inventory(self, region: str) -> Inventory:
        place = self._region(region)
        stored, records = place.volumes.all(), place.servers.all()
        return Inventory(
            region=region,
            observed_at=self.now(),
            flavors=tuple(self._options.flavors.values()),
            quota=quota.used(place),
            servers=tuple(servers.observed(place, records, self._options)),
            volumes=tuple(volumes.observed(place, volume, records) for volume in stored),
            hosts=(Host(name=place.options.host, is_up=True, is_enabled=True),),
        )

    def server(self, region: str, server_id: str) -> Server:
        place = self._region(region)
        return servers.observed(place, [place.servers.get(server_id)], self._options)[0]

    def find_server(self, region: str, *, key: str) -> Server | None:
        place = self._region(region)
        record = place.servers.find(key)
        return None if record is None else servers.observed(place, [record], self._options)[0]

    def volume(self, region: str, volume_id: str) -> Volume:
        place = self._region(region)
        return volumes.observed(place, place.volumes.get(volume_id), place.servers.all())

    def find_volume(self, region: str, *, key: str) -> Volume | None:
        place = self._region(region)
        record = place.volumes.find(key)
        return None if record is None else volumes.observed(place, record, place.servers.all())

    def find_snapshot(self, region: str, *, key: str) -> Snapshot | None:
        return volumes.find_snapshot(self._region(region), key=key)

    # Servers.

    def create_server(self, region: str, spec: ServerSpec, *, key: str) -> Server:
        return servers.create(self._region(region), spec, self._options, key=key)

    def start_server(self, region: str, server_id: str) -> None:
        servers.start(self._region(region), server_id, self._options)

    def stop_server(self, region: str, server_id: str) -> None:
        """Asks the guest to shut down; asked again after `shutdown_timeout_s`, pulls the plug."""
        servers.stop(self._region(region), server_id, self._options)

    def delete_server(self, region: str, server_id: str) -> None:
        servers.delete(self._region(region), server_id, self._options)

    def fence_server(self, region: str, server_id: str) -> None:
        servers.fence(self._region(region), server_id, self._options, is_fenced=True)

    def unfence_server(self, region: str, server_id: str) -> None:
        servers.fence(self._region(region), server_id, self._options, is_fenced=False)

    def live_migrate(self, region: str, server_id: str, *, key: str) -> Job:
        raise Unsupported(f"{self.name}: a region is one host; there is no other to migrate to.")

    # Volumes, snapshots, images.

    def create_volume(self, region: str, spec: VolumeSpec, *, key: str) -> Volume:
        place = self._region(region)
        record = volumes.create(place, spec, key=key)
        return volumes.observed(place, record, place.servers.all())

    def delete_volume(self, region: str, volume_id: str) -> None:
        volumes.delete(self._region(region), volume_id)

    def snapshot_volume(self, region: str, volume_id: str, *, key: str) -> Snapshot:
        return volumes.snapshot(self._region(region), volume_id, key=key, cloud=self._options)

    def delete_snapshot(self, region: str, snapshot_id: str) -> None:
        volumes.delete_snapshot(self._region(region), snapshot_id, cloud=self._options)

    def copy_image(self, image: str, *, source_region: str, dest_region: str, key: str) -> Job:
        return volumes.copy_image(
            self._region(source_region), self._region(dest_region), image, key=key
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
        """Always a whole copy of what there is data in; relays send changes alone."""
        source, dest = self._pair(source_region, dest_region)
        return copies.advance(source, dest, volume_id, self._options, key=key)

    def abandon_copy(self, dest_region: str, *, source_region: str, key: str) -> None:
        source, dest = self._pair(source_region, dest_region)
        copies.abandon(source, dest, self._options, key=key)

    # Where relays find content.

    def volume_place(self, region: str, volume_id: str) -> str:
        place = self._region(region)
        return str(volumes.disk_of(place, place.volumes.get(volume_id).id))

    def snapshot_place(self, region: str, snapshot_id: str) -> str:
        place = self._region(region)
        return str(volumes.snapshot_disk(place, place.snapshots.get(snapshot_id).id))

    def receive_volume(
        self, source_region: str, volume_id: str, dest_region: str, *, key: str
    ) -> Volume:
        source, dest = self._pair(source_region, dest_region)
        record = volumes.receive(source, volume_id, dest, key=key)
        return volumes.observed(dest, record, dest.servers.all())

    # The state of running machines.

    def desktop_state(self, region: str, server_id: str) -> VirtualDesktopState:
        place = self._region(region)
        return states.of_server(place, place.servers.get(server_id))

    def freeze_server(self, region: str, server_id: str) -> None:
        states.freeze(self._region(region), server_id, self._options)

    def save_processor_state(self, region: str, server_id: str) -> None:
        states.save(self._region(region), server_id, self._options)

    def receive_server(
        self, region: str, spec: ServerSpec, definition: MachineDefinition, *, key: str
    ) -> Server:
        return servers.create(
            self._region(region), spec, self._options, key=key, definition=definition
        )

    def load_processor_state(self, region: str, server_id: str) -> None:
        states.load(self._region(region), server_id, self._options)

    def thaw_server(self, region: str, server_id: str) -> None:
        states.thaw(self._region(region), server_id, self._options)

    # Below: what these have in common.

    def _region(self, name: str) -> Region:
        try:
            options = self._options.regions[name]
        except KeyError:
            raise NotFound(f"{self.name}: no region {name!r}.") from None
        return Region(options)

    def _pair(self, source: str, dest: str) -> tuple[Region, Region]:
        if source == dest:
            raise Unsupported(f"{self.name}: a copy goes to another region, not to {dest}.")
        return self._region(source), self._region(dest)
