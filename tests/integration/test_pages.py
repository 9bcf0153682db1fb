from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from desktops.models import Desktop, Event
from migration.models import Decision, Recommendation, Transition
from tests.support.rows import Rows, make_rows

pytestmark = pytest.mark.django_db

LISTS = (
    "/",
    "/people/",
    "/desktops/",
    "/plan/",
    "/shadows/",
    "/transitions/",
    "/whereabouts/",
    "/accuracy/",
    "/sources/",
    "/sources/quarantine/",
)


@pytest.fixture
def rows() -> Rows:
    return make_rows()


def signed_in(rows: Rows, *roles: str, name: str = "vera") -> Client:
    client = Client()
    client.force_login(rows.account(name, *roles))
    return client


def pages_of(rows: Rows) -> list[str]:
    """Every page there is about one person, their desktop and a machine."""
    desktop, machine = rows.add_people(1)[0], rows.add_machine()
    transition = rows.add_transition(desktop)
    profile, shadow = desktop.profiles.get().pk, desktop.shadows.get().pk
    return [
        *LISTS,
        "/api/",
        f"/people/{desktop.desktop_user_id}/",
        f"/desktops/{desktop.pk}/",
        f"/desktops/{machine.pk}/",
        f"/recommendations/{desktop.recommendations.get().pk}/",
        f"/transitions/{transition.pk}/",
        f"/shadows/{shadow}/",
        f"/shadows/{shadow}/passes.json",
        f"/profiles/{profile}/demand/cpu_cores.json",
        f"/profiles/{profile}/presence.json",
        f"/profiles/{profile}/whereabouts.json",
        f"/profiles/{profile}/map.json",
        f"/datasets/{rows.dataset.pk}/map.json",
        f"/sources/pools/{rows.pool.pk}/",
    ]


def test_every_page_shows_to_a_viewer(rows: Rows) -> None:
    client = signed_in(rows, "viewer")
    for address in pages_of(rows):
        response = client.get(address)
        assert response.status_code == 200, address
        if not address.endswith(".json"):
            assert "style=" not in response.content.decode(), f"{address} breaks the policy"


def test_nothing_shows_without_signing_in(rows: Rows) -> None:
    for address in pages_of(rows):
        assert Client().get(address).url == f"/sign-in/?next={address}"


def test_what_is_in_other_pools_is_not_found(rows: Rows) -> None:
    stranger = signed_in(make_rows("other"), "viewer", "operator", "approver")
    for address in pages_of(rows):
        if address in (*LISTS, "/api/"):
            assert rows.dataset.name + "-0000" not in stranger.get(address).content.decode()
        else:
            assert stranger.get(address).status_code == 404, address


