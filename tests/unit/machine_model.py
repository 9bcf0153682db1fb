"""A world around `decide`, small enough to walk through every state it can get into.

It has the transition's row, the worker that holds its lease, a source and a destination with their
volumes, a gateway with a person behind it, and requests *in the air*: sent, and neither carried
out nor lost yet. `happenings` are all the things that may come next in a world.

* A worker may die while it waits for an answer. Its request stays in the air, to be carried out at
  any later time, or never. The same stands for a worker that was only paused and sends late, and
  for the duplicates of two workers: the row takes nothing but the newest lease, so all that an
  older worker can still do is what is in the air.
* An answer may be lost or come too late: the worker records a failure and goes on, while the
  request is still in the air.
* What a worker records with a decision is one transaction that commutes with everything outside
  the row: to observe, to decide and to commit is one step here. A worker may however see the
  source first and everything else later (`Setting.looks_twice`).
* The gateway refuses a request that is older than one it has carried out.

Going back waits until requests without an answer have arrived or are lost; here that is known
(`is_settled`). Nothing else relies on requests being quick. Nothing breaks after the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple

from migration.core.machine import (
    BEFORE_CUTOVER,
    CUTOVER,
    TERMINAL,
    TIME_LIMITS,
    Command,
    Decision,
    Do,
    Failure,
    Health,
    Move,
    Place,
    Seen,
    ServerSeen,
    SessionSeen,
    State,
    Strategy,
    Wait,
    decide,
)

# Millions of worlds are hashed, and enum members hash slowly: the world holds plain values.
ABSENT, RUNNING, STOPPED, ERROR = "absent", "running", "stopped", "error"
BOOTING, STOPPING, STARTING, MIGRATING = "booting", "stopping", "starting", "migrating"
RECEIVING = "receiving"  # it waits for the state of a running machine
DELETING, REMOVING = "deleting", "removing"  # while it runs, while it does not
SOURCE, DEST, NOWHERE = "source", "dest", "nowhere"
NONE, UNDER_WAY, FAILED, READY = "none", "under way", "failed", "ready"  # of a copy
# Of a cutover, besides: the machine is frozen, and fenced too; its relay has let go of it.
FROZEN, FENCED, LET_GO = "frozen", "fenced", "let go"
CUTTING = (UNDER_WAY, FROZEN, FENCED)
ONCE, WORN_OUT, REFUSED = "once", "worn out", "refused"  # of a failure
FINISHED, GOING_ON = "finished", "going on"  # of an answer

STATES = {state.value: state for state in State}
ENDED = frozenset(state.value for state in TERMINAL)
CANCELLABLE = frozenset(state.value for state in BEFORE_CUTOVER | CUTOVER)
LIMITED = frozenset(state.value for state in TIME_LIMITS)

TO_GATEWAY = frozenset(
    command.value
    for command in (
        Command.HOLD_SESSION,
        Command.POINT_SESSION,
        Command.HOLD_SESSION_AGAIN,
        Command.POINT_SESSION_BACK,
    )
)
# With the destination's work in it, none of these may be asked for.
LOSES_WORK = frozenset(
    command.value
    for command in (
        Command.DELETE_DEST,
        Command.UNFENCE_SOURCE,
        Command.START_SOURCE,
        Command.ABANDON_COPY,
    )
)
RELEASES_SOURCE = frozenset(
    {Command.DELETE_SOURCE_SERVER.value, Command.DELETE_SOURCE_VOLUME.value}
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What stays the same.

    machine : what decides
    in_the_air : what the desktop's previous transition asked for and nobody has carried out yet
    """

    machine: Callable[[State, Seen], Decision] = decide
    strategy: Strategy = Strategy.STOP
    has_gateway: bool = True
    keeps_source: bool = False
    can_copy_while_attached: bool = True
    copies_incrementally: bool = True
    looks_twice: bool = False
    in_the_air: tuple[Command, ...] = ()


