"""What there is: worlds, regions, and everything in one region at one moment."""

from __future__ import annotations

import json
from typing import Any

from desktops.clouds.simulator import quota, servers, volumes
from desktops.clouds.simulator.moment import Moment
from desktops.clouds.simulator.world import parse_world
from desktops.core.cloud import Conflict


def now(m: Moment) -> Any:
    return m.at_ms


def regions(m: Moment) -> Any:
    return sorted(m.world.regions)


def inventory(m: Moment, *, region: str) -> Any:
    m.region(region)
    volume_rows = m.rows("SELECT * FROM volumes WHERE region = ? ORDER BY name, id", region)
    attached: dict[str, list[str]] = {}
    for row in volume_rows:
        if row["attached_to"] is not None:
            attached.setdefault(row["attached_to"], []).append(row["id"])
    return {
        "region": region,
        "observed_at_ms": m.at_ms,
        "flavors": [
            {
                "name": flavor.name,
                "vcpus": flavor.vcpus,
                "memory_bytes": flavor.memory_bytes,
                "price_per_hour_micros": flavor.price_per_hour_micros[region],
            }
            for flavor in m.world.flavors.values()
            if region in flavor.price_per_hour_micros
        ],
        "quota": quota.quota(m, region),
        "servers": [
            servers.view(row, sorted(attached.get(row["id"], [])))
            for row in m.rows("SELECT * FROM servers WHERE region = ? ORDER BY name, id", region)
        ],
        "volumes": [volumes.view(row) for row in volume_rows],
        "hosts": [
            {"name": host, "is_up": True, "is_enabled": True} for host in servers.hosts(m, region)
        ],
    }


def load_world(m: Moment, *, world: dict) -> Any:  # type: ignore[type-arg]  # checked when parsed
    """Make the world as described; what was built in it stays. Loading it again changes nothing."""
    parsed = parse_world(world)
    _need_what_is_used(m, set(parsed.regions), set(parsed.flavors))
    text = json.dumps(world, sort_keys=True)
    if stored_world(m) == text:
        return {"is_changed": False}
    m.do("INSERT OR REPLACE INTO meta VALUES ('world', ?)", text)
    for image in parsed.images.values():
        for region in image.regions:
            m.do(
                "INSERT OR IGNORE INTO images VALUES (?, ?, ?)",
                region,
                image.name,
                image.size_bytes,
            )
    m.record("world.loaded", regions=sorted(parsed.regions))
    return {"is_changed": True}


def world(m: Moment) -> Any:
    """The world as it was described; None before any was."""
    text = stored_world(m)
    return None if text is None else json.loads(text)


def link(m: Moment, *, source: str, dest: str) -> Any:
    """Facts of the link between two regions, estimated by distance where none were given."""
    m.region(source)
    m.region(dest)
    found = m.world.link(source, dest)
    return {
        "rtt_ms": found.rtt_ms,
        "bytes_per_s": found.bytes_per_s,
        "egress_price_per_gb_micros": found.egress_price_per_gb_micros,
    }


def stored_world(m: Moment) -> str | None:
    row = m.row("SELECT value FROM meta WHERE key = 'world'")
    return None if row is None else row["value"]


def _need_what_is_used(m: Moment, regions: set[str], flavors: set[str]) -> None:
    used = "SELECT region FROM servers UNION SELECT region FROM volumes"
    for (region,) in m.rows(used):
        if region not in regions:
            raise Conflict(f"region {region} has servers or volumes and cannot be left out")
    for (flavor,) in m.rows("SELECT DISTINCT flavor FROM servers"):
        if flavor not in flavors:
            raise Conflict(f"flavor {flavor} has servers and cannot be left out")
