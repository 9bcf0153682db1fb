"""The simulated cloud's engine without its process, on a clock that tests turn by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from desktops.clouds.simulator.simulation import Settings, Simulation
from tests.support.simulator import desktop, two_regions

START_MS = 1_780_000_000_000


class Bench:
    """`wall_ms` is the real clock; at speed 1 simulated time is the same."""

    def __init__(self, folder: Path, *, speed: float = 1, seed: int = 1) -> None:
        self.path = folder / "store.sqlite3"
        self.wall_ms = START_MS
        self.simulation = self._open(speed, seed)

    def _open(self, speed: float, seed: int) -> Simulation:
        settings = Settings(speed=speed, seed=seed)
        return Simulation(self.path, settings, lambda: self.wall_ms)

    def reopen(self, *, speed: float = 1, seed: int = 1) -> None:
        self.simulation.close()
        self.simulation = self._open(speed, seed)

    def wait(self, seconds: float) -> None:
        self.wall_ms += round(1000 * seconds)

    def cloud(self, operation: str, /, **arguments: Any) -> Any:
        return self.simulation.run(f"cloud/{operation}", arguments)

    def gateway(self, operation: str, /, **arguments: Any) -> Any:
        return self.simulation.run(f"gateway/{operation}", arguments)

    def admin(self, operation: str, /, **arguments: Any) -> Any:
        return self.simulation.run(operation, arguments)

    def load(self, **changes: Any) -> None:
        self.admin("load_world", world=two_regions(**changes))

    def adopt(self, key: str = "ana", **changes: Any) -> dict[str, Any]:
        placed: dict[str, Any] = self.admin("adopt", desktops=[desktop(key, **changes)])[0]
        return placed

    def log(self, desktop_key: str = "") -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.admin("log", desktop_key=desktop_key)
        return entries

    def kinds(self, desktop_key: str = "") -> list[str]:
        return [entry["kind"] for entry in self.log(desktop_key)]

    def server(self, placed: dict[str, Any]) -> dict[str, Any]:
        seen: dict[str, Any] = self.cloud(
            "server", region=placed["region"], server_id=placed["server_id"]
        )
        return seen

    def content(self, region: str, volume_id: str) -> dict[str, Any]:
        seen: dict[str, Any] = self.admin("content", region=region, volume_id=volume_id)
        return seen

    def copy(self, placed: dict[str, Any], key: str, base: str | None = None) -> dict[str, Any]:
        seen: dict[str, Any] = self.cloud(
            "copy_volume",
            source_region="east",
            volume_id=placed["volume_id"],
            dest_region="west",
            key=key,
            base_volume_id=base,
        )
        return seen

    def copied(self, placed: dict[str, Any], key: str, base: str | None = None) -> dict[str, Any]:
        """A pass from its beginning to its end, an hour later."""
        self.copy(placed, key, base)
        self.wait(3600)
        return self.copy(placed, key, base)
