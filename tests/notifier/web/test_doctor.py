"""The doctor's pages: what each shows and does, and that nobody sees another doctor's."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from httpx import Response
from sqlalchemy import func, select, text

from notifier import acts, controlling, evidence, testsends
from notifier.accounts import Role
from notifier.models import Campaign, Doctor, Incident, ListFile, ListUpload, Patient, TestSend
from notifier.settings import Settings
from notifier.store import Database, broken_journal_entries, outcome_counts
from notifier.web import uploads
from notifier.web.doctor import pages
from notifier.web.doctor.common import clock
from notifier.web.doctor.overview import Next, Standing, Step
from notifier.web.texts import Texts
from tests.factories import FACTS, HEADER, make_campaign, person, start_campaign
from tests.notifier.web.conftest import NewPerson, Person, heading

ROOT = Path(__file__).resolve().parents[3]
NOBODY = {"email": None, "phone": None}
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def words(answer: Response) -> str:
    """What a reader sees of a page."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", answer.text, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def numbers(answer: Response) -> dict[str, int]:
    found = re.findall(r'people\?which=(\w+)"><strong>([^<]+)</strong>', answer.text)
    return {name: int(n.replace("\u202f", "")) for name, n in found}


def a_list(*lines: str, header: str = HEADER) -> bytes:
    return "\n".join([header, *lines, ""]).encode()


def send(who: Person, campaign: int, content: bytes, name: str = "patients.csv") -> Response:
    return who.post(f"/doctor/campaigns/{campaign}/list", files={"file": (name, content, "text/csv")})


def confirm(who: Person, look: Response) -> Response:
    token = re.search(r'name="token" value="(\w+)"', look.text)
    assert token, words(look)
    return who.post(f"{look.url.path}/import", {"token": token[1]})


@pytest.fixture
def empty(database: Database, current: Settings, doctors: tuple[int, int]) -> int:
    """The other doctor's campaign, without a list."""
    with database.staff() as session:
        incident = session.scalars(select(Incident.id)).one()
        return controlling.create(session, current.master, incident, doctors[1], actor="cli:test").id


def campaign_of(database: Database, doctor_id: int) -> int:
    with database.staff() as session:
        return session.scalars(select(Campaign.id).where(Campaign.doctor_id == doctor_id)).one()


@pytest.fixture
def mine(database: Database, doctors: tuple[int, int]) -> int:
    """The first doctor's campaign, with one patient."""
    return campaign_of(database, doctors[0])


def start(database: Database, current: Settings, campaign: int) -> None:
    with database.staff() as session:
        shown = acts.draft(session, current, campaign)
        now = datetime.now(UTC)
        acts.approve(session, current, campaign, expected_hash=shown.hash, actor="cli:test", now=now)
        acts.start(session, campaign, actor="cli:test", now=now)


# --- whose pages ------------------------------------------------------------------------------------------


def test_another_doctors_ids_are_not_found_on_any_page(
    signed_in: NewPerson, database: Database, current: Settings, mine: int, doctors: tuple[int, int]
):
    other = start_campaign(database, current, [person(1, **NOBODY), person(2)], 3).id
    mine_in = signed_in(doctor_id=doctors[0])
    with database.staff() as session:
        theirs = session.get_one(Campaign, other)
        kept = uploads.keep(session, current.master, theirs, a_list(person(9)), "x.csv", now=datetime.now(UTC)).id
        patient = session.scalars(select(Patient.id).where(Patient.campaign_id == other)).first()
        list_id = session.scalars(select(ListFile.id).where(ListFile.campaign_id == other)).first()
    before = _everything(database)
    values = {"patient_id": patient, "list_id": list_id, "upload_id": kept, "doubt_id": 1}
    form = {
        "other": str(patient), "answer": "two", "hash": "00", "sure": "yes", "reason": "x", "to": "a@example.org",
        "how": "letter", "day": "2026-11-25", "patient": str(patient), "row": "2", "token": "x",
    }  # fmt: skip
    tried = 0
    for page in pages.all:
        # the other's campaign with the other's things; then the other's things below one's own campaign
        for path in {
            filled(page.path, campaign_id=other, **values),
            filled(page.path, campaign_id=mine, **values),
        }:
            if path in (filled(page.path, campaign_id=mine), page.path):
                continue
            answer = mine_in.get(path) if page.method == "GET" else mine_in.post(path, form)
            assert answer.status_code == 404, (page.method, path, answer.status_code)
            tried += 1
    assert tried > 30
    assert _everything(database) == before


def filled(path: str, **values: object) -> str:
    """An address with these values in the place of its own."""
    for name, value in values.items():
        path = path.replace(f"{{{name}:int}}", str(value))
    return path


def _everything(database: Database) -> list[object]:
    with database.staff() as session:
        tables = ("campaign", "patient", "list_file", "list_upload", "told", "test_send", "delivery", "journal")
        return [
            session.execute(text(f"SELECT count(*), max(xmin::text::bigint) FROM {one}")).one() for one in tables
        ]


