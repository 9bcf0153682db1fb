"""What ends in a clear error, with the shadow still at its last recovery point."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from migration.replication.certificates import Authority
from migration.replication.connecting import connected, server_context
from migration.replication.errors import (
    Busy,
    Interrupted,
    NoSpace,
    ProtocolBroken,
    Refused,
    VolumeFailed,
)
from migration.replication.frames import Frame
from migration.replication.index import Layout
from migration.replication.receiver import Receiver
from migration.replication.shadow import Pass
from migration.replication.store import Store
from migration.replication.volume import FileVolume
from migration.replication.wire import Channel, Kind
from tests.unit.replication.ends import Cut, Ends

MIB = 1 << 20


@pytest.fixture
def ends(tmp_path):
    ends = Ends(tmp_path)
    ends.write_source(random.Random(1).randbytes(4 * MIB))
    ends.send()
    return ends


@contextmanager
def small_disk(folder: Path, size: int):
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    )
    if done.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_destination_keeps_its_recovery_point(tmp_path):
    with small_disk(tmp_path / "store", 6 * MIB):
        ends = Ends(tmp_path)
        state = random.Random(1).randbytes(4 * MIB)
        ends.write_source(state)
        ends.send(mode="direct")
        ends.write_source(random.Random(2).randbytes(4 * MIB))
        with pytest.raises(NoSpace, match=r"no room left for .*staged"):
            ends.send()
        assert ends.held() == state
        assert ends.generation() == 1


def test_room_is_made_sure_of_before_anything_is_applied(ends, monkeypatch):
    before = ends.held()
    state = before[:MIB] + bytes(2 * MIB) + random.Random(2).randbytes(MIB)
    ends.write_source(state)

    def full(self, at, length):
        raise NoSpace(f"There is no room left for {self.name}.")

    with monkeypatch.context() as patched:
        patched.setattr(FileVolume, "reserve", full)
        with pytest.raises(NoSpace):
            ends.send()
    assert ends.held() == before
    assert ends.generation() == 1
    report = ends.send()
    assert report.changed_bytes == 0  # all had been brought
    assert ends.held() == state


def test_a_crash_while_applying_ends_at_the_new_recovery_point(ends, monkeypatch):
    ends.write_source(random.Random(2).randbytes(4 * MIB))
    apply = Pass.apply

    def half(self, alive):
        self._shadow.volume.write(memoryview(b"half"), MIB)
        raise OSError("the relay lost its power")

    with monkeypatch.context() as patched:
        patched.setattr(Pass, "apply", half)
        with pytest.raises(Exception, match="its log says why"):
            ends.send()
    assert Pass.apply is apply
    assert ends.generation() == 2
    assert ends.held() == ends.source.read_bytes()


def test_a_source_that_vanishes_is_named(ends, monkeypatch):
    read = FileVolume.read_into

    def vanish(self, buffer, at):
        if self.name == str(ends.source) and at >= 2 * MIB:
            os.truncate(ends.source, MIB)
        read(self, buffer, at)

    before = ends.held()
    ends.write_source(random.Random(2).randbytes(4 * MIB))
    monkeypatch.setattr(FileVolume, "read_into", vanish)
    with pytest.raises(VolumeFailed, match="source ends at byte 2097152, before its 4194304"):
        ends.send()
    assert ends.held() == before
    assert ends.generation() == 1


def test_a_volume_that_is_gone_is_named(ends):
    (ends.folder / "store/desk/volume").unlink()
    with pytest.raises(VolumeFailed, match="desk/volume: No such file"):
        ends.send()


def test_a_shadow_is_not_made_shorter(ends):
    ends.write_source(b"short")
    with pytest.raises(Refused, match="has 5 bytes, fewer than the 4194304 of its shadow"):
        ends.send()


def test_two_cannot_work_on_one_shadow(ends):
    shadow = ends.store.open("desk")
    with pytest.raises(Busy, match="Somebody else works on the shadow"):
        ends.send()
    shadow.close()


def test_a_volume_that_a_machine_runs_on_takes_no_passes(ends):
    ends.send(is_promoted=True)
    for act in (ends.send, ends.verify):
        with pytest.raises(Refused, match="a machine was started on it"):
            act()
    volume = ends.folder / "store/desk/volume"
    volume.write_bytes(b"by the machine" + volume.read_bytes()[14:])
    ends.demote()
    report = ends.send()
    assert report.data_bytes == 4096
    assert ends.held() == ends.source.read_bytes()


@pytest.mark.parametrize("name", ["../escape", "", ".hidden", "a/b", "x" * 200])
def test_a_name_stays_within_the_store(ends, name):
    with pytest.raises(Refused, match="cannot be the name of a shadow"):
        ends.send(volume=name)
    assert not (ends.folder / "escape").exists()


@pytest.mark.parametrize(
    "cut", [{"block_bytes": 1000}, {"block_bytes": 64}, {"blocks_per_super": 0}]
)
def test_a_cut_that_makes_no_sense_is_refused(ends, cut):
    with pytest.raises(Refused, match="cannot"):
        ends.send(volume="other", **cut)


def test_a_frame_that_leaves_the_volume_is_refused(ends):

    frame = Frame(zero=np.array([5000])).encode()
    with pytest.raises(ProtocolBroken, match="leaves the volume"):
        Frame.decode(memoryview(frame), n_blocks=4096, block_bytes=4096)


class TestCertificates:
    @pytest.fixture
    def relays(self, tmp_path):

        authority = Authority.create(tmp_path / "authority")
        for name in ("east", "west"):
            authority.issue(name, tmp_path / name)
        return authority

    @contextmanager
    def serving(self, folder: Path, store: Path):

        listener = socket.create_server(("127.0.0.1", 0))
        receiver = Receiver(Store(store), listener, server_context(folder))
        thread = threading.Thread(target=receiver.serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join()

    def is_served(self, port: int, folder: Path) -> bool:
        with pytest.raises(Refused, match="There is no shadow"):
            self.greet(port, folder)
        return True

    def greet(self, port: int, folder: Path | None, name: str = "west") -> None:

        with connected("127.0.0.1", port, certificates=folder, name=name) as channel:
            channel.send_json(Kind.ASK_DIGESTS, volume="none")
            channel.receive()

    def test_relays_of_one_authority_talk(self, tmp_path, relays):
        with self.serving(tmp_path / "west", tmp_path / "store") as port:
            assert self.is_served(port, tmp_path / "east")

    def test_a_receiver_must_be_who_it_should_be(self, tmp_path, relays):
        with (
            self.serving(tmp_path / "west", tmp_path / "store") as port,
            pytest.raises(Refused, match=r"is not who it should be: .*'north'"),
        ):
            self.greet(port, tmp_path / "east", name="north")

    def test_a_sender_of_another_authority_is_not_served(self, tmp_path, relays):

        Authority.create(tmp_path / "strangers").issue("east", tmp_path / "stranger")
        trusted = (tmp_path / "east/trusted.pem").read_bytes()
        (tmp_path / "stranger/trusted.pem").write_bytes(trusted)
        with (
            self.serving(tmp_path / "west", tmp_path / "store") as port,
            pytest.raises((Refused, Interrupted)),
        ):
            self.greet(port, tmp_path / "stranger")

    def test_an_expired_certificate_is_named(self, tmp_path, relays):
        relays.issue("east", tmp_path / "east", days=1, now=datetime.now(UTC) - timedelta(days=2))
        with (
            self.serving(tmp_path / "west", tmp_path / "store") as port,
            pytest.raises(Refused, match=r"east/relay\.pem expired on \d{4}-"),
        ):
            self.greet(port, tmp_path / "east")

        with pytest.raises(Refused, match="expired"):
            server_context(tmp_path / "east")

    def test_a_rotated_authority_leaves_nobody_out(self, tmp_path, relays):
        relays.rotate()
        (tmp_path / "west/trusted.pem").write_bytes(
            (tmp_path / "authority/trusted.pem").read_bytes()
        )
        with self.serving(tmp_path / "west", tmp_path / "store") as port:
            assert self.is_served(port, tmp_path / "east")
        for name in ("east", "west"):
            relays.issue(name, tmp_path / name)
        relays.retire()
        relays.issue("late", tmp_path / "late")
        with self.serving(tmp_path / "west", tmp_path / "store") as port:
            assert self.is_served(port, tmp_path / "late")
        mode = (tmp_path / "late/relay.key").stat().st_mode
        assert mode & 0o777 == 0o600


def test_the_other_ends_reason_is_told_though_it_closed(tmp_path):

    ours, theirs = socket.socketpair()
    other = Channel(theirs)
    other.send_json(Kind.ERROR, code="no-space", text="There is no room left for desk.")
    theirs.close()
    with ours, pytest.raises(NoSpace, match="no room left for desk"):
        for _ in range(10):
            Channel(ours).send(Kind.FRAME, bytes(MIB))


def test_a_layout_counts_the_last_part(tmp_path):
    layout = Layout(size=4096 * 256 + 1)
    assert (layout.n_supers, layout.n_blocks) == (2, 512)


def test_a_pass_whose_record_a_power_failure_emptied_is_forgotten(ends):
    with pytest.raises(Interrupted):
        ends.write_source(random.Random(2).randbytes(4 * MIB))
        ends.send(hurt=lambda connection: Cut(connection, 2 * MIB))
    (ends.folder / "store/desk/pass.json").write_bytes(b"")
    ends.send()
    assert ends.held() == ends.source.read_bytes()
