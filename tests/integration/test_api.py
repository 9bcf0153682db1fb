from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.management import call_command
from django.db import transaction
from django.test import Client
from django.utils import timezone

from desktops.events import record
from desktops.models import Event
from migration.models import Recommendation, Transition
from tests.support.rows import Rows, make_rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def rows() -> Rows:
    return make_rows()


def signed_in(rows: Rows, *roles: str, name: str = "vera") -> Client:
    client = Client()
    client.force_login(rows.account(name, *roles))
    return client


def post(client: Client, address: str, **body: Any):
    return client.post(f"/api/v1/{address}", json.dumps(body), content_type="application/json")


def results(client: Client, address: str) -> list[dict[str, Any]]:
    response = client.get(f"/api/v1/{address}")
    assert response.status_code == 200, response.content
    return response.json()["results"]


KINDS = (
    "datasets",
    "desktops",
    "generations",
    "people",
    "plans",
    "pools",
    "profiles",
    "recommendations",
    "shadows",
    "transitions",
)


def test_a_viewer_reads_every_kind_of_object(rows: Rows) -> None:
    rows.add_transition(rows.add_people(1)[0])
    client = signed_in(rows, "viewer")
    for kind in (*KINDS, "regions", "sites"):
        listed = results(client, f"{kind}/")
        assert listed, kind
        one = client.get(f"/api/v1/{kind}/{listed[0]['id']}/")
        assert one.status_code == 200, kind
        assert one.json()["id"] == listed[0]["id"]


def test_what_is_in_other_pools_is_not_found(rows: Rows) -> None:
    rows.add_transition(rows.add_people(1)[0])
    owner = signed_in(rows, "viewer")
    stranger = signed_in(make_rows("other"), "viewer", "approver", name="otto")
    for kind in KINDS:
        pk = results(owner, f"{kind}/")[0]["id"]
        assert pk not in [row["id"] for row in results(stranger, f"{kind}/")], kind
        assert stranger.get(f"/api/v1/{kind}/{pk}/").status_code == 404, kind


def test_nothing_is_read_without_signing_in(rows: Rows) -> None:
    for address in (*(f"{kind}/" for kind in KINDS), "events/", "schema/"):
        assert Client().get(f"/api/v1/{address}").status_code == 403, address


def test_nothing_but_decisions_is_written(rows: Rows) -> None:
    rows.add_transition(rows.add_people(1)[0])
    client = signed_in(rows, "approver", "admin")
    for kind in KINDS:
        pk = results(client, f"{kind}/")[0]["id"]
        assert post(client, f"{kind}/").status_code == 405
        for method in (client.put, client.patch, client.delete):
            assert method(f"/api/v1/{kind}/{pk}/").status_code == 405


def test_money_is_exact_and_has_a_currency(rows: Rows) -> None:
    rows.add_people(1)
    client = signed_in(rows, "viewer")
    advice = results(client, "recommendations/")[0]
    assert advice["stay_cost"] == "14.200001"
    assert advice["currency"] == "USD"
    assert advice["items"] == [{"name": "latency", "amount": "3.100000", "note": "left over"}]
    (summary,) = client.get(f"/api/v1/plans/{rows.plan.pk}/summary/").json()
    assert summary["gain"] == "11.100001"
    assert summary["awaiting_approval"] == 1


