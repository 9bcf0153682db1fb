"""What plans and moves keep of a person.

Moves themselves are the desktop's: they stay, without the sentences that say where somebody was
or was expected.
"""

from __future__ import annotations

from collections.abc import Iterator

from desktops.keeping import Keeper, Section
from desktops.models import Desktop, DesktopUser
from migration.core.machine import TERMINAL
from migration.models import Decision, Recommendation, Transition


def _sections(person: DesktopUser, desktop: Desktop | None) -> Iterator[Section]:
    """Of the desktop while it is theirs."""
    yield Section(
        "recommendations",
        "What was advised for their desktop and why; money in millionths of the currency.",
        Recommendation.objects.filter(desktop=desktop)
        .order_by("pk")
        .values(
            "plan__as_of",
            "action",
            "state",
            "source_region__name",
            "dest_region__name",
            "currency",
            "stay_cost_micros",
            "action_cost_micros",
            "gain_micros",
            "items",
            "confidence",
            "reason",
            "confirm_terms",
            "cutover_from",
            "cutover_until",
            "expires_at",
            "decision__verdict",
            "decision__decided_at",
            "decision__note",
        ),
    )
    yield Section(
        "transitions",
        "Moves of their desktop, with what confirmed each.",
        Transition.objects.filter(desktop=desktop)
        .order_by("pk")
        .values(
            "key",
            "strategy",
            "state",
            "source_region__name",
            "dest_region__name",
            "confirmed_at",
            "confirmation",
            "had_session",
            "frozen_at",
            "reconnected_at",
            "created_at",
            "finished_at",
        ),
    )


def _obstacle(desktop: Desktop | None) -> str:
    moving = Transition.objects.exclude(state__in=sorted(TERMINAL)).filter(desktop=desktop).first()
    if desktop is None or moving is None:
        return ""
    return (
        f"Their desktop is being moved ({moving.get_state_display().lower()}): cancel the move or"
        " let it end first."
    )


def _forget(person: DesktopUser, desktop: Desktop | None) -> None:
    if desktop is None:
        return
    advice = Recommendation.objects.filter(desktop=desktop)
    if desktop.state == Desktop.State.RECORDED:
        Transition.objects.filter(desktop=desktop).delete()
    advice.filter(transition=None).delete()
    kept = list(advice)
    for row in kept:
        row.items = [item | {"note": ""} for item in row.items]
        row.reason, row.confirm_terms = "", None
    Recommendation.objects.bulk_update(kept, ("items", "reason", "confirm_terms"))
    Decision.objects.filter(recommendation__in=kept).update(note="")
    Transition.objects.filter(desktop=desktop).update(confirmation="")


def _forget_advice(person: DesktopUser, desktop: Desktop | None) -> None:
    """What was advised from a prediction; a move that began already ends as it would."""
    if desktop is not None:
        Recommendation.objects.filter(desktop=desktop, transition=None).delete()


KEEPER = Keeper(
    sections=_sections,
    obstacle=_obstacle,
    erase=_forget,
    forget_prediction=_forget_advice,
    forget_places=_forget_advice,
)
