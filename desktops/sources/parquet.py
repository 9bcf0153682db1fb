"""Parquet activity logs with the same columns as CSV (docs/import.md)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from desktops.errors import InvalidFile
from desktops.sources.columns import LABELS, find_columns, to_samples
from desktops.sources.options import Advance, ReadOptions
from desktops.sources.samples import Rejections, Samples

ROW = "row"
IDS_ARE_ANONYMOUS = False
OPTIONS = frozenset({"columns"})
BATCH_ROWS = 1 << 16


def files(path: Path) -> list[Path]:
    return [path]


def read(
    path: Path, options: ReadOptions, rejections: Rejections, advance: Advance
) -> Iterator[Samples]:
    try:
        with pq.ParquetFile(path) as file:
            yield from _read(file, path, options, rejections, advance)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise InvalidFile(
            f"{path.name} row {rejections.rows + 1}: not Parquet, damaged or truncated"
            f" ({first_line:.200})"
        ) from error


def _read(
    file: pq.ParquetFile,
    path: Path,
    options: ReadOptions,
    rejections: Rejections,
    advance: Advance,
) -> Iterator[Samples]:
    found = find_columns(file.schema_arrow.names, options.columns, path.name)
    _check_types(file.schema_arrow, found, path)
    bytes_per_row = path.stat().st_size / max(file.metadata.num_rows, 1)
    for batch in file.iter_batches(BATCH_ROWS, columns=list(found.values())):
        lines = np.arange(1, batch.num_rows + 1) + rejections.rows
        rejections.rows += batch.num_rows
        columns = {
            theirs: _plain(batch.column(theirs), is_text=ours in LABELS)
            for ours, theirs in found.items()
        }
        yield to_samples(lines, columns.__getitem__, found, rejections)
        advance(round(batch.num_rows * bytes_per_row))


def _check_types(schema: pa.Schema, found: dict[str, str], path: Path) -> None:
    time = schema.field(found["time"]).type
    if pa.types.is_timestamp(time) and time.tz is None:
        raise InvalidFile(f"{path.name}: the column {found['time']} has no time zone")
    for theirs in found.values():
        if pa.types.is_nested(schema.field(theirs).type):
            raise InvalidFile(f"{path.name}: the column {theirs} is a {schema.field(theirs).type}")


def _plain(column: pa.Array, *, is_text: bool) -> pa.Array:
    """Dictionaries undone; ids that are numbers as text."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_text or pa.types.is_large_string(column.type):
        column = column.cast(pa.string()).fill_null("")
    return column
