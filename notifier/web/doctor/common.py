"""What the doctor's pages share: the campaign of the address, whose names are shown, numbers, days and clocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy.orm import Session
from starlette.responses import Response

from notifier import profiles
from notifier.accounts import Role
from notifier.composing import Facts
from notifier.errors import NotFoundError
from notifier.judging import Identity
from notifier.models import Campaign, Incident, Patient
from notifier.profiles import Profile
from notifier.sealing import DataKey
from notifier.states import Campaign as State
from notifier.web.pages import Visit

#: what a secretary prepares and the doctor alone decides
DECIDES = frozenset({Role.DOCTOR})
#: people, rows and suggestions on one page
PAGE = 50

BEFORE_START = (State.DRAFT, State.READY, State.APPROVED)
_MOST_ID = 2**63 - 1

T = TypeVar("T")


def campaign_of(visit: Visit, session: Session) -> Campaign:
    """The campaign of the address. Raises NotFoundError, also for another doctor's."""
    found = session.get(Campaign, visit.number("campaign_id"))
    if found is None:
        raise NotFoundError("There is no such campaign.")
    return found


def incident_of(visit: Visit, session: Session, campaign: Campaign) -> tuple[Incident, Facts, Profile]:
    """What the campaign is about, and by which rules."""
    incident = session.get_one(Incident, campaign.incident_id)
    return incident, Facts.read(incident.facts), profiles.load(incident.profile, visit.site.settings.config_dir)


def page(visit: Visit, template: str, campaign: Campaign, status: int = 200, /, **values: Any) -> Response:
    """A page about one campaign, with what all of them need."""
    words = Words(visit)
    base = f"/doctor/campaigns/{campaign.id}"
    shared = {
        "campaign": campaign,
        "base": base,
        "number": words.number,
        "day": words.day,
        "persons": words.persons,
    }
    return visit.page(f"doctor/{template}", status, **shared | values)


@dataclass(frozen=True, slots=True)
class Words:
    """How a language writes numbers and days."""

    visit: Visit

    def number(self, value: int) -> str:
        """1 234 with a narrow no-break space in French, 1,234 in English."""
        return f"{value:,}".replace(",", "\u202f") if self.visit.language == "fr" else f"{value:,}"

    def day(self, value: date | datetime) -> str:
        """A day of the calendar, of the deployment's time zone."""
        if isinstance(value, datetime):
            value = value.astimezone(self.visit.site.zone).date()
        return f"{value:%d/%m/%Y}" if self.visit.language == "fr" else f"{value.day} {value:%b %Y}"

    def persons(self, value: int) -> str:
        """«1 personne», «12 personnes»."""
        is_one = value < 2 if self.visit.language == "fr" else value == 1
        return self.visit.say(f"doctor.persons_{'one' if is_one else 'many'}", n=self.number(value))


# --- people ----------------------------------------------------------------------------------------------


def data_key(visit: Visit, campaign: Campaign) -> DataKey | None:
    """The key that opens names and contacts; None once the people were erased."""
    if campaign.data_key is None:
        return None
    return visit.site.settings.master.open_data_key(campaign.data_key, campaign.id)


def identity_of(key: DataKey | None, patient: Patient) -> Identity:
    return Identity.from_json(key.open(patient.identity_sealed, b"patient.identity")) if key else Identity()


def name_of(who: Identity) -> str:
    """As a list of people is read: last name first; empty for somebody without a name."""
    return " ".join(filter(None, ((who.last_name or "").upper(), who.first_name)))


def born_on(who: Identity) -> date | None:
    return date.fromisoformat(who.birth_date) if who.birth_date else None


def named(key: DataKey | None, patients: Iterable[Patient]) -> dict[int, str]:
    """Patient → name."""
    return {patient.id: name_of(identity_of(key, patient)) for patient in patients}


# --- what an address says ------------------------------------------------------------------------------------


def after_of(visit: Visit) -> int:
    """From where on a list is shown. Raises NotFoundError for what is no number."""
    return whole(visit.request.query_params.get("after", "0"))


def whole(text: str) -> int:
    """A number as an address or a form writes it. Raises NotFoundError for anything else."""
    if not (text.isascii() and text.isdigit() and len(text) < 20) or int(text) > _MOST_ID:
        raise NotFoundError("There is no such thing.")
    return int(text)


def choice(visit: Visit, name: str, known: Sequence[T], default: T) -> T:
    """One of the values known. Raises NotFoundError for another."""
    asked = visit.request.query_params.get(name)
    if not asked:
        return default
    found = next((one for one in known if str(one) == asked), None)
    if found is None:
        raise NotFoundError("There is no such thing.")
    return found


def cut(rows: Sequence[T]) -> tuple[Sequence[T], bool]:
    """One page of what was asked for one row more, and whether there is more."""
    return rows[:PAGE], len(rows) > PAGE


# --- the clock to the authority ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clock:
    """The time to tell the authority (GDPR art. 33(1): 72 hours from when the controller became aware)."""

    since: datetime
    until: datetime
    #: whole hours left; 0 once it is over
    hours_left: int
    is_over: bool

    @property
    def days_left(self) -> int:
        return self.hours_left // 24


def clock(since: datetime, limit: timedelta, now: datetime) -> Clock:
    """The clock as it stands. `since` is when the doctor could know at the latest by us: the campaign's making."""
    until = since + limit
    left = until - now
    return Clock(since, until, max(0, int(left.total_seconds() // 3600)), left <= timedelta(0))


def in_words(facts: Mapping[str, tuple[str, ...]], language: str) -> tuple[str, ...]:
    """Paragraphs of a fact in this language, else in whichever it was written."""
    return facts.get(language) or facts.get("*") or next(iter(facts.values()), ())
