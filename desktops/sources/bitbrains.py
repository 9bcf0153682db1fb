"""The Bitbrains trace of virtual machines (Grid Workloads Archive, GWA-T-12), one file each.

The header says that the stamps are milliseconds; they are seconds, UTC. KB are 1024 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from desktops.errors import InvalidFile
from desktops.sources.options import Advance, ReadOptions
from desktops.sources.samples import Labels, Rejections, Samples, Screen
from desktops.sources.text import Block, Table, blocks, parse
from desktops.sources.values import instants, numbers

ROW = "line"
IDS_ARE_ANONYMOUS = True
OPTIONS: frozenset[str] = frozenset()
KB = 1024.0
# In the order of the file.
COLUMNS = (
    "time",
    "cores",
    "capacity_mhz",
    "used_mhz",
    "used_percent",
    "memory_capacity_kb",
    "memory_kb",
    "read_kb_per_s",
    "written_kb_per_s",
    "received_kb_per_s",
    "sent_kb_per_s",
)


def files(path: Path) -> list[Path]:
    """The file itself, or a folder's (or its folder `vm`'s) *.csv and *.csv.gz by number."""
    if path.is_file():
        return [path]
    folder = path / "vm" if (path / "vm").is_dir() else path
    found = [*folder.glob("*.csv"), *folder.glob("*.csv.gz")]
    if not found:
        raise InvalidFile(f"{folder.name}: no file *.csv or *.csv.gz")
    return sorted(found, key=lambda file: (len(_machine(file)), _machine(file)))


def read(
    path: Path, options: ReadOptions, rejections: Rejections, advance: Advance
) -> Iterator[Samples]:
    for block in blocks(path, advance):
        if block.first_line == 1:
            header, _, data = block.data.partition(b"\n")
            if not header.startswith(b"Timestamp") or header.count(b";") != len(COLUMNS) - 1:
                raise InvalidFile(f"{path.name} line 1: not the header of a Bitbrains trace")
            block = Block(2, data)
        if block.data:
            table = parse(block, COLUMNS, delimiter=";", rejections=rejections)
            yield _samples(table, _machine(path), rejections)


def _machine(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".csv")


def _samples(table: Table, machine: str, rejections: Rejections) -> Samples:
    screen = Screen(table.lines, rejections)
    unix_s = instants(table.columns["time"], "Timestamp", screen)
    (cores, capacity, used, memory, read_kb, written_kb, received_kb, sent_kb) = (
        numbers(table.columns[name], name, screen) for name in (*COLUMNS[1:4], *COLUMNS[6:])
    )
    screen.refuse(
        (capacity <= 0) & (used > 0), lambda n: f"{used[n]:g} MHz used of {capacity[n]:g}"
    )
    per_core = np.divide(
        capacity, cores, out=np.ones_like(used), where=(capacity > 0) & (cores > 0)
    )
    n = len(table)
    samples = Samples(
        table.lines,
        unix_s,
        person=Labels.none(n),
        desktop=Labels.constant(machine, n),
        site=Labels.none(n),
        measures={
            "cpu_cores": used / per_core,
            "memory_bytes": KB * memory,
            "network_bytes_per_s": KB * (received_kb + sent_kb),
            "storage_bytes_per_s": KB * (read_kb + written_kb),
        },
    )
    return samples.take(screen.passed)