class Request(NamedTuple):
    """number : which destination, or which pass, it is about; each has an id or a key of its own"""

    command: str
    number: int


class World(NamedTuple):
    # The row.
    state: str = State.PLANNED.value
    interrupted: str = ""
    is_confirmed: bool = False
    is_cancel_requested: bool = False
    is_late: bool = False  # the state has lasted longer than it may
    is_expired: bool = False
    is_window_over: bool = False
    failure: str = NONE
    has_failed: bool = False
    had_session: bool | None = None
    was_dest_noted: bool = False
    passes: int = 0
    is_sync_due: bool = False
    has_final_copy: bool = False
    is_migrated: bool = False
    is_by_stop: bool = False  # what was to be carried while it ran had been switched off
    is_cut_over: bool = False
    is_cutover_intended: bool = False
    is_cutover_abandoned: bool = False
    is_create_intended: bool = False
    is_unfence_intended: bool = False
    are_copies_intended: bool = False
    are_copies_abandoned: bool = False
    is_volume_deleted: bool = False
    is_shadow_deleted: bool = False
    is_session_taken: bool = False
    is_session_back: bool = False
    # The worker: what it waits for an answer to, and what it has seen of the source.
    waits_for: str = ""
    glimpse: tuple[str, bool] | None = None
    # Oldest first; what the worker waits for is the last.
    air: tuple[Request, ...] = ()
    # The cloud and the gateway. The newest pass and the final copy; `dest_number` destinations
    # were made so far.
    source: str = RUNNING
    is_source_fenced: bool = False
    has_source_volume: bool = True
    dest: str = ABSENT
    is_dest_fenced: bool = True
    dest_number: int = 0
    sync: str = NONE
    sync_number: int = 0
    final: str = NONE
    migration: str = NONE
    cutover: str = NONE
    is_cutover_unwanted: bool = False
    points_to: str = SOURCE
    is_held: bool = False
    connected_on: str = NOWHERE
    last_on: str = NOWHERE
    # What trouble may still strike.
    crashes: int = 0
    lost_answers: int = 0
    faults: int = 0
    repairs: int = 0
    # What only the world knows.
    was_dest_used: bool = False
    is_copy_stale: bool = False
    was_verified: bool = False


class Violation(Exception):
    """Something happened that never may."""


class Kind(IntEnum):
    """In a world that is left alone the smallest kind comes first, and no limit and no trouble."""

    ANSWER = 0
    CLOUD = 1
    PERSON = 2
    TIME = 3
    TURN = 4
    LIMIT = 5
    TROUBLE = 6


Happening = tuple[Kind, str, World]


def happenings(world: World, setting: Setting) -> Iterator[Happening]:
    """Everything that may come next. Raises Violation where something forbidden may."""
    for kind, what, after in _happenings(world, setting):
        yield kind, what, _with_connection_in_line(after, setting)


def _happenings(world: World, setting: Setting) -> Iterator[Happening]:
    yield from _turn(world, setting)
    yield from _requests(world, setting)
    yield from _cloud(world)
    yield from _person(world, setting)
    yield from _time(world)
    yield from _trouble(world)
    if world.faults and world.state not in ENDED:
        yield from _faults(world, faults=world.faults - 1)


def accepts(power: str, is_fenced: bool) -> bool:
    """A server that is being stopped, moved or deleted accepts sessions until that is done."""
    return not is_fenced and power in (RUNNING, STOPPING, MIGRATING, DELETING)


def is_source_open(world: World) -> bool:
    return accepts(world.source, world.is_source_fenced)


def is_dest_open(world: World) -> bool:
    return accepts(world.dest, world.is_dest_fenced)


# The worker.


