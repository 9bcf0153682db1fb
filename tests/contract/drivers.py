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
from tests.support.simulator import GB, TOKEN, simulator, two_regions


@dataclass(frozen=True, slots=True)
class Ground:
    """A cloud with two regions to try things in.

    image : exists in `source` only, bootable; volume_bytes : has room for it
    timeout_s : how long one request may take to come true
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


DRIVERS: Mapping[str, Callable[[], AbstractContextManager[Ground]]] = {"simulator": _simulator}
MARKS: Mapping[str, Any] = {}

PARAMETERS = [pytest.param(name, marks=MARKS.get(name, ())) for name in DRIVERS]
