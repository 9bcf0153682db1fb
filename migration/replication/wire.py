"""Messages between two ends, over one TCP connection under mutual TLS.

A message is a head of 17 bytes and a body. Head, little-endian: kind (1 byte), length of the body
(4), XXH32 of those five bytes (4), XXH3-64 of the body (8). The head has a checksum of its own, or
an end would wait for the rest of a body whose length was changed on its way. docs/replication.md
says what each kind holds.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from enum import IntEnum
from typing import IO, Any, NoReturn, cast

import numpy as np
import numpy.typing as npt
import xxhash
import zstandard

from migration.replication.errors import (
    BY_CODE,
    Interrupted,
    ProtocolBroken,
    Refused,
    ReplicationError,
)

PROTOCOL = 1
HEAD = struct.Struct("<BIIQ")
MOST_BYTES = 64 << 20
# As long as an end may be silent; one that looks through a volume sends NEWS meanwhile.
SILENCE_S = 120.0
NEWS_EVERY_S = 5.0
# A machine that vanished is noticed within two minutes, though nothing is sent.
KEEPALIVE = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 60,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 15,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 4,
}
# Of linux/tcp.h: struct tcp_info up to and with tcpi_busy_time (microseconds).
TCP_INFO_BYTES, ACKED_AT, BUSY_AT = 176, 120, 168
# Less says nothing of a link: switches and buffers take that at once.
LEAST_TO_JUDGE_BY = 256 << 10
CHANGED = "A message was changed on its way; what was stored is kept."


class Kind(IntEnum):
    HELLO = 1  # JSON: who speaks, of which volume, cut how
    WELCOME = 2  # JSON: what the destination holds
    ERROR = 3  # JSON: code and text; the connection ends
    NEWS = 4  # nothing: says that one is alive
    ASK_TABLE = 5  # hashes of all superblocks, please
    TABLE = 6  # 16 bytes each, in order; several messages until all are there
    ASK_PAGES = 7  # numbers of superblocks, 4 bytes each
    PAGES = 8  # their hashes of blocks, in the order asked
    STAGED = 9  # blocks that an interrupted pass brought: numbers (4 bytes each), then hashes
    STREAM = 10  # JSON: compression of the frames that follow
    FRAME = 11  # length when decompressed (4 bytes), then the next piece of the stream
    STORED = 12  # number (8 bytes) of frames of this connection that will outlive a crash
    CHECK = 13  # superblocks changed: numbers (4 bytes each), then their hashes
    COMMIT = 14  # JSON: make this a recovery point, and perhaps the volume of a machine
    WANTED = 15  # blocks, 4 bytes each, that must be sent as data before a commit
    COMMITTED = 16  # JSON: generation, root
    DISCARD = 17  # forget what this pass brought
    DISCARDED = 18
    ASK_DIGESTS = 19  # JSON: BLAKE3 of what the volume really holds, please; answered by FACTS
    DIGESTS = 20  # 32 bytes for every superblock; several messages until all are there
    DAMAGED = 21  # superblocks, 4 bytes each, whose content is not to be relied on
    BYE = 22
    FACTS = 23  # JSON: recovery point and size of a shadow
    DEMOTE = 24  # JSON: nothing runs on this volume any more; it is a shadow again
    DEMOTED = 25
    OFFER = 26  # JSON: what a machine reads of this volume, and is missing, can be asked for here
    FETCH = 27  # first block, number of blocks (4 bytes each); none when nothing is missing
    FETCHED = 28  # their content, zstd
    HELD = 29  # superblocks that hold, by now: numbers (4 bytes each), then their hashes
    HELD_BLOCKS = 30  # likewise, of blocks


class Channel:
    """One end of a connection. `sent_bytes` and `received_bytes` count what TLS is given."""

    def __init__(
        self, connection: socket.socket, *, pace: Callable[[int], None] | None = None
    ) -> None:
        self._connection = connection
        self._pace = pace
        connection.settimeout(SILENCE_S)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            for option, value in KEEPALIVE.items():
                connection.setsockopt(*option, value)
        self.sent_bytes = self.received_bytes = 0
        self._last_sent = time.monotonic()
        self._link_seen = 0, 0

    def send(self, kind: Kind, body: bytes | memoryview = b"") -> None:
        head = HEAD.pack(
            kind, len(body), _head_checksum(kind, len(body)), xxhash.xxh3_64_intdigest(body)
        )
        if self._pace:
            self._pace(len(head) + len(body))
        try:
            # Not `sendmsg`: it may take a part only, and a paced link then waits for ever.
            self._connection.sendall(head + body if len(body) < 65536 else head)
            if len(body) >= 65536:
                self._connection.sendall(body)
        except OSError as error:
            self._say_why(error)
        self.sent_bytes += len(head) + len(body)
        self._last_sent = time.monotonic()

    def send_json(self, kind: Kind, **values: Any) -> None:
        self.send(kind, json.dumps(values).encode())

    def link_bytes_per_s(self) -> float | None:
        """How fast the link took what it was given since the last time this was asked: bytes that
        the other end has, over the time in which any were on their way. The kernel's own rate is
        that of its newest burst. None where too little has gone, or there is no TCP."""
        try:
            info = self._connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        except OSError:
            return None
        if len(info) < TCP_INFO_BYTES:
            return None
        acked, busy_us = (struct.unpack_from("=Q", info, at)[0] for at in (ACKED_AT, BUSY_AT))
        new_acked, new_busy_us = acked - self._link_seen[0], busy_us - self._link_seen[1]
        if new_acked < LEAST_TO_JUDGE_BY or not new_busy_us:
            return None
        self._link_seen = acked, busy_us
        return float(new_acked / new_busy_us * 1e6)

    def keep_alive(self) -> None:
        """To be called now and then while one does something long."""
        if time.monotonic() - self._last_sent > NEWS_EVERY_S:
            self.send(Kind.NEWS)

    def wait(self, other: int) -> bool:
        """True once there is something to receive, False once file descriptor `other` is ready."""
        if isinstance(self._connection, ssl.SSLSocket) and self._connection.pending():
            return True
        poll = select.poll()
        for each in (self._connection.fileno(), other):
            poll.register(each, select.POLLIN)
        ready = {file for file, _ in poll.poll()}
        return self._connection.fileno() in ready

    def abort(self) -> None:
        """Whoever waits for the other end waits no longer; from another thread."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def receive_next(self, *expected: Kind) -> tuple[Kind, memoryview]:
        """As `receive`, between passes: however long the other end takes, if it is there."""
        self._connection.settimeout(None)
        try:
            return self.receive(*expected)
        finally:
            self._connection.settimeout(SILENCE_S)

    def receive(self, *expected: Kind) -> tuple[Kind, memoryview]:
        """The next message; news are passed over unless expected.

        Raises the other end's error where it sent one.
        """
        while True:
            kind, body = self._receive()
            if kind is Kind.ERROR and Kind.ERROR not in expected:
                _raise_told(body)
            if kind is Kind.NEWS and Kind.NEWS not in expected:
                continue
            if expected and kind not in expected:
                wanted = " or ".join(each.name for each in expected)
                raise ProtocolBroken(f"The other end sent {kind.name} in place of {wanted}.")
            return kind, body

    def receive_json(self, *expected: Kind) -> dict[str, Any]:
        return from_json(self.receive(*expected)[1])

    def _receive(self) -> tuple[Kind, memoryview]:
        number, length, head_checksum, checksum = HEAD.unpack(self._exactly(HEAD.size))
        if _head_checksum(number, length) != head_checksum:
            raise Interrupted(CHANGED)
        if length > MOST_BYTES:
            raise ProtocolBroken(f"A message of {length} bytes came; {MOST_BYTES} is the most.")
        body = self._exactly(length)
        if xxhash.xxh3_64_intdigest(body) != checksum:
            raise Interrupted(CHANGED)
        try:
            return Kind(number), body
        except ValueError as error:
            raise ProtocolBroken(f"A message of unknown kind {number} came.") from error

    def _exactly(self, length: int) -> memoryview:
        data = memoryview(bytearray(length))
        done = 0
        while done < length:
            try:
                n = self._connection.recv_into(data[done:])
            except OSError as error:
                raise _failure(error) from error
            if n == 0:
                raise Interrupted("The other end closed the connection.")
            done += n
        self.received_bytes += length
        return data

    def _say_why(self, error: OSError) -> NoReturn:
        """The other end may have said why it takes no more before it went."""
        try:
            while True:
                kind, body = self._receive()
                if kind is Kind.ERROR:
                    _raise_told(body)
        except Interrupted:
            raise _failure(error) from error

    def end(self) -> None:
        """Close, once what was sent has been taken: a reset would destroy an error on its way."""
        try:
            self._connection.shutdown(socket.SHUT_WR)
            self._connection.settimeout(5)
            while self._connection.recv(65536):
                pass
        except OSError:
            pass
        finally:
            self._connection.close()