def _turn(world: World, setting: Setting) -> Iterator[Happening]:
    if world.waits_for or world.state in ENDED or world.state == State.NEEDS_OPERATOR.value:
        return
    source = world.source, world.is_source_fenced
    if setting.looks_twice and world.glimpse is None:
        yield Kind.TURN, "the worker sees the source", world._replace(glimpse=source)
        return
    source = world.glimpse or source
    world = world._replace(
        glimpse=None,
        was_dest_noted=world.was_dest_noted
        or (setting.has_gateway and world.last_on == DEST)
        or _goes_on(world, setting),
    )
    decision = decision_in(world, setting, source)
    match decision:
        case Do(command=command):
            yield Kind.TURN, f"asks for {command}", _intend(world, command.value, setting)
        case Move(to=to):
            yield Kind.TURN, f"moves to {to}", _move(world, decision, setting)
        case Wait(for_what=for_what) if setting.looks_twice:
            yield Kind.TURN, f"waits for {for_what}", world


def _intend(world: World, command: str, setting: Setting) -> World:
    if command in LOSES_WORK and world.was_dest_used:
        raise Violation(f"{command} is asked for after somebody worked on the destination")
    if command in RELEASES_SOURCE and world.dest in (ABSENT, ERROR):
        raise Violation(f"{command} is asked for without a destination")
    number = world.dest_number
    changes: dict[str, Any] = {}
    match command:
        case Command.SYNC_VOLUME:
            number = world.passes + 1
            changes = {"are_copies_intended": True}
        case Command.COPY_FINAL:
            changes = {"are_copies_intended": True}
        case Command.CREATE_DEST:
            changes = {"is_create_intended": True}
        case Command.CUT_OVER:
            changes = {"are_copies_intended": True, "is_cutover_intended": True}
            if world.had_session is None:
                changes["had_session"] = world.connected_on == SOURCE
        case Command.UNFENCE_DEST:
            changes = {"is_unfence_intended": True}
        case Command.HOLD_SESSION if world.had_session is None:
            changes = {"had_session": world.connected_on == SOURCE}
    return world._replace(waits_for=command, air=(*world.air, Request(command, number)), **changes)


def _move(world: World, move: Move, setting: Setting) -> World:
    changes: dict[str, Any] = {}
    if move.to is State.NEEDS_OPERATOR:
        changes["interrupted"] = world.state
    if move.to is State.FREEZING:
        changes["is_by_stop"] = setting.strategy is Strategy.HYPERVISOR
    if move.to is State.COMMITTING:
        is_user_content = (
            not setting.has_gateway or world.had_session is False or world.was_dest_used
        )
        if world.dest != RUNNING or world.is_dest_fenced or not is_user_content:
            raise Violation("the destination is committed unverified")
        changes["was_verified"] = True
    return world._replace(
        state=move.to.value,
        failure=NONE,
        is_late=False,
        has_failed=world.has_failed or move.is_failure,
        **changes,
    )


def decision_in(world: World, setting: Setting, source: tuple[str, bool]) -> Decision:
    """What the machine decides on what the worker sees."""
    is_looked_for = world.is_create_intended or world.is_cutover_intended
    dest = world.dest if is_looked_for else ABSENT
    is_carried = _is_carried(world, setting)
    told = world.was_dest_noted if setting.has_gateway or is_carried else world.is_unfence_intended
    told = told or (is_carried and world.cutover == READY)
    session = (world.points_to, world.is_held, world.connected_on)
    return _decide(
        world.state,
        setting,
        source,
        (dest, world.is_dest_fenced or dest == ABSENT),
        session if setting.has_gateway else None,
        told,
        not world.air,
        *world[1:_ROW_ENDS],
    )


def _is_carried(world: World, setting: Setting) -> bool:
    return setting.strategy is Strategy.HYPERVISOR and not world.is_by_stop


def _goes_on(world: World, setting: Setting) -> bool:
    """The machine itself works on the destination, be there a person or not."""
    return _is_carried(world, setting) and world.is_cutover_intended and world.dest == RUNNING


