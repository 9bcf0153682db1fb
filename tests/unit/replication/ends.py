"""Two ends of replication in one process, and ways to hurt the connection between them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from migration.replication.filling import Exports
from migration.replication.receiver import attend
from migration.replication.sender import Report, Request, demote, send
from migration.replication.store import Store
from migration.replication.verification import Verification, verify
from migration.replication.volume import open_volume
from migration.replication.wire import Channel


class Ends:
    """A source's folder, and a store at the destination."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder / "store")
        self.source = folder / "source"
        self.exports = Exports(self.store, wait_s=5)

    def write_source(self, content: bytes) -> None:
        self.source.write_bytes(content)

    def send(self, *, hurt: Callable[[socket.socket], socket.socket] | None = None, **request):
        """One pass, over a connection that `hurt` may have made worse.

        source : an open volume, in the place of the source's file
        """
        opened = request.pop("source", None)
        request = {"volume": "desk", "folder": self.folder / "cache"} | request

        def make(channel: Channel) -> Report:
            with nullcontext(opened) if opened else open_volume(str(self.source)) as source:
                return send(source, channel, Request(**request))

        return self._over(make, hurt)

    def verify(self, name: str = "desk") -> Verification:
        def compare(channel: Channel) -> Verification:
            with open_volume(str(self.source)) as source:
                return verify(source, channel, name)

        return self._over(compare, None)

    def demote(self) -> None:
        self._over(partial(demote, volume="desk"), None)

    @contextmanager
    def connected(self, hurt=None) -> Iterator[Channel]:
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=attend, args=(Channel(theirs), self.store, self.exports))
        thread.start()
        try:
            yield Channel(hurt(ours) if hurt else ours)
        finally:
            ours.close()
            thread.join()

    def _over(self, act, hurt):
        with self.connected(hurt) as channel:
            return act(channel)

    def held(self, name: str = "desk") -> bytes:
        return (self.folder / "store" / name / "volume").read_bytes()

    def generation(self, name: str = "desk") -> int | None:
        """Of the shadow, whatever was left half done being finished."""
        shadow = self.store.open(name)
        try:
            return shadow.generation
        finally:
            shadow.close()


class Cut:
    """A connection that breaks once so many bytes went through it, both ways counted."""

    def __init__(self, connection: socket.socket, after: int) -> None:
        self._connection, self._left = connection, after

    def sendall(self, data) -> None:
        if len(data) > self._left:
            self._connection.sendall(data[: self._left])
            self._break()
        self._left -= len(data)
        self._connection.sendall(data)

    def recv_into(self, buffer) -> int:
        if not self._left:
            self._break()
        n = self._connection.recv_into(buffer[: self._left])
        self._left -= n
        return n

    def _break(self) -> None:
        self._left = 0
        self._connection.close()
        raise ConnectionResetError("cut")

    def __getattr__(self, name: str):
        return getattr(self._connection, name)


class Flip(Cut):
    """A connection that changes one bit of what is sent, once."""

    def __init__(self, connection: socket.socket, at: int) -> None:
        super().__init__(connection, 1 << 60)
        self._at = at

    def sendall(self, data) -> None:
        if 0 <= self._at < len(data):
            data = bytearray(data)
            data[self._at] ^= 1
        self._at -= len(data)
        self._connection.sendall(data)
