"""Processes, and what they cost: wall and processor seconds, and memory, children included."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

KIB = 1024
LOOK_EVERY_S = 0.01


@dataclass(frozen=True)
class Timed:
    wall_s: float
    cpu_s: float
    rss_mb: float
    output: str


@dataclass
class Running:
    process: subprocess.Popen[str]
    started: float = field(default_factory=time.perf_counter)
    # Once it has ended.
    timed: Timed = Timed(0, 0, 0, "")


def run_timed(command: Sequence[str]) -> Timed:
    """Raises CalledProcessError, with what it printed, unless it succeeds."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True)
        ended = Running(process)
        timed = _wait(ended)
        output.seek(0)
        printed = output.read()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, printed)
    return Timed(timed.wall_s, timed.cpu_s, timed.rss_mb, printed)


@contextmanager
def running(command: Sequence[str]) -> Iterator[Running]:
    """Until the block ends; then it is told to end too, and what it cost is known."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    it = Running(process)
    try:
        yield it
    finally:
        peak_kib = _peak_kib(process.pid)
        process.terminate()
        timed = _wait(it)
        it.timed = replace(timed, rss_mb=max(timed.rss_mb, peak_kib * KIB / 1e6))
        assert process.stdout
        process.stdout.close()


def _wait(it: Running) -> Timed:
    # Not ru_maxrss: it remembers the process that this one was forked from.
    peak_kib = 0
    while True:
        peak_kib = max(peak_kib, _peak_kib(it.process.pid))
        pid, status, used = os.wait4(it.process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(LOOK_EVERY_S)
    it.process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - it.started
    return Timed(wall, used.ru_utime + used.ru_stime, peak_kib * KIB / 1e6, "")


def _peak_kib(pid: int) -> int:
    """0 once it has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next((int(line.split()[1]) for line in status.splitlines() if line[:6] == "VmHWM:"), 0)
