"""One instant of the simulated cloud: what every operation and event works with."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from desktops.clouds.simulator.clock import Clock
from desktops.clouds.simulator.errors import BadRequest
from desktops.clouds.simulator.timing import MEDIAN_S, draw_ms
from desktops.clouds.simulator.world import Region, World
from desktops.core.cloud import NotFound


@dataclass(frozen=True, slots=True)
class Moment:
    """at_ms : simulated instant, milliseconds since the epoch"""

    db: sqlite3.Connection
    clock: Clock
    world: World
    seed: int
    at_ms: int

    def at(self, at_ms: int) -> Moment:
        return replace(self, at_ms=at_ms)

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        return self.db.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        found: sqlite3.Row | None = self.db.execute(sql, values).fetchone()
        return found

    def do(self, sql: str, *values: Any) -> int:
        """Execute a change and say how many rows it changed."""
        return self.db.execute(sql, values).rowcount

    def insert(self, table: str, **values: Any) -> None:
        columns = ", ".join(values)
        marks = ", ".join("?" * len(values))
        self.db.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(values.values()))

    def region(self, name: str) -> Region:
        try:
            return self.world.regions[name]
        except KeyError:
            raise NotFound(f"no region {name!r}") from None

    # Chance: every draw has its own generator, numbered in the store, so that one seed and one
    # order of requests give one course of events, restarts included.

    def random(self) -> Random:
        self.do(
            "INSERT INTO meta VALUES ('draws', '1')"
            " ON CONFLICT (key) DO UPDATE SET value = value + 1"
        )
        number = self.rows("SELECT value FROM meta WHERE key = 'draws'")[0][0]
        return Random(f"{self.seed}/{number}")

    def new_id(self) -> str:
        return str(uuid.UUID(int=self.random().getrandbits(128), version=4))

    def duration_ms(self, name: str) -> int:
        return draw_ms(self.world.durations_s.get(name, MEDIAN_S[name]), self.random())

    # What will happen by itself.

    def schedule(self, kind: str, subject: str, *, after_ms: int) -> None:
        """Let `kind` happen to `subject`, in place of an earlier appointment of the same."""
        self.unschedule(kind, subject)
        self.insert("agenda", at_ms=self.at_ms + after_ms, kind=kind, subject=subject)

    def unschedule(self, kind: str, subject: str) -> None:
        self.do("DELETE FROM agenda WHERE kind = ? AND subject = ?", kind, subject)

    # What has happened.

    def record(
        self,
        kind: str,
        *,
        region: str = "",
        resource_id: str = "",
        desktop_key: str = "",
        accepting: Collection[str] | None = None,
        **detail: Any,
    ) -> None:
        self.insert(
            "journal",
            at_ms=self.at_ms,
            wall_ms=self.clock.wall_ms(self.at_ms),
            kind=kind,
            region=region,
            resource_id=resource_id,
            desktop_key=desktop_key,
            detail=json.dumps(detail),
            accepting=None if accepting is None else json.dumps(sorted(accepting)),
        )


def journal_since(m: Moment, *, after: int = 0, desktop_key: str = "", limit: int = 5000) -> Any:
    """Journal rows with seq > after, oldest first, of one desktop or of everything."""
    if not 1 <= limit <= 50_000:
        raise BadRequest("limit: 1 to 50000 is wanted")
    wanted, values = ("desktop_key = ? AND", [desktop_key]) if desktop_key else ("", [])
    rows = m.rows(
        f"SELECT * FROM journal WHERE {wanted} seq > ? ORDER BY seq LIMIT ?",
        *values,
        after,
        limit,
    )
    return [
        {
            **dict(row),
            "detail": json.loads(row["detail"]),
            "accepting": None if row["accepting"] is None else json.loads(row["accepting"]),
        }
        for row in rows
    ]
