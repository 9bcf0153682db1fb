"""One person: exported whole, erased without a trace, left out on request."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from celery import current_app
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from desktops import events
from desktops.aliases import alias_of
from desktops.errors import Refused
from desktops.models import (
    Activity,
    AgentCommand,
    ApplicationUse,
    Batch,
    Dataset,
    Desktop,
    DesktopUser,
    DirtyHour,
    DiskRead,
    Erasure,
    Event,
    ImportedFile,
    IntegrationToken,
    Look,
    Notice,
    PersonName,
    QuarantinedRow,
    Sample,
    Sighting,
    Source,
    Watermark,
)
from desktops.pseudonyms import pseudonym
from desktops.selectors import enough_people
from desktops.services import people
from desktops.services.ingest import ensure_source, store
from desktops.services.integration_tokens import create_token
from desktops.services.people import erase_person, finish_erasures, set_opt_outs
from desktops.services.rollups import roll_up
from desktops.sources.samples import Labels, Samples
from desktops.tasks import enforce_retention as enforce_retention_task
from forecasting.history import read_history
from forecasting.models import BacktestExample, BacktestRun, ResourceDemandProfile
from migration.models import Decision, Recommendation, Transition
from tests.support.rows import AS_OF, HOUR, Rows, make_rows

pytestmark = pytest.mark.django_db

IDENTITY, NAME = "ana.szabo@example.org", "Ana Szabo"
KEPT_OF_OTHERS = (
    Activity,
    ResourceDemandProfile,
    BacktestExample,
    Recommendation,
    Sighting,
    Sample,
    PersonName,
)


@pytest.fixture
def rows() -> Rows:
    rows = make_rows()
    rows.add_people(3)
    ana, ben = DesktopUser.objects.order_by("pk")[:2]
    ana.pseudonym = pseudonym(IDENTITY)
    ana.save()
    PersonName.objects.filter(desktop_user=ana).update(name=NAME)
    ben.pseudonym = pseudonym("ben")
    ben.save()
    Desktop.objects.filter(desktop_user=ana).update(label="desk-ana.szabo")
    return rows


def ana() -> DesktopUser:
    return DesktopUser.objects.get(pseudonym=pseudonym(IDENTITY))


def observe(rows: Rows, *who: str, minute: int = 0, cpu: float = 1.5) -> Source:
    """An observation of each of them at Lyon, a little before the data set's now."""
    source = ensure_source(pool=rows.pool, kind=Source.Kind.PRESENCE)
    n = len(who)
    store(
        source=source,
        samples=Samples(
            np.arange(n),
            np.full(n, int(AS_OF.timestamp()) - 1800 + 60 * minute),
            Labels(who, np.arange(n)),
            Labels.none(n),
            Labels(("lyon",), np.zeros(n, dtype=int)),
            {"cpu_cores": np.full(n, cpu)},
        ),
        wall=timezone.now(),
    )
    return source


