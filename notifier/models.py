"""The tables. Every row that belongs to a doctor carries `doctor_id`, on which row-level security rests.

Sealed columns hold `sealing.DataKey` values; their names end in `_sealed`. Blind index columns end in `_blind`.
Text states are those of `states.py`, kept true by CHECK constraints made from it.
"""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    DateTime,
    Float,
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
    # not unique: a list that came again after another one is imported again
    __table_args__ = (Index("ix_list_file_campaign_id", "campaign_id", "sha256"),)
    id: Mapped[int] = _id()
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    doctor_id: Mapped[int] = _doctor()
    sha256: Mapped[bytes]
    #: the list whose accepted suggestions this one is
    accepted_of: Mapped[int | None] = mapped_column(BigInteger)
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
    # Not a foreign key: the import that inserts it has just made the list, and no role may delete one.
    list_file_id: Mapped[int] = mapped_column(BigInteger)
    doctor_id: Mapped[int] = _copied_doctor()
    #: as a spreadsheet counts: the first line of the file is 1
    row: Mapped[int] = mapped_column(Integer)
    column: Mapped[str]
    reason: Mapped[str]


class ListMapping(Base):
    """What a doctor said about the columns of lists with one header: it answers for the next list like it."""

    __tablename__ = "list_mapping"
    doctor_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("doctor.id"), primary_key=True)
    #: SHA-256 over the names of all columns
    layout: Mapped[bytes] = mapped_column(primary_key=True)
    #: header → meaning, or "ignore"
    mapping: Mapped[dict[str, Any]]
    #: the sheet that was chosen of several
    sheet: Mapped[str | None]
    said_by: Mapped[str]
    said_at: Mapped[datetime] = _now()


class ListUpload(Base):
    """A list that a doctor sent from a page: kept sealed for a day, between the look at it and its corrections."""

    __tablename__ = "list_upload"
    __table_args__ = (Index("ix_list_upload_campaign_id", "campaign_id"), Index("ix_list_upload_at", "at"))
    id: Mapped[int] = _id()
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    doctor_id: Mapped[int] = _doctor()
    content_sealed: Mapped[bytes]
    #: JSON: the file's name, and what was said about its columns
    said_sealed: Mapped[bytes]
    #: the list it was imported as
    list_file_id: Mapped[int | None] = mapped_column(BigInteger)
    at: Mapped[datetime] = _now()


class Decision(Base):
    """Whether the people of two rows are one: what a person said about a doubt of a list."""

    __tablename__ = "decision"
    # Not foreign keys: the statement that inserts has just read all three, and no role may delete any.
    #: the doubt, a `ListProblem`
    problem_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    #: the other of the pair
    other_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    doctor_id: Mapped[int] = _copied_doctor()
    patient_id: Mapped[int] = mapped_column(BigInteger)
    #: then `patient_id` is excluded, and its contacts are the other's too
    is_same: Mapped[bool] = mapped_column(Boolean)
    decided_by: Mapped[str]
    decided_at: Mapped[datetime] = _now()


class Patient(Base):
    """One affected person on one doctor's list."""

    __tablename__ = "patient"
    __table_args__ = (
        UniqueConstraint("campaign_id", "person_blind"),
        _one_of("outcome", states.Outcome),
        _one_of("variant", states.Variant),
        # the counts of a campaign, and the people behind each number
        Index("ix_patient_campaign_outcome", "campaign_id", "outcome", "id"),
        Index("ix_patient_merged", "campaign_id", "id", postgresql_where=text("merged > 0")),
    )
    id: Mapped[int] = _id()
    # Not foreign keys: the import that inserts a patient holds the campaign and has just made the list, and no
    # role may delete either. Checking each row again took a fifth of an import.
    campaign_id: Mapped[int] = mapped_column(BigInteger)
    doctor_id: Mapped[int] = _copied_doctor()
    #: the list that named the person first
    list_file_id: Mapped[int] = mapped_column(BigInteger)
    #: the newest list that names the person
    listed_in: Mapped[int | None] = mapped_column(BigInteger)
    #: the newest list that changed something of the person
    changed_in: Mapped[int | None] = mapped_column(BigInteger)
    #: first row of the list that named this person, as a spreadsheet counts
    row: Mapped[int] = mapped_column(Integer)
    #: further rows of the same person, merged into this one
    merged: Mapped[int] = mapped_column(Integer, server_default="0")
    #: blind index of the patient id, else of the national identifier, else of normalised names and birth date
    person_blind: Mapped[bytes]
    #: blind index of the patient id, where that is not `person_blind`
    id_blind: Mapped[bytes | None]
    #: keyed hash of the national identifier, which is stored nowhere else
    national_blind: Mapped[bytes | None]
    #: blind index of normalised names and birth date, where both are known
    name_blind: Mapped[bytes | None]
    #: JSON: `judging.Identity` (patient id, names, birth date, postal address, numbers not fit for SMS)
    identity_sealed: Mapped[bytes]
    #: whether a letter can be addressed: a street or place, a postal code and a town are known
    has_postal: Mapped[bool] = mapped_column(Boolean)
    #: under eighteen when the list was imported: the notice is for the holder of parental authority
    is_minor: Mapped[bool] = mapped_column(Boolean, server_default="false")
    #: ISO 639-1, lower case
    language: Mapped[str]
    variant: Mapped[str] = mapped_column(server_default=states.Variant.STANDARD)
    #: the comment was marked as sensitive in the list; its text is never stored
    comment_sensitive: Mapped[bool] = mapped_column(Boolean, server_default="false")
    #: whether the list says that this person's data was taken; None: it does not say
    affected: Mapped[bool | None] = mapped_column(Boolean)
    outcome: Mapped[str] = mapped_column(server_default=states.Outcome.ON_THE_WAY)
    #: `Exclusion` or `Unreached`
    outcome_reason: Mapped[str | None]
    outcome_at: Mapped[datetime | None]


