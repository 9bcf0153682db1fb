"""The slider of the fleet's map is moved with the keyboard, and the table follows it."""

from __future__ import annotations

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from desktops.models import DesktopUser
from forecasting.models import ResourceDemandProfile
from tests.browser.pages import PASSWORD, scroll_to, sign_in, texts, until
from tests.support.rows import Rows, make_rows
from tests.support.services import WebServer

pytestmark = pytest.mark.browser


@pytest.fixture
def rows(web: WebServer) -> Rows:
    rows = make_rows()
    rows.add_people(6)
    location = {"paris": [0.5] + [1.0] * 167, "lyon": [0.5] + [0.0] * 167}
    ResourceDemandProfile.objects.update(location=location)
    account = rows.account("vera", "viewer")
    account.set_password(PASSWORD)
    account.save()
    return rows


def test_the_table_says_what_the_map_shows_at_each_hour(
    browser: Chrome, web: WebServer, rows: Rows
) -> None:
    sign_in(browser, web, "vera")
    browser.get(f"{web.url}/whereabouts/")
    until(browser, "#fleet-map[data-state=drawn]")
    assert numbers(browser) == ["Paris 3.0", "Lyon 3.0", "Other places 0.0"]
    slider = browser.find_element(By.ID, "hour")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert numbers(browser) == ["Paris 6.0", "Other places 0.0"]
    assert slider.get_attribute("aria-valuetext") == "Mon 02 Mar 09:00 UTC"
    slider.send_keys(Keys.HOME)
    assert numbers(browser) == ["Paris 3.0", "Lyon 3.0", "Other places 0.0"]


def numbers(browser: Chrome) -> list[str]:
    """The rows of the table that are to be seen."""
    return [text for text in texts(browser, "[data-slider-table] tbody tr") if text]


def test_a_persons_map_moves_by_the_hour_on_their_clock(
    browser: Chrome, web: WebServer, rows: Rows
) -> None:
    sign_in(browser, web, "vera")
    person = DesktopUser.objects.earliest("pk")
    browser.get(f"{web.url}/people/{person.pk}/")
    scroll_to(browser, "#location-map")
    until(browser, "#location-map[data-state=drawn]")
    slider = browser.find_element(By.ID, "hour")
    for key, label in (
        (Keys.HOME, "Mon 02 Mar 09:00 (Europe/Paris)"),
        (Keys.ARROW_RIGHT, "Mon 02 Mar 10:00 (Europe/Paris)"),
        (Keys.END, "Mon 09 Mar 03:00 (Europe/Paris)"),
    ):
        slider.send_keys(key)
        assert slider.get_attribute("aria-valuetext") == label
        assert texts(browser, "[data-slider-output=location-map]") == [label]
