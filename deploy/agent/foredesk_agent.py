#!/usr/bin/env python3
"""Foredesk agent: measures the desktop it runs in and reports it to a Foredesk server.

One file for guests: Python 3.9 or newer, psutil, and the standard library. docs/sources/agent.md
says how it is installed, what leaves the machine, and the wire format.

It only ever asks: nothing listens. What it observes goes to a spool on disk first and is deleted
there once the server has it, so that neither an outage nor a reboot loses more than the minute in
hand. What it is asked to do is signed, is done at most once, and never after it has expired.

AgentError
├── BadConfig       the configuration cannot be used
├── NotEnrolled     there is no token to show
└── Unreachable     no answer came from the server
"""

from __future__ import annotations

import argparse
import configparser
import gzip
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import random
import re
import secrets
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

if os.name == "nt":
    import ctypes  # not elsewhere: hardened services may not make the code it makes at run time

VERSION = "1.0"
IS_WINDOWS = os.name == "nt"
_PROGRAM_DATA = Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "foredesk-agent"
CONFIG = _PROGRAM_DATA / "agent.conf" if IS_WINDOWS else Path("/etc/foredesk-agent.conf")
STATE_DIR = _PROGRAM_DATA if IS_WINDOWS else Path("/var/lib/foredesk-agent")
METADATA_URL = "http://169.254.169.254/openstack/latest/meta_data.json"
EXTENT_BYTES = 64 << 20
SECTOR_BYTES = 512
HOUR_S, DAY_S = 3600, 86_400
# Of the server: what one batch may hold.
MOST_SAMPLES = 5000
MEASURES = (
    "cpu_cores",
    "memory_bytes",
    "network_bytes_per_s",
    "storage_bytes_per_s",
    "active_ratio",
)
log = logging.getLogger("foredesk-agent")


class AgentError(Exception):
    """Base of what can go wrong; the message is for the admin of the machine."""


class BadConfig(AgentError):
    """The configuration cannot be used."""


class NotEnrolled(AgentError):
    """There is no token to show."""


class Unreachable(AgentError):
    """No answer came from the server."""


# --- Configuration -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """Every option, with its default. The names are those of the file, section by section."""

    url: str = ""
    ca_file: str = ""
    proxy: str = ""
    sample_s: int = 15
    post_s: int = 0  # 0: what the server said at enrolment
    poll_s: int = 0
    state_dir: str = str(STATE_DIR)
    spool_mb: int = 64
    spool_days: int = 7
    applications: tuple[str, ...] = ()
    top_applications: int = 20
    client_address: bool = True
    disk_reads: bool = True
    ignore_users: tuple[str, ...] = ("root", "SYSTEM")
    idle_s: int = 300
    remote_ports: tuple[int, ...] = (3389,)
    server_id: str = ""
    metadata_url: str = METADATA_URL
    config_drive: str = "/mnt/config"


SECTIONS: Mapping[str, tuple[str, ...]] = {
    "server": ("url", "ca_file", "proxy"),
    "agent": ("sample_s", "post_s", "poll_s", "state_dir", "spool_mb", "spool_days"),
    "privacy": ("applications", "top_applications", "client_address", "disk_reads"),
    "sessions": ("ignore_users", "idle_s", "remote_ports"),
    "identity": ("server_id", "metadata_url", "config_drive"),
}
RANGES: Mapping[str, tuple[int, int]] = {
    "sample_s": (1, 900),
    "post_s": (5, 3600),
    "poll_s": (5, 3600),
    "spool_mb": (1, 10_240),
    "spool_days": (1, 90),
    "top_applications": (0, 50),
    "idle_s": (10, 86_400),
}


