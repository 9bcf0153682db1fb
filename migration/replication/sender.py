"""The source's end: finds what changed, and sends it."""

from __future__ import annotations

import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from migration.replication.contents import ContentPlaces
from migration.replication.draft import Draft
from migration.replication.errors import Corrupted, ProtocolBroken, Refused, VolumeFailed
from migration.replication.index import BlockIndex, Digests, Hasher, Layout
from migration.replication.pacing import EFFORTS, effort_for
from migration.replication.pieces import Assembly, Piece, said
from migration.replication.reading import Reads, reads_answered
from migration.replication.shadow import DIRECT, STAGED, root_of
from migration.replication.volume import MappedVolume, Volume
from migration.replication.wire import PROTOCOL, Channel, Kind, from_json, numbers_of

Blocks = npt.NDArray[np.int64]
# Somebody may wait for these.
HOT_FRAME_BYTES = 1 << 20
# Sent and not yet known to outlive a crash of the destination.
MOST_UNSTORED_BYTES = 96 << 20
FRAMES_AHEAD = 2
PAGES_AT_ONCE = 1024
ROUNDS = 3
TELL_EVERY_S = 0.5
# After so many frames the link's speed is known.
FRAMES_TO_TRY = 5


@dataclass(frozen=True)
class Progress:
    """Of a pass, in bytes. scanned of to_scan have been looked at; changed of them differ; sent
    is what that took on the wire."""

    phase: str
    scanned_bytes: int
    to_scan_bytes: int
    changed_bytes: int
    sent_bytes: int
    elapsed_s: float

    @property
    def left_s(self) -> float | None:
        """If the rest goes as what was done."""
        if not self.scanned_bytes:
            return None
        return self.elapsed_s * (self.to_scan_bytes / self.scanned_bytes - 1)


@dataclass(frozen=True)
class Request:
    """A pass to make.

    volume : name of the shadow
    folder : keeps the source's copy of the index; may be lost, at the price of a scan
    mode : see `shadow`
    base : a shadow to begin a new one with
    changes : ranges (start, end) in bytes outside which nothing changed since the shadow's
        recovery point; None where nobody kept a record
    first : ranges to send before the rest, in this order: what a machine reads as it starts
    reads : opens another channel to the receiver: a machine runs on the shadow already, and what
        it reads before that has come is asked for there. The pass must be direct, of a volume that
        stands still, and promotes.
    effort : of pacing.EFFORTS, None to choose by the link
    is_consistent : the volume stands still while it is read
    is_promoted : a machine will be started on the shadow, which takes no more passes until `demote`
    """

    volume: str
    folder: Path
    mode: str = STAGED
    base: str | None = None
    changes: Iterable[tuple[int, int]] | None = None
    first: Iterable[tuple[int, int]] = ()
    reads: Callable[[], AbstractContextManager[Channel]] | None = None
    effort: str | None = None
    is_consistent: bool = True
    is_promoted: bool = False
    taken_at: datetime | None = None
    block_bytes: int = 4096
    blocks_per_super: int = 256

    def check(self) -> None:
        """Raises Refused for what cannot go together."""
        if self.reads and not (self.mode == DIRECT and self.is_consistent and self.is_promoted):
            raise Refused(
                f"{self.volume}: a machine can read what is missing only in a direct pass, of a "
                "volume that stands still, that promotes the shadow."
            )


@dataclass(frozen=True)
class Report:
    """What a pass did; bytes of the volume by how they travelled, and bytes on the wire."""

    generation: int
    scanned_bytes: int
    zero_bytes: int
    copied_bytes: int
    data_bytes: int
    repeated_bytes: int
    sent_bytes: int
    received_bytes: int
    elapsed_s: float
    effort: str

    @property
    def changed_bytes(self) -> int:
        return self.zero_bytes + self.copied_bytes + self.data_bytes + self.repeated_bytes


