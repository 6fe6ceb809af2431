"""The operators' pages in real Chromium, and the one that matters most: stopping everything while messages go out."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, Request
from sqlalchemy import text

from notifier import accounts
from notifier.accounts import Role
from notifier.cli.drill.stage import Stage
from notifier.models import Delivery
from notifier.settings import Settings
from notifier.store import Database
from tests.factories import person, start_campaign
from tests.notifier.web.conftest import PASSWORD, NewPerson, Person, secret_on
from tests.notifier.web.test_browser import (  # noqa: F401 - fixtures
    Looker,
    browser,
    current,
    looker,
    stranger,
    url,
)

pytestmark = pytest.mark.browser
#: how long a rehearsal server takes over a message, at most
LATENCY_S = 0.1


def come_in(page: Page, url: str, staff: Person) -> None:  # noqa: F811 - the address, not the fixture
    """From the invitation to the operators' page."""
    page.goto(url + staff.invite())
    page.get_by_role("button", name="Commencer").click()
    page.get_by_label("Nouveau mot de passe").fill(PASSWORD)
    page.get_by_label("Le même, encore une fois").fill(PASSWORD)
    page.get_by_role("button", name="Continuer").click()
    staff.secret = secret_on(page.content())
    page.get_by_label("Écrivez ici le code").fill(staff.code())
    page.get_by_role("button", name="Terminer").click()
    page.goto(url + "/operations")


@pytest.fixture
def busy(database: Database, current: Settings) -> int:  # noqa: F811
    """A campaign in the middle of its way, with something of everything; a delivery that was set aside."""
    campaign = start_campaign(database, current, [person(number) for number in range(1, 9)], number=7).id
    with database.staff() as session:
        number = session.query(Delivery).filter_by(campaign_id=campaign).order_by(Delivery.id).first().id
        for statement in (
            "INSERT INTO heartbeat (process) VALUES ('sweeper'), ('worker:email+sms:host:17:ab')",
            "INSERT INTO pace SELECT now() - make_interval(mins => m), 'host:17:ab', 'smtp', 'orange', 'accepted', 'ok', "
            "4000 + (m * 37 % 11) * 300 FROM generate_series(0, 59) m",
            "INSERT INTO pace SELECT now() - make_interval(mins => m), 'host:17:ab', 'brevo-sms', '', 'accepted', 'ok', "
            "1500 + (m * 17 % 7) * 100 FROM generate_series(0, 59) m",
            "INSERT INTO pace VALUES (now(), 'host:17:ab', 'smtp', 'orange', 'refused', 'smtp_550_5.7.1', 312)",
            "INSERT INTO breaker (scope, state, level, failures, reason) VALUES ('receiver:orange', 'open', 0, 1, 'half of its calls failed')",
            f"UPDATE delivery SET state = 'quarantined', reason = 'crashed', crashes = 3, due_at = NULL WHERE id = {number}",
            f"UPDATE delivery SET state = 'failed', reason = 'smtp_550_5.1.1', due_at = NULL WHERE id = {number + 2}",
        ):
            session.execute(text(statement))
    return number


@pytest.mark.parametrize(("kind", "scheme"), [("phone", "light"), ("desktop", "dark"), ("desktop", "light")])
def test_every_page_is_right_at_any_width_and_for_everybody(
    looker: Callable[..., Looker],  # noqa: F811
    new_person: NewPerson,
    busy: int,
    url: str,  # noqa: F811
    kind: str,
    scheme: str,
):
    eye = looker(kind, scheme)
    page = eye.page()
    come_in(page, url, new_person(Role.OPERATOR))
    eye.look(page, "operations")
    for called, path in (
        ("operations_stop", "/operations/stop/everything"),
        ("operations_campaigns", "/operations/campaigns"),
        ("operations_failed", "/operations/failed"),
        ("operations_set_aside", "/operations/set-aside"),
        ("operations_release", f"/operations/again/release?id={busy}"),
        ("operations_delivery", f"/operations/deliveries/{busy}"),
    ):
        page.goto(url + path)
        eye.look(page, called)
    page.get_by_label("Motif").fill("le destinataire le demande")
    page.get_by_role("button", name="Afficher le contact").click()
    assert page.locator("#contact").is_visible()
    eye.look(page, "operations_contact")
    page.goto(url + "/operations/failed")
    page.locator("td a").first.click()
    eye.look(page, "operations_campaign")
    page.get_by_role("link", name="Tous les envois").click()
    eye.look(page, "operations_deliveries")
    assert eye.wrong == []


def holds_no_stream_out_of_sight(tab: Page, url: str) -> None:  # noqa: F811
    """Six would be all connections that a browser opens to a server of HTTP/1.1."""

    def is_stream(request: Request) -> bool:
        return request.url.endswith("/live")

    turn = "shown => { window.shown = shown; document.dispatchEvent(new Event('visibilitychange')) }"
    tab.add_init_script("Object.defineProperty(document, 'hidden', { get: () => !window.shown })")
    with tab.expect_event("requestfailed", is_stream):
        tab.goto(url + "/operations")
    with tab.expect_response("**/live"):
        tab.evaluate(turn, True)
    with tab.expect_event("requestfailed", is_stream):
        tab.evaluate(turn, False)
    with tab.expect_response("**/live"):
        tab.evaluate(turn, True)
    tab.close()