def fill(rows: Rows) -> None:
    """Something of Ana in every table that can hold something of a person."""
    source = observe(rows, IDENTITY, "ben", minute=1)
    observe(rows, IDENTITY, "ben", minute=2, cpu=-1)  # refused, and kept in quarantine
    roll_up(until=timezone.now())
    observe(rows, IDENTITY, "ben", minute=3)  # marks the hour again
    person = ana()
    desktop = person.desktop
    ApplicationUse.objects.create(
        desktop=desktop, desktop_user=person, hour=AS_OF, application="firefox", cpu_core_s=9
    )
    DiskRead.objects.create(
        desktop=desktop, day=AS_OF.date(), extent_bytes=1 << 26, extents=[3], read_bytes=[4096]
    )
    Batch.objects.create(
        source=source,
        desktop=desktop,
        batch_id=uuid4(),
        received_at=AS_OF,
        body=b"some samples",
        extras={"sites": ["lyon"]},
    )
    AgentCommand.objects.create(
        desktop=desktop,
        kind="notify",
        arguments={"text": f"Good morning, {NAME}"},
        created_at=AS_OF,
        expires_at=AS_OF,
    )
    Notice.objects.create(
        dataset=rows.dataset,
        desktop_user=person,
        kind="travel",
        starts_at=AS_OF,
        ends_at=AS_OF + HOUR,
        origin="csv",
        provenance=f"{IDENTITY}.csv",
        uid="1",
        received_at=AS_OF,
    )
    run = BacktestRun.objects.create(
        dataset=rows.dataset,
        as_of=AS_OF,
        started_at=AS_OF,
        finished_at=AS_OF,
        origins=[AS_OF],
        horizon_hours=24,
        history_days=42,
        subjects=2,
    )
    for someone in DesktopUser.objects.filter(dataset=rows.dataset):
        BacktestExample.objects.create(
            run=run,
            pool=rows.pool,
            desktop_user=someone,
            starts_at=AS_OF,
            levels=[0.5],
            quantiles={"cpu_cores": [[1.0]] * 24},
        )
    QuarantinedRow.objects.create(
        source=source,
        received_at=AS_OF,
        reason="unknown_person",
        detail="not yet",
        row={"at": 1, "person": person.pseudonym, "site": "lyon"},
    )
    ImportedFile.objects.create(
        dataset=rows.dataset,
        name=f"{IDENTITY}.csv",
        sha256="0" * 64,
        rows=1,
        hours=1,
        imported_at=AS_OF,
    )
    LogEntry.objects.create(
        user=rows.account("ada", "admin"),
        content_type=ContentType.objects.get_for_model(DesktopUser),
        object_id=str(person.pk),
        object_repr=person.pseudonym,
        action_flag=CHANGE,
    )
    move = rows.add_transition(desktop)
    advice = Recommendation.objects.get(desktop=desktop)
    advice.reason = "Expected in Lyon from 09:00."
    advice.confirm_terms = {"sites": ["lyon"]}
    advice.save()
    Decision.objects.create(
        recommendation=advice, verdict="approved", decided_at=AS_OF, note=f"{NAME} asked for it"
    )
    Transition.objects.filter(pk=move.pk).update(
        recommendation=advice, state="done", confirmation=f"{person.pseudonym} seen in Lyon"
    )
    set_opt_outs(person_id=person.pk, is_predicted=True, actor="ada", wall=AS_OF)
    signed_in(rows, "admin").get(f"/people/{person.pk}/")


def signed_in(rows: Rows, *roles: str) -> Client:
    client = Client()
    user = rows.pool.members.filter(username=roles[0]).first() or rows.account(roles[0], *roles)
    client.force_login(user)
    return client


def dump() -> dict[str, list[str]]:
    """Every row of every table as text."""
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        dumped = {}
        for table in tables:
            cursor.execute(f'SELECT t::text FROM "{table}" t')
            dumped[table] = [text for (text,) in cursor.fetchall()]
    return dumped


def holding(word: str) -> list[str]:
    return [
        f"{table}: {row[:300]}"
        for table, rows in dump().items()
        for row in rows
        if word.casefold() in row.casefold()
    ]


def of_others(pk: int) -> dict[str, int]:
    counts = {}
    for model in KEPT_OF_OTHERS:
        if model is Recommendation:
            theirs = model.objects.exclude(desktop__key="test-0000")
        elif model is Sample:
            theirs = model.objects.exclude(desktop_user_id=pk)
        else:
            theirs = model.objects.exclude(desktop_user=pk)
        counts[model.__name__] = theirs.count()
    return counts


