"""The shadows of a region, one folder each."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from migration.replication.errors import Busy, Refused
from migration.replication.index import BlockIndex, Layout
from migration.replication.shadow import Shadow, locked
from migration.replication.volume import copy_range, made_volume, open_volume

COPY_BYTES = 16 << 20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Store:
    """place_of : where the volume of a shadow is, by its name, asked whenever somebody is about to
    write to it; None for a file in the shadow's folder. Raises Refused for what may not be written
    """

    def __init__(
        self, folder: Path, place_of: Callable[[str], str | None] = lambda _name: None
    ) -> None:
        self._folder, self._place_of = folder, place_of
        folder.mkdir(parents=True, exist_ok=True)

    def knows(self, name: str) -> bool:
        return (self._folder / name / "shadow.json").exists()

    def folder_of(self, name: str) -> Path:
        return self._folder / name

    def promoted_volume(self, name: str) -> str:
        """Where the volume is on which a machine runs. Raises Refused for any other shadow."""
        if self.knows(name):
            facts = json.loads((self._folder / name / "shadow.json").read_text())
            if facts.get("is_promoted"):
                return str(facts["volume"])
        raise Refused(f"No machine was started on {name} here.")

    def open(self, name: str) -> Shadow:
        return Shadow.open(self._folder / name)

    def open_or_create(
        self, name: str, layout: Layout, base: str | None, alive: Callable[[], None]
    ) -> Shadow:
        """base : a shadow to begin with a copy of, if this one is new: whatever the two have in
        common, an image of an operating system for one, is not sent again"""
        folder = self._folder / name
        place = self._place_of(name)
        if self.knows(name):
            return Shadow.open(folder)
        volume = place or str(folder / "volume")
        if base is not None:
            folder.mkdir(exist_ok=True)
            self._copy(base, volume, layout.size, alive)
        return Shadow.create(folder, layout, volume)

    def sweep(self, is_wanted: Callable[[str], bool]) -> list[str]:
        """Forget the shadows that nobody wants and nobody works on; returns their names. Volumes
        that were given a place stay."""
        gone = []
        for folder in sorted(self._folder.iterdir()):
            if not folder.is_dir() or is_wanted(folder.name):
                continue
            try:
                lock = locked(folder)
            except Busy:
                continue
            try:
                shutil.rmtree(folder)
            finally:
                os.close(lock)
            gone.append(folder.name)
        return gone

    def _copy(self, base: str, volume: str, size: int, alive: Callable[[], None]) -> None:
        """Shares the blocks where the file system can. Others may copy the base meanwhile."""
        folder = self._folder / base
        if not (folder / "shadow.json").exists():
            raise Refused(f"There is no shadow {base} to begin with.")
        lock = locked(folder, fcntl.LOCK_SH)
        try:
            index = BlockIndex.open(folder / "index")
            index.close()
            if index.header.generation is None or (folder / "commit").exists():
                raise Busy(f"{base} is at no recovery point just now.")
            where = json.loads((folder / "shadow.json").read_text())["volume"]
            with open_volume(where) as source, made_volume(volume, size) as target:
                for start, end in source.data_ranges():
                    while start < min(end, size):
                        alive()
                        n = min(COPY_BYTES, min(end, size) - start)
                        start += copy_range(source, target, start, n)
        finally:
            os.close(lock)


def check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise Refused(f"{name!r} cannot be the name of a shadow.")
