"""Driving a transition: observe, decide, do, until there is nothing to do for a while.

Each turn commits the intent of a command before it is sent and its outcome after. Killed between
any two lines, the next worker observes, decides the same and asks again with the same key.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.models import F, Max
from django.utils import timezone

from desktops import events
from desktops.clouds.registry import get_cloud
from desktops.core.cloud import Cloud, CloudError, CloudUnavailable, VolumeCopy
from migration.core.gateway import Gateway, GatewayError
from migration.core.machine import (
    TERMINAL,
    Command,
    Decision,
    Do,
    Move,
    Place,
    State,
    Strategy,
    Wait,
    decide,
)
from migration.errors import LeaseLost, MigrationError, PassFailed
from migration.gateways.registry import get_gateway
from migration.models import Step, Transition
from migration.services import entering
from migration.services.commanding import Order, Result, perform
from migration.services.leases import Clock, Lease, take_lease
from migration.services.observing import Observation, command_key, failed_passes, observe

log = logging.getLogger(__name__)

# Between two looks at something that is under way, and how long to go on looking before the
# worker is given to another transition and a sweep rings again.
POLL = timedelta(milliseconds=250)
PATIENCE = timedelta(seconds=3)
# The next look when nothing is expected soon; an approval or a cancellation rings at once.
IDLE = timedelta(minutes=1)
LONGEST_BACKOFF = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing to do before `until`; `is_short` when something under way is being watched."""

    until: datetime
    is_short: bool


def drive_transition(
    transition_id: int,
    *,
    owner: str,
    clock: Clock = timezone.now,
    sleep: Callable[[float], None] = time.sleep,
    clouds: Callable[[str], Cloud] = get_cloud,
    gateways: Callable[[str], Gateway] = get_gateway,
) -> None:
    """Take the lease and bring the transition as far as it goes now. Safe to call at any time
    and from anywhere: without the lease, or after the end, it does nothing."""
    lease = take_lease(transition_id, owner=owner, clock=clock)
    if lease is None:
        return
    waiting_since: datetime | None = None
    try:
        while True:
            pause = take_turn(lease, clouds=clouds, gateways=gateways)
            if pause is None:
                waiting_since = None
                continue
            now = clock()
            waiting_since = waiting_since or now
            if not pause.is_short or now - waiting_since > PATIENCE:
                lease.release(due_at=pause.until)
                return
            sleep(POLL.total_seconds())
    except LeaseLost as lost:
        log.warning("%s", lost)


def take_turn(
    lease: Lease,
    *,
    clouds: Callable[[str], Cloud],
    gateways: Callable[[str], Gateway],
) -> Pause | None:
    """One observation and one decision carried out. None: go on at once."""
    transition = _load(lease.transition_id)
    now = lease.clock()
    if transition.state in TERMINAL:
        return Pause(until=now + IDLE, is_short=False)
    try:
        cloud = clouds(transition.source_region.cloud)
        gateway = gateways(transition.pool.gateway)
        observation = observe(transition, cloud=cloud, gateway=gateway, now=now)
    except (CloudError, GatewayError, ImproperlyConfigured) as error:
        log.warning("transition %s: not observed: %s", transition.key, error)
        _note_waiting(lease, transition, f"the cloud can be observed again ({error})")
        return Pause(until=now + _backoff(4), is_short=False)
    _note_dest(lease, transition, observation, now)
    decision = decide(State(transition.state), observation.seen)
    return _carry_out(decision, lease, transition, observation, cloud=cloud, gateway=gateway)


def _load(transition_id: int) -> Transition:
    return (
        Transition.objects.select_related(
            "pool",
            "desktop__flavor",
            "shadow",
            "flavor",
            "recommendation",
            "source_region",
            "dest_region",
        )
        .prefetch_related("steps")
        .get(pk=transition_id)
    )