def test_an_erased_person_is_in_no_table_any_more(rows: Rows) -> None:
    fill(rows)
    person = ana()
    key, desktop, alias = bytes(person.alias_key).hex(), person.desktop, alias_of(person)
    for word in (person.pseudonym, NAME, IDENTITY, key, "seen in Lyon", "firefox"):
        assert holding(word), f"{word!r} is nowhere to be erased from"
    for model in (Sample, DirtyHour, Watermark):
        assert model.objects.filter(desktop_user_id=person.pk).exists(), model
    before = of_others(person.pk)
    assert all(before.values())

    erase_person(person_id=person.pk, identity=IDENTITY, actor="ada", wall=timezone.now())
    assert finish_erasures(wall=timezone.now()) == 1

    for word in (person.pseudonym, NAME, IDENTITY, "ana.szabo", key, "in Lyon", "firefox"):
        assert not holding(word), word
    for model in (Sample, DirtyHour, Watermark):
        assert not model.objects.filter(desktop_user_id=person.pk).exists(), model
    assert of_others(person.pk) == before
    assert not DiskRead.objects.exists() and not AgentCommand.objects.exists()
    batch = Batch.objects.get()
    assert (batch.body, batch.extras, batch.rows) == (None, None, 0)
    desktop.refresh_from_db()
    assert (desktop.desktop_user, desktop.label) == (None, desktop.key)
    event = Event.objects.get(kind="person.erased")
    assert (event.object_id, event.payload) == (alias, {})
    by_number = Event.objects.filter(object_type="desktopuser", object_id=str(person.pk))
    assert not by_number.exists()


def test_what_arrives_later_does_not_bring_an_erased_person_back(rows: Rows) -> None:
    observe(rows, IDENTITY)
    person = ana()
    erase_person(person_id=person.pk, actor="ada", wall=timezone.now())
    source = observe(rows, "ben", minute=5)
    store(
        source=source,
        samples=Samples(
            np.array([0]),
            np.array([int(AS_OF.timestamp()) - 60]),
            Labels.none(1),
            Labels(("test-0000",), np.array([0])),
            Labels.none(1),
            {"cpu_cores": np.array([1.0])},
        ),
        wall=timezone.now(),
    )
    roll_up(until=timezone.now())
    assert not DesktopUser.objects.filter(pk=person.pk).exists()
    late = Activity.objects.get(desktop__key="test-0000")
    assert late.desktop_user is None


def test_an_interrupted_erasure_is_finished(rows: Rows) -> None:
    observe(rows, IDENTITY)
    person = ana()
    alias = alias_of(person)
    erase_person(person_id=person.pk, actor="ada", wall=timezone.now())
    assert Sample.objects.filter(desktop_user_id=person.pk).exists()
    state = signed_in(rows, "admin").get(f"/api/v1/erasures/{alias}/").json()
    assert [(row["what"], row["finished_at"]) for row in state] == [("person", None)]
    assert not Event.objects.filter(kind="person.erased").exists()

    enforce_retention_task()
    assert not Sample.objects.filter(desktop_user_id=person.pk).exists()
    assert Event.objects.get(kind="person.erased").object_id == alias
    erasure = Erasure.objects.get()
    assert erasure.finished_at and (erasure.person_id, erasure.desktop_id) == (0, 0)
    state = signed_in(rows, "admin").get(f"/api/v1/erasures/{alias}/").json()
    assert state[0]["finished_at"]
    assert signed_in(rows, "viewer").get(f"/api/v1/erasures/{alias}/").status_code == 403
    assert finish_erasures(wall=timezone.now()) == 0


def test_a_worker_that_finds_another_erasing_comes_back(rows: Rows) -> None:
    erase_person(person_id=ana().pk, actor="ada", wall=timezone.now())
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [people.LOCK])
        assert finish_erasures(wall=timezone.now()) is None
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [people.LOCK])
    finally:
        other.close()
    assert people.FORGET in current_app.tasks
    assert finish_erasures(wall=timezone.now()) == 1


def test_nobody_is_erased_while_their_desktop_moves(rows: Rows) -> None:
    person = ana()
    rows.add_transition(person.desktop)
    client = signed_in(rows, "admin")
    address = f"/api/v1/people/{person.pk}/erase/"
    body = {"confirm": person.pseudonym}
    response = client.post(address, body, content_type="application/json")
    assert (response.status_code, response.json()["reason"]) == (409, "transition_unfinished")
    with pytest.raises(CommandError, match="being moved"):
        call_command("person", "erase", person.pseudonym, "--dataset=test", "--yes")
    assert ana() == person


