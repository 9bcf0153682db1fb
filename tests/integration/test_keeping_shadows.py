"""A shadow's life outside of moves, on the simulated cloud: seeded, kept in step, paused, tried,
let go; and on rows alone: who may ask for what, and what is cleared up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone

from desktops.core.cloud import NotFound, ServerSpec
from desktops.errors import NotPermitted
from desktops.models import Event, Pool, Region
from desktops.services.inventory import sync_inventory
from migration.core.machine import State
from migration.errors import NotPossible
from migration.models import Pass, Shadow, ShadowTest, Transition
from migration.relaying import sweep_sent
from migration.services import shadows
from migration.services.decisions import approve_recommendation
from migration.services.entering import open_shadow
from migration.services.keeping_shadows import keep_shadows
from migration.services.retention import enforce_retention
from tests.support.driving import drive_to
from tests.support.fleet import Fleet, make_fleet
from tests.support.rows import Rows, add_pass, make_rows
from tests.support.simulator import SimulatorProcess

pytestmark = pytest.mark.django_db(transaction=True)
CHANGING = {"dirty_bytes_per_s": 1000, "dirty_saturation_bytes": 10**8}


@pytest.fixture
def fleet(simulated: SimulatorProcess) -> Fleet:
    return make_fleet(simulated)


def a_shadow(fleet: Fleet, simulated: SimulatorProcess, **changes: Any) -> Shadow:
    """Of a running desktop, with nothing in it yet; due at once."""
    values = {"tier": "warm", "created_at": timezone.now(), "sync_interval_s": 300, **changes}
    desktop = fleet.desktop(simulated, f"desk-{Shadow.objects.count()}", **CHANGING)
    return Shadow.objects.create(desktop=desktop, region=fleet.west, **values)


def keep_until(
    is_so: Callable[[], object],
    *,
    now: Callable[[], datetime] = timezone.now,
    timeout_s: float = 20,
) -> None:
    """Rounds, as beat would ask for them."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, list(Pass.objects.values())
        keep_shadows(now=now())
        time.sleep(0.02)


def fresh(shadow: Shadow) -> Shadow:
    return Shadow.objects.get(pk=shadow.pk)


def later(seconds: float) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)


def seeded(shadow: Shadow) -> Shadow:
    keep_until(lambda: fresh(shadow).state == Shadow.State.READY)
    return fresh(shadow)


