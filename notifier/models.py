"""The tables. Every row that belongs to a doctor carries `doctor_id`, on which row-level security rests.

Sealed columns hold `sealing.DataKey` values; their names end in `_sealed`. Blind index columns end in `_blind`.
Text states are those of `states.py`, kept true by CHECK constraints made from it.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from notifier import states
from notifier.providers.base import Kind


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        int: BigInteger,
        str: Text,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
    }


def _one_of(column: str, kind: type[StrEnum]) -> CheckConstraint:
    values = ", ".join(f"'{member}'" for member in kind)
    return CheckConstraint(f"{column} IN ({values})", name=column)


def _id() -> Mapped[int]:
    return mapped_column(BigInteger, Identity(always=False), primary_key=True)


def _now() -> Mapped[datetime]:
    return mapped_column(DateTime(timezone=True), server_default=func.now())


def _doctor() -> Mapped[int]:
    return mapped_column(BigInteger, ForeignKey("doctor.id"))


def _copied_doctor() -> Mapped[int]:
    """On hot tables: every statement that inserts copies it from the parent row, so no key check is paid."""
    return mapped_column(BigInteger)


class Incident(Base):
    """One breach: what happened, to which data, with what consequences and measures."""

    __tablename__ = "incident"
    id: Mapped[int] = _id()
    #: short name chosen by operations; also the key that makes creating repeatable
    reference: Mapped[str] = mapped_column(unique=True)
    profile: Mapped[str]
    #: the facts a notice is composed from: see `composing.Facts`
    facts: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = _now()


class Doctor(Base):
    """The controller of the data, who signs the notice."""

    __tablename__ = "doctor"
    id: Mapped[int] = _id()
    #: RPPS number or the software house's own id
    reference: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    practice: Mapped[str]
    address: Mapped[str]
    phone: Mapped[str]
    email: Mapped[str]
    created_at: Mapped[datetime] = _now()


class Campaign(Base):
    """One doctor's notification of one incident."""

    __tablename__ = "campaign"
    __table_args__ = (
        # one that was cancelled before it told anybody may be followed by another
        Index(
            "uq_campaign_incident_id_doctor_id",
            "incident_id",
            "doctor_id",
            unique=True,
            postgresql_where=text("state <> 'cancelled' OR started_at IS NOT NULL"),
        ),
        _one_of("state", states.Campaign),
        Index("ix_campaign_sending", "id", postgresql_where=text("state = 'sending'")),
        Index("ix_campaign_doctor_id", "doctor_id"),
    )
    id: Mapped[int] = _id()
    incident_id: Mapped[int] = mapped_column(ForeignKey("incident.id"))
    doctor_id: Mapped[int] = _doctor()
    state: Mapped[str] = mapped_column(server_default=states.Campaign.DRAFT)
    #: grows at every start, pause, resume and cancel; a ticket of an older epoch is dropped
    epoch: Mapped[int] = mapped_column(Integer, server_default="0")
    #: channels in the order they are tried
    plan: Mapped[list[str]] = mapped_column(server_default="{email,sms}")
    #: None once erased: with it the people of this campaign
    data_key: Mapped[bytes | None]
    #: SHA-256 over the frozen notices
    notice_hash: Mapped[bytes | None]
    approved_at: Mapped[datetime | None]
    approved_by: Mapped[str | None]
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    #: why it is paused or cancelled, in a person's or our own words
    reason: Mapped[str | None]
    created_at: Mapped[datetime] = _now()


class ListFile(Base):
    """One import of one list file. The file itself is not kept."""

    __tablename__ = "list_file"
    __table_args__ = (UniqueConstraint("campaign_id", "sha256"),)
    id: Mapped[int] = _id()
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    doctor_id: Mapped[int] = _doctor()
    sha256: Mapped[bytes]
    #: data rows read = accepted + merged + refused
    rows: Mapped[int] = mapped_column(Integer)
    accepted: Mapped[int] = mapped_column(Integer)
    merged: Mapped[int] = mapped_column(Integer)
    refused: Mapped[int] = mapped_column(Integer)
    imported_by: Mapped[str]
    imported_at: Mapped[datetime] = _now()


