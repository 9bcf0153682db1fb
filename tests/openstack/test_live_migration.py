from __future__ import annotations

from collections.abc import Callable

import pytest

from desktops.clouds.openstack.driver import OpenStackCloud
from desktops.core.cloud import Conflict, Job, JobState, MemoryMode, Server, Unsupported
from tests.openstack.conftest import Hands


@pytest.fixture
def live(cloud: OpenStackCloud) -> OpenStackCloud:
    if MemoryMode.LIVE not in cloud.capabilities().memory_modes:
        pytest.skip("these credentials may not live-migrate: set FOREDESK_TEST_ADMIN_CLOUD")
    return cloud


def test_a_live_migration_is_done_when_its_record_says_so(
    live: OpenStackCloud,
    hands: Hands,
    desktop: Server,
    connect_again: Callable[[], OpenStackCloud],
    east: str,
) -> None:
    key = hands.key("live")

    def observe() -> Job:
        return connect_again().live_migrate(east, desktop.id, key=key)

    job = hands.wait(observe, lambda seen: seen.state is not JobState.RUNNING)
    assert job.state is JobState.DONE, job.detail
    moved = live.server(east, desktop.id)
    assert moved.is_running and moved.accepts_sessions
    assert moved.host != desktop.host
    assert observe() == job, "asking again does not migrate again"
    assert live.server(east, desktop.id).host == moved.host


def test_a_new_key_is_a_new_migration(
    live: OpenStackCloud, hands: Hands, desktop: Server, east: str
) -> None:
    hosts = [live.server(east, desktop.id).host]
    for key in (hands.key("there"), hands.key("back")):
        job = hands.wait(
            lambda key=key: live.live_migrate(east, desktop.id, key=key),  # type: ignore[misc]
            lambda seen: seen.state is not JobState.RUNNING,
        )
        assert job.state is JobState.DONE, job.detail
        hosts.append(live.server(east, desktop.id).host)
    assert hosts[0] != hosts[1] != hosts[2]


def test_a_stopped_server_cannot_migrate_live(
    live: OpenStackCloud, hands: Hands, desktop: Server, east: str
) -> None:
    hands.stopped(desktop)
    with pytest.raises(Conflict):
        live.live_migrate(east, desktop.id, key=hands.key("live"))


def test_without_the_right_it_is_not_offered_and_says_what_is_missing(
    cloud: OpenStackCloud, hands: Hands, desktop: Server, east: str
) -> None:
    if MemoryMode.LIVE in cloud.capabilities().memory_modes:
        pytest.skip("these credentials may live-migrate")
    with pytest.raises(Unsupported, match="admin_cloud"):
        cloud.live_migrate(east, desktop.id, key=hands.key("live"))