def test_a_new_shadow_is_seeded_and_then_brought_up_to_date_when_it_is_due(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    shadow = seeded(a_shadow(fleet, simulated))
    seed = shadow.passes.get()
    assert (seed.state, seed.makes_volume, seed.taken_at) == (
        Pass.State.DONE,
        True,
        shadow.recovery_point_at,
    )
    assert simulated.cloud().volume("west", shadow.volume_id)
    keep_shadows(now=later(290))
    assert shadow.passes.count() == 1, "not due yet"
    moment = later(301)
    keep_until(lambda: fresh(shadow).recovery_point_at == moment, now=lambda: moment)
    step = shadow.passes.first()
    assert step is not None and not step.makes_volume
    assert 0 < step.sent_bytes < seed.sent_bytes / 4, "only what changed since"
    again = fresh(shadow)
    assert again.volume_id == shadow.volume_id
    assert again.sent_bytes == seed.sent_bytes + step.sent_bytes
    assert again.lag_bytes == step.changed_bytes


def test_a_paused_shadow_is_left_alone_until_it_is_resumed_or_asked_for(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    shadow = seeded(a_shadow(fleet, simulated))
    ask(shadows.pause_shadow, shadow, fleet)
    keep_shadows(now=later(4000))
    assert shadow.passes.count() == 1
    asked = ask(shadows.sync_shadow, shadow, fleet)
    assert asked.sync_asked_at
    keep_until(lambda: fresh(shadow).sync_asked_at is None)
    assert fresh(shadow).paused_at
    assert shadow.passes.filter(state=Pass.State.DONE).count() == 2
    ask(shadows.resume_shadow, shadow, fleet)
    keep_shadows(now=later(4000))
    assert shadow.passes.count() == 3


def test_what_is_released_is_deleted_in_the_cloud(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    shadow = seeded(a_shadow(fleet, simulated))
    released = ask(shadows.release_shadow, shadow, fleet)
    assert released.state == Shadow.State.RELEASING
    keep_until(lambda: fresh(shadow).state == Shadow.State.RELEASED)
    assert fresh(shadow).released_at
    with pytest.raises(NotFound):
        simulated.cloud().volume("west", shadow.volume_id)
    with pytest.raises(NotPossible, match="released"):
        ask(shadows.sync_shadow, shadow, fleet)


def test_one_that_is_released_while_it_is_seeded_leaves_nothing(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    shadow = a_shadow(fleet, simulated)
    keep_shadows(now=timezone.now())
    assert shadow.passes.get().state == Pass.State.RUNNING
    ask(shadows.release_shadow, shadow, fleet)
    keep_until(lambda: fresh(shadow).state == Shadow.State.RELEASED)
    told = Event.objects.filter(object_type="shadow", object_id=str(shadow.pk)).order_by("seq")
    assert [event.kind for event in told] == ["shadow.release_asked", "shadow.released"]
    assert shadow.passes.get().state == Pass.State.ABANDONED
    assert simulated.cloud().inventory("west").volumes == ()


def test_a_test_boots_a_copy_that_nobody_reaches_and_removes_it(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    shadow = seeded(a_shadow(fleet, simulated))
    before = simulated.admin.content("west", shadow.volume_id)
    test = shadows.ask_for_test(shadow_id=shadow.pk, actor=fleet.alice, at=timezone.now())
    with pytest.raises(NotPossible, match="already"):
        shadows.ask_for_test(shadow_id=shadow.pk, actor=fleet.alice, at=timezone.now())
    seen = []

    def is_over() -> bool:
        seen.extend(simulated.cloud().inventory("west").servers)
        return ShadowTest.objects.get(pk=test.pk).cleaned_at is not None

    keep_until(is_over)
    done = ShadowTest.objects.get(pk=test.pk)
    assert (done.state, done.detail) == (ShadowTest.State.PASSED, "")
    assert done.recovery_point_at == shadow.recovery_point_at
    assert done.decided_at is not None and done.ordered_at is not None
    assert done.decided_at >= done.ordered_at
    assert seen and all(server.is_fenced for server in seen)
    left = simulated.cloud().inventory("west")
    assert left.servers == ()
    assert [volume.id for volume in left.volumes] == [shadow.volume_id]
    assert simulated.admin.content("west", shadow.volume_id) == before


def test_a_test_that_cannot_start_says_why_and_cleans_up(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    shadow = seeded(a_shadow(fleet, simulated))
    flavor = shadow.desktop.flavor
    assert flavor is not None
    flavor.name = "no-such-size"
    flavor.save()
    test = shadows.ask_for_test(shadow_id=shadow.pk, actor=fleet.alice, at=timezone.now())
    keep_until(lambda: ShadowTest.objects.get(pk=test.pk).cleaned_at)
    test.refresh_from_db()
    assert test.state == ShadowTest.State.FAILED
    assert "no-such-size" in test.detail
    assert [v.id for v in simulated.cloud().inventory("west").volumes] == [shadow.volume_id]


def test_a_move_waits_for_the_shadows_own_pass_and_goes_on_from_it(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    shadow = a_shadow(fleet, simulated)
    keep_shadows(now=timezone.now())
    own = shadow.passes.get()
    assert own.state == Pass.State.RUNNING
    move = approve_recommendation(
        recommendation_id=fleet.recommendation(shadow.desktop).pk,
        actor=fleet.alice,
        at=timezone.now(),
        confirm_now=True,
    )
    with pytest.raises(NotPossible, match="being moved"):
        ask(shadows.release_shadow, shadow, fleet)
    move = drive_to(move, State.SYNCING)
    assert not Pass.objects.filter(transition=move).exists()
    seeded(shadow)
    move = drive_to(move)
    assert move.state == State.DONE, move.failure
    assert fresh(shadow).state == Shadow.State.PROMOTED
    synced = Pass.objects.filter(transition=move).order_by("created_at").first()
    assert synced is not None and synced.sent_bytes < Pass.objects.get(pk=own.pk).sent_bytes / 4


def test_nothing_begins_while_the_desktop_moves(fleet: Fleet, simulated: SimulatorProcess) -> None:
    shadow = seeded(a_shadow(fleet, simulated))
    approve_recommendation(
        recommendation_id=fleet.recommendation(shadow.desktop).pk,
        actor=fleet.alice,
        at=timezone.now(),
    )
    keep_shadows(now=later(4000))
    assert shadow.passes.count() == 1


def test_a_pass_that_fails_is_told_of_and_made_again_only_when_due(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    shadow = seeded(a_shadow(fleet, simulated))
    now = later(301)
    Pass.objects.create(
        key=f"shadow-{shadow.pk}:sync:then",
        state=Pass.State.FAILED,
        shadow=shadow,
        source_region=fleet.east,
        dest_region=fleet.west,
        source_volume_id="volume",
        created_at=now,
        finished_at=now,
    )
    keep_shadows(now=now + timedelta(seconds=290))
    assert shadow.passes.count() == 2
    keep_shadows(now=now + timedelta(seconds=301))
    assert shadow.passes.count() == 3


def test_the_cloud_runs_no_more_copies_at_once_than_allowed(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    waiting = [a_shadow(fleet, simulated) for _ in range(6)]
    keep_shadows(now=timezone.now())
    assert Pass.objects.count() == 4
    keep_until(lambda: Shadow.objects.filter(state=Shadow.State.READY).count() == len(waiting))


def test_nothing_is_written_to_a_cloud_that_does_not_answer_and_the_rest_goes_on(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    lost = a_shadow(fleet, simulated)
    far = Region.objects.create(cloud="nowhere", name="far", label="Far")
    Shadow.objects.filter(pk=lost.pk).update(region=far)
    shadow = a_shadow(fleet, simulated)
    keep_until(lambda: fresh(shadow).state == Shadow.State.READY)
    assert fresh(lost).state == Shadow.State.FILLING


def test_trials_are_nobodys_desktops(fleet: Fleet, simulated: SimulatorProcess) -> None:
    shadow = seeded(a_shadow(fleet, simulated))
    volume = simulated.cloud().volume("west", shadow.volume_id)
    Pool.objects.update(cloud="simulated")
    spec = ServerSpec("desk-test", "desktop.small", boot_volume_id=volume.id, is_fenced=True)
    made = simulated.cloud().create_server("west", spec, key="trial:shadow-1:1")
    (synced,) = sync_inventory(cloud=simulated.cloud(), at=timezone.now())
    assert made.name not in synced.added + synced.unknown


# On rows alone


def ask(service: Callable[..., Shadow], shadow: Shadow, fleet: Fleet, **given: Any) -> Shadow:
    return service(shadow_id=shadow.pk, actor=fleet.alice, at=timezone.now(), **given)


@pytest.fixture
def rows() -> Rows:
    return make_rows()


ACTIONS = ("pause", "resume", "sync", "schedule", "test", "release")


@pytest.mark.parametrize("action", ACTIONS)
def test_a_viewer_may_ask_for_nothing_and_a_stranger_finds_nothing(rows: Rows, action: str) -> None:
    shadow = rows.add_people(1)[0].shadows.get()
    client = Client()
    client.force_login(rows.account("vera", "viewer"))
    address = f"/shadows/{shadow.pk}/{action}/"
    assert client.get(address).status_code == 405
    assert client.post(address, {"may_delete": "on"}).status_code == 403
    client.force_login(make_rows("other").account("otto", "operator"))
    assert client.post(address, {"may_delete": "on"}).status_code == 404
    assert Shadow.objects.get(pk=shadow.pk).state == shadow.state


def test_the_page_offers_what_is_possible_and_does_it(rows: Rows) -> None:
    shadow = rows.add_people(1)[0].shadows.get()
    Shadow.objects.update(state="ready", volume_id="v", recovery_point_at=timezone.now())
    client = Client()
    client.force_login(rows.account("olga", "operator"))
    page = client.get(f"/shadows/{shadow.pk}/").content.decode()
    assert [action for action in ACTIONS if f"/{action}/" in page] == [
        "pause",
        "sync",
        "schedule",
        "test",
        "release",
    ]
    client.post(f"/shadows/{shadow.pk}/schedule/", {"minutes": "7.5"})
    assert fresh(shadow).sync_interval_s == 450
    client.post(f"/shadows/{shadow.pk}/pause/")
    assert fresh(shadow).paused_at
    assert "/resume/" in client.get(f"/shadows/{shadow.pk}/").content.decode()
    client.post(f"/shadows/{shadow.pk}/schedule/", {"minutes": ""})
    assert fresh(shadow).sync_interval_s is None


@pytest.mark.parametrize("minutes", ["0", "-3", "100000", "soon", "NaN"])
def test_an_interval_out_of_bounds_is_refused_with_its_reason(rows: Rows, minutes: str) -> None:
    shadow = rows.add_people(1)[0].shadows.get()
    client = Client()
    client.force_login(rows.account("olga", "operator"))
    answer = client.post(f"/shadows/{shadow.pk}/schedule/", {"minutes": minutes}, follow=True)
    assert "Minutes between passes:" in answer.content.decode()
    assert fresh(shadow).sync_interval_s == shadow.sync_interval_s


def test_a_release_needs_the_tick(rows: Rows) -> None:
    shadow = rows.add_people(1)[0].shadows.get()
    client = Client()
    client.force_login(rows.account("olga", "operator"))
    client.post(f"/shadows/{shadow.pk}/release/")
    assert fresh(shadow).state == shadow.state
    client.post(f"/shadows/{shadow.pk}/release/", {"may_delete": "on"})
    assert fresh(shadow).state == Shadow.State.RELEASING


def test_services_keep_to_the_pools_of_whoever_asks(rows: Rows) -> None:
    shadow = rows.add_people(1)[0].shadows.get()
    stranger = make_rows("other").account("otto", "operator")
    with pytest.raises(NotPermitted):
        shadows.pause_shadow(shadow_id=shadow.pk, actor=stranger, at=timezone.now())


def test_a_move_that_takes_a_shadow_finds_none_that_is_let_go(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    old = desktop.shadows.get()
    Shadow.objects.filter(pk=old.pk).update(state=Shadow.State.RELEASING)
    move = rows.add_transition(desktop)
    Transition.objects.filter(pk=move.pk).update(shadow=None)
    move.refresh_from_db()
    with transaction.atomic():
        open_shadow(move, now=timezone.now())
    move.refresh_from_db()
    assert move.shadow_id not in (None, old.pk)


def test_old_passes_go_but_for_the_newest_to_each_volume(rows: Rows) -> None:
    shadow = rows.add_people(1)[0].shadows.get()
    now = timezone.now()
    for n, days in enumerate((90, 60, 40, 2)):
        at = now - timedelta(days=days)
        add_pass(
            shadow, n, key=f"p{n}", created_at=at, finished_at=at, cleaned_at=at, dest_volume_id="v"
        )
    old = now - timedelta(days=90)
    add_pass(
        shadow, 9, key="lone", created_at=old, finished_at=old, cleaned_at=old, dest_volume_id="w"
    )
    enforce_retention(wall=now)
    assert set(shadow.passes.values_list("key", flat=True)) == {"p3", "lone"}


def test_what_was_sent_is_forgotten_once_nothing_is_sent_any_more(
    rows: Rows, tmp_path: Path
) -> None:
    Shadow.objects.filter(pk=rows.add_people(1)[0].shadows.get().pk).update(volume_id="kept")
    for name in ("kept", "gone", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index").write_bytes(b"")
    for name in ("kept", "gone"):
        os.utime(tmp_path / name, (0, 0))
    assert sweep_sent(tmp_path, now=timezone.now()) == ["gone"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["kept", "new"]