def test_erasing_over_rest_wants_the_permission_and_the_pseudonym(rows: Rows) -> None:
    person = ana()
    address = f"/api/v1/people/{person.pk}/erase/"
    right = {"confirm": person.pseudonym}
    post = {"content_type": "application/json"}
    assert signed_in(rows, "operator").post(address, right, **post).status_code == 403
    admin = signed_in(rows, "admin")
    refused = admin.post(address, {"confirm": "yes"}, **post)
    assert (refused.status_code, refused.json()["reason"]) == (400, "not_confirmed")
    assert ana() == person
    assert admin.post(address, right, **post).status_code == 202
    assert not DesktopUser.objects.filter(pk=person.pk).exists()
    assert admin.post(address, right, **post).status_code == 404


def test_a_token_reaches_the_people_of_its_own_data_set_alone(rows: Rows) -> None:
    other = make_rows("other")

    def bearer(of: Rows, scope: str) -> dict[str, str]:
        _, text = create_token(
            name=f"hr-{scope}",
            dataset=of.dataset,
            pool=None,
            scopes=[scope],
            valid_for=timedelta(days=1),
            actor="ada",
            at=timezone.now(),
        )
        return {"authorization": f"Bearer {text}"}

    address = f"/api/v1/people/{ana().pk}/export/"
    client, scope = Client(), IntegrationToken.Scope
    assert client.get(address).status_code in (401, 403)
    assert client.get(address, headers=bearer(rows, scope.PRESENCE)).status_code == 403
    assert client.get(address, headers=bearer(other, scope.PEOPLE)).status_code == 404
    answer = client.get(address, headers=bearer(rows, scope.PEOPLE))
    assert answer.json()["name"]["rows"] == [{"name": NAME}]


def test_an_export_holds_what_is_held_of_that_person_alone(rows: Rows, tmp_path: Path) -> None:
    fill(rows)
    machine = ana().desktop
    Desktop.objects.filter(pk=machine.pk).update(desktop_user=None)
    observe_desktop(rows, 30)
    roll_up(until=timezone.now())
    Desktop.objects.filter(pk=machine.pk).update(desktop_user=ana())
    ApplicationUse.objects.create(
        desktop=machine, hour=AS_OF, application="vim", cpu_core_s=1, desktop_user=None
    )
    ImportedFile.objects.update(name=f"{pseudonym(IDENTITY)}.csv")
    file = tmp_path / "ana.json"
    call_command("person", "export", f"--identity={IDENTITY}", "--dataset=test", f"--output={file}")
    told = json.loads(file.read_text())
    empty = {k for k, v in told.items() if isinstance(v, dict) and not v["rows"]}
    assert empty <= {"events"}
    assert all(v["about"] for v in told.values() if isinstance(v, dict))
    assert told["person"]["rows"][0]["pseudonym"] == pseudonym(IDENTITY)
    assert told["name"]["rows"] == [{"name": NAME}]
    assert len(told["samples"]["rows"]) == 2
    assert len(told["desktop_samples"]["rows"]) == 1
    assert len(told["desktop_activity"]["rows"]) == 1
    assert len(told["quarantine"]["rows"]) == 2
    assert told["files"]["rows"][0]["name"].startswith(pseudonym(IDENTITY))
    assert len(told["edits"]["rows"]) == 1
    assert told["samples"]["rows"][0]["site_code"] == "lyon"
    assert told["samples"]["rows"][0]["memory_bytes"] is None
    assert told["recommendations"]["rows"][0]["reason"] == "Expected in Lyon from 09:00."
    assert pseudonym("ben") not in file.read_text()