def read_config(path: Path, *, must_exist: bool = True) -> Config:
    """Raises BadConfig, which names the option: a misspelt one is not passed over in silence."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except FileNotFoundError:
        if must_exist:
            raise BadConfig(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise BadConfig(f"{path}: {error}") from None
    values: dict[str, Any] = {}
    for section in parser.sections():
        for name, text in parser.items(section):
            if name not in SECTIONS.get(section, ()):
                raise BadConfig(f"{path}: [{section}] has no option {name}")
            values[name] = _value(name, text.strip())
    config = Config(**values)
    if config.url:
        _check_url(config.url)
    return config


def _value(name: str, text: str) -> Any:
    default = getattr(Config, name)
    try:
        if isinstance(default, bool):
            return {"yes": True, "true": True, "no": False, "false": False}[text.lower()]
        if isinstance(default, int):
            least, most = RANGES[name]
            if not least <= int(text) <= most:
                raise ValueError
            return int(text)
        if isinstance(default, tuple):
            items = [item for item in re.split(r"[,\s]+", text) if item]
            return tuple(map(int, items)) if name == "remote_ports" else tuple(items)
    except (KeyError, ValueError):
        allowed = "{} to {}".format(*RANGES[name]) if name in RANGES else "yes/no or numbers"
        raise BadConfig(f"{name}: {text!r} is not {allowed}") from None
    return text


def _check_url(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost"):
        return
    raise BadConfig(f"url: {url!r} is not an https address (http is for loopback alone)")


# --- Files that survive a power cut --------------------------------------------------------------


def write_durably(path: Path, data: bytes) -> None:
    """All of it or nothing, also after a power cut; readable by the owner alone."""
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if not IS_WINDOWS:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def lock(folder: Path) -> Any:
    """Held as long as what is returned is open. Raises AgentError when another agent runs here."""
    if IS_WINDOWS:
        return None
    import fcntl

    file = (folder / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise AgentError(f"another agent runs on {folder}; stop it first") from None
    return file


def private_folder(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@dataclass
class State:
    """What the agent must not forget: its credential, and the commands it has had.

    commands : id → {"expires_at", "outcome", "detail", "is_reported"}
    """

    path: Path
    token: str = ""
    command_key: str = ""
    desktop: str = ""
    post_s: int = 60
    poll_s: int = 30
    commands: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> State:
        path = folder / "state.json"
        try:
            return cls(path=path, **json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls(path=path)
        except (ValueError, TypeError) as error:
            raise AgentError(f"{path} is damaged ({error}); delete it and enrol again") from None

    def save(self) -> None:
        private_folder(self.path.parent)
        values = {name: value for name, value in vars(self).items() if name != "path"}
        write_durably(self.path, json.dumps(values).encode())


class Spool:
    """Batches that the server does not have yet: one file each, oldest first, bounded."""

    SUFFIX = ".json.gz"
    MOST_REFUSED = 100

    def __init__(
        self, folder: Path, *, most_bytes: int, most_age_s: float, wall: Callable[[], float]
    ) -> None:
        self.folder, self.refused = folder, folder / "refused"
        self.most_bytes, self.most_age_s, self.wall = most_bytes, most_age_s, wall
        self.dropped = 0
        private_folder(folder)
        private_folder(self.refused)
        for half_written in folder.glob("*.tmp"):
            half_written.unlink()

    def add(self, batch: Mapping[str, Any]) -> None:
        """Once this returns, the batch is on disk. Raises OSError, and then nothing of it is."""
        name = f"{int(self.wall()):012d}-{batch['batch_id']}{self.SUFFIX}"
        write_durably(self.folder / name, gzip.compress(json.dumps(batch).encode()))
        self._trim()

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*" + self.SUFFIX))

    def read(self, path: Path) -> dict[str, Any]:
        """Raises ValueError when the file is damaged."""
        try:
            return json.loads(gzip.decompress(path.read_bytes()))
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"damaged: {error}") from None

    def delete(self, path: Path) -> None:
        path.unlink()

    def refuse(self, path: Path) -> None:
        """Set aside what the server will never take, for somebody to look at."""
        os.replace(path, self.refused / path.name)
        for old in sorted(self.refused.iterdir())[: -self.MOST_REFUSED]:
            old.unlink()

    def _trim(self) -> None:
        files = [(path, path.stat().st_size) for path in self.files()]
        total = sum(size for _, size in files)
        oldest_allowed = self.wall() - self.most_age_s
        dropped = 0
        for path, size in files[:-1]:  # never the newest
            if total <= self.most_bytes and int(path.name[:12]) >= oldest_allowed:
                break
            path.unlink()
            total -= size
            dropped += 1
        if dropped:
            self.dropped += dropped
            log.warning(
                "the spool is full: %d oldest batches dropped (%d so far)", dropped, self.dropped
            )


# --- Which server this is ------------------------------------------------------------------------


def find_server_id(config: Config, *, fetch: Callable[[str], bytes], root: Path) -> str:
    """The cloud's id of the server this runs on now; "" when nothing says.

    The metadata service is asked first: it alone answers for the present. A config drive and the
    firmware's tables are read at boot, and after a hibernated desktop woke up elsewhere the kernel
    still remembers those of the server it fell asleep on.
    """
    if config.server_id:
        return config.server_id
    for source in (_from_metadata, _from_config_drive, _from_firmware):
        found = source(config, fetch, root)
        if found:
            return found
    return ""


def _from_metadata(config: Config, fetch: Callable[[str], bytes], root: Path) -> str:
    if not config.metadata_url:
        return ""
    try:
        return _uuid_in(fetch(config.metadata_url))
    except OSError:
        return ""


def _from_config_drive(config: Config, fetch: Callable[[str], bytes], root: Path) -> str:
    path = Path(config.config_drive, "openstack/latest/meta_data.json")
    try:
        return _uuid_in((root / str(path).lstrip("/\\")).read_bytes())
    except OSError:
        return ""


def _from_firmware(config: Config, fetch: Callable[[str], bytes], root: Path) -> str:
    try:
        text = (root / "sys/class/dmi/id/product_uuid").read_text()
        return str(uuid.UUID(text.strip()))
    except (OSError, ValueError):
        return ""


def _uuid_in(metadata: bytes) -> str:
    try:
        return str(uuid.UUID(json.loads(metadata)["uuid"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def fetch_metadata(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=2) as answer:
        return answer.read(1 << 20)


# --- What is measured ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """How another program ended."""

    code: int
    output: str


Runner = Callable[..., Ran]


def run_program(arguments: Sequence[str], *, text: str = "", timeout_s: float = 10) -> Ran:
    """A program that is missing or hangs has failed, like one that says so."""
    try:
        done = subprocess.run(
            list(arguments),
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Ran(127, str(type(error).__name__))
    return Ran(done.returncode, done.stdout)


class Meter:
    """Processor, memory, network and storage, each since the reading before."""

    def __init__(self, *, monotonic: Callable[[], float], system: Any = psutil) -> None:
        self.monotonic, self.system = monotonic, system
        self.before: dict[str, tuple[float, int]] = {}
        system.cpu_percent(interval=None)  # the first call has nothing to compare with
        self._rate("network", self._network_bytes())
        self._rate("storage", self._storage_bytes())

    def read(self) -> dict[str, float | int | None]:
        memory = self.system.virtual_memory()
        cpu_ratio = self.system.cpu_percent(interval=None) / 100
        return {
            "cpu_cores": round(cpu_ratio * (self.system.cpu_count() or 1), 4),
            "memory_bytes": memory.total - memory.available,
            "network_bytes_per_s": self._rate("network", self._network_bytes()),
            "storage_bytes_per_s": self._rate("storage", self._storage_bytes()),
        }

    def _rate(self, name: str, total: int) -> float | None:
        """Bytes a second since the reading before; None when the counter was reset."""
        at, before = self.monotonic(), self.before.get(name)
        self.before[name] = (at, total)
        if before is None or at <= before[0] or total < before[1]:
            return None
        return round((total - before[1]) / (at - before[0]), 1)

    def _network_bytes(self) -> int:
        cards = self.system.net_io_counters(pernic=True) or {}
        names = real_devices(cards, Path("/sys/class/net"))
        return sum(cards[name].bytes_sent + cards[name].bytes_recv for name in names)

    def _storage_bytes(self) -> int:
        disks = self.system.disk_io_counters(perdisk=True) or {}
        names = real_devices(disks, Path("/sys/block"))
        return sum(disks[name].read_bytes + disks[name].write_bytes for name in names)


def real_devices(names: Iterable[str], folder: Path) -> list[str]:
    """Devices behind which there is something: what passes through a bridge, a tunnel or a
    logical volume passes through one of these too, and would count twice. Never loopback."""
    real = [name for name in names if (folder / name / "device").exists()]
    return real or [
        name for name in names if not re.match(r"lo\d*$|loopback|loop\d|ram\d", name, re.I)
    ]


@dataclass(frozen=True)
class Seen:
    """What sessions tell: how active they are (None: not known), and from where."""

    active_ratio: float | None
    address: str | None


class LinuxSessions:
    """Sessions as logind knows them."""

    PROPERTIES = (
        *("Id", "User", "Name", "State", "Type", "Class", "RemoteHost", "LockedHint", "IdleHint"),
    )
    DESKTOPS = ("x11", "wayland", "mir")
    ADDRESS_KEPT_S = 60

    def __init__(
        self,
        config: Config,
        *,
        run: Runner,
        monotonic: Callable[[], float],
        system: Any = psutil,
    ) -> None:
        self.config, self.run, self.monotonic, self.system = config, run, monotonic, system
        self._connected: tuple[float, str | None] = (float("-inf"), None)

    def look(self) -> Seen:
        sessions = self.sessions()
        if sessions is None:
            return Seen(None, None)
        in_use = [session for session in sessions if self._is_in_use(session)]
        address = self._address(in_use) if in_use and self.config.client_address else None
        return Seen(1.0 if in_use else 0.0, address)

    def sessions(self) -> list[dict[str, str]] | None:
        """Sessions of people, each as its properties; None when logind does not answer."""
        listed = self.run(["loginctl", "list-sessions", "--no-legend", "--no-pager"])
        if listed.code:
            return None
        ids = [line.split()[0] for line in listed.output.splitlines() if line.strip()]
        found = []
        for each in ids:
            asked = [f"--property={name}" for name in self.PROPERTIES]
            shown = self.run(["loginctl", "show-session", *asked, "--", each])
            if shown.code == 0:  # else it ended just now
                found.append(dict(line.partition("=")[::2] for line in shown.output.splitlines()))
        return [session for session in found if self._is_of_a_person(session)]

    def _is_of_a_person(self, session: Mapping[str, str]) -> bool:
        is_desktop = session.get("Type") in self.DESKTOPS
        is_terminal = session.get("Type") == "tty"
        return (
            session.get("Class") == "user"
            and (is_desktop or is_terminal)
            and session.get("Name") not in self.config.ignore_users
        )

    def _is_in_use(self, session: Mapping[str, str]) -> bool:
        return (
            session.get("State") == "active"
            and session.get("LockedHint") != "yes"
            and session.get("IdleHint") != "yes"
        )

    def _address(self, sessions: Iterable[Mapping[str, str]]) -> str | None:
        """Of the client: as logind knows it, as utmp does, or as the remote desktop's port does."""
        names = {session.get("Name") for session in sessions}
        for session in sessions:
            found = clean_address(session.get("RemoteHost", ""))
            if found:
                return found
        for user in self.system.users():
            found = clean_address(user.host or "") if user.name in names else None
            if found:
                return found
        return self._connected_address()

    def _connected_address(self) -> str | None:
        """Of who is connected to a remote desktop's port; costly, so asked once a minute."""
        at, kept = self._connected
        if self.monotonic() - at < self.ADDRESS_KEPT_S:
            return kept
        found = connected_address(self.system, self.config.remote_ports)
        self._connected = (self.monotonic(), found)
        return found