_ROW_ENDS = World._fields.index("waits_for")
_NOW = datetime(2026, 3, 2, tzinfo=UTC)
_PAST, _FUTURE, _LONG_AGO = (_NOW + timedelta(days=days) for days in (-1, 1, -30))
_PLACES = {SOURCE: Place.SOURCE, DEST: Place.DEST, NOWHERE: Place.NOWHERE}
_RESTING = {
    ABSENT: Health.ABSENT,
    RUNNING: Health.RUNNING,
    STOPPED: Health.STOPPED,
    ERROR: Health.ERROR,
}
_FAILURES = {
    NONE: None,
    ONCE: Failure("it did not work", is_retryable=True, attempts=1),
    WORN_OUT: Failure("it did not work", is_retryable=True, attempts=99),
    REFUSED: Failure("it may not be", is_retryable=False, attempts=1),
}


@cache
def _decide(
    state: str,
    setting: Setting,
    source: tuple[str, bool],
    dest: tuple[str, bool],
    session: tuple[str, bool, str] | None,
    was_dest_used: bool,
    is_settled: bool,
    *rest_of_row: Any,
) -> Decision:
    row = World(state, *rest_of_row)
    return setting.machine(
        STATES[state],
        Seen(
            now=_NOW,
            strategy=Strategy.STOP if row.is_by_stop else setting.strategy,
            entered_at=_LONG_AGO if row.is_late else _NOW,
            expires_at=_PAST if row.is_expired else _FUTURE,
            source=_server_seen(*source),
            dest=_server_seen(*dest),
            session=_session_seen(*session) if session else None,
            had_session=row.had_session,
            was_dest_used=was_dest_used,
            is_approved=True,
            is_confirmed=row.is_confirmed,
            is_cancel_requested=row.is_cancel_requested,
            can_copy_while_attached=setting.can_copy_while_attached,
            is_synced=row.passes > 0,
            is_sync_due=row.is_sync_due,
            has_final_copy=row.has_final_copy,
            is_migrated_live=row.is_migrated,
            is_cut_over=row.is_cut_over,
            has_cutover_to_abandon=row.is_cutover_intended and not row.is_cutover_abandoned,
            commit_until=_PAST if row.is_window_over else _FUTURE,
            keeps_source_as_shadow=setting.keeps_source,
            has_source_volume=not row.is_volume_deleted,
            leftover_shadow=row.has_final_copy
            and row.passes > 0
            and not setting.copies_incrementally
            and not row.is_shadow_deleted,
            has_copies_to_abandon=row.are_copies_intended and not row.are_copies_abandoned,
            is_session_taken=row.is_session_taken,
            is_session_back=row.is_session_back,
            is_settled=is_settled,
            failure=_FAILURES[row.failure],
            has_failed=row.has_failed,
        ),
    )


def _server_seen(power: str, is_fenced: bool) -> ServerSeen:
    return ServerSeen(_RESTING.get(power, Health.BUSY), is_fenced)


def _session_seen(points_to: str, is_held: bool, connected_on: str) -> SessionSeen:
    return SessionSeen(_PLACES[points_to], is_held, _PLACES[connected_on])


# Requests, carried out, answered or lost.


def _requests(world: World, setting: Setting) -> Iterator[Happening]:
    own = len(world.air) - 1 if world.waits_for else -1
    for index, request in enumerate(world.air):
        after, answer = carry_out(request, world, setting)
        after = after._replace(air=_air_after(world.air, index))
        if index == own:
            yield Kind.ANSWER, f"{request.command}: {answer}", _record(after, world, answer)
        else:
            yield Kind.ANSWER, f"{request.command} is carried out late: {answer}", after
            without = world.air[:index] + world.air[index + 1 :]
            yield Kind.TROUBLE, f"{request.command} is lost", world._replace(air=without)
    if world.waits_for and world.crashes:
        dead = world._replace(waits_for="", crashes=world.crashes - 1)
        yield Kind.TROUBLE, "the worker dies", dead
    if world.waits_for and world.lost_answers:
        unanswered = world._replace(waits_for="", lost_answers=world.lost_answers - 1, failure=ONCE)
        yield Kind.TROUBLE, "no answer comes", unanswered


