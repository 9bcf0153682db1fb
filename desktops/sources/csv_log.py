"""Comma-separated activity logs with a header, plain or gzip (docs/import.md)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from desktops.errors import InvalidFile
from desktops.sources.columns import find_columns, to_samples
from desktops.sources.options import Advance, ReadOptions
from desktops.sources.samples import Rejections, Samples
from desktops.sources.text import Block, blocks, parse

ROW = "line"
IDS_ARE_ANONYMOUS = False
OPTIONS = frozenset({"columns"})


def files(path: Path) -> list[Path]:
    return [path]


def read(
    path: Path, options: ReadOptions, rejections: Rejections, advance: Advance
) -> Iterator[Samples]:
    names: list[str] = []
    found: dict[str, str] = {}
    for block in blocks(path, advance):
        if not names:
            header, _, data = block.data.partition(b"\n")
            names = _names(header, path)
            found = find_columns(names, options.columns, f"{path.name} line 1")
            block = Block(2, data)
        if block.data:
            table = parse(block, names, delimiter=",", rejections=rejections)
            yield to_samples(table.lines, table.columns.__getitem__, found, rejections)


def _names(header: bytes, path: Path) -> list[str]:
    text = header.decode("utf-8-sig", errors="replace").rstrip("\r")
    names = [name.strip() for name in next(csv.reader([text]), [])]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidFile(f"{path.name} line 1: the column {repeated[0]!r} occurs twice")
    return names
