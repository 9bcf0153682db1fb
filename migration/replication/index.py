"""Hashes of what a volume held at its last recovery point.

Blocks are grouped into superblocks. A superblock has one hash of all its content, by which a scan
passes over what did not change, and a page with the hash of each of its blocks. Zeros have the
hash zero, so that the index of a sparse volume is sparse as well.

File: 4096 bytes of header (JSON, padded with NUL); the table, 16 bytes a superblock; the pages,
16 bytes a block. It stays on disk: a page is read when its superblock has changed.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from migration.replication.errors import Refused, VolumeFailed

Digests = npt.NDArray[np.uint64]  # shape (n, 2)
DIGEST_BYTES = 16
HEADER_BYTES = 4096
FORMAT = 1
BLOCK_BYTES = (512, 1 << 20)
MOST_SUPER_BYTES = 16 << 20


@dataclass(frozen=True)
class Layout:
    """How a volume is cut.

    size : bytes
    block_bytes : what is sent when any of it changed
    blocks_per_super : blocks looked at together
    """

    size: int
    block_bytes: int = 4096
    blocks_per_super: int = 256

    def check(self) -> None:
        """Raises Refused for a cut that no end can work with."""
        least, most = BLOCK_BYTES
        if not least <= self.block_bytes <= most or self.block_bytes & (self.block_bytes - 1):
            raise Refused(
                f"Blocks cannot have {self.block_bytes} bytes: a power of two is needed, "
                f"{least} to {most}."
            )
        if self.blocks_per_super < 1 or self.super_bytes > MOST_SUPER_BYTES:
            raise Refused(f"{self.blocks_per_super} blocks cannot make a superblock.")
        if self.size <= 0 or self.n_blocks >= 1 << 32:
            raise Refused(
                f"A volume of {self.size} bytes cannot be cut into blocks of {self.block_bytes}."
            )

    @property
    def super_bytes(self) -> int:
        return self.block_bytes * self.blocks_per_super

    @property
    def n_supers(self) -> int:
        return -(-self.size // self.super_bytes)

    @property
    def n_blocks(self) -> int:
        """Those of the last superblock that lie beyond the end included."""
        return self.n_supers * self.blocks_per_super


class Hasher:
    """XXH3-128 with a seed of the volume's own: whoever writes into a volume does not know it, so
    cannot prepare two blocks that are taken for one another."""

    def __init__(self, layout: Layout, seed: int) -> None:
        self.layout, self.seed = layout, seed
        self._zero_block = self._digest(bytes(layout.block_bytes))
        self._zero_super = self._digest(bytes(layout.super_bytes))

    def blocks(self, content: memoryview | bytes) -> Digests:
        """Of each whole block in the content."""
        size, seed, digest = self.layout.block_bytes, self.seed, xxhash.xxh3_128_digest
        view = memoryview(content)
        joined = b"".join([digest(view[at : at + size], seed) for at in range(0, len(view), size)])
        digests = np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)
        return np.where((digests == self._zero_block).all(axis=1)[:, None], np.uint64(0), digests)

    def superblock(self, content: memoryview | bytes) -> Digests:
        """Shape (2,)."""
        digest = self._digest(content)
        return np.zeros_like(digest) if (digest == self._zero_super).all() else digest

    def _digest(self, content: memoryview | bytes) -> Digests:
        return np.frombuffer(xxhash.xxh3_128_digest(content, self.seed), dtype=np.uint64)


@dataclass(frozen=True)
class Header:
    """seed : of the hashes; generation : number of the recovery point, None while it is changed"""

    seed: int
    generation: int | None
    layout: Layout

    def to_bytes(self) -> bytes:
        values = {"format": FORMAT, "seed": self.seed, "generation": self.generation}
        return json.dumps(values | asdict(self.layout)).encode().ljust(HEADER_BYTES, b"\0")

    @classmethod
    def from_bytes(cls, data: bytes) -> Header:
        values: dict[str, Any] = json.loads(data.rstrip(b"\0"))
        if values.pop("format") != FORMAT:
            raise ValueError("of another format")
        seed, generation = values.pop("seed"), values.pop("generation")
        return cls(seed, generation, Layout(**values))


class BlockIndex:
    """table : shape (n_supers, 2), hash of each superblock"""

    def __init__(self, path: Path, file: int, header: Header) -> None:
        self.path, self._file, self.header = path, file, header
        n_bytes = header.layout.n_supers * DIGEST_BYTES
        data = os.pread(file, n_bytes, HEADER_BYTES).ljust(n_bytes, b"\0")
        self.table = np.frombuffer(bytearray(data), dtype=np.uint64).reshape(-1, 2)
        self._page_bytes = header.layout.blocks_per_super * DIGEST_BYTES
        self._pages_at = HEADER_BYTES + -(-n_bytes // HEADER_BYTES) * HEADER_BYTES

    @classmethod
    def create(cls, path: Path, layout: Layout, seed: int, generation: int | None) -> BlockIndex:
        """The index of a volume of zeros."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        header = Header(seed, generation, layout)
        os.pwrite(file, header.to_bytes(), 0)
        return cls(path, file, header)

    @classmethod
    def open(cls, path: Path) -> BlockIndex:
        """Raises VolumeFailed where there is none, or none that can be understood."""
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError as error:
            raise VolumeFailed(f"{path} does not exist.") from error
        try:
            header = Header.from_bytes(os.pread(file, HEADER_BYTES, 0))
        except (ValueError, KeyError, TypeError) as error:
            os.close(file)
            raise VolumeFailed(f"{path} is not an index of blocks: {error}.") from error
        return cls(path, file, header)

    @property
    def layout(self) -> Layout:
        return self.header.layout

    def page(self, number: int) -> Digests:
        """Hashes of the blocks of a superblock, shape (blocks_per_super, 2)."""
        at = self._pages_at + number * self._page_bytes
        data = os.pread(self._file, self._page_bytes, at).ljust(self._page_bytes, b"\0")
        return np.frombuffer(data, dtype=np.uint64).reshape(-1, 2)

    def put(self, number: int, digest: Digests, page: Digests) -> None:
        """Change a superblock; the index is of no generation until `seal` says of which."""
        if self.header.generation is not None:
            self._write_header(None)
        self.table[number] = digest
        os.pwrite(self._file, digest.tobytes(), HEADER_BYTES + number * DIGEST_BYTES)
        os.pwrite(self._file, page.tobytes(), self._pages_at + number * self._page_bytes)

    def forget(self) -> None:
        """The volume is not known to hold what the index says."""
        self._write_header(None)

    def seal(self, generation: int) -> None:
        """The changes make a recovery point; it outlives a power failure."""
        os.fsync(self._file)
        self._write_header(generation)

    def _write_header(self, generation: int | None) -> None:
        self.header = Header(self.header.seed, generation, self.layout)
        os.pwrite(self._file, self.header.to_bytes(), 0)
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)