def test_a_profile_comes_with_its_arrays_and_a_list_without(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    client = signed_in(rows, "viewer")
    brief = results(client, f"profiles/?person={desktop.desktop_user_id}")[0]
    assert "cpu_cores" not in brief
    whole = client.get(f"/api/v1/profiles/{brief['id']}/").json()
    assert len(whole["cpu_cores"]) == 168
    assert len(whole["cpu_cores"][0]) == len(whole["levels"])


def test_only_the_newest_complete_generation_is_shown(rows: Rows) -> None:
    rows.add_people(1)
    client = signed_in(rows, "viewer")
    rows.generation.state = "running"
    rows.generation.save()
    assert results(client, "profiles/") == []


def test_lists_are_filtered(rows: Rows) -> None:
    first, _ = rows.add_people(2)
    rows.add_transition(first)
    client = signed_in(rows, "viewer")
    assert len(results(client, f"recommendations/?desktop={first.key}")) == 1
    assert results(client, "recommendations/?state=rejected") == []
    assert len(results(client, "transitions/?state=syncing")) == 1
    assert results(client, "transitions/?state=done") == []
    assert len(results(client, "desktops/?pool=test-pool")) == 2
    assert results(client, "desktops/?pool=other") == []


@pytest.mark.parametrize(
    "address",
    ["desktops/?state=odd", "recommendations/?plan=x", "people/?pool=%00", "events/?after=-1"],
)
def test_a_filter_that_makes_no_sense_is_refused_by_name(rows: Rows, address: str) -> None:
    response = signed_in(rows, "viewer").get(f"/api/v1/{address}")
    assert response.status_code == 400
    assert list(response.json()) == [address.partition("?")[2].partition("=")[0]]


def test_names_are_for_those_who_may_see_them(rows: Rows) -> None:
    rows.add_people(1)
    assert results(signed_in(rows, "viewer"), "people/")[0]["name"] is None
    assert results(signed_in(rows, "admin", name="ada"), "people/")[0]["name"] == "Name 0"


def test_an_approver_approves_once(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    address = f"recommendations/{desktop.recommendations.get().pk}/approve/"
    client = signed_in(rows, "approver")

    answer = post(client, address, note="go", confirm_now=True)
    assert answer.status_code == 200
    assert answer.json()["state"] == "planned"
    assert answer.json()["confirmed_at"] is not None

    again = post(client, address)
    assert again.status_code == 409
    assert "nothing was changed" in again.json()["detail"]
    assert Transition.objects.count() == 1


def test_a_rejection_is_answered_with_the_recommendation(rows: Rows) -> None:
    advice = rows.add_people(1)[0].recommendations.get()
    answer = post(signed_in(rows, "approver"), f"recommendations/{advice.pk}/reject/", note="no")
    assert answer.status_code == 200
    assert answer.json()["state"] == "rejected"
    assert answer.json()["decision"]["decided_by"] == "vera"


def test_a_superseded_plan_is_not_approved(rows: Rows) -> None:
    advice = rows.add_people(1)[0].recommendations.get()
    Recommendation.objects.update(state=Recommendation.State.SUPERSEDED)
    rows.plan.superseded_at = timezone.now()
    rows.plan.save()
    answer = post(signed_in(rows, "approver"), f"recommendations/{advice.pk}/approve/")
    assert answer.status_code == 409


def posts_of(rows: Rows) -> dict[str, str]:
    desktop, moving = rows.add_people(2)
    advice, row = desktop.recommendations.get(), rows.add_transition(moving)
    return {
        "approve": f"recommendations/{advice.pk}/approve/",
        "reject": f"recommendations/{advice.pk}/reject/",
        "confirm": f"transitions/{row.pk}/confirm/",
        "cancel": f"transitions/{row.pk}/cancel/",
        "resume": f"transitions/{row.pk}/resume/",
    }


@pytest.mark.parametrize(
    ("role", "statuses"),
    [
        ("viewer", (403, 403, 403, 403, 403)),
        ("operator", (403, 403, 403, 200, 409)),
        ("admin", (403, 403, 403, 200, 409)),
        ("approver", (200, 409, 200, 200, 409)),
    ],
)
def test_a_role_may_do_what_it_says_and_no_more(
    rows: Rows, role: str, statuses: tuple[int, ...]
) -> None:
    client = signed_in(rows, role)
    addresses = posts_of(rows)
    before = Event.objects.count()
    seen = tuple(post(client, address).status_code for address in addresses.values())
    assert seen == statuses
    assert Event.objects.count() - before == statuses.count(200) + (role == "approver")


def test_a_superuser_is_no_approver_by_that(rows: Rows) -> None:
    address = posts_of(rows)["approve"]
    account = rows.account("root", "admin")
    account.is_superuser = True
    account.save()
    client = Client()
    client.force_login(account)
    assert post(client, address).status_code == 403


def test_a_decision_over_rest_needs_the_token(rows: Rows) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(rows.account("vera", "approver"))
    assert post(client, posts_of(rows)["approve"]).status_code == 403
    assert not Transition.objects.filter(recommendation__isnull=False).exists()


def happen(rows: Rows, pool_id: int | None, n: int) -> None:
    with transaction.atomic():
        for number in range(n):
            record(
                kind="test.happened",
                subject=rows.dataset,
                at=timezone.now(),
                pool_id=pool_id,
                number=number,
            )


def test_a_reader_catches_up_from_a_number(rows: Rows) -> None:
    happen(rows, rows.pool.pk, 3)
    happen(rows, make_rows("other").pool.pk, 2)
    happen(rows, None, 1)
    client = signed_in(rows, "viewer")

    first = client.get("/api/v1/events/?after=0&limit=2").json()
    assert [e["payload"]["number"] for e in first["results"]] == [0, 1]
    assert first["has_more"]
    rest = client.get(f"/api/v1/events/?after={first['last_seq']}").json()
    assert [e["pool"] for e in rest["results"]] == [rows.pool.pk, None]
    assert not rest["has_more"]
    assert rest["results"][0]["previous_seq"] == first["last_seq"]
    end = client.get(f"/api/v1/events/?after={rest['last_seq']}").json()
    assert end == {"last_seq": rest["last_seq"], "has_more": False, "results": []}


def test_the_schema_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn")
    described = capsys.readouterr().out
    for kind in (*KINDS, "events", "regions", "sites"):
        assert f"/api/v1/{kind}/:" in described