def test_marking_names_only_ones_own_patients(
    signed_in: NewPerson, database: Database, current: Settings, mine: int
):
    start_campaign(database, current, [person(1, **NOBODY)], 3)
    start(database, current, mine)
    with database.staff() as session:
        theirs = session.scalars(select(Patient.id).where(Patient.outcome == "unreached")).one()
    form = {"patient": str(theirs), "how": "letter", "day": f"{datetime.now(UTC):%Y-%m-%d}"}
    signed_in().post(f"/doctor/campaigns/{mine}/unreached/tell", form)
    with database.staff() as session:
        assert session.get_one(Patient, theirs).outcome == "unreached"


def test_a_secretary_prepares_and_does_not_decide(signed_in: NewPerson, mine: int, database: Database):
    secretary = signed_in(Role.SECRETARY)
    page = secretary.get(f"/doctor/campaigns/{mine}/notice")
    assert "approve" not in re.findall(r'action="[^"]*/(\w+)"', page.text)
    assert "médecin seul peut approuver" in words(page)
    for act in ("notice/approve", "progress/start", "progress/resume", "progress/cancel", "proof"):
        assert secretary.post(f"/doctor/campaigns/{mine}/{act}", {"sure": "yes", "reason": "x"}).status_code == 403
    with database.staff() as session:
        assert session.get_one(Campaign, mine).state == "draft"


# --- 1. overview ----------------------------------------------------------------------------------------------


def stands(**changes: object) -> Standing:
    values = {
        "state": "draft", "has_list": True, "is_complete": True, "is_tested": True, "is_started": False,
        "unreached": 0, "has_proof": False,
    }  # fmt: skip
    return Standing(**values | changes)


@pytest.mark.parametrize(
    ("changes", "next_", "current"),
    [
        ({"has_list": False}, Next.LIST, Step.LIST),
        ({"is_complete": False}, Next.INCOMPLETE, Step.NOTICE),
        ({"is_tested": False}, Next.TEST, Step.TEST),
        ({}, Next.APPROVE, Step.APPROVE),
        ({"state": "ready"}, Next.APPROVE, Step.APPROVE),
        ({"state": "approved", "is_tested": False}, Next.START, Step.SEND),
        ({"state": "sending", "is_started": True}, Next.FOLLOW, Step.SEND),
        ({"state": "paused", "is_started": True}, Next.PAUSED, Step.SEND),
        ({"state": "completed", "is_started": True, "unreached": 2}, Next.REST, Step.REST),
        ({"state": "completed", "is_started": True}, Next.PROOF, Step.REST),
        ({"state": "completed", "is_started": True, "has_proof": True}, Next.NOTHING, None),
        ({"state": "cancelled", "is_started": True, "unreached": 2}, Next.REST, Step.SEND),
        ({"state": "cancelled"}, Next.NOTHING, Step.APPROVE),
    ],
)
def test_one_thing_is_next(changes: dict[str, object], next_: Next, current: Step | None):
    standing = stands(**changes)
    assert (standing.next, standing.current) == (next_, current)


def test_the_clock_counts_whole_hours_and_ends():
    made = clock(NOW, timedelta(hours=72), NOW + timedelta(hours=1, minutes=1))
    assert (made.hours_left, made.days_left, made.is_over) == (70, 2, False)
    assert clock(NOW, timedelta(hours=72), NOW + timedelta(hours=72)).is_over
    assert clock(NOW, timedelta(hours=72), NOW + timedelta(hours=100)).hours_left == 0


def test_the_first_page_says_what_happened_and_the_one_next_step(
    signed_in: NewPerson, empty: int, doctors: tuple[int, int]
):
    page = signed_in(doctor_id=doctors[1]).get("/doctor")
    assert heading(page) == "Vos patients à informer"
    shown = words(page)
    assert "Une personne non autorisée s'est introduite" in shown
    assert "À faire : ajouter votre liste de patients" in shown
    assert f'href="/doctor/campaigns/{empty}/list">Ajouter ma liste' in page.text
    assert page.text.count('class="button"') == 1
    assert "Fin du délai de 72 heures :" in shown


def test_of_several_campaigns_each_is_named(
    signed_in: NewPerson, database: Database, current: Settings, mine: int
):
    with database.staff() as session:
        doctor = session.get_one(Campaign, mine).doctor_id
        second = acts.create_incident(session, current, "incident-2", "eu-gdpr-fr", FACTS, actor="cli:test")
        other = controlling.create(session, current.master, second.id, doctor, actor="cli:test").id
    page = signed_in().get("/doctor")
    assert all(f'href="/doctor/campaigns/{one}"' in page.text for one in (mine, other))


# --- 2. list ----------------------------------------------------------------------------------------------


