"""The source's answers to what a machine at the destination reads before it is there."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import zstandard

from migration.replication.errors import ProtocolBroken, ReplicationError
from migration.replication.index import Layout
from migration.replication.volume import Volume
from migration.replication.wire import Channel, Kind

log = logging.getLogger(__name__)
# A machine that read something will read something else soon, and waits; the pass can wait better.
YIELD_S = 0.02
# But not for ever: a machine that reads without end would wait for the pass to end.
MOST_YIELD_S = 0.5
MOST_BYTES = 16 << 20
AGAIN_S = 1.0
END_S = 10.0


class Reads:
    """A thread that reads for the machine on shadow `name`, for as long as the pass takes. The
    source must stand still. A connection that was lost is opened again."""

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Channel]],
        name: str,
        source: Volume,
        layout: Layout,
    ) -> None:
        self._connect, self._name, self._source, self._layout = connect, name, source, layout
        self._last = -YIELD_S
        self._is_over = threading.Event()
        self._channel: Channel | None = None
        self._thread = threading.Thread(target=self._run, name="reads", daemon=True)
        self._thread.start()

    def yield_to(self) -> None:
        """Return when nothing was read for a little while."""
        end = time.monotonic() + MOST_YIELD_S
        while (now := time.monotonic()) < (until := min(end, self._last + YIELD_S)):
            time.sleep(until - now)

    def end(self) -> None:
        """All is there: the destination says so on this connection as well."""
        self._is_over.set()
        self._thread.join(END_S)
        self.abort()

    def abort(self) -> None:
        self._is_over.set()
        if self._channel:
            self._channel.abort()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                with self._connect() as channel:
                    self._channel = channel
                    if self._is_over.is_set():  # before there was anything to abort
                        return
                    channel.send_json(Kind.OFFER, volume=self._name)
                    self._answer(channel)
                    return
            except ReplicationError as error:
                if self._is_over.is_set():
                    return
                log.warning("%s: what is read there cannot be answered: %s", self._name, error)
            finally:
                self._channel = None
            if self._is_over.wait(AGAIN_S):
                return

    def _answer(self, channel: Channel) -> None:
        compressor = zstandard.ZstdCompressor(level=1)
        size = self._layout.block_bytes
        while True:
            _, body = channel.receive_next(Kind.FETCH)
            if len(body) != 8:
                raise ProtocolBroken("The destination does not say what it wants to read.")
            first, n = np.frombuffer(body, dtype="<u4").tolist()
            if not n:
                return
            if n * size > MOST_BYTES:
                raise ProtocolBroken(f"{n} blocks were asked for at once.")
            self._last = time.monotonic()
            content = bytearray(n * size)
            self._source.read_into(memoryview(content), first * size)
            channel.send(Kind.FETCHED, compressor.compress(content))
            self._last = time.monotonic()


@contextmanager
def reads_answered(
    connect: Callable[[], AbstractContextManager[Channel]] | None,
    name: str,
    source: Volume,
    layout: Layout,
) -> Iterator[Reads | None]:
    """connect : opens another channel to the receiver; None where nothing runs there yet"""
    if connect is None:
        yield None
        return
    reads = Reads(connect, name, source, layout)
    try:
        yield reads
    except BaseException:
        reads.abort()
        raise
    reads.end()
