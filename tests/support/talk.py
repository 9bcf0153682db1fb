"""Conversation with the test guest (tests/guests/guest.c), and a watch over its ticks."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from itertools import pairwise

ECHO_PORT, FEED_PORT = 7, 8


@dataclass(frozen=True, slots=True)
class Tick:
    """at : when it arrived, monotonic seconds; asked : how many this session has seen"""

    at: float
    boot: str
    counter: int
    asked: int


class Session:
    """One TCP connection to the guest's echo."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        self._connection = connection
        self._lines = connection.makefile("rb")

    def ask(self, line: str) -> str:
        self._connection.sendall(f"{line}\n".encode())
        return _line(self._lines.readline())

    def tick(self) -> Tick:
        return _tick(self.ask("tick"))

    def close(self) -> None:
        self._lines.close()
        self._connection.close()


class Feed:
    """Everything the guest's feed said, read as it comes."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        self._connection = connection
        self.ticks: list[Tick] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with self._connection.makefile("rb") as lines:
            for line in lines:
                self.ticks.append(_tick(_line(line)))

    def longest_gap_ms(self) -> float:
        return max((b.at - a.at) * 1000 for a, b in pairwise(self.ticks))

    def largest_step(self) -> int:
        """By how many ticks two neighbours differ at most: 1 or 2, or the guest missed some."""
        return max(b.counter - a.counter for a, b in pairwise(self.ticks))

    def close(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()


def _line(raw: bytes) -> str:
    if not raw.endswith(b"\n"):
        raise ConnectionError("The guest hung up.")
    return raw.decode().strip()


def _tick(line: str) -> Tick:
    boot, counter, asked = line.split()
    return Tick(time.monotonic(), boot, int(counter), int(asked))
