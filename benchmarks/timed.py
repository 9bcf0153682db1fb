"""Processes, and what they cost: wall and processor seconds, and memory, children included."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


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
        process.terminate()
        it.timed = _wait(it)
        assert process.stdout
        process.stdout.close()


def _wait(it: Running) -> Timed:
    _, status, used = os.wait4(it.process.pid, 0)
    it.process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - it.started
    return Timed(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * _KIB / 1e6, "")


_KIB = 1024
