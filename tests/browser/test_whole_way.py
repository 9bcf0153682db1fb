"""From signing in to a desktop that runs in the other region, in a real browser."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from statistics import median

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from desktops.clouds.simulator.journal import doubles, gaps
from desktops.core.cloud import NotFound
from desktops.models import Event, Site
from migration.core.machine import PATHS, State, Strategy
from migration.models import Transition
from tests.browser.pages import PASSWORD, scroll_to, sign_in, texts, until
from tests.support.fleet import Fleet, make_fleet
from tests.support.rows import add_profile
from tests.support.services import WebServer, worker
from tests.support.simulator import SimulatorProcess

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

# When the page first showed each state and each finished command, by the browser's clock. What
# was there when the watch began had been there for longer.
WATCH = """
window.seen = {};
window.watchedSince = Date.now();
const look = () => {
  const shown = [
    ...document.querySelectorAll(".stepper .is-past, .stepper .is-current"),
    ...document.querySelectorAll("tr[data-outcome=done]"),
  ];
  for (const element of shown) {
    const name = element.dataset.state ?? element.dataset.command;
    window.seen[name] ??= Date.now();
  }
};
new MutationObserver(look).observe(document.body, {subtree: true, childList: true});
look();
"""


@pytest.fixture
def fleet(transactional_db: None, simulated: SimulatorProcess) -> Fleet:
    fleet = make_fleet(simulated)
    fleet.alice.set_password(PASSWORD)
    fleet.alice.save()
    return fleet


def test_a_move_is_approved_and_followed_to_its_end(
    browser: Chrome,
    web: WebServer,
    simulated: SimulatorProcess,
    fleet: Fleet,
    tmp_path: Path,
) -> None:
    desktop = fleet.desktop(simulated, is_user_present=True)
    site = Site.objects.create(code="paris", label="Paris", latitude=48.9, longitude=2.4)
    fleet.recommendation(desktop)
    add_profile(
        fleet.plan().generation,
        fleet.pool,
        person=desktop.desktop_user,
        desktop=desktop,
        site=site,
    )
    source_server = desktop.server_id

    sign_in(browser, web, "alice")
    browser.find_element(By.LINK_TEXT, "People").click()
    browser.find_element(By.LINK_TEXT, desktop.key).click()
    see_bands_and_map(browser)

    with worker(tmp_path, simulated):
        browser.find_element(By.LINK_TEXT, "Plan").click()
        browser.find_element(By.LINK_TEXT, desktop.label).click()
        assert "shut down" in browser.find_element(By.ID, "what").text
        browser.find_element(By.ID, "cutover-ready").click()
        browser.find_element(By.ID, "approve").click()
        until(browser, "#stepper")
        browser.execute_script(WATCH)
        until(browser, ".stepper .is-current[data-state=done]", timeout_s=120)

    seen = browser.execute_script("return window.seen")
    assert seen, "the page was loaded anew"
    see_every_step(browser, seen)
    check_cloud(simulated, fleet, desktop.key, source_server)


def see_bands_and_map(browser: Chrome) -> None:
    until(browser, "#demand-cpu[data-state=drawn] .scatterlayer path.js-fill")
    scroll_to(browser, "#location-map")
    until(browser, "#location-map[data-state=drawn]")
    until(browser, "#location-map .geo .layer.coastlines path[d]")
    until(browser, "#location-map .scattergeo path.point")
    assert "Paris" in texts(browser, ".places")[0]
    browser.find_element(By.CSS_SELECTOR, "label[for=tab-memory]").click()
    until(browser, "#demand-memory[data-state=drawn] .scatterlayer path.js-fill")


def see_every_step(browser: Chrome, seen: dict[str, int]) -> None:
    """Every state and command is on the page, and came there about a second after it happened.

    A busy machine may hold one of them back.
    """
    path = [state.value for state in PATHS[Strategy.STOP]]
    shown = browser.find_elements(By.CSS_SELECTOR, ".stepper li")
    assert [stage.get_attribute("data-state") for stage in shown] == path
    assert all(stage.find_elements(By.TAG_NAME, "time") for stage in shown)

    transition = Transition.objects.get()
    assert transition.state == State.DONE
    done = [f"{step.number} {step.command}" for step in transition.steps.order_by("number")]
    rows = browser.find_elements(By.CSS_SELECTOR, "#steps tr[data-command]")
    assert [
        f"{row.find_element(By.TAG_NAME, 'td').text} {row.get_attribute('data-command')}"
        for row in rows
    ] == done
    assert f"{transition.stall_ms / 1000:.1f} s" in browser.find_element(By.ID, "facts").text or (
        f"{transition.stall_ms} ms" in browser.find_element(By.ID, "facts").text
    )

    since = browser.execute_script("return window.watchedSince")
    lags = {
        name: seen[name] / 1000 - at.timestamp()
        for name, at in happened().items()
        if seen[name] > since + 50
    }
    assert len(lags) > 5
    assert median(lags.values()) < 1, lags
    assert max(lags.values()) < 10, lags


def happened() -> dict[str, datetime]:
    """When each state was entered and each command was first done."""
    at: dict[str, datetime] = {}
    for event in Event.objects.filter(object_type="transition").order_by("seq"):
        if event.kind == "transition.moved":
            at.setdefault(event.payload["to_state"], event.at)
        elif event.kind == "transition.step" and event.payload["outcome"] == "done":
            at.setdefault(event.payload["command"], event.at)
    return at


def check_cloud(
    simulated: SimulatorProcess, fleet: Fleet, desktop_key: str, source_server: str
) -> None:
    """The old server was shut down, then released; never did two copies accept sessions."""
    log = simulated.admin.log(desktop_key=desktop_key)
    assert not doubles(log)
    (gap,) = gaps(log, desktop_key=desktop_key)
    assert gap.was_held
    with pytest.raises(NotFound):
        simulated.cloud().server("east", source_server)
    transition = Transition.objects.get()
    assert transition.desktop.region == fleet.west
    assert simulated.cloud().server("west", transition.desktop.server_id).accepts_sessions