def test_membership_without_a_role_shows_nothing(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    client = signed_in(rows)
    assert client.get(f"/desktops/{desktop.pk}/").status_code == 404
    assert "No pool to see" in client.get("/").content.decode()


def test_names_show_to_those_who_may_see_them(rows: Rows) -> None:
    person = rows.add_people(1)[0].desktop_user
    viewer, admin = signed_in(rows, "viewer"), signed_in(rows, "admin", name="ada")
    for address in ("/people/", f"/people/{person.pk}/", "/people/?q=Name 0"):
        assert "Name 0" not in viewer.get(address).content.decode().replace('value="Name 0"', "")
    assert "test-0000" not in viewer.get("/people/?q=Name 0").content.decode()
    assert "Name 0" in admin.get(f"/people/{person.pk}/").content.decode()
    assert "test-0000" in admin.get("/people/?q=Name 0").content.decode()


@pytest.mark.parametrize(
    "query", ["q=%00", "page=0", "page=999999", "page=x", "pool=none", "state=odd", "action=odd"]
)
@pytest.mark.parametrize("address", ["/people/", "/desktops/", "/plan/", "/transitions/"])
def test_a_filter_that_makes_no_sense_narrows_nothing(rows: Rows, address: str, query: str) -> None:
    rows.add_transition(rows.add_people(1)[0])
    response = signed_in(rows, "viewer").get(f"{address}?{query}")
    assert response.status_code == 200
    assert "test-0000" in response.content.decode()


def test_the_plan_shows_proposals_unless_asked_for_more(rows: Rows) -> None:
    proposal, stay = rows.add_people(2)
    stay.recommendations.update(action="stay", state="advised", dest_region=None)
    client = signed_in(rows, "viewer")
    first = client.get("/plan/").content.decode()
    assert proposal.label in first and stay.label not in first
    assert stay.label in client.get("/plan/?action=any").content.decode()
    assert "11.10 USD" in first


def approval(rows: Rows, client: Client, desktop: Desktop, **given: str):
    advice = desktop.recommendations.get()
    return client.post(reverse("approve", args=[advice.pk]), {"cutover": "ready", **given})


def test_an_approver_approves_on_the_page(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    response = approval(rows, signed_in(rows, "approver"), desktop, note="go")
    transition = Transition.objects.get(desktop=desktop)
    assert response.url == f"/transitions/{transition.pk}/"
    assert transition.confirmed_at is not None
    decision = Decision.objects.get()
    assert (decision.verdict, decision.note) == ("approved", "go")
    assert decision.decided_by.username == "vera"


def test_what_was_decided_already_says_so(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    client = signed_in(rows, "approver")
    approval(rows, client, desktop)
    again = client.post(
        reverse("approve", args=[desktop.recommendations.get().pk]),
        {"cutover": "ready"},
        follow=True,
    )
    assert "nothing was changed" in again.content.decode()
    assert Transition.objects.count() == 1


def test_an_approval_says_when_to_cut_over(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    approval(rows, signed_in(rows, "approver"), desktop, cutover="sometime")
    assert not Transition.objects.exists()


def test_a_rejected_proposal_is_not_carried_out(rows: Rows) -> None:
    advice = rows.add_people(1)[0].recommendations.get()
    signed_in(rows, "approver").post(reverse("reject", args=[advice.pk]), {"note": "no"})
    advice.refresh_from_db()
    assert advice.state == Recommendation.State.REJECTED
    assert not Transition.objects.exists()


def posts_of(rows: Rows) -> dict[str, str]:
    desktop, moving = rows.add_people(2)
    advice, transition = desktop.recommendations.get(), rows.add_transition(moving)
    return {
        "approve": f"/recommendations/{advice.pk}/approve/",
        "reject": f"/recommendations/{advice.pk}/reject/",
        "confirm": f"/transitions/{transition.pk}/confirm/",
        "cancel": f"/transitions/{transition.pk}/cancel/",
        "resume": f"/transitions/{transition.pk}/resume/",
        "forecast": f"/datasets/{rows.dataset.pk}/forecast/",
        "plan": f"/datasets/{rows.dataset.pk}/plan/",
        "sync": f"/sources/pools/{rows.pool.pk}/sync/",
    }


APPROVERS_ONLY = {"approve", "reject", "confirm"}


@pytest.mark.parametrize(
    ("roles", "refused"),
    [
        ((), set()),
        (("viewer",), APPROVERS_ONLY | {"cancel", "resume", "forecast", "plan", "sync"}),
        (("operator",), APPROVERS_ONLY),
        (("admin",), APPROVERS_ONLY),
        (("approver",), set()),
    ],
)
def test_a_role_may_do_what_it_says_and_no_more(
    rows: Rows, roles: tuple[str, ...], refused: set[str]
) -> None:
    client = signed_in(rows, *roles)
    for name, address in posts_of(rows).items():
        events = Event.objects.count()
        status = client.post(address, {"cutover": "ready"}).status_code
        expected = 404 if not roles else 403 if name in refused else 302
        assert status == expected, name
        if expected != 302:
            assert Event.objects.count() == events, f"{name} changed something"


def test_nothing_is_done_by_a_get(rows: Rows) -> None:
    client = signed_in(rows, "approver")
    for name, address in posts_of(rows).items():
        assert client.get(address).status_code == 405, name


def test_forms_need_their_token(rows: Rows) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(rows.account("vera", "approver"))
    for address in posts_of(rows).values():
        assert client.post(address, {"cutover": "ready"}).status_code == 403


def test_buttons_show_to_those_who_may_use_them(rows: Rows) -> None:
    desktop, moving = rows.add_people(2)
    addresses = (
        f"/recommendations/{desktop.recommendations.get().pk}/",
        f"/transitions/{rows.add_transition(moving).pk}/",
    )
    shown = {
        role: {
            button
            for address in addresses
            for button in ("approve", "reject", "confirm", "cancel")
            if f'id="{button}"' in client.get(address).content.decode()
        }
        for role in ("viewer", "operator", "approver")
        for client in [signed_in(rows, role, name=role)]
    }
    assert shown == {
        "viewer": set(),
        "operator": {"cancel"},
        "approver": {"approve", "reject", "confirm", "cancel"},
    }


def test_a_part_is_what_events_refresh_and_nothing_else(rows: Rows) -> None:
    transition = rows.add_transition(rows.add_people(1)[0])
    text = signed_in(rows, "viewer").get(f"/transitions/{transition.pk}/?part=live")
    assert "<html" not in text.content.decode()
    assert 'id="stepper" data-part' in text.content.decode()
    assert "1 GB of 4 GB" in text.content.decode()
