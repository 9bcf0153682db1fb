"""Machines that run on a shadow before all of it is there."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migration.replication.errors import Interrupted, ProtocolBroken, Refused, VolumeFailed
from migration.replication.nbd import NbdVolume
from migration.replication.nbd_server import NbdServer
from migration.replication.shadow import DIRECT
from migration.replication.volume import FileVolume
from migration.replication.wire import Kind
from tests.support.qemu import skip_without_qemu
from tests.unit.replication.ends import Cut, Ends

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 4 * KIB


class Held(FileVolume):
    """A source of which the pass sees no more than `let` says, by superblocks; what is asked for
    by a machine it gives at once."""

    def __init__(self, path: Path, let: int = 0) -> None:
        super().__init__(path)
        self._may = threading.Semaphore(let)
        self.fetched: list[int] = []

    def read_into(self, buffer: memoryview, at: int) -> None:
        if threading.current_thread().name == "scan":
            assert self._may.acquire(timeout=30)
        elif threading.current_thread().name == "reads":
            self.fetched.append(at)
        super().read_into(buffer, at)

    def let(self, n: int = 1 << 20) -> None:
        self._may.release(n)


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    return Ends(tmp_path)


def content_of(n_bytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(n_bytes)


@contextmanager
def filling(ends: Ends, source: FileVolume, **request) -> Iterator[None]:
    """A pass under way whose shadow can be read."""
    request = {"mode": DIRECT, "is_promoted": True, "reads": ends.connected} | request
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(ends.send, source=source, **request)
        try:
            wait_for(lambda: under_way.done() or "desk" in ends.exports._filling)
            yield
        finally:
            if isinstance(source, Held):
                source.let()
            under_way.result(60)


def wait_for(is_so) -> None:
    for _ in range(600):
        if is_so():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come to be")


def read(ends: Ends, at: int, length: int) -> bytes:
    with ends.exports.opened("desk") as export:
        return export.read(at, length)


def test_what_has_not_come_is_read_from_the_source(ends):
    content = content_of(8 * MIB)
    ends.write_source(content)
    with Held(ends.source) as source, filling(ends, source):
        for at, length in ((0, 512), (5 * MIB - 100, 300_000), (8 * MIB - 10, 10)):
            assert read(ends, at, length) == content[at : at + length]
        assert source.fetched
    assert ends.held() == content
    assert read(ends, 0, 8 * MIB) == content


def test_what_has_come_is_not_asked_for_again(ends):
    content = content_of(4 * MIB)
    ends.write_source(content)
    with Held(ends.source) as source, filling(ends, source, first=[(2 * MIB, 2 * MIB + 64 * KIB)]):
        source.let(1)
        wait_for(lambda: ends.exports._filling["desk"]._held_blocks)
        assert read(ends, 2 * MIB, 64 * KIB) == content[2 * MIB : 2 * MIB + 64 * KIB]
        assert not source.fetched
    assert ends.held() == content


def test_what_both_ends_hold_already_is_read_here(ends):
    before = bytearray(content_of(4 * MIB))
    ends.write_source(bytes(before))
    ends.send()
    before[MIB : MIB + BLOCK] = content_of(BLOCK, 2)
    ends.write_source(bytes(before))
    # With a change map, so that nothing but the second mebibyte need be looked at.
    with Held(ends.source) as source, filling(ends, source, changes=[(MIB, MIB + BLOCK)]):
        wait_for(lambda: ends.exports._filling["desk"]._is_held[3])
        assert read(ends, 3 * MIB, MIB) == before[3 * MIB :]
        assert not source.fetched
        assert read(ends, MIB, BLOCK) == before[MIB : MIB + BLOCK]
        assert source.fetched
    assert ends.held() == bytes(before)


def test_a_block_that_the_disk_changed_is_read_from_the_source_and_repaired(ends):
    content = content_of(4 * MIB)
    ends.write_source(content)
    ends.send()
    with (ends.folder / "store/desk/volume").open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"flipped")
    with Held(ends.source) as source, filling(ends, source, changes=[(0, BLOCK)]):
        wait_for(lambda: ends.exports._filling["desk"]._is_held[2])
        assert read(ends, 3 * MIB, BLOCK) == content[3 * MIB : 3 * MIB + BLOCK]


def test_a_source_that_is_lost_and_comes_back_is_asked_again(ends):
    content = content_of(4 * MIB)
    ends.write_source(content)
    n_connected = 0

    @contextmanager
    def connect():
        nonlocal n_connected
        n_connected += 1
        # The first breaks within the first answer.
        hurt = (lambda connection: Cut(connection, 20_000)) if n_connected == 1 else None
        with ends.connected(hurt) as channel:
            yield channel

    with Held(ends.source) as source, filling(ends, source, reads=connect):
        assert read(ends, MIB, MIB) == content[MIB : 2 * MIB]
    assert n_connected == 2
    assert ends.held() == content


def test_a_read_that_nobody_answers_fails_and_says_so(ends):
    ends.write_source(content_of(4 * MIB))
    ends.exports._wait_s = 0.1

    @contextmanager
    def connect():
        raise Interrupted("no way there")
        yield

    with (
        Held(ends.source) as source,
        filling(ends, source, reads=connect),
        pytest.raises(VolumeFailed, match=r"desk, byte 1048576: .*did not answer for 0 s"),
    ):
        read(ends, MIB, BLOCK)


def test_a_pass_that_was_cut_goes_on_and_what_is_read_is_right_meanwhile(ends):
    content = content_of(16 * MIB)
    ends.write_source(content)
    with FileVolume(ends.source) as source, pytest.raises(Interrupted):
        ends.send(
            source=source,
            hurt=lambda connection: Cut(connection, 9 * MIB),
            mode=DIRECT,
            is_promoted=True,
            reads=ends.connected,
        )
    with Held(ends.source) as source, filling(ends, source):
        assert read(ends, 0, 16 * MIB) == content
    assert ends.held() == content


def test_what_was_fetched_for_a_pass_that_broke_is_not_relied_on_by_the_next(ends):
    ends.write_source(content_of(4 * MIB))
    with (
        Held(ends.source) as source,
        pytest.raises(Interrupted),
        filling(ends, source, hurt=lambda connection: Cut(connection, 100_000)),
    ):
        read(ends, 3 * MIB, BLOCK)
    content = content_of(4 * MIB, 2)
    ends.write_source(content)
    # Until it has said so there is no pass to rely on.
    with Held(ends.source) as source, filling(ends, source):
        wait_for(lambda: source.fetched or not read_cached(ends))
        assert read(ends, 3 * MIB, BLOCK) == content[3 * MIB : 3 * MIB + BLOCK]


def read_cached(ends: Ends) -> int:
    return len(ends.exports._filling["desk"]._chunks)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_is_read_whenever_is_what_the_source_holds(data, tmp_path_factory):
    ends = Ends(tmp_path_factory.mktemp("ends"))
    draw = data.draw
    n_blocks = draw(st.integers(1, 64))
    choose = random.Random(draw(st.integers(0, 99)))
    kinds = [bytes(512), b"a" * 512, choose.randbytes(512)]
    before, after = (b"".join(choose.choices(kinds, k=n_blocks)) for _ in range(2))
    request = {"block_bytes": 512, "blocks_per_super": 4}
    if draw(st.booleans()):
        ends.write_source(before)
        ends.send(**request)
    ends.write_source(after)
    spans = st.tuples(st.integers(0, len(after) - 1), st.integers(1, 2048))
    first = [(at, at + length) for at, length in draw(st.lists(spans, max_size=5))]
    with Held(ends.source) as source, filling(ends, source, first=first, **request):
        for at, length in draw(st.lists(spans, max_size=8)):
            length = min(length, len(after) - at)
            assert read(ends, at, length) == after[at : at + length]
            source.let(draw(st.integers(1, 4)))
    assert ends.held() == after


@pytest.mark.parametrize(
    "wrong", [{"mode": "staged"}, {"is_promoted": False}, {"is_consistent": False}]
)
def test_only_what_stands_still_can_be_read_before_it_is_there(ends, wrong):
    ends.write_source(content_of(MIB))
    with pytest.raises(Refused, match="stands still"):
        ends.send(**({"mode": DIRECT, "is_promoted": True, "reads": ends.connected} | wrong))


def test_a_receiver_without_exports_says_so(ends):
    ends.write_source(content_of(MIB))
    ends.exports = None
    with pytest.raises(Refused, match="no exports"):
        ends.send(mode=DIRECT, is_promoted=True, reads=ends.connected)


def test_a_shadow_that_a_pass_may_change_is_not_read(ends):
    ends.write_source(content_of(MIB))
    ends.send()
    for name in ("desk", "unknown", "../desk", "desk/../desk"):
        with pytest.raises(Refused), ends.exports.opened(name):
            pass
    ends.send(is_promoted=True)
    assert read(ends, 0, MIB) == content_of(MIB)
    ends.demote()
    with pytest.raises(Refused), ends.exports.opened("desk"):
        pass


def test_a_promise_is_not_kept_of_what_nobody_reads(ends):
    ends.write_source(content_of(MIB))
    cut = {"size": MIB, "block_bytes": 4096, "blocks_per_super": 256}
    with ends.connected() as channel:
        channel.send_json(Kind.HELLO, protocol=1, volume="desk", mode="direct", **cut)
        channel.receive(Kind.WELCOME)
        channel.send(Kind.HELD, bytes(20))
        with pytest.raises(ProtocolBroken, match="nobody reads"):
            channel.receive()


# Over the network block device protocol.


@contextmanager
def served(ends: Ends) -> Iterator[str]:
    path = ends.folder / "exports.socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=NbdServer(ends.exports, listener).serve, daemon=True).start()
        try:
            yield f"nbd+unix:///desk?socket={path}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def test_our_own_client_reads_it(ends):
    content = content_of(3 * MIB)
    ends.write_source(content)
    with served(ends) as url, Held(ends.source) as source, filling(ends, source):
        with NbdVolume(url) as volume:
            data = memoryview(bytearray(3 * MIB))
            volume.read_into(data, 0)
            volume.flush()
        assert bytes(data) == content
        with pytest.raises(Refused, match="for reading only"):
            NbdVolume(url, writable=True)
        with pytest.raises(Refused, match="No machine was started on other"):
            NbdVolume(url.replace("desk", "other"))


def test_what_was_read_is_kept_in_its_order(ends):
    ends.write_source(content_of(3 * MIB))
    with served(ends) as url, Held(ends.source) as source, filling(ends, source):
        with NbdVolume(url) as volume:
            for at, length in ((2 * MIB, 32 * KIB), (0, 512), (2 * MIB, 512)):
                volume.read_into(memoryview(bytearray(length)), at)
        kept = ends.folder / "store/desk/reads.json"
        wait_for(kept.exists)
    assert json.loads(kept.read_text()) == [
        {"start": 2 * MIB, "length": 32 * KIB},
        {"start": 0, "length": 16 * KIB},
    ]


def test_qemu_runs_on_an_overlay_while_it_comes_and_goes_on_on_the_volume(ends):
    skip_without_qemu()
    content = content_of(6 * MIB)
    ends.write_source(content)
    overlay, volume = ends.folder / "overlay.qcow2", ends.folder / "store/desk/volume"
    with served(ends) as url, Held(ends.source) as source:
        with filling(ends, source):
            create = ("create", "-q", "-f", "qcow2", "-F", "raw", "-b", url, str(overlay))
            subprocess.run(["qemu-img", *create], check=True, timeout=60)
            machine = Machine(overlay)
            machine.io(f"read -v {5 * MIB} 512")
            assert source.fetched
            machine.io(f"write -P 7 {MIB} 64k")
        whole = {"driver": "file", "filename": str(volume)}
        machine.ask("blockdev-add", {"driver": "raw", "node-name": "whole", "file": whole})
        machine.ask("blockdev-reopen", {"options": [machine.disk | {"backing": "whole"}]})
        machine.ask("block-commit", {"device": "disk", "job-id": "one"})
        wait_for(lambda: machine.ask("query-jobs")[0]["status"] == "ready")
        machine.ask("job-complete", {"id": "one"})
        wait_for(lambda: not machine.ask("query-jobs"))
        said = machine.ended()
    assert content[5 * MIB : 5 * MIB + 16].hex(" ") in said
    expected = bytearray(content)
    expected[MIB : MIB + 64 * KIB] = bytes([7]) * 64 * KIB
    assert volume.read_bytes() == bytes(expected)


class Machine:
    """A QEMU that has a disk, and no processor that would use it."""

    def __init__(self, overlay: Path) -> None:
        file = {"driver": "file", "filename": str(overlay)}
        self.disk = {"driver": "qcow2", "node-name": "disk", "file": file}
        path = overlay.with_name("qmp")
        options = ("-machine", "none", "-nodefaults", "-display", "none")
        qmp = ("-qmp", f"unix:{path},server=on,wait=off")
        self._process = subprocess.Popen(
            ["qemu-system-x86_64", *options, *qmp, "-blockdev", json.dumps(self.disk)],
            stdout=subprocess.PIPE,
            text=True,
        )
        wait_for(path.exists)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._answers = self._socket.makefile()
        self._answers.readline()
        self.ask("qmp_capabilities")

    def io(self, command: str) -> None:
        self.ask("human-monitor-command", {"command-line": f'qemu-io disk "{command}"'})

    def ask(self, command: str, arguments: dict | None = None):
        said = {"execute": command} | ({"arguments": arguments} if arguments else {})
        self._socket.sendall(json.dumps(said).encode())
        while True:
            answer = json.loads(self._answers.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]

    def ended(self) -> str:
        """All that its commands printed."""
        self.ask("quit")
        self._answers.close()
        self._socket.close()
        return self._process.communicate(timeout=30)[0]