def test_a_list_is_looked_at_confirmed_and_reported(
    signed_in: NewPerson, empty: int, doctors: tuple[int, int], database: Database
):
    doctor = signed_in(Role.SECRETARY, doctor_id=doctors[1])
    look = send(
        doctor, empty, a_list(person(1), person(2, email="jean@gmial.com"), person(3, naissance="31/02/1990"))
    )
    assert heading(look) == "Ce que nous comprenons de votre liste"
    assert "À informer par un message grâce à cette liste : 3 personnes." in words(look)
    with database.staff() as session:
        assert session.scalar(select(func.count()).where(Patient.campaign_id == empty)) == 0, "nothing before"
        assert b"Prenom1" not in session.scalars(select(ListUpload.content_sealed)).one()
    report = confirm(doctor, look)
    assert heading(report) == "Compte rendu de la liste"
    shown = words(report)
    assert "Personnes prises 3" in shown
    assert "Lignes de la liste = 3" in shown
    assert "Fautes de frappe probables : 1" in shown
    rows = doctor.get(re.search(r'href="([^"]+rows\?reason=\w*date\w*)"', report.text)[1])
    assert "NOM3 Prenom3" in words(rows)
    assert "ligne 4" in words(rows)
    corrections = doctor.get(f"{report.url.path}/corrections.csv")
    lines = list(csv.reader(io.StringIO(corrections.content.decode("utf-8-sig"), newline=""), delimiter=";"))
    assert [line[0] for line in lines[1:]] == ["P00002", "P00003"]
    assert corrections.headers["cache-control"] == "no-store"


def test_suggestions_are_accepted_in_place(
    signed_in: NewPerson, empty: int, doctors: tuple[int, int], database: Database
):
    doctor = signed_in(doctor_id=doctors[1])
    look = send(
        doctor, empty, a_list(person(1, email="anne@gmial.com", phone=None), person(2, email="jean@gmial.com"))
    )
    report = confirm(doctor, look)
    page = doctor.get(f"{report.url.path}/suggestions")
    assert "anne@gmail.com" in words(page)
    assert "NOM1 Prenom1" in words(page)
    assert doctor.post(f"{report.url.path}/suggestions").status_code == 422, "nothing ticked"
    taken = doctor.post(f"{report.url.path}/suggestions", {"row": "2"})
    assert "Les adresses cochées sont corrigées." in words(taken)
    with database.staff() as session:
        counts = outcome_counts(session, empty)
    assert (counts["on_the_way"], counts["unreached"]) == (2, 0)
    page = doctor.get(f"{report.url.path}/suggestions")
    assert "anne@gmail.com" not in words(page)
    assert "jean@gmail.com" in words(page)


def test_a_list_of_an_ordinary_practice_fits(signed_in: NewPerson, mine: int):
    content = a_list(*(person(n) for n in range(1, 10_001)))
    assert len(content) > 900_000
    look = send(signed_in(), mine, content + b"\n" * 200_000)
    assert look.status_code == 200
    assert "Lignes lues 10 000" in words(look)


def test_a_second_list_says_what_it_changes_before_anything_is_saved(
    signed_in: NewPerson, mine: int, database: Database
):
    doctor = signed_in()
    look = send(doctor, mine, a_list(person(2), person(3)))
    shown = words(look)
    assert "Ce que cette liste changerait" in shown
    assert "Nouvelles personnes 2" in shown
    assert "Absentes de cette liste, mais gardées : 1 personne." in shown
    with database.staff() as session:
        assert session.scalar(select(func.count()).where(Patient.campaign_id == mine)) == 1
    stale = re.search(r'name="token" value="(\w+)"', look.text)[1]
    other = send(doctor, mine, a_list(person(7)))
    assert confirm(doctor, other).status_code == 200
    answer = doctor.post(f"{look.url.path}/import", {"token": stale})
    assert answer.status_code == 409
    assert "regardez à nouveau" in words(answer)
    assert confirm(doctor, answer_at(doctor, look)).status_code == 200


def answer_at(who: Person, answer: Response) -> Response:
    return who.get(answer.url.path)


def test_columns_are_asked_about_and_answered(
    signed_in: NewPerson, empty: int, doctors: tuple[int, int], database: Database
):
    doctor = signed_in(doctor_id=doctors[1])
    rows = ("P1;Nom;Anne;anne@example.org;x", "P2;Nom;Jean;jean@example.org;y")
    look = send(doctor, empty, a_list(*rows, header="id;nom;prenom;email;mystere"))
    assert "mystere → non lue" in words(look)
    n = re.search(r'name="header_(\d+)" value="mystere"', look.text)[1]
    form = {f"header_{n}": "mystere", f"shown_{n}": "ignore", f"meaning_{n}": "town"}
    answered = doctor.post(look.url.path, form)
    assert "mystere → ville" in words(answered)
    confirm(doctor, answered)
    # the next list like it is read the same way
    assert "mystere → ville (comme la dernière fois)" in words(
        send(doctor, empty, a_list(rows[0], header="id;nom;prenom;email;mystere"))
    )


def test_a_column_of_contacts_that_nobody_would_know_is_named_by_the_doctor(
    signed_in: NewPerson, empty: int, doctors: tuple[int, int]
):
    doctor = signed_in(doctor_id=doctors[1])
    rows = ("P1;Nom;Anne;06 39 98 00 01", "P2;Nom;Jean;06 39 98 00 02")
    look = send(doctor, empty, a_list(*rows, header="id;nom;prenom;joindre"))
    assert look.status_code == 200
    assert "La colonne « joindre » contient-elle des adresses e-mail" in words(look)
    n = re.search(r'name="header_(\d+)" value="joindre"', look.text)[1]
    answered = doctor.post(look.url.path, {f"header_{n}": "joindre", f"shown_{n}": "", f"meaning_{n}": "phone"})
    assert "À informer par un message grâce à cette liste : 2 personnes." in words(answered)


