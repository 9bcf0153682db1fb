"""Frames: what is new on a volume, some mebibytes at a time.

A frame names blocks in four ways, no block twice, and they take effect in this order:

* copy: they hold what the destination holds at another block, before anything of this frame
* zero: they hold zeros now
* data: they hold the bytes that follow
* same: they hold what another block was given earlier in this pass, or in this frame

Encoded, in little-endian: seven numbers of 32 bits, the lengths of the lists below; then the lists:

    zero_runs        (first block, number of blocks) each
    copy_to_runs     likewise;  copy_from_runs  likewise, as many blocks in all
    data_runs        likewise
    same_to_runs     likewise;  same_from_runs  likewise, as many blocks in all
    data             bytes, the blocks of data_runs in their order

Numbers in the lists have 32 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from migration.replication.errors import ProtocolBroken

Blocks = npt.NDArray[np.int64]
Runs = npt.NDArray[np.uint32]  # shape (n, 2)
N_LISTS = 6
HEAD_BYTES = 4 * (N_LISTS + 1)


def _none() -> Blocks:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Frame:
    """Blocks are numbered from the start of the volume.

    zero, data_to : shape (n,), each
    copy : (to, from), same : (to, from); shape (n,), each
    data : bytes of data_to, one block after another
    """

    zero: Blocks = field(default_factory=_none)
    copy: tuple[Blocks, Blocks] = field(default_factory=lambda: (_none(), _none()))
    data_to: Blocks = field(default_factory=_none)
    data: memoryview | bytes = b""
    same: tuple[Blocks, Blocks] = field(default_factory=lambda: (_none(), _none()))

    @property
    def n_blocks(self) -> int:
        return sum(map(len, (self.zero, self.copy[0], self.data_to, self.same[0])))

    def encode(self) -> bytes:
        lists = [runs_of(blocks) for blocks in (self.zero, *self.copy, self.data_to, *self.same)]
        head = np.array([*map(len, lists), len(self.data)], dtype="<u4")
        return b"".join([head.tobytes(), *(runs.tobytes() for runs in lists), self.data])

    @classmethod
    def decode(cls, body: memoryview, *, n_blocks: int, block_bytes: int) -> Frame:
        """Raises ProtocolBroken unless all it names is on a volume of n_blocks."""
        if len(body) < HEAD_BYTES:
            raise ProtocolBroken("A frame ends within its head.")
        *n_runs, n_data = np.frombuffer(body[:HEAD_BYTES], dtype="<u4").tolist()
        if len(body) != HEAD_BYTES + 8 * sum(n_runs) + n_data:
            raise ProtocolBroken("A frame is not as long as it says.")
        lists, at = [], HEAD_BYTES
        for n in n_runs:
            runs = np.frombuffer(body[at : at + 8 * n], dtype="<u4").reshape(-1, 2)
            lists.append(blocks_of(runs, n_blocks))
            at += 8 * n
        zero, copy_to, copy_from, data_to, same_to, same_from = lists
        if len(copy_to) != len(copy_from) or len(same_to) != len(same_from):
            raise ProtocolBroken("A frame copies to more or fewer blocks than it copies from.")
        if len(data_to) * block_bytes != n_data:
            raise ProtocolBroken("A frame brings more or less data than for the blocks it names.")
        return cls(zero, (copy_to, copy_from), data_to, body[at:], (same_to, same_from))


def runs_of(blocks: Blocks) -> Runs:
    """Blocks that follow one another, put together: (first, number) each; shape (n, 2)."""
    if not len(blocks):
        return np.empty((0, 2), dtype="<u4")
    start = np.flatnonzero(np.diff(blocks, prepend=blocks[0] - 2) != 1)
    length = np.diff(start, append=len(blocks))
    return np.stack([blocks[start], length], axis=1).astype("<u4")


def blocks_of(runs: Runs, n_blocks: int) -> Blocks:
    """The reverse of `runs_of`."""
    first, length = runs.astype(np.int64).T
    if ((first + length) > n_blocks).any() or length.sum() > n_blocks:
        raise ProtocolBroken(f"A list of blocks leaves the volume, which has {n_blocks}.")
    ends = np.cumsum(length)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - length, length)
    result: Blocks = np.repeat(first, length) + within
    return result
