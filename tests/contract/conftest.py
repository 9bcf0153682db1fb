from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.drivers import DRIVERS, PARAMETERS, Ground
from tests.contract.rig import Rig


@pytest.fixture(scope="module", params=PARAMETERS)
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with DRIVERS[request.param]() as prepared:
        yield prepared


@pytest.fixture
def rig(ground: Ground) -> Iterator[Rig]:
    """The cloud, and hands that remember what they made and remove it after the test."""
    hands = Rig(ground)
    yield hands
    hands.clean_up()
