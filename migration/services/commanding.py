"""What each command of the machine does: one call to the cloud or gateway, by key.

A handler makes its call and returns what to remember on the transition. It may run again with
the same key after a crash at any point; what it asks for then already exists, and is adopted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from desktops.core.cloud import Cloud, CloudFault, JobState, NotFound, ServerSpec, VolumeCopy
from migration.core.gateway import Gateway, Target
from migration.core.machine import Command
from migration.errors import PassFailed
from migration.models import Pass, Step, Transition
from migration.services import passes


@dataclass(frozen=True, slots=True)
class Order:
    """One command with everything it needs.

    token : fences the gateway against stale workers and requests that come late
    """

    command: Command
    transition: Transition
    key: str
    dest_server_id: str
    cloud: Cloud
    gateway: Gateway
    token: int
    now: datetime

    @property
    def source_region(self) -> str:
        return self.transition.source_region.name

    @property
    def dest_region(self) -> str:
        return self.transition.dest_region.name


@dataclass(frozen=True, slots=True)
class Result:
    """is_finished : False while a long job goes on; ask again
    changes : fields of the transition to set together with the outcome
    copy : how far a pass has come
    """

    is_finished: bool = True
    changes: Mapping[str, Any] = field(default_factory=dict)
    copy: VolumeCopy | None = None


def perform(order: Order) -> Result:
    """Do what is ordered. Raises CloudError or MigrationError; the caller records both."""
    return _HANDLERS[order.command](order) or Result()


def _pass(order: Order) -> VolumeCopy:
    """Start, drive on or observe one pass of the volume into the destination region."""
    if passes.is_relayed(order.cloud):
        copy = passes.as_copy(_relayed(order))
    else:
        volume = _ordered(order, order.key, Pass.Kind.VOLUME)
        copy = passes.copied(volume, cloud=order.cloud, now=order.now)
    if copy.state is JobState.FAILED:
        _abandon_pass(order, order.key)
        raise PassFailed(copy.detail or "the pass failed")
    return copy


def _relayed(order: Order, *, kind: Pass.Kind = Pass.Kind.VOLUME) -> Pass:
    return passes.advance(_ordered(order, order.key, kind), now=order.now)


def _ordered(order: Order, key: str, kind: Pass.Kind) -> passes.Ordered:
    transition = order.transition
    shadow = transition.shadow
    return passes.Ordered(
        key=key,
        source_region=transition.source_region,
        source_volume_id=transition.source_volume_id,
        dest_region=transition.dest_region,
        base_volume_id=shadow.volume_id if shadow else "",
        kind=kind,
        is_final=order.command is not Command.SYNC_VOLUME,
        shadow=shadow,
        transition=transition,
    )


def _abandon_pass(order: Order, key: str) -> None:
    volume = _ordered(order, key, Pass.Kind.VOLUME)
    passes.abandon(volume, cloud=order.cloud, now=order.now)


def _sync_volume(order: Order) -> Result:
    own = passes.own_pass_under_way(order.transition.shadow)
    if own is not None:
        # Two at once would write into each other; whoever keeps shadows sees this one through.
        return Result(is_finished=False, copy=passes.as_copy(own))
    copy = _pass(order)
    if copy.state is not JobState.DONE:
        return Result(is_finished=False, copy=copy)
    transition = order.transition
    held = transition.shadow.volume_id if transition.shadow else ""
    if held not in ("", copy.volume_id):
        # A cloud without incremental passes has made a new volume in place of this one.
        _delete_volume(order.cloud, order.dest_region, held)
    return Result(changes={"sync_passes": transition.sync_passes + 1}, copy=copy)


def _copy_final(order: Order) -> Result:
    own = passes.own_pass_under_way(order.transition.shadow)
    if own is not None:
        return Result(is_finished=False, copy=passes.as_copy(own))
    copy = _pass(order)
    if copy.state is not JobState.DONE:
        return Result(is_finished=False, copy=copy)
    return Result(changes={"dest_volume_id": copy.volume_id or ""}, copy=copy)


def _hold_session(order: Order) -> Result:
    transition = order.transition
    left = order.gateway.hold(transition.desktop.key, token=order.token).connected_on
    if left is not None and left.server_id == transition.source_server_id:
        return Result(changes={"had_session": True})
    return Result()


def _hold_session_again(order: Order) -> None:
    order.gateway.hold(order.transition.desktop.key, token=order.token)


def _point_session(order: Order) -> None:
    _point(order, order.dest_region, order.dest_server_id)


def _point_session_back(order: Order) -> None:
    _point(order, order.source_region, order.transition.source_server_id)


def _point(order: Order, region: str, server_id: str) -> None:
    order.gateway.point(order.transition.desktop.key, Target(region, server_id), token=order.token)


def _stop_source(order: Order) -> None:
    order.cloud.stop_server(order.source_region, order.transition.source_server_id)


def _start_source(order: Order) -> None:
    order.cloud.start_server(order.source_region, order.transition.source_server_id)


def _fence_source(order: Order) -> None:
    order.cloud.fence_server(order.source_region, order.transition.source_server_id)


def _unfence_source(order: Order) -> None:
    order.cloud.unfence_server(order.source_region, order.transition.source_server_id)


def _create_dest(order: Order) -> Result:
    """The destination is made fenced: a request that arrives late can open nothing."""
    desktop = order.transition.desktop
    flavor = order.transition.flavor or desktop.flavor
    assert flavor is not None
    server = order.cloud.create_server(
        order.dest_region,
        ServerSpec(
            name=desktop.key,
            flavor=flavor.name,
            boot_volume_id=order.transition.dest_volume_id,
            is_fenced=True,
            metadata={"foredesk:desktop": desktop.key},
        ),
        key=order.key,
    )
    return Result(changes={"dest_server_id": server.id})


def _unfence_dest(order: Order) -> None:
    order.cloud.unfence_server(order.dest_region, order.dest_server_id)


def _fence_dest(order: Order) -> None:
    # What is gone is closed: it may vanish between being seen and being fenced.
    with suppress(NotFound):
        order.cloud.fence_server(order.dest_region, order.dest_server_id)


def _delete_dest(order: Order) -> None:
    order.cloud.delete_server(order.dest_region, order.dest_server_id)


def _delete_source_server(order: Order) -> None:
    order.cloud.delete_server(order.source_region, order.transition.source_server_id)


def _delete_source_volume(order: Order) -> None:
    _delete_volume(order.cloud, order.source_region, order.transition.source_volume_id)


def _delete_old_shadow(order: Order) -> None:
    assert order.transition.shadow is not None
    _delete_volume(order.cloud, order.dest_region, order.transition.shadow.volume_id)


def _delete_volume(cloud: Cloud, region: str, volume_id: str) -> None:
    with suppress(NotFound):
        cloud.delete_volume(region, volume_id)


def _live_migrate(order: Order) -> Result:
    job = order.cloud.live_migrate(
        order.source_region, order.transition.source_server_id, key=order.key
    )
    if job.state is JobState.FAILED:
        # Its key stands for this one attempt: asking again would only be told the same.
        raise CloudFault(job.detail or "the live migration failed")
    return Result(is_finished=job.state is JobState.DONE)


def _cut_over(order: Order) -> Result:
    """The relay freezes the machine, carries what is left, and has it go on over there."""
    cutover = _relayed(order, kind=Pass.Kind.MACHINE)
    copy = passes.as_copy(cutover)
    if copy.state is JobState.FAILED:
        raise PassFailed(copy.detail or "the machine was not carried")
    if copy.state is not JobState.DONE:
        return Result(is_finished=False, copy=copy)
    assert cutover.finished_at is not None
    stall = timedelta(milliseconds=cutover.stall_ms or 0)
    return Result(
        changes={
            "dest_server_id": cutover.dest_server_id,
            "dest_volume_id": cutover.dest_volume_id,
            "machine_stall_ms": cutover.stall_ms,
            "frozen_at": cutover.finished_at - stall,
        },
        copy=copy,
    )


def _abandon_cut_over(order: Order) -> None:
    """Refused, to be asked again, until no relay is at it: then it has gone on over there, or it
    never will."""
    for step in order.transition.steps.filter(command=Command.CUT_OVER):
        passes.never_begin(_ordered(order, step.key, Pass.Kind.MACHINE), now=order.now)


def _abandon_copy(order: Order) -> None:
    """Remove every pass of this transition, and the shadow's volume when it made that itself.

    A shadow that was there before keeps its volume: it can still be brought up to date.
    """
    transition = order.transition
    shadow = transition.shadow
    was_there = shadow is not None and shadow.created_at < transition.created_at
    steps = transition.steps.filter(
        command__in=(Command.SYNC_VOLUME, Command.COPY_FINAL, Command.CUT_OVER)
    )
    if was_there:
        steps = steps.exclude(command=Command.SYNC_VOLUME, outcome=Step.Outcome.DONE)
    # Newest first: an older pass's volume may be the base that a newer one still writes into.
    for step in steps.order_by("-number"):
        _abandon_pass(order, step.key)
    filled = {shadow.volume_id} if shadow else set()
    made = {transition.dest_volume_id}
    for volume_id in (made - filled if was_there else made | filled) - {""}:
        _delete_volume(order.cloud, order.dest_region, volume_id)


_HANDLERS: Mapping[Command, Callable[[Order], Result | None]] = {
    Command.SYNC_VOLUME: _sync_volume,
    Command.HOLD_SESSION: _hold_session,
    Command.STOP_SOURCE: _stop_source,
    Command.FENCE_SOURCE: _fence_source,
    Command.COPY_FINAL: _copy_final,
    Command.CREATE_DEST: _create_dest,
    Command.UNFENCE_DEST: _unfence_dest,
    Command.POINT_SESSION: _point_session,
    Command.DELETE_SOURCE_SERVER: _delete_source_server,
    Command.DELETE_SOURCE_VOLUME: _delete_source_volume,
    Command.DELETE_OLD_SHADOW: _delete_old_shadow,
    Command.LIVE_MIGRATE: _live_migrate,
    Command.CUT_OVER: _cut_over,
    Command.ABANDON_CUT_OVER: _abandon_cut_over,
    Command.ABANDON_COPY: _abandon_copy,
    Command.FENCE_DEST: _fence_dest,
    Command.DELETE_DEST: _delete_dest,
    Command.UNFENCE_SOURCE: _unfence_source,
    Command.START_SOURCE: _start_source,
    Command.HOLD_SESSION_AGAIN: _hold_session_again,
    Command.POINT_SESSION_BACK: _point_session_back,
}