def test_the_command_erases_only_after_a_yes(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    who = ("erase", f"--identity={IDENTITY}", "--dataset=test")
    out = StringIO()
    monkeypatch.setattr("builtins.input", lambda _: "no")
    with pytest.raises(CommandError, match="Nothing was erased"):
        call_command("person", *who, stdout=out)
    assert "1  activity" in out.getvalue()
    assert ana()
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    call_command("person", *who, stdout=out)
    assert not DesktopUser.objects.filter(pseudonym=pseudonym(IDENTITY)).exists()
    with pytest.raises(CommandError, match="no such person"):
        call_command("person", *who, stdout=out)


def test_who_opts_out_of_prediction_has_no_forecast(rows: Rows) -> None:
    person = ana()
    client = signed_in(rows, "admin")
    address = f"/api/v1/people/{person.pk}/opt-outs/"
    body = {"is_predicted": False}
    told = client.patch(address, body, content_type="application/json").json()
    assert told == {"is_predicted": False, "is_located": True}
    assert not ResourceDemandProfile.objects.filter(desktop_user=person).exists()
    assert not BacktestExample.objects.filter(desktop_user=person).exists()
    assert not Recommendation.objects.filter(desktop=person.desktop).exists()
    subjects = read_history(rows.dataset, until=AS_OF, days=1).subjects
    assert person.pk not in {s.desktop_user_id for s in subjects}
    assert person.desktop.pk not in {s.desktop_id for s in subjects}
    assert len(subjects) == 2
    assert "Opted out" in client.get(f"/people/{person.pk}/").content.decode()
    event = Event.objects.get(kind="person.opt_outs_changed")
    assert event.object_id == alias_of(person)
    assert event.payload == {"is_predicted": False}


def test_who_opts_out_of_location_leaves_no_place_behind(rows: Rows) -> None:
    observe(rows, IDENTITY, "ben")
    roll_up(until=timezone.now())
    person = ana()
    call_command(
        "person", "opt-out", person.pseudonym, "--dataset=test", "--location", stdout=StringIO()
    )
    observe(rows, IDENTITY, "ben", minute=5)
    roll_up(until=timezone.now())
    assert not Activity.objects.filter(desktop_user=person, site__isnull=False).exists()
    assert not Sample.objects.filter(desktop_user_id=person.pk, site_id__gt=0).exists()
    assert not Sighting.objects.filter(desktop_user=person).exists()
    profile = ResourceDemandProfile.objects.get(desktop_user=person)
    assert (profile.location, profile.has_demand) == ({}, True)
    ben = DesktopUser.objects.get(pseudonym=pseudonym("ben"))
    assert Sighting.objects.filter(desktop_user=ben).exists()
    assert Sample.objects.filter(desktop_user_id=ben.pk, site_id__gt=0).count() == 2


def test_places_go_at_once_and_from_samples_when_a_worker_comes(rows: Rows) -> None:
    observe(rows, IDENTITY, "ben")
    roll_up(until=timezone.now())
    observe(rows, IDENTITY, minute=5)  # marks the hour again
    person = ana()
    travel = Notice.objects.create(
        dataset=rows.dataset,
        desktop_user=person,
        kind="travel",
        site=rows.sites[1],
        starts_at=AS_OF,
        ends_at=AS_OF + HOUR,
        origin="csv",
        provenance="file:hr.csv",
        uid="1",
        received_at=AS_OF,
    )

    def located(is_located: bool) -> None:
        set_opt_outs(person_id=person.pk, is_located=is_located, actor="ada", wall=AS_OF)

    located(False)  # and no worker comes
    roll_up(until=timezone.now())
    assert not Activity.objects.filter(desktop_user=person, site__isnull=False).exists()
    travel.refresh_from_db()
    assert travel.site is None
    placed = Sample.objects.filter(desktop_user_id=person.pk, site_id__gt=0)
    assert placed.count() == 2
    page = signed_in(rows, "viewer").get(f"/people/{person.pk}/").content.decode()
    assert "what was kept is being erased" in page
    with pytest.raises(Refused, match="still being erased"):
        located(True)
    located(False)
    assert Erasure.objects.count() == 1

    enforce_retention_task()
    assert not placed.exists() and Sample.objects.filter(site_id__gt=0).count() == 1
    assert Event.objects.get(kind="person.places_erased").object_id == alias_of(person)
    page = signed_in(rows, "viewer").get(f"/people/{person.pk}/").content.decode()
    assert "what was kept is being erased" not in page
    located(True)


def observe_desktop(rows: Rows, *minutes: int) -> None:
    """What an agent saw on Ana's desktop so many minutes before the data set's now."""
    n = len(minutes)
    store(
        source=ensure_source(pool=rows.pool, kind=Source.Kind.AGENT),
        samples=Samples(
            np.arange(n),
            np.array([int(AS_OF.timestamp()) - 60 * m for m in minutes]),
            Labels.none(n),
            Labels.constant("test-0000", n),
            Labels.none(n),
            {"cpu_cores": np.ones(n)},
        ),
        wall=timezone.now(),
    )


def give(rows: Rows, tmp_path: Path, who: str) -> DesktopUser:
    file = tmp_path / "people.csv"
    file.write_text(f"person,name,desktop\n{who},Somebody,test-0000\n")
    call_command("name_people", file, "--dataset=test", stdout=StringIO())
    return DesktopUser.objects.get(pseudonym=pseudonym(who))


@pytest.mark.parametrize("is_erased", [True, False])
def test_what_comes_late_is_not_the_next_owners(
    rows: Rows, tmp_path: Path, is_erased: bool
) -> None:
    if is_erased:
        erase_person(person_id=ana().pk, actor="ada", wall=timezone.now())
    zoe = give(rows, tmp_path, "zoe")
    observe_desktop(rows, 30, 20)
    assert set(Sample.objects.values_list("desktop_user_id", flat=True)) == {0}
    Dataset.objects.update(as_of=AS_OF + HOUR)
    observe_desktop(rows, 0, -30)
    theirs = Sample.objects.filter(desktop_user_id=zoe.pk)
    assert {s.at for s in theirs} == {AS_OF, AS_OF + HOUR / 2}


def test_what_came_before_its_first_owner_is_theirs(rows: Rows, tmp_path: Path) -> None:
    Desktop.objects.filter(key="test-0000").update(desktop_user=None)
    zoe = give(rows, tmp_path, "zoe")
    observe_desktop(rows, 30)
    assert Sample.objects.get().desktop_user_id == zoe.pk


@pytest.mark.django_db(transaction=True)
def test_an_erasure_and_a_roll_up_do_not_wait_for_each_other(rows: Rows) -> None:
    desktop = Desktop.objects.get(key="test-0000")
    DirtyHour.objects.create(desktop_id=desktop.pk, hour=AS_OF, marked_at=AS_OF)

    def erase() -> None:
        try:
            erase_person(person_id=ana().pk, actor="ada", wall=timezone.now())
        finally:
            connections.close_all()

    other = connection.copy()
    other.set_autocommit(False)
    try:
        with other.cursor() as cursor, ThreadPoolExecutor(1) as thread:
            # As a roll-up does: the mark, then what it writes refers to.
            cursor.execute("DELETE FROM desktops_dirtyhour")
            erasing = thread.submit(erase)
            wait_until_somebody_waits()
            cursor.execute("SET LOCAL lock_timeout = '5s'")
            cursor.execute("SELECT FROM desktops_desktop WHERE id = %s FOR KEY SHARE", [desktop.pk])
            other.commit()
            erasing.result(timeout=30)
    finally:
        other.close()
    assert not DesktopUser.objects.filter(pseudonym=pseudonym(IDENTITY)).exists()


def wait_until_somebody_waits() -> None:
    deadline = time.monotonic() + 30
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            if cursor.fetchone() != (0,):
                return
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.05)


