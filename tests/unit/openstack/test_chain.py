from __future__ import annotations

from itertools import product

import pytest

from desktops.clouds.openstack.chain import (
    FROM_FAR_END,
    Link,
    Phase,
    Piece,
    Seen,
    next_piece,
    spent,
)

NAMES = tuple(reversed(FROM_FAR_END))
EVERYTHING = [
    Seen(**{name: Link(phase) for name, phase in zip(NAMES, phases, strict=True)})  # type: ignore[arg-type]
    for phases in product(Phase, repeat=len(NAMES))
]


def test_there_is_always_a_next_piece() -> None:
    assert {type(next_piece(seen)) for seen in EVERYTHING} == {Piece}


def test_nothing_is_made_twice() -> None:
    """A piece that makes a resource is next only while that resource is absent."""
    makes = {
        Piece.TAKE_SNAPSHOT: "snapshot",
        Piece.MAKE_STAGING: "staging",
        Piece.UPLOAD: "source_image",
        Piece.REGISTER: "dest_image",
        Piece.MAKE_VOLUME: "volume",
    }
    for seen in EVERYTHING:
        made = makes.get(next_piece(seen))
        if made is not None:
            assert not getattr(seen, made).is_there, seen


def test_a_piece_has_what_it_works_on() -> None:
    needs = {
        Piece.MAKE_STAGING: "snapshot",
        Piece.UPLOAD: "staging",
        Piece.REGISTER: "source_image",
        Piece.MAKE_VOLUME: "dest_image",
        Piece.DONE: "volume",
    }
    for seen in EVERYTHING:
        needed = needs.get(next_piece(seen))
        if needed is not None:
            assert getattr(seen, needed).phase is Phase.READY, seen


def test_what_goes_wrong_behind_the_furthest_resource_does_not_matter() -> None:
    for seen in EVERYTHING:
        if seen.volume.phase is Phase.READY:
            assert next_piece(seen) in (Piece.DONE, Piece.TIDY)
        if seen.volume.phase is Phase.FAILED:
            assert next_piece(seen) is Piece.FAIL


@pytest.mark.parametrize(
    ("phase", "piece"),
    [
        (Phase.EMPTY, Piece.IMPORT),
        (Phase.WAITING, Piece.WAIT),
        (Phase.LEAVING, Piece.WAIT),
        (Phase.FAILED, Piece.FAIL),
        (Phase.READY, Piece.MAKE_VOLUME),
    ],
)
def test_the_image_at_the_destination(phase: Phase, piece: Piece) -> None:
    assert next_piece(Seen(source_image=Link(Phase.READY), dest_image=Link(phase))) is piece


def test_an_intermediate_goes_only_once_the_next_is_ready() -> None:
    for seen in EVERYTHING:
        for name in spent(seen):
            further = FROM_FAR_END[: FROM_FAR_END.index(name)]
            assert any(getattr(seen, one).phase is Phase.READY for one in further), seen
            assert name != "volume"


def test_a_snapshot_goes_after_the_volume_made_of_it() -> None:
    for seen in EVERYTHING:
        if "snapshot" in spent(seen):
            assert not seen.staging.is_there


def test_nothing_is_left_to_come_back_for_once_it_is_done() -> None:
    for seen in EVERYTHING:
        if next_piece(seen) is Piece.DONE and seen.staging.phase is not Phase.FAILED:
            there = {
                name
                for name in NAMES[:-1]
                if getattr(seen, name).phase in (Phase.READY, Phase.EMPTY, Phase.WAITING)
            }
            if seen.staging.is_there:  # in a phase it is not in by then
                there -= {"snapshot"}
            assert there <= set(spent(seen)), seen


@pytest.mark.parametrize("staging", [Phase.READY, Phase.LEAVING])
def test_a_copy_is_done_once_its_snapshot_can_go(staging: Phase) -> None:
    seen = Seen(snapshot=Link(Phase.READY), staging=Link(staging), volume=Link(Phase.READY))
    assert next_piece(seen) is Piece.TIDY
    assert next_piece(Seen(snapshot=Link(Phase.READY), volume=Link(Phase.READY))) is Piece.DONE
    stuck = Seen(snapshot=Link(Phase.READY), staging=Link(Phase.FAILED), volume=Link(Phase.READY))
    assert next_piece(stuck) is Piece.DONE, "nobody waits for what Cinder cannot delete"


def test_an_abandoned_copy_is_failed_whatever_is_left_of_it() -> None:
    seen = Seen(staging=Link(Phase.READY), snapshot=Link(Phase.READY), is_abandoned=True)
    assert next_piece(seen) is Piece.FAIL
    assert spent(seen) == ()
