"""What entering a state means for the rows around a transition: its desktop and its shadow."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from desktops.core.cloud import VolumeCopy
from desktops.models import Desktop
from migration.core.machine import TERMINAL, Move, State, Strategy
from migration.models import Pass, Shadow, Step, Transition


def changes_on_entering(state: State, transition: Transition, *, now: datetime) -> dict[str, Any]:
    """Fields of the transition itself that entering `state` sets."""
    if state is State.FREEZING:
        # What was to be carried while it ran, and was switched off meanwhile, is carried like this.
        return {"frozen_at": now, "strategy": Strategy.STOP}
    if state is State.COMMITTING:
        window = timedelta(seconds=transition.pool.commit_window_s)
        reconnected_at = transition.reconnected_at or now
        return {"commit_until": now + window, "reconnected_at": reconnected_at}
    return {}


def settle(transition: Transition, *, now: datetime) -> None:
    """Other rows that change with the transition's new state, in its transaction."""
    match State(transition.state):
        case State.COMMITTING:
            _hand_over(transition, now=now)
        case State.DONE:
            if transition.keeps_source_as_shadow and transition.strategy != Strategy.LIVE:
                _keep_source(transition, now=now)
            if transition.strategy == Strategy.LIVE:
                Desktop.objects.filter(pk=transition.desktop_id).update(moved_at=now)
        case State.CANCELLED | State.FAILED | State.ROLLED_BACK:
            _drop_shadow(transition)


def close_steps(transition: Transition, move: Move, *, left: State, now: datetime) -> None:
    """Commands whose answer was lost: going on means that their effect was seen.

    While it goes back they stay open, since they may still take effect.
    """
    if move.to in (State.CANCELLING, State.ROLLING_BACK, State.NEEDS_OPERATOR):
        return
    unanswered = transition.steps.filter(outcome__in=(Step.Outcome.PENDING, Step.Outcome.RETRY))
    if move.to in TERMINAL and move.to is not State.DONE:
        without_effect = unanswered if move.is_failure else unanswered.exclude(state=left)
        without_effect.update(
            outcome=Step.Outcome.FAILED, finished_at=now, detail="given up, and taken back"
        )
    unanswered.update(outcome=Step.Outcome.DONE, finished_at=now, detail="")


def open_shadow(transition: Transition, *, now: datetime) -> None:
    """The shadow that this transition fills: the one that is there already, or a new one."""
    if transition.shadow_id is not None:
        return
    tier = (
        transition.recommendation.shadow_tier if transition.recommendation else ""
    ) or Shadow.Tier.WARM
    # Locked: somebody may be letting it go at this moment.
    shadow, _ = Shadow.objects.select_for_update().get_or_create(
        desktop=transition.desktop,
        region=transition.dest_region,
        state__in=(Shadow.State.FILLING, Shadow.State.READY),
        defaults={"tier": tier, "state": Shadow.State.FILLING, "created_at": now},
    )
    Transition.objects.filter(pk=transition.pk).update(shadow=shadow)


def fill_shadow(transition: Transition, *, step: Step, copy: VolumeCopy, now: datetime) -> None:
    """A pass is complete: the shadow holds the state the volume had when the pass began."""
    shadow = transition.shadow
    if shadow is None or not copy.volume_id or step.state != State.SYNCING:
        return
    # The first pass brings everything: that says nothing of how much changes.
    made = Pass.objects.filter(key=step.key).first()
    shadow.lag_bytes = made.changed_bytes if made and shadow.recovery_point_at else None
    shadow.state = Shadow.State.READY
    shadow.volume_id = copy.volume_id
    shadow.recovery_point_at = (made and made.taken_at) or step.intended_at
    shadow.sent_bytes += copy.bytes_done
    shadow.save(
        update_fields=["state", "volume_id", "recovery_point_at", "lag_bytes", "sent_bytes"]
    )


def _hand_over(transition: Transition, *, now: datetime) -> None:
    """From here on the destination is the desktop."""
    Desktop.objects.filter(pk=transition.desktop_id).update(
        region=transition.dest_region,
        server_id=transition.dest_server_id,
        volume_id=transition.dest_volume_id,
        flavor=transition.flavor or transition.desktop.flavor,
        state=Desktop.State.RUNNING,
        moved_at=now,
    )
    Shadow.objects.filter(pk=transition.shadow_id).update(state=Shadow.State.PROMOTED)


def _keep_source(transition: Transition, *, now: datetime) -> None:
    """Demoted: from now on the desktop's changes over there are brought back to it."""
    advice = transition.recommendation
    interval_s = advice.sync_interval_s if advice else None
    Shadow.objects.update_or_create(
        desktop=transition.desktop,
        region=transition.source_region,
        state__in=(Shadow.State.FILLING, Shadow.State.READY),
        defaults={
            "tier": Shadow.Tier.WARM,
            "state": Shadow.State.READY,
            "volume_id": transition.source_volume_id,
            "recovery_point_at": transition.frozen_at,
            "sync_interval_s": interval_s,
        },
        create_defaults={
            "tier": Shadow.Tier.WARM,
            "state": Shadow.State.READY,
            "volume_id": transition.source_volume_id,
            "recovery_point_at": transition.frozen_at,
            "sync_interval_s": interval_s,
            "created_at": now,
        },
    )


def _drop_shadow(transition: Transition) -> None:
    """A shadow that this transition made went with it; an older one stays as it is."""
    shadow = transition.shadow
    if shadow is not None and shadow.created_at >= transition.created_at:
        Shadow.objects.filter(pk=shadow.pk).update(state=Shadow.State.RELEASED)
