"""What the doctor tells the authority (GDPR art. 33(3)): the numbers and words, ready to copy, and the clock."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.responses import Response

from notifier import store
from notifier.accounts import DOCTORS
from notifier.composing import Contact, Facts
from notifier.models import ListFile, PatientTally
from notifier.states import Exclusion, Outcome
from notifier.web.doctor.common import Words, campaign_of, in_words, incident_of, page
from notifier.web.doctor.overview import clock_values
from notifier.web.pages import Pages, Visit

pages = Pages()


@pages.get("/doctor/campaigns/{campaign_id:int}/declare", allow=DOCTORS)
def declare(visit: Visit) -> Response:
    with visit.transaction() as session:
        campaign = campaign_of(visit, session)
        incident, facts, profile = incident_of(visit, session, campaign)
        persons, records = concerned(session, campaign.id)
        return page(
            visit,
            "declare.html",
            campaign,
            facts=facts,
            incident=incident,
            has_list=records > 0,
            lines=_lines(visit, facts, persons, records),
            **clock_values(visit, campaign, profile),
        )


def concerned(session: Session, campaign_id: int) -> tuple[int, int]:
    """(persons, records) concerned, about: GDPR art. 33(3)(a).

    Without those whose data the list says was not taken. Who has died is a record, but no person (recital 27).
    Records are the rows of the longest list: a list that was corrected and sent again names the same ones.
    """
    rows = store.patient_counts(session, campaign_id, PatientTally.outcome, PatientTally.reason)
    persons = sum(row.n for row in rows if row.outcome != Outcome.EXCLUDED)
    spared = sum(row.n for row in rows if row.reason == Exclusion.NOT_AFFECTED)
    longest = session.scalar(
        select(func.max(ListFile.accepted + ListFile.merged)).where(ListFile.campaign_id == campaign_id)
    )
    return persons, max(sum(row.n for row in rows), longest or 0) - spared


def _lines(visit: Visit, facts: Facts, persons: int, records: int) -> list[tuple[str, str]]:
    """(what the form asks, what to write); a line that nobody knows is left out."""
    words = Words(visit)

    def day(value: object) -> str:
        return visit.say("doctor.unknown") if value == "unknown" else words.day(value) if value else ""  # type: ignore[arg-type]  # a date

    def said(name: str) -> str:
        return "\n".join(in_words(getattr(facts, name), visit.language))

    categories = [line for category in facts.categories for line in in_words(category, visit.language)]
    lines = {
        "nature": said("what_happened"),
        "breach_on": day(facts.breach_on),
        "discovered_on": day(facts.discovered_on),
        "processor": facts.processor,
        "persons": words.number(persons),
        "records": words.number(records),
        "categories": "\n".join(categories),
        "not_concerned": said("not_concerned"),
        "consequences": said("consequences"),
        "measures": said("measures_taken"),
        "contact": _contact(facts.contact, visit.language),
        "dpo": _contact(facts.dpo, visit.language) if facts.dpo else "",
    }
    return [(visit.say(f"doctor.declare_{name}"), text) for name, text in lines.items() if text]


def _contact(contact: Contact, language: str) -> str:
    name, post = (" ".join(in_words(local, language)) for local in (contact.name, contact.post))
    return "\n".join(filter(None, (name, contact.phone, contact.email, post)))