def connected_address(system: Any, ports: Sequence[int]) -> str | None:
    try:
        connections = system.net_connections(kind="tcp") if ports else []
    except psutil.Error:
        return None
    for each in connections:
        if each.status == psutil.CONN_ESTABLISHED and each.raddr and each.laddr.port in ports:
            found = clean_address(each.raddr.ip)
            if found:
                return found
    return None


def clean_address(text: str) -> str | None:
    """A client's address as the server wants it; None for names, screens and loopback."""
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    address = getattr(address, "ipv4_mapped", None) or address
    return None if address.is_loopback or address.is_unspecified else str(address)


class Applications:
    """Processor time by application and hour. Neither titles, paths nor command lines are kept.

    allowed : names that leave the machine in clear; every other leaves as a keyed hash, which is
        the same for the same application on this desktop and means nothing on another
    """

    LEAST_CPU_S = 1.0

    def __init__(
        self,
        *,
        allowed: Sequence[str],
        most: int,
        key: bytes,
        processes: Callable[[], Iterator[tuple[tuple[int, float], str, float]]],
    ) -> None:
        self.allowed = frozenset(name.casefold() for name in allowed)
        self.most, self.key, self.processes = most, key, processes
        self.hours: dict[int, dict[str, float]] = {}
        self.before = {process: cpu_s for process, _, cpu_s in self._running()}

    def read(self, at: int) -> None:
        """Count what processes used since the reading before, in the hour of `at`."""
        used = self.hours.setdefault(at - at % HOUR_S, {})
        now = {}
        for process, name, cpu_s in self._running():
            now[process] = cpu_s
            spent = cpu_s - self.before.get(process, 0.0)
            if spent > 0:
                label = self.label(name)
                used[label] = used.get(label, 0.0) + spent
        self.before = now

    def take(self, *, before: int | None) -> list[dict[str, Any]]:
        """The most used of the hours that ended by `before`; of all hours for None."""
        done = [hour for hour in self.hours if before is None or hour + HOUR_S <= before]
        rows = []
        for hour in sorted(done):
            used = sorted(self.hours.pop(hour).items(), key=lambda item: -item[1])
            rows += [
                {"hour": hour, "application": label, "cpu_core_s": round(cpu_s, 1)}
                for label, cpu_s in used[: self.most]
                if cpu_s >= self.LEAST_CPU_S
            ]
        return rows

    def label(self, name: str) -> str:
        plain = name.casefold()
        plain = plain[:-4] if plain.endswith(".exe") else plain
        if plain in self.allowed:
            return plain[:80]
        return "h:" + hmac.new(self.key, plain.encode(), hashlib.sha256).hexdigest()[:16]

    def _running(self) -> Iterator[tuple[tuple[int, float], str, float]]:
        return self.processes() if self.most else iter(())


def application_key(token: str) -> bytes:
    """Made of the agent's token, which the server does not keep: it cannot undo the hashes."""
    return hmac.new(token.encode(), b"applications", hashlib.sha256).digest()


