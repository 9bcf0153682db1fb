"""Importing recorded activity: whole files or nothing, never twice, as if it were now."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import models

from desktops.errors import InvalidFile
from desktops.models import (
    Activity,
    Dataset,
    Desktop,
    DesktopUser,
    Event,
    ImportedFile,
    Pool,
    Site,
)
from desktops.pseudonyms import pseudonym
from desktops.services.imports import FileReport, import_file
from desktops.sources import csv_log, text
from desktops.sources.options import Advance, ReadOptions
from desktops.sources.samples import Rejections, Samples

pytestmark = pytest.mark.django_db

WALL = datetime(2026, 3, 4, 9, tzinfo=UTC)
HOUR = datetime(2026, 3, 2, 8, tzinfo=UTC)
HEADER = "time,person,desktop,cpu_cores,site\n"
DATASETS = Path(
    os.environ.get("FOREDESK_DATASETS")
    or Path(__file__).resolve().parents[3] / "shared" / "datasets"
)


def line(minute: float = 0, person: str = "alice", desktop: str = "", cpu: str = "1", site="lon"):
    at = HOUR + timedelta(minutes=minute)
    return f"{at.isoformat()},{person},{desktop},{cpu},{site}\n"


def write(folder: Path, *lines: str, name: str = "activity.csv") -> Path:
    path = folder / name
    data = (HEADER + "".join(lines)).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def load(path: Path, dataset: str = "office", tolerance: float = 0.01) -> FileReport:
    return import_file(
        path=path,
        format_name="csv",
        dataset_name=dataset,
        pool_name=dataset,
        options=ReadOptions(),
        tolerance=tolerance,
        wall=WALL,
    )


def command(*arguments: object, **options: object) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command("import_activity", *map(str, arguments), stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


def assert_nothing_is_kept() -> None:
    kept: list[type[models.Model]] = [Dataset, Pool, DesktopUser, Desktop, Site]
    kept += [Activity, ImportedFile, Event]
    assert {model.__name__: model._default_manager.count() for model in kept} == {
        model.__name__: 0 for model in kept
    }


def test_samples_become_means_of_the_hour(tmp_path: Path) -> None:
    report = load(
        write(tmp_path, line(0, cpu="1"), line(30, cpu="2"), line(45, cpu=""), line(60, cpu="9"))
    )
    assert (report.rows, report.rejected_rows, report.hours) == (4, 0, 2)
    assert list(Activity.objects.order_by("hour").values_list("hour", "cpu_cores")) == [
        (HOUR, 1.5),
        (HOUR + timedelta(hours=1), 9.0),
    ]


def test_people_go_by_pseudonyms_and_their_names_are_nowhere(tmp_path: Path) -> None:
    load(write(tmp_path, line(0, "Alice"), line(30, " alice"), line(0, "bob")))
    people = DesktopUser.objects.values_list("pseudonym", "named__name")
    assert set(people) == {(pseudonym("alice"), None), (pseudonym("bob"), None)}
    assert pseudonym("alice") != pseudonym("bob")
    assert len(pseudonym("alice")) == 32
    assert Activity.objects.count() == 2


def test_the_pseudonym_depends_on_the_key(settings) -> None:
    before = pseudonym("alice")
    settings.PSEUDONYM_KEY = "another key"
    keyed = pseudonym("alice")
    settings.SECRET_KEY = "x" * 60
    assert before != keyed == pseudonym("alice")


def test_a_person_is_at_home_where_they_are_seen_most(tmp_path: Path) -> None:
    load(write(tmp_path, line(0), line(60, site="sin"), line(120), line(180, "bob", site="")))
    alice = DesktopUser.objects.get(pseudonym=pseudonym("alice"))
    assert alice.home_site.code == "lon"
    assert alice.time_zone == "Europe/London"
    assert DesktopUser.objects.get(pseudonym=pseudonym("bob")).home_site is None
    assert set(Site.objects.values_list("code", flat=True)) == {"lon", "sin"}


def test_the_last_site_of_an_hour_is_the_hours(tmp_path: Path) -> None:
    load(write(tmp_path, line(50, site="sin"), line(10, site="lon"), line(55, site="")))
    assert Activity.objects.get().site.code == "sin"


def test_a_desktop_belongs_to_whoever_is_seen_most_on_it(tmp_path: Path) -> None:
    load(
        write(
            tmp_path,
            *(line(60 * n, "alice", "vdi-1") for n in range(3)),
            *(line(60 * n, "bob", "vdi-1") for n in range(2)),
            line(0, "bob", "vdi-2"),
            line(0, "", "vdi-3"),
        )
    )
    owners = dict(Desktop.objects.values_list("key", "desktop_user__pseudonym"))
    assert owners == {
        "office-vdi-1": pseudonym("alice"),
        "office-vdi-2": None,
        "office-vdi-3": None,
    }
    assert set(Desktop.objects.values_list("state", flat=True)) == {"recorded"}


def test_desktops_that_differ_only_in_odd_characters_stay_two(tmp_path: Path) -> None:
    load(write(tmp_path, line(0, "", "vdi.1"), line(0, "", "vdi-1"), line(0, "", "vdi 1")))
    assert set(Desktop.objects.values_list("label", flat=True)) == {"vdi.1", "vdi-1", "vdi 1"}
    assert Desktop.objects.filter(key__regex=r"^[-a-zA-Z0-9_]+$").count() == 3


def test_recorded_history_is_planned_as_of_the_end_of_its_last_hour(tmp_path: Path) -> None:
    load(write(tmp_path, line(0), line(130)))
    dataset = Dataset.objects.get()
    assert dataset.kind == Dataset.Kind.IMPORTED
    assert dataset.clock(wall=WALL) == HOUR + timedelta(hours=3)

    load(write(tmp_path, line(-600), name="earlier.csv"))
    dataset.refresh_from_db()
    assert dataset.as_of == HOUR + timedelta(hours=3)


def test_an_import_is_told_as_an_event_to_those_who_see_the_pool(tmp_path: Path) -> None:
    load(write(tmp_path, line(0), line(5, cpu="-1"), line(9)), tolerance=0.5)
    event = Event.objects.get()
    assert event.kind == "activity.imported"
    assert event.pool == Pool.objects.get()
    assert event.payload == {
        "dataset": "office",
        "rows": 3,
        "rejected_rows": 1,
        "hours": 1,
    }
    assert not Pool.objects.get().members.exists()


def test_the_same_file_again_changes_nothing_whatever_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, line(0), line(60))
    load(path)
    before = list(Activity.objects.values())
    again = load(path.rename(tmp_path / "copy.csv"))
    assert again.was_imported_before
    assert list(Activity.objects.values()) == before
    assert Event.objects.count() == ImportedFile.objects.count() == 1


def test_hours_that_another_file_brought_stay_as_they_are(tmp_path: Path) -> None:
    load(write(tmp_path, line(0, cpu="1")))
    report = load(write(tmp_path, line(30, cpu="5"), line(60, cpu="5"), name="overlap.csv"))
    assert (report.rows, report.hours) == (2, 1)
    assert list(Activity.objects.order_by("hour").values_list("cpu_cores", flat=True)) == [1, 5]


def test_the_same_file_may_be_imported_into_another_data_set(tmp_path: Path) -> None:
    path = write(tmp_path, line(0, "alice", "vdi-1"))
    load(path, "office")
    load(path, "branch")
    assert Activity.objects.count() == 2
    assert set(Desktop.objects.values_list("key", flat=True)) == {"office-vdi-1", "branch-vdi-1"}


def test_bad_rows_within_the_tolerance_are_left_out_and_reported(tmp_path: Path) -> None:
    good = [line(n / 10) for n in range(199)]
    report = load(write(tmp_path, *good, line(20, cpu="-3")), tolerance=0.005)
    assert report.rejected_rows == 1
    assert report.problems == ["line 201: cpu_cores -3 is negative"]
    assert ImportedFile.objects.get().rejected_rows == 1


def test_one_bad_row_more_refuses_the_file_and_keeps_nothing(tmp_path: Path) -> None:
    good = [line(n / 10) for n in range(199)]
    path = write(tmp_path, *good, line(20, cpu="-3"))
    with pytest.raises(InvalidFile, match=r"1 of 200 rows are bad.*\n  line 201: cpu_cores -3 is"):
        load(path, tolerance=0.0049)
    assert_nothing_is_kept()


@pytest.mark.parametrize(
    ("name", "cut", "reason"),
    [
        ("activity.csv", -10, r"line 501: the file ends inside this line"),
        ("activity.csv.gz", -30, r"line \d+: the compressed data ends early"),
    ],
)
def test_a_truncated_file_is_refused_with_its_line_and_nothing_is_kept(
    tmp_path: Path, name: str, cut: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 2000)  # much of it is staged by then
    path = write(tmp_path, *(line(n, f"person-{n}") for n in range(500)), name=name)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InvalidFile, match=reason):
        load(path)
    assert_nothing_is_kept()


def test_a_last_line_that_lacks_values_is_refused_within_any_tolerance(tmp_path: Path) -> None:
    path = write(tmp_path, *(line(n) for n in range(500)), "2026-03-02T08:00:00Z,ali\n")
    with pytest.raises(InvalidFile, match="line 502: the file ends with too few values"):
        load(path, tolerance=1)
    assert_nothing_is_kept()


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"activity\.csv line 1: no rows"):
        load(write(tmp_path))
    assert_nothing_is_kept()


def test_a_break_in_the_middle_keeps_nothing_and_the_import_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 2000)
    path = write(tmp_path, *(line(n, f"person-{n}") for n in range(500)))
    whole = csv_log.read

    def breaks(
        path: Path, options: ReadOptions, rejections: Rejections, advance: Advance
    ) -> Iterator[Samples]:
        for number, samples in enumerate(whole(path, options, rejections, advance)):
            if number == 5:
                raise ConnectionError("the power is gone")
            yield samples

    monkeypatch.setattr(csv_log, "read", breaks)
    with pytest.raises(ConnectionError):
        load(path)
    assert_nothing_is_kept()

    monkeypatch.setattr(csv_log, "read", whole)
    assert load(path).hours == 500


def test_an_hour_that_two_blocks_share_is_one_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 150)
    load(write(tmp_path, *(line(n, cpu=str(n)) for n in range(60))))
    assert Activity.objects.get().cpu_cores == pytest.approx(29.5)


@pytest.mark.parametrize("kind", [Dataset.Kind.LIVE, Dataset.Kind.SIMULATED])
def test_history_is_not_mixed_into_a_data_set_of_another_kind(tmp_path: Path, kind: str) -> None:
    Dataset.objects.create(name="office", label="Office", kind=kind, as_of=HOUR)
    with pytest.raises(CommandError, match="1 of 1 files refused"):
        command(write(tmp_path, line(0)), "--format=csv", "--dataset=office")
    assert Activity.objects.count() == 0


def test_a_pool_of_another_data_set_is_not_taken(tmp_path: Path) -> None:
    load(write(tmp_path, line(0)))
    with pytest.raises(CommandError):
        command(
            write(tmp_path, line(5), name="b.csv"),
            "--format=csv",
            "--dataset=branch",
            "--pool=office",
        )
    assert Dataset.objects.count() == 1


# The command


def test_the_command_says_what_came_in(tmp_path: Path) -> None:
    path = write(tmp_path, *(line(n / 2, "alice", "vdi-1") for n in range(240)), line(1, cpu="x"))
    out, err = command(path, "--format=csv", "--dataset=office", "--pool=main")
    assert "1 files: 241 rows, 1 rejected, 2 new hours." in out
    assert "office now: 1 people, 1 desktops, 2 hours from 2026-03-02 08:00 to 2026-03-02" in out
    assert "planned as of 2026-03-02 10:00" in out
    assert "activity.csv line 242: cpu_cores 'x' is not a finite number" in err
    assert Pool.objects.get().name == "main"

    out, _ = command(path, "--format=csv", "--dataset=office", "--pool=main")
    assert out == "1 files were imported before; nothing changed.\n"


def test_a_refused_file_does_not_keep_the_others_out(tmp_path: Path) -> None:
    good = write(tmp_path, line(0), name="good.csv")
    bad = write(tmp_path, line(0, cpu="x"), name="bad.csv")
    with pytest.raises(CommandError, match="1 of 2 files refused; nothing of them is kept"):
        command(bad, good, "--format=csv", "--dataset=office")
    assert ImportedFile.objects.get().name == "good.csv"


def test_the_command_renames_columns(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text(f"when,login,load\n{HOUR.isoformat()},alice,1.5\n")
    command(
        path,
        "--format=csv",
        "--dataset=office",
        *("--map", "time=when", "person=login", "--map", "cpu_cores=load"),
    )
    assert Activity.objects.get().cpu_cores == 1.5


def test_sites_can_be_the_admins_own(tmp_path: Path) -> None:
    sites = tmp_path / "sites.csv"
    sites.write_text(
        "code,label,country,latitude,longitude,time_zone\n"
        "hq,Head office,FR,48.9,2.3,Europe/Paris\nlab,Laboratory,FR,45.8,4.8,Europe/Paris\n"
    )
    (tmp_path / "poi_coos.txt").write_text("1\t45.7\t4.9\n")
    path = tmp_path / "checkins.txt"
    path.write_text("7\t1\t1287503727\n")
    command(path, "--format=gowalla", "--dataset=walks", f"--sites={sites}")
    assert Activity.objects.get().site.label == "Laboratory"
    assert DesktopUser.objects.get().pseudonym == "7"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere.csv", "--format=csv", "--dataset=x"], "There is no nowhere.csv"),
        ([".", "--format=csv", "--dataset=x"], "is a folder"),
        (["a.csv", "--format=csv", "--dataset=a b"], "letters, digits"),
        (["a.csv", "--format=csv", "--dataset=x", "--tolerance=2"], "between 0 and 1"),
        (["a.csv", "--format=csv", "--dataset=x", "--map", "colour=x"], "COLUMN=NAME"),
        (["a.csv", "--format=bitbrains", "--dataset=x", "--map", "time=x"], "--map means nothing"),
        (["a.csv", "--format=gowalla", "--dataset=x", "--sites=no.csv"], "--sites: "),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_one_line(
    arguments: list[str], reason: str
) -> None:
    with pytest.raises(CommandError, match=reason):
        command(*arguments)


# The shared data sets


def shared(name: str) -> Path:
    if not (DATASETS / name).is_dir():
        pytest.skip(f"no {DATASETS / name} (FOREDESK_DATASETS)")
    return DATASETS / name


def test_bitbrains_machines_are_imported_without_people() -> None:
    first = sorted((shared("bitbrains_dev") / "vm").glob("*.csv.gz"))[:2]
    out, _ = command(*first, "--format=bitbrains", "--dataset=bitbrains")
    assert "0 people, 2 desktops" in out
    assert Dataset.objects.get().as_of == datetime(2013, 9, 29, 22, tzinfo=UTC)
    assert Activity.objects.count() > 2 * 0.9 * 91 * 24
    assert not Activity.objects.filter(cpu_cores=None).exists()

    out, _ = command(*first, "--format=bitbrains", "--dataset=bitbrains")
    assert out == "2 files were imported before; nothing changed.\n"


def test_gowalla_people_are_imported_without_desktops() -> None:
    out, _ = command(shared("gowalla_dev"), "--format=gowalla", "--dataset=gowalla")
    assert "500 people, 0 desktops" in out
    assert not Activity.objects.filter(site=None).exists()
    assert Activity.objects.values("desktop_user").distinct().count() == 500
