from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.simulator.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    made.load()
    yield made
    made.simulation.close()