def _air_after(air: tuple[Request, ...], index: int) -> tuple[Request, ...]:
    """Without this request, nor those the gateway refuses from now on as older than it."""
    is_to_gateway = air[index].command in TO_GATEWAY
    return tuple(
        request
        for i, request in enumerate(air)
        if i > index or (i < index and not (is_to_gateway and request.command in TO_GATEWAY))
    )


def _record(after: World, before: World, answer: str) -> World:
    command = before.waits_for
    after = after._replace(waits_for="")
    if answer == GOING_ON:
        return after._replace(failure=NONE)
    if answer != FINISHED:
        return after._replace(failure=answer)
    changes: dict[str, Any] = {}
    match command:
        case Command.SYNC_VOLUME:
            changes = {"passes": before.passes + 1, "is_sync_due": False}
        case Command.COPY_FINAL:
            changes = {"has_final_copy": True}
        case Command.LIVE_MIGRATE:
            changes = {"is_migrated": True}
        case Command.CUT_OVER:
            changes = {"is_cut_over": True}
        case Command.ABANDON_CUT_OVER:
            changes = {"is_cutover_abandoned": True}
        case Command.ABANDON_COPY:
            changes = {"are_copies_abandoned": True}
        case Command.DELETE_SOURCE_VOLUME:
            changes = {"is_volume_deleted": True}
        case Command.DELETE_OLD_SHADOW:
            changes = {"is_shadow_deleted": True}
        case Command.HOLD_SESSION_AGAIN:
            changes = {"is_session_taken": True}
        case Command.POINT_SESSION_BACK:
            changes = {"is_session_back": True}
        case Command.HOLD_SESSION if before.connected_on == SOURCE:
            changes = {"had_session": True}
    return after._replace(failure=NONE, **changes)


def carry_out(request: Request, world: World, setting: Setting) -> tuple[World, str]:
    """What a request does, whenever it arrives, and how it is answered."""
    change = world._replace
    match request.command:
        case Command.HOLD_SESSION | Command.HOLD_SESSION_AGAIN:
            return change(is_held=True), FINISHED
        case Command.POINT_SESSION:
            return change(is_held=False, points_to=DEST), FINISHED
        case Command.POINT_SESSION_BACK:
            return change(is_held=False, points_to=SOURCE), FINISHED
        case Command.STOP_SOURCE:
            return _power(world, wanted=(STOPPING, STOPPED), from_=RUNNING, to=STOPPING)
        case Command.START_SOURCE:
            return _power(world, wanted=(STARTING, RUNNING), from_=STOPPED, to=STARTING)
        case Command.FENCE_SOURCE | Command.UNFENCE_SOURCE:
            if world.source == ABSENT:
                return world, REFUSED
            is_fenced = request.command == Command.FENCE_SOURCE
            return change(is_source_fenced=is_fenced), FINISHED
        case Command.FENCE_DEST | Command.UNFENCE_DEST:
            is_fenced = request.command == Command.FENCE_DEST
            if world.dest == ABSENT or request.number != world.dest_number:
                return world, FINISHED if is_fenced else REFUSED  # what is gone is closed
            return change(is_dest_fenced=is_fenced), FINISHED
        case Command.CREATE_DEST:
            return _create_dest(world)
        case Command.DELETE_DEST:
            return _delete_dest(world, request)
        case Command.DELETE_SOURCE_SERVER:
            _need_committed(world)
            return change(source=_going(world.source)), FINISHED
        case Command.DELETE_SOURCE_VOLUME:
            _need_committed(world)
            if setting.keeps_source:
                raise Violation("a volume that was to be kept is deleted")
            gone = change(has_source_volume=False)
            return (gone, FINISHED) if world.source == ABSENT else (world, ONCE)
        case Command.LIVE_MIGRATE:
            return _live_migrate(world)
        case Command.CUT_OVER:
            return _cut_over(world)
        case Command.ABANDON_CUT_OVER:
            return _abandon_cut_over(world)
        case _:
            return _copy(request, world)


