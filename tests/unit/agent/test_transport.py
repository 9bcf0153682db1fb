"""Who the agent shows its token to: the server it was configured for, and nobody else."""

from __future__ import annotations

import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.unit.agent.guest import fa


class Server(ThreadingHTTPServer):
    """Answers everything with `status`, and keeps the tokens it was shown."""

    daemon_threads = True

    def __init__(self, status: int = 200, body: bytes = b"{}", **headers: str) -> None:
        self.status, self.body, self.headers = status, body, headers
        self.shown: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not like our certificate hangs up."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.shown.append(self.headers["Authorization"])
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(server: Server, certificate: Path | None = None) -> Iterator[str]:
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """One for 127.0.0.1 that nobody but itself vouches for, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def ask(url: str, ca_file: str = ""):
    send = fa.transport_to(fa.Config(url=url, ca_file=ca_file))
    return fa.Server(send).commands("secret", "server")


def test_a_server_that_nobody_vouches_for_is_shown_nothing(certificate: Path) -> None:
    server = Server()
    with serving(server, certificate) as url:
        with pytest.raises(fa.Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            ask(url)
        assert server.shown == []
        assert ask(url, str(certificate)).is_good
        assert server.shown == ["Bearer secret"]


def test_a_token_does_not_follow_where_the_server_points(certificate: Path) -> None:
    other = Server()
    with serving(other) as elsewhere, serving(Server(302, Location=elsewhere)) as url:
        assert ask(url).status == 302
    assert other.shown == []


def test_what_the_server_wants_is_understood() -> None:
    body = b'{"reason": "unavailable"}'
    with serving(Server(503, body, Retry_After="40")) as url:
        assert ask(url) == fa.Answer(503, {"reason": "unavailable"}, 40.0)
    with serving(Server(502, b"<html>bad gateway</html>", Retry_After="Fri, 31 Dec 1999")) as url:
        assert ask(url) == fa.Answer(502, {}, 0.0)


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with serving(Server()) as url:
        pass
    with pytest.raises(fa.Unreachable):
        ask(url)


def test_a_missing_ca_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(fa.BadConfig, match="ca_file"):
        fa.transport_to(fa.Config(url="https://foredesk.example.org", ca_file=str(tmp_path / "x")))
