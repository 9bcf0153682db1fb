"""Rows into PostgreSQL by COPY, column by column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from django.db import connection
from psycopg import sql

_CSV = pa.csv.WriteOptions(include_header=False)


def column(values: Any, kind: pa.DataType | None = None) -> pa.Array:
    """An Arrow column of a numpy array; NaN and None become NULL."""
    return pa.array(values, type=kind, from_pandas=True)


def hours(unix_s: np.ndarray) -> pa.Array:
    """A timestamptz column from seconds since 1970 UTC."""
    return pa.array(unix_s.astype("datetime64[s]"), pa.timestamp("s", tz="UTC"))


def copy_rows(table: str, columns: Mapping[str, pa.Array]) -> int:
    """COPY into `table` within the running transaction; returns the number of rows."""
    rows = pa.table(dict(columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        pa.csv.write_csv(rows, pa.PythonFile(_Sink(copy), mode="w"), _CSV)
    return rows.num_rows


# PostgreSQL's names of fixed-width types to what numpy writes of them in network order.
_FIXED = {"timestamptz": ">i8", "int8": ">i8", "float4": ">f4"}
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_EPOCH_2000_S = 946_684_800


def copy_fixed(table: str, columns: Mapping[str, tuple[str, np.ndarray]]) -> int:
    """COPY rows of fixed width into `table` within the running transaction, in binary.

    columns : name → (PostgreSQL's type, values of shape (n,)); no value is NULL, and timestamptz
        are whole seconds since 1970 UTC

    More than twice as fast as text: neither side makes or reads digits.
    Source: PostgreSQL documentation, COPY, "Binary Format".
    """
    n = len(next(iter(columns.values()))[1])
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    for name, (kind, _) in columns.items():
        fields += [(f"{name} size", ">i4"), (name, _FIXED[kind])]
    rows = np.empty(n, dtype=fields)
    rows["fields"] = len(columns)
    for name, (kind, values) in columns.items():
        rows[f"{name} size"] = rows.dtype[name].itemsize
        is_time = kind == "timestamptz"
        rows[name] = (values - _EPOCH_2000_S) * 1_000_000 if is_time else values
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(_HEADER)
        copy.write(memoryview(rows).cast("B") if n else b"")
        copy.write(_TRAILER)
    return n


class _Sink:
    """The file that Arrow writes to; hands everything on to COPY."""

    closed = False

    def __init__(self, copy: Any) -> None:
        self._copy = copy

    def write(self, data: Any) -> int:
        self._copy.write(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True
