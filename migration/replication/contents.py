"""Where on a volume a content was seen, so that a copy of it need not be sent.

A hint: some slots for every content, chosen by its hash; what is found there is held against the
index. The file is sparse, and no larger than MOST_SLOTS makes it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from migration.replication.index import Digests

# 4 x 2 Mi slots of 8 bytes, 64 MiB: most contents of 16 GiB, beyond which the older are forgotten.
WAYS = 4
MOST_SLOTS = 1 << 21
Blocks = npt.NDArray[np.int64]
NUMBER_BITS = np.uint64(32)


class ContentPlaces:
    """Slots hold 32 bits of the hash and the number of the block, plus one."""

    def __init__(self, path: Path, n_blocks: int) -> None:
        n_slots = min(1 << max(n_blocks // 2, 1).bit_length(), MOST_SLOTS)
        shape = (WAYS, n_slots)
        is_there = path.exists() and path.stat().st_size == WAYS * n_slots * 8
        mapped = np.memmap(path, dtype=np.uint64, mode="r+" if is_there else "w+", shape=shape)
        # A plain view of it: each access to a memmap makes another memmap.
        self._slots = np.asarray(mapped)
        self._mask = np.uint64(n_slots - 1)

    def note(self, digests: Digests, blocks: Blocks) -> None:
        """digests : shape (n, 2), none of them zero; blocks : shape (n,), < 2 ** 32 - 1"""
        entry = _tag(digests) << NUMBER_BITS | (blocks.astype(np.uint64) + np.uint64(1))
        at = self._slots_of(digests)
        for way, slots in enumerate(self._slots):
            here = at[:, way]
            is_free = (slots[here] == 0) | ((slots[here] ^ entry) >> NUMBER_BITS == 0)
            slots[here[is_free]] = entry[is_free]
            # Of several that meet in a slot, one has found its place.
            is_left = slots[here] != entry
            entry, at = entry[is_left], at[is_left]
        self._slots[0, at[:, 0]] = entry

    def find(self, digests: Digests) -> Blocks:
        """Where each content may be, -1 where nowhere is known; shape (WAYS, n)."""
        found = np.stack(
            [slots[at] for slots, at in zip(self._slots, self._slots_of(digests).T, strict=True)]
        )
        is_hit = (found != 0) & (found >> NUMBER_BITS == _tag(digests))
        block = (found & np.uint64(0xFFFFFFFF)).astype(np.int64) - 1
        return np.where(is_hit, block, -1)

    def _slots_of(self, digests: Digests) -> Digests:
        """Of each way; shape (n, WAYS)."""
        first, second = digests.T
        words = (first, first >> np.uint64(21), first >> np.uint64(42), second)
        return np.stack(words, axis=1) & self._mask


def _tag(digests: Digests) -> Digests:
    return digests[:, 1] >> NUMBER_BITS
