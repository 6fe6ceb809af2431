"""The acts of a person on one campaign, each composed of steps: import, preview, approve, start.

What the API, the pages and the command line all do stands here once. Steps do not know one another; this
module is the one place above them. Every function works in the transaction its caller opens and commits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import select
from sqlalchemy.orm import Session

from notifier import approving, composing, controlling, fanout, importing, profiles, store, tracing
from notifier.addresses import check_email
from notifier.composing import Composed, Facts, Preview
from notifier.errors import ConflictError, InputError, NotFoundError
from notifier.models import Campaign, Doctor, Incident, ListFile
from notifier.notices import clean_line
from notifier.profiles import Profile
from notifier.settings import Settings
from notifier.states import Campaign as State
from notifier.states import Variant
from notifier.tracing import Operation


@dataclass(frozen=True, slots=True)
class Draft:
    """A campaign's notice as it would be approved now."""

    campaign: Campaign
    profile: Profile
    composed: Composed

    @property
    def hash(self) -> str:
        """What an approver approves, in hexadecimal."""
        return self.composed.hash.hex()

    def preview(self, name: str, language: str, variant: Variant) -> list[Preview]:
        """What a person of this name would get."""
        return composing.preview(
            self.composed, name=name, language=self.profile.language_for(language), variant=variant
        )


def create_incident(
    session: Session, settings: Settings, reference: str, profile_id: str, facts: dict[str, object], *, actor: str
) -> Incident:
    """Opens an incident. Raises InputError for facts or a profile that cannot be, ConflictError for a twin."""
    if profile_id not in (known := profiles.known(settings.config_dir)):
        raise InputError(f"There is no such legal profile; there are: {', '.join(known) or 'none'}.")
    Facts.read(facts)
    reference = reference.strip()
    if not reference:
        raise InputError("An incident needs a reference: a short name of your own.")
    if session.query(Incident).filter_by(reference=reference).first() is not None:
        raise ConflictError(f"There is already an incident {reference!r}.")
    incident = Incident(reference=reference, profile=profile_id, facts=facts)
    session.add(incident)
    session.flush()
    store.record(session, actor, "incident.create", f"incident:{incident.id}")
    return incident


def change_facts(session: Session, incident_id: int, facts: dict[str, object], *, actor: str) -> Incident:
    """Replaces an incident's facts; every campaign not yet started must be approved again."""
    Facts.read(facts)
    incident = session.get(Incident, incident_id, with_for_update=True)
    if incident is None:
        raise NotFoundError(f"There is no incident {incident_id}.")
    incident.facts = facts
    store.record(session, actor, "incident.facts", f"incident:{incident_id}")
    open_states = (State.READY, State.APPROVED)
    for campaign in (
        session.query(Campaign).filter_by(incident_id=incident_id).filter(Campaign.state.in_(open_states))
    ):
        approving.void_approval(session, campaign, actor=actor, reason="the facts of the incident changed")
    return incident


def create_doctor(session: Session, *, actor: str, **values: str) -> Doctor:
    """Adds a doctor. Raises InputError for a value that is empty or unfit, ConflictError for a reference twice.

    Line breaks and invisible characters are taken out: these values stand in headers and texts of notices.
    """
    values = {name: clean_line(value) for name, value in values.items()}
    if empty := [name for name, value in values.items() if not value]:
        raise InputError(f"A doctor needs: {', '.join(empty)}.")
    email = check_email(values["email"])
    if not email.ok or email.address is None or not email.address.isascii():
        raise InputError("The doctor's email is not a usable address: patients' answers go there.")
    values["email"] = email.address
    if session.query(Doctor).filter_by(reference=values["reference"]).first() is not None:
        raise ConflictError(f"There is already a doctor {values['reference']!r}.")
    doctor = Doctor(**values)
    session.add(doctor)
    session.flush()
    store.record(session, actor, "doctor.create", f"doctor:{doctor.id}", doctor.id)
    return doctor


