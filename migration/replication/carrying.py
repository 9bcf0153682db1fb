"""The state of a running machine, carried to another host that we drive.

Memory and disk are sent while the machine runs, in passes, until what changes during a pass is
about what changed during the one before. Once it is frozen, what is left of both is sent while the
state of its processors is saved, and that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from migration.replication.sender import Progress, Report, Request, send
from migration.replication.shadow import DIRECT, STAGED
from migration.replication.volume import FileVolume, MappedVolume, Volume
from migration.replication.wire import Channel

MEMORY, PROCESSOR, DISK = "memory", "processor", "disk"
MOST_PASSES = 8
# A pass that changed less than this of what the one before did is worth another.
SHRINKING = 0.8
# Not worth another pass: sending it takes less time than a pass takes by itself.
LITTLE_BYTES = 2 << 20


@dataclass(frozen=True)
class Route:
    """How the state of one machine travels.

    connect : opens a channel to the receiver at the destination
    name : of the machine; the receiver has its memory, processor state and disk as NAME.memory,
        NAME.processor and NAME.disk
    disk : of the disk's shadow, where that has another name
    folder : keeps indexes; for a machine's memory best in memory itself
    """

    connect: Callable[[], AbstractContextManager[Channel]]
    name: str
    folder: Path
    effort: str = "fast"
    disk: str = ""

    def shadow(self, part: str) -> str:
        return self.disk if part == DISK and self.disk else f"{self.name}.{part}"


@dataclass
class Carrier:
    """`approach` while the machine runs, as often as is worth it; `finish` when it stands still.

    memory, disk : reports of the passes so far, the last one made while nothing ran
    """

    route: Route
    progress: Callable[[Progress], None] = lambda _: None
    memory: list[Report] = field(default_factory=list)
    disk: list[Report] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)
    _mapped: MappedVolume | None = None

    def __enter__(self) -> Self:
        """Connects now: nobody is to wait for a handshake."""
        with ExitStack() as stack:
            self._workers = stack.enter_context(ThreadPoolExecutor(2))
            self._channels = {
                part: stack.enter_context(self.route.connect())
                for part in (MEMORY, PROCESSOR, DISK)
            }
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def approach(self, memory: Path, disk: Path) -> None:
        for _ in range(MOST_PASSES):
            self._pass(memory, disk, is_last=False)
            changed = [report.changed_bytes for report in self.memory]
            if changed[-1] <= LITTLE_BYTES:
                return
            if len(changed) > 2 and changed[-1] > SHRINKING * changed[-2]:
                return

    def finish(
        self, memory: Path, disk: Path, processor: Path, *, saved: Callable[[], None]
    ) -> None:
        """saved : returns when the state of the processors is there"""

        def send_processor() -> None:
            saved()
            self._send(PROCESSOR, processor, DIRECT, True)

        third = self._workers.submit(send_processor)
        self._pass(memory, disk, is_last=True)
        third.result()

    def _pass(self, memory: Path, disk: Path, *, is_last: bool) -> None:
        other = self._workers.submit(self._send, DISK, disk, STAGED, is_last)
        try:
            self.memory.append(self._send(MEMORY, memory, DIRECT, is_last))
        finally:
            wait([other])
        self.disk.append(other.result())

    def _send(self, part: str, path: Path, mode: str, is_last: bool) -> Report:
        shadow = self.route.shadow(part)
        request = Request(
            shadow,
            self.route.folder / shadow,
            mode=mode,
            effort=self.route.effort,
            is_consistent=is_last,
            is_promoted=is_last,
        )
        with self._opened(part, path) as volume:
            return send(volume, self._channels[part], request, progress=self.progress)

    def _opened(self, part: str, path: Path) -> AbstractContextManager[Volume]:
        if part != MEMORY:
            return FileVolume(path)
        if self._mapped is None:
            self._mapped = self._stack.enter_context(MappedVolume(path))
        return nullcontext(self._mapped)

    @property
    def wire_bytes(self) -> int:
        """Both ways, of all parts, since connecting."""
        return sum(each.sent_bytes + each.received_bytes for each in self._channels.values())
