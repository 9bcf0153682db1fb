"""Agents and the server: how they are let in, what they may do, and what they are told to do."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from desktops.models import (
    AgentCommand,
    AgentCredential,
    Batch,
    Desktop,
    EnrolmentToken,
    Event,
    Sample,
)
from desktops.services import agents
from desktops.services.batches import settle
from desktops.tasks import enforce_retention
from tests.support.agent import PROGRAM, load_agent
from tests.support.rows import Rows, make_rows
from tests.support.services import WebServer, web_server

pytestmark = pytest.mark.django_db


@pytest.fixture
def rows() -> Rows:
    rows = make_rows()
    # Agents report the present.
    rows.dataset.kind, rows.dataset.as_of = "live", None
    rows.dataset.save()
    return rows


def enrolment_token(rows: Rows, **options: Any) -> str:
    out = StringIO()
    call_command("enrolment_token", rows.pool.name, stdout=out, **options)
    return out.getvalue().strip()


def enrolled(rows: Rows, desktop: Desktop) -> agents.Enrolled:
    return agents.enrol(
        token=enrolment_token(rows),
        server_id=desktop.server_id,
        version="1.0",
        wall=timezone.now(),
    )


def revoke(desktop: Desktop) -> None:
    call_command("revoke_agent", desktop.key, stdout=StringIO())


class Caller:
    """A program that shows a token."""

    def __init__(self, token: str = "", server_id: str = "") -> None:
        self.client = Client()
        self.headers = {"foredesk-server": server_id}
        if token:
            self.headers["authorization"] = f"Bearer {token}"

    def get(self, address: str):
        return self.client.get(f"/api/v1/{address}", headers=self.headers)

    def post(self, address: str, body: Any, **headers: str):
        data = body if isinstance(body, bytes) else json.dumps(body)
        return self.client.post(
            f"/api/v1/{address}",
            data,
            content_type="application/json",
            headers={**self.headers, **headers},
        )

    def enrol(self, token: str, server_id: str):
        return self.post("agent/enrol/", {"token": token, "server_id": server_id, "agent": "1.0"})


def batch(server_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "batch_id": str(uuid.uuid4()),
        "server_id": server_id,
        "agent": "1.0",
        "sent_at": int(time.time()),
        "samples": {"at": [int(time.time()) - 5], "cpu_cores": [1.25]},
        **changes,
    }


class TestEnrolment:
    def test_a_token_becomes_a_desktops_own_and_is_kept_as_a_digest(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        token = enrolment_token(rows)
        answer = Caller().enrol(token, desktop.server_id)
        assert answer.status_code == 201, answer.content
        given = answer.json()
        assert given["desktop"] == desktop.key
        assert (given["poll_s"], given["post_s"]) == (30, 60)
        assert answer["Cache-Control"] == "no-store"
        credential = AgentCredential.objects.get()
        stored = repr([vars(credential), *map(vars, EnrolmentToken.objects.all())])
        for secret in (token, given["token"], given["command_key"]):
            assert secret not in stored
        event = Event.objects.get(kind="agent.enrolled")
        assert event.payload == {"desktop": desktop.key}

    def test_a_token_is_good_for_as_many_as_it_says(self, rows: Rows) -> None:
        one, two, three = rows.add_people(3)
        token = enrolment_token(rows, uses=2)
        statuses = [Caller().enrol(token, d.server_id).status_code for d in (one, two, three)]
        assert statuses == [201, 201, 401]
        assert Caller().enrol(token, three.server_id).json()["reason"] == "token_spent"
        assert AgentCredential.objects.count() == 2

    def test_a_server_of_no_desktop_of_the_pool_costs_no_use(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        other = make_rows("other").add_people(2)[-1]
        Desktop.objects.filter(pk=other.pk).update(server_id="elsewhere")
        Desktop.objects.create(dataset=rows.dataset, pool=rows.pool, key="none", label="no server")
        token = enrolment_token(rows)
        for server_id in ("elsewhere", "nowhere"):
            answer = Caller().enrol(token, server_id)
            assert (answer.status_code, answer.json()["reason"]) == (404, "unknown_server")
        assert Caller().enrol(token, "").status_code == 400
        assert Caller().enrol(token, desktop.server_id).status_code == 201

    def test_wrong_and_expired_tokens_are_told_apart(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        assert Caller().enrol("guessed", desktop.server_id).json()["reason"] == "wrong_token"
        token = enrolment_token(rows)
        EnrolmentToken.objects.update(expires_at=timezone.now())
        answer = Caller().enrol(token, desktop.server_id)
        assert (answer.status_code, answer.json()["reason"]) == (401, "expired_token")
        assert answer["WWW-Authenticate"] == "Bearer"

    def test_enrolling_again_shuts_out_the_agent_of_before(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        old = enrolled(rows, desktop)
        revoke(desktop)
        new = enrolled(rows, desktop)
        assert old.command_key != new.command_key
        answer = Caller(old.token, desktop.server_id).get("agent/commands/")
        assert (answer.status_code, answer.json()["reason"]) == (401, "wrong_token")
        assert Caller(new.token, desktop.server_id).get("agent/commands/").status_code == 200

    def test_a_token_of_many_uses_takes_over_no_desktop_that_has_an_agent(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        theirs = enrolled(rows, desktop)
        token = enrolment_token(rows, uses=10)
        answer = Caller().enrol(token, desktop.server_id)
        assert (answer.status_code, answer.json()["reason"]) == (409, "already_enrolled")
        assert Caller(theirs.token, desktop.server_id).get("agent/commands/").status_code == 200
        assert EnrolmentToken.objects.filter(uses_left=10).exists(), "it costs no use"
        revoke(desktop)
        assert Caller().enrol(token, desktop.server_id).status_code == 201

    def test_withdrawn_tokens_let_nobody_in(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        token = enrolment_token(rows, uses=10)
        assert enrolment_token(rows, withdraw=True) == "1 tokens withdrawn"
        assert Caller().enrol(token, desktop.server_id).json()["reason"] == "token_spent"

    def test_the_commands_say_what_is_wrong(self, rows: Rows) -> None:
        for name, given in (("enrolment_token", "nowhere"), ("revoke_agent", "nobody")):
            with pytest.raises(CommandError, match=given):
                call_command(name, given)
        with pytest.raises(CommandError, match="--uses"):
            call_command("enrolment_token", rows.pool.name, uses=0)


@pytest.mark.django_db(transaction=True)
def test_of_many_agents_with_the_last_use_of_a_token_one_gets_in(rows: Rows) -> None:
    desktops = rows.add_people(8)
    token = enrolment_token(rows)

    def enrol(desktop: Desktop) -> int:
        try:
            return Caller().enrol(token, desktop.server_id).status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(enrol, desktops))
    assert statuses == [201] + [401] * 7
    assert AgentCredential.objects.count() == 1


class TestAnAgentMay:
    def test_nothing_without_a_token_or_with_a_revoked_one(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        answer = Caller().post("agent/batches/", batch(desktop.server_id))
        assert (answer.status_code, answer.json()["reason"]) == (401, "no_token")
        token = enrolled(rows, desktop).token
        call_command("revoke_agent", desktop.key, stdout=StringIO())
        answer = Caller(token).post("agent/batches/", batch(desktop.server_id))
        assert (answer.status_code, answer.json()["reason"]) == (401, "revoked_token")
        assert not Batch.objects.exists()

    def test_speak_for_its_own_desktop_on_its_present_server_alone(self, rows: Rows) -> None:
        desktop, other = rows.add_people(2)
        token = enrolled(rows, desktop).token
        for server_id in (other.server_id, "a-copy"):
            answer = Caller(token).post("agent/batches/", batch(server_id))
            assert (answer.status_code, answer.json()["reason"]) == (403, "wrong_server")
            answer = Caller(token, server_id).get("agent/commands/")
            assert (answer.status_code, answer.json()["reason"]) == (403, "wrong_server")
        assert Caller(token).get("agent/commands/").status_code == 403
        Desktop.objects.filter(pk=desktop.pk).update(server_id="moved-here")
        assert Caller(token).post("agent/batches/", batch(desktop.server_id)).status_code == 403
        assert Caller(token).post("agent/batches/", batch("moved-here")).status_code == 202

    def test_use_its_token_on_no_other_address(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        caller = Caller(enrolled(rows, desktop).token, desktop.server_id)
        asked = 0
        for address in addresses_of_the_api():
            if not address.startswith("agent/"):
                for answer in (caller.get(address), caller.post(address, {})):
                    assert answer.status_code in (401, 403), (address, answer.status_code)
                    asked += 1
        assert asked > 60
        for page in ("/", "/people/", "/desktops/", "/admin/"):
            assert caller.client.get(page, headers=caller.headers).status_code == 302

    def test_not_be_somebody_who_is_signed_in(self, rows: Rows) -> None:
        client = Client()
        client.force_login(rows.account("ada", "admin"))
        for address in ("agent/commands/", "agent/commands/1/"):
            assert client.get(f"/api/v1/{address}").status_code == 401


def addresses_of_the_api() -> Iterator[str]:
    """Every address below /api/v1/, with 1 for whatever is asked for by number or name."""

    def below(patterns: list[Any], prefix: str) -> Iterator[str]:
        for each in patterns:
            route = prefix + str(each.pattern).lstrip("^")
            if isinstance(each, URLResolver):
                yield from below(each.url_patterns, route)
            elif isinstance(each, URLPattern) and route.startswith("api/v1/"):
                route = re.sub(r"\(\?P<\w+>[^)]*\)|<[^>]+>", "1", route)
                yield route.removeprefix("api/v1/").replace("\\Z", "").rstrip("$").replace("\\", "")

    yield from (a for a in below(get_resolver().url_patterns, "") if "format" not in a)


class TestBatches:
    def test_the_same_batch_is_taken_once(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        caller = Caller(enrolled(rows, desktop).token)
        sent = batch(desktop.server_id)
        first, again = (caller.post("agent/batches/", sent) for _ in range(2))
        assert (first.status_code, again.status_code) == (202, 200)
        assert first.json() == {"batch_id": sent["batch_id"], "accepted": True}
        assert again.json() == {"batch_id": sent["batch_id"], "accepted": True, "duplicate": True}
        assert Batch.objects.count() == 1

    def test_while_the_database_is_away_it_is_asked_to_come_back(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        caller = Caller(enrolled(rows, desktop).token)

        def away(*args: Any) -> None:
            raise OperationalError("the server closed the connection unexpectedly")

        with connection.execute_wrapper(away):
            answer = caller.post("agent/batches/", batch(desktop.server_id))
        assert (answer.status_code, answer.json()["reason"]) == (503, "unavailable")
        assert int(answer["Retry-After"]) > 0
        assert not Batch.objects.exists()


class TestCommands:
    def address(self, desktop: Desktop) -> str:
        return f"/api/v1/desktops/{desktop.pk}/commands/"

    def ask(self, rows: Rows, desktop: Desktop, *roles: str, name: str = "olga", **body: Any):
        client = Client()
        client.force_login(rows.account(name, *roles))
        return client.post(self.address(desktop), json.dumps(body), content_type="application/json")

    def test_an_operators_command_is_signed_given_out_and_answered(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        given = enrolled(rows, desktop)
        arguments = {"message": "Your desktop moves at 18:00, Zoë"}
        asked = self.ask(rows, desktop, "operator", kind="notify", arguments=arguments)
        assert asked.status_code == 201, asked.content
        caller = Caller(given.token, desktop.server_id)
        (command,) = caller.get("agent/commands/").json()["commands"]
        assert command["arguments"] == arguments
        assert command["server_id"] == desktop.server_id
        assert load_agent().is_signed(command, bytes.fromhex(given.command_key))
        assert caller.get("agent/commands/").json()["commands"] == [command]  # until it is done

        address = f"agent/commands/{command['id']}/"
        for _ in range(2):
            assert caller.post(address, {"outcome": "done"}).status_code == 204
        assert caller.get("agent/commands/").json()["commands"] == []
        row = AgentCommand.objects.get()
        assert row.outcome == "done"
        assert row.delivered_at is not None and row.finished_at is not None
        events = Event.objects.filter(kind__startswith="command.").order_by("seq")
        assert [event.kind for event in events] == ["command.requested", "command.done"]
        for event in events:
            assert event.payload == {"desktop": desktop.key, "command": "notify"}

    def test_another_agents_key_does_not_verify_it(self, rows: Rows) -> None:
        desktop, other = rows.add_people(2)
        given, others = enrolled(rows, desktop), enrolled(rows, other)
        self.ask(rows, desktop, "operator", kind="quiesce")
        (command,) = (
            Caller(given.token, desktop.server_id).get("agent/commands/").json()["commands"]
        )
        assert not load_agent().is_signed(command, bytes.fromhex(others.command_key))
        stranger = Caller(others.token, other.server_id)
        assert stranger.get("agent/commands/").json()["commands"] == []
        answer = stranger.post(f"agent/commands/{command['id']}/", {"outcome": "done"})
        assert (answer.status_code, answer.json()["reason"]) == (404, "unknown_command")

    def test_an_expired_command_is_never_given_out(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        caller = Caller(enrolled(rows, desktop).token, desktop.server_id)
        self.ask(rows, desktop, "operator", kind="hibernate", ttl_s=60)
        AgentCommand.objects.update(expires_at=timezone.now())
        assert caller.get("agent/commands/").json()["commands"] == []
        assert AgentCommand.objects.get().outcome == "expired"

    def test_a_command_that_nobody_comes_for_expires_within_the_hour(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        for minutes in (-1, 1):
            at = timezone.now() + timedelta(minutes=minutes)
            AgentCommand.objects.create(
                desktop=desktop, kind="quiesce", created_at=at, expires_at=at
            )
        enforce_retention()
        outcomes = AgentCommand.objects.order_by("expires_at").values_list("outcome", flat=True)
        assert list(outcomes) == ["expired", "waiting"]

    def test_a_command_that_nobody_came_for_is_shown_as_expired(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        enrolled(rows, desktop)
        self.ask(rows, desktop, "operator", kind="quiesce")
        AgentCommand.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        client = Client()
        client.force_login(rows.account("otto", "operator"))
        (shown,) = client.get(self.address(desktop)).json()
        assert shown["outcome"] == "expired"

    def test_who_may_command(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        enrolled(rows, desktop)
        assert self.ask(rows, desktop, "viewer", name="vera", kind="quiesce").status_code == 403
        stranger = make_rows("other")
        asked = self.ask(stranger, desktop, "operator", name="sten", kind="quiesce")
        assert asked.status_code == 404
        assert not AgentCommand.objects.exists()

    @pytest.mark.parametrize(
        "body",
        [
            {"kind": "reboot"},
            {"kind": "notify"},
            {"kind": "notify", "arguments": {"message": ""}},
            {"kind": "notify", "arguments": {"message": "x" * 501}},
            {"kind": "quiesce", "arguments": {"path": "/"}},
            {"kind": "quiesce", "ttl_s": 0},
            {"kind": "quiesce", "ttl_s": 10**9},
        ],
    )
    def test_a_command_that_makes_no_sense_is_refused(
        self, rows: Rows, body: dict[str, Any]
    ) -> None:
        desktop = rows.add_people(1)[0]
        enrolled(rows, desktop)
        assert self.ask(rows, desktop, "operator", **body).status_code == 400
        assert not AgentCommand.objects.exists()

    def test_a_desktop_without_an_agent_cannot_be_commanded(self, rows: Rows) -> None:
        desktop = rows.add_people(1)[0]
        asked = self.ask(rows, desktop, "operator", kind="quiesce")
        assert (asked.status_code, asked.json()["reason"]) == (409, "no_agent")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    with web_server(tmp_path) as server:
        yield server


class Guest:
    """The agent's program, run as an admin would."""

    def __init__(self, folder: Path, server: WebServer, desktop: Desktop) -> None:
        self.config, self.state_dir = folder / "agent.conf", folder / "state"
        self.config.write_text(
            f"[server]\nurl = {server.url}\n[agent]\nstate_dir = {self.state_dir}\n"
            f"sample_s = 1\n[identity]\nserver_id = {desktop.server_id}\n"
        )

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(PROGRAM), "--config", str(self.config), *options],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def spooled(self) -> list[Path]:
        return list((self.state_dir / "spool").glob("*.gz"))