def test_a_programs_look_is_no_accounts(rows: Rows) -> None:
    rows.account("hr")
    _, text = create_token(
        name="hr",
        dataset=rows.dataset,
        pool=None,
        scopes=[IntegrationToken.Scope.PEOPLE],
        valid_for=timedelta(days=1),
        actor="ada",
        at=timezone.now(),
    )
    headers = {"authorization": f"Bearer {text}"}
    Client().get(f"/api/v1/people/{ana().pk}/export/", headers=headers)
    assert Look.objects.get().viewer == "token:hr"


def test_looks_are_noted_once_an_hour_by_alias(rows: Rows) -> None:
    person, client = ana(), signed_in(rows, "viewer")
    for _ in range(3):
        client.get(f"/people/{person.pk}/")
    profile = ResourceDemandProfile.objects.get(desktop_user=person)
    client.get(f"/api/v1/profiles/{profile.pk}/")
    looks = set(Look.objects.values_list("viewer", "what", "alias"))
    alias = alias_of(person)
    assert looks == {("viewer", "page", alias), ("viewer", "whereabouts", alias)}


def test_names_are_asked_for_those_who_may_see_them_only(rows: Rows) -> None:
    for role, expected in (("viewer", False), ("admin", True)):
        client = signed_in(rows, role)
        for address in ("/people/", "/people/?q=Ana", f"/people/{ana().pk}/", "/api/v1/people/"):
            with CaptureQueriesContext(connection) as asked:
                text = client.get(address).content.decode()
            assert (NAME in text) is expected, address
            assert any("personname" in q["sql"] for q in asked) is expected, address


