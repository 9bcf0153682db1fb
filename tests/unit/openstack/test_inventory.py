"""A region's listing out of the services' answers, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from desktops.clouds.openstack.api import RegionApi
from desktops.clouds.openstack.driver import OpenStackCloud
from desktops.core.cloud import CloudError, Forbidden, Host, Inventory, NotFound

Json = dict[str, Any]

COMPUTE = {
    **{"maxTotalInstances": -1, "totalInstancesUsed": 1, "maxTotalCores": 8},
    **{"totalCoresUsed": 2, "maxTotalRAMSize": 4096, "totalRAMUsed": 1024},
}
STORAGE = {"maxTotalVolumeGigabytes": 100, "totalGigabytesUsed": 10}


class Services(RegionApi):
    """One region's services; `hosts` is what asking for them comes to."""

    def __init__(self, roles: set[str], hosts: list[Json] | CloudError) -> None:
        super().__init__("test", "east")
        self._roles, self._hosts = roles, hosts
        self.sent: list[str] = []

    @property
    def project_id(self) -> str:
        return "project"

    def roles(self) -> frozenset[str]:
        return frozenset(self._roles)

    def get(self, service: str, path: str, **params: Any) -> Json:
        self.sent.append(path)
        if path == "/os-services":
            if isinstance(self._hosts, CloudError):
                raise self._hosts
            return {"services": self._hosts}
        return {"limits": {"absolute": COMPUTE if service == "compute" else STORAGE}}

    def pages(self, service: str, path: str, key: str, **params: Any) -> Iterator[Json]:
        self.sent.append(path)
        return iter(())


def listing(services: Services) -> Inventory:
    class Cloud(OpenStackCloud):
        def api(self, region: str | None, *, cloud: str | None = None) -> RegionApi:
            return services

    cloud = Cloud(
        "test",
        cloud=None,
        admin_cloud=None,
        regions=("east",),
        network=None,
        security_groups=(),
        live_migration=False,
        copy_format="qcow2",
    )
    return cloud.inventory("east")


def test_an_administrator_sees_the_hosts() -> None:
    services = Services({"admin"}, [{"host": "a", "state": "up", "status": "enabled"}])
    assert listing(services).hosts == (Host("a", is_up=True, is_enabled=True),)
    assert len(services.sent) == 7


def test_a_member_is_not_refused_for_asking() -> None:
    services = Services({"member"}, Forbidden("os-services"))
    assert listing(services).hosts == ()
    assert len(services.sent) == 6


@pytest.mark.parametrize("error", [Forbidden("policy"), NotFound("no such region")])
def test_a_region_is_listed_without_its_hosts_where_they_cannot_be_seen(error: CloudError) -> None:
    seen = listing(Services({"admin"}, error))
    assert seen.hosts == ()
    assert seen.quota.servers is None and seen.quota.vcpus == 8
