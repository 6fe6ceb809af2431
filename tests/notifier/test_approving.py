"""Only a complete text that a person saw, unchanged since, can be sent."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from typing import Any

import psycopg
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from notifier import approving, models, notices, profiles
from notifier.errors import ConflictError, IncompleteNotice, MoveError
from notifier.notices import DraftNotice, Gap, Problem, span
from notifier.settings import ROOT
from notifier.states import Campaign, Channel, Outcome, Variant
from notifier.store import Database, broken_journal_entries

NOW = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)
PROFILE = profiles.load("eu-gdpr-fr", ROOT / "config")
GAP = Gap(
    "measures.taken",
    Channel.SMS,
    "fr",
    Variant.STANDARD,
    Problem.ABSENT,
    {"en": "SMS in French – the measures taken"},
)
#: language, variant, outcome of each made-up patient
PATIENTS = (
    ("fr", Variant.STANDARD, Outcome.ON_THE_WAY),
    ("de", Variant.STANDARD, Outcome.ON_THE_WAY),
    ("en", Variant.COMMENT, Outcome.EXCLUDED),
)


def make_campaign(
    session: Session, patients: tuple[tuple[str, Variant, Outcome], ...] = PATIENTS
) -> models.Campaign:
    incident = models.Incident(reference="I1", profile="eu-gdpr-fr", facts={})
    doctor = models.Doctor(reference="D1", name="Dr Claire Martin", practice="", address="", phone="", email="")
    session.add_all([incident, doctor])
    session.flush()
    campaign = models.Campaign(incident_id=incident.id, doctor_id=doctor.id)
    session.add(campaign)
    session.flush()
    counts = {"rows": len(patients), "accepted": len(patients), "merged": 0, "refused": 0}
    owned = {"campaign_id": campaign.id, "doctor_id": doctor.id}
    file = models.ListFile(**owned, sha256=b"f", imported_by="test", **counts)
    session.add(file)
    session.flush()
    for row, (language, variant, outcome) in enumerate(patients, start=2):
        session.add(
            models.Patient(
                **owned,
                list_file_id=file.id,
                row=row,
                person_blind=bytes([row]),
                identity_sealed=b"sealed",
                has_postal=False,
                language=language,
                variant=variant,
                outcome=outcome,
            )
        )
    session.flush()
    return campaign


def make_notices(languages: tuple[str, ...] = ("fr",), text: str = "Texte") -> list[DraftNotice]:
    return [
        DraftNotice(
            channel,
            language,
            Variant.STANDARD,
            subject="Objet" if channel is Channel.EMAIL else "",
            text=f"{text} {span('vous')}" if channel is Channel.EMAIL else text,
            html=f"<p>{text} {span('vous')}</p>" if channel is Channel.EMAIL else "",
            parts=1,
        )
        for channel, language in product(Channel, languages)
    ]


def ready(session: Session, campaign: models.Campaign, **changes: Any) -> bytes:
    values = {"profile": PROFILE, "notices": make_notices(), "missing": (), "actor": "doctor:1", **changes}
    return approving.mark_ready(session, campaign, **values)


def approve(session: Session, campaign: models.Campaign, **changes: Any) -> bytes:
    values = {
        "profile": PROFILE,
        "notices": make_notices(),
        "missing": (),
        "actor": "doctor:1",
        "now": NOW,
        **changes,
    }
    values.setdefault("expected_hash", notices.hash_of(values["notices"]))
    return approving.approve(session, campaign, **values)


def make_approved(session: Session) -> models.Campaign:
    campaign = make_campaign(session)
    ready(session, campaign)
    approve(session, campaign)
    return campaign


def journal(session: Session) -> list[models.Journal]:
    return list(session.scalars(select(models.Journal).order_by(models.Journal.id)))


# ---- ready -----------------------------------------------------------------------------------------------------


def test_a_campaign_needs_texts_for_its_patients_and_none_for_the_excluded(database: Database):
    with database.staff() as session:
        needed = approving.needs(session, make_campaign(session), PROFILE)
    assert needed.patients == 2
    assert needed.languages == ("fr",), "German is not in the profile: French is used"
    assert needed.variants == (Variant.STANDARD,)
    assert needed.keys == {(channel, "fr", Variant.STANDARD) for channel in Channel}


def test_a_complete_draft_becomes_ready_and_its_hash_is_what_the_approver_will_see(database: Database):
    with database.staff() as session:
        campaign = make_campaign(session)
        assert ready(session, campaign) == notices.hash_of(make_notices())
        assert ready(session, campaign) == notices.hash_of(make_notices())
        assert campaign.state == Campaign.READY
        assert [entry.action for entry in journal(session)] == ["campaign.ready"]


@pytest.mark.parametrize("patients", [(), PATIENTS[2:]])
def test_a_campaign_without_a_patient_to_inform_cannot_be_ready(database: Database, patients: Any):
    with database.staff() as session:
        campaign = make_campaign(session, patients)
        with pytest.raises(ConflictError, match="no patient"):
            ready(session, campaign)
        assert campaign.state == Campaign.DRAFT


def test_an_incomplete_notice_cannot_be_ready(database: Database):
    with database.staff() as session:
        campaign = make_campaign(session)
        with pytest.raises(IncompleteNotice) as caught:
            ready(session, campaign, missing=[GAP])
        assert caught.value.missing == (("measures.taken", "sms", "fr"),)
        assert campaign.state == Campaign.DRAFT


def test_a_text_that_some_patient_needs_may_not_be_absent(database: Database):
    with database.staff() as session:
        campaign = make_campaign(session, (*PATIENTS, ("en", Variant.STANDARD, Outcome.ON_THE_WAY)))
        with pytest.raises(ConflictError, match="email/en/standard, sms/en/standard"):
            ready(session, campaign)
        ready(session, campaign, notices=make_notices(("fr", "en")))


# ---- approved --------------------------------------------------------------------------------------------------


def test_approval_freezes_every_text_and_says_who_and_when(database: Database):
    with database.staff() as session:
        campaign = make_approved(session)
        campaign_id = campaign.id
    with database.staff() as session:
        campaign = session.get_one(models.Campaign, campaign_id)
        assert campaign.state == Campaign.APPROVED
        assert campaign.notice_hash == notices.hash_of(make_notices())
        assert (campaign.approved_at, campaign.approved_by) == (NOW, "doctor:1")
        rows = session.scalars(select(models.Notice)).all()
        assert {row.sha256 for row in rows} == {notices.digest_of(draft) for draft in make_notices()}
        assert {row.version for row in rows} == {1}
        entry = journal(session)[-1]
        assert (entry.actor, entry.action, entry.subject) == (
            "doctor:1",
            "campaign.approve",
            f"campaign:{campaign_id}",
        )
        assert entry.detail["notice_hash"] == campaign.notice_hash.hex()
        assert entry.detail["notices"]["sms/fr/standard"] == notices.digest_of(make_notices()[1]).hex()
        assert broken_journal_entries(session) == []


def test_what_was_approved_is_what_is_sent(database: Database):
    with database.staff() as session:
        frozen = approving.load_frozen(session, make_approved(session))
        assert set(frozen) == {(channel, "fr", Variant.STANDARD) for channel in Channel}
        notice_id, text = frozen[Channel.EMAIL, "fr", Variant.STANDARD]
        assert session.get_one(models.Notice, notice_id).channel == Channel.EMAIL
        assert text.subject == "Objet"
        assert text.fill("Anne & Co") == ("Texte Anne & Co", "<p>Texte Anne &amp; Co</p>")


def test_a_doctor_approves_under_their_own_role(database: Database):
    with database.staff() as session:
        campaign = make_campaign(session)
        campaign_id, doctor_id = campaign.id, campaign.doctor_id
    with database.doctor(doctor_id) as session:
        campaign = session.get_one(models.Campaign, campaign_id)
        ready(session, campaign)
        approve(session, campaign)
        assert len(approving.load_frozen(session, campaign)) == 2


def test_another_text_than_the_one_seen_is_not_approved(database: Database):
    with database.staff() as session:
        campaign = make_campaign(session)
        seen = ready(session, campaign)
        with pytest.raises(ConflictError, match="this hash is not that of the present text"):
            approve(session, campaign, notices=make_notices(text="Autre texte"), expected_hash=seen)
        assert campaign.state == Campaign.READY
        assert campaign.notice_hash is None
        assert session.scalars(select(models.Notice)).all() == []


def test_an_incomplete_notice_is_not_approved_whatever_hash_was_seen(database: Database):
    with database.staff() as session:
        campaign = make_campaign(session)
        ready(session, campaign)
        with pytest.raises(IncompleteNotice, match="SMS in French – the measures taken"):
            approve(session, campaign, missing=[GAP, replace(GAP, variant=Variant.COMMENT)])
        assert campaign.state == Campaign.READY


def test_a_draft_cannot_be_approved_nor_anything_twice(database: Database):
    with database.staff() as session:
        campaign = make_campaign(session)
        with pytest.raises(MoveError):
            approve(session, campaign)
        ready(session, campaign)
        approve(session, campaign)
        with pytest.raises(MoveError):
            approve(session, campaign)
        assert len(session.scalars(select(models.Notice)).all()) == 2


def test_two_approvals_at_once_freeze_the_text_once(database: Database):
    with database.staff() as session:
        campaign = make_campaign(session)
        ready(session, campaign)
        campaign_id = campaign.id
    both_have_read = threading.Barrier(2)

    def click() -> bool:
        with database.staff() as session:
            campaign = session.get_one(models.Campaign, campaign_id)
            both_have_read.wait(timeout=30)
            try:
                approve(session, campaign)
            except MoveError:
                return False
            return True

    with ThreadPoolExecutor(2) as pool:
        clicks = [pool.submit(click), pool.submit(click)]
        assert sorted(done.result() for done in clicks) == [False, True]
    with database.staff() as session:
        assert len(session.scalars(select(models.Notice)).all()) == 2


def test_a_patient_added_after_ready_needs_a_text_too(database: Database):
    with database.staff() as session:
        campaign = make_campaign(session)
        ready(session, campaign)
        patient = session.scalars(select(models.Patient).where(models.Patient.outcome == Outcome.EXCLUDED)).one()
        patient.outcome = Outcome.ON_THE_WAY
        session.flush()
        with pytest.raises(ConflictError, match="email/en/comment"):
            approve(session, campaign)


# ---- voided ----------------------------------------------------------------------------------------------------


def test_a_change_voids_the_approval_and_keeps_the_old_texts_as_history(database: Database):
    with database.staff() as session:
        campaign = make_approved(session)
        first = campaign.notice_hash
        assert approving.void_approval(session, campaign, actor="key:1", reason="list changed") is True
        assert campaign.state == Campaign.DRAFT
        assert (campaign.notice_hash, campaign.approved_at, campaign.approved_by) == (None, None, None)
        with pytest.raises(ConflictError, match="no approved text"):
            approving.load_frozen(session, campaign)
        again = make_notices(text="Nouveau texte")
        ready(session, campaign, notices=again)
        approve(session, campaign, notices=again)
        assert campaign.notice_hash != first
        assert sorted(session.scalars(select(models.Notice.version))) == [1, 1, 2, 2]
        text, _ = approving.load_frozen(session, campaign)[Channel.SMS, "fr", Variant.STANDARD][1].fill("")
        assert text == "Nouveau texte"
        voided = next(entry for entry in journal(session) if entry.action == "campaign.void_approval")
        assert voided.detail == {"reason": "list changed", "notice_hash": first.hex() if first else None}


def test_voiding_a_draft_changes_nothing(database: Database):
    with database.staff() as session:
        campaign = make_campaign(session)
        assert approving.void_approval(session, campaign, actor="key:1", reason="x") is False
        assert journal(session) == []


@pytest.mark.parametrize("state", [Campaign.SENDING, Campaign.PAUSED, Campaign.COMPLETED, Campaign.CANCELLED])
def test_once_sending_has_begun_an_approval_cannot_be_voided(database: Database, state: Campaign):
    with database.staff() as session:
        campaign = make_approved(session)
        campaign.state = state
        session.flush()
        with pytest.raises(MoveError):
            approving.void_approval(session, campaign, actor="key:1", reason="x")
        assert len(approving.load_frozen(session, campaign)) == 2


# ---- altered ---------------------------------------------------------------------------------------------------

ALTERATIONS = {
    "a text": "UPDATE notice SET text = text || '.' WHERE channel = 'sms'",
    "a text with its own hash": "UPDATE notice SET text = 'x', subject = '', html = '', sha256 = decode("
    f"'{notices.digest('sms', 'fr', 'standard', '', 'x', '').hex()}', 'hex') WHERE channel = 'sms'",
    "a language": "UPDATE notice SET language = 'en' WHERE channel = 'sms'",
    "one removed": "DELETE FROM notice WHERE channel = 'sms'",
    "all removed": "DELETE FROM notice",
    "one added": "INSERT INTO notice (campaign_id, doctor_id, channel, language, variant, version, subject, text, "
    "html, sha256) SELECT campaign_id, doctor_id, channel, language, 'comment', version, subject, text, html, "
    "sha256 FROM notice WHERE channel = 'sms'",
    "a newer version": "INSERT INTO notice (campaign_id, doctor_id, channel, language, variant, version, subject, "
    "text, html, sha256) SELECT campaign_id, doctor_id, channel, language, variant, 2, subject, text, html, "
    "sha256 FROM notice WHERE channel = 'sms'",
    "the campaign's hash": "UPDATE campaign SET notice_hash = sha256('x')",
}


@pytest.mark.parametrize("statement", ALTERATIONS.values(), ids=ALTERATIONS.keys())
def test_a_text_altered_in_the_database_is_never_sent(database: Database, database_url: str, statement: str):
    with database.staff() as session:
        campaign_id = make_approved(session).id
    # only the database's owner can get past the trigger
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE notice DISABLE TRIGGER USER")
        assert connection.execute(statement).rowcount > 0  # type: ignore[arg-type]  # a literal of this file
        connection.execute("ALTER TABLE notice ENABLE TRIGGER USER")
    with database.staff() as session:
        campaign = session.get_one(models.Campaign, campaign_id)
        with pytest.raises(ConflictError, match="not what was approved"):
            approving.load_frozen(session, campaign)
