"""Recorded whereabouts are read, and what cannot be read is named."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from forecasting.engines import registry
from forecasting.errors import EngineUnavailable, InvalidTrace
from forecasting.location_traces import read_locations

REPOSITORY = Path(__file__).resolve().parents[3]
START = datetime(2024, 1, 1, tzinfo=UTC)
REGIONS = """vendor_id,region_id,lat,lon,status
gcp,us-west4,36.1,-115.1,ACTIVE
aws,eu-west-3,48.86,2.35,ACTIVE
aws,us-east-1,38.99,-77.45,ACTIVE
aws,nowhere,,,ACTIVE
"""


def write_gowalla(folder: Path, checkins: str) -> Path:
    (folder / "cloud_costs").mkdir()
    (folder / "cloud_costs" / "cloud_regions_coordinates.csv").write_text(REGIONS)
    data = folder / "gowalla"
    data.mkdir()
    with gzip.open(data / "checkins.txt.gz", "wt") as file:
        file.write(checkins)
    (data / "poi_coos.txt").write_text("7\t45.76\t4.84\n8\t40.71\t-74.01\n")
    return data


def test_a_check_in_is_near_a_region_of_aws_at_its_true_time(tmp_path):
    data = write_gowalla(tmp_path, "a\t7\t1287503727.0\nb\t8\t1287411463.0\na\t8\t1287330123.0\n")
    trace = read_locations(data, "gowalla")
    assert trace.user.tolist() == ["a", "b", "a"]
    assert trace.place.tolist() == ["eu-west-3", "us-east-1", "us-east-1"]
    assert trace.at_s.tolist() == [1287503727 + 28800, 1287411463 + 28800, 1287330123 + 28800]


def test_a_broken_check_in_and_missing_regions_are_named(tmp_path):
    data = write_gowalla(tmp_path, "a\t7\t1287503727.0\nb\t9\t1287411463.0\n")
    with pytest.raises(InvalidTrace, match=r"checkins\.txt\.gz line 2: no position for place 9"):
        read_locations(data, "gowalla")
    (data / "checkins.txt.gz").write_bytes(gzip.compress(b"\t7\t1287503727.0\n"))
    with pytest.raises(InvalidTrace, match="line 1: user is empty"):
        read_locations(data, "gowalla")
    with pytest.raises(InvalidTrace, match="no such table of regions"):
        read_locations(data, "gowalla", regions=tmp_path / "absent.csv")


def test_daylight_saving_is_no_journey_and_a_flight_is(tmp_path):
    file = tmp_path / "events.csv"
    # Out of order, as files are: Paris in winter and summer, New York, and back.
    file.write_text(
        "user,unix_ts,utc_offset_min\np,400,60\np,100,60\np,200,120\np,300,-240\nq,150,120\nq,90,60\n"
    )
    trace = read_locations(tmp_path, "git_roaming")
    assert trace.place.tolist() == ["utc+60", "utc+60", "utc+60", "utc-240", "utc+60", "utc+60"]


def test_a_band_of_offsets_does_not_depend_on_what_comes_later(tmp_path):
    rows = ["p,100,60", "p,200,120", "p,300,180", "p,400,-240", "p,500,120"]
    file = tmp_path / "events.csv"
    bands = []
    for count in (3, 5):
        file.write_text("\n".join(["user,unix_ts,utc_offset_min", *rows[:count]]) + "\n")
        bands.append(read_locations(file, "git_roaming").place.tolist())
    assert bands[1][:3] == bands[0] == ["utc+60", "utc+60", "utc+180"]


def test_a_cell_is_about_a_kilometre_wide_wherever_it_is(tmp_path):
    file = tmp_path / "fixes_10min.csv"
    rows = [
        "000,2008-10-23T02:53:04,39.9847,116.3184,492",
        "000,2008-10-23T03:00:00,39.9844,116.3190,305",
        "001,2008-10-23T03:00:00,39.9844,116.3349,305",
    ]
    file.write_text("\n".join(["user,utc,lat,lon,alt_ft", *rows]) + "\n")
    trace = read_locations(tmp_path, "geolife")
    assert trace.at_s[1] == datetime(2008, 10, 23, 3, tzinfo=UTC).timestamp()
    assert trace.place[0] == trace.place[1] != trace.place[2]
    file.write_text("user,utc,lat,lon\n0,2008-10-23T02:53:04,39.9,116.3\n0,yesterday,39.9,116.3\n")
    with pytest.raises(InvalidTrace, match="line 3: utc 'yesterdayZ' is not a time"):
        read_locations(tmp_path, "geolife")
    file.write_text(
        "user,utc,lat,lon\n0,2008-10-23T02:53:04,39.9,116.3\n0,2008-10-23T02:53:04,,1\n"
    )
    with pytest.raises(InvalidTrace, match="line 3: lat is empty"):
        read_locations(tmp_path, "geolife")


def write_table(path: Path, n_people: int = 6, days: int = 60) -> Path:
    lines = ["user,at,place,note"]
    random = np.random.default_rng(0)
    for person in range(n_people):
        for day in range(days):
            at = START + timedelta(days=day, hours=9 + person % 3)
            place = "lyon" if random.random() < 0.2 else "paris"
            lines.append(f"p{person},{at.isoformat()},{place},x")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_table_of_ones_own_may_count_seconds_or_say_when(tmp_path):
    file = tmp_path / "seen.csv"
    file.write_text("place,at,user\nparis,2024-01-01T10:00:00+01:00,a\nlyon,1704099600,a\n")
    trace = read_locations(file, "csv")
    nine = (START + timedelta(hours=9)).timestamp()
    assert (trace.at_s.tolist(), trace.place.tolist()) == ([nine, nine], ["paris", "lyon"])
    assert trace.n_people == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,at\na,1\n", "line 1: no column place"),
        ("user,at,place\na,1,x\na,soon,x\n", "line 3: at 'soon' is not a time"),
        ("user,at,place\na,2024-01-01T10:00:00,x\n", "line 2: at .* has no offset from UTC"),
        ("user,at,place\na,1,x\na,1\n", "line 3: 2 values, not 3"),
        ("user,at,place\na,1,x\n,1,x\n", "line 3: user is empty"),
        ("user,at,place\na,1,\n", "line 2: place is empty"),
        ("user,at,place\n", "no row"),
        ("user,at,place\na,1,x", "line 2: the file ends inside this line"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path, text, message):
    file = tmp_path / "seen.csv"
    file.write_text(text)
    with pytest.raises(InvalidTrace, match=message):
        read_locations(file, "csv")
    with pytest.raises(InvalidTrace, match=r"absent\.csv"):
        read_locations(tmp_path / "absent.csv", "csv")


def test_fewer_people_are_spread_over_their_names(tmp_path):
    trace = read_locations(write_table(tmp_path / "seen.csv"), "csv").of_people(3)
    assert np.unique(trace.user).tolist() == ["p0", "p2", "p5"]
    assert len(trace.at_s) == len(trace.place) == 180


def test_whereabouts_are_scored_from_the_command_line(tmp_path, capsys):
    file = write_table(tmp_path / "seen.csv")
    options = {"data": file, "format": "csv", "origins": 4, "fits": 2, "json": True}
    call_command("evaluate_locations", **options)
    *lines, last = capsys.readouterr().out.splitlines()
    told = json.loads(last)
    assert told["figures"]["logloss_csv"] < 2
    assert 0 <= told["figures"]["ece_csv"] <= 1
    assert set(told["detail"]) > {"product", "most frequent", "stay-decay", "order-2"}
    assert set(told["behind_baseline"]) == {"all", "0-6 h", "6-24 h", "24-168 h"}
    assert lines[0].startswith("csv: 6 people, ")
    call_command("evaluate_locations", people=4, held_out=0.5, **options)
    assert capsys.readouterr().out.startswith("csv: 2 people, ")
    with pytest.raises(CommandError, match=r"absent: No such file"):
        call_command("evaluate_locations", data=tmp_path / "absent", format="csv")
    with pytest.raises(CommandError, match=r"share between 0 and 1 is wanted, not '1\.5'"):
        call_command("evaluate_locations", f"--data={file}", "--format=csv", "--held-out=1.5")


def test_an_engine_whose_package_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    file = write_table(tmp_path / "seen.csv")
    arguments = ("evaluate_locations", f"--data={file}", "--format=csv")
    with pytest.raises(CommandError, match="'sequence' needs torch, which is not installed: make"):
        call_command(*arguments, "--engine=sequence")
    with pytest.raises(CommandError, match="invalid choice: 'oracle'"):
        call_command(*arguments, "--engine=oracle")
    with pytest.raises(EngineUnavailable, match="No engine 'oracle'; there are: sequence"):
        registry.load_location("oracle")


def test_scoring_needs_no_server_and_no_settings(tmp_path):
    file = write_table(tmp_path / "seen.csv", n_people=2, days=20)
    done = subprocess.run(
        [sys.executable, "manage.py", "evaluate_locations", f"--data={file}", "--format=csv"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "FOREDESK_DATA": str(tmp_path / "absent")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "product" in done.stdout
    assert "asking" in done.stderr, "progress is shown while it runs"