def _carry_out(
    decision: Decision,
    lease: Lease,
    transition: Transition,
    observation: Observation,
    *,
    cloud: Cloud,
    gateway: Gateway,
) -> Pause | None:
    match decision:
        case Move():
            _move(lease, transition, decision, observation)
            return None
        case Wait(for_what=for_what, until=until):
            _note_waiting(lease, transition, for_what)
            if until is None and transition.state != State.NEEDS_OPERATOR:
                return Pause(until=lease.clock() + timedelta(seconds=1), is_short=True)
            soon = lease.clock() + IDLE
            return Pause(until=min(until, soon) if until else soon, is_short=False)
        case Do(command=command):
            order = Order(
                command=command,
                transition=transition,
                key=command_key(transition, command),
                dest_server_id=observation.dest_server_id,
                cloud=cloud,
                gateway=gateway,
                token=lease.next_fencing_token(),
                now=lease.clock(),
            )
            return _do(lease, order, observation)


def _move(lease: Lease, transition: Transition, move: Move, observation: Observation) -> None:
    now = lease.clock()
    changes: dict[str, Any] = {
        "state": move.to,
        "state_entered_at": now,
        "waiting_for": "",
        "failed_attempts": 0,
        "trouble": "",
        "trouble_is_final": False,
    }
    if move.is_failure:
        changes["failure"] = move.reason[:500]
    if move.to is State.NEEDS_OPERATOR:
        changes["interrupted_state"] = transition.state
    if move.to in TERMINAL:
        changes["finished_at"] = now
    changes |= entering.changes_on_entering(move.to, transition, now=now)
    with lease.writing(**changes) as row:
        entering.close_steps(row, move, left=State(transition.state), now=now)
        entering.settle(row, now=now)
        events.record(
            kind="transition.moved",
            subject=row,
            at=now,
            pool_id=row.pool_id,
            desktop=row.desktop.key,
            from_state=transition.state,
            to_state=move.to.value,
            reason=move.reason,
        )
    log.info("transition %s: %s → %s %s", row.key, transition.state, move.to, move.reason)


def _note_waiting(lease: Lease, transition: Transition, for_what: str) -> None:
    if transition.waiting_for == for_what[:300]:
        lease.write()
        return
    with lease.writing(waiting_for=for_what[:300]) as row:
        events.record(
            kind="transition.waiting",
            subject=row,
            at=lease.clock(),
            pool_id=row.pool_id,
            desktop=row.desktop.key,
            state=row.state,
            waiting_for=row.waiting_for,
        )


def _note_dest(
    lease: Lease, transition: Transition, observation: Observation, now: datetime
) -> None:
    """What must outlast the observation: which server it is, and that somebody has been there."""
    changes: dict[str, Any] = {}
    if observation.dest_server_id != transition.dest_server_id:
        changes["dest_server_id"] = observation.dest_server_id
    seen = observation.seen
    can_tell = seen.session is not None or seen.strategy is Strategy.HYPERVISOR
    if transition.dest_used_at is None and can_tell and seen.was_dest_used:
        changes |= {"dest_used_at": now, "reconnected_at": now}
    if changes:
        lease.write(**changes)


def _do(lease: Lease, order: Order, observation: Observation) -> Pause | None:
    step, is_repeat = _intend(lease, order, observation)
    if order.transition.shadow_id is None:
        order.transition.refresh_from_db(fields=("shadow",))  # its first pass has opened one
    try:
        result = perform(order)
    except (CloudError, GatewayError, MigrationError) as error:
        return _record_failure(lease, order, step, error)
    _record_result(lease, order, step, result)
    if is_repeat or not result.is_finished:
        # Under way, or done and not yet to be seen: look again a little later.
        return Pause(until=lease.clock() + timedelta(seconds=1), is_short=True)
    return None


