"""Programs say who was seen where; a place becomes known, and an expected arrival is confirmed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from desktops.models import (
    Activity,
    Dataset,
    DesktopUser,
    IntegrationToken,
    Network,
    Pool,
    QuarantinedRow,
    RegionLink,
    RoundTrip,
    Sample,
    Sighting,
    Site,
    Source,
)
from desktops.pseudonyms import pseudonym
from desktops.services import locating
from desktops.services.ingest import ensure_source
from desktops.services.integration_tokens import create_token, revoke_token
from desktops.services.presence import source_name
from migration.core.advice import ConfirmTerms
from migration.models import Transition
from migration.services.confirming import confirm_seen
from tests.support.rows import AS_OF, Rows, make_rows
from tests.support.services import Service
from webapp.checks import geoip_database_can_be_read

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)
NOW = AS_OF + 30 * MINUTE
PRESENCE = IntegrationToken.Scope.PRESENCE
NOTICES = IntegrationToken.Scope.NOTICES


@pytest.fixture(autouse=True)
def _not_rung_yet() -> None:
    cache.delete("presence.rung")


@pytest.fixture
def rows() -> Rows:
    """Half past eight in the data set, where ana works for the pool."""
    rows = make_rows()
    Dataset.objects.filter(pk=rows.dataset.pk).update(as_of=NOW)
    rows.add_people(1)
    DesktopUser.objects.update(pseudonym=pseudonym("ana@example.org"))
    return rows


def token_for(
    rows: Rows, *scopes: IntegrationToken.Scope, pool: Pool | None = None, **changes: Any
) -> str:
    token, text = create_token(
        name="vpn",
        dataset=rows.dataset,
        pool=pool,
        scopes=scopes or [PRESENCE],
        valid_for=timedelta(days=1),
        actor="test",
        at=timezone.now(),
    )
    IntegrationToken.objects.filter(pk=token.pk).update(**changes)
    return text


def post(token: str, body: object, **headers: str):  # type: ignore[no-untyped-def]
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    return Client(headers={"Authorization": f"Bearer {token}"} | headers).post(
        "/api/v1/presence/", text, content_type="application/json"
    )


def seen(site: str = "lyon", **changes: Any) -> dict[str, Any]:
    return {
        "person": "Ana@Example.org ",
        "at": (AS_OF + 10 * MINUTE).isoformat(),
        "site": site,
    } | changes


def reasons(response: Any) -> list[tuple[int, str]]:
    return [(row["index"], row["reason"]) for row in response.json()["rejected"]]


# What is stored


def test_a_person_seen_at_a_site_is_stored_by_pseudonym_and_site_alone(rows: Rows) -> None:
    response = post(token_for(rows), seen(kind="badge"))
    assert response.status_code == 202
    assert response.json() == {"accepted": 1, "unknown_place": 0, "rejected": []}
    sample = Sample.objects.get()
    person = DesktopUser.objects.get()
    assert sample.desktop_user_id == person.pk
    assert sample.site_id == rows.sites[1].pk
    assert sample.at == AS_OF + 10 * MINUTE
    assert sample.active_ratio != sample.active_ratio, "presence is no session"
    assert (person.sighting.site, person.sighting.at) == (rows.sites[1], AS_OF + 10 * MINUTE)
    source = Source.objects.get(kind=Source.Kind.PRESENCE)
    assert (source.name, source.rows) == ("presence-test-pool-vpn", 1)


def test_the_same_report_again_stores_nothing_more(rows: Rows) -> None:
    token = token_for(rows)
    for _ in range(2):
        assert post(token, [seen(), seen()]).json()["accepted"] == 2
    assert Sample.objects.count() == 1


def test_an_observation_without_a_time_is_of_now_in_the_data_set(rows: Rows) -> None:
    body = seen()
    del body["at"]
    assert post(token_for(rows), body).json()["accepted"] == 1
    assert Sample.objects.get().at == NOW


def test_times_may_be_seconds_or_have_any_offset(rows: Rows) -> None:
    at = AS_OF + 10 * MINUTE
    body = [
        seen(at=at.timestamp() + 0.5),
        seen(at="2026-03-02T09:11:00+01:00"),
        seen(at="2026-03-02 08:12:00Z"),
    ]
    assert post(token_for(rows), body).json()["accepted"] == 3
    stored = sorted(Sample.objects.values_list("at", flat=True))
    assert stored == [at, at + MINUTE, at + 2 * MINUTE]


def test_each_bad_observation_is_told_and_costs_the_others_nothing(rows: Rows) -> None:
    late = AS_OF - timedelta(days=30)
    body = [
        seen(),
        seen(person="nobody@example.org"),
        seen("atlantis"),
        seen(at=(NOW + timedelta(hours=1)).isoformat()),
        seen(at=late.isoformat()),
        seen(at="2026-03-02T08:10:00"),
        seen(at="yesterday"),
        seen(at=True),
        seen(at=1e300),
        seen(site=None),
        seen(address="10.0.0.1"),
        seen(site=None, address="10.0.0.1:80"),
        seen(kind="telepathy"),
        seen(present="yes"),
        seen(colour="red"),
        seen(person="a\u0000b"),
        seen(person="x" * 300),
        seen(person=7),
        "ana",
        seen(present=False, at=late.isoformat()),
    ]
    response = post(token_for(rows), body)
    assert response.status_code == 202
    assert response.json()["accepted"] == 1
    assert reasons(response) == list(
        enumerate(
            (
                "unknown_person",
                "unknown_site",
                "future",
                "too_old",
                "no_offset",
                "bad_time",
                "bad_time",
                "bad_time",
                "no_place",
                "no_place",
                "bad_address",
                "bad_kind",
                "bad_present",
                "unknown_field",
                "bad_person",
                "bad_person",
                "no_person",
                "malformed",
                "too_old",
            ),
            start=1,
        )
    )
    assert Sample.objects.count() == 1
    assert not QuarantinedRow.objects.exists(), "the answer said it all"


def test_who_opted_out_of_being_located_leaves_no_trace(rows: Rows) -> None:
    DesktopUser.objects.update(is_located=False)
    assert post(token_for(rows), seen()).status_code == 202
    assert not Sample.objects.exists()
    assert not Sighting.objects.exists()


def test_nothing_that_was_sent_in_clear_is_stored(rows: Rows) -> None:
    Network.objects.create(cidr="198.51.100.0/24", site=rows.sites[0])
    assert post(token_for(rows), seen(site=None, address="198.51.100.77")).json()["accepted"] == 1
    post(token_for(rows), seen(person="nobody@example.org", site=None, address="198.51.100.78"))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
        )
        for (table,) in cursor.fetchall():
            cursor.execute(
                f'SELECT count(*) FROM "{table}" t WHERE t::text ~* %s',
                [r"ana@example|nobody@example|198\.51\.100\.7[78]"],
            )
            assert cursor.fetchone() == (0,), table


def test_who_left_is_no_longer_there(rows: Rows) -> None:
    token = token_for(rows)
    post(token, seen(at=(AS_OF + 10 * MINUTE).isoformat()))
    for too_early_or_elsewhere in (
        seen(present=False, at=(AS_OF + 9 * MINUTE).isoformat()),
        seen("paris", present=False, at=(AS_OF + 12 * MINUTE).isoformat()),
    ):
        assert post(token, too_early_or_elsewhere).json()["accepted"] == 1
        assert Sighting.objects.get().site == rows.sites[1]
    assert post(token, seen(present=False, at=(AS_OF + 12 * MINUTE).isoformat())).status_code == 202
    assert Sighting.objects.get().site is None
    assert Sample.objects.count() == 1, "that somebody was there stays true"


@pytest.mark.parametrize("was_seen_before", [True, False])
def test_what_comes_late_does_not_bring_back_who_left(rows: Rows, was_seen_before: bool) -> None:
    token = token_for(rows)

    def at(minute: int) -> str:
        return (AS_OF + minute * MINUTE).isoformat()

    if was_seen_before:
        post(token, seen(at=at(10)))
    post(token, seen(present=False, at=at(20)))
    post(token, seen(at=at(15)))
    sighting = Sighting.objects.get()
    assert (sighting.site, sighting.at) == (None, AS_OF + 20 * MINUTE)
    post(token, seen(at=at(25)))
    sighting.refresh_from_db()
    assert sighting.site == rows.sites[1]


def test_that_somebody_left_is_not_kept_of_who_opted_out(rows: Rows) -> None:
    DesktopUser.objects.update(is_located=False)
    assert post(token_for(rows), seen(present=False)).json()["accepted"] == 1
    assert not Sighting.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_report_holds_nobody_of_one_pool_while_it_waits_for_another(rows: Rows) -> None:
    ana = DesktopUser.objects.get()
    other_pool = Pool.objects.create(dataset=rows.dataset, name="other", label="Other")
    bob = DesktopUser.objects.create(
        dataset=rows.dataset, pool=other_pool, pseudonym=pseudonym("bob")
    )
    token = token_for(rows)
    post(token, [seen(), seen(person="bob")])
    later = (AS_OF + 12 * MINUTE).isoformat()

    def report() -> int:
        try:
            body = [seen(at=later), seen(person="bob", at=later)]
            return int(post(token, body).status_code)
        finally:
            connections.close_all()

    lock = "SELECT FROM desktops_sighting WHERE desktop_user_id = %s FOR UPDATE NOWAIT"
    other = connection.copy()
    other.set_autocommit(False)
    try:
        with other.cursor() as cursor, ThreadPoolExecutor(1) as thread:
            cursor.execute(lock, [bob.pk])
            reporting = thread.submit(report)
            deadline = time.monotonic() + 30
            while not waiting_for_locks():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            with transaction.atomic(), connection.cursor() as third:
                third.execute(lock, [ana.pk])
            other.commit()
            assert reporting.result(timeout=30) == 202
    finally:
        other.close()


def waiting_for_locks() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return int(cursor.fetchone()[0])


# Requests that are refused as a whole


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, "malformed_json"),
        (b"\xff\xfe", 400, "malformed_json"),
        (b"[" * 200_000, 400, "malformed_json"),
        (b'{"person": NaN}', 400, "malformed_json"),
        (b"7", 400, "malformed"),
        (b"[]", 400, "nothing_sent"),
        (b"[" + b"{}," * 1000 + b"{}]", 413, "too_many"),
        (b" " * (1 << 20) + b"{}", 413, "too_large"),
    ],
)
def test_what_is_no_report_is_refused(rows: Rows, body: bytes, status: int, reason: str) -> None:
    response = post(token_for(rows), body)
    assert (response.status_code, response.json()["reason"]) == (status, reason)
    assert response.json()["detail"]


def test_other_types_and_methods_are_refused(rows: Rows) -> None:
    client = Client(headers={"Authorization": f"Bearer {token_for(rows)}"})
    response = client.post("/api/v1/presence/", {"person": "ana"})
    assert (response.status_code, response.json()["reason"]) == (415, "wrong_type")
    response = client.get("/api/v1/presence/")
    assert (response.status_code, response.json()["reason"]) == (405, "method_not_allowed")


# Tokens


def test_a_wrong_expired_or_revoked_token_opens_nothing(rows: Rows) -> None:
    for token, reason in (
        ("", "wrong_token"),
        ("foredesk_app_x", "wrong_token"),
        ("\u00e9", "wrong_token"),
        (token_for(rows, expires_at=timezone.now() - MINUTE), "expired_token"),
        (token_for(rows, revoked_at=timezone.now()), "revoked_token"),
    ):
        response = post(token, seen())
        assert (response.status_code, response.json()["reason"]) == (401, reason)
        assert response["WWW-Authenticate"] == "Bearer"
    assert not Sample.objects.exists()


def test_no_token_or_an_account_is_not_enough(rows: Rows) -> None:
    stranger, admin = Client(), Client()
    admin.force_login(rows.account("alma", "admin"))
    for client in (stranger, admin):
        response = client.post("/api/v1/presence/", "{}", content_type="application/json")
        assert (response.status_code, response.json()["reason"]) == (401, "no_token")


def test_a_token_without_the_scope_is_refused(rows: Rows) -> None:
    response = post(token_for(rows, NOTICES), seen())
    assert (response.status_code, response.json()["reason"]) == (403, "missing_scope")


def test_a_token_of_a_pool_reaches_only_its_people(rows: Rows) -> None:
    other = Pool.objects.create(dataset=rows.dataset, name="other", label="Other")
    assert reasons(post(token_for(rows, pool=other), seen())) == [(0, "unknown_person")]
    assert post(token_for(rows, pool=rows.pool), seen()).json()["accepted"] == 1


def test_a_token_reaches_only_its_data_set(rows: Rows) -> None:
    assert reasons(post(token_for(make_rows("other")), seen())) == [(0, "unknown_person")]


def test_a_token_of_a_data_set_reaches_every_pool(rows: Rows) -> None:
    other = Pool.objects.create(dataset=rows.dataset, name="other", label="Other")
    DesktopUser.objects.create(dataset=rows.dataset, pool=other, pseudonym=pseudonym("bo"))
    assert post(token_for(rows), [seen(), seen(person="bo")]).json()["accepted"] == 2
    assert set(Source.objects.values_list("pool__name", "rows")) == {
        ("test-pool", 1),
        ("other", 1),
    }


def test_the_use_of_a_token_is_noted_once_a_minute(rows: Rows) -> None:
    text = token_for(rows)
    for ago, is_noted in ((None, True), (30, False), (90, True)):
        before = timezone.now() - timedelta(seconds=ago) if ago else None
        IntegrationToken.objects.update(last_used_at=before)
        with CaptureQueriesContext(connection) as queries:
            post(text, seen())
        written = [q for q in queries if "UPDATE" in q["sql"] and "integrationtoken" in q["sql"]]
        assert bool(written) == is_noted
        assert (IntegrationToken.objects.get().last_used_at != before) == is_noted


def _addresses(patterns: list[Any], prefix: str = "/") -> Iterator[str]:
    for pattern in patterns:
        address = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _addresses(pattern.url_patterns, address)
        elif isinstance(pattern, URLPattern) and pattern.name:
            yield address


def test_a_token_opens_nothing_but_what_its_scopes_name(rows: Rows) -> None:
    """Over every address of the product, whatever is added to it."""
    client = Client(headers={"Authorization": f"Bearer {token_for(rows, *IntegrationToken.Scope)}"})
    public = {
        "/healthz",
        "/sign-in/",
        "/sign-out/",
        "/admin/login/",
        "/admin/jsi18n/",
        "/api/v1/agent/enrol/",  # asks for another token, in its body
    }
    opened = (
        "/api/v1/presence/",
        "/api/v1/notices/",
        "/api/v1/person",
        "/api/v1/people/",
        "/api/v1/round-trips/",
    )
    tried = 0
    for pattern in sorted(set(_addresses(get_resolver().url_patterns))):
        address = pattern.replace("^", "").replace("$", "").replace("\\", "").replace(r"\Z", "")
        for hole in ("<int:pk>", "(?P<pk>[/.]+)", "(?P<pk>[^/.]+)"):
            address = address.replace(hole, "1")
        if "(" in address or "<" in address or address in public or address.startswith(opened):
            continue
        for method in ("get", "post"):
            response = getattr(client, method)(address)
            assert response.status_code in (302, 401, 403, 404, 405), (method, address)
            if response.status_code == 302:
                assert response["Location"].startswith(("/sign-in/", "/admin/login/")), address
            tried += 1
    assert tried > 60


def test_tokens_are_made_listed_and_revoked_by_command(rows: Rows) -> None:
    def run(*arguments: str) -> str:
        out = StringIO()
        call_command("integration_token", *arguments, stdout=out)
        return out.getvalue()

    made = run(
        "create", "badges", "--dataset", "test", "--pool", "test-pool", "--scope", "presence",
        "--days", "30",
    )  # fmt: skip
    text = made.splitlines()[1]
    token = IntegrationToken.objects.get()
    assert text not in token.digest
    assert (token.pool, token.scopes) == (rows.pool, ["presence"])
    assert post(text, seen()).status_code == 202
    listed = run("list")
    assert "badges" in listed and "test/test-pool" in listed and text not in listed
    assert "revoked" in run("revoke", str(token.pk))
    assert post(text, seen()).json()["reason"] == "revoked_token"
    assert "revoked" in run("list")
    for wrong in (
        ("revoke", str(token.pk)),
        ("revoke", "999999"),
        ("create", "badges", "--dataset", "nowhere", "--scope", "presence"),
        ("create", "badges", "--dataset", "test", "--pool", "nowhere", "--scope", "presence"),
        ("create", "a b", "--dataset", "test", "--scope", "presence"),
        ("create", "badges", "--dataset", "test", "--scope", "presence", "--days", "0"),
        ("create", "badges", "--dataset", "test", "--scope", "everything"),
        ("create", "badges", "--dataset", "test"),
    ):
        with pytest.raises(CommandError):
            run(*wrong)


def test_a_second_revocation_changes_nothing(rows: Rows) -> None:
    token_for(rows)
    token, at = IntegrationToken.objects.get(), timezone.now()
    assert revoke_token(token=token, actor="", at=at)
    assert not revoke_token(token=token, actor="", at=at + MINUTE)
    assert IntegrationToken.objects.get().revoked_at == at


def test_names_of_sources_fit(rows: Rows) -> None:
    rows.pool.name = "p" * 80
    names = {source_name(pool=rows.pool, program=name) for name in ("vpn", "wifi")}
    assert len(names) == 2 and all(len(name) <= 80 for name in names)


def test_a_name_that_is_another_pools_source_gets_digits(rows: Rows) -> None:
    pools = [
        Pool.objects.create(dataset=rows.dataset, name=name, label=name) for name in ("a", "a-b")
    ]
    programs = ("b-c", "c")
    sources = [
        ensure_source(
            pool=pool,
            kind=Source.Kind.PRESENCE,
            name=source_name(pool=pool, program=program),
        )
        for pool, program in zip(pools, programs, strict=True)
        for _ in range(2)
    ]
    assert [source.pool for source in sources] == [pools[0]] * 2 + [pools[1]] * 2
    assert len({source.pk for source in sources}) == 2


# From addresses to sites


def test_an_address_becomes_the_site_of_its_longest_network(rows: Rows) -> None:
    paris, lyon = rows.sites
    Network.objects.create(cidr="10.0.0.0/8", site=paris)
    Network.objects.create(cidr="10.7.0.0/16", site=lyon)
    Network.objects.create(cidr="10.7.9.0/24", site=None)
    body = [
        seen(site=None, address=address, at=(AS_OF + n * MINUTE).isoformat())
        for n, address in enumerate(("10.1.1.1", "::ffff:10.7.1.1", "10.7.9.1", "192.0.2.1"))
    ]
    response = post(token_for(rows), body)
    assert response.json() == {"accepted": 2, "unknown_place": 2, "rejected": []}
    assert list(Sample.objects.order_by("at").values_list("site_id", flat=True)) == [
        paris.pk,
        lyon.pk,
    ]


def test_a_site_called_unknown_is_an_unknown_place(rows: Rows) -> None:
    assert post(token_for(rows), seen("unknown")).json()["unknown_place"] == 1
    assert not Sample.objects.exists()


def test_a_changed_table_counts_soon_and_is_not_asked_for_every_time(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network.objects.create(cidr="10.0.0.0/8", site=rows.sites[0])
    assert locating.site_finder().find("10.1.1.1") == "paris"
    with CaptureQueriesContext(connection) as queries:
        for _ in range(1000):
            locating.site_finder().find("10.1.1.1")
    assert len(queries) == 0
    monkeypatch.setattr(locating, "GRACE_S", 0.0)
    before = locating.site_finder()
    assert locating.site_finder() is before, "nothing changed, nothing is made anew"
    Network.objects.create(cidr="10.1.0.0/16", site=rows.sites[1])
    assert locating.site_finder().find("10.1.1.1") == "lyon"
    network.delete()
    assert locating.site_finder().find("10.2.1.1") is None


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_networks_are_imported_whole_or_not_at_all(rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / "networks.csv"

    def run(text: str, *options: str) -> str:
        out = StringIO()
        call_command("import_networks", write(path, text), *options, stdout=out)
        return out.getvalue()

    first = "cidr,site,label\n10.0.0.0/8,paris,Head office\n10.9.0.0/16,unknown,VPN\n"
    assert "2 networks added, 0 changed, 0 unchanged, 0 removed" in run(first)
    assert locating.site_finder().find("10.1.1.1") == "paris"
    assert locating.site_finder().find("10.9.1.1") is None
    assert "0 networks added, 0 changed, 2 unchanged, 0 removed" in run(first)
    with pytest.raises(CommandError, match=r"line 3: there is no site 'atlantis'"):
        run("cidr,site\n10.0.0.0/8,lyon\n11.0.0.0/8,atlantis\n")
    with pytest.raises(CommandError, match=r"line 3: .* beyond its prefix"):
        run("cidr,site\n10.0.0.0/8,lyon\n11.0.0.1/8,lyon\n")
    assert Network.objects.get(cidr="10.0.0.0/8").site == rows.sites[0]
    assert "0 networks added, 1 changed, 0 unchanged, 0 removed" in run(
        "cidr,site\n10.0.0.0/8,lyon\n"
    )
    assert locating.site_finder().find("10.1.1.1") == "lyon", "this process knows at once"
    assert "1 networks added, 0 changed, 0 unchanged, 2 removed" in run(
        "cidr,site\n2001:db8::/32,paris\n", "--replace"
    )
    assert Network.objects.get().cidr == "2001:db8::/32"


@pytest.fixture
def geoip(tmp_path: Path, settings: Any) -> Path:
    """Lyon, a vague place, and a proxy in Lyon."""
    lyon = {"latitude": 45.76, "longitude": 2.1}
    writer = MMDBWriter(4, "GeoLite2-City", languages=["en"], description="of a test")
    for cidr, record in (
        ("5.1.0.0/16", {"location": {**lyon, "accuracy_radius": 20}}),
        ("5.2.0.0/16", {"location": {**lyon, "accuracy_radius": 500}}),
        ("5.3.0.0/16", {"location": lyon, "traits": {"is_anonymous_proxy": True}}),
        ("5.4.0.0/16", {"country": {"iso_code": "FR"}}),
        ("10.0.0.0/8", {"location": {**lyon, "accuracy_radius": 20}}),
    ):
        writer.insert_network(IPSet([cidr]), record)
    path = tmp_path / "city.mmdb"
    writer.to_db_file(str(path))
    settings.GEOIP_DATABASE = path
    locating.forget_sites()
    return path


def test_an_address_in_no_network_is_looked_up_by_geoip(rows: Rows, geoip: Path) -> None:
    Network.objects.create(cidr="5.1.7.0/24", site=rows.sites[0])
    Network.objects.create(cidr="5.1.9.0/24", site=None)
    find = locating.site_finder().find
    assert find("5.1.2.3") == find("::ffff:5.1.2.3") == "lyon"
    assert find("5.1.7.1") == "paris", "the admin's table counts before"
    for unknown in ("5.1.9.1", "5.2.2.3", "5.3.2.3", "5.4.2.3", "5.5.2.3", "10.1.1.1", "x", "::1"):
        assert find(unknown) is None, unknown
    assert geoip_database_can_be_read() == []


def test_a_damaged_database_is_told_at_start_and_costs_places_only(
    rows: Rows, geoip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Network.objects.create(cidr="10.0.0.0/8", site=rows.sites[0])
    geoip.write_bytes(geoip.read_bytes()[:200])
    locating.forget_sites()
    [error] = geoip_database_can_be_read()
    assert error.id == "webapp.E002" and str(geoip) in error.msg
    assert locating.site_finder().find("5.1.2.3") is None
    assert locating.site_finder().find("10.1.1.1") == "paris"
    assert [r.message.split(":")[0] for r in caplog.records] == [
        "The GeoIP database cannot be used"
    ]


def test_a_database_of_another_kind_is_told_at_start(rows: Rows, geoip: Path) -> None:
    writer = MMDBWriter(4, "GeoLite2-ASN", languages=["en"], description="of a test")
    writer.insert_network(IPSet(["5.1.0.0/16"]), {"autonomous_system_number": 1})
    writer.to_db_file(str(geoip))
    assert "holds no coordinates" in geoip_database_can_be_read()[0].msg


# What presence confirms


@pytest.fixture
def waiting(rows: Rows) -> Transition:
    """Ana's desktop is to follow her to Lyon, served from the west, once she is seen there."""
    desktop = DesktopUser.objects.get().desktop
    for site, near, far in (
        (rows.sites[0], rows.east, rows.west),
        (rows.sites[1], rows.west, rows.east),
    ):
        for region, rtt_ms in ((near, 5), (far, 180)):
            RoundTrip.objects.create(site=site, region=region, rtt_ms=rtt_ms, source="table")
    RegionLink.objects.create(
        source=rows.east, dest=rows.west, egress_price_per_gb="0.01", bytes_per_s=10**9
    )
    transition = rows.add_transition(desktop)
    recommendation = desktop.recommendations.get()
    terms = ConfirmTerms(
        source_region=0,
        target_region=1,
        sites=("Lyon",),
        demand_vcpus=None,
        demand_memory_bytes=None,
        probability=0.5,
        active_hours=8,
        other_saving=0,
        fixed_stall_s=5,
        memory_in_stall_bytes=0,
        memory_bytes=0,
        egress_price_per_gb=10_000.0,
        commit_cost=0,
        session_lost=False,
    )
    recommendation.confirm_terms = {
        name: getattr(terms, name) for name in ConfirmTerms.__dataclass_fields__
    }
    recommendation.save()
    transition.recommendation = recommendation
    transition.save()
    return transition


