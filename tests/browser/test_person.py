"""A person's page draws what will be needed, what repeats, and how an earlier forecast did."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from desktops.models import DesktopUser, Notice
from forecasting.models import Generation
from forecasting.services.forecasts import run_forecast
from tests.browser.pages import PASSWORD, scroll_to, sign_in, texts, until
from tests.support.history import write_history
from tests.support.rows import Rows, make_rows
from tests.support.services import WebServer

pytestmark = pytest.mark.browser


def test_a_viewer_draws_components_and_an_earlier_forecast(browser: Chrome, web: WebServer) -> None:
    rows = make_rows()
    rows.add_people(2)
    write_history(rows)
    announce(rows)
    now = rows.dataset.as_of
    Generation.objects.filter(dataset=rows.dataset).update(as_of=now - timedelta(days=30))
    for hours_ago in (48, 0):
        rows.dataset.as_of = now - timedelta(hours=hours_ago)
        rows.dataset.save()
        run_forecast(dataset_id=rows.dataset.pk, clock=timezone.now)
    account = rows.account("vera", "viewer")
    account.set_password(PASSWORD)
    account.save()
    sign_in(browser, web, "vera")
    person = DesktopUser.objects.filter(dataset=rows.dataset).earliest("pk")
    browser.get(f"{web.url}/people/{person.pk}/")

    for chart in ("demand-cpu", "part-cpu_cores", "earlier-cpu_cores"):
        scroll_to(browser, f"#{chart}")
        until(browser, f"#{chart}[data-state=drawn]")
    assert "of 18 hours observed since" in texts(browser, "[data-source-of~=earlier-cpu_cores]")[0]
    assert texts(browser, "#demand-cpu .annotation-text") == ["as of", "Stocktaking (REST)"]
    assert "hours observed in the last eight weeks" in "".join(
        texts(browser, "[data-source-of~=part-cpu_cores]")
    )
    browser.find_element(By.CSS_SELECTOR, "label[for=tab-part-memory_bytes]").click()
    until(browser, "#part-memory_bytes[data-state=drawn]")


def announce(rows: Rows) -> None:
    Notice.objects.create(
        dataset=rows.dataset,
        kind=Notice.Kind.BUSY,
        title="Stocktaking",
        starts_at=rows.dataset.as_of + timedelta(days=2),
        ends_at=rows.dataset.as_of + timedelta(days=3),
        origin=Notice.Origin.REST,
        provenance="test",
        uid="0" * 64,
        received_at=rows.dataset.as_of,
    )
