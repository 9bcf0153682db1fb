"""How a source of observations is doing, in one word."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum


class Health(StrEnum):
    OK = "ok"
    LATE = "late"
    FAILING = "failing"
    NEVER = "never"

    @property
    def label(self) -> str:
        return LABELS[self]


LABELS = {
    Health.OK: "OK",
    Health.LATE: "Late",
    Health.FAILING: "Failing",
    Health.NEVER: "Never reported",
}


def health_of(
    *, last_success_at: datetime | None, last_error: str, wall: datetime, patience: timedelta
) -> Health:
    """last_error : of the newest attempt, "" when that succeeded
    patience : for so long after a success nothing need be heard
    """
    if last_error:
        return Health.FAILING
    if last_success_at is None:
        return Health.NEVER
    return Health.LATE if wall - last_success_at > patience else Health.OK
