"""`kill -9` of a real worker at each step of a transition, and another one started.

Used by tests/integration/test_worker_killed.py and by benchmarks/kill_points.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from django.utils import timezone

from migration.core.machine import TERMINAL, State
from migration.models import Transition
from migration.services.decisions import (
    approve_recommendation,
    cancel_transition,
)
from tests.support.fleet import Fleet
from tests.support.lethal import FOLDER_VARIABLE, Orders
from tests.support.outcomes import wrong_after
from tests.support.services import Service
from tests.support.simulator import TOKEN, SimulatorProcess

LEASE_S = 1
PATIENCE_S = 60.0

# State → what the worker comes by there, in `lethal`'s words; {desktop} is the desktop's key.
MOVE: dict[State, tuple[str, ...]] = {
    State.PLANNED: ("server east",),
    State.PREPARING: ("inventory west",),
    State.SYNCING: ("copy_volume sync_volume",),
    State.READY: ("server east",),
    State.FREEZING: ("hold {desktop}", "stop_server east", "fence_server east"),
    State.COPYING: ("copy_volume copy_final",),
    State.STARTING: ("create_server west", "unfence_server west"),
    State.RECONNECTING: ("point {desktop}",),
    State.VERIFYING: ("server west",),
    State.COMMITTING: ("server west",),
    State.RELEASING: ("delete_server east", "delete_volume east"),
}
WAY_BACK: dict[State, tuple[str, ...]] = {
    State.ROLLING_BACK: (
        "hold {desktop}",
        "delete_server west",
        "unfence_server east",
        "start_server east",
        "point {desktop}",
        "abandon_copy west",
        "delete_volume west",
    )
}
CANCELLATION: dict[State, tuple[str, ...]] = {
    State.CANCELLING: ("abandon_copy west", "delete_volume west")
}


@dataclass(frozen=True, slots=True)
class KillPoint:
    """Where workers die in one course of events; `after_s`: also that long after its beginning."""

    name: str
    wanted: State
    orders: tuple[str, ...] = ()
    after_s: float | None = None

    def __str__(self) -> str:
        return self.name


def steps_of(course: dict[State, tuple[str, ...]]) -> Iterator[str]:
    for state, commands in course.items():
        for command in commands:
            yield f"{state.value} before {command}"
            yield f"{state.value} after {command}"
            if command.startswith("copy_volume"):
                yield f"{state.value} complete {command}"


def all_points(*, seed: int = 1, random_instants: int = 10) -> list[KillPoint]:
    """Every step by itself, and some instants between."""
    chance = random.Random(seed)
    courses = (
        (MOVE, State.DONE),
        (WAY_BACK, State.ROLLED_BACK),
        (CANCELLATION, State.CANCELLED),
    )
    points = [
        KillPoint(step, wanted, (step,)) for course, wanted in courses for step in steps_of(course)
    ]
    for _ in range(random_instants):
        after_s = round(chance.uniform(0, 3), 3)
        points.append(KillPoint(f"{after_s} s after the approval", State.DONE, (), after_s))
    return points


@dataclass
class DeadlyStage:
    """A fleet on a simulated cloud, a worker that may be told to die, and what it is told."""

    fleet: Fleet
    simulated: SimulatorProcess
    worker: Service
    orders: Orders
    moves: int = 0
    started: int = field(default=0, init=False)

    def play(self, point: KillPoint, **recommendation: Any) -> list[str]:
        """What was wrong in the end; [] when all is as it should be."""
        self.moves += 1
        desktop = self.fleet.desktop(self.simulated, f"ana-{self.moves}", is_user_present=True)
        self.orders.withdraw()
        for order in point.orders:
            self.orders.give(order.format(desktop=desktop.key))
        if point.wanted is State.ROLLED_BACK:
            self.simulated.admin.inject_fault("boot_error", region="west")
        self.keep_worker_alive()
        transition = approve_recommendation(
            recommendation_id=self.fleet.recommendation(
                desktop, **{"keeps_source_as_shadow": self.moves % 2 == 0, **recommendation}
            ).pk,
            actor=self.fleet.alice,
            at=timezone.now(),
            confirm_now=point.wanted is not State.CANCELLED,
        )
        if point.wanted is State.CANCELLED:
            self.drive(transition, until=State.READY)
            cancel_transition(
                transition_id=transition.pk, actor=self.fleet.alice, at=timezone.now()
            )
        if point.after_s is not None:
            sleep(point.after_s)
            self.worker.kill()
        self.drive(transition)
        spared = [f"no worker died at {order}" for order in self.orders.standing()]
        return spared + wrong_after(transition, self.simulated, wanted=point.wanted)

    def drive(self, transition: Transition, *, until: State | None = None) -> None:
        """Start a worker whenever there is none, until it has ended or PATIENCE_S is over."""
        deadline = monotonic() + PATIENCE_S * (1 + len(self.orders.standing()))
        while transition.state not in TERMINAL and transition.state != until:
            if monotonic() > deadline:
                return
            self.keep_worker_alive()
            sleep(0.05)
            transition.refresh_from_db()

    def keep_worker_alive(self) -> None:
        process = self.worker.process
        if process is None or process.poll() is not None:
            self.worker.start()
            self.started += 1


@contextmanager
def deadly_stage(
    folder: Path, simulated: SimulatorProcess, fleet: Fleet, **env: str
) -> Iterator[DeadlyStage]:
    """Its worker is a real one: Celery's own processes, with beat for the sweeps."""
    orders = Orders(folder / "orders")
    orders.folder.mkdir()
    worker = Service(
        *("celery", "-A", "webapp", "--quiet", "worker", "--concurrency=1"),
        *("--beat", f"--schedule={folder / 'beat-schedule'}", "--queues=default"),
        log=folder / "worker.log",
        env={
            "DJANGO_SETTINGS_MODULE": "tests.support.lethal_settings",
            "SIMULATOR_URL": simulated.url,
            "SIMULATOR_TOKEN": TOKEN,
            "TRANSITION_LEASE_S": str(LEASE_S),
            FOLDER_VARIABLE: str(orders.folder),
            **env,
        },
    )
    try:
        yield DeadlyStage(fleet, simulated, worker, orders)
    finally:
        worker.kill()
