"""What an admin can say about a file, and what every format answers to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from desktops.core.metros import Metro, bundled_metros
from desktops.sources.samples import Rejections, Samples

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """columns : our column → the file's name for it (csv, parquet)
    metros : the places a position can become (gowalla)
    stamp_offset_s : added to the file's stamps (gowalla)
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    metros: tuple[Metro, ...] = field(default_factory=bundled_metros)
    stamp_offset_s: int = 28_800


class FileFormat(Protocol):
    """One way in which activity is written down; a module of this package.

    ROW : what a row is called in messages
    IDS_ARE_ANONYMOUS : people's ids are pseudonyms already, and kept as they are
    OPTIONS : the fields of ReadOptions that it heeds
    """

    ROW: str
    IDS_ARE_ANONYMOUS: bool
    OPTIONS: frozenset[str]

    def files(self, path: Path) -> list[Path]:
        """The files to import one by one; raises InvalidFile when there is none."""

    def read(
        self, path: Path, options: ReadOptions, rejections: Rejections, advance: Advance
    ) -> Iterator[Samples]:
        """The file's samples in stretches that fit in memory; raises InvalidFile.

        Counts every row, and rows it cannot read, in `rejections`; calls `advance` with the bytes
        of the file it has read.
        """
