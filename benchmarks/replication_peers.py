"""What else could bring a copy of a volume up to date: rsync itself, and the schemes of two others.

Of Cinder's backup and of Coriolis what counts here is what they would send: blocks of 32 KiB and
10 MiB whose SHA-256 differs, compressed by zlib and gzip in objects of 52,428,800 bytes and in
chunks. Neither is on a package index as something that can be run without its cloud.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
import zstandard

from benchmarks.link import Host
from benchmarks.timed import Timed, run_timed, running

BLOCK = 4096
CINDER_BLOCK, CINDER_OBJECT = 32 << 10, 52_428_800
CORIOLIS_BLOCK = 10 << 20
RSYNC_PORT = 8730


@dataclass(frozen=True)
class Sent:
    """wire_bytes : both ways"""

    wire_bytes: int
    wall_s: float
    cpu_s: float


def floor_bytes(before: Path, after: Path) -> int:
    """zstd -19 of the blocks of 4 KiB that are on no place of the old volume, each once."""
    known = {digest for _, digest in _blocks(before)}
    known.add(xxhash.xxh3_128_digest(bytes(BLOCK)))
    new = []
    for block, digest in _blocks(after):
        if digest not in known:
            known.add(digest)
            new.append(block.tobytes())
    return len(zstandard.ZstdCompressor(level=19).compress(b"".join(new)))


def _blocks(path: Path):
    image = np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, BLOCK)
    for block in image:
        yield block, xxhash.xxh3_128_digest(block)


def cinder_bytes(before: Path, after: Path) -> int:
    changed = _changed(before, after, CINDER_BLOCK)
    return sum(
        len(zlib.compress(changed[at : at + CINDER_OBJECT]))
        for at in range(0, len(changed), CINDER_OBJECT)
    )


def coriolis_bytes(before: Path, after: Path) -> int:
    changed = _changed(before, after, CORIOLIS_BLOCK)
    return sum(
        len(gzip.compress(changed[at : at + CORIOLIS_BLOCK]))
        for at in range(0, len(changed), CORIOLIS_BLOCK)
    )


def _changed(before: Path, after: Path, size: int) -> bytes:
    parts = []
    with before.open("rb") as old, after.open("rb") as new:
        while block := new.read(size):
            if hashlib.sha256(block).digest() != hashlib.sha256(old.read(size)).digest():
                parts.append(block)
    return b"".join(parts)


def rsync(after: Path, copy: Path, near: Host, far: Host) -> Sent:
    """Bring `copy`, at the far host, to what `after` holds: in place, with zstd 1."""
    folder = copy.parent
    config = folder / "rsyncd.conf"
    config.write_text(
        f"uid = 0\ngid = 0\nuse chroot = no\n[copy]\npath = {folder}\nread only = no\n"
    )
    daemon = ("rsync", "--daemon", "--no-detach", f"--config={config}", f"--port={RSYNC_PORT}")
    compressed = ("--compress", "--compress-choice=zstd", "--compress-level=1")
    with running(far.command(*daemon)) as far_end:
        _wait_for(near, far)
        url = f"rsync://{far.address}:{RSYNC_PORT}/copy/{copy.name}"
        near_end = run_timed(
            near.command(
                "rsync",
                "--inplace",
                "--no-whole-file",
                "--ignore-times",
                "--stats",
                *compressed,
                after,
                url,
            )
        )
    sent = sum(
        int(number.replace(",", ""))
        for number in re.findall(r"Total bytes (?:sent|received): ([\d,]+)", near_end.output)
    )
    return _sent(sent, near_end, far_end.timed)


def _sent(wire_bytes: int, near: Timed, far: Timed) -> Sent:
    return Sent(wire_bytes, near.wall_s, near.cpu_s + far.cpu_s)


def _wait_for(near: Host, far: Host) -> None:
    probe = f"""
import socket, time
for _ in range(100):
    try:
        socket.create_connection(({far.address!r}, {RSYNC_PORT}), 1).close()
        break
    except OSError:
        time.sleep(0.05)
"""
    run_timed(near.command("python3", "-c", probe))
