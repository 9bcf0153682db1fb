"""A server's QEMU process: started once, ended.

The lock is taken by flock(1), which becomes QEMU, which keeps it for as long as it lives. So there
is never a second process for a server, and whether there is one needs no process id.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from desktops.clouds.qemu.command import PID
from desktops.clouds.qemu.monitor import Monitor, NotRunning
from desktops.clouds.qemu.presence import LOCK, is_alive
from desktops.core.cloud import CloudFault, CloudUnavailable

START_TIMEOUT_S = 60
END_TIMEOUT_S = 10.0
POLL_S = 0.005


def start(folder: Path, command: list[str], *, run: tuple[str, ...]) -> None:
    """Returns when its monitor listens. CloudFault says what QEMU complained of."""
    # Who looks whether it is alive holds the lock for an instant: wait for that.
    line = [*run, "flock", "--wait", "2", "--no-fork", LOCK, *command]
    try:
        done = subprocess.run(
            line,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=START_TIMEOUT_S,
            start_new_session=True,
            check=False,
        )
    except OSError as error:
        raise CloudUnavailable(f"{line[0]} does not run: {error}") from error
    except subprocess.TimeoutExpired:
        raise CloudUnavailable(f"QEMU took more than {START_TIMEOUT_S} s to start.") from None
    if done.returncode and not is_alive(folder):
        said = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
        raise CloudFault(f"QEMU did not start: {said[-1000:]}")


def end(folder: Path, *, timeout_s: float) -> None:
    """As pulling the plug. Returns when the process is gone."""
    if not is_alive(folder):
        return
    try:
        with Monitor(folder, timeout_s=timeout_s) as monitor:
            monitor.ask("quit")
    except (NotRunning, CloudFault):
        pass  # it ends already
    except CloudUnavailable:
        _kill(folder)
    if not _is_gone(folder, END_TIMEOUT_S):
        _kill(folder)
        if not _is_gone(folder, END_TIMEOUT_S):
            raise CloudUnavailable(f"The process of {folder.name} does not end.")


def _kill(folder: Path) -> None:
    with suppress(ProcessLookupError, FileNotFoundError, ValueError):
        os.kill(int((folder / PID).read_text()), signal.SIGKILL)


def _is_gone(folder: Path, timeout_s: float) -> bool:
    until = time.monotonic() + timeout_s
    while is_alive(folder):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True
