"""A page keeps up with what is committed, whatever happens to the connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from django.db import transaction
from django.utils import timezone
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from desktops import events
from desktops.models import Event
from migration.models import Transition
from tests.browser.chromium import chromium, complaints
from tests.browser.pages import PASSWORD, scroll_to, sign_in, until
from tests.support.rows import Rows, make_rows
from tests.support.services import WebServer

pytestmark = pytest.mark.browser


@pytest.fixture
def rows(transactional_db: None) -> Rows:
    rows = make_rows()
    account = rows.account("alice", "approver")
    account.set_password(PASSWORD)
    account.save()
    return rows


def move(row: Transition, state: str) -> None:
    """As driving a transition would."""
    with transaction.atomic():
        before, row.state = row.state, state
        row.save()
        events.record(
            kind="transition.moved",
            subject=row,
            at=timezone.now(),
            pool_id=row.pool_id,
            desktop=row.desktop.key,
            from_state=before,
            to_state=state,
        )


def watching(browser: Chrome, web: WebServer, rows: Rows) -> Transition:
    """A transition, open in the browser."""
    row = rows.add_transition(rows.add_people(1)[0])
    sign_in(browser, web, "alice")
    browser.get(f"{web.url}/transitions/{row.pk}/")
    until(browser, "[data-state=live]")
    return row


def current(state: str) -> str:
    return f".stepper .is-current[data-state={state}]"


def within(seconds: float, action: Callable[[], object]) -> None:
    began = time.monotonic()
    action()
    assert time.monotonic() - began < seconds


def test_a_step_is_on_the_page_within_a_second(browser: Chrome, web: WebServer, rows: Rows) -> None:
    row = watching(browser, web, rows)
    move(row, "ready")
    within(3, lambda: until(browser, current("ready")))
    announced = browser.find_element(By.CSS_SELECTOR, "[data-announcer]")
    assert announced.get_attribute("textContent") == "Ready"


def test_a_browser_that_lost_its_server_catches_up(
    browser: Chrome, web: WebServer, rows: Rows
) -> None:
    row = watching(browser, web, rows)
    web.stop()
    until(browser, "[data-state=reconnecting]")
    move(row, "ready")
    web.start()
    until(browser, current("ready"))
    until(browser, "[data-state=live]")
    assert all("ERR_CONNECTION_REFUSED" in said for said in complaints(browser))


def test_a_lost_message_is_noticed_at_the_next_one(
    browser: Chrome, web: WebServer, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = watching(browser, web, rows)
    browser.execute_script(
        "window.heard = []; document.addEventListener('foredesk:event',"
        " (event) => window.heard.push(event.detail.payload.to_state))"
    )
    with monkeypatch.context() as patched:
        patched.setattr(events, "send", lambda event: None)
        move(row, "ready")
    move(row, "freezing")
    until(browser, current("freezing"))
    assert browser.execute_script("return window.heard") == ["ready", "freezing"]
    assert Event.objects.count() == 2


def test_somebody_who_was_signed_out_is_told(browser: Chrome, web: WebServer, rows: Rows) -> None:
    row = watching(browser, web, rows)
    browser.delete_all_cookies()
    move(row, "ready")
    until(browser, "[data-state=signed_out]")


def test_every_page_is_quiet(browser: Chrome, web: WebServer, rows: Rows, tmp_path: Path) -> None:
    """In the light and in the dark: nothing on the console, no violation of the content policy."""
    desktop, machine = rows.add_people(1)[0], rows.add_machine()
    row = rows.add_transition(desktop)
    pages = {
        "/": ".chart[data-state=drawn]",
        "/people/": "tbody a",
        "/desktops/": "tbody a",
        f"/people/{desktop.desktop_user_id}/": "#location-map[data-state=drawn]",
        f"/desktops/{machine.pk}/": "#demand-cpu[data-state=drawn]",
        "/plan/": "tbody a",
        f"/recommendations/{desktop.recommendations.get().pk}/": "#approve",
        "/transitions/": "tbody a",
        f"/transitions/{row.pk}/": "#stepper",
        "/api/": "tbody",
    }
    with chromium(tmp_path / "dark", "--blink-settings=preferredColorScheme=0") as dark:
        for driver, theme in ((browser, "light"), (dark, "dark")):
            sign_in(driver, web, "alice")
            for address, selector in pages.items():
                driver.get(f"{web.url}{address}")
                until(driver, f"[data-bs-theme={theme}]")
                until(driver, selector.partition("[")[0])
                scroll_to(driver, selector.partition("[")[0])
                until(driver, selector)
                until(driver, "[data-state=live]")
                assert complaints(driver) == [], address
