"""Everything that is kept of a person, whichever app keeps it.

An app further up the house registers what it keeps, so that export and erasure reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from desktops.models import Desktop, DesktopUser


@dataclass(frozen=True, slots=True)
class Section:
    """Rows of one kind about one person. `about` explains them, with their units."""

    name: str
    about: str
    rows: QuerySet[Any, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Keeper:
    """What one app keeps of people.

    sections : what there is of a person and their desktop
    obstacle : why a person with this desktop cannot be erased now; "" when they can
    erase : delete it, or take what speaks of the person out of what must stay; in the running
        transaction, before the person's own row goes
    forget_prediction, forget_places : the same after an opt-out
    """

    sections: Callable[[DesktopUser, Desktop | None], Iterator[Section]]
    obstacle: Callable[[Desktop | None], str]
    erase: Callable[[DesktopUser, Desktop | None], None]
    forget_prediction: Callable[[DesktopUser, Desktop | None], None]
    forget_places: Callable[[DesktopUser, Desktop | None], None]


_KEEPERS: dict[str, Keeper] = {}


def register(app: str, keeper: Keeper) -> None:
    _KEEPERS[app] = keeper


def keepers() -> tuple[Keeper, ...]:
    """The apps furthest up first: their rows refer to those below."""
    return tuple(reversed(_KEEPERS.values()))
