"""What people decide: yes or no to a recommendation, move now, stop, go on.

Each decision is one conditional UPDATE that counts its rows: of two people who decide at the
same time one is told that it was decided already.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from celery import current_app
from django.contrib.auth.models import AbstractUser
from django.db import transaction
from django.db.models import F, Max

from desktops import events
from desktops.errors import NotPermitted
from desktops.models import Desktop, Pool
from desktops.selectors import pools_for
from migration.core.machine import (
    BEFORE_CUTOVER,
    CUTOVER,
    TERMINAL,
    State,
    Strategy,
    can_go_back,
)
from migration.errors import NotDecidable, NotPossible
from migration.models import Decision, Plan, Recommendation, Shadow, Transition

APPROVE = "migration.approve_transition"
OPERATE = "migration.operate_transition"
DOORBELL = "migration.tasks.drive_transition"


def approve_recommendation(
    *,
    recommendation_id: int,
    actor: AbstractUser,
    at: datetime,
    note: str = "",
    confirm_now: bool = False,
) -> Transition:
    """Say yes: the desktop is prepared from now on, and cut over once that is confirmed.

    confirm_now : the approver confirms by themselves; the cutover starts as soon as it is ready
    Raises NotPermitted, NotDecidable, NotPossible.
    """
    recommendation = _recommendation(recommendation_id, actor)
    confirmation = f"{actor.get_username()} confirmed with the approval" if confirm_now else ""
    with transaction.atomic():
        _decide(recommendation, Decision.Verdict.APPROVED, actor=actor, at=at, note=note)
        return start_transition(
            recommendation, at=at, actor=actor.get_username(), confirmation=confirmation
        )


def approve_by_policy(recommendation: Recommendation, *, at: datetime) -> Transition:
    """The pool itself says yes, as its automatic mode allows. Raises NotDecidable, NotPossible."""
    pool = recommendation.pool
    note = f"{pool} moves automatically from {pool.confidence_threshold:.0%} confidence"
    with transaction.atomic():
        _decide(recommendation, Decision.Verdict.APPROVED, actor=None, at=at, note=note)
        return start_transition(recommendation, at=at, actor="")


def reject_recommendation(
    *, recommendation_id: int, actor: AbstractUser, at: datetime, note: str = ""
) -> Recommendation:
    """Say no: nothing is done. Raises NotPermitted, NotDecidable."""
    recommendation = _recommendation(recommendation_id, actor)
    with transaction.atomic():
        _decide(recommendation, Decision.Verdict.REJECTED, actor=actor, at=at, note=note)
        _report_decision(recommendation, actor.get_username(), at)
    return recommendation


def confirm_transition(
    *, transition_id: int, actor: AbstractUser, at: datetime, note: str = ""
) -> Transition:
    """Move now: a person confirms what was predicted. Raises NotPermitted, NotPossible."""
    row = _transition(transition_id, actor, APPROVE)
    reason = f"{actor.get_username()} confirmed" + (f": {note}" if note else "")
    return _request(
        row,
        actor=actor.get_username(),
        at=at,
        kind="transition.confirmed",
        states=BEFORE_CUTOVER,
        impossible="it is past waiting for a confirmation",
        confirmed_at=at,
        confirmation=reason[:300],
    )


def cancel_transition(*, transition_id: int, actor: AbstractUser, at: datetime) -> Transition:
    """Ask for it to stop and go back. Raises NotPermitted, NotPossible."""
    row = _transition(transition_id, actor, OPERATE)
    if row.dest_used_at is not None:
        raise NotPossible("Too late: somebody has worked at the destination, so it goes on there.")
    return _request(
        row,
        actor=actor.get_username(),
        at=at,
        kind="transition.cancel_requested",
        states=BEFORE_CUTOVER | (CUTOVER if can_go_back(Strategy(row.strategy)) else frozenset()),
        impossible="the desktop already runs at its destination, or it has ended",
        cancel_requested_at=at,
    )


def resume_transition(*, transition_id: int, actor: AbstractUser, at: datetime) -> Transition:
    """Go on after an operator has seen to what was wrong. Raises NotPermitted, NotPossible."""
    row = _transition(transition_id, actor, OPERATE)
    return _request(
        row,
        actor=actor.get_username(),
        at=at,
        kind="transition.resumed",
        states=frozenset({State.NEEDS_OPERATOR}),
        impossible="it is not waiting for an operator",
        state=F("interrupted_state"),
        state_entered_at=at,
        failed_attempts=0,
        trouble="",
        trouble_is_final=False,
        lease_token=F("lease_token") + 1,
        lease_until=None,
    )


def start_transition(
    recommendation: Recommendation, *, at: datetime, actor: str, confirmation: str = ""
) -> Transition:
    """The order to move a desktop as recommended; approval is what makes it one.

    Raises NotPossible when the desktop is moving already or is not where the plan saw it.
    """
    desktop = Desktop.objects.select_for_update().get(pk=recommendation.desktop_id)
    if desktop.region_id != recommendation.source_region_id or not desktop.server_id:
        raise NotPossible(f"{desktop} is no longer where the plan saw it; wait for a new plan.")
    if Transition.objects.filter(desktop=desktop).exclude(state__in=TERMINAL).exists():
        raise NotPossible(f"{desktop} is already being moved.")
    row = Transition.objects.create(
        key=f"t-{secrets.token_hex(8)}",
        recommendation=recommendation,
        pool_id=recommendation.pool_id,
        desktop=desktop,
        strategy=recommendation.strategy or Strategy.STOP,
        source_region_id=recommendation.source_region_id,
        dest_region_id=recommendation.dest_region_id,
        flavor_id=recommendation.flavor_id or desktop.flavor_id,
        # Locked: from here on nobody lets it go.
        shadow=Shadow.objects.select_for_update()
        .filter(
            desktop=desktop,
            region_id=recommendation.dest_region_id,
            state=Shadow.State.READY,
        )
        .first(),
        keeps_source_as_shadow=recommendation.keeps_source_as_shadow,
        source_server_id=desktop.server_id,
        source_volume_id=desktop.volume_id,
        approved_at=at,
        confirmed_at=at if confirmation else None,
        confirmation=confirmation,
        # The plan counts in its data set's time, the move happens in ours.
        expires_at=at + (recommendation.expires_at - recommendation.plan.dataset.clock(wall=at)),
        state_entered_at=at,
        created_at=at,
        due_at=at,
        # Gateways refuse a token older than any they saw for this desktop, in any transition.
        lease_token=desktop.transitions.aggregate(newest=Max("lease_token"))["newest"] or 0,
    )
    _report_decision(recommendation, actor, at, transition_id=row.pk)
    _record(row, kind="transition.ordered", actor=actor, at=at)
    ring(row)
    return row


def ring(row: Transition) -> None:
    """Send for a worker once this is committed; without a broker, a sweep finds the row."""
    transaction.on_commit(lambda: current_app.send_task(DOORBELL, args=[row.pk]), robust=True)


def _recommendation(recommendation_id: int, actor: AbstractUser) -> Recommendation:
    if not actor.has_perm(APPROVE):
        raise NotPermitted("Only an approver may decide on recommendations.")
    try:
        return Recommendation.objects.select_related(
            "plan__dataset", "desktop", "pool", "dest_region"
        ).get(pk=recommendation_id, pool__in=pools_for(actor))
    except Recommendation.DoesNotExist:
        raise NotPermitted("No such recommendation in your pools.") from None


def _transition(transition_id: int, actor: AbstractUser, permission: str) -> Transition:
    if not actor.has_perm(permission):
        raise NotPermitted("Your role does not allow this.")
    try:
        return Transition.objects.get(pk=transition_id, pool__in=pools_for(actor))
    except Transition.DoesNotExist:
        raise NotPermitted("No such transition in your pools.") from None


def _decide(
    recommendation: Recommendation,
    verdict: Decision.Verdict,
    *,
    actor: AbstractUser | None,
    at: datetime,
    note: str,
) -> None:
    if verdict is Decision.Verdict.APPROVED:
        _require_policy(recommendation)
    # No join: Django would put the conditions into a subquery, which PostgreSQL does not look at
    # again after it has waited for somebody else who was deciding.
    decided = Recommendation.objects.filter(
        pk=recommendation.pk,
        state=Recommendation.State.AWAITING_APPROVAL,
        plan__in=Plan.objects.filter(superseded_at__isnull=True),
        expires_at__gt=recommendation.plan.dataset.clock(wall=at),
    ).update(state=Recommendation.State(verdict.value))
    if not decided:
        recommendation.refresh_from_db(fields=["state"])
        if recommendation.state == Recommendation.State.AWAITING_APPROVAL:
            raise NotDecidable("This recommendation has expired; wait for a new plan.")
        raise NotDecidable(
            f"This recommendation is {recommendation.get_state_display().lower()};"
            " nothing was changed."
        )
    recommendation.state = Recommendation.State(verdict.value)
    Decision.objects.create(
        recommendation=recommendation,
        verdict=verdict,
        decided_by=actor,
        decided_at=at,
        note=note[:500],
    )


def _require_policy(recommendation: Recommendation) -> None:
    """The pool's policy may have changed since the plan was made."""
    pool, dest = recommendation.pool, recommendation.dest_region
    if pool.cutover_mode == Pool.CutoverMode.OFF:
        raise NotDecidable(f"{pool} does not move desktops any more; nothing was changed.")
    residency = set(pool.residency.values_list("pk", flat=True))
    if residency and recommendation.dest_region_id not in residency:
        raise NotDecidable(f"{pool} may no longer be in {dest}; nothing was changed.")


def _request(
    row: Transition,
    *,
    actor: str,
    at: datetime,
    kind: str,
    states: frozenset[State],
    impossible: str,
    **changes: Any,
) -> Transition:
    with transaction.atomic():
        accepted = Transition.objects.filter(pk=row.pk, state__in=states).update(
            **{"due_at": at, **changes}
        )
        if not accepted:
            raise NotPossible(f"Not possible now: {impossible}.")
        row.refresh_from_db()
        _record(row, kind=kind, actor=actor, at=at)
        ring(row)
    return row


def _record(row: Transition, *, kind: str, actor: str, at: datetime) -> None:
    events.record(
        kind=kind,
        subject=row,
        at=at,
        pool_id=row.pool_id,
        actor=actor,
        desktop=row.desktop.key,
        state=row.state,
    )


def _report_decision(
    recommendation: Recommendation, actor: str, at: datetime, **payload: Any
) -> None:
    events.record(
        kind=f"recommendation.{recommendation.state}",
        subject=recommendation,
        at=at,
        pool_id=recommendation.pool_id,
        actor=actor,
        desktop=recommendation.desktop.key,
        **payload,
    )
