"""The transition's machine: what it may never decide, and every world it can get into.

The model and its limits are described in `machine_model`; what is checked in each world, in
`machine_explorer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from migration.core.machine import (
    BEFORE_CUTOVER,
    CUTOVER,
    MAX_ATTEMPTS,
    PATHS,
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
from tests.unit.machine_explorer import Bounds, Explored, explore
from tests.unit.machine_model import Setting

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
STOP, LIVE = Setting(), Setting(strategy=Strategy.LIVE)
NOT_ATTACHED = Setting(can_copy_while_attached=False)
CARRIED = Setting(strategy=Strategy.HYPERVISOR)

# Every world of these is walked through in each run of the suite ...
USUAL = {
    "nothing goes wrong": (Setting(), Bounds()),
    "a worker dies": (Setting(), Bounds(crashes=1)),
    "an answer is lost": (Setting(), Bounds(lost_answers=1)),
    "something breaks and is repaired": (Setting(), Bounds(faults=1, repairs=1)),
    "no gateway, a worker dies": (Setting(has_gateway=False), Bounds(crashes=1)),
    "no gateway, something breaks": (Setting(has_gateway=False), Bounds(faults=1, repairs=1)),
    "the source is kept, passes make new volumes": (
        Setting(keeps_source=True, copies_incrementally=False),
        Bounds(),
    ),
    "volumes are copied in the freeze only": (
        Setting(can_copy_while_attached=False),
        Bounds(crashes=1),
    ),
    "a live migration with everything going wrong": (
        Setting(strategy=Strategy.LIVE),
        Bounds(crashes=1, lost_answers=1, faults=1, repairs=1),
    ),
    "the worker looks while things change": (Setting(looks_twice=True), Bounds()),
    "a running machine is carried, a worker dies": (CARRIED, Bounds(crashes=1)),
    "a running machine is carried, something breaks": (CARRIED, Bounds(faults=1, repairs=1)),
}
# ... and of these, in `make long`.
LONG = {
    "a running machine is carried without a gateway": (
        replace(CARRIED, has_gateway=False),
        Bounds(crashes=1, faults=1),
    ),
    "a running machine is carried, an answer is lost": (
        CARRIED,
        Bounds(crashes=1, lost_answers=1),
    ),
    "a worker dies, an answer is lost": (Setting(), Bounds(crashes=1, lost_answers=1)),
    "workers die twice": (Setting(), Bounds(crashes=2)),
    "a worker dies, something breaks": (Setting(), Bounds(crashes=1, faults=1, repairs=1)),
    "an answer is lost, something breaks": (
        Setting(),
        Bounds(lost_answers=1, faults=1, repairs=1),
    ),
    "two things break": (Setting(), Bounds(faults=2, repairs=1)),
    "no gateway, everything goes wrong": (
        Setting(has_gateway=False),
        Bounds(crashes=1, lost_answers=1, faults=1, repairs=1),
    ),
    "kept source, new volumes, a worker dies, something breaks": (
        Setting(keeps_source=True, copies_incrementally=False),
        Bounds(crashes=1, faults=1),
    ),
    "the worker looks while things change and it dies": (
        Setting(looks_twice=True),
        Bounds(crashes=1, faults=1),
    ),
    "an old start of the source arrives": (
        Setting(in_the_air=(Command.START_SOURCE,)),
        Bounds(crashes=1),
    ),
    "an old unfencing of the source arrives": (
        Setting(in_the_air=(Command.UNFENCE_SOURCE,)),
        Bounds(crashes=1),
    ),
}


@pytest.mark.parametrize("case", USUAL)
def test_no_course_of_events_breaks_an_invariant(case: str) -> None:
    assert_nothing_wrong(explore(*USUAL[case]))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", LONG)
def test_no_long_course_of_events_breaks_an_invariant(case: str) -> None:
    assert_nothing_wrong(explore(*LONG[case]))


def assert_nothing_wrong(found: Explored) -> None:
    assert not found.wrong, "\n\n".join(
        f"{what}: {' > '.join(way)}" for what, way in found.wrong.items()
    )
    # A model in which little can happen proves little.
    assert found.worlds > 2000
    assert found.ends[State.DONE] > 100
    assert found.ends[State.CANCELLED] > 0


def without_waiting_for_the_source(state: State, seen: Seen) -> Decision:
    """Opens the destination as soon as it runs."""
    if state is State.FREEZING and seen.session and seen.session.is_held:
        return Move(State.COPYING)
    if state is State.STARTING and seen.dest == ServerSeen(Health.RUNNING, is_fenced=True):
        return Do(Command.UNFENCE_DEST)
    if state is State.COPYING:
        return Move(State.STARTING) if seen.has_final_copy else Do(Command.COPY_FINAL)
    return decide(state, seen)


def without_a_commit_window(state: State, seen: Seen) -> Decision:
    return Move(State.RELEASING) if state is State.COMMITTING else decide(state, seen)


def without_minding_who_was_there(state: State, seen: Seen) -> Decision:
    return decide(state, replace(seen, was_dest_used=False))


def without_holding_again(state: State, seen: Seen) -> Decision:
    held = seen.session and replace(seen.session, is_held=True)
    is_back = state is State.ROLLING_BACK and seen.dest.health is not Health.ABSENT
    return decide(state, replace(seen, session=held, is_session_taken=True) if is_back else seen)


def without_settling(state: State, seen: Seen) -> Decision:
    return decide(state, replace(seen, is_settled=True))


def without_asking_the_relay_to_let_go(state: State, seen: Seen) -> Decision:
    return decide(state, replace(seen, has_cutover_to_abandon=False))


def without_giving_up(state: State, seen: Seen) -> Decision:
    return decide(state, replace(seen, entered_at=seen.now, failure=None))


@pytest.mark.parametrize(
    ("machine", "setting", "bounds", "what"),
    [
        (without_waiting_for_the_source, STOP, Bounds(), "two copies accept a session"),
        (without_a_commit_window, STOP, Bounds(), "before the destination is committed"),
        (without_minding_who_was_there, STOP, Bounds(), "after somebody worked on"),
        (without_holding_again, STOP, Bounds(crashes=1), "after somebody worked on"),
        (without_settling, NOT_ATTACHED, Bounds(crashes=1), "something is left over"),
        (without_settling, NOT_ATTACHED, Bounds(crashes=1), "the source cannot be reached"),
        (without_minding_who_was_there, CARRIED, Bounds(), "after somebody worked on"),
        (without_asking_the_relay_to_let_go, CARRIED, Bounds(), "after somebody worked on"),
        (without_giving_up, LIVE, Bounds(faults=1), "it does not end"),
    ],
)
def test_a_machine_without_one_of_its_rules_is_found_out(
    machine: Callable[[State, Seen], Decision], setting: Setting, bounds: Bounds, what: str
) -> None:
    found = explore(replace(setting, machine=machine), bounds)
    assert any(what in wrong for wrong in found.wrong), found.wrong


# What no single decision may be, whatever is seen.

EDGES: dict[Strategy, dict[State, set[State]]] = {
    Strategy.STOP: {
        State.PLANNED: {State.PREPARING, State.CANCELLING},
        State.PREPARING: {State.SYNCING, State.CANCELLING},
        State.SYNCING: {State.READY, State.CANCELLING},
        State.READY: {State.FREEZING, State.SYNCING, State.CANCELLING},
        State.FREEZING: {State.COPYING, State.ROLLING_BACK, State.NEEDS_OPERATOR},
        State.COPYING: {State.STARTING, State.ROLLING_BACK, State.NEEDS_OPERATOR},
        State.STARTING: {State.RECONNECTING, State.ROLLING_BACK, State.NEEDS_OPERATOR},
        State.RECONNECTING: {State.VERIFYING, State.ROLLING_BACK, State.NEEDS_OPERATOR},
        State.VERIFYING: {State.COMMITTING, State.ROLLING_BACK, State.NEEDS_OPERATOR},
        State.COMMITTING: {State.RELEASING, State.NEEDS_OPERATOR},
        State.RELEASING: {State.DONE, State.NEEDS_OPERATOR},
        State.CANCELLING: {State.CANCELLED, State.FAILED, State.NEEDS_OPERATOR},
        State.ROLLING_BACK: {State.ROLLED_BACK, State.STARTING, State.NEEDS_OPERATOR},
    },
    Strategy.LIVE: {
        State.PLANNED: {State.READY, State.CANCELLING},
        State.READY: {State.COPYING, State.CANCELLING},
        State.COPYING: {State.VERIFYING, State.FAILED, State.NEEDS_OPERATOR},
        State.VERIFYING: {State.DONE, State.FAILED, State.NEEDS_OPERATOR},
        State.CANCELLING: {State.CANCELLED, State.FAILED, State.NEEDS_OPERATOR},
    },
}
EDGES[Strategy.HYPERVISOR] = {
    **EDGES[Strategy.STOP],
    State.READY: {State.COPYING, State.FREEZING, State.SYNCING, State.CANCELLING},
    State.COPYING: {State.RECONNECTING, State.ROLLING_BACK, State.NEEDS_OPERATOR},
    State.ROLLING_BACK: {State.ROLLED_BACK, State.RECONNECTING, State.NEEDS_OPERATOR},
}
COMMANDS: dict[State, set[Command]] = {
    State.SYNCING: {Command.SYNC_VOLUME},
    State.FREEZING: {Command.HOLD_SESSION, Command.STOP_SOURCE, Command.FENCE_SOURCE},
    State.COPYING: {Command.COPY_FINAL, Command.LIVE_MIGRATE, Command.CUT_OVER},
    State.STARTING: {Command.CREATE_DEST, Command.UNFENCE_DEST},
    State.RECONNECTING: {Command.POINT_SESSION},
    State.RELEASING: {
        Command.DELETE_SOURCE_SERVER,
        Command.DELETE_SOURCE_VOLUME,
        Command.DELETE_OLD_SHADOW,
    },
    State.CANCELLING: {Command.ABANDON_COPY},
    State.ROLLING_BACK: {
        Command.ABANDON_CUT_OVER,
        Command.HOLD_SESSION_AGAIN,
        Command.FENCE_DEST,
        Command.DELETE_DEST,
        Command.UNFENCE_SOURCE,
        Command.START_SOURCE,
        Command.POINT_SESSION_BACK,
        Command.ABANDON_COPY,
    },
}

servers = st.builds(ServerSeen, st.sampled_from(Health), st.booleans())
sessions = st.builds(SessionSeen, st.sampled_from(Place), st.booleans(), st.sampled_from(Place))
failures = st.builds(
    Failure, st.just("it did not work"), st.booleans(), st.integers(1, 2 * MAX_ATTEMPTS)
)
instants = st.sampled_from(
    [NOW + sign * timedelta(minutes=m) for m in (0, 1, 20, 90, 1000) for sign in (1, -1)]
)
seens = st.builds(
    Seen,
    now=st.just(NOW),
    strategy=st.sampled_from(Strategy),
    entered_at=instants,
    expires_at=instants,
    source=servers,
    dest=servers,
    session=st.none() | sessions,
    had_session=st.none() | st.booleans(),
    dest_shortage=st.sampled_from(["", "no room"]),
    commit_until=st.none() | instants,
    failure=st.none() | failures,
    **{name: st.booleans() for name, kind in Seen.__annotations__.items() if kind == "bool"},
)
states = st.sampled_from(State)


def test_every_flag_of_what_is_seen_is_tried() -> None:
    flags = {name for name, kind in Seen.__annotations__.items() if kind == "bool"}
    assert {"was_dest_used", "is_settled", "is_cancel_requested"} <= flags


@settings(max_examples=400, deadline=None)
@given(states, seens)
def test_every_state_has_an_answer_to_everything_that_can_be_seen(state: State, seen: Seen) -> None:
    decision = decide(state, seen)
    match decision:
        case Move(to=to):
            if state in EDGES[seen.strategy]:
                assert to in EDGES[seen.strategy][state]
        case Do(command=command):
            assert command in COMMANDS[state]
        case Wait(for_what=for_what):
            assert for_what
        case _:
            raise AssertionError(f"no decision: {decision!r}")
    if state in TERMINAL or state is State.NEEDS_OPERATOR:
        assert isinstance(decision, Wait)


@settings(max_examples=400, deadline=None)
@given(states, seens)
def test_no_decision_by_itself_endangers_a_session_or_work(state: State, seen: Seen) -> None:
    source_is_out = seen.source == ServerSeen(Health.STOPPED, is_fenced=True)
    match decide(state, seen):
        case Do(command=Command.UNFENCE_DEST):
            assert source_is_out
        case Do(command=Command.UNFENCE_SOURCE | Command.START_SOURCE):
            assert seen.dest.health is Health.ABSENT
            assert not seen.was_dest_used
            assert not seen.has_cutover_to_abandon
        case Do(command=Command.DELETE_DEST):
            assert seen.dest.is_fenced
            assert not seen.was_dest_used
            assert not seen.has_cutover_to_abandon
        case Do(command=Command.COPY_FINAL):
            assert source_is_out
        case Do(command=Command.DELETE_SOURCE_SERVER):
            assert seen.dest.health not in (Health.ABSENT, Health.ERROR) or not (
                seen.has_source_volume
            )
        case Do(command=Command.DELETE_SOURCE_VOLUME):
            assert not seen.keeps_source_as_shadow
            assert seen.source.health is Health.ABSENT
            assert seen.dest.health not in (Health.ABSENT, Health.ERROR)
        case Move(to=State.COMMITTING):
            assert seen.dest == ServerSeen(Health.RUNNING, is_fenced=False)


@settings(max_examples=400, deadline=None)
@given(states, seens)
@example(
    State.READY,
    Seen(
        now=NOW,
        strategy=Strategy.STOP,
        entered_at=NOW,
        expires_at=NOW + timedelta(hours=1),
        source=ServerSeen(Health.RUNNING),
        is_synced=True,
        is_sync_due=True,
        can_copy_while_attached=False,
    ),
)
def test_it_never_moves_round_and_round_without_doing_anything(state: State, seen: Seen) -> None:
    way = [state]
    while isinstance(decision := decide(way[-1], seen), Move):
        assert decision.to not in way, f"{way} and again {decision.to}"
        way.append(decision.to)
        seen = replace(
            seen,
            entered_at=seen.now,
            failure=None,
            has_failed=seen.has_failed or decision.is_failure,
        )


def test_the_path_of_a_transition_without_trouble_is_one_of_edges() -> None:
    for strategy, path in PATHS.items():
        for state, following in pairwise(path):
            assert following in EDGES[strategy][state]


def a_move(state: State, **changes: object) -> tuple[State, Seen]:
    """Somebody's desktop in the middle of its move, as seen in `state` by a worker."""
    seen = Seen(
        now=NOW,
        strategy=Strategy.STOP,
        entered_at=NOW,
        expires_at=NOW + timedelta(hours=1),
        source=ServerSeen(Health.STOPPED, is_fenced=True),
        dest=ServerSeen(Health.RUNNING, is_fenced=False),
        session=SessionSeen(Place.DEST, is_held=False, connected_on=Place.DEST),
        had_session=True,
        was_dest_used=True,
        is_approved=True,
        is_confirmed=True,
        has_final_copy=True,
    )
    return state, replace(seen, **changes)  # type: ignore[arg-type]


