"""What it takes to bring a shadow to what a desktop's volume holds after a day.

On a pair of images (see `desktop_images`; FOREDESK_IMAGES, a folder, keeps them), both ends under
mutual TLS, in one run with rsync over the same link of 200 Mbit/s:

* wire_*: bytes on the wire, both ways, over zstd -19 of the blocks that are new (`floor`), over
  what the schemes of Cinder and Coriolis send, and over rsync's with zstd -1
* cpu_vs_rsync, wall_vs_rsync_200mbit: processor seconds of both ends, start-up included, and time
* map_100g_vs_1g: with a change map, the time for one change set on a sparse volume of 100 GiB over
  that on one of 1 GiB; the middle of several
* rss_mb: the most memory that either end held in any of these
* kill_points, kill_failures: either end killed at so many instants (FOREDESK_KILLS), and how often
  the next pass did not end identical, sent more again than one window, or a shadow had left its
  recovery point
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.desktop_images import ImagesUnavailable, image_pair
from benchmarks.figures import Figures, Goal, NotMeasured, main
from benchmarks.link import Host, linked_hosts
from benchmarks.replication_peers import (
    Sent,
    cinder_bytes,
    coriolis_bytes,
    floor_bytes,
    rsync,
)
from benchmarks.timed import Running, Timed, run_timed, running
from tests.support.killing_ends import MOST_SENT_AGAIN, kill_ends

GOALS: dict[str, Goal] = {
    "wire_vs_floor": ("<=", 1.12),
    "wire_vs_floor_slow_link": ("<=", 1.06),
    "wire_vs_cinder": ("<=", 0.75),
    "wire_vs_coriolis": ("<=", 0.33),
    "wire_vs_rsync": ("<", 1),
    "cpu_vs_rsync": ("<=", 0.25),
    "wall_vs_rsync_200mbit": ("<=", 1 / 3),
    "map_100g_vs_1g": ("<", 1.1),
    "rss_mb": ("<", 300),
    "kill_points": (">=", 1000),
    "kill_failures": ("==", 0),
}
LINK_MBIT = 200
KILLS = int(os.environ.get("FOREDESK_KILLS", "1000"))
MIB, GIB = 1 << 20, 1 << 30
MAP_CHANGES, MAP_REPEATS = 4000, 7
PORT = 8731
SEED = 20260302
COMMAND = (sys.executable, "-m", "migration.replication")


def run() -> Figures:
    with tempfile.TemporaryDirectory(dir=os.environ.get("FOREDESK_IMAGES")) as folder:
        bench = _Bench(Path(folder))
        return bench.images() | bench.change_map() | bench.memory() | bench.kills()


class _Bench:
    def __init__(self, folder: Path) -> None:
        self._folder, self._rss_mb = folder, [0.0]
        for name in ("near", "far"):
            run_timed([*COMMAND, "certify", str(folder / "authority"), name, str(folder / name)])

    def images(self) -> Figures:
        kept = Path(os.environ.get("FOREDESK_IMAGES", self._folder))
        try:
            before, after = image_pair(kept)
            with linked_hosts(LINK_MBIT) as (near, far):
                ours = self._ours(before, after, near, far)
                theirs = self._rsync(before, after, near, far)
        except (ImagesUnavailable, NotMeasured) as reason:
            print(f"benchmarks.replication: {reason}", file=sys.stderr)
            return {}
        floor = floor_bytes(before, after)
        balanced, slow = ours["balanced"], ours["slow-link"]
        print(f"floor {floor / 1e6:.1f} MB; rsync {theirs}; ours {ours}", file=sys.stderr)
        return {
            "wire_vs_floor": balanced.wire_bytes / floor,
            "wire_vs_floor_slow_link": slow.wire_bytes / floor,
            "wire_vs_cinder": balanced.wire_bytes / cinder_bytes(before, after),
            "wire_vs_coriolis": balanced.wire_bytes / coriolis_bytes(before, after),
            "wire_vs_rsync": balanced.wire_bytes / theirs.wire_bytes,
            "cpu_vs_rsync": balanced.cpu_s / theirs.cpu_s,
            "wall_vs_rsync_200mbit": balanced.wall_s / theirs.wall_s,
        }

    def _ours(self, before: Path, after: Path, near: Host, far: Host) -> dict[str, Sent]:
        """From one state of both ends: with the effort that it chooses, and on a slow link."""
        seeded = self._folder / "seeded"
        with self._serving(seeded / "shadows", "127.0.0.1", None):
            self._send(before, seeded / "cache", "127.0.0.1", None, "--direct")
        results = {}
        for effort in ("balanced", "slow-link"):
            state = self._folder / effort
            run_timed(["cp", "-r", "--sparse=always", str(seeded), str(state)])
            (state / "shadows/desk/shadow.json").write_text(
                (seeded / "shadows/desk/shadow.json").read_text().replace(str(seeded), str(state))
            )
            chosen = () if effort == "balanced" else ("--effort", effort)
            with self._serving(state / "shadows", far.address, far) as far_end:
                sent, timed = self._send(after, state / "cache", far.address, near, *chosen)
            if sent["effort"] != effort:
                raise NotMeasured(f"the link was taken for one that needs {sent['effort']}")
            run_timed(["cmp", str(after), str(state / "shadows/desk/volume")])
            self._rss_mb += [timed.rss_mb, far_end.timed.rss_mb]
            wire = int(sent["sent_bytes"]) + int(sent["received_bytes"])
            results[effort] = Sent(wire, timed.wall_s, timed.cpu_s + far_end.timed.cpu_s)
            shutil.rmtree(state)
        return results

    def _rsync(self, before: Path, after: Path, near: Host, far: Host) -> Sent:
        if not shutil.which("rsync"):
            raise NotMeasured("rsync is not installed")
        copy = self._folder / "rsync" / "copy.img"
        copy.parent.mkdir()
        run_timed(["cp", "--sparse=always", str(before), str(copy)])
        sent = rsync(after, copy, near, far)
        run_timed(["cmp", str(after), str(copy)])
        shutil.rmtree(copy.parent)
        return sent

    def change_map(self) -> Figures:
        """By turns, so that what else the machine does falls on both alike."""
        seconds: dict[int, list[float]] = {1: [], 100: []}
        choose, folder = random.Random(SEED), self._folder / "map"
        folder.mkdir()
        with self._serving(folder / "shadows", "127.0.0.1", None) as far_end:
            for size in seconds:
                with (folder / f"{size}").open("wb") as file:
                    for _ in range(256):
                        file.write(choose.randbytes(MIB))
                    file.truncate(size * GIB)
                self._send_mapped(folder, size, "--direct")
            for _ in range(MAP_REPEATS):
                for size, taken in seconds.items():
                    self._change(folder, size, choose)
                    changes = ("--changes", str(folder / "changes.json"))
                    sent, timed = self._send_mapped(folder, size, *changes)
                    taken.append(float(sent["elapsed_s"]))
                    self._rss_mb.append(timed.rss_mb)
        self._rss_mb.append(far_end.timed.rss_mb)
        shutil.rmtree(folder)
        print(f"with a change map, seconds by GiB: {seconds}", file=sys.stderr)
        ratio = statistics.median(seconds[100]) / statistics.median(seconds[1])
        return {"map_100g_vs_1g": ratio}

    def _change(self, folder: Path, size: int, choose: random.Random) -> None:
        blocks = choose.sample(range(256 * MIB // 4096), MAP_CHANGES)
        with (folder / f"{size}").open("r+b") as file:
            for block in blocks:
                file.seek(block * 4096)
                file.write(choose.randbytes(4096))
        ranges = [{"start": block * 4096, "length": 4096} for block in blocks]
        (folder / "changes.json").write_text(json.dumps(ranges))

    def _send_mapped(
        self, folder: Path, size: int, *options: str
    ) -> tuple[dict[str, object], Timed]:
        name, cache = f"desk{size}", folder / f"cache{size}"
        return self._send(folder / f"{size}", cache, "127.0.0.1", None, *options, name=name)

    def memory(self) -> Figures:
        return {"rss_mb": max(self._rss_mb)}

    def kills(self) -> Figures:
        wrong = n = 0
        for n, kill in enumerate(kill_ends(self._folder / "kills", KILLS, seed=SEED), 1):
            if kill.wrong or kill.sent_again > MOST_SENT_AGAIN:
                wrong += 1
                print(f"kill {n}: {kill}", file=sys.stderr)
            if n % 100 == 0:
                print(f"{n} kills, {wrong} failures", file=sys.stderr)
        return {"kill_points": n, "kill_failures": wrong}

    @contextmanager
    def _serving(self, folder: Path, address: str, host: Host | None) -> Iterator[Running]:
        serve = (*COMMAND, "serve", str(folder), "--listen", f"{address}:{PORT}")
        command = [*serve, "--certificates", str(self._folder / "far")]
        with running(host.command(*command) if host else command) as far_end:
            assert far_end.process.stdout
            far_end.process.stdout.readline()
            yield far_end

    def _send(
        self,
        source: Path,
        cache: Path,
        address: str,
        host: Host | None,
        *options: str,
        name: str = "desk",
    ) -> tuple[dict[str, object], Timed]:
        to = ("--to", f"{address}:{PORT}", "--peer", "far", "--name", name)
        command = [
            *(*COMMAND, "send", str(source), *to, "--cache", str(cache), "--json", *options),
            *("--certificates", str(self._folder / "near")),
        ]
        timed = run_timed(host.command(*command) if host else command)
        return json.loads(timed.output.splitlines()[-1]), timed


if __name__ == "__main__":
    main(sys.modules[__name__])
