"""The state of a running machine, carried to another host that we drive.

Memory and disk are sent while the machine runs, in passes, until what changes during a pass is
about what changed during the one before. Once it is frozen, what is left of both is sent side by
side with the state of its processors.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from migration.replication.sender import Progress, Report, Request, send
from migration.replication.shadow import DIRECT, STAGED
from migration.replication.volume import FileVolume
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

    def finish(self, memory: Path, disk: Path, processor: Path) -> None:
        self._pass(memory, disk, processor, is_last=True)

    def _pass(
        self, memory: Path, disk: Path, processor: Path | None = None, *, is_last: bool
    ) -> None:
        other = self._workers.submit(self._send, DISK, disk, STAGED, is_last)
        third = processor and self._workers.submit(
            self._send, PROCESSOR, processor, DIRECT, is_last
        )
        self.memory.append(self._send(MEMORY, memory, DIRECT, is_last))
        self.disk.append(other.result())
        if third:
            third.result()

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
        with FileVolume(path) as volume:
            return send(volume, self._channels[part], request, progress=self.progress)

    @property
    def wire_bytes(self) -> int:
        """Both ways, of all parts, since connecting."""
        return sum(each.sent_bytes + each.received_bytes for each in self._channels.values())
