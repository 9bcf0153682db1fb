"""What agents send (docs/sources/agent.md): checked whole at the door, read by columns behind it.

A batch that does not keep to the format is refused as a whole, with the reason, and nothing of it
is kept; a value that keeps to it but cannot be true costs its own row alone, later.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from desktops.errors import Refused
from desktops.sources.samples import MEASURES, FloatArray, IntArray

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


@dataclass(frozen=True, slots=True)
class Opened:
    """A batch that keeps to the format. body : its JSON on one line"""

    batch_id: UUID
    server_id: str
    version: str
    body: bytes


def open_batch(body: bytes, content_encoding: str) -> Opened:
    """Unpack and check one delivery; raises Refused."""
    text = _unpacked(body, content_encoding)
    try:
        batch = json.loads(text, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "malformed_json", f"The body is not JSON: {error}"[:200]) from None
    try:
        opened = _checked(batch)
    except _Malformed as error:
        raise Refused(400, "malformed_batch", str(error)[:200]) from None
    # A line end inside a string would not be JSON: these stand between values.
    return Opened(*opened, text.replace(b"\n", b" ").replace(b"\r", b" "))


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


def _not_json(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


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
    _need(all(-INT64 <= moment < INT64 for moment in at), "samples.at: too large")
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


_SCHEMA = pa.schema(
    [
        (
            "samples",
            pa.struct(
                [
                    ("at", pa.list_(pa.int64())),
                    *((name, pa.list_(pa.float64())) for name in MEASURES),
                    ("address", pa.list_(pa.string())),
                ]
            ),
        ),
        (
            "applications",
            pa.list_(
                pa.struct(
                    [
                        ("hour", pa.int64()),
                        ("application", pa.string()),
                        ("cpu_core_s", pa.float64()),
                    ]
                )
            ),
        ),
        (
            "disk_reads",
            pa.list_(
                pa.struct(
                    [
                        ("day", pa.string()),
                        ("extent_bytes", pa.int64()),
                        ("extents", pa.list_(pa.int64())),
                        ("read_bytes", pa.list_(pa.int64())),
                    ]
                )
            ),
        ),
    ]
)


@dataclass(frozen=True, slots=True)
class Batches:
    """Many batches as columns.

    batch, unix_s : (samples,), which batch each sample is of, and when it was taken
    measures : name → (samples,), NaN where not observed
    addresses, address : the distinct client addresses, and (samples,) which, -1 for none
    applications, disk_reads : (batch, item) each
    """

    batch: IntArray
    unix_s: IntArray
    measures: dict[str, FloatArray]
    addresses: tuple[str, ...]
    address: IntArray
    applications: list[tuple[int, dict[str, Any]]]
    disk_reads: list[tuple[int, dict[str, Any]]]


def read_batches(bodies: Sequence[bytes]) -> Batches:
    """Columns of batches that were opened before: every body is one line of checked JSON."""
    try:
        table = _table(b"\n".join(bodies) + b"\n")
    except pa.ArrowInvalid:
        # A number that JSON allows and Arrow does not hold; rare, so the slow way will do.
        table = _table(b"\n".join(_plain(body) for body in bodies) + b"\n")
    samples = table["samples"].combine_chunks()
    at = samples.field("at")
    lengths = pc.fill_null(pc.list_value_length(at), 0).to_numpy(zero_copy_only=False)
    n = int(lengths.sum())
    measures = {}
    for name in MEASURES:
        values = _spread(samples.field(name), lengths)
        if values is not None:
            measures[name] = values.to_numpy(zero_copy_only=False)
    addresses, address = (), np.full(n, -1)
    texts = _spread(samples.field("address"), lengths)
    if texts is not None:
        encoded = texts.dictionary_encode()
        addresses = tuple(encoded.dictionary.to_pylist())
        address = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return Batches(
        np.repeat(np.arange(len(bodies)), lengths),
        at.flatten().to_numpy(zero_copy_only=False).astype(np.int64),
        measures,
        addresses,
        address,
        _items(table["applications"]),
        _items(table["disk_reads"]),
    )


def _table(lines: bytes) -> pa.Table:
    return pa.json.read_json(
        pa.BufferReader(lines),
        pa.json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        pa.json.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="ignore"),
    )


def _plain(body: bytes) -> bytes:
    """The batch with numbers beyond any belief as the largest there is, to be refused by row."""
    batch = json.loads(body, parse_int=_bounded_int, parse_float=_bounded_float)
    return json.dumps(batch).encode()


def _bounded_int(text: str) -> int | float:
    value = int(text) if len(text) < 25 else math.copysign(1e300, -1 if text[0] == "-" else 1)
    return value if -INT64 <= value < INT64 else math.copysign(1e300, value)


def _bounded_float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else math.copysign(1e300, value)


def _spread(lists: pa.Array, lengths: np.ndarray) -> pa.Array | None:
    """All values one after the other, null for the batches that do not have the list."""
    if lists.null_count == len(lists):
        return None
    if not lists.null_count:
        return lists.flatten()
    filled = [
        values if values is not None else [None] * n
        for values, n in zip(lists.to_pylist(), lengths, strict=True)
    ]
    return pa.array([value for values in filled for value in values], lists.type.value_type)


def _items(column: pa.ChunkedArray) -> list[tuple[int, dict[str, Any]]]:
    lists = column.combine_chunks()
    if lists.null_count == len(lists):
        return []
    return [(n, item) for n, items in enumerate(lists.to_pylist()) for item in items or ()]
