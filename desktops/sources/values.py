"""Text and Arrow columns to numbers and instants, refusing rows that hold something else."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from desktops.sources.samples import FloatArray, IntArray, Screen


def numbers(column: pa.Array, name: str, screen: Screen) -> FloatArray:
    """Values as float64, NaN where there is none; `column` is text or numeric."""
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), None, column)
    given = column.is_valid().to_numpy(zero_copy_only=False)
    try:
        values = column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        values = pa.array([_number(text) for text in column.to_pylist()], pa.float64())
    result: FloatArray = values.to_numpy(zero_copy_only=False).astype(np.float64)
    screen.refuse(
        given & ~np.isfinite(result),
        lambda n: f"{name} {_shown(column[n])} is not a finite number",
    )
    return result


def instants(column: pa.Array, name: str, screen: Screen) -> IntArray:
    """Whole seconds since 1970 UTC; `column` is text, numeric (seconds) or a UTC timestamp.

    Text is ISO 8601 with its offset from UTC, or seconds since 1970.
    """
    if pa.types.is_timestamp(column.type):
        seconds = column.cast(pa.timestamp("us", "UTC"), safe=False)
        unix_s = pc.divide(seconds.cast(pa.int64()), 1_000_000).cast(pa.float64())
        faults: dict[int, str] = {}
    else:
        unix_s, faults = _instants_at_once(column) or _instants_one_by_one(column)
    values = unix_s.to_numpy(zero_copy_only=False).astype(np.float64)
    bad = ~(np.abs(values) < 1e17)
    screen.refuse(bad, lambda n: f"{name} {_shown(column[n])} {faults.get(n, 'is not a time')}")
    return np.where(bad, 0, np.floor(values)).astype(np.int64)


def _instants_at_once(column: pa.Array) -> tuple[pa.Array, dict[int, str]] | None:
    for kind in (pa.float64(), pa.timestamp("us", "UTC")):
        try:
            values = column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
        if pa.types.is_timestamp(kind):
            values = pc.divide(values.cast(pa.int64()), 1_000_000).cast(pa.float64())
        return values, {}
    return None


def _instants_one_by_one(column: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    values: list[float | None] = []
    faults: dict[int, str] = {}
    for row, text in enumerate(column.to_pylist()):
        value = _number(text)
        if value is None:
            value, fault = _iso(text)
            if fault:
                faults[row] = fault
        values.append(value)
    return pa.array(values, pa.float64()), faults


def _iso(text: object) -> tuple[float | None, str]:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None, "is not a time"
    if moment.tzinfo is None:
        return None, "has no offset from UTC, such as Z or +02:00"
    return moment.timestamp(), ""


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def _shown(value: pa.Scalar) -> str:
    return f"{value.as_py()!r:.40}"