def _failure(error: OSError) -> ReplicationError:
    if isinstance(error, ssl.SSLError) and "CERTIFICATE" in (error.reason or ""):
        return Refused(f"The other end does not accept this relay's certificate: {error.reason}.")
    return Interrupted(f"The connection failed: {error}.")


def from_json(body: memoryview) -> dict[str, Any]:
    try:
        values = json.loads(bytes(body))
    except ValueError as error:
        raise ProtocolBroken("A message that should be JSON is not.") from error
    if not isinstance(values, dict):
        raise ProtocolBroken("A message that should be a JSON object is not.")
    return values


def numbers_of(body: memoryview, below: int) -> npt.NDArray[np.int64]:
    """Numbers of 4 bytes. Raises ProtocolBroken unless all are `below`."""
    numbers = np.frombuffer(body, dtype="<u4").astype(np.int64)
    if len(numbers) and numbers.max() >= below:
        raise ProtocolBroken(f"Number {numbers.max()} was named where {below} are.")
    return numbers


def _raise_told(body: memoryview) -> NoReturn:
    told = from_json(body)
    kind = BY_CODE.get(str(told.get("code")), ReplicationError)
    raise kind(str(told.get("text", "The other end failed and did not say why.")))


def _head_checksum(kind: int, length: int) -> int:
    return xxhash.xxh32_intdigest(bytes((kind,)) + length.to_bytes(4, "little"))


class Inflater:
    """Decompresses the pieces of a stream as they come."""

    def __init__(self, window_bytes: int) -> None:
        self._pieces = _Pieces()
        decompressor = zstandard.ZstdDecompressor(max_window_size=window_bytes)
        self._reader = decompressor.stream_reader(cast("IO[bytes]", self._pieces))

    def inflate(self, piece: memoryview, length: int) -> memoryview:
        """`length` bytes, however much the piece might inflate to."""
        self._pieces.left = piece
        data = memoryview(bytearray(length))
        done = 0
        while done < length:
            try:
                n = self._reader.readinto(data[done:])
            except zstandard.ZstdError as error:
                raise ProtocolBroken(f"A frame cannot be decompressed: {error}.") from error
            if n == 0:
                raise ProtocolBroken("A frame is shorter than it says.")
            done += n
        return data


class _Pieces:
    def __init__(self) -> None:
        self.left = memoryview(b"")

    def read(self, size: int) -> bytes:
        taken, self.left = self.left[:size], self.left[size:]
        return bytes(taken)
