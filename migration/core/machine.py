"""The transition of one desktop, as a pure state machine.

`decide(state, seen)` says what to do next from what was just observed, and nothing else: it
keeps no memory, so a worker that takes over from a dead one decides the same. It is total: every
state with every observation has an answer.

The invariants it keeps, in any interleaving of crashes, duplicates and delays (DESIGN §7):

1. At most one copy accepts a session. The destination is created fenced, and is unfenced only
   after the source has been observed stopped and fenced; going back, the source is unfenced only
   after the destination has been observed gone.
2. The source is released only after the destination was observed healthy with the session on it
   (or with nobody who had one), and only after the commit window.
3. Nothing is done twice with effect: commands carry keys and are asked for only while their
   effect has not been observed.
4. Every transition ends, or says what it waits for.

Once somebody has worked on the destination, the source is older than the destination: nothing
here goes back from there. It goes on at the destination, or asks an operator. A machine that was
carried while it ran has gone on there by itself: from then on it counts as worked on.

A request may be carried out long after it was sent, by a cloud that was slow or a worker that was
paused. The invariants hold whenever it arrives. That a transition which goes back also leaves
everything as it was relies on one lease being enough for a request to arrive or be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class Strategy(StrEnum):
    """How `VirtualDesktopState` (memory, processor state, data volume) travels."""

    STOP = "stop"  # nobody there or a planned restart: the volume travels, memory is not carried
    LIVE = "live"  # inside a region: the cloud copies memory while the server runs
    HYPERVISOR = "hypervisor"  # between regions: relays carry memory and volume while it runs


class State(StrEnum):
    PLANNED = "planned"
    PREPARING = "preparing"
    SYNCING = "syncing"
    READY = "ready"
    FREEZING = "freezing"
    COPYING = "copying"
    STARTING = "starting"
    RECONNECTING = "reconnecting"
    VERIFYING = "verifying"
    COMMITTING = "committing"
    RELEASING = "releasing"
    DONE = "done"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    NEEDS_OPERATOR = "needs_operator"

    @property
    def label(self) -> str:
        return self.value.replace("_", " ").capitalize()


TERMINAL = frozenset({State.DONE, State.CANCELLED, State.ROLLED_BACK, State.FAILED})

# The way of a transition that meets no trouble.
PATHS: Mapping[Strategy, tuple[State, ...]] = {
    Strategy.STOP: (
        State.PLANNED,
        State.PREPARING,
        State.SYNCING,
        State.READY,
        State.FREEZING,
        State.COPYING,
        State.STARTING,
        State.RECONNECTING,
        State.VERIFYING,
        State.COMMITTING,
        State.RELEASING,
        State.DONE,
    ),
    Strategy.LIVE: (
        State.PLANNED,
        State.READY,
        State.COPYING,
        State.VERIFYING,
        State.DONE,
    ),
    Strategy.HYPERVISOR: (
        State.PLANNED,
        State.PREPARING,
        State.SYNCING,
        State.READY,
        State.COPYING,
        State.RECONNECTING,
        State.VERIFYING,
        State.COMMITTING,
        State.RELEASING,
        State.DONE,
    ),
}

# From the freeze on the user is affected; until verified, trouble means going back.
CUTOVER = frozenset(
    {State.FREEZING, State.COPYING, State.STARTING, State.RECONNECTING, State.VERIFYING}
)
BEFORE_CUTOVER = frozenset({State.PLANNED, State.PREPARING, State.SYNCING, State.READY})

# How long a state may last before it counts as failed; READY ends by its expiry instead.
TIME_LIMITS: Mapping[State, timedelta] = {
    State.PLANNED: timedelta(minutes=10),
    State.PREPARING: timedelta(minutes=30),
    State.SYNCING: timedelta(hours=12),
    State.FREEZING: timedelta(minutes=10),
    State.COPYING: timedelta(hours=2),
    State.STARTING: timedelta(minutes=15),
    State.RECONNECTING: timedelta(minutes=5),
    State.VERIFYING: timedelta(minutes=10),
    State.RELEASING: timedelta(hours=1),
    State.CANCELLING: timedelta(hours=1),
    State.ROLLING_BACK: timedelta(hours=1),
}

MAX_ATTEMPTS = 8
TURN = timedelta(seconds=5)


class Command(StrEnum):
    SYNC_VOLUME = "sync_volume"
    HOLD_SESSION = "hold_session"
    STOP_SOURCE = "stop_source"
    FENCE_SOURCE = "fence_source"
    COPY_FINAL = "copy_final"
    CREATE_DEST = "create_dest"
    UNFENCE_DEST = "unfence_dest"
    POINT_SESSION = "point_session"
    DELETE_SOURCE_SERVER = "delete_source_server"
    DELETE_SOURCE_VOLUME = "delete_source_volume"
    DELETE_OLD_SHADOW = "delete_old_shadow"
    LIVE_MIGRATE = "live_migrate"
    CUT_OVER = "cut_over"
    ABANDON_CUT_OVER = "abandon_cut_over"
    ABANDON_COPY = "abandon_copy"
    FENCE_DEST = "fence_dest"
    DELETE_DEST = "delete_dest"
    UNFENCE_SOURCE = "unfence_source"
    START_SOURCE = "start_source"
    HOLD_SESSION_AGAIN = "hold_session_again"
    POINT_SESSION_BACK = "point_session_back"


class Health(StrEnum):
    """A server as far as the machine cares."""

    ABSENT = "absent"
    BUSY = "busy"
    RUNNING = "running"
    STOPPED = "stopped"
    ERROR = "error"


class Place(StrEnum):
    SOURCE = "source"
    DEST = "dest"
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class ServerSeen:
    health: Health
    is_fenced: bool = False


@dataclass(frozen=True, slots=True)
class SessionSeen:
    """points_to : where the gateway sends the user; connected_on : where the user works now."""

    points_to: Place
    is_held: bool
    connected_on: Place


@dataclass(frozen=True, slots=True)
class Failure:
    message: str
    is_retryable: bool
    attempts: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything `decide` may know.

    session : None when the pool has no gateway
    had_session : somebody was connected when the session was held; None before that
    was_dest_used : somebody has worked on the destination, or nobody can tell that nobody has
    has_turn : the pool may cut over one more desktop now
    is_synced : a finished pass exists at the destination, and is_sync_due : it is too old
    is_cut_over : the relay has said that the machine goes on at the destination
    has_cutover_to_abandon : a relay may be at the cutover of a running machine
    has_final_copy : the pass made in the freeze is complete
    leftover_shadow : a destination volume that the final pass superseded still exists
    is_session_taken : on the way back, the gateway has been told to hold the session
    is_session_back : on the way back, the gateway has been told to point to the source
    is_settled : whatever was asked for before this state has arrived, or was lost
    failure : the newest failure of this state's commands, None after a success
    has_failed : something went wrong on the way; why a cancelled transition was cancelled
    """

    now: datetime
    strategy: Strategy
    entered_at: datetime
    expires_at: datetime
    source: ServerSeen
    dest: ServerSeen = ServerSeen(Health.ABSENT)
    session: SessionSeen | None = None
    had_session: bool | None = None
    was_dest_used: bool = False
    is_approved: bool = False
    is_confirmed: bool = False
    is_cancel_requested: bool = False
    has_turn: bool = True
    can_copy_while_attached: bool = True
    dest_shortage: str = ""
    is_synced: bool = False
    is_sync_due: bool = False
    has_final_copy: bool = False
    is_migrated_live: bool = False
    is_cut_over: bool = False
    has_cutover_to_abandon: bool = False
    commit_until: datetime | None = None
    keeps_source_as_shadow: bool = False
    has_source_volume: bool = True
    leftover_shadow: bool = False
    has_copies_to_abandon: bool = False
    is_session_taken: bool = False
    is_session_back: bool = False
    is_settled: bool = True
    failure: Failure | None = None
    has_failed: bool = False