def _copy(request: Request, world: World) -> tuple[World, str]:
    change = world._replace
    match request.command:
        case Command.SYNC_VOLUME:
            return _sync(request, world)
        case Command.COPY_FINAL if world.final == NONE:
            return change(final=UNDER_WAY, is_copy_stale=is_source_open(world)), GOING_ON
        case Command.COPY_FINAL if world.final == FAILED:
            return change(final=NONE), ONCE
        case Command.COPY_FINAL:
            return world, FINISHED if world.final == READY else GOING_ON
        case Command.DELETE_OLD_SHADOW:
            return change(sync=NONE), FINISHED
        case Command.ABANDON_COPY:
            if world.dest != ABSENT:
                return world, ONCE
            if world.was_dest_used and world.final != NONE:
                raise Violation("the work done on the destination is deleted")
            return change(sync=NONE, sync_number=0, final=NONE), FINISHED
        case _:
            raise AssertionError(request.command)


def _power(world: World, *, wanted: tuple[str, str], from_: str, to: str) -> tuple[World, str]:
    if world.source in wanted:
        return world, FINISHED
    if world.source == from_:
        return world._replace(source=to), FINISHED
    return world, REFUSED if world.source == ABSENT else ONCE


def _create_dest(world: World) -> tuple[World, str]:
    """By key: what is there already is adopted."""
    if world.dest != ABSENT:
        return world, FINISHED
    if world.final != READY:
        return world, REFUSED
    made = world._replace(dest=BOOTING, is_dest_fenced=True, dest_number=world.dest_number + 1)
    return made, FINISHED


def _delete_dest(world: World, request: Request) -> tuple[World, str]:
    if world.dest == ABSENT or request.number != world.dest_number:
        return world, FINISHED
    if world.was_dest_used:
        raise Violation("the destination is deleted after somebody worked on it")
    return world._replace(dest=_going(world.dest)), FINISHED


def _going(power: str) -> str:
    if power in (ABSENT, DELETING, REMOVING):
        return power
    return DELETING if power in (RUNNING, STOPPING) else REMOVING


def _need_committed(world: World) -> None:
    if not (world.was_verified and world.is_window_over):
        raise Violation("the source is deleted before the destination is committed")


def _sync(request: Request, world: World) -> tuple[World, str]:
    if request.number > world.sync_number:
        if UNDER_WAY in (world.sync, world.final) or world.dest != ABSENT:
            return world, ONCE
        return world._replace(sync=UNDER_WAY, sync_number=request.number), GOING_ON
    if request.number < world.sync_number:
        return world, FINISHED
    if world.sync == FAILED:
        return world._replace(sync=NONE, sync_number=request.number - 1), ONCE
    return world, FINISHED if world.sync == READY else GOING_ON


def _live_migrate(world: World) -> tuple[World, str]:
    if world.migration == NONE:
        if world.source != RUNNING:
            return world, REFUSED if world.source == ABSENT else ONCE
        return world._replace(source=MIGRATING, migration=UNDER_WAY), GOING_ON
    return world, {UNDER_WAY: GOING_ON, READY: FINISHED, FAILED: REFUSED}[world.migration]


def _cut_over(world: World) -> tuple[World, str]:
    """The row orders it once for a key; a failed attempt is followed by one with another key."""
    if world.cutover == NONE:
        if world.dest != ABSENT:
            return world, ONCE
        begun = world._replace(
            cutover=UNDER_WAY,
            dest=RECEIVING,
            is_dest_fenced=False,
            dest_number=world.dest_number + 1,
        )
        return begun, GOING_ON
    if world.cutover == FAILED:
        return world._replace(cutover=NONE), ONCE
    if world.cutover == LET_GO:
        return world, ONCE
    return world, FINISHED if world.cutover == READY else GOING_ON


