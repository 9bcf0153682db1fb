"""Ordering passes between regions, and seeing how far they are. Relays make them (`carrying`)."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from celery import current_app
from django.conf import settings
from django.db.models import Case, Q, QuerySet, When

from desktops.core.cloud import Cloud, Conflict, JobState, NotFound, VolumeCopy
from desktops.models import Region
from migration.models import Pass, Relay, Shadow, Transition

# A relay that has not been heard of for so long is gone, and so is what it was doing.
SILENCE = timedelta(seconds=15)
# How long a bell may have been lost before it is rung again.
RING_AGAIN = timedelta(seconds=5)
RING_SCHEDULED_AGAIN = timedelta(minutes=1)
# Per region, of passes that no move waits for.
MOST_RUNG = 32
OPEN = (Pass.State.WAITING, Pass.State.RUNNING)


@dataclass(frozen=True, slots=True)
class Ordered:
    """base_volume_id : what is brought up to date; "": a volume is made
    is_final : nothing changes the source any more, and a server is started on the result
    """

    key: str
    source_region: Region
    source_volume_id: str
    dest_region: Region
    base_volume_id: str = ""
    kind: Pass.Kind = Pass.Kind.VOLUME
    is_final: bool = False
    shadow: Shadow | None = None
    transition: Transition | None = None


def is_relayed(cloud: Cloud) -> bool:
    """Whether relays carry what moves in this cloud; else the cloud copies whole volumes."""
    return cloud.name in relayed_clouds()


def relayed_clouds() -> frozenset[str]:
    clouds: frozenset[str] = settings.RELAYED_CLOUDS
    return clouds


def advance(order: Ordered, *, now: datetime) -> Pass:
    """Order a pass, or see how far the one with this key is; ring for it where nobody is at it."""
    found = ordered(order, now=now)
    ring(found, now=now)
    return found


def ordered(order: Ordered, *, now: datetime) -> Pass:
    """The row that has relays make a pass, and nothing more."""
    found, _ = Pass.objects.get_or_create(
        key=order.key,
        defaults={**_row(order), "created_at": now},
    )
    return found


def ordered_copy(order: Ordered, *, cloud: Cloud, now: datetime) -> Pass:
    """As `ordered`, where the cloud itself copies whole volumes."""
    found, _ = Pass.objects.get_or_create(
        key=order.key,
        defaults={
            **_row(order),
            "state": Pass.State.RUNNING,
            "created_at": now,
            "taken_at": now,
            "makes_volume": not (order.base_volume_id and cloud.capabilities().incremental_copy),
        },
    )
    return found


def copied(order: Ordered, *, cloud: Cloud, now: datetime) -> VolumeCopy:
    """As `advance`, where the cloud itself copies whole volumes: makes its next short piece.

    Raises CloudError. A pass that has ended is not asked for again.
    """
    one = ordered_copy(order, cloud=cloud, now=now)
    if one.state not in OPEN:
        return as_copy(one)
    copy = cloud.copy_volume(
        order.source_region.name,
        order.source_volume_id,
        order.dest_region.name,
        key=order.key,
        base_volume_id=order.base_volume_id or None,
    )
    state = {
        JobState.RUNNING: Pass.State.RUNNING,
        JobState.DONE: Pass.State.DONE,
        JobState.FAILED: Pass.State.FAILED,
    }[copy.state]
    Pass.objects.filter(pk=one.pk, state__in=OPEN).update(
        state=state,
        seen_at=now,
        finished_at=None if state == Pass.State.RUNNING else now,
        sent_bytes=copy.bytes_done,
        scanned_bytes=copy.bytes_done,
        to_scan_bytes=copy.bytes_total,
        changed_bytes=copy.bytes_total or 0 if state == Pass.State.DONE else 0,
        dest_volume_id=copy.volume_id or "",
        detail=copy.detail[:500],
    )
    return copy


def _row(order: Ordered) -> dict[str, object]:
    return {
        "kind": order.kind,
        "source_region": order.source_region,
        "dest_region": order.dest_region,
        "source_volume_id": order.source_volume_id,
        "dest_volume_id": order.base_volume_id,
        "makes_volume": not order.base_volume_id,
        "is_final": order.is_final,
        "shadow": order.shadow,
        "transition": order.transition,
    }


def ring(one: Pass, *, now: datetime, again: timedelta = RING_AGAIN) -> None:
    """Rings the relays of the source's region, unless one is at it or was rung for just now."""
    if _idle(now, again).filter(pk=one.pk).update(rung_at=now):
        current_app.send_task(
            "migration.tasks.carry_pass",
            (one.pk,),
            queue=queue_of(one.source_region),
            # A relay that comes to it late finds that it is rung for again.
            expires=again.total_seconds(),
        )


def ring_waiting(*, now: datetime) -> None:
    """Rings for the passes that no move waits for, the oldest of each region first. A broker keeps
    every bell until somebody hears it: none is rung where no relay is, and few are at a time."""
    alive = Relay.objects.filter(seen_at__gte=now - SILENCE)
    own = Pass.objects.filter(transition=None, source_region__in=alive.values("region"))
    rung = own.filter(state=Pass.State.WAITING, rung_at__gte=now - RING_SCHEDULED_AGAIN)
    n_rung = Counter(rung.values_list("source_region", flat=True))
    waiting = _idle(now, RING_SCHEDULED_AGAIN) & own
    for region_id in waiting.order_by().values_list("source_region", flat=True).distinct():
        room = max(MOST_RUNG - n_rung[region_id], 0)
        oldest = waiting.filter(source_region=region_id).order_by("created_at")
        for one in oldest.select_related("source_region")[:room]:
            ring(one, now=now, again=RING_SCHEDULED_AGAIN)


