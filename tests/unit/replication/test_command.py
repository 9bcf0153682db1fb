"""`python -m migration.replication`, as an operator uses it: two processes under mutual TLS."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from migration.replication.errors import Refused, VolumeFailed
from migration.replication.nbd import NbdVolume

MIB = 1 << 20
COMMAND = (sys.executable, "-m", "migration.replication")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def west(tmp_path):
    for name in ("east", "west"):
        assert run("certify", tmp_path / "authority", name, tmp_path / name).returncode == 0
    serve = ("serve", tmp_path / "shadows", "--listen", "127.0.0.1:0")
    serve += ("--exports", tmp_path / "exports")
    with subprocess.Popen(
        [*COMMAND, *map(str, serve), "--certificates", str(tmp_path / "west")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process.stdout.readline().split()[-1]
        process.terminate()


def to(address: str, folder: Path) -> tuple[object, ...]:
    return ("--to", address, "--peer", "west", "--certificates", folder / "east", "--name", "desk")


def test_a_volume_is_sent_and_verified(tmp_path, west):
    source = tmp_path / "volume"
    source.write_bytes(random.Random(1).randbytes(3 * MIB))
    there = to(west, tmp_path)
    sent = run("send", source, *there, "--cache", tmp_path / "cache", "--json")
    assert json.loads(sent.stdout)["data_bytes"] == 3 * MIB
    assert run("verify", source, *there).stdout == "equal, at recovery point 1\n"
    with source.open("r+b") as file:
        file.write(b"other")
    differing = run("verify", source, *there)
    assert differing.returncode == 1
    assert "1 of 3 superblocks differ from the source, the first at byte 0" in differing.stdout
    again = run("send", source, *there, "--cache", tmp_path / "cache")
    assert again.stdout.startswith("recovery point 2: 0.0 MB changed, 0.0 MB sent in ")
    assert (tmp_path / "shadows/desk/volume").read_bytes() == source.read_bytes()


def test_what_cannot_be_reached_may_be_tried_again(tmp_path, west):
    (tmp_path / "volume").write_bytes(b"content")
    there = to("127.0.0.1:1", tmp_path)
    failed = run("send", tmp_path / "volume", *there, "--cache", tmp_path / "cache")
    assert failed.returncode == 75
    assert failed.stderr.startswith("interrupted: 127.0.0.1:1 cannot be reached")


def test_it_is_not_left_open_by_oversight(tmp_path):
    refused = run("serve", tmp_path, "--listen", "127.0.0.1:0")
    assert refused.returncode == 2
    assert "one of the arguments --certificates --insecure is required" in refused.stderr


def test_what_a_machine_runs_on_is_read_while_and_after_it_comes(tmp_path, west):
    source, there = tmp_path / "volume", to(west, tmp_path)
    content = random.Random(1).randbytes(24 * MIB)
    source.write_bytes(content)
    (tmp_path / "first").write_text(json.dumps([{"start": 20 * MIB, "length": MIB}]))
    hot = ("--first", tmp_path / "first", "--limit-mbit", "100")
    command = ("send", source, *there, "--cache", tmp_path / "cache", "--started", *hot)
    with (
        subprocess.Popen([*COMMAND, *map(str, command)], stdout=subprocess.PIPE) as sending,
        opened(f"nbd+unix:///desk?socket={tmp_path / 'exports'}") as volume,
    ):
        assert sending.poll() is None
        for at in (23 * MIB, 0, 20 * MIB):
            data = memoryview(bytearray(4096))
            volume.read_into(data, at)
            assert bytes(data) == content[at : at + 4096]
        assert sending.wait(60) == 0
        data = memoryview(bytearray(24 * MIB))
        volume.read_into(data, 0)
        assert bytes(data) == content
    refused = run("send", source, *there, "--cache", tmp_path / "cache")
    assert "a machine was started on it" in refused.stderr
    mode = (tmp_path / "exports").stat().st_mode
    assert mode & 0o077 == 0


def opened(url: str) -> NbdVolume:
    for _ in range(600):
        try:
            return NbdVolume(url)
        except (Refused, VolumeFailed):
            time.sleep(0.01)
    raise AssertionError("there is no such export")
