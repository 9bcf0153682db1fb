"""The simulated cloud's driver, in a worker that may be told to die; see `lethal`."""

from __future__ import annotations

from desktops.clouds import simulator
from desktops.core.cloud import Cloud
from tests.support.killing import CLOUD_COMMANDS, Mortal
from tests.support.lethal import Executioner

OBSERVATIONS = frozenset({"server", "inventory"})


def connect(name: str, *, url: str, token: str) -> Cloud:
    cloud = simulator.connect(name, url=url, token=token)
    return Mortal(cloud, CLOUD_COMMANDS | OBSERVATIONS, Executioner())  # type: ignore[return-value]
