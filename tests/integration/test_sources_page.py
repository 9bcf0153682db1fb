"""Sources, quarantine and inventory, as people and programs see and steer them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from django.test import Client
from django.utils import timezone

from desktops import tasks
from desktops.inflow import AGENT_PATIENCE
from desktops.models import (
    AgentCredential,
    Desktop,
    DesktopUser,
    Drift,
    Event,
    InventorySync,
    QuarantinedRow,
    RegionState,
    Sample,
    Source,
)
from desktops.services.ingest import Stored, ensure_source, store
from desktops.sources.samples import Labels, Samples
from tests.support.rows import AS_OF, Rows, make_rows

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


@pytest.fixture
def rows() -> Rows:
    return make_rows()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[Any]]]:
    """What would have been handed to workers."""
    sent: list[tuple[str, list[Any]]] = []
    monkeypatch.setattr(
        "celery.app.base.Celery.send_task",
        lambda app, name, args=(), **options: sent.append((name, list(args))),
    )
    return sent


def signed_in(rows: Rows, *roles: str, name: str = "vera") -> Client:
    client = Client()
    client.force_login(rows.account(name, *roles))
    return client


def text(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200, address
    return response.content.decode()


def push(
    rows: Rows,
    *desktops: str,
    kind: Source.Kind = Source.Kind.PROMETHEUS,
    at: datetime = AS_OF - HOUR,
    cpu_cores: float = 1.5,
) -> Stored:
    """One sample of each desktop, an hour ago and a second apart."""
    n = len(desktops)
    samples = Samples(
        np.arange(n),
        int(at.timestamp()) + np.arange(n),
        Labels.none(n),
        Labels(tuple(desktops), np.arange(n)),
        Labels.none(n),
        {"cpu_cores": np.full(n, cpu_cores)},
    )
    source = ensure_source(pool=rows.pool, kind=kind)
    return store(source=source, samples=samples, wall=timezone.now())


# The page of sources


def test_nothing_connected_says_how_to_connect(rows: Rows) -> None:
    page = text(signed_in(rows, "viewer"), "/sources/")
    assert "Nothing reports activity yet" in page
    assert "docs/sources.md" in page


def test_each_source_says_how_it_is_doing(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    now = timezone.now()
    push(rows, desktop.server_id, "nobody")
    late, failing = (
        ensure_source(pool=rows.pool, kind=kind)
        for kind in (Source.Kind.GNOCCHI, Source.Kind.GUACAMOLE)
    )
    ensure_source(pool=rows.pool, kind=Source.Kind.AGENT)
    Source.objects.filter(pk=late.pk).update(last_success_at=now - timedelta(hours=2))
    Source.objects.filter(pk=failing.pk).update(
        last_success_at=now, last_attempt_at=now, last_error="No route to host"
    )
    client = signed_in(rows, "viewer")
    page = text(client, "/sources/")
    for word in (">OK<", ">Late<", ">Failing<", ">Never reported<", "No route to host"):
        assert word in page
    listed = {s["kind"]: s for s in client.get("/api/v1/sources/").json()["results"]}
    assert {kind: s["health"] for kind, s in listed.items()} == {
        "prometheus": "ok",
        "gnocchi": "late",
        "guacamole": "failing",
        "agent": "never",
    }
    one = listed["prometheus"]
    assert (one["rows"], one["rejected_rows"], one["held_rows"]) == (1, 1, 1)
    assert one["lag_s"] == 3600  # by the clock of the data set


def test_sources_of_other_pools_are_not_shown(rows: Rows) -> None:
    push(rows, "nobody")
    stranger = signed_in(make_rows("other"), "viewer", "operator")
    assert "prometheus-test-pool" not in text(stranger, "/sources/")
    assert stranger.get("/api/v1/sources/").json()["count"] == 0
    assert stranger.get("/api/v1/quarantine/").json()["count"] == 0
    assert stranger.get("/api/v1/drifts/").json()["count"] == 0
    assert "nobody" not in text(stranger, "/sources/quarantine/")
    held = QuarantinedRow.objects.get()
    assert stranger.get(f"/sources/pools/{rows.pool.pk}/").status_code == 404
    for address in (
        f"/sources/pools/{rows.pool.pk}/sync/",
        f"/sources/quarantine/{held.pk}/replay/",
        f"/api/v1/quarantine/{held.pk}/replay/",
        f"/api/v1/quarantine/{held.pk}/discard/",
        f"/api/v1/pools/{rows.pool.pk}/sync/",
    ):
        assert stranger.post(address).status_code == 404, address
    stranger.post("/sources/quarantine/discard/", {"reason": held.reason})
    held.refresh_from_db()
    assert held.state == "held"


def test_agents_are_counted_and_the_silent_ones_named(rows: Rows) -> None:
    talking, silent, stopped, fresh = rows.add_people(4)
    now = timezone.now()
    for n, (desktop, ago) in enumerate(
        [(talking, timedelta(0)), (silent, 2 * AGENT_PATIENCE), (stopped, 2 * AGENT_PATIENCE)]
    ):
        AgentCredential.objects.create(
            desktop=desktop, digest=str(n), enrolled_at=now, last_seen_at=now - ago
        )
    AgentCredential.objects.create(desktop=fresh, digest="fresh", enrolled_at=now)
    Desktop.objects.filter(pk=stopped.pk).update(state=Desktop.State.STOPPED)
    client = signed_in(rows, "viewer")
    assert "1 of 3 running" in text(client, "/sources/")
    page = text(client, f"/sources/pools/{rows.pool.pk}/")
    shown = page[page.index('id="silent"') :]
    assert silent.label in shown and fresh.label in shown
    assert "never since it enrolled" in shown
    assert talking.label not in shown and stopped.label not in shown


def add_drifts(rows: Rows, **sync: Any) -> None:
    rows.pool.cloud = "simulated"
    rows.pool.save()
    now = timezone.now()
    made = InventorySync.objects.create(
        pool=rows.pool, cloud="simulated", **{"attempted_at": now, "succeeded_at": now} | sync
    )
    for kind, name in (("vanished", "desk-gone"), ("unknown", "db-1")):
        Drift.objects.create(
            sync=made,
            kind=kind,
            region="east",
            server_id=name,
            name=name,
            detail=f"about {name}",
            first_seen_at=AS_OF,
        )
    RegionState.objects.create(
        region=rows.east,
        observed_at=now,
        servers=160,
        servers_used=141,
        vcpus_used=300,
        memory_bytes_used=2**40,
        volume_bytes_used=10**12,
        hosts=[
            {"name": "h1", "is_up": True, "is_enabled": True},
            {"name": "h2", "is_up": False, "is_enabled": True},
        ],
    )


def test_drift_is_shown_by_pool_and_kind(rows: Rows) -> None:
    add_drifts(rows)
    client = signed_in(rows, "viewer")
    page = text(client, "/sources/")
    assert "141 of 160" in page and "no limit" in page
    assert "1 of 2" in page and "h2 is down" in page
    address = f"/sources/pools/{rows.pool.pk}/"
    page = text(client, address)
    assert "about desk-gone" in page and "about db-1" in page and "Mon 2 Mar 08:00 UTC" in page
    page = text(client, f"{address}?kind=vanished")
    assert "about desk-gone" in page and "about db-1" not in page
    assert "about db-1" in text(client, f"{address}?kind=odd")
    listed = client.get("/api/v1/drifts/?kind=unknown").json()["results"]
    assert [(d["name"], d["pool"]["name"]) for d in listed] == [("db-1", "test-pool")]


def test_a_comparison_that_failed_says_why_and_when(rows: Rows) -> None:
    add_drifts(rows, succeeded_at=AS_OF, failure="Keystone does not answer")
    client = signed_in(rows, "viewer")
    assert "Keystone does not answer" in text(client, "/sources/")
    page = text(client, f"/sources/pools/{rows.pool.pk}/")
    assert "Keystone does not answer" in page
    assert "What is below is of" in page
    pool = client.get(f"/api/v1/pools/{rows.pool.pk}/").json()
    assert pool["inventory"]["failure"] == "Keystone does not answer"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("door", ["/sources/pools/{}/sync/", "/api/v1/pools/{}/sync/"])
def test_an_operator_has_a_pool_compared(rows: Rows, sent: list[Any], door: str) -> None:
    address = door.format(rows.pool.pk)
    viewer = signed_in(rows, "viewer")
    operator = signed_in(rows, "operator", name="otto")
    assert viewer.post(address).status_code == 403
    operator.post(address)
    assert sent == []  # compared with no cloud
    rows.pool.cloud = "simulated"
    rows.pool.save()
    assert operator.get(address).status_code == 405
    assert operator.post(address).status_code in (202, 302)
    assert sent == [("desktops.tasks.sync_cloud", ["simulated", "otto"])]
    assert Event.objects.get(kind="inventory.requested").actor == "otto"


def test_a_pool_without_a_cloud_cannot_be_compared(rows: Rows) -> None:
    response = signed_in(rows, "operator").post(f"/api/v1/pools/{rows.pool.pk}/sync/")
    assert response.status_code == 409
    assert "is compared with no cloud" in response.json()["detail"]


# Quarantine


def held() -> dict[str, str]:
    """Desktop as the source called it → reason, of what is held."""
    rows = QuarantinedRow.objects.filter(state="held")
    return {row.row["desktop"]: row.reason for row in rows}


def test_the_quarantine_lists_rows_with_their_reasons(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    push(rows, "nobody", "nothing")
    push(rows, desktop.server_id, cpu_cores=-1)
    client = signed_in(rows, "viewer")
    page = text(client, "/sources/quarantine/")
    assert "nobody" in page and "cpu_cores -1 is negative" in page
    assert "Put back" not in page and "Discard" not in page.replace("Discarded", "")
    page = text(client, "/sources/quarantine/?reason=negative")
    shown = page[page.index('id="rows"') :]
    assert "nobody" not in shown and desktop.label in shown
    for query in ("q=%00", "reason=%00", "source=none", "state=odd", "page=x", "row=-1"):
        assert client.get(f"/sources/quarantine/?{query}").status_code == 200
    assert client.get("/api/v1/quarantine/?reason=unknown_desktop").json()["count"] == 2


def test_a_row_goes_back_when_its_reason_is_gone(rows: Rows) -> None:
    push(rows, "nobody")
    desktop = rows.add_people(1)[0]
    row = QuarantinedRow.objects.get()
    before = Source.objects.get()
    client = signed_in(rows, "operator")
    address = f"/sources/quarantine/{row.pk}/replay/"
    page = client.post(address, follow=True).content.decode()
    assert "refused again" in page and held() == {"nobody": "unknown_desktop"}
    Desktop.objects.filter(pk=desktop.pk).update(label="nobody")
    client.post(address)
    row.refresh_from_db()
    assert (row.state, row.settled_by) == ("replayed", "vera")
    sample = Sample.objects.get()
    assert (sample.desktop_id, sample.cpu_cores) == (desktop.pk, 1.5)
    assert sample.desktop_user_id == desktop.desktop_user_id
    after = Source.objects.get()
    assert (after.rows, after.rejected_rows) == (before.rows + 1, before.rejected_rows)
    assert after.last_success_at == before.last_success_at, "a replay says nothing of a source"
    client.post(address)
    assert Sample.objects.count() == 1, "what went back does not go again"


def test_a_row_that_is_there_already_is_done_with(rows: Rows) -> None:
    push(rows, "nobody")
    desktop = rows.add_people(1)[0]
    push(rows, desktop.server_id)
    Desktop.objects.filter(pk=desktop.pk).update(label="nobody")
    client = signed_in(rows, "operator")
    answer = client.post(f"/api/v1/quarantine/{QuarantinedRow.objects.get().pk}/replay/").json()
    assert answer["state"] == "replayed"
    assert Sample.objects.count() == 1


def test_a_person_goes_back_by_pseudonym(rows: Rows) -> None:
    source = ensure_source(pool=rows.pool, kind=Source.Kind.PRESENCE)
    at = np.array([int((AS_OF - HOUR).timestamp())])
    one = np.array([0])
    person, site = Labels(("ana@example.org",), one), Labels(("paris",), one)
    samples = Samples(one, at, person, Labels.none(1), site, {})
    store(source=source, samples=samples, wall=timezone.now())
    row = QuarantinedRow.objects.get()
    assert (row.reason, "ana" in str(row.row)) == ("unknown_person", False)
    DesktopUser.objects.create(dataset=rows.dataset, pool=rows.pool, pseudonym=row.row["person"])
    signed_in(rows, "operator").post(f"/sources/quarantine/{row.pk}/replay/")
    person = DesktopUser.objects.get(pseudonym=row.row["person"])
    assert Sample.objects.get().desktop_user_id == person.pk


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_rest", [False, True])
def test_all_rows_of_a_reason_go_back_by_a_worker(
    rows: Rows, sent: list[Any], is_rest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("desktops.services.quarantine.ROWS_AT_ONCE", 2)
    desktop = rows.add_people(1)[0]
    push(rows, "a", "b", "c", "d", "e")
    push(rows, desktop.server_id, cpu_cores=-1, at=AS_OF - 2 * HOUR)
    broken = QuarantinedRow.objects.create(
        source=Source.objects.get(), received_at=AS_OF, reason="unknown_desktop", detail="", row=[]
    )
    Desktop.objects.filter(pk=desktop.pk).update(label="b", key="d")
    client = signed_in(rows, "operator")
    chosen = {"source": "prometheus-test-pool", "reason": "unknown_desktop"}
    if is_rest:
        response = client.post("/api/v1/quarantine/replay/", chosen, "application/json")
        assert response.json() == {"rows": 6}
    else:
        client.post("/sources/quarantine/replay/", chosen)
    ((name, args),) = sent
    assert name == "desktops.tasks.replay_quarantine"
    getattr(tasks, name.rpartition(".")[2])(*args)
    broken.refresh_from_db()
    assert (broken.state, broken.reason) == ("held", "malformed")
    broken.delete()
    left = {"a": "unknown_desktop", "c": "unknown_desktop", "e": "unknown_desktop"}
    assert held() == left | {desktop.server_id: "negative"}
    assert Sample.objects.filter(source_id=Source.objects.get().pk).count() == 2
    total = sum(e.payload["rows"] for e in Event.objects.filter(kind="quarantine.replayed"))
    assert total == 2


def test_discarding_asks_first_and_says_how_many(rows: Rows) -> None:
    push(rows, "a", "b", "c")
    client = signed_in(rows, "operator")
    address = "/sources/quarantine/discard/?reason=unknown_desktop"
    assert "Discard 3 rows?" in text(client, address)
    assert len(held()) == 3
    page = client.post(
        "/sources/quarantine/discard/", {"reason": "unknown_desktop"}, follow=True
    ).content.decode()
    assert "3 rows discarded" in page and not held()
    assert set(QuarantinedRow.objects.values_list("state", "settled_by")) == {("discarded", "vera")}
    assert Event.objects.get(kind="quarantine.discarded").payload["rows"] == 3


def test_a_single_row_is_discarded_alone(rows: Rows) -> None:
    push(rows, "a", "b")
    client = signed_in(rows, "operator")
    first, second = QuarantinedRow.objects.order_by("pk")
    assert "Discard 1 row?" in text(client, f"/sources/quarantine/discard/?row={first.pk}")
    client.post("/sources/quarantine/discard/", {"row": first.pk})
    assert held() == {"b": "unknown_desktop"}
    answer = client.post(f"/api/v1/quarantine/{second.pk}/discard/").json()
    assert answer["state"] == "discarded" and not held()


@pytest.mark.parametrize("given", [{}, {"reason": "no slug!"}, {"source": "x", "row": "all"}])
@pytest.mark.parametrize("what", ["replay", "discard"])
def test_what_is_changed_is_never_guessed(
    rows: Rows, what: str, given: dict[str, str], sent: list[Any]
) -> None:
    push(rows, "a")
    client = signed_in(rows, "operator")
    page = client.post(f"/sources/quarantine/{what}/", given, follow=True).content.decode()
    assert "Choose a source, a reason or a row" in page
    assert held() and not sent
    assert client.post(f"/api/v1/quarantine/{what}/", {}, "application/json").status_code == 400


def test_viewers_look_and_operators_act(rows: Rows, sent: list[Any]) -> None:
    push(rows, "a")
    row, viewer = QuarantinedRow.objects.get(), signed_in(rows, "viewer")
    chosen = {"reason": "unknown_desktop"}
    for address in (
        f"/sources/quarantine/{row.pk}/replay/",
        "/sources/quarantine/replay/",
        "/sources/quarantine/discard/",
    ):
        assert viewer.post(address, chosen).status_code == 403, address
    for address in (
        f"/api/v1/quarantine/{row.pk}/replay/",
        f"/api/v1/quarantine/{row.pk}/discard/",
        "/api/v1/quarantine/replay/",
        "/api/v1/quarantine/discard/",
    ):
        assert viewer.post(address, chosen, "application/json").status_code == 403, address
    assert viewer.get("/sources/quarantine/discard/?reason=unknown_desktop").status_code == 403
    assert held() and not sent and not Event.objects.exists()


def test_parts_are_what_is_refreshed(rows: Rows) -> None:
    push(rows, *(f"d-{n}" for n in range(60)))
    client = signed_in(rows, "viewer")
    for address in ("/sources/", f"/sources/pools/{rows.pool.pk}/", "/sources/quarantine/"):
        part = text(client, f"{address}?part=live")
        assert "<html" not in part and "data-part" in part
        assert "part=live" not in part, "a link out of a part leads to a whole page"