class Told(Base):
    """A patient whom a person told in another way, or wrote a letter to: what the engine cannot see."""

    __tablename__ = "told"
    __table_args__ = (_one_of("how", states.Told),)
    # Not a foreign key: the statement that inserts has just changed the patient, and no role may delete one.
    patient_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    doctor_id: Mapped[int] = _copied_doctor()
    how: Mapped[str]
    #: the day it happened, as the person says
    day: Mapped[date] = mapped_column(Date)
    #: why the patient was unreached before: what it goes back to if this was a mistake
    reason_before: Mapped[str | None]
    said_by: Mapped[str]
    said_at: Mapped[datetime] = _now()


class Change(Base):
    """What has changed for programs that follow: patients whose outcome moved, or a campaign's state.

    Written by triggers, one row for up to 500 patients of a statement, in the order of transactions.
    """

    __tablename__ = "change"
    __table_args__ = (
        Index("ix_change_order", "xid", "id"),
        Index("ix_change_campaign", "campaign_id", "xid", "id"),
        Index("ix_change_doctor", "doctor_id", "xid", "id"),
    )
    id: Mapped[int] = _id()
    #: the transaction that made it: rows of one still at work are not read yet, so none is ever passed over
    xid: Mapped[int] = mapped_column(BigInteger, server_default=text("(pg_current_xact_id()::text)::bigint"))
    campaign_id: Mapped[int] = mapped_column(BigInteger)
    doctor_id: Mapped[int] = _copied_doctor()
    at: Mapped[datetime] = _now()
    #: empty: the campaign's own state has changed
    patients: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))


class Callback(Base):
    """An address of a customer's software that is told of changes; it keeps its own place in `change`."""

    __tablename__ = "callback"
    __table_args__ = (
        CheckConstraint("state IN ('active', 'stopped')", name="state"),
        Index("ix_callback_due", "due_at", postgresql_where=text("state = 'active'")),
    )
    id: Mapped[int] = _id()
    #: None: of all doctors, for operations
    doctor_id: Mapped[int | None] = mapped_column(ForeignKey("doctor.id"))
    url: Mapped[str]
    #: what signs its messages
    secret_sealed: Mapped[bytes]
    state: Mapped[str] = mapped_column(server_default="active")
    #: everything up to here was taken
    xid: Mapped[int] = mapped_column(BigInteger)
    change_id: Mapped[int] = mapped_column(BigInteger)
    #: how far the message at hand goes: each try of it tells of the same changes
    until_xid: Mapped[int | None] = mapped_column(BigInteger)
    until_id: Mapped[int | None] = mapped_column(BigInteger)
    #: how often somebody has sent it back
    replays: Mapped[int] = mapped_column(Integer, server_default="0")
    #: not before; while a message is on its way, when somebody else may try
    due_at: Mapped[datetime] = _now()
    #: how often the message at hand was not taken, and since when
    tries: Mapped[int] = mapped_column(Integer, server_default="0")
    failing_since: Mapped[datetime | None]
    #: how the last message ended: "http_200", "timeout", "private_address"
    last_code: Mapped[str | None]
    last_at: Mapped[datetime | None]
    created_by: Mapped[str]
    created_at: Mapped[datetime] = _now()


