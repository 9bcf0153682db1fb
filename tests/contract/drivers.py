"""The cloud drivers the contract holds for, each with what the suite needs to know of its cloud.

To put a driver under the contract, add a context manager that yields a `Ground` to `DRIVERS`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from desktops.clouds.simulator import connect
from desktops.core.cloud import Cloud
from tests.openstack import place
from tests.openstack.content import CONTENT, upload_image
from tests.openstack.sweeping import Sweeper
from tests.support import qemu
from tests.support.simulator import GB, TOKEN, simulator, two_regions

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Ground:
    """A cloud with two regions to try things in.

    image : exists in `source` only, bootable; volume_bytes : has room for it
    timeout_s : how long one request may take to come true; poll_s : how often to look
    unreachable : the same driver where nobody answers
    """

    cloud: Cloud
    source: str
    dest: str
    flavor: str
    image: str
    volume_bytes: int
    timeout_s: float
    unreachable: Cloud | None = None
    poll_s: float = 0.005


@contextmanager
def _simulator() -> Iterator[Ground]:
    world = two_regions()
    for region in world["regions"]:
        region["quota"] = {
            "servers": 40,
            "vcpus": 100,
            "memory_bytes": 400 * GB,
            "volume_bytes": 2000 * GB,
        }
    with tempfile.TemporaryDirectory() as folder, simulator(Path(folder)) as process:
        process.admin.load_world(world)
        # The discard port: nobody listens.
        unreachable = connect("unreachable", url="http://127.0.0.1:9", token=TOKEN)
        yield Ground(
            cloud=process.cloud(),
            source="east",
            dest="west",
            flavor="desktop.small",
            image="desktop-2026",
            volume_bytes=20 * GB,
            timeout_s=10,
            unreachable=unreachable,
        )


@contextmanager
def _openstack() -> Iterator[Ground]:
    """The cloud that OS_CLOUD names (tests/openstack/place.py)."""
    cloud = place.connected()
    source, dest = place.two_regions(cloud)
    sweeper = Sweeper(cloud, (source, dest))
    sweeper.also("contract:")
    image = f"{sweeper.prefix}-image"
    try:
        upload_image(cloud.api(source), image, CONTENT)
        yield Ground(
            cloud=cloud,
            source=source,
            dest=dest,
            flavor=place.common_flavor(cloud, (source, dest)),
            image=image,
            volume_bytes=GIB,
            timeout_s=300,
            poll_s=0.5,
        )
    finally:
        sweeper.sweep()


@contextmanager
def _qemu() -> Iterator[Ground]:
    """Hosts that boot what has no boot loader: nothing of a guest is needed here."""
    qemu.skip_without_qemu()
    with tempfile.TemporaryDirectory() as folder:
        options = qemu.options(Path(folder))
        elsewhere = qemu.options(Path(folder) / "nowhere")
        options["regions"][qemu.SOURCE]["quota"] = {"volume_gib": 1, "servers": 20}
        for region in options["regions"].values():
            images = qemu.prepare(region)
        # The destination has no image yet.
        (images / f"{qemu.BLANK_IMAGE}.raw").unlink()
        with qemu.qemu_cloud(options) as cloud:
            yield Ground(
                cloud=cloud,
                source=qemu.SOURCE,
                dest=qemu.DEST,
                flavor="desktop.small",
                image=qemu.BLANK_IMAGE,
                volume_bytes=16 * qemu.MIB,
                timeout_s=30,
                unreachable=qemu.connect("unreachable", **elsewhere),
            )


DRIVERS: Mapping[str, Callable[[], AbstractContextManager[Ground]]] = {
    "simulator": _simulator,
    "openstack": _openstack,
    "qemu": _qemu,
}
MARKS: Mapping[str, Any] = {
    "openstack": (
        pytest.mark.openstack,
        pytest.mark.timeout(900),
        # openstacksdk 4.22 warns of its own later releases, in every request it sends.
        pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    )
}

PARAMETERS = [pytest.param(name, marks=MARKS.get(name, ())) for name in DRIVERS]
