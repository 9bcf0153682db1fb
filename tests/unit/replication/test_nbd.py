"""Volumes that QEMU's own server of network block devices exports."""

from __future__ import annotations

import random
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from migration.replication.errors import Refused, VolumeFailed
from migration.replication.nbd import NbdVolume
from migration.replication.store import Store
from tests.support.qemu import skip_without_qemu
from tests.unit.replication.ends import Ends

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _qemu() -> None:
    skip_without_qemu()


@contextmanager
def exported(image: Path, *options: str, kind: str = "raw"):
    """The address of an export of the image."""
    path = image.with_suffix(".socket")
    command = ["qemu-nbd", "--persistent", "--shared=4", f"--format={kind}", f"--socket={path}"]
    with subprocess.Popen([*command, "--export-name=disk", *options, str(image)]) as server:
        try:
            while not path.exists():
                assert server.poll() is None
                time.sleep(0.01)
            yield f"nbd+unix:///disk?socket={path}"
        finally:
            server.terminate()


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def test_what_is_written_is_read(tmp_path):
    image = tmp_path / "disk"
    image.write_bytes(bytes(2 * MIB))
    content = random.Random(1).randbytes(300_000)
    with exported(image) as url, NbdVolume(url, writable=True) as volume:
        volume.write(memoryview(content), MIB)
        volume.zero(MIB + 4096, 8192)
        volume.flush()
        read = memoryview(bytearray(MIB + 4096))
        volume.read_into(read, MIB)
        assert volume.size == 2 * MIB
        assert sum(end - start for start, end in volume.data_ranges()) < 2 * MIB
    wanted = content[:4096] + bytes(8192) + content[12288:]
    assert bytes(read) == wanted.ljust(MIB + 4096, b"\0")
    assert image.read_bytes()[MIB:] == wanted.ljust(MIB, b"\0")


def test_a_shadow_may_be_an_export_and_its_source_another(tmp_path):
    ends = Ends(tmp_path)
    ends.write_source(random.Random(1).randbytes(5 * MIB))
    (tmp_path / "far").write_bytes(bytes(5 * MIB))
    with exported(ends.source, "--read-only") as near, exported(tmp_path / "far") as far:
        ends.store = Store(tmp_path / "elsewhere", {"desk": far}.get)
        ends.source = near
        report = ends.send()
        assert report.data_bytes == 5 * MIB
        assert ends.verify().is_equal
    assert (tmp_path / "far").read_bytes() == (tmp_path / "source").read_bytes()


def test_a_dirty_bitmap_is_a_change_map(tmp_path):
    image = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", image, "64M")
    qemu_img("bitmap", "--add", image, "since")
    with exported(image, kind="qcow2") as url, NbdVolume(url, writable=True) as volume:
        volume.write(memoryview(b"changed"), 33 * MIB)
        volume.flush()
    with (
        exported(image, "--read-only", "--bitmap=since", kind="qcow2") as url,
        NbdVolume(url, bitmap="since") as volume,
    ):
        assert list(volume.dirty_ranges()) == [(33 * MIB, 33 * MIB + 65536)]
        assert list(volume.data_ranges()) == [(33 * MIB, 33 * MIB + 4096)]
    with (
        exported(image, "--read-only", kind="qcow2") as url,
        pytest.raises(Refused, match="has no dirty bitmap 'since'"),
    ):
        NbdVolume(url, bitmap="since")


def test_what_cannot_be_had_is_named(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(MIB))
    with exported(tmp_path / "disk", "--read-only") as url:
        with pytest.raises(Refused, match="for reading only"):
            NbdVolume(url, writable=True)
        with pytest.raises(Refused, match="export 'other' not present"):
            NbdVolume(url.replace("/disk?", "/other?"))
    with pytest.raises(VolumeFailed, match="cannot be reached"):
        NbdVolume("nbd://127.0.0.1:1/disk")
    with pytest.raises(Refused, match="no address"):
        NbdVolume("nbd:///disk")
