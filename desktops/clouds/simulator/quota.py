"""What a project uses of a region, and whether more may be had."""

from __future__ import annotations

from typing import Any

from desktops.clouds.simulator.moment import Moment
from desktops.core.cloud import QuotaExceeded


def usage(m: Moment, region: str) -> dict[str, int]:
    """Servers count in every state, as Nova counts them; volumes as soon as they are asked for."""
    servers = m.rows(
        "SELECT flavor, count(*) AS n FROM servers WHERE region = ? GROUP BY flavor", region
    )
    flavors = m.world.flavors
    return {
        "servers": sum(row["n"] for row in servers),
        "vcpus": sum(row["n"] * flavors[row["flavor"]].vcpus for row in servers),
        "memory_bytes": sum(row["n"] * flavors[row["flavor"]].memory_bytes for row in servers),
        "volume_bytes": m.rows(
            "SELECT coalesce(sum(size_bytes), 0) FROM volumes WHERE region = ?", region
        )[0][0],
    }


def need_quota(m: Moment, region: str, **wanted: int) -> None:
    """Raise QuotaExceeded when `wanted` of the named resources is more than is left."""
    limits = {resource: getattr(m.region(region).quota, resource) for resource in wanted}
    if not any(limit is not None for limit in limits.values()):
        return
    used = usage(m, region)
    for resource, amount in wanted.items():
        limit = limits[resource]
        if limit is not None and used[resource] + amount > limit:
            raise QuotaExceeded(
                f"Quota exceeded for {resource} in {region}:"
                f" requested {amount}, used {used[resource]} of {limit}"
            )


def quota(m: Moment, region: str) -> dict[str, Any]:
    used = usage(m, region)
    limits = m.region(region).quota
    return {name: getattr(limits, name) for name in used} | {
        f"{name}_used": amount for name, amount in used.items()
    }
