"""States of a campaign, a delivery, an attempt and a patient's outcome, and every move allowed.

The database is changed only through these tables: statements that move a row name the states it may
come from with `sources`. A row that is not in one of them is left alone, and the caller sees a count.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from notifier.errors import MoveError


class Channel(StrEnum):
    """How a notice travels."""

    EMAIL = "email"
    SMS = "sms"


class Variant(StrEnum):
    """Which text a person needs: the data taken from them decides."""

    STANDARD = "standard"
    #: a free-text comment about the person was in the file, so the notice names that category
    COMMENT = "comment"


class Campaign(StrEnum):
    """One doctor's notification of one incident."""

    #: open: patients and facts can still change
    DRAFT = "draft"
    #: at least one patient is imported and the notice composes without a missing part
    READY = "ready"
    #: the text is frozen by hash; nothing else can be sent
    APPROVED = "approved"
    #: deliveries exist and are being worked on
    SENDING = "sending"
    #: no provider call starts; may resume
    PAUSED = "paused"
    #: every patient has an outcome; a late failure report may reopen it
    COMPLETED = "completed"
    #: ended by a person; what was sent stays sent
    CANCELLED = "cancelled"


class Delivery(StrEnum):
    """One notice to one contact over one channel."""

    #: to be sent when `due_at` has come; perhaps in a worker's hands under a lease, but no byte has gone out
    PENDING = "pending"
    #: an attempt is open: the provider may have it already
    SENDING = "sending"
    #: it may have been sent; settled at `due_at` by receipt or policy, never by a blind resend
    UNKNOWN = "unknown"
    #: the provider or the receiver's server took it; not yet proof that it arrived
    ACCEPTED = "accepted"
    #: the network confirms that it reached the phone or the mailbox; never means "read"
    DELIVERED = "delivered"
    #: over for this contact; the patient's next channel takes over
    FAILED = "failed"
    #: stopped by a person before it went out
    CANCELLED = "cancelled"
    #: it ended its worker process again and again; waits for a person
    QUARANTINED = "quarantined"


class Outcome(StrEnum):
    """Where one patient stands. Each imported patient is in exactly one of these."""

    EXCLUDED = "excluded"
    ON_THE_WAY = "on_the_way"
    INFORMED = "informed"
    UNREACHED = "unreached"


class Exclusion(StrEnum):
    """Why a patient of the list gets no notice."""

    #: recital 27 GDPR: the rules do not cover the deceased
    DECEASED = "deceased"
    #: the list says that this person's data was not taken
    NOT_AFFECTED = "not_affected"
    #: a person said that another patient of the campaign is the same person, who is told once
    SAME_PERSON = "same_person"


class Unreached(StrEnum):
    """Why a patient could not be reached, which decides the next thing a person can do."""

    #: no usable email address or mobile number on the list
    NO_CONTACT = "no_contact"
    #: every contact was tried and refused for good
    ALL_FAILED = "all_failed"
    #: the campaign was cancelled before this patient was told
    CANCELLED = "cancelled"
    #: the delivery is held for an operator
    QUARANTINED = "quarantined"


class Told(StrEnum):
    """How a person told a patient whom no message reached: the reason beside the outcome `informed`."""

    #: a letter was posted
    LETTER = "letter"
    CALL = "call"
    #: at the practice
    IN_PERSON = "in_person"


MOVES: dict[type[StrEnum], dict[StrEnum, frozenset[StrEnum]]] = {
    Campaign: {
        Campaign.DRAFT: frozenset({Campaign.READY, Campaign.CANCELLED}),
        Campaign.READY: frozenset({Campaign.DRAFT, Campaign.APPROVED, Campaign.CANCELLED}),
        # any change of list or text voids the approval
        Campaign.APPROVED: frozenset({Campaign.DRAFT, Campaign.SENDING, Campaign.CANCELLED}),
        Campaign.SENDING: frozenset({Campaign.PAUSED, Campaign.COMPLETED, Campaign.CANCELLED}),
        Campaign.PAUSED: frozenset({Campaign.SENDING, Campaign.CANCELLED}),
        # a bounce after the end reopens the person
        Campaign.COMPLETED: frozenset({Campaign.SENDING}),
        Campaign.CANCELLED: frozenset(),
    },
    Delivery: {
        Delivery.PENDING: frozenset(
            {
                Delivery.SENDING,
                Delivery.CANCELLED,
                Delivery.QUARANTINED,
                # receipts of an earlier try: it did arrive, or the number does not exist
                Delivery.DELIVERED,
                Delivery.FAILED,
            }
        ),
        Delivery.SENDING: frozenset(
            {
                Delivery.PENDING,
                Delivery.UNKNOWN,
                Delivery.ACCEPTED,
                Delivery.DELIVERED,
                Delivery.FAILED,
                Delivery.QUARANTINED,
            }
        ),
        Delivery.UNKNOWN: frozenset(
            {Delivery.PENDING, Delivery.ACCEPTED, Delivery.DELIVERED, Delivery.FAILED, Delivery.CANCELLED}
        ),
        Delivery.ACCEPTED: frozenset({Delivery.PENDING, Delivery.DELIVERED, Delivery.FAILED}),
        Delivery.DELIVERED: frozenset({Delivery.FAILED}),
        Delivery.FAILED: frozenset({Delivery.DELIVERED, Delivery.PENDING}),
        # a message that another made needless is needed after all when that one fails later
        Delivery.CANCELLED: frozenset({Delivery.PENDING, Delivery.DELIVERED, Delivery.FAILED}),
        Delivery.QUARANTINED: frozenset({Delivery.PENDING, Delivery.FAILED, Delivery.DELIVERED}),
    },
    Outcome: {
        # a further list takes it back; who was told meanwhile is informed by way of `on_the_way`
        Outcome.EXCLUDED: frozenset({Outcome.ON_THE_WAY, Outcome.UNREACHED}),
        Outcome.ON_THE_WAY: frozenset({Outcome.EXCLUDED, Outcome.INFORMED, Outcome.UNREACHED}),
        Outcome.INFORMED: frozenset({Outcome.ON_THE_WAY, Outcome.UNREACHED}),
        Outcome.UNREACHED: frozenset({Outcome.EXCLUDED, Outcome.ON_THE_WAY, Outcome.INFORMED}),
    },
}

S = TypeVar("S", Campaign, Delivery, Outcome)


def sources(target: S) -> list[str]:
    """The states from which a row may move to `target`, for a statement's WHERE clause."""
    return [str(state) for state, targets in MOVES[type(target)].items() if target in targets]


def check_move(current: S, target: S) -> None:
    """Raises MoveError if a row in `current` may not move to `target`."""
    if target not in MOVES[type(current)][current]:
        raise MoveError(f"A {type(current).__name__.lower()} that is {current} cannot become {target}.")
