"""A cloud of QEMU hosts for tests: two regions, which are two folders of this machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from desktops.clouds.qemu import connect
from desktops.core.hypervisor import Hypervisor
from tests.guests.building import Guest, build_guest, missing_programs

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