def _idle(now: datetime, again: timedelta) -> QuerySet[Pass]:
    """No relay is at them, and none was rung for them of late."""
    quiet = Q(rung_at__isnull=True) | Q(rung_at__lt=now - again)
    lost = Q(state=Pass.State.RUNNING, seen_at__lt=now - SILENCE)
    return Pass.objects.filter(Q(state=Pass.State.WAITING) | lost, quiet)


def cloud_key(one: Pass) -> str:
    """Of what a relay makes for a pass: the snapshot that it reads, the volume that it fills."""
    return f"pass {one.key}"


def queue_of(region: Region) -> str:
    return f"region.{region.cloud}.{region.name}"


def as_copy(one: Pass) -> VolumeCopy:
    """A pass as a cloud would tell of its own."""
    state = {
        Pass.State.DONE: JobState.DONE,
        Pass.State.FAILED: JobState.FAILED,
        Pass.State.ABANDONED: JobState.FAILED,
    }.get(Pass.State(one.state), JobState.RUNNING)
    return VolumeCopy(
        key=one.key,
        state=state,
        bytes_done=one.sent_bytes,
        bytes_total=one.sent_bytes if state is JobState.DONE else None,
        volume_id=one.dest_volume_id or None,
        detail=one.detail,
    )


def give_up(key: str, *, now: datetime) -> Pass | None:
    """Have no relay go on with a pass. Raises Conflict until the one at it has let go of it."""
    Pass.objects.filter(key=key, state__in=OPEN).update(state=Pass.State.ABANDONED, finished_at=now)
    one = Pass.objects.select_related("dest_region").filter(key=key).first()
    if one and one.owner and one.seen_at and one.seen_at > now - SILENCE:
        raise Conflict(f"{one.key}: its relay is still at it.")
    return one


def fail(one: Pass, *, detail: str, now: datetime) -> None:
    Pass.objects.filter(pk=one.pk, state__in=OPEN).update(
        state=Pass.State.FAILED, finished_at=now, detail=detail[:500]
    )


def never_begin(order: Ordered, *, now: datetime) -> None:
    """As `give_up`, also for an order that is still on its way: it finds itself given up."""
    Pass.objects.get_or_create(
        key=order.key,
        defaults={
            **_row(order),
            "state": Pass.State.ABANDONED,
            "created_at": now,
            "finished_at": now,
        },
    )
    give_up(order.key, now=now)


def abandon(order: Ordered, *, cloud: Cloud, now: datetime) -> None:
    """Give a pass up, with the volume that it made. What it staged on a shadow is forgotten with
    the shadow's next pass. Raises Conflict, as `give_up` and `Cloud.abandon_copy` do."""
    one = give_up(order.key, now=now)
    if not is_relayed(cloud):
        cloud.abandon_copy(
            order.dest_region.name, source_region=order.source_region.name, key=order.key
        )
    elif one and one.makes_volume and one.dest_volume_id:
        with suppress(NotFound):
            cloud.delete_volume(one.dest_region.name, one.dest_volume_id)


def own_pass_under_way(shadow: Shadow | None) -> Pass | None:
    """One that no move has ordered, but the shadow's own schedule; or whose result the shadow's row
    does not tell yet."""
    if shadow is None:
        return None
    held = Shadow.objects.select_related("own_pass").filter(pk=shadow.pk).first()
    return held.own_pass if held else None


def has_gone_on(transition: Transition) -> bool:
    """Whether a relay has said that the machine goes on at the destination."""
    carried = Pass.objects.filter(transition=transition, kind=Pass.Kind.MACHINE)
    return carried.filter(state=Pass.State.DONE).exists()


def relay_for(one: Pass, *, now: datetime) -> Relay | None:
    """One that takes in what is sent to this pass's destination, and best one that knows its
    volume already."""
    alive = Relay.objects.filter(region=one.dest_region, seen_at__gte=now - SILENCE)
    last = _last_to(one)
    known = one.store or (last.store if last else "")
    return alive.order_by(Case(When(store=known, then=0), default=1), "?").first()


def base_for(one: Pass, relay: Relay) -> str | None:
    """A volume this relay keeps in step for another desktop of the pool. The two began as the same
    image, so a new one begins as a copy of it, and only where they differ is sent."""
    if one.shadow is None or not one.makes_volume:
        return None
    alike = Shadow.objects.filter(
        region=one.dest_region, state=Shadow.State.READY, desktop__pool=one.shadow.desktop.pool
    ).exclude(desktop=one.shadow.desktop)
    brought = Pass.objects.filter(
        state=Pass.State.DONE,
        store=relay.store,
        is_final=False,
        dest_volume_id__in=alike.exclude(volume_id="").values("volume_id"),
    )
    newest = brought.order_by("-finished_at").values_list("dest_volume_id", flat=True)
    return newest.first()


def is_stale(one: Pass, relay: Relay) -> bool:
    """Whether the destination may hold other than this relay knows: a server may have run on it
    since, or another relay has written to it."""
    if one.is_final and one.attempts > 1:
        return True
    last = _last_to(one)
    return bool(last and (last.is_final or last.store != relay.store))


def _last_to(one: Pass) -> Pass | None:
    if not one.dest_volume_id:
        return None
    same = Pass.objects.filter(dest_region=one.dest_region, dest_volume_id=one.dest_volume_id)
    began = same.exclude(pk=one.pk).exclude(store="")
    return began.order_by("-created_at").first()
