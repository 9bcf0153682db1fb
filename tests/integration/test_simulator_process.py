"""The simulated cloud as a process: what it refuses, and what it keeps when it is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from random import Random

import pytest

from desktops.clouds.registry import get_cloud
from desktops.clouds.simulator import connect
from desktops.core.cloud import (
    CloudUnavailable,
    Forbidden,
    JobState,
    ServerSpec,
    VolumeSpec,
)
from tests.support.simulator import (
    GB,
    ROOT,
    TOKEN,
    SimulatorProcess,
    desktop,
    eventually,
    simulator,
    two_regions,
)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[SimulatorProcess]:
    with simulator(tmp_path) as running:
        running.admin.load_world(two_regions())
        yield running


def run(*arguments: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "desktops.clouds.simulator", *arguments],
        cwd=ROOT,
        env={**os.environ, "SIMULATOR_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=30,
    )


# Starting


def test_it_needs_neither_django_nor_an_http_client() -> None:
    code = (
        "import sys, desktops.clouds.simulator.process;"
        "print([m for m in ('django', 'httpx', 'numpy') if m in sys.modules])"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert seen.stdout.strip() == "[]"


def test_the_management_command_is_the_same_process(tmp_path: Path) -> None:
    command = (sys.executable, "manage.py", "simulated_cloud", "--port=0", "--speed=1000")
    with subprocess.Popen(
        [*command, f"--store={tmp_path / 'store'}"],
        cwd=ROOT,
        env={**os.environ, "SIMULATOR_TOKEN": TOKEN},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        url = running.stdout.readline().split()[-1]
        cloud = connect("simulated", url=url, token=TOKEN)
        assert cloud.regions() == ()
        cloud.close()  # type: ignore[attr-defined]
        running.terminate()
        assert running.wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("arguments", "token", "complaint"),
    [
        (("--port=0", "--store={folder}/store"), "short", "SIMULATOR_TOKEN must hold a secret"),
        (("--port=0", "--store={folder}/no/store"), TOKEN, "unable to open database file"),
        (("--port=0", "--store={folder}"), TOKEN, "unable to open database file"),
        (("--port=0", "--store={folder}/store", "--speed=0"), TOKEN, "--speed must be"),
        (("--port=99999", "--store={folder}/store"), TOKEN, "port 99999"),
        (("--port=0", "--store={folder}/text"), TOKEN, "file is not a database"),
    ],
)
def test_what_keeps_it_from_starting_is_said_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], token: str, complaint: str
) -> None:
    (tmp_path / "text").write_text("once upon a time\n" * 100)
    ended = run(*(a.format(folder=tmp_path) for a in arguments), token=token)
    assert ended.returncode == 1
    assert complaint in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_taken_port_is_named(process: SimulatorProcess, tmp_path: Path) -> None:
    ended = run(f"--port={process.port}", f"--store={tmp_path / 'other'}")
    assert ended.returncode == 1
    assert f"port {process.port}: " in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_two_processes_cannot_share_a_store(process: SimulatorProcess) -> None:
    ended = run("--port=0", f"--store={process.store}")
    assert ended.returncode == 1
    assert "locked" in ended.stderr
    assert process.cloud().regions() == ("east", "west")


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    running = SimulatorProcess(tmp_path)
    running.start()
    assert running.process is not None
    assert running.process.stdin is not None
    running.process.stdin.close()
    assert running.process.wait(timeout=10) == 0
    running.close()


# Talking


def test_only_the_token_opens_the_door(process: SimulatorProcess) -> None:
    stranger = connect("simulated", url=process.url, token="a-guess-of-the-token")
    with pytest.raises(Forbidden):
        stranger.regions()
    stranger.close()  # type: ignore[attr-defined]
    assert raw(process, "GET", "/v1/world", token=None)[0] == 401


def test_it_listens_on_one_loopback_address_only(process: SimulatorProcess) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", process.port), timeout=5)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "complaint"),
    [
        ("POST", "/v1/cloud/regions", b"{", 400, "no JSON"),
        ("POST", "/v1/cloud/regions", b"[]", 400, "JSON object"),
        ("POST", "/v1/cloud/regions", b'{"planet": 1}', 400, "planet"),
        ("GET", "/v1/cloud/regions", b"", 400, "nothing answers GET"),
        ("POST", "/v1/cloud/explode", b"{}", 400, "nothing answers POST"),
        ("POST", "/", b"{}", 400, "/v1/"),
        ("POST", "/v1/world", b'{"regions": 5}', 400, "world.regions"),
        ("GET", "/v1/log?after=soon", b"", 400, "after"),
    ],
)
def test_nonsense_is_answered_and_the_connection_kept(
    process: SimulatorProcess, method: str, path: str, body: bytes, status: int, complaint: str
) -> None:
    connection = HTTPConnection("127.0.0.1", process.port, timeout=10)
    seen, answer = raw(process, method, path, body, connection=connection)
    assert seen == status
    assert complaint in answer["error"]["message"]
    assert raw(process, "GET", "/v1/world", connection=connection)[0] == 200
    connection.close()


def test_the_journal_can_be_read_with_curl(process: SimulatorProcess) -> None:
    process.admin.adopt([desktop("ana"), desktop("ben")])
    status, answer = raw(process, "GET", "/v1/log?desktop_key=ben&limit=2")
    assert status == 200
    assert [entry["kind"] for entry in answer["result"]] == ["server.building", "server.active"]
    assert {entry["desktop_key"] for entry in answer["result"]} == {"ben"}


def test_a_body_too_large_is_refused_unread(process: SimulatorProcess) -> None:
    with socket.create_connection(("127.0.0.1", process.port), timeout=10) as connection:
        connection.sendall(b"POST /v1/world HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("kind", ["timeout", "lost_answer", "unavailable"])
def test_no_answer_is_unavailable_to_the_caller(process: SimulatorProcess, kind: str) -> None:
    cloud = process.cloud()
    process.admin.inject_fault(kind, operation="create_volume")
    with pytest.raises(CloudUnavailable):
        cloud.create_volume("east", VolumeSpec("v", GB), key="v")
    is_there = cloud.find_volume("east", key="v") is not None
    assert is_there is (kind == "lost_answer")


def test_many_asking_for_one_server_get_one(process: SimulatorProcess) -> None:
    cloud = process.cloud()
    spec = ServerSpec("s", "desktop.small", image="desktop-2026")
    seen: set[str] = set()

    def ask() -> None:
        for _ in range(20):
            seen.add(cloud.create_server("east", spec, key="one").id)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1
    assert len(cloud.inventory("east").servers) == 1


def test_a_forked_worker_has_connections_of_its_own(process: SimulatorProcess) -> None:
    cloud = process.cloud()
    assert cloud.regions() == ("east", "west")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_ask_often, args=(cloud,)) for _ in range(3)]
    for child in children:
        child.start()
    for _ in range(200):
        assert cloud.regions() == ("east", "west")
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0, 0]


def _ask_often(cloud: object) -> None:
    for _ in range(200):
        if cloud.regions() != ("east", "west"):  # type: ignore[attr-defined]
            os._exit(1)


def test_the_registry_connects_it_by_settings(process: SimulatorProcess, settings) -> None:  # type: ignore[no-untyped-def]
    settings.CLOUDS = {"here": {"driver": "desktops.clouds.simulator", "options": process.options}}
    get_cloud.cache_clear()
    cloud = get_cloud("here")
    try:
        assert cloud.name == "here"
        assert cloud.regions() == ("east", "west")
    finally:
        cloud.close()  # type: ignore[attr-defined]
        get_cloud.cache_clear()


def test_a_fleet_of_two_hundred_is_adopted_in_seconds(
    process: SimulatorProcess,
) -> None:
    fleet = [desktop(f"d{n:03}", is_running=n % 4 != 0) for n in range(200)]
    started = time.monotonic()
    placed = process.admin.adopt(fleet)
    assert time.monotonic() - started < 10
    servers = process.cloud().inventory("east").servers
    assert {p.server_id for p in placed} == {s.id for s in servers}
    assert sum(s.is_stopped for s in servers) == 50
    assert sum(s.accepts_sessions for s in servers) == 150
    assert process.admin.adopt(fleet) == placed


# Dying


def test_a_pass_goes_on_after_a_kill(tmp_path: Path) -> None:
    with simulator(tmp_path, speed=100) as process:
        process.admin.load_world(two_regions())
        cloud = process.cloud()
        (placed,) = process.admin.adopt([desktop("ana", is_running=False)])

        def ask() -> tuple[JobState, int]:
            copy = cloud.copy_volume("east", placed.volume_id, "west", key="pass")
            return copy.state, copy.bytes_done

        _, sent = eventually(ask, lambda seen: seen[1] > 0)
        process.kill()
        with pytest.raises(CloudUnavailable):
            ask()
        process.start()
        _, sent_later = ask()
        assert sent_later > sent
        assert eventually(ask, lambda seen: seen[0] is not JobState.RUNNING)[0] is JobState.DONE
        copy = cloud.copy_volume("east", placed.volume_id, "west", key="pass")
        assert copy.volume_id is not None
        assert process.admin.content("west", copy.volume_id) == process.admin.content(
            "east", placed.volume_id
        )
        kinds = [entry.kind for entry in process.admin.log()]
        assert kinds.count("copy.started") == kinds.count("copy.done") == 1


def test_what_was_answered_is_kept_through_kills_at_any_time(process: SimulatorProcess) -> None:
    cloud, random = process.cloud(), Random(5)
    answered: dict[str, str] = {}
    asked = 0
    for _ in range(8):
        deadline = time.monotonic() + random.uniform(0.02, 0.15)
        timer = threading.Timer(
            deadline - time.monotonic(), lambda: _signal(process, signal.SIGKILL)
        )
        timer.start()
        while True:
            asked += 1
            key = f"v{asked}"
            try:
                answered[key] = cloud.create_volume("east", VolumeSpec(key, GB), key=key).id
            except CloudUnavailable:
                break
        timer.join()
        process.kill()
        process.start()
    assert len(answered) > 20
    volumes = cloud.inventory("east").volumes
    there = {volume.key: volume.id for volume in volumes}
    assert len(there) == len(volumes)
    assert answered.items() <= there.items()
    # A request that was never answered has had its whole effect, or none.
    created = [e.detail["key"] for e in process.admin.log() if e.kind == "volume.creating"]
    assert sorted(created) == sorted(there)


def _signal(process: SimulatorProcess, how: signal.Signals) -> None:
    if process.process is not None:
        process.process.send_signal(how)


def raw(
    process: SimulatorProcess,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    token: str | None = TOKEN,
    connection: HTTPConnection | None = None,
) -> tuple[int, dict]:  # type: ignore[type-arg]
    own = connection or HTTPConnection("127.0.0.1", process.port, timeout=10)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    own.request(method, path, body, headers)
    response = own.getresponse()
    answer = json.loads(response.read())
    if connection is None:
        own.close()
    return response.status, answer
