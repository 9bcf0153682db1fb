from __future__ import annotations

import pytest
from django.utils import timezone

from desktops.clouds.simulator.journal import doubles, gaps
from desktops.core.cloud import NotFound, ServerStatus
from desktops.models import Event
from migration.core.machine import PATHS, State, Strategy
from migration.models import Shadow, Step
from migration.services.decisions import approve_recommendation
from tests.support.driving import drive_to
from tests.support.fleet import make_fleet
from tests.support.simulator import SimulatorProcess

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_approved_move_ends_in_the_other_region_with_the_source_released(
    simulated: SimulatorProcess,
) -> None:
    fleet = make_fleet(simulated)
    desktop = fleet.desktop(simulated, is_user_present=True)
    cloud = simulated.cloud()
    transition = approve_recommendation(
        recommendation_id=fleet.recommendation(desktop).pk,
        actor=fleet.alice,
        at=timezone.now(),
        confirm_now=True,
    )
    drive_to(transition)

    assert transition.state == State.DONE, transition.failure
    desktop.refresh_from_db()
    assert desktop.region == fleet.west
    moved = cloud.server("west", desktop.server_id)
    assert moved.accepts_sessions
    assert moved.volume_ids == (desktop.volume_id,)
    with pytest.raises(NotFound):
        cloud.server("east", transition.source_server_id)
    with pytest.raises(NotFound):
        cloud.volume("east", transition.source_volume_id)
    log = simulated.admin.log(desktop_key=desktop.key)
    assert not doubles(log)
    (gap,) = gaps(log, desktop_key=desktop.key)
    assert gap.was_held, "without a copy only between the freeze and the reconnection"
    entered = [
        e.payload["to_state"] for e in Event.objects.filter(kind="transition.moved").order_by("seq")
    ]
    assert entered == [s.value for s in PATHS[Strategy.STOP][1:]]
    assert transition.stall_ms is not None and transition.stall_ms > 0
    assert set(transition.steps.values_list("outcome", flat=True)) == {Step.Outcome.DONE}


def test_a_kept_source_becomes_a_shadow_and_shortens_the_way_home(
    simulated: SimulatorProcess,
) -> None:
    fleet = make_fleet(simulated)
    desktop = fleet.desktop(simulated, dirty_bytes_per_s=1000, dirty_saturation_bytes=10**8)
    out = approve_recommendation(
        recommendation_id=fleet.recommendation(desktop, keeps_source_as_shadow=True).pk,
        actor=fleet.alice,
        at=timezone.now(),
        confirm_now=True,
    )
    drive_to(out)
    assert out.state == State.DONE, out.failure
    shadow = Shadow.objects.get(desktop=desktop, region=fleet.east)
    assert shadow.state == Shadow.State.READY
    assert shadow.volume_id == out.source_volume_id
    with pytest.raises(NotFound):
        simulated.cloud().server("east", out.source_server_id)

    desktop.refresh_from_db()
    left = simulated.admin.content("east", out.source_volume_id)
    now = simulated.admin.content("west", desktop.volume_id)
    assert now.descends_from(left.version), "nothing that was on the source is lost"

    plan = fleet.plan()
    plan.superseded_at = timezone.now()
    plan.save()
    home = approve_recommendation(
        recommendation_id=fleet.recommendation(
            desktop, source_region=fleet.west, dest_region=fleet.east
        ).pk,
        actor=fleet.alice,
        at=timezone.now(),
        confirm_now=True,
    )
    drive_to(home)
    assert home.state == State.DONE, home.failure
    assert home.shadow == shadow
    first, back = (sum(s.bytes_total or 0 for s in t.steps.all()) for t in (out, home))
    assert back < first / 4, "only what changed since travels home"


def test_it_waits_at_ready_until_it_is_confirmed(simulated: SimulatorProcess) -> None:
    fleet = make_fleet(simulated)
    desktop = fleet.desktop(simulated)
    transition = approve_recommendation(
        recommendation_id=fleet.recommendation(desktop).pk, actor=fleet.alice, at=timezone.now()
    )
    drive_to(transition, State.READY)
    assert transition.state == State.READY
    assert "confirmation" in transition.waiting_for
    server = simulated.cloud().server("east", desktop.server_id)
    assert server.status is ServerStatus.ACTIVE
