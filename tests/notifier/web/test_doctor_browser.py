"""A doctor's whole path in real Chromium: from the first page to the proof file, on a phone, a desktop, without
JavaScript."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select, text

from notifier import controlling, evidence
from notifier.accounts import Role
from notifier.models import Campaign, Incident, TestSend
from notifier.settings import Settings
from notifier.store import Database
from notifier.testsends import State
from tests.factories import HEADER, person
from tests.notifier.web.conftest import NewPerson, Person, secret_on
from tests.notifier.web.test_browser import Looker, browser, current, looker, stranger, url  # noqa: F401 - fixtures

pytestmark = pytest.mark.browser

NOBODY = {"email": None, "phone": None}


@pytest.fixture
def campaign(database: Database, current: Settings, doctors: tuple[int, int]) -> int:  # noqa: F811 - the fixture
    """The second doctor's, without a list."""
    with database.staff() as session:
        incident = session.scalars(select(Incident.id)).one()
        return controlling.create(session, current.master, incident, doctors[1], actor="cli:test").id


@pytest.fixture
def a_list(tmp_path: Path) -> Path:
    """Twelve rows with what lists have in them."""
    rows = [person(n) for n in range(1, 8)]
    rows += [person(8, email="jean.dupont@gmial.com"), person(9, **NOBODY), person(10, **NOBODY)]
    rows += [person(11, nom="Nom1", prenom="Prenom1"), person(12, naissance="31/02/1990", decede="oui")]
    path = tmp_path / "export patients.csv"
    path.write_text("\n".join([HEADER, *rows, ""]), encoding="utf-8")
    return path


@contextmanager
def signed_in(page: Page, doctor: Person, address: str) -> Iterator[Page]:
    page.goto(address + doctor.invite())
    page.get_by_role("button", name="Commencer").click()
    doctor.secret = secret_on(page.content())
    page.get_by_label("Écrivez ici le code").fill(doctor.code())
    page.get_by_role("button", name="Terminer").click()
    page.get_by_role("link", name="Je les ai conservés").click()
    yield page


def move(database: Database, statement: str) -> None:
    """What the engine would do meanwhile."""
    with database.staff() as session:
        session.execute(text(statement))


