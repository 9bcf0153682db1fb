"""Volumes that machines read, also before all of them is there.

A machine can be started on a shadow while the pass that brings it is under way: what has come is
read from the shadow's volume, what has not from the source, over a connection that the source
opened for it. What the volume is said to hold is read back, and held against the source's hash,
before a machine is given it. The machine writes elsewhere, into an overlay of its own, so that the
shadow becomes what the source held.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt
import zstandard

from migration.replication.errors import ProtocolBroken, Refused, VolumeFailed
from migration.replication.frames import Blocks
from migration.replication.index import Digests, Layout
from migration.replication.shadow import Shadow
from migration.replication.store import Store, check_name
from migration.replication.volume import Volume, open_volume
from migration.replication.wire import Channel, Kind

log = logging.getLogger(__name__)
# Fetched at once, around what a machine reads: one round trip, and it reads on from there.
CHUNK_BYTES = 128 << 10
MOST_CHUNKS = 256
# And not answered yet. With more, both ends could wait for the other to read.
MOST_ASKED = 32
# What a machine reads is noted in such pieces, up to so many: to start takes no more.
GRAIN, MOST_GRAINS = 16 << 10, 1 << 16
# A machine's read waits so long for a source that went away.
WAIT_S = 120.0


class Export(Protocol):
    """What a machine can read; positions in bytes."""

    size: int

    def read(self, at: int, length: int) -> bytes:
        """Raises VolumeFailed where it cannot be read."""


class Exports:
    """The volumes of a store that machines may read: those that passes fill, and those promoted,
    which take no passes."""

    def __init__(self, store: Store, *, wait_s: float = WAIT_S) -> None:
        self._store, self._wait_s = store, wait_s
        self._filling: dict[str, Filling] = {}
        self._reads: dict[str, Noted] = {}
        self._lock = threading.Lock()

    def begin(self, name: str, shadow: Shadow) -> Filling:
        """A pass begins to fill a shadow, or goes on with it."""
        with self._lock:
            found = self._filling.get(name)
            if found is None or found.layout != shadow.layout:
                volume = open_volume(shadow.volume.name)
                found = self._filling[name] = Filling(name, volume, shadow.layout, self._wait_s)
            else:
                found.begin()
        return found

    def filling(self, name: str) -> Filling:
        with self._lock:
            if found := self._filling.get(name):
                return found
        raise Refused(f"Nothing fills {name} here, so nothing of it is missing.")

    @contextmanager
    def opened(self, name: str) -> Iterator[Export]:
        """Raises Refused for a shadow that a pass may change."""
        with self._lock:
            found = self._filling.get(name)
        if found:
            yield found
            return
        check_name(name)
        with closing(_Whole(self._store.promoted_volume(name))) as whole:
            yield whole

    def forget(self, name: str) -> None:
        """The shadow may be changed from now on."""
        with self._lock:
            found = self._filling.pop(name, None)
            self._reads.pop(name, None)
        if found:
            found.close()

    def reads(self, name: str) -> Noted:
        """What machines have read of this volume since it was begun, or opened, here."""
        with self._lock:
            return self._reads.setdefault(name, Noted())

    def keep_reads(self, name: str) -> None:
        """Beside the shadow: to be sent first to wherever the machine starts next."""
        path = self._store.folder_of(name) / "reads.json"
        part = path.with_suffix(f".{threading.get_ident()}.part")
        try:
            part.write_text(json.dumps(self.reads(name).ranges()))
            part.replace(path)
        except OSError as error:
            log.warning("What was read of %s could not be noted: %s", name, error)


class Noted:
    """What was read, each place once, in the order of the first time."""

    def __init__(self) -> None:
        self._places: dict[int, None] = {}

    def note(self, at: int, length: int) -> None:
        if len(self._places) < MOST_GRAINS:
            self._places.update(dict.fromkeys(range(at // GRAIN, -(-(at + length) // GRAIN))))

    def ranges(self) -> list[dict[str, int]]:
        """As `python -m migration.replication send --first` reads them."""
        found: list[dict[str, int]] = []
        for place in self._places.copy():
            if found and found[-1]["start"] + found[-1]["length"] == place * GRAIN:
                found[-1]["length"] += GRAIN
            else:
                found.append({"start": place * GRAIN, "length": GRAIN})
        return found


class _Whole:
    def __init__(self, where: str) -> None:
        self._volume = open_volume(where)
        self.size = self._volume.size

    def read(self, at: int, length: int) -> bytes:
        content = bytearray(length)
        self._volume.read_into(memoryview(content), at)
        return bytes(content)

    def close(self) -> None:
        self._volume.close()


class Filling:
    """An export of a shadow that a pass fills. Any number of threads may read."""

    def __init__(self, name: str, volume: Volume, layout: Layout, wait_s: float = WAIT_S) -> None:
        self.name, self.layout, self.size = name, layout, layout.size
        self._volume, self._wait_s = volume, wait_s
        self._chunk_blocks = max(1, CHUNK_BYTES // layout.block_bytes)
        self._lock = threading.Lock()
        self._chunks: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._to_ask: deque[int] = deque()
        self._wakes: set[int] = set()
        self._is_over = False
        self.begin()

    def begin(self) -> None:
        """Rely on nothing before the source has said it anew."""
        n_supers, size = self.layout.n_supers, self.layout.super_bytes
        self._is_held = np.zeros(n_supers, dtype=bool)
        self._held_blocks: dict[int, npt.NDArray[np.bool_]] = {}
        with self._lock:
            for chunk in [chunk for chunk, one in self._chunks.items() if one.done()]:
                del self._chunks[chunk]
        self._was_data = np.zeros(n_supers, dtype=bool)
        for start, end in self._volume.data_ranges():
            self._was_data[start // size : -(-end // size)] = True

    # What is there.

    def hold_supers(self, shadow: Shadow, supers: Blocks, digests: Digests) -> None:
        """The source says that superblocks hold this by now; those that do not are left out, and
        sent again as damaged in the end."""
        is_hole = ~self._was_data[supers] & ~digests.any(axis=1)
        self._is_held[supers[is_hole]] = True
        rest = np.flatnonzero(~is_hole)
        for number, digest in zip(supers[rest].tolist(), digests[rest], strict=True):
            if (shadow.hasher.superblock(shadow.read_super(number)) == digest).all():
                self._is_held[number] = True
                self._held_blocks.pop(number, None)

    def hold_blocks(self, shadow: Shadow, blocks: Blocks, digests: Digests) -> None:
        """As `hold_supers`, of single blocks."""
        size, per_super = self.layout.block_bytes, self.layout.blocks_per_super
        content = memoryview(bytearray(size))
        for block, digest in zip(blocks.tolist(), digests, strict=True):
            self._volume.read_into(content, block * size)
            if (shadow.hasher.blocks(content)[0] == digest).all():
                held = self._held_blocks.setdefault(
                    block // per_super, np.zeros(per_super, dtype=bool)
                )
                held[block % per_super] = True

    def end(self) -> None:
        """All of it is there."""
        self._is_held[:] = True
        with self._lock:
            self._is_over = True
            self._to_ask.clear()
            left = [(chunk, one) for chunk, one in self._chunks.items() if not one.done()]
            self._chunks.clear()
        for chunk, future in left:
            future.set_result(self._local_chunk(chunk))
        self._wake()

    def _is_here(self, block: int) -> bool:
        number, within = divmod(block, self.layout.blocks_per_super)
        if self._is_held[number]:
            return True
        held = self._held_blocks.get(number)
        return held is not None and bool(held[within])

    # Reading.

    def read(self, at: int, length: int) -> bytes:
        size, super_bytes = self.layout.block_bytes, self.layout.super_bytes
        if self._is_held[at // super_bytes : -(-(at + length) // super_bytes)].all():
            return self._local(at, length)
        first, last = at // size, -(-(at + length) // size)
        # All is asked for before any of it is waited for.
        wanted = {
            block: None if self._is_here(block) else self._asked(block // self._chunk_blocks)
            for block in range(first, last)
        }
        parts = []
        for block, future in wanted.items():
            if future is None:
                parts.append(self._local(block * size, size))
            else:
                within = block % self._chunk_blocks * size
                parts.append(self._awaited(block, future)[within : within + size])
        start = at - first * size
        return b"".join(parts)[start : start + length]

    def _local(self, at: int, length: int) -> bytes:
        content = bytearray(length)
        self._volume.read_into(memoryview(content), at)
        return bytes(content)

    def _local_chunk(self, chunk: int) -> bytes:
        n_bytes = self._chunk_blocks * self.layout.block_bytes
        return self._local(chunk * n_bytes, n_bytes)

    def _asked(self, chunk: int) -> Future[bytes]:
        with self._lock:
            found = self._chunks.get(chunk)
            if found:
                self._chunks.move_to_end(chunk)
                return found
            found = Future()
            if self._is_over:
                found.set_result(self._local_chunk(chunk))
                return found
            self._chunks[chunk] = found
            if len(self._chunks) > MOST_CHUNKS:
                self._drop_oldest()
            self._to_ask.append(chunk)
        self._wake()
        return found

    def _wake(self) -> None:
        """Those that ask the source."""
        with self._lock:
            for wake in self._wakes:
                os.eventfd_write(wake, 1)

    def _drop_oldest(self) -> None:
        """Of what has come: who waits for the rest is to get it."""
        for chunk, future in self._chunks.items():
            if future.done():
                del self._chunks[chunk]
                return

    def _awaited(self, block: int, future: Future[bytes]) -> bytes:
        try:
            return future.result(self._wait_s)
        except TimeoutError as error:
            at = block * self.layout.block_bytes
            raise VolumeFailed(
                f"{self.name}, byte {at}: it has not come yet, and the source did not answer for "
                f"{self._wait_s:.0f} s."
            ) from error

    # Asking the source.

    def fetch_over(self, channel: Channel) -> None:
        """Ask for what is read and missing, until all is there."""
        wake = os.eventfd(0, os.EFD_NONBLOCK)
        asked: deque[int] = deque()
        try:
            with self._lock:
                self._wakes.add(wake)
            while not self._is_over:
                self._ask(channel, asked)
                if not channel.wait(wake):
                    os.eventfd_read(wake)
                    continue
                _, body = channel.receive(Kind.FETCHED)
                if not asked:
                    raise ProtocolBroken("The source sent what it was not asked for.")
                self._take(asked.popleft(), body)
            channel.send(Kind.FETCH, _pair(0, 0))
            while channel.receive(Kind.FETCHED, Kind.BYE)[0] is not Kind.BYE:
                pass
        finally:
            with self._lock:
                self._wakes.discard(wake)
                if not self._is_over:
                    self._to_ask.extendleft(reversed(asked))
            os.close(wake)

    def _ask(self, channel: Channel, asked: deque[int]) -> None:
        while True:
            with self._lock:
                if not self._to_ask or len(asked) >= MOST_ASKED:
                    return
                chunk = self._to_ask.popleft()
                asked.append(chunk)
            channel.send(Kind.FETCH, _pair(chunk * self._chunk_blocks, self._chunk_blocks))

    def _take(self, chunk: int, body: memoryview) -> None:
        length = self._chunk_blocks * self.layout.block_bytes
        try:
            content = zstandard.ZstdDecompressor().decompress(body, max_output_size=length)
        except zstandard.ZstdError as error:
            raise ProtocolBroken(f"What was fetched cannot be decompressed: {error}.") from error
        if len(content) != length:
            raise ProtocolBroken(f"{len(content)} bytes were fetched in place of {length}.")
        with self._lock:
            future = self._chunks.get(chunk)
        if future and not future.done():
            future.set_result(content)

    def close(self) -> None:
        self._volume.close()


def _pair(first: int, n: int) -> bytes:
    return np.array([first, n], dtype="<u4").tobytes()
