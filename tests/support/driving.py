"""Driving a transition in tests as sweeps and workers would."""

from __future__ import annotations

from time import monotonic

from django.utils import timezone

from migration.core.machine import TERMINAL, State
from migration.models import Transition
from migration.services.driving import drive_transition


def drive_to(
    transition: Transition, *states: State, timeout_s: float = 20, **drivers: object
) -> Transition:
    """Drive, as sweeps would, until one of `states` (or the end) is reached."""
    wanted = set(states) | TERMINAL
    deadline = monotonic() + timeout_s
    while True:
        drive_transition(transition.pk, owner="test", **drivers)  # type: ignore[arg-type]
        transition.refresh_from_db()
        if transition.state in wanted:
            return transition
        if monotonic() > deadline:
            raise AssertionError(
                f"still {transition.state}, waiting for {transition.waiting_for!r};"
                f" trouble: {transition.trouble!r}"
            )
        Transition.objects.filter(pk=transition.pk).update(due_at=timezone.now())