class Contact(Base):
    """One normalised address of one or several patients of one campaign."""

    __tablename__ = "contact"
    __table_args__ = (
        UniqueConstraint("campaign_id", "channel", "value_blind"),
        _one_of("channel", states.Channel),
    )
    id: Mapped[int] = _id()
    # Not a foreign key, as in `patient`.
    campaign_id: Mapped[int] = mapped_column(BigInteger)
    doctor_id: Mapped[int] = _copied_doctor()
    channel: Mapped[str]
    value_blind: Mapped[bytes]
    #: the email address, or the number in E.164
    value_sealed: Mapped[bytes]


class PatientContact(Base):
    """Which patient can be reached where; `rank` is the order within a channel, 0 first."""

    __tablename__ = "patient_contact"
    __table_args__ = (Index("ix_patient_contact_contact_id", "contact_id"),)
    # Not foreign keys: the statement that links two rows has just read both, and no role may delete either.
    patient_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    contact_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
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
        Index("ix_delivery_campaign", "campaign_id", "id"),
        # No index names a column that a hand-over changes: each change then stays on its page (heap-only tuple).
        # Who wants something when is found through `due`.
        {"postgresql_with": {"fillfactor": "50"}},
    )
    id: Mapped[int] = _id()
    # Not foreign keys: every delivery is made by a statement that reads what it names, and that is never deleted.
    campaign_id: Mapped[int] = mapped_column(BigInteger)
    doctor_id: Mapped[int] = _copied_doctor()
    contact_id: Mapped[int] = mapped_column(BigInteger)
    #: the one patient an email is for; None for an SMS, which serves all linked in `delivery_patient`
    addressee_id: Mapped[int | None] = mapped_column(BigInteger)
    channel: Mapped[str]
    language: Mapped[str]
    variant: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=states.Delivery.PENDING)
    #: pending: send then; unknown, accepted: settle then; other states: hand the result on, None when done
    due_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    #: grows with every hand-over, and when a claim ends without one; a write with an older number changes nothing
    fence: Mapped[int] = mapped_column(Integer, server_default="0")
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


class Due(Base):
    """Who wants something, and when: hints for the engine, made by a trigger with every change of `delivery`.

    One row names many deliveries. A hint too many costs a look; the truth is the row it names. Kinds: `send`
    (pending deliveries of one campaign and channel), `lease` (in the hands of a worker until then; then the
    sweeper settles what is left), `settle` (silence, uncertainty and results to be handed on).
    """

    __tablename__ = "due"
    __table_args__ = (
        # the outbox: what the feeder looks at and a claim takes, oldest first
        Index("ix_due_send", "campaign_id", "channel", "together", "at", postgresql_where=text("kind = 'send'")),
        # what the sweeper looks at
        Index("ix_due_sweep", "kind", "at", postgresql_where=text("kind <> 'send'")),
        CheckConstraint("kind IN ('send', 'lease', 'settle')", name="kind"),
        {
            # Its rows live for seconds: what is dead must not pile up at the front of the index.
            "postgresql_with": {
                "autovacuum_vacuum_scale_factor": "0",
                "autovacuum_vacuum_threshold": "2000",
                "autovacuum_vacuum_cost_delay": "0",
            }
        },
    )
    id: Mapped[int] = _id()
    campaign_id: Mapped[int] = mapped_column(BigInteger)
    channel: Mapped[str]
    kind: Mapped[str]
    #: false for what was in the hands of a worker that died: it is claimed first and with nothing else
    together: Mapped[bool] = mapped_column(Boolean, server_default="true")
    at: Mapped[datetime]
    ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    #: of a lease: each delivery's fence when it was claimed
    fences: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))
    #: of a lease: the worker process
    owner: Mapped[str | None]


class Tally(Base):
    """How many deliveries of a campaign are in each state: changes, appended by a trigger and folded now and then.

    The sum over the rows of a campaign, channel and state is exact at every moment.
    """

    __tablename__ = "tally"
    __table_args__ = (Index("ix_tally_campaign", "campaign_id"),)
    id: Mapped[int] = _id()
    campaign_id: Mapped[int] = mapped_column(BigInteger)
    channel: Mapped[str]
    state: Mapped[str]
    n: Mapped[int] = mapped_column(BigInteger)


