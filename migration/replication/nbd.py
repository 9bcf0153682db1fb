"""A volume that somebody else exports over the network block device protocol: QEMU, nbdkit.

Its server may also say what was never written, and, QEMU with a dirty bitmap, what changed.
Source: the protocol's own specification, doc/proto.md of the NetworkBlockDevice/nbd project.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from migration.replication.errors import NoSpace, ProtocolBroken, Refused, VolumeFailed

PORT = 10809
OPTION_MAGIC = b"IHAVEOPT"
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPT_GO, OPT_STRUCTURED_REPLY, OPT_SET_META_CONTEXT = 7, 8, 10
REP_ACK, REP_INFO, REP_META_CONTEXT = 1, 3, 4
INFO_EXPORT = 0
READ, WRITE, DISCONNECT, FLUSH, WRITE_ZEROES, BLOCK_STATUS = 0, 1, 2, 3, 6, 7
CAN_FLUSH, CAN_WRITE_ZEROES, IS_READ_ONLY = 1 << 2, 1 << 6, 1 << 1
REQUEST_MAGIC, SIMPLE_MAGIC, STRUCTURED_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
REQUEST = struct.Struct(">IHHQQI")
OPTION_REPLY = struct.Struct(">QIII")
OFFSET_DATA, OFFSET_HOLE, STATUS = 1, 2, 5
ALLOCATION, BITMAP = "base:allocation", "qemu:dirty-bitmap:"
IS_ZERO, IS_DIRTY = 2, 1
MOST_BYTES, MOST_STATUS_BYTES = 16 << 20, 1 << 30
WAIT_S = 60.0


class NbdVolume:
    """A `Volume`. url : nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH

    bitmap : name of the dirty bitmap that `dirty_ranges` reads
    """

    def __init__(self, url: str, *, writable: bool = False, bitmap: str | None = None) -> None:
        self.name = url
        self._lock = threading.Lock()
        self._contexts: dict[str, int] = {}
        self._connection = _connect(url)
        try:
            export = unquote(urlsplit(url).path.lstrip("/"))
            self.size, self._flags = self._negotiate(export, bitmap)
            if writable and self._flags & IS_READ_ONLY:
                raise Refused(f"{url} is exported for reading only.")
        except BaseException:
            self._connection.close()
            raise

    def read_into(self, buffer: memoryview, at: int) -> None:
        wanted = max(min(len(buffer), self.size - at), 0)
        for start in range(0, wanted, MOST_BYTES):
            part = buffer[start : min(start + MOST_BYTES, wanted)]
            with self._lock:
                self._ask(READ, at + start, len(part))
                self._receive(part, at + start)
        if wanted < len(buffer):
            buffer[wanted:] = bytes(len(buffer) - wanted)

    def write(self, data: memoryview, at: int) -> None:
        data = data[: max(self.size - at, 0)]
        for start in range(0, len(data), MOST_BYTES):
            part = data[start : start + MOST_BYTES]
            with self._lock:
                self._ask(WRITE, at + start, len(part), part)
                self._receive(memoryview(b""), at)

    def zero(self, at: int, length: int) -> None:
        length = min(length, self.size - at)
        if length <= 0:
            return
        if not self._flags & CAN_WRITE_ZEROES:
            self.write(memoryview(bytes(length)), at)
            return
        with self._lock:
            self._ask(WRITE_ZEROES, at, length)
            self._receive(memoryview(b""), at)

    def reserve(self, at: int, length: int) -> None:
        """The protocol has no such request; the write itself will tell."""

    def flush(self) -> None:
        if self._flags & CAN_FLUSH:
            with self._lock:
                self._ask(FLUSH, 0, 0)
                self._receive(memoryview(b""), 0)

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        if ALLOCATION not in self._contexts:
            yield 0, self.size
            return
        yield from self._ranges(ALLOCATION, lambda flags: not flags & IS_ZERO)

    def dirty_ranges(self) -> Iterator[tuple[int, int]]:
        """What changed since the bitmap was begun or cleared."""
        (name,) = (name for name in self._contexts if name.startswith(BITMAP))
        yield from self._ranges(name, lambda flags: bool(flags & IS_DIRTY))

    def close(self) -> None:
        try:
            with self._lock:
                self._ask(DISCONNECT, 0, 0)
        except VolumeFailed:
            pass
        finally:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ranges(self, context: str, is_meant: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
        at = 0
        while at < self.size:
            with self._lock:
                self._ask(BLOCK_STATUS, at, min(self.size - at, MOST_STATUS_BYTES))
                extents = self._receive_status(self._contexts[context])
            if not extents:
                raise ProtocolBroken(f"{self.name} did not say what is at byte {at}.")
            for length, flags in extents:
                if is_meant(flags):
                    yield at, min(at + length, self.size)
                at += length

    # Before an export is agreed on.

    def _negotiate(self, export: str, bitmap: str | None) -> tuple[int, int]:
        """Size and flags of the export."""
        hello = bytes(self._exactly(18))
        if hello[:8] != b"NBDMAGIC" or hello[8:16] != OPTION_MAGIC:
            raise ProtocolBroken(f"{self.name} is no server of network block devices.")
        self._send(struct.pack(">I", FIXED_NEWSTYLE | NO_ZEROES))
        name = export.encode()
        if self._has(OPT_STRUCTURED_REPLY):
            queries = [ALLOCATION] + ([BITMAP + bitmap] if bitmap else [])
            self._choose_contexts(name, queries)
        if bitmap and BITMAP + bitmap not in self._contexts:
            raise Refused(f"{self.name} has no dirty bitmap {bitmap!r}.")
        self._option(OPT_GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))
        found = None
        while True:
            kind, data = self._option_reply()
            if kind == REP_ACK:
                break
            if kind == REP_INFO and struct.unpack(">H", data[:2])[0] == INFO_EXPORT:
                found = struct.unpack(">QH", data[2:12])
        if found is None:
            raise ProtocolBroken(f"{self.name} does not say how large it is.")
        return found

    def _has(self, option: int) -> bool:
        self._option(option, b"")
        try:
            return self._option_reply()[0] == REP_ACK
        except Refused:
            return False

    def _choose_contexts(self, name: bytes, queries: list[str]) -> None:
        asked = b"".join(struct.pack(">I", len(query)) + query.encode() for query in queries)
        head = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
        self._option(OPT_SET_META_CONTEXT, head + asked)
        try:
            while True:
                kind, data = self._option_reply()
                if kind != REP_META_CONTEXT:
                    return
                self._contexts[data[4:].decode()] = struct.unpack(">I", data[:4])[0]
        except Refused:
            return  # no contexts; all of it may be data

    def _option(self, option: int, data: bytes) -> None:
        self._send(OPTION_MAGIC + struct.pack(">II", option, len(data)) + data)

    def _option_reply(self) -> tuple[int, bytes]:
        _, _, kind, length = OPTION_REPLY.unpack(self._exactly(OPTION_REPLY.size))
        if length > MOST_BYTES:
            raise ProtocolBroken(f"{self.name} answers with {length} bytes.")
        data = bytes(self._exactly(length))
        if kind & 1 << 31:
            raise Refused(f"{self.name}: {data.decode(errors='replace') or hex(kind)}.")
        return kind, data

    # Afterwards. One request at a time: who comes asks, and takes the answer.

    def _ask(self, kind: int, at: int, length: int, data: memoryview | None = None) -> None:
        self._send(REQUEST.pack(REQUEST_MAGIC, 0, kind, 0, at, length))
        if data is not None:
            self._send(data)

    def _receive(self, into: memoryview, at: int) -> None:
        while True:
            magic = struct.unpack(">I", self._exactly(4))[0]
            if magic == SIMPLE_MAGIC:
                number, _ = struct.unpack(">IQ", self._exactly(12))
                self._need_success(number, at)
                if len(into):
                    self._fill(into)
                return
            if self._receive_chunk(magic, into, at):
                return

    def _receive_chunk(self, magic: int, into: memoryview, at: int) -> bool:
        """True after the last one."""
        is_last, kind, length = self._chunk_head(magic)
        if kind == OFFSET_DATA:
            start = struct.unpack(">Q", self._exactly(8))[0] - at
            self._fill(_within(into, start, length - 8))
        elif kind == OFFSET_HOLE:
            start, size = struct.unpack(">QI", self._exactly(12))
            _within(into, start - at, size)[:] = bytes(size)
        else:
            self._need_no_error(kind, self._exactly(length), at)
        return is_last

    def _receive_status(self, context: int) -> list[tuple[int, int]]:
        """Lengths and flags, one after another."""
        extents: list[tuple[int, int]] = []
        while True:
            magic = struct.unpack(">I", self._exactly(4))[0]
            is_last, kind, length = self._chunk_head(magic)
            payload = self._exactly(length)
            if kind == STATUS and struct.unpack(">I", payload[:4])[0] == context:
                extents = list(struct.iter_unpack(">II", payload[4:]))
            elif kind != STATUS:
                self._need_no_error(kind, payload, 0)
            if is_last:
                return extents

    def _chunk_head(self, magic: int) -> tuple[bool, int, int]:
        if magic != STRUCTURED_MAGIC:
            raise ProtocolBroken(f"{self.name} answers with what is no answer.")
        flags, kind, _, length = struct.unpack(">HHQI", self._exactly(16))
        if length > MOST_BYTES + 8:
            raise ProtocolBroken(f"{self.name} answers with {length} bytes.")
        return bool(flags & 1), kind, length

    def _need_no_error(self, kind: int, payload: memoryview, at: int) -> None:
        if kind & 1 << 15:
            self._need_success(struct.unpack(">I", payload[:4])[0], at)

    def _need_success(self, number: int, at: int) -> None:
        if number == errno.ENOSPC:
            raise NoSpace(f"There is no room left for {self.name}, byte {at}.")
        if number:
            raise VolumeFailed(f"{self.name}, byte {at}: {os.strerror(number)}.")

    def _send(self, data: bytes | memoryview) -> None:
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise VolumeFailed(f"{self.name} went away: {error}.") from error

    def _exactly(self, length: int) -> memoryview:
        data = memoryview(bytearray(length))
        self._fill(data)
        return data

    def _fill(self, data: memoryview) -> None:
        done = 0
        while done < len(data):
            try:
                n = self._connection.recv_into(data[done:])
            except OSError as error:
                raise VolumeFailed(f"{self.name} went away: {error}.") from error
            if n == 0:
                raise VolumeFailed(f"{self.name} went away.")
            done += n


def _within(into: memoryview, start: int, length: int) -> memoryview:
    if not 0 <= start <= start + length <= len(into):
        raise ProtocolBroken("A server of block devices answers beyond what it was asked.")
    return into[start : start + length]


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    try:
        if parts.scheme == "nbd" and parts.hostname:
            return socket.create_connection((parts.hostname, parts.port or PORT), WAIT_S)
        if parts.scheme == "nbd+unix":
            (path,) = parse_qs(parts.query)["socket"]
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(WAIT_S)
            try:
                connection.connect(path)
            except OSError:
                connection.close()
                raise
            return connection
    except OSError as error:
        raise VolumeFailed(f"{url} cannot be reached: {error}.") from error
    except (KeyError, ValueError) as error:
        raise Refused(f"{url} names no socket.") from error
    raise Refused(f"{url} is no address of a network block device.")
