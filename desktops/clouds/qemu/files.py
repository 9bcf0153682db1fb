"""Disks as files: made by processes that outlive whoever asked for them, or piece by piece."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from desktops.core.cloud import CloudUnavailable

PIECE = 8 << 20

# Only one at a time makes a file, and it appears when it is whole.
_MAKE = """
out=$1; shift
exec 9>"$out.lock"
flock --nonblock 9 || exit 0
test -e "$out" && exit 0
rm -f "$out.failed"
if "$@" 2>"$out.said" && sync "$out.part"
then mv "$out.part" "$out"
else rm -f "$out.part"; mv "$out.said" "$out.failed"
fi
rm -f "$out.said"
"""


def make(path: Path, *command: str | Path) -> None:
    """Have a process of its own run the command, which writes `part(path)`, and name it `path`."""
    words = [str(word) for word in ("sh", "-c", _MAKE, "make", path, *command)]
    try:
        subprocess.run(
            ["setsid", "--fork", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CloudUnavailable(f"setsid does not run: {error}") from error


def part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def why_not(path: Path) -> str | None:
    """What was complained of when the file could not be made; None: nothing yet."""
    try:
        return path.with_name(f"{path.name}.failed").read_text(errors="replace").strip() or "failed"
    except FileNotFoundError:
        return None


def blank(path: Path, size: int) -> None:
    """A file of holes, which appears when it is whole. One that is there is left alone."""
    if not path.exists():
        with part(path).open("wb") as file:
            file.truncate(size)
            os.fsync(file.fileno())
        part(path).replace(path)


def extents(file: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where there is data between two offsets, as (start, end)."""
    while start < end:
        try:
            start = os.lseek(file, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        stop = os.lseek(file, start, os.SEEK_HOLE)
        if start < end:
            yield start, min(stop, end)
        start = stop


def data_bytes(path: Path) -> int:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return sum(end - start for start, end in extents(file.fileno(), 0, size))


def copy_piece(source: Path, dest: Path, offset: int, most: int) -> tuple[int, int]:
    """Copies up to `most` bytes of data from the offset on. Returns where it got, and how many."""
    copied = 0
    with source.open("rb") as reader, dest.open("r+b") as writer:
        size = os.fstat(reader.fileno()).st_size
        for start, end in extents(reader.fileno(), offset, size):
            while start < end and copied < most:
                body = os.pread(reader.fileno(), min(PIECE, end - start, most - copied), start)
                os.pwrite(writer.fileno(), body, start)
                start += len(body)
                copied += len(body)
            if copied >= most:
                size = start
                break
        os.fdatasync(writer.fileno())
    return size, copied


def copy_boot(source: Path, dest: Path) -> None:
    """The folder of what a disk is booted by, where there is one."""
    if source.is_dir():
        unfinished = dest.with_name(f"{dest.name}.part")
        with suppress(FileNotFoundError):
            shutil.rmtree(unfinished)
        shutil.copytree(source, unfinished)
        with suppress(FileNotFoundError):
            shutil.rmtree(dest)
        unfinished.rename(dest)