def is_confirmed(transition: Transition) -> bool:
    confirm_seen(wall=timezone.now())
    transition.refresh_from_db()
    return transition.confirmed_at is not None


def test_being_seen_where_expected_confirms_without_waiting_for_the_hour(
    rows: Rows, waiting: Transition
) -> None:
    assert not is_confirmed(waiting), "a prediction cannot confirm itself"
    post(token_for(rows), seen("lyon"))
    assert is_confirmed(waiting)
    assert "Lyon" in waiting.confirmation


def test_being_seen_elsewhere_confirms_nothing(rows: Rows, waiting: Transition) -> None:
    post(token_for(rows), seen("paris"))
    assert not is_confirmed(waiting)


def test_what_was_seen_before_the_plan_confirms_nothing(rows: Rows, waiting: Transition) -> None:
    post(token_for(rows), seen("lyon", at=(AS_OF - 5 * MINUTE).isoformat()))
    assert not is_confirmed(waiting)


def test_the_newest_place_counts(rows: Rows, waiting: Transition) -> None:
    token = token_for(rows)
    post(
        token,
        [
            seen("paris", at=(AS_OF + 20 * MINUTE).isoformat()),
            seen("lyon", at=(AS_OF + 10 * MINUTE).isoformat()),
        ],
    )
    assert not is_confirmed(waiting)
    post(token, seen("lyon", at=(AS_OF + 25 * MINUTE).isoformat()))
    assert is_confirmed(waiting)