@dataclass(frozen=True, slots=True)
class Do:
    command: Command


@dataclass(frozen=True, slots=True)
class Move:
    """is_failure : `reason` is what went wrong, and is kept as the transition's failure"""

    to: State
    reason: str = ""
    is_failure: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    for_what: str
    until: datetime | None = None


Decision = Do | Move | Wait


def decide(state: State, seen: Seen) -> Decision:
    """What to do next in `state`, given what was just seen."""
    if state in TERMINAL:
        return Wait("nothing: it has ended")
    if state is State.NEEDS_OPERATOR:
        return Wait("an operator")
    decision = _cancellation(state, seen) or _RULES[state](seen)
    if isinstance(decision, Move):
        # What was waited for has come, however late and after however many failures.
        return decision
    return _surrender(state, seen) or decision


def can_go_back(strategy: Strategy) -> bool:
    """Whether a transition can be taken back once its cutover has begun."""
    return strategy is not Strategy.LIVE


def _cancellation(state: State, seen: Seen) -> Decision | None:
    if not seen.is_cancel_requested:
        return None
    if state in BEFORE_CUTOVER:
        return Move(State.CANCELLING, "cancelled on request")
    if state in CUTOVER and can_go_back(seen.strategy) and not seen.was_dest_used:
        return Move(State.ROLLING_BACK, "cancelled on request")
    return None