def test_what_came_during_an_outage_counts_however_long_that_was() -> None:
    too_long = NOW - 2 * TIME_LIMITS[State.VERIFYING]
    assert decide(*a_move(State.VERIFYING, entered_at=too_long)) == Move(State.COMMITTING)


def test_a_cancellation_after_somebody_worked_at_the_destination_is_too_late() -> None:
    decision = decide(*a_move(State.VERIFYING, is_cancel_requested=True))
    assert decision == Move(State.COMMITTING)


@pytest.mark.parametrize("state", sorted(BEFORE_CUTOVER | CUTOVER))
def test_a_cancellation_before_that_goes_back(state: State) -> None:
    decision = decide(*a_move(state, is_cancel_requested=True, was_dest_used=False))
    assert isinstance(decision, Move)
    assert decision.to is (State.CANCELLING if state in BEFORE_CUTOVER else State.ROLLING_BACK)
    assert not decision.is_failure


def test_giving_up_where_the_way_back_would_lose_work_asks_an_operator() -> None:
    final = Failure("the gateway refuses", is_retryable=False, attempts=1)
    held = SessionSeen(Place.SOURCE, is_held=True, connected_on=Place.NOWHERE)
    decision = decide(*a_move(State.RECONNECTING, failure=final, session=held))
    assert isinstance(decision, Move)
    assert decision.to is State.NEEDS_OPERATOR
    assert decision.reason == "Reconnecting: the gateway refuses"


def test_a_failure_that_no_retry_helps_gives_up_at_once_and_others_after_some() -> None:
    def given_up(failure: Failure) -> bool:
        unsynced = {"source": ServerSeen(Health.RUNNING), "was_dest_used": False}
        decision = decide(*a_move(State.SYNCING, failure=failure, **unsynced))
        return isinstance(decision, Move) and decision.to is State.CANCELLING

    assert given_up(Failure("quota", is_retryable=False, attempts=1))
    assert not given_up(Failure("busy", is_retryable=True, attempts=MAX_ATTEMPTS - 1))
    assert given_up(Failure("busy", is_retryable=True, attempts=MAX_ATTEMPTS))


def test_what_was_to_be_carried_while_it_ran_and_is_off_goes_the_way_of_what_is_off() -> None:
    off = replace(a_move(State.READY)[1], strategy=Strategy.HYPERVISOR)
    assert decide(State.READY, off) == Move(State.FREEZING)
    runs = replace(off, source=ServerSeen(Health.RUNNING))
    assert decide(State.READY, runs) == Move(State.COPYING)
