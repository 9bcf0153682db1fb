"""A worker is killed at every point of a transition there is, and the next one takes over.

In each run of the suite, moves lose a worker before, or after, each of their commands. `make long`
kills at one point at a time, before every write as well, and at many at random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from desktops.clouds.simulator.admin import VolumeContent
from migration.core.machine import State
from tests.support.fleet import make_fleet
from tests.support.killing import Fate, Point
from tests.support.outcomes import wrong_after
from tests.support.simulator import SimulatorProcess
from tests.support.stage import Stage

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass(frozen=True)
class Play:
    """One course of events.

    cancelled_at : where somebody cancels it
    """

    wanted: State
    recommendation: Mapping[str, Any] = field(default_factory=dict)
    has_boot_error: bool = False
    cancelled_at: Point | None = None

    def run(
        self, stage: Stage, kills: Callable[[Point], bool] = lambda point: False
    ) -> tuple[Fate, list[str]]:
        """What workers came by, and what was wrong in the end."""
        if self.has_boot_error:
            stage.simulated.admin.inject_fault("boot_error", region="west")
        transition = stage.begin(**self.recommendation)
        left: list[VolumeContent] = []

        def look_at_source() -> None:
            left.append(stage.simulated.admin.content("east", transition.source_volume_id))

        on: dict[Point, Callable[[], object]] = {Point("before delete_volume east"): look_at_source}
        if self.cancelled_at:
            on[self.cancelled_at] = lambda: stage.cancel(transition)
        fate = Fate(kills, on)
        stage.workers().drive(transition, fate)
        wrong = wrong_after(
            transition, stage.simulated, wanted=self.wanted, left_behind=left[0] if left else None
        )
        return fate, wrong


PLAYS = {
    "a move": Play(State.DONE),
    "a move that keeps the source": Play(State.DONE, {"keeps_source_as_shadow": True}),
    "a way back": Play(State.ROLLED_BACK, has_boot_error=True),
    "a cancellation while it is prepared": Play(
        State.CANCELLED, cancelled_at=Point("after copy_volume sync_volume")
    ),
    "a cancellation with the destination open": Play(
        State.ROLLED_BACK, cancelled_at=Point("after unfence_server west")
    ),
}


@pytest.fixture
def stage(simulated: SimulatorProcess) -> Stage:
    return Stage(make_fleet(simulated), simulated)


@pytest.mark.parametrize("name", PLAYS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_is_killed_at_every_command_and_the_last_one_finishes(
    stage: Stage, when: str, name: str
) -> None:
    kinds = {"before"} if when == "before" else {"after", "complete"}
    fate, wrong = PLAYS[name].run(
        stage, lambda point: point.what.split()[0] in kinds and point.nth <= 2
    )
    assert fate.struck
    assert not wrong, f"killed at {', '.join(map(str, fate.struck))}: {'; '.join(wrong)}"


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", PLAYS)
def test_a_worker_killed_at_any_one_point_is_followed_by_one_that_finishes(
    stage: Stage, name: str
) -> None:
    play = PLAYS[name]
    fate, wrong = play.run(stage)
    assert not wrong, f"without a kill: {'; '.join(wrong)}"
    failures = []
    for point in points_of(fate):
        _, wrong = play.run(stage, point.__eq__)
        if wrong:
            failures.append(f"killed at {point}: {'; '.join(wrong)}")
    assert not failures, "\n".join(failures)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", PLAYS)
def test_workers_killed_again_and_again_are_followed_by_one_that_finishes(
    stage: Stage, name: str
) -> None:
    play = PLAYS[name]
    points = points_of(play.run(stage)[0])
    chance = random.Random(name)
    failures = []
    for _ in range(20):
        kills = chance.sample(points, k=chance.randint(2, 8))
        fate, wrong = play.run(stage, kills.__contains__)
        if wrong:
            failures.append(f"killed at {', '.join(map(str, fate.struck))}: {'; '.join(wrong)}")
    assert not failures, "\n".join(failures)


def points_of(fate: Fate) -> list[Point]:
    return [Point(what, nth) for what, times in fate.passed.items() for nth in range(1, times + 1)]