def _surrender(state: State, seen: Seen) -> Decision | None:
    """Failures and time limits, which are alike in every state of a phase."""
    failure = seen.failure
    if failure and (not failure.is_retryable or _is_worn_out(state, seen, failure)):
        return _give_up(state, seen, failure.message)
    limit = TIME_LIMITS.get(state)
    if limit is not None and seen.now - seen.entered_at > limit:
        return _give_up(state, seen, f"not finished within {limit}")
    return None


def _is_worn_out(state: State, seen: Seen, failure: Failure) -> bool:
    """While another way is open it is taken soon; the last way is tried until its time limit."""
    has_another_way = state in BEFORE_CUTOVER or (state in CUTOVER and not seen.was_dest_used)
    return has_another_way and failure.attempts >= MAX_ATTEMPTS


def _give_up(state: State, seen: Seen, reason: str) -> Move:
    explained = f"{state.label}: {reason}"
    if state in BEFORE_CUTOVER:
        return _failed(State.CANCELLING, explained)
    if state in CUTOVER and can_go_back(seen.strategy) and not seen.was_dest_used:
        return _failed(State.ROLLING_BACK, explained)
    if state in CUTOVER and seen.strategy is Strategy.LIVE and _runs(seen.source):
        return _failed(State.FAILED, f"{explained}; the server runs where it was")
    return _failed(State.NEEDS_OPERATOR, explained)


def _failed(to: State, reason: str) -> Move:
    return Move(to, reason, is_failure=True)


def _planned(seen: Seen) -> Decision:
    if seen.source.health is Health.ABSENT:
        return _failed(State.CANCELLING, "the server to move does not exist")
    if seen.source.health is Health.ERROR:
        return _failed(State.CANCELLING, "the server to move is in error")
    if seen.strategy is Strategy.LIVE:
        return Move(State.READY)
    return Move(State.PREPARING)


def _preparing(seen: Seen) -> Decision:
    if seen.dest_shortage:
        return _failed(State.CANCELLING, seen.dest_shortage)
    return Move(State.SYNCING)


def _syncing(seen: Seen) -> Decision:
    if not _can_sync(seen):
        return Move(State.READY, "this cloud copies the volume in the freeze")
    if seen.is_synced and not seen.is_sync_due:
        return Move(State.READY)
    return Do(Command.SYNC_VOLUME)


def _ready(seen: Seen) -> Decision:
    if seen.is_approved and seen.is_confirmed and not seen.has_turn:
        return Wait("its turn: the pool moves as many at a time as it may", seen.now + TURN)
    if seen.is_approved and seen.is_confirmed:
        # What is switched off has nothing that could be carried while it runs.
        is_off = seen.strategy is Strategy.HYPERVISOR and seen.source.health is Health.STOPPED
        stops = seen.strategy is Strategy.STOP or is_off
        return Move(State.FREEZING if stops else State.COPYING)
    if seen.now >= seen.expires_at:
        return Move(State.CANCELLING, "neither approved nor confirmed before it expired")
    if seen.is_sync_due and _can_sync(seen):
        return Move(State.SYNCING, "the shadow is due for a sync")
    if not seen.is_approved:
        return Wait("approval", seen.expires_at)
    return Wait("confirmation that the prediction came true", seen.expires_at)


