"""A relay: takes in what is sent to its regions, and runs what is ordered of them.

It listens with mutual TLS for other relays (`migration.replication`), works on its regions' queues
(`tasks.carry_pass`), and says every few seconds that it is there. Several may serve one region.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from django.db import DatabaseError, connection
from django.utils import timezone

from desktops.core.cloud import Cloud, NotFound, ServerStatus, VolumeStatus
from desktops.core.exports import VolumeExports
from desktops.core.hypervisor import Hypervisor
from desktops.models import Region
from migration.models import Relay, Shadow
from migration.replication.carrying import MEMORY, PROCESSOR
from migration.replication.certificates import Authority, expires_at
from migration.replication.connecting import server_context
from migration.replication.errors import Refused
from migration.replication.receiver import Receiver
from migration.replication.store import Store
from migration.selectors import LIVE_SHADOW
from migration.services.carrying import certificate_of

log = logging.getLogger(__name__)

BEAT_S = 3.0
SWEEP_EVERY_BEATS = 20
RENEW_BEFORE = timedelta(days=30)


@dataclass(frozen=True)
class Places:
    """Where what is sent to a region is written; asked by the receiver."""

    cloud: VolumeExports
    region: str

    def __call__(self, name: str) -> str:
        """Raises Refused for what is not there, or a server works with."""
        server_id, _, part = name.partition(".")
        try:
            return self._of_server(server_id, part) if part else self._of_volume(name)
        except NotFound as error:
            raise Refused(f"{self.region} has nothing called {name!r}: {error}") from error

    def is_wanted(self, name: str) -> bool:
        server_id, _, part = name.partition(".")
        try:
            if part:
                return self.cloud.server(self.region, server_id).status is ServerStatus.BUILD
            self.cloud.volume(self.region, name)
        except NotFound:
            return False
        return True

    def _of_volume(self, volume_id: str) -> str:
        volume = self.cloud.volume(self.region, volume_id)
        if volume.attached_to is not None:
            self._check_receives(volume.attached_to)
        elif volume.status is not VolumeStatus.AVAILABLE:
            raise Refused(f"{self.region}: volume {volume_id} is {volume.status}.")
        return self.cloud.volume_place(self.region, volume_id)

    def _of_server(self, server_id: str, part: str) -> str:
        if not isinstance(self.cloud, Hypervisor):
            raise Refused(f"{self.cloud.name} does not carry running machines.")
        self._check_receives(server_id)
        state = self.cloud.desktop_state(self.region, server_id)
        places = {MEMORY: state.memory_snapshot, PROCESSOR: state.processor_state}
        if part not in places:
            raise Refused(f"A machine has no {part!r}.")
        return str(places[part])

    def _check_receives(self, server_id: str) -> None:
        server = self.cloud.server(self.region, server_id)
        if server.status is not ServerStatus.BUILD:
            raise Refused(f"{self.region}: server {server_id} is {server.status}: it has its own.")


class RegionRelay:
    """The receiving half for one region, and its row."""

    def __init__(self, region: Region, cloud: Cloud, *, folder: Path, host: str) -> None:
        if not isinstance(cloud, VolumeExports):
            raise ValueError(f"{cloud.name} exports no volumes to relays.")
        self.region, self._folder, self._host = region, folder, host
        self._places = Places(cloud, region.name)
        self._shadows = folder / "shadows" / certificate_of(region.pk)
        self._store = Store(self._shadows, self._places)
        self._row: Relay | None = None

    @contextlib.contextmanager
    def serving(self, *, address: str) -> Iterator[None]:
        """address : by which the other regions' relays reach this host"""
        certify(self._folder, self.region)
        context = server_context(self._folder / certificate_of(self.region.pk))
        with socket.create_server((self._host, 0)) as listener:
            receiver = Receiver(self._store, listener, context)
            threading.Thread(target=receiver.serve, daemon=True).start()
            now = timezone.now()
            self._row = Relay.objects.create(
                region=self.region,
                address=address,
                port=listener.getsockname()[1],
                store=_identity(self._shadows),
                started_at=now,
                seen_at=now,
            )
            try:
                yield
            finally:
                self._row.delete()
                # Closing alone would not wake the thread that waits on it.
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)

    def beat(self) -> None:
        """Says that it is there; where somebody took its row away, it is put back."""
        assert self._row is not None
        self._row.seen_at = timezone.now()
        self._row.save()

    def sweep(self) -> None:
        """What passes that failed, and machines that have gone on, have left behind."""
        for name in self._store.sweep(self._places.is_wanted):
            log.info("%s: forgot %s", self.region.name, name)
        for name in sweep_sent(self._folder / "sent", now=timezone.now()):
            log.info("forgot what was sent to %s", name)
        certify(self._folder, self.region)


def sweep_sent(folder: Path, *, now: datetime) -> list[str]:
    """Forget what the source's end knows of volumes that no pass has gone to for a day, unless
    they are kept in step. It saves a scan, no more: what is forgotten too soon is asked for."""
    if not folder.is_dir():
        return []
    long_ago = (now - timedelta(days=1)).timestamp()
    old = [each for each in sorted(folder.iterdir()) if each.stat().st_mtime < long_ago]
    kept = Shadow.objects.filter(state__in=LIVE_SHADOW, volume_id__in=[one.name for one in old])
    wanted = set(kept.values_list("volume_id", flat=True))
    gone = [each for each in old if each.name not in wanted]
    for each in gone:
        shutil.rmtree(each, ignore_errors=True)
    return [each.name for each in gone]


@contextlib.contextmanager
def beating(relays: list[RegionRelay]) -> Iterator[None]:
    is_over = threading.Event()

    def run() -> None:
        number = 0
        while not is_over.wait(BEAT_S):
            number += 1
            for relay in relays:
                try:
                    relay.beat()
                    if number % SWEEP_EVERY_BEATS == 0:
                        relay.sweep()
                except (DatabaseError, OSError) as error:
                    log.warning("%s: %s", relay.region.name, error)
                    connection.close()
                except Exception:
                    log.exception("%s: a beat failed", relay.region.name)
        connection.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def certify(folder: Path, region: Region, *, now: Callable[[], datetime] | None = None) -> None:
    """See to it that the region's relays here have a certificate that lasts.

    Issued by the installation's own authority where that is here; on other hosts somebody put it
    there: `python -m migration.replication certify`.
    """
    mine, name = folder / certificate_of(region.pk), certificate_of(region.pk)
    moment = now() if now else datetime.now(UTC)
    if (mine / "relay.pem").exists() and expires_at(mine) - moment > RENEW_BEFORE:
        return
    authority = folder / "authority"
    if not (authority / "authority.key").exists():
        if (mine / "relay.pem").exists():
            log.warning("%s: its certificate ends on %s", region.name, expires_at(mine))
            return
        with contextlib.suppress(FileExistsError):
            Authority.create(authority)
    Authority(authority).issue(name, mine)


def _identity(folder: Path) -> str:
    """Of a store; whoever is first makes it up."""
    path = folder.with_name(f"{folder.name}.id")
    try:
        with path.open("x") as file:
            file.write(uuid4().hex)
    except FileExistsError:
        pass
    return path.read_text()
