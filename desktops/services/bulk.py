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
