"""Check-ins of the Gowalla location service: who was at which place when, and no more.

`checkins.txt[.gz]` (user, place, stamp) and `poi_coos.txt[.gz]` (place, latitude, longitude) beside
it, tab-separated without headers. A place becomes the nearest of the given metro areas. The copy
in use has stamps 28,800 s behind UTC, hence the default of `stamp_offset_s`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from desktops.core.geo import nearest
from desktops.core.metros import coordinates
from desktops.errors import InvalidFile
from desktops.sources.options import Advance, ReadOptions
from desktops.sources.samples import IntArray, Labels, Rejections, Samples, Screen
from desktops.sources.text import blocks, labels, parse
from desktops.sources.values import instants, numbers

ROW = "line"
IDS_ARE_ANONYMOUS = True
OPTIONS = frozenset({"metros", "stamp_offset_s"})
CHECKINS = ("user", "place", "stamp")
PLACES = ("place", "latitude", "longitude")


def files(path: Path) -> list[Path]:
    return [_either(path, "checkins.txt") if path.is_dir() else path]


def read(
    path: Path, options: ReadOptions, rejections: Rejections, advance: Advance
) -> Iterator[Samples]:
    places = _read_places(_either(path.parent, "poi_coos.txt"), options)
    codes = tuple(metro.code for metro in options.metros)
    for block in blocks(path, advance):
        table = parse(block, CHECKINS, delimiter="\t", rejections=rejections)
        screen = Screen(table.lines, rejections)
        unix_s = instants(table.columns["stamp"], "stamp", screen) + options.stamp_offset_s
        place = numbers(table.columns["place"], "place", screen)
        metro = places.metro_of(place)
        screen.refuse(metro < 0, lambda n, place=place: f"no position for place {place[n]:g}")
        person = labels(table.columns["user"])
        n = len(table)
        samples = Samples(
            table.lines, unix_s, person, Labels.none(n), Labels(codes, metro), measures={}
        )
        yield samples.take(screen.passed)


@dataclass(frozen=True, slots=True)
class _Places:
    """ids ascending; metro : index of each, -1 where its position makes no sense"""

    ids: IntArray
    metro: IntArray

    def metro_of(self, place: np.ndarray) -> IntArray:
        at = np.searchsorted(self.ids, place).clip(max=len(self.ids) - 1)
        return np.where(self.ids[at] == place, self.metro[at], -1)


def _read_places(path: Path, options: ReadOptions) -> _Places:
    faults = Rejections()
    ids, metros = [], []
    for block in blocks(path, lambda n: None):
        table = parse(block, PLACES, delimiter="\t", rejections=faults)
        screen = Screen(table.lines, faults)
        place, latitude, longitude = (numbers(table.columns[c], c, screen) for c in PLACES)
        on_globe = (np.abs(latitude) <= 90) & (np.abs(longitude) <= 180)
        metro = nearest(
            np.where(on_globe, latitude, 0),
            np.where(on_globe, longitude, 0),
            *coordinates(options.metros),
        )
        keep = screen.passed & np.isfinite(place)
        ids.append(place[keep].astype(np.int64))
        metros.append(np.where(on_globe, metro, -1)[keep])
    if not ids or not sum(map(len, ids)):
        raise InvalidFile(f"{path.name}: holds no place")
    every_id, first = np.unique(np.concatenate(ids), return_index=True)
    return _Places(every_id, np.concatenate(metros)[first])


def _either(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InvalidFile(f"{folder.name}: no file {name} or {name}.gz")
