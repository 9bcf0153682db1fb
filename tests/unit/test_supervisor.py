from __future__ import annotations

import pytest

from webapp.child import Child
from webapp.supervisor import LONGEST_DELAY_S, STEADY_S, Supervisor, describe_status


class MortalChild(Child):
    """A child without a process: it dies when told."""

    def __init__(self, name: str = "worker") -> None:
        super().__init__(name, ["true"])
        self.starts = 0
        self.is_alive = False

    def start(self) -> None:
        self.starts += 1
        self.is_alive = True

    def is_running(self) -> bool:
        return self.is_alive

    def reap(self) -> int:
        return -9


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(time: Time, said: list[str]) -> Supervisor:
    return Supervisor(said.append, clock=time, sleep=lambda seconds: None)


def die_and_return(supervisor: Supervisor, child: MortalChild, time: Time) -> float:
    """Seconds between a death and the next start."""
    child.is_alive = False
    died_at, starts = time.now, child.starts
    supervisor.look()
    while child.starts == starts:
        time.now += 0.5
        supervisor.look()
    return time.now - died_at


def test_a_dead_child_is_started_again_and_said_so(
    supervisor: Supervisor, said: list[str], time: Time
) -> None:
    child = MortalChild()
    supervisor.start(child)
    die_and_return(supervisor, child, time)
    assert child.starts == 2
    assert said == ["worker was ended by SIGKILL; starting it again in 1 s"]


def test_a_child_that_keeps_dying_waits_longer_each_time(
    supervisor: Supervisor, time: Time
) -> None:
    child = MortalChild()
    supervisor.start(child)
    delays = [die_and_return(supervisor, child, time) for _ in range(8)]
    assert delays == [1, 2, 4, 8, 16, LONGEST_DELAY_S, LONGEST_DELAY_S, LONGEST_DELAY_S]


def test_a_steady_child_is_forgiven(supervisor: Supervisor, time: Time) -> None:
    child = MortalChild()
    supervisor.start(child)
    for _ in range(3):
        die_and_return(supervisor, child, time)
    time.now += STEADY_S
    assert die_and_return(supervisor, child, time) == 1


def test_other_children_are_left_alone(supervisor: Supervisor, time: Time) -> None:
    steady, mortal = MortalChild("web"), MortalChild()
    supervisor.start(steady, mortal)
    die_and_return(supervisor, mortal, time)
    assert steady.starts == 1


def test_exit_status_is_told_in_words() -> None:
    assert describe_status(-15) == "was ended by SIGTERM"
    assert describe_status(3) == "ended with exit status 3"