def _abandon_cut_over(world: World) -> tuple[World, str]:
    if world.cutover in CUTTING:
        return world._replace(is_cutover_unwanted=True), ONCE
    if world.cutover == READY:
        return world, FINISHED
    return world._replace(cutover=LET_GO), FINISHED


# What happens by itself.


def _cloud(world: World) -> Iterator[Happening]:
    change = world._replace
    match world.source:
        case "stopping":
            yield Kind.CLOUD, "the source stops", change(source=STOPPED)
        case "starting":
            yield Kind.CLOUD, "the source runs", change(source=RUNNING)
        case "migrating":
            yield Kind.CLOUD, "the server has moved", change(source=RUNNING, migration=READY)
        case "deleting" | "removing":
            yield Kind.CLOUD, "the source is gone", change(source=ABSENT)
    match world.dest:
        case "booting":
            yield Kind.CLOUD, "the destination runs", change(dest=RUNNING)
        case "deleting" | "removing":
            yield Kind.CLOUD, "the destination is gone", change(dest=ABSENT, is_dest_fenced=True)
    if world.cutover in CUTTING:
        yield from _relay(world)
    if world.sync == UNDER_WAY:
        yield Kind.CLOUD, "the pass is complete", change(sync=READY)
    if world.final == UNDER_WAY:
        yield Kind.CLOUD, "the final copy is complete", change(final=READY)


def _relay(world: World) -> Iterator[Happening]:
    """The steps of one cutover, each of which needs what the one before has left."""
    change = world._replace
    is_there = world.dest == RECEIVING and world.source not in (ABSENT, ERROR)
    if not is_there:
        yield Kind.CLOUD, "the relay goes back", _gone_back(world)
    elif world.cutover == UNDER_WAY and world.source == RUNNING:
        yield Kind.CLOUD, "the machine is frozen", change(cutover=FROZEN, source=STOPPED)
    elif world.cutover == UNDER_WAY:
        yield Kind.CLOUD, "the relay finds it switched off", _gone_back(world)
    elif world.cutover == FROZEN:
        yield Kind.CLOUD, "it is fenced", change(cutover=FENCED, is_source_fenced=True)
    elif world.source == STOPPED and world.is_source_fenced:
        goes_on = change(cutover=READY, dest=RUNNING, is_dest_fenced=False, was_dest_used=True)
        yield Kind.CLOUD, "the machine goes on over there", goes_on
    else:
        yield Kind.CLOUD, "the relay goes back", _gone_back(world)
    if world.is_cutover_unwanted:
        yield Kind.CLOUD, "the relay lets go, and goes back", _gone_back(world)
        yield Kind.TROUBLE, "the relay is gone, and all stays as it is", change(cutover=LET_GO)


def _gone_back(world: World) -> World:
    is_frozen = world.cutover in (FROZEN, FENCED) and world.source == STOPPED
    return world._replace(
        cutover=LET_GO if world.is_cutover_unwanted else FAILED,
        dest=ABSENT if world.dest == RECEIVING else world.dest,
        # Nothing was asked of that destination yet: the next one may have its number.
        dest_number=world.dest_number - 1,
        is_dest_fenced=world.dest == RECEIVING or world.is_dest_fenced,
        is_source_fenced=world.is_source_fenced and world.cutover == UNDER_WAY,
        source=RUNNING if is_frozen else world.source,
    )


def _person(world: World, setting: Setting) -> Iterator[Happening]:
    for place, is_open in ((SOURCE, is_source_open(world)), (DEST, is_dest_open(world))):
        is_led_there = not setting.has_gateway or (world.points_to == place and not world.is_held)
        if is_open and is_led_there and world.connected_on != place:
            yield Kind.PERSON, f"somebody works on the {place}", _connected(world, place)
    if world.connected_on != NOWHERE:
        yield Kind.TROUBLE, "nobody works any more", world._replace(connected_on=NOWHERE)


