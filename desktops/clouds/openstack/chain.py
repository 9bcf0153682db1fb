"""A volume's way into another region, decided.

    snapshot → staging volume → image in the source → image in the destination → volume

No API copies a volume between regions, so one travels as an image: a snapshot of it, a volume
made from that snapshot (Cinder uploads no volume in use), uploaded by the source's Cinder,
fetched by the destination's Glance, written by the destination's Cinder. Every step is
asynchronous. What is next follows from which of the five are there, and in what state, and
from nothing else: whoever looks carries the copy on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    ABSENT = "absent"
    EMPTY = "empty"  # an image that nothing has been sent into yet
    WAITING = "waiting"  # being made
    READY = "ready"
    FAILED = "failed"
    LEAVING = "leaving"  # being deleted


@dataclass(frozen=True, slots=True)
class Link:
    """One resource of the chain as observed; `detail` says why it failed."""

    phase: Phase = Phase.ABSENT
    id: str = ""
    detail: str = ""
    size_bytes: int | None = None

    @property
    def is_there(self) -> bool:
        return self.phase is not Phase.ABSENT


@dataclass(frozen=True, slots=True)
class Seen:
    snapshot: Link = Link()
    staging: Link = Link()
    source_image: Link = Link()
    dest_image: Link = Link()
    volume: Link = Link()
    is_abandoned: bool = False

    @property
    def furthest(self) -> str:
        """The name of the furthest resource there is; "" when there is none."""
        return next((name for name in FROM_FAR_END if getattr(self, name).is_there), "")


FROM_FAR_END = ("volume", "dest_image", "source_image", "staging", "snapshot")


class Piece(StrEnum):
    """The next short piece of work."""

    TAKE_SNAPSHOT = "take a snapshot"
    MAKE_STAGING = "make a volume of the snapshot"
    UPLOAD = "upload that volume as an image"
    REGISTER = "register an image at the destination"
    IMPORT = "have the destination fetch the image"
    MAKE_VOLUME = "make a volume of the fetched image"
    TIDY = "see the staging volume go, so that its snapshot can"
    WAIT = "wait"
    DONE = "done"
    FAIL = "fail"


_ONCE_READY = {
    "": Piece.TAKE_SNAPSHOT,
    "snapshot": Piece.MAKE_STAGING,
    "staging": Piece.UPLOAD,
    "source_image": Piece.REGISTER,
    "dest_image": Piece.MAKE_VOLUME,
    "volume": Piece.DONE,
}
_OTHERWISE = {
    Phase.EMPTY: Piece.IMPORT,
    Phase.WAITING: Piece.WAIT,
    Phase.LEAVING: Piece.WAIT,
    Phase.FAILED: Piece.FAIL,
}


def next_piece(seen: Seen) -> Piece:
    """What to do next. Pure and total: the furthest resource decides."""
    if seen.is_abandoned:
        return Piece.FAIL
    name = seen.furthest
    phase = getattr(seen, name).phase if name else Phase.READY
    if name == "volume" and phase is Phase.READY and _keeps_snapshot(seen):
        return Piece.TIDY
    return _ONCE_READY[name] if phase is Phase.READY else _OTHERWISE[phase]


def _keeps_snapshot(seen: Seen) -> bool:
    """Somebody must come back once more: nobody does after DONE."""
    is_held = seen.staging.phase in (Phase.READY, Phase.LEAVING)
    return is_held and seen.snapshot.phase is Phase.READY


def spent(seen: Seen) -> tuple[str, ...]:
    """The intermediates that have served and can go now, in the order in which they can.

    Each goes as soon as the next is ready, for a staging volume counts against the quota. A
    snapshot outlives what was made from it: some back ends refuse to delete it before.
    """
    name = seen.furthest
    if seen.is_abandoned or not name or getattr(seen, name).phase is not Phase.READY:
        return ()
    behind = FROM_FAR_END[FROM_FAR_END.index(name) + 1 :]
    return tuple(
        one
        for one in behind
        if getattr(seen, one).phase not in (Phase.ABSENT, Phase.LEAVING)
        and not (one == "snapshot" and seen.staging.is_there)
    )
