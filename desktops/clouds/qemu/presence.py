"""Whether a server has a process: one that is there holds the lock in the server's folder."""

from __future__ import annotations

import fcntl
from pathlib import Path

LOCK = "process.lock"


def is_alive(folder: Path) -> bool:
    try:
        file = (folder / LOCK).open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