class ListProblem(Base):
    """One thing wrong or doubtful in one row; never holds the value itself."""

    __tablename__ = "list_problem"
    __table_args__ = (Index("ix_list_problem_list_file_id", "list_file_id", "row"),)
    id: Mapped[int] = _id()
    list_file_id: Mapped[int] = mapped_column(ForeignKey("list_file.id"))
    doctor_id: Mapped[int] = _copied_doctor()
    #: as a spreadsheet counts: the first line of the file is 1
    row: Mapped[int] = mapped_column(Integer)
    column: Mapped[str]
    reason: Mapped[str]


class Patient(Base):
    """One affected person on one doctor's list."""

    __tablename__ = "patient"
    __table_args__ = (
        UniqueConstraint("campaign_id", "person_blind"),
        _one_of("outcome", states.Outcome),
        _one_of("variant", states.Variant),
        # the counts of a campaign, and the people behind each number
        Index("ix_patient_campaign_outcome", "campaign_id", "outcome", "id"),
    )
    id: Mapped[int] = _id()
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    doctor_id: Mapped[int] = _copied_doctor()
    list_file_id: Mapped[int] = mapped_column(ForeignKey("list_file.id"))
    #: first row of the list that named this person, as a spreadsheet counts
    row: Mapped[int] = mapped_column(Integer)
    #: further rows of the same person, merged into this one
    merged: Mapped[int] = mapped_column(Integer, server_default="0")
    #: blind index of the patient id, else of normalised names and birth date
    person_blind: Mapped[bytes]
    #: JSON: `importing.Identity` (patient id, names, birth date, postal address, numbers not fit for SMS)
    identity_sealed: Mapped[bytes]
    #: whether a letter can be addressed: a street or place, a postal code and a town are known
    has_postal: Mapped[bool] = mapped_column(Boolean)
    #: ISO 639-1, lower case
    language: Mapped[str]
    variant: Mapped[str] = mapped_column(server_default=states.Variant.STANDARD)
    #: the comment was marked as sensitive in the list; its text is never stored
    comment_sensitive: Mapped[bool] = mapped_column(Boolean, server_default="false")
    outcome: Mapped[str] = mapped_column(server_default=states.Outcome.ON_THE_WAY)
    #: `Exclusion` or `Unreached`
    outcome_reason: Mapped[str | None]
    outcome_at: Mapped[datetime | None]


class Contact(Base):
    """One normalised address of one or several patients of one campaign."""

    __tablename__ = "contact"
    __table_args__ = (
        UniqueConstraint("campaign_id", "channel", "value_blind"),
        _one_of("channel", states.Channel),
    )
    id: Mapped[int] = _id()
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    doctor_id: Mapped[int] = _copied_doctor()
    channel: Mapped[str]
    value_blind: Mapped[bytes]
    #: the email address, or the number in E.164
    value_sealed: Mapped[bytes]


class PatientContact(Base):
    """Which patient can be reached where; `rank` is the order within a channel, 0 first."""

    __tablename__ = "patient_contact"
    __table_args__ = (Index("ix_patient_contact_contact_id", "contact_id"),)
    patient_id: Mapped[int] = mapped_column(ForeignKey("patient.id"), primary_key=True)
    contact_id: Mapped[int] = mapped_column(ForeignKey("contact.id"), primary_key=True)
    doctor_id: Mapped[int] = _copied_doctor()
    rank: Mapped[int] = mapped_column(SmallInteger)


