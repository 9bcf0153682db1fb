"""Whole transitions on a real OpenStack, ordered and driven as from the page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.test import Client
from django.utils import timezone

from desktops.clouds import registry
from desktops.clouds.openstack.driver import OpenStackCloud
from desktops.core.cloud import MemoryMode, NotFound, Server
from desktops.models import Dataset, Desktop, Event, Pool, Region
from desktops.services.inventory import sync_inventory
from forecasting.models import Generation
from migration.core.machine import PATHS, State, Strategy
from migration.models import Plan, Recommendation, Transition
from tests.openstack.conftest import TIMEOUT_S, Hands
from tests.support.driving import drive_to
from webapp.models import User

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def pool(cloud: OpenStackCloud, settings: Any) -> Iterator[Pool]:
    """A pool of the cloud under test, in the product's own settings and tables."""
    options = {
        "cloud": cloud.name,
        "admin_cloud": os.environ.get("FOREDESK_TEST_ADMIN_CLOUD") or None,
        "regions": cloud.regions(),
        "network": os.environ.get("FOREDESK_TEST_NETWORK") or None,
    }
    settings.CLOUDS = {cloud.name: {"driver": "desktops.clouds.openstack", "options": options}}
    registry.get_cloud.cache_clear()
    dataset = Dataset.objects.create(name="live", label="Live", kind=Dataset.Kind.LIVE)
    yield Pool.objects.create(
        dataset=dataset, name="live", label="Live", cloud=cloud.name, commit_window_s=0
    )
    registry.get_cloud.cache_clear()


def approve_over_rest(
    pool: Pool, cloud: OpenStackCloud, server: Server, *, to: str, strategy: Strategy
) -> Transition:
    """Sync the inventory, recommend the move, and approve it as a signed-in approver."""
    sync_inventory(cloud=cloud, at=timezone.now())
    now = timezone.now()
    generation = Generation.objects.create(
        dataset=pool.dataset,
        as_of=now,
        engine="test",
        state=Generation.State.COMPLETE,
        started_at=now,
    )
    desktop = Desktop.objects.get(server_id=server.id)
    recommendation = Recommendation.objects.create(
        plan=Plan.objects.create(
            dataset=pool.dataset, generation=generation, as_of=now, made_at=now
        ),
        pool=pool,
        desktop=desktop,
        action=Recommendation.Action.PREPARE,
        state=Recommendation.State.AWAITING_APPROVAL,
        strategy=strategy,
        source_region=desktop.region,
        dest_region=Region.objects.get(cloud=cloud.name, name=to),
        currency="USD",
        stay_cost_micros=2,
        action_cost_micros=1,
        gain_micros=1,
        confidence=1,
        reason="Needed there.",
        expires_at=now + timedelta(hours=2),
    )
    alice = User.objects.create_user("alice", password="alice-password")
    alice.groups.add(Group.objects.get(name="approver"))
    pool.members.add(alice)
    browser = Client()
    browser.force_login(alice)
    answer = browser.post(
        f"/api/v1/recommendations/{recommendation.pk}/approve/",
        {"confirm_now": True},
        content_type="application/json",
    )
    assert answer.status_code in (200, 201, 202), answer.content
    return Transition.objects.get(recommendation=recommendation)


def states_entered(transition: Transition) -> list[str]:
    moves = Event.objects.filter(kind="transition.moved", object_id=str(transition.pk))
    return [move.payload["to_state"] for move in moves.order_by("seq")]


def test_a_desktop_moves_from_one_region_to_the_other_by_stop(
    pool: Pool, cloud: OpenStackCloud, hands: Hands, desktop: Server, east: str, west: str
) -> None:
    transition = approve_over_rest(pool, cloud, desktop, to=west, strategy=Strategy.STOP)
    try:
        drive_to(transition, State.NEEDS_OPERATOR, timeout_s=3 * TIMEOUT_S)
        assert transition.state == State.DONE, (transition.failure, transition.trouble)
        assert states_entered(transition) == [s.value for s in PATHS[Strategy.STOP][1:]]
        moved = cloud.server(west, transition.dest_server_id)
        assert moved.accepts_sessions
        assert moved.volume_ids == (transition.dest_volume_id,)
        with pytest.raises(NotFound):
            cloud.server(east, desktop.id)
        with pytest.raises(NotFound):
            cloud.volume(east, transition.source_volume_id)
        row = Desktop.objects.get(pk=transition.desktop_id)
        assert (row.region.name, row.server_id) == (west, moved.id)
    finally:
        remove(cloud, hands, transition, west)


def remove(cloud: OpenStackCloud, hands: Hands, transition: Transition, region: str) -> None:
    """What the product made carries its own keys, which the sweeper does not know."""
    transition.refresh_from_db()
    if transition.dest_server_id:
        hands.deleted(cloud.server(region, transition.dest_server_id))
    if transition.dest_volume_id:
        cloud.delete_volume(region, transition.dest_volume_id)


def test_a_desktop_moves_to_another_host_while_it_runs(
    pool: Pool, cloud: OpenStackCloud, desktop: Server, east: str
) -> None:
    if MemoryMode.LIVE not in cloud.capabilities().memory_modes:
        pytest.skip("these credentials may not live-migrate: set FOREDESK_TEST_ADMIN_CLOUD")
    transition = approve_over_rest(pool, cloud, desktop, to=east, strategy=Strategy.LIVE)
    drive_to(transition, State.NEEDS_OPERATOR, timeout_s=2 * TIMEOUT_S)
    assert transition.state == State.DONE, (transition.failure, transition.trouble)
    assert states_entered(transition) == [s.value for s in PATHS[Strategy.LIVE][1:]]
    moved = cloud.server(east, desktop.id)
    assert moved.is_running
    assert moved.host != desktop.host