class PatientTally(Base):
    """How many patients of a campaign stand where, and need which text: kept as `Tally` is."""

    __tablename__ = "patient_tally"
    __table_args__ = (Index("ix_patient_tally_campaign", "campaign_id"),)
    id: Mapped[int] = _id()
    campaign_id: Mapped[int] = mapped_column(BigInteger)
    language: Mapped[str]
    variant: Mapped[str]
    has_postal: Mapped[bool]
    outcome: Mapped[str]
    reason: Mapped[str | None]
    n: Mapped[int] = mapped_column(BigInteger)
    #: records that were merged into these patients
    merged: Mapped[int] = mapped_column(BigInteger)


class Bounce(Base):
    """Emails of a campaign that failed for good because of the address: what pauses it when they are too many.

    Counted when a result is handed on. A resume begins anew: who looked at it must not be stopped at once again.
    """

    __tablename__ = "bounce"
    # Not a foreign key: its statements have just read the campaign.
    campaign_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    n: Mapped[int] = mapped_column(BigInteger, server_default="0")
    #: the last resume; what was handed over before does not count
    since: Mapped[datetime | None]
    #: results there were at the last resume
    results_before: Mapped[int] = mapped_column(BigInteger, server_default="0")


class DeliveryPatient(Base):
    """Whom a delivery informs."""

    __tablename__ = "delivery_patient"
    __table_args__ = (Index("ix_delivery_patient_patient_id", "patient_id"),)
    # Not foreign keys, as in `delivery`.
    delivery_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    patient_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    doctor_id: Mapped[int] = _copied_doctor()


class Attempt(Base):
    """One hand-over to a provider: written before the call, closed after it."""

    __tablename__ = "attempt"
    __table_args__ = (_one_of("outcome", Kind), {"postgresql_with": {"fillfactor": "60"}})
    # Not a foreign key: the statement that opens an attempt has just changed its delivery.
    delivery_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    #: the hand-over it belongs to: the delivery's fence at the time
    fence: Mapped[int] = mapped_column(Integer, primary_key=True)
    doctor_id: Mapped[int] = _copied_doctor()
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
    #: what was received: the request's body, on the first of several events that came together; of a report about
    #: a whole account, each event's own part
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


class Pace(Base):
    """How hand-overs ended, counted by each worker process in slots of ten seconds; kept for a day."""

    __tablename__ = "pace"
    at: Mapped[datetime] = mapped_column(primary_key=True)
    process: Mapped[str] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    #: group of mailbox operators, "" for SMS
    receiver: Mapped[str] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(Integer)


class Heartbeat(Base):
    """When each process of the engine was last seen at work."""

    __tablename__ = "heartbeat"
    #: "feeder", "sweeper", "worker:<channels>:<host>:<pid>:<letters>"
    process: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime] = _now()
    #: fingerprints of the master keys it was given, parted by spaces; None for one that opens nothing
    keys: Mapped[str | None]


class TestSend(Base):
    """One message of a campaign's notice to an address that a doctor gave; never counted among deliveries."""

    __tablename__ = "test_send"
    __table_args__ = (
        _one_of("channel", states.Channel),
        _one_of("variant", states.Variant),
        CheckConstraint("state IN ('queued', 'sending', 'accepted', 'refused', 'unknown')", name="state"),
        Index("ix_test_send_doctor_id", "doctor_id", "asked_at"),
        # what the feeder looks at
        Index("ix_test_send_open", "id", postgresql_where=text("state IN ('queued', 'sending')")),
    )
    __test__ = False  # not a test, whatever its name makes of it
    id: Mapped[int] = _id()
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    doctor_id: Mapped[int] = _doctor()
    channel: Mapped[str]
    language: Mapped[str]
    variant: Mapped[str]
    contact_sealed: Mapped[bytes]
    #: SHA-256 over all texts of the campaign as they were: the hash an approver would see
    notice_hash: Mapped[bytes]
    #: as it goes out, marked as a test, with a made-up name
    subject: Mapped[str]
    text: Mapped[str]
    html: Mapped[str]
    asked_by: Mapped[str]
    asked_at: Mapped[datetime] = _now()
    state: Mapped[str] = mapped_column(server_default="queued")
    #: how it ended, free of personal data: a provider's code, "on_hold:channel:sms", "expired", "worker_gone"
    code: Mapped[str | None]
    provider: Mapped[str | None]
    provider_message_id: Mapped[str | None]
    #: the provider's own answer, sealed because it may name the contact
    raw_sealed: Mapped[bytes | None]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class Breaker(Base):
    """A provider or a group of receivers to which no calls go now, or fewer; no row is the good case."""

    __tablename__ = "breaker"
    __table_args__ = (CheckConstraint("state IN ('open', 'probing', 'healing')", name="state"),)
    #: "provider:smtp", "receiver:orange"
    scope: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    #: probing: good probes so far; healing: steps up so far
    level: Mapped[int] = mapped_column(SmallInteger)
    #: openings in a row; 0: the other side asked for a pause
    failures: Mapped[int] = mapped_column(Integer)
    #: when the state ends by itself; None while probes are out
    until: Mapped[datetime | None]
    #: for people: what happened and where to mend it
    reason: Mapped[str]
    #: also the version a writer must know
    changed_at: Mapped[datetime] = _now()


