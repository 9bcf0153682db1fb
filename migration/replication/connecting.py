"""Getting from one end to the other."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

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
    except (Refused, Interrupted) as error:
        # In TLS 1.3 it is told with the first answer that a certificate was not accepted.
        if certificates and (expired := _expired(certificates)):
            raise expired from error
        raise
    finally:
        connection.close()


def server_context(folder: Path) -> ssl.SSLContext:
    """Only peers with a certificate of a trusted authority are served.

    Raises Refused for a certificate that no peer would accept.
    """
    if expired := _expired(folder):
        raise expired
    context = _context(ssl.PROTOCOL_TLS_SERVER, folder)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(folder: Path) -> ssl.SSLContext:
    """The server must prove the name that it is connected to by."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, folder)


def _context(protocol: int, folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "relay.pem", folder / "relay.key")
    context.load_verify_locations(folder / "trusted.pem")
    return context


def _expired(folder: Path) -> Refused | None:
    # Loading it takes a fifth of the time that a whole sender takes to start.
    from migration.replication.certificates import expires_at

    end = expires_at(folder)
    if end > datetime.now(UTC):
        return None
    return Refused(
        f"The certificate {folder / 'relay.pem'} expired on {end:%Y-%m-%d at %H:%M} UTC. "
        "Issue a new one; shadows stay at their last recovery points until then."
    )
