"""Walks through every world of `machine_model` and says what is wrong anywhere.

Wrong is a world that breaks an invariant of DESIGN §7, and a world that does not come to a good
end, or to waiting for a person, when it is left alone: requests arrive, servers do what they were
told, people come back to work, and nothing goes wrong any more.
"""

from __future__ import annotations

import gc
from collections import Counter, deque
from dataclasses import dataclass, field

from migration.core.machine import State, Strategy
from tests.unit.machine_model import (
    ABSENT,
    CUTTING,
    DEST,
    ENDED,
    ERROR,
    LIMITED,
    NONE,
    NOWHERE,
    ONCE,
    READY,
    RUNNING,
    SOURCE,
    WORN_OUT,
    Kind,
    Request,
    Setting,
    Violation,
    World,
    happenings,
    is_dest_open,
    is_source_open,
)

DONE, OPERATOR = State.DONE.value, State.NEEDS_OPERATOR.value
GOOD_WITHOUT_FAULTS = frozenset({DONE, State.CANCELLED.value, State.ROLLED_BACK.value})
# Where a transition may rest: ended, or waiting for a person, who in a commit window may have
# switched the destination off.
RESTS = ENDED | {OPERATOR, State.COMMITTING.value}
GIVING_UP = ", by giving up"
WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How often, on one path: a worker dies, an answer is lost, something breaks or is refused or
    lasts too long, an operator repairs and resumes."""

    crashes: int = 0
    lost_answers: int = 0
    faults: int = 0
    repairs: int = 0


@dataclass
class Explored:
    """worlds, steps : how many there are
    ends : where worlds come to when left alone, and how many come there
    wrong : what is wrong → the shortest way there
    """

    worlds: int = 0
    steps: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[str]] = field(default_factory=dict)


Origins = dict[World, tuple[World, str] | None]


def explore(setting: Setting, bounds: Bounds) -> Explored:
    """Millions of small tuples and not one cycle among them: the collector only costs time."""
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        return _explore(setting, bounds)
    finally:
        if was_collecting:
            gc.enable()


def _explore(setting: Setting, bounds: Bounds) -> Explored:
    found = Explored()
    origins: Origins = dict.fromkeys(_beginnings(setting, bounds))
    left_alone: dict[World, World | None] = {}
    ends: dict[World, str] = {}
    queue = deque(origins)
    while queue:
        world = queue.popleft()
        quietest: tuple[Kind, World | None] = (Kind.LIMIT, None)
        try:
            for kind, what, after in happenings(world, setting):
                if kind < quietest[0]:
                    quietest = kind, after
                if kind is Kind.LIMIT:
                    if not world.faults:
                        continue
                    after = after._replace(faults=world.faults - 1)
                found.steps += 1
                if after in origins:
                    continue
                origins[after] = world, what
                if problem := wrong_in(after, setting):
                    found.wrong.setdefault(problem, _way_to(after, origins))
                    ends[after] = WRONG
                else:
                    queue.append(after)
        except Violation as violation:
            found.wrong.setdefault(str(violation), _way_to(world, origins))
            ends[world] = WRONG
            continue
        left_alone[world] = quietest[1]
    _check_ends(setting, bounds, origins, left_alone, ends, found)
    found.worlds = len(origins)
    return found


def _beginnings(setting: Setting, bounds: Bounds) -> list[World]:
    air = tuple(Request(command.value, 0) for command in setting.in_the_air)
    return [
        World(
            connected_on=place,
            last_on=place,
            air=air,
            crashes=bounds.crashes,
            lost_answers=bounds.lost_answers,
            faults=bounds.faults,
            repairs=bounds.repairs,
        )
        for place in (NOWHERE, SOURCE)
    ]


def _way_to(world: World, origins: Origins) -> list[str]:
    way: list[str] = []
    while (origin := origins[world]) is not None:
        world, what = origin
        way.append(what)
    return way[::-1]


# What no world may be.


def wrong_in(world: World, setting: Setting) -> str:
    if is_source_open(world) and is_dest_open(world):
        return "two copies accept a session"
    if world.state not in ENDED:
        return ""
    if setting.strategy is Strategy.LIVE:
        return "" if not world.is_source_fenced else "a server was fenced for a live migration"
    return _wrong_when_done(world, setting) if world.state == DONE else _wrong_when_back(world)


def _wrong_when_done(world: World, setting: Setting) -> str:
    if world.source != ABSENT or world.has_source_volume is not setting.keeps_source:
        return "done, and the source is not released as planned"
    if setting.has_gateway and (world.points_to != DEST or world.is_held):
        return "done, and the session does not lead to the destination"
    is_shadow_kept = not setting.copies_incrementally and world.sync != NONE
    if READY not in (world.final, world.cutover) or is_shadow_kept:
        return "done, and the volumes are not as they should be"
    return ""


def _wrong_when_back(world: World) -> str:
    if world.source not in (RUNNING, ERROR, ABSENT):
        return f"{world.state}, and the source does not run"
    if world.is_source_fenced or world.is_held or world.points_to != SOURCE:
        return f"{world.state}, and the source cannot be reached"
    is_being_cut = world.cutover in CUTTING
    if is_being_cut or (world.dest, world.sync, world.final) != (ABSENT, NONE, NONE):
        return f"{world.state}, and something is left over"
    return ""


# What must come of a world.


def _check_ends(
    setting: Setting,
    bounds: Bounds,
    origins: Origins,
    left_alone: dict[World, World | None],
    ends: dict[World, str],
    found: Explored,
) -> None:
    for world in list(left_alone):
        end = _end_of(world, setting, left_alone, ends)
        found.ends[end] += 1
        is_troubled = world.faults < bounds.faults or bool(setting.in_the_air)
        if problem := _wrong_end(end, world, is_troubled=is_troubled):
            found.wrong.setdefault(problem, _way_to(world, origins))


def _end_of(
    world: World,
    setting: Setting,
    left_alone: dict[World, World | None],
    ends: dict[World, str],
) -> str:
    """The state this world comes to when left alone, and whether only by giving up on the way."""
    way: dict[World, None] = {}
    has_given_up = False
    here: World | None = world
    while here is not None and here not in ends:
        way[here] = None
        if here not in left_alone:
            try:
                left_alone[here] = _left_alone(here, setting)
            except Violation as violation:
                ends[here] = str(violation)
                break
        following = left_alone[here]
        if following is None and here.state in RESTS:
            ends[here] = here.state
            break
        if following is None or following in way:
            has_given_up = True
            following = _with_less_patience(here)
        if following is None:
            ends[here] = f"stuck in {here.state}"
            break
        here = following
    assert here is not None
    end = ends[here]
    if has_given_up and not end.endswith(GIVING_UP):
        end += GIVING_UP
    ends.update(dict.fromkeys(way, end))
    return end


def _left_alone(world: World, setting: Setting) -> World | None:
    quiet = [h for h in happenings(world, setting) if h[0] < Kind.LIMIT]
    return min(quiet, key=lambda happening: happening[0])[2] if quiet else None


def _with_less_patience(world: World) -> World | None:
    """What comes of asking in vain, or waiting in vain, for long."""
    if world.failure == ONCE:
        return world._replace(failure=WORN_OUT)
    if world.state in LIMITED and not world.is_late:
        return world._replace(is_late=True)
    return None


def _wrong_end(end: str, world: World, *, is_troubled: bool) -> str:
    end_in_peace = end.removesuffix(GIVING_UP)
    if end_in_peace == WRONG:
        return ""  # told already
    if end_in_peace not in RESTS:
        return f"left alone, it does not end: {end}"
    if is_troubled:
        return ""
    if end not in GOOD_WITHOUT_FAULTS:
        return f"nothing broke, and it ends {end}"
    if end != DONE and not (world.is_cancel_requested or world.is_expired):
        return f"nothing broke and nobody wanted it back, and it ends {end}"
    return ""