class Account(Base):
    """Somebody who signs in to the pages. No doctor's transaction sees this table or those that hang on it."""

    __tablename__ = "account"
    __table_args__ = (
        CheckConstraint("role IN ('doctor', 'secretary', 'operator', 'approver', 'auditor')", name="role"),
        CheckConstraint("(role IN ('doctor', 'secretary')) = (doctor_id IS NOT NULL)", name="belongs"),
        UniqueConstraint("oidc_issuer", "oidc_subject"),
    )
    id: Mapped[int] = _id()
    role: Mapped[str]
    #: for whom a doctor or secretary works
    doctor_id: Mapped[int | None] = mapped_column(ForeignKey("doctor.id"))
    email_sealed: Mapped[bytes]
    email_blind: Mapped[bytes] = mapped_column(unique=True)
    #: "fr" or "en"
    language: Mapped[str]
    #: Argon2id in PHC form; staff only
    password_hash: Mapped[str | None]
    #: the second factor's secret; None until enrolled
    totp_sealed: Mapped[bytes | None]
    #: the newest time step whose code was used: no code serves twice (RFC 6238 §5.2)
    totp_step: Mapped[int] = mapped_column(server_default="0")
    #: who the OpenID Connect provider says this is, once signed in that way
    oidc_issuer: Mapped[str | None]
    oidc_subject: Mapped[str | None]
    created_at: Mapped[datetime] = _now()
    disabled_at: Mapped[datetime | None]


class AccountLink(Base):
    """A one-time link: an invitation, or a way to sign in. Only its hash is kept."""

    __tablename__ = "account_link"
    __table_args__ = (
        CheckConstraint("purpose IN ('invitation', 'sign_in')", name="purpose"),
        Index("ix_account_link_account_id", "account_id"),
    )
    id: Mapped[int] = _id()
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    purpose: Mapped[str]
    hash: Mapped[bytes] = mapped_column(unique=True)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class AccountMail(Base):
    """A link that is to be sent: to an account, or to an address that may be one's. Gone once it was sent."""

    __tablename__ = "account_mail"
    __table_args__ = (Index("ix_account_mail_due_at", "due_at"),)
    id: Mapped[int] = _id()
    purpose: Mapped[str]
    account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id"))
    #: blind index of the address typed in, by each master key, whether or not anybody has it: both cost the same
    email_blinds: Mapped[list[bytes] | None] = mapped_column(ARRAY(LargeBinary))
    due_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    tries: Mapped[int] = mapped_column(SmallInteger, server_default="0")


class RecoveryCode(Base):
    """Stands in once for a lost second factor."""

    __tablename__ = "recovery_code"
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"), primary_key=True)
    #: keyed hash
    hash: Mapped[bytes] = mapped_column(primary_key=True)
    used_at: Mapped[datetime | None]


class WebSession(Base):
    """One browser that signed in, or is about to (`stage`). Only the hash of its token is kept."""

    __tablename__ = "web_session"
    __table_args__ = (
        CheckConstraint("stage IN ('invited', 'second_factor', 'full')", name="stage"),
        Index("ix_web_session_account_id", "account_id"),
    )
    id: Mapped[int] = _id()
    hash: Mapped[bytes] = mapped_column(unique=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    stage: Mapped[str]
    #: a second factor's secret between its showing and its first code
    totp_sealed: Mapped[bytes | None]
    #: wrong codes in this session
    failures: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    #: coarse: "Firefox, Windows"
    browser: Mapped[str]
    created_at: Mapped[datetime] = _now()
    seen_at: Mapped[datetime] = _now()
    ended_at: Mapped[datetime | None]


class KnownDevice(Base):
    """A browser from which an account signed in before: others' failures do not slow it down."""

    __tablename__ = "known_device"
    hash: Mapped[bytes] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"), primary_key=True)
    seen_at: Mapped[datetime] = _now()


class Allowance(Base):
    """How many tries somebody has left: a bucket that fills again with time. Keys are keyed hashes."""

    __tablename__ = "allowance"
    key: Mapped[bytes] = mapped_column(primary_key=True)
    remaining: Mapped[float] = mapped_column(Float)
    at: Mapped[datetime]
