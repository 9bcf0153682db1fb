"""The simulated session gateway and the users behind it.

A user who is present connects by themselves, a moment after the server that the gateway points to
accepts sessions and the session is not held; and loses the session as soon as one of that ends.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from desktops.clouds.simulator.errors import StaleFencingToken
from desktops.clouds.simulator.moment import Moment

# A live migration keeps the guest running and its sessions connected.
REACHABLE = "status IN ('ACTIVE', 'MIGRATING') AND is_fenced = 0"


def session(m: Moment, *, desktop_key: str) -> Any:
    row = m.row("SELECT * FROM sessions WHERE desktop_key = ?", desktop_key)
    if row is None:
        return {
            "desktop_key": desktop_key,
            "token": 0,
            "is_held": False,
            "points_to": None,
            "connected_on": None,
            "last_connected_on": None,
            "since_ms": None,
        }
    points_to = connected_on = None
    if row["server_id"] is not None:
        points_to = {"region": row["region"], "server_id": row["server_id"]}
    if row["connected_to"] is not None:
        connected_on = {"region": row["connected_region"], "server_id": row["connected_to"]}
    return {
        "desktop_key": desktop_key,
        "token": row["token"],
        "is_held": bool(row["is_held"]),
        "points_to": points_to,
        "connected_on": connected_on,
        "last_connected_on": connected_on or _last_connected_on(m, desktop_key),
        "since_ms": row["since_ms"],
    }


def _last_connected_on(m: Moment, desktop_key: str) -> dict[str, str] | None:
    row = m.row(
        "SELECT region, resource_id AS server_id FROM journal"
        " WHERE desktop_key = ? AND kind = 'session.connected' ORDER BY seq DESC LIMIT 1",
        desktop_key,
    )
    return None if row is None else dict(row)


def hold(m: Moment, *, desktop_key: str, token: int) -> Any:
    """Take the user off the desktop until `point`; says what was seen just before."""
    before = session(m, desktop_key=desktop_key)
    row = _fenced_row(m, desktop_key, token)
    if not row["is_held"]:
        m.do("UPDATE sessions SET is_held = 1 WHERE desktop_key = ?", desktop_key)
        m.record("session.held", desktop_key=desktop_key, token=token)
    _follow(m, desktop_key)
    return before


def point(m: Moment, *, desktop_key: str, region: str, server_id: str, token: int) -> Any:
    """Send the user to this server, and end a hold."""
    row = _fenced_row(m, desktop_key, token)
    if row["is_held"] or (row["region"], row["server_id"]) != (region, server_id):
        m.do(
            "UPDATE sessions SET is_held = 0, region = ?, server_id = ? WHERE desktop_key = ?",
            region,
            server_id,
            desktop_key,
        )
        m.record(
            "session.pointed",
            region=region,
            resource_id=server_id,
            desktop_key=desktop_key,
            token=token,
        )
    _follow(m, desktop_key)
    return session(m, desktop_key=desktop_key)


def set_presence(m: Moment, *, desktop_key: str, is_present: bool) -> Any:
    """The user comes to work, or leaves."""
    _make_row(m, desktop_key)
    if m.do(
        "UPDATE sessions SET is_present = ? WHERE desktop_key = ? AND is_present <> ?",
        is_present,
        desktop_key,
        is_present,
    ):
        m.record("session.present" if is_present else "session.away", desktop_key=desktop_key)
    _follow(m, desktop_key)
    return session(m, desktop_key=desktop_key)


def server_changed(m: Moment, server_id: str) -> None:
    """Let the sessions that point to this server take notice; nobody is on another."""
    for row in m.rows("SELECT desktop_key FROM sessions WHERE server_id = ?", server_id):
        _follow(m, row["desktop_key"])


def connect_user(m: Moment, desktop_key: str) -> None:
    """Agenda: the client of a waiting user gets through."""
    row = _row(m, desktop_key)
    m.do(
        "UPDATE sessions SET connected_to = connecting_to, connected_region = region,"
        " connecting_to = NULL, since_ms = ? WHERE desktop_key = ?",
        m.at_ms,
        desktop_key,
    )
    m.record(
        "session.connected",
        region=row["region"],
        resource_id=row["connecting_to"],
        desktop_key=desktop_key,
    )


def connect_at_once(m: Moment, desktop_key: str) -> None:
    """A user who has been at work all along: no waiting for the client."""
    if _row(m, desktop_key)["connecting_to"] is not None:
        m.unschedule("connect_user", desktop_key)
        connect_user(m, desktop_key)


def _follow(m: Moment, desktop_key: str) -> None:
    """Bring the connection in line with presence, hold, target and the target's state."""
    row = _row(m, desktop_key)
    target = _open_target(m, row)
    if row["connected_to"] is not None and row["connected_to"] != target:
        m.do(
            "UPDATE sessions SET connected_to = NULL, connected_region = NULL, since_ms = ?"
            " WHERE desktop_key = ?",
            m.at_ms,
            desktop_key,
        )
        m.record(
            "session.disconnected",
            region=row["connected_region"],
            resource_id=row["connected_to"],
            desktop_key=desktop_key,
        )
    if target == row["connected_to"]:
        target = None
    if target == row["connecting_to"]:
        return
    m.do("UPDATE sessions SET connecting_to = ? WHERE desktop_key = ?", target, desktop_key)
    m.unschedule("connect_user", desktop_key)
    if target is not None:
        m.schedule("connect_user", desktop_key, after_ms=m.duration_ms("reconnect"))


def _open_target(m: Moment, row: sqlite3.Row) -> str | None:
    """The server this user can be on now."""
    if not row["is_present"] or row["is_held"] or row["server_id"] is None:
        return None
    server = m.row(
        f"SELECT id FROM servers WHERE id = ? AND region = ? AND {REACHABLE}",
        row["server_id"],
        row["region"],
    )
    return None if server is None else server["id"]


def _fenced_row(m: Moment, desktop_key: str, token: int) -> sqlite3.Row:
    """The session's row for a worker whose token is the newest so far."""
    _make_row(m, desktop_key)
    if not m.do(
        "UPDATE sessions SET token = ? WHERE desktop_key = ? AND token <= ?",
        token,
        desktop_key,
        token,
    ):
        newest = _row(m, desktop_key)["token"]
        raise StaleFencingToken(
            f"session of {desktop_key}: token {token} is older than {newest}, seen already"
        )
    return _row(m, desktop_key)


def _row(m: Moment, desktop_key: str) -> sqlite3.Row:
    return m.rows("SELECT * FROM sessions WHERE desktop_key = ?", desktop_key)[0]


def _make_row(m: Moment, desktop_key: str) -> None:
    m.do(
        "INSERT OR IGNORE INTO sessions (desktop_key, since_ms) VALUES (?, ?)",
        desktop_key,
        m.at_ms,
    )
