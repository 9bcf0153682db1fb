"""A shadow on disk: a volume, what it held at its last recovery point, and the pass under way.

A pass is *staged*: what it brings is kept beside the volume, which stays at its last recovery
point until everything is there; then a commit record is written, the staged blocks are applied,
every superblock they touch is read back and held against what the source said, and the index is
sealed. From the commit record on, a crash is mended by applying again.

A *direct* pass writes to the volume as blocks come: for a first seed, which has no recovery point
to protect, and for memory, which nobody resumes from a half-way state. It journals the blocks
before it writes them, so that after a crash it is known which ones cannot be relied on.

Folder of a shadow:
    shadow.json   where the volume is, number and time of the recovery point
    index         hashes of the recovery point
    journal       blocks brought by the pass under way; pass.json says how they are kept
    staged        their content, at the same positions
    commit        what the pass becomes once it is applied
    volume        the volume, where no other place was given
    lock          held by whoever works on the shadow
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from migration.replication.errors import Busy, Refused, VolumeFailed
from migration.replication.frames import Frame, runs_of
from migration.replication.index import BlockIndex, Digests, Hasher, Layout
from migration.replication.journal import Journal
from migration.replication.volume import FileVolume, Volume, made_volume, open_volume

Blocks = npt.NDArray[np.int64]
STAGED, DIRECT = "staged", "direct"
# A seed's numbers; JSON carries integers of 53 bits between languages.
SEED_BITS = 53
APPLY_BYTES = 4 << 20


@dataclass(frozen=True)
class RecoveryPoint:
    """generation : counts up, 0 before the first; taken_at : ISO time of the source's snapshot
    is_consistent : the source stood still while it was read
    """

    generation: int = 0
    taken_at: str = ""
    is_consistent: bool = False


@dataclass(frozen=True)
class Commit:
    """supers, digests : superblocks that the pass touched, and what they must hold now"""

    point: RecoveryPoint
    supers: Blocks
    digests: Digests

    def save(self, path: Path) -> None:
        head = json.dumps(asdict(self.point)).encode() + b"\n"
        body = self.supers.astype("<u4").tobytes() + self.digests.tobytes()
        write_durably(path, head + body)

    @classmethod
    def load(cls, path: Path) -> Commit:
        head, body = path.read_bytes().split(b"\n", 1)
        n = len(body) // 20
        supers = np.frombuffer(body, "<u4", n).astype(np.int64)
        digests = np.frombuffer(body, np.uint64, 2 * n, 4 * n).reshape(-1, 2)
        return cls(RecoveryPoint(**json.loads(head)), supers, digests)


class Shadow:
    """One at a time per folder: opening waits for nobody, and raises Busy."""

    def __init__(self, folder: Path, lock: int, facts: dict[str, Any]) -> None:
        self.folder, self._lock = folder, lock
        self.volume: Volume = open_volume(facts["volume"], writable=True)
        self.point = RecoveryPoint(**facts["point"])
        self.is_promoted: bool = facts.get("is_promoted", False)
        self.index = BlockIndex.open(folder / "index")
        self.layout = self.index.layout
        if self.volume.size < self.layout.size:
            raise VolumeFailed(
                f"{self.volume.name} has {self.volume.size} bytes, "
                f"fewer than the {self.layout.size} of its shadow."
            )
        self.hasher = Hasher(self.layout, self.index.header.seed)
        self._pass: Pass | None = None
        for left in folder.glob("*.dropped"):
            left.unlink(missing_ok=True)
        if (folder / "commit").exists():
            self._apply(Commit.load(folder / "commit"), lambda: None)

    @classmethod
    def create(cls, folder: Path, layout: Layout, volume: str) -> Shadow:
        """A shadow of zeros. A volume that is there must be as large, and is zeroed if need be
        by the first pass."""
        folder.mkdir(parents=True, exist_ok=True)
        lock = locked(folder)
        try:
            made = made_volume(volume, layout.size)
            is_blank = next(made.data_ranges(), None) is None
            made.close()
            index = BlockIndex.create(
                folder / "index", layout, secrets.randbits(SEED_BITS), 0 if is_blank else None
            )
            index.close()
            facts = {"volume": volume, "point": asdict(RecoveryPoint())}
            write_durably(folder / "shadow.json", json.dumps(facts).encode())
            shadow = cls(folder, lock, facts)
        except BaseException:
            os.close(lock)
            raise
        return shadow

    @classmethod
    def open(cls, folder: Path) -> Shadow:
        """Finishes a commit that was cut short."""
        if not (folder / "shadow.json").exists():
            raise Refused(f"There is no shadow in {folder}.")
        lock = locked(folder)
        try:
            return cls(folder, lock, json.loads((folder / "shadow.json").read_text()))
        except BaseException:
            os.close(lock)
            raise

    @property
    def generation(self) -> int | None:
        """None while the volume is at no recovery point."""
        return self.index.header.generation

    @property
    def is_passing(self) -> bool:
        return (self.folder / "pass.json").exists()

    def _mode(self) -> str:
        """Of the pass under way. Where a power failure took the word that says so it was a staged
        one, which has not touched the volume: direct ones are written durably."""
        try:
            mode = json.loads((self.folder / "pass.json").read_text())
        except ValueError:
            return STAGED
        return DIRECT if mode == DIRECT else STAGED

    def begin(self, mode: str) -> Pass:
        """Begin a pass, or go on with the one that was interrupted."""
        if self.is_passing and self._mode() != mode:
            self.discard()
        if self._pass:
            self._pass.close()
        if not self.is_passing:
            # What no pass lays claim to is left of one that ended.
            for name in ("journal", "staged"):
                (self.folder / name).unlink(missing_ok=True)
            said = json.dumps(mode).encode()
            if mode == DIRECT:
                write_durably(self.folder / "pass.json", said)
            else:
                (self.folder / "pass.json").write_bytes(said)
        self._pass = Pass(self, mode)
        return self._pass

    def settle(self) -> None:
        """What the pass under way has brought would outlive a crash."""
        if self._pass:
            self._pass.settle()

    def discard(self) -> None:
        """Forget the pass under way. What a direct one has written stays, and is learned."""
        if not self.is_passing:
            return
        mode = self._mode()
        self._pass = self._pass or Pass(self, mode)
        if mode == DIRECT:
            touched = {int(n) for n in self._pass.supers()}
            for number in sorted(touched):
                self._learn_super(number)
        self._end_pass()

    def commit(
        self,
        supers: Blocks,
        digests: Digests,
        taken_at: str,
        is_consistent: bool,
        alive: Callable[[], None],
    ) -> Blocks:
        """Make what the pass brought a recovery point.

        supers : shape (n,), superblocks it touched; digests : shape (n, 2), what they must hold
        alive : called now and then

        Returns the superblocks that do not hold it, none if all is well; then the volume is at no
        recovery point until they are sent again. Raises NoSpace with nothing changed.
        """
        assert self._pass
        point = RecoveryPoint(self.point.generation + 1, taken_at, is_consistent)
        commit = Commit(point, supers, digests)
        self._pass.settle()
        if self._pass.mode == STAGED:
            self._pass.reserve()
            commit.save(self.folder / "commit")
        return self._apply(commit, alive)

    def promote(
        self,
        supers: Blocks,
        digests: Digests,
        taken_at: str,
        is_consistent: bool,
        alive: Callable[[], None],
    ) -> Blocks:
        """As `commit`, for a volume that a machine is about to run on: somebody waits for it, so
        nothing is waited for that a flush can see to later. It takes no passes any more, and what
        it holds is learned once it is demoted."""
        assert self._pass
        self._pass.note()
        if self._pass.mode == STAGED:
            self._pass.reserve()
        self.index.forget()
        if self._pass.mode == STAGED:
            self._pass.apply(alive)
        damaged = self._read_back(supers, digests, alive)
        if not len(damaged):
            self.point = RecoveryPoint(self.point.generation + 1, taken_at, is_consistent)
            self.is_promoted = True
            self._save()
        self._end_pass()
        return damaged

    def _apply(self, commit: Commit, alive: Callable[[], None]) -> Blocks:
        self._pass = self._pass or Pass(self, STAGED)
        if self._pass.mode == STAGED:
            self._pass.apply(alive)
        self.volume.flush()
        damaged = self._read_back(commit.supers, commit.digests, alive)
        if not len(damaged):
            self.index.seal(commit.point.generation)
            self.point = commit.point
            self._save()
        # Also where something is damaged: what was staged has been applied, and the rest comes as
        # a pass of its own.
        self._end_pass()
        return damaged

    def _read_back(self, supers: Blocks, digests: Digests, alive: Callable[[], None]) -> Blocks:
        """Learn these superblocks; those that do not hold what they must."""
        damaged = []
        for number, digest in zip(supers.tolist(), digests, strict=True):
            alive()
            if (self._learn_super(number) != digest).any():
                damaged.append(number)
        return np.array(damaged, dtype=np.int64)

    def _end_pass(self) -> None:
        """The commit record goes last: without the journal there is nothing left to apply."""
        assert self._pass
        self._pass.remove()
        self._pass = None
        (self.folder / "pass.json").unlink(missing_ok=True)
        (self.folder / "commit").unlink(missing_ok=True)

    def make_ready(self, layout: Layout, alive: Callable[[], None]) -> None:
        """Cut the volume as the source is cut, longer if need be, and know what it holds.

        Raises Refused where it would have to be made shorter.
        """
        if layout.size < self.layout.size:
            raise Refused(
                f"The source has {layout.size} bytes, fewer than the {self.layout.size} of its "
                "shadow; a shadow is not made shorter. Make a new one."
            )
        if layout != self.layout:
            self.discard()
            self.volume.close()
            self.volume = made_volume(self.volume.name, layout.size)
            seed = self.index.header.seed
            self.index.close()
            self.index = BlockIndex.create(self.folder / "index", layout, seed, None)
            self.layout, self.hasher = layout, Hasher(layout, seed)
        if self.generation is None:
            self.discard()
            self.learn(alive)

    def demote(self) -> None:
        """No machine runs on the volume any more. What it holds is learned by the next pass."""
        self.index.forget()
        self.is_promoted = False
        self._save()

    def learn(self, alive: Callable[[], None]) -> Blocks:
        """Hash the whole volume anew, save what was a hole and still is; the superblocks that are
        not as the index had them."""
        size = self.layout.super_bytes
        wanted = np.asarray(self.index.table.any(axis=1))
        for start, end in self.volume.data_ranges():
            wanted[start // size : -(-end // size)] = True
        differing = []
        for number in np.flatnonzero(wanted).tolist():
            alive()
            before = self.index.table[number].copy()
            content = self.read_super(number)
            digest = self.hasher.superblock(content)
            if (digest != before).any():
                self.index.put(number, digest, self.hasher.blocks(content))
                differing.append(number)
        return np.array(differing, dtype=np.int64)

    def read_super(self, number: int) -> memoryview:
        content = memoryview(bytearray(self.layout.super_bytes))
        self.volume.read_into(content, number * self.layout.super_bytes)
        return content

    def _learn_super(self, number: int) -> Digests:
        content = self.read_super(number)
        digest = self.hasher.superblock(content)
        self.index.put(number, digest, self.hasher.blocks(content))
        return digest

    def root(self) -> str:
        """One hash of all that the volume should hold, and of how it is cut."""
        return root_of(self.index)

    def _save(self) -> None:
        facts = {
            "volume": self.volume.name,
            "point": asdict(self.point),
            "is_promoted": self.is_promoted,
        }
        write_durably(self.folder / "shadow.json", json.dumps(facts).encode())

    def close(self) -> None:
        if self._pass:
            self._pass.close()
        self.index.close()
        self.volume.close()
        os.close(self._lock)


class Pass:
    """What a pass has brought so far."""

    def __init__(self, shadow: Shadow, mode: str) -> None:
        self._shadow, self.mode = shadow, mode
        self._journal = Journal(shadow.folder / "journal")
        self._unsettled: list[tuple[Blocks, Digests]] = []
        self._place: Volume = shadow.volume
        if mode == STAGED:
            self._place = FileVolume.create(shadow.folder / "staged", shadow.layout.size)

    def add(self, frame: Frame) -> Blocks:
        """Take in a frame; the blocks whose copies could not be made, because what they were to
        be made of is not what the index says."""
        size = self._shadow.layout.block_bytes
        copy_to, copies, failed = self._copies(*frame.copy)
        copy_digests = self._shadow.hasher.blocks(copies)
        data_digests = self._shadow.hasher.blocks(frame.data)
        same_to, same_from = frame.same
        blocks = np.concatenate([copy_to, frame.zero, frame.data_to])
        zeros = np.zeros((len(frame.zero), 2), dtype=np.uint64)
        self._intend(blocks, np.concatenate([copy_digests, zeros, data_digests]))
        for first, n in runs_of(frame.zero).tolist():
            self._place.zero(first * size, n * size)
        for to, data in ((copy_to, copies), (frame.data_to, memoryview(frame.data))):
            at = 0
            for first, n in runs_of(to).tolist():
                self._place.write(data[at : at + n * size], first * size)
                at += n * size
        if len(same_to):
            content = self._read(self._place, same_from)
            self._intend(same_to, self._shadow.hasher.blocks(content))
            for row, block in enumerate(same_to.tolist()):
                self._place.write(content[row * size : (row + 1) * size], block * size)
        return failed

    def _copies(self, to: Blocks, source: Blocks) -> tuple[Blocks, memoryview, Blocks]:
        """Of each copy that can be made where, and the content of all; and those that cannot."""
        content = self._read(self._shadow.volume, source)
        digests, per_super = (
            self._shadow.hasher.blocks(content),
            self._shadow.layout.blocks_per_super,
        )
        wanted = np.empty_like(digests)
        for number in np.unique(source // per_super).tolist():
            some = source // per_super == number
            wanted[some] = self._shadow.index.page(number)[source[some] % per_super]
        if self.mode == DIRECT or (is_good := (digests == wanted).all(axis=1)).all():
            return to, content, to[:0]
        size = self._shadow.layout.block_bytes
        good = b"".join(content[row * size : (row + 1) * size] for row in np.flatnonzero(is_good))
        return to[is_good], memoryview(good), to[~is_good]

    def _read(self, volume: Volume, blocks: Blocks) -> memoryview:
        size = self._shadow.layout.block_bytes
        content = memoryview(bytearray(len(blocks) * size))
        at = 0
        for first, n in runs_of(blocks).tolist():
            volume.read_into(content[at : at + n * size], first * size)
            at += n * size
        return content

    def _intend(self, blocks: Blocks, digests: Digests) -> None:
        if not len(blocks):
            return
        if self.mode == DIRECT:
            self._journal.append(blocks, digests)
            self._journal.flush()
        else:
            self._unsettled.append((blocks, digests))

    def settle(self) -> None:
        """Return when what was added would outlive a crash: content first, then the journal, so
        that the journal never names what is not there."""
        self._place.flush()
        self.note()
        self._journal.flush()

    def note(self) -> None:
        for blocks, digests in self._unsettled:
            self._journal.append(blocks, digests)
        self._unsettled.clear()

    def brought(self) -> Iterator[tuple[Blocks, Digests]]:
        """Blocks of an interrupted pass, and the hashes of what applying it would put there; of a
        block brought twice the last one holds."""
        for blocks, digests in self._journal:
            held = self._shadow.hasher.blocks(self._read(self._place, blocks))
            if self.mode == STAGED:
                held = np.where((digests == 0).all(axis=1)[:, None], np.uint64(0), held)
            yield blocks, held

    def supers(self) -> Blocks:
        per_super = self._shadow.layout.blocks_per_super
        seen = [np.unique(blocks // per_super) for blocks, _ in self._journal]
        return np.unique(np.concatenate(seen)) if seen else np.empty(0, dtype=np.int64)

    def reserve(self) -> None:
        size = self._shadow.layout.block_bytes
        for blocks, digests in self._journal:
            for first, n in runs_of(np.unique(blocks[digests.any(axis=1)])).tolist():
                self._shadow.volume.reserve(first * size, n * size)

    def apply(self, alive: Callable[[], None]) -> None:
        size, volume = self._shadow.layout.block_bytes, self._shadow.volume
        for blocks, digests in self._journal:
            alive()
            is_zero = (digests == 0).all(axis=1)
            for first, n in runs_of(np.sort(blocks[is_zero])).tolist():
                volume.zero(first * size, n * size)
            data = np.sort(blocks[~is_zero])
            for part in np.array_split(data, max(len(data) * size // APPLY_BYTES, 1)):
                content, at = self._read(self._place, part), 0
                for first, n in runs_of(part).tolist():
                    volume.write(content[at : at + n * size], first * size)
                    at += n * size

    def close(self) -> None:
        self._journal.close()
        if self._place is not self._shadow.volume:
            self._place.close()

    def remove(self) -> None:
        self._journal.remove()
        if self._place is not self._shadow.volume:
            self._place.close()
            _drop(self._shadow.folder / "staged")


def root_of(index: BlockIndex) -> str:
    state = blake3(json.dumps(asdict(index.layout)).encode())
    state.update(index.table.tobytes())
    return state.hexdigest()


def _drop(path: Path) -> None:
    """Remove a file that may be large, without making anybody wait: freeing its blocks takes some
    disks a second for every 50 MB."""
    dropped = path.with_name(f"{path.name}.{secrets.token_hex(4)}.dropped")
    try:
        path.rename(dropped)
    except FileNotFoundError:
        return
    threading.Thread(target=dropped.unlink, kwargs={"missing_ok": True}).start()


def write_durably(path: Path, data: bytes) -> None:
    """All or nothing, also after a power failure."""
    part = path.with_suffix(path.suffix + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def locked(folder: Path, kind: int = fcntl.LOCK_EX) -> int:
    """A lock of the folder, held until it is closed. kind : fcntl.LOCK_EX, or LOCK_SH to read"""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise Busy(f"Somebody else works on the shadow in {folder}.") from error
    return lock
