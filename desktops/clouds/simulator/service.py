"""The simulated cloud's HTTP door: POST /v1/<operation> with a JSON object of arguments.

`GET /v1/world`, `GET /v1/log` and `GET` or `DELETE /v1/faults` are there for curl. Answers are
{"result": …} or {"error": {"code", "message"}}. A thread per connection parses and writes; the
simulation takes one request at a time.
"""

from __future__ import annotations

import hmac
import json
import sys
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from desktops.clouds.simulator.errors import CODES, BadRequest, Unauthorised
from desktops.clouds.simulator.faults import NoAnswer
from desktops.clouds.simulator.simulation import OPERATIONS, Simulation
from desktops.core.cloud import CloudError

LOOPBACK = "127.0.0.1"
LARGEST_BODY_BYTES = 64 * 1024 * 1024
LONGEST_IDLE_S = 300

# Where method and path do not name the operation by themselves.
ROUTES = {
    ("POST", "world"): "load_world",
    ("GET", "world"): "world",
    ("POST", "faults"): "inject_fault",
    ("GET", "faults"): "faults",
    ("DELETE", "faults"): "clear_faults",
    ("GET", "log"): "log",
}
WHOLE_NUMBERS = frozenset({"after", "limit"})  # in a query string


class Service(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, simulation: Simulation, *, port: int, token: str) -> None:
        """Bind `port` of the loopback interface, 0 for a free one; raises OSError."""
        self.simulation = simulation
        self.token = token
        super().__init__((LOOPBACK, port), _Handler)

    def server_bind(self) -> None:
        """As the base class, without its look-up of this host's name, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event; anything else is a bug to show."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Service
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = LONGEST_IDLE_S

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """The journal says what happened; a line per poll would bury it."""

    def _answer(self) -> None:
        try:
            body = self._body()  # read even when refused, so that the connection stays usable
            self._need_token()
            self._send(200, {"result": self._run(body)})
        except NoAnswer:
            self.close_connection = True
        except CloudError as error:
            code, status = next(CODES[kind] for kind in type(error).mro() if kind in CODES)
            self._send(status, {"error": {"code": code, "message": str(error)}})
        except ConnectionError:
            self.close_connection = True
        except Exception as error:
            traceback.print_exc()
            self._send(500, {"error": {"code": "bug", "message": f"{type(error).__name__}"}})

    def _run(self, body: bytes) -> Any:
        parts = urlsplit(self.path)
        version, _, path = parts.path.strip("/").partition("/")
        if version != "v1":
            raise BadRequest("paths begin with /v1/")
        name = ROUTES.get((self.command, path))
        if name is None:
            if self.command != "POST" or path not in OPERATIONS:
                raise BadRequest(f"nothing answers {self.command} {parts.path}")
            name = path
        if self.command == "POST":
            arguments = _json_object(body)
            if name == "load_world":
                arguments = {"world": arguments}
        else:
            arguments = {
                key: int(value) if key in WHOLE_NUMBERS and value.isdigit() else value
                for key, value in parse_qsl(parts.query)
            }
        return self.server.simulation.run(name, arguments)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > LARGEST_BODY_BYTES:
            self.close_connection = True
            raise BadRequest(f"Content-Length: at most {LARGEST_BODY_BYTES} bytes are taken")
        return self.rfile.read(int(length))

    def _need_token(self) -> None:
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.server.token}".encode()):
            raise Unauthorised("a bearer token is wanted")

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except ValueError as error:
        raise BadRequest(f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value
