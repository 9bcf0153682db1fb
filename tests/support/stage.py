"""A fleet on a simulated cloud, on which one move after another is played."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.utils import timezone

from migration.models import Transition
from migration.services.decisions import approve_recommendation, cancel_transition
from tests.support.fleet import Fleet
from tests.support.killing import Workers
from tests.support.simulator import SimulatorProcess

GB = 10**9


@dataclass
class Stage:
    fleet: Fleet
    simulated: SimulatorProcess
    moves: int = 0

    def begin(self, *, confirm_now: bool = True, **recommendation: Any) -> Transition:
        """A new desktop with its user at work, whose move is approved."""
        self.moves += 1
        desktop = self.fleet.desktop(
            self.simulated,
            f"ana-{self.moves}",
            is_user_present=True,
            volume_bytes=10 * GB,
            used_bytes=9 * GB,
        )
        return approve_recommendation(
            recommendation_id=self.fleet.recommendation(desktop, **recommendation).pk,
            actor=self.fleet.alice,
            at=timezone.now(),
            confirm_now=confirm_now,
        )

    def cancel(self, transition: Transition) -> None:
        cancel_transition(transition_id=transition.pk, actor=self.fleet.alice, at=timezone.now())

    def workers(self) -> Workers:
        return Workers(self.simulated.cloud(), self.simulated.gateway())
