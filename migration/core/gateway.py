"""What a session gateway can be asked and told.

A gateway stands between a person and the server their desktop runs on (HAProxy, Guacamole, a
broker, DNS). A transition holds the session, moves the desktop, and points the session to where it
is now. Every command carries a fencing token that only rises, from one command to the next and
from one worker to the next: a worker that lost its lease, and a request that was long on its way,
come with an older token than what has been done since, and are refused. Commands are idempotent.

GatewayError
├── GatewayUnavailable   not reached, timed out or 5xx; retrying later helps
└── StaleToken           a newer worker has spoken; this one must stop
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable


class GatewayError(Exception):
    """Something about a gateway went wrong; the message names the desktop and the reason."""

    is_retryable = False


class GatewayUnavailable(GatewayError):
    """The gateway was not reached, timed out or answered with a server error."""

    is_retryable = True


class StaleToken(GatewayError):
    """A newer worker has spoken for this desktop."""


@dataclass(frozen=True, slots=True)
class Target:
    region: str
    server_id: str


@dataclass(frozen=True, slots=True)
class Session:
    """A person's session as the gateway sees it.

    points_to : where the gateway sends the person; None when it was never told
    is_held : the person is kept waiting, whatever it points to
    connected_on : where the person works now; None when there is no session
    last_connected_on : where the person worked last, be it for a moment; None where that is not
        remembered
    since : when the connection was last made or lost, in the gateway's clock
    token : the newest fencing token seen
    """

    desktop_key: str
    points_to: Target | None = None
    is_held: bool = False
    connected_on: Target | None = None
    last_connected_on: Target | None = None
    since: datetime | None = None
    token: int = 0

    @property
    def is_connected(self) -> bool:
        return self.connected_on is not None


@runtime_checkable
class Gateway(Protocol):
    """Sessions are known by the desktop's key, which moves with the desktop.

    sees_sessions : `session` tells where people are; False for fleets without a gateway, whose
        transitions have nobody to hold and nobody to wait for
    """

    name: str
    sees_sessions: bool

    def session(self, desktop_key: str) -> Session:
        """What is seen now; an unknown desktop has a session that points nowhere."""

    def hold(self, desktop_key: str, *, token: int) -> Session:
        """Take the person off the desktop and keep them waiting until `point`.

        Returns what was seen just before, so that the first hold says whether somebody was there.
        """

    def point(self, desktop_key: str, target: Target, *, token: int) -> Session:
        """Send the person to `target`, at once: this ends a hold."""