def test_a_column_taken_for_another_is_named_as_one_of_contacts(
    signed_in: NewPerson, empty: int, doctors: tuple[int, int]
):
    doctor = signed_in(doctor_id=doctors[1])
    look = send(doctor, empty, a_list("P1;Nom;06 39 98 00 01", header="id;nom;ville"))
    assert look.status_code == 422
    assert "Aucune colonne de contacts. Colonnes de la liste : « id », « nom », « ville »." in words(look)
    answered = doctor.post(look.url.path, {"column_phone": "ville"})
    assert "À informer par un message grâce à cette liste : 1 personne." in words(answered)


def test_what_is_no_list_is_said_plainly(signed_in: NewPerson, mine: int):
    doctor = signed_in()
    answer = send(doctor, mine, b"%PDF-1.7 nothing to see", "liste.pdf")
    assert answer.status_code == 422
    assert heading(answer) == "Ce fichier ne peut pas être lu"
    assert "Le fichier n'est pas une liste : un document PDF." in words(answer)
    assert send(doctor, mine, b"").status_code == 422
    assert doctor.post(f"/doctor/campaigns/{mine}/list").status_code == 422


def test_a_kept_file_goes_when_it_is_discarded_or_old(signed_in: NewPerson, mine: int, database: Database):
    doctor = signed_in()
    look = send(doctor, mine, a_list(person(5)))
    doctor.post(f"{look.url.path}/discard")
    assert doctor.get(look.url.path).status_code == 404
    look = send(doctor, mine, a_list(person(6)))
    with database.staff() as session:
        session.execute(text("UPDATE list_upload SET at = now() - interval '25 hours'"))
    assert doctor.get(look.url.path).status_code == 404
    doctor.get(f"/doctor/campaigns/{mine}/list")
    with database.staff() as session:
        assert session.scalar(select(func.count()).select_from(ListUpload)) == 0


def test_at_most_five_files_are_kept(mine: int, database: Database, current: Settings):
    with database.staff() as session:
        campaign = session.get_one(Campaign, mine)
        for number in range(7):
            last = uploads.keep(
                session, current.master, campaign, b"x", "", now=NOW + timedelta(minutes=number)
            ).id
        kept = session.scalars(select(ListUpload.id)).all()
    assert len(kept) == 5
    assert last in kept


def test_doubts_are_decided_and_taken_back(
    signed_in: NewPerson, empty: int, doctors: tuple[int, int], database: Database
):
    doctor = signed_in(doctor_id=doctors[1])
    # two ids, one name and birth date
    look = send(doctor, empty, a_list(person(1), person(2, nom="Nom1", prenom="Prenom1")))
    confirm(doctor, look)
    path = f"/doctor/campaigns/{empty}/list/doubts"
    page = doctor.get(path)
    assert words(page).count("NOM1 Prenom1") >= 2, words(page)
    doubt = re.search(r'action="([^"]+/doubts/\d+)"', page.text)[1]
    other = re.search(r'name="other" value="(\d+)"', page.text)[1]
    said = doctor.post(doubt, {"other": other, "answer": "same"})
    assert "Vous avez dit : la même personne." in words(said)
    with database.staff() as session:
        assert outcome_counts(session, empty)["excluded"] == 1
    doctor.post(doubt, {"other": other, "answer": "two"})
    with database.staff() as session:
        assert outcome_counts(session, empty)["excluded"] == 0


# --- 3. notice ----------------------------------------------------------------------------------------------


def test_the_notice_is_shown_as_a_patient_sees_it(signed_in: NewPerson, mine: int):
    doctor = signed_in()
    page = doctor.get(f"/doctor/campaigns/{mine}/notice")
    shown = words(page)
    assert "Toutes les informations que la loi demande y sont." in shown
    assert re.search(r"Longueur : \d SMS", shown)
    framed = doctor.get(re.search(r'src="([^"]+)"></iframe>', page.text)[1].replace("&amp;", "&"))
    assert "Camille Exemple" in framed.text
    assert "sandbox" in framed.headers["content-security-policy"]
    assert "default-src 'none'" in framed.headers["content-security-policy"]
    assert framed.headers["x-frame-options"] == "SAMEORIGIN"
    assert doctor.get(f"/doctor/campaigns/{mine}/notice?language=de").status_code == 404


def test_each_language_of_the_patients_has_its_version(signed_in: NewPerson, database: Database, mine: int):
    doctor = signed_in()
    confirm(doctor, send(doctor, mine, a_list(person(2, langue="en"))))
    page = doctor.get(f"/doctor/campaigns/{mine}/notice")
    assert "Selon la langue et les données du patient" in words(page)
    english = doctor.get(f"/doctor/campaigns/{mine}/notice?language=en&variant=standard")
    assert "A third party copied administrative records" in words(english)
    assert doctor.get(f"/doctor/campaigns/{mine}/notice?variant=comment").status_code == 404, "nobody needs it"


