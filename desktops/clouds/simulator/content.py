"""What volumes hold, followed as a tree of write histories instead of bytes.

A run is one stretch during which a server runs on a volume. The content of a volume is the content
the run began with plus the run's writes so far; two volumes hold the same bytes exactly when their
`version` is the same. A copy takes its source's content at its recovery point. So a test can ask
whether anything was lost: the destination must hold, or descend from, what the source held when it
was stopped.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from desktops.clouds.simulator.moment import Moment


@dataclass(frozen=True, slots=True)
class Content:
    """run_ms : simulated time written for, along the whole history up to here"""

    version: str
    parent: str | None
    run_id: str
    run_ms: int


def new_content(m: Moment, origin: str) -> str:
    """The version of a fresh content: an image's, the same wherever the image is, or a blank."""
    return _keep(m, Content(_digest(origin), None, origin, 0))


def content_now(m: Moment, volume: sqlite3.Row) -> Content:
    base = stored(m, volume["content"])
    if volume["run_id"] is None or volume["run_started_ms"] == m.at_ms:
        return base
    run_ms = base.run_ms + m.at_ms - volume["run_started_ms"]
    version = _digest(f"{base.version}/{volume['run_id']}/{run_ms}")
    return Content(version, base.version, volume["run_id"], run_ms)


def keep_content(m: Moment, volume: sqlite3.Row) -> str:
    """Make the content of this instant a recovery point, and return its version."""
    return _keep(m, content_now(m, volume))


def begin_run(m: Moment, volume: sqlite3.Row) -> None:
    m.do(
        "UPDATE volumes SET run_id = ?, run_started_ms = ? WHERE id = ?",
        m.new_id(),
        m.at_ms,
        volume["id"],
    )


def end_run(m: Moment, volume: sqlite3.Row) -> None:
    m.do(
        "UPDATE volumes SET content = ?, run_id = NULL, run_started_ms = NULL WHERE id = ?",
        keep_content(m, volume),
        volume["id"],
    )


def history(m: Moment, content: Content) -> Iterator[Content]:
    """The content, its parent, and so on to its origin."""
    yield content
    while content.parent is not None:
        content = stored(m, content.parent)
        yield content


def differing_bytes(m: Moment, volume: sqlite3.Row, wanted: str, held: str) -> int | None:
    """Bytes to send so that a volume which holds `held` holds `wanted`, with the dirtying rate of
    `volume`; None when the two have no common history.
    """
    ours = history(m, stored(m, wanted))
    theirs = {c.run_id: c for c in history(m, stored(m, held))}
    for content in ours:
        other = theirs.get(content.run_id)
        if other is not None:
            common_ms = min(content.run_ms, other.run_ms)
            # What the held copy wrote by itself since must be overwritten as well.
            return sum(
                unique_dirty_bytes(volume, stored(m, version).run_ms - common_ms)
                for version in (wanted, held)
            )
    return None


def written_over_bytes(m: Moment, volume: sqlite3.Row, version: str) -> int:
    """Blocks that servers wrote to since the volume came to be, in bytes."""
    return unique_dirty_bytes(volume, stored(m, version).run_ms)


def unique_dirty_bytes(volume: sqlite3.Row, run_ms: int) -> int:
    """Blocks written at least once in `run_ms`, in bytes: rises at the dirtying rate, then
    flattens towards the working set, as writes hit what is dirty already.
    """
    saturation: int = volume["dirty_saturation_bytes"]
    rate: int = volume["dirty_bytes_per_s"]
    if saturation == 0 or run_ms == 0:
        return 0
    return round(saturation * -math.expm1(-rate * run_ms / 1000 / saturation))


def stored(m: Moment, version: str) -> Content:
    row = m.rows("SELECT * FROM contents WHERE version = ?", version)[0]
    return Content(row["version"], row["parent"], row["run_id"], row["run_ms"])


def _keep(m: Moment, content: Content) -> str:
    m.do(
        "INSERT OR IGNORE INTO contents VALUES (?, ?, ?, ?)",
        content.version,
        content.parent,
        content.run_id,
        content.run_ms,
    )
    return content.version


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
