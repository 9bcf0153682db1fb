"""What a person does in the browser."""

from __future__ import annotations

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.services import WebServer

PASSWORD = "a password for tests"


def sign_in(browser: Chrome, web: WebServer, username: str) -> None:
    browser.get(f"{web.url}/")
    browser.find_element(By.NAME, "username").send_keys(username)
    browser.find_element(By.NAME, "password").send_keys(PASSWORD)
    browser.find_element(By.CSS_SELECTOR, "main button").click()
    until(browser, "[data-state=live]")


def until(browser: Chrome, selector: str, *, timeout_s: float = 20) -> WebElement:
    """The first element that matches, as soon as there is one."""
    return WebDriverWait(browser, timeout_s, poll_frequency=0.05).until(
        lambda driver: driver.find_element(By.CSS_SELECTOR, selector)
    )


def texts(browser: Chrome, selector: str) -> list[str]:
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def scroll_to(browser: Chrome, selector: str) -> None:
    """Charts are drawn when they come into view."""
    element = browser.find_element(By.CSS_SELECTOR, selector)
    browser.execute_script("arguments[0].scrollIntoView()", element)
