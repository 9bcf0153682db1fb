"""What agents send (docs/sources/agent.md): checked whole at the door, and packed into rows.

A batch that does not keep to the format is refused as a whole, with the reason, and nothing of it
is kept; a value that keeps to it but cannot be true costs its own row alone, later. Where an
address is becomes a site here: the address itself is written nowhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

import numpy as np
import orjson

from desktops.errors import Refused
from desktops.sources.samples import MEASURES

MOST_SENT_BYTES = 1 << 20
MOST_UNPACKED_BYTES = 8 << 20
MOST_SAMPLES = 5000
MOST_APPLICATIONS = 500
MOST_DISK_DAYS = 8
MOST_EXTENTS = 1 << 17
HOUR_S = 3600
GZIP = 16 + zlib.MAX_WBITS
NUMBER = {int, float, type(None)}
TEXT = {str, type(None)}
INT64 = 1 << 63
# What is kept of an item, and how: nothing else that somebody may have sent with it. Processor time
# in thousandths, as numbers smaller than single precision holds are none to the database.
KEPT: dict[str, dict[str, Callable[[Any], Any]]] = {
    "applications": {"hour": int, "application": str, "cpu_core_s": lambda s: round(float(s), 3)},
    "disk_reads": {"day": str, "extent_bytes": int, "extents": list, "read_bytes": list},
}
# One sample as it waits in the database: NaN where not observed, site a number in the batch's
# list of sites, from 1, or 0.
ROW = np.dtype([("at", "<i8"), ("site", "<i4"), *((name, "<f4") for name in MEASURES)])


@dataclass(frozen=True, slots=True)
class Opened:
    """A batch that keeps to the format.

    rows : its samples, dtype ROW
    extras : its applications and disk_reads as sent, and the codes of its sites; without what
        there is none of
    """

    batch_id: UUID
    server_id: str
    version: str
    rows: np.ndarray
    extras: dict[str, list[Any]]


def open_batch(
    body: bytes, content_encoding: str, *, site_of: Callable[[str], str | None]
) -> Opened:
    """Unpack and check one delivery; raises Refused.

    site_of : client address → the site's code, None where it is not known
    """
    text = _unpacked(body, content_encoding)
    try:
        batch = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refused(400, "malformed_json", f"The body is not JSON: {error}"[:200]) from None
    try:
        batch_id, server_id, version = _checked(batch)
    except _Malformed as error:
        raise Refused(400, "malformed_batch", str(error)[:200]) from None
    samples = batch.get("samples", {"at": []})
    sites, site = _sites(samples.get("address") or (), site_of)
    extras: dict[str, list[Any]] = {
        name: [{key: clean(item[key]) for key, clean in KEPT[name].items()} for item in batch[name]]
        for name in KEPT
        if batch.get(name)
    }
    if sites:
        extras["sites"] = sites
    return Opened(batch_id, server_id, version, _rows(samples, site), extras)


def _sites(
    addresses: Sequence[str | None], site_of: Callable[[str], str | None]
) -> tuple[list[str], list[int] | int]:
    found = {text: site_of(text) for text in set(addresses) if text}
    codes = sorted({code for code in found.values() if code is not None})
    if not codes:
        return [], 0
    number = {code: n for n, code in enumerate(codes, start=1)}
    number_of = {text: number[code] if code else 0 for text, code in found.items()}
    return codes, [number_of.get(text, 0) if text else 0 for text in addresses]


def _rows(samples: Mapping[str, Any], site: list[int] | int) -> np.ndarray:
    rows = np.empty(len(samples["at"]), dtype=ROW)
    rows["at"], rows["site"] = samples["at"], site
    with np.errstate(over="ignore"):  # too large for single precision: infinite, refused by row
        for name in MEASURES:
            values = samples.get(name)
            rows[name] = np.nan if values is None else np.array(values, dtype=np.float64)
    return rows


def _unpacked(body: bytes, content_encoding: str) -> bytes:
    if len(body) > MOST_SENT_BYTES:
        raise Refused(413, "too_large", f"A batch has at most {MOST_SENT_BYTES:,} bytes.")
    encoding = content_encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise Refused(415, "unsupported_encoding", "Content-Encoding is gzip or nothing.")
    unpacker = zlib.decompressobj(GZIP)
    try:
        text = unpacker.decompress(body, MOST_UNPACKED_BYTES + 1)
    except zlib.error as error:
        raise Refused(400, "malformed_gzip", f"The gzip data is damaged: {error}"[:200]) from None
    if len(text) > MOST_UNPACKED_BYTES:
        raise Refused(413, "too_large", f"Unpacked, more than {MOST_UNPACKED_BYTES:,} bytes.")
    if not unpacker.eof or unpacker.unused_data:
        raise Refused(400, "malformed_gzip", "The gzip data ends early or goes on after its end.")
    return text


class _Malformed(ValueError):
    """The JSON is not a batch."""


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise _Malformed(message)


def _checked(batch: Any) -> tuple[UUID, str, str]:
    _need(isinstance(batch, dict), "an object is wanted")
    try:
        batch_id = UUID(str(batch.get("batch_id")))
    except ValueError:
        raise _Malformed("batch_id is not a UUID") from None
    server_id, version = batch.get("server_id"), batch.get("agent", "")
    _need(isinstance(server_id, str) and 0 < len(server_id) <= 64, "server_id is missing")
    _need(isinstance(version, str) and len(version) <= 20, "agent is no version")
    samples = batch.get("samples", {"at": []})
    _need(isinstance(samples, dict), "samples is not an object")
    _check_samples(samples)
    for name, most, check in (
        ("applications", MOST_APPLICATIONS, _check_application),
        ("disk_reads", MOST_DISK_DAYS, _check_disk_read),
    ):
        items = batch.get(name, [])
        _need(isinstance(items, list) and len(items) <= most, f"{name}: a list of up to {most}")
        for item in items:
            _need(isinstance(item, dict), f"{name}: not an object")
            check(item)
    return batch_id, server_id, version


def _check_samples(samples: Mapping[str, Any]) -> None:
    at = samples.get("at")
    _need(isinstance(at, list), "samples.at is missing")
    _need(len(at) <= MOST_SAMPLES, f"more than {MOST_SAMPLES:,} samples")
    _need(set(map(type, at)) <= {int}, "samples.at: whole seconds since 1970 are wanted")
    _need(not at or (min(at) >= -INT64 and max(at) < INT64), "samples.at: too large")
    for name, kinds in (*((name, NUMBER) for name in MEASURES), ("address", TEXT)):
        values = samples.get(name)
        if values is None:
            continue
        _need(
            isinstance(values, list) and len(values) == len(at),
            f"samples.{name}: a list as long as samples.at is wanted",
        )
        wrong = set(map(type, values)) - kinds
        _need(not wrong, f"samples.{name}: {', '.join(t.__name__ for t in wrong)} among the values")


def _check_application(item: Mapping[str, Any]) -> None:
    hour, name, cpu = item.get("hour"), item.get("application"), item.get("cpu_core_s")
    _need(type(hour) is int and 0 <= hour < 1 << 40, "applications.hour is no time")
    _need(hour % HOUR_S == 0, "applications.hour is no full hour")
    _need(
        isinstance(name, str) and 0 < len(name) <= 80 and name.isprintable(),
        "applications.application is no name",
    )
    _need(type(cpu) in (int, float), "applications.cpu_core_s is no number")
    _need(0 <= cpu <= HOUR_S * 1024, "applications.cpu_core_s is beyond belief")


def _check_disk_read(item: Mapping[str, Any]) -> None:
    size, extents, read = (item.get(name) for name in ("extent_bytes", "extents", "read_bytes"))
    try:
        date.fromisoformat(str(item.get("day")))
    except ValueError:
        raise _Malformed("disk_reads.day is no date") from None
    _need(type(size) is int and 4096 <= size <= 1 << 32, "disk_reads.extent_bytes is no size")
    _need(isinstance(extents, list) and isinstance(read, list), "disk_reads: lists are wanted")
    _need(len(extents) == len(read) <= MOST_EXTENTS, "disk_reads: lists of one length are wanted")
    _need(set(map(type, (*extents, *read))) <= {int}, "disk_reads: whole numbers are wanted")
    _need(all(0 <= each < 1 << 31 for each in extents), "disk_reads.extents: out of range")
    _need(len(set(extents)) == len(extents), "disk_reads.extents: one of them occurs twice")
    _need(all(0 <= each < 1 << 50 for each in read), "disk_reads.read_bytes: out of range")
