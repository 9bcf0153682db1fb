from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from desktops.clouds import registry as clouds
from desktops.services import locating
from migration.gateways import registry as gateways
from tests.support.simulator import SimulatorProcess, simulator


@pytest.fixture(autouse=True)
def _no_remembered_sites() -> None:
    """The sites of addresses are remembered for seconds, longer than a test's database lasts."""
    locating.forget_sites()


@pytest.fixture(autouse=True)
def _no_samples_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Django empties the tables it manages after a test that commits; samples' is not of them."""
    marker = request.node.get_closest_marker("django_db")
    if marker is None or not marker.kwargs.get("transaction"):
        yield
        return
    request.getfixturevalue("transactional_db")
    yield
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE desktops_sample")


@pytest.fixture
def simulated(tmp_path: Path, settings: Any) -> Iterator[SimulatorProcess]:
    """A simulated cloud of this test alone, known to the product as `simulated`."""
    with simulator(tmp_path) as process:
        settings.CLOUDS = {
            "simulated": {"driver": "desktops.clouds.simulator", "options": process.options}
        }
        settings.GATEWAYS = {
            "simulator": {"driver": "migration.gateways.simulator", "options": process.options},
            "none": {"driver": "migration.gateways.none"},
        }
        yield process
        # What the product opened to this process is closed with it.
        clouds.get_cloud("simulated").close()  # type: ignore[attr-defined]
        gateways.get_gateway("simulator").close()  # type: ignore[attr-defined]
        clouds.get_cloud.cache_clear()
        gateways.get_gateway.cache_clear()
