"""The one way a committed change becomes an event, and an event becomes a live message."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import connection, models, transaction

from desktops.aliases import alias_of
from desktops.models import DesktopUser, Event

# Serialises event-writing transactions from here to their commit: without it, number 8 could
# become visible before number 7, and a browser that caught up "after 8" would never see 7.
SEQUENCE_LOCK = 0x666F7265


@dataclass(frozen=True, slots=True)
class Subject:
    """What an event is about when there is no row of it any more."""

    object_type: str
    object_id: str


def record(
    *,
    kind: str,
    subject: models.Model | Subject,
    at: datetime,
    pool_id: int | None,
    actor: str = "",
    **payload: Any,
) -> Event:
    """Write an event in the running transaction and send it once that has committed.

    Call it last in the transaction: it takes a lock that is held until the commit.
    """
    if not connection.in_atomic_block:
        raise RuntimeError("An event is part of the change it reports: open a transaction.")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [SEQUENCE_LOCK])
        cursor.execute(
            "SELECT coalesce((SELECT max(seq) FROM desktops_event), 0) + 1,"
            " coalesce((SELECT max(seq) FROM desktops_event"
            " WHERE pool_id IS NOT DISTINCT FROM %s), 0)",
            [pool_id],
        )
        seq, previous_seq = cursor.fetchone()
    about = subject if isinstance(subject, Subject) else _about(subject)
    event = Event.objects.create(
        seq=seq,
        previous_seq=previous_seq,
        at=at,
        kind=kind,
        pool_id=pool_id,
        object_type=about.object_type,
        object_id=about.object_id,
        actor=actor,
        payload=payload,
    )
    transaction.on_commit(lambda: send(event), robust=True)
    return event


def _about(row: models.Model) -> Subject:
    """A person is known here by their alias alone, as rows of this table cannot be deleted."""
    key = alias_of(row) if isinstance(row, DesktopUser) else str(row.pk)
    return Subject(row._meta.model_name or "", key)


def group_for(pool_id: int | None) -> str:
    return f"live.pool.{pool_id}" if pool_id else "live.all"


def message_for(event: Event) -> dict[str, Any]:
    """What a browser gets, live or when it catches up."""
    return {
        "seq": event.seq,
        "previous_seq": event.previous_seq,
        "at": event.at.isoformat(),
        "kind": event.kind,
        "pool": event.pool_id,
        "object_type": event.object_type,
        "object_id": event.object_id,
        "actor": event.actor,
        "payload": event.payload,
    }


def send(event: Event) -> None:
    """Ring the browsers; delivery is at most once, the event table is the truth."""
    layer = get_channel_layer()
    if layer is not None:
        async_to_sync(layer.group_send)(
            group_for(event.pool_id), {"type": "live.event", "message": message_for(event)}
        )
