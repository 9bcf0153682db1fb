"""What is replicated: bytes with a size, in a file or on a block device.

Reading and writing are by position, so that several threads can share one; a hole reads as zeros.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self

from migration.replication.errors import NoSpace, ReplicationError, VolumeFailed

# Of linux/falloc.h and linux/fs.h.
KEEP_SIZE, PUNCH_HOLE = 0x01, 0x02
BLKGETSIZE64, BLKZEROOUT = 0x80081272, 0x127F
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Volume(Protocol):
    """Positions and lengths are in bytes."""

    name: str
    size: int

    def read_into(self, buffer: memoryview, at: int) -> None:
        """Fill the buffer; what lies beyond the end reads as zeros."""

    def write(self, data: memoryview, at: int) -> None:
        """What lies beyond the end is dropped."""

    def zero(self, at: int, length: int) -> None: ...

    def reserve(self, at: int, length: int) -> None:
        """Make sure that writing there will not fail for want of room.

        Raises NoSpace, with nothing changed.
        """

    def flush(self) -> None:
        """Return when what was written would outlive a power failure."""

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Ranges (start, end) outside which everything is zero."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def open_volume(where: str, *, writable: bool = False, bitmap: str | None = None) -> Volume:
    """where : path of a file or device, or address of an NBD export; see `nbd`"""
    if where.startswith(("nbd://", "nbd+unix://")):
        from migration.replication.nbd import NbdVolume

        return NbdVolume(where, writable=writable, bitmap=bitmap)
    return FileVolume(Path(where), writable=writable)


def made_volume(where: str, size: int) -> Volume:
    """As `open_volume`, to be written to; a file is made, or brought to this size."""
    if where.startswith(("nbd://", "nbd+unix://")):
        return open_volume(where, writable=True)
    return FileVolume.create(Path(where), size)


def copy_range(source: Volume, to: Volume, at: int, length: int) -> int:
    """To the same position; the bytes copied, which may be fewer. Files of one file system that
    can share blocks will."""
    if isinstance(source, FileVolume) and isinstance(to, FileVolume):
        with _failures_of(to.name, at):
            try:
                if n := os.copy_file_range(source._file, to._file, length, at, at):
                    return n
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
    content = memoryview(bytearray(length))
    source.read_into(content, at)
    to.write(content, at)
    return length


class FileVolume:
    """A file, or a block device."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.name = str(path)
        self._file = -1
        with _failures_of(self.name):
            self._file = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
            self._is_device = stat.S_ISBLK(os.fstat(self._file).st_mode)
            self.size = self._measure()

    @classmethod
    def create(cls, path: Path, size: int) -> Self:
        """A file of zeros that takes no room yet; a longer or shorter one there is resized."""
        with _failures_of(str(path)):
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if not stat.S_ISBLK(os.fstat(file).st_mode):
                    os.truncate(file, size)
            finally:
                os.close(file)
        return cls(path, writable=True)

    def _measure(self) -> int:
        if not self._is_device:
            return os.fstat(self._file).st_size
        size = fcntl.ioctl(self._file, BLKGETSIZE64, bytes(8))
        return int(struct.unpack("Q", size)[0])

    def read_into(self, buffer: memoryview, at: int) -> None:
        wanted = max(min(len(buffer), self.size - at), 0)
        done = 0
        with _failures_of(self.name, at):
            while done < wanted:
                n = os.preadv(self._file, [buffer[done:wanted]], at + done)
                if n == 0:
                    raise VolumeFailed(
                        f"{self.name} ends at byte {at + done}, before its {self.size} bytes: "
                        "it was cut or taken away while it was read."
                    )
                done += n
        if wanted < len(buffer):
            buffer[wanted:] = bytes(len(buffer) - wanted)

    def write(self, data: memoryview, at: int) -> None:
        data = data[: max(self.size - at, 0)]
        with _failures_of(self.name, at):
            while data:
                n = os.pwrite(self._file, data, at)
                data, at = data[n:], at + n

    def zero(self, at: int, length: int) -> None:
        length = min(length, self.size - at)
        if length <= 0:
            return
        with _failures_of(self.name, at):
            if self._is_device:
                fcntl.ioctl(self._file, BLKZEROOUT, struct.pack("QQ", at, length))
            elif not self._allocate(KEEP_SIZE | PUNCH_HOLE, at, length):
                self.write(memoryview(bytes(length)), at)

    def reserve(self, at: int, length: int) -> None:
        length = min(length, self.size - at)
        if self._is_device or length <= 0:
            return
        with _failures_of(self.name, at):
            # Where a file system knows no reservation, the write itself will tell.
            self._allocate(KEEP_SIZE, at, length)

    def _allocate(self, mode: int, at: int, length: int) -> bool:
        """False where the file system cannot."""
        if _libc.fallocate(self._file, mode, at, length) == 0:
            return True
        number = ctypes.get_errno()
        if number in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise OSError(number, os.strerror(number))

    def flush(self) -> None:
        with _failures_of(self.name):
            os.fsync(self._file)

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        if self._is_device:
            yield 0, self.size
            return
        end = 0
        while end < self.size:
            try:
                start = os.lseek(self._file, end, os.SEEK_DATA)
                end = os.lseek(self._file, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole is left
                    return
                raise _translated(error, self.name, end) from error
            yield start, min(end, self.size)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MappedVolume(FileVolume):
    """A file that is looked through again and again, and never cut: its pages stay mapped."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with _failures_of(self.name):
            self._map = mmap.mmap(self._file, self.size, prot=mmap.PROT_READ)
        self._view = memoryview(self._map)

    def view(self, at: int, length: int) -> memoryview:
        """What is there at the moment, shorter at the end; it changes while it is looked at."""
        return self._view[at : at + length]

    def close(self) -> None:
        if self._file >= 0:
            self._view.release()
            self._map.close()
        super().close()


class _failures_of:
    """Turns an OSError of a volume into an error that names it."""

    def __init__(self, name: str, at: int | None = None) -> None:
        self.name, self.at = name, at

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise _translated(error, self.name, self.at) from error


def _translated(error: OSError, name: str, at: int | None) -> ReplicationError:
    where = name if at is None else f"{name}, byte {at}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"There is no room left for {where}.")
    return VolumeFailed(f"{where}: {error.strerror or error}.")
