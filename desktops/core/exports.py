"""What clouds can do whose volumes relays read and write: say where their content lies."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from desktops.core.cloud import Cloud, Volume


@runtime_checkable
class VolumeExports(Cloud, Protocol):
    """A place is a file, a block device or an nbd:// URL, as the region's relays reach it."""

    def volume_place(self, region: str, volume_id: str) -> str:
        """Of a volume's content, which relays write to only while the volume is AVAILABLE."""

    def snapshot_place(self, region: str, snapshot_id: str) -> str:
        """Of the content of a snapshot that is AVAILABLE."""

    def receive_volume(
        self, source_region: str, volume_id: str, dest_region: str, *, key: str
    ) -> Volume:
        """A volume of the same size, booted in the same way as that one, with nothing in it yet."""
