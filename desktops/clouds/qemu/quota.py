"""What a region may hold, and holds: sums over its records."""

from __future__ import annotations

from collections.abc import Mapping

from desktops.clouds.qemu.store import Region
from desktops.core.cloud import Flavor, Quota, QuotaExceeded


def used(region: Region) -> Quota:
    limits, servers = region.options.limits, region.servers.all()
    return Quota(
        servers=limits.servers,
        servers_used=len(servers),
        vcpus=limits.vcpus,
        vcpus_used=sum(server.definition.vcpus for server in servers),
        memory_bytes=limits.memory_bytes,
        memory_bytes_used=sum(server.definition.memory_bytes for server in servers),
        volume_bytes=limits.volume_bytes,
        volume_bytes_used=sum(volume.size_bytes for volume in region.volumes.all()),
    )


def check_server(region: Region, flavor: Flavor) -> None:
    now = used(region)
    _check(
        region,
        {
            "servers": (now.servers_used + 1, now.servers),
            "vcpus": (now.vcpus_used + flavor.vcpus, now.vcpus),
            "memory": (now.memory_bytes_used + flavor.memory_bytes, now.memory_bytes),
        },
    )


def check_volume(region: Region, size_bytes: int) -> None:
    now = used(region)
    _check(region, {"volumes": (now.volume_bytes_used + size_bytes, now.volume_bytes)})


def _check(region: Region, wanted: Mapping[str, tuple[int, int | None]]) -> None:
    for what, (needed, limit) in wanted.items():
        if limit is not None and needed > limit:
            raise QuotaExceeded(f"{region.name}: {what}: {needed} wanted, {limit} allowed.")
