"""A shadow's life outside of moves, on the simulated cloud: seeded, kept in step, paused, tried,
let go; and on rows alone: who may ask for what, and what is cleared up."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from celery import current_app
from django.db import transaction
from django.test import Client
from django.utils import timezone

from desktops.core.cloud import (
    CloudUnavailable,
    Conflict,
    JobState,
    NotFound,
    QuotaExceeded,
    ServerSpec,
    VolumeCopy,
)
from desktops.errors import NotPermitted
from desktops.models import Event, Pool, Region
from desktops.services.inventory import sync_inventory
from migration.core.machine import State
from migration.errors import NotPossible
from migration.models import Pass, Relay, Shadow, ShadowTest, Transition
from migration.relaying import sweep_sent
from migration.services import passes, shadows
from migration.services.carrying import Jobs
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


def test_what_is_asked_for_in_the_second_of_the_last_pass_is_done(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    second = timezone.now().replace(microsecond=0)
    shadow = a_shadow(fleet, simulated)
    keep_until(lambda: fresh(shadow).state == Shadow.State.READY, now=lambda: second)
    at = second + timedelta(milliseconds=100)
    shadows.sync_shadow(shadow_id=shadow.pk, actor=fleet.alice, at=at)
    at += timedelta(milliseconds=100)
    keep_until(lambda: fresh(shadow).sync_asked_at is None, now=lambda: at)
    assert [each.state for each in shadow.passes.all()] == [Pass.State.DONE] * 2


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
    failed = Pass.objects.create(
        key=f"shadow-{shadow.pk}:sync:then",
        state=Pass.State.FAILED,
        shadow=shadow,
        source_region=fleet.east,
        dest_region=fleet.west,
        source_volume_id=shadow.desktop.volume_id,
        created_at=now,
        finished_at=now,
        detail="the link was cut",
    )
    Shadow.objects.filter(pk=shadow.pk).update(own_pass=failed, pass_began_at=now)
    keep_shadows(now=now + timedelta(seconds=10))
    keep_shadows(now=now + timedelta(seconds=290))
    assert shadow.passes.count() == 2
    told = Event.objects.get(kind="shadow.pass_failed")
    assert told.payload["reason"] == "the link was cut"
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


class Altered:
    """A cloud some of whose calls do other than they should."""

    def __init__(self, cloud: Any, **calls: Callable[..., Any]) -> None:
        self._cloud, self._calls = cloud, calls

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name) or getattr(self._cloud, name)


def test_copies_that_are_refused_fail_aloud_and_make_room_for_others(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    refused = [a_shadow(fleet, simulated) for _ in range(4)]
    volumes = {shadow.desktop.volume_id for shadow in refused}
    good = a_shadow(fleet, simulated)
    cloud = simulated.cloud()

    def copy(source: str, volume: str, dest: str, **given: Any) -> Any:
        if volume in volumes:
            raise QuotaExceeded("no room for another volume")
        return cloud.copy_volume(source, volume, dest, **given)

    altered = Altered(cloud, copy_volume=copy)
    for _ in range(3):
        keep_shadows(now=timezone.now(), clouds=lambda _: altered)
    assert good.passes.exists()
    told = Event.objects.filter(kind="shadow.pass_failed")
    assert [event.payload["reason"] for event in told] == ["no room for another volume"] * 4


def test_a_drivers_own_mistake_keeps_nobody_else_waiting(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    bad, good = seeded(a_shadow(fleet, simulated)), a_shadow(fleet, simulated)
    test = shadows.ask_for_test(shadow_id=bad.pk, actor=fleet.alice, at=timezone.now())

    def snapshot(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    altered = Altered(simulated.cloud(), snapshot_volume=snapshot)
    keep_shadows(now=timezone.now(), clouds=lambda _: altered)
    assert good.passes.exists()
    keep_shadows(now=later(3600), clouds=lambda _: altered)
    test.refresh_from_db()
    assert test.state == ShadowTest.State.FAILED
    assert test.cleaned_at


def test_what_cannot_be_abandoned_yet_is_asked_for_again(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    shadow = a_shadow(fleet, simulated)
    keep_shadows(now=timezone.now())
    cloud, asked = simulated.cloud(), []

    def abandon(*given: Any, **named: Any) -> None:
        asked.append(named["key"])
        if len(asked) < 3:
            raise Conflict("the image is being saved: ask again")
        cloud.abandon_copy(*given, **named)

    altered = Altered(cloud, abandon_copy=abandon)
    ask(shadows.release_shadow, shadow, fleet)
    for _ in range(4):
        keep_shadows(now=timezone.now(), clouds=lambda _: altered)
    assert fresh(shadow).state == Shadow.State.RELEASED
    assert len(asked) == 3
    assert cloud.inventory("west").volumes == ()


def test_what_a_failed_copy_left_is_removed_once_that_is_possible(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    shadow = a_shadow(fleet, simulated)
    keep_shadows(now=timezone.now())
    cloud, asked = simulated.cloud(), []

    def copy(*_: Any, **named: Any) -> VolumeCopy:
        return VolumeCopy(named["key"], JobState.FAILED, 0, None, None, "it broke")

    def abandon(*given: Any, **named: Any) -> None:
        asked.append(named["key"])
        if len(asked) == 1:
            raise Conflict("ask again")
        cloud.abandon_copy(*given, **named)

    altered = Altered(cloud, copy_volume=copy, abandon_copy=abandon)
    ask(shadows.pause_shadow, shadow, fleet)
    for seconds in (0, 1, 90, 91):
        keep_shadows(now=later(seconds), clouds=lambda _: altered)
    assert len(asked) == 2
    assert Event.objects.filter(kind="shadow.pass_failed").count() == 1
    assert cloud.inventory("west").volumes == ()


def test_a_region_that_does_not_answer_keeps_only_its_own_waiting(
    fleet: Fleet, simulated: SimulatorProcess
) -> None:
    far = Region.objects.create(cloud="simulated", name="far", label="Far")
    lost, good = seeded(a_shadow(fleet, simulated)), a_shadow(fleet, simulated)
    ask(shadows.release_shadow, lost, fleet)
    Shadow.objects.filter(pk=lost.pk).update(region=far)
    cloud = simulated.cloud()

    def delete(region: str, volume_id: str) -> None:
        raise CloudUnavailable(f"{region} does not answer")

    altered = Altered(cloud, delete_volume=delete)
    keep_shadows(now=timezone.now(), clouds=lambda _: altered)
    assert good.passes.exists()


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


@pytest.fixture
def rung(settings: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Passes for which relays of the simulated cloud were rung."""
    settings.RELAYED_CLOUDS = frozenset({"simulated"})
    heard: list[int] = []
    app = type(current_app._get_current_object())

    def send_task(_: object, name: str, args: tuple[int, ...] = (), **__: Any) -> None:
        if name.endswith("carry_pass"):
            heard.extend(args)

    monkeypatch.setattr(app, "send_task", send_task)
    return heard


