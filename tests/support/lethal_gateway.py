"""The simulated gateway's driver, in a worker that may be told to die; see `lethal`."""

from __future__ import annotations

from migration.core.gateway import Gateway
from migration.gateways import simulator
from tests.support.killing import GATEWAY_COMMANDS, Mortal
from tests.support.lethal import Executioner


def connect(name: str, *, url: str, token: str) -> Gateway:
    gateway = simulator.connect(name, url=url, token=token)
    return Mortal(gateway, GATEWAY_COMMANDS, Executioner())  # type: ignore[return-value]
