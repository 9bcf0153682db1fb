"""Kills one end of a replication at any instant, and sees whether the next pass mends it.

Both ends are forked from a process that has everything loaded, so that what is killed is at work,
not on its way there; a process of its own, because what is forked must have one thread.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from migration.replication import pieces, receiver
from migration.replication.connecting import connected
from migration.replication.errors import Interrupted, ReplicationError
from migration.replication.index import BlockIndex
from migration.replication.journal import Journal
from migration.replication.receiver import Receiver
from migration.replication.sender import Report, Request, send
from migration.replication.store import Store
from migration.replication.volume import FileVolume

BLOCK = 4096
N_BLOCKS = 4096
FRAME_BYTES, WINDOW_BYTES = 1 << 17, 1 << 18
# What a killed receiver may not have acknowledged.
MOST_SENT_AGAIN = (WINDOW_BYTES + FRAME_BYTES) // BLOCK
fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Kill:
    """Who was killed, and what was wrong afterwards, if anything.

    brought_blocks : journalled when the killed end was gone, and sent_again of them
    """

    end: str
    was_at_work: bool
    wrong: str
    brought_blocks: int
    sent_again: int


def kill_ends(folder: Path, n: int, *, seed: int) -> Iterator[Kill]:
    """n kills, one after another, of passes over one volume that changes between them."""
    choose = random.Random(seed)
    source, store = folder / "source", folder / "store"
    folder.mkdir(parents=True, exist_ok=True)
    state = bytearray(choose.randbytes(N_BLOCKS * BLOCK))
    source.write_bytes(state)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    serving = _serve(listener, store)
    _send_through(folder, port)
    usual_s = 0.2
    try:
        for number in range(n):
            before = bytes(state)
            _change(state, choose)
            source.write_bytes(state)
            mode = choose.choice(["staged", "staged", "direct"])
            generation = _generation(store)
            sending = fork.Process(target=_try_to_send, args=(folder, port, mode))
            sending.start()
            end = ("sender", "receiver")[number % 2]
            time.sleep(choose.uniform(0, usual_s))
            was_at_work = sending.is_alive()
            _kill(sending if end == "sender" else serving)
            if end == "receiver":
                sending.join()
                serving = _serve(listener, store)
            sending.join()
            _wait_until_idle(store)
            wrong = ""
            if mode == "staged" and _is_as_before(store, generation):
                wrong = "" if _held(store) == before else "the recovery point was lost"
            brought = _brought(store)
            started = time.monotonic()
            report = _send_through(folder, port)
            usual_s = 0.8 * usual_s + 0.2 * (time.monotonic() - started)
            changed = sum(
                state[at : at + BLOCK] != before[at : at + BLOCK]
                for at in range(0, len(state), BLOCK)
            )
            if _held(store) != state:
                wrong = wrong or "the volumes differ"
            again = max(report.changed_bytes // BLOCK - (changed - brought), 0)
            yield Kill(end, was_at_work, wrong, brought, again)
    finally:
        _kill(serving)
        listener.close()


def _change(state: bytearray, choose: random.Random) -> None:
    """New content, zeros, and copies of what is elsewhere; never what was there."""
    for block in choose.sample(range(N_BLOCKS), choose.randrange(1, N_BLOCKS // 4)):
        at = block * BLOCK
        kind = choose.random()
        if kind < 0.1:
            state[at : at + BLOCK] = bytes(BLOCK)
        elif kind < 0.3:
            other = choose.randrange(N_BLOCKS) * BLOCK
            state[at : at + BLOCK] = state[other : other + BLOCK]
        else:
            state[at : at + BLOCK] = choose.randbytes(BLOCK)


def _serve(listener: socket.socket, store: Path):
    def serve() -> None:
        receiver.WINDOW_BYTES = WINDOW_BYTES
        Receiver(Store(store), listener).serve()

    process = fork.Process(target=serve)
    process.start()
    return process


def _send(folder: Path, port: int, mode: str) -> Report:
    with (
        FileVolume(folder / "source") as source,
        connected("127.0.0.1", port, certificates=None) as channel,
    ):
        return send(source, channel, Request("desk", folder / "cache", mode=mode))


def _try_to_send(folder: Path, port: int, mode: str) -> None:
    pieces.FRAME_BYTES = FRAME_BYTES
    try:
        _send(folder, port, mode)
    except Interrupted:
        os._exit(0)


def _send_through(folder: Path, port: int) -> Report:
    """A killed end's lock is gone at once, its peer's within moments."""
    for _ in range(100):
        try:
            return _send(folder, port, "staged")
        except ReplicationError as error:
            last = error
            time.sleep(0.05)
    raise last


def _kill(process) -> None:
    process.kill()
    process.join()


def _wait_until_idle(store: Path) -> None:
    """Until the surviving receiver has noticed that its sender is gone."""
    for _ in range(200):
        try:
            Store(store).open("desk").close()
            return
        except ReplicationError:
            time.sleep(0.01)


def _generation(store: Path) -> int | None:
    index = BlockIndex.open(store / "desk/index")
    index.close()
    return index.header.generation


def _is_as_before(store: Path, generation: int | None) -> bool:
    return _generation(store) == generation and not (store / "desk/commit").exists()


def _held(store: Path) -> bytes:
    return (store / "desk/volume").read_bytes()


def _brought(store: Path) -> int:
    """Different blocks that the journal of the interrupted pass names."""
    if not (store / "desk/pass.json").exists():
        return 0
    journal = Journal(store / "desk/journal")
    blocks = {block for some, _ in journal for block in some.tolist()}
    journal.close()
    return len(blocks)


if __name__ == "__main__":
    for kill in kill_ends(Path(sys.argv[1]), int(sys.argv[2]), seed=1):
        print(json.dumps(asdict(kill)))
