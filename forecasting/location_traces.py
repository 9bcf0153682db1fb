"""Where real people were seen, read from published data sets or a table of one's own.

* gowalla: `checkins.txt.gz` with `poi_coos.txt.gz`, Gowalla's check-ins. A place is the nearest
  region of AWS, whose coordinates come from a table (vendor_id, region_id, lat, lon).
* git_roaming: `events.csv.gz` (user, unix_ts, utc_offset_min), when people worked and what their
  clocks were set to. A place is a band of offsets: an offset within an hour of one that the
  person had before belongs to its band, because daylight saving moves clocks by an hour.
* geolife: `fixes_10min.csv.gz` (user, utc, lat, lon, ...), GeoLife's positions. A place is a cell
  of about a kilometre.
* csv: a table with the columns user, at (ISO 8601 with its offset, or seconds since 1970 UTC) and
  place.

A row that cannot be read refuses the file: a score on some of the rows would be of other data.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from desktops.core.metros import Metro
from desktops.errors import InvalidFile
from desktops.sources import gowalla
from desktops.sources.options import ReadOptions
from desktops.sources.samples import Rejections, Screen
from desktops.sources.text import Block, blocks, parse
from desktops.sources.values import instants, numbers
from forecasting.core.arrays import AnyArray, BoolArray, FloatArray, IntArray
from forecasting.errors import InvalidTrace

REGIONS = Path("cloud_costs") / "cloud_regions_coordinates.csv"
# Degrees of latitude in a kilometre, about.
CELL_DEG = 0.01
MOST_SHIFT_MIN = 60

Advance = Callable[[int], None]


@dataclass(frozen=True)
class LocationTrace:
    """Who was seen where and when.

    user, place : shape (n,), text; at_s : shape (n,), seconds since 1970 UTC; in any order
    """

    name: str
    user: AnyArray
    at_s: FloatArray
    place: AnyArray

    @property
    def n_people(self) -> int:
        return len(np.unique(self.user))

    def of_people(self, count: int) -> LocationTrace:
        """Only so many people, evenly spread over the names in order."""
        people = np.unique(self.user)
        if count >= len(people):
            return self
        chosen = people[np.linspace(0, len(people) - 1, count).round().astype(int)]
        kept = np.isin(self.user, chosen)
        return LocationTrace(self.name, self.user[kept], self.at_s[kept], self.place[kept])


def read_locations(
    path: Path, kind: str, *, regions: Path | None = None, advance: Advance = lambda n: None
) -> LocationTrace:
    """Read a data set.

    path : its folder, or the file itself
    kind : one of READERS
    regions : table of regions and their coordinates (gowalla); by default `cloud_costs` beside
        the data set
    advance : told how many more bytes of a file were read

    Raises InvalidTrace, naming file and line.
    """
    try:
        user, at_s, place = READERS[kind](path, regions, advance)
    except InvalidFile as error:
        raise InvalidTrace(str(error)) from error
    except OSError as error:
        raise InvalidTrace(f"{path}: {error.strerror or error}") from error
    if not len(user):
        raise InvalidTrace(f"{path}: holds nobody who was seen anywhere")
    return LocationTrace(kind, user, at_s, place)


def _read_gowalla(
    path: Path, regions: Path | None, advance: Advance
) -> tuple[AnyArray, FloatArray, AnyArray]:
    (file,) = gowalla.files(path)
    options = ReadOptions(metros=_regions(regions or file.parent.parent / REGIONS))
    rejections = Rejections()
    parts = []
    for samples in gowalla.read(file, options, rejections, advance):
        nobody = ~samples.person.is_given
        Screen(samples.line, rejections).refuse(nobody, lambda n: "user is empty")
        _refuse(file, rejections)
        parts.append(
            (
                np.array(samples.person.values)[samples.person.codes],
                samples.unix_s.astype(np.float64),
                np.array(samples.site.values)[samples.site.codes],
            )
        )
    _refuse(file, rejections)
    if not parts:
        raise InvalidTrace(f"{file}: no row")
    user, at_s, place = (np.concatenate(each) for each in zip(*parts, strict=True))
    return user, at_s, place


def _regions(path: Path) -> tuple[Metro, ...]:
    """AWS's regions as places that a position can become."""
    if not path.is_file():
        raise InvalidTrace(f"{path}: no such table of regions; --regions names another")
    table = _table(path, ("vendor_id", "region_id", "lat", "lon"), lambda n: None)
    regions = table.where((table.text("vendor_id") == "aws") & (table.text("lat") != ""))
    return tuple(
        Metro(name, name, "", latitude, longitude, "UTC")
        for name, latitude, longitude in zip(
            regions.given("region_id").tolist(),
            regions.numbers("lat").tolist(),
            regions.numbers("lon").tolist(),
            strict=True,
        )
    )


def _read_git_roaming(
    path: Path, regions: Path | None, advance: Advance
) -> tuple[AnyArray, FloatArray, AnyArray]:
    file = _inside(path, "events.csv")
    table = _table(file, ("user", "unix_ts", "utc_offset_min"), advance)
    user, at_s = table.given("user"), table.instants("unix_ts")
    band = _bands(user, at_s, table.numbers("utc_offset_min"))
    return user, at_s, np.char.add("utc", np.char.mod("%+d", band))


