"""BLAKE3 of what two volumes really hold: the proof before a cutover that they are equal.

The index trusts its own hashes; this does not. Each superblock has 32 bytes, all zeros for zeros.
"""

from __future__ import annotations

from collections.abc import Iterator

from blake3 import blake3

from migration.replication.index import Layout
from migration.replication.volume import Volume

DIGEST_BYTES = 32
PIECE = 4096


def content_digests(volume: Volume, layout: Layout) -> Iterator[bytes]:
    """Digests of all superblocks, in pieces of up to PIECE of them."""
    content = memoryview(bytearray(layout.super_bytes))
    zero = blake3(bytes(layout.super_bytes)).digest()
    piece = []
    for number in range(layout.n_supers):
        volume.read_into(content, number * layout.super_bytes)
        digest = blake3(content).digest()
        piece.append(bytes(DIGEST_BYTES) if digest == zero else digest)
        if len(piece) == PIECE:
            yield b"".join(piece)
            piece.clear()
    if piece:
        yield b"".join(piece)