def running_processes() -> Iterator[tuple[tuple[int, float], str, float]]:
    """Which process (its number may be used again, its start not), its name, its seconds."""
    for process in psutil.process_iter(["name", "cpu_times", "ppid", "create_time"]):
        info = process.info
        is_kernels = not IS_WINDOWS and 2 in (process.pid, info["ppid"])
        if is_kernels or not info["name"] or not info["cpu_times"]:
            continue
        cpu = info["cpu_times"]
        yield (process.pid, info["create_time"]), info["name"], cpu.user + cpu.system


class DiskReads:
    """Bytes read of each 64 MiB of the disk the system is on, by day (UTC).

    The kernel tells of every read through tracefs. A tracing instance of our own leaves other
    people's tracing alone. The lines also name processes; those are not even looked at.
    """

    EVENT = "events/block/block_rq_issue"
    LINE = re.compile(rb"block_rq_issue: (\d+,\d+) (\w+) \d+ \(.*?\) (\d+) \+ (\d+)")

    def __init__(self, tracefs: Path, device: str) -> None:
        self.folder = tracefs / "instances" / f"foredesk-{os.getpid()}"
        self.device = device.encode()
        self.days: dict[str, dict[int, int]] = {}
        self._tidy()
        self.folder.mkdir(exist_ok=True)
        self._write("buffer_size_kb", "256")
        self._write(f"{self.EVENT}/enable", "1")
        self.pipe = os.open(self.folder / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        self.rest = b""

    @classmethod
    def open(cls, root: Path) -> DiskReads | None:
        """None, with the reason in the log, where the kernel cannot be asked."""
        device = disk_of_system(root)
        tracefs = [root / "sys/kernel" / name for name in ("tracing", "debug/tracing")]
        mounted = [path for path in tracefs if (path / cls.EVENT).is_dir()]
        if not mounted or device is None:
            missing = "the system's disk is not known" if mounted else "there is no tracefs"
            log.info("disk reads are not observed: %s", missing)
            return None
        try:
            return cls(mounted[0], device)
        except OSError as error:
            log.info("disk reads are not observed: %s", error)
            return None

    def read(self, at: int) -> None:
        lines = (self.rest + self._waiting()).split(b"\n")
        self.rest = lines.pop()
        day = datetime.fromtimestamp(at, timezone.utc).date().isoformat()
        extents = self.days.setdefault(day, {})
        for line in lines:
            found = self.LINE.search(line)
            if found and found[1] == self.device and b"R" in found[2] and b"W" not in found[2]:
                extent = int(found[3]) * SECTOR_BYTES // EXTENT_BYTES
                extents[extent] = extents.get(extent, 0) + int(found[4]) * SECTOR_BYTES

    def take(self) -> list[dict[str, Any]]:
        days, self.days = self.days, {}
        return [
            {
                "day": day,
                "extent_bytes": EXTENT_BYTES,
                "extents": sorted(read),
                "read_bytes": [read[extent] for extent in sorted(read)],
            }
            for day, read in sorted(days.items())
            if read
        ][-8:]

    def close(self) -> None:
        os.close(self.pipe)
        self._end(self.folder)

    def _tidy(self) -> None:
        """End the tracing of agents that were killed and could not."""
        for folder in self.folder.parent.glob("foredesk-*"):
            if not psutil.pid_exists(int(folder.name.partition("-")[2])):
                self._end(folder)

    def _end(self, folder: Path) -> None:
        try:
            (folder / self.EVENT / "enable").write_text("0")
            folder.rmdir()
        except OSError as error:
            log.warning("the tracing instance %s stays: %s", folder, error)

    def _waiting(self) -> bytes:
        parts = []
        for _ in range(256):  # 16 MiB: more than the kernel keeps for us
            try:
                part = os.read(self.pipe, 1 << 16)
            except BlockingIOError:
                break
            if not part:
                break
            parts.append(part)
        return b"".join(parts)

    def _write(self, name: str, value: str) -> None:
        (self.folder / name).write_text(value)


def disk_of_system(root: Path) -> str | None:
    """major,minor of the whole disk under "/", through partitions and logical volumes; None where
    the system is on no single disk."""
    try:
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    # Number, parent, major:minor, what of the file system, where.
    numbers = [fields[2] for fields in map(str.split, mounts) if fields[4] == "/"]
    path = root / "sys/dev/block" / (numbers[-1] if numbers else "none")
    if not path.exists():
        return None
    device = path.resolve()
    for _ in range(8):
        below = sorted((device / "slaves").iterdir()) if (device / "slaves").is_dir() else []
        if below:
            device = below[0].resolve()
        elif (device / "partition").exists():
            device = device.parent
        else:
            return (device / "dev").read_text().strip().replace(":", ",")
    return None


# --- Windows -------------------------------------------------------------------------------------
# Not tested: there is no Windows machine where this project is built. See windows.md.


class WindowsSessions:
    """Sessions as the terminal services know them; how idle, a helper in each session tells."""

    ACTIVE, SESSION_INFO_EX, CLIENT_ADDRESS, USER_NAME = 0, 25, 14, 5
    LOCKED = 0
    HELPER_LATE_S = 120

    def __init__(self, config: Config, *, wall: Callable[[], float]) -> None:
        self.config, self.wall = config, wall
        self.api = ctypes.WinDLL("wtsapi32", use_last_error=True)  # type: ignore[attr-defined]

    def look(self) -> Seen:
        ids = self._active_ids()
        if ids is None:
            return Seen(None, None)
        in_use = [each for each in ids if self._is_in_use(each)]
        wanted = in_use if self.config.client_address else []
        addresses = [found for found in map(self._address, wanted) if found]
        return Seen(1.0 if in_use else 0.0, addresses[0] if addresses else None)

    def _active_ids(self) -> list[int] | None:
        class Session(ctypes.Structure):
            _fields_ = (
                ("id", ctypes.c_uint32),
                ("name", ctypes.c_wchar_p),
                ("state", ctypes.c_int),
            )

        rows, count = ctypes.POINTER(Session)(), ctypes.c_uint32()
        if not self.api.WTSEnumerateSessionsW(None, 0, 1, ctypes.byref(rows), ctypes.byref(count)):
            return None
        try:
            return [rows[n].id for n in range(count.value) if rows[n].state == self.ACTIVE]
        finally:
            self.api.WTSFreeMemory(rows)

    def _asked(self, session: int, what: int) -> bytes:
        data, size = ctypes.c_void_p(), ctypes.c_uint32()
        if not self.api.WTSQuerySessionInformationW(
            None, session, what, ctypes.byref(data), ctypes.byref(size)
        ):
            return b""
        try:
            return ctypes.string_at(data, size.value)
        finally:
            self.api.WTSFreeMemory(data)

    def _is_in_use(self, session: int) -> bool:
        name = self._asked(session, self.USER_NAME).decode("utf-16-le").rstrip("\0")
        # WTSINFOEXW: Level, (padding,) SessionId, SessionState, SessionFlags.
        info = self._asked(session, self.SESSION_INFO_EX)
        flags = int.from_bytes(info[16:20], "little", signed=True) if len(info) >= 20 else -1
        if not name or name in self.config.ignore_users or flags == self.LOCKED:
            return False
        idle_s = self._idle_s(session)
        return idle_s is None or idle_s < self.config.idle_s

    def _idle_s(self, session: int) -> float | None:
        path = helper_file(self.config, session)
        try:
            told = json.loads(path.read_text())
            late_s = self.wall() - float(told["at"])
            return float(told["idle_s"]) if late_s < self.HELPER_LATE_S else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _address(self, session: int) -> str | None:
        # WTS_CLIENT_ADDRESS: AddressFamily, then 20 bytes; of IPv4, numbers 2 to 5 of them.
        data = self._asked(session, self.CLIENT_ADDRESS)
        family = int.from_bytes(data[:4], "little")
        if family == 2 and len(data) >= 10:
            return clean_address(".".join(map(str, data[6:10])))
        if family == 23 and len(data) >= 20:
            return clean_address(str(ipaddress.IPv6Address(data[4:20])))
        return connected_address(psutil, self.config.remote_ports)


def helper_file(config: Config, session: int) -> Path:
    return Path(config.state_dir, "sessions", f"{session}.json")


def run_session_helper(config: Config) -> None:
    """In every Windows session: write down how long ago its keyboard and mouse were last used."""

    class LastInput(ctypes.Structure):
        _fields_ = (("size", ctypes.c_uint32), ("ticks", ctypes.c_uint32))

    user32, kernel32 = ctypes.windll.user32, ctypes.windll.kernel32  # type: ignore[attr-defined]
    session = ctypes.c_uint32()
    kernel32.ProcessIdToSessionId(os.getpid(), ctypes.byref(session))
    last = LastInput(ctypes.sizeof(LastInput), 0)
    path = helper_file(config, session.value)
    while True:
        user32.GetLastInputInfo(ctypes.byref(last))
        idle_ms = (kernel32.GetTickCount() - last.ticks) % (1 << 32)
        path.write_text(json.dumps({"at": time.time(), "idle_s": idle_ms / 1000}))
        time.sleep(config.sample_s)


# --- The server ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    body: dict[str, Any]
    retry_after_s: float = 0.0

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    def __str__(self) -> str:
        return f"{self.status} {self.body.get('reason', '')} {self.body.get('detail', '')}".strip()


Transport = Callable[[str, str, bytes, Mapping[str, str]], Answer]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A token is for the server that was configured, and for none it points to."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def transport_to(config: Config) -> Transport:
    """Raises BadConfig when the CA file cannot be used."""
    try:
        tls = ssl.create_default_context(cafile=config.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise BadConfig(f"ca_file: {config.ca_file}: {error}") from None
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({"https": config.proxy} if config.proxy else {}),
        urllib.request.HTTPSHandler(context=tls),
        _NoRedirects(),
    )

    def send(method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        request = urllib.request.Request(
            config.url.rstrip("/") + "/api/v1/agent/" + path,
            data=body or None,
            headers={"User-Agent": f"foredesk-agent/{VERSION}", **headers},
            method=method,
        )
        try:
            with opener.open(request, timeout=15) as answer:
                return _answer(answer.status, answer.headers, answer.read(1 << 20))
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error.code, error.headers, error.read(1 << 20))
        except (OSError, ValueError) as error:  # also what is no HTTP, and what TLS refuses
            raise Unreachable(str(error)) from None
        except Exception as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from None

    return send


def _answer(status: int, headers: Mapping[str, str], text: bytes) -> Answer:
    try:
        body = json.loads(text) if text else {}
    except ValueError:
        body = {}
    after = headers.get("Retry-After") or "0"
    retry_after_s = float(after) if after.isdecimal() else 0.0
    return Answer(status, body if isinstance(body, dict) else {}, min(retry_after_s, HOUR_S))


class Server:
    """What the agent may ask for; each returns the Answer or raises Unreachable."""

    def __init__(self, send: Transport) -> None:
        self.send = send

    def enrol(self, token: str, server_id: str) -> Answer:
        body = {"token": token, "server_id": server_id, "agent": VERSION}
        return self._send("POST", "enrol/", body)

    def post_batch(self, token: str, batch: Mapping[str, Any]) -> Answer:
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
        }
        return self.send("POST", "batches/", gzip.compress(json.dumps(batch).encode()), headers)

    def commands(self, token: str, server_id: str) -> Answer:
        return self._send("GET", "commands/", None, token, server_id)

    def report(self, token: str, server_id: str, command: str, outcome: str, detail: str) -> Answer:
        body = {"outcome": outcome, "detail": detail[:300]}
        return self._send("POST", f"commands/{command}/", body, token, server_id)

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        token: str = "",
        server_id: str = "",
    ) -> Answer:
        headers = {"Content-Type": "application/json"} if body else {}
        if token:
            headers |= {"Authorization": f"Bearer {token}", "Foredesk-Server": server_id}
        return self.send(method, path, json.dumps(body).encode() if body else b"", headers)