def _freezing(seen: Seen) -> Decision:
    if seen.session is not None and not seen.session.is_held:
        return Do(Command.HOLD_SESSION)
    match seen.source.health:
        case Health.ABSENT | Health.ERROR:
            return _failed(State.ROLLING_BACK, "the source was lost while it was being stopped")
        case Health.RUNNING:
            return Do(Command.STOP_SOURCE)
        case Health.BUSY:
            return Wait("the source to stop")
        case Health.STOPPED:
            if not seen.source.is_fenced:
                return Do(Command.FENCE_SOURCE)
            return Move(State.COPYING)


def _copying(seen: Seen) -> Decision:
    if seen.strategy is Strategy.LIVE:
        return Move(State.VERIFYING) if seen.is_migrated_live else Do(Command.LIVE_MIGRATE)
    if seen.strategy is Strategy.HYPERVISOR:
        # The freeze is a matter of milliseconds: its steps are the relay's, in one command.
        return Move(State.RECONNECTING) if seen.is_cut_over else Do(Command.CUT_OVER)
    if not _is_out_of_the_way(seen.source):
        return _failed(State.ROLLING_BACK, "somebody started or removed the source during the copy")
    if seen.has_final_copy:
        return Move(State.STARTING)
    return Do(Command.COPY_FINAL)


def _starting(seen: Seen) -> Decision:
    match seen.dest.health:
        case Health.ABSENT:
            return Do(Command.CREATE_DEST)
        case Health.BUSY:
            return Wait("the destination to start")
        case Health.ERROR | Health.STOPPED:
            return _failed(State.ROLLING_BACK, "the destination did not start")
        case Health.RUNNING:
            if not _is_out_of_the_way(seen.source):
                return _failed(State.ROLLING_BACK, "the source is not stopped and fenced any more")
            if seen.dest.is_fenced:
                return Do(Command.UNFENCE_DEST)
            return Move(State.RECONNECTING)


def _reconnecting(seen: Seen) -> Decision:
    if seen.dest.health is not Health.RUNNING and seen.dest.health is not Health.BUSY:
        return _failed(State.ROLLING_BACK, "the destination was lost before anybody worked on it")
    session = seen.session
    if session is not None and (session.points_to is not Place.DEST or session.is_held):
        return Do(Command.POINT_SESSION)
    return Move(State.VERIFYING)


def _verifying(seen: Seen) -> Decision:
    if seen.strategy is Strategy.LIVE:
        if seen.source.health is Health.RUNNING:
            return Move(State.DONE)
        return Wait("the server to be healthy on its new host")
    if seen.dest.health is Health.BUSY:
        return Wait("the destination to be healthy")
    if seen.dest.health is not Health.RUNNING or seen.dest.is_fenced:
        return _failed(State.ROLLING_BACK, "the destination is not healthy")
    if seen.session is None or seen.had_session is False or seen.was_dest_used:
        return Move(State.COMMITTING)
    return Wait("the user's session on the destination")


def _committing(seen: Seen) -> Decision:
    if _is_lost(seen.dest):
        return _failed(
            State.NEEDS_OPERATOR,
            "the destination was lost in the commit window; the source holds the state of the"
            " freeze",
        )
    if seen.commit_until is not None and seen.now < seen.commit_until:
        return Wait("the commit window to pass", seen.commit_until)
    if seen.dest.health is not Health.RUNNING:
        return Wait("the destination to be running before the source is released")
    return Move(State.RELEASING)


def _releasing(seen: Seen) -> Decision:
    if seen.source.health is Health.BUSY:
        return Wait("the source to be deleted")
    is_released = seen.source.health is Health.ABSENT and (
        seen.keeps_source_as_shadow or not seen.has_source_volume
    )
    if _is_lost(seen.dest) and not is_released:
        return _failed(
            State.NEEDS_OPERATOR, "the destination was lost before the source was released"
        )
    if seen.source.health is not Health.ABSENT:
        return Do(Command.DELETE_SOURCE_SERVER)
    if seen.has_source_volume and not seen.keeps_source_as_shadow:
        return Do(Command.DELETE_SOURCE_VOLUME)
    if seen.leftover_shadow:
        return Do(Command.DELETE_OLD_SHADOW)
    return Move(State.DONE)


