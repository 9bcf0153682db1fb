"""Files of activity: what is read, what is refused, and what is said about it."""

from __future__ import annotations

import gzip
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from desktops.core.metros import InvalidMetros, bundled_metros, read_metros
from desktops.errors import InvalidFile
from desktops.sources import bitbrains, csv_log, gowalla, parquet, text
from desktops.sources.checks import believable
from desktops.sources.hourly import sum_by_hour
from desktops.sources.options import FileFormat, ReadOptions
from desktops.sources.samples import Labels, Rejections, Samples

WALL = datetime(2026, 3, 4, 9, tzinfo=UTC)
SITES = frozenset({"lon", "nyc"})
HEADER = "time,person,desktop,cpu_cores,memory_bytes,network_bytes_per_s,storage_bytes_per_s,"
HEADER += "active_ratio,site\n"
GOOD = "2026-03-02T08:10:00Z,alice,vdi-1,1.5,4e9,1000,2000,0.5,lon\n"


def read(
    form: FileFormat, path: Path, options: ReadOptions | None = None
) -> tuple[list[Samples], Rejections]:
    """Everything believable in the file."""
    rejections = Rejections()
    found = [
        believable(samples, wall=WALL, sites=SITES, rejections=rejections)
        for samples in form.read(path, options or ReadOptions(), rejections, lambda n: None)
    ]
    return [samples for samples in found if len(samples)], rejections


def csv_file(folder: Path, *lines: str, name: str = "activity.csv") -> Path:
    path = folder / name
    data = (HEADER + "".join(lines)).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["activity.csv", "activity.csv.gz"])
def test_a_row_is_read_with_its_units(tmp_path: Path, name: str) -> None:
    (samples,), rejections = read(csv_log, csv_file(tmp_path, GOOD, name=name))
    assert rejections.rows == 1 and rejections.rejected == 0
    assert samples.line.tolist() == [2]
    assert samples.unix_s.tolist() == [int(datetime(2026, 3, 2, 8, 10, tzinfo=UTC).timestamp())]
    assert (samples.person.text(0), samples.desktop.text(0), samples.site.text(0)) == (
        "alice",
        "vdi-1",
        "lon",
    )
    assert {name: values.tolist() for name, values in samples.measures.items()} == {
        "cpu_cores": [1.5],
        "memory_bytes": [4e9],
        "network_bytes_per_s": [1000.0],
        "storage_bytes_per_s": [2000.0],
        "active_ratio": [0.5],
    }


@pytest.mark.parametrize(
    "time",
    ["2026-03-02T08:10:00Z", "2026-03-02 09:10:00+01:00", "1772439000", "1772439000.9"],
)
def test_times_are_aware_or_seconds_since_1970(tmp_path: Path, time: str) -> None:
    (samples,), _ = read(csv_log, csv_file(tmp_path, GOOD.replace("2026-03-02T08:10:00Z", time)))
    assert samples.unix_s.tolist() == [1772439000]


def test_times_of_several_kinds_may_be_mixed(tmp_path: Path) -> None:
    other = GOOD.replace("2026-03-02T08:10:00Z", "1772439000")
    (samples,), _ = read(csv_log, csv_file(tmp_path, GOOD, other))
    assert samples.unix_s.tolist() == [1772439000] * 2


