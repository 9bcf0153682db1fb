"""Killing a worker inside the test's own process, at any point that the outside can tell apart.

A kill is `Killed`, which nothing of the product catches. Points are: before and after each command
to the cloud and to the gateway, where a copy is told to be complete, and before each statement
that writes to the database. What a killed process had in an open transaction is rolled back either
way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic, sleep
from typing import Any

from django.conf import settings
from django.db import connection
from django.utils import timezone

from desktops.core.cloud import Cloud, JobState
from migration.core.gateway import Gateway
from migration.core.machine import TERMINAL, State
from migration.models import Transition
from migration.services.driving import drive_transition, take_turn
from migration.services.leases import Lease, take_lease

CLOUD_COMMANDS = frozenset(
    {
        "create_server",
        "start_server",
        "stop_server",
        "delete_server",
        "fence_server",
        "unfence_server",
        "live_migrate",
        "delete_volume",
        "copy_volume",
        "abandon_copy",
    }
)
GATEWAY_COMMANDS = frozenset({"hold", "point"})
WRITES = ("INSERT", "UPDATE", "DELETE")


class Killed(BaseException):
    """The worker is no more."""


@dataclass(frozen=True, slots=True)
class Point:
    """The `nth` time that workers come by `what`: "before create_server west", "write"."""

    what: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.what} #{self.nth}"


@dataclass
class Fate:
    """kills : whether a worker dies at a point
    on : what else happens somewhere
    passed : what workers came by, and how often
    struck : where they died
    """

    kills: Callable[[Point], bool] = lambda point: False
    on: Mapping[Point, Callable[[], object]] = field(default_factory=dict)
    passed: Counter[str] = field(default_factory=Counter)
    struck: list[Point] = field(default_factory=list)
    _is_elsewhere: bool = False

    def passes(self, what: str) -> None:
        if self._is_elsewhere:
            return
        self.passed[what] += 1
        here = Point(what, self.passed[what])
        if here in self.on:
            self._is_elsewhere = True
            self.on[here]()
            self._is_elsewhere = False
        if self.kills(here):
            self.struck.append(here)
            raise Killed(str(here))


class Mortal:
    """A cloud or gateway whose commands may be a worker's last."""

    def __init__(self, driver: Cloud | Gateway, commands: frozenset[str], fate: Fate) -> None:
        self._driver = driver
        self._commands = commands
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._driver, name)
        if name not in self._commands:
            return attribute

        def command(*args: Any, **kwargs: Any) -> Any:
            # A copy is known by what it is for, everything else by its region or desktop.
            about = kwargs["key"].split(":")[1] if name == "copy_volume" else args[0]
            self._fate.passes(f"before {name} {about}")
            answer = attribute(*args, **kwargs)
            self._fate.passes(f"after {name} {about}")
            if getattr(answer, "state", None) is JobState.DONE:
                self._fate.passes(f"complete {name} {about}")
            return answer

        return command


@contextmanager
def deadly_writes(fate: Fate) -> Iterator[None]:
    def run(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith(WRITES):
            fate.passes("write")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(run):
        yield


class TestClock:
    """Real time, plus what was slept through: waiting costs next to nothing."""

    __test__ = False

    def __init__(self) -> None:
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        return timezone.now() + self._ahead

    def sleep(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)
        sleep(0.002)  # the simulated cloud must get on as well

    def sleep_until(self, instant: datetime) -> None:
        self.sleep(max((instant - self()).total_seconds(), 0))


@dataclass
class Workers:
    """Workers that follow one another on a transition, each after the death of the one before."""

    cloud: Cloud
    gateway: Gateway
    clock: TestClock = field(default_factory=TestClock)
    number: int = 1

    def drive(
        self, transition: Transition, fate: Fate | None = None, *, until: State | None = None
    ) -> Transition:
        """To the end, or `until` a state, as sweeps would have it; through the kill of `fate`."""
        fate = fate or Fate()
        deadline = monotonic() + 60
        while transition.state not in TERMINAL and transition.state != until:
            try:
                self._turn(transition, fate)
            except Killed:
                self.number += 1
                self.clock.sleep(settings.TRANSITION_LEASE_S + 1)
            transition.refresh_from_db()
            if transition.state == State.NEEDS_OPERATOR or monotonic() > deadline:
                break
            self.clock.sleep_until(transition.due_at)
        return transition

    def drive_into(self, transition: Transition, state: State) -> Transition:
        """One turn after another, to the first moment of `state`."""
        lease = take_lease(transition.pk, owner="test", clock=self.clock)
        assert lease is not None, f"somebody drives it: {transition.lease_owner}"
        deadline = monotonic() + 30
        while transition.state != state:
            assert transition.state not in TERMINAL, f"it is {transition.state}"
            assert monotonic() < deadline, f"still {transition.state}: {transition.waiting_for}"
            self.take_turn(lease)
            transition.refresh_from_db()
        lease.release(due_at=self.clock())
        transition.refresh_from_db()
        return transition

    def take_turn(self, lease: Lease) -> None:
        pause = take_turn(lease, clouds=lambda name: self.cloud, gateways=lambda name: self.gateway)
        if pause is not None:
            self.clock.sleep(0.25)

    def _turn(self, transition: Transition, fate: Fate) -> None:
        cloud = Mortal(self.cloud, CLOUD_COMMANDS, fate)
        gateway = Mortal(self.gateway, GATEWAY_COMMANDS, fate)
        with deadly_writes(fate):
            drive_transition(
                transition.pk,
                owner=f"worker {self.number}",
                clock=self.clock,
                sleep=self.clock.sleep,
                clouds=lambda name: cloud,  # type: ignore[arg-type, return-value]
                gateways=lambda name: gateway,  # type: ignore[arg-type, return-value]
            )
