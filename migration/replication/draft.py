"""What the destination will hold once the frames sent so far take effect."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from migration.replication.contents import WAYS, ContentPlaces
from migration.replication.index import BlockIndex, Digests

Blocks = npt.NDArray[np.int64]


class Draft:
    """An index, and on top of it what this pass changes; the index stays as it is until `commit`,
    so that an interrupted pass leaves it true. Pages that change wait in a file without a name.
    """

    def __init__(self, index: BlockIndex, places: ContentPlaces, folder: Path) -> None:
        self.index, self._places = index, places
        layout = index.layout
        self._per_super = layout.blocks_per_super
        self._page_bytes = self._per_super * 16
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        # Zeros take no memory until they are written.
        self._is_touched = np.zeros(layout.n_supers, dtype=bool)
        self._sent = np.zeros((layout.n_supers, -(-self._per_super // 8)), dtype=np.uint8)
        self._digests = np.zeros((layout.n_supers, 2), dtype=np.uint64)

    def is_touched(self, number: int) -> bool:
        return bool(self._is_touched[number])

    def page(self, number: int) -> Digests:
        if not self._is_touched[number]:
            return self.index.page(number)
        data = os.pread(self._file.fileno(), self._page_bytes, number * self._page_bytes)
        return np.frombuffer(data, dtype=np.uint64).reshape(-1, 2)

    def put(self, number: int, page: Digests, digest: Digests | None) -> None:
        """digest : of the whole superblock, None while it is not known"""
        os.pwrite(self._file.fileno(), page.tobytes(), number * self._page_bytes)
        self._is_touched[number] = True
        if digest is not None:
            self._digests[number] = digest

    def note(self, blocks: Blocks, digests: Digests) -> None:
        """These blocks were given these contents, none of them zero."""
        self._places.note(digests, blocks)

    def mark_sent(self, number: int, within: Blocks) -> None:
        """within : numbers of blocks within their superblock"""
        bits = np.zeros(self._sent.shape[1] * 8, dtype=np.uint8)
        bits[within] = 1
        self._sent[number] |= np.packbits(bits)

    def _is_sent(self, blocks: Blocks) -> npt.NDArray[np.bool_]:
        within = blocks % self._per_super
        octet = self._sent[blocks // self._per_super, within // 8]
        result: npt.NDArray[np.bool_] = octet & (128 >> within % 8) != 0
        return result

    def find(self, digests: Digests) -> tuple[Blocks, npt.NDArray[np.bool_]]:
        """A block of the destination with each content, -1 for none, and whether it has it from
        this pass; shape (n,) both."""
        candidates = self._places.find(digests)
        candidates[candidates >= self.index.layout.n_blocks] = -1
        found = np.full(len(digests), -1, dtype=np.int64)
        for way in range(WAYS):
            rows = np.flatnonzero((candidates[way] >= 0) & (found < 0))
            block = candidates[way, rows]
            number = block // self._per_super
            order = np.argsort(number, kind="stable")
            rows, block, number = rows[order], block[order], number[order]
            start = np.flatnonzero(np.diff(number, prepend=-1))
            for some in np.split(np.arange(len(rows)), start[1:]):
                if len(some):
                    page = self.page(int(number[some[0]]))
                    held = page[block[some] % self._per_super]
                    good = (held == digests[rows[some]]).all(axis=1)
                    found[rows[some[good]]] = block[some[good]]
        return found, (found >= 0) & self._is_sent(np.maximum(found, 0))

    def touched(self) -> Blocks:
        result: Blocks = np.flatnonzero(self._is_touched)
        return result

    def digests(self, numbers: Blocks) -> Digests:
        """Of superblocks touched and looked at in this pass, shape (n, 2)."""
        result: Digests = self._digests[numbers]
        return result

    def commit(self, generation: int) -> None:
        for number in self.touched().tolist():
            self.index.put(number, self._digests[number], self.page(number))
        self.index.seal(generation)

    def close(self) -> None:
        self._file.close()
