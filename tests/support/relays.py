"""Relays for tests: real processes against the database of the tests."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from desktops.models import Region
from migration.models import Relay
from tests.support.services import Service

READY_S = 40.0


@contextmanager
def relay(*regions: Region, folder: Path, env: Mapping[str, str]) -> Iterator[Service]:
    """One process for these regions, ready when it takes in what is sent to each of them.

    folder : for its log, and what relays of this host know
    """
    names = [f"--region={region.cloud}/{region.name}" for region in regions]
    service = Service(
        *("django", "relay", *names),
        log=folder / "relay.log",
        env={**env, "RELAY_FOLDER": str(folder / "relays"), "RELAYED_CLOUDS": regions[0].cloud},
    )
    try:
        service.start()
        _wait_for(service, regions)
        yield service
    finally:
        service.stop()


def _wait_for(service: Service, regions: tuple[Region, ...]) -> None:
    deadline = time.monotonic() + READY_S
    while Relay.objects.filter(region__in=regions).count() < len(regions):
        if time.monotonic() > deadline:
            raise AssertionError(f"the relay does not come up:\n{service.log.read_text()}")
        time.sleep(0.1)