def send(
    source: Volume,
    channel: Channel,
    request: Request,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """Bring a shadow to what the source holds; a pass that was interrupted is gone on with.

    Raises ReplicationError; unless it is Corrupted, the shadow is at its last recovery point, or
    can still be brought there.
    """
    layout = Layout(source.size, request.block_bytes, request.blocks_per_super)
    layout.check()
    request.check()
    channel.send_json(
        Kind.HELLO,
        protocol=PROTOCOL,
        volume=request.volume,
        mode=request.mode,
        base=request.base,
        is_read=request.reads is not None,
        size=layout.size,
        block_bytes=layout.block_bytes,
        blocks_per_super=layout.blocks_per_super,
    )
    welcome = channel.receive_json(Kind.WELCOME)
    request.folder.mkdir(parents=True, exist_ok=True)
    seed, generation = int(welcome["seed"]), welcome["generation"]
    cache = _Cache(request.folder, layout, seed)
    try:
        staged = _staged(channel) if welcome["is_resuming"] else []
        index, is_complete = cache.index(generation), True
        if index is None:
            index, is_complete = _learn(source, channel, cache, layout, seed), False
        with reads_answered(request.reads, request.volume, source, layout) as reads:
            sending = _Sending(source, channel, request, index, cache.places(), reads, progress)
            try:
                return sending.run(staged, is_map_enough=is_complete)
            finally:
                sending.close()
    finally:
        cache.close()


def demote(channel: Channel, volume: str) -> None:
    """Make a volume on which no machine runs any more a shadow again."""
    channel.send_json(Kind.DEMOTE, volume=volume)
    channel.receive(Kind.DEMOTED)


class _Cache:
    """The source's copy of the destination's index, and where contents are."""

    def __init__(self, folder: Path, layout: Layout, seed: int) -> None:
        self._path, self._layout, self._seed = folder / "index", layout, seed
        self._index: BlockIndex | None = None

    def index(self, generation: int | None) -> BlockIndex | None:
        """None unless it is of this volume and generation."""
        if generation is None or not self._path.exists():
            return None
        try:
            index = BlockIndex.open(self._path)
        except VolumeFailed:
            return None
        self._index = index
        header = index.header
        is_it = (header.seed, header.generation, header.layout) == (
            self._seed,
            generation,
            self._layout,
        )
        return index if is_it else None

    def fresh(self) -> BlockIndex:
        self.close()
        self._path.with_name("places").unlink(missing_ok=True)
        self._index = BlockIndex.create(self._path, self._layout, self._seed, None)
        return self._index

    def places(self) -> ContentPlaces:
        return ContentPlaces(self._path.with_name("places"), self._layout.n_blocks)

    def close(self) -> None:
        if self._index:
            self._index.close()
            self._index = None


def _staged(channel: Channel) -> list[tuple[Blocks, Digests]]:
    staged: list[tuple[Blocks, Digests]] = []
    while True:
        _, body = channel.receive(Kind.STAGED)
        if not body:
            return staged
        n = len(body) // 20
        blocks = np.frombuffer(body[: 4 * n], dtype="<u4").astype(np.int64)
        staged.append((blocks, np.frombuffer(body[4 * n :], dtype=np.uint64).reshape(-1, 2)))


def _learn(
    source: Volume, channel: Channel, cache: _Cache, layout: Layout, seed: int
) -> BlockIndex:
    """Ask the destination for its index, as far as it differs from what the source holds now."""
    channel.send(Kind.ASK_TABLE)
    n_bytes = layout.n_supers * 16
    data = bytearray()
    while len(data) < n_bytes:
        data += channel.receive(Kind.TABLE)[1]
    table = np.frombuffer(data, dtype=np.uint64).reshape(-1, 2)
    index, places, hasher = cache.fresh(), cache.places(), Hasher(layout, seed)
    content = memoryview(bytearray(layout.super_bytes))
    asked: list[int] = []
    for number in np.flatnonzero(table.any(axis=1)).tolist():
        channel.keep_alive()
        source.read_into(content, number * layout.super_bytes)
        if (hasher.superblock(content) != table[number]).any():
            asked.append(number)
        else:
            _keep(index, places, number, table[number], hasher.blocks(content))
    for at in range(0, len(asked), PAGES_AT_ONCE):
        some = asked[at : at + PAGES_AT_ONCE]
        channel.send(Kind.ASK_PAGES, np.array(some, dtype="<u4").tobytes())
        pages = np.frombuffer(channel.receive(Kind.PAGES)[1], dtype=np.uint64)
        if pages.size != len(some) * layout.blocks_per_super * 2:
            raise ProtocolBroken("The destination sent fewer or more pages than were asked for.")
        for number, page in zip(some, pages.reshape(len(some), -1, 2), strict=True):
            _keep(index, places, number, table[number], page)
    return index


def _keep(
    index: BlockIndex, places: ContentPlaces, number: int, digest: Digests, page: Digests
) -> None:
    index.put(number, digest, page)
    kept = np.flatnonzero(page.any(axis=1))
    places.note(page[kept], number * index.layout.blocks_per_super + kept)


@dataclass
class _Counts:
    zero: int = 0
    copied: int = 0
    data: int = 0
    repeated: int = 0
    scanned: int = 0
    to_scan: int = 0


class _Sending:
    def __init__(
        self,
        source: Volume,
        channel: Channel,
        request: Request,
        index: BlockIndex,
        places: ContentPlaces,
        reads: Reads | None,
        progress: Callable[[Progress], None],
    ) -> None:
        self._reads = reads
        self._source, self._channel, self._request = source, channel, request
        self._layout = index.layout
        self._hasher = Hasher(index.layout, index.header.seed)
        self._draft = Draft(index, places, request.folder)
        self._counts = _Counts()
        self._progress, self._started, self._told = progress, time.monotonic(), 0.0
        self._stream = _Stream(channel, request.effort)

    def close(self) -> None:
        self._draft.close()

    def run(self, staged: list[tuple[Blocks, Digests]], *, is_map_enough: bool) -> Report:
        self._take_up(staged)
        supers = self._supers(is_map_enough)
        if self._reads:
            self._say_held(supers)
        self._pump(self._hot_pieces(supers))
        self._pump(self._pieces(supers, forced=None))
        answer = self._commit()
        self._draft.commit(int(answer["generation"]))
        if answer["root"] != root_of(self._draft.index):
            self._draft.index.path.unlink()
            raise Corrupted(
                f"{self._request.volume}: both ends hold other hashes for what they hold in "
                "common. The source's copy was dropped; the next pass compares all."
            )
        self._tell("done", always=True)
        counts, size = self._counts, self._layout.block_bytes
        return Report(
            generation=int(answer["generation"]),
            scanned_bytes=counts.scanned,
            zero_bytes=counts.zero * size,
            copied_bytes=counts.copied * size,
            data_bytes=counts.data * size,
            repeated_bytes=counts.repeated * size,
            sent_bytes=self._channel.sent_bytes,
            received_bytes=self._channel.received_bytes,
            elapsed_s=time.monotonic() - self._started,
            effort=self._stream.effort,
        )

    def _take_up(self, staged: list[tuple[Blocks, Digests]]) -> None:
        """Count on what an interrupted pass has brought already."""
        per_super = self._layout.blocks_per_super
        for blocks, digests in staged:
            for number in np.unique(blocks // per_super).tolist():
                some = blocks // per_super == number
                page = self._draft.page(number).copy()
                page[blocks[some] % per_super] = digests[some]
                self._draft.put(number, page, None)
                self._draft.mark_sent(number, blocks[some] % per_super)
            kept = digests.any(axis=1)
            self._draft.note(blocks[kept], digests[kept])

    def _supers(self, is_map_enough: bool) -> Blocks:
        """Superblocks to look at, in order."""
        per_super, table = self._layout.super_bytes, self._draft.index.table
        wanted = np.zeros(self._layout.n_supers, dtype=bool)
        ranges = self._request.changes if is_map_enough else None
        if ranges is None:
            ranges = self._source.data_ranges()
            # What lies in a hole now, and was something else.
            wanted |= table.any(axis=1)
        for start, end in ranges:
            wanted[start // per_super : -(-end // per_super)] = True
        wanted[self._draft.touched()] = True
        self._counts.to_scan = int(wanted.sum()) * per_super
        return np.flatnonzero(wanted)

    def _hot(self, supers: Blocks) -> dict[int, Blocks]:
        """Blocks within their superblock that go before the rest, in the order of their first."""
        size, per_super = self._layout.block_bytes, self._layout.blocks_per_super
        is_wanted = np.zeros(self._layout.n_supers, dtype=bool)
        is_wanted[supers] = True
        hot: dict[int, list[Blocks]] = {}
        for start, end in self._request.first:
            blocks = np.arange(start // size, min(-(-end // size), self._layout.n_blocks))
            for number in np.unique(blocks // per_super).tolist():
                if is_wanted[number]:
                    within = blocks[blocks // per_super == number] % per_super
                    hot.setdefault(number, []).append(within)
        return {number: np.unique(np.concatenate(parts)) for number, parts in hot.items()}

    def _say_held(self, supers: Blocks) -> None:
        """Of all but these it is known what the destination holds."""
        is_known = np.ones(self._layout.n_supers, dtype=bool)
        is_known[supers] = False
        known = np.flatnonzero(is_known)
        for at in range(0, len(known), PAGES_AT_ONCE):
            some = known[at : at + PAGES_AT_ONCE]
            self._channel.send(Kind.HELD, said(some, self._draft.index.table[some]))

    def _hot_pieces(self, supers: Blocks) -> Iterator[Piece]:
        content = memoryview(bytearray(self._layout.super_bytes))
        assembly = Assembly(self._reads is not None)
        for number, within in self._hot(supers).items():
            self._source.read_into(content, number * self._layout.super_bytes)
            self._add(assembly, number, content, None, only=within)
            if assembly.data_bytes >= HOT_FRAME_BYTES:
                yield assembly.piece()
                assembly = Assembly(self._reads is not None)
        if assembly.n_blocks:
            yield assembly.piece()

    def _pieces(self, supers: Blocks, *, forced: set[int] | None) -> Iterator[Piece]:
        """forced : blocks to send as data whatever they hold; then nothing else is compared"""
        content = memoryview(bytearray(self._layout.super_bytes))
        assembly = Assembly(self._reads is not None)
        for number in supers.tolist():
            if forced is None and self._is_as_known(number):
                assembly.hold(number, self._draft.index.table[number])
                self._counts.scanned += len(content)
                continue
            self._source.read_into(content, number * self._layout.super_bytes)
            digest = self._hasher.superblock(content)
            is_known = (digest == self._draft.index.table[number]).all()
            if forced is not None:
                self._add_forced(assembly, number, content, digest, forced)
            elif not is_known or self._draft.is_touched(number):
                self._add(assembly, number, content, digest)
            assembly.hold(number, digest)
            self._counts.scanned += len(content)
            if assembly.is_full:
                yield assembly.piece()
                assembly = Assembly(self._reads is not None)
        if assembly.n_blocks or assembly.held:
            yield assembly.piece()

    def _is_as_known(self, number: int) -> bool:
        """Whether a superblock of what is mapped can be passed over without reading it out."""
        if not isinstance(self._source, MappedVolume) or self._draft.is_touched(number):
            return False
        size = self._layout.super_bytes
        view = self._source.view(number * size, size)
        if len(view) < size:
            return False
        return bool((self._hasher.superblock(view) == self._draft.index.table[number]).all())

    def _add(
        self,
        assembly: Assembly,
        number: int,
        content: memoryview,
        digest: Digests | None,
        *,
        only: Blocks | None = None,
    ) -> None:
        """only : blocks within the superblock; the rest is looked at later, and `digest` with it"""
        page, first = self._hasher.blocks(content), number * self._layout.blocks_per_super
        known = self._draft.page(number)
        if only is not None:
            if assembly.is_read:
                assembly.held_blocks.append((first + only, page[only]))
            rest = np.setdiff1d(np.arange(len(page)), only)
            page[rest] = known[rest]
        changed = np.flatnonzero((page != known).any(axis=1))
        is_zero = ~page[changed].any(axis=1)
        zero, changed = changed[is_zero], changed[~is_zero]
        digests = page[changed]
        found, is_from_pass = self._draft.find(digests)
        # The first of several equal ones is sent, the others are the same.
        _, firsts, inverse = np.unique(digests, axis=0, return_index=True, return_inverse=True)
        twin = firsts[inverse.reshape(-1)]
        is_copy, is_same = (found >= 0) & ~is_from_pass, (found >= 0) & is_from_pass
        is_twin = (found < 0) & (twin != np.arange(len(changed)))
        is_data = (found < 0) & ~is_twin
        blocks = first + changed
        assembly.zero.append(first + zero)
        assembly.copy.append((blocks[is_copy], found[is_copy]))
        self._add_data(assembly, first, changed[is_data], content)
        assembly.same.append((blocks[is_same], found[is_same]))
        assembly.same.append((blocks[is_twin], blocks[twin[is_twin]]))
        assembly.n_blocks += len(zero) + len(changed)
        self._draft.put(number, page, digest)
        self._draft.mark_sent(number, np.concatenate([zero, changed]))
        self._draft.note(blocks[is_data], digests[is_data])
        counts = self._counts
        counts.zero += len(zero)
        counts.copied += int(is_copy.sum())
        counts.data += int(is_data.sum())
        counts.repeated += int(is_same.sum() + is_twin.sum())

    def _add_forced(
        self,
        assembly: Assembly,
        number: int,
        content: memoryview,
        digest: Digests,
        forced: set[int],
    ) -> None:
        per_super = self._layout.blocks_per_super
        page, first = self._hasher.blocks(content), number * per_super
        is_changed = (page != self._draft.page(number)).any(axis=1)
        blocks = first + np.arange(per_super)
        sent = np.flatnonzero(is_changed | np.isin(blocks, list(forced)))
        self._add_data(assembly, first, sent, content)
        assembly.n_blocks += len(sent)
        self._draft.put(number, page, digest)
        self._draft.mark_sent(number, sent)
        self._counts.data += len(sent)

    def _add_data(
        self, assembly: Assembly, first: int, within: Blocks, content: memoryview
    ) -> None:
        size = self._layout.block_bytes
        assembly.data_to.append(first + within)
        assembly.data += [bytes(content[at * size : (at + 1) * size]) for at in within.tolist()]
        assembly.data_bytes += len(within) * size

    def _pump(self, pieces: Iterator[Piece]) -> None:
        """Look for changes in one thread, compress and send in another."""
        ahead: queue.Queue[Piece | BaseException | None] = queue.Queue(FRAMES_AHEAD)
        is_over = threading.Event()

        def look() -> None:
            last: BaseException | None = None
            try:
                for piece in pieces:
                    if not _put(ahead, piece, is_over):
                        return
            except BaseException as error:
                last = error
            _put(ahead, last, is_over)

        thread = threading.Thread(target=look, name="scan", daemon=True)
        thread.start()
        try:
            while (item := self._next(ahead)) is not None:
                if isinstance(item, BaseException):
                    raise item
                if self._reads:
                    self._reads.yield_to()
                if item.frame.n_blocks:
                    self._stream.send(item.frame.encode())
                for kind, body in item.says:
                    self._channel.send(kind, body)
                self._tell("sending")
        finally:
            is_over.set()
            thread.join()

    def _next(
        self, ahead: queue.Queue[Piece | BaseException | None]
    ) -> Piece | BaseException | None:
        while True:
            try:
                return ahead.get(timeout=TELL_EVERY_S)
            except queue.Empty:
                self._tell("scanning")
                self._channel.keep_alive()

    def _commit(self) -> dict[str, Any]:
        taken_at = self._request.taken_at or datetime.now(UTC)
        for _ in range(ROUNDS):
            self._send_checks()
            self._channel.send_json(
                Kind.COMMIT,
                taken_at=taken_at.isoformat(),
                is_consistent=self._request.is_consistent,
                promote=self._request.is_promoted,
            )
            self._tell("applying", always=True)
            kind, body = self._receive_answer()
            if kind is Kind.COMMITTED:
                return from_json(body)
            numbers = numbers_of(body, self._layout.n_blocks)
            per_super = self._layout.blocks_per_super
            if kind is Kind.WANTED:
                supers, forced = np.unique(numbers // per_super), set(numbers.tolist())
            else:
                supers = numbers
                forced = {n * per_super + k for n in supers.tolist() for k in range(per_super)}
            self._pump(self._pieces(supers, forced=forced))
        raise Corrupted(
            f"{self._request.volume}: the destination still does not hold what was sent after "
            f"{ROUNDS} attempts. Its disk, or its memory, changes what is written."
        )

    def _receive_answer(self) -> tuple[Kind, memoryview]:
        while True:
            kind, body = self._channel.receive(
                Kind.COMMITTED, Kind.WANTED, Kind.DAMAGED, Kind.STORED
            )
            if kind is not Kind.STORED:
                return kind, body

    def _send_checks(self) -> None:
        touched = self._draft.touched()
        for at in range(0, len(touched), PAGES_AT_ONCE):
            some = touched[at : at + PAGES_AT_ONCE]
            self._channel.send(Kind.CHECK, said(some, self._draft.digests(some)))

    def _tell(self, phase: str, *, always: bool = False) -> None:
        now = time.monotonic()
        if not always and now - self._told < TELL_EVERY_S:
            return
        self._told, counts = now, self._counts
        changed = counts.zero + counts.copied + counts.data + counts.repeated
        self._progress(
            Progress(
                phase,
                counts.scanned,
                counts.to_scan,
                changed * self._layout.block_bytes,
                self._channel.sent_bytes,
                now - self._started,
            )
        )


def _put(ahead: queue.Queue[Any], item: object, is_over: threading.Event) -> bool:
    """False where nobody takes any more."""
    while not is_over.is_set():
        try:
            ahead.put(item, timeout=0.1)
            return True
        except queue.Full:
            pass
    return False


class _Stream:
    """Frames, compressed as one stream, and no more of them on their way than may be lost."""

    def __init__(self, channel: Channel, effort: str | None) -> None:
        self._channel = channel
        self._is_chosen = effort is not None
        self.effort = effort or "balanced"
        self._compress: Any = None
        self._n_frames, self._n_stored, self._unstored = 0, 0, [0]
        self._rates: list[float] = []

    def send(self, frame: bytes) -> None:
        if self._compress is None:
            self._open()
        piece = self._compress.compress(frame) + self._compress.flush(
            zstandard.COMPRESSOBJ_FLUSH_BLOCK
        )
        self._channel.send(Kind.FRAME, len(frame).to_bytes(4, "little") + piece)
        self._n_frames += 1
        self._unstored.append(self._unstored[-1] + len(frame))
        while self._unstored[self._n_frames] - self._unstored[self._n_stored] > MOST_UNSTORED_BYTES:
            _, body = self._channel.receive(Kind.STORED)
            self._n_stored = int.from_bytes(body, "little")
        self._reconsider()

    def _open(self) -> None:
        effort = EFFORTS[self.effort]
        self._compress = effort.compressor().compressobj()
        self._channel.send_json(Kind.STREAM, codec="zstd", window_bytes=effort.window_bytes)

    def _reconsider(self) -> None:
        """The first frames tell how fast the link is."""
        if self._is_chosen:
            return
        if rate := self._channel.link_bytes_per_s():
            self._rates.append(rate)
        if self._n_frames < FRAMES_TO_TRY:
            return
        self._is_chosen = True
        better = effort_for(statistics.median(self._rates)) if self._rates else self.effort
        if better != self.effort:
            self.effort = better
            self._open()
