#!/usr/bin/env python3
"""Foredesk probe: measures from an office how far each region is, and reports it to the server.

One file for any machine at a site that people's connections leave from: Python 3.9 or newer and the
standard library. docs/sources/round-trips.md says how it is installed.

A round trip is the time a TCP connection takes to be accepted. Nothing is sent over it, and nothing
listens here.

ProbeError
├── BadConfig       the configuration cannot be used
└── Unreachable     no answer, or no good one, came from the server
"""

from __future__ import annotations

import argparse
import configparser
import json
import logging
import signal
import socket
import ssl
import statistics
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = "1.0"
CONFIG = Path("/etc/foredesk-probe.conf")
SHORTEST_S, LONGEST_S = 60, 3600
ANSWER_S = 15
CONNECTIONS, PAUSE_S = 5, 0.2
log = logging.getLogger("foredesk-probe")


class ProbeError(Exception):
    """Base of what can go wrong; the message is for the admin of the machine."""


class BadConfig(ProbeError):
    """The configuration cannot be used."""


class Unreachable(ProbeError):
    """No answer, or no good one, came from the server."""


@dataclass(frozen=True)
class Config:
    """url, ca_file, proxy : of the server; token : of a program, scope round_trips
    site : the code of the site this machine is at; timeout_s : for one connection"""

    url: str
    site: str
    token: str
    ca_file: str = ""
    proxy: str = ""
    timeout_s: float = 5.0


def read_config(path: Path) -> Config:
    """Raises BadConfig, which names the option."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise BadConfig(f"{path}: {error}") from None
    told = {**_section(parser, "server"), **_section(parser, "probe")}
    unknown = sorted(told.keys() - {"url", "ca_file", "proxy", "token_file", "site", "timeout_s"})
    if unknown:
        raise BadConfig(f"{path}: {unknown[0]} is no option")
    for name in ("url", "token_file", "site"):
        if not told.get(name):
            raise BadConfig(f"{path}: {name} is missing")
    _check_url(told["url"])
    try:
        token = Path(told["token_file"]).read_text(encoding="utf-8").strip()
        timeout_s = float(told.get("timeout_s") or Config.timeout_s)
    except OSError as error:
        raise BadConfig(f"token_file: {error}") from None
    except ValueError:
        raise BadConfig(f"timeout_s: {told['timeout_s']!r} is no number of seconds") from None
    if not 0 < timeout_s <= 10:
        raise BadConfig(f"timeout_s: from 0 to 10 seconds, not {timeout_s:g}")
    return Config(
        told["url"], told["site"], token, told.get("ca_file", ""), told.get("proxy", ""), timeout_s
    )


def _section(parser: configparser.ConfigParser, name: str) -> dict[str, str]:
    return dict(parser[name]) if parser.has_section(name) else {}


def _check_url(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    is_here = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and is_here)):
        raise BadConfig(f"url: {url!r} must begin with https://, or a token would be readable")


# --- Measuring -----------------------------------------------------------------------------------


def round_trip_ms(
    address: str,
    *,
    timeout_s: float,
    sleep: Callable[[float], None] = time.sleep,
    connections: int = CONNECTIONS,
) -> float:
    """The median of a few connections; OSError where nothing answers, or the name is not known."""
    host, _, port = address.rpartition(":")
    family, kind, protocol, _, where = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM
    )[0]
    took = []
    for number in range(connections):
        if number:
            sleep(PAUSE_S)
        with socket.socket(family, kind, protocol) as one:
            one.settimeout(timeout_s)
            began = time.perf_counter()
            one.connect(where)
            took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def measure(targets: Sequence[Mapping[str, str]], *, timeout_s: float) -> list[dict[str, Any]]:
    """One after the other, so that they do not disturb each other; what fails is left out."""
    measured = []
    for target in targets:
        try:
            rtt_ms = round_trip_ms(target["address"], timeout_s=timeout_s)
        except (OSError, ValueError, KeyError) as error:
            log.warning("%s: %s", target.get("region"), error)
        else:
            measured.append({"region": target["region"], "rtt_ms": round(rtt_ms, 3)})
    return measured


# --- The server ----------------------------------------------------------------------------------


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A token is for the server that was configured, and for none it points to."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Server:
    """Raises BadConfig when the CA file cannot be used."""

    def __init__(self, config: Config) -> None:
        try:
            tls = ssl.create_default_context(cafile=config.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise BadConfig(f"ca_file: {config.ca_file}: {error}") from None
        self._config = config
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({"https": config.proxy} if config.proxy else {}),
            urllib.request.HTTPSHandler(context=tls),
            _NoRedirects(),
        )

    def ask(self, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What there is to measure; with a body, what became of it. Raises Unreachable."""
        request = urllib.request.Request(
            self._config.url.rstrip("/") + "/api/v1/round-trips/",
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self._config.token}",
                "Content-Type": "application/json",
                "User-Agent": f"foredesk-probe/{VERSION}",
            },
        )
        try:
            with self._opener.open(request, timeout=ANSWER_S) as answer:
                said = json.loads(answer.read(1 << 20))
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(2000).decode("utf-8", "replace")
            raise Unreachable(f"the server says {error.code}: {text}") from None
        except (OSError, ValueError) as error:
            raise Unreachable(str(error)) from None
        if not isinstance(said, dict):
            raise Unreachable("the server's answer is no object")
        return said


def once(config: Config, server: Server) -> float:
    """Measure and report once. Returns the seconds until the server wants it again."""
    wanted = server.ask()
    measured = measure(wanted.get("targets") or [], timeout_s=config.timeout_s)
    if measured:
        receipt = server.ask({"site": config.site, "round_trips": measured})
        for each in receipt.get("rejected") or []:
            log.warning("refused: %s", each)
        log.info("%s round trips reported", receipt.get("accepted"))
    else:
        log.warning("nothing was measured: does any region have an address to measure to?")
    return min(max(float(wanted.get("every_s") or SHORTEST_S), SHORTEST_S), LONGEST_S)


def run(config: Config, server: Server, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            pause_s = once(config, server)
        except Unreachable as error:
            log.warning("%s", error)
            pause_s = SHORTEST_S
        stop.wait(pause_s)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measures how far Foredesk's regions are.")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--once", action="store_true", help="measure and report once, then end")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        config = read_config(options.config)
        server = Server(config)
        if options.once:
            once(config, server)
        else:
            run(config, server, stop)
    except ProbeError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
