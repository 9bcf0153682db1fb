"""Profiles into the table, by COPY in binary: a week of quantiles is thousands of numbers a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import isfinite
from typing import Any

import numpy as np
from django.db import connection
from psycopg import sql
from psycopg.types.json import Jsonb

from desktops.models import Desktop, DesktopUser
from forecasting.core import profiles as core
from forecasting.core.arrays import AnyArray
from forecasting.fields import pack, pack_places
from forecasting.history import Subject
from forecasting.models import Generation, ResourceDemandProfile

COLUMNS = {
    "generation_id": "int8",
    "pool_id": "int8",
    "desktop_user_id": "int8",
    "desktop_id": "int8",
    "starts_at": "timestamptz",
    "levels": "float4[]",
    **dict.fromkeys(core.RESOURCES, "bytea"),
    "p_active": "bytea",
    "location": "bytea",
    "engine": "text",
    "is_from_pool": "bool",
    "history_hours": "int4",
    "engines": "jsonb",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One profile as it is written.

    demand : resource → (HORIZON_HOURS, n_levels), without those of which nothing is known
    """

    subject: Subject
    starts_at: datetime
    levels: tuple[float, ...]
    engine: str
    is_from_pool: bool
    history_hours: int
    p_active: AnyArray | None
    demand: Mapping[str, AnyArray] = field(default_factory=dict)
    location: Mapping[str, AnyArray] = field(default_factory=dict)
    engines: Mapping[str, Mapping[str, Sequence[float | None]]] = field(default_factory=dict)


def row_of(subject: Subject, profile: core.ResourceDemandProfile) -> Row:
    demand = {name: getattr(profile, name) for name in core.RESOURCES}
    return Row(
        subject=subject,
        starts_at=profile.starts_at,
        levels=profile.levels,
        engine=profile.engine,
        is_from_pool=not profile.enough_history,
        history_hours=profile.history_hours,
        p_active=profile.p_active,
        demand={name: values for name, values in demand.items() if np.isfinite(values).all()},
        location=profile.location if subject.is_located else {},
        engines=_plain(profile.engines),
    )


def _plain(
    engines: Mapping[str, Mapping[str, core.EngineShare]],
) -> dict[str, dict[str, list[float | None]]]:
    """As JSON, which has no NaN; four places are more than anybody can check."""
    return {
        resource: {
            engine: [round(value, 4) if isfinite(value) else None for value in share]
            for engine, share in shares.items()
        }
        for resource, shares in engines.items()
    }


def write_profiles(generation: Generation, rows: Iterable[Row]) -> int:
    """Append them within the running transaction; returns how many.

    Who is gone or has opted out since their history was read is left out.
    """
    wanted = _still_wanted(list(rows))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
        sql.Identifier(ResourceDemandProfile._meta.db_table),
        sql.SQL(", ").join(map(sql.Identifier, COLUMNS)),
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(list(COLUMNS.values()))
        for row in wanted:
            copy.write_row(_values(generation, row))
    return len(wanted)


def without_places(row: Row) -> Row:
    return replace(row, location={})


def _values(generation: Generation, row: Row) -> tuple[Any, ...]:
    demand = [row.demand.get(name) for name in core.RESOURCES]
    return (
        generation.pk,
        row.subject.pool_id,
        row.subject.desktop_user_id,
        row.subject.desktop_id,
        row.starts_at,
        list(row.levels),
        *(None if values is None else pack(values) for values in demand),
        None if row.p_active is None else pack(row.p_active),
        pack_places(row.location),
        row.engine,
        row.is_from_pool,
        row.history_hours,
        Jsonb(row.engines),
    )


def _still_wanted(rows: list[Row]) -> list[Row]:
    """Those of people who still want to be predicted, without the places of whoever opted out of
    being located since. Who opts out from now on waits for this transaction, and finds its rows."""
    users = {row.subject.desktop_user_id for row in rows if row.subject.desktop_user_id}
    desktops = {row.subject.desktop_id for row in rows if row.subject.desktop_id}
    people = DesktopUser.objects.select_for_update(of=("self",), no_key=True).order_by("pk")
    wanted = dict(people.filter(pk__in=users, is_predicted=True).values_list("pk", "is_located"))
    there = set(Desktop.objects.filter(pk__in=desktops).values_list("pk", flat=True))
    return [
        row if not row.location or wanted.get(row.subject.desktop_user_id) else without_places(row)
        for row in rows
        if (not row.subject.desktop_user_id or row.subject.desktop_user_id in wanted)
        and (not row.subject.desktop_id or row.subject.desktop_id in there)
    ]
