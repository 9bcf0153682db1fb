"""Which blocks an unfinished pass has brought: what survives when an end dies.

One record a frame: number of blocks (4 bytes, little-endian), their numbers (4 bytes each), the
hashes of their content (16 bytes each), XXH3-64 of all that (8 bytes). A record that is cut short
or does not match its checksum was being written when its writer died, and ends the journal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from migration.replication.index import DIGEST_BYTES, Digests

Blocks = npt.NDArray[np.int64]
NUMBER_BYTES, CHECKSUM_BYTES = 4, 8


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._end = 0
        for _ in self._records():
            pass
        os.truncate(self._file, self._end)

    @property
    def is_empty(self) -> bool:
        return self._end == 0

    def append(self, blocks: Blocks, digests: Digests) -> None:
        """Not durable before `flush`."""
        number = len(blocks).to_bytes(NUMBER_BYTES, "little")
        record = number + blocks.astype("<u4").tobytes() + digests.tobytes()
        record += xxhash.xxh3_64_digest(record)
        os.pwrite(self._file, record, self._end)
        self._end += len(record)

    def flush(self) -> None:
        os.fdatasync(self._file)

    def __iter__(self) -> Iterator[tuple[Blocks, Digests]]:
        """Blocks, shape (n,), and hashes, shape (n, 2), of each record from the first."""
        return self._records()

    def _records(self) -> Iterator[tuple[Blocks, Digests]]:
        at, size = 0, os.fstat(self._file).st_size
        while at + NUMBER_BYTES <= size:
            n = int.from_bytes(os.pread(self._file, NUMBER_BYTES, at), "little")
            length = NUMBER_BYTES + n * (4 + DIGEST_BYTES)
            if at + length + CHECKSUM_BYTES > size:
                return
            record = os.pread(self._file, length, at)
            checksum = os.pread(self._file, CHECKSUM_BYTES, at + length)
            if xxhash.xxh3_64_digest(record) != checksum:
                return
            at += length + CHECKSUM_BYTES
            self._end = max(self._end, at)
            yield (
                np.frombuffer(record, "<u4", n, NUMBER_BYTES).astype(np.int64),
                np.frombuffer(record, np.uint64, 2 * n, NUMBER_BYTES + 4 * n).reshape(-1, 2),
            )

    def close(self) -> None:
        os.close(self._file)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.close()