def test_only_what_was_seen_is_approved(signed_in: NewPerson, mine: int, database: Database):
    doctor = signed_in()
    path = f"/doctor/campaigns/{mine}/notice"
    seen = re.search(r'name="hash" value="(\w+)"', doctor.get(path).text)[1]
    assert doctor.post(f"{path}/approve", {"hash": seen}).status_code == 422, "the sentence is not ticked"
    with database.staff() as session:
        session.get_one(Doctor, session.get_one(Campaign, mine).doctor_id).phone = "01 99 00 99 99"
    refused = doctor.post(f"{path}/approve", {"hash": seen, "sure": "yes", "patients": "1"})
    assert refused.status_code == 409
    assert "a changé pendant que vous lisiez" in words(refused)
    with database.staff() as session:
        assert session.get_one(Campaign, mine).state == "draft"
    now_seen = re.search(r'name="hash" value="(\w+)"', refused.text)[1]
    assert now_seen != seen
    assert "Votre accord est enregistré" in words(
        doctor.post(f"{path}/approve", {"hash": now_seen, "sure": "yes", "patients": "1"})
    )
    again = doctor.post(f"{path}/approve", {"hash": now_seen, "sure": "yes", "patients": "1"})
    assert (again.status_code, again.url.path) == (200, f"/doctor/campaigns/{mine}/progress"), "pressed twice"
    assert "Ce message est déjà approuvé" in words(again)
    assert doctor.post(f"{path}/approve", {"hash": seen, "sure": "yes", "patients": "1"}).status_code == 409
    with database.staff() as session:
        campaign = session.get_one(Campaign, mine)
        assert (campaign.state, campaign.notice_hash.hex()) == ("approved", now_seen)
        assert campaign.approved_by.startswith("user:")
        assert broken_journal_entries(session) == []


def test_a_list_that_grew_meanwhile_is_not_approved_unseen(signed_in: NewPerson, mine: int, database: Database):
    doctor = signed_in()
    path = f"/doctor/campaigns/{mine}/notice"
    seen = dict(re.findall(r'name="(hash|patients)" value="(\w+)"', doctor.get(path).text))
    confirm(doctor, send(doctor, mine, a_list(person(2))))
    assert doctor.post(f"{path}/approve", seen | {"sure": "yes"}).status_code == 409
    with database.staff() as session:
        assert session.get_one(Campaign, mine).state == "draft"


def test_a_test_is_asked_and_its_result_seen(signed_in: NewPerson, mine: int, database: Database):
    doctor = signed_in(Role.SECRETARY)
    path = f"/doctor/campaigns/{mine}/notice"
    assert doctor.post(f"{path}/test", {"to": "nowhere"}).status_code == 422
    asked = doctor.post(f"{path}/test?language=fr&variant=standard", {"to": "06 39 98 55 55"})
    assert "En attente" in words(asked)
    assert f'hx-sse:connect="{path}/tests/now/live"' in asked.text
    assert 'id="stale" role="alert" hidden' in asked.text
    with database.staff() as session:
        session.scalars(select(TestSend)).one().state = testsends.State.ACCEPTED
    part = doctor.get(f"{path}/tests/now")
    assert "regardez votre boîte" in words(part)
    assert "data-over" in part.text, "it moves no more"
    assert "<h1>" not in part.text
    assert "regardez votre boîte" in words(doctor.get(f"{path}/tests"))


def test_what_is_missing_is_said_in_words(signed_in: NewPerson, mine: int, database: Database, current: Settings):
    with database.staff() as session:
        incident = session.scalars(select(Incident)).one()
        facts = incident.facts | {"measures_taken": {"fr": "Toutes les mesures nécessaires."}}
        acts.change_facts(session, incident.id, facts, actor="cli:test")
    page = signed_in().get(f"/doctor/campaigns/{mine}/notice")
    assert "les mesures prises, avec précision" in words(page)
    assert "/approve" not in page.text


# --- 4. progress ----------------------------------------------------------------------------------------------


def test_six_numbers_add_up_and_each_opens_its_people(
    signed_in: NewPerson, database: Database, current: Settings, doctors: tuple[int, int]
):
    lines = [person(n) for n in range(1, 4)] + [person(4, **NOBODY), person(5, decede="oui"), person(1)]
    campaign = start_campaign(database, current, lines, 3).id
    with database.staff() as session:
        doctor_id = session.get_one(Campaign, campaign).doctor_id
    doctor = signed_in(doctor_id=doctor_id)
    page = doctor.get(f"/doctor/campaigns/{campaign}/progress")
    found = numbers(page)
    assert found == {"informed": 0, "on_the_way": 3, "unreached": 1, "excluded": 1, "merged": 1, "imported": 6}
    for name, n in {**found, "imported": 5}.items():
        people = doctor.get(f"/doctor/campaigns/{campaign}/people?which={name}")
        assert len(re.findall(r"NOM\d Prenom\d", people.text)) == n, name
        assert people.headers["cache-control"] == "no-store"
    assert "hx-sse:connect" in page.text
    assert 'id="stale" role="alert" hidden' in page.text
    assert "hx-sse:connect" not in doctor.get(f"/doctor/campaigns/{campaign}/progress?still=1").text
    part = doctor.get(f"/doctor/campaigns/{campaign}/progress/numbers")
    assert "<h1>" not in part.text
    assert "data-over" not in part.text
    assert doctor.get(f"/doctor/campaigns/{campaign}/people?which=nobody").status_code == 404


