"""Whatever is asked in whatever order, the simulated cloud stays one that could exist."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from desktops.core.cloud import CloudError
from tests.support.simulator import GB, desktop, two_regions
from tests.unit.simulator.bench import Bench

QUOTA = {"servers": 6, "vcpus": 14, "memory_bytes": 60 * GB, "volume_bytes": 300 * GB}
DESKTOPS = ("ana", "ben")
KEYS = ("k1", "k2", "k3", "k4")
FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "boot_error"},
    {"kind": "copy_fails", "value": 0.3},
    {"kind": "live_migration_fails"},
    {"kind": "slow_boot", "value": 90},
    {"kind": "lost_answer"},
    {"kind": "region_unreachable", "region": "west", "value": 60},
)


class Monkey:
    """Asks for anything, mostly of things that exist."""

    def __init__(self, bench: Bench, random: Random) -> None:
        self.bench, self.random = bench, random

    def act(self) -> None:
        act = self.random.choice((self.server_command, self.make, self.copy, self.session))
        with suppress(CloudError):  # a refusal is an answer
            act()
        if self.random.random() < 0.05:
            self.bench.admin("inject_fault", **self.random.choice(FAULTS))
        if self.random.random() < 0.03:
            self.bench.reopen()
        self.bench.wait(self.random.choice((0, 0, 1, 5, 30, 300)))

    def region(self) -> str:
        return self.random.choice(("east", "west"))

    def some(self, what: str, region: str) -> str:
        there = self.bench.cloud("inventory", region=region)[what]
        return self.random.choice(there)["id"] if there else "nothing"

    def server_command(self) -> None:
        region = self.region()
        command = self.random.choice(
            ("start", "stop", "stop", "delete", "fence", "unfence", "unfence", "migrate")
        )
        where = {"region": region, "server_id": self.some("servers", region)}
        if command == "migrate":
            self.bench.cloud("live_migrate", key=self.random.choice(KEYS), **where)
        else:
            self.bench.cloud(f"{command}_server", **where)

    def make(self) -> None:
        region, key = self.region(), self.random.choice(KEYS)
        volume_id = self.some("volumes", region)
        match self.random.randrange(5):
            case 0:
                self.bench.cloud(
                    "create_volume",
                    region=region,
                    key=key,
                    name=key,
                    size_bytes=20 * GB,
                    image="desktop-2026",
                )
            case 1 | 2:
                self.bench.cloud(
                    "create_server",
                    region=region,
                    key=key,
                    name=key,
                    flavor=self.random.choice(("desktop.small", "desktop.medium")),
                    boot_volume_id=volume_id,
                    is_fenced=self.random.random() < 0.5,
                    metadata={"foredesk:desktop": self.random.choice(DESKTOPS)},
                )
            case 3:
                self.bench.cloud("delete_volume", region=region, volume_id=volume_id)
            case 4:
                made = self.bench.cloud(
                    "snapshot_volume", region=region, volume_id=volume_id, key=key
                )
                self.bench.wait(20)
                self.bench.cloud("delete_snapshot", region=region, snapshot_id=made["id"])

    def copy(self) -> None:
        source, dest = self.random.choice((("east", "west"), ("west", "east")))
        regions = {"source_region": source, "dest_region": dest}
        key = self.random.choice(KEYS)
        match self.random.randrange(5):
            case 0:
                self.bench.cloud("abandon_copy", key=key, **regions)
            case 1:
                self.bench.cloud("copy_image", image="desktop-2026", key=key, **regions)
            case _:
                has_base = self.random.random() < 0.5
                self.bench.cloud(
                    "copy_volume",
                    volume_id=self.some("volumes", source),
                    key=key,
                    base_volume_id=self.some("volumes", dest) if has_base else None,
                    **regions,
                )

    def session(self) -> None:
        key, region = self.random.choice(DESKTOPS), self.region()
        token = self.random.randrange(3)
        match self.random.randrange(3):
            case 0:
                self.bench.gateway("hold", desktop_key=key, token=token)
            case 1:
                self.bench.gateway(
                    "point",
                    desktop_key=key,
                    region=region,
                    server_id=self.some("servers", region),
                    token=token,
                )
            case 2:
                is_present = self.random.random() < 0.7
                self.bench.admin("presence", desktop_key=key, is_present=is_present)


@pytest.mark.parametrize("seed", range(25))
def test_any_course_of_events_leaves_a_cloud_that_could_exist(tmp_path: Path, seed: int) -> None:
    bench = Bench(tmp_path, seed=seed)
    world = two_regions()
    regions = [region | {"quota": QUOTA} for region in world["regions"]]
    bench.admin("load_world", world=world | {"regions": regions})
    bench.admin("adopt", desktops=[desktop(key, is_user_present=True) for key in DESKTOPS])
    monkey = Monkey(bench, Random(seed))
    for _ in range(120):
        monkey.act()
        assert_possible(bench)
    bench.admin("clear_faults")
    bench.wait(7 * 86_400)
    assert_settled(bench)
    bench.simulation.close()


def assert_possible(bench: Bench) -> None:
    db: sqlite3.Connection = bench.simulation._db

    def none(sql: str) -> None:
        assert [tuple(row) for row in db.execute(sql)] == []

    running = "('ACTIVE', 'MIGRATING')"
    # A volume belongs to one server of its region, and is written exactly while that runs.
    none(
        "SELECT v.id FROM volumes v LEFT JOIN servers s ON s.id = v.attached_to"
        " WHERE v.attached_to IS NOT NULL AND (s.id IS NULL OR s.region <> v.region)"
    )
    none("SELECT attached_to FROM volumes GROUP BY attached_to HAVING count(attached_to) > 1")
    none(
        "SELECT v.id, v.run_id, s.status FROM volumes v LEFT JOIN servers s"
        f" ON s.id = v.attached_to WHERE (v.run_id IS NOT NULL) <> ifnull(s.status IN {running}, 0)"
    )
    none(
        "SELECT id, status FROM volumes WHERE attached_to IS NULL AND status = 'in-use'"
        " OR attached_to IS NOT NULL AND status NOT IN ('in-use', 'busy')"
    )
    # A pass under way has its source and its destination.
    none(
        "SELECT t.id FROM transfers t WHERE t.kind = 'volume' AND t.state = 'running' AND"
        " (t.source_id NOT IN (SELECT id FROM volumes) OR t.dest_id NOT IN"
        " (SELECT id FROM volumes WHERE status IN ('creating', 'busy')))"
    )
    none("SELECT id FROM transfers WHERE bytes_done > bytes_total OR bytes_done < 0")
    # Nobody is on a server that does not accept them.
    none(
        "SELECT c.desktop_key FROM sessions c WHERE c.connected_to IS NOT NULL AND (c.is_held"
        " OR NOT c.is_present OR c.connected_to <> c.server_id OR c.connected_to NOT IN"
        f" (SELECT id FROM servers WHERE status IN {running} AND NOT is_fenced))"
    )
    for desktop_key in DESKTOPS:
        assert recorded(db, desktop_key) == actual(db, desktop_key, running)


def recorded(db: sqlite3.Connection, desktop_key: str) -> str:
    row = db.execute(
        "SELECT accepting FROM journal WHERE desktop_key = ? AND accepting IS NOT NULL"
        " ORDER BY seq DESC LIMIT 1",
        (desktop_key,),
    ).fetchone()
    return str(row[0])


def actual(db: sqlite3.Connection, desktop_key: str, running: str) -> str:
    row = db.execute(
        "SELECT coalesce(group_concat(quoted, ', '), '') FROM (SELECT '\"' || id || '\"' AS quoted"
        f" FROM servers WHERE desktop_key = ? AND status IN {running} AND NOT is_fenced"
        " ORDER BY id)",
        (desktop_key,),
    ).fetchone()
    return f"[{row[0]}]"


def assert_settled(bench: Bench) -> None:
    """A week later nothing is under way any more, and the quotas were never passed."""
    for region in ("east", "west"):
        seen = bench.cloud("inventory", region=region)
        assert [s for s in seen["servers"] if s["is_busy"] or s["status"] == "MIGRATING"] == []
        assert {v["status"] for v in seen["volumes"]} <= {"available", "in-use", "error"}
        for name, limit in QUOTA.items():
            assert seen["quota"][f"{name}_used"] <= limit
    db = bench.simulation._db
    for table in ("transfers", "live_migrations"):
        count = db.execute(f"SELECT count(*) FROM {table} WHERE state = 'running'").fetchone()[0]
        assert count == 0
    assert db.execute("SELECT count(*) FROM agenda").fetchone()[0] == 0
    instants = [entry["at_ms"] for entry in bench.log()]
    assert instants == sorted(instants)
