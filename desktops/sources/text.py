"""Text files of any size: blocks of whole lines, and tables of them.

A row is a line: values cannot hold line ends. Compression is recognised by content, not by name.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from desktops.errors import InvalidFile
from desktops.sources.samples import IntArray, Labels, Rejections

BLOCK_BYTES = 4 << 20
LONGEST_LINE = 1 << 16
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a file; first_line is the number of the first, from 1."""

    first_line: int
    data: bytes

    @property
    def n_lines(self) -> int:
        return self.data.count(b"\n")


class _Metered(io.FileIO):
    """Tells how many bytes of the file were read, for a progress bar."""

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        super().__init__(path)
        self._advance = advance

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]
        n = super().readinto(buffer)
        self._advance(n or 0)
        return n


def blocks(path: Path, advance: Callable[[int], None]) -> Iterator[Block]:
    """The file's lines in order, a few megabytes at a time.

    Raises InvalidFile, with the line, for compression that ends early or is damaged, for a last
    line without its end, and for a line of absurd length.
    """
    line = 1
    rest = b""
    with io.BufferedReader(_Metered(path, advance), BLOCK_BYTES) as raw:
        source = _unpacked(raw)
        while True:
            data, fault = _read_block(source)
            whole, end, partial = (rest + data).rpartition(b"\n")
            if end:
                block = Block(line, whole + end)
                yield block
                line += block.n_lines
            rest = partial
            if fault:
                raise InvalidFile(f"{path.name} line {line}: {fault}")
            if len(rest) > LONGEST_LINE:
                raise InvalidFile(f"{path.name} line {line}: longer than {LONGEST_LINE:,} bytes")
            if not data:
                break
    if rest:
        raise InvalidFile(
            f"{path.name} line {line}: the file ends inside this line; is it truncated?"
        )


def _unpacked(raw: io.BufferedReader) -> gzip.GzipFile | io.BufferedReader:
    magic = raw.peek(4)[:4]
    if magic.startswith(GZIP_MAGIC):
        return gzip.GzipFile(fileobj=raw)
    if magic == ZSTD_MAGIC:
        return io.BufferedReader(_Zstd(raw), BLOCK_BYTES)
    return raw


class _Zstd(io.RawIOBase):
    """Arrow's reader of zstd, as Python's own files are: it ends early without saying so."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self._raw = raw
        self._stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            data = self._stream.read(len(buffer))
        except OSError as error:
            if "Truncated" in str(error):
                raise EOFError from None
            raise zlib.error(str(error)[:80]) from None
        buffer[: len(data)] = data
        return len(data)


def _read_block(source: gzip.GzipFile | io.BufferedReader) -> tuple[bytes, str]:
    """Up to BLOCK_BYTES, and what is wrong with what follows them."""
    parts: list[bytes] = []
    size = 0
    try:
        while size < BLOCK_BYTES and (part := source.read1(BLOCK_BYTES - size)):
            parts.append(part)
            size += len(part)
    except EOFError:
        return b"".join(parts), "the compressed data ends early; is the file truncated?"
    except (gzip.BadGzipFile, zlib.error) as error:
        return b"".join(parts), f"the compressed data is damaged ({error})"
    return b"".join(parts), ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a block with the right number of values, as text; blanks around values are gone."""

    lines: IntArray
    columns: dict[str, pa.Array]

    def __len__(self) -> int:
        return len(self.lines)


def parse(block: Block, names: Sequence[str], *, delimiter: str, rejections: Rejections) -> Table:
    """The block's rows; those with too few or too many values are added to `rejections`."""
    data = block.data.decode("utf-8", errors="replace").encode()
    # One of its own inside a line would be a line end to the reader, and lines would not add up.
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b" ")
    n_lines = block.n_lines
    rejections.rows += n_lines
    rows = _parse_at_once(data, names, delimiter) or _parse_by_line(data, names, delimiter)
    at = np.arange(n_lines)
    ends_short = any(row == n_lines - 1 and n < len(names) for row, n in rows.wrong[-1:])
    rejections.short_end = block.first_line + n_lines - 1 if ends_short else 0
    if rows.wrong:
        wrong = np.array([row for row, _ in rows.wrong])
        at = np.delete(at, wrong)
        rejections.add_all(
            block.first_line + wrong,
            lambda n: f"{rows.wrong[n][1]} values, not {len(names)}",
        )
    return Table(block.first_line + at, rows.columns)


@dataclass(frozen=True, slots=True)
class _Rows:
    """wrong : (row, number of values) of those with another number than there are columns"""

    columns: dict[str, pa.Array]
    wrong: list[tuple[int, int]]


def _parse_at_once(data: bytes, names: Sequence[str], delimiter: str) -> _Rows | None:
    """Fast. None when a stray quotation mark would swallow the lines after it."""
    wrong: list[tuple[int, int]] = []

    def on_wrong(row: pa.csv.InvalidRow) -> str:
        wrong.append((row.number - 1, row.actual_columns))
        return "skip"

    try:
        table = pa.csv.read_csv(
            pa.BufferReader(data),
            pa.csv.ReadOptions(
                column_names=list(names), use_threads=False, block_size=len(data) + 1
            ),
            pa.csv.ParseOptions(
                delimiter=delimiter, ignore_empty_lines=False, invalid_row_handler=on_wrong
            ),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows + len(wrong) != data.count(b"\n"):
        return None
    return _Rows({name: _trimmed(table[name].combine_chunks()) for name in names}, wrong)


def _parse_by_line(data: bytes, names: Sequence[str], delimiter: str) -> _Rows:
    """Slow: every line on its own, so that one with a fault harms no other."""
    rows, wrong = [], []
    for number, line in enumerate(data.decode().split("\n")[:-1]):
        values = _split(line, delimiter) or [""] * len(names)
        if len(values) == len(names):
            rows.append(values)
        else:
            wrong.append((number, len(values)))
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    return _Rows(
        {
            name: _trimmed(pa.array(values, pa.string()))
            for name, values in zip(names, columns, strict=True)
        },
        wrong,
    )


def _split(line: str, delimiter: str) -> list[str]:
    if len(line) > LONGEST_LINE:
        return [line]
    return next(csv.reader([line], delimiter=delimiter), [])


def _trimmed(column: pa.Array) -> pa.Array:
    return pc.utf8_trim_whitespace(column)


def labels(column: pa.Array) -> Labels:
    """Text as labels; empty is nothing."""
    encoded = pc.if_else(pc.equal(column, ""), None, column).dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return Labels(tuple(encoded.dictionary.to_pylist()), codes)
