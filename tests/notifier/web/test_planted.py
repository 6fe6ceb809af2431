"""What people and files say is shown as they said it, and never becomes a page's own code."""

from __future__ import annotations

import copy
import io
from html import unescape

from sqlalchemy import select

from notifier import acts, controlling
from notifier.accounts import Role
from notifier.models import Campaign, Delivery, ListFile, Patient
from notifier.settings import Settings
from notifier.store import Database
from notifier.web.doctor import pages as doctors_pages
from notifier.web.operations import pages as operators_pages
from tests.factories import FACTS, HEADER, NOW, make_doctor, person
from tests.notifier.web.conftest import NewPerson
from tests.notifier.web.test_doctor import NOBODY, a_list, filled, send, start

CODE = "{{ 7 * 191 }}"
TAG = '<i id="planted">'
PLANTED = CODE + TAG


def _planted_campaign(database: Database, current: Settings) -> Campaign:
    """Code in every field that somebody types or sends; what a notice says may hold no field, so only a tag."""
    facts = copy.deepcopy(FACTS)
    facts["processor"] += TAG
    for field in ("what_happened", "not_concerned"):
        facts[field] = {language: said + TAG for language, said in facts[field].items()}
    for field in ("consequences", "measures_taken", "advice"):
        facts[field] = {language: [*said, TAG] for language, said in facts[field].items()}
    lines = [
        person(1, nom=f"Un{PLANTED}", prenom=PLANTED, adresse=PLANTED, ville=PLANTED),
        person(2, nom=f"Deux{PLANTED}", **NOBODY),
        person(3, nom=f"Trois{PLANTED}", email=f"{PLANTED}@gmial.com", phone=PLANTED),
    ]
    with database.staff() as session:
        doctor = make_doctor(session, 7, name=f"Dr {TAG}", practice=f"Cabinet {TAG}", address=TAG)
        incident = acts.create_incident(
            session, current, f"incident{PLANTED}", "eu-gdpr-fr", facts, actor="cli:test"
        )
        campaign = controlling.create(session, current.master, incident.id, doctor.id, actor="cli:test")
        data = io.BytesIO("\n".join([HEADER, *lines, ""]).encode())
        acts.import_list(session, current, campaign.id, data, actor="cli:test", now=NOW)
        return campaign


def test_no_field_becomes_code_of_a_page(signed_in: NewPerson, database: Database, current: Settings):
    campaign = _planted_campaign(database, current)
    doctor = signed_in(doctor_id=campaign.doctor_id)
    operator = signed_in(Role.OPERATOR)
    look = send(doctor, campaign.id, a_list(person(9, nom=PLANTED)), name=f"{PLANTED}.csv")
    start(database, current, campaign.id)
    with database.staff() as session:
        controlling.pause(session, campaign.id, actor=f"cli:{PLANTED}", reason=PLANTED)
        values = {
            "campaign_id": campaign.id,
            "patient_id": session.scalars(select(Patient.id).order_by(Patient.id)).first(),
            "list_id": session.scalars(select(ListFile.id)).first(),
            "delivery_id": session.scalars(select(Delivery.id)).first(),
            "upload_id": look.url.path.rsplit("/")[-1],
        }
    shown = 0
    for who, pages in ((doctor, doctors_pages), (operator, operators_pages)):
        for page in pages.all:
            if page.method == "GET" and not page.path.endswith("/live"):  # a stream of what its part shows
                answer = who.get(filled(page.path, **values))
                assert answer.status_code < 500, page.path
                assert "1337" not in answer.text, page.path
                if answer.headers["content-type"].startswith("text/html"):
                    assert TAG not in answer.text, page.path
                    shown += TAG in unescape(answer.text)
    assert shown > 10
