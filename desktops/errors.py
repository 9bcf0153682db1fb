"""What can go wrong in desktops, besides a cloud's own errors (desktops.core.cloud).

DesktopsError
├── InvalidFile      an input file was refused; nothing of it was kept
├── NameTaken        the name belongs to something of another kind or data set
└── NotPermitted     the viewer may not do this
"""

from __future__ import annotations


class DesktopsError(Exception):
    """Base of this app's errors; the message is meant for the person who caused it."""


class InvalidFile(DesktopsError):
    """An input file was refused; nothing of it was kept."""


class NameTaken(DesktopsError):
    """The name belongs to something of another kind or data set."""


class NotPermitted(DesktopsError):
    """The viewer may not do this."""