BAD_ROWS = [
    ("2026-03-02T08:10:00,a,b,1,,,,,", "time '2026-03-02T08:10:00' has no offset from UTC"),
    ("yesterday,a,b,1,,,,,", "time 'yesterday' is not a time"),
    (",a,b,1,,,,,", "time '' is not a time"),
    ("nan,a,b,1,,,,,", "time 'nan' is not a time"),
    ("2026-03-05T08:10:00Z,a,b,1,,,,,", "time 2026-03-05 08:10:00 UTC lies in the future"),
    ("1772439000000,a,b,1,,,,,", "not milliseconds?"),
    ("1999-12-31T08:10:00Z,a,b,1,,,,,", "lies before 2000"),
    ("2026-03-02T08:10:00Z,a,b,much,,,,,", "cpu_cores 'much' is not a finite number"),
    ("2026-03-02T08:10:00Z,a,b,NaN,,,,,", "cpu_cores 'NaN' is not a finite number"),
    ("2026-03-02T08:10:00Z,a,b,inf,,,,,", "cpu_cores 'inf' is not a finite number"),
    ("2026-03-02T08:10:00Z,a,b,-1,,,,,", "cpu_cores -1 is negative"),
    ("2026-03-02T08:10:00Z,a,b,5000,,,,,", "cpu_cores 5000 is more than 1024"),
    ("2026-03-02T08:10:00Z,a,b,,1e15,,,,", "memory_bytes 1e+15 is more than"),
    ("2026-03-02T08:10:00Z,a,b,,,1e12,,,", "network_bytes_per_s 1e+12 is more than"),
    ("2026-03-02T08:10:00Z,a,b,,,,1e13,,", "storage_bytes_per_s 1e+13 is more than"),
    ("2026-03-02T08:10:00Z,a,b,,,,,50,", "active_ratio 50 is more than 1"),
    ("2026-03-02T08:10:00Z,a,b,1,,,,,atlantis", "site 'atlantis' is not known"),
    ("2026-03-02T08:10:00Z,,,1,,,,,", "neither a person nor a desktop"),
    ("2026-03-02T08:10:00Z,a,b,,,,,,", "nothing was observed"),
    (f"2026-03-02T08:10:00Z,{'a' * 201},b,1,,,,,", "person is longer than 200"),
    ("2026-03-02T08:10:00Z,a,b,1,,,,", "8 values, not 9"),
    ("2026-03-02T08:10:00Z,a,b,1,,,,,,x", "10 values, not 9"),
    ("", "time '' is not a time"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_a_bad_row_is_refused_with_its_line_and_reason(
    tmp_path: Path, row: str, reason: str
) -> None:
    (samples,), rejections = read(csv_log, csv_file(tmp_path, GOOD, row + "\n", GOOD))
    assert samples.line.tolist() == [2, 4]
    assert (rejections.rows, rejections.rejected) == (3, 1)
    ((line, said),) = rejections.first
    assert line == 3
    assert reason in said


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "activity.csv"
    path.write_bytes(HEADER.encode() + GOOD.encode() + GOOD.encode().replace(b"alice", b"\xff\xfe"))
    (samples,), rejections = read(csv_log, path)
    assert samples.line.tolist() == [2]
    assert rejections.first == [(3, "person is not UTF-8")]


def test_a_stray_quotation_mark_harms_only_its_own_line(tmp_path: Path) -> None:
    stray = GOOD.replace("alice", '"alice')
    quoted = GOOD.replace("alice", '"Doe, Alice"')
    (samples,), rejections = read(csv_log, csv_file(tmp_path, GOOD, stray, quoted, GOOD))
    assert samples.line.tolist() == [2, 4, 5]
    assert [samples.person.text(n) for n in range(3)] == ["alice", "Doe, Alice", "alice"]
    assert [line for line, _ in rejections.first] == [3]


def test_only_the_first_bad_rows_are_told_and_the_others_counted(tmp_path: Path) -> None:
    _, rejections = read(csv_log, csv_file(tmp_path, *["soon,a,b,1,,,,,\n"] * 50))
    told = rejections.describe()
    assert len(told) == 21
    assert told[0] == "line 2: time 'soon' is not a time"
    assert told[-1] == "and 30 more"


def test_columns_can_be_called_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text("when,login,load\n2026-03-02T08:10:00Z,alice,1.5\n")
    options = ReadOptions(columns={"time": "when", "person": "login", "cpu_cores": "load"})
    (samples,), _ = read(csv_log, path, options)
    assert samples.measures["cpu_cores"].tolist() == [1.5]
    assert not samples.desktop.is_given.any()


@pytest.mark.parametrize(
    ("header", "columns", "reason"),
    [
        ("when,person,cpu_cores", {}, "line 1: no column time; the columns are when, person"),
        ("time,cpu_cores", {}, "line 1: neither a column person nor a column desktop"),
        ("time,person,colour", {}, "line 1: no column says what was observed"),
        ("time,person,person,site", {}, "line 1: the column 'person' occurs twice"),
        ("time,person,site", {"site": "place"}, "line 1: no column place (--map)"),
    ],
)
def test_a_header_without_what_is_needed_is_refused(
    tmp_path: Path, header: str, columns: dict[str, str], reason: str
) -> None:
    path = tmp_path / "activity.csv"
    path.write_text(header + "\n")
    with pytest.raises(InvalidFile, match=r"^activity\.csv") as refused:
        read(csv_log, path, ReadOptions(columns=columns))
    assert reason in str(refused.value)


def test_half_a_last_line_is_refused_with_its_line(tmp_path: Path) -> None:
    path = csv_file(tmp_path, GOOD, GOOD, GOOD[:30])
    with pytest.raises(InvalidFile, match=r"activity.csv line 4: the file ends inside this line"):
        read(csv_log, path)


def test_truncated_gzip_is_refused_with_its_line(tmp_path: Path) -> None:
    lines = [GOOD.replace("1.5", f"{n % 97}.{n % 89}") for n in range(5000)]
    path = csv_file(tmp_path, *lines, name="activity.csv.gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InvalidFile, match=r"line \d+: the compressed data ends early") as refused:
        read(csv_log, path)
    line = int(str(refused.value).split(" line ")[1].split(":")[0])
    assert 1000 < line < 4500


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = csv_file(tmp_path, *[GOOD] * 5000, name="activity.csv.gz")
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF  # the checksum at its end
    path.write_bytes(data)
    with pytest.raises(InvalidFile, match="the compressed data is damaged"):
        read(csv_log, path)


def test_zstd_is_recognised_by_content_and_read_whole(tmp_path: Path) -> None:
    path = csv_file(tmp_path, *[GOOD] * 5000)
    plain = path.read_bytes()
    path.write_bytes(pa.compress(plain, codec="zstd", asbytes=True))
    batches, rejections = read(csv_log, path)
    assert (sum(map(len, batches)), rejections.rejected) == (5000, 0)


def test_truncated_zstd_is_refused(tmp_path: Path) -> None:
    lines = [GOOD.replace("1.5", f"{n % 97}.{n % 89}") for n in range(5000)]
    path = csv_file(tmp_path, *lines)
    packed = pa.compress(path.read_bytes(), codec="zstd", asbytes=True)
    for data in (packed[: len(packed) // 2], packed[:-1]):
        path.write_bytes(data)
        with pytest.raises(InvalidFile, match=r"line \d+: the compressed data ends early"):
            read(csv_log, path)


def test_damaged_zstd_is_refused(tmp_path: Path) -> None:
    path = csv_file(tmp_path, *[GOOD] * 5000)
    path.write_bytes(pa.compress(path.read_bytes(), codec="zstd", asbytes=True) + b"and more")
    with pytest.raises(InvalidFile, match="the compressed data is damaged"):
        read(csv_log, path)


def test_a_line_without_end_is_not_gathered_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "activity.csv"
    path.write_bytes(b"x" * (3 * text.BLOCK_BYTES))
    read_bytes = 0

    def advance(n: int) -> None:
        nonlocal read_bytes
        read_bytes += n

    with pytest.raises(InvalidFile, match=r"line 1: longer than"):
        list(text.blocks(path, advance))
    assert read_bytes <= 2 * text.BLOCK_BYTES


ANY_LINE = st.text(st.sampled_from('ab,;"1 '), max_size=12)


@given(lines=st.lists(ANY_LINE, min_size=1, max_size=20))
def test_reading_at_once_gives_what_reading_line_by_line_gives(lines: list[str]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    fast = text._parse_at_once(data, ["x", "y"], ",")
    slow = text._parse_by_line(data, ["x", "y"], ",")
    if fast is not None:
        assert fast.wrong == slow.wrong
        assert {k: v.to_pylist() for k, v in fast.columns.items()} == {
            k: v.to_pylist() for k, v in slow.columns.items()
        }


def test_carriage_returns_end_no_line_of_their_own(tmp_path: Path) -> None:
    windows = GOOD.replace("\n", "\r\n")
    stray = GOOD.replace("alice", "al\rice")
    (samples,), rejections = read(csv_log, csv_file(tmp_path, windows, stray, windows))
    assert samples.line.tolist() == [2, 3, 4]
    assert samples.person.text(1) == "al ice"
    assert rejections.rejected == 0


def small_blocks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", size)


def test_samples_are_the_same_however_the_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = csv_file(tmp_path, *[GOOD.replace("1.5", str(n)) for n in range(100)])
    (whole,), _ = read(csv_log, path)
    small_blocks(monkeypatch, 300)
    pieces, rejections = read(csv_log, path)
    assert len(pieces) > 10
    assert rejections.rows == 100
    assert np.concatenate([p.line for p in pieces]).tolist() == whole.line.tolist()
    assert (
        np.concatenate([p.measures["cpu_cores"] for p in pieces]).tolist()
        == whole.measures["cpu_cores"].tolist()
    )


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """2.3 million rows, 140 MB of text."""
    path = tmp_path / "long.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(HEADER.encode())
        for _ in range(230):
            file.write(GOOD.encode() * 10_000)
    program = (
        "import resource, sys; from pathlib import Path;"
        "from desktops.sources import csv_log; from desktops.sources.options import ReadOptions;"
        "from desktops.sources.samples import Rejections;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024;"
        "rejections = Rejections(); seen = []\n"
        "for samples in csv_log.read(Path(sys.argv[1]), ReadOptions(), rejections, lambda n: 0):\n"
        "    seen.append(peak())\n"
        "print(rejections.rows, seen[2], seen[-1])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    ).stdout
    rows, early_mib, late_mib = map(int, output.split())
    assert rows == 2_300_000
    assert late_mib - early_mib < 60


# Bitbrains

MACHINE = "Timestamp [ms];\tCPU cores;\tCPU capacity provisioned [MHZ];\tCPU usage [MHZ];\tCPU "
MACHINE += "usage [%];\tMemory capacity provisioned [KB];\tMemory usage [KB];\tDisk read throughput"
MACHINE += " [KB/s];\tDisk write throughput [KB/s];\tNetwork received throughput [KB/s];\tNetwork "
MACHINE += "transmitted throughput [KB/s]\n"


def machine_file(folder: Path, *lines: str, name: str = "100.csv") -> Path:
    path = folder / name
    path.write_text(MACHINE + "".join(lines))
    return path


def test_a_machine_is_read_in_cores_and_bytes(tmp_path: Path) -> None:
    path = machine_file(
        tmp_path,
        "1372629804;\t2;\t5200.0;\t1300.0;\t25;\t8388608.0;\t1024.0;\t1.0;\t2.0;\t3.0;\t4.0\n",
    )
    (samples,), _ = read(bitbrains, path)
    assert samples.desktop.text(0) == "100"
    assert not samples.person.is_given.any() and not samples.site.is_given.any()
    assert samples.unix_s.tolist() == [1372629804]
    assert {name: values.tolist() for name, values in samples.measures.items()} == {
        "cpu_cores": [0.5],
        "memory_bytes": [1048576.0],
        "network_bytes_per_s": [7168.0],
        "storage_bytes_per_s": [3072.0],
    }


def test_a_machine_that_is_off_uses_nothing(tmp_path: Path) -> None:
    path = machine_file(tmp_path, "1372629804;0;0;0;0;0;0;0;0;0;0\n")
    (samples,), _ = read(bitbrains, path)
    assert samples.measures["cpu_cores"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1372629804;0;0;100;0;0;0;0;0;0;0\n", "100 MHz used of 0"),
        ("1372629804;2;5200;x;0;0;0;0;0;0;0\n", "used_mhz 'x' is not a finite number"),
        (MACHINE, "is not a time"),
        ("1372629804;2;5200\n", "3 values, not 11"),
    ],
)
def test_a_bad_row_of_a_machine_is_refused(tmp_path: Path, row: str, reason: str) -> None:
    good = "1372629804;2;5200;100;0;0;0;0;0;0;0\n"
    (samples,), rejections = read(bitbrains, machine_file(tmp_path, good, row, good))
    assert len(samples) == 2
    ((line, said),) = rejections.first
    assert line == 3 and reason in said


def test_a_file_of_another_kind_is_refused_at_its_first_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="line 1: not the header of a Bitbrains trace"):
        read(bitbrains, csv_file(tmp_path, GOOD))


def test_a_folder_of_machines_is_taken_in_order_of_number(tmp_path: Path) -> None:
    (tmp_path / "vm").mkdir()
    for name in ("10.csv", "9.csv.gz", "100.csv"):
        (tmp_path / "vm" / name).touch()
    assert [f.name for f in bitbrains.files(tmp_path)] == ["9.csv.gz", "10.csv", "100.csv"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidFile, match="empty: no file"):
        bitbrains.files(tmp_path / "empty")


# Gowalla


def checkins(folder: Path, *lines: str) -> Path:
    (folder / "poi_coos.txt").write_text(
        "1\t51.5\t-0.1\n2\t40.7\t-74.0\n3\t95.0\t0.0\n4\tnowhere\t0.0\n"
    )
    path = folder / "checkins.txt"
    path.write_text("".join(lines))
    return path


def test_a_check_in_becomes_the_nearest_metro_area_at_its_true_time(tmp_path: Path) -> None:
    path = checkins(tmp_path, "7\t2\t1287503727.0\n", "8\t1\t1287503728.0\n")
    (samples,), _ = read(gowalla, path)
    assert [samples.person.text(n) for n in range(2)] == ["7", "8"]
    assert [samples.site.text(n) for n in range(2)] == ["nyc", "lon"]
    assert samples.unix_s.tolist() == [1287503727 + 28800, 1287503728 + 28800]
    assert samples.measures == {}


def test_stamps_that_are_right_can_be_left_alone(tmp_path: Path) -> None:
    (samples,), _ = read(
        gowalla, checkins(tmp_path, "7\t2\t1287503727.0\n"), ReadOptions(stamp_offset_s=0)
    )
    assert samples.unix_s.tolist() == [1287503727]


@pytest.mark.parametrize("place", ["3", "4", "5"])
def test_a_place_without_a_position_is_refused(tmp_path: Path, place: str) -> None:
    path = checkins(tmp_path, "7\t2\t1287503727\n", f"7\t{place}\t1287503727\n")
    _, rejections = read(gowalla, path)
    assert rejections.first == [(2, f"no position for place {place}")]


def test_check_ins_without_their_places_are_refused(tmp_path: Path) -> None:
    path = checkins(tmp_path, "7\t2\t1287503727\n")
    (tmp_path / "poi_coos.txt").unlink()
    with pytest.raises(InvalidFile, match=r"no file poi_coos.txt"):
        read(gowalla, path)


# Parquet


def parquet_file(folder: Path, **columns: pa.Array) -> Path:
    table = {
        "time": pa.array([1772439000, 1772439060], pa.timestamp("s", "Europe/Paris")),
        "person": pa.array([17, None]).cast(pa.int32()),
        "desktop": pa.array(["vdi-1", "vdi-2"]).dictionary_encode(),
        "cpu_cores": pa.array([1, 2], pa.int16()),
        "active_ratio": pa.array([0.5, None], pa.float32()),
    } | columns
    path = folder / "activity.parquet"
    pq.write_table(pa.table(table), path)
    return path


def test_parquet_is_read_with_its_own_types(tmp_path: Path) -> None:
    (samples,), rejections = read(parquet, parquet_file(tmp_path))
    assert rejections.rows == 2 and rejections.rejected == 0
    assert samples.line.tolist() == [1, 2]
    assert samples.unix_s.tolist() == [1772439000, 1772439060]
    assert [samples.person.text(n) for n in range(2)] == ["17", ""]
    assert [samples.desktop.text(n) for n in range(2)] == ["vdi-1", "vdi-2"]
    assert samples.measures["cpu_cores"].tolist() == [1.0, 2.0]
    np.testing.assert_array_equal(samples.measures["active_ratio"], [0.5, np.nan])


def test_a_bad_row_of_parquet_is_refused_by_number(tmp_path: Path) -> None:
    path = parquet_file(tmp_path, cpu_cores=pa.array([1.0, float("nan")]))
    _, rejections = read(parquet, path)
    assert rejections.describe("row") == ["row 2: cpu_cores nan is not a finite number"]


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("time", pa.array([1, 2], pa.timestamp("s")), "the column time has no time zone"),
        ("site", pa.array([["lon"], ["nyc"]]), "the column site is a list"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(
    tmp_path: Path, column: str, values: pa.Array, reason: str
) -> None:
    with pytest.raises(InvalidFile, match=reason):
        read(parquet, parquet_file(tmp_path, **{column: values}))


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_truncated_parquet_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = parquet_file(tmp_path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(InvalidFile, match="not Parquet, damaged or truncated"):
        read(parquet, path)


def test_a_parquet_file_damaged_inside_is_refused(tmp_path: Path) -> None:
    path = parquet_file(tmp_path)
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196
    path.write_bytes(data)
    with pytest.raises(InvalidFile, match="row 1: not Parquet, damaged or truncated"):
        read(parquet, path)


# Hours


def samples(unix_s: list[int], cpu: list[float], site: list[int] | None = None) -> Samples:
    n = len(unix_s)
    return Samples(
        np.arange(n),
        np.array(unix_s),
        person=Labels.constant("alice", n),
        desktop=Labels.none(n),
        site=Labels(("lon", "nyc"), np.array(site if site else [-1] * n)),
        measures={"cpu_cores": np.array(cpu)},
    )


def test_samples_of_an_hour_are_summed_and_counted() -> None:
    rows = sum_by_hour(samples([3600, 3900, 7199, 7200], [1.0, 2.0, np.nan, 5.0]))
    assert rows.hour_s.tolist() == [3600, 7200]
    assert rows.sums["cpu_cores"].tolist() == [3.0, 5.0]
    assert rows.counts["cpu_cores"].tolist() == [2, 1]
    assert rows.counts["memory_bytes"].tolist() == [0, 0]
    assert rows.desktop.tolist() == [-1, -1]


def test_the_last_site_of_an_hour_counts_whatever_the_order_of_the_file() -> None:
    rows = sum_by_hour(samples([3900, 3600, 4000], [1, 1, 1], [1, 0, -1]))
    assert rows.site.tolist() == [1]
    assert rows.site_s.tolist() == [3900]


# Sites


def test_the_bundled_metro_areas_are_what_a_site_needs() -> None:
    metros = bundled_metros()
    assert len(metros) >= 80
    assert {"nyc", "sin", "syd"} <= {metro.code for metro in metros}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x,X,GB,91,0,Europe/London", "line 2: the coordinates are not on the globe"),
        ("x,X,GB,north,0,Europe/London", "line 2: could not convert"),
        ("x,X,GB,1,0,Europe/Nowhere", "line 2: .*Nowhere"),
        (",X,GB,1,0,Europe/London", "line 2: the code is empty"),
        ("elsewhere,X,GB,1,0,Europe/London", "line 2: 'elsewhere' stands for all places"),
        ("", "holds no site"),
    ],
)
def test_a_wrong_table_of_sites_is_refused_with_its_line(
    tmp_path: Path, row: str, reason: str
) -> None:
    path = tmp_path / "sites.csv"
    path.write_text(f"code,label,country,latitude,longitude,time_zone\n{row}\n")
    with pytest.raises(InvalidMetros, match=reason):
        read_metros(path)
