"""Serves volumes for reading over the network block device protocol, to QEMU for one.

The protocol's fixed newstyle handshake and simple replies; several requests may be under way.
Source: the protocol's own specification, doc/proto.md of the NetworkBlockDevice/nbd project.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

from migration.replication.errors import Refused, ReplicationError
from migration.replication.filling import Export, Exports
from migration.replication.nbd import (
    CAN_FLUSH,
    DISCONNECT,
    FIXED_NEWSTYLE,
    FLUSH,
    INFO_EXPORT,
    IS_READ_ONLY,
    NO_ZEROES,
    OPT_GO,
    OPTION_MAGIC,
    OPTION_REPLY,
    READ,
    REP_ACK,
    REP_INFO,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_MAGIC,
    WRITE,
)

log = logging.getLogger(__name__)
OPT_EXPORT_NAME, OPT_ABORT, OPT_INFO = 1, 2, 6
REPLY_MAGIC = 0x3E889045565A9
REP_ERR_UNSUP, REP_ERR_INVALID, REP_ERR_UNKNOWN = 1 << 31 | 1, 1 << 31 | 3, 1 << 31 | 6
HAS_FLAGS, CAN_MULTI_CONN = 1 << 0, 1 << 8
FLAGS = HAS_FLAGS | IS_READ_ONLY | CAN_FLUSH | CAN_MULTI_CONN
INFO_BLOCK_SIZE = 3
MOST_OPTION_BYTES, MOST_READ_BYTES = 64 << 10, 32 << 20
READERS = 16


class NbdServer:
    """One thread for each connection, and some that read.

    listener : a Unix socket that only machines' processes may open: there is no other protection
    """

    def __init__(self, exports: Exports, listener: socket.socket) -> None:
        self._exports, self._listener = exports, listener

    def serve(self) -> None:
        """Until the listener is closed."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        try:
            with connection:
                _Session(connection, self._exports).run()
        except (OSError, _Left):
            return
        except Exception:
            log.exception("A session of a network block device failed.")


class _Left(Exception):
    """The client went away, or says what cannot be understood."""


class _Session:
    def __init__(self, connection: socket.socket, exports: Exports) -> None:
        self._connection, self._exports = connection, exports
        self._lock = threading.Lock()

    def run(self) -> None:
        self._send(b"NBDMAGIC" + OPTION_MAGIC + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES))
        (client,) = struct.unpack(">I", self._exactly(4))
        while True:
            magic, option, length = struct.unpack(">8sII", self._exactly(16))
            if magic != OPTION_MAGIC or length > MOST_OPTION_BYTES:
                raise _Left
            data = self._exactly(length)
            if option == OPT_ABORT:
                self._reply(option, REP_ACK)
                return
            if option == OPT_EXPORT_NAME:
                self._transmit_named(data.decode(errors="replace"), bool(client & NO_ZEROES))
                return
            if option not in (OPT_GO, OPT_INFO):
                self._reply(option, REP_ERR_UNSUP)
            elif self._tell(option, data):
                return

    def _tell(self, option: int, data: bytes) -> bool:
        """True once the export was used."""
        try:
            (length,) = struct.unpack_from(">I", data)
            name = data[4 : 4 + length].decode()
        except (struct.error, UnicodeDecodeError):
            self._reply(option, REP_ERR_INVALID)
            return False
        try:
            with self._exports.opened(name) as export:
                info = struct.pack(">HQH", INFO_EXPORT, export.size, FLAGS)
                self._reply(option, REP_INFO, info)
                sizes = struct.pack(">HIII", INFO_BLOCK_SIZE, 1, 4096, MOST_READ_BYTES)
                self._reply(option, REP_INFO, sizes)
                self._reply(option, REP_ACK)
                if option == OPT_GO:
                    self._transmit(name, export)
                    return True
        except ReplicationError as error:
            self._reply(option, REP_ERR_UNKNOWN, str(error).encode())
        return False

    def _transmit_named(self, name: str, is_short: bool) -> None:
        try:
            with self._exports.opened(name) as export:
                zeros = b"" if is_short else bytes(124)
                self._send(struct.pack(">QH", export.size, FLAGS) + zeros)
                self._transmit(name, export)
        except Refused as error:
            log.warning("%s", error)  # this option knows no other answer than to hang up

    def _transmit(self, name: str, export: Export) -> None:
        reads = self._exports.reads(name)
        try:
            with ThreadPoolExecutor(READERS) as readers:
                while True:
                    magic, _, kind, handle, at, length = REQUEST.unpack(self._exactly(REQUEST.size))
                    if magic != REQUEST_MAGIC or kind == DISCONNECT:
                        return
                    if kind == FLUSH:
                        self._answer(handle, 0)
                    elif kind != READ:
                        # What follows a write cannot be told from the next request, unless taken.
                        self._refuse(kind, handle, length)
                    elif length > MOST_READ_BYTES or at + length > export.size:
                        self._answer(handle, errno.EINVAL)
                    else:
                        reads.note(at, length)
                        readers.submit(self._read, export, handle, at, length)
        finally:
            self._exports.keep_reads(name)

    def _refuse(self, kind: int, handle: int, length: int) -> None:
        if kind == WRITE:
            if length > MOST_READ_BYTES:
                raise _Left
            self._exactly(length)
            self._answer(handle, errno.EPERM)
        else:
            self._answer(handle, errno.EINVAL)

    def _read(self, export: Export, handle: int, at: int, length: int) -> None:
        try:
            data = export.read(at, length)
        except Exception as error:
            log.error("%s", error)
            self._answer(handle, errno.EIO)
        else:
            self._answer(handle, 0, data)

    def _answer(self, handle: int, number: int, data: bytes = b"") -> None:
        with self._lock:
            self._send(struct.pack(">IIQ", SIMPLE_MAGIC, number, handle) + data)

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self._send(OPTION_REPLY.pack(REPLY_MAGIC, option, kind, len(data)) + data)

    def _send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self._connection.recv(min(length - len(data), 1 << 20))
            if not piece:
                raise _Left
            data += piece
        return bytes(data)
