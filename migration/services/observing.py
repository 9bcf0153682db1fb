"""From a transition's row, its cloud and its gateway to what the machine may know."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings

from desktops.core.cloud import Cloud, NotFound, Server, ServerStatus
from migration.core.gateway import Gateway, Session, Target
from migration.core.machine import (
    CUTOVER,
    Command,
    Failure,
    Health,
    Place,
    Seen,
    ServerSeen,
    SessionSeen,
    State,
    Strategy,
)
from migration.models import Shadow, Step, Transition
from migration.services.passes import has_gone_on, is_relayed

PASSES = (Command.SYNC_VOLUME, Command.COPY_FINAL, Command.CUT_OVER)


@dataclass(frozen=True, slots=True)
class Observation:
    """`seen` is what the machine may know; the rest is what its commands need."""

    seen: Seen
    dest_server_id: str


def observe(
    transition: Transition, *, cloud: Cloud, gateway: Gateway, now: datetime
) -> Observation:
    """Look at everything the next decision depends on. Raises CloudError; changes nothing."""
    steps = {step.key: step for step in transition.steps.all()}
    done = {step.command for step in steps.values() if step.outcome == Step.Outcome.DONE}
    source = _look(cloud, transition.source_region.name, transition.source_server_id)
    dest = _look_for_dest(transition, steps, cloud=cloud)
    dest_id = dest.id if dest else transition.dest_server_id
    session = gateway.session(transition.desktop.key) if gateway.sees_sessions else None
    seen = Seen(
        now=now,
        strategy=Strategy(transition.strategy),
        entered_at=transition.state_entered_at,
        expires_at=transition.expires_at,
        source=_server_seen(source, transition),
        dest=_server_seen(dest, transition),
        session=_session_seen(session, transition, dest_id) if session else None,
        had_session=transition.had_session,
        was_dest_used=_was_dest_used(transition, session, dest, dest_id, steps),
        is_approved=transition.approved_at is not None,
        is_confirmed=transition.confirmed_at is not None,
        is_cancel_requested=transition.cancel_requested_at is not None,
        has_turn=_has_turn(transition),
        can_copy_while_attached=is_relayed(cloud) or cloud.capabilities().copy_while_attached,
        dest_shortage=_dest_shortage(transition, cloud),
        is_synced=transition.sync_passes > 0,
        is_sync_due=_is_sync_due(transition, now),
        has_final_copy=Command.COPY_FINAL in done,
        is_migrated_live=Command.LIVE_MIGRATE in done,
        is_cut_over=Command.CUT_OVER in done,
        has_cutover_to_abandon=Command.ABANDON_CUT_OVER not in done
        and any(step.command == Command.CUT_OVER for step in steps.values()),
        commit_until=transition.commit_until,
        keeps_source_as_shadow=transition.keeps_source_as_shadow,
        has_source_volume=bool(transition.source_volume_id)
        and Command.DELETE_SOURCE_VOLUME not in done,
        leftover_shadow=_has_leftover_shadow(transition) and Command.DELETE_OLD_SHADOW not in done,
        has_copies_to_abandon=Command.ABANDON_COPY not in done
        and any(step.command in PASSES for step in steps.values()),
        is_session_taken=Command.HOLD_SESSION_AGAIN in done,
        is_session_back=Command.POINT_SESSION_BACK in done,
        is_settled=_is_settled(transition, steps, now),
        failure=_failure(transition),
        has_failed=bool(transition.failure),
    )
    return Observation(seen=seen, dest_server_id=dest_id)


def command_key(transition: Transition, command: Command) -> str:
    """The key a command carries. A pass that failed is followed by another with a key of its own;
    everything else happens once."""
    key = _first_key(transition, command)
    failed = failed_passes(transition, command) if command in PASSES else 0
    return f"{key}:{failed + 1}" if failed else key


def failed_passes(transition: Transition, command: Command) -> int:
    """How many passes have failed of what `command` is to bring about now."""
    key = _first_key(transition, command)
    return sum(
        step.outcome == Step.Outcome.FAILED
        for step in transition.steps.all()
        if step.key == key or step.key.startswith(f"{key}:")
    )


def _first_key(transition: Transition, command: Command) -> str:
    key = f"{transition.key}:{command}"
    return f"{key}:{transition.sync_passes + 1}" if command is Command.SYNC_VOLUME else key


def _look(cloud: Cloud, region: str, server_id: str) -> Server | None:
    try:
        return cloud.server(region, server_id)
    except NotFound:
        return None


def _look_for_dest(
    transition: Transition, steps: dict[str, Step], *, cloud: Cloud
) -> Server | None:
    """The destination server, by its id once known, else by the key it may have been made with."""
    region = transition.dest_region.name
    is_carried = transition.strategy == Strategy.HYPERVISOR
    # Each attempt to carry it makes a server of its own; the newest one counts.
    is_being_carried = is_carried and transition.machine_stall_ms is None
    if transition.dest_server_id and not is_being_carried:
        return _look(cloud, region, transition.dest_server_id)
    making = Command.CUT_OVER if is_carried else Command.CREATE_DEST
    key = command_key(transition, making)
    return cloud.find_server(region, key=key) if key in steps else None


def _server_seen(server: Server | None, transition: Transition) -> ServerSeen:
    if server is None:
        return ServerSeen(Health.ABSENT, is_fenced=True)
    is_carried = transition.strategy == Strategy.HYPERVISOR
    return ServerSeen(_health(server, is_carried), is_fenced=server.is_fenced)


def _health(server: Server, is_carried: bool) -> Health:
    if server.status is ServerStatus.ERROR:
        return Health.ERROR
    if is_carried and server.status is ServerStatus.SUSPENDED and not server.is_busy:
        return Health.STOPPED  # frozen by the cutover, with all it has at hand
    if server.is_running:
        return Health.RUNNING
    if server.is_stopped:
        return Health.STOPPED
    return Health.BUSY


def _session_seen(session: Session, transition: Transition, dest_id: str) -> SessionSeen:
    def place(target: Target | None) -> Place:
        if target is None:
            return Place.NOWHERE
        if target.server_id == dest_id:
            return Place.DEST
        is_source = target.server_id == transition.source_server_id
        return Place.SOURCE if is_source else Place.NOWHERE

    return SessionSeen(
        points_to=place(session.points_to),
        is_held=session.is_held,
        connected_on=place(session.connected_on),
    )


def _was_dest_used(
    transition: Transition,
    session: Session | None,
    dest: Server | None,
    dest_id: str,
    steps: dict[str, Step],
) -> bool:
    """Without a gateway nobody can tell, so a destination that may have been open counts as used.

    With one it counts who has been there, not only who is there now: somebody may have come and
    gone while nobody looked. A machine that was carried while it ran works by itself.
    """
    if transition.strategy == Strategy.HYPERVISOR:
        if dest is not None and dest.status in (ServerStatus.ACTIVE, ServerStatus.UNKNOWN):
            return True
        # It may have gone on there, and been lost since, before anybody looked.
        return transition.dest_used_at is not None or has_gone_on(transition)
    if session is None:
        return command_key(transition, Command.UNFENCE_DEST) in steps
    been_on = {seen.server_id for seen in (session.connected_on, session.last_connected_on) if seen}
    return transition.dest_used_at is not None or dest_id in been_on


def _is_settled(transition: Transition, steps: dict[str, Step], now: datetime) -> bool:
    """Whether requests that may be on their way have had as long as a lease to arrive."""
    lease = timedelta(seconds=settings.TRANSITION_LEASE_S)
    return all(
        now - (step.finished_at or transition.state_entered_at) >= lease
        for step in steps.values()
        if step.attempts > 1 or (step.outcome == Step.Outcome.PENDING and step.bytes_done is None)
    )


def _has_turn(transition: Transition) -> bool:
    """Two that look at the same moment may both go: the limit spares links, it guards nothing."""
    if transition.state != State.READY:
        return True
    pool = transition.pool
    under_way = pool.transitions.filter(state__in=sorted(CUTOVER)).count()
    return under_way < pool.max_concurrent_moves


def _dest_shortage(transition: Transition, cloud: Cloud) -> str:
    """Why the destination could not be started over there, or ""; asked once, before preparing."""
    if transition.state != State.PREPARING:
        return ""
    flavor, region = transition.flavor, transition.dest_region.name
    inventory = cloud.inventory(region)
    if flavor and flavor.name not in {offered.name for offered in inventory.flavors}:
        return f"{region} has no flavor {flavor.name}"
    quota = inventory.quota
    if quota.servers is not None and quota.servers_used >= quota.servers:
        return f"the quota of servers in {region} is used up ({quota.servers})"
    if flavor and quota.vcpus is not None and quota.vcpus_used + flavor.vcpus > quota.vcpus:
        return f"the quota of vCPUs in {region} leaves no room for {flavor.name}"
    return ""


def _is_sync_due(transition: Transition, now: datetime) -> bool:
    recommendation, shadow = transition.recommendation, transition.shadow
    if not (recommendation and recommendation.sync_interval_s and shadow):
        return False
    if shadow.recovery_point_at is None or shadow.state != Shadow.State.READY:
        return False
    if transition.state == State.SYNCING and shadow.recovery_point_at > transition.state_entered_at:
        # One pass for each time it falls due, however long that takes: the cutover must not wait
        # for a pass that is never short enough.
        return False
    interval = timedelta(seconds=recommendation.sync_interval_s)
    return now - shadow.recovery_point_at > interval


def _has_leftover_shadow(transition: Transition) -> bool:
    shadow = transition.shadow
    return bool(
        shadow
        and shadow.volume_id
        and transition.dest_volume_id
        and shadow.volume_id != transition.dest_volume_id
    )


def _failure(transition: Transition) -> Failure | None:
    if not transition.failed_attempts:
        return None
    return Failure(
        message=transition.trouble,
        is_retryable=not transition.trouble_is_final,
        attempts=transition.failed_attempts,
    )
