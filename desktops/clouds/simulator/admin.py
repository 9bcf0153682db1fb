"""What only a demo's seeder and tests ask of the simulated cloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from desktops.clouds.simulator.client import Client
from desktops.clouds.simulator.driver import instant
from desktops.clouds.simulator.journal import Entry

JOURNAL_PAGE = 5000


@dataclass(frozen=True, slots=True)
class Placed:
    """Where an adopted desktop was put."""

    desktop_key: str
    region: str
    server_id: str
    volume_id: str


@dataclass(frozen=True, slots=True)
class VolumeContent:
    """version : the same for two volumes exactly when they hold the same bytes
    ancestors : versions this content was written on top of, newest first
    """

    version: str
    ancestors: tuple[str, ...]
    written_bytes: int
    is_being_written: bool

    def descends_from(self, version: str) -> bool:
        """Whether everything that `version` held is there, later writes aside."""
        return version == self.version or version in self.ancestors


class SimulatorAdmin:
    def __init__(self, url: str, token: str, *, timeout_s: float = 30.0) -> None:
        self._client = Client(url=url, token=token, timeout_s=timeout_s)

    def close(self) -> None:
        self._client.close()

    def load_world(self, world: Mapping[str, Any]) -> bool:
        """Make the world as described (see world.py); says whether that changed anything."""
        is_changed: bool = self._client.send("POST", "world", world)["is_changed"]
        return is_changed

    def world(self) -> dict[str, Any] | None:
        loaded: dict[str, Any] | None = self._client.send("GET", "world")
        return loaded

    def link(self, source: str, dest: str) -> dict[str, Any]:
        """rtt_ms, bytes_per_s and egress_price_per_gb_micros from one region to another."""
        facts: dict[str, Any] = self._client.call("link", source=source, dest=dest)
        return facts

    def adopt(self, desktops: Sequence[Mapping[str, Any]]) -> list[Placed]:
        """Place desktops that were there before (see adoption.py), in the order given."""
        return [Placed(**p) for p in self._client.call("adopt", desktops=list(desktops))]

    def set_presence(self, desktop_key: str, *, is_present: bool) -> None:
        self._client.call("presence", desktop_key=desktop_key, is_present=is_present)

    def content(self, region: str, volume_id: str) -> VolumeContent:
        seen = self._client.call("content", region=region, volume_id=volume_id)
        return VolumeContent(
            version=seen["content_version"],
            ancestors=tuple(seen["ancestors"]),
            written_bytes=seen["written_bytes"],
            is_being_written=seen["is_being_written"],
        )

    def inject_fault(
        self,
        kind: str,
        *,
        operation: str = "*",
        region: str | None = None,
        times: int = 1,
        value: float | None = None,
    ) -> None:
        """Order a fault (see faults.py)."""
        self._client.send(
            "POST",
            "faults",
            {
                "kind": kind,
                "operation": operation,
                "region": region,
                "times": times,
                "value": value,
            },
        )

    def clear_faults(self) -> None:
        self._client.send("DELETE", "faults")

    def now(self) -> datetime:
        return instant(self._client.call("cloud/now"))

    def log(self, *, desktop_key: str = "", after: int = 0) -> list[Entry]:
        """Everything recorded after entry number `after`, of one desktop or of all."""
        entries: list[Entry] = []
        while True:
            page = self._client.call(
                "log", after=after, desktop_key=desktop_key, limit=JOURNAL_PAGE
            )
            entries += [Entry.from_json(row) for row in page]
            if len(page) < JOURNAL_PAGE:
                return entries
            after = page[-1]["seq"]
