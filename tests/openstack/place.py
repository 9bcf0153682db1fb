"""The cloud to test on, from the environment.

OS_CLIENT_CONFIG_FILE, OS_CLOUD   as everywhere with OpenStack
FOREDESK_TEST_ADMIN_CLOUD         an entry that may live-migrate (default: OS_CLOUD)
FOREDESK_TEST_REGIONS             two or more, source first (default: all of the catalogue)
FOREDESK_TEST_NETWORK             for servers (default: the only one)
FOREDESK_TEST_FLAVOR              (default: the smallest that both regions have)
"""

from __future__ import annotations

import os

import pytest

from desktops.clouds.openstack import connect
from desktops.clouds.openstack.driver import OpenStackCloud


def connected() -> OpenStackCloud:
    """A new driver for the cloud; skips the test where OS_CLOUD names none."""
    name = os.environ.get("OS_CLOUD")
    if not name:
        pytest.skip("OS_CLOUD names no cloud")
    regions = os.environ.get("FOREDESK_TEST_REGIONS", "")
    cloud = connect(
        name,
        cloud=name,
        admin_cloud=os.environ.get("FOREDESK_TEST_ADMIN_CLOUD") or None,
        regions=[region for region in regions.split(",") if region],
        network=os.environ.get("FOREDESK_TEST_NETWORK") or None,
    )
    assert isinstance(cloud, OpenStackCloud)
    return cloud


def two_regions(cloud: OpenStackCloud) -> tuple[str, str]:
    found = cloud.regions()
    if len(found) < 2:
        pytest.skip(f"two regions are needed; there is {found}")
    return found[0], found[1]


def common_flavor(cloud: OpenStackCloud, regions: tuple[str, str]) -> str:
    named = os.environ.get("FOREDESK_TEST_FLAVOR")
    if named:
        return named
    source, dest = (cloud.inventory(region).flavors for region in regions)
    common = {flavor.name for flavor in dest}
    sized = [(one.memory_bytes, one.vcpus, one.name) for one in source if one.name in common]
    return min(sized)[2]
