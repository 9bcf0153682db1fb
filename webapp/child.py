"""A process that runs in the foreground under this one and never outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

POLL_S = 0.05


class Child:
    """One process in a session of its own, so that a terminal's Ctrl-C reaches only the parent.

    The kernel sends it `death_signal` when the parent dies, however that happens. It must be
    started from the main thread: the kernel takes the death of the starting thread for that of
    the parent.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
        stdin: bytes = b"",
        privileges: Sequence[str] = (),
        death_signal: str = "KILL",
        stop_signals: Sequence[signal.Signals] = (signal.SIGTERM,),
        grace_s: float = 10.0,
    ) -> None:
        """`privileges` are options of setpriv(1); output goes to `log`, else to ours.

        `stop_signals` are tried in turn, each for `grace_s`, before SIGKILL.
        """
        self.name = name
        self.grace_s = grace_s
        self.stop_signals = tuple(stop_signals)
        self._command = ["setpriv", "--pdeathsig", death_signal, *privileges, "--", *command]
        self._env = env
        self._cwd = cwd
        self.log = log
        self._stdin = stdin
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs or waits to be reaped."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        with contextlib.ExitStack() as stack:
            output: BinaryIO | None = None
            if self.log:
                output = stack.enter_context(self.log.open("ab"))
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                cwd=self._cwd,
                stdin=subprocess.PIPE if self._stdin else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
            )
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(self._stdin)

    def is_running(self) -> bool:
        """Whether it runs. One that ended stays a zombie until `reap`, which keeps its id ours."""
        if self._process is None or self._process.returncode is not None:
            return False
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is None

    def reap(self) -> int:
        """Collect an ended process and kill what it left in its process group.

        Returns its exit status; a negative one is the number of the signal that ended it.
        """
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    @property
    def status(self) -> int | None:
        """The exit status once reaped."""
        return self._process.returncode if self._process else None

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.is_running():
            self._process.send_signal(number)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it has ended; False when it still runs after `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.is_running():
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def stop(self) -> None:
        stop_together([self])


def stop_together(children: Iterable[Child]) -> None:
    """Stop all `children` at once; return when none is left."""
    running = [child for child in children if child.pid is not None]
    rounds = max((len(child.stop_signals) for child in running), default=0)
    for attempt in range(rounds):
        signalled = [c for c in running if attempt < len(c.stop_signals) and c.is_running()]
        started = time.monotonic()
        for child in signalled:
            child.signal(child.stop_signals[attempt])
        for child in signalled:
            child.wait(max(0.0, started + child.grace_s - time.monotonic()))
    for child in running:
        child.signal(signal.SIGKILL)
    for child in running:
        child.wait()
        child.reap()