def test_people_come_in_pages_of_fifty(signed_in: NewPerson, database: Database, current: Settings):
    campaign = make_campaign(database, current, [person(n) for n in range(1, 56)], 3)
    with database.staff() as session:
        doctor_id = session.get_one(Campaign, campaign).doctor_id
    doctor = signed_in(doctor_id=doctor_id)
    first = doctor.get(f"/doctor/campaigns/{campaign}/people")
    assert len(re.findall(r"NOM\d+ ", first.text)) == 50
    second = doctor.get(re.search(r'href="([^"]+after=\d+)"', first.text)[1].replace("&amp;", "&"))
    assert len(re.findall(r"NOM\d+ ", second.text)) == 5


def test_a_persons_page_says_what_was_sent_when_and_how_it_went(
    signed_in: NewPerson, database: Database, current: Settings, mine: int
):
    start(database, current, mine)
    with database.staff() as session:
        patient = session.scalars(select(Patient.id).where(Patient.campaign_id == mine)).one()
        session.execute(
            text(
                "INSERT INTO attempt (delivery_id, fence, doctor_id, provider, notice_id, outcome, code, ended_at) "
                "SELECT id, 1, doctor_id, 'smtp', 1, 'refused', 'smtp_550_5.1.1', now() FROM delivery"
            )
        )
        session.execute(text("UPDATE delivery SET state = 'failed', due_at = NULL"))
    shown = words(signed_in().get(f"/doctor/campaigns/{mine}/people/{patient}"))
    assert "NOM1 Prenom1" in shown
    assert "patient1@example.org" in shown
    assert "refusé par l’opérateur" in shown
    assert "N’est pas arrivé." in shown
    assert "smtp_550" not in shown, "no jargon"


def test_sending_is_started_paused_resumed_and_cancelled(signed_in: NewPerson, mine: int, database: Database):
    doctor = signed_in()
    path = f"/doctor/campaigns/{mine}"
    early = doctor.post(f"{path}/progress/start")
    assert early.status_code == 409
    assert "ne peut pas commencer" in words(early)
    seen = re.search(r'name="hash" value="(\w+)"', doctor.get(f"{path}/notice").text)[1]
    doctor.post(f"{path}/notice/approve", {"hash": seen, "sure": "yes", "patients": "1"})
    assert "L’envoi commence." in words(doctor.post(f"{path}/progress/start"))
    assert doctor.post(f"{path}/progress/pause", {"reason": ""}).status_code == 422
    paused = doctor.post(f"{path}/progress/pause", {"reason": "mauvaise liste"})
    assert "mauvaise liste" in words(paused)
    assert "L’envoi reprend." in words(doctor.post(f"{path}/progress/resume"))
    assert doctor.post(f"{path}/progress/resume").status_code == 409
    assert doctor.post(f"{path}/progress/cancel", {"reason": "x"}).status_code == 422, "not sure"
    assert "L’envoi est annulé." in words(
        doctor.post(f"{path}/progress/cancel", {"reason": "fini", "sure": "yes"})
    )
    with database.staff() as session:
        campaign = session.get_one(Campaign, mine)
        assert (campaign.state, campaign.reason) == ("cancelled", "fini")


# --- 5. unreached ---------------------------------------------------------------------------------------------


@pytest.fixture
def three_unreached(database: Database, current: Settings) -> tuple[int, int]:
    """(campaign, doctor): three people without a contact, one of them without an address; one on the way."""
    lines = [person(n, **NOBODY) for n in (1, 2)] + [person(3, **NOBODY, adresse="", cp="", ville=""), person(4)]
    campaign = start_campaign(database, current, lines, 3)
    return campaign.id, campaign.doctor_id


def counted(page: Response) -> dict[str, str]:
    """What a form says it counted when it was shown."""
    return dict(re.findall(r'name="(shown)" value="(\w+)"', page.text))


