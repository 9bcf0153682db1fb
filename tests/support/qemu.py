"""A cloud of QEMU hosts for tests: two regions, which are two folders of this machine."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from desktops.clouds.qemu import connect
from desktops.core.cloud import Server, ServerSpec, Volume, VolumeSpec, VolumeStatus
from desktops.core.hypervisor import Hypervisor
from tests.guests.building import Guest, build_guest, missing_programs
from tests.support.segment import Segment, segment
from tests.support.simulator import eventually
from tests.support.talk import ECHO_PORT, FEED_PORT, Feed, Session

IS_REQUIRED = bool(os.environ.get("FOREDESK_REQUIRE_QEMU"))
SOURCE, DEST = "east", "west"
BLANK_IMAGE, GUEST_IMAGE = "blank", "guest"
MIB = 1 << 20
CACHE = Path(tempfile.gettempdir()) / f"foredesk-test-guest-{os.getuid()}"


def skip_without_qemu() -> None:
    if missing := missing_programs():
        reason = f"not installed: {', '.join(missing)}"
        if IS_REQUIRED:
            pytest.fail(f"QEMU is required here, but {reason}")
        pytest.skip(reason)


def guest() -> Guest:
    return build_guest(CACHE)


def options(folder: Path, **changes: Any) -> dict[str, Any]:
    """Two regions below the folder, which may be written to before the cloud is asked."""
    regions = {
        name: {
            "folder": str(folder / name),
            "memory_folder": str(Path("/dev/shm") / f"foredesk-test-{folder.name}-{name}"),
        }
        for name in (SOURCE, DEST)
    }
    flavors = {"desktop.small": {"vcpus": 1, "memory_mib": 256}}
    return {
        "regions": regions,
        "flavors": flavors,
        "accelerator": "tcg",
        "shutdown_timeout_s": 0,
        **changes,
    }


def prepare(region: Mapping[str, Any]) -> Path:
    """A region's folder with an image that boots nothing. Returns where images lie."""
    images = Path(region["folder"]) / "images"
    images.mkdir(parents=True)
    with (images / f"{BLANK_IMAGE}.raw").open("wb") as file:
        file.write(os.urandom(MIB))
        file.truncate(8 * MIB)
    return images


@contextmanager
def qemu_cloud(settings: Mapping[str, Any]) -> Iterator[Hypervisor]:
    """The cloud, whose servers end with the block."""
    cloud = connect("hosts", **settings)
    try:
        yield cloud
    finally:
        for name, region in settings["regions"].items():
            if (Path(region["folder"]) / "images").is_dir():
                for server in cloud.inventory(name).servers:
                    cloud.delete_server(name, server.id)
            memory = Path(region["memory_folder"])
            if memory.is_dir():
                memory.rmdir()  # fails where a server left its memory behind


def add_guest(images: Path, *, append: str = "") -> None:
    """The test guest as an image: a blank disk, and the kernel that it is booted by."""
    made = guest()
    boot = images / f"{GUEST_IMAGE}.boot"
    boot.mkdir()
    (boot / "kernel").write_bytes(made.kernel.read_bytes())
    (boot / "initrd").write_bytes(made.initrd.read_bytes())
    (boot / "append").write_text(f"console=ttyS0 quiet {append}")
    with (images / f"{GUEST_IMAGE}.raw").open("wb") as file:
        file.truncate(32 * MIB)


class Desk:
    """One guest in a cloud of two regions, on a network segment of its own."""

    address = "10.77.0.2"

    def __init__(
        self,
        cloud: Hypervisor,
        network: Segment,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.cloud = cloud
        self.network = network
        self.settings = settings

    def volume(self, region: str, *, image: str | None = GUEST_IMAGE, key: str) -> Volume:
        made = self.cloud.create_volume(
            region, VolumeSpec(name="disk", size_bytes=64 * MIB, image=image), key=key
        )
        return eventually(
            lambda: self.cloud.volume(region, made.id),
            lambda seen: seen.status is VolumeStatus.AVAILABLE,
            timeout_s=30,
        )

    def boot(self, region: str = SOURCE, *, key: str = "desk") -> Server:
        spec = self.spec(self.volume(region, key=f"{key}:volume"))
        made = self.cloud.create_server(region, spec, key=key)
        return eventually(
            lambda: self.cloud.server(region, made.id),
            lambda seen: seen.is_running,
            timeout_s=30,
        )

    def spec(self, volume: Volume) -> ServerSpec:
        return ServerSpec(name="desk", flavor="desktop.small", boot_volume_id=volume.id)

    def session(self, *, within_s: float = 60) -> Session:
        return Session(self.network.connect(self.address, ECHO_PORT, within_s=within_s))

    def feed(self) -> Feed:
        return Feed(self.network.connect(self.address, FEED_PORT))


@contextmanager
def desk(folder: Path, *, append: str = "", **changes: Any) -> Iterator[Desk]:
    """A cloud with the test guest's image in both regions; nothing runs yet."""
    skip_without_qemu()
    with segment(folder) as network:
        settings = options(folder, **changes)
        for region in settings["regions"].values():
            region |= {"run": list(network.run), "netdev": network.netdev}
            append_all = f"guest.address={Desk.address}/24 {append}"
            add_guest(prepare(region), append=append_all)
        with qemu_cloud(settings) as cloud:
            yield Desk(cloud, network, settings)


def clouds_file(path: Path, name: str, settings: Mapping[str, Any]) -> Path:
    """QEMU_CLOUDS_FILE, for processes of their own. JSON's scalars and lists are TOML's too."""
    path.write_text("\n".join(_tables(name, settings)) + "\n")
    return path


def _tables(name: str, values: Mapping[str, Any]) -> Iterator[str]:
    yield f"[{name}]"
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    for key, value in values.items():
        if key not in tables:
            yield f"{key} = {json.dumps(value)}"
    for key, value in tables.items():
        yield from _tables(f"{name}.{json.dumps(key)}", value)


def process_of(region: Path, server_id: str) -> int:
    return int((region / "servers" / server_id / "pid").read_text())
