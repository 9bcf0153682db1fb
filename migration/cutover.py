"""The cutover of a running machine between two regions of a hypervisor (strategy `hypervisor`).

    receive → approach → freeze → finish, save, fence → load → thaw there

What carries memory and disk arrives as two functions: one for while the machine runs, one for the
rest while it is frozen. Until the thaw the machine can go on where it was, and does when anything
fails; from then on it is the destination's. A cutover that was cut off, or that ended without
knowing which it was, goes on when it is asked for again with the same key.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from desktops.core.cloud import CloudError, ServerSpec, ServerStatus
from desktops.core.hypervisor import Hypervisor, VirtualDesktopState

PIECE = 1 << 20
BLOCK = 4096

# Makes the second state's files what the first one's are.
Carry = Callable[[VirtualDesktopState, VirtualDesktopState], None]
# The same once nothing runs; what it calls last returns when the processors' state is there.
Finish = Callable[[VirtualDesktopState, VirtualDesktopState, Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class Move:
    """spec : of the server over there, with the volume that it will have"""

    source_region: str
    server_id: str
    dest_region: str
    spec: ServerSpec
    key: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """frozen_ms : from asking for the freeze until the machine was told to go on; without what
    an earlier, interrupted attempt took"""

    server_id: str
    frozen_ms: float = 0.0


class CutoverFailed(Exception):
    """The machine runs where it ran before; `__cause__` is why."""


def cut_over(
    cloud: Hypervisor,
    move: Move,
    *,
    approach: Carry,
    finish: Finish,
    clock: Callable[[], float] = monotonic,
) -> Arrival:
    """Returns when the machine goes on in the other region; its source is frozen and fenced."""
    source = cloud.desktop_state(move.source_region, move.server_id)
    dest_id = cloud.receive_server(move.dest_region, move.spec, source.definition, key=move.key).id
    seen = cloud.server(move.dest_region, dest_id).status
    if seen is ServerStatus.ACTIVE:
        return Arrival(dest_id)
    begun = clock()
    try:
        if seen is ServerStatus.SUSPENDED:  # it has its state: an earlier attempt came as far
            cloud.fence_server(move.source_region, move.server_id)
        else:
            dest = cloud.desktop_state(move.dest_region, dest_id)
            approach(source, dest)
            begun = clock()
            cloud.freeze_server(move.source_region, move.server_id)
            with ThreadPoolExecutor(1) as beside:
                # As QEMU's own migration does it: memory first, and what writes to memory no more
                # is saved after it.
                here = move.source_region, move.server_id
                saved = beside.submit(cloud.save_processor_state, *here)
                # What is frozen reaches nobody; its fence, which outlives that, is not waited for.
                fenced = beside.submit(cloud.fence_server, *here)
                finish(source, dest, saved.result)
                saved.result()
                cloud.load_processor_state(move.dest_region, dest_id)
                fenced.result()
        cloud.thaw_server(move.dest_region, dest_id)
    except Exception as error:
        # That it was told to go on may have been heard though the answer was lost.
        if cloud.server(move.dest_region, dest_id).status is not ServerStatus.ACTIVE:
            go_back(cloud, move)
            raise CutoverFailed(f"{move.key}: {error}") from error
    return Arrival(dest_id, (clock() - begun) * 1000)


def go_back(cloud: Hypervisor, move: Move) -> None:
    """Have the machine run where it was. The destination is gone before: never are there two.

    Refused where it may have gone on at the destination: what was done there would be undone.
    """
    dest = cloud.find_server(move.dest_region, key=move.key)
    if dest is not None:
        if dest.status in (ServerStatus.ACTIVE, ServerStatus.UNKNOWN):
            raise CloudError(f"{move.key}: the destination is {dest.status}; there is no way back.")
        cloud.delete_server(move.dest_region, dest.id)
    if not move.spec.is_fenced:
        cloud.unfence_server(move.source_region, move.server_id)
    cloud.thaw_server(move.source_region, move.server_id)


def release_source(cloud: Hypervisor, move: Move) -> None:
    """Switch the source off for good. Its volume stays. Refused until the destination runs."""
    dest = cloud.find_server(move.dest_region, key=move.key)
    if dest is None or dest.status is not ServerStatus.ACTIVE:
        raise CloudError(f"{move.key}: the destination does not run; the source is kept.")
    cloud.delete_server(move.source_region, move.server_id)


def finish_on_this_host(
    source: VirtualDesktopState, dest: VirtualDesktopState, saved: Callable[[], None]
) -> None:
    saved()
    carry_on_this_host(source, dest)


def carry_on_this_host(source: VirtualDesktopState, dest: VirtualDesktopState) -> None:
    """Where both regions' files are on this host: reads both, and writes what differs."""
    copy_differences(source.memory_snapshot, dest.memory_snapshot)
    copy_differences(source.data_volume, dest.data_volume)
    if source.processor_state.exists():
        dest.processor_state.write_bytes(source.processor_state.read_bytes())


def copy_differences(source: Path, dest: Path) -> int:
    """Makes one file what another is, writing the blocks that differ. Returns their bytes."""
    written = 0
    mine, theirs = bytearray(PIECE), bytearray(PIECE)
    with source.open("rb", buffering=0) as reader, dest.open("r+b", buffering=0) as writer:
        size = os.fstat(reader.fileno()).st_size
        if os.fstat(writer.fileno()).st_size != size:
            raise ValueError(f"{dest} has another size than {source}.")
        for offset in range(0, size, PIECE):
            length = os.preadv(reader.fileno(), [mine], offset)
            os.preadv(writer.fileno(), [theirs], offset)
            if mine == theirs:
                continue
            for start in range(0, length, BLOCK):
                block = mine[start : start + BLOCK]
                if block != theirs[start : start + BLOCK]:
                    written += os.pwrite(writer.fileno(), block, offset + start)
    return written