def test_a_file_names_people_and_gives_them_desktops(rows: Rows, tmp_path: Path) -> None:
    machine = rows.add_machine()
    file = tmp_path / "people.csv"
    file.write_text(f"person,name,desktop\n{IDENTITY},Ana Nagy,\nzoe,Zoe,{machine.key}\n")
    call_command("name_people", file, "--dataset=test", stdout=StringIO())
    assert PersonName.objects.get(desktop_user=ana()).name == "Ana Nagy"
    machine.refresh_from_db()
    assert machine.desktop_user.pseudonym == pseudonym("zoe")
    assert machine.desktop_user.named.name == "Zoe"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nobody,Nobody,", "line 3: nobody is known"),
        ("zoe,Zoe,nowhere", "line 3: no desktop called 'nowhere'"),
        ("zoe,,", "line 3: person and name"),
        (f"{IDENTITY},Twice,", "line 3: the same person as in line 2"),
    ],
)
def test_one_bad_line_and_nobody_is_named(
    rows: Rows, tmp_path: Path, line: str, message: str
) -> None:
    file = tmp_path / "people.csv"
    file.write_text(f"person,name,desktop\n{IDENTITY},Other,\n{line}\n")
    with pytest.raises(CommandError, match=message):
        call_command("name_people", file, "--dataset=test")
    assert PersonName.objects.get(desktop_user=ana()).name == NAME


@pytest.mark.parametrize(
    ("counts", "shown", "remainder"),
    [
        ({}, {}, None),
        ({1: 9, 2: 5}, {1: 9, 2: 5}, None),
        ({1: 4}, {}, None),
        ({1: 2, 2: 2}, {}, None),
        ({1: 3, 2: 3}, {}, 6),
        ({1: 9, 2: 4}, {}, 13),
        ({1: 9, 2: 7, 3: 1}, {1: 9}, 8),
        ({1: 9, 2: 7, 3: 2, 4: 2}, {1: 9}, 11),
        ({1: 9, 2: 7, 3: 3, 4: 2}, {1: 9, 2: 7}, 5),
    ],
)
def test_no_site_is_shown_with_few_people(
    counts: dict[int, int], shown: dict[int, int], remainder: int | None
) -> None:
    assert enough_people(counts, k=5) == (shown, remainder)
    hidden = [n for site, n in counts.items() if site not in shown]
    assert len(hidden) != 1 or sum(hidden) < 5
    assert enough_people(counts, k=1)[0] == counts


def test_the_map_places_no_small_site(rows: Rows, settings: Any) -> None:
    client = signed_in(rows, "viewer")

    def placed() -> list[str]:
        answer = client.get(f"/datasets/{rows.dataset.pk}/map.json")
        return answer.json()["figure"]["data"][0]["text"]

    assert placed() == []
    assert "fewer than 5" in client.get("/").content.decode()
    settings.K_ANONYMITY = 1
    assert placed() == ["Paris: 2 people", "Lyon: 1 people"]


def test_an_event_about_a_person_holds_an_alias(rows: Rows) -> None:
    event = events.record(kind="test.done", subject=ana(), at=AS_OF, pool_id=rows.pool.pk)
    assert event.object_id == alias_of(ana()) != str(ana().pk)