def test_the_unreached_are_marked_one_by_one_or_all_and_taken_back(
    signed_in: NewPerson, database: Database, three_unreached: tuple[int, int]
):
    campaign, doctor_id = three_unreached
    doctor = signed_in(Role.SECRETARY, doctor_id=doctor_id)
    path = f"/doctor/campaigns/{campaign}/unreached"
    page = doctor.get(path)
    assert "3 personnes – ni email ni mobile utilisable" in words(page)
    ticked = re.findall(r'name="patient" value="(\d+)"', page.text)
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    assert doctor.post(f"{path}/tell", {"how": "letter", "day": day}).status_code == 422
    assert (
        doctor.post(f"{path}/tell", {"how": "letter", "day": "2020-01-01", "patient": ticked[0]}).status_code
        == 422
    )
    assert doctor.post(f"{path}/tell", {"how": "pigeon", "day": day, "patient": ticked[0]}).status_code == 422
    before = doctor.post(f"{path}/tell", {"how": "letter", "day": "2020-01-01", "patient": ticked[0]})
    assert f"{datetime.now(ZoneInfo('Europe/Paris')):%d/%m/%Y}" in words(before)
    assert "Parmi elles, adresse postale inconnue : 1 personne." in words(page)
    assert "adresse postale inconnue" not in words(doctor.get(f"{path}?post=yes"))
    doctor.post(f"{path}/tell", {"how": "call", "day": day, "patient": ticked[2]})
    assert doctor.post(f"{path}/tell", {"how": "letter", "day": day, "who": "all"}).status_code == 422, "not sure"
    all_ = {"how": "letter", "day": day, "who": "all", "sure": "yes"}
    shown = counted(doctor.get(f"{path}?post=yes"))
    for other in ({}, {"shown": "0" * 64}):
        assert doctor.post(f"{path}/tell?post=yes", all_ | other).status_code == 409, "not those that were shown"
    said = doctor.post(f"{path}/tell?post=yes", all_ | shown)
    assert "C’est noté" in words(said)
    again = doctor.post(f"{path}/tell", {"how": "letter", "day": day, "patient": ticked[0]})
    assert (again.status_code, "C’est noté" in words(again)) == (409, False), "nobody was noted"
    assert "Informées autrement : 3 personnes" in words(said)
    with database.staff() as session:
        assert outcome_counts(session, campaign)["informed"] == 3
        assert sorted(session.scalars(text("SELECT how FROM told"))) == ["call", "letter", "letter"]
    told = doctor.get(f"{path}?which=told")
    assert "lettre postée" in words(told)
    assert "C’est retiré : ces" in words(doctor.post(f"{path}/take-back", {"patient": ticked[0]}))
    with database.staff() as session:
        assert outcome_counts(session, campaign)["unreached"] == 1
    both = {"patient": [ticked[0], ticked[1]]}
    some = doctor.post(f"{path}/tell", {"how": "letter", "day": day} | both)
    assert "C’est noté pour 1 ; 1 non noté" in words(some)
    assert "C’est noté" not in words(doctor.get(path)), "said once"
    doctor.post(f"{path}/take-back", {"patient": ticked[0]})
    assert "C’est retiré pour 1 ; 1 laissé" in words(doctor.post(f"{path}/take-back", both))


def test_all_of_a_selection_is_only_that_selection(
    signed_in: NewPerson, database: Database, three_unreached: tuple[int, int]
):
    campaign, doctor_id = three_unreached
    path = f"/doctor/campaigns/{campaign}/unreached"
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    doctor = signed_in(doctor_id=doctor_id)
    shown = counted(doctor.get(f"{path}?post=yes"))
    doctor.post(f"{path}/tell?post=yes", {"how": "letter", "day": day, "who": "all", "sure": "yes"} | shown)
    with database.staff() as session:
        assert outcome_counts(session, campaign)["unreached"] == 1


def test_letters_and_calls_are_files_that_are_kept_nowhere(signed_in: NewPerson, three_unreached: tuple[int, int]):
    campaign, doctor_id = three_unreached
    doctor = signed_in(doctor_id=doctor_id)
    letters = doctor.get(f"/doctor/campaigns/{campaign}/unreached/letters.csv")
    lines = list(csv.reader(io.StringIO(letters.content.decode("utf-8-sig"), newline=""), delimiter=";"))
    assert [line[2] for line in lines[1:]] == ["Prenom1 Nom1", "Prenom2 Nom2"]
    assert letters.headers["content-disposition"] == f'attachment; filename="lettres-{campaign}.csv"'
    assert letters.headers["cache-control"] == "no-store"
    assert doctor.get(f"/doctor/campaigns/{campaign}/unreached/calls.csv").status_code == 200


# --- 6. declaration, 7. proof -----------------------------------------------------------------------------------


def test_the_numbers_to_declare_are_ready_to_copy(signed_in: NewPerson, database: Database, current: Settings):
    header = HEADER + ";concerne"
    lines = [f"{person(n)};oui" for n in (1, 1, 2)] + [f"{person(3, decede='oui')};oui", f"{person(4)};non"]
    campaign = make_campaign(database, current, [person(1)], 3)
    with database.staff() as session:
        doctor_id = session.get_one(Campaign, campaign).doctor_id
    doctor = signed_in(doctor_id=doctor_id)
    confirm(doctor, send(doctor, campaign, a_list(*lines, header=header)))
    # sent again with a correction: the same people, the same records
    confirm(doctor, send(doctor, campaign, a_list(*lines, "", header=header)))
    page = doctor.get(f"/doctor/campaigns/{campaign}/declare")
    shown = words(page)
    assert "Nombre approximatif de personnes 2" in shown
    assert "Nombre approximatif d’enregistrements 4" in shown
    assert "Cellule d'information des patients" in shown
    assert "Une double authentification" in shown
    assert heading(page).startswith("Déclarer à la CNIL")


