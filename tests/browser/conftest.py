from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from tests.browser.chromium import chromium, complaints, missing_program
from tests.support.services import WebServer, web_server
from tests.support.simulator import SimulatorProcess, simulator

# Slow enough that every step of a move can be seen.
SPEED = 100.0


@pytest.fixture(scope="session")
def _chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    if missing := missing_program():
        pytest.skip(f"{missing} is not installed")
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(_chromium: Chrome, web: WebServer) -> Iterator[Chrome]:
    """Signed out, with an empty console; whatever it complains about fails the test."""
    _chromium.get("about:blank")
    _chromium.delete_all_cookies()
    complaints(_chromium)
    yield _chromium
    said = complaints(_chromium)
    # The page of this test must not talk to the server of the next one.
    _chromium.get("about:blank")
    _chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    assert not said, "\n".join(said)


@pytest.fixture
def web(transactional_db: None, tmp_path: Path) -> Iterator[WebServer]:
    with web_server(tmp_path) as server:
        yield server


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[SimulatorProcess]:
    with simulator(tmp_path, speed=SPEED) as process:
        yield process
