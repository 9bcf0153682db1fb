"""What can go wrong in desktops, besides a cloud's own errors (desktops.core.cloud).

DesktopsError
├── InvalidFile      an input file was refused; nothing of it was kept
├── NameTaken        the name belongs to something of another kind or data set
├── NoCloud          the pool is compared with no cloud
├── NotPermitted     the viewer may not do this
├── Refused          a program's request was refused, with a reason it can read
├── SourceFailed     a source could not be asked; asking again later helps
└── SyncUnderWay     the cloud is being compared already
"""

from __future__ import annotations


class DesktopsError(Exception):
    """Base of this app's errors; the message is meant for the person who caused it."""


class InvalidFile(DesktopsError):
    """An input file was refused; nothing of it was kept."""


class NameTaken(DesktopsError):
    """The name belongs to something of another kind or data set."""


class NoCloud(DesktopsError):
    """The pool is compared with no cloud."""


class NotPermitted(DesktopsError):
    """The viewer may not do this."""


class Refused(DesktopsError):
    """A program's request was refused; nothing of it was kept.

    status : of the HTTP answer
    reason : for the program, a word that does not change; the message is for people
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class SourceFailed(DesktopsError):
    """A source could not be asked, or answered with what is no answer."""


class SyncUnderWay(DesktopsError):
    """The cloud is being compared already; its outcome will be there soon."""
