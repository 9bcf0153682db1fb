"""The simulated cloud itself: one store, one clock, one request at a time.

Nothing runs in the background. Before each request, everything whose time has come since the last
one is settled in order of time, each event in a transaction of its own at its own instant, so that
the store, the journal and every later answer are the same as if it had happened then.
"""

from __future__ import annotations

import inspect
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from desktops.clouds.simulator import (
    adoption,
    faults,
    inventory,
    moment,
    servers,
    sessions,
    transfers,
    volumes,
)
from desktops.clouds.simulator.clock import Clock, WallClock
from desktops.clouds.simulator.errors import BadRequest
from desktops.clouds.simulator.faults import REFUSALS, NoAnswer
from desktops.clouds.simulator.moment import Moment
from desktops.clouds.simulator.store import open_store
from desktops.clouds.simulator.world import EMPTY, World, parse_world

Operation = Callable[..., Any]

# What a cloud and a gateway do; faults strike these. The names are the protocols' own.
CLOUD: tuple[Operation, ...] = (
    inventory.now,
    inventory.regions,
    inventory.inventory,
    servers.server,
    servers.find_server,
    servers.create_server,
    servers.start_server,
    servers.stop_server,
    servers.delete_server,
    servers.fence_server,
    servers.unfence_server,
    servers.live_migrate,
    volumes.volume,
    volumes.find_volume,
    volumes.find_snapshot,
    volumes.create_volume,
    volumes.delete_volume,
    volumes.snapshot_volume,
    volumes.delete_snapshot,
    volumes.volume_place,
    volumes.snapshot_place,
    volumes.receive_volume,
    transfers.copy_image,
    transfers.copy_volume,
    transfers.abandon_copy,
)
GATEWAY: tuple[Operation, ...] = (sessions.session, sessions.hold, sessions.point)
# What only a demo's seeder and tests do.
ADMIN: Mapping[str, Operation] = {
    "load_world": inventory.load_world,
    "world": inventory.world,
    "link": inventory.link,
    "adopt": adoption.adopt,
    "presence": sessions.set_presence,
    "content": volumes.content,
    "inject_fault": faults.inject_fault,
    "faults": faults.standing_faults,
    "clear_faults": faults.clear_faults,
    "log": moment.journal_since,
}
OPERATIONS: Mapping[str, Operation] = {
    **{f"cloud/{operation.__name__}": operation for operation in CLOUD},
    **{f"gateway/{operation.__name__}": operation for operation in GATEWAY},
    **ADMIN,
}
AGENDA: Mapping[str, Callable[[Moment, str], None]] = {
    "server_up": servers.server_up,
    "server_stopped": servers.server_stopped,
    "server_deleted": servers.server_deleted,
    "server_migrated": servers.server_migrated,
    "live_migration_ended": servers.live_migration_ended,
    "volume_created": volumes.volume_created,
    "volume_deleted": volumes.volume_deleted,
    "snapshot_created": volumes.snapshot_created,
    "transfer_setup": transfers.transfer_setup,
    "transfer_sent": transfers.transfer_sent,
    "transfer_done": transfers.transfer_done,
    "connect_user": sessions.connect_user,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """speed : simulated seconds per real second; seed : of every latency and chance"""

    speed: float = 10.0
    seed: int = 1


class Simulation:
    def __init__(self, path: Path, settings: Settings, wall_clock: Callable[[], int]) -> None:
        """Open the store at `path`, or begin one there; raises StoreError."""
        self._db = open_store(path)
        self._lock = threading.Lock()
        self._seed = settings.seed
        self._wall_clock = wall_clock
        self._world: World = EMPTY
        self._newest_ms = self._db.execute(
            "SELECT coalesce(max(at_ms), 0) FROM journal"
        ).fetchone()[0]
        self._clock = self._stored_clock() or self._set_clock(wall_clock(), settings.speed)
        self._read_world()
        with self._lock:
            m = self._settle()
        if self._clock.speed != settings.speed:
            self._clock = self._set_clock(m.at_ms, settings.speed)

    def run(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Carry out one operation and return its answer, ready for JSON.

        Raises CloudError; NoAnswer when the caller is to be left without one.
        """
        operation = OPERATIONS.get(name)
        if operation is None:
            raise BadRequest(f"no operation {name!r}")
        check_arguments(operation, arguments)
        with self._lock:
            m = self._settle()
            fault = None if name in ADMIN else self._fault(m, operation.__name__, arguments)
            if fault in REFUSALS:
                raise REFUSALS[fault](f"{operation.__name__} refused: {fault} by order")
            with _transaction(self._db):
                answer = operation(m, **arguments)
            if operation is inventory.load_world:
                self._read_world()
        if fault == "lost_answer":
            raise NoAnswer(f"the answer of {operation.__name__} is lost by order")
        return answer

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _settle(self) -> Moment:
        """Let everything happen that is due, and return the moment that is now."""
        # A wall clock set back must not turn back what has been seen already.
        self._newest_ms = max(self._newest_ms, self._clock.sim_ms(self._wall_clock()))
        m = Moment(self._db, self._clock, self._world, self._seed, self._newest_ms)
        while due := m.row(
            "SELECT * FROM agenda WHERE at_ms <= ? ORDER BY at_ms, seq LIMIT 1", m.at_ms
        ):
            with _transaction(self._db):
                m.do("DELETE FROM agenda WHERE seq = ?", due["seq"])
                AGENDA[due["kind"]](m.at(due["at_ms"]), due["subject"])
        return m

    def _fault(self, m: Moment, operation: str, arguments: Mapping[str, Any]) -> str | None:
        regions = {
            arguments[name]
            for name in ("region", "source_region", "dest_region")
            if name in arguments
        }
        with _transaction(self._db):
            return faults.request_fault(m, operation, regions)

    def _read_world(self) -> None:
        row = self._db.execute("SELECT value FROM meta WHERE key = 'world'").fetchone()
        if row is not None:
            self._world = parse_world(json.loads(row["value"]))

    def _stored_clock(self) -> Clock | None:
        row = self._db.execute("SELECT value FROM meta WHERE key = 'clock'").fetchone()
        return None if row is None else Clock(**json.loads(row["value"]))

    def _set_clock(self, sim_ms: int, speed: float) -> Clock:
        clock = Clock(sim_anchor_ms=sim_ms, wall_anchor_ms=self._wall_clock(), speed=speed)
        value = json.dumps({name: getattr(clock, name) for name in clock.__slots__})
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('clock', ?)", (value,))
        return clock


def open_simulation(path: Path, settings: Settings) -> Simulation:
    return Simulation(path, settings, WallClock())


def check_arguments(operation: Operation, arguments: Mapping[str, Any]) -> None:
    """Raise BadRequest unless the operation takes these arguments, each of its type."""
    try:
        inspect.signature(operation).bind(None, **arguments)
    except TypeError as error:
        raise BadRequest(f"{operation.__name__}: {error}") from None
    hints = get_type_hints(operation)
    for name, value in arguments.items():
        # JSON's true is no number, though Python's is.
        is_wrong_bool = isinstance(value, bool) and hints[name] is not bool
        if is_wrong_bool or not isinstance(value, hints[name]):
            raise BadRequest(f"{operation.__name__}: {name} cannot be {value!r:.60}")


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
