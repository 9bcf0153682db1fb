from __future__ import annotations

import os

import pytest

from desktops.clouds.openstack.driver import OpenStackCloud
from desktops.core.cloud import MemoryMode, NotFound, Server
from tests.openstack.conftest import GIB, Hands

ADMIN_CLOUD = os.environ.get("FOREDESK_TEST_ADMIN_CLOUD")


def test_both_regions_are_seen_whole(
    cloud: OpenStackCloud, hands: Hands, desktop: Server, east: str, west: str
) -> None:
    here, there = cloud.inventory(east), cloud.inventory(west)
    assert (here.region, there.region) == (east, west)
    assert cloud.server(east, desktop.id) in here.servers
    assert desktop.id not in {server.id for server in there.servers}
    (volume,) = [v for v in here.volumes if v.id in desktop.volume_ids]
    assert (volume.attached_to, volume.size_bytes, volume.is_bootable) == (desktop.id, GIB, True)
    flavor = next(one for one in here.flavors if one.name == hands.flavor)
    assert flavor.vcpus > 0 and flavor.memory_bytes > 0
    assert here.quota.servers_used >= 1
    assert here.quota.volume_bytes_used >= GIB


def test_hosts_are_seen_by_an_administrator_alone(cloud: OpenStackCloud, east: str) -> None:
    hosts = cloud.inventory(east).hosts
    if "admin" in cloud.api(east, cloud=ADMIN_CLOUD or None).roles():
        assert any(host.is_up and host.is_enabled for host in hosts)
    else:
        assert hosts == ()


def test_what_the_cloud_can_do_is_said_honestly(cloud: OpenStackCloud) -> None:
    can = cloud.capabilities()
    assert can.memory_modes <= {MemoryMode.NONE, MemoryMode.LIVE}
    assert not can.is_simulated
    assert not can.incremental_copy


def test_a_region_that_is_not_there_is_not_found(cloud: OpenStackCloud) -> None:
    with pytest.raises(NotFound, match="atlantis"):
        cloud.inventory("atlantis")
