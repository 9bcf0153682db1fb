"""Rows that were refused: put back once the reason is gone, or given up.

A row that is put back goes the same way as any other (desktops.services.ingest). What is refused
again stays held, with the reason it has now.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from celery import current_app
from django.contrib.auth.models import AbstractUser
from django.db import transaction
from django.db.models import Count, Max, QuerySet

from desktops import events
from desktops.errors import NotPermitted
from desktops.inflow import held_rows, quarantine_for
from desktops.models import QuarantinedRow, Source
from desktops.selectors import may_operate
from desktops.services.ingest import store
from desktops.sources.samples import MALFORMED, MEASURES, Labels, Samples

REPLAY = "desktops.tasks.replay_quarantine"
ROWS_AT_ONCE = 5000
LAST_INSTANT = 2**62  # what an int64 of seconds surely holds
DETAIL_LENGTH = 300

HELD = QuarantinedRow.State.HELD


@dataclass(frozen=True, slots=True)
class Replayed:
    """Rows that went through (also those that were there already), and those still held."""

    settled: int
    held: int


def request_replay(*, actor: AbstractUser, at: datetime, source: str = "", reason: str = "") -> int:
    """Have all held rows of a source, of a reason or of both put back by a worker; how many.

    Raises NotPermitted.
    """
    counts = _by_source(_held(actor, source=source, reason=reason))
    with transaction.atomic():
        for held, n in counts.items():
            _record("replay_requested", held, actor.get_username(), at, rows=n, reason=reason)
        orders = [[held.pk, reason, actor.get_username()] for held in counts]
        transaction.on_commit(lambda: _send(orders), robust=True)
    return sum(counts.values())


def _send(orders: Sequence[Sequence[object]]) -> None:
    for order in orders:
        current_app.send_task(REPLAY, args=order)


def replay_row(*, row_id: int, actor: AbstractUser, at: datetime) -> QuarantinedRow:
    """Put one row back at once; nothing happens to one that is no longer held.

    Raises NotPermitted, also where there is no such row.
    """
    row = _held(actor, row_id=row_id).first()
    if row is not None:
        source = Source.objects.get(pk=row.source_id)
        _replay_some(source, _of(source).filter(pk=row_id), by=actor.get_username(), wall=at)
    return quarantine_for(actor).get(pk=row_id)


def replay(*, source_id: int, reason: str, by: str, clock: Callable[[], datetime]) -> Replayed:
    """Put back what is held of a source now, piece by piece; each piece is one transaction."""
    source = Source.objects.get(pk=source_id)
    held = _of(source)
    if reason:
        held = held.filter(reason=reason)
    upto = held.aggregate(last=Max("pk"))["last"]
    settled = refused = last = 0
    while upto is not None and last < upto:
        some = held.filter(pk__gt=last, pk__lte=upto)
        done, last = _replay_some(source, some, by=by, wall=clock())
        settled, refused = settled + done.settled, refused + done.held
        last = last or upto
    return Replayed(settled, refused)


def discard(
    *,
    actor: AbstractUser,
    at: datetime,
    source: str = "",
    reason: str = "",
    row_id: int | None = None,
) -> int:
    """Give up held rows, one or all of a source, of a reason or of both; says how many.

    Raises NotPermitted.
    """
    with transaction.atomic():
        held = _held(actor, source=source, reason=reason, row_id=row_id)
        counts = _by_source(held)
        by = actor.get_username()
        n = held.update(state=QuarantinedRow.State.DISCARDED, settled_at=at, settled_by=by)
        for of, rows in counts.items():
            _record("discarded", of, by, at, rows=rows, reason=reason)
    return n


def _held(actor: AbstractUser, **which: Any) -> QuerySet[QuarantinedRow]:
    if not may_operate(actor):
        raise NotPermitted("Only an operator may replay or discard rows in quarantine.")
    return held_rows(actor, **which)


def _of(source: Source) -> QuerySet[QuarantinedRow]:
    return QuarantinedRow.objects.filter(source=source, state=HELD).order_by("pk")


def _by_source(held: QuerySet[QuarantinedRow]) -> dict[Source, int]:
    counts = dict(held.order_by().values_list("source").annotate(n=Count("pk")))
    return {source: counts[source.pk] for source in Source.objects.filter(pk__in=counts)}


def _replay_some(
    source: Source, held: QuerySet[QuarantinedRow], *, by: str, wall: datetime
) -> tuple[Replayed, int]:
    """The first rows of `held`, and the id of the last of them (0: there was none)."""
    with transaction.atomic():
        rows = list(
            held.select_for_update(of=("self",)).select_related("desktop", "desktop_user")[
                :ROWS_AT_ONCE
            ]
        )
        if not rows:
            return Replayed(0, 0), 0
        refused = _put_back(source, rows, wall)
        settled = [row.pk for n, row in enumerate(rows) if n not in refused]
        QuarantinedRow.objects.filter(pk__in=settled).update(
            state=QuarantinedRow.State.REPLAYED, settled_at=wall, settled_by=by
        )
        for n, (reason, detail) in refused.items():
            rows[n].reason, rows[n].detail = reason, detail[:DETAIL_LENGTH]
        QuarantinedRow.objects.bulk_update(
            [rows[n] for n in refused], ("reason", "detail"), batch_size=500
        )
        _record("replayed", source, by, wall, rows=len(settled), still_held=len(refused))
    return Replayed(len(settled), len(refused)), rows[-1].pk


def _put_back(
    source: Source, rows: Sequence[QuarantinedRow], wall: datetime
) -> dict[int, tuple[str, str]]:
    """Number of each row that is refused again → reason and sentence."""
    readable = [n for n, row in enumerate(rows) if _is_readable(row.row)]
    unreadable = dict.fromkeys(
        set(range(len(rows))) - set(readable),
        (MALFORMED, "The row cannot be read: it can only be discarded."),
    )
    if not readable:
        return unreadable
    stored = store(
        source=source,
        samples=_samples([rows[n] for n in readable], np.array(readable, dtype=np.int64)),
        wall=wall,
        are_pseudonyms=True,
        quarantines=False,
    )
    refused = {line: (code, stored.details[line]) for line, code in stored.rejected.items()}
    return unreadable | refused


def _is_readable(row: object) -> bool:
    if not isinstance(row, dict):
        return False
    at = row.get("at")
    texts = (row.get(name, "") for name in ("person", "desktop", "site"))
    return (
        type(at) is int
        and abs(at) < LAST_INSTANT
        and all(isinstance(text, str) for text in texts)
        and all(_is_number(row[name]) for name in MEASURES if name in row)
    )


def _is_number(value: object) -> bool:
    """JSON has no infinity: it is written as text."""
    if isinstance(value, str):
        return value in ("inf", "-inf", "nan")
    return isinstance(value, int | float) and not isinstance(value, bool)


def _samples(rows: Sequence[QuarantinedRow], number: np.ndarray) -> Samples:
    """number : of each row, as its line"""
    return Samples(
        number,
        np.array([row.row["at"] for row in rows], dtype=np.int64),
        # Whom or what a row was known to be of may have got another name meanwhile.
        _labels([_person(row) for row in rows]),
        _labels([row.desktop.key if row.desktop else row.row.get("desktop", "") for row in rows]),
        _labels([row.row.get("site", "") for row in rows]),
        {name: np.array([float(row.row.get(name, math.nan)) for row in rows]) for name in MEASURES},
    )


def _person(row: QuarantinedRow) -> str:
    return row.desktop_user.pseudonym if row.desktop_user else row.row.get("person", "")


def _labels(texts: Sequence[str]) -> Labels:
    values = tuple(dict.fromkeys(text for text in texts if text))
    code = {text: n for n, text in enumerate(values)}
    return Labels(values, np.array([code.get(text, -1) for text in texts], dtype=np.int64))


def _record(
    what: str, source: Source, by: str, at: datetime, *, rows: int, **payload: object
) -> None:
    events.record(
        kind=f"quarantine.{what}",
        subject=source,
        at=at,
        pool_id=source.pool_id,
        actor=by,
        source=source.name,
        rows=rows,
        **payload,
    )
