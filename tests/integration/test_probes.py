"""Round trips that programs at sites measure: let in, made into medians, believed while fresh."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone

from desktops.models import IntegrationToken, Region, RoundTrip, RoundTripProbe
from desktops.round_trips import round_trips_between
from desktops.services import probing
from desktops.services.integration_tokens import create_token
from desktops.services.retention import enforce_retention
from tests.support.rows import Rows, make_rows
from tests.support.services import WebServer, web_server

pytestmark = pytest.mark.django_db
PROGRAM = Path(__file__).resolve().parents[2] / "deploy/probe/foredesk_probe.py"
SCOPE = IntegrationToken.Scope.ROUND_TRIPS
MINUTE = timedelta(minutes=1)


@pytest.fixture
def rows() -> Rows:
    rows = make_rows()
    rows.add_people(1)
    return rows


def token_for(rows: Rows, *scopes: IntegrationToken.Scope, **given: Any) -> tuple[Any, str]:
    return create_token(
        **{"name": "lyon-probe", "dataset": rows.dataset, "pool": None} | given,
        scopes=scopes or [SCOPE],
        valid_for=timedelta(days=1),
        actor="test",
        at=timezone.now(),
    )


def ask(text: str, body: object = None) -> Any:
    client = Client(headers={"Authorization": f"Bearer {text}"})
    if body is None:
        return client.get("/api/v1/round-trips/")
    return client.post("/api/v1/round-trips/", json.dumps(body), content_type="application/json")


def name_of(region: Region) -> str:
    return f"{region.cloud}/{region.name}"


def report(rows: Rows, *round_trips: Any, site: str = "") -> dict[str, Any]:
    return {"site": site or rows.sites[0].code, "round_trips": list(round_trips)}


def of(region: Region, rtt_ms: Any) -> dict[str, Any]:
    return {"region": name_of(region), "rtt_ms": rtt_ms}


def measured(rows: Rows, token: IntegrationToken, *rtts_ms: float, ends: Any = None) -> None:
    """One report a minute, the last of them at `ends`."""
    ends = ends or timezone.now()
    for back, rtt_ms in enumerate(reversed(rtts_ms)):
        body = report(rows, of(rows.east, rtt_ms))
        probing.report_round_trips(token=token, body=body, wall=ends - back * MINUTE)


def seen(rows: Rows) -> tuple[float, str]:
    told = round_trips_between([rows.sites[0]], [rows.east])
    return float(told.rtt_ms[0, 0]), str(told.source[0, 0])


def test_a_probe_is_told_what_to_measure_and_no_more(rows: Rows) -> None:
    Region.objects.filter(pk=rows.east.pk).update(probe_address="east.example.org:443")
    Region.objects.create(cloud="theirs", name="far", label="Far", probe_address="far:443")
    _, text = token_for(rows)
    assert ask(text).json() == {
        "every_s": 300,
        "targets": [{"region": name_of(rows.east), "address": "east.example.org:443"}],
    }


def test_medians_count_once_there_are_enough_and_before_the_admins_table(rows: Rows) -> None:
    RoundTrip.objects.create(site=rows.sites[0], region=rows.east, rtt_ms=80, source="table")
    token, _ = token_for(rows)
    measured(rows, token, 20, 21, 22, 23, 24)
    assert seen(rows) == (80, "table"), "five are too few"
    measured(rows, token, 20, 21, 22, 23, 24, 9_000, ends=timezone.now() + MINUTE)
    row = RoundTrip.objects.get(source="measured")
    assert row.probes == 6
    assert seen(rows) == (row.rtt_ms, "measured")
    assert 20 <= row.rtt_ms <= 24, "one outlier moves nothing"
    assert RoundTrip.objects.get(source="table").rtt_ms == 80


def test_what_was_measured_long_ago_counts_no_more(rows: Rows) -> None:
    RoundTrip.objects.create(site=rows.sites[0], region=rows.east, rtt_ms=80, source="table")
    token, _ = token_for(rows)
    measured(rows, token, *[20] * 8, ends=timezone.now() - timedelta(days=6, hours=23))
    assert seen(rows) == (20, "measured")
    RoundTrip.objects.update(measured_at=timezone.now() - timedelta(days=7, minutes=1))
    assert seen(rows) == (80, "table")


def test_one_report_a_minute_counts(rows: Rows) -> None:
    token, _ = token_for(rows)
    now = timezone.now().replace(second=1)
    for _ in range(20):
        body = report(rows, of(rows.east, 1))
        receipt = probing.report_round_trips(token=token, body=body, wall=now)
        assert receipt.accepted == 1
    assert RoundTripProbe.objects.count() == 1
    assert not RoundTrip.objects.filter(source="measured").exists()


@pytest.mark.parametrize(
    ("rtt_ms", "reason"),
    [
        (-1, "bad_rtt"),
        (0, "bad_rtt"),
        (10_001, "bad_rtt"),
        ("12", "bad_rtt"),
        (True, "bad_rtt"),
        (None, "bad_rtt"),
    ],
)
def test_a_bad_measurement_costs_nothing_but_itself(rows: Rows, rtt_ms: Any, reason: str) -> None:
    _, text = token_for(rows)
    answer = ask(text, report(rows, of(rows.east, 20), of(rows.west, rtt_ms), {"region": "a/b"}))
    assert answer.status_code == 202
    said = answer.json()
    assert said["accepted"] == 1
    assert [(each["index"], each["reason"]) for each in said["rejected"]] == [
        (1, reason),
        (2, "bad_rtt"),
    ]
    assert RoundTripProbe.objects.get().region == rows.east


def test_regions_of_others_are_refused_by_name(rows: Rows) -> None:
    far = Region.objects.create(cloud="theirs", name="far", label="Far")
    _, text = token_for(rows)
    (refused,) = ask(text, report(rows, of(far, 20))).json()["rejected"]
    assert refused["reason"] == "unknown_region"
    assert "theirs/far" in refused["detail"]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"site": "lyon"},
        {"site": "lyon", "round_trips": []},
        {"site": "lyon", "round_trips": "many"},
        {"site": "atlantis", "round_trips": [{"region": "a/b", "rtt_ms": 1}]},
        {"site": "lyon", "round_trips": [{}] * 501},
    ],
)
def test_what_is_no_report_is_refused_whole(rows: Rows, body: object) -> None:
    _, text = token_for(rows)
    assert ask(text, body).status_code in (400, 413)
    assert not RoundTripProbe.objects.exists()


def test_other_tokens_open_nothing_here(rows: Rows) -> None:
    _, text = token_for(rows, IntegrationToken.Scope.PRESENCE)
    assert ask(text).status_code == 403
    assert ask(text, report(rows, of(rows.east, 1))).status_code == 403
    assert Client().get("/api/v1/round-trips/").status_code == 401


def test_single_probes_are_kept_as_long_as_the_settings_say(rows: Rows) -> None:
    token, _ = token_for(rows)
    now = timezone.now()
    measured(rows, token, 1, 2, ends=now - timedelta(days=31))
    measured(rows, token, 1, ends=now)
    enforce_retention(wall=now)
    assert RoundTripProbe.objects.count() == 1


@pytest.mark.parametrize("text", ["host", "host:0", "host:70000", "ho st:1", ":443", "http://a:1"])
def test_an_address_to_measure_to_is_checked(rows: Rows, text: str) -> None:
    rows.east.probe_address = text
    with pytest.raises(ValidationError, match="no HOST:PORT"):
        rows.east.full_clean()


@pytest.mark.parametrize("text", ["", "gw.example.org:443", "10.0.0.1:22", "[2001:db8::1]:443"])
def test_names_and_addresses_of_both_kinds_will_do(rows: Rows, text: str) -> None:
    rows.east.probe_address = text
    rows.east.full_clean()


# The program


@contextmanager
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def web(transactional_db: None, tmp_path: Path) -> Iterator[WebServer]:
    with web_server(tmp_path) as server:
        yield server


def run_probe(folder: Path, url: str, token: str, *, site: str) -> subprocess.CompletedProcess[str]:
    (folder / "token").write_text(token + "\n")
    (folder / "probe.conf").write_text(
        f"[server]\nurl = {url}\ntoken_file = {folder}/token\n[probe]\nsite = {site}\n"
    )
    return subprocess.run(
        [sys.executable, str(PROGRAM), "--once", f"--config={folder}/probe.conf"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_program_measures_what_answers_and_reports_it(web: WebServer, tmp_path: Path) -> None:
    rows = make_rows()
    rows.add_people(1)
    _, text = token_for(rows)
    with listening() as address, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and not listened on
        Region.objects.filter(pk=rows.east.pk).update(probe_address=address)
        gone = f"127.0.0.1:{closed.getsockname()[1]}"
        Region.objects.filter(pk=rows.west.pk).update(probe_address=gone)
        ran = run_probe(tmp_path, web.url, text, site=rows.sites[0].code)
    assert ran.returncode == 0, ran.stderr
    assert "1 round trips reported" in ran.stderr
    assert re.search(f"{name_of(rows.west)}: .*refused", ran.stderr)
    probe = RoundTripProbe.objects.get()
    assert (probe.site, probe.region, probe.program) == (rows.sites[0], rows.east, "lyon-probe")
    assert 0 < probe.rtt_ms < 1000


def test_the_program_says_what_the_server_says(web: WebServer, tmp_path: Path) -> None:
    ran = run_probe(tmp_path, web.url, "no-token", site="lyon")
    assert ran.returncode == 1
    assert "the server says 401" in ran.stderr


def test_the_program_sends_no_token_in_clear(tmp_path: Path) -> None:
    ran = run_probe(tmp_path, "http://foredesk.example.org", "secret", site="lyon")
    assert ran.returncode == 1
    assert "must begin with https://" in ran.stderr
    assert "secret" not in ran.stderr
