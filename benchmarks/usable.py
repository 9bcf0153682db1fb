"""How long somebody waits for a desktop that starts where nothing of it is yet.

The desktop of `desktop_images` is brought over a link of 200 Mbit/s to a host that has nothing of
it, under mutual TLS, and started there: a QEMU guest, without KVM, mounts its disk and runs what a
session begins with. The seconds count from the order to bring it to the last of those programs:

* usable_whole_s: started once all of it is there
* usable_read_through_s: started at once; what is missing is read from the source
* usable_hot_first_s: as that, and what it read when it started a day before is sent first
* usable_local_s: what starting takes where all of it is, so the least that there is
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.desktop_images import ImagesUnavailable, image_pair
from benchmarks.figures import Figures, Goal, NotMeasured, main
from benchmarks.link import Host, linked_hosts
from benchmarks.timed import run_timed, running
from tests.guests.building import FAILED, USABLE, Guest, build_starter, missing_programs

# The least that would be worth having: a third less to wait for.
GOALS: dict[str, Goal] = {"usable_hot_first_vs_whole": ("<", 2 / 3)}
LINK_MBIT = float(os.environ.get("FOREDESK_LINK_MBIT", "200"))
PORT = 8732
MEMORY_MIB = 512
MOST_S = 600.0
COMMAND = (sys.executable, "-m", "migration.replication")
# Of a session: a shell, an interpreter with its libraries, the desktop, an editor, documents.
STARTS = """
set -e
cat /home/desk/1*.txt | wc -c
python3 -c 'import asyncio, email, http.client, json, sqlite3, ssl, xml.dom.minidom'
for program in xfce4-session xfce4-panel xfwm4 xfdesktop evince vim; do
    "$program" --version > /dev/null 2>&1 || test -x "$(command -v $program)"
done
"""


def run() -> Figures:
    if missing := missing_programs():
        raise NotMeasured(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory(dir=os.environ.get("FOREDESK_IMAGES")) as folder:
        kept = Path(os.environ.get("FOREDESK_IMAGES", folder))
        try:
            before, after = image_pair(kept)
        except ImagesUnavailable as reason:
            raise NotMeasured(str(reason)) from reason
        with linked_hosts(LINK_MBIT) as (near, far):
            return _Bench(Path(folder), near, far).figures(before, after)


class _Bench:
    def __init__(self, folder: Path, near: Host, far: Host) -> None:
        self._folder, self._near, self._far = folder, near, far
        self._guest: Guest = build_starter(folder / "guest", STARTS)
        for name in ("near", "far"):
            run_timed([*COMMAND, "certify", str(folder / "authority"), name, str(folder / name)])

    def figures(self, before: Path, after: Path) -> Figures:
        local = self._started_from(after, "raw")
        hot = self._read_through(before, first=None)[1]
        whole = self._whole(after)
        through, _ = self._read_through(after, first=None)
        hot_first, _ = self._read_through(after, first=hot)
        hot_bytes = sum(each["length"] for each in json.loads(hot.read_text()))
        return {
            "usable_hot_first_vs_whole": hot_first / whole,
            "usable_hot_first_s": hot_first,
            "usable_read_through_s": through,
            "usable_whole_s": whole,
            "usable_local_s": local,
            "hot_mb": hot_bytes / 1e6,
        }

    def _whole(self, image: Path) -> float:
        began = time.monotonic()
        with self._serving() as store:
            run_timed(self._send(image, "--direct"))
            sent = time.monotonic() - began
            started = self._started_from(store / "desk/volume", "raw")
        print(f"whole: sent in {sent:.1f} s, started in {started:.1f} s", file=sys.stderr)
        return sent + started

    def _read_through(self, image: Path, *, first: Path | None) -> tuple[float, Path]:
        """Seconds until it is usable, and what it read."""
        began = time.monotonic()
        with self._serving() as store:
            hot = ("--first", str(first)) if first else ()
            with _process(self._send(image, "--started", *hot)) as sending:
                while not (store / "desk/pass.json").exists() and sending.poll() is None:
                    time.sleep(0.02)
                url = f"nbd+unix:///desk?socket={self._socket}"
                self._started_from(url, "raw")
                usable = time.monotonic() - began
                if sending.wait(MOST_S):
                    raise NotMeasured("the pass failed")
                sent = time.monotonic() - began
            run_timed(["cmp", str(image), str(store / "desk/volume")])
            kept = self._folder / f"reads {image.name} {first is not None}.json"
            shutil.copy(store / "desk/reads.json", kept)
        print(f"read through, {first}: {usable:.1f} s; all sent {sent:.1f} s", file=sys.stderr)
        return usable, kept

    @property
    def _socket(self) -> Path:
        return self._folder / "exports"

    def _started_from(self, disk: Path | str, kind: str) -> float:
        """Seconds until the guest is usable, on an overlay of this disk."""
        overlay = self._folder / "overlay.qcow2"
        began = time.monotonic()
        options = ("-f", "qcow2", "-F", kind, "-b", str(disk))
        run_timed(["qemu-img", "create", "-q", *options, str(overlay)])
        command = [
            *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", f"{MEMORY_MIB}M"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"),
            *("-kernel", str(self._guest.kernel), "-initrd", str(self._guest.initrd)),
            *("-append", "console=ttyS0 quiet"),
            *("-drive", f"file={overlay},if=virtio,format=qcow2,cache=unsafe"),
        ]
        with _process(command) as guest:
            assert guest.stdout
            for line in guest.stdout:
                if FAILED in line or time.monotonic() - began > MOST_S:
                    raise NotMeasured(f"the guest did not start: {line.strip()}")
                if USABLE in line:
                    usable = time.monotonic() - began
                    guest.wait(60)
                    return usable
        raise NotMeasured("the guest ended before it was usable")

    @contextmanager
    def _serving(self) -> Iterator[Path]:
        store = self._folder / "shadows"
        serve = (*COMMAND, "serve", str(store), "--listen", f"{self._far.address}:{PORT}")
        command = [*serve, "--certificates", str(self._folder / "far")]
        with running(self._far.command(*command, "--exports", self._socket)) as far_end:
            assert far_end.process.stdout
            far_end.process.stdout.readline()
            yield store
        shutil.rmtree(store)

    def _send(self, image: Path, *options: str) -> list[str]:
        cache = self._folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        to = ("--to", f"{self._far.address}:{PORT}", "--peer", "far", "--name", "desk")
        return self._near.command(
            *(*COMMAND, "send", str(image), *to, "--cache", str(cache), "--json", *options),
            *("--certificates", str(self._folder / "near")),
        )


@contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


if __name__ == "__main__":
    main(sys.modules[__name__])
