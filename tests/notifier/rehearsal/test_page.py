"""The rehearsal's page as a person sees it: real Chromium, phone and desktop width, without JavaScript."""

from __future__ import annotations

import os
import shutil
import smtplib
from collections.abc import Iterator
from email.message import EmailMessage

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "Chromium is missing: install the package 'chromium'"
    options = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # Chromium refuses its sandbox to root
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield running
        running.close()


def deliver(pair, number: int) -> None:
    message = EmailMessage()
    message["From"], message["To"] = "notice@example.net", f"patient{number}@example.org"
    message["Subject"] = f"Information importante n° {number}"
    message.set_content("Vos données ont été copiées.")
    message.add_alternative("<p>Vos données <b>ont été copiées</b>.</p>", subtype="html")
    with smtplib.SMTP("127.0.0.1", pair.smtp_port) as client:
        client.send_message(message)


@pytest.mark.parametrize("width", [360, 1200])
def test_what_was_taken_can_be_read_at_any_width_without_javascript(pair, browser: Browser, width: int):
    for number in range(3):
        deliver(pair, number)
    context = browser.new_context(viewport={"width": width, "height": 800}, java_script_enabled=False)
    asked: list[str] = []
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pair.url)
    assert page.get_by_text("nothing leaves this machine").is_visible()
    assert page.get_by_role("link", name="Information importante n° 2").is_visible()
    page.get_by_role("link", name="Information importante n° 2").click()
    assert page.get_by_text("patient2@example.org").first.is_visible()
    assert page.get_by_text("Vos données ont été copiées.").first.is_visible()
    assert all(url.startswith(pair.url) for url in asked), asked
    context.close()


def test_faults_are_set_from_the_page(pair, browser: Browser):
    page = browser.new_page()
    page.goto(pair.url)
    page.get_by_role("link", name="Faults").click()
    before = pair.inbox.faults
    page.get_by_role("button", name="harsh").click()
    page.wait_for_load_state()
    assert pair.inbox.faults != before
    page.close()


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_window(pair, browser: Browser, width: int):
    deliver(pair, 1)
    page = browser.new_page(viewport={"width": width, "height": 800})
    for address in (pair.url, f"{pair.url}/?channel=sms", f"{pair.url}/mail/1"):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
    page.close()
