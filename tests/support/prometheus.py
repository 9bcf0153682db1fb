"""A real Prometheus that scrapes a real node_exporter, with ports and folders of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from webapp.embedded import free_port

PROGRAMS = ("prometheus", "prometheus-node-exporter")
IS_REQUIRED = bool(os.environ.get("FOREDESK_REQUIRE_PROMETHEUS"))
PATIENCE_S = 120.0  # a busy machine starts programs late and misses scrapes
NEAR_S = 2.0
HOST = "desk-0001"

CONFIG = """
global:
  scrape_interval: 1s
  scrape_timeout: 1s
scrape_configs:
  - job_name: desks
    static_configs:
      - targets: ["127.0.0.1:{exporter_port}"]
        labels: {{instance: "{host}:9100"}}
"""


def skip_without_prometheus() -> None:
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        reason = f"not installed: {', '.join(missing)}"
        if IS_REQUIRED:
            pytest.fail(f"Prometheus is required here, but {reason}")
        pytest.skip(reason)


class Prometheus:
    """The pair of processes. Its data outlive a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.exporter_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "prometheus.yml").write_text(
            CONFIG.format(exporter_port=self.exporter_port, host=HOST)
        )

    def expose(self, text: str) -> None:
        """Have the exporter tell this too, in the format of exporters; before the start."""
        (self.folder / "more").mkdir(exist_ok=True)
        (self.folder / "more" / "more.prom").write_text(text)

    def start(self) -> None:
        self._run(
            "prometheus-node-exporter",
            f"--collector.textfile.directory={self.folder / 'more'}",
            f"--web.listen-address=127.0.0.1:{self.exporter_port}",
        )
        self.start_server()

    def start_server(self) -> None:
        self._run(
            "prometheus",
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        )

    def wait_until_ready(self) -> None:
        self._wait(lambda client: client.get("/-/ready").is_success)

    def wait_for_scrapes(self, n: int, *, after: datetime | None = None) -> datetime:
        """When the last scrape was, once there are n later than `after` of which two and two are
        so near that a rate can be had of them."""
        query = {"query": "node_memory_MemTotal_bytes[5m]"}
        since = after.timestamp() if after else 0.0
        last = 0.0

        def are_there(client: httpx.Client) -> bool:
            nonlocal last
            result = client.get("/api/v1/query", params=query).json()["data"]["result"]
            moments = [float(at) for at, _ in result[0]["values"]] if result else []
            moments = [at for at in moments if at > since]
            last = moments[-1] if moments else 0.0
            near = [b - a < NEAR_S for a, b in pairwise(moments)]
            return len(moments) >= n and sum(near) >= n // 2

        self._wait(are_there)
        return datetime.fromtimestamp(last, UTC)

    def _wait(self, condition) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + PATIENCE_S
        with httpx.Client(base_url=self.url, trust_env=False) as client:
            while True:
                with suppress(httpx.TransportError, KeyError, ValueError):
                    if condition(client):
                        return
                if time.monotonic() > deadline:
                    raise AssertionError((self.folder / "prometheus.log").read_text()[-2000:])
                time.sleep(0.1)

    def _run(self, program: str, *options: str) -> None:
        with (self.folder / f"{program}.log").open("ab") as log:
            self._processes[program] = subprocess.Popen(
                [program, *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop_server(self) -> None:
        self._end("prometheus")

    def stop(self) -> None:
        for program in list(self._processes):
            self._end(program)

    def _end(self, program: str) -> None:
        process = self._processes.pop(program)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def prometheus(folder: Path, *, also: str = "") -> Iterator[Prometheus]:
    """also : what the exporter tells besides, in the format of exporters"""
    skip_without_prometheus()
    servers = Prometheus(folder)
    servers.expose(also)
    try:
        servers.start()
        servers.wait_until_ready()
        yield servers
    finally:
        servers.stop()