class Relayed:
    name = "simulated"


def keep_relayed(now: datetime) -> None:
    Relay.objects.update(seen_at=now)
    keep_shadows(now=now, clouds=lambda _: cast(Any, Relayed()))


def due_shadows(rows: Rows, n: int) -> None:
    for desktop in rows.add_people(n):
        Shadow.objects.filter(desktop=desktop).update(
            state="ready",
            volume_id=f"shadow-{desktop.pk}",
            recovery_point_at=later(-3600),
            sync_interval_s=300,
        )
        type(desktop).objects.filter(pk=desktop.pk).update(volume_id=f"volume-{desktop.pk}")
    for region in Region.objects.all():
        row = {"address": "relay", "port": region.pk, "store": "s", "started_at": later(0)}
        Relay.objects.create(region=region, seen_at=later(0), **row)


def test_a_pass_that_reads_what_the_desktop_has_left_is_given_up(
    rows: Rows, rung: list[int]
) -> None:
    due_shadows(rows, 1)
    keep_relayed(later(0))
    shadow = Shadow.objects.get()
    first = shadow.own_pass
    assert first and rung == [first.pk]
    third = Region.objects.create(cloud="simulated", name="third", label="Third")
    shadow.desktop.region, shadow.desktop.volume_id = third, "elsewhere"
    shadow.desktop.save()
    keep_relayed(later(10))
    keep_relayed(later(400))
    states = dict(shadow.passes.values_list("source_volume_id", "state"))
    assert states == {first.source_volume_id: "abandoned", "elsewhere": "waiting"}
    assert rung == [first.pk], "no relay is in the third region"


def test_relays_are_rung_for_the_oldest_and_not_again_at_once(
    rows: Rows, rung: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "MOST_RUNG", 3)
    due_shadows(rows, 5)
    for seconds in (0, 5, 10):
        keep_relayed(later(seconds))
    assert rung == list(Pass.objects.order_by("pk").values_list("pk", flat=True)[:3])
    Pass.objects.filter(pk__in=rung[:2]).update(state=Pass.State.RUNNING, seen_at=later(20))
    keep_relayed(later(15))
    assert len(rung) == 5
    Relay.objects.all().delete()
    keep_relayed(later(200))
    assert len(rung) == 5


def test_a_round_asks_the_database_as_often_however_many_shadows_there_are(
    rows: Rows, rung: list[int], django_assert_max_num_queries: Any
) -> None:
    due_shadows(rows, 12)
    keep_relayed(later(0))
    with django_assert_max_num_queries(25):
        keep_relayed(later(5))


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


def test_one_job_of_a_relay_is_kept_for_moves() -> None:
    jobs = Jobs()
    with jobs.one(is_scheduled=True) as first, jobs.one(is_scheduled=True) as second:
        assert first and second, "nobody has said how many there are"
    jobs.limit(2)
    with jobs.one(is_scheduled=True) as first, jobs.one(is_scheduled=True) as second:
        assert (first, second) == (True, False)
        with jobs.one(is_scheduled=False) as of_a_move:
            assert of_a_move
    with jobs.one(is_scheduled=True) as again:
        assert again