def _connected(world: World, place: str) -> World:
    if place == SOURCE and world.was_dest_used:
        raise Violation("somebody works on the source, which lacks the destination's work")
    if place == DEST and world.is_copy_stale:
        raise Violation("somebody works on the destination, which lacks the source's work")
    return world._replace(
        connected_on=place,
        last_on=place,
        was_dest_used=world.was_dest_used or place == DEST,
        is_copy_stale=world.is_copy_stale or (place == SOURCE and world.final != NONE),
    )


def _with_connection_in_line(world: World, setting: Setting) -> World:
    """A server that does not accept sessions loses them, and a gateway moves whom it holds."""
    place = world.connected_on
    if place == NOWHERE:
        return world
    is_open = is_source_open(world) if place == SOURCE else is_dest_open(world)
    is_led_away = setting.has_gateway and (world.is_held or world.points_to != place)
    return world if is_open and not is_led_away else world._replace(connected_on=NOWHERE)


def _time(world: World) -> Iterator[Happening]:
    if world.state == State.READY.value and not world.is_confirmed:
        yield Kind.TIME, "it is confirmed", world._replace(is_confirmed=True)
    if world.state == State.COMMITTING.value and not world.is_window_over:
        yield Kind.TIME, "the commit window is over", world._replace(is_window_over=True)
    if world.state in LIMITED and not world.is_late:
        yield Kind.LIMIT, f"{world.state} lasts too long", world._replace(is_late=True)
    if world.state == State.READY.value:
        if not world.is_expired:
            yield Kind.TROUBLE, "it expires", world._replace(is_expired=True)
        if world.passes == 1 and not world.is_sync_due:
            yield Kind.TROUBLE, "a sync falls due", world._replace(is_sync_due=True)
    if world.state in CANCELLABLE and not world.is_cancel_requested:
        asked = world._replace(is_cancel_requested=True)
        yield Kind.TROUBLE, "somebody cancels", asked


# What breaks, and what is repaired.


def _trouble(world: World) -> Iterator[Happening]:
    if world.state == State.NEEDS_OPERATOR.value and world.repairs:
        mended = STOPPED if world.is_source_fenced else RUNNING
        repaired = world._replace(
            source=mended if world.source == ERROR else world.source,
            dest=RUNNING if world.dest in (ERROR, STOPPED) else world.dest,
            state=world.interrupted,
            failure=NONE,
            is_late=False,
            repairs=world.repairs - 1,
        )
        yield Kind.TROUBLE, "an operator repairs it and resumes", repaired


def _faults(world: World, *, faults: int) -> Iterator[Happening]:
    def strike(what: str, **changes: Any) -> Happening:
        return Kind.TROUBLE, what, world._replace(faults=faults, **changes)

    if world.waits_for:
        air = world.air[:-1]
        yield strike("it never works", waits_for="", failure=WORN_OUT, air=air)
        yield strike("it is forbidden", waits_for="", failure=REFUSED, air=air)
    if world.source not in (ABSENT, ERROR, DELETING, REMOVING):
        migration = FAILED if world.migration == UNDER_WAY else world.migration
        yield strike("the source breaks", source=ERROR, migration=migration)
        yield strike("somebody deletes the source", source=ABSENT, migration=migration)
    if world.dest not in (ABSENT, ERROR, DELETING, REMOVING):
        yield strike("the destination breaks", dest=ERROR)
        yield strike("somebody deletes the destination", dest=ABSENT, is_dest_fenced=True)
    if world.dest == RUNNING:
        yield strike("somebody switches the destination off", dest=STOPPED)
    if world.sync == UNDER_WAY:
        yield strike("the pass fails", sync=FAILED)
    if world.final == UNDER_WAY:
        yield strike("the final copy fails", final=FAILED)
    if world.cutover in CUTTING:
        yield Kind.TROUBLE, "the cutover fails", _gone_back(world)._replace(faults=faults)
    if world.migration == UNDER_WAY:
        yield strike("the live migration fails", migration=FAILED, source=RUNNING)
