"""What the source sends at a time: a frame, and what the destination holds once it has it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from migration.replication.frames import Blocks, Frame
from migration.replication.index import Digests
from migration.replication.wire import Kind

FRAME_BYTES = 4 << 20
HELD_AT_ONCE = 64


@dataclass(frozen=True)
class Piece:
    """A frame, and what is said once it is sent."""

    frame: Frame
    says: list[tuple[Kind, bytes]]


def said(numbers: Blocks, digests: Digests) -> bytes:
    return numbers.astype("<u4").tobytes() + digests.tobytes()


@dataclass
class Assembly:
    """A frame being put together.

    is_read : say what the destination holds once it has the frame
    """

    is_read: bool = False
    zero: list[Blocks] = field(default_factory=list)
    copy: list[tuple[Blocks, Blocks]] = field(default_factory=list)
    data_to: list[Blocks] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    same: list[tuple[Blocks, Blocks]] = field(default_factory=list)
    data_bytes: int = 0
    n_blocks: int = 0
    held: list[tuple[int, Digests]] = field(default_factory=list)
    held_blocks: list[tuple[Blocks, Digests]] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        return (
            self.data_bytes >= FRAME_BYTES
            or self.n_blocks >= FRAME_BYTES // 64
            or len(self.held) >= HELD_AT_ONCE
        )

    def hold(self, number: int, digest: Digests) -> None:
        if self.is_read:
            self.held.append((number, digest))

    def piece(self) -> Piece:
        says = []
        if self.held:
            numbers, digests = zip(*self.held, strict=True)
            says.append((Kind.HELD, said(np.array(numbers), np.stack(digests))))
        if self.held_blocks:
            blocks, of_blocks = (
                np.concatenate(part) for part in zip(*self.held_blocks, strict=True)
            )
            says.append((Kind.HELD_BLOCKS, said(blocks, of_blocks)))
        return Piece(self._frame(), says)

    def _frame(self) -> Frame:
        def joined(parts: list[Blocks]) -> Blocks:
            return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

        copy, same = (
            (joined([to for to, _ in pairs]), joined([source for _, source in pairs]))
            for pairs in (self.copy, self.same)
        )
        return Frame(joined(self.zero), copy, joined(self.data_to), b"".join(self.data), same)
