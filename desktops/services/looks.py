"""The log of who looked at whom."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from desktops.aliases import alias_of
from desktops.models import DesktopUser, Look


def note_looks(*, viewer: str, people: Iterable[DesktopUser], what: str, at: datetime) -> None:
    """Once an hour for each viewer and person; one statement, whether noted before or not."""
    hour = at.replace(minute=0, second=0, microsecond=0)
    Look.objects.bulk_create(
        (Look(viewer=viewer, alias=alias_of(p), what=what, hour=hour) for p in people),
        ignore_conflicts=True,
    )
