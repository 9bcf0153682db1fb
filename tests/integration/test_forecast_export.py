"""The current forecast as a file: by REST and on the command line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet
import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import AsyncClient, Client

from desktops.models import Look
from forecasting.core.profiles import HORIZON_HOURS, RESOURCES
from forecasting.errors import ExportCutShort
from forecasting.models import Generation, ResourceDemandProfile
from forecasting.services import exporting
from tests.support.rows import AS_OF, HOUR, Rows, add_profile, make_rows

pytestmark = pytest.mark.django_db

ADDRESS = "/api/v1/profiles/export/"


@pytest.fixture
def rows() -> Rows:
    rows = make_rows()
    rows.add_people(2)
    rows.add_machine()
    return rows


def signed_in(rows: Rows, name: str = "vera") -> Client:
    client = Client()
    client.force_login(rows.account(name, "viewer"))
    return client


def exported(client: Client, **asked: str) -> bytes:
    response = client.get(ADDRESS, {"dataset": "test", **asked})
    assert response.status_code == 200, response.content
    return b"".join(response.streaming_content)


def test_a_row_of_csv_stands_alone(rows: Rows) -> None:
    text = exported(signed_in(rows)).decode()
    table = list(csv.DictReader(io.StringIO(text)))
    assert len(table) == (3 * len(RESOURCES) + 2) * HORIZON_HOURS
    first = table[0]
    assert first["time"].startswith("2026-03-02 08:00:00")
    assert (first["person"], first["desktop"]) == ("test-person-0000", "test-0000")
    assert (first["quantity"], first["unit"]) == ("cpu_cores", "cores")
    assert (float(first["q0.05"]), float(first["q0.95"]), first["value"]) == (0.5, 2.0, "")
    assert (first["engine"], first["data_set"], first["source"]) == ("test", "test", "a test")
    assert first["forecast_as_of"].startswith("2026-03-02 08:00:00")
    p_active = [row for row in table if row["quantity"] == "p_active"]
    assert {(row["unit"], row["value"], row["q0.5"]) for row in p_active} == {
        ("probability", "0.5", "")
    }
    machine = {row["quantity"] for row in table if row["desktop"] == "machine"}
    assert machine == set(RESOURCES), "nobody knows when nobody works"
    assert table[1]["time"].startswith("2026-03-02 09:00:00")


def test_parquet_says_the_same_and_places_only_when_asked(rows: Rows, tmp_path: Path) -> None:
    client = signed_in(rows)
    plain = pyarrow.parquet.read_table(io.BytesIO(exported(client, **{"as": "parquet"})))
    assert "p_place" not in plain["quantity"].to_pylist()
    assert set(Look.objects.values_list("what", flat=True)) == {Look.What.EXPORT}
    body = exported(client, **{"as": "parquet", "places": "true"})
    told = pyarrow.parquet.read_table(io.BytesIO(body)).to_pylist()
    paris = [row for row in told if row["place"] == "paris"]
    assert len(paris) == 2 * HORIZON_HOURS
    assert paris[0]["value"] == pytest.approx(0.7)
    assert paris[0]["time"] == AS_OF
    looks = Look.objects.filter(viewer="vera", what=Look.What.WHEREABOUTS)
    assert looks.count() == 2, "each of them was looked at"


def test_json_has_units_levels_engine_and_source(rows: Rows) -> None:
    told = json.loads(exported(signed_in(rows), **{"as": "json"}))
    assert told["source"] == "a test" and told["engine"] == "test"
    assert told["units"]["network_bytes_per_s"] == "bytes per second"
    assert [p["desktop"] for p in told["profiles"]] == ["test-0000", "test-0001", "machine"]
    first = told["profiles"][0]
    assert len(first["cpu_cores"]) == HORIZON_HOURS
    assert first["cpu_cores"][0] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert first["p_place"] == {}


def test_json_says_which_engines_made_a_forecast(rows: Rows) -> None:
    ResourceDemandProfile.objects.update(engines={"cpu_cores": {"pooled": [0.7, 0.8]}})
    told = json.loads(exported(signed_in(rows), **{"as": "json"}))
    assert told["profiles"][0]["engines"] == {"cpu_cores": {"pooled": [0.7, 0.8]}}
    assert "as a ratio to that of the day before" in told["engines"]


def test_a_stranger_finds_no_data_set_and_a_member_no_other_pool(rows: Rows) -> None:
    stranger = signed_in(make_rows("other"), "otto")
    assert stranger.get(ADDRESS, {"dataset": "test"}).status_code == 404
    assert Client().get(ADDRESS, {"dataset": "test"}).status_code in (401, 403)


def test_a_forecast_made_while_a_file_is_written_changes_nothing_in_it(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PROFILES_AT_ONCE", 1)
    whole = exported(signed_in(rows))
    response = signed_in(rows, "otto").get(ADDRESS, {"dataset": "test"})
    pieces = iter(response.streaming_content)
    begun = next(pieces)
    newer = Generation.objects.create(
        dataset=rows.dataset, as_of=AS_OF + HOUR, engine="test", state="complete", started_at=AS_OF
    )
    add_profile(newer, rows.pool, desktop=rows.dataset.desktops.first())
    assert begun + b"".join(pieces) == whole


def test_a_file_whose_forecast_is_dropped_meanwhile_does_not_look_whole(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PROFILES_AT_ONCE", 1)
    pieces = iter(signed_in(rows).get(ADDRESS, {"dataset": "test"}).streaming_content)
    next(pieces)
    rows.generation.plans.all().delete()
    rows.generation.delete()
    with pytest.raises(ExportCutShort, match="dropped"):
        list(pieces)


@pytest.mark.parametrize("asked", [{}, {"dataset": "test", "as": "xls"}])
def test_what_makes_no_sense_is_refused(rows: Rows, asked: dict[str, str]) -> None:
    assert signed_in(rows).get(ADDRESS, asked).status_code == 400


def test_without_a_complete_forecast_there_is_nothing(rows: Rows) -> None:
    Generation.objects.update(state=Generation.State.FAILED)
    answer = signed_in(rows).get(ADDRESS, {"dataset": "test"})
    assert answer.status_code == 404 and "no complete forecast" in answer.json()["detail"]
    with pytest.raises(CommandError, match="complete forecast"):
        call_command("export_profiles", "test")


def test_the_command_writes_the_same_file(rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / "profiles.csv"
    call_command("export_profiles", "test", format="csv", output=path)
    assert path.read_bytes() == exported(signed_in(rows))


@pytest.mark.django_db(transaction=True)
async def test_a_file_is_sent_while_it_is_written(rows: Rows) -> None:
    client = AsyncClient()
    await sync_to_async(client.force_login)(await sync_to_async(rows.account)("vera", "viewer"))
    response = await client.get(ADDRESS, {"dataset": "test"})
    assert response.is_async
    pieces = [piece async for piece in response.streaming_content]
    assert b"".join(pieces).startswith(b'"time"')
    await sync_to_async(connections.close_all)()
