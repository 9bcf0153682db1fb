"""What is announced is kept once, follows its origin, and is seen by whom it may be seen."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from desktops.models import (
    DesktopUser,
    Event,
    IntegrationToken,
    Network,
    Notice,
    Pool,
)
from desktops.notices import notices_about, notices_for
from desktops.pseudonyms import pseudonym
from desktops.services.integration_tokens import create_token
from tests.support.rows import Rows, make_rows
from webapp.models import User

pytestmark = pytest.mark.django_db

ANA = "ana@example.org"
TRIP = {
    "uid": "trip-1",
    "kind": "travel",
    "person": ANA,
    "site": "lyon",
    "starts_at": "2026-03-03",
    "ends_at": "2026-03-05",
}
CLOSED = {
    "uid": "close-1",
    "kind": "closed",
    "title": "Move of the office",
    "starts_at": "2026-03-06",
    "ends_at": "2026-03-06",
}


@pytest.fixture
def rows() -> Rows:
    """Monday, 2 March 2026, 8:00 UTC; ana lives in Paris and works for the pool."""
    rows = make_rows()
    rows.add_people(1)
    DesktopUser.objects.update(pseudonym=pseudonym(ANA))
    return rows


def program(rows: Rows, *, pool: Pool | None = None, scope: str = "notices") -> Client:
    _, text = create_token(
        name="hr",
        dataset=rows.dataset,
        pool=pool,
        scopes=[IntegrationToken.Scope(scope)],
        valid_for=timedelta(days=1),
        actor="test",
        at=timezone.now(),
    )
    return Client(headers={"Authorization": f"Bearer {text}"})


def account(rows: Rows, *roles: str, name: str = "otto") -> Client:
    client = Client()
    client.force_login(rows.account(name, *roles))
    return client


def post(client: Client, body: object, query: str = ""):  # type: ignore[no-untyped-def]
    return client.post(
        f"/api/v1/notices/{query}", json.dumps(body), content_type="application/json"
    )


def listed(client: Client, query: str = "") -> list[dict[str, Any]]:
    response = client.get(f"/api/v1/notices/{query}")
    assert response.status_code == 200, response.content
    return response.json()["results"]


# Over REST


def test_a_program_announces_a_trip(rows: Rows) -> None:
    client = program(rows)
    response = post(client, TRIP | {"title": "To see a customer"})
    assert response.status_code == 201, response.content
    answer = response.json()
    assert (answer["added"], answer["changed"], answer["withdrawn"]) == (1, 0, 0)
    notice = Notice.objects.get()
    assert notice.desktop_user == DesktopUser.objects.get()
    assert notice.site == rows.sites[1]
    assert notice.starts_at == datetime(2026, 3, 2, 23, tzinfo=UTC), "a day of hers, in Paris"
    assert notice.ends_at == datetime(2026, 3, 5, 23, tzinfo=UTC)
    assert notice.title == "", "of a person nothing is kept but kind, time and place"
    assert (notice.origin, notice.provenance) == ("rest", "token:hr")
    [shown] = listed(client)
    assert shown == answer["notices"][0]
    assert shown["person"]["pseudonym"] == pseudonym(ANA)
    [event] = Event.objects.filter(kind="notices.changed")
    assert (event.pool, event.actor, event.payload["added"]) == (rows.pool, "token:hr", 1)


def test_nothing_that_names_somebody_is_stored(rows: Rows) -> None:
    post(program(rows), TRIP | {"uid": "ana@example.org-trip", "title": "Ana@Example.org away"})
    with connection.cursor() as cursor:
        for table in ("desktops_notice", "desktops_event"):
            cursor.execute(f"SELECT count(*) FROM {table} t WHERE t::text ~* 'ana@example'")
            assert cursor.fetchone() == (0,), table


def test_a_trip_of_who_opted_out_of_being_located_is_not_kept(rows: Rows) -> None:
    DesktopUser.objects.update(is_located=False)
    leave = {**TRIP, "uid": "leave-1", "kind": "leave", "site": ""}
    answer = post(program(rows), [TRIP, leave]).json()
    assert (answer["added"], answer["opted_out"]) == (1, 1)
    assert Notice.objects.get().kind == "leave"


def test_the_same_uid_changes_the_notice_and_the_same_words_do_not(rows: Rows) -> None:
    client = program(rows)
    first = post(client, TRIP).json()["notices"][0]
    again = post(client, TRIP)
    assert (again.status_code, again.json()["unchanged"]) == (200, 1)
    longer = post(client, TRIP | {"ends_at": "2026-03-06"}).json()
    assert (longer["added"], longer["changed"]) == (0, 1)
    assert longer["notices"][0]["id"] == first["id"]
    assert longer["notices"][0]["ends_at"] != first["ends_at"]
    assert Event.objects.filter(kind="notices.changed").count() == 2


def test_a_notice_is_withdrawn_by_uid_and_can_come_back(rows: Rows) -> None:
    client = program(rows)
    post(client, TRIP)
    taken = post(client, {"uid": "trip-1", "withdrawn": True})
    assert (taken.status_code, taken.json()["withdrawn"]) == (200, 1)
    assert Notice.objects.get().withdrawn_at is not None
    assert post(client, {"uid": "trip-1", "withdrawn": True}).json()["withdrawn"] == 0
    assert post(client, TRIP).json()["changed"] == 1
    assert Notice.objects.get().withdrawn_at is None


def test_a_notice_is_withdrawn_by_its_address(rows: Rows) -> None:
    client = program(rows)
    pk = post(client, TRIP).json()["notices"][0]["id"]
    for _ in range(2):
        response = client.delete(f"/api/v1/notices/{pk}/")
        assert response.status_code == 200
        assert response.json()["withdrawn_at"] is not None
    assert Event.objects.filter(kind="notice.withdrawn").count() == 1
    assert listed(client, "?standing=true") == []
    assert len(listed(client)) == 1, "never deleted"


def test_one_bad_notice_refuses_all_and_every_one_is_told(rows: Rows) -> None:
    response = post(
        program(rows),
        [
            TRIP,
            TRIP | {"uid": "2", "person": "nobody"},
            TRIP | {"uid": "3", "site": "atlantis"},
            TRIP | {"uid": "4", "site": ""},
            TRIP | {"uid": "5", "person": ""},
            TRIP | {"uid": "6", "ends_at": "2026-03-01"},
            CLOSED | {"uid": "7", "person": ANA},
            CLOSED | {"uid": "8", "pool": "nowhere"},
            TRIP,
        ],
    )
    assert response.status_code == 400
    assert {(row["index"], row["reason"]) for row in response.json()["rejected"]} == {
        (1, "unknown_person"),
        (2, "unknown_site"),
        (3, "no_site"),
        (4, "no_person"),
        (5, "bad_time"),
        (6, "bad_person"),
        (7, "unknown_pool"),
        (8, "twice"),
    }
    assert not Notice.objects.exists()


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ([], 400, "nothing_sent"),
        ([TRIP] * 1001, 413, "too_many"),
        (["trip"], 400, "malformed"),
        (TRIP | {"colour": "red"}, 400, "unknown_field"),
        (TRIP | {"kind": "holiday"}, 400, "bad_kind"),
        (TRIP | {"title": "x" * (1 << 20)}, 413, "too_large"),
    ],
)
def test_what_is_no_announcement_is_refused(
    rows: Rows, body: object, status: int, reason: str
) -> None:
    response = post(program(rows), body)
    assert (response.status_code, response.json()["reason"]) == (status, reason)


def test_lists_are_narrowed(rows: Rows) -> None:
    client = program(rows)
    post(client, [TRIP, CLOSED])
    assert [n["kind"] for n in listed(client)] == ["travel", "closed"]
    for query, kinds in (
        ("?kind=closed", ["closed"]),
        (f"?person={pseudonym(ANA)}", ["travel"]),
        ("?site=lyon", ["travel"]),
        ("?since=2026-03-05T23:00:00Z", ["closed"]),
        ("?until=2026-03-04T00:00:00Z", ["travel"]),
        ("?dataset=other", []),
    ):
        assert [n["kind"] for n in listed(client, query)] == kinds, query
    assert client.get("/api/v1/notices/?since=soon").json()["reason"] == "invalid"


def test_a_list_asks_as_often_for_many_as_for_few(rows: Rows) -> None:
    client = program(rows)
    listed(client)  # notes the use of the token

    def queries(n: int) -> tuple[int, int]:
        body = [TRIP | {"uid": f"{n}-{k}"} for k in range(n)]
        with CaptureQueriesContext(connection) as written:
            assert post(client, body).status_code == 201
        with CaptureQueriesContext(connection) as unchanged:
            assert post(client, body).json()["unchanged"] == n
        assert len(unchanged) < len(written)
        with CaptureQueriesContext(connection) as read:
            listed(client)
        return len(written), len(read)

    assert queries(3) == queries(90)


# Who may


def test_a_program_needs_the_scope(rows: Rows) -> None:
    client = program(rows, scope="presence")
    for response in (client.get("/api/v1/notices/"), post(client, TRIP)):
        assert (response.status_code, response.json()["reason"]) == (403, "missing_scope")
    stranger = Client().get("/api/v1/notices/")
    assert (stranger.status_code, stranger.json()["reason"]) == (401, "no_token")


def test_a_program_of_a_pool_keeps_to_it(rows: Rows) -> None:
    other = Pool.objects.create(dataset=rows.dataset, name="other", label="Other")
    whole, narrow = program(rows), program(rows, pool=other)
    post(whole, [TRIP, CLOSED])
    assert listed(narrow) == []
    assert post(narrow, TRIP).json()["reason"] == "unknown_person"
    assert post(narrow, CLOSED | {"pool": "test-pool"}).json()["reason"] == "unknown_pool"
    assert post(narrow, CLOSED).json()["reason"] == "uid_taken", "both programs are called hr"
    assert post(narrow, {"uid": "trip-1", "withdrawn": True}).json()["withdrawn"] == 0
    pk = Notice.objects.get(kind="travel").pk
    assert narrow.delete(f"/api/v1/notices/{pk}/").status_code == 404
    assert post(narrow, CLOSED | {"uid": "close-2"}).status_code == 201
    assert Notice.objects.get(pool=other).kind == "closed"
    assert not Notice.objects.filter(withdrawn_at__isnull=False).exists()


def test_a_program_keeps_to_its_data_set(rows: Rows) -> None:
    post(program(rows), TRIP)
    stranger = program(make_rows("strange"))
    assert listed(stranger) == []
    assert post(stranger, TRIP).json()["reason"] == "unknown_person"


def test_an_operator_announces_for_their_pools(rows: Rows) -> None:
    client = account(rows, "operator")
    assert post(client, [TRIP, CLOSED | {"pool": "test-pool"}]).status_code == 201
    assert set(Notice.objects.values_list("provenance", flat=True)) == {"account:otto"}
    refused = post(client, CLOSED | {"uid": "close-2"})
    assert (refused.status_code, refused.json()["reason"]) == (400, "no_pool")


def test_an_admin_announces_for_all(rows: Rows) -> None:
    assert post(account(rows, "admin"), CLOSED).status_code == 201
    assert Notice.objects.get().pool is None


def test_an_operator_cannot_withdraw_what_concerns_more_than_their_pools(rows: Rows) -> None:
    pk = post(program(rows), CLOSED).json()["notices"][0]["id"]
    client = account(rows, "operator")
    assert len(listed(client)) == 1
    refused = client.delete(f"/api/v1/notices/{pk}/")
    assert (refused.status_code, refused.json()["reason"]) == (403, "not_permitted")


def test_a_viewer_reads_and_writes_nothing(rows: Rows) -> None:
    pk = post(program(rows), TRIP).json()["notices"][0]["id"]
    client = account(rows, "viewer")
    assert len(listed(client)) == 1
    assert client.get(f"/api/v1/notices/{pk}/").json()["kind"] == "travel"
    for response in (post(client, TRIP), client.delete(f"/api/v1/notices/{pk}/")):
        assert (response.status_code, response.json()["reason"]) == (403, "not_permitted")


def test_an_account_without_a_role_reads_nothing(rows: Rows) -> None:
    assert account(rows).get("/api/v1/notices/").status_code == 403


def test_an_account_of_several_data_sets_names_one(rows: Rows) -> None:
    client = account(rows, "operator")
    make_rows("second").pool.members.add(User.objects.get(username="otto"))
    assert post(client, TRIP).json()["reason"] == "which_dataset"
    assert post(client, TRIP, "?dataset=strange").json()["reason"] == "which_dataset"
    assert post(client, TRIP, "?dataset=test").status_code == 201


def test_a_form_of_another_site_cannot_announce(rows: Rows) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(rows.account("otto", "operator"))
    assert post(client, TRIP).status_code == 403
    assert not Notice.objects.exists()


def test_people_s_notices_are_seen_by_members_of_their_pool_alone(rows: Rows) -> None:
    other = Pool.objects.create(dataset=rows.dataset, name="other", label="Other")
    post(program(rows), [TRIP, CLOSED, CLOSED | {"uid": "3", "pool": "test-pool"}])
    member = rows.account("vera", "viewer")
    neighbour = rows.account("nora", "viewer")
    neighbour.pools.set([other])
    assert notices_for(member).count() == 3
    [seen] = notices_for(neighbour)
    assert (seen.kind, seen.pool) == ("closed", None)


# On pages and by hand


def test_a_person_s_page_shows_what_concerns_them(rows: Rows) -> None:
    client = program(rows)
    paris_and_lyon = [
        CLOSED | {"uid": site, "site": site, "title": f"{site} is painted"}
        for site in ("paris", "lyon")
    ]
    gone = TRIP | {"uid": "old", "starts_at": "2026-02-03", "ends_at": "2026-02-03"}
    post(client, [TRIP, CLOSED, *paris_and_lyon, gone])
    post(client, {"uid": "close-1", "withdrawn": True})
    person = DesktopUser.objects.get()
    vera = rows.account("vera", "viewer")
    about = notices_about(vera, subject=person, at=rows.dataset.as_of)
    assert [notice.title for notice in about] == ["", "paris is painted"], "ana lives in Paris"
    web = Client()
    web.force_login(vera)
    page = web.get(f"/people/{person.pk}/").content.decode()
    assert "Travel to Lyon" in page and "paris is painted" in page
    assert "lyon is painted" not in page and "Move of the office" not in page


def test_networks_and_notices_are_written_by_hand(rows: Rows) -> None:
    client = Client()
    user = rows.account("alma", "admin")
    user.is_staff = True
    user.save()
    client.force_login(user)
    for cidr, saved in (("10.1.2.3/8", 0), ("::ffff:10.0.0.0/104", 1)):
        client.post(
            "/admin/desktops/network/add/",
            {"cidr": cidr, "site": rows.sites[0].pk, "label": "office"},
        )
        assert Network.objects.count() == saved
    assert Network.objects.get().cidr == "10.0.0.0/8"
    form = {
        "dataset": rows.dataset.pk,
        "desktop_user": DesktopUser.objects.get().pk,
        "kind": "travel",
        "starts_at_0": "2026-03-03",
        "starts_at_1": "00:00",
        "ends_at_0": "2026-03-05",
        "ends_at_1": "00:00",
    }
    for site, saved in (("", 0), (rows.sites[1].pk, 1)):
        client.post("/admin/desktops/notice/add/", form | {"site": site})
        assert Notice.objects.count() == saved
    notice = Notice.objects.get()
    assert (notice.origin, notice.provenance) == ("form", "account:alma")
    assert client.get(f"/admin/desktops/notice/{notice.pk}/change/").status_code == 200
    for address in ("network", "notice"):
        assert client.get(f"/admin/desktops/{address}/").status_code == 200


def test_an_operator_speaks_by_hand_for_their_pools_alone(rows: Rows) -> None:
    client = Client()
    user = rows.account("otto", "operator")
    user.is_staff = True
    user.save()
    client.force_login(user)
    stranger = make_rows("strange")
    form = {
        "dataset": rows.dataset.pk,
        "kind": "busy",
        "starts_at_0": "2026-03-03",
        "starts_at_1": "00:00",
        "ends_at_0": "2026-03-05",
        "ends_at_1": "00:00",
    }
    for pool, saved in (("", 0), (stranger.pool.pk, 0), (rows.pool.pk, 1)):
        client.post("/admin/desktops/notice/add/", form | {"pool": pool})
        assert Notice.objects.count() == saved


# From files


def run(path: Path, text: str, *options: str) -> tuple[str, str]:
    path.write_text(text, encoding="utf-8", newline="")
    out, err = StringIO(), StringIO()
    form = "icalendar" if path.suffix == ".ics" else "csv"
    call_command(
        "import_notices", str(path), "--dataset", "test", "--format", form, *options,
        stdout=out, stderr=err,
    )  # fmt: skip
    return out.getvalue(), err.getvalue()


HEADER = "uid,kind,person,site,starts_at,ends_at,title\n"
TABLE = (
    f"{HEADER}1,travel,{ANA},lyon,2026-03-03,2026-03-05,\n"
    "2,closed,,paris,2026-03-06,2026-03-06,Painters\n"
    "3,leave,nobody@example.org,,2026-03-09,2026-03-13,\n"
)


def test_a_table_is_imported_and_imported_again(rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / "hr.csv"
    out, err = run(path, TABLE)
    assert "3 rows: 2 notices added, 0 changed, 0 unchanged, 0 withdrawn" in out
    assert "1 of people who are not here" in out
    assert err == "hr.csv line 4: nobody here signs in like this\n"
    assert set(Notice.objects.values_list("provenance", "origin")) == {("file:hr.csv", "csv")}
    out, _ = run(path, TABLE.replace("2026-03-05", "2026-03-06"))
    assert "0 notices added, 1 changed, 1 unchanged, 0 withdrawn" in out
    assert Notice.objects.count() == 2
    payloads = [event.payload for event in Event.objects.filter(kind="notices.changed")]
    assert len(payloads) == 2 and "hr.csv" not in str(payloads)
    assert {payload["origin"] for payload in payloads} == {"csv"}


def test_what_vanished_is_withdrawn_only_when_asked_for(rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / "hr.csv"
    ended = f"4,travel,{ANA},lyon,2026-02-03,2026-02-05,\n"
    run(path, TABLE + ended)
    run(tmp_path / "other.csv", TABLE)
    less = f"{HEADER}1,travel,{ANA},lyon,2026-03-03,2026-03-05,\n"
    assert "0 withdrawn" in run(path, less)[0]
    assert "1 withdrawn" in run(path, less, "--replace")[0]
    [withdrawn] = Notice.objects.filter(withdrawn_at__isnull=False)
    assert (withdrawn.title, withdrawn.provenance) == ("Painters", "file:hr.csv")
    assert "1 changed" in run(path, TABLE)[0]
    assert not Notice.objects.filter(withdrawn_at__isnull=False).exists()


def test_too_many_bad_rows_keep_nothing(rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / "hr.csv"
    bad = f"5,travel,{ANA},atlantis,2026-03-03,2026-03-05,\n6,leave,{ANA},,2026-03-99,2026-03-05,\n"
    with pytest.raises(CommandError) as refused:
        run(path, TABLE + bad)
    message = str(refused.value)
    assert "hr.csv: 2 of 5 rows are bad, more than 1.00%" in message
    assert "hr.csv line 5: no one site is called 'atlantis'" in message
    assert "hr.csv line 6: starts_at '2026-03-99' is no day" in message
    assert not Notice.objects.exists()
    out, err = run(path, TABLE + bad, "--tolerance", "0.5")
    assert "2 notices added" in out and "2 bad" in out
    assert len(err.splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "why"),
    [("kind\n", "no column ends_at, starts_at"), (HEADER, "announces nothing")],
)
def test_a_table_that_is_none_is_refused(rows: Rows, tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(CommandError, match=why):
        run(tmp_path / "hr.csv", text)


def test_a_file_for_a_pool_keeps_to_it(rows: Rows, tmp_path: Path) -> None:
    Pool.objects.create(dataset=rows.dataset, name="other", label="Other")
    out, _ = run(tmp_path / "hr.csv", TABLE, "--pool", "other")
    assert "1 notices added" in out and "2 of people who are not here" in out
    assert Notice.objects.get().pool.name == "other"
    for wrong in (["--pool", "nowhere"], ["--tolerance", "2"], ["--ahead", "0"]):
        with pytest.raises(CommandError):
            run(tmp_path / "hr.csv", TABLE, *wrong)


CALENDAR = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//test//EN
BEGIN:VEVENT
UID:weekly@example.org
CATEGORIES:Travel
ATTENDEE:mailto:Ana@Example.org
ATTENDEE:mailto:stranger@example.org
SUMMARY:Ana to Lyon
LOCATION:Lyon
DTSTART;TZID=Europe/Paris:20260304T090000
DTEND;TZID=Europe/Paris:20260304T180000
RRULE:FREQ=WEEKLY;UNTIL=20260325T235959Z{exdate}
END:VEVENT
BEGIN:VEVENT
UID:quarter@example.org
CATEGORIES:Quarter close
SUMMARY:Books are closed
DTSTART;VALUE=DATE:20260330
DTEND;VALUE=DATE:20260402{status}
END:VEVENT
BEGIN:VEVENT
UID:lunch@example.org
SUMMARY:Lunch
DTSTART:20260304T110000Z
DTEND:20260304T120000Z
END:VEVENT
END:VCALENDAR
"""


