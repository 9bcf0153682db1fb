"""Volume files: what the histories of `content` are as bytes, so that relays carry real ones.

A file is as large as its volume and mostly a hole: one block in it stands for SCALE blocks of the
volume. It is made when a relay asks for it, from the history alone, and says in its first block
which content it holds. So the content of a volume that a relay wrote to is what its file says.
"""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from desktops.clouds.simulator.content import Content, history, stored
from desktops.clouds.simulator.moment import Moment

SCALE = 1000
BLOCK_BYTES = 4096
# Of each block: what does not compress. The rest does, as most of a desktop's blocks do.
RANDOM_BYTES = 1600
FILLER = b"what programs and documents repeat " * 128


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a volume's content reaches, in blocks of its file, after the first.

    image : of them those that came with the image; working_set : those that get written to
    """

    used: int
    image: int
    working_set: int
    writes_per_ms: float

    @classmethod
    def of(cls, volume: sqlite3.Row, image_bytes: int) -> Extent:
        used = max(_scaled(volume["used_bytes"]), 1)
        return cls(
            used,
            min(_scaled(image_bytes), used),
            min(_scaled(volume["dirty_saturation_bytes"]), used),
            volume["dirty_bytes_per_s"] / SCALE / BLOCK_BYTES / 1000,
        )


def place_of_volume(m: Moment, volume_id: str) -> Path:
    return _folder(m) / "volumes" / volume_id


def place_of_snapshot(m: Moment, snapshot_id: str) -> Path:
    return _folder(m) / "snapshots" / snapshot_id


def make(m: Moment, path: Path, volume: sqlite3.Row, content: Content, image_bytes: int) -> None:
    """See to it that the file holds the content."""
    if held_by(path) == content.version:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    blocks = _blocks(m, content, Extent.of(volume, image_bytes), volume["image"])
    with part.open("wb") as file:
        file.truncate(volume["size_bytes"])
        for number, block in blocks:
            file.seek(number * BLOCK_BYTES)
            file.write(block)
    part.replace(path)


def held_by(path: Path) -> str | None:
    """The version of the content in a file; None where there is no file, or nothing in it."""
    try:
        with path.open("rb") as file:
            head = file.read(BLOCK_BYTES).rstrip(b"\0")
    except FileNotFoundError:
        return None
    try:
        return str(json.loads(head)["content"])
    except (ValueError, TypeError, KeyError):
        return None


def settled(m: Moment, volume: sqlite3.Row) -> str:
    """The version of what a volume holds: a relay may have written to its file since."""
    known: str = volume["content"]
    told = held_by(place_of_volume(m, volume["id"]))
    if told is None or told == known:
        return known
    if not m.row("SELECT 1 FROM contents WHERE version = ?", told):
        return known
    is_older = any(each.version == told for each in history(m, stored(m, known)))
    return known if is_older else told


def drop(path: Path) -> None:
    path.unlink(missing_ok=True)


def _folder(m: Moment) -> Path:
    """Beside the store."""
    store = next(row["file"] for row in m.rows("PRAGMA database_list") if row["name"] == "main")
    return Path(f"{store}.files")


def _blocks(m: Moment, content: Content, extent: Extent, image: str) -> Iterator[tuple[int, bytes]]:
    """(number in the file, content) of every block that is no hole."""
    yield 0, json.dumps({"content": content.version}).encode().ljust(BLOCK_BYTES, b"\0")
    lived = list(history(m, content))
    origin = lived[-1]
    if origin.run_id == "blank":
        written: Mapping[int, str] = {}
    else:
        written = {k: f"{_maker(k, extent, image, origin)}/{k}" for k in range(extent.used)}
    written = {**written, **_overwritten(lived, extent)}
    for number, seed in sorted(written.items()):
        yield 1 + number, _block(seed)


def _maker(number: int, extent: Extent, image: str, origin: Content) -> str:
    """Whose block it is to begin with: desktops of one image have the image's in common."""
    return f"image/{image}" if number < extent.image else origin.run_id


def _overwritten(lived: list[Content], extent: Extent) -> dict[int, str]:
    """Number of a block → what it was written by last, over the whole history."""
    if not extent.working_set:
        return {}
    last: dict[int, str] = {}
    written_ms = 0
    for each in reversed(lived[:-1]):
        chance = random.Random(_seed(each.run_id))
        for n in range(int((each.run_ms - written_ms) * extent.writes_per_ms)):
            last[int(chance.random() * extent.working_set)] = f"{each.run_id}/{n}"
        written_ms = each.run_ms
    # Spread over the disk, the same blocks for everybody: some are the image's.
    stride = max(extent.used // extent.working_set, 1)
    return {number * stride: seed for number, seed in last.items()}


def _block(seed: str) -> bytes:
    chance = random.Random(_seed(seed))
    return (chance.randbytes(RANDOM_BYTES) + FILLER)[:BLOCK_BYTES]


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _scaled(n_bytes: int) -> int:
    return n_bytes // SCALE // BLOCK_BYTES