def _bands(user: AnyArray, at_s: FloatArray, offset_min: FloatArray) -> IntArray:
    """The band of each offset, named by the offset that the person had first of it.

    In order of time, so that no band depends on what came later.
    """
    order = np.lexsort((at_s, user))
    band = np.zeros(len(order), dtype=np.int64)
    known: list[int] = []
    for before, now in itertools.pairwise(itertools.chain([None], order.tolist())):
        if before is None or user[before] != user[now]:
            known = []
        offset = round(float(offset_min[now]))
        nearest = min(known, key=lambda each: abs(each - offset), default=None)
        if nearest is None or abs(nearest - offset) > MOST_SHIFT_MIN:
            nearest = offset
            known.append(offset)
        band[now] = nearest
    return band


def _read_geolife(
    path: Path, regions: Path | None, advance: Advance
) -> tuple[AnyArray, FloatArray, AnyArray]:
    file = _inside(path, "fixes_10min.csv")
    table = _table(file, ("user", "utc", "lat", "lon"), advance)
    cell = _cells(table.numbers("lat"), table.numbers("lon"))
    return table.given("user"), table.instants("utc", suffix="Z"), cell


def _cells(latitude: FloatArray, longitude: FloatArray) -> AnyArray:
    """Names of cells that are about as wide as they are high, wherever they are."""
    row = np.floor(latitude / CELL_DEG).astype(np.int64)
    widths = np.maximum(np.cos(np.radians((row + 0.5) * CELL_DEG)), 0.01)
    column = np.floor(longitude * widths / CELL_DEG).astype(np.int64)
    return np.char.add(np.char.mod("%d/", row), np.char.mod("%d", column))


def _read_csv(
    path: Path, regions: Path | None, advance: Advance
) -> tuple[AnyArray, FloatArray, AnyArray]:
    table = _table(path, ("user", "at", "place"), advance)
    return table.given("user"), table.instants("at"), table.given("place")


READERS: Mapping[
    str, Callable[[Path, Path | None, Advance], tuple[AnyArray, FloatArray, AnyArray]]
] = {
    "gowalla": _read_gowalla,
    "git_roaming": _read_git_roaming,
    "geolife": _read_geolife,
    "csv": _read_csv,
}


@dataclass(frozen=True)
class _Table:
    """Columns of text with the lines they stand in."""

    path: Path
    lines: IntArray
    columns: Mapping[str, pa.Array]

    def text(self, name: str) -> AnyArray:
        return np.array(self.columns[name].to_pylist(), dtype=np.str_)

    def given(self, name: str) -> AnyArray:
        """Text that must not be empty."""
        values = self.text(name)
        rejections = Rejections()
        Screen(self.lines, rejections).refuse(values == "", lambda n: f"{name} is empty")
        _refuse(self.path, rejections)
        return values

    def where(self, rows: BoolArray) -> _Table:
        kept = {name: column.filter(pa.array(rows)) for name, column in self.columns.items()}
        return _Table(self.path, self.lines[rows], kept)

    def numbers(self, name: str) -> FloatArray:
        """Numbers that must be there."""
        rejections = Rejections()
        screen = Screen(self.lines, rejections)
        values = numbers(self.columns[name], name, screen)
        screen.refuse(np.isnan(values), lambda n: f"{name} is empty")
        _refuse(self.path, rejections)
        return values

    def instants(self, name: str, *, suffix: str = "") -> FloatArray:
        """suffix : what the times of this layout leave out"""
        rejections = Rejections()
        column = (
            pc.binary_join_element_wise(self.columns[name], suffix, "")
            if suffix
            else (self.columns[name])
        )
        values = instants(column, name, Screen(self.lines, rejections))
        _refuse(self.path, rejections)
        return values.astype(np.float64)


def _table(path: Path, wanted: Sequence[str], advance: Advance) -> _Table:
    """Columns of a comma-separated table with a header, plain or compressed; others are left out.

    Raises InvalidTrace for a row with another number of values than the header has.
    """
    names: list[str] = []
    lines, columns = [], []
    rejections = Rejections()
    for block in blocks(path, advance):
        if not names:
            header, _, data = block.data.partition(b"\n")
            names = _header(path, header, wanted)
            block = Block(2, data)
        if not block.data:
            continue
        table = parse(block, names, delimiter=",", rejections=rejections)
        _refuse(path, rejections)
        lines.append(table.lines)
        columns.append([table.columns[name] for name in wanted])
    if not lines:
        raise InvalidTrace(f"{path}: no row")
    return _Table(
        path,
        np.concatenate(lines),
        {
            name: pa.concat_arrays(parts)
            for name, parts in zip(wanted, zip(*columns, strict=True), strict=True)
        },
    )


def _header(path: Path, header: bytes, wanted: Sequence[str]) -> list[str]:
    text = header.decode("utf-8-sig", errors="replace").rstrip("\r")
    names = [name.strip() for name in next(csv.reader([text]), [])]
    if missing := [name for name in wanted if name not in names]:
        raise InvalidTrace(f"{path} line 1: no column {', '.join(missing)}")
    return names


def _inside(path: Path, name: str) -> Path:
    if path.is_file():
        return path
    for file in (path / name, path / f"{name}.gz"):
        if file.is_file():
            return file
    raise InvalidTrace(f"{path}: no file {name} or {name}.gz")


def _refuse(path: Path, rejections: Rejections) -> None:
    if rejections.rejected:
        raise InvalidTrace(f"{path} {'; '.join(rejections.describe()[:5])}")