class Notice(Base):
    """One frozen text of a campaign: channel × language × variant. A trigger refuses to change it."""

    __tablename__ = "notice"
    __table_args__ = (
        UniqueConstraint("campaign_id", "version", "channel", "language", "variant"),
        _one_of("channel", states.Channel),
        _one_of("variant", states.Variant),
    )
    id: Mapped[int] = _id()
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    doctor_id: Mapped[int] = _doctor()
    channel: Mapped[str]
    language: Mapped[str]
    variant: Mapped[str]
    #: grows with each approval of the campaign; only the newest is sent
    version: Mapped[int] = mapped_column(Integer)
    subject: Mapped[str]
    text: Mapped[str]
    html: Mapped[str]
    #: SHA-256 over channel, language, variant, subject, text and html
    sha256: Mapped[bytes]
    frozen_at: Mapped[datetime] = _now()


class Delivery(Base):
    """One notice to one contact over one channel: the row that is claimed, sent and tracked."""

    __tablename__ = "delivery"
    __table_args__ = (
        # an email goes to one patient of a shared mailbox each; one SMS serves all who share a number
        Index(
            "uq_delivery_contact_addressee",
            "contact_id",
            "addressee_id",
            "variant",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
        _one_of("state", states.Delivery),
        _one_of("channel", states.Channel),
        _one_of("variant", states.Variant),
        # the outbox: what the feeder looks at and a claim takes, oldest due first
        Index(
            "ix_delivery_due",
            "campaign_id",
            "channel",
            "due_at",
            postgresql_where=text("state = 'pending'"),
        ),
        # the few that were in the hands of a worker when it died
        Index(
            "ix_delivery_crashed",
            "campaign_id",
            "channel",
            "due_at",
            postgresql_where=text("state = 'pending' AND crashes > 0"),
        ),
        # what the sweeper settles: leases run out, silence is decided, results are handed on
        Index(
            "ix_delivery_leased",
            "lease_until",
            postgresql_where=text("state IN ('leased', 'sending')"),
        ),
        Index(
            "ix_delivery_settle",
            "due_at",
            postgresql_where=text(
                "due_at IS NOT NULL AND state IN "
                "('unknown', 'accepted', 'delivered', 'failed', 'cancelled', 'quarantined')"
            ),
        ),
        Index("ix_delivery_campaign", "campaign_id", "id"),
        # what a person has to look at, over all campaigns
        Index("ix_delivery_attention", "id", postgresql_where=text("state IN ('unknown', 'quarantined')")),
        {"postgresql_with": {"fillfactor": "70"}},
    )
    id: Mapped[int] = _id()
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    doctor_id: Mapped[int] = _copied_doctor()
    contact_id: Mapped[int] = mapped_column(ForeignKey("contact.id"))
    #: the one patient an email is for; None for an SMS, which serves all linked in `delivery_patient`
    addressee_id: Mapped[int | None] = mapped_column(ForeignKey("patient.id"))
    channel: Mapped[str]
    language: Mapped[str]
    variant: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=states.Delivery.PENDING)
    #: pending: send then; unknown, accepted: settle then; other states: hand the result on, None when done
    due_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    #: grows with every claim; a write with an older number changes nothing
    fence: Mapped[int] = mapped_column(Integer, server_default="0")
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    #: the first hand-over: the limit on time counts from here
    first_tried_at: Mapped[datetime | None]
    #: hand-overs that count towards the limit
    tries: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    #: leases that ran out because the worker was gone
    crashes: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    #: a second hand-over was made although the first may have arrived
    possibly_twice: Mapped[bool] = mapped_column(Boolean, server_default="false")
    #: code of the last result, free of personal data
    reason: Mapped[str | None]
    #: event time of the newest receipt applied
    receipt_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()


class DeliveryPatient(Base):
    """Whom a delivery informs."""

    __tablename__ = "delivery_patient"
    __table_args__ = (Index("ix_delivery_patient_patient_id", "patient_id"),)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id"), primary_key=True)
    patient_id: Mapped[int] = mapped_column(ForeignKey("patient.id"), primary_key=True)
    doctor_id: Mapped[int] = _copied_doctor()


