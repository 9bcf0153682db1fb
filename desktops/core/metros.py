"""Metro areas of the world: what a position becomes, because a place finer than that is nobody's
business here. The bundled table holds a city centre's coordinates to two decimals."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from desktops.core.geo import FloatArray

BUNDLED = Path(__file__).resolve().parent.parent / "data" / "metros.csv"
# What maps call all places that are no site; no site may have this code.
ELSEWHERE_CODE = "elsewhere"
COLUMNS = ("code", "label", "country", "latitude", "longitude", "time_zone")


class InvalidMetros(ValueError):
    """A table of sites is wrong; the message names the file, line and reason."""


@dataclass(frozen=True, slots=True)
class Metro:
    code: str
    label: str
    country: str
    latitude: float
    longitude: float
    time_zone: str


@cache
def bundled_metros() -> tuple[Metro, ...]:
    return read_metros(BUNDLED)


def read_metros(path: Path) -> tuple[Metro, ...]:
    """A CSV file with the columns of COLUMNS in its header; raises InvalidMetros, OSError."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        if missing := sorted(set(COLUMNS) - set(reader.fieldnames or ())):
            raise InvalidMetros(f"{path.name} line 1: no column {', '.join(missing)}")
        metros = tuple(_metro(row, f"{path.name} line {reader.line_num}") for row in reader)
    if not metros:
        raise InvalidMetros(f"{path.name}: holds no site")
    if len({metro.code for metro in metros}) < len(metros):
        raise InvalidMetros(f"{path.name}: a code occurs twice")
    return metros


def _metro(row: dict[str, str], where: str) -> Metro:
    try:
        latitude, longitude = float(row["latitude"]), float(row["longitude"])
        if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
            raise ValueError("the coordinates are not on the globe")
        ZoneInfo(row["time_zone"])
        if not row["code"].strip():
            raise ValueError("the code is empty")
        if row["code"].strip() == ELSEWHERE_CODE:
            raise ValueError(f"{ELSEWHERE_CODE!r} stands for all places that are no site")
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidMetros(f"{where}: {error}") from None
    return Metro(
        row["code"].strip(),
        row["label"].strip(),
        row["country"].strip().upper(),
        latitude,
        longitude,
        row["time_zone"],
    )


def coordinates(metros: Sequence[Metro]) -> tuple[FloatArray, FloatArray]:
    """Latitudes and longitudes, shape (n,) each."""
    return (
        np.array([metro.latitude for metro in metros]),
        np.array([metro.longitude for metro in metros]),
    )
