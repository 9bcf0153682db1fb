"""Where on a volume a content was seen, so that a copy of it need not be sent.

A hint: two slots for every content, chosen by its hash, written without looking; what is found is
held against the index. The file is sparse, and no larger than MOST_SLOTS makes it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from migration.replication.index import Digests

# 2 x 4 Mi slots of 8 bytes, 64 MiB: the contents of 32 GiB, beyond which the older are forgotten.
MOST_SLOTS = 1 << 22
WAYS = 2
Blocks = npt.NDArray[np.int64]


class ContentPlaces:
    """Slots hold 32 bits of the hash and the number of the block, plus one."""

    def __init__(self, path: Path, n_blocks: int) -> None:
        n_slots = min(1 << max(n_blocks - 1, 1).bit_length(), MOST_SLOTS)
        shape = (WAYS, n_slots)
        is_there = path.exists() and path.stat().st_size == WAYS * n_slots * 8
        self._slots = np.memmap(path, dtype=np.uint64, mode="r+" if is_there else "w+", shape=shape)
        self._mask = np.uint64(n_slots - 1)

    def note(self, digests: Digests, blocks: Blocks) -> None:
        """digests : shape (n, 2), none of them zero; blocks : shape (n,), < 2 ** 32 - 1"""
        entry = _tag(digests) | (blocks.astype(np.uint64) + np.uint64(1))
        first, second = self._slots_of(digests)
        # A content seen before keeps the place of the last time only.
        taken = self._slots[0, first]
        is_taken = (taken != 0) & ((taken ^ entry) >> np.uint64(32) != 0)
        self._slots[0, first[~is_taken]] = entry[~is_taken]
        self._slots[1, second[is_taken]] = entry[is_taken]

    def find(self, digests: Digests) -> Blocks:
        """Where each content may be, -1 where nowhere is known; shape (WAYS, n)."""
        tag = _tag(digests) >> np.uint64(32)
        found = np.stack([self._slots[way, at] for way, at in enumerate(self._slots_of(digests))])
        is_hit = (found != 0) & (found >> np.uint64(32) == tag)
        block = (found & np.uint64(0xFFFFFFFF)).astype(np.int64) - 1
        return np.where(is_hit, block, -1)

    def _slots_of(self, digests: Digests) -> tuple[Digests, Digests]:
        return digests[:, 0] & self._mask, digests[:, 1] & self._mask


def _tag(digests: Digests) -> Digests:
    return digests[:, 0] >> np.uint64(32) << np.uint64(32)
