"""How long a desktop stands still when it moves to another host while its user works.

A guest of 512 MB (tests/guests) without KVM moves to and fro between two regions over a link of
200 Mbit/s, carried by the changed-block engine under mutual TLS.

* stall_ms_8mbs, stall_ms_30mbs: the longest silence of a TCP session to the guest, which otherwise
  says something every 10 ms, around a cutover while it dirties so much memory a second; the middle
  of five
* wire_vs_qemu: bytes on the link at 8 MB/s, disk and all, over those of QEMU's own migration of the
  memory alone; the middle of the same five
* cutovers, guests_lost: how many were made in a row, and after how many the guest was not the same:
  its boot, its counter, its session, every page and every block
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figures, Goal, NotMeasured, main
from benchmarks.link import Host, linked_hosts
from desktops.clouds.qemu.monitor import Monitor
from migration.cutover import Move, cut_over, release_source
from tests.guests.building import missing_programs
from tests.support.carried import Carried, memory_folder
from tests.support.qemu import DEST, SOURCE, Desk, desk
from tests.support.talk import Feed, Session, Tick

GOALS: dict[str, Goal] = {
    "stall_ms_8mbs": ("<=", 350),
    "stall_ms_30mbs": ("<=", 600),
    "wire_vs_qemu": ("<=", 0.5),
    "cutovers": (">=", 50),
    "guests_lost": ("==", 0),
}
LINK_MBIT = 200
RUNS = 5
CUTOVERS = int(os.environ.get("FOREDESK_CUTOVERS", "50"))
MIB = 1 << 20
FLAVORS = {"desktop.small": {"vcpus": 1, "memory_mib": 512}}
DIRTY_MB, DISK_KBPS = 128, 400
QEMU_PORT = 8740
QEMU_MOST_S = 60.0


def run() -> Figures:
    if missing := missing_programs():
        raise NotMeasured(f"not installed: {', '.join(missing)}")
    with linked_hosts(LINK_MBIT) as hosts:
        slow = _measured(hosts, dirty_mbps=8, runs=CUTOVERS)
        fast = _measured(hosts, dirty_mbps=30, runs=RUNS)
        wire = statistics.median(one.wire_bytes for one in slow[:RUNS])
        beside_qemu = _beside_qemu(hosts, wire)
    made = [*slow, *fast]
    return beside_qemu | {
        "stall_ms_8mbs": statistics.median(one.stall_ms for one in slow[:RUNS]),
        "stall_ms_30mbs": statistics.median(one.stall_ms for one in fast),
        "cutovers": len(made),
        "guests_lost": sum(not one.is_sound for one in made),
        "stall_ms_8mbs_longest": max(one.stall_ms for one in slow),
        "frozen_ms_8mbs": statistics.median(one.frozen_ms for one in slow),
        "frozen_ms_30mbs": statistics.median(one.frozen_ms for one in fast),
        "wire_mb_8mbs": statistics.median(one.wire_bytes for one in slow) / 1e6,
        "wire_mb_30mbs": statistics.median(one.wire_bytes for one in fast) / 1e6,
    }


def _beside_qemu(hosts: tuple[Host, Host], wire_bytes: float) -> Figures:
    if not shutil.which("busybox"):
        print("benchmarks.cutover: QEMU's own migration needs busybox here", file=sys.stderr)
        return {}
    theirs = _qemu_bytes(hosts, dirty_mbps=8)
    return {"wire_vs_qemu": wire_bytes / theirs, "wire_mb_qemu": theirs / 1e6}


@dataclass(frozen=True)
class _Cutover:
    stall_ms: float
    frozen_ms: float
    wire_bytes: int
    is_sound: bool


@contextmanager
def _guest(dirty_mbps: int) -> Iterator[tuple[Desk, str]]:
    """One that has worked for long enough to have dirtied all that it ever will."""
    append = f"guest.dirty_mbps={dirty_mbps} guest.dirty_mb={DIRTY_MB} guest.disk_kbps={DISK_KBPS}"
    with (
        tempfile.TemporaryDirectory() as folder,
        desk(Path(folder), append=append, flavors=FLAVORS) as mine,
    ):
        server = mine.boot()
        mine.session().close()
        time.sleep(DIRTY_MB / dirty_mbps)
        yield mine, server.id


def _measured(hosts: tuple[Host, Host], *, dirty_mbps: int, runs: int) -> list[_Cutover]:
    made = []
    certificates = memory_folder("certificates")
    try:
        for name in ("near", "far"):
            certify = ["certify", certificates / "authority", name, certificates / name]
            subprocess.run(
                [sys.executable, "-m", "migration.replication", *map(str, certify)], check=True
            )
        with _guest(dirty_mbps) as (mine, server_id):
            regions = (SOURCE, DEST)
            for number in range(runs):
                move = _move(mine, regions, server_id, f"{dirty_mbps} {number}")
                one, server_id = _cut_over(mine, hosts, move, certificates)
                print(f"  {dirty_mbps} MB/s: {one}", flush=True)
                made.append(one)
                regions = (regions[1], regions[0])
    finally:
        shutil.rmtree(certificates)
    return made


def _move(mine: Desk, regions: tuple[str, str], server_id: str, key: str) -> Move:
    volume = mine.volume(regions[1], image=None, key=f"{key}: volume")
    return Move(regions[0], server_id, regions[1], mine.spec(volume), key)


def _cut_over(
    mine: Desk, hosts: tuple[Host, Host], move: Move, certificates: Path
) -> tuple[_Cutover, str]:
    near, far = hosts
    (volume_id,) = mine.cloud.server(move.source_region, move.server_id).volume_ids
    session, feed = mine.session(), mine.feed()
    before = session.tick()
    indexes = memory_folder("indexes")
    try:
        with Carried(
            indexes,
            address=far.address,
            near=near.namespace,
            far=far.namespace,
            certificates=certificates,
        ) as carried:
            sent = _bytes_of(near) + _bytes_of(far)
            arrival = cut_over(mine.cloud, move, approach=carried.approach, finish=carried.finish)
            sent = _bytes_of(near) + _bytes_of(far) - sent
            release_source(mine.cloud, move)
    finally:
        shutil.rmtree(indexes)
    mine.cloud.delete_volume(move.source_region, volume_id)
    time.sleep(1)
    is_sound = _is_sound(session, before)
    session.close()
    stall_ms = _longest_gap_ms(feed)
    return _Cutover(stall_ms, arrival.frozen_ms, sent, is_sound), arrival.server_id


def _is_sound(session: Session, before: Tick) -> bool:
    try:
        first, second, checked = session.tick(), session.tick(), session.ask("check")
    except OSError as error:
        print(f"  lost: {error}", flush=True)
        return False
    is_same = (first.boot, first.asked) == (before.boot, before.asked + 1)
    is_counting = before.counter < first.counter <= second.counter
    if is_same and is_counting and checked.startswith("ok"):
        return True
    print(f"  lost: {before}, {first}, {second}, {checked}", flush=True)
    return False


def _longest_gap_ms(feed: Feed) -> float:
    """Until now, if it has been silent since."""
    now = time.monotonic()
    silent_ms = (now - feed.ticks[-1].at) * 1000
    longest = max(feed.longest_gap_ms(), silent_ms)
    feed.close()
    return longest


def _bytes_of(host: Host) -> int:
    """What it has sent on the link."""
    said = subprocess.run(
        host.command("sh", "-c", "cat /sys/class/net/*/statistics/tx_bytes"),
        capture_output=True,
        check=True,
    )
    return sum(map(int, said.stdout.split()))


def _qemu_bytes(hosts: tuple[Host, Host], *, dirty_mbps: int) -> int:
    """Of QEMU's own migration of the memory over the link, until it says that it is complete."""
    near, far = hosts
    with _guest(dirty_mbps) as (mine, server_id):
        move = _move(mine, (SOURCE, DEST), server_id, "qemu's own")
        definition = mine.cloud.desktop_state(SOURCE, server_id).definition
        made = mine.cloud.receive_server(DEST, move.spec, definition, key=move.key)
        listen = " ".join(far.command("busybox", "nc", "-l", "-p", QEMU_PORT))
        with _monitor(mine, DEST, made.id) as dest:
            dest.ask("migrate-incoming", {"uri": f"exec:{listen}"})
        time.sleep(0.5)
        sent = _bytes_of(near) + _bytes_of(far)
        call = " ".join(near.command("busybox", "nc", far.address, QEMU_PORT))
        with _monitor(mine, SOURCE, server_id) as source:
            source.ask("migrate-set-parameters", {"max-bandwidth": LINK_MBIT * 125000})
            source.ask("migrate", {"uri": f"exec:{call}"})
            said = source.wait_for(
                "query-migrate",
                lambda one: one.get("status") in ("completed", "failed"),
                timeout_s=QEMU_MOST_S,
            )
        if said["status"] == "failed":
            raise NotMeasured(f"QEMU's own migration failed: {said}")
        return _bytes_of(near) + _bytes_of(far) - sent


def _monitor(mine: Desk, region: str, server_id: str) -> Monitor:
    state = mine.cloud.desktop_state(region, server_id)
    return Monitor(state.processor_state.parent, timeout_s=10)


if __name__ == "__main__":
    main(sys.modules[__name__])
