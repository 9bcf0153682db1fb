"""What a relay does with a pass: read the source in its own region, and bring what has changed to
a relay of the other.

A pass may be taken up again after any crash: its snapshot and its volume carry its key, and the
engine goes on where the other end says it was.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import F, Q
from django.utils import timezone

from desktops.clouds.registry import get_cloud
from desktops.core.cloud import Cloud, CloudError, CloudFault, ServerSpec, VolumeStatus
from desktops.core.exports import VolumeExports
from desktops.core.hypervisor import Hypervisor, VirtualDesktopState
from desktops.models import RegionLink
from migration.cutover import CutoverFailed, Move, cut_over
from migration.models import Pass, Relay
from migration.replication.carrying import Carrier, Route
from migration.replication.connecting import connected
from migration.replication.errors import Busy, Refused, ReplicationError
from migration.replication.pacing import Pace
from migration.replication.sender import Progress, Report, Request, demote, send
from migration.replication.shadow import DIRECT, STAGED
from migration.replication.volume import Volume, open_volume
from migration.replication.wire import Channel
from migration.services import passes

log = logging.getLogger(__name__)

BEAT_S = 1.0
SNAPSHOT_POLL_S = 0.1
MOST_ATTEMPTS = 20
# An attempt that sent so much was not in vain.
PROGRESS_BYTES = 64 << 20


class NoRelay(Exception):
    """Nothing takes in what is sent to a region."""


class GivenUp(Exception):
    """The pass was abandoned, or another relay has taken it over."""


class Jobs:
    """The passes that one process makes side by side: one job is kept for moves, whose users wait,
    while a long first seed may have another for hours."""

    def __init__(self) -> None:
        self._scheduled: threading.Semaphore | None = None

    def limit(self, jobs: int) -> None:
        self._scheduled = threading.BoundedSemaphore(max(jobs - 1, 1))

    @contextmanager
    def one(self, *, is_scheduled: bool) -> Iterator[bool]:
        """Whether there is one free."""
        if self._scheduled is None or not is_scheduled:
            yield True
        elif self._scheduled.acquire(blocking=False):
            try:
                yield True
            finally:
                self._scheduled.release()
        else:
            yield False


JOBS = Jobs()


def carry_pass(pass_id: int, *, owner: str, clouds: Callable[[str], Cloud] = get_cloud) -> None:
    """Make the pass, unless it has ended, another relay is at it, or there is no job for it."""
    mine = Pass.objects.filter(pk=pass_id)
    with JOBS.one(is_scheduled=mine.filter(transition=None).exists()) as is_free:
        if is_free:
            _carry(pass_id, owner, clouds)
        else:
            mine.filter(state=Pass.State.WAITING).update(rung_at=None)  # to be rung for soon


def _carry(pass_id: int, owner: str, clouds: Callable[[str], Cloud]) -> None:
    if not _take(pass_id, owner):
        return
    one = Pass.objects.select_related(
        "source_region",
        "dest_region",
        "shadow__desktop__pool",
        "transition__desktop__flavor",
        "transition__flavor",
    ).get(pk=pass_id)
    cloud = clouds(one.source_region.cloud)
    if not isinstance(cloud, VolumeExports):
        _end(one, owner, Pass.State.FAILED, detail=f"{cloud.name} exports no volumes to relays")
        return
    beat = Beat(one.pk, owner)
    try:
        with beat:
            work = Work(one, cloud, beat)
            changes = work.machine() if one.kind == Pass.Kind.MACHINE else work.volume()
    except GivenUp as error:
        log.warning("pass %s: %s", one.key, error)
        if not Pass.objects.filter(pk=one.pk, state__in=passes.OPEN).exists():
            _drop_snapshot(cloud, one)  # else whoever has it now reads it
    except (ReplicationError, CloudError, CutoverFailed, NoRelay, OSError) as error:
        log.warning("pass %s: %s", one.key, error)
        _fail(one, owner, cloud, error)
    else:
        _drop_snapshot(cloud, one)
        _end(one, owner, Pass.State.DONE, **changes)
    finally:
        # However it ended, also for one that was given up meanwhile: nobody is at it any more.
        Pass.objects.filter(pk=one.pk, owner=owner).update(owner="")


def _take(pass_id: int, owner: str) -> bool:
    now = timezone.now()
    lost = Q(state=Pass.State.RUNNING, seen_at__lt=now - passes.SILENCE)
    free = Pass.objects.filter(Q(state=Pass.State.WAITING) | lost, pk=pass_id)
    return bool(
        free.update(
            state=Pass.State.RUNNING,
            owner=owner,
            seen_at=now,
            attempts=F("attempts") + 1,
            detail="",
        )
    )


def _fail(one: Pass, owner: str, cloud: Cloud, error: Exception) -> None:
    """What may pass by itself is tried again by whoever asks how far it is."""
    is_passing = isinstance(error, (NoRelay, OSError)) or bool(
        getattr(error, "retriable", False) or getattr(error, "is_retryable", False)
    )
    if isinstance(error, CutoverFailed):
        is_passing = False
    attempts = one.attempts
    if isinstance(error, NoRelay):
        attempts -= 1  # nothing was tried
    elif Pass.objects.filter(pk=one.pk, sent_bytes__gte=PROGRESS_BYTES).exists():
        attempts = 1  # a long way is interrupted often; each time it goes on from there
    if is_passing and attempts < MOST_ATTEMPTS:
        again = {"detail": str(error)[:500], "phase": "", "finished_at": None}
        _end(one, owner, Pass.State.WAITING, attempts=attempts, sent_bytes=0, **again)
        return
    _drop_snapshot(cloud, one)
    _end(one, owner, Pass.State.FAILED, detail=str(error)[:500])


def _end(one: Pass, owner: str, state: Pass.State, **changes: Any) -> None:
    ended = {"state": state, "finished_at": timezone.now(), "owner": "", "left_s": None}
    mine = Pass.objects.filter(pk=one.pk, owner=owner, state=Pass.State.RUNNING)
    mine.update(**{**ended, **changes})


def _drop_snapshot(cloud: Cloud, one: Pass) -> None:
    """What stays is found again (`keeping_shadows`)."""
    try:
        taken = cloud.find_snapshot(one.source_region.name, key=passes.cloud_key(one))
        if taken is not None:
            cloud.delete_snapshot(one.source_region.name, taken.id)
    except CloudError as error:
        log.warning("pass %s: its snapshot stays: %s", one.key, error)


class Beat(AbstractContextManager["Beat"]):
    """Says every second that this relay is at it and how far; notices when it is not wanted any
    more, which `tell` and `check` raise."""

    def __init__(self, pass_id: int, owner: str) -> None:
        self._pass_id, self._owner = pass_id, owner
        self._news: dict[str, Any] = {}
        self._is_over = threading.Event()
        self._is_given_up = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Beat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def tell(self, **news: Any) -> None:
        self._news = {**self._news, **news}
        self.check()

    def check(self) -> None:
        if self._is_given_up:
            raise GivenUp("it was given up, or another relay has it")

    def _run(self) -> None:
        try:
            while not self._is_over.wait(BEAT_S):
                mine = Pass.objects.filter(pk=self._pass_id, owner=self._owner)
                mine.update(seen_at=timezone.now(), **self._news)
                if not mine.filter(state=Pass.State.RUNNING).exists():
                    self._is_given_up = True
        finally:
            connection.close()


@dataclass
class Work:
    """One pass, by kind. Returns what its row is to say when it is done."""

    one: Pass
    cloud: VolumeExports
    beat: Beat
    relay: Relay | None = None
    _pace: Pace | None = field(default=None, repr=False)

    def volume(self) -> dict[str, Any]:
        place = self._source_place()
        self._make_volume()
        with open_volume(place) as source:
            self.beat.tell(to_scan_bytes=source.size)
            base = passes.base_for(self.one, self.receiver())
            try:
                report = self._send(source, base)
            except (Busy, Refused) as error:
                if base is None:
                    raise
                # It saves bytes, no more: what cannot be copied now is sent.
                log.info("pass %s: not begun with %s: %s", self.one.key, base, error)
                report = self._send(source, None)
        return _counts([report])

    def _send(self, source: Volume, base: str | None) -> Report:
        with self.channel() as channel:
            self.renew(channel)
            request = Request(
                self.one.dest_volume_id,
                settings.RELAY_FOLDER / "sent" / self.one.dest_volume_id,
                mode=DIRECT if self.one.makes_volume else STAGED,
                base=base,
                taken_at=self.one.taken_at,
                is_consistent=self.one.is_final,
                is_promoted=self.one.is_final,
            )
            return send(source, channel, request, progress=self.tell)

    def machine(self) -> dict[str, Any]:
        """The machine goes on over there when this returns; its row says for how long it stood."""
        if not isinstance(self.cloud, Hypervisor):
            raise CloudFault(f"{self.cloud.name} does not carry running machines.")
        transition = self.one.transition
        if transition is None:
            raise CloudFault("the transition that ordered this is gone")
        flavor = transition.flavor or transition.desktop.flavor
        if flavor is None:
            raise CloudFault("it is not known what size the machine has")
        self._make_volume()
        move = Move(
            self.one.source_region.name,
            transition.source_server_id,
            self.one.dest_region.name,
            ServerSpec(
                name=transition.desktop.key,
                flavor=flavor.name,
                boot_volume_id=self.one.dest_volume_id,
                metadata={"foredesk:desktop": transition.desktop.key},
            ),
            self.one.key,
        )
        with Carriage(self) as carriage:
            arrival = cut_over(self.cloud, move, approach=carriage.approach, finish=carriage.finish)
        return {
            "dest_server_id": arrival.server_id,
            "stall_ms": round(arrival.frozen_ms),
            **carriage.counts(),
        }

    def _source_place(self) -> str:
        """Of something that stands still: the volume where nothing runs on it, else a snapshot."""
        region, volume_id = self.one.source_region.name, self.one.source_volume_id
        if self.one.taken_at is None:
            self.one.taken_at = timezone.now()
            Pass.objects.filter(pk=self.one.pk).update(taken_at=self.one.taken_at)
        if self.one.is_final:
            return self.cloud.volume_place(region, volume_id)
        self.beat.tell(phase="snapshot")
        while True:
            snapshot = self.cloud.snapshot_volume(region, volume_id, key=passes.cloud_key(self.one))
            if snapshot.status is VolumeStatus.AVAILABLE:
                return self.cloud.snapshot_place(region, snapshot.id)
            if snapshot.status is VolumeStatus.ERROR:
                raise CloudFault(f"{region}: the snapshot of volume {volume_id} failed.")
            self.beat.check()
            time.sleep(SNAPSHOT_POLL_S)

    def _make_volume(self) -> None:
        if self.one.dest_volume_id:
            return
        made = self.cloud.receive_volume(
            self.one.source_region.name,
            self.one.source_volume_id,
            self.one.dest_region.name,
            key=passes.cloud_key(self.one),
        )
        self.one.dest_volume_id = made.id
        Pass.objects.filter(pk=self.one.pk).update(dest_volume_id=made.id)
        while made.status is not VolumeStatus.AVAILABLE:
            if made.status is VolumeStatus.ERROR:
                raise CloudFault(f"{made.region}: volume {made.id} could not be made.")
            self.beat.check()
            time.sleep(SNAPSHOT_POLL_S)
            made = self.cloud.volume(made.region, made.id)

    def renew(self, channel: Channel) -> None:
        """Have the other end look at the volume anew where it may hold other than it knows."""
        assert self.relay is not None
        if passes.is_stale(self.one, self.relay):
            demote(channel, self.one.dest_volume_id)
        if self.one.store != self.relay.store:
            Pass.objects.filter(pk=self.one.pk).update(store=self.relay.store)

    def receiver(self) -> Relay:
        """The one that takes in this pass, from its beginning to its end."""
        relay = self.relay = self.relay or passes.relay_for(self.one, now=timezone.now())
        if relay is None:
            raise NoRelay(f"no relay of {self.one.dest_region.label} answers")
        return relay

    @contextmanager
    def channel(self) -> Iterator[Channel]:
        relay = self.receiver()
        self._pace = self._pace or self._share()
        with connected(
            relay.address,
            relay.port,
            certificates=settings.RELAY_FOLDER / certificate_of(self.one.source_region_id),
            name=certificate_of(self.one.dest_region_id),
            pace=self._pace,
        ) as channel:
            yield channel

    def tell(self, progress: Progress) -> None:
        if self._pace and (share := self._share_bytes()):
            self._pace.bytes_per_s = share
        self.beat.tell(
            phase=progress.phase,
            to_scan_bytes=progress.to_scan_bytes,
            scanned_bytes=progress.scanned_bytes,
            changed_bytes=progress.changed_bytes,
            sent_bytes=progress.sent_bytes,
            left_s=progress.left_s,
        )

    def _share(self) -> Pace | None:
        share = self._share_bytes()
        return Pace(share) if share else None

    def _share_bytes(self) -> float | None:
        """Of what transfers may use of the link, as many parts as passes are under way on it."""
        link = RegionLink.objects.filter(
            source=self.one.source_region, dest=self.one.dest_region
        ).first()
        if link is None:
            return None
        under_way = Pass.objects.filter(
            source_region=self.one.source_region,
            dest_region=self.one.dest_region,
            state=Pass.State.RUNNING,
        ).count()
        return link.bytes_per_s / max(under_way, 1)


class Carriage:
    """`approach` and `finish` of one cutover."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._carrier: Carrier | None = None

    def __enter__(self) -> Carriage:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._carrier:
            self._carrier.__exit__(kind, error, trace)

    def approach(self, source: VirtualDesktopState, dest: VirtualDesktopState) -> None:
        server_id = dest.processor_state.parent.name
        route = Route(
            self._work.channel,
            server_id,
            Path(settings.RELAY_FOLDER) / "sent",
            disk=self._work.one.dest_volume_id,
        )
        with self._work.channel() as channel:
            self._work.renew(channel)
        carrier = Carrier(route, progress=self._work.tell)
        carrier.__enter__()
        self._carrier = carrier
        carrier.approach(source.memory_snapshot, source.data_volume)

    def finish(
        self, source: VirtualDesktopState, dest: VirtualDesktopState, saved: Callable[[], None]
    ) -> None:
        assert self._carrier is not None
        parts = source.memory_snapshot, source.data_volume, source.processor_state
        self._carrier.finish(*parts, saved=saved)

    def counts(self) -> dict[str, Any]:
        if self._carrier is None:
            return {}
        return _counts([*self._carrier.memory, *self._carrier.disk]) | {
            "sent_bytes": self._carrier.wire_bytes
        }


def _counts(reports: list[Report]) -> dict[str, Any]:
    return {
        "phase": "",
        "scanned_bytes": sum(each.scanned_bytes for each in reports),
        "changed_bytes": sum(each.changed_bytes for each in reports),
        "sent_bytes": sum(each.sent_bytes + each.received_bytes for each in reports),
    }


def certificate_of(region_id: int) -> str:
    """The name in the certificates of a region's relays, and of the folder that has them."""
    return f"region-{region_id}"
