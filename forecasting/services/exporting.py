"""The profiles that are shown now, as a file: a table in CSV or Parquet, or JSON as in REST.

Written while it is read, some profiles at a time: a fleet's week is millions of rows. Every row of
a table says what was forecast, in which unit, for which hour, by which engine, from which data and
as of when, so that a part of it can stand alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from django.db.models import QuerySet

from desktops.models import DesktopUser, Look
from desktops.services.looks import note_looks
from forecasting.core.profiles import HORIZON_HOURS, LEVELS, RESOURCES
from forecasting.errors import ExportCutShort, NothingToExport
from forecasting.fields import shortened
from forecasting.models import Generation, ResourceDemandProfile

UNITS: Mapping[str, str] = {
    "cpu_cores": "cores",
    "memory_bytes": "bytes",
    "network_bytes_per_s": "bytes per second",
    "storage_bytes_per_s": "bytes per second",
    "p_active": "probability",
    "p_place": "probability",
}
PROFILES_AT_ONCE = 100
HOUR_S = 3600

QUANTILES = [f"q{level:g}" for level in LEVELS]
TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("time", pa.timestamp("s", tz="UTC")),
        *(
            pa.field(name, TEXT)
            for name in ("person", "desktop", "pool", "quantity", "place", "unit")
        ),
        # Of a probability; a demand, given a session, has quantiles instead.
        pa.field("value", pa.float32()),
        *(pa.field(name, pa.float32()) for name in QUANTILES),
        *(pa.field(name, TEXT) for name in ("engine", "data_set", "source")),
        pa.field("forecast_as_of", pa.timestamp("s", tz="UTC")),
    ]
)


def export_profiles(
    profiles: QuerySet[ResourceDemandProfile],
    *,
    generation: Generation,
    form: str,
    with_places: bool,
    viewer: str,
    at: datetime,
) -> Iterator[bytes]:
    """A file in pieces.

    profiles : whose, of any generation; of `generation` they are exported, whichever is the
        latest while the file is written
    form : one of FORMS; with_places : whether it says where people are expected, too
    viewer : who is noted as having looked
    Raises NothingToExport for an unknown form, or when there is no profile to export; and while
    the file is written, ExportCutShort when the generation is dropped: a short file must not look
    like a whole one.
    """
    if form not in FORMS:
        raise NothingToExport(f"There is no format {form!r}, only {', '.join(FORMS)}.")
    chosen = profiles.filter(generation=generation)
    if not chosen.exists():
        raise NothingToExport(f"There is no profile of {generation.dataset} to export.")
    return FORMS[form](_noted(chosen, generation, with_places, viewer, at), generation)


def _noted(
    profiles: QuerySet[ResourceDemandProfile],
    generation: Generation,
    with_places: bool,
    viewer: str,
    at: datetime,
) -> Iterator[list[ResourceDemandProfile]]:
    """Some at a time, by key: no cursor stays open while somebody slow reads."""
    rows = profiles.select_related("desktop_user", "desktop", "pool").order_by("pk")
    last = 0
    while some := list(rows.filter(pk__gt=last)[:PROFILES_AT_ONCE]):
        last = some[-1].pk
        if not with_places:
            for profile in some:
                profile.location = {}
        people = [p.desktop_user for p in some if p.desktop_user is not None]
        _note(people, with_places, viewer, at)
        yield some
    if not Generation.objects.filter(pk=generation.pk).exists():
        raise ExportCutShort(f"The forecast of {generation.dataset} was dropped for newer ones.")


def _note(people: list[DesktopUser], with_places: bool, viewer: str, at: datetime) -> None:
    what = Look.What.WHEREABOUTS if with_places else Look.What.EXPORT
    note_looks(viewer=viewer, people=people, what=what, at=at)


Pieces = Iterator[list[ResourceDemandProfile]]


def _json(pieces: Pieces, generation: Generation) -> Iterator[bytes]:
    about = {
        "data_set": generation.dataset.name,
        "source": _source(generation),
        "engine": generation.engine,
        "kind": generation.kind,
        "forecast_as_of": generation.as_of,
        "hours": "Hour h of every array begins h hours after starts_at.",
        "units": UNITS,
        "levels": list(LEVELS),
        "engines": "By resource and engine: its part in the forecast, and its loss at past origins"
        " as a ratio to that of the day before repeated (null: unknown).",
    }
    head = json.dumps(about, default=_iso)
    yield f'{head[:-1]}, "profiles": ['.encode()
    separator = "\n"
    for some in pieces:
        for profile in some:
            yield (separator + json.dumps(_object(profile), default=_iso)).encode()
            separator = ",\n"
    yield b"\n]}\n"


def _object(profile: ResourceDemandProfile) -> dict[str, Any]:
    arrays = {name: getattr(profile, name) for name in (*RESOURCES, "p_active")}
    return {
        "person": profile.desktop_user.pseudonym if profile.desktop_user else None,
        "desktop": profile.desktop.key if profile.desktop else None,
        "pool": profile.pool.name,
        "starts_at": profile.starts_at,
        "engine": profile.engine,
        "is_from_pool": profile.is_from_pool,
        "history_hours": profile.history_hours,
        "engines": profile.engines,
        **{k: None if v is None else shortened(v).tolist() for k, v in arrays.items()},
        "p_place": {place: shortened(p).tolist() for place, p in profile.location.items()},
    }


def _iso(value: datetime) -> str:
    return value.astimezone(UTC).isoformat()


# Arrow writes no CSV of dictionaries.
CSV_SCHEMA = pa.schema([(f.name, pa.string() if f.type == TEXT else f.type) for f in SCHEMA])


def _csv(pieces: Pieces, generation: Generation) -> Iterator[bytes]:
    sink = _Sink()
    with pyarrow.csv.CSVWriter(pa.PythonFile(sink, mode="w"), CSV_SCHEMA) as writer:
        for some in pieces:
            writer.write_table(_table(some, generation).cast(CSV_SCHEMA))
            yield sink.taken()
    yield sink.taken()


def _parquet(pieces: Pieces, generation: Generation) -> Iterator[bytes]:
    sink = _Sink()
    file = pa.PythonFile(sink, mode="w")
    with pyarrow.parquet.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for some in pieces:
            writer.write_table(_table(some, generation))
            yield sink.taken()
    yield sink.taken()


FORMS: Mapping[str, Callable[[Pieces, Generation], Iterator[bytes]]] = {
    "csv": _csv,
    "json": _json,
    "parquet": _parquet,
}
CONTENT_TYPES = {
    "csv": "text/csv",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
}


def _table(profiles: list[ResourceDemandProfile], generation: Generation) -> pa.Table:
    parts = [part for profile in profiles for part in _series(profile)]
    n = len(parts) * HORIZON_HOURS
    start_s = np.array([int(p.starts_at.timestamp()) for p, *_ in parts])
    time_s = (start_s[:, None] + HOUR_S * np.arange(HORIZON_HOURS)).ravel()
    nothing = np.full(HORIZON_HOURS, np.nan, dtype=np.float32)
    no_quantiles = np.full((HORIZON_HOURS, len(LEVELS)), np.nan, dtype=np.float32)
    value = np.stack([nothing if v is None else v for *_, v, _ in parts]).ravel()
    quantiles = np.stack([no_quantiles if q is None else q for *_, q in parts]).reshape(n, -1)

    def each(values: list[str | None]) -> pa.Array:
        words = pa.array(values, pa.string()).dictionary_encode()
        codes = np.repeat(_codes(words), HORIZON_HOURS)
        return pa.DictionaryArray.from_arrays(
            pa.array(codes, pa.int32(), from_pandas=True), words.dictionary
        )

    as_of = np.full(n, int(generation.as_of.timestamp()))
    columns = [
        pa.array(time_s.astype("datetime64[s]"), SCHEMA.field("time").type),
        each([p.desktop_user.pseudonym if p.desktop_user else None for p, *_ in parts]),
        each([p.desktop.key if p.desktop else None for p, *_ in parts]),
        each([p.pool.name for p, *_ in parts]),
        each([quantity for _, quantity, *_ in parts]),
        each([place or None for _, _, place, *_ in parts]),
        each([UNITS[quantity] for _, quantity, *_ in parts]),
        pa.array(value, pa.float32(), from_pandas=True),
        *(pa.array(q, pa.float32(), from_pandas=True) for q in quantiles.T),
        each([p.engine for p, *_ in parts]),
        each([generation.dataset.name] * len(parts)),
        each([_source(generation)] * len(parts)),
        pa.array(as_of.astype("datetime64[s]"), SCHEMA.field("forecast_as_of").type),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _codes(words: pa.DictionaryArray) -> np.ndarray:
    """As doubles, NaN for null."""
    return words.indices.to_numpy(zero_copy_only=False).astype(np.float64)


Series = tuple[ResourceDemandProfile, str, str, np.ndarray | None, np.ndarray | None]


def _series(profile: ResourceDemandProfile) -> Iterator[Series]:
    """Profile, quantity, place, values and quantiles of everything it says."""
    for name in RESOURCES:
        quantiles = getattr(profile, name)
        if quantiles is not None:
            yield profile, name, "", None, quantiles
    if profile.p_active is not None:
        yield profile, "p_active", "", profile.p_active, None
    for place, chance in profile.location.items():
        yield profile, "p_place", place, chance, None


def _source(generation: Generation) -> str:
    dataset = generation.dataset
    return dataset.source or f"{dataset.label} ({dataset.get_kind_display().lower()} data)"


class _Sink:
    """A file that somebody empties while it is written."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True