def import_list(
    session: Session,
    settings: Settings,
    campaign_id: int,
    source: Path | BinaryIO,
    *,
    actor: str,
    now: datetime,
    progress: Callable[[int], None] | None = None,
    filename: str | None = None,
    mapping: Mapping[str, str] | None = None,
    sheet: str | None = None,
    dead_domains: Collection[str] = (),
    of_several: bool = False,
    accepted_of: int | None = None,
) -> ListFile:
    """Imports a doctor's list, before or after the start; the campaign's newest file again changes nothing.

    Before the start a new file voids an approval, because the approver did not see it. After it, sending goes on:
    whom the list adds is sent the approved text, what it takes away is no longer sent to, and nobody who was told
    is told again; a completed campaign goes on sending if somebody new is on the way. All of that or nothing.

    `filename`, `mapping`, `sheet`, `dead_domains`, `of_several` and `accepted_of` are for `importing.import_list`.
    Raises NotFoundError, ListError for a file that cannot be used, ConflictError for a campaign that was cancelled
    or if somebody needs a text that was not approved.
    """
    campaign = session.get(Campaign, campaign_id, populate_existing=True)
    if campaign is None:
        raise NotFoundError(f"There is no campaign {campaign_id}.")
    doctor = session.get_one(Doctor, campaign.doctor_id)
    known = set(session.scalars(select(ListFile.id).where(ListFile.campaign_id == campaign_id)))
    list_file = importing.import_list(
        session,
        campaign,
        settings.master.open_data_key(campaign.data_key, campaign.id),
        source,
        region=settings.default_region,
        actor=actor,
        now=now,
        expected_doctor=(doctor.reference, doctor.name),
        of_several=of_several,
        own_contacts=(doctor.phone, doctor.email),
        dead_domains=dead_domains,
        max_bytes=settings.max_list_bytes,
        progress=progress,
        filename=filename,
        mapping=mapping,
        sheet=sheet,
        accepted_of=accepted_of,
    )
    if list_file.id in known:
        return list_file
    session.refresh(campaign)
    counts = {"rows": list_file.rows, "accepted": list_file.accepted, "refused": list_file.refused}
    if campaign.started_at is None:
        approving.void_approval(session, campaign, actor=actor, reason="the list changed")
    else:
        _check_frozen(session, settings, campaign, list_file)
        counts |= fanout.extend_all(session, campaign_id, now=now, list_id=list_file.id).counts()
    store.record(session, actor, "campaign.import", f"campaign:{campaign_id}", campaign.doctor_id, counts)
    return list_file


def _check_frozen(session: Session, settings: Settings, campaign: Campaign, list_file: ListFile) -> None:
    """Raises ConflictError if somebody whom the list adds or changes needs a text that was not approved."""
    profile = profiles.load(session.get_one(Incident, campaign.incident_id).profile, settings.config_dir)
    frozen = approving.load_frozen(session, campaign)
    needed = {
        (channel, profile.language_for(language), variant)
        for channel, language, variant in fanout.texts_needed(session, campaign.id, list_file.id)
    }
    if lacking := needed - set(frozen):
        named = ", ".join(f"{language} × {variant} × {channel}" for channel, language, variant in sorted(lacking))
        raise ConflictError(
            f"Campaign {campaign.id}: patients of this list need a text that was not approved before the start "
            f"(language × variant × channel): {named}. Nothing was saved. Hand in the list without these "
            "patients, or with a language that was approved, and tell these patients by letter."
        )


def draft(session: Session, settings: Settings, campaign_id: int) -> Draft:
    """The notice as it stands, with all that is missing; changes nothing."""
    campaign = session.get(Campaign, campaign_id)
    if campaign is None:
        raise NotFoundError(f"There is no campaign {campaign_id}.")
    incident = session.get_one(Incident, campaign.incident_id)
    doctor = session.get_one(Doctor, campaign.doctor_id)
    profile = profiles.load(incident.profile, settings.config_dir)
    needs = approving.needs(session, campaign, profile)
    composed = composing.compose(
        Facts.read(incident.facts),
        composing.Doctor(doctor.name, doctor.practice, doctor.address, doctor.phone),
        profile,
        settings.templates_dir,
        needs.languages or profile.languages[:1],
        needs.variants or (Variant.STANDARD,),
    )
    return Draft(campaign, profile, composed)


def approve(
    session: Session, settings: Settings, campaign_id: int, *, expected_hash: str, actor: str, now: datetime
) -> Campaign:
    """Freezes the text the approver saw; on IncompleteNotice, ConflictError or MoveError nothing changes."""
    with tracing.span("approve", campaign_id):
        return _approve(session, settings, campaign_id, expected_hash, actor, now)


def _approve(
    session: Session, settings: Settings, campaign_id: int, expected_hash: str, actor: str, now: datetime
) -> Campaign:
    campaign = controlling.locked(session, campaign_id)
    try:
        expected = bytes.fromhex(expected_hash)
    except ValueError as error:
        raise InputError("The hash to approve is the one shown with the preview, in hexadecimal.") from error
    current = draft(session, settings, campaign_id)
    notices, missing = current.composed.notices, current.composed.missing
    if campaign.state == State.DRAFT:
        approving.mark_ready(
            session, campaign, profile=current.profile, notices=notices, missing=missing, actor=actor
        )
    approving.approve(
        session,
        campaign,
        profile=current.profile,
        notices=notices,
        missing=missing,
        expected_hash=expected,
        actor=actor,
        now=now,
    )
    return campaign


def start(session: Session, campaign_id: int, *, actor: str, now: datetime) -> int:
    """Fans out an approved campaign and lets it send; returns the number of deliveries."""
    with tracing.span(
        "start", campaign_id, Operation.CREATE, system="patient_notifier", destination="delivery"
    ) as span:
        made = fanout.start(session, campaign_id, actor=actor, now=now)
        span.messages(made)
    return made
