"""A real Gnocchi on the tests' PostgreSQL, with its measures in files.

FOREDESK_GNOCCHI names the folder of its programs, such as the bin of a virtual environment with
`gnocchi[file,postgresql]`; else they are looked for in PATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.support.services import database_url
from webapp.embedded import free_port

DATABASE = "gnocchi_of_tests"
READY_S = 60.0
STEP_S = 300
CONFIG = """
[DEFAULT]
parallel_operations = 1
[api]
auth_mode = basic
[indexer]
url = {url}
[storage]
driver = file
file_basepath = {folder}
[metricd]
workers = 1
metric_processing_delay = 1
"""
# The interpreter that runs Gnocchi's programs serves its API: its own command wants uWSGI.
SERVE = """
import sys
from wsgiref.simple_server import make_server
from gnocchi.cli.api import wsgi
sys.argv = ["gnocchi-api", "--config-file", sys.argv[1], sys.argv[2]]
port = int(sys.argv.pop())
make_server("127.0.0.1", port, wsgi()).serve_forever()
"""
# As Ceilometer makes them, in as far as they are read.
POLICY = {
    "name": "ceilometer-low-rate",
    "definition": [{"granularity": "5m", "timespan": "30d"}],
    "aggregation_methods": ["mean", "rate:mean"],
    "back_window": 0,
}
UUID = {"type": "uuid", "required": True}
TYPES: dict[str, dict[str, object]] = {
    "instance": {},
    "instance_network_interface": {"instance_id": UUID},
    "instance_disk": {"instance_id": UUID},
}


def _program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("FOREDESK_GNOCCHI") or None)
    if found is None:
        pytest.skip(f"{name} is not installed (FOREDESK_GNOCCHI names its folder)")
    return found


class Gnocchi:
    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(base_url=url, auth=("admin", ""), trust_env=False, timeout=30)

    def send(self, path: str, body: object) -> None:
        answer = self.client.post(path, json=body)
        assert answer.is_success, answer.text

    def prepare(self) -> None:
        self.send("/v1/archive_policy", POLICY)
        for name, attributes in TYPES.items():
            self.send("/v1/resource_type", {"name": name, "attributes": attributes})

    def add(self, kind: str, resource_id: str, metrics: dict[str, Any], **attributes: str) -> None:
        """metrics : name → (time, value) pairs"""
        body = {
            "id": resource_id,
            "user_id": "nova",
            "project_id": "desks",
            "metrics": {name: {"archive_policy_name": POLICY["name"]} for name in metrics},
        }
        self.send(f"/v1/resource/{kind}", body | attributes)
        measures = {
            name: [
                {"timestamp": datetime.fromtimestamp(at, UTC).isoformat(), "value": value}
                for at, value in pairs
            ]
            for name, pairs in metrics.items()
        }
        self.send("/v1/batch/resources/metrics/measures", {resource_id: measures})

    def wait_until_processed(self) -> None:
        """A measure that was taken in is aggregated when it is asked for."""
        deadline = time.monotonic() + READY_S
        while self.client.get("/v1/status").json()["storage"]["summary"]["measures"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@contextmanager
def gnocchi(folder: Path) -> Iterator[Gnocchi]:
    upgrade, metricd = _program("gnocchi-upgrade"), _program("gnocchi-metricd")
    # The first line of a program that pip installed names the interpreter.
    python = Path(upgrade).read_text().splitlines()[0].removeprefix("#!").strip()
    parts = database_url().rpartition("/")
    config, port = folder / "gnocchi.conf", free_port()
    config.write_text(CONFIG.format(url=f"{parts[0]}/{DATABASE}", folder=folder / "measures"))
    with psycopg.connect(database_url(), autocommit=True) as link:
        link.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        link.execute(f"CREATE DATABASE {DATABASE}")
        processes = []
        try:
            with (folder / "gnocchi.log").open("wb") as log:
                given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
                subprocess.run(
                    [upgrade, f"--config-file={config}", "--sacks-number=4"],
                    check=True,
                    timeout=READY_S,
                    **given,
                )
                for command in (
                    [metricd, f"--config-file={config}"],
                    [python, "-c", SERVE, str(config), str(port)],
                ):
                    processes.append(subprocess.Popen(command, cwd=folder, **given))
            server = Gnocchi(f"http://127.0.0.1:{port}")
            _wait(server)
            server.prepare()
            yield server
            server.client.close()
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=15)
                process.kill()
                process.wait()
            link.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")


def _wait(server: Gnocchi) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        with suppress(httpx.TransportError):
            if server.client.get("/v1/status").is_success:
                return
        assert time.monotonic() < deadline, "Gnocchi does not answer"
        time.sleep(0.2)
