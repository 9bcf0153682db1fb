"""Which processes of this machine belong to a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def _mentions(process: Path, folder: str) -> bool:
    with suppress(OSError):
        if os.readlink(process / "cwd").startswith(folder):
            return True
    return any(folder.encode() in _read(process / part) for part in ("cmdline", "environ"))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def is_alive(pid: int) -> bool:
    """Whether it runs; one that ended and waits to be reaped does not."""
    status = _read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()
    return bool(status) and status[0] not in {b"Z", b"X"}


def processes_of(folder: Path) -> dict[int, str]:
    """Live processes with `folder` in their command, environment or working directory.

    The process that asks is not among them. Returns process id → command.
    """
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        if is_alive(int(process.name)) and _mentions(process, str(folder)):
            command = _read(process / "cmdline").replace(b"\0", b" ").decode(errors="replace")
            found[int(process.name)] = command.strip()
    return found


def eventually(condition: Callable[[], bool], *, within_s: float = 20.0) -> bool:
    """Whether `condition()` became true in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