class Attempt(Base):
    """One hand-over to a provider: written before the call, closed after it."""

    __tablename__ = "attempt"
    __table_args__ = (
        UniqueConstraint("delivery_id", "fence"),
        # what a crash left open
        Index("ix_attempt_open", "started_at", postgresql_where=text("ended_at IS NULL")),
        _one_of("outcome", Kind),
    )
    id: Mapped[int] = _id()
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id"))
    doctor_id: Mapped[int] = _copied_doctor()
    #: the claim it was made under; unique per delivery
    fence: Mapped[int] = mapped_column(Integer)
    provider: Mapped[str]
    notice_id: Mapped[int]
    started_at: Mapped[datetime] = _now()
    #: None while open; a crash leaves it open until the sweeper closes it as unknown
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    code: Mapped[str | None]
    provider_message_id: Mapped[str | None]
    #: the provider's own answer, sealed because it may name the person
    raw_sealed: Mapped[bytes | None]


class Receipt(Base):
    """What a provider told us later, as it came; applied afterwards, in any order, any number of times."""

    __tablename__ = "receipt"
    __table_args__ = (
        Index("ix_receipt_unapplied", "id", postgresql_where=text("applied_at IS NULL")),
        Index("ix_receipt_delivery_id", "delivery_id"),
        UniqueConstraint("dedup"),
    )
    id: Mapped[int] = _id()
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id"))
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    doctor_id: Mapped[int] = _copied_doctor()
    provider: Mapped[str]
    event: Mapped[str]
    #: the provider's own word
    code: Mapped[str]
    event_at: Mapped[datetime]
    provider_message_id: Mapped[str | None]
    #: the request body as received; on the first of several events that came together
    body_sealed: Mapped[bytes | None]
    #: SHA-256 over provider, delivery, message id, code and event time: the same event twice is one row
    dedup: Mapped[bytes]
    received_at: Mapped[datetime] = _now()
    applied_at: Mapped[datetime | None]
    #: what it changed: "delivered", "retry", "failed", "nothing"
    effect: Mapped[str | None]


class Journal(Base):
    """What people did, append-only and chained by hash; triggers refuse every change and fill the chain."""

    __tablename__ = "journal"
    id: Mapped[int] = _id()
    at: Mapped[datetime] = _now()
    #: "key:3" (an API key), "cli:<login>", "doctor:12"; never a patient
    actor: Mapped[str]
    action: Mapped[str]
    #: "campaign:5", "incident:1", "provider:smtp", "everything"
    subject: Mapped[str]
    doctor_id: Mapped[int | None] = mapped_column(BigInteger)
    detail: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    previous: Mapped[bytes | None]
    hash: Mapped[bytes | None]


class ApiKey(Base):
    """A program's key: only its SHA-256 is kept. `doctor_id` None means operations."""

    __tablename__ = "api_key"
    id: Mapped[int] = _id()
    name: Mapped[str]
    #: the first letters, to tell keys apart in lists
    prefix: Mapped[str]
    hash: Mapped[bytes] = mapped_column(unique=True)
    doctor_id: Mapped[int | None] = mapped_column(ForeignKey("doctor.id"))
    created_at: Mapped[datetime] = _now()
    revoked_at: Mapped[datetime | None]


class IdempotentRequest(Base):
    """The answer to a POST with `Idempotency-Key`, given again for the same key and body."""

    __tablename__ = "idempotent_request"
    api_key_id: Mapped[int] = mapped_column(ForeignKey("api_key.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    #: SHA-256 over method, path and body
    fingerprint: Mapped[bytes]
    #: None while the first request is still at work
    status: Mapped[int | None] = mapped_column(SmallInteger)
    body: Mapped[bytes | None]
    created_at: Mapped[datetime] = _now()


class Hold(Base):
    """What must not be sent now: "everything", "channel:sms" or "provider:smtp". Rows here stop sending."""

    __tablename__ = "hold"
    scope: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    #: None: until a person lifts it
    until: Mapped[datetime | None]
    by: Mapped[str]
    since: Mapped[datetime] = _now()


class Heartbeat(Base):
    """When each process of the engine was last seen at work."""

    __tablename__ = "heartbeat"
    #: "feeder", "sweeper", "worker:<host>:<pid>"
    process: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime] = _now()
