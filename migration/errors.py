"""What can go wrong in migration, besides a cloud's own errors (desktops.core.cloud).

MigrationError
├── NotDecidable     already decided, superseded or expired; nothing was changed
├── NotPossible      the transition is not in a state that allows this; nothing was changed
├── LeaseLost        another worker has taken over; stop at once
└── PassFailed       one pass of a volume failed; a new pass may succeed
"""

from __future__ import annotations


class MigrationError(Exception):
    """Base of this app's errors; the message is meant for the person who caused it."""

    is_retryable = False


class NotDecidable(MigrationError):
    """The recommendation can no longer be approved or rejected."""


class NotPossible(MigrationError):
    """The transition is not in a state that allows this."""


class LeaseLost(MigrationError):
    """Another worker has taken over."""


class PassFailed(MigrationError):
    """One pass of a volume failed."""

    is_retryable = True
