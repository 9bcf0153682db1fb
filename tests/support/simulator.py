"""A simulated cloud for tests: a real process on a free port, with a store of its own.

with simulator(tmp_path) as cloud_process:
    cloud = cloud_process.cloud()
    cloud_process.admin.load_world(two_regions())
    placed = cloud_process.admin.adopt([desktop("ana")])
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

from desktops.clouds.simulator.admin import SimulatorAdmin
from desktops.clouds.simulator.driver import SimulatedCloud
from migration.gateways.simulator import SimulatedGateway

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-token-for-tests-only"
TEST_SPEED = 2000.0
GB = 10**9

T = TypeVar("T")
C = TypeVar("C", SimulatorAdmin, SimulatedCloud, SimulatedGateway)


class SimulatorProcess:
    """The process may be killed and started again; it keeps its port and its store."""

    def __init__(self, folder: Path, *, speed: float = TEST_SPEED, seed: int = 1) -> None:
        self.store = folder / "simulated-cloud.sqlite3"
        self.speed = speed
        self.seed = seed
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._opened: list[SimulatorAdmin | SimulatedCloud | SimulatedGateway] = []
        self._admin: SimulatorAdmin | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, str]:
        """What `connect` of the driver and of the gateway take; also for CLOUDS and GATEWAYS."""
        return {"url": self.url, "token": TOKEN}

    def start(self) -> None:
        where = f"--port={self.port}", f"--store={self.store}"
        how = f"--speed={self.speed}", f"--seed={self.seed}", "--exit-with-stdin"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "desktops.clouds.simulator", *where, *how],
            cwd=ROOT,
            env={**os.environ, "SIMULATOR_TOKEN": TOKEN},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        ready = self.process.stdout.readline().decode().strip()
        if not ready:
            raise RuntimeError("the simulated cloud did not start; its reason is on stderr")
        self.port = int(ready.rpartition(":")[2])

    def kill(self) -> None:
        """As `kill -9`."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        self.process.wait(timeout=10)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process = None

    def cloud(self, name: str = "simulated") -> SimulatedCloud:
        return self._remember(SimulatedCloud(name, url=self.url, token=TOKEN))

    def gateway(self, name: str = "simulator") -> SimulatedGateway:
        return self._remember(SimulatedGateway(name, url=self.url, token=TOKEN))

    @property
    def admin(self) -> SimulatorAdmin:
        if self._admin is None:
            self._admin = self._remember(SimulatorAdmin(self.url, TOKEN))
        return self._admin

    def _remember(self, client: C) -> C:
        self._opened.append(client)
        return client

    def close(self) -> None:
        for client in self._opened:
            client.close()
        self.stop()


@contextmanager
def simulator(
    folder: Path, *, speed: float = TEST_SPEED, seed: int = 1
) -> Iterator[SimulatorProcess]:
    """Run a simulated cloud whose store is in `folder` until the block ends."""
    process = SimulatorProcess(folder, speed=speed, seed=seed)
    try:
        process.start()
        yield process
    finally:
        process.close()


def two_regions(**changes: Any) -> dict[str, Any]:
    """A small world: `east` and `west`, two flavors, one image in east, a 1 Gbit/s link."""
    regions = ("east", "west")
    return {
        "currency": "USD",
        "regions": [
            {"name": "east", "latitude": 39.0, "longitude": -77.5},
            {"name": "west", "latitude": 45.8, "longitude": -119.7},
        ],
        "links": [
            {"source": a, "dest": b, "rtt_ms": 64.0, "bytes_per_s": 125_000_000}
            for a, b in (regions, regions[::-1])
        ],
        "flavors": [
            {
                "name": f"desktop.{name}",
                "vcpus": vcpus,
                "memory_bytes": vcpus * 4 * GB,
                "price_per_hour_micros": {"east": 50_000 * vcpus, "west": 60_000 * vcpus},
            }
            for name, vcpus in (("small", 2), ("medium", 4))
        ],
        "images": [{"name": "desktop-2026", "size_bytes": 8 * GB, "regions": ["east"]}],
        **changes,
    }


def desktop(key: str, **changes: Any) -> dict[str, Any]:
    """A running desktop in east, for `admin.adopt`; its user is away unless said otherwise."""
    return {
        "desktop_key": key,
        "region": "east",
        "flavor": "desktop.small",
        "image": "desktop-2026",
        "volume_bytes": 40 * GB,
        "used_bytes": 20 * GB,
        **changes,
    }


def eventually(
    observe: Callable[[], T],
    is_wanted: Callable[[T], object] = bool,
    *,
    timeout_s: float = 10,
    every_s: float = 0.005,
) -> T:
    """Observe until what is seen is wanted, and return it; fails with the last thing seen."""
    deadline = monotonic() + timeout_s
    while True:
        seen = observe()
        if is_wanted(seen):
            return seen
        if monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s; last seen: {seen!r}")
        sleep(every_s)