@pytest.mark.django_db(transaction=True)
def test_an_agent_enrols_reports_and_obeys(rows: Rows, server: WebServer, tmp_path: Path) -> None:
    desktop = rows.add_people(1)[0]
    guest = Guest(tmp_path, server, desktop)
    assert "not enrolled" in guest.run("--once").stderr
    assert "wrong_token" in guest.run("--enrol", "guessed").stderr
    assert guest.run("--enrol", enrolment_token(rows)).returncode == 0
    assert (guest.state_dir / "state.json").stat().st_mode & 0o777 == 0o600

    agents.command_desktop(
        desktop=desktop,
        kind=AgentCommand.Kind.QUIESCE,
        arguments={},
        actor=rows.account("olga", "operator"),
        at=timezone.now(),
        ttl=timedelta(minutes=5),
    )
    ran = guest.run("--once")
    assert ran.returncode == 0, ran.stderr
    assert AgentCommand.objects.get().outcome == "done", ran.stderr
    # The batch of --once, and what was observed until the command was carried out.
    n_batches = Batch.objects.filter(desktop=desktop).count()
    assert n_batches >= 1
    settle(clock=timezone.now)
    sample = Sample.objects.filter(desktop_id=desktop.pk).order_by("at").first()
    assert sample is not None and sample.memory_bytes > 10**6
    assert AgentCredential.objects.get().last_seen_at is not None

    server.stop()
    assert guest.run("--once").returncode == 1
    assert len(guest.spooled) >= 1
    server.start()
    assert guest.run("--once").returncode == 0
    assert guest.spooled == []
    assert Batch.objects.count() >= n_batches + 2