def test_an_hour_that_is_not_over_does_not_hide_what_was_seen_in_it(
    rows: Rows, waiting: Transition
) -> None:
    """Roll-ups write the running hour too, with the place of its beginning."""
    person = DesktopUser.objects.get()
    Activity.objects.create(
        dataset=rows.dataset,
        desktop_user=person,
        desktop=person.desktop,
        hour=AS_OF,
        active_ratio=0.2,
        site=rows.sites[0],
    )
    assert not is_confirmed(waiting)
    post(token_for(rows), seen("lyon"))
    assert is_confirmed(waiting)


def test_who_left_again_confirms_nothing(rows: Rows, waiting: Transition) -> None:
    token = token_for(rows)
    post(token, [seen("lyon"), seen("lyon", at=(AS_OF + 15 * MINUTE).isoformat(), present=False)])
    assert not is_confirmed(waiting)


def rung() -> int:
    """How many confirmations wait in the queue; they are taken out of it."""
    with current_app.connection_for_read() as broker, broker.SimpleQueue("default") as queue:
        count = 0
        with suppress(queue.Empty):
            while message := queue.get(block=False):
                count += message.headers.get("task") == "migration.tasks.confirm_seen"
                message.ack()
        return count


def test_presence_rings_the_confirmation_once_a_second(
    rows: Rows, django_capture_on_commit_callbacks: Any
) -> None:
    token = token_for(rows)
    rung()
    for sent, rings in ((seen("unknown"), 0), (seen(person="nobody"), 0), (seen(), 1), (seen(), 0)):
        with django_capture_on_commit_callbacks(execute=True):
            assert post(token, sent).status_code == 202
        assert rung() == rings


