"""The pages as a person sees them: real Chromium, phone and desktop, light and dark, with and without JavaScript.

With SCREENSHOTS naming a folder, each page is also kept there as a picture.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from notifier.accounts import Role
from notifier.api.server import Server
from notifier.settings import Settings
from notifier.store import Database
from tests.factories import make_settings
from tests.notifier.web.conftest import PASSWORD, NewPerson, Person, secret_on

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
WIDTHS = {"phone": 390, "desktop": 1200}

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


@pytest.fixture
def current(database_url: str) -> Settings:
    return make_settings(database_url, api_port=0, smtp={"port": 1, "security": "none"})


@pytest.fixture
def url(current: Settings) -> Iterator[str]:
    """The whole server on loopback, in a thread."""
    ports: list[int] = []
    ready = threading.Event()

    def note(number: int) -> None:
        ports.append(number)
        ready.set()

    server = Server(current, note)
    thread = threading.Thread(target=server.serve_until_stopped)
    thread.start()
    assert ready.wait(60)
    yield f"http://127.0.0.1:{ports[0]}"
    server.should_exit = True
    thread.join(60)


@pytest.fixture
def stranger(url: str, database: Database, current: Settings) -> Callable[[], Person]:
    """Accounts are made by themselves: no pages are asked of this one's client."""
    return lambda: Person(TestClient(lambda *_: None), database, current)


@dataclass
class Looker:
    """Looks at pages one after the other and keeps what is wrong with them."""

    context: BrowserContext
    url: str
    width: int
    name: str
    wrong: list[str]

    def page(self) -> Page:
        page = self.context.new_page()
        page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(self.url) else self.wrong.append(asked.url))
        return page

    def look(self, page: Page, called: str) -> None:
        """Nothing wider than the window, nothing axe-core finds."""
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=f"{folder}/{called}-{self.name}.png", full_page=True)
        if page.evaluate("document.documentElement.scrollWidth") > self.width:
            self.wrong.append(f"{called}: wider than the window")
        page.evaluate(AXE)  # from outside: the pages' own policy stays in force
        found = page.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice']})")
        assert len(found["passes"]) > 10, "axe-core did not look"
        for violation in found["violations"]:
            nodes = [node["target"] for node in violation["nodes"]]
            self.wrong.append(f"{called}: {violation['id']}: {violation['help']} {nodes}")


@pytest.fixture
def looker(browser: Browser, url: str) -> Iterator[Callable[..., Looker]]:
    made: list[BrowserContext] = []

    def make(kind: str, scheme: str = "light", *, javascript: bool = True) -> Looker:
        context = browser.new_context(
            viewport={"width": WIDTHS[kind], "height": 844},
            color_scheme=scheme,
            java_script_enabled=javascript,
            locale="fr-FR",
        )
        context.set_default_timeout(30_000)
        made.append(context)
        return Looker(context, url, WIDTHS[kind], f"{kind}-{scheme}", [])

    yield make
    for context in made:
        context.close()


@pytest.mark.parametrize(("kind", "scheme"), [("phone", "light"), ("desktop", "dark")])
def test_a_doctors_way_in_is_right_at_any_width_and_for_everybody(
    looker: Callable[..., Looker], new_person: NewPerson, url: str, kind: str, scheme: str
):
    doctor, eye = new_person(), looker(kind, scheme)
    page = eye.page()
    page.goto(url + doctor.invite())
    eye.look(page, "invitation")
    page.get_by_role("button", name="Commencer").click()
    eye.look(page, "enrol")
    doctor.secret = secret_on(page.content())
    page.get_by_label("Écrivez ici le code").fill(doctor.code())
    page.get_by_role("button", name="Terminer").click()
    eye.look(page, "codes")
    page.get_by_role("link", name="Je les ai conservés").click()
    assert page.get_by_role("heading", name="Vos patients à informer").is_visible()
    page.get_by_role("link", name="Mon compte").click()
    eye.look(page, "account")
    page.get_by_role("button", name="Se déconnecter").first.click()
    assert page.get_by_text("Vous êtes déconnecté.").is_visible()
    eye.look(page, "sign_in")
    page.get_by_label("Adresse électronique").fill(doctor.email)
    page.get_by_role("button", name="Recevoir un lien").click()
    eye.look(page, "sent")
    page.goto(url + doctor.sign_in_link())
    eye.look(page, "link")
    page.get_by_role("button", name="Continuer").click()
    page.get_by_label("Code à 6 chiffres").fill("000000")
    page.get_by_role("button", name="Se connecter").click()
    eye.look(page, "second_factor")
    page.get_by_role("link", name="Je n’ai pas mon téléphone").click()
    eye.look(page, "recovery")
    page.goto(url + "/link/over")
    eye.look(page, "link_over")
    assert [one for one in eye.wrong if "status of 4" not in one] == []


@pytest.mark.parametrize(("kind", "scheme"), [("phone", "dark"), ("desktop", "light")])
def test_staffs_way_in_is_right_at_any_width_and_for_everybody(
    looker: Callable[..., Looker], new_person: NewPerson, url: str, kind: str, scheme: str
):
    staff, eye = new_person(Role.OPERATOR), looker(kind, scheme)
    page = eye.page()
    page.goto(url + staff.invite())
    page.get_by_role("button", name="Commencer").click()
    eye.look(page, "password")
    page.get_by_label("Nouveau mot de passe").fill(PASSWORD)
    page.get_by_label("Le même, encore une fois").fill(PASSWORD)
    page.get_by_role("button", name="Continuer").click()
    staff.secret = secret_on(page.content())
    page.get_by_label("Écrivez ici le code").fill(staff.code())
    page.get_by_role("button", name="Terminer").click()
    page.goto(url + "/nowhere")
    eye.look(page, "not_found")
    page.goto(url + "/doctor")
    eye.look(page, "forbidden")
    page.goto(url + "/operations")
    page.get_by_role("button", name="Se déconnecter").click()
    page.get_by_role("link", name="Se connecter avec un mot de passe").click()
    page.get_by_label("Adresse électronique").fill(staff.email)
    page.get_by_label("Mot de passe").fill("wrong")
    page.get_by_role("button", name="Continuer").click()
    eye.look(page, "staff")
    page.get_by_label("Mot de passe").fill(PASSWORD)
    page.get_by_role("button", name="Continuer").click()
    page.get_by_label("Code à 6 chiffres").fill(staff.code())
    page.get_by_role("button", name="Se connecter").click()
    assert page.url == url + "/operations"
    assert [one for one in eye.wrong if "status of 4" not in one] == []


def test_signing_in_works_without_javascript_and_by_keyboard(
    looker: Callable[..., Looker], new_person: NewPerson, url: str
):
    doctor, eye = new_person(), looker("phone", javascript=False)
    page = eye.page()
    page.goto(url + doctor.invite())
    page.keyboard.press("Tab")
    assert page.get_by_text("Aller au contenu").is_visible()
    page.get_by_role("button", name="Commencer").press("Enter")
    doctor.secret = secret_on(page.content())
    field = page.get_by_label("Écrivez ici le code")
    field.fill(doctor.code())
    field.press("Enter")
    page.get_by_role("link", name="Je les ai conservés").press("Enter")
    assert page.url == url + "/doctor"
    assert eye.wrong == []