@pytest.mark.django_db(transaction=True)
def test_bad_input_is_refused_by_the_real_server(rows: Rows, server: WebServer) -> None:
    desktop, other = rows.add_people(2)
    token = enrolled(rows, desktop).token
    good = json.dumps(batch(desktop.server_id)).encode()
    packed = gzip.compress(good)
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 1 << 20
    cases: list[tuple[bytes, str, str, int, str]] = [
        (packed, "gzip", "foredesk_agent_guessed", 401, "wrong_token"),
        (packed, "gzip", "", 401, "no_token"),
        (packed[:-9], "gzip", token, 400, "malformed_gzip"),
        (b"\x00" * 40, "gzip", token, 400, "malformed_gzip"),
        (bomb, "gzip", token, 413, "too_large"),
        (b"x" * ((1 << 20) + 1), "", token, 413, "too_large"),
        (packed, "br", token, 415, "unsupported_encoding"),
        (b"{", "", token, 400, "malformed_json"),
        (b"[]", "", token, 400, "malformed_batch"),
        (json.dumps(batch(other.server_id)).encode(), "", token, 403, "wrong_server"),
    ]
    for body, encoding, shown, status, reason in cases:
        assert post_to(server, body, encoding, shown) == (status, reason)
    # Without a length, no more is read than a batch may have.
    endless = (b"x" * (1 << 16) for _ in range(17))
    assert post_to(server, endless, "", token) == (413, "too_large")
    assert not Batch.objects.exists()
    assert post_to(server, packed, "gzip", token) == (202, None)


def post_to(server: WebServer, body: Any, encoding: str, token: str) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request("POST", "/api/v1/agent/batches/", body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()).get("reason")
    finally:
        connection.close()