class BackOff:
    """When the server may be asked again: later with every failure, and not all agents at once."""

    FIRST_S, MOST_S = 5.0, 300.0

    def __init__(self, *, monotonic: Callable[[], float], chance: random.Random) -> None:
        self.monotonic, self.chance = monotonic, chance
        self.failures = 0
        self.until = float("-inf")

    @property
    def is_over(self) -> bool:
        return self.monotonic() >= self.until

    def failed(self, why: object, *, retry_after_s: float = 0.0) -> None:
        pause_s = min(self.MOST_S, self.FIRST_S * 2 ** min(self.failures, 10))
        pause_s = max(pause_s * self.chance.uniform(0.5, 1.0), retry_after_s)
        pause_s += self.chance.uniform(0.0, 0.1) * retry_after_s
        level = logging.INFO if self.failures else logging.WARNING
        log.log(level, "the server cannot be had (%s); again in %.0f s", why, pause_s)
        self.failures += 1
        self.until = self.monotonic() + pause_s

    def succeeded(self) -> None:
        if self.failures:
            log.info("the server answers again")
        self.failures = 0
        self.until = float("-inf")


# --- Commands ------------------------------------------------------------------------------------


def is_signed(command: Mapping[str, Any], key: bytes) -> bool:
    """Whether whoever knows the key asked for exactly this."""
    fields = {name: value for name, value in command.items() if name != "signature"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    wanted = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return hmac.compare_digest(wanted.encode(), str(command.get("signature")).encode())


class Commands:
    """What operators ask for: verified, done at most once, and its outcome told until it is known.

    flush : writes what was observed so far to the spool
    """

    KEPT_S = 7 * DAY_S

    def __init__(
        self,
        *,
        state: State,
        run: Runner,
        wall: Callable[[], float],
        flush: Callable[[], None],
        desktop_users: Callable[[], list[tuple[str, str]]],
    ) -> None:
        self.state, self.run, self.wall, self.flush = state, run, wall, flush
        self.desktop_users = desktop_users
        self.kinds: dict[str, Callable[[Mapping[str, Any]], str]] = {
            "notify": self._notify,
            "quiesce": self._quiesce,
            "hibernate": self._hibernate,
        }
        self._forget_old()
        for known in state.commands.values():
            if known["outcome"] == "started":
                known.update(outcome="failed", detail="the agent was stopped meanwhile")

    def take(self, command: Mapping[str, Any], *, server_id: str) -> None:
        """Do it, unless it must not be done; whatever must not be is logged and left."""
        why_not = self._why_not(command, server_id)
        if why_not:
            log.warning("command %.40s is not done: %s", command.get("id"), why_not)
            return
        key = str(command["id"])
        if key in self.state.commands:
            self.state.commands[key]["is_reported"] = False  # asked again: the answer got lost
            return
        # Written down before anything is done: better never than twice.
        entry = {"expires_at": command["expires_at"], "is_reported": False}
        self.state.commands[key] = {**entry, "outcome": "started", "detail": ""}
        self.state.save()
        outcome, detail = self._do(command)
        self.state.commands[key] = {**entry, "outcome": outcome, "detail": detail}
        self.state.save()
        log.info("command %s (%s): %s %s", key, command["kind"], outcome, detail)

    def unreported(self) -> list[tuple[str, str, str]]:
        """Id, outcome and detail of what the server does not know to have ended."""
        known = self.state.commands.items()
        return [(k, v["outcome"], v["detail"]) for k, v in known if not v["is_reported"]]

    def reported(self, key: str) -> None:
        self.state.commands[key]["is_reported"] = True
        self._forget_old()
        self.state.save()

    def _why_not(self, command: Mapping[str, Any], server_id: str) -> str:
        key = bytes.fromhex(self.state.command_key)
        if not key or not is_signed(command, key):
            return "its signature is wrong"
        if command.get("server_id") != server_id:
            return "it is for another server"
        if not isinstance(command.get("expires_at"), int) or command["expires_at"] <= self.wall():
            return "it has expired"
        return ""

    def _do(self, command: Mapping[str, Any]) -> tuple[str, str]:
        do = self.kinds.get(str(command.get("kind")))
        if do is None:
            return "failed", "this agent does not know such a command"
        try:
            problem = do(command.get("arguments") or {})
        except Exception as error:
            log.exception("command %s", command["id"])
            problem = type(error).__name__
        return ("failed", problem) if problem else ("done", "")

    def _notify(self, arguments: Mapping[str, Any]) -> str:
        message = str(arguments.get("message", ""))
        title = str(arguments.get("title") or "Foredesk")
        if IS_WINDOWS:
            return _problem(self.run(["msg.exe", "*", "/TIME:120", message]))
        shown = [self._show(user, name, title, message) for user, name in self.desktop_users()]
        if any(shown):
            return ""
        return _problem(self.run(["wall"], text=f"{title}: {message}\n"))

    def _show(self, user: str, name: str, title: str, message: str) -> bool:
        """In the desktop of a user; as that user, because their bus lets nobody else in."""
        bus = f"DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/{user}/bus"
        ran = self.run(
            [
                *("setpriv", f"--reuid={user}", "--regid=65534", "--clear-groups"),
                *("env", bus, "notify-send", "--app-name=Foredesk", "--", title, message),
            ]
        )
        return ran.code == 0

    def _quiesce(self, arguments: Mapping[str, Any]) -> str:
        self.flush()
        if IS_WINDOWS:
            script = "Get-Volume | Where-Object DriveLetter | Write-VolumeCache"
            return _problem(self.run(["powershell.exe", "-NoProfile", "-Command", script]))
        return _problem(self.run(["sync"], timeout_s=120))

    def _hibernate(self, arguments: Mapping[str, Any]) -> str:
        self.flush()
        program = ["shutdown.exe", "/h"] if IS_WINDOWS else ["systemctl", "hibernate"]
        return _problem(self.run(program, timeout_s=120))

    def _forget_old(self) -> None:
        oldest = self.wall() - self.KEPT_S
        known = self.state.commands
        self.state.commands = {k: v for k, v in known.items() if v["expires_at"] > oldest}


def _problem(ran: Ran) -> str:
    return f"ended with {ran.code}" if ran.code else ""


# --- The agent -----------------------------------------------------------------------------------


@dataclass
class Machine:
    """Everything outside that the agent touches, to be replaced in tests."""

    root: Path = Path("/")
    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    chance: random.Random = field(default_factory=random.SystemRandom)
    run: Runner = run_program
    fetch: Callable[[str], bytes] = fetch_metadata
    system: Any = psutil
    processes: Callable[[], Iterator[tuple[tuple[int, float], str, float]]] = running_processes


class Observer:
    """Takes samples and makes batches of them."""

    def __init__(self, config: Config, machine: Machine, *, token: str) -> None:
        self.machine = machine
        self.samples: list[dict[str, Any]] = []
        self.meter = Meter(monotonic=machine.monotonic, system=machine.system)
        self.sessions = _sessions(config, machine)
        self.applications = Applications(
            allowed=config.applications,
            most=config.top_applications,
            key=application_key(token or secrets.token_hex()),
            processes=machine.processes,
        )
        self.disk_reads = (
            DiskReads.open(machine.root) if config.disk_reads and not IS_WINDOWS else None
        )

    def sample(self) -> None:
        at = int(self.machine.wall())
        seen = self.sessions.look()
        reading = {**self.meter.read(), "active_ratio": seen.active_ratio, "address": seen.address}
        self.samples.append({"at": at, **reading})
        del self.samples[:-MOST_SAMPLES]
        if self.disk_reads:
            self.disk_reads.read(at)

    def batch(self, *, is_last: bool = False) -> dict[str, Any] | None:
        """What was observed since the batch before; None when that is nothing.

        is_last : do not wait for the hour to end before its applications are told
        """
        at = int(self.machine.wall())
        self.applications.read(at)
        parts = {
            "samples": _columns(self.samples),
            "applications": self.applications.take(before=None if is_last else at),
            "disk_reads": self.disk_reads.take() if self.disk_reads else [],
        }
        self.samples = []
        told = {name: value for name, value in parts.items() if value}
        return {"batch_id": str(uuid.uuid4()), "agent": VERSION, **told} if told else None

    def close(self) -> None:
        if self.disk_reads:
            self.disk_reads.close()


def _sessions(config: Config, machine: Machine) -> Any:
    if IS_WINDOWS:
        return WindowsSessions(config, wall=machine.wall)
    return LinuxSessions(
        config, run=machine.run, monotonic=machine.monotonic, system=machine.system
    )


def _columns(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Column by column; a column in which nothing was observed is left out."""
    columns = {name: [sample[name] for sample in samples] for name in ("at", *MEASURES, "address")}
    return {name: values for name, values in columns.items() if any(v is not None for v in values)}


def finished(batch: Mapping[str, Any], *, server_id: str, sent_at: float) -> dict[str, Any]:
    """As it is sent. The server's id is that of now: a desktop may have moved since."""
    return {**batch, "server_id": server_id, "sent_at": int(sent_at)}


class Every:
    """Says each so many seconds that it is time."""

    def __init__(self, seconds: float, *, first_in: float, monotonic: Callable[[], float]) -> None:
        self.seconds, self.monotonic = seconds, monotonic
        self.next = monotonic() + first_in

    def is_due(self) -> bool:
        now = self.monotonic()
        if now < self.next:
            return False
        self.next += self.seconds
        if self.next <= now:  # the machine slept: go on from now, do not make up for it
            self.next = now + self.seconds
        return True


class Agent:
    """Observes, spools, sends, and does what it is asked to; one step at a time, in one thread."""

    # After these the same batch may be taken later: the fault is not in what it holds.
    LATER = frozenset({401, 403, 404, 407, 408, 409, 425, 429})
    BATCHES_A_STEP = 60
    IDENTIFIED_FOR_S = 600

    def __init__(self, config: Config, machine: Machine, send: Transport) -> None:
        self.config, self.machine = config, machine
        self.folder = private_folder(Path(config.state_dir))
        self.state = State.load(self.folder)
        self.lock = lock(self.folder)
        self.server = Server(send)
        self.observer = Observer(config, machine, token=self.state.token)
        self.spool = Spool(
            self.folder / "spool",
            most_bytes=config.spool_mb << 20,
            most_age_s=config.spool_days * DAY_S,
            wall=machine.wall,
        )
        self.back_off = BackOff(monotonic=machine.monotonic, chance=machine.chance)
        self.commands = Commands(
            state=self.state,
            run=machine.run,
            wall=machine.wall,
            flush=self.flush,
            desktop_users=self._desktop_users,
        )
        self.server_id, self._identified_at = "", float("-inf")
        self._set_timers()

    @property
    def token_file(self) -> Path:
        """Where whoever makes an image or starts a server leaves the enrolment token."""
        return self.folder / "enrolment-token"

    def check_enrolled(self) -> None:
        """Raises NotEnrolled when there is neither a credential nor a token to get one."""
        if not (self.state.token or self.token_file.exists()):
            raise NotEnrolled(
                f"not enrolled: run with --enrol TOKEN, or leave the token in {self.token_file}"
            )

    def run(self, stop: threading.Event) -> None:
        """Until told to stop; the caller closes."""
        log.info("foredesk-agent %s, state in %s", VERSION, self.folder)
        while not stop.is_set():
            try:
                self.step()
            except Exception:  # one reading that cannot be had must not end all others
                log.exception("a step failed")
            stop.wait(self.wait_s())

    def step(self) -> None:
        """Whatever is due now."""
        if self.sample_timer.is_due():
            self.observer.sample()
        if self.post_timer.is_due():
            self.flush()
        if self.back_off.is_over:
            self._talk()

    def wait_s(self) -> float:
        talks_at = max(self.poll_timer.next, self.back_off.until)
        due_at = min(self.sample_timer.next, self.post_timer.next, talks_at)
        return max(0.1, due_at - self.machine.monotonic())

    def once(self, *, seconds: float, sleep: Callable[[float], None]) -> bool:
        """One sample, sent at once, and one look for commands; whether the server has it all."""
        sleep(seconds)
        self.observer.sample()
        self.flush(is_last=True)
        self.poll_timer.next = self.machine.monotonic()
        self._talk()
        return not self.back_off.failures and not self.spool.files()

    def flush(self, *, is_last: bool = False) -> None:
        batch = self.observer.batch(is_last=is_last)
        if batch is None:
            return
        try:
            self.spool.add(batch)
        except OSError as error:
            log.error("a batch is lost, the spool cannot be written: %s", error)

    def close(self) -> None:
        """Keep what was observed so far, and leave nothing behind in the kernel."""
        self.flush(is_last=True)
        self.observer.close()
        if self.lock:
            self.lock.close()

    def enrol(self, token: str) -> None:
        """Raises NotEnrolled with the server's reason, or Unreachable."""
        server_id = self.identify(anew=True)
        if not server_id:
            raise NotEnrolled("the id of this server is not known; set server_id in [identity]")
        answer = self.server.enrol(token, server_id)
        if not answer.is_good:
            raise NotEnrolled(f"the server {server_id} was not enrolled: {answer}")
        given = {n: answer.body.get(n) for n in ("token", "command_key", "desktop")}
        if not all(isinstance(value, str) and value for value in given.values()):
            raise NotEnrolled("what answered is no Foredesk server")
        vars(self.state).update(given, commands={})
        self.state.post_s = int(answer.body.get("post_s") or self.state.post_s)
        self.state.poll_s = int(answer.body.get("poll_s") or self.state.poll_s)
        self.state.save()
        self.observer.applications.key = application_key(self.state.token)
        self._set_timers()
        log.info("enrolled as the agent of %s on the server %s", self.state.desktop, server_id)

    def identify(self, *, anew: bool = False) -> str:
        now = self.machine.monotonic()
        if anew or not self.server_id or now - self._identified_at > self.IDENTIFIED_FOR_S:
            self.server_id = find_server_id(
                self.config, fetch=self.machine.fetch, root=self.machine.root
            )
            self._identified_at = now
        return self.server_id

    def _set_timers(self) -> None:
        post_s = self.config.post_s or self.state.post_s
        poll_s = self.config.poll_s or self.state.poll_s
        # A fleet is switched on at nine: let not all of it knock at the same second of a minute.
        spread, now = self.machine.chance.random(), self.machine.monotonic
        self.sample_timer = Every(self.config.sample_s, first_in=1, monotonic=now)
        self.post_timer = Every(post_s, first_in=2 + post_s * spread, monotonic=now)
        self.poll_timer = Every(poll_s, first_in=1 + poll_s * spread, monotonic=now)

    def _talk(self) -> None:
        is_time_to_poll = self.poll_timer.is_due()
        try:
            if self.token_file.exists():
                self._enrol_by_file()
            if self.state.token and self._is_identified():
                self._send_spool()
                if is_time_to_poll and self.back_off.is_over:
                    self._poll()
        except Unreachable as error:
            self.back_off.failed(error)

    def _is_identified(self) -> bool:
        if not self.back_off.is_over:
            return False
        if not self.identify():
            self.back_off.failed("nothing says which server of the cloud this is")
        return bool(self.server_id)

    def _enrol_by_file(self) -> None:
        try:
            self.enrol(self.token_file.read_text(encoding="utf-8").strip())
        except NotEnrolled as error:
            if not self.state.token:
                # The cloud may know this server before the inventory does: keep the token.
                self.back_off.failed(error)
                return
            log.error("not enrolled again, the enrolment of before stands: %s", error)
        self.token_file.unlink()

    def _send_spool(self) -> None:
        for path in self.spool.files()[: self.BATCHES_A_STEP]:
            try:
                batch = self.spool.read(path)
            except ValueError as error:
                log.error("%s is set aside: %s", path.name, error)
                self.spool.refuse(path)
                continue
            whole = finished(batch, server_id=self.identify(), sent_at=self.machine.wall())
            answer = self.server.post_batch(self.state.token, whole)
            if answer.is_good and answer.body.get("accepted") is True:
                self.spool.delete(path)
                self.back_off.succeeded()
            elif 400 <= answer.status < 500 and answer.status not in self.LATER:
                log.error("%s was refused and is set aside: %s", path.name, answer)
                self.spool.refuse(path)
            else:
                self._failed(answer)
                return

    def _poll(self) -> None:
        server_id = self.identify()
        self._report(server_id)
        answer = self.server.commands(self.state.token, server_id)
        if not answer.is_good:
            self._failed(answer)
            return
        self.back_off.succeeded()
        for command in answer.body.get("commands") or ():
            if not isinstance(command, dict):
                continue
            self.commands.take(command, server_id=server_id)
        self._report(server_id)

    def _report(self, server_id: str) -> None:
        for key, outcome, detail in self.commands.unreported():
            answer = self.server.report(self.state.token, server_id, key, outcome, detail)
            if answer.is_good or answer.body.get("reason") == "unknown_command":
                self.commands.reported(key)

    def _failed(self, answer: Answer) -> None:
        if answer.body.get("reason") == "wrong_server":
            self.identify(anew=True)
        self.back_off.failed(answer, retry_after_s=answer.retry_after_s)

    def _desktop_users(self) -> list[tuple[str, str]]:
        sessions = getattr(self.observer.sessions, "sessions", list)() or []
        wanted = {s["User"]: s["Name"] for s in sessions if s["Type"] in LinuxSessions.DESKTOPS}
        return sorted(wanted.items())


def dry_run(config: Config, machine: Machine, *, seconds: float) -> dict[str, Any]:
    """What would be sent now; neither sends nor writes anything, and needs no enrolment."""
    observer = Observer(config, machine, token="")
    time.sleep(seconds)
    observer.sample()
    batch = observer.batch(is_last=True)
    observer.close()
    server_id = find_server_id(config, fetch=machine.fetch, root=machine.root)
    return finished(batch or {}, server_id=server_id, sent_at=machine.wall())


# --- Command line --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        return _main(options)
    except AgentError as error:
        log.error("%s", error)
        return 1
    except PermissionError as error:
        log.error("%s (the agent runs as root)", error)
        return 1


def _main(options: argparse.Namespace) -> int:
    config = read_config(options.config, must_exist=not options.dry_run)
    if options.session_helper:
        run_session_helper(config)
    if options.dry_run:
        batch = dry_run(config, Machine(), seconds=min(config.sample_s, 2))
        print(json.dumps(batch, indent=1))
        return 0
    if not config.url:
        raise BadConfig(f"{options.config}: [server] url is missing")
    agent = Agent(config, Machine(), transport_to(config))
    try:
        return _do(agent, config, options)
    finally:
        agent.close()


def _do(agent: Agent, config: Config, options: argparse.Namespace) -> int:
    if options.enrol:
        agent.enrol(options.enrol)
        return 0
    agent.check_enrolled()
    if options.once:
        return 0 if agent.once(seconds=min(config.sample_s, 2), sleep=time.sleep) else 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    agent.run(stop)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="foredesk-agent", description="Foredesk agent")
    parser.add_argument("--config", type=Path, default=CONFIG, help=f"default: {CONFIG}")
    parser.add_argument("--enrol", metavar="TOKEN", help="become this desktop's agent, and end")
    parser.add_argument("--once", action="store_true", help="observe, send, and end")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be sent, send nothing, and end"
    )
    parser.add_argument("--session-helper", action="store_true", help="(Windows) in each session")
    parser.add_argument("--version", action="version", version=VERSION)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
