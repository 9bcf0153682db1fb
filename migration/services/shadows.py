"""What people ask of a shadow: keep it in step, stop that for a while, try it, let it go.

Each is a fact in the shadow's row, on which `keeping_shadows` acts. A shadow that a move is using
belongs to that move until it has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from celery import current_app
from django.contrib.auth.models import AbstractUser
from django.db import IntegrityError, transaction

from desktops import events
from desktops.errors import NotPermitted
from desktops.selectors import pools_for
from migration.core.machine import TERMINAL
from migration.errors import NotPossible
from migration.models import Shadow, ShadowTest, Transition
from migration.selectors import LIVE_SHADOW
from migration.services.decisions import OPERATE

KEEP = "migration.tasks.keep_shadows"
SHORTEST_INTERVAL_S, LONGEST_INTERVAL_S = 60, 7 * 86_400


def pause_shadow(*, shadow_id: int, actor: AbstractUser, at: datetime) -> Shadow:
    """No pass begins until it is resumed; one that is under way ends as it would.

    Raises NotPermitted, NotPossible.
    """
    with _changing(shadow_id, actor, at, "paused") as shadow:
        if shadow.paused_at is not None:
            raise NotPossible(f"{_name(shadow)} is paused already.")
        shadow.paused_at = at
    return shadow


def resume_shadow(*, shadow_id: int, actor: AbstractUser, at: datetime) -> Shadow:
    """Raises NotPermitted, NotPossible."""
    with _changing(shadow_id, actor, at, "resumed") as shadow:
        if shadow.paused_at is None:
            raise NotPossible(f"{_name(shadow)} is not paused.")
        shadow.paused_at = None
    return shadow


def sync_shadow(*, shadow_id: int, actor: AbstractUser, at: datetime) -> Shadow:
    """A pass as soon as may be, also while it is paused. Raises NotPermitted, NotPossible."""
    with _changing(shadow_id, actor, at, "sync_asked") as shadow:
        _check_free(shadow, "its move brings it up to date")
        shadow.sync_asked_at = at
    return shadow


def schedule_shadow(
    *, shadow_id: int, actor: AbstractUser, at: datetime, interval_s: int | None
) -> Shadow:
    """Keep it in step every so often; None: no more than its moves ask for.

    Raises NotPermitted, NotPossible.
    """
    if interval_s is not None and not SHORTEST_INTERVAL_S <= interval_s <= LONGEST_INTERVAL_S:
        raise NotPossible(
            f"The interval must be from {SHORTEST_INTERVAL_S} s to {LONGEST_INTERVAL_S} s,"
            f" not {interval_s} s."
        )
    with _changing(shadow_id, actor, at, "scheduled", interval_s=interval_s) as shadow:
        shadow.sync_interval_s = interval_s
    return shadow


def release_shadow(*, shadow_id: int, actor: AbstractUser, at: datetime) -> Shadow:
    """Have its volume deleted. Raises NotPermitted, NotPossible."""
    with _changing(shadow_id, actor, at, "release_asked") as shadow:
        _check_free(shadow, "cancel the move or let it end first")
        shadow.state = Shadow.State.RELEASING
    return shadow


def ask_for_test(*, shadow_id: int, actor: AbstractUser, at: datetime) -> ShadowTest:
    """Boot a copy of it where nobody can reach it, and remove that again.

    Raises NotPermitted, NotPossible.
    """
    try:
        with _changing(shadow_id, actor, at, "test_asked") as shadow:
            _check_free(shadow, "its move will show")
            if shadow.state != Shadow.State.READY:
                raise NotPossible(f"{_name(shadow)} holds no state yet that could be booted.")
            test = ShadowTest.objects.create(
                shadow=shadow, asked_by=actor.get_username(), asked_at=at
            )
    except IntegrityError:
        raise NotPossible("It is being tested already.") from None
    return test


@contextmanager
def _changing(
    shadow_id: int, actor: AbstractUser, at: datetime, what: str, **payload: object
) -> Iterator[Shadow]:
    """The row, locked against a move that would take it, and saved at the end."""
    if not actor.has_perm(OPERATE):
        raise NotPermitted("Your role does not allow this.")
    mine = Shadow.objects.filter(desktop__pool__in=pools_for(actor))
    with transaction.atomic():
        shadow = (
            mine.select_for_update(of=("self",))
            .select_related("desktop", "region")
            .filter(pk=shadow_id)
            .first()
        )
        if shadow is None:
            raise NotPermitted("No such shadow in your pools.")
        if shadow.state not in LIVE_SHADOW:
            raise NotPossible(
                f"{_name(shadow)} is {shadow.get_state_display().lower()}; nothing was changed."
            )
        yield shadow
        shadow.save()
        report(shadow, what, at=at, actor=actor.get_username(), **payload)
        transaction.on_commit(lambda: current_app.send_task(KEEP), robust=True)


def report(shadow: Shadow, what: str, *, at: datetime, actor: str = "", **payload: object) -> None:
    """The event of a change, in its transaction."""
    events.record(
        kind=f"shadow.{what}",
        subject=shadow,
        at=at,
        pool_id=shadow.desktop.pool_id,
        actor=actor,
        desktop=shadow.desktop.key,
        region=shadow.region.name,
        state=shadow.state,
        **payload,
    )


def _check_free(shadow: Shadow, otherwise: str) -> None:
    using = Transition.objects.filter(desktop=shadow.desktop).exclude(state__in=TERMINAL)
    if using.exists():
        raise NotPossible(f"{shadow.desktop.label} is being moved: {otherwise}.")


def _name(shadow: Shadow) -> str:
    return f"The shadow of {shadow.desktop.label} in {shadow.region.label}"
