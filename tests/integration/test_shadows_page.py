"""The pages of shadows: what they hold, when they are brought up to date, and what that took."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from migration.models import Pass, Shadow, Transition
from tests.support.rows import Rows, add_pass, make_rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def rows() -> Rows:
    return make_rows()


def viewer(rows: Rows) -> Client:
    client = Client()
    client.force_login(rows.account("vera", "viewer"))
    return client


def a_shadow(rows: Rows, **changes: object) -> Shadow:
    desktop = rows.add_people(1)[0]
    values = {"state": "ready", "volume_id": "shadow-volume", **changes}
    Shadow.objects.filter(desktop=desktop).update(**values)
    return Shadow.objects.get(desktop=desktop)


def test_the_list_says_how_far_behind_each_shadow_is_and_when_that_ends(rows: Rows) -> None:
    now = timezone.now()
    a_shadow(
        rows,
        recovery_point_at=now - timedelta(seconds=125),
        lag_bytes=34_000_000,
        sync_interval_s=300,
    )
    page = viewer(rows).get("/shadows/").content.decode()
    assert "2 min 5 s" in page or "2 min 6 s" in page
    assert "34 MB" in page
    assert f"{now + timedelta(seconds=175):%H:%M}" in page or "UTC" in page


def test_only_what_is_kept_is_listed_unless_more_is_asked_for(rows: Rows) -> None:
    shadow = a_shadow(rows, state="released")
    client = viewer(rows)
    address = f"/shadows/{shadow.pk}/"
    assert address not in client.get("/shadows/").content.decode()
    assert address in client.get("/shadows/?state=released").content.decode()
    assert address in client.get("/shadows/?state=any").content.decode()


def test_a_page_tells_lag_schedule_history_and_time_to_usable(rows: Rows) -> None:
    now = timezone.now()
    shadow = a_shadow(
        rows,
        recovery_point_at=now - timedelta(seconds=61),
        lag_bytes=41_000_000,
        sync_interval_s=240,
        sent_bytes=10**9,
    )
    for n in range(3):
        add_pass(shadow, n)
    moved = rows.add_transition(shadow.desktop)
    Transition.objects.filter(pk=moved.pk).update(
        state="done", strategy="hypervisor", machine_stall_ms=412, finished_at=now
    )
    page = viewer(rows).get(f"/shadows/{shadow.pk}/").content.decode()
    assert "1 min 1 s" in page or "1 min 2 s" in page
    assert "every 4 min" in page
    assert page.count("data-pass=") == 3
    assert "412 ms" in page
    assert "of the 1 newest move " in page
    assert "<strong>5 s</strong> for 34 MB of changes" in page


def test_what_was_never_measured_is_said_to_be_so(rows: Rows) -> None:
    shadow = a_shadow(rows)
    page = viewer(rows).get(f"/shadows/{shadow.pk}/").content.decode()
    assert page.count("not measured yet") == 2
    assert "none was finished yet" in page


def test_a_pass_under_way_shows_how_far_it_is(rows: Rows) -> None:
    shadow = a_shadow(rows)
    add_pass(
        shadow,
        1,
        state=Pass.State.RUNNING,
        finished_at=None,
        phase="sending",
        seen_at=timezone.now(),
        left_s=42.0,
    )
    page = viewer(rows).get(f"/shadows/{shadow.pk}/?part=live").content.decode()
    assert "1 GB of 40 GB looked at" in page
    assert "42 s left" in page


def test_the_chart_is_of_finished_passes_the_oldest_first(rows: Rows) -> None:
    shadow = a_shadow(rows)
    for n in range(3):
        add_pass(shadow, n)
    add_pass(shadow, 3, state=Pass.State.FAILED)
    figure = viewer(rows).get(f"/shadows/{shadow.pk}/passes.json").json()["figure"]
    changed, sent, took = figure["data"]
    assert changed["y"] == [20, 27, 34]
    assert sent["y"] == [7, 10, 13]
    assert took["y"] == [3, 4, 5]
    assert changed["x"] == sorted(changed["x"])


@pytest.mark.parametrize("address", ["/shadows/{}/", "/shadows/{}/passes.json"])
def test_a_shadow_of_another_pool_is_not_found(rows: Rows, address: str) -> None:
    theirs = a_shadow(make_rows("other"))
    assert viewer(rows).get(address.format(theirs.pk)).status_code == 404


def test_a_transition_tells_what_relays_carried_for_it(rows: Rows) -> None:
    shadow = a_shadow(rows)
    moved = rows.add_transition(shadow.desktop)
    add_pass(shadow, 1, transition=moved, kind=Pass.Kind.MACHINE, stall_ms=523)
    Transition.objects.filter(pk=moved.pk).update(
        shadow=shadow, strategy="hypervisor", machine_stall_ms=523
    )
    page = viewer(rows).get(f"/transitions/{moved.pk}/").content.decode()
    assert "What was carried" in page
    assert "stood still for 523 ms" in page
    assert "for which the machine stood still, measured by its relay" in page