def feed(exdate: str = "", status: str = "") -> str:
    return CALENDAR.format(exdate=exdate, status=status).replace("\n", "\r\n")


def test_a_calendar_is_imported_and_follows_its_changes(rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / "team.ics"
    out, _ = run(path, feed())
    assert "3 rows: 5 notices added" in out
    assert "4 of people who are not here, 0 of people who opted out, 1 passed" in out
    trips = Notice.objects.filter(kind="travel")
    assert [trip.starts_at.day for trip in trips] == [4, 11, 18, 25]
    assert {trip.site for trip in trips} == {rows.sites[1]}
    close = Notice.objects.get(kind="busy")
    assert (close.title, close.pool, close.desktop_user) == ("Books are closed", None, None)
    assert "0 notices added, 0 changed, 5 unchanged" in run(path, feed())[0]
    assert (
        "4 unchanged, 1 withdrawn"
        in run(path, feed(exdate="\nEXDATE;TZID=Europe/Paris:20260311T090000"))[0]
    )
    assert [t.starts_at.day for t in trips.filter(withdrawn_at=None)] == [4, 18, 25]
    cancelled = run(path, feed(status="\nSTATUS:CANCELLED"))[0]
    assert "1 changed, 3 unchanged, 1 withdrawn" in cancelled
    close.refresh_from_db()
    assert close.withdrawn_at is not None
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM desktops_notice n WHERE n::text ~* 'example.org'")
        assert cursor.fetchone() == (0,)


def test_a_calendar_of_addresses_can_mean_names(rows: Rows, tmp_path: Path) -> None:
    DesktopUser.objects.update(pseudonym=pseudonym("ana"))
    out, _ = run(tmp_path / "team.ics", feed(), "--local-part", "--ahead", "7")
    assert "1 notices added" in out, "one trip lies within a week; the close does not"


def test_a_truncated_calendar_is_refused(rows: Rows, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="truncated"):
        run(tmp_path / "team.ics", feed()[:400])