def test_the_proof_file_is_made_checked_and_its_hash_shown(
    signed_in: NewPerson, database: Database, current: Settings, mine: int, tmp_path: Path
):
    start(database, current, mine)
    doctor = signed_in()
    answer = doctor.post(f"/doctor/campaigns/{mine}/proof")
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["cache-control"] == "no-store"
    path = tmp_path / "proof.zip"
    path.write_bytes(answer.content)
    checked = evidence.verify(path)
    assert checked.problems == ()
    assert checked.manifest in doctor.get(f"/doctor/campaigns/{mine}/proof").text
    assert checked.manifest[:8] in answer.headers["content-disposition"]
    with zipfile.ZipFile(path) as opened:
        assert "Prenom1" in opened.read(evidence.PEOPLE).decode()


# --- every page -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["fr", "en"])
@pytest.mark.parametrize("state", ["draft", "sending", "erased"])
def test_every_page_can_be_read_in_both_languages_in_every_state(
    signed_in: NewPerson, database: Database, current: Settings, language: str, state: str
):
    lines = [
        person(1),
        person(2, **NOBODY),
        person(3, email="jean@gmial.com"),
        person(4, nom="Nom1", prenom="Prenom1"),
    ]
    campaign = make_campaign(database, current, lines, 3)
    with database.staff() as session:
        doctor_id = session.get_one(Campaign, campaign).doctor_id
        patient = session.scalars(select(Patient.id).where(Patient.campaign_id == campaign)).first()
        list_id = session.scalars(select(ListFile.id).where(ListFile.campaign_id == campaign)).first()
    doctor = signed_in(doctor_id=doctor_id, language=language)
    look = send(doctor, campaign, a_list(person(1), person(9)))
    if state != "draft":
        start(database, current, campaign)
    if state == "erased":
        with database.staff() as session:
            session.execute(text("UPDATE campaign SET data_key = NULL WHERE id = :id"), {"id": campaign})
    values = {
        "campaign_id": campaign,
        "patient_id": patient,
        "list_id": list_id,
        "upload_id": look.url.path.rsplit("/")[-1],
    }
    not_there = {"corrections.csv", "suggestions"} | ({"letters.csv", "calls.csv"} if state == "erased" else set())
    for page in pages.all:
        if page.method != "GET" or page.is_live:  # a stream would not end
            continue
        path = filled(page.path, **values)
        if path.endswith("/rows"):
            path += "?reason=possible_double"
        answer = doctor.get(path)
        if path.rsplit("/")[-1] in not_there or (state == "erased" and "/uploads/" in path):
            assert answer.status_code == 404, path
        else:
            assert answer.status_code == 200, (path, words(answer))


def test_every_word_of_a_page_is_there_in_both_languages():
    texts = Texts(ROOT / "templates" / "web" / "texts")
    used = set()
    for path in [*(ROOT / "templates/web/doctor").glob("*.html"), *(ROOT / "notifier/web/doctor").glob("*.py")]:
        used |= set(re.findall(r'["\'](doctor\.[a-z_]+[a-z])["\']', path.read_text(encoding="utf-8")))
    assert len(used) > 200
    for language in ("fr", "en"):
        assert sorted(used - set(texts.all[language])) == [], language


def test_once_sending_has_begun_the_list_is_the_doctors_to_change(
    signed_in: NewPerson, three_unreached: tuple[int, int]
):
    campaign, doctor_id = three_unreached
    secretary = signed_in(Role.SECRETARY, doctor_id=doctor_id)
    look = send(secretary, campaign, a_list(person(77)))
    assert "Seul le médecin" in words(look), "said before it is tried"
    assert "/import" not in look.text
    assert "Seul le médecin" in words(secretary.get(f"/doctor/campaigns/{campaign}/list"))
    refused = secretary.post(f"{look.url.path}/import", {"token": "x"})
    assert (refused.status_code, "Seul le médecin" in words(refused)) == (403, True)


def test_a_cancelled_campaign_offers_no_waiting_file(signed_in: NewPerson, mine: int, database: Database):
    doctor = signed_in()
    send(doctor, mine, a_list(person(5)))
    path = f"/doctor/campaigns/{mine}/list"
    assert "/list/uploads/" in doctor.get(path).text
    with database.staff() as session:
        session.execute(text("UPDATE campaign SET state = 'cancelled' WHERE id = :id"), {"id": mine})
    assert "/list/uploads/" not in doctor.get(path).text


def test_a_reason_of_the_products_own_is_said_in_french_a_persons_own_stays(
    signed_in: NewPerson, three_unreached: tuple[int, int], database: Database
):
    campaign, doctor_id = three_unreached
    doctor = signed_in(doctor_id=doctor_id)
    ours = "12 of 40 email addresses do not work (30%, the limit is 20%): is it the right list?"
    for reason, said in ((ours, "est-ce la bonne liste"), ("Wrong <b>list</b>", "Wrong &lt;b&gt;list")):
        with database.staff() as session:
            values = {"id": campaign, "reason": reason}
            session.execute(text("UPDATE campaign SET state = 'paused', reason = :reason WHERE id = :id"), values)
        for path in ("", "/progress"):
            page = doctor.get(f"/doctor/campaigns/{campaign}{path}").text
            assert said in page
            assert "do not work" not in page
