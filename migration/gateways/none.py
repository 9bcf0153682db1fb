"""For fleets without a session gateway: nothing to hold, nothing to point, nobody seen."""

from __future__ import annotations

from migration.core.gateway import Session, Target


class NoGateway:
    sees_sessions = False

    def __init__(self, name: str) -> None:
        self.name = name

    def session(self, desktop_key: str) -> Session:
        return Session(desktop_key)

    def hold(self, desktop_key: str, *, token: int) -> Session:
        return Session(desktop_key)

    def point(self, desktop_key: str, target: Target, *, token: int) -> Session:
        return Session(desktop_key)


def connect(name: str) -> NoGateway:
    return NoGateway(name)
