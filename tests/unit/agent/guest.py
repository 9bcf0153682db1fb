"""A guest made of values: its clock, its programs, its counters, its files, and its server."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.agent import load_agent

fa = load_agent()

SERVER_ID = "5b4a1d0e-1111-4222-8333-444455556666"
NOW = 1_767_600_000  # a full hour
KEY = "ab" * 32

DESKTOP = {
    "Id": "2",
    "User": "1000",
    "Name": "mira",
    "State": "active",
    "Type": "x11",
    "Class": "user",
    "RemoteHost": "10.1.2.3",
    "LockedHint": "no",
    "IdleHint": "no",
}


class Clock:
    """One time for both clocks, moved by the test."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


class Programs:
    """What logind says, and every other program that was run, with what it ends."""

    def __init__(self) -> None:
        self.sessions: list[dict[str, str]] | None = [dict(DESKTOP)]
        self.ran: list[list[str]] = []
        self.codes: dict[str, int] = {}

    def __call__(self, arguments: Sequence[str], *, text: str = "", timeout_s: float = 10) -> Any:
        if arguments[0] != "loginctl":
            self.ran.append([*arguments, *([text] if text else [])])
            return fa.Ran(self.codes.get(arguments[0], 0), "")
        if self.sessions is None:
            return fa.Ran(1, "")
        if arguments[1] == "list-sessions":
            return fa.Ran(0, "".join(f" {s['Id']} 1000 {s['Name']}\n" for s in self.sessions))
        shown = {session["Id"]: session for session in self.sessions}[arguments[-1]]
        return fa.Ran(0, "".join(f"{name}={value}\n" for name, value in shown.items()))


class Counters:
    """The part of psutil that the agent asks."""

    def __init__(self) -> None:
        self.cpu_ratio, self.cores = 0.5, 4
        self.received, self.read = 0, 0
        self.connections: list[Any] = []
        self.signed_in: list[Any] = []

    def cpu_percent(self, interval: float | None) -> float:
        return self.cpu_ratio * 100

    def cpu_count(self) -> int:
        return self.cores

    def virtual_memory(self) -> Any:
        return SimpleNamespace(total=8 << 30, available=5 << 30)

    def net_io_counters(self, pernic: bool) -> Mapping[str, Any]:
        loopback = SimpleNamespace(bytes_sent=10**12, bytes_recv=self.received * 1000)
        card = SimpleNamespace(bytes_sent=0, bytes_recv=self.received)
        return {"lo": loopback, "card-of-the-test": card}

    def disk_io_counters(self, perdisk: bool) -> Mapping[str, Any]:
        return {"disk-of-the-test": SimpleNamespace(read_bytes=self.read, write_bytes=0)}

    def users(self) -> list[Any]:
        return self.signed_in

    def net_connections(self, kind: str) -> list[Any]:
        return self.connections


class FakeServer:
    """Answers as it is told to, and keeps what it was sent."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.commands: list[dict[str, Any]] = []
        self.outcomes: list[tuple[str, str]] = []
        self.answers: list[Any] = []  # to the next batches, instead of taking them in
        self.enrolment = fa.Answer(
            201,
            {
                "token": "foredesk_agent_t",
                "command_key": KEY,
                "desktop": "d-1",
                "poll_s": 30,
                "post_s": 60,
            },
        )
        self.asked: list[str] = []

    def __call__(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Any:
        self.asked.append(f"{method} {path}")
        if path == "enrol/":
            return self.enrolment
        if path == "batches/":
            answer = self.answers.pop(0) if self.answers else None
            if isinstance(answer, Exception):
                raise answer
            if answer is not None:
                return answer
            self.batches.append(fa.json.loads(fa.gzip.decompress(body)))
            return fa.Answer(202, {"accepted": True})
        if path == "commands/":
            return fa.Answer(200, {"commands": self.commands})
        self.outcomes.append((path.split("/")[1], fa.json.loads(body)["outcome"]))
        return fa.Answer(204, {})


class Guest:
    """Everything around an agent; `agent()` starts one on the same disk, as after a reboot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agents: list[Any] = []
        self.clock, self.programs = Clock(), Programs()
        self.counters, self.server = Counters(), FakeServer()
        self.processes: dict[tuple[int, float], tuple[str, float]] = {}
        self.config = fa.Config(
            url="https://foredesk.example.org",
            state_dir=str(folder / "state"),
            server_id=SERVER_ID,
            applications=("Firefox", "soffice.bin"),
        )

    def machine(self) -> Any:
        return fa.Machine(
            root=self.folder,
            wall=self.clock,
            monotonic=self.clock,
            chance=random.Random(7),
            run=self.programs,
            fetch=_no_metadata,
            system=self.counters,
            processes=self._running,
        )

    def agent(self, *, is_enrolled: bool = True) -> Any:
        agent = fa.Agent(self.config, self.machine(), self.server)
        self.agents.append(agent)
        if is_enrolled and not agent.state.token:
            agent.enrol("foredesk_enrol_t")
        return agent

    def live(self, agent: Any, seconds: float) -> None:
        """Let time pass, as the loop of the agent does."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            agent.step()
            self.clock.now += min(agent.wait_s(), until - self.clock.now)

    @property
    def spooled(self) -> list[Path]:
        return sorted((self.folder / "state/spool").glob("*.gz"))

    @property
    def refused(self) -> list[Path]:
        return sorted((self.folder / "state/spool/refused").iterdir())

    def _running(self) -> Iterator[tuple[tuple[int, float], str, float]]:
        for process, (name, cpu_s) in self.processes.items():
            yield process, name, cpu_s


def killed(agent: Any) -> None:
    """As after kill -9: nothing is written any more; the kernel lets the lock go."""
    agent.lock.close()


def _no_metadata(url: str) -> bytes:
    raise OSError("no metadata service")


def command(**changes: Any) -> dict[str, Any]:
    """As the server signs it."""
    fields = {
        "id": 7,
        "kind": "notify",
        "arguments": {"message": "Zoë, 18:00"},
        "server_id": SERVER_ID,
        "expires_at": NOW + 600,
        **changes,
    }
    text = fa.json.dumps(fields, sort_keys=True, separators=(",", ":"))
    signature = fa.hmac.new(bytes.fromhex(KEY), text.encode(), "sha256").hexdigest()
    return {**fields, "signature": signature}