@pytest.mark.django_db(transaction=True)
def test_a_worker_confirms_within_seconds_of_the_report(
    rows: Rows, waiting: Transition, tmp_path: Path
) -> None:
    """Without beat, whose sweep every 15 seconds would find it too."""
    rung()
    worker = Service(
        *("celery", "-A", "webapp", "--quiet", "worker", "--pool=solo", "--queues=default"),
        log=tmp_path / "worker.log",
    )
    try:
        worker.start()
        assert post(token_for(rows), seen("lyon")).json()["accepted"] == 1
        deadline = time.monotonic() + 40
        while waiting.confirmed_at is None:
            assert time.monotonic() < deadline, worker.log.read_text()
            time.sleep(0.1)
            waiting.refresh_from_db()
    finally:
        worker.stop()
    assert "Lyon" in waiting.confirmation


def test_many_are_stored_with_as_many_queries_as_few(rows: Rows) -> None:
    people = [
        DesktopUser(dataset=rows.dataset, pool=rows.pool, pseudonym=pseudonym(f"p{n}"))
        for n in range(1000)
    ]
    DesktopUser.objects.bulk_create(people)
    token = token_for(rows)
    post(token, seen())  # makes the source and the day's partition

    def queries(first: int, n: int) -> int:
        body = [seen(person=f"p{k}", kind="wifi") for k in range(first, first + n)]
        with CaptureQueriesContext(connection) as asked:
            assert post(token, body).json()["accepted"] == n
        return len(asked)

    assert queries(0, 2) == queries(2, 998)


def test_unix_epoch_is_too_old(rows: Rows) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert reasons(post(token_for(rows), seen(at=epoch.timestamp()))) == [(0, "too_old")]
    assert Site.objects.count() == 2