@pytest.mark.parametrize(
    ("kind", "scheme", "javascript"),
    [("phone", "light", True), ("desktop", "light", True), ("phone", "dark", False)],
)
def test_a_doctors_whole_path(
    looker: Callable[..., Looker],  # noqa: F811
    new_person: NewPerson,
    url: str,  # noqa: F811
    database: Database,
    doctors: tuple[int, int],
    campaign: int,
    a_list: Path,
    tmp_path: Path,
    kind: str,
    scheme: str,
    javascript: bool,
):
    eye = looker(kind, scheme, javascript=javascript)

    def look(page: Page, called: str) -> None:
        if javascript:  # axe-core runs in the page
            eye.look(page, f"doctor-{called}")

    with signed_in(eye.page(), new_person(doctor_id=doctors[1]), url) as page:
        expect(page.get_by_role("heading", name="À faire : ajouter votre liste")).to_be_visible()
        look(page, "1-overview")

        page.get_by_role("link", name="Ajouter ma liste").click()
        look(page, "2-list")
        page.get_by_label("Fichier de la liste").set_input_files(a_list)
        page.get_by_role("button", name="Envoyer et regarder").click()
        expect(page.get_by_text("À informer par un message grâce à cette liste")).to_be_visible()
        look(page, "2-look")
        page.get_by_role("button", name="Importer cette liste").click()
        look(page, "2-report")
        page.get_by_role("link", name="Fautes de frappe probables : 1").click()
        look(page, "2-suggestions")
        page.get_by_role("checkbox").check()
        page.get_by_role("button", name="Accepter les adresses cochées").click()
        expect(page.get_by_text("Les adresses cochées sont corrigées.")).to_be_visible()
        page.get_by_role("link", name="Doublons possibles : 1").click()
        look(page, "2-doubts")
        page.get_by_role("button", name="Deux personnes").click()
        expect(page.get_by_text("Vous avez dit : deux personnes.")).to_be_visible()
        page.get_by_role("link", name="Retour à la liste").click()
        page.get_by_role("link", name="Continuer : le message").click()

        expect(page.frame_locator("iframe").get_by_text("Camille Exemple", exact=False).first).to_be_visible()
        look(page, "3-notice")
        page.get_by_label("Votre email ou votre mobile").fill("moi@example.org")
        page.get_by_role("button", name="M’envoyer un test").click()
        expect(page.get_by_text("En attente")).to_be_visible()
        with database.staff() as session:
            session.scalars(select(TestSend)).one().state = State.ACCEPTED
        if not javascript:
            page.get_by_role("link", name="Actualiser les résultats").click()
        expect(page.get_by_text("Remis : regardez votre boîte")).to_be_visible()
        page.goto(f"{url}/doctor")
        expect(page.get_by_role("heading", name="À faire : donner votre accord")).to_be_visible()
        page.get_by_role("link", name="Relire et approuver").click()
        page.get_by_label("J’ai lu le message.").check()
        look(page, "3-approve")
        page.get_by_role("button", name="Approuver le message").click()

        look(page, "4-start")
        page.get_by_role("button", name="Lancer l’envoi maintenant").click()
        expect(page.get_by_text("0 % : 0 personnes informées sur 11")).to_be_visible()
        move(
            database,
            f"WITH told AS (UPDATE patient SET outcome = 'informed', outcome_at = now() WHERE id IN "
            f"(SELECT id FROM patient WHERE campaign_id = {campaign} AND outcome = 'on_the_way' LIMIT 3) "
            f"RETURNING id) UPDATE delivery SET state = 'delivered', due_at = NULL WHERE id IN "
            f"(SELECT delivery_id FROM delivery_patient WHERE patient_id IN (SELECT id FROM told))",
        )
        if not javascript:
            page.get_by_role("link", name="Actualiser").click()
        expect(page.get_by_text("27 % : 3 personnes informées sur 11")).to_be_visible(timeout=30_000)
        look(page, "4-progress")
        page.get_by_role("link", name="informées", exact=False).first.click()
        look(page, "4-people")
        page.locator(".people a").first.click()
        look(page, "4-person")
        page.get_by_role("link", name="Vue d’ensemble").click()
        look(page, "1-overview-sending")
        if moves := javascript and kind == "phone":
            page.clock.install()
            page.route("**/progress/numbers**", lambda route: route.fulfill(status=502))
        page.goto(f"{url}/doctor/campaigns/{campaign}/progress")
        if moves:
            expect(page.get_by_text("Ils se mettent à jour seuls.")).to_be_visible()
            page.clock.fast_forward(15_000)  # in which nothing came
            expect(page.get_by_text("ne se met plus à jour")).to_be_visible()
            page.unroute("**/progress/numbers**")
            expect(page.get_by_text("ne se met plus à jour")).to_be_hidden(timeout=30_000)
            page.get_by_text("Suspendre l’envoi").click()
            page.get_by_label("Pourquoi ?").first.fill(" ")
            page.get_by_role("button", name="Suspendre", exact=True).click()
            page.wait_for_url("**/progress/pause")  # a form's answer, which must not be sent again
            page.get_by_label("Pourquoi ?").first.fill("Un pati")
            with database.staff() as session:  # as from another window
                controlling.pause(session, campaign, actor="cli:test", reason="Mauvaise liste")
            expect(page.get_by_text("Mauvaise liste")).to_be_visible(timeout=30_000)
            page.clock.fast_forward(2_000)
            expect(page.get_by_label("Pourquoi ?").first).to_have_value("Un pati")
            page.get_by_label("Pourquoi ?").first.fill("")
            page.wait_for_url("**/progress")
            page.get_by_role("button", name="Reprendre l’envoi").click()
        page.get_by_text("Suspendre l’envoi").click()
        page.get_by_label("Pourquoi ?").first.fill("Un patient a appelé")
        page.get_by_role("button", name="Suspendre", exact=True).click()
        expect(page.get_by_text("Un patient a appelé")).to_be_visible()
        look(page, "4-paused")
        page.get_by_role("button", name="Reprendre l’envoi").click()

        page.get_by_role("link", name="S’occuper de 2 personnes").click()
        look(page, "5-unreached")
        with page.expect_download() as letters:
            page.get_by_role("link", name="Fichier pour les lettres").click()
        assert letters.value.suggested_filename == f"lettres-{campaign}.csv"
        page.locator("input[name=patient]").first.check()
        page.get_by_label("Lettre postée").check()
        page.get_by_role("button", name="Noter les personnes cochées").click()
        page.get_by_role("link", name="Informées autrement : 1 personne").click()
        look(page, "5-told")

        page.goto(f"{url}/doctor/campaigns/{campaign}/declare")
        expect(page.get_by_text("Nombre approximatif de personnes").first).to_be_visible()
        look(page, "6-declare")

        page.goto(f"{url}/doctor/campaigns/{campaign}/proof")
        with page.expect_download() as proof:
            page.get_by_role("button", name="Créer et télécharger la preuve").click()
        proof.value.save_as(tmp_path / "proof.zip")
        checked = evidence.verify(tmp_path / "proof.zip")
        assert checked.problems == ()
        page.goto(f"{url}/doctor/campaigns/{campaign}/proof")
        expect(page.get_by_text(checked.manifest)).to_be_visible()
        look(page, "7-proof")
    with database.staff() as session:
        assert session.get_one(Campaign, campaign).state == "sending"
    # what is refused is answered with 422, which browsers note
    assert [one for one in eye.wrong if not re.search("status of (422|502)", one)] == []


