"""`kill -9` of a real Celery worker in the middle of a move; another one is started.

Each run of the suite kills one at every step of one move. `make long` kills at each point by
itself: before and after each command, of a move, of a way back and of a cancellation, and at
random instants.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migration.core.machine import State
from tests.support.fleet import make_fleet
from tests.support.kill_points import (
    LEASE_S,
    MOVE,
    WAY_BACK,
    DeadlyStage,
    KillPoint,
    all_points,
    deadly_stage,
)
from tests.support.simulator import SimulatorProcess

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]


@pytest.fixture
def on_stage(simulated: SimulatorProcess, tmp_path: Path, settings: Any) -> Iterator[DeadlyStage]:
    settings.TRANSITION_LEASE_S = LEASE_S
    with deadly_stage(tmp_path, simulated, make_fleet(simulated)) as made:
        yield made


def test_a_move_whose_worker_is_killed_in_every_state_ends_done(on_stage: DeadlyStage) -> None:
    orders = tuple(f"{state.value} after {commands[-1]}" for state, commands in MOVE.items())
    wrong = on_stage.play(KillPoint("in every state", State.DONE, orders))
    assert not wrong, "; ".join(wrong)
    assert on_stage.started == len(orders) + 1


def test_a_way_back_whose_worker_is_killed_leads_back(on_stage: DeadlyStage) -> None:
    orders = tuple(
        f"{State.ROLLING_BACK.value} before {command}"
        for command in WAY_BACK[State.ROLLING_BACK]
        if command.startswith(("delete_server", "start_server"))
    )
    wrong = on_stage.play(KillPoint("on the way back", State.ROLLED_BACK, orders))
    assert not wrong, "; ".join(wrong)


@pytest.mark.long
@pytest.mark.parametrize("point", all_points(), ids=str)
def test_a_worker_killed_anywhere_is_followed_by_one_that_finishes(
    on_stage: DeadlyStage, point: KillPoint
) -> None:
    wrong = on_stage.play(point)
    assert not wrong, "; ".join(wrong)
