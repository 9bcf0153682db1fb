"""The demo: the whole product on one machine, with everything it needs, in one data directory.

The same processes as in production under one supervisor, plus an embedded PostgreSQL and Redis and
a simulated cloud. It decides the settings the rest of the product reads, so it runs before Django
is set up (see manage.py) and does what needs Django in a process of its own.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import secrets
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from webapp.child import Child
from webapp.embedded import (
    Embedded,
    EmbeddedError,
    free_port,
    last_line,
    make_data_folder,
    write_private,
)
from webapp.env import Env, InvalidSetting, parse_env_file
from webapp.supervisor import Supervisor, describe_status

BASE_DIR = Path(__file__).resolve().parent.parent
READY_S = 120.0
# As settings and seeding call it.
CLOUD = "simulated"
# No proxy stands between us and our own web server, whatever http_proxy says.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DemoError(Exception):
    """The demo cannot run; the message says why, and what to do, in one line."""


def say(text: str) -> None:
    # A closed terminal must not keep the demo from stopping its processes.
    with suppress(OSError):
        print(text, flush=True)


class Demo:
    """One demo: its data directory, its settings and its processes."""

    def __init__(self, data_dir: Path, *, host: str, port: int) -> None:
        self.data_dir = data_dir
        self.host = host
        self.port = port
        self.address = _address(host, port)
        self.log_dir = data_dir / "log"
        self.embedded = Embedded(data_dir)
        self.supervisor = Supervisor(say)

    def run(self) -> None:
        """Run until KeyboardInterrupt; leaves no process behind, however it ends."""
        password = secrets.token_urlsafe(12)
        try:
            self._start(password)
            self._say_ready(password)
            self.supervisor.watch(until=lambda: False)
        finally:
            with _only_one_interrupt():
                say("Stopping ...")
                self.supervisor.stop()
                say("Stopped.")

    def _start(self, password: str) -> None:
        started = time.monotonic()
        is_first = not self.embedded.cluster.exists()
        say("Making the database ..." if is_first else "Starting the database ...")
        self.embedded.prepare()
        for log in self.log_dir.glob("*.log"):
            log.unlink()
        self.supervisor.start(self.embedded.postgres, self.embedded.redis)
        self.env = self._write_settings()
        cloud = self._child(
            "cloud",
            *("manage.py", "simulated_cloud"),
            *("--port", str(self.cloud_port), "--store", str(self.data_dir / "cloud.sqlite3")),
        )
        self.supervisor.start(cloud)
        self.embedded.wait_until_ready()
        if self._is_prepared():
            # Nothing to migrate or seed: what is slow is only starting Python, so side by side.
            self.supervisor.start(self._web())
            self._prepare(password)
        else:
            self._prepare(password)
            self.supervisor.start(self._web())
        say("Waiting for the web server ...")
        self._wait_for_page()
        # They come up while somebody signs in; what is asked of them meanwhile waits in the queue.
        self.supervisor.start(*self._background())
        say(f"Ready after {time.monotonic() - started:.1f} s.")

    def _write_settings(self) -> dict[str, str]:
        """Write demo.env for commands in other shells, and return our children's environment."""
        file = self.data_dir / "demo.env"
        earlier = parse_env_file(file.read_text()) if file.exists() else {}
        self.cloud_port = free_port()
        settings = {
            "DATABASE_URL": self.embedded.database_url,
            "REDIS_URL": self.embedded.redis_url,
            "SECRET_KEY": earlier.get("SECRET_KEY") or secrets.token_urlsafe(50),
            "HTTPS_ONLY": "false",
            "SIMULATOR_URL": f"http://127.0.0.1:{self.cloud_port}",
            "SIMULATOR_TOKEN": secrets.token_urlsafe(24),
            "RELAYED_CLOUDS": CLOUD,
            "FOREDESK_ADDRESS": self.address,
        }
        header = "# Written by each start of the demo; read by settings without DATABASE_URL.\n"
        lines = "".join(f"{name}={value}\n" for name, value in settings.items())
        write_private(file, header + lines)
        ours = {"FOREDESK_DATA": str(self.data_dir), "DJANGO_SETTINGS_MODULE": "webapp.settings"}
        return {**os.environ, **settings, **ours}

    def _child(self, name: str, *arguments: str, **options: object) -> Child:
        return Child(
            name,
            [sys.executable, *arguments],
            env=self.env,
            cwd=BASE_DIR,
            log=self.log_dir / f"{name}.log",
            **options,  # type: ignore[arg-type]
        )

    def _web(self) -> Child:
        return self._child(
            "web",
            *("-m", "uvicorn", "webapp.asgi:application", "--no-access-log"),
            *("--host", self.host, "--port", str(self.port)),
            *("--lifespan", "off", "--timeout-graceful-shutdown", "3"),
        )

    def _background(self) -> list[Child]:
        celery = ("-m", "celery", "-A", "webapp", "--quiet")
        worker = (*celery, "worker", "--without-gossip", "--without-mingle", "--loglevel", "INFO")
        return [
            self._child(
                "worker", *worker, *("-Q", "default", "--concurrency", "2", "-n", "worker@%h")
            ),
            self._child(
                "bulk-worker", *worker, *("-Q", "bulk", "--concurrency", "1", "-n", "bulk@%h")
            ),
            self._child("beat", *celery, "beat", "--pidfile="),
            self._child("relay", "manage.py", "relay", "--cloud", CLOUD, "--jobs", "4"),
        ]

    def _prepare(self, password: str) -> None:
        """Migrate, seed and set the password; progress goes to the terminal."""
        preparation = Child(
            "preparation",
            [sys.executable, "manage.py", "prepare_demo"],
            env={**self.env, "DEMO_PASSWORD": password},
            cwd=BASE_DIR,
        )
        preparation.start()
        try:
            self.supervisor.watch(until=lambda: not preparation.is_running())
        finally:
            preparation.stop()
        if preparation.status != 0:
            raise DemoError(f"The preparation {describe_status(preparation.status)}.")
        (self.data_dir / "prepared").write_text(_fingerprint_of_migrations())

    def _is_prepared(self) -> bool:
        mark = self.data_dir / "prepared"
        return mark.exists() and mark.read_text() == _fingerprint_of_migrations()

    def _wait_for_page(self) -> None:
        deadline = time.monotonic() + READY_S
        self.supervisor.watch(until=lambda: self._answers() or time.monotonic() > deadline)
        if not self._answers():
            log = self.log_dir / "web.log"
            raise DemoError(f"The web server does not answer: {last_line(log)} ({log})")

    def _answers(self) -> bool:
        try:
            with _OPENER.open(f"{self.address}healthz", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _say_ready(self, password: str) -> None:
        say("")
        say(f"  Foredesk     {self.address}")
        say("  user         admin")
        say(f"  password     {password}   (for one sign-in; each start prints a new one)")
        say(f"  data, logs   {self.data_dir}")
        say("  stop         Ctrl-C")
        say("")


def _address(host: str, port: int) -> str:
    """What to open in a browser on this machine."""
    if host in {"0.0.0.0", "::"}:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _fingerprint_of_migrations() -> str:
    names = sorted(str(path.relative_to(BASE_DIR)) for path in BASE_DIR.glob("*/migrations/*.py"))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


@contextmanager
def _only_one_interrupt() -> Iterator[None]:
    """Stopping goes on when Ctrl-C is pressed again."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    yield


@contextmanager
def _lock(data_dir: Path) -> Iterator[None]:
    """Hold the data directory, so that no two demos run in it."""
    with (data_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            running = Env(_read_settings(data_dir)).text("FOREDESK_ADDRESS", "another address")
            raise DemoError(f"A demo already runs in {data_dir}: {running}") from None
        yield


def _read_settings(data_dir: Path) -> Mapping[str, str]:
    with suppress(OSError):
        return parse_env_file((data_dir / "demo.env").read_text())
    return {}


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        # As the web server does: a port that was in use a moment ago is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise DemoError(
                f"Cannot listen on {host} port {port} ({error.strerror}). "
                f"Choose another port: make demo PORT={port + 1 if port < 65535 else 8000}"
            ) from None


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {text!r}")
    return int(text)


def _on_signal(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="manage.py demo", description="Run the whole demo.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=_port, default=8000, help="port to listen on")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
            signal.signal(number, _on_signal)
    try:
        data_dir = Env(os.environ).folder("FOREDESK_DATA", BASE_DIR / ".foredesk")
        make_data_folder(data_dir)
        with _lock(data_dir):
            _check_port(options.host, options.port)
            Demo(data_dir, host=options.host, port=options.port).run()
    except KeyboardInterrupt:
        return 0
    except (DemoError, EmbeddedError, InvalidSetting) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"demo: {error.filename or 'the system'}: {error.strerror}", file=sys.stderr)
        return 1
    return 0