def _intend(lease: Lease, order: Order, observation: Observation) -> tuple[Step, bool]:
    """Commit the intent; False beside the step when this is the first time."""
    now = lease.clock()
    changes: dict[str, Any] = {}
    session = observation.seen.session
    takes_over = order.command in (Command.HOLD_SESSION, Command.CUT_OVER)
    if takes_over and session and order.transition.had_session is None:
        changes["had_session"] = session.connected_on is Place.SOURCE
    with lease.writing(**changes) as row:
        step = row.steps.filter(key=order.key).first()
        if step is not None:
            return step, True
        number = (row.steps.aggregate(last=Max("number"))["last"] or 0) + 1
        step = Step.objects.create(
            transition=row,
            number=number,
            state=row.state,
            command=order.command,
            key=order.key,
            intended_at=now,
        )
        if order.command is Command.SYNC_VOLUME:
            entering.open_shadow(row, now=now)
        _report(row, step, now)
    return step, False


def _record_result(lease: Lease, order: Order, step: Step, result: Result) -> None:
    now = lease.clock()
    step_changes = _progress(result.copy)
    if result.is_finished:
        step_changes |= {"outcome": Step.Outcome.DONE, "finished_at": now, "detail": ""}
    elif step.outcome != Step.Outcome.PENDING:
        step_changes |= {"outcome": Step.Outcome.PENDING, "detail": ""}
    is_news = any(getattr(step, name) != value for name, value in step_changes.items())
    had_trouble = order.transition.failed_attempts > 0
    changes: dict[str, Any] = dict(result.changes)
    if had_trouble:
        changes |= {"failed_attempts": 0, "trouble": ""}
    with lease.writing(**changes) as row:
        if not is_news or (step.outcome == Step.Outcome.DONE and not had_trouble):
            return
        Step.objects.filter(pk=step.pk).update(**step_changes)
        if result.copy and result.is_finished:
            entering.fill_shadow(row, step=step, copy=result.copy, now=now)
        step.refresh_from_db()
        _report(row, step, now)


def _progress(copy: VolumeCopy | None) -> dict[str, Any]:
    return {"bytes_done": copy.bytes_done, "bytes_total": copy.bytes_total} if copy else {}


def _record_failure(lease: Lease, order: Order, step: Step, error: Exception) -> Pause:
    now = lease.clock()
    is_retryable = bool(getattr(error, "is_retryable", False))
    is_over = isinstance(error, PassFailed) or not is_retryable
    outcome = Step.Outcome.FAILED if is_over else Step.Outcome.RETRY
    detail = str(error)[:500]
    attempts = order.transition.failed_attempts + 1
    if isinstance(error, PassFailed):
        # That another pass is under way is no success yet: it counts what failed before, too.
        attempts = failed_passes(order.transition, order.command) + 1
    log.warning("transition %s: %s: %s", order.transition.key, order.command, detail)
    with lease.writing(
        failed_attempts=attempts, trouble=detail, trouble_is_final=not is_retryable
    ) as row:
        Step.objects.filter(pk=step.pk).update(
            outcome=outcome,
            detail=detail,
            attempts=F("attempts") + 1,
            finished_at=now if is_over else None,
        )
        step.refresh_from_db()
        _report(row, step, now)
    if not is_retryable:
        return Pause(until=now, is_short=True)
    if isinstance(error, CloudUnavailable) or attempts > 2:
        return Pause(until=now + _backoff(attempts), is_short=False)
    return Pause(until=now + timedelta(seconds=1), is_short=True)


def _backoff(attempts: int) -> timedelta:
    return min(timedelta(seconds=0.5 * 2 ** min(attempts, 10)), LONGEST_BACKOFF)


def _report(row: Transition, step: Step, now: datetime) -> None:
    events.record(
        kind="transition.step",
        subject=row,
        at=now,
        pool_id=row.pool_id,
        desktop=row.desktop.key,
        state=row.state,
        number=step.number,
        command=step.command,
        outcome=step.outcome,
        bytes_done=step.bytes_done,
        bytes_total=step.bytes_total,
        detail=step.detail,
    )
