"""The page of backtests draws what would have been forecast over what came."""

from __future__ import annotations

import pytest
from django.utils import timezone
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from forecasting.services.backtests import run_backtest
from tests.browser.pages import PASSWORD, scroll_to, sign_in, texts, until
from tests.support.history import write_history
from tests.support.rows import make_rows
from tests.support.services import WebServer

pytestmark = pytest.mark.browser


def test_a_viewer_sees_the_table_and_draws_a_person_after_the_other(
    browser: Chrome, web: WebServer
) -> None:
    rows = make_rows()
    rows.add_people(2)
    write_history(rows)
    run_backtest(
        dataset_id=rows.dataset.pk, engines=["product", "seasonal"], clock=timezone.now, origins=1
    )
    account = rows.account("vera", "viewer")
    account.set_password(PASSWORD)
    account.save()
    sign_in(browser, web, "vera")
    browser.find_element(By.LINK_TEXT, "Accuracy").click()
    until(browser, "#scores")
    assert {text.split()[0] for text in texts(browser, "#scores tbody td:first-child")} == {
        "product",
        "seasonal",
    }
    scroll_to(browser, "#example-cpu_cores")
    until(browser, "#example-cpu_cores[data-state=drawn]")
    browser.find_element(By.CSS_SELECTOR, "label[for=tab-memory_bytes]").click()
    until(browser, "#example-memory_bytes[data-state=drawn]")
    browser.find_element(By.LINK_TEXT, "test-person-0001").click()
    until(browser, "a.active[href*=example]")
    scroll_to(browser, "#example-cpu_cores")
    until(browser, "#example-cpu_cores[data-state=drawn]")
