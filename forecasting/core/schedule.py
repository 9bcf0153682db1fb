"""When a data set whose clock moves is due for a forecast, and for which kind."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

HOUR = timedelta(hours=1)
# The hour before is complete by then: late samples came, and the roll-up has run.
MINUTES_PAST = timedelta(minutes=5)
RETRY_AFTER = HOUR
# While there is a forecast to refresh, refreshes go before another attempt at a failed full one.
FULL_RETRY_AFTER = 3 * HOUR


class Due(Enum):
    NOTHING = "nothing"
    FULL = "full"
    REFRESH = "refresh"


@dataclass(frozen=True, slots=True)
class Made:
    """What a data set has; moments are None where there is nothing.

    full_as_of : of the newest complete full forecast
    newest_as_of : of the newest complete one of either kind
    full_failed_at, refresh_failed_at : when the newest attempt at one ended, if it failed
    is_running : whether one is in the making
    """

    full_as_of: datetime | None
    newest_as_of: datetime | None
    full_failed_at: datetime | None
    refresh_failed_at: datetime | None
    is_running: bool


def due(made: Made, *, now: datetime, nightly_hour: int) -> Due:
    """What to start now. Every night a full forecast from `nightly_hour` (UTC) on, every other
    hour a refresh of it; a night that was missed is made up for at once. A full forecast that
    fails again and again does not keep the one before it from being refreshed."""
    if made.is_running:
        return Due.NOTHING
    settled = now - MINUTES_PAST
    night = settled.replace(hour=nightly_hour, minute=0, second=0, microsecond=0)
    if night > settled:
        night -= timedelta(days=1)
    patience = RETRY_AFTER if made.full_as_of is None else FULL_RETRY_AFTER
    is_full_due = made.full_as_of is None or made.full_as_of < night
    if is_full_due and not _was_lately(made.full_failed_at, now, patience):
        return Due.FULL
    if made.full_as_of is None or _was_lately(made.refresh_failed_at, now, RETRY_AFTER):
        return Due.NOTHING
    this_hour = settled.replace(minute=0, second=0, microsecond=0)
    if made.newest_as_of is None or made.newest_as_of < this_hour:
        return Due.REFRESH
    return Due.NOTHING


def _was_lately(moment: datetime | None, now: datetime, within: timedelta) -> bool:
    return moment is not None and now - moment < within