@pytest.mark.parametrize("how", ["pushed", "asked"])
def test_the_page_moves_by_itself_and_keeps_the_focus(
    looker: Callable[..., Looker],  # noqa: F811
    new_person: NewPerson,
    busy: int,
    url: str,  # noqa: F811
    database: Database,
    how: str,
):
    eye = looker("desktop")
    page = eye.page()
    # the other way does not work: as behind a proxy that knows no streams
    page.route(
        "**/operations/now" if how == "pushed" else "**/live", lambda route: route.fulfill(status=502, body="")
    )
    come_in(page, url, new_person(Role.OPERATOR))
    page.get_by_role("link", name="Tout arrêter").focus()
    assert page.get_by_text("Le distributeur n’a jamais été vu").is_visible()
    with database.staff() as session:
        session.execute(text("INSERT INTO heartbeat (process) VALUES ('feeder')"))
    page.get_by_text("Le distributeur n’a jamais été vu").wait_for(state="detached")
    assert page.evaluate("document.activeElement.textContent") == "Tout arrêter"
    if how == "pushed":
        holds_no_stream_out_of_sight(eye.page(), url)
    with database.staff() as session:  # the session ends: nobody may take old figures for new ones
        session.execute(text("UPDATE web_session SET ended_at = now()"))
    page.wait_for_url("**/sign-in**")
    assert [one for one in eye.wrong if "status of 502" not in one] == []


def test_everything_that_matters_works_without_javascript(
    looker: Callable[..., Looker],  # noqa: F811
    new_person: NewPerson,
    busy: int,
    url: str,  # noqa: F811
):
    eye = looker("phone", javascript=False)
    page = eye.page()
    come_in(page, url, new_person(Role.OPERATOR))
    page.get_by_role("link", name="Tout arrêter").click()
    page.get_by_label("Motif").fill("un doute")
    page.get_by_role("button", name="Tout arrêter maintenant").click()
    assert page.get_by_text("Tout l’envoi est arrêté.").is_visible()
    assert eye.wrong == []


# --- stopping everything, for real -------------------------------------------------------------------------


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Real servers and processes: PostgreSQL, Valkey, API, feeder, sweeper, two workers, inbox and SMS simulator."""
    folder = Path(tempfile.mkdtemp(prefix="pn-"))
    folder.chmod(0o755)
    with Stage(folder / "s", 3, threading.Event()) as made:
        yield made
    shutil.rmtree(folder, ignore_errors=True)


def answers(where: str) -> bool:
    try:
        return httpx.get(f"{where}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def taken_at(stage: Stage) -> list[float]:
    """When each message was taken, by the receivers' own count."""
    found, since = [], 0
    while since is not None:
        answer = stage.api.get("/messages.json", params={"since": since}).json()
        found += [one["at"] for one in answer["messages"]]
        since = answer["next"]
    return found


@pytest.mark.journey
@pytest.mark.timeout(600)
def test_an_operator_stops_everything_and_a_second_later_nobody_is_called(
    browser: Browser,  # noqa: F811
    stage: Stage,
):
    where = stage.environment["NOTIFIER_PUBLIC_URL"]
    staff = Person(TestClient(lambda *_: None), stage.database, stage.settings, email="night@example.org")
    with stage.database.staff() as session:
        staff.account_id = accounts.create(
            session, stage.settings.master, role=Role.OPERATOR, email=staff.email, actor="cli:test"
        ).id
    slow = {"latency_s": LATENCY_S}
    stage.trouble(email=slow, sms=slow)
    stage.until("the pages answer", lambda: answers(where), 60)
    page = browser.new_page(locale="fr-FR")
    come_in(page, where, staff)
    start_campaign(stage.database, stage.settings, [person(number) for number in range(1, 3001)])
    stage.until("messages go out", lambda: stage.taken() > 20, 60)
    page.get_by_role("link", name="Tout arrêter").click()
    page.get_by_label("Motif").fill("un doute")
    page.get_by_role("button", name="Tout arrêter maintenant").click()
    page.get_by_text("Tout l’envoi est arrêté.").wait_for()
    stopped = time.time()
    waited = "SELECT now() > since + interval '3 seconds' FROM hold WHERE scope = 'everything'"
    stage.until("three seconds have passed", lambda: bool(stage.scalar(waited)), 30)
    left = stage.scalar("SELECT count(*) FROM delivery WHERE channel = 'email' AND state = 'pending'")
    taken = taken_at(stage)
    assert left > 100, "it was stopped in the middle"
    assert len(taken) > 20
    assert [at - stopped for at in taken if at > stopped + 1 + LATENCY_S] == []
    page.get_by_role("link", name="Reprendre l’envoi").click()
    page.get_by_label("Motif").fill("c’est réglé")
    page.get_by_role("button", name="Reprendre").click()
    stage.until("messages go out again", lambda: stage.taken() > len(taken), 60)
    page.close()
