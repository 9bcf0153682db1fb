"""Every run has its own PostgreSQL and Redis unless DATABASE_URL and REDIS_URL name others."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import django
import pytest

from webapp.embedded import Embedded

BROWSER_IS_REQUIRED = bool(os.environ.get("FOREDESK_REQUIRE_BROWSER"))

_data_dir: Path | None = None
_embedded: Embedded | None = None


def _choose_servers() -> None:
    """Set the environment the settings will read; pytest-django reads them after this file."""
    global _data_dir, _embedded
    given = {name for name in ("DATABASE_URL", "REDIS_URL") if os.environ.get(name)}
    if len(given) == 1:
        raise pytest.UsageError("Set both DATABASE_URL and REDIS_URL, or neither.")
    os.environ["FOREDESK_DATA"] = tempfile.mkdtemp(prefix="foredesk-tests-")
    _data_dir = Path(os.environ["FOREDESK_DATA"])
    if not given:
        _embedded = Embedded(_data_dir, is_durable=False)
        os.environ["DATABASE_URL"] = _embedded.database_url
        os.environ["REDIS_URL"] = _embedded.redis_url
    os.environ["SECRET_KEY"] = "only-for-tests-" + "0123456789abcdef" * 4
    os.environ["HTTPS_ONLY"] = "false"
    for name in ("DEBUG", "ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "SIMULATOR_URL", "LOG_LEVEL"):
        os.environ.pop(name, None)
    os.environ["DJANGO_SETTINGS_MODULE"] = "webapp.settings"


_choose_servers()
# Test modules import models, and pytest-django looked for the settings before this file set them.
django.setup()


_passed_in_browser = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Where a browser is required, a browser test that would be skipped fails."""
    global _passed_in_browser
    report = yield
    if item.get_closest_marker("browser"):
        if report.skipped and BROWSER_IS_REQUIRED:
            report.outcome = "failed"
            report.longrepr = f"skipped, but a browser is required: {report.longrepr[2]}"
        _passed_in_browser |= report.when == "call" and report.passed
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if BROWSER_IS_REQUIRED and not _passed_in_browser and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nNo browser test ran, but a browser is required.")


def pytest_unconfigure() -> None:
    if _data_dir is not None:
        shutil.rmtree(_data_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def servers() -> Iterator[None]:
    """PostgreSQL and Redis answer."""
    if _embedded is None:
        yield
        return
    _embedded.start()
    yield
    _embedded.stop()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(servers: None) -> None:
    """Before pytest-django makes the test database."""


@pytest.fixture(autouse=True)
def _servers_outside_unit_tests(request: pytest.FixtureRequest) -> None:
    if "unit" not in request.path.relative_to(Path(__file__).parent).parts:
        request.getfixturevalue("servers")


@pytest.fixture
def embedded() -> Embedded | None:
    """The servers of this run; None when the environment named others."""
    return _embedded
