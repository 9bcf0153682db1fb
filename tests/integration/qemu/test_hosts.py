"""What is particular to servers that are QEMU processes of ours."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from desktops.core.cloud import (
    Conflict,
    JobState,
    Server,
    ServerSpec,
    ServerStatus,
    VolumeSpec,
    VolumeStatus,
)
from desktops.core.hypervisor import Hypervisor
from tests.support import qemu
from tests.support.processes import is_alive, processes_of
from tests.support.qemu import BLANK_IMAGE, DEST, MIB, SOURCE, desk, process_of
from tests.support.simulator import eventually

ROOT = Path(__file__).resolve().parents[3]

CREATE = """
import json, sys
from desktops.clouds.qemu import connect
from desktops.core.cloud import ServerSpec
cloud = connect("hosts", **json.loads(sys.argv[1]))
volume = cloud.find_volume("east", key="volume")
print("ready", flush=True)
spec = ServerSpec(name="desk", flavor="desktop.small", boot_volume_id=volume.id)
cloud.create_server("east", spec, key=sys.argv[2])
"""


@pytest.fixture
def settings_of_hosts(tmp_path: Path) -> dict[str, Any]:
    qemu.skip_without_qemu()
    settings = qemu.options(tmp_path)
    for region in settings["regions"].values():
        qemu.prepare(region)
    return settings


@pytest.fixture
def cloud(settings_of_hosts: dict[str, Any]) -> Iterator[Hypervisor]:
    with qemu.qemu_cloud(settings_of_hosts) as connected:
        yield connected


def volume_of(cloud: Hypervisor, *, key: str = "volume") -> str:
    spec = VolumeSpec(name="disk", size_bytes=16 * MIB, image=BLANK_IMAGE)
    made = cloud.create_volume(SOURCE, spec, key=key)
    eventually(
        lambda: cloud.volume(SOURCE, made.id),
        lambda seen: seen.status is VolumeStatus.AVAILABLE,
        timeout_s=30,
    )
    return made.id


def server_of(cloud: Hypervisor) -> Server:
    spec = ServerSpec(name="desk", flavor="desktop.small", boot_volume_id=volume_of(cloud))
    made = cloud.create_server(SOURCE, spec, key="server")
    return cloud.server(SOURCE, made.id)


def worker(settings: dict[str, Any], key: str) -> subprocess.Popen[bytes]:
    """Another process, about to create a server."""
    import json

    process = subprocess.Popen(
        [sys.executable, "-c", CREATE, json.dumps(settings), key],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def end(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    process.stdout.close()
    return process.wait(timeout=60)


def test_a_server_outlives_the_worker_that_created_it(
    cloud: Hypervisor, settings_of_hosts: dict[str, Any], tmp_path: Path
) -> None:
    volume_of(cloud)
    assert end(worker(settings_of_hosts, "server")) == 0
    server = cloud.find_server(SOURCE, key="server")
    assert server is not None
    assert server.is_running
    assert is_alive(process_of(tmp_path / SOURCE, server.id))


def test_whenever_a_worker_is_killed_another_ends_with_one_server(
    cloud: Hypervisor, settings_of_hosts: dict[str, Any], tmp_path: Path
) -> None:
    volume_id = volume_of(cloud)
    spec = ServerSpec(name="desk", flavor="desktop.small", boot_volume_id=volume_id)
    chance = random.Random(1)
    before = processes_of(tmp_path)
    for turn in range(12):
        key = f"server {turn}"
        process = worker(settings_of_hosts, key)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        end(process)
        made = cloud.create_server(SOURCE, spec, key=key)
        seen = cloud.server(SOURCE, made.id)
        assert seen.is_running
        assert [one.id for one in cloud.inventory(SOURCE).servers] == [made.id]
        cloud.delete_server(SOURCE, made.id)
        assert processes_of(tmp_path) == before


def test_two_workers_that_create_at_once_have_one_server(
    cloud: Hypervisor, settings_of_hosts: dict[str, Any]
) -> None:
    volume_of(cloud)
    both = [worker(settings_of_hosts, "server") for _ in range(2)]
    assert [end(one) for one in both] == [0, 0]
    (server,) = cloud.inventory(SOURCE).servers
    assert server.is_running


def test_a_process_that_was_killed_is_a_server_that_is_off(
    cloud: Hypervisor, tmp_path: Path
) -> None:
    server = server_of(cloud)
    os.kill(process_of(tmp_path / SOURCE, server.id), signal.SIGKILL)
    eventually(lambda: cloud.server(SOURCE, server.id), lambda seen: seen.is_stopped, timeout_s=10)
    cloud.start_server(SOURCE, server.id)
    assert cloud.server(SOURCE, server.id).is_running


def test_a_process_that_does_not_answer_is_unknown_and_can_still_be_ended(
    settings_of_hosts: dict[str, Any], tmp_path: Path
) -> None:
    with qemu.qemu_cloud({**settings_of_hosts, "answer_timeout_s": 0.3}) as cloud:
        server = server_of(cloud)
        process_id = process_of(tmp_path / SOURCE, server.id)
        os.kill(process_id, signal.SIGSTOP)
        seen = cloud.server(SOURCE, server.id)
        assert (seen.status, seen.is_busy) == (ServerStatus.UNKNOWN, True)
        cloud.delete_server(SOURCE, server.id)
        assert not is_alive(process_id)


def test_a_guest_that_ignores_the_power_button_is_switched_off_when_asked_again(
    settings_of_hosts: dict[str, Any],
) -> None:
    with qemu.qemu_cloud({**settings_of_hosts, "shutdown_timeout_s": 1}) as cloud:
        server = server_of(cloud)
        cloud.stop_server(SOURCE, server.id)
        cloud.stop_server(SOURCE, server.id)
        seen = cloud.server(SOURCE, server.id)
        assert (seen.status, seen.is_busy) == (ServerStatus.ACTIVE, True)
        patient = eventually(
            lambda: cloud.server(SOURCE, server.id), lambda one: not one.is_busy, timeout_s=10
        )
        assert patient.is_running
        cloud.stop_server(SOURCE, server.id)
        assert cloud.server(SOURCE, server.id).is_stopped


def test_what_qemu_complains_of_is_the_servers_fault(settings_of_hosts: dict[str, Any]) -> None:
    with qemu.qemu_cloud({**settings_of_hosts, "arguments": ["-no-such-thing"]}) as cloud:
        spec = ServerSpec(name="desk", flavor="desktop.small", boot_volume_id=volume_of(cloud))
        with pytest.raises(Exception, match="no-such-thing"):
            cloud.create_server(SOURCE, spec, key="server")
        found = cloud.find_server(SOURCE, key="server")
        assert found is not None
        assert found.status is ServerStatus.ERROR
        assert "no-such-thing" in found.fault


def test_a_frozen_server_is_neither_received_nor_saved_while_it_runs(cloud: Hypervisor) -> None:
    server = server_of(cloud)
    with pytest.raises(Conflict):
        cloud.save_processor_state(SOURCE, server.id)
    with pytest.raises(Conflict):
        cloud.load_processor_state(SOURCE, server.id)
    cloud.thaw_server(SOURCE, server.id)
    cloud.freeze_server(SOURCE, server.id)
    cloud.freeze_server(SOURCE, server.id)
    assert cloud.server(SOURCE, server.id).status is ServerStatus.SUSPENDED
    cloud.save_processor_state(SOURCE, server.id)
    cloud.save_processor_state(SOURCE, server.id)
    assert cloud.desktop_state(SOURCE, server.id).processor_state.stat().st_size > 0
    cloud.thaw_server(SOURCE, server.id)
    assert cloud.server(SOURCE, server.id).is_running


def test_a_server_that_waits_for_a_state_is_neither_started_nor_thawed(cloud: Hypervisor) -> None:
    server = server_of(cloud)
    blank = cloud.create_volume(DEST, VolumeSpec(name="disk", size_bytes=16 * MIB), key="there")
    spec = ServerSpec(name="desk", flavor="desktop.small", boot_volume_id=blank.id)
    definition = cloud.desktop_state(SOURCE, server.id).definition
    waiting = cloud.receive_server(DEST, spec, definition, key="received")
    assert cloud.receive_server(DEST, spec, definition, key="received").id == waiting.id
    seen = cloud.server(DEST, waiting.id)
    assert (seen.status, seen.is_busy) == (ServerStatus.BUILD, True)
    for command in (
        cloud.start_server,
        cloud.thaw_server,
        cloud.stop_server,
        cloud.load_processor_state,
    ):
        with pytest.raises(Conflict):
            command(DEST, waiting.id)
    cloud.delete_server(DEST, waiting.id)


def test_a_killed_copy_goes_on_and_holds_what_the_disk_held(
    cloud: Hypervisor, tmp_path: Path
) -> None:
    volume_id = volume_of(cloud)
    disk = tmp_path / SOURCE / "volumes" / volume_id / "disk"
    with disk.open("r+b") as file:
        file.seek(9 * MIB)
        file.write(os.urandom(3 * MIB))

    def drive() -> JobState:
        return cloud.copy_volume(SOURCE, volume_id, DEST, key="pass").state

    eventually(drive, lambda state: state is JobState.DONE, timeout_s=30)
    done = cloud.copy_volume(SOURCE, volume_id, DEST, key="pass")
    assert done.bytes_total == 4 * MIB
    copied = tmp_path / DEST / "volumes" / str(done.volume_id) / "disk"
    assert copied.read_bytes() == disk.read_bytes()
    assert list((tmp_path / SOURCE / "snapshots").glob("[!.]*")) == []


def test_a_guest_shuts_down_and_its_fence_is_felt(tmp_path: Path) -> None:
    with desk(tmp_path, shutdown_timeout_s=60) as mine:
        server = mine.boot()
        session = mine.session()
        before = session.tick()
        mine.cloud.fence_server(SOURCE, server.id)
        with pytest.raises(subprocess.CalledProcessError):
            mine.session(within_s=2)
        mine.cloud.unfence_server(SOURCE, server.id)
        assert session.tick().boot == before.boot
        session.close()
        mine.cloud.stop_server(SOURCE, server.id)
        eventually(
            lambda: mine.cloud.server(SOURCE, server.id),
            lambda seen: seen.is_stopped,
            timeout_s=30,
        )
        mine.cloud.start_server(SOURCE, server.id)
        session = mine.session()
        assert session.tick().boot != before.boot
        session.close()