def _cancelling(seen: Seen) -> Decision:
    if not seen.is_settled:
        return _SETTLING
    if seen.has_copies_to_abandon:
        return Do(Command.ABANDON_COPY)
    return Move(State.FAILED if seen.has_failed else State.CANCELLED)


def _rolling_back(seen: Seen) -> Decision:
    if seen.has_cutover_to_abandon:
        # Before anything is judged: until its relay lets go, the machine may yet go on over there.
        return Do(Command.ABANDON_CUT_OVER)
    if seen.was_dest_used:
        return _go_on(seen)
    if _is_lost(seen.source):
        return _failed(State.NEEDS_OPERATOR, "the source cannot be started again")
    if seen.dest.health is not Health.ABSENT:
        return _remove_dest(seen)
    if seen.source.is_fenced:
        return Do(Command.UNFENCE_SOURCE)
    if seen.source.health is Health.BUSY:
        return Wait("the source to start")
    if seen.source.health is Health.STOPPED:
        return Do(Command.START_SOURCE)
    if seen.session is not None and not _is_back(seen.session, seen):
        return Do(Command.POINT_SESSION_BACK)
    if not seen.is_settled:
        return _SETTLING
    if seen.has_copies_to_abandon:
        return Do(Command.ABANDON_COPY)
    return Move(State.ROLLED_BACK)


def _go_on(seen: Seen) -> Decision:
    """Somebody began to work at the destination while going back was being decided."""
    is_there = _runs(seen.dest) or seen.dest.health is Health.BUSY
    if not is_there or not _is_out_of_the_way(seen.source):
        return _failed(
            State.NEEDS_OPERATOR,
            "somebody has worked on the destination, which is not in order: going back would lose"
            " that work",
        )
    # An earlier hold of this way back may still arrive, unless a later one has.
    if seen.session is not None and not seen.is_session_taken:
        return Do(Command.HOLD_SESSION_AGAIN)
    carried = seen.strategy is Strategy.HYPERVISOR
    return Move(
        State.RECONNECTING if carried else State.STARTING,
        "somebody has worked on the destination: it goes on there",
    )


def _remove_dest(seen: Seen) -> Do:
    # First of all nobody may get there any more, or work would be lost with it.
    if seen.session is not None and not (seen.is_session_taken and seen.session.is_held):
        return Do(Command.HOLD_SESSION_AGAIN)
    if not seen.dest.is_fenced:
        return Do(Command.FENCE_DEST)
    return Do(Command.DELETE_DEST)


_SETTLING = Wait("requests without an answer to arrive or to be lost")


def _is_back(session: SessionSeen, seen: Seen) -> bool:
    # Told, not only seen: a hold that is still on its way is refused from then on.
    return seen.is_session_back and session.points_to is Place.SOURCE and not session.is_held


def _can_sync(seen: Seen) -> bool:
    if seen.strategy is Strategy.LIVE:
        return False
    return seen.can_copy_while_attached or seen.source.health is Health.STOPPED


def _runs(server: ServerSeen) -> bool:
    return server.health is Health.RUNNING


def _is_lost(server: ServerSeen) -> bool:
    return server.health in (Health.ABSENT, Health.ERROR)


def _is_out_of_the_way(server: ServerSeen) -> bool:
    return server.health is Health.STOPPED and server.is_fenced


_RULES: Mapping[State, Callable[[Seen], Decision]] = {
    State.PLANNED: _planned,
    State.PREPARING: _preparing,
    State.SYNCING: _syncing,
    State.READY: _ready,
    State.FREEZING: _freezing,
    State.COPYING: _copying,
    State.STARTING: _starting,
    State.RECONNECTING: _reconnecting,
    State.VERIFYING: _verifying,
    State.COMMITTING: _committing,
    State.RELEASING: _releasing,
    State.CANCELLING: _cancelling,
    State.ROLLING_BACK: _rolling_back,
}
