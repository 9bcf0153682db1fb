"""The destination's end: takes passes in, and answers what its volumes hold."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import numpy as np

from migration.replication.digests import content_digests
from migration.replication.errors import Interrupted, ProtocolBroken, Refused, ReplicationError
from migration.replication.frames import Blocks, Frame
from migration.replication.index import Digests, Layout
from migration.replication.shadow import DIRECT, STAGED, Pass, Shadow
from migration.replication.store import Store, check_name
from migration.replication.wire import PROTOCOL, Channel, Inflater, Kind, from_json, numbers_of

if TYPE_CHECKING:  # most receivers start without, and their start-up counts
    from migration.replication.filling import Exports, Filling

log = logging.getLogger(__name__)
# Settled, hence acknowledged, at least so often: what an interruption may cost to send again.
WINDOW_BYTES = 32 << 20
LIST_BYTES = 4 << 20
MOST_WINDOW = 1 << 27
MOST_FRAME_BYTES = 64 << 20


class Receiver:
    """Listens, one thread for each connection.

    context : of mutual TLS; None only where the network is trusted, as between two processes
    exports : where machines read volumes that are not complete yet; None: they wait until they are
    """

    def __init__(
        self,
        store: Store,
        listener: socket.socket,
        context: ssl.SSLContext | None = None,
        exports: Exports | None = None,
    ) -> None:
        self._store, self._listener, self._context = store, listener, context
        self._exports = exports

    def serve(self) -> None:
        """Until the listener is closed."""
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._attend, args=(connection, peer), daemon=True)
            thread.start()

    def _attend(self, connection: socket.socket, peer: object) -> None:
        try:
            connection.settimeout(10)
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
        except OSError as error:
            log.warning("Refused a connection of %s: %s", peer, error)
            connection.close()
            return
        attend(Channel(connection), self._store, self._exports)


def attend(channel: Channel, store: Store, exports: Exports | None = None) -> None:
    """Serve one connection to its end; an error is told to the other end."""
    try:
        Session(channel, store, exports).run()
    except ReplicationError as error:
        log.warning("%s", error)
        _tell(channel, error)
    except Exception:
        log.exception("A session of replication failed.")
        _tell(channel, ReplicationError("The destination failed; its log says why."))
    finally:
        channel.end()


def _tell(channel: Channel, error: ReplicationError) -> None:
    with contextlib.suppress(ReplicationError):
        channel.send_json(Kind.ERROR, code=error.code, text=str(error))


class Session:
    def __init__(self, channel: Channel, store: Store, exports: Exports | None) -> None:
        self._channel, self._store, self._exports = channel, store, exports
        self._shadow: Shadow | None = None
        self._filling: Filling | None = None

    def run(self) -> None:
        try:
            while True:
                kind, body = self._channel.receive_next(
                    Kind.HELLO, Kind.ASK_DIGESTS, Kind.DEMOTE, Kind.OFFER, Kind.BYE
                )
                if kind is Kind.BYE:
                    return
                if kind is Kind.OFFER:
                    self._need_exports().filling(_name_in(body)).fetch_over(self._channel)
                    return
                if kind is Kind.ASK_DIGESTS:
                    self._tell_digests(body)
                elif kind is Kind.DEMOTE:
                    self._demote(body)
                else:
                    self._take_passes(body)
        except Interrupted:
            if self._shadow:
                self._shadow.settle()
            raise
        finally:
            self._close()

    def _close(self) -> None:
        if self._shadow:
            self._shadow.close()
            self._shadow = None

    def _take_passes(self, hello: memoryview) -> None:
        shadow, under_way = self._welcome(hello)
        mode = under_way.mode
        incoming = _Incoming(self._channel, shadow, under_way)
        while True:
            kind, body = self._channel.receive()
            if kind is Kind.ASK_TABLE:
                table = memoryview(shadow.index.table.tobytes())
                for at in range(0, max(len(table), 1), LIST_BYTES):
                    self._channel.send(Kind.TABLE, table[at : at + LIST_BYTES])
            elif kind is Kind.ASK_PAGES:
                numbers = numbers_of(body, shadow.layout.n_supers)
                pages = b"".join(shadow.index.page(n).tobytes() for n in numbers.tolist())
                self._channel.send(Kind.PAGES, pages)
            elif kind in (Kind.STREAM, Kind.FRAME, Kind.CHECK):
                incoming.take(kind, body)
            elif kind in (Kind.HELD, Kind.HELD_BLOCKS):
                self._hold(shadow, kind, body)
            elif kind is Kind.COMMIT:
                if self._commit(shadow, incoming, from_json(body)):
                    self._close()
                    return
                incoming = _Incoming(self._channel, shadow, shadow.begin(mode), incoming)
            elif kind is Kind.DISCARD:
                shadow.discard()
                self._channel.send(Kind.DISCARDED)
                self._close()
                return
            else:
                raise ProtocolBroken(f"The source sent {kind.name} within a pass.")

    def _welcome(self, body: memoryview) -> tuple[Shadow, Pass]:
        hello = from_json(body)
        try:
            name, mode = str(hello["volume"]), str(hello["mode"])
            layout = Layout(
                int(hello["size"]), int(hello["block_bytes"]), int(hello["blocks_per_super"])
            )
            base = None if hello.get("base") is None else str(hello["base"])
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolBroken(f"A greeting lacks something: {error}.") from error
        if hello.get("protocol") != PROTOCOL:
            raise Refused(
                f"The source speaks protocol {hello.get('protocol')}, this end {PROTOCOL}."
            )
        if mode not in (STAGED, DIRECT):
            raise ProtocolBroken(f"There is no mode {mode!r}.")
        is_read = bool(hello.get("is_read"))
        if is_read and mode != DIRECT:
            raise ProtocolBroken("What a staged pass brings cannot be read before it ends.")
        exports = self._need_exports() if is_read else None
        for each in (name,) if base is None else (name, base):
            check_name(each)
        layout.check()
        shadow = self._shadow = self._store.open_or_create(
            name, layout, base, self._channel.keep_alive
        )
        _need_unpromoted(shadow)
        shadow.make_ready(layout, self._channel.keep_alive)
        is_resuming = shadow.is_passing
        under_way = shadow.begin(mode)
        self._filling = exports.begin(name, shadow) if exports else None
        self._channel.send_json(
            Kind.WELCOME,
            protocol=PROTOCOL,
            generation=shadow.generation,
            seed=shadow.index.header.seed,
            is_resuming=is_resuming,
        )
        if is_resuming:
            self._tell_staged(under_way)
        return shadow, under_way

    def _tell_staged(self, under_way: Pass) -> None:
        for blocks, digests in under_way.brought():
            self._channel.send(Kind.STAGED, blocks.astype("<u4").tobytes() + digests.tobytes())
        self._channel.send(Kind.STAGED)

    def _need_exports(self) -> Exports:
        if self._exports is None:
            raise Refused("No machine here reads what is not complete: this end has no exports.")
        return self._exports

    def _hold(self, shadow: Shadow, kind: Kind, body: memoryview) -> None:
        if self._filling is None:
            raise ProtocolBroken(f"The source sent {kind.name} of what nobody reads yet.")
        of_supers = kind is Kind.HELD
        n = len(body) // 20
        numbers = numbers_of(
            body[: 4 * n], shadow.layout.n_supers if of_supers else shadow.layout.n_blocks
        )
        digests = np.frombuffer(body[4 * n :], dtype=np.uint64).reshape(-1, 2)
        if len(digests) != n:
            raise ProtocolBroken(f"{kind.name} names more or fewer places than hashes.")
        hold = self._filling.hold_supers if of_supers else self._filling.hold_blocks
        hold(shadow, numbers, digests)

    def _commit(self, shadow: Shadow, incoming: _Incoming, request: dict[str, object]) -> bool:
        wanted = incoming.wanted()
        if len(wanted):
            incoming.settle()
            self._channel.send(Kind.WANTED, wanted.astype("<u4").tobytes())
            return False
        if self._filling and not request.get("promote"):
            raise ProtocolBroken("A machine runs on this volume: it can only be promoted.")
        make = shadow.promote if request.get("promote") else shadow.commit
        damaged = make(
            incoming.supers,
            incoming.digests,
            str(request.get("taken_at", "")),
            bool(request.get("is_consistent")),
            self._channel.keep_alive,
        )
        if len(damaged):
            log.error("%s: superblocks %s hold other than was sent", shadow.volume.name, damaged)
            self._channel.send(Kind.DAMAGED, damaged.astype("<u4").tobytes())
            return False
        if self._filling:
            self._filling.end()
            self._filling = None
        self._channel.send_json(
            Kind.COMMITTED, generation=shadow.point.generation, root=shadow.root()
        )
        if shadow.is_promoted:
            shadow.volume.flush()
        return True

    def _demote(self, body: memoryview) -> None:
        """What is not known here has nothing to forget."""
        name = _name_in(body)
        if self._exports:
            self._exports.forget(name)
        if self._store.knows(name):
            self._open(body).demote()
            self._close()
        self._channel.send(Kind.DEMOTED)

    def _open(self, body: memoryview) -> Shadow:
        self._shadow = self._store.open(_name_in(body))
        return self._shadow

    def _tell_digests(self, body: memoryview) -> None:
        """What the volume really holds, by a hash that nobody can prepare collisions of; blocks
        that are not as the index has them are learned, so that the next pass repairs them."""
        shadow = self._open(body)
        _need_unpromoted(shadow)
        shadow.discard()
        before = shadow.generation
        damaged = shadow.learn(self._channel.keep_alive)
        self._channel.send_json(
            Kind.FACTS,
            generation=before,
            taken_at=shadow.point.taken_at,
            size=shadow.layout.size,
            block_bytes=shadow.layout.block_bytes,
            blocks_per_super=shadow.layout.blocks_per_super,
        )
        self._channel.send(Kind.DAMAGED, damaged.astype("<u4").tobytes())
        for piece in content_digests(shadow.volume, shadow.layout):
            self._channel.send(Kind.DIGESTS, piece)
        self._close()


class _Incoming:
    """What arrives between a greeting and its commit."""

    def __init__(
        self, channel: Channel, shadow: Shadow, under_way: Pass, before: _Incoming | None = None
    ) -> None:
        self._channel, self._shadow, self._pass = channel, shadow, under_way
        self._inflater: Inflater | None = before._inflater if before else None
        self._n_frames: int = before._n_frames if before else 0
        self._unsettled_bytes = 0
        self._wanted: set[int] = set()
        # Of all superblocks; zeros take no memory before they are written.
        n_supers = shadow.layout.n_supers
        self._is_checked = np.zeros(n_supers, dtype=bool)
        self._check = np.zeros((n_supers, 2), dtype=np.uint64)

    @property
    def supers(self) -> Blocks:
        result: Blocks = np.flatnonzero(self._is_checked)
        return result

    @property
    def digests(self) -> Digests:
        return self._check[self.supers]

    def wanted(self) -> Blocks:
        return np.array(sorted(self._wanted), dtype=np.int64)

    def take(self, kind: Kind, body: memoryview) -> None:
        if kind is Kind.STREAM:
            window = from_json(body).get("window_bytes")
            if not isinstance(window, int) or not 0 < window <= MOST_WINDOW:
                raise ProtocolBroken(f"A stream cannot have a window of {window!r} bytes.")
            self._inflater = Inflater(window)
        elif kind is Kind.CHECK:
            n = len(body) // 20
            supers = numbers_of(body[: 4 * n], self._shadow.layout.n_supers)
            digests = np.frombuffer(body[4 * n :], dtype=np.uint64).reshape(-1, 2)
            if len(digests) != n:
                raise ProtocolBroken("A check names more or fewer superblocks than hashes.")
            self._is_checked[supers] = True
            self._check[supers] = digests
        else:
            self._take_frame(body)

    def _take_frame(self, body: memoryview) -> None:
        if self._inflater is None:
            raise ProtocolBroken("A frame came before its stream was opened.")
        length = int.from_bytes(body[:4], "little")
        if length > MOST_FRAME_BYTES:
            raise ProtocolBroken(f"A frame of {length} bytes came; {MOST_FRAME_BYTES} is the most.")
        layout = self._shadow.layout
        frame = Frame.decode(
            self._inflater.inflate(body[4:], length),
            n_blocks=layout.n_blocks,
            block_bytes=layout.block_bytes,
        )
        self._wanted.difference_update(frame.data_to.tolist() if self._wanted else ())
        self._wanted.update(self._pass.add(frame).tolist())
        self._n_frames += 1
        self._unsettled_bytes += length
        if self._unsettled_bytes >= WINDOW_BYTES:
            self.settle()

    def settle(self) -> None:
        self._pass.settle()
        self._unsettled_bytes = 0
        self._channel.send(Kind.STORED, self._n_frames.to_bytes(8, "little"))


def _need_unpromoted(shadow: Shadow) -> None:
    if shadow.is_promoted:
        raise Refused(
            f"{shadow.folder.name} is no shadow: a machine was started on it. Demote it first."
        )


def _name_in(body: memoryview) -> str:
    name = str(from_json(body).get("volume"))
    check_name(name)
    return name
