"""The product's processes against the database of the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from django.db import connection

from tests.support.simulator import TOKEN, SimulatorProcess
from webapp.embedded import free_port

ROOT = Path(__file__).resolve().parents[2]
READY_S = 40.0
# No proxy stands between us and our own server.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Service:
    """One process that can be stopped, killed and started again; its output goes to a file."""

    def __init__(self, *module: str, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.command = [sys.executable, "-m", *module]
        self.log = log
        self.env = {**os.environ, "DATABASE_URL": database_url(), **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As `kill -9`, its children with it."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, how)
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None


class WebServer(Service):
    """The ASGI server on a port of its own, which it keeps."""

    def __init__(self, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        options = (f"--port={port}", "--lifespan=off", "--timeout-graceful-shutdown=1")
        super().__init__("uvicorn", "webapp.asgi:application", *options, log=folder / "web.log")

    def start(self) -> None:
        super().start()
        deadline = time.monotonic() + READY_S
        while True:
            with suppress(OSError), _OPENER.open(f"{self.url}/healthz", timeout=5):
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"the web server does not answer:\n{self.log.read_text()}")
            time.sleep(0.1)


@contextmanager
def web_server(folder: Path) -> Iterator[WebServer]:
    server = WebServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def worker(folder: Path, simulated: SimulatorProcess) -> Iterator[Service]:
    """A Celery worker with its beat that drives transitions on the simulated cloud."""
    where = ("--beat", f"--schedule={folder / 'beat-schedule'}", "--queues=default")
    service = Service(
        *("celery", "-A", "webapp", "--quiet", "worker", "--concurrency=2", *where),
        log=folder / "worker.log",
        env={"SIMULATOR_URL": simulated.url, "SIMULATOR_TOKEN": TOKEN},
    )
    try:
        service.start()
        yield service
    finally:
        service.stop()


def database_url() -> str:
    """DATABASE_URL of the database that pytest-django made."""
    parts = urlsplit(os.environ["DATABASE_URL"])
    return urlunsplit(parts._replace(path=f"/{connection.settings_dict['NAME']}"))
