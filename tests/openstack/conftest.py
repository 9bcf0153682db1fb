"""The cloud that OS_CLOUD names (see `place`), and hands to make and remove things there.

Everything made is called foredesk-test-RUN… and removed after its test; what a run that never
ended left behind is removed by the next one an hour later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import TypeVar
from uuid import uuid4

import pytest

from desktops.clouds.openstack.api import RegionApi
from desktops.clouds.openstack.driver import OpenStackCloud
from desktops.core.cloud import (
    CloudError,
    JobState,
    NotFound,
    Server,
    ServerSpec,
    ServerStatus,
    Volume,
    VolumeCopy,
    VolumeSpec,
    VolumeStatus,
)
from tests.openstack.content import CONTENT, upload_image
from tests.openstack.place import common_flavor, connected, two_regions
from tests.openstack.sweeping import Sweeper

T = TypeVar("T")

TIMEOUT_S = 300.0  # of one thing that the cloud does, on a busy laboratory
POLL_S = 0.5
GIB = 1 << 30


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/openstack/" in item.path.as_posix():
            item.add_marker(pytest.mark.openstack)
            item.add_marker(pytest.mark.timeout(900))
            # openstacksdk 4.22 warns of its own later releases, in every request it sends.
            item.add_marker(pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"))


@pytest.fixture(scope="session")
def connect_again() -> Callable[[], OpenStackCloud]:
    """Another worker's driver: it shares nothing with the first but the cloud."""
    return connected


@pytest.fixture(scope="session")
def cloud() -> OpenStackCloud:
    return connected()


@pytest.fixture(scope="session")
def regions(cloud: OpenStackCloud) -> tuple[str, str]:
    """Where desktops come from, and where they go."""
    return two_regions(cloud)


@pytest.fixture(scope="session")
def east(regions: tuple[str, str]) -> str:
    return regions[0]


@pytest.fixture(scope="session")
def west(regions: tuple[str, str]) -> str:
    return regions[1]


@pytest.fixture(scope="session")
def sweeper(cloud: OpenStackCloud, regions: tuple[str, str]) -> Iterator[Sweeper]:
    sweeper = Sweeper(cloud, regions)
    sweeper.sweep()
    yield sweeper
    sweeper.sweep()


@pytest.fixture(scope="session")
def flavor(cloud: OpenStackCloud, regions: tuple[str, str]) -> str:
    return common_flavor(cloud, regions)


@pytest.fixture(scope="session")
def image(cloud: OpenStackCloud, east: str, sweeper: Sweeper) -> str:
    """The name of an image in east whose bytes are `content.CONTENT`."""
    name = f"{sweeper.prefix}-image"
    upload_image(cloud.api(east), name, CONTENT)
    return name


class Hands:
    """Makes things under new keys and waits for them."""

    def __init__(
        self, cloud: OpenStackCloud, sweeper: Sweeper, *, flavor: str, image: str, east: str
    ) -> None:
        self.cloud, self.sweeper = cloud, sweeper
        self.flavor, self.image, self.east = flavor, image, east

    def key(self, what: str) -> str:
        return f"{self.sweeper.prefix}:{what}:{uuid4().hex[:12]}"

    def api(self, region: str) -> RegionApi:
        return self.cloud.api(region)

    def wait(self, observe: Callable[[], T], is_wanted: Callable[[T], object]) -> T:
        deadline = monotonic() + TIMEOUT_S
        while True:
            seen = observe()
            if is_wanted(seen):
                return seen
            if monotonic() > deadline:
                raise AssertionError(f"not within {TIMEOUT_S} s; last seen: {seen}")
            sleep(POLL_S)

    def volume(self, *, key: str | None = None) -> Volume:
        """A bootable volume in east, holding the image."""
        key = key or self.key("volume")
        spec = VolumeSpec(name=key, size_bytes=GIB, image=self.image)
        asked = self.cloud.create_volume(self.east, spec, key=key)
        return self.until_available(asked)

    def until_available(self, volume: Volume) -> Volume:
        def look() -> Volume:
            seen = self.cloud.volume(volume.region, volume.id)
            assert seen.status is not VolumeStatus.ERROR, seen
            return seen

        return self.wait(look, lambda seen: seen.status is VolumeStatus.AVAILABLE)

    def desktop(self, *, key: str | None = None, is_fenced: bool = False) -> Server:
        """A running server in east, on a volume of its own."""
        key = key or self.key("desktop")
        return self.boot(self.volume(key=key), key=key, is_fenced=is_fenced)

    def boot(self, volume: Volume, *, key: str, is_fenced: bool = False) -> Server:
        spec = ServerSpec(
            name=key, flavor=self.flavor, boot_volume_id=volume.id, is_fenced=is_fenced
        )
        return self.until(
            self.cloud.create_server(volume.region, spec, key=key), lambda seen: seen.is_running
        )

    def until(self, server: Server, is_wanted: Callable[[Server], object]) -> Server:
        def look() -> Server:
            seen = self.cloud.server(server.region, server.id)
            assert seen.status is not ServerStatus.ERROR, seen.fault
            return seen

        return self.wait(look, is_wanted)

    def stopped(self, server: Server) -> Server:
        self.cloud.stop_server(server.region, server.id)
        return self.until(server, lambda seen: seen.is_stopped)

    def deleted(self, server: Server) -> None:
        self.cloud.delete_server(server.region, server.id)
        self.wait(lambda: self.is_gone(server), bool)

    def is_gone(self, server: Server) -> bool:
        try:
            self.cloud.server(server.region, server.id)
        except NotFound:
            return True
        return False

    def copied(self, advance: Callable[[], VolumeCopy]) -> VolumeCopy:
        copy = self.wait(advance, lambda seen: seen.state is not JobState.RUNNING)
        assert copy.state is JobState.DONE, copy.detail
        return copy

    def abandoned(self, west: str, *, key: str) -> None:
        def is_abandoned() -> bool:
            try:
                self.cloud.abandon_copy(west, source_region=self.east, key=key)
            except CloudError as error:
                if error.is_retryable:
                    return False
                raise
            return True

        self.wait(is_abandoned, bool)


@pytest.fixture
def hands(
    cloud: OpenStackCloud, sweeper: Sweeper, flavor: str, image: str, east: str
) -> Iterator[Hands]:
    """Hands whose work is removed after the test, but for the image."""
    yield Hands(cloud, sweeper, flavor=flavor, image=image, east=east)
    sweeper.sweep(keep=image)


@pytest.fixture
def desktop(hands: Hands) -> Server:
    """A running, volume-backed desktop in east, with a key."""
    return hands.desktop()
