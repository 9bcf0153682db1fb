"""Whether a shadow really holds what its source holds, by BLAKE3 of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from migration.replication.digests import DIGEST_BYTES, content_digests
from migration.replication.index import Layout
from migration.replication.volume import Volume
from migration.replication.wire import Channel, Kind, numbers_of


@dataclass(frozen=True)
class Verification:
    """differing : superblocks that are not as in the source, shape (n,)
    damaged : those that are not as the destination itself had written them
    generation : of the recovery point looked at, None if the volume is at none
    """

    differing: npt.NDArray[np.int64]
    damaged: npt.NDArray[np.int64]
    generation: int | None
    layout: Layout

    @property
    def is_equal(self) -> bool:
        return len(self.differing) == 0


def verify(source: Volume, channel: Channel, volume: str) -> Verification:
    """Compare all content. Damaged superblocks are repaired by the next pass."""
    channel.send_json(Kind.ASK_DIGESTS, volume=volume)
    facts = channel.receive_json(Kind.FACTS)
    layout = Layout(*(int(facts[key]) for key in ("size", "block_bytes", "blocks_per_super")))
    damaged = numbers_of(channel.receive(Kind.DAMAGED)[1], layout.n_supers)
    differing = []
    at = 0
    for ours in content_digests(source, layout):
        theirs = channel.receive(Kind.DIGESTS)[1]
        equal = np.frombuffer(ours, np.uint8) == np.frombuffer(theirs, np.uint8)
        differing.append(at + np.flatnonzero(~equal.reshape(-1, DIGEST_BYTES).all(axis=1)))
        at += len(ours) // DIGEST_BYTES
    if source.size != layout.size:
        differing.append(np.array([layout.n_supers - 1]))
    joined = np.unique(np.concatenate(differing)) if differing else damaged[:0]
    return Verification(joined, damaged, facts["generation"], layout)
