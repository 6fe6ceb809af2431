"""The people behind each number, and what was done for one of them. Names are opened for one page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session
from starlette.responses import Response

from notifier import store
from notifier.accounts import DOCTORS
from notifier.errors import NotFoundError
from notifier.models import (
    Attempt,
    Contact,
    Delivery,
    DeliveryPatient,
    Patient,
    PatientContact,
    Receipt,
    Told,
)
from notifier.providers.base import Event, Kind
from notifier.sealing import DataKey
from notifier.states import Outcome
from notifier.web.doctor.common import (
    BEFORE_START,
    PAGE,
    after_of,
    born_on,
    campaign_of,
    choice,
    cut,
    data_key,
    identity_of,
    name_of,
    named,
    page,
)
from notifier.web.pages import Pages, Visit

pages = Pages()

#: what a number counts; `imported` and `merged` are not outcomes
WHICH = ("imported", "merged", *map(str, Outcome))


@pages.get("/doctor/campaigns/{campaign_id:int}/people", allow=DOCTORS)
def people(visit: Visit) -> Response:
    which = choice(visit, "which", WHICH, "imported")
    after = after_of(visit)
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        shown, has_more = cut(session.scalars(_next(which, campaign.id, after)).all())
        return page(
            visit,
            "people.html",
            campaign,
            which=which,
            people=shown,
            names=named(data_key(visit, campaign), shown),
            has_more=has_more,
            after=after,
            is_before=campaign.state in BEFORE_START,
        )


def _next(which: str, campaign_id: int, after: int) -> Select[Patient]:
    statement = select(Patient).order_by(Patient.id).limit(PAGE + 1)
    if which == "merged":
        return statement.where(Patient.campaign_id == campaign_id, Patient.id > after, Patient.merged > 0)
    outcomes = Outcome if which == "imported" else (which,)
    return statement.where(Patient.id.in_(store.next_patients(campaign_id, after, PAGE + 1, outcomes)))


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened to a message: `word` is the key of what a doctor reads."""

    at: datetime
    word: str


@dataclass(frozen=True, slots=True)
class Sent:
    """One message to a person: where it went, how it stands, and what happened."""

    channel: str
    contact: str
    state: str
    possibly_twice: bool
    happenings: Sequence[Happening]


@pages.get("/doctor/campaigns/{campaign_id:int}/people/{patient_id:int}", allow=DOCTORS)
def person(visit: Visit) -> Response:
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        patient = session.get(Patient, visit.number("patient_id"))
        if patient is None or patient.campaign_id != campaign.id:
            raise NotFoundError("There is no such patient.")
        key = data_key(visit, campaign)
        who = identity_of(key, patient)
        return page(
            visit,
            "person.html",
            campaign,
            patient=patient,
            who=who,
            name=name_of(who),
            born=born_on(who),
            contacts=_contacts(session, key, patient),
            sent=_sent(session, key, patient),
            told=session.get(Told, patient.id),
            is_before=campaign.state in BEFORE_START,
        )


def _contacts(session: Session, key: DataKey | None, patient: Patient) -> list[tuple[str, str]]:
    rows = session.execute(
        select(Contact.channel, Contact.value_sealed)
        .join(PatientContact, PatientContact.contact_id == Contact.id)
        .where(PatientContact.patient_id == patient.id)
        .order_by(Contact.channel, PatientContact.rank)
    ).all()
    return [(channel, opened(key, sealed)) for channel, sealed in rows]


def opened(key: DataKey | None, sealed: bytes) -> str:
    """An address as it was written; empty once it was erased."""
    return key.open(sealed, b"contact.value").decode() if key else ""


def _sent(session: Session, key: DataKey | None, patient: Patient) -> list[Sent]:
    rows = session.execute(
        select(Delivery, Contact.value_sealed)
        .join(DeliveryPatient, DeliveryPatient.delivery_id == Delivery.id)
        .join(Contact, Contact.id == Delivery.contact_id)
        .where(DeliveryPatient.patient_id == patient.id)
        .order_by(Delivery.id)
    ).all()
    ids = [delivery.id for delivery, _ in rows]
    happened: dict[int, list[Happening]] = {one: [] for one in ids}
    for attempt in session.scalars(select(Attempt).where(Attempt.delivery_id.in_(ids))):
        happened[attempt.delivery_id].append(Happening(attempt.started_at, _of_attempt(attempt)))
    for receipt in session.scalars(select(Receipt).where(Receipt.delivery_id.in_(ids))):
        if receipt.event not in (Event.NOTED, Event.SENT):
            happened[receipt.delivery_id].append(Happening(receipt.event_at, f"receipt_{receipt.event}"))
    return [
        Sent(
            delivery.channel,
            opened(key, sealed),
            delivery.state,
            delivery.possibly_twice,
            sorted(happened[delivery.id], key=lambda one: one.at),
        )
        for delivery, sealed in rows
    ]


def _of_attempt(attempt: Attempt) -> str:
    match attempt.outcome:
        case None:
            return "attempt_open"
        case Kind.ACCEPTED:
            return "attempt_accepted"
        case Kind.REFUSED:
            return "attempt_refused"
        case _:
            return "attempt_unknown"
