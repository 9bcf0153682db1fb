"""A machine's state carried by the changed-block engine, to a receiver in a process of its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType

from desktops.core.hypervisor import VirtualDesktopState
from migration.replication.carrying import DISK, MEMORY, PROCESSOR, Carrier, Route
from migration.replication.connecting import connected
from migration.replication.wire import Channel
from webapp.embedded import free_port

ROOT = Path(__file__).resolve().parents[2]
SERVE = (sys.executable, "-m", "migration.replication", "serve")
NAME = "desk"
CLONE_NEWNET = 0x40000000


class Carried:
    """`approach` and `finish` of one cutover; afterwards `carrier` tells of its passes.

    folder : for indexes, of either end; new for every cutover
    near, far : namespaces of the ends; "": this process's
    certificates : holds those of `near` and `far`; None: no TLS
    """

    def __init__(
        self,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        near: str = "",
        far: str = "",
        certificates: Path | None = None,
    ) -> None:
        self._folder, self._address, self._near, self._far = folder, address, near, far
        self._certificates = certificates
        self._port = free_port()
        self._stack = ExitStack()
        self.carrier: Carrier | None = None

    def __enter__(self) -> Carried:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def approach(self, source: VirtualDesktopState, dest: VirtualDesktopState) -> None:
        self._stack.enter_context(self._receiver(dest))
        route = Route(self._connect, NAME, self._folder / "near")
        with within(self._near):
            self.carrier = self._stack.enter_context(Carrier(route))
        self.carrier.approach(source.memory_snapshot, source.data_volume)

    def finish(
        self, source: VirtualDesktopState, dest: VirtualDesktopState, saved: Callable[[], None]
    ) -> None:
        assert self.carrier is not None
        parts = source.memory_snapshot, source.data_volume, source.processor_state
        self.carrier.finish(*parts, saved=saved)

    def _connect(self) -> AbstractContextManager[Channel]:
        near = self._certificates and self._certificates / "near"
        return connected(self._address, self._port, certificates=near, name="far")

    @contextmanager
    def _receiver(self, dest: VirtualDesktopState) -> Iterator[None]:
        places = {
            MEMORY: dest.memory_snapshot,
            PROCESSOR: dest.processor_state,
            DISK: dest.data_volume,
        }
        words = [str(self._folder / "far"), "--listen", f"{self._address}:{self._port}"]
        for part, path in places.items():
            words += ["--volume", f"{NAME}.{part}={path}"]
        if self._certificates:
            words += ["--certificates", str(self._certificates / "far")]
        else:
            words.append("--insecure")
        there = ["ip", "netns", "exec", self._far] if self._far else []
        process = subprocess.Popen([*there, *SERVE, *words], cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            if not process.stdout.readline().startswith(b"listening"):
                raise RuntimeError("The receiver did not start; its reason is on stderr.")
            yield
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def within(namespace: str) -> AbstractContextManager[None]:
    """What this thread opens meanwhile, it opens in a network namespace."""
    return _within(namespace) if namespace else nullcontext()


@contextmanager
def _within(namespace: str) -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: str) -> None:
        with open(path) as file:
            if libc.setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns to {path}")

    with open("/proc/thread-self/ns/net") as own:
        enter(f"/run/netns/{namespace}")
        try:
            yield
        finally:
            enter(f"/proc/self/fd/{own.fileno()}")


def memory_folder(name: str) -> Path:
    """A new folder in memory, which the caller removes."""
    folder = Path("/dev/shm") / f"foredesk-test-{os.getpid()}-{name}"
    folder.mkdir()
    return folder
