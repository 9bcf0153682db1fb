"""What a fleet admin says of a cloud of QEMU hosts, checked.

OptionError names the option: `regions.east.folder: missing`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from desktops.core.cloud import Flavor

MIB = 1 << 20
GIB = 1 << 30
REGION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class OptionError(ValueError):
    """An option is missing, unknown or wrong."""


@dataclass(frozen=True, slots=True)
class Limits:
    """None: unlimited."""

    servers: int | None = None
    vcpus: int | None = None
    memory_bytes: int | None = None
    volume_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RegionOptions:
    """folder : holds `images/`, which is how a region is known to be there
    memory_folder : where the memory of running machines lies; a tmpfs
    run : what QEMU's command is put behind, such as `ip netns exec east`
    netdev : a machine's network as QEMU's -netdev takes it, without its id; {interface} in it is
        a name of the machine's own, short enough for a network interface
    """

    name: str
    folder: Path
    memory_folder: Path
    run: tuple[str, ...]
    netdev: str
    host: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class CloudOptions:
    """machine, cpu : as QEMU's -machine and -cpu; where desktops move between hosts, the cpu must
        be one that all of them have
    arguments : QEMU's, for every machine, such as its display; {folder} and {interface} are the
        machine's own
    shutdown_timeout_s : a guest that was asked to shut down is switched off when it is asked again
        after so long; 0: at once
    """

    regions: Mapping[str, RegionOptions]
    flavors: Mapping[str, Flavor]
    program: str
    accelerator: str
    machine: str
    cpu: str
    arguments: tuple[str, ...]
    shutdown_timeout_s: float
    answer_timeout_s: float


def parse(options: Mapping[str, Any]) -> CloudOptions:
    table = _Table("", options)
    accelerator = table.text("accelerator", "kvm")
    parsed = CloudOptions(
        regions={r.name: r for r in (_region(name, t) for name, t in table.tables("regions"))},
        flavors={f.name: f for f in (_flavor(name, t) for name, t in table.tables("flavors"))},
        program=table.text("program", "qemu-system-x86_64"),
        accelerator=accelerator,
        machine=table.text("machine", "q35"),
        cpu=table.text("cpu", "host" if accelerator == "kvm" else "max"),
        arguments=table.texts("arguments"),
        shutdown_timeout_s=table.number("shutdown_timeout_s", 60),
        answer_timeout_s=table.number("answer_timeout_s", 10),
    )
    table.end()
    return parsed


def _region(name: str, table: _Table) -> RegionOptions:
    if not REGION_NAME.fullmatch(name):
        raise OptionError(f"{table.path}: not a name of letters, digits, '.', '_' and '-'")
    folder = table.folder("folder")
    region = RegionOptions(
        name=name,
        folder=folder,
        memory_folder=table.folder("memory_folder", Path("/dev/shm/foredesk") / name),
        run=table.texts("run"),
        netdev=table.text("netdev", "user"),
        host=table.text("host", socket.gethostname()),
        limits=_limits(table.table("quota")),
    )
    table.end()
    return region


def _limits(table: _Table) -> Limits:
    limits = Limits(
        servers=table.whole("servers", None),
        vcpus=table.whole("vcpus", None),
        memory_bytes=_scaled(table.whole("memory_gib", None), GIB),
        volume_bytes=_scaled(table.whole("volume_gib", None), GIB),
    )
    table.end()
    return limits


def _scaled(count: int | None, unit: int) -> int | None:
    return None if count is None else count * unit


def _flavor(name: str, table: _Table) -> Flavor:
    vcpus, memory_mib = table.whole("vcpus"), table.whole("memory_mib")
    assert vcpus is not None and memory_mib is not None  # neither has a default
    table.end()
    return Flavor(name=name, vcpus=vcpus, memory_bytes=memory_mib * MIB)


_REQUIRED: Any = object()


class _Table:
    """One table of the options. Each key is taken once; what is left at the end is unknown."""

    def __init__(self, path: str, content: Any) -> None:
        self.path = path
        if not isinstance(content, Mapping):
            raise OptionError(f"{path}: not a table")
        self._left = dict(content)

    def end(self) -> None:
        for name in self._left:
            raise OptionError(f"{self._at(name)}: no such option")

    def text(self, name: str, default: str = _REQUIRED) -> str:
        return str(self._take(name, str, "a text", default))

    def texts(self, name: str) -> tuple[str, ...]:
        found = self._take(name, (list, tuple), "a list of texts", ())
        if not all(isinstance(one, str) for one in found):
            raise OptionError(f"{self._at(name)}: not a list of texts")
        return tuple(found)

    def number(self, name: str, default: float) -> float:
        found = self._take(name, (int, float), "a number", default)
        if isinstance(found, bool) or found < 0:
            raise OptionError(f"{self._at(name)}: not a number from 0")
        return float(found)

    def whole(self, name: str, default: int | None = _REQUIRED) -> int | None:
        found = self._take(name, int, "a whole number", default)
        if found is not None and (isinstance(found, bool) or found < 1):
            raise OptionError(f"{self._at(name)}: not a whole number from 1")
        return None if found is None else int(found)

    def folder(self, name: str, default: Path = _REQUIRED) -> Path:
        """An absolute path without what QEMU's options would read as the end of it."""
        path = Path(self._take(name, (str, Path), "a path", default))
        if not path.is_absolute() or "," in str(path):
            raise OptionError(f"{self._at(name)}: not an absolute path without commas")
        return path

    def table(self, name: str) -> _Table:
        return _Table(self._at(name), self._take(name, Mapping, "a table", {}))

    def tables(self, name: str) -> list[tuple[str, _Table]]:
        found = self._take(name, Mapping, "a table", _REQUIRED)
        if not found:
            raise OptionError(f"{self._at(name)}: empty")
        return [(key, _Table(f"{self._at(name)}.{key}", value)) for key, value in found.items()]

    def _take(self, name: str, kind: Any, what: str, default: Any) -> Any:
        if name not in self._left:
            if default is _REQUIRED:
                raise OptionError(f"{self._at(name)}: missing")
            return default
        found = self._left.pop(name)
        if not isinstance(found, kind):
            raise OptionError(f"{self._at(name)}: not {what}")
        return found

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name
