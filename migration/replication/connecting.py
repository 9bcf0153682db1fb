"""Getting from one end to the other."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from migration.replication.certificates import client_context
from migration.replication.errors import Interrupted, Refused
from migration.replication.wire import Channel, Kind

CONNECT_S = 20.0


@contextmanager
def connected(
    host: str,
    port: int,
    *,
    certificates: Path | None,
    name: str | None = None,
    pace: Callable[[int], None] | None = None,
) -> Iterator[Channel]:
    """A channel to a receiver.

    certificates : folder of this relay's, None for no TLS
    name : of the receiver's certificate, None if it is the host's
    """
    context = client_context(certificates) if certificates else None
    try:
        connection = socket.create_connection((host, port), CONNECT_S)
    except OSError as error:
        raise Interrupted(f"{host}:{port} cannot be reached: {error}.") from error
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context:
            connection = context.wrap_socket(connection, server_hostname=name or host)
    except ssl.SSLCertVerificationError as error:
        connection.close()
        raise Refused(f"{host}:{port} is not who it should be: {error.verify_message}.") from error
    except OSError as error:
        connection.close()
        raise Interrupted(f"{host}:{port} does not speak TLS with us: {error}.") from error
    channel = Channel(connection, pace=pace)
    try:
        yield channel
        channel.send(Kind.BYE)
    finally:
        connection.close()
