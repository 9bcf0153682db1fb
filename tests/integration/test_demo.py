"""The demo command itself: what it refuses in one line, and one whole life of it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.support.processes import eventually, is_alive, processes_of
from webapp.embedded import free_port

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "HTTPS_ONLY", "DJANGO_SETTINGS_MODULE")


def environment(data_dir: Path) -> dict[str, str]:
    """Ours without what the tests' own settings need."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return {**kept, "FOREDESK_DATA": str(data_dir)}


def run_demo(data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """For demos that end by themselves."""
    return subprocess.run(
        [sys.executable, "manage.py", "demo", *arguments],
        cwd=ROOT,
        env=environment(data_dir),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_one_clear_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode != 0
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert all(word in lines[0] for word in words), lines[0]


def test_a_taken_port_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_demo(tmp_path / "data", "--port", str(port))
    assert_one_clear_line(done, str(port), "make demo PORT=")
    assert not (tmp_path / "data" / "servers").exists()


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_what_is_no_port_is_said(tmp_path: Path, port: str) -> None:
    done = run_demo(tmp_path / "data", "--port", port)
    assert done.returncode != 0
    assert "a port is a number from 1 to 65535" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_said() -> None:
    assert_one_clear_line(run_demo(Path("/proc/foredesk")), "/proc/foredesk")


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    assert_one_clear_line(run_demo(tmp_path / "data"), "FOREDESK_DATA", "not a folder")


class RunningDemo:
    """A demo in a process of its own, with what it said."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self.data_dir = data_dir
        self.address = f"http://127.0.0.1:{port}/"
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "demo", "--port", str(port)],
            cwd=ROOT,
            env=environment(data_dir),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, pattern: str) -> re.Match[str]:
        """The first line to match; fails when the demo ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip())
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"The demo ended without {pattern!r}:\n" + "\n".join(self.said))

    def pids_of(self, words: str) -> list[int]:
        return [pid for pid, cmd in processes_of(self.data_dir).items() if words in cmd]

    def is_running(self, words: str) -> bool:
        return any(words in command for command in processes_of(self.data_dir).values())

    def finish(self) -> int:
        """Read what it says to the end, so that it never waits for us; returns its status."""
        assert self.process.stdout is not None
        self.said += [line.rstrip() for line in self.process.stdout]
        return self.process.wait()


@contextmanager
def demo(data_dir: Path, port: int) -> Iterator[RunningDemo]:
    running = RunningDemo(data_dir, port)
    try:
        yield running
    finally:
        running.process.kill()
        running.finish()
        assert running.process.stdout is not None
        running.process.stdout.close()


def signed_in(address: str, password: str) -> Callable[[str], bytes] | None:
    """How to read pages as admin, None when the password is refused."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(CookieJar())
    )
    page = opener.open(f"{address}sign-in/").read().decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert token
    form = {"username": "admin", "password": password, "csrfmiddlewaretoken": token.group(1)}
    answer = opener.open(f"{address}sign-in/", urlencode(form).encode())
    if answer.geturl().startswith(f"{address}sign-in/"):
        return None
    return lambda path: opener.open(address + path).read()


@pytest.mark.timeout(420)
def test_a_life_of_the_demo(tmp_path: Path) -> None:
    data_dir, port = tmp_path / "data", free_port()
    with demo(data_dir, port) as first:
        password = first.read_until(r"password +(\S+)").group(1)
        read = signed_in(first.address, password)
        assert read is not None
        awaiting = json.loads(read("api/v1/recommendations/?state=awaiting_approval"))
        assert awaiting["count"] >= 1
        assert signed_in(first.address, password) is None, "the password worked twice"

        in_second_shell = subprocess.run(
            [sys.executable, "manage.py", "showmigrations", "webapp"],
            cwd=ROOT,
            env=environment(data_dir),
            capture_output=True,
            text=True,
            check=True,
        )
        assert "[X] 0001_initial" in in_second_shell.stdout
        assert_one_clear_line(run_demo(data_dir, "--port", str(free_port())), first.address)

        first.read_until(r"stop +Ctrl-C")
        assert eventually(lambda: len(first.pids_of("-Q default")) > 1, within_s=60)
        worker, *pool = sorted(first.pids_of("-Q default"))
        os.kill(worker, signal.SIGKILL)
        first.read_until(r"^worker was ended by SIGKILL; starting it again")
        assert eventually(lambda: not any(is_alive(pid) for pid in pool))
        assert eventually(lambda: first.is_running("-Q default"), within_s=30)

        first.process.terminate()
        assert first.finish() == 0, "\n".join(first.said)
        assert not processes_of(data_dir)

    with demo(data_dir, port) as second:
        again = second.read_until(r"password +(\S+)").group(1)
        assert again != password
        assert signed_in(second.address, again) is not None
        assert not any("Seeded" in line or "tables" in line for line in second.said)
        second.process.kill()
        assert eventually(lambda: not processes_of(data_dir)), processes_of(data_dir)