@pytest.mark.parametrize(("kind", "scheme"), [("phone", "dark"), ("desktop", "light")])
def test_the_pages_beside_the_way_are_right_too(
    looker: Callable[..., Looker],  # noqa: F811
    new_person: NewPerson,
    url: str,  # noqa: F811
    database: Database,
    doctors: tuple[int, int],
    campaign: int,
    tmp_path: Path,
    kind: str,
    scheme: str,
):
    eye = looker(kind, scheme)
    base = f"{url}/doctor/campaigns/{campaign}"
    unreadable, asked = tmp_path / "list.csv", tmp_path / "asked.csv"
    unreadable.write_text("id;nom;né le\n1;Nom;01/02/1960\n", encoding="utf-8")
    header = HEADER.replace(";adresse;", ";email 2;")
    asked.write_text(
        "\n".join([header, *(person(n, langue="en", naissance="31/02/1990") for n in range(1, 53)), ""])
    )
    with signed_in(eye.page(), new_person(doctor_id=doctors[1]), url) as page:
        page.goto(base + "/list")
        page.get_by_label("Fichier de la liste").set_input_files(unreadable)
        page.get_by_role("button", name="Envoyer et regarder").click()
        page.get_by_text("Les contacts sont dans une colonne").click()
        eye.look(page, "doctor-2-unreadable")
        page.get_by_role("button", name="Choisir un autre fichier").click()
        page.get_by_label("Fichier de la liste").set_input_files(asked)
        page.get_by_role("button", name="Envoyer et regarder").click()
        page.get_by_text("Corriger le sens des colonnes").click()
        eye.look(page, "doctor-2-look-columns")
        page.get_by_role("button", name="Importer cette liste").click()
        page.get_by_role("link", name="52 lignes").first.click()
        eye.look(page, "doctor-2-rows")
        page.get_by_role("link", name="50 suivantes").click()
        expect(page.get_by_text("ligne 53")).to_be_visible()
        page.goto(base + "/notice?language=en")
        framed = page.frame_locator("iframe").get_by_text("Camille Exemple", exact=False).first
        expect(framed).to_be_visible()
        eye.look(page, "doctor-3-notice-en")
        page.goto(base + "/notice/tests")
        eye.look(page, "doctor-3-tests")
        page.goto(base + "/people?which=imported")
        eye.look(page, "doctor-4-people-before")
        page.goto(base + "/progress")
        eye.look(page, "doctor-4-before")
        page.goto(base + "/unreached")
        eye.look(page, "doctor-5-before")
        for state in ("completed", "cancelled"):
            move(database, f"UPDATE campaign SET state = '{state}', started_at = now(), reason = 'x'")
            move(database, "UPDATE campaign SET created_at = now() - interval '4 days'")
            page.goto(base)
            expect(page.get_by_text("est passé")).to_be_visible()
            eye.look(page, f"doctor-1-{state}")
            page.goto(base + "/progress")
            eye.look(page, f"doctor-4-{state}")
    # what cannot be read is answered with 422, which browsers note
    assert [one for one in eye.wrong if "status of 422" not in one] == []


def test_a_secretary_is_shown_nothing_they_may_not_do(
    looker: Callable[..., Looker],  # noqa: F811
    new_person: NewPerson,
    url: str,  # noqa: F811
    doctors: tuple[int, int],
):
    eye = looker("phone")
    with signed_in(eye.page(), new_person(Role.SECRETARY, doctor_id=doctors[0]), url) as page:
        page.get_by_role("link", name="Lire le message").click()
        expect(page.get_by_role("button", name="Approuver le message")).to_have_count(0)
        expect(page.get_by_text("Le médecin seul peut approuver le message.")).to_be_visible()
        eye.look(page, "doctor-3-notice-secretary")
        page.set_viewport_size({"width": 320, "height": 800})  # WCAG 2.2, 1.4.10
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert eye.wrong == []
